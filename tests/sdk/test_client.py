"""A client on a real socket: who reads, who is woken, what is told, and how it ends."""

import asyncio
import concurrent.futures
import contextlib
import copy
import os
import pathlib
import pickle
import subprocess
import sys
import textwrap
import threading
import time
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

import sdk.connection
import sdk.loop
from sdk import (
    AsyncClient,
    BrokerUnreachable,
    Client,
    ClientClosed,
    Infeasible,
    SerializationError,
    TaskCanceled,
    TaskFailed,
    WarmslotError,
    as_completed,
    gather,
    wait,
)
from sdk.futures.awaiting import on_loop
from sdk.futures.future import TaskFuture
from sdk.reading.gathering import CALLS_MAX
from tests.sdk.fakes import ScriptedBroker
from tests.support.deployment import DEADLINE_S, wait_until
from wire.codec import encode_failure
from wire.errors import Code
from wire.exceptions import dump_exception
from wire.messages import Accepted, Query, Result
from wire.parts import Failure, Status
from wire.payload import dump

pytestmark = pytest.mark.process

TIMEOUT_S = DEADLINE_S
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(pathlib.Path(sdk.connection.__file__).parents[1])}


class Pair(NamedTuple):
    one: object
    two: object


def identity(value=None):
    return value


def taking(*values, x=None, lock=None, last=None):
    return values, x, lock, last


def later(call, args, kwargs):
    return None


def act(call, args, kwargs):
    """Do what the first argument says."""
    match args if args and isinstance(args[0], str) else ():
        case ("later", *_):
            return None
        case ("raise", error):
            return Result(0, Status.FAILURE, encode_failure(dump_exception(error)))
        case ("fail", code):
            return Result(0, Status.FAILURE, encode_failure(Failure(code, "", "because")))
        case ("cancel",):
            return Result(0, Status.CANCELED, encode_failure(Failure(Code.CANCELED, "", "admin")))
        case ("args", *_):
            return ((args[1:], kwargs),)
    return (args[0] if args else None,)


@pytest.fixture
def broker():
    with ScriptedBroker(act) as broker:
        yield broker


@pytest.fixture
def client(broker):
    with Client(broker.endpoint, connect_timeout=TIMEOUT_S) as client:
        yield client


# --- one call


def test_a_result_comes_back(client):
    future = client.submit(identity, 5)

    assert future.result(TIMEOUT_S) == 5
    assert (future.actor, future.attempt) == ("fake/0", 1)
    assert future.task_id.endswith("-1")
    assert future.done()
    assert future.status() == "ended"


def test_keywords_go_to_the_function_and_options_do_not(client):
    plain = client.submit(taking, "args", 1, x=2, desired_labels={"a": 1})
    spelled = client.options(priority=1).submit(identity, "args", priority=3)

    assert plain.result(TIMEOUT_S) == ((1,), {"x": 2})
    assert spelled.result(TIMEOUT_S) == ((), {"priority": 3})


def test_a_keyword_that_could_be_both_names_the_way_out(client):
    def work(priority):
        return priority

    with pytest.raises(TypeError, match=r"client\.options\(priority=\.\.\.\)"):
        client.submit(work, priority=1)


def test_equal_options_share_a_template_and_unequal_ones_do_not(client, broker):
    for label in (1, 1, True, 1.0, 1):
        client.submit(identity, 0, desired_labels={"a": label}).result(TIMEOUT_S)

    [end] = broker.ends.values()
    assert [s.template for s in end.submits] == [0, 0, 1, 2, 0]


def test_large_arrays_travel_both_ways(client):
    array = np.arange(10**6)

    back = client.submit(identity, array).result(TIMEOUT_S)
    back[0] = 7

    assert (back[1:] == array[1:]).all()
    assert array[0] == 0


