"""The socket of a client to its broker, with the options of protocol.md section 5."""

from collections.abc import Callable
from typing import Any, Final

import zmq
from zmq.backend import Socket as RawSocket

from sdk.calls.call import Payloads
from wire.handshakes import Reach, open_reach
from wire.keys import OwnKeys
from wire.payload import size_of

# Plain numbers: every operation of pyzmq's enums costs more than the call that it is for.
NOBLOCK: Final = 1
SNDMORE: Final = 2
POLLIN: Final = int(zmq.POLLIN)
POLLOUT: Final = int(zmq.POLLOUT)
EVENTS: Final = int(zmq.EVENTS)
RCVMORE: Final = int(zmq.RCVMORE)
# Below this pyzmq copies anyway, and its own bookkeeping costs more than the copy.
COPY_BYTES_MAX: Final = 65_536
# How long what was sent last may take to leave.
LINGER_MS: Final = 100


class Dealer:
    """One socket with its bare calls; once it is closed, nothing of ZeroMQ is left in here.

    What a closed client leaves refers to itself in a circle. With the socket in it the collector of
    garbage would call its `__del__`, in the middle of whatever runs then, and a Ctrl-C that came
    while the collector looked would be raised in there, where Python drops it.
    """

    def __init__(self, endpoint: str, keys: OwnKeys | None = None) -> None:
        """Connect, as `open_reach` does and raises."""
        context: zmq.Context[Any] = zmq.Context()
        try:
            reach = open_reach(context, endpoint, keys, linger_ms=LINGER_MS)
        except ValueError:
            context.term()
            raise
        socket = reach.socket
        self._owned: tuple[Reach, zmq.Context[Any]] | None = (reach, context)
        # What is in the way to the broker, as far as it is known, and whether the broker says so.
        self.obstacle, self.is_refused = "", False
        # Without what pyzmq does around them: they are called for each message.
        self.send: Callable[..., Any] = RawSocket.send.__get__(socket)
        self.recv: Callable[..., Any] = RawSocket.recv.__get__(socket)
        self.get: Callable[..., Any] = RawSocket.get.__get__(socket)
        self.descriptor: Any = socket.getsockopt(zmq.FD)

    def look(self, now: float) -> int:
        """Return what ZeroMQ says of the socket, which connects anew where that takes long."""
        events: int = self.get(EVENTS)
        if self._owned is not None:
            reach, _ = self._owned
            reach.look(now, is_open=bool(events & POLLOUT))
            self.obstacle, self.is_refused = reach.obstacle, reach.is_refused
        return events

    def close(self) -> None:
        """Close the socket. Whoever still calls it hears that there is none."""
        self.send = self.recv = self.get = refuse
        if self._owned is not None:
            reach, context = self._owned
            self._owned = None
            reach.close(LINGER_MS)
            context.term()


def refuse(*_: Any, **__: Any) -> Any:
    """Say what ZeroMQ says of a socket that is closed."""
    raise zmq.ZMQError(zmq.ENOTSOCK)


def send_message(send: Callable[..., Any], control: bytes, payloads: Payloads) -> None:
    """Send one message, large payloads without copying; raise zmq.Again without a connection."""
    if not payloads:
        send(control, NOBLOCK)
        return
    send(control, NOBLOCK | SNDMORE)
    last = len(payloads) - 1
    for index, payload in enumerate(payloads):
        flags = NOBLOCK if index == last else NOBLOCK | SNDMORE
        send(payload, flags, copy=size_of(payload) < COPY_BYTES_MAX)
