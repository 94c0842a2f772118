"""Many calls of a client: `map`, `wait`, `as_completed`, `gather`, and the executor."""

import asyncio
import concurrent.futures
import copy

import pytest

from sdk import Client, TaskCanceled, as_completed, gather, wait
from sdk.reading.gathering import CALLS_MAX
from tests.sdk.client.acting import TIMEOUT_S, identity

pytestmark = pytest.mark.process


def test_map_pairs_iterables_and_keeps_order(client):
    futures = client.map(identity, ["args"] * 5, range(5), batch=2, priority=1)

    assert gather(futures) == [((n,), {}) for n in range(5)]


def test_map_sends_few_messages(client, broker):
    gather(client.map(identity, range(1_000)))

    [end] = broker.ends.values()
    assert end.received < 20


def test_calls_that_are_submitted_one_by_one_share_messages(client, broker, monkeypatch):
    # No clock decides: what is submitted within a minute of a message may wait for the next.
    monkeypatch.setattr("sdk.reading.gathering.GATHER_S", 60.0)
    client.submit(identity, 0).result(TIMEOUT_S)
    [end] = broker.ends.values()
    before = end.received

    assert gather([client.submit(identity, n) for n in range(1_000)]) == list(range(1_000))

    assert end.received - before < 1_000 / CALLS_MAX + 100


def test_who_waits_for_each_call_alone_has_the_next_one_leave_at_once(client, broker, monkeypatch):
    monkeypatch.setattr("sdk.reading.gathering.GATHER_S", 60.0)
    client.submit(identity, 0).result(TIMEOUT_S)

    for n in range(3):
        future = client.submit(identity, n)
        assert not client._connection.loop.gathering.is_open
        assert future.result(TIMEOUT_S) == n

    client.submit(identity, 3)
    client.submit(identity, 4)
    assert client._connection.loop.gathering.is_open


def test_calls_that_wait_for_company_leave_although_nobody_waits_for_them(client, broker):
    futures = [client.submit(identity, "later") for _ in range(10)]

    assert {broker.left.get(timeout=TIMEOUT_S) for _ in futures} == set(range(1, 11))


def test_a_call_that_waits_for_company_leaves_when_an_event_loop_awaits_it(client, monkeypatch):
    client.submit(identity, 0).result(TIMEOUT_S)
    monkeypatch.setattr("sdk.reading.gathering.GATHER_S", 60.0)
    sent = [client.submit(identity, n) for n in range(3)]

    async def last():
        return await asyncio.wait_for(sent[-1], TIMEOUT_S)

    assert asyncio.run(last()) == 2


@pytest.mark.parametrize(("iterables", "options"), [((), {}), (([1],), {"batch": 0})])
def test_map_refuses_what_makes_no_sense(client, iterables, options):
    with pytest.raises((TypeError, ValueError)):
        client.map(identity, *iterables, **options)


def test_a_future_shows_which_task_it_is_and_how_it_stands(client, broker):
    future = client.submit(identity, "later")
    task = broker.left.get(timeout=TIMEOUT_S)

    assert repr(future) == f"<TaskFuture 'identity' {future.task_id}, pending>"
    broker.give(1, task)
    future.result(TIMEOUT_S)

    assert repr(future) == f"<TaskFuture 'identity' {future.task_id} on fake/0, finished>"


def test_wait_keeps_the_order_in_both(client, broker):
    futures = [client.submit(identity, "later") for _ in range(4)]
    tasks = [broker.left.get(timeout=TIMEOUT_S) for _ in futures]
    broker.give(3, tasks[3])
    broker.give(1, tasks[1])

    ready, pending = wait(futures, num_returns=2, timeout=TIMEOUT_S)

    assert ready == [futures[1], futures[3]]
    assert pending == [futures[0], futures[2]]


def test_wait_returns_what_is_there_when_the_time_is_over(client):
    futures = [client.submit(identity, 1), client.submit(identity, "later")]

    ready, pending = wait(futures, num_returns=2, timeout=0.2)

    assert (ready, pending) == (futures[:1], futures[1:])


def test_a_thousand_can_be_drained_one_by_one(client):
    pending = client.map(identity, range(1_000))
    seen = []
    while pending:
        [ready], pending = wait(pending, timeout=TIMEOUT_S)
        seen.append(ready.result(0))

    assert sorted(seen) == list(range(1_000))