def test_the_users_exception_is_raised_with_its_remote_traceback(client):
    future = client.submit(identity, "raise", KeyError("k"))

    with pytest.raises(KeyError, match="k") as caught:
        future.result(TIMEOUT_S)
    assert "KeyError: 'k'" in str(caught.value.__cause__)
    assert isinstance(future.exception(), KeyError)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
def test_what_would_end_the_caller_is_a_failed_task(client, error):
    future = client.submit(identity, "raise", error)

    with pytest.raises(TaskFailed, match=type(error).__name__):
        future.result(TIMEOUT_S)


def test_an_error_of_the_broker_is_one_of_the_tree(client):
    with pytest.raises(Infeasible, match="because"):
        client.submit(identity, "fail", "infeasible").result(TIMEOUT_S)
    with pytest.raises(WarmslotError, match="brand-new: because"):
        client.submit(identity, "fail", "brand-new").result(TIMEOUT_S)


def test_the_argument_that_cannot_be_sent_is_named(client):
    with pytest.raises(SerializationError, match=r"taking\(\): argument 'lock'\['a'\]: .*lock"):
        client.submit(taking, 1, lock={"a": threading.Lock()})


def test_the_wait_for_a_result_has_a_limit_and_the_task_goes_on(client, broker):
    future = client.submit(identity, "later")

    with pytest.raises(TimeoutError, match="goes on"):
        future.result(0.01)
    broker.give(3)

    assert future.result(TIMEOUT_S) == 3


def test_a_result_that_cannot_be_read_says_so(client):
    class Unreadable:
        def __reduce__(self):
            return int, ("not a number",)

    future = client.submit(identity, Unreadable)
    future.result(TIMEOUT_S)
    broken = client.submit(identity, "raise", ValueError("x"))
    assert isinstance(broken.exception(TIMEOUT_S), ValueError)


# --- who reads


def test_whoever_waits_reads(client):
    readers = set()
    for _ in range(50):
        future = client.submit(identity, 1)
        future.add_done_callback(lambda _: readers.add(threading.current_thread()))
        future.result(TIMEOUT_S)

    assert threading.main_thread() in readers


def test_a_callback_comes_without_anybody_waiting(client):
    done = threading.Event()
    client.submit(identity, 1).result(TIMEOUT_S)

    client.submit(identity, 1).add_done_callback(lambda _: done.set())

    assert done.wait(TIMEOUT_S)


def test_a_callback_may_wait_for_another_task(client):
    inner = []
    done = threading.Event()

    def chain(future):
        inner.append(client.submit(identity, future.result() + 1).result(TIMEOUT_S))
        done.set()

    client.submit(identity, 1).add_done_callback(chain)
    assert done.wait(TIMEOUT_S)
    done.clear()
    outer = client.submit(identity, 2)
    outer.add_done_callback(chain)
    outer.result(TIMEOUT_S)

    assert done.wait(TIMEOUT_S)
    assert inner == [2, 3]


def test_many_threads_wait_each_for_its_own(client):
    results = {}

    def work(number):
        for turn in range(20):
            value = (number, turn)
            results[value] = client.submit(identity, value).result(TIMEOUT_S) == value

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(results) == 160
    assert all(results.values())


def test_one_thread_waits_for_what_another_thread_waits_longer_for(client, broker):
    slow, quick = client.submit(identity, "later"), client.submit(identity, "later")
    waiting = threading.Thread(target=slow.result, args=(TIMEOUT_S,))
    waiting.start()
    first, second = broker.left.get(timeout=TIMEOUT_S), broker.left.get(timeout=TIMEOUT_S)

    broker.give("quick", second)
    assert quick.result(TIMEOUT_S) == "quick"
    broker.give("slow", first)
    waiting.join(TIMEOUT_S)

    assert slow.result(0) == "slow"


def test_the_standard_library_can_wait(client):
    futures = [client.submit(identity, n) for n in range(5)]

    done, _ = concurrent.futures.wait(futures, TIMEOUT_S)
    ordered = list(concurrent.futures.as_completed(futures, TIMEOUT_S))

    assert done == set(futures) == set(ordered)


