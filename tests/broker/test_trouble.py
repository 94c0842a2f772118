"""How long a failed task waits, and what is remembered of it."""

from math import isfinite

from hypothesis import given
from hypothesis import strategies as st

from broker.facts.trouble import HISTORY_LINE_MAX, HISTORY_MAX, Trouble, chance, delay_s
from wire.parts import Backoff, Call

seconds = st.floats(0.0, 1e9)
backoffs = st.builds(
    lambda first, rest, factor, jitter: Backoff(first, factor, first + rest, jitter),
    seconds,
    seconds,
    st.floats(1.0, 1e6),
    st.floats(0.0, 1.0),
)


def call(backoff):
    return Call("work", retries=1, backoff=backoff)


@given(backoffs, st.integers(1, 2**31), st.integers(0, 2**64 - 1), st.integers(1, 2**40))
def test_a_delay_is_finite_and_never_above_the_longest(backoff, failures, client, task):
    found = delay_s(call(backoff), failures, client, task)

    assert isfinite(found)
    assert 0.0 <= found <= backoff.max_s


@given(backoffs, st.integers(1, 1000), st.integers(0, 2**64 - 1))
def test_no_more_than_the_jitter_is_left_to_chance(backoff, failures, client):
    steady = Backoff(backoff.initial_s, backoff.factor, backoff.max_s, 0.0)
    longest = delay_s(call(steady), failures, client)

    assert delay_s(call(backoff), failures, client) >= longest * (1.0 - backoff.jitter) * 0.999


def test_without_a_back_off_of_its_own_a_call_waits_about_a_second():
    assert all(0.5 <= delay_s(Call("work"), 1, 7, task) <= 1.0 for task in range(100))


def test_tasks_that_failed_together_do_not_come_back_together():
    delays = [delay_s(Call("work"), 1, 7, task) for task in range(1000)]
    tenths = [sum(int((d - 0.5) * 20) == n for d in delays) for n in range(10)]

    assert all(60 <= count <= 140 for count in tenths)


@given(st.lists(st.integers(0, 2**64), min_size=1))
def test_chance_is_a_share_and_always_the_same(numbers):
    assert 0.0 <= chance(*numbers) < 1.0 + 1e-12
    assert chance(*numbers) == chance(*numbers)


@given(st.lists(st.text(max_size=2_000), max_size=50))
def test_the_last_errors_are_remembered_each_cut(lines):
    trouble = Trouble()

    for line in lines:
        trouble.remember(line)

    assert trouble.history == [line[:HISTORY_LINE_MAX] for line in lines][-HISTORY_MAX:]
