"""The broker's only thread on a socket: frames in, the core's decisions out.

One ROUTER is bound to every endpoint, and to an inproc one on which the journal announces its
commits and a signal rings, so one blocking receive waits for everything. The rule that must not be
broken: a message is received to its last frame, whatever it is, and a send never waits. What the
core raises is our bug: it ends the process, the loop never goes on with a core that failed.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol

import zmq
from zmq.backend import Socket as BoundSocket
from zmq.backend import zmq_poll

from broker.descriptors import Descriptors, file_of
from broker.disk.journal import (
    ANNOUNCE_ENDPOINT,
    Announcement,
    Journal,
    JournalState,
    decode_announcement,
)
from broker.facts.peers import Session
from broker.keys import DOMAIN, Keys
from broker.log import NoteLog
from wire.codec import CONTROL_BYTES_MAX, PAYLOAD_FRAMES_MAX, decode_peer, encode
from wire.endpoint import has_address_of_ipv6
from wire.errors import Code, RemoteProtocolError
from wire.messages import Frame
from wire.reaching import shut_path
from wire.session import transfer_s

# Where ZeroMQ asks whether to let somebody in.
ZAP_ENDPOINT: Final = "inproc://zeromq.zap.01"

# A file of its own in a folder of its own, below TMPDIR.
ANY_FILE: Final = "ipc://*"

# Plain ints: or-ing pyzmq's enums costs more than the call that they are for.
NOBLOCK: Final = 1
SNDMORE: Final = 2
RCVTIMEO: Final = int(zmq.RCVTIMEO)

# A turn ends after this much even when more is waiting, so that what was decided gets out.
TURN_MESSAGES_MAX: Final = 256
TURN_CONTROL_BYTES_MAX: Final = 2**20
# A HELLO costs as much as dozens of other frames: a flood of them must not make a turn long.
TURN_S_MAX: Final = 0.003
# Setting the socket's timer costs more than a receive. It may fire so much late; early is harmless.
TIMER_SLACK_MS: Final = 5
TIMER_EARLY_SHARE: Final = 0.75
WAIT_MS_MAX: Final = 60_000
# A receive that took less did not wait: the message was queued, and others may be behind it.
QUEUED_S: Final = 15e-6

# Messages of one peer that wait to be handled: what is more waits at the peer, and nothing is lost.
RECEIVES_WAITING_MAX: Final = 1_000
# Messages that wait for one peer to read them, far above what windows and credit let be on its way
# to one that lives. At the mark a send fails, as where the connection is gone: the session ends.
SENDS_WAITING_MAX: Final = 32_768

# How long what was said last may take to leave, and to be read: what a peer has not read is lost
# when the connection ends.
LAST_WORDS_MS: Final = 100
# How long a broker that is told to end waits for actors to end as well that keep outcomes: each
# would wait until its time to drain is over. Clients say within a heartbeat what they have.
LINGER_S: Final = 2.0


class Core(Protocol):
    """What the loop needs of `broker.core.Broker`."""

    @property
    def leftovers(self) -> Collection[object]: ...
    @property
    def ready(self) -> Collection[object]: ...
    @property
    def sessions(self) -> Mapping[bytes, Session]: ...
    def receive(
        self, rid: bytes, frame: Frame[Any], payloads: Sequence[Any], now: float
    ) -> None: ...
    def bad(self, rid: bytes, error: RemoteProtocolError, now: float) -> None: ...
    def unreachable(self, rid: bytes, now: float) -> None: ...
    def committed(self, sequence: int, now: float) -> None: ...
    def journal_stuck(self, reason: str) -> None: ...
    def tick(self, now: float) -> None: ...
    def deadline(self) -> float: ...
    def flush(
        self, now: float, *, may_pause: bool
    ) -> Sequence[tuple[bytes, Frame[Any], Sequence[Any]]]: ...
    def take_operations(self) -> tuple[int, Sequence[tuple[Any, ...]]]: ...
    def take_notes(self) -> Sequence[tuple[str, dict[str, Any]]]: ...
    def tidy(self) -> None: ...
    def is_waited_for(self) -> bool: ...
    def is_unsettled(self) -> bool: ...
    def farewell(self) -> None: ...


class Loop:
    """Owns the ROUTER: receives, lets the core decide, journals, sends, logs."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        journal: Journal,
        notes: NoteLog,
        *,
        payload_bytes_max: int,
        admission: Keys | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the socket, bound only to what is inside this process."""
        self.endpoints: list[str] = []
        # Of the endpoints for which ZeroMQ has made one, each with nothing but its socket.
        self._folders: list[Path] = []
        self._journal = journal
        self._notes = notes
        self._admission = admission
        self._clock = clock
        self._router = open_router(context, payload_bytes_max=payload_bytes_max)
        self._router.bind(ANNOUNCE_ENDPOINT)
        if admission is not None:
            self._router.bind(ZAP_ENDPOINT)
        # ZeroMQ makes the names of these two connections, so nobody outside can take them.
        self._doorbell = context.socket(zmq.DEALER)
        self._doorbell_rid = meet(self._router, self._doorbell)
        self._doorbell_lock = threading.Lock()
        self._announcer = context.socket(zmq.DEALER)
        self._announcer_rid = meet(self._router, self._announcer)
        self._inside = frozenset({self._doorbell_rid, self._announcer_rid})
        self._is_stopping = False
        self._failure = ""
        self._wait_min_s = self._wait_max_s = 0.0
        self._descriptors = Descriptors(int(self._router.getsockopt(zmq.FD)))
        self._recv = BoundSocket.recv.__get__(self._router)
        self._send = BoundSocket.send.__get__(self._router)
        self._watched = [(self._router, zmq.POLLIN)]

    def start_journal(self) -> int:
        """Start the journal and return the epoch of this broker. Raises JournalError."""
        return self._journal.start(self._announcer)

    def bind(self, endpoint: str) -> str:
        """Bind one more endpoint and return it with the port that it has. Raises ZMQError."""
        self._router.set(zmq.IPV6, has_address_of_ipv6(endpoint))
        if self._admission is not None:
            self._guard(endpoint, self._admission.secret)
        self._router.bind(endpoint)
        bound = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        self.endpoints.append(bound)
        if endpoint == ANY_FILE:
            self._folders.append(Path(bound.removeprefix("ipc://")).parent)
        return bound

    def _guard(self, endpoint: str, secret: bytes) -> None:
        """Let in at *endpoint*, bound next, only who has a key, unless it is a file."""
        if not endpoint.startswith("tcp://"):
            # ZeroMQ takes no domain back, and asks at each endpoint that is bound with one.
            assert not any(bound.startswith("tcp://") for bound in self.endpoints)
            return
        self._router.set(zmq.CURVE_SERVER, 1)
        self._router.set(zmq.CURVE_SECRETKEY, secret)
        self._router.set(zmq.ZAP_DOMAIN, DOMAIN)
        self._router.set(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def stop(self) -> None:
        """Ask the loop to end; from a signal handler or another thread. Does not wait."""
        if self._doorbell_lock.acquire(blocking=False):  # Rings once; the socket is for one thread.
            self._doorbell.send(b"", zmq.NOBLOCK)

    def run(self, core: Core) -> str:
        """Run until `stop`, or until the journal failed. Return why it failed, empty after `stop`.

        What the core raises comes out of here; the process must not go on then.
        """
        clock, recv = self._clock, self._recv
        while not self._is_stopping:
            deadline = core.deadline()
            before = clock()
            wait_s = deadline - before
            flags = 0 if self._wait_min_s <= wait_s <= self._wait_max_s else self._arm(wait_s)
            try:
                rid = recv(flags)
            except zmq.Again:
                now = clock()
            else:
                now = clock()
                control_bytes = self._receive(core, rid, now)
                # Looking for more costs as much as a message, so only where more is likely.
                if now - before < QUEUED_S:
                    self._drain(core, now, control_bytes)
            if now >= deadline:
                core.tick(now)
                if scarce := self._descriptors.look(now, self.endpoints):
                    self._notes.write(scarce, now)
                if self._admission is not None:
                    self._admission.look(core, now)
                    self._notes.write(self._admission.take_notes(), now)
            self._act(core, now)
        if not self._failure:
            self._take_leave(core)
        self._notes.end_window()
        return self._failure

    def close(self) -> None:
        """Close the journal, which writes what it was given, and the sockets."""
        self._journal.close()
        # ZeroMQ leaves the files. As long as we listen nobody else has bound them.
        for path in filter(None, map(file_of, self.endpoints)):
            Path(path).unlink(missing_ok=True)
            Path(shut_path(path)).unlink(missing_ok=True)
        for folder in self._folders:
            with suppress(OSError):
                folder.rmdir()
        self._announcer.close(0)
        self._doorbell.close(0)
        self._router.close(LAST_WORDS_MS)

    def _take_leave(self, core: Core) -> None:
        """Say what is left, and hear for a moment which actors end as well."""
        begun_at = self._clock()
        while not self._failure:
            core.farewell()
            self._act(core, self._clock())
            # Whatever others go on to say, it is a moment.
            wait_s = begun_at + LINGER_S - self._clock()
            if wait_s <= 0.0:
                return
            if not core.is_waited_for():
                # Who ends as well may be about to say so.
                wait_s += LAST_WORDS_MS / 1000.0 - LINGER_S
                if wait_s <= 0.0 or not core.is_unsettled():
                    return
            try:
                rid = self._recv(self._arm(wait_s))
            except zmq.Again:
                return
            self._receive(core, rid, self._clock())

    def _arm(self, wait_s: float) -> int:
        """Set the socket's timer to *wait_s*, and return the flags of the receive."""
        if wait_s <= 0.0:
            return NOBLOCK
        timer_ms = int(min(wait_s * 1000.0, WAIT_MS_MAX)) + 1
        self._router.set(RCVTIMEO, timer_ms)
        # For how short and how long a wait it will do.
        self._wait_min_s = max(timer_ms - TIMER_SLACK_MS, 1) / 1000.0
        self._wait_max_s = inf if timer_ms > WAIT_MS_MAX else timer_ms / TIMER_EARLY_SHARE / 1000.0
        return 0

    def _drain(self, core: Core, now: float, control_bytes: int) -> None:
        """Receive what waits, up to a turn's worth of which *control_bytes* are used."""
        # Mostly it was the last, and to ask costs a third of what a receive in vain does.
        if not zmq_poll(self._watched, 0):
            return
        recv, clock = self._recv, self._clock
        ends_at = now + TURN_S_MAX
        for _ in range(TURN_MESSAGES_MAX - 1):
            if control_bytes > TURN_CONTROL_BYTES_MAX or self._is_stopping or clock() > ends_at:
                return
            try:
                rid = recv(NOBLOCK)
            except zmq.Again:
                return
            control_bytes += self._receive(core, rid, now)

    def _receive(self, core: Core, rid: bytes, now: float) -> int:
        """Receive what follows *rid*, let the core act, and return the control frame's size."""
        # As a Frame: it knows whether more follows. Asking the socket costs three times as much.
        control = self._recv(0, False)
        payloads: Sequence[zmq.Frame] = ()
        frames = 0
        if control.more:
            payloads, frames = self._receive_payloads()
        size = len(control)
        if rid in self._inside:
            self._hear_inside(core, rid, control.bytes, now)
            return size
        try:
            if size > CONTROL_BYTES_MAX or frames > PAYLOAD_FRAMES_MAX:
                refuse(size, frames)
            frame = decode_peer(control)
            if self._admission is not None:
                self._admission.check(rid, frame, control)
        except RemoteProtocolError as error:
            if self._admission is None or not self._admit(self._admission, rid, control, payloads):
                core.bad(rid, error, now)
        else:
            core.receive(rid, frame, payloads, now)
        return size

    def _admit(
        self, admission: Keys, rid: bytes, control: zmq.Frame, payloads: Sequence[zmq.Frame]
    ) -> bool:
        """Answer ZeroMQ, which asks whether to let somebody in; False where it was not ZeroMQ."""
        answer = admission.answer(control, payloads)
        if answer is None:
            return False
        try:
            self._router.send_multipart([rid, *answer], NOBLOCK)
        except zmq.ZMQError as error:
            # Whoever it was has gone meanwhile.
            if error.errno != zmq.EHOSTUNREACH:
                raise
        return True

    def _receive_payloads(self) -> tuple[list[zmq.Frame], int]:
        """Receive frames up to the last one and count them; what is over the limit is dropped."""
        recv = self._recv
        payloads = []
        frames = 0
        while True:
            payload = recv(0, False)
            frames += 1
            if frames <= PAYLOAD_FRAMES_MAX:
                payloads.append(payload)
            if not payload.more:
                return payloads, frames

    def _act(self, core: Core, now: float) -> None:
        """Send what the core wants sent, journal what it wants kept, log what it noted."""
        is_settled, may_pause = False, True
        while not is_settled:
            outgoing = core.flush(now, may_pause=may_pause)
            is_settled = not outgoing or self._send_all(core, outgoing, now)
            may_pause = False
            if core.ready:
                is_settled = False
            sequence, operations = core.take_operations()
            if operations and self._journal.submit(sequence, operations):
                core.committed(sequence, now)
                is_settled = False
        notes = core.take_notes()
        if notes:
            self._notes.write([*notes, *self._descriptors.look(now, self.endpoints)], now)
        if core.leftovers:
            core.tidy()

    def _send_all(
        self, core: Core, outgoing: Sequence[tuple[bytes, Frame[Any], Sequence[Any]]], now: float
    ) -> bool:
        """Send *outgoing*; False when a connection was gone, which the core then knows."""
        send = self._send
        is_settled = True
        for rid, frame, payloads in outgoing:
            try:
                send(rid, NOBLOCK | SNDMORE)
            except zmq.ZMQError as error:
                if error.errno not in (zmq.EHOSTUNREACH, zmq.EAGAIN):
                    raise
                # A connection that is gone takes nothing; one whose peer does not read, no more.
                if error.errno == zmq.EAGAIN:
                    self._notes.write([("send_refused", {"rid": rid})], now)
                core.unreachable(rid, now)
                is_settled = False
                continue
            if payloads:
                send(encode(frame), NOBLOCK | SNDMORE)
                for payload in payloads[:-1]:
                    send(payload, NOBLOCK | SNDMORE)
                send(payloads[-1], NOBLOCK)
            else:
                send(encode(frame), NOBLOCK)
        return is_settled

    def _hear_inside(self, core: Core, rid: bytes, control: bytes, now: float) -> None:
        """Act on what the journal or a signal says."""
        if rid == self._doorbell_rid:
            self._is_stopping = True
            return
        said: Announcement = decode_announcement(control)
        match said.state:
            case JournalState.COMMITTED:
                core.committed(said.sequence, now)
            case JournalState.FAILED:
                self._failure = said.reason
                self._is_stopping = True
            case JournalState.STUCK | JournalState.RECOVERED:
                core.journal_stuck(said.reason)
                fields = {"reason": said.reason} if said.reason else {}
                self._notes.write([(f"journal_{said.state}", fields)], now)


