"""The way of a peer's socket to its broker: what becomes of handshakes, and who begins anew.

ZeroMQ connects for ever where nobody listens, gives up where a handshake fails, and tells neither.
The rule that must not be broken: it costs nothing while there is a connection.
"""

import contextlib
import struct
from math import inf
from typing import Any, Final, Self

import zmq

from wire.endpoint import has_address_of_ipv6
from wire.keys import OwnKeys, fingerprint

# How long ZeroMQ may be without a connection before it is told to begin anew; then twice as long.
ANEW_FIRST_S: Final = 1.0
ANEW_MAX_S: Final = 60.0
# The same where somebody answered and refused: he may have learned of a key meanwhile.
REFUSED_S: Final = 2.0
# Handshakes that were broken off, one after another, before that is taken for an answer. Where both
# ends are on one busy machine it is often all that is seen of one with keys and one without.
BROKEN_OFF_MAX: Final = 10
NOBLOCK: Final = 1
RECONNECT_FIRST_MS: Final = 50
RECONNECT_MAX_MS: Final = 500
# A machine that is gone without a word, or whose name went to another, acknowledges nothing. By
# itself TCP would go on for a quarter of an hour, and no HELLO reach who is there now.
UNACKNOWLEDGED_MS: Final = 30_000

NO_DETAIL: Final = int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)
PROTOCOL: Final = int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
AUTH: Final = int(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
MISMATCH: Final = int(zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH)
# An event and its value, as they stand in a message of a monitor.
EVENT: Final = struct.Struct("=HI")


class Reach:
    """A socket and its way to the broker; `obstacle` is what is in that, "" for nothing.

    `is_refused` tells whether that is the broker's word, and not only what it looks like.
    """

    def __init__(
        self, socket: "zmq.Socket[bytes]", endpoint: str, keys: OwnKeys | None = None
    ) -> None:
        """Own *socket*, which goes to *endpoint* with *keys*. Does not connect."""
        self.socket = socket
        self.obstacle, self.is_refused = "", False
        self._endpoint = endpoint
        self._keys = keys
        self._broken_off = 0
        # When ZeroMQ has had its time to connect by itself; None while there is a connection.
        self._anew_at: float | None = None
        self._anew_s = ANEW_FIRST_S
        self._monitor: zmq.Socket[bytes] | None = None
        if keys is not None:
            keys.use(socket)
        if endpoint.startswith("tcp://"):
            self._monitor = open_monitor(socket)

    def connect(self) -> None:
        """Connect for the first time. Raises ZMQError for an endpoint that cannot be."""
        self.socket.connect(self._endpoint)

    def look(self, now: float, *, is_open: bool) -> None:
        """Hear what became of handshakes, and connect anew where that is due.

        By itself ZeroMQ does so for ever, except where one failed, and where a message came that it
        finds no memory for. With an open session nothing need be looked at.
        """
        if is_open or int(self.socket.getsockopt(zmq.EVENTS)) & zmq.POLLOUT:
            if self._anew_at is not None:
                self._anew_at, self._anew_s = None, ANEW_FIRST_S
                self.obstacle, self.is_refused, self._broken_off = "", False, 0
            return
        if self._has_failed():
            self._disconnect()
            self._anew_at = now + REFUSED_S
        elif self._anew_at is None:
            self._anew_at = now + self._anew_s
        elif now >= self._anew_at:
            self._anew_s = min(self._anew_s * 2, ANEW_MAX_S)
            self._anew_at = now + self._anew_s
            self._disconnect()
            self.socket.connect(self._endpoint)

    def deadline(self) -> float:
        """Return when `look` is due at the latest."""
        return inf if self._anew_at is None else self._anew_at

    def close(self, linger_ms: int | None = None) -> None:
        """Close the socket, which says what it has to say for so long."""
        if self._monitor is not None:
            self._monitor.close(0)
            self._monitor = None
        self.socket.close(linger_ms)

    def __enter__(self) -> Self:
        """Be closed at the end of a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the socket."""
        self.close()

    def _disconnect(self) -> None:
        # Where there is none any more is nothing to end.
        with contextlib.suppress(zmq.ZMQError):
            self.socket.disconnect(self._endpoint)

    def _has_failed(self) -> bool:
        """Tell whether a handshake failed for good since this was asked last, and note why."""
        has_failed = False
        for event, value in self._events():
            if event == NO_DETAIL:
                # A broker that ends just now, or none behind a tunnel.
                self._broken_off += 1
                if self._broken_off < BROKEN_OFF_MAX:
                    continue
                if self._keys is None:  # ZeroMQ goes on by itself.
                    self.obstacle = explain(event, value, self._keys)
                    continue
            self.obstacle = explain(event, value, self._keys)
            self.is_refused = bool(self.obstacle) and event != NO_DETAIL
            self._broken_off, has_failed = 0, True
        return has_failed

    def _events(self) -> list[tuple[int, int]]:
        events: list[tuple[int, int]] = []
        while self._monitor is not None:
            try:
                octets, *_ = self._monitor.recv_multipart(NOBLOCK)
            except zmq.Again:
                break
            if len(octets) == EVENT.size:
                events.append(EVENT.unpack(octets))
        return events


def open_monitor(socket: "zmq.Socket[bytes]") -> "zmq.Socket[bytes]":
    """Return a socket on which ZeroMQ tells what fails of the handshakes of *socket*."""
    address = f"inproc://handshakes-{int(socket.getsockopt(zmq.FD))}"
    socket.monitor(address, NO_DETAIL | PROTOCOL | AUTH)
    monitor: Any = socket.context.socket(zmq.PAIR)
    # Whatever is unread must not hold up the thread of ZeroMQ, which waits for room.
    monitor.setsockopt(zmq.RCVHWM, 0)
    monitor.setsockopt(zmq.LINGER, 0)
    monitor.connect(address)
    return monitor  # type: ignore[no-any-return]


def explain(event: int, value: int, keys: OwnKeys | None) -> str:
    """Say why a handshake failed, and what to do; empty where it was not about keys."""
    wanted = "it wants keys: --keys DIR, keys=DIR or WARMSLOT_KEYS"
    if event == PROTOCOL and value == MISMATCH:
        if keys is None:
            return wanted
        return f"it takes no keys, and {keys.folder} has some: leave them out, or start it with its"
    if event == AUTH and keys is not None:
        return (
            f"it does not know the key {keys.name!r} ({fingerprint(keys.own.public)}) of"
            f" {keys.folder}: `warmslot keys DIR` beside it lists whom it knows"
        )
    if event == NO_DETAIL:
        if keys is None:
            return f"it breaks off the handshake: there is none behind a tunnel, or {wanted}"
        return (
            f"it breaks off the handshake: it is not the broker of {keys.folder}/broker.key"
            f" ({fingerprint(keys.broker)}), takes no keys, or there is none behind a tunnel"
        )
    return ""


def open_reach(
    context: "zmq.Context[Any]", endpoint: str, keys: OwnKeys | None = None, *, linger_ms: int
) -> Reach:
    """Return a DEALER to the broker at *endpoint*, which need not be there yet.

    With the options of protocol.md section 5; what was sent last has *linger_ms* to leave. Raises
    ValueError for an endpoint that cannot be used, as where the path of a file is too long, and
    OSError where the system has no more sockets.
    """
    dealer: zmq.Socket[bytes] | None = None
    try:
        dealer = context.socket(zmq.DEALER)
        # Nothing queues for a broker that is away: what was meant for it would reach the next one.
        dealer.setsockopt(zmq.IMMEDIATE, 1)
        dealer.setsockopt(zmq.LINGER, linger_ms)
        dealer.setsockopt(zmq.RECONNECT_IVL, RECONNECT_FIRST_MS)
        dealer.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
        dealer.setsockopt(zmq.TCP_MAXRT, UNACKNOWLEDGED_MS)
        dealer.setsockopt(zmq.SNDHWM, 0)
        dealer.setsockopt(zmq.RCVHWM, 0)
        dealer.setsockopt(zmq.IPV6, has_address_of_ipv6(endpoint))
        # It has sockets of its own.
        reach = Reach(dealer, endpoint, keys)
    except zmq.ZMQError as error:
        if dealer is not None:
            dealer.close(0)
        # As of a file that cannot be opened: the process, or the system, has too many.
        raise OSError(error.errno, f"{error.strerror}, so there can be no socket") from None
    try:
        reach.connect()
    except zmq.ZMQError as error:
        reach.close(0)
        # What pyzmq adds in parentheses is the endpoint once more.
        reason = str(error.strerror).partition(" (")[0]
        raise ValueError(f"endpoint {endpoint!r} cannot be used: {reason}") from None
    return reach