# --- many


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


# --- futures as arguments


def test_a_future_is_replaced_by_its_result_at_any_depth(client):
    one, two = client.submit(identity, 1), client.submit(identity, 2)

    future = client.submit(taking, "args", [one, {"k": (two, 3)}], Pair(one, "x"), last=two)

    assert future.result(TIMEOUT_S) == (([1, {"k": (2, 3)}], Pair(1, "x")), {"last": 2})


def test_a_future_that_is_not_done_is_waited_for_without_a_thread(client, broker):
    first = client.submit(identity, "later")
    threads = threading.active_count()

    chain = [client.submit(identity, [first])]
    for _ in range(20):
        chain.append(client.submit(identity, chain[-1]))

    assert threading.active_count() == threads
    assert chain[-1].task_id == ""
    assert chain[-1].status() == "waiting"
    assert client.explain(chain[-1])["state"] == "waiting"
    broker.give("end")
    assert chain[-1].result(TIMEOUT_S) == ["end"]


def test_a_failed_argument_fails_what_needs_it(client):
    failed = client.submit(identity, "raise", OSError("first"))

    with pytest.raises(OSError, match="first"):
        client.submit(identity, [failed]).result(TIMEOUT_S)


def test_a_canceled_argument_cancels_what_needs_it(client):
    first = client.submit(identity, "later")
    second = client.submit(identity, first)

    first.cancel()

    assert second.cancelled()
    with pytest.raises(TaskCanceled, match="argument"):
        second.result(0)


def test_what_waits_for_arguments_can_be_canceled(client, broker):
    first = client.submit(identity, "later")
    second = client.submit(identity, first)

    assert second.cancel()
    broker.give(1)

    assert first.result(TIMEOUT_S) == 1
    assert second.cancelled()
    [end] = broker.ends.values()
    assert len(end.submits) == 1


def test_a_future_elsewhere_cannot_be_sent(client):
    class Box:
        def __init__(self, inside):
            self.inside = inside

    with pytest.raises(SerializationError, match=r"argument 0.*TaskFuture"):
        client.submit(identity, Box(client.submit(identity, 1)))


def test_a_result_that_cannot_be_sent_on_fails_the_call(client):
    lock = client.submit(identity, "later")
    future = client.submit(identity, [lock])

    lock.connection.give_up(lock, force=False)
    lock.set_result(threading.Lock())

    with pytest.raises(SerializationError, match=r"argument 0\[0\]"):
        future.result(TIMEOUT_S)


def test_a_flush_does_not_let_the_broker_count_every_task(client, broker):
    future = client.submit(identity, "later")

    assert client.flush(TIMEOUT_S)
    assert future.accepted(TIMEOUT_S)

    [end] = broker.ends.values()
    asked = [(heard.what, heard.argument) for heard in end.heard if isinstance(heard, Query)]
    assert set(asked) == {("explain", "0")}


def test_a_durable_call_is_accepted_without_a_question():
    broker = ScriptedBroker(lambda *_: Accepted([]))
    with broker, Client(broker.endpoint) as client:
        assert client.submit(identity, 1, durable=True).accepted(TIMEOUT_S)

        [end] = broker.ends.values()
        assert not any(isinstance(heard, Query) for heard in end.heard)


# --- cancel


def test_cancel_settles_at_once_and_tells_the_broker(client, broker):
    future = client.submit(identity, "later")
    task = broker.left.get(timeout=TIMEOUT_S)

    assert future.cancel(force=True)
    client.flush(TIMEOUT_S)

    [end] = broker.ends.values()
    assert [(c.tasks, c.force) for c in end.cancels] == [([task], True)]
    assert future.cancelled()
    assert future.cancel()
    with pytest.raises(TaskCanceled, match="identity"):
        future.result(0)
    with pytest.raises(concurrent.futures.CancelledError):
        future.exception(0)


def test_a_task_that_is_done_cannot_be_canceled(client):
    future = client.submit(identity, 1)
    future.result(TIMEOUT_S)

    assert not future.cancel()
    assert not future.cancelled()


