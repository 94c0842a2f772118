"""One call of a client on a real socket: what goes, what comes back, and how it is canceled."""

import asyncio
import concurrent.futures
import gc
import threading
from contextlib import contextmanager

import numpy as np
import pytest

from sdk import Infeasible, SerializationError, TaskCanceled, TaskFailed, WarmslotError
from sdk.futures import ids
from sdk.futures.future import TaskFuture
from tests.sdk.client.acting import TIMEOUT_S, identity, taking

pytestmark = pytest.mark.process


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


def test_a_future_is_a_future(client):
    future = client.submit(identity, 1)

    assert isinstance(future, concurrent.futures.Future)
    assert isinstance(future, TaskFuture)
    assert future.result(TIMEOUT_S) == 1


def test_who_asks_for_an_id_of_its_own_gets_the_future_that_is_done(client):
    """The broker has let it go by then: it said that it does not know the task."""
    future = client.submit(identity, 1)
    task_id = future.task_id
    future.result(TIMEOUT_S)

    assert client.get_future(task_id) is future


@contextmanager
def little_to_collect():
    """Let the collector look at nothing that is there already: all that pytest holds."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def test_ids_of_futures_that_are_gone_are_not_kept(client, monkeypatch):
    monkeypatch.setattr(ids, "TOLD_MIN", 2)
    told = client._connection.told = ids.ToldIds()
    held = client.submit(identity, 0)
    name = held.task_id

    with little_to_collect():
        for number in range(50):
            future = client.submit(identity, number)
            assert future.task_id
            future.result(TIMEOUT_S)
            del future
            gc.collect()

    assert len(told._futures) <= 2 + 2 * 2
    assert client.get_future(name) is held
