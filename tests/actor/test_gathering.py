"""Which calls are one batch, and when it begins."""

from hypothesis import given
from hypothesis import strategies as st

from actor.running.gathering import Gathering
from sdk.describing.batching import Batch

TWO = {"m": Batch(4, 0.005), "n": Batch(2, 0.005)}


def gathering(concurrency=4, batches=TWO):
    return Gathering(batches, concurrency)


def taken(found, now=0.0):
    return list(found.take(now))


def test_one_call_goes_at_once_where_nothing_runs():
    found = gathering()
    found.add("m", 1)

    assert taken(found) == [("m", [1])]


def test_those_of_one_turn_go_together_up_to_the_size():
    found = gathering()
    for call in range(6):
        found.add("m", call)

    assert taken(found) == [("m", [0, 1, 2, 3])]
    found.ended(0.0, was_full=False)
    assert taken(found) == [("m", [4, 5])]


def test_what_comes_while_one_runs_is_the_next():
    found = gathering()
    found.add("m", 1)
    assert taken(found)
    for call in (2, 3):
        found.add("m", call)
        assert not taken(found)

    assert not found.ended(1.0, was_full=False)

    assert taken(found, 1.0) == [("m", [2, 3])]


def test_it_waits_for_more_only_where_the_replica_was_full():
    found = gathering()
    found.add("m", 1)
    assert taken(found)
    found.add("m", 2)

    assert found.ended(1.0, was_full=True)

    assert not taken(found, 1.004)
    assert taken(found, 1.005) == [("m", [2])]


def test_the_answer_to_the_turns_that_came_free_ends_the_wait():
    found = gathering()
    found.add("m", 1)
    assert taken(found)
    found.add("m", 2)
    assert found.ended(1.0, was_full=True)

    found.add("m", 3)

    assert taken(found, 1.001) == [("m", [2, 3])]


def test_a_full_batch_waits_for_nothing():
    found = gathering()
    found.add("n", 1)
    assert taken(found)
    for call in (2, 3):
        found.add("n", call)

    assert not found.ended(1.0, was_full=True)

    assert taken(found, 1.0) == [("n", [2, 3])]


def test_methods_take_turns():
    found = gathering()
    for call in range(5):
        found.add("m", call)
    found.add("n", 9)
    assert taken(found) == [("m", [0, 1, 2, 3])]
    found.ended(0.0, was_full=False)

    assert taken(found) == [("n", [9])]
    found.ended(0.0, was_full=False)
    assert taken(found) == [("m", [4])]


def test_async_batches_run_beside_one_another():
    found = gathering(concurrency=8)
    for call in range(10):
        found.add("m", call)

    assert [len(calls) for _, calls in taken(found)] == [4, 4]
    assert not taken(found)


@given(st.lists(st.sampled_from(["add", "other", "end", "full", "pass"])))
def test_everybody_is_in_one_batch_and_nobody_is_forgotten(steps):
    found = gathering(concurrency=8)
    running, seen, now, count = [], [], 0.0, 0
    for step in steps:
        if step in ("add", "other"):
            found.add("m" if step == "add" else "n", count)
            count += 1
        elif step == "pass":
            now += 0.003
        elif running:
            running.pop()
            found.ended(now, was_full=step == "full")
        for method, calls in found.take(now):
            assert 1 <= len(calls) <= TWO[method].max_size
            running.append(method)
            seen += calls
        found.check()
    # What waits for more may be as much as runs at once and then some.
    while running or found.queues:
        now += 1.0
        if running:
            running.pop()
            found.ended(now, was_full=False)
        for method, calls in found.take(now):
            running.append(method)
            seen += calls
    assert sorted(seen) == list(range(count))