def test_a_cancel_of_the_broker_is_one_here(client):
    future = client.submit(identity, "cancel")

    with pytest.raises(TaskCanceled, match="admin"):
        future.result(TIMEOUT_S)
    assert future.cancelled()


def test_a_wait_that_is_over_says_what_it_waited_for(client):
    argument = client.submit(identity, "later")
    future = client.submit(identity, argument)

    with pytest.raises(TimeoutError, match=r"'identity' which waits for its arguments has no"):
        future.result(0)
    with pytest.raises(TimeoutError, match=r"-1 has no outcome after 0\.00123457 s; it goes on"):
        argument.result(0.001234567)


# --- asyncio


def test_asyncio_wait_takes_futures_as_they_are(client):
    async def run():
        futures = [client.submit(identity, n) for n in range(3)]
        done, pending = await asyncio.wait(futures, timeout=TIMEOUT_S)
        assert done == set(futures)
        assert not pending
        late = client.submit(identity, 3)
        assert await late == 3
        assert await asyncio.wait([late]) == ({late}, set())
        assert futures[0].remove_done_callback(print) == 0
        return [future.result(0) for future in futures]

    assert asyncio.run(run()) == [0, 1, 2]


def test_asyncio_wait_in_a_task_is_refused_since_it_would_keep_the_slot():
    future = SimpleNamespace(connection=SimpleNamespace(is_nested=True))

    with pytest.raises(TypeError, match="ensure_future"):
        on_loop(future, print)


def test_asyncio_wait_lets_go_of_futures_that_it_gave_up(client):
    async def run():
        future = client.submit(identity, "later")
        done, pending = await asyncio.wait([future], timeout=0)
        assert (done, pending) == (set(), {future})
        assert not future._callbacks_made
        assert future.cancel()

    asyncio.run(run())


def test_a_future_can_be_awaited(broker):
    async def work():
        async with AsyncClient(broker.endpoint, connect_timeout=TIMEOUT_S) as client:
            one = await client.submit(identity, 1)
            rest = await asyncio.gather(*client.map(identity, range(3)))
            with pytest.raises(OSError, match="x"):
                await client.options(priority=1).submit(identity, "raise", OSError("x"))
            with pytest.raises(TaskCanceled):
                await client.submit(identity, "cancel")
            assert await client.flush(TIMEOUT_S)
            return one, rest

    assert asyncio.run(work()) == (1, [0, 1, 2])


def test_canceling_the_wait_cancels_the_task(broker):
    async def work():
        async with AsyncClient(broker.endpoint) as client:
            future = client.submit(identity, "later")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(future, 0.05)
            return future

    assert asyncio.run(work()).cancelled()


def test_an_async_client_has_what_a_client_has():
    inside = {"endpoint", "incarnation", "map_planned", "pause", "submit_planned"}
    missing = {name for name in dir(Client) if name[0] != "_"} - {*dir(AsyncClient)}

    assert missing <= inside


def test_an_async_client_is_entered_first():
    with pytest.raises(RuntimeError, match="async with"):
        AsyncClient().submit(identity)


# --- the broker


def test_without_a_broker_a_limit_raises(tmp_path):
    with pytest.raises(BrokerUnreachable, match=r"no broker answered at ipc:.*within 0\.05 s"):
        Client(f"ipc://{tmp_path}/none", connect_timeout=0.05)


def test_without_a_broker_one_line_says_so_and_the_task_waits(monkeypatch, capfd, tmp_path):
    monkeypatch.setattr(sdk.connection, "PATIENCE_S", 0.1)
    monkeypatch.setattr(sdk.loop, "LOOK_S", 0.02)
    endpoint = f"ipc://{tmp_path}/late"
    # The broker outlives the client, which otherwise might miss it again.
    with contextlib.ExitStack() as brokers, Client(endpoint) as client:
        future = client.submit(identity, 4)
        lines = []
        wait_until(lambda: lines.extend(capfd.readouterr().err.splitlines()) or lines)
        with pytest.raises(TimeoutError):
            future.result(0.3)
        brokers.enter_context(ScriptedBroker(endpoint=endpoint))
        assert future.result(TIMEOUT_S) == 4

    lines += capfd.readouterr().err.splitlines()
    assert sum("broker_unreachable" in line for line in lines) == 1
    assert sum("broker_reached" in line for line in lines) == 1