def open_router(
    context: "zmq.Context[zmq.Socket[bytes]]", *, payload_bytes_max: int
) -> "zmq.Socket[bytes]":
    """Return the ROUTER with every option that must stand before the first endpoint is bound."""
    router = context.socket(zmq.ROUTER)
    # An unknown routing id is an error to us; a taken one is never handed over to whoever names it.
    router.set(zmq.ROUTER_MANDATORY, 1)
    router.set(zmq.ROUTER_HANDOVER, 0)
    router.set(zmq.SNDHWM, SENDS_WAITING_MAX)
    router.set(zmq.RCVHWM, RECEIVES_WAITING_MAX)
    router.set(zmq.LINGER, 0)
    router.set(zmq.BACKLOG, 1024)
    # Above the limit itself, so that an honest sender gets an ERROR and not a closed connection.
    router.set(zmq.MAXMSGSIZE, payload_bytes_max + CONTROL_BYTES_MAX)
    router.set(zmq.HANDSHAKE_IVL, 5_000)
    # Half-open connections. TCP's acknowledgements are missed first. ZMTP's own answers come only
    # between whole frames, so that timeout leaves the largest frame the time that it may need; who
    # sends one slower counts as gone.
    router.set(zmq.TCP_MAXRT, 30_000)
    router.set(zmq.TCP_KEEPALIVE, 1)
    router.set(zmq.TCP_KEEPALIVE_IDLE, 15)
    router.set(zmq.TCP_KEEPALIVE_INTVL, 5)
    router.set(zmq.TCP_KEEPALIVE_CNT, 4)
    router.set(zmq.HEARTBEAT_IVL, 15_000)
    longest_s = transfer_s(payload_bytes_max + CONTROL_BYTES_MAX)
    router.set(zmq.HEARTBEAT_TIMEOUT, int(max(60.0, longest_s) * 1000))
    return router


def meet(router: "zmq.Socket[bytes]", dealer: "zmq.Socket[bytes]") -> bytes:
    """Connect *dealer* to *router* inside this process and return its routing id there."""
    dealer.set(zmq.LINGER, 0)
    dealer.set(zmq.SNDHWM, 0)
    dealer.connect(ANNOUNCE_ENDPOINT)
    dealer.send(b"")
    rid, _ = router.recv_multipart()
    return rid


def refuse(control_bytes: int, payload_frames: int) -> NoReturn:
    """Say which limit a message breaks."""
    message = f"a control frame of {control_bytes} octets is over {CONTROL_BYTES_MAX}"
    if payload_frames > PAYLOAD_FRAMES_MAX:
        message = f"{payload_frames} payload frames are more than {PAYLOAD_FRAMES_MAX}"
    raise RemoteProtocolError(Code.BAD_FRAME, message)
