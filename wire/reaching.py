"""Why does nobody answer at an endpoint? What ZeroMQ does not tell, looked up by the shells.

The rule that must not be broken: it only looks, never connects, and never takes long.
"""

import contextlib
import os
import socket
import threading
from typing import Final

FORBIDDEN: Final = "the socket is of a user who lets no other connect: run as the broker's user"
# A name server that does not answer is asked for many seconds: a loop must not wait for that.
NAME_SERVER_S: Final = 0.3
FULL: Final = "the broker has no descriptors left for more connections: raise its LimitNOFILE="


def shut_path(path: str) -> str:
    """Return where a broker keeps its socket while nobody more may connect."""
    return f"{path}.shut"


def why_not(endpoint: str) -> str:
    """Say why nobody answers at *endpoint*, or an empty text where that cannot be seen."""
    if is_forbidden(endpoint):
        return FORBIDDEN
    if is_shut(endpoint):
        return FULL
    return unknown_name(endpoint)


def is_shut(endpoint: str) -> bool:
    """Look whether a broker at *endpoint* lets nobody more connect."""
    path = endpoint.removeprefix("ipc://")
    if path == endpoint or path.startswith("@"):
        return False
    try:
        return not os.path.exists(path) and os.path.exists(shut_path(path))  # noqa: PTH110 - as below.
    except ValueError:
        return False


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


def unknown_name(endpoint: str) -> str:
    """Say that the name in *endpoint* has no address, or return an empty text.

    ZeroMQ asks for it again and again, and tells nobody.
    """
    place = endpoint.removeprefix("tcp://")
    # What stands before a ; is the address to connect from.
    host = place.rpartition(":")[0].rpartition(";")[2]
    if place == endpoint or host.startswith("["):
        return ""
    found: list[str] = []

    def ask() -> None:
        try:
            _ = socket.getaddrinfo(host, None, socket.AF_INET)
        except socket.gaierror as error:
            found.append(f"the name {host!r} has no IPv4 address here: {error.strerror}")
        except UnicodeError as error:
            found.append(f"{host!r} can be no name: {error}")

    asker = threading.Thread(target=ask, name="name server", daemon=True)
    with contextlib.suppress(RuntimeError):  # Where there is no thread nobody asks.
        asker.start()
        asker.join(NAME_SERVER_S)
    return "".join(found[:1])
