import contextlib
import os
import socket
import threading

import pytest
import zmq

from broker.endpoint import EndpointError, check_free
from broker.loop import open_router
from wire.endpoint import check_endpoint
from wire.handshakes import open_reach
from wire.reaching import is_forbidden, why_not


@pytest.mark.parametrize(
    "text",
    [
        "tcp://127.0.0.1:5555",
        "tcp://localhost:1",
        "tcp://[::1]:65535",
        "tcp://10.0.0.2;10.0.0.1:7",
        "ipc:///tmp/b",
        "ipc://@abstract",
    ],
)
def test_what_can_be_connected_to_stays_as_it_is(text):
    assert check_endpoint(text) == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "'' is not tcp://HOST:PORT or ipc://PATH"),
        ("5555", "is not tcp"),
        ("localhost:5555", "is not tcp"),
        ("tcp://", "is not tcp"),
        ("tcp://127.0.0.1", "is not tcp"),
        ("tcp://127.0.0.1:", "is not tcp"),
        ("tcp://:5555", "is not tcp"),
        ("tcp://127.0.0.1:*", "is not tcp"),
        ("tcp://127.0.0.1:0", "0 is not a port from 1 to 65535"),
        ("tcp://127.0.0.1:99999", "99999 is not a port from 1 to 65535"),
        ("ipc://", "is not tcp"),
        ("inproc://b", "is not tcp"),
        ("ipc:///tmp/\udcc3\udcbc", "set LC_ALL=C.UTF-8"),
        ("tcp://::1:5555", "write [ADDRESS] around one of IPv6"),
        ("udp://127.0.0.1:1", "is not tcp"),
    ],
)
def test_what_leads_nowhere_is_refused_with_the_reason(text, complaint):
    with pytest.raises(ValueError, match="endpoint") as caught:
        check_endpoint(text)

    assert complaint in str(caught.value)


def test_a_socket_that_others_may_not_use_was_said_to_be_one_where_nobody_listens(tmp_path):
    path = tmp_path / "b"
    endpoint = f"ipc://{path}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        assert not is_forbidden(endpoint)
        path.chmod(0)
        with unprivileged():
            assert is_forbidden(endpoint)
            # ZeroMQ would remove the file, and take the clients of who listens there.
            with pytest.raises(EndpointError, match="may be somebody else's"):
                check_free(endpoint)

    assert not is_forbidden(f"ipc://{tmp_path}/none")
    assert not is_forbidden("ipc://@abstract")
    assert not is_forbidden("tcp://127.0.0.1:5555")


def test_a_name_without_an_address_was_said_to_be_one_where_nobody_listens(monkeypatch):
    def unknown(host, *_):
        if host == "nowhere":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return []

    monkeypatch.setattr(socket, "getaddrinfo", unknown)

    for endpoint in ("tcp://nowhere:5555", "tcp://10.0.0.2:0;nowhere:5555"):
        assert why_not(endpoint) == (
            "the name 'nowhere' has no IPv4 address here: Name or service not known"
        )
    for endpoint in ("tcp://somewhere:5555", "tcp://[::1]:5555", "ipc://nowhere"):
        assert not why_not(endpoint)


def test_a_name_server_that_does_not_answer_holds_nobody_up(monkeypatch):
    is_answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: is_answered.wait())

    # It returns although nobody has answered.
    assert not why_not("tcp://nowhere:5555")
    is_answered.set()


@contextlib.contextmanager
def unprivileged():
    """Be no root for a moment; whoever is none is so anyway."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_port_alone_is_no_endpoint():
    with pytest.raises(TypeError, match="endpoint 5555 is not a text"):
        check_endpoint(5555)


@pytest.fixture(scope="module")
def router_of_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    with zmq.Context() as context, open_router(context, payload_bytes_max=1024) as router:
        router.setsockopt(zmq.IPV6, 1)
        router.setsockopt(zmq.RCVTIMEO, 60_000)
        router.bind("tcp://[::1]:*")
        yield router


def test_nobody_reached_a_broker_at_an_address_of_ipv6(router_of_ipv6):
    endpoint = router_of_ipv6.getsockopt_string(zmq.LAST_ENDPOINT)
    with zmq.Context() as context, open_reach(context, endpoint, linger_ms=0) as reach:
        reach.socket.setsockopt(zmq.SNDTIMEO, 60_000)
        reach.socket.send(b"hello")

        assert router_of_ipv6.recv_multipart()[1:] == [b"hello"]
