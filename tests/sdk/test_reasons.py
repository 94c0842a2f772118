"""Why calls wait: the first reasons are said, the rest counted, none is lost."""

from hypothesis import given
from hypothesis import strategies as st

from sdk.calls.reasons import FORGOTTEN_S, KEPT_MAX, SAID_MAX, WINDOW_S, Reasons


def test_a_reason_is_said_once():
    reasons = Reasons()

    assert reasons.is_said("no actor is connected", 0.0)
    for n in range(1, 100):
        assert not reasons.is_said("no actor is connected", n * FORGOTTEN_S / 2)
    assert reasons.count(100 * FORGOTTEN_S) == 0


def test_a_time_in_a_reason_makes_no_other_one_of_it():
    """One call was told of every six seconds, each time with fewer seconds to go."""
    reasons = Reasons()

    assert reasons.is_said("it waits for 26.9 s more; h/0 is silent for 5 s", 0.0)
    assert not reasons.is_said("it waits for 20.9 s more; h/0 is silent for 11 s", 6.0)
    assert reasons.is_said("it waits for 14.9 s more", 12.0)
    assert reasons.count(WINDOW_S) == 0


def test_a_reason_is_said_again_to_who_waits_for_it_later_on():
    reasons = Reasons()
    assert reasons.is_said("no actor is connected", 0.0)
    assert not reasons.is_said("no actor is connected", 5.0)

    assert reasons.is_said("no actor is connected", 5.0 + FORGOTTEN_S)


def test_of_many_reasons_the_first_are_said_and_the_rest_counted_once():
    reasons = Reasons()

    said = [reasons.is_said(f"needs customer eq {n}", 1.0) for n in range(10_000)]

    assert said == [True] * SAID_MAX + [False] * (10_000 - SAID_MAX)
    assert reasons.count(WINDOW_S) == 0
    assert reasons.count(1.0 + WINDOW_S) == 10_000 - SAID_MAX
    assert reasons.count(1.0 + WINDOW_S) == 0


def test_a_new_reason_is_said_again_after_a_while():
    reasons = Reasons()
    for n in range(SAID_MAX + 1):
        reasons.is_said(str(n), 0.0)

    assert not reasons.is_said("late", WINDOW_S - 1.0)
    assert reasons.count(WINDOW_S) == 2
    assert reasons.is_said("later", WINDOW_S)


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0.0, 5.0)), max_size=200))
def test_each_new_reason_is_said_or_counted(events):
    reasons, now, seen, new, said, counted = Reasons(), 0.0, {}, 0, 0, 0
    for reason, later_s in events:
        now += later_s
        new += reason not in seen or now - seen[reason] >= FORGOTTEN_S
        seen[reason] = now
        said += reasons.is_said(str(reason), now)
        counted += reasons.count(now)

    counted += reasons.count(now + WINDOW_S)
    assert said + counted == new


def test_what_is_remembered_is_bounded():
    reasons = Reasons()
    for n in range(KEPT_MAX + 1):
        reasons.is_said(str(n), 0.0)

    assert not reasons.is_said(str(KEPT_MAX), 0.0)
    assert len(reasons._known) == KEPT_MAX
