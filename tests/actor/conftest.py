"""What tests of the actor share: a broker of their own for real hosts, and actors without one."""

import os
import threading

import pytest
import structlog

from actor.machine.board import Board
from tests.actor.fake_broker import FakeBroker
from tests.actor.pair import Pair
from tests.actor.stage import Stage
from tests.actor.test_slot import Shell


@pytest.fixture
def broker():
    """Give a broker of the test's own, to which hosts and actors connect."""
    fake = FakeBroker()
    yield fake
    fake.close()


@pytest.fixture
def shell():
    board, fd = Board.create(records=64)
    shell = Shell(fd)
    yield shell
    shell.slots.close()
    shell.board.close()
    board.close()
    os.close(fd)


@pytest.fixture
def refuse_threads(monkeypatch):
    """Give no thread of a name the first times that one is asked for; return those refused."""

    def refuse(name, times):
        start, refused = threading.Thread.start, []

        def starts(thread):
            if thread.name.startswith(name) and len(refused) < times:
                refused.append(thread)
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", starts)
        monkeypatch.setattr("actor.running.threads.LOOK_S", 0.01)
        return refused

    return refuse


@pytest.fixture
def stage():
    boards = []

    def make(**settings):
        board, fd = Board.create(records=256)
        stage = Stage(fd, **settings)
        boards.append((stage, board, fd))
        return stage

    yield make
    for stage, board, fd in boards:
        stage.slots.close()
        stage.board.close()
        board.close()
        os.close(fd)


@pytest.fixture
def pair():
    made = []

    def make(**options):
        board, fd = Board.create(records=16)
        pair = Pair(fd, **options)
        made.append((pair, board, fd))
        return pair

    yield make
    for pair, board, fd in made:
        pair.go_on()
        pair.events.close()
        pair.stage.slots.close()
        pair.stage.board.close()
        board.close()
        os.close(fd)


@pytest.fixture(autouse=True)
def _structlog_is_left_as_it_was():
    yield
    structlog.reset_defaults()