def test_why_a_task_waits_is_said_once_a_reason(monkeypatch, capfd, client, broker):
    monkeypatch.setattr(sdk.connection, "PATIENCE_S", 0.05)
    monkeypatch.setattr(sdk.loop, "LOOK_S", 0.02)
    broker.answers["explain"] = {"state": "queued", "reason": "no actor is connected"}
    client.map(identity, ["later"] * 5)
    other = client.submit(identity, "later", desired_labels={"a": 1})

    lines = []
    wait_until(lambda: lines.extend(capfd.readouterr().err.splitlines()) or lines)
    # It goes on asking.
    (end,) = broker.ends.values()
    wait_until(lambda: sum(isinstance(one, Query) for one in end.heard) >= 6)
    assert not other.done()

    lines += capfd.readouterr().err.splitlines()
    assert sum("no actor is connected" in line for line in lines) == 1


def test_calls_outlive_their_broker(tmp_path):
    endpoint = f"ipc://{tmp_path}/broker"
    with Client(endpoint) as client:
        with ScriptedBroker(later, endpoint):
            futures = client.map(identity, range(10))
            assert client.flush(TIMEOUT_S)
        with ScriptedBroker(None, endpoint, epoch=5_000) as second:
            assert gather(futures, timeout=TIMEOUT_S) == list(range(10))

            [end] = second.ends.values()
            assert all(submit.again for submit in end.submits)


def test_the_broker_is_asked(client, broker):
    broker.answers["actors"] = {"actors": [{"name": "h/0"}]}
    broker.answers["explain"] = {"state": "queued", "reason": "r", "actors": {}}
    broker.answers["tasks"] = {"error": "makes no sense"}
    future = client.submit(identity, "later")

    assert client.actors() == [{"name": "h/0"}]
    assert client.explain(future)["reason"] == "r"
    assert future.status() == "queued"
    assert future.accepted(TIMEOUT_S)
    with pytest.raises(WarmslotError, match="makes no sense"):
        client.query("tasks")
    with pytest.raises(ValueError, match="dead-forget: its argument has at most 65,536 characters"):
        client.forget_dead(*["0f5c0a9d3c5b7e21-1"] * 5_000)


def test_a_broker_of_another_protocol_ends_the_client(broker, monkeypatch):
    monkeypatch.setattr("tests.sdk.fakes.encode", lambda frame: b"\x96\x02" + b"\x00" * 5)

    with pytest.raises(WarmslotError, match="speaks protocol 2"):
        Client(broker.endpoint, connect_timeout=TIMEOUT_S)


def test_an_endpoint_that_is_none_is_refused():
    with pytest.raises(ValueError, match="'nonsense'"):
        Client("nonsense")


def test_the_endpoint_comes_from_the_environment(broker, monkeypatch):
    monkeypatch.setenv("WARMSLOT_BROKER", broker.endpoint)

    with Client(connect_timeout=TIMEOUT_S) as client:
        assert client.endpoint == broker.endpoint


# --- the end


def test_leaving_cancels_with_one_line(broker, capfd):
    with Client(broker.endpoint) as client:
        futures = client.map(identity, ["later"] * 3)
        waiting = client.submit(identity, futures[0])

    assert all(future.cancelled() for future in [*futures, waiting])
    with pytest.raises(TaskCanceled, match="client was closed"):
        futures[0].result()
    assert capfd.readouterr().err.count("tasks_canceled") == 1
    with pytest.raises(ClientClosed):
        client.submit(identity, 1)
    client.close()


