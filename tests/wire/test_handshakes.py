"""What a peer learns of a broker that refuses it, with ZeroMQ's own handshakes."""

import contextlib
import select
import socket
import threading
from itertools import pairwise
from pathlib import Path

import pytest
import zmq
import zmq.utils.z85

import wire.handshakes
from broker.keys import DOMAIN
from tests.support.deployment import DEADLINE_S, LOOK_INTERVAL_S, wait_until
from wire.handshakes import ANEW_FIRST_S, REFUSED_S, Reach, open_reach
from wire.keys import OwnKeys, Pair, fingerprint

pytestmark = pytest.mark.process

DIR = Path("/keys")


class Gate:
    """A ROUTER that lets in who has a key that is known; the question comes to itself."""

    def __init__(self, context, *, has_keys):
        self.context = context
        self.pair = Pair(*zmq.curve_keypair())
        self.known = set()
        self.heard = []
        self.router = context.socket(zmq.ROUTER)
        self.router.linger = 0
        if has_keys:
            self.router.bind("inproc://zeromq.zap.01")
            self.router.curve_server = 1
            self.router.curve_secretkey = self.pair.secret
            self.router.zap_domain = DOMAIN
        self.router.bind("tcp://127.0.0.1:*")
        self.endpoint = self.router.getsockopt_string(zmq.LAST_ENDPOINT)
        self.router.bind("inproc://end")
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        while True:
            rid, first, *rest = self.router.recv_multipart()
            if first == b"end":
                self.router.close(0)
                return
            if first:
                self.heard.append(first)
                continue
            is_known = zmq.utils.z85.encode(rest[6]) in self.known
            status = b"200" if is_known else b"400"
            self.router.send_multipart([rid, b"", b"1.0", rest[1], status, b"", b"", b""])

    def close(self):
        with self.context.socket(zmq.DEALER) as dealer:
            dealer.connect("inproc://end")
            dealer.send(b"end")
            self.thread.join()


class Peer:
    """A socket with its way, and a clock that goes on only when a test lets it."""

    def __init__(self, context, endpoint, keys=None):
        socket = context.socket(zmq.DEALER)
        socket.linger = 0
        socket.immediate = 1
        self.reach = Reach(socket, endpoint, keys)
        self.now = 0.0
        self.reach.connect()

    def look(self):
        self.reach.look(self.now, is_open=False)
        return self.reach.obstacle

    def is_connected(self):
        self.look()
        return bool(self.reach.socket.getsockopt(zmq.EVENTS) & zmq.POLLOUT)


@pytest.fixture
def made():
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(zmq.Context())

        def gate(**options):
            opened = Gate(context, **options)
            stack.callback(opened.close)
            return opened

        def peer(endpoint, keys=None):
            one = Peer(context, endpoint, keys)
            stack.callback(one.reach.close)
            return one

        yield gate, peer


def keys_for(gate, name="gpu1"):
    return OwnKeys(DIR, name, gate.pair.public, Pair(*zmq.curve_keypair()))


def test_who_has_no_key_hears_that_one_is_wanted(made):
    gate, peer = made
    mine = peer(gate(has_keys=True).endpoint)

    assert "it wants keys: --keys DIR" in wait_until(mine.look)


def test_who_has_no_key_and_reads_nothing_of_a_broker_was_told_that_there_is_none(made):
    _, peer = made
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.0)
        mine = peer(f"tcp://127.0.0.1:{listener.getsockname()[1]}")

        def look():
            # Faster to hang up than the other is to read.
            with contextlib.suppress(BlockingIOError):
                listener.accept()[0].close()
            return mine.look()

        said = wait_until(look)

    assert said.startswith(
        "it breaks off the handshake: there is none behind a tunnel, or it wants"
    )
    assert not mine.reach.is_refused


def test_who_has_keys_for_a_broker_without_hears_that_it_takes_none(made):
    gate, peer = made
    open_one = gate(has_keys=False)
    mine = peer(open_one.endpoint, keys_for(open_one))

    # Whoever is faster to hang up decides how much the other has read.
    said = wait_until(mine.look)
    assert said.startswith("it takes no keys, and /keys has some") or "takes no keys, or" in said


