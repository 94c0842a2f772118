"""The socket of a peer to its broker, with the options of protocol.md section 5."""

from typing import Final

import zmq

from wire.endpoint import has_address_of_ipv6
from wire.handshakes import Reach
from wire.keys import Folder, own_keys

RECONNECT_FIRST_MS: Final = 50
RECONNECT_MAX_MS: Final = 500
# How long what was sent last may take to leave.
LINGER_MS: Final = 500


def connect(context: "zmq.Context[zmq.Socket[bytes]]", endpoint: str, keys: Folder = "") -> Reach:
    """Return a DEALER to the broker at *endpoint*, which need not be there yet.

    *keys* is the folder with keys, empty for none. Raises ValueError for one that cannot be used,
    and for an endpoint that cannot, as where the path of a file is too long; OSError where the
    system has no more sockets.
    """
    own = own_keys(keys, endpoint)
    socket: zmq.Socket[bytes] | None = None
    try:
        socket = context.socket(zmq.DEALER)
        # Nothing queues for a broker that is away: what was meant for it would reach the next one.
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.LINGER, LINGER_MS)
        socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_FIRST_MS)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.IPV6, has_address_of_ipv6(endpoint))
        # It has sockets of its own.
        reach = Reach(socket, endpoint, own)
    except zmq.ZMQError as error:
        if socket is not None:
            socket.close(0)
        raise OSError(error.errno, f"{error.strerror}, so there can be no socket") from None
    try:
        reach.connect()
    except zmq.ZMQError as error:
        reach.close(0)
        # What pyzmq adds in parentheses is the endpoint once more.
        reason = str(error.strerror).partition(" (")[0]
        raise ValueError(f"endpoint {endpoint!r} cannot be used: {reason}") from None
    return reach
