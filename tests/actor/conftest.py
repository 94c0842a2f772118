"""What tests of the actor share: a broker of their own for real hosts, and slots without a loop."""

import os

import pytest

from actor.machine.board import Board
from tests.actor.fake_broker import FakeBroker
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
