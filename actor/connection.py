"""The socket of a peer to its broker, with the keys of its folder."""

from typing import Final

import zmq

from wire.handshakes import Reach, open_reach
from wire.keys import Folder, own_keys

# How long what was sent last may take to leave.
LINGER_MS: Final = 500


def connect(context: "zmq.Context[zmq.Socket[bytes]]", endpoint: str, keys: Folder = "") -> Reach:
    """Return a DEALER to the broker at *endpoint*, as `open_reach` does and raises.

    *keys* is the folder with keys, empty for none. Raises ValueError for one that cannot be used.
    """
    return open_reach(context, endpoint, own_keys(keys, endpoint), linger_ms=LINGER_MS)