def test_what_was_left_over_is_watched_and_no_more_looked_at(client, broker):
    futures = [client.submit(identity, "later") for _ in range(70)]
    tasks = [broker.left.get(timeout=TIMEOUT_S) for _ in futures]
    broker.give(0, tasks[0])
    _, pending = wait(futures, timeout=TIMEOUT_S)
    for place in (5, 3, 60):
        broker.give(place, tasks[place])
        futures[place].result(TIMEOUT_S)

    ready, left = wait(pending, num_returns=2, timeout=TIMEOUT_S)
    last, rest = wait(left, timeout=TIMEOUT_S)
    none, same = wait(rest, timeout=0.0)

    assert (ready, last, none) == ([futures[3], futures[5]], [futures[60]], [])
    gone = (futures[0], futures[3], futures[5], futures[60])
    assert rest == same == [future for future in futures if future not in gone]
    assert rest.known is left.known is same.known
    assert isinstance(same, list)
    assert type(copy.copy(same)) is list


def test_a_list_that_its_owner_changes_is_looked_at_each_time(client, broker):
    futures = [client.submit(identity, "later") for _ in range(70)]
    tasks = [broker.left.get(timeout=TIMEOUT_S) for _ in futures]
    pending = futures
    for place in range(4):
        broker.give(place, tasks[place])
        [ready], pending = wait(pending, timeout=TIMEOUT_S)
        assert ready is futures[place]
        pending.append(client.submit(identity, "later"))
        broker.left.get(timeout=TIMEOUT_S)

    assert len(pending) == 70
    assert pending[:66] == futures[4:]
    watchers = futures[69]._callbacks_made or ()
    assert len(watchers) <= 1, "else a window that slides has more of them with each step"


def test_wait_refuses_a_number_that_can_never_be(client):
    with pytest.raises(ValueError, match="num_returns=3"):
        wait([client.submit(identity, 1)], num_returns=3)
    assert wait([]) == ([], [])


@pytest.mark.parametrize("ask", [wait, gather, as_completed], ids=lambda ask: ask.__name__)
@pytest.mark.parametrize(
    "other", [1, concurrent.futures.Future()], ids=["a number", "a future of others"]
)
def test_what_is_no_future_of_a_client_is_named(ask, other):
    with pytest.raises(
        TypeError, match=rf"{ask.__name__}\(\) takes futures that submit\(\) returned"
    ):
        ask([other])


@pytest.mark.parametrize("ask", [wait, gather, as_completed], ids=lambda ask: ask.__name__)
def test_one_future_alone_is_no_list_of_them(client, ask):
    with pytest.raises(TypeError, match=rf"{ask.__name__}\(\) takes a list of futures, got <Task"):
        ask(client.submit(identity, 1))


def test_as_completed_takes_more_while_iterating(client):
    futures = [client.submit(identity, 3)]
    iterator = as_completed(futures, TIMEOUT_S)
    seen = []
    for future in iterator:
        seen.append(future.result())
        if future.result():
            iterator.add(client.submit(identity, future.result() - 1))
        if future.result() == 2:
            futures.append(client.submit(identity, 10))
            break
    seen += [next(iterator).result() for _ in range(2)]

    assert seen[:2] == [3, 2]
    assert sorted(seen[2:]) == [1, 10]


def test_as_completed_has_a_limit(client):
    with pytest.raises(TimeoutError, match="1 tasks"):
        list(as_completed([client.submit(identity, "later")], timeout=0.05))


def test_gather_raises_the_first_error_though_others_still_run(client):
    futures = [client.submit(identity, "later"), client.submit(identity, "raise", OSError("x"))]

    with pytest.raises(OSError, match="x"):
        gather(futures, timeout=TIMEOUT_S)


def test_gather_may_return_exceptions(client):
    futures = [
        client.submit(identity, 1),
        client.submit(identity, "raise", OSError("x")),
        client.submit(identity, "cancel"),
    ]

    one, error, canceled = gather(futures, return_exceptions=True, timeout=TIMEOUT_S)

    assert one == 1
    assert isinstance(error, OSError)
    assert isinstance(canceled, TaskCanceled)
    assert gather([]) == []


def test_futures_of_two_clients_can_be_waited_for(client, broker):
    with Client(broker.endpoint) as other:
        futures = [client.submit(identity, 1), other.submit(identity, 2)]

        assert len(wait(futures, 2, TIMEOUT_S)[0]) == 2
        assert gather(futures) == [1, 2]
        assert len(list(as_completed(futures))) == 2


def test_an_executor_is_one_of_the_standard_library(client):
    with client.executor(priority=2) as executor:
        assert list(executor.map(identity, [1, 2, 3])) == [1, 2, 3]
        assert executor.submit(identity, "args", priority=1).result(TIMEOUT_S) == (
            (),
            {"priority": 1},
        )
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.submit(identity, 1)
