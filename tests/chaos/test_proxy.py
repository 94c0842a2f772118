"""The proxy does what it is told to, and nothing else."""

import contextlib
import os
import resource
import socket
import threading

import pytest

from tests.chaos.proxy import Proxy, Way
from tests.support.deployment import DEADLINE_S, wait_until

pytestmark = pytest.mark.process

TIMEOUT_S = DEADLINE_S


@pytest.fixture
def echo():
    """Return the address of a server that says what it hears."""
    server = socket.create_server(("127.0.0.1", 0))

    def answer(connection):
        with connection:
            while octets := connection.recv(65_536):
                connection.sendall(octets)

    def serve():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=guarded, args=(connection,), daemon=True).start()

    def guarded(connection):
        try:
            answer(connection)
        except OSError:
            return

    threading.Thread(target=serve, daemon=True).start()
    yield server.getsockname()
    server.close()


@pytest.fixture
def proxy(echo):
    proxy = Proxy(echo)
    yield proxy
    proxy.close()


@pytest.fixture
def connect(proxy):
    """Return what connects to the proxy; all is closed in the end."""
    with contextlib.ExitStack() as stack:

        def connect():
            address = ("127.0.0.1", proxy.port)
            return stack.enter_context(socket.create_connection(address, timeout=TIMEOUT_S))

        yield connect


def is_refused(proxy):
    try:
        socket.create_connection(("127.0.0.1", proxy.port), timeout=TIMEOUT_S).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        pass  # It came just when the listener was closed.
    return False


def hear(connection, octets):
    heard = b""
    while len(heard) < octets:
        part = connection.recv(octets - len(heard))
        if not part:
            return heard
        heard += part
    return heard


def test_octets_come_through_in_order(proxy, connect):
    text = bytes(range(256)) * 2_000
    connection = connect()
    threading.Thread(target=connection.sendall, args=(text,), daemon=True).start()

    assert hear(connection, len(text)) == text


@pytest.mark.parametrize("way", Way)
def test_what_is_held_back_comes_when_it_is_healed(proxy, connect, way):
    connection = connect()
    proxy.stall(way)
    connection.sendall(b"abc")
    connection.settimeout(0.1)
    with pytest.raises(TimeoutError):
        connection.recv(3)

    proxy.heal()

    connection.settimeout(TIMEOUT_S)
    assert hear(connection, 3) == b"abc"


def test_what_is_swallowed_is_gone_and_the_stream_with_it(proxy, connect):
    connection = connect()
    proxy.swallow(Way.UP)
    connection.sendall(b"abc")
    connection.settimeout(0.1)
    with pytest.raises(TimeoutError):
        connection.recv(3)

    proxy.heal()

    connection.settimeout(TIMEOUT_S)
    with pytest.raises(ConnectionError):
        connection.recv(3)


def test_a_cut_ends_a_connection_in_the_middle(proxy, connect):
    connection = connect()
    proxy.cut_after(5, Way.DOWN)
    connection.sendall(b"0123456789")

    assert hear(connection, 10) == b"01234"


def test_a_reset_is_noticed_and_the_next_connection_works(proxy, connect):
    connection = connect()
    connection.sendall(b"a")
    assert hear(connection, 1) == b"a"
    proxy.reset()
    with pytest.raises(ConnectionError):
        connection.recv(1)

    again = connect()
    again.sendall(b"b")

    assert hear(again, 1) == b"b"


@pytest.mark.parametrize("is_accepted", [False, True])
def test_who_is_turned_away_is_told_so(proxy, connect, is_accepted):
    (proxy.reject if is_accepted else proxy.refuse)()
    if not is_accepted:
        wait_until(lambda: is_refused(proxy), TIMEOUT_S)
    else:
        with pytest.raises(ConnectionError):
            connect().recv(1)
        assert proxy.connections == 0

    proxy.heal()

    wait_until(lambda: not is_refused(proxy), TIMEOUT_S)
    again = connect()
    again.sendall(b"b")
    assert hear(again, 1) == b"b"
    wait_until(lambda: proxy.connections > 0)


def test_a_slow_connection_carries_so_many_octets_a_second(proxy, connect):
    connection = connect()
    proxy.slow(1_000, Way.UP)
    connection.settimeout(0.1)
    connection.sendall(bytes(200))
    with pytest.raises(TimeoutError):
        connection.recv(1)

    connection.settimeout(TIMEOUT_S)
    assert hear(connection, 200) == bytes(200)


def test_a_proxy_goes_on_beside_more_descriptors_than_select_can_take(proxy, connect):
    here, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if here < 2_000:
        pytest.skip("not so many descriptors here")
    with contextlib.ExitStack() as stack:
        for _ in range(1_100):
            stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        connection = connect()
        connection.sendall(b"abc")

        assert hear(connection, 3) == b"abc"


def test_a_delay_lasts_as_long_as_it_says(proxy, connect):
    connection = connect()
    proxy.delay(0.2, Way.UP)
    connection.settimeout(0.1)
    connection.sendall(b"abc")
    with pytest.raises(TimeoutError):
        connection.recv(3)

    connection.settimeout(TIMEOUT_S)
    assert hear(connection, 3) == b"abc"