def test_a_key_that_is_not_known_is_named(made):
    gate, peer = made
    strict = gate(has_keys=True)
    keys = keys_for(strict)
    mine = peer(strict.endpoint, keys)

    said = wait_until(mine.look)
    assert f"does not know the key 'gpu1' ({fingerprint(keys.own.public)}) of /keys" in said
    assert keys.own.secret.decode() not in said
    assert mine.reach.is_refused


def test_the_key_of_another_broker_is_named(made):
    gate, peer = made
    other = OwnKeys(DIR, "gpu1", zmq.curve_keypair()[0], Pair(*zmq.curve_keypair()))
    mine = peer(gate(has_keys=True).endpoint, other)

    said = wait_until(mine.look)
    assert "it is not the broker of /keys/broker.key" in said
    assert fingerprint(other.broker) in said
    assert not mine.reach.is_refused


def test_who_is_known_is_let_in_and_nothing_is_in_the_way(made):
    gate, peer = made
    strict = gate(has_keys=True)
    keys = keys_for(strict)
    strict.known.add(keys.own.public)
    mine = peer(strict.endpoint, keys)

    wait_until(mine.is_connected)

    assert mine.look() == ""
    mine.reach.socket.send(b"hello")
    wait_until(lambda: strict.heard == [b"hello"])


def test_a_key_that_comes_to_be_known_is_tried_again_which_zeromq_does_not(made):
    gate, peer = made
    strict = gate(has_keys=True)
    keys = keys_for(strict)
    mine = peer(strict.endpoint, keys)
    wait_until(mine.look)
    strict.known.add(keys.own.public)

    assert not mine.is_connected()
    assert mine.reach.deadline() == REFUSED_S

    mine.now = REFUSED_S
    wait_until(mine.is_connected)
    assert mine.look() == ""


def test_where_nobody_listens_it_begins_anew_later_each_time(made):
    _, peer = made
    mine = peer("tcp://127.0.0.1:1")

    dues = []
    for _ in range(9):
        assert mine.look() == ""
        mine.now = mine.reach.deadline()
        dues.append(mine.now)

    waits = [after - before for before, after in pairwise(dues)]
    assert dues[0] == ANEW_FIRST_S
    assert waits == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]


def test_a_broker_that_was_gone_without_a_word_was_waited_for_until_tcp_gave_up(made, monkeypatch):
    gate, _ = made
    open_one = gate(has_keys=False)
    monkeypatch.setattr(wire.handshakes, "UNACKNOWLEDGED_MS", 500)
    # Between the two stands who takes nothing any more, and hangs up on nobody.
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        endpoint = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        reach = stack.enter_context(open_reach(open_one.context, endpoint, linger_ms=0))
        near = stack.enter_context(listener.accept()[0])
        place = open_one.endpoint.removeprefix("tcp://").split(":")
        far = stack.enter_context(socket.create_connection((place[0], int(place[1]))))
        while not int(reach.socket.getsockopt(zmq.EVENTS)) & zmq.POLLOUT:
            pass_on(near, far)
        for _ in range(64):
            reach.socket.send(bytes(2**20))
        listener.settimeout(DEADLINE_S)

        stack.enter_context(listener.accept()[0])


def pass_on(one, other):
    """Let each have what the other has said by now."""
    for reader in select.select([one, other], [], [], LOOK_INTERVAL_S)[0]:
        (other if reader is one else one).sendall(reader.recv(65_536))


def test_with_an_open_session_nothing_is_due(made):
    _, peer = made
    mine = peer("tcp://127.0.0.1:1")
    mine.look()

    mine.reach.look(1.0, is_open=True)

    assert mine.reach.deadline() == float("inf")


@pytest.mark.parametrize("mechanism", ["null", "plain"])
def test_a_raw_connection_without_a_key_is_not_heard(made, mechanism):
    gate, _ = made
    strict = gate(has_keys=True)
    with strict.context.socket(zmq.DEALER) as raw:
        raw.linger = 0
        if mechanism == "plain":
            raw.plain_username, raw.plain_password = b"user", b"word"
        monitor = raw.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
        raw.connect(strict.endpoint)
        raw.send(b"hello")
        assert monitor.poll(60_000)
        raw.disable_monitor()
        monitor.close()
        assert strict.heard == []