def test_leaving_may_wait(broker):
    client = Client(broker.endpoint)
    futures = client.map(identity, range(10))

    client.close(wait=True)

    assert gather(futures) == list(range(10))


def test_leaving_wakes_whoever_waits(broker):
    client = Client(broker.endpoint)
    future = client.submit(identity, "later")
    broker.left.get(timeout=TIMEOUT_S)
    caught = []
    waiting = threading.Thread(
        target=lambda: caught.append(gather([future], return_exceptions=True, timeout=TIMEOUT_S))
    )
    waiting.start()

    client.close()
    waiting.join(TIMEOUT_S)

    assert not waiting.is_alive()
    assert isinstance(caught[0][0], TaskCanceled)


def test_the_broker_hears_of_the_end(broker):
    client = Client(broker.endpoint, connect_timeout=TIMEOUT_S)
    client.close()

    [end] = broker.ends.values()
    assert type(end.heard[-1]).__name__ == "Bye"


def test_a_client_cannot_be_sent(client):
    with pytest.raises(TypeError, match=r"current_task\(\)\.client"):
        pickle.dumps(client)
    with pytest.raises(SerializationError, match=r"current_task\(\)\.client"):
        client.submit(lambda: client)


def test_nested_calls_carry_the_token_of_their_task(broker):
    for token in ((7, 3), (7, 4)):
        client = Client(broker.endpoint, parent=token)
        assert client.submit(identity, 1).result(TIMEOUT_S) == 1
        client.close()

    [end] = broker.ends.values()
    assert [submit.parent for submit in end.submits] == [(7, 3), (7, 4)]
    sdk.connection._shared.pop(broker.endpoint).close()


def run_script(script, *arguments):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT_S,
        check=False,
        env=ENVIRONMENT,
    )


def test_a_program_ends_that_never_closed_its_client(broker):
    done = run_script(
        """
        import sys
        from sdk import Client
        client = Client(sys.argv[1], connect_timeout=60)
        client.submit(len, "later")
        client.submit(len, "abc").result(60)
        """,
        broker.endpoint,
    )

    assert done.returncode == 0, done.stderr
    [end] = broker.ends.values()
    assert type(end.heard[-1]).__name__ == "Bye"


def test_a_program_ends_that_never_had_a_broker(tmp_path):
    done = run_script(
        """
        import sys
        from sdk import Client
        client = Client(sys.argv[1])
        client.submit(len, "abc")
        """,
        f"ipc://{tmp_path}/none",
    )

    assert done.returncode == 0, done.stderr
    assert done.stderr.count("tasks_canceled") == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_is_told_to_make_its_own(broker):
    done = run_script(
        """
        import os, sys
        from sdk import Client, ClientClosed
        client = Client(sys.argv[1], connect_timeout=60)
        future = client.submit(len, "later")
        if os.fork() == 0:
            for work in (lambda: client.submit(len, "x"), lambda: future.result(1)):
                try:
                    work()
                except ClientClosed as error:
                    print("make a Client of your own" in str(error), flush=True)
            with Client(sys.argv[1], connect_timeout=60) as own:
                print(own.submit(len, "abc").result(60), flush=True)
            sys.exit(0)
        os.wait()
        print(client.submit(len, "abcd").result(60))
        """,
        broker.endpoint,
    )

    assert done.stdout.split() == ["True", "True", "abc", "abcd"], done.stderr


def test_a_future_is_a_future(client):
    future = client.submit(identity, 1)

    assert isinstance(future, concurrent.futures.Future)
    assert isinstance(future, TaskFuture)
    assert future.result(TIMEOUT_S) == 1


@pytest.fixture
def drowsy(monkeypatch):
    """A client that wakes up only when it is woken: not to look, and not for a heartbeat."""
    monkeypatch.setattr(sdk.loop, "LOOK_S", 3_600.0)
    rarely = {"heartbeat_s": 600.0, "suspect_s": 1_200.0, "lease_s": 3_600.0}
    with (
        ScriptedBroker(act, **rarely) as broker,
        Client(broker.endpoint, connect_timeout=TIMEOUT_S) as client,
    ):
        yield client, broker


