"""How much may wait in a mailbox: with a clock that the test moves."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actor.granting.prefetch import (
    AHEAD_MAX,
    LONG_ROUND_TRIPS,
    LOOK_S,
    PATIENCE_MAX_S,
    PATIENCE_MIN_S,
    SHORT_ROUND_TRIPS,
    Prefetch,
)
from tests.actor.broker_end import connected, make_core
from wire.messages import Reject

WAY_S = 0.0002


class Clock:
    """A prefetch whose broker is WAY_S away, and a clock."""

    def __init__(self, ahead=None, *, slots=1, way_s=WAY_S):
        self.now = 100.0
        self.slots = slots
        self.prefetch = Prefetch(ahead)
        self.prefetch.greets(self.now)
        self.prefetch.answered(self.now + way_s)

    def runs(self, *lengths, head=None, is_full=False):
        """Let runs of these lengths end, then a look."""
        for length in lengths:
            self.prefetch.runs += 1
            self.prefetch.busy_s += length
        return self.passes(LOOK_S, head=head, is_full=is_full)

    def passes(self, seconds, head=None, *, is_full=False):
        """Let time pass, with looks; tell whether what waits was to be handed back."""
        end, is_stuck = self.now + seconds, False
        while self.now < end:
            self.now += LOOK_S
            is_stuck |= self.prefetch.look(self.now, head, self.slots, is_full=is_full)
            self.prefetch.check()
        return is_stuck

    @property
    def ahead(self):
        return self.prefetch.ahead


def test_nothing_is_granted_ahead_before_a_run_has_ended():
    clock = Clock()

    clock.passes(1.0)

    assert clock.ahead == 0


def test_short_runs_turn_it_on_and_long_ones_off():
    clock = Clock()

    clock.runs(*[0.0001] * 50)
    assert clock.ahead > 0

    clock.runs(0.1)
    assert clock.ahead == 0


@pytest.mark.parametrize(
    ("run_s", "slots", "ahead"),
    [(0.0, 1, 64), (0.0001, 1, 16), (0.001, 1, 2), (0.001, 8, 16), (0.0039, 1, 1), (0.0041, 1, 0)],
)
def test_what_waits_lasts_for_a_few_round_trips(run_s, slots, ahead):
    clock = Clock(slots=slots)

    clock.runs(*[run_s] * 10)

    assert clock.ahead == ahead


def test_one_long_run_among_many_short_ones_turns_it_off():
    clock = Clock()
    clock.runs(*[0.0001] * 50)

    clock.runs(*[0.0001] * 50, 10.0)

    assert clock.ahead == 0


def test_it_comes_back_after_a_row_of_short_runs_and_not_after_one():
    clock = Clock()
    clock.runs(10.0)

    clock.runs(*[0.0001] * 50)
    assert clock.ahead == 0

    for _ in range(20):
        clock.runs(*[0.0001] * 50)
    assert clock.ahead > 0


def test_between_the_two_bounds_it_stays_as_it_is():
    between = WAY_S * (SHORT_ROUND_TRIPS + LONG_ROUND_TRIPS) / 2
    on, off = Clock(), Clock()
    on.runs(*[0.0001] * 50)

    on.runs(between, between)
    off.runs(between, between)

    assert on.ahead > 0
    assert off.ahead == 0


def test_run_times_that_waver_change_the_statement_seldom():
    clock, changes, before = Clock(), 0, 0
    for place in range(200):
        clock.runs(*[0.0001 if place % 2 else 0.00018] * 20)
        changes += clock.ahead != before
        before = clock.ahead

    assert changes <= 3


def test_far_from_the_broker_longer_runs_count_as_short():
    near, far = Clock(), Clock(way_s=0.05)

    near.runs(0.1)
    far.runs(0.1)

    assert near.ahead == 0
    assert far.ahead > 0


def test_the_shortest_round_trip_of_the_session_counts():
    clock = Clock(way_s=5.0)

    clock.prefetch.said(1, clock.now)
    clock.prefetch.answered(clock.now + WAY_S)
    clock.prefetch.said(2, clock.now)
    clock.prefetch.answered(clock.now + 3.0)
    clock.runs(0.1)

    assert clock.ahead == 0


def test_a_fixed_number_is_granted_whatever_runs():
    clock = Clock(3)

    clock.runs(10.0)

    assert clock.ahead == 3


def test_what_waits_behind_a_long_run_is_handed_back_until_a_run_has_ended():
    clock = Clock(3)
    assert not clock.runs(0.0001, head=(1, 2))

    assert clock.passes(PATIENCE_MIN_S + 2 * LOOK_S, head=(1, 2))
    assert clock.ahead == 0

    clock.prefetch.freed()
    assert clock.ahead == 3


def test_auto_stays_off_after_what_waited_was_handed_back():
    clock = Clock()
    clock.runs(*[0.0001] * 50)

    assert clock.passes(0.1, head=(1, 2))
    clock.prefetch.freed()
    assert clock.ahead == 0
    clock.runs(*[0.0001] * 50)

    assert clock.ahead == 0


def test_a_mailbox_that_moves_is_not_stuck():
    clock = Clock(3)

    assert not any(clock.passes(PATIENCE_MIN_S / 2, head=(1, n)) for n in range(100))


def test_long_runs_that_are_usual_are_waited_for_up_to_a_second():
    clock = Clock(3)
    clock.runs(0.05)
    assert not clock.passes(0.15, head=(1, 2))
    assert clock.passes(0.1, head=(1, 2))

    clock.runs(60.0)
    assert clock.prefetch.patience_s == PATIENCE_MAX_S


@given(
    st.lists(st.lists(st.floats(0.0, 100.0), max_size=5), max_size=30),
    st.sampled_from([None, 0, 4]),
    st.integers(1, 8),
    st.floats(0.0, 10.0),
)
@settings(max_examples=200)
def test_it_never_grants_more_than_its_maximum(windows, ahead, slots, way_s):
    clock = Clock(ahead, slots=slots, way_s=way_s)

    for lengths in windows:
        clock.runs(*lengths)

        assert clock.ahead <= (AHEAD_MAX if ahead is None else ahead)


def test_nothing_is_granted_behind_a_run_that_is_long_already():
    clock = Clock()
    clock.runs(*[0.0001] * 50)
    assert clock.ahead > 0

    clock.passes(0.1, is_full=True)

    assert clock.ahead == 0


def test_an_actor_that_idles_goes_on_granting():
    clock = Clock()
    clock.runs(*[0.0001] * 50)

    clock.passes(10.0)

    assert clock.ahead > 0


# --- in the core


def test_the_core_grants_ahead_once_its_runs_are_short():
    end = connected(make_core(prefetch=None))
    assert end.credit.ahead == 0

    for _ in range(3):
        token = end.assign()
        end.carry()
        end.started.pop(token)
        end.core.finished(token, "result", b"x", (), 0.00001, end.now)
        end.pass_time(LOOK_S * 2)
        end.carry()

    assert end.credit.ahead > 0


def test_the_core_hands_back_from_behind_a_long_run_without_being_asked():
    end = connected(make_core(prefetch=2))
    first, second, third = end.assign(), end.assign(), end.assign()
    end.carry()
    assert list(end.started) == [first]

    while not end.rejected:
        assert end.core.deadline() < end.now + 1.0
        end.pass_time(max(0.001, end.core.deadline() - end.now))
        end.carry()

    assert end.now < 0.1
    assert set(end.rejected) == {second, third}
    assert not any(reject.bars for reject in end.everything if isinstance(reject, Reject))
    assert end.available == 0
    end.finish(first)
    end.carry()
    assert (end.credit.free, end.credit.ahead) == (1, 2)


def test_a_run_that_gives_its_slot_back_early_counts_as_a_short_one():
    clock = Clock()

    clock.prefetch.given_back(0.001)
    clock.passes(LOOK_S)

    assert clock.ahead > 0


def test_a_run_that_holds_its_slot_for_long_before_it_gives_it_back_counts_as_a_long_one():
    clock = Clock()
    clock.runs(0.001)
    assert clock.ahead > 0

    clock.prefetch.given_back(1.0)
    clock.passes(LOOK_S)

    assert clock.ahead == 0


def test_a_slot_that_is_given_back_behind_a_long_run_lets_tasks_wait_ahead_again():
    clock = Clock(ahead=3)
    assert clock.passes(1.0, head=(1, 1), is_full=True)
    assert clock.ahead == 0

    clock.prefetch.given_back(1.0)

    assert clock.ahead == 3
