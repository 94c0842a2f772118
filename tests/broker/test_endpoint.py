"""Endpoints: which are taken, which need keys, and which are in use."""

import errno
import re
import socket

import pytest
import zmq

from broker.endpoint import EndpointError, check_free, explain_bind, is_loopback, read_endpoint


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("tcp://127.0.0.1:5555", "tcp://127.0.0.1:5555"),
        ("tcp://127.9.9.9:1", "tcp://127.9.9.9:1"),
        ("tcp://localhost:5555", "tcp://127.0.0.1:5555"),
        ("tcp://[::1]:*", "tcp://[::1]:*"),
        ("tcp://127.0.0.1:0", "tcp://127.0.0.1:*"),
        ("ipc:///run/x", "ipc:///run/x"),
    ],
)
def test_an_endpoint_that_only_this_machine_reaches_is_taken(text, bound):
    assert read_endpoint(text, has_keys=False) == bound


@pytest.mark.parametrize(
    "text",
    ["tcp://*:5555", "tcp://0.0.0.0:1", "tcp://10.0.0.1:1", "tcp://[::]:1", "tcp://eth0:1"],
)
def test_an_endpoint_that_others_could_reach_needs_keys(text):
    with pytest.raises(EndpointError, match="--keys"):
        read_endpoint(text, has_keys=False)

    assert read_endpoint(text, has_keys=True) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5555",
        "http://x:1",
        "udp://127.0.0.1:1",
        # Nobody outside of the process could connect to it.
        "inproc://x",
        "ipc://",
        "tcp://",
        "tcp://127.0.0.1",
        "tcp://:5",
        "tcp://127.0.0.1:x",
        "tcp://127.0.0.1:70000",
        "tcp://127.0.0.1:-1",
    ],
)
def test_a_bad_endpoint_is_named(text):
    with pytest.raises(EndpointError) as raised:
        read_endpoint(text, has_keys=True)

    assert repr(text) in str(raised.value)


@pytest.mark.parametrize(
    ("text", "what"), [("tcp://:5", "host"), ("tcp://127.0.0.1", "port"), ("tcp://", "port")]
)
def test_an_endpoint_without_a_host_was_said_to_have_no_port(text, what):
    with pytest.raises(EndpointError, match=f"has no {what}; write tcp"):
        read_endpoint(text, has_keys=True)


@pytest.mark.parametrize(
    ("endpoint", "other"),
    [("tcp://127.0.0.1:5", r"port \(\* takes any\)"), ("ipc://@x", "path"), ("ipc:///x", "path")],
)
def test_a_path_that_is_in_use_was_said_to_be_a_port(endpoint, other):
    said = str(explain_bind(endpoint, zmq.ZMQError(zmq.EADDRINUSE)))

    assert re.search(rf"in use; stop who listens there, or bind another {other}$", said)


@pytest.mark.parametrize(
    ("host", "is_private"),
    [
        ("127.0.0.1", True),
        ("[::1]", True),
        ("::1", True),
        ("lo", False),
        ("localhost.x.org", False),
    ],
)
def test_only_addresses_of_loopback_are_loopback(host, is_private):
    assert is_loopback(host) is is_private


def test_a_dead_file_of_an_ipc_endpoint_is_free_and_a_live_one_is_not(tmp_path):
    path = tmp_path / "b"
    endpoint = f"ipc://{path}"
    check_free(endpoint)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        with pytest.raises(EndpointError, match="in use"):
            check_free(endpoint)

    check_free(endpoint)


def test_who_is_too_busy_to_answer_is_there(tmp_path):
    path = tmp_path / "b"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as waiting:
        listener.bind(str(path))
        listener.listen(0)
        waiting.setblocking(False)
        waiting.connect_ex(str(path))

        with pytest.raises(EndpointError, match="in use"):
            check_free(f"ipc://{path}")


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EADDRINUSE, "is in use; "),
        (errno.EADDRNOTAVAIL, "is not an address of this machine"),
        (errno.ENODEV, "names no address"),
        (errno.EACCES, "cannot be bound: Permission denied"),
    ],
)
def test_a_bind_that_fails_says_why(number, reason):
    said = str(explain_bind("tcp://127.0.0.1:1", zmq.ZMQError(number)))

    assert said.startswith(f"endpoint 'tcp://127.0.0.1:1' {reason}")


def test_a_file_that_is_no_socket_stays_where_an_ipc_endpoint_names_it(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("worth something")

    for taken in (path, tmp_path):
        with pytest.raises(EndpointError, match="something else than a socket"):
            check_free(f"ipc://{taken}")

    assert path.read_text() == "worth something"
