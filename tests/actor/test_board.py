import mmap
import os

import pytest

from actor.holding.outcomes import OVERHEAD_BYTES
from actor.machine import platform
from actor.machine.board import Board, Runs
from actor.processes.process import records_for
from actor.settings import HostSettings, Settings

NAMES = Runs._fields
ONE, TWO, THREE = (1, 1), (1, 2), (2**62, 3)


@pytest.fixture
def boards():
    """The actor's end and the host's, of one region with two records."""
    host, fd = Board.create(records=2)
    actor = Board(fd)
    yield actor, host
    actor.close()
    host.close()
    os.close(fd)


def start(board, token):
    place = board.reserve(token)
    board.start(place, token)


def test_nothing_has_started_at_first(boards):
    _, host = boards

    assert host.read().started == []
    assert not host.has_left
    assert host.overflow == 0


def test_a_run_counts_from_its_start_and_not_from_its_place(boards):
    actor, host = boards
    place = actor.reserve(ONE)
    assert host.read().started == []

    actor.start(place, ONE)

    assert host.read().started == [ONE]


@pytest.mark.parametrize(("change", "stands"), [("release", "started"), ("finish", "finished")])
def test_a_run_counts_until_it_is_settled(boards, change, stands):
    actor, host = boards
    start(actor, ONE)
    getattr(actor, change)(ONE)
    assert host.read()._asdict() == {name: [] for name in NAMES} | {stands: [ONE]}

    actor.settle(ONE)

    assert not any(host.read())


def test_nothing_is_held_against_an_environment_that_was_entered_as_the_process_had_to_end(boards):
    """Three forced ends beside it, and it was broken: its tasks failed for what others had done."""
    actor, host = boards
    actor.start(actor.reserve(ONE), ONE)
    actor.enter(actor.reserve(TWO), TWO)
    assert host.read().entering == [TWO]

    assert host.read(is_ended=True).entering == []
    actor.force([ONE])

    assert host.read() == Runs([ONE], [], [], [])


def test_who_runs_beside_one_for_which_the_process_ends_is_not_to_blame(boards):
    actor, host = boards
    start(actor, ONE)
    start(actor, TWO)

    actor.force([TWO, THREE])

    assert host.read() == Runs([TWO], [], [], [ONE])


def test_nobody_is_to_blame_when_the_host_itself_ends_the_process(boards):
    actor, host = boards
    start(actor, ONE)
    start(actor, TWO)
    actor.finish(TWO)

    assert host.read(is_ended=True) == Runs([], [TWO], [], [ONE])


def test_there_is_a_record_for_every_outcome_that_can_be_kept():
    most = Settings(name="h/0").kept_bytes_max // OVERHEAD_BYTES

    assert records_for(HostSettings(name="h", slots=5_000)) >= most + 5_000


def test_records_are_used_again(boards):
    actor, host = boards
    for number in range(100):
        start(actor, (1, number))
        actor.finish((1, number))
        actor.settle((1, number))
    start(actor, THREE)

    assert host.read().started == [THREE]


def test_a_full_board_forgets_what_has_finished_first(boards):
    actor, host = boards
    start(actor, ONE)
    start(actor, TWO)
    actor.finish(TWO)

    start(actor, THREE)

    assert host.read().started == [ONE, THREE]
    assert host.overflow == 0
    actor.settle(TWO)
    assert host.read().started == [ONE, THREE]


def test_what_finds_no_record_is_counted(boards):
    actor, host = boards
    for token in (ONE, TWO, THREE):
        start(actor, token)

    assert host.read().started == [ONE, TWO]
    assert host.overflow == 1
    for token in (ONE, TWO, THREE):
        actor.finish(token)
        actor.settle(token)
    assert host.read().started == []


def test_unknown_tokens_change_nothing(boards):
    actor, host = boards

    actor.release(ONE)
    actor.finish(ONE)
    actor.settle(ONE)

    assert host.read().started == []


def test_an_actor_says_how_many_outcomes_wait_for_their_clients(boards):
    actor, host = boards
    assert host.kept == 0

    actor.keep(3)

    assert host.kept == 3


def test_an_actor_that_was_told_to_leave_says_so(boards):
    actor, host = boards

    actor.leave()

    assert host.has_left


def test_a_file_without_a_name_does_where_there_is_no_memfd(monkeypatch):
    monkeypatch.delattr(os, "memfd_create", raising=False)

    fd = platform.open_shared(mmap.PAGESIZE)

    with mmap.mmap(fd, mmap.PAGESIZE) as region:
        region[:3] = b"abc"
    assert os.pread(fd, 3, 0) == b"abc"
    os.close(fd)


def test_host_and_actor_tell_one_another_when_they_were_heard(boards):
    actor, host = boards
    assert host.vouch(3.5) is None
    assert actor.vouched_at == 3.5

    actor.renew(2.5, is_held=True)
    assert host.vouch(4.5) == 2.5
    actor.renew(5.5, is_held=False)

    assert host.vouch(4.5) is None
