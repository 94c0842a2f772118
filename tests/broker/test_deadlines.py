"""What is due when, against a slow list."""

from math import inf, nextafter

from hypothesis import given
from hypothesis import strategies as st

from broker.facts.deadlines import VOID_MIN, Deadlines

ALL = 1_000


def test_the_earliest_is_due_first_and_once():
    deadlines = Deadlines()
    deadlines.set("late", 2.0)
    deadlines.set("early", 1.0)

    assert deadlines.due_at == 1.0
    assert deadlines.take(0.9, at_most=ALL) == []
    assert deadlines.take(3.0, at_most=ALL) == ["early", "late"]
    assert deadlines.take(3.0, at_most=ALL) == []
    assert deadlines.due_at == inf


def test_what_is_set_again_is_due_at_the_new_time_only():
    deadlines = Deadlines()
    deadlines.set("one", 1.0)
    deadlines.set("one", 5.0)

    assert deadlines.take(2.0, at_most=ALL) == []
    assert deadlines.take(5.0, at_most=ALL) == ["one"]


def test_what_was_discarded_is_never_due_and_takes_no_memory_for_long():
    deadlines = Deadlines()
    deadlines.set("kept", 1e9)
    for number in range(10_000):
        deadlines.set(number, 1e6)
        deadlines.discard(number)
        deadlines.check()

    assert len(deadlines._heap) <= VOID_MIN + 3
    assert deadlines.take(1e9, at_most=ALL) == ["kept"]


def test_what_is_left_over_stays_due():
    deadlines = Deadlines()
    for number in range(5):
        deadlines.set(number, 1.0)

    assert deadlines.take(1.0, at_most=2) == [0, 1]
    assert deadlines.due_at == 1.0
    assert deadlines.take(1.0, at_most=ALL) == [2, 3, 4]


def test_two_that_become_due_at_one_time_keep_the_order_in_which_they_were_set():
    deadlines = Deadlines()
    deadlines.set("first", nextafter(1.0, 2.0))
    deadlines.set("second", 1.0)

    deadlines.postpone(4.0)

    deadlines.check()
    assert deadlines.take(5.0, at_most=ALL) == ["first", "second"]


THINGS = st.integers(0, 5)
STEPS = st.one_of(
    st.tuples(st.just("set"), THINGS, st.integers(0, 20)),
    st.tuples(st.just("discard"), THINGS),
    st.tuples(st.just("take"), st.integers(0, 20), st.integers(1, 4)),
    st.tuples(st.just("postpone"), st.integers(1, 5)),
    st.tuples(st.just("renew"), st.integers(0, 20)),
)


@given(st.lists(STEPS, max_size=60))
def test_it_does_as_a_slow_list_does(steps):
    deadlines, model = Deadlines(), []
    for step in steps:
        match step:
            case "set", thing, at:
                deadlines.set(thing, float(at))
                model = [entry for entry in model if entry[1] != thing] + [(float(at), thing)]
            case "discard", thing:
                deadlines.discard(thing)
                model = [entry for entry in model if entry[1] != thing]
            case "take", now, at_most:
                due = [e for e in sorted(model, key=lambda entry: entry[0]) if e[0] <= now]
                expected = [thing for _, thing in due[:at_most]]
                assert deadlines.take(float(now), at_most=at_most) == expected
                model = [entry for entry in model if entry[1] not in expected]
            case "postpone", by_s:
                deadlines.postpone(float(by_s))
                model = [(at + by_s, thing) for at, thing in model]
            case "renew", at:
                deadlines.renew(lambda thing, at=at: float(abs(at - 3 * thing)))
                model = [(float(abs(at - 3 * thing)), thing) for _, thing in model]
        deadlines.check()
        assert len(deadlines.things) == len(model)
        assert deadlines.due_at <= min((at for at, _ in model), default=inf)
