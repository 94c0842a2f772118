"""Where the broker may listen: endpoints as the user writes them, checked before they are bound.

The rule that must not be broken: what another machine could reach is never bound without keys.
"""

import errno
import ipaddress
import socket
import stat
from pathlib import Path
from typing import Final

import zmq

from wire.endpoint import check_octets
from wire.reaching import shut_path
from wire.texts import brief, is_whole

TCP: Final = "tcp://"
IPC: Final = "ipc://"
PROBE_TIMEOUT_S: Final = 0.5


class EndpointError(Exception):
    """An endpoint cannot be used; the message says which one, why and what to do."""


def read_endpoint(text: str, *, has_keys: bool) -> str:
    """Return *text* in the form that ZeroMQ binds. Raises EndpointError."""
    try:
        check_octets(text)
    except ValueError as error:
        raise EndpointError(str(error)) from None
    if text.startswith(IPC):
        if text == IPC:
            raise EndpointError(f"endpoint {brief(text)} has no name after the //")
        return text
    if not text.startswith(TCP):
        raise EndpointError(
            f"endpoint {brief(text)} is not tcp://HOST:PORT or ipc://PATH, as in tcp://127.0.0.1:5555"
        )
    host, separator, port = text.removeprefix(TCP).rpartition(":")
    if not separator or not host:
        what = "port" if not separator else "host"
        raise EndpointError(
            f"endpoint {brief(text)} has no {what}; write tcp://HOST:PORT, * for any {what}"
        )
    if port != "*" and not (is_whole(port) and int(port) <= 65_535):
        raise EndpointError(
            f"endpoint {brief(text)}: {brief(port)} is not a port; 0 to 65535, or * for any"
        )
    # ZeroMQ binds addresses and interfaces, and asks no resolver.
    if host == "localhost":
        host = "127.0.0.1"
    if not has_keys and not is_loopback(host):
        raise EndpointError(
            f"endpoint {brief(text)} could be reached from other machines, and whoever reaches a"
            " broker runs code on its actors: bind 127.0.0.1 or ipc://, or say with --keys DIR whom"
            " it lets in (`warmslot keys DIR` makes them)"
        )
    return f"{TCP}{host}:{'*' if port == '0' else port}"


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach *host*, an address or the name of an interface."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_free(endpoint: str) -> None:
    """Raise EndpointError when somebody listens on an ipc endpoint: ZeroMQ would push him aside.

    Nor is anything but a socket in its way: ZeroMQ removes whatever file it finds there.
    """
    if not endpoint.startswith(IPC) or endpoint == f"{IPC}*":
        return
    path = endpoint.removeprefix(IPC)
    if path.startswith("@"):
        check_unheard(endpoint, f"\0{path[1:]}")
        return
    # The second is of a broker that has no descriptors left, or was killed while it had none.
    for place in (path, shut_path(path)):
        if not is_socket_or_nothing(Path(place)):
            raise EndpointError(
                f"endpoint {endpoint!r}: there is something else than a socket at {place}; name"
                " another path"
            )
        check_unheard(endpoint, place)


def check_unheard(endpoint: str, address: str) -> None:
    """Raise EndpointError when somebody listens on an ipc *endpoint*, at *address*."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        try:
            probe.connect(address)
        except BlockingIOError:
            pass  # Somebody is there, too busy to answer.
        except PermissionError:
            raise EndpointError(
                f"endpoint {endpoint!r} may be somebody else's: permission denied; name another"
                " path, or run as the user who has it"
            ) from None
        except OSError:
            return
    raise EndpointError(f"endpoint {endpoint!r} is in use: a broker listens there already")


def is_socket_or_nothing(path: Path) -> bool:
    """Tell whether a socket can be put at *path* without a loss, as far as that can be seen."""
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        # What is wrong with the path is said when it is bound.
        return True


def explain_bind(endpoint: str, error: zmq.ZMQError) -> EndpointError:
    """Say why *endpoint* could not be bound."""
    other = "port (* takes any)" if endpoint.startswith(TCP) else "path"
    reason = {
        zmq.EADDRINUSE: f"is in use; stop who listens there, or bind another {other}",
        zmq.EADDRNOTAVAIL: "is not an address of this machine",
        errno.ENODEV: "names no address and no interface of this machine",
    }.get(error.errno or 0)
    if reason is None:
        # What pyzmq adds in parentheses is the endpoint once more.
        reason = f"cannot be bound: {str(error.strerror).partition(' (')[0]}"
    return EndpointError(f"endpoint {endpoint!r} {reason}")
