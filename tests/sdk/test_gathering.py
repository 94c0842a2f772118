"""Calls that leave together: never later than they may, never without somebody who sends them."""

from math import inf

from sdk.reading.gathering import CALLS_MAX, GATHER_S, LOOK_S, LOOKS_MAX, Gathering


def test_the_first_call_leaves_at_once_and_those_close_behind_it_wait() -> None:
    gathering = Gathering()
    assert not gathering.may_wait(1, 10.0)
    assert gathering.may_wait(1, 10.0 + GATHER_S / 2)
    assert not gathering.may_wait(2, 10.0 + GATHER_S * 1.01)


def test_no_more_than_a_frame_full_gathers() -> None:
    gathering = Gathering()
    assert not gathering.may_wait(1, 10.0)
    assert gathering.may_wait(CALLS_MAX - 1, 10.0)
    assert not gathering.may_wait(CALLS_MAX, 10.0)


def test_the_daemon_is_woken_once_and_looks_until_nothing_has_gathered_for_a_while() -> None:
    gathering = Gathering()
    assert gathering.next_look(1.0) == inf
    assert gathering.begin()
    assert not gathering.begin()
    assert gathering.next_look(1.0) == 1.0 + LOOK_S
    gathering.is_open = False
    for _ in range(LOOKS_MAX):
        assert gathering.next_look(1.0) == 1.0 + LOOK_S
    assert gathering.next_look(1.0) == inf
    assert gathering.begin(), "a daemon that sleeps for long has to be woken"


def test_calls_that_begin_to_wait_while_the_daemon_stops_looking_are_not_forgotten() -> None:
    class Late(Gathering):
        def _has_begun(self) -> bool:
            self.is_open = True
            return super()._has_begun()

    gathering = Late()
    gathering.begin()
    gathering.is_open = False
    for _ in range(LOOKS_MAX):
        gathering.next_look(1.0)
    assert gathering.next_look(1.0) == 1.0 + LOOK_S
    assert gathering.is_watched