def test_a_cancel_wakes_the_thread_that_reads(drowsy):
    client, broker = drowsy
    future = client.submit(identity, "later")
    broker.left.get(timeout=TIMEOUT_S)
    caught = []
    waiting = threading.Thread(
        target=lambda: caught.append(gather([future], return_exceptions=True, timeout=TIMEOUT_S))
    )
    waiting.start()

    future.cancel()
    waiting.join(TIMEOUT_S)

    assert not waiting.is_alive()
    assert isinstance(caught[0][0], TaskCanceled)


def test_what_is_left_in_the_socket_is_read_by_the_daemon(drowsy):
    client, _ = drowsy
    done = threading.Event()
    for _ in range(20):
        done.clear()
        first, second = client.submit(identity, 1), client.submit(identity, 2)
        second.add_done_callback(lambda _: done.set())

        assert first.result(TIMEOUT_S) == 1
        assert done.wait(TIMEOUT_S)


def test_who_waits_is_served_while_the_reader_is_held_up_in_a_callback():
    with ScriptedBroker(later) as broker, Client(broker.endpoint) as client:
        first, second = client.submit(identity, 1), client.submit(identity, 2)
        numbers = [broker.left.get(timeout=TIMEOUT_S) for _ in range(2)]
        is_reading, is_held_up, may_go_on = (threading.Event() for _ in range(3))

        def hold_up(_):
            is_held_up.set()
            may_go_on.wait(TIMEOUT_S)

        first.add_done_callback(hold_up)

        def read():
            first.connection.loop.wait(lambda: is_reading.set() or first.done(), TIMEOUT_S)

        reader = threading.Thread(target=read)
        reader.start()
        assert is_reading.wait(TIMEOUT_S)
        broker.give(1, task=numbers[0])
        assert is_held_up.wait(TIMEOUT_S)
        # As each thread does now and then that waits for the reader.
        second.connection.loop.settle()
        broker.give(2, task=numbers[1])
        try:
            assert second.result(TIMEOUT_S / 2) == 2
        finally:
            may_go_on.set()
            reader.join(TIMEOUT_S)


def test_an_outcome_outlives_ctrl_c_while_it_is_read(monkeypatch):
    interrupts = [KeyboardInterrupt()]
    load = sdk.connection.load

    def load_or_interrupt(*arguments):
        if threading.current_thread() is threading.main_thread() and interrupts:
            raise interrupts.pop()
        return load(*arguments)

    monkeypatch.setattr(sdk.connection, "load", load_or_interrupt)
    with ScriptedBroker(later) as broker, Client(broker.endpoint) as client:
        future = client.submit(identity)
        loop = future.connection.loop
        body, frames = dump(3)
        loop._unsettled.append((future.number, Result(future.number, Status.RESULT, body), frames))
        with contextlib.suppress(KeyboardInterrupt):
            loop.settle()
        assert future.result(TIMEOUT_S) == 3
        # Too few would let others wait on; one too many lets them look once more.
        assert loop.settled in (1, 2)


def test_calls_may_be_submitted_while_the_client_looks_for_those_that_wait():
    """It ended the client's thread, which looked through the calls while another added one."""
    before = sys.getswitchinterval()
    with ScriptedBroker(later) as broker, Client(broker.endpoint) as client:
        client.submit(identity).accepted(TIMEOUT_S)
        connection = client._connection

        def submit_and_cancel():
            for number in range(3_000):
                client.submit(identity, number).cancel()

        thread = threading.Thread(target=submit_and_cancel)
        sys.setswitchinterval(1e-6)
        try:
            thread.start()
            while thread.is_alive():
                connection.look(time.monotonic())
        finally:
            sys.setswitchinterval(before)
            thread.join()
