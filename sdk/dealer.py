"""The socket of a client to its broker, with the options of protocol.md section 5."""

from collections.abc import Callable
from typing import Any, Final

import zmq

from sdk.call import Payloads
from wire.payload import size_of

NOBLOCK: Final = 1
SNDMORE: Final = 2
# Below this pyzmq copies anyway, and its own bookkeeping costs more than the copy.
COPY_BYTES_MAX: Final = 65_536
# How long what was sent last may take to leave.
LINGER_MS: Final = 100


def open_dealer(context: zmq.Context[Any], endpoint: str) -> zmq.Socket[bytes]:
    """Connect a DEALER as protocol.md section 5 wants it; raise ValueError for a bad endpoint."""
    dealer: zmq.Socket[bytes] = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.SNDHWM, 0)
    dealer.setsockopt(zmq.RCVHWM, 0)
    dealer.setsockopt(zmq.LINGER, LINGER_MS)
    dealer.setsockopt(zmq.IMMEDIATE, 1)
    dealer.setsockopt(zmq.RECONNECT_IVL, 50)
    dealer.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
    try:
        dealer.connect(endpoint)
    except zmq.ZMQError as error:
        dealer.close(linger=0)
        context.term()
        raise ValueError(f"endpoint {endpoint!r}: {error}") from None
    return dealer


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
