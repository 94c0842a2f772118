"""Who leads an actor process, and what becomes of what the former leader left."""

import contextlib
import os
import pathlib
import signal
import threading
from math import inf

import pytest

import actor.loop
from actor.board import Board
from actor.core import ActorCore
from actor.loop import EXIT_FORCED, Loop
from actor.platform import make_waker
from actor.settings import Launch, Settings
from tests.support.deployment import Deployment


@pytest.fixture
def loop():
    board, fd = Board.create(records=16)
    launch = Launch(
        core=Settings(name="h/0"),
        broker="tcp://127.0.0.1:1",
        incarnation=99,
        host_name="h",
        host_pid=1,
    )
    core = ActorCore(launch.core, incarnation=launch.incarnation, now=0.0)
    waker = make_waker()
    loop = Loop(launch, core, board, waker)
    yield loop
    loop._socket.close(0)
    loop._context.term()
    board.close()
    os.close(fd)
    with contextlib.suppress(OSError):
        os.close(waker.fd)


def test_whoever_takes_the_lead_first_says_what_the_former_leader_left(loop, monkeypatch):
    waits = []
    monkeypatch.setattr(actor.loop, "zmq_poll", lambda _, wait_ms: waits.append(wait_ms))
    loop.core.session.hello_at = inf
    loop.core.exit_reason = "this test is over after one turn"
    assert loop._lead() == EXIT_FORCED
    assert waits == [0]


def test_a_run_in_the_leaders_place_says_itself_what_it_posts_and_calls_the_guard(loop):
    loop.core.session.hello_at = inf
    said = []
    loop._here_since = 1.0

    loop.post(lambda *what: said.append(what), "slot is free")

    assert [what for what, _ in said] == ["slot is free"]
    assert loop._leading.acquire(blocking=False), "the lead is free again"
    assert loop._bell.acquire(blocking=False), "somebody must hear what comes back"


def test_what_is_posted_while_somebody_leads_is_left_to_him(loop):
    said = []
    loop._here_since = 1.0
    loop._leading.acquire()

    loop.post(lambda *what: said.append(what), "slot is free")

    assert said == []
    assert loop._is_awake
    assert loop._bell.acquire(blocking=False)


class Watched:
    """A lock that tells when somebody found it taken."""

    def __init__(self):
        self.lock = threading.Lock()
        self.refused = threading.Event()
        self.release = self.lock.release

    def acquire(self, blocking=True):
        is_mine = self.lock.acquire(blocking=blocking)
        if not is_mine:
            self.refused.set()
        return is_mine


def test_a_leader_whose_run_ends_in_the_one_turn_of_another_leads_on(loop, monkeypatch):
    loop.core.session.hello_at = inf
    loop._leading = leading = Watched()
    is_inside = threading.Event()

    def stay(_):
        is_inside.set()
        assert leading.refused.wait(10.0)

    visitor = threading.Thread(target=loop.post, args=(stay,))

    def run_here(_):
        visitor.start()
        assert is_inside.wait(10.0)

    monkeypatch.setattr(loop.slots, "run_here", run_here)
    leading.acquire()

    assert loop._run_here(None), "nobody else leads: the actor would be deaf and mute"
    visitor.join(10.0)


@pytest.mark.process
def test_what_libraries_want_to_say_at_the_end_is_said_whoever_leads_then(tmp_path):
    written = tmp_path / "written"

    def write_at_the_end(path):
        import atexit
        import select

        atexit.register(pathlib.Path(path).touch)
        # Long enough for the guard to take the lead.
        select.select([], [], [], 0.1)

    with Deployment() as deployment:
        deployment.start_broker()
        host = deployment.start_host("h")
        client = deployment.client()
        deployment.actors(client, "h/0")
        client.submit(write_at_the_end, str(written)).result(10.0)
        host.send_signal(signal.SIGTERM)
        assert host.wait(10.0) == 0
        assert written.exists()
