"""Where a broker can be reached: what an endpoint looks like to those who connect to one.

ZeroMQ takes some that lead nowhere without a word, and would try them for ever.
"""

from typing import Final

from wire.texts import brief, is_whole

PORT_MAX: Final = 65_535
SHAPE: Final = "tcp://HOST:PORT or ipc://PATH, as in tcp://127.0.0.1:5555"


def check_endpoint(text: object) -> str:
    """Return *text* if one can connect to it. Raises ValueError or TypeError with what is wrong."""
    if not isinstance(text, str):
        raise TypeError(f"endpoint {brief(text)} is not a text: {SHAPE}")
    check_octets(text)
    scheme, _, rest = text.partition("://")
    if scheme == "tcp":
        # What stands before a ; is the address to connect from.
        host, colon, port = rest.rpartition(":")
        if not (host and colon and is_whole(port)):
            raise ValueError(f"endpoint {brief(text)} is not {SHAPE}")
        if not 1 <= int(port) <= PORT_MAX:
            raise ValueError(f"endpoint {brief(text)}: {port} is not a port from 1 to {PORT_MAX}")
        if ":" in host.rpartition(";")[2] and not has_address_of_ipv6(text):
            raise ValueError(
                f"endpoint {brief(text)}: write [ADDRESS] around one of IPv6, tcp://[::1]:1"
            )
    elif not (scheme == "ipc" and rest):
        raise ValueError(f"endpoint {brief(text)} is not {SHAPE}")
    return text


def check_octets(text: str) -> None:
    """Raise ValueError for octets of a command line that its locale could not read."""
    if not text.isascii():
        try:
            _ = text.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"endpoint {brief(text)} is no UTF-8, or the locale cannot read it: set"
                " LC_ALL=C.UTF-8"
            ) from None


def has_address_of_ipv6(endpoint: str) -> bool:
    """Tell whether a socket must be told of IPv6 before it goes to *endpoint*.

    Only there: of a name that has both ZeroMQ would take one address, and never try the other.
    """
    return endpoint.startswith("tcp://") and "[" in endpoint
