"""Why does nobody answer at an endpoint? What ZeroMQ does not tell, looked up by the shells.

The rule that must not be broken: it only looks, and never connects.
"""

import os
from typing import Final

FORBIDDEN: Final = "the socket is of a user who lets no other connect: run as the broker's user"


def is_forbidden(endpoint: str) -> bool:
    """Look whether there is a socket at *endpoint* to which this user must not connect.

    ZeroMQ does not tell that from one to which nobody listens, and goes on trying.
    """
    path = endpoint.removeprefix("ipc://")
    if path == endpoint or path.startswith("@"):
        return False
    try:
        _ = os.stat(path)  # noqa: PTH116 - a path of octets that nobody has looked at.
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return not os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)
