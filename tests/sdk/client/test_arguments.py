"""Futures as arguments of other calls, and what has to be known before a call can go."""

import threading

import pytest

from sdk import Client, SerializationError, TaskCanceled
from tests.sdk.client.acting import TIMEOUT_S, Pair, identity, taking
from tests.sdk.fakes import ScriptedBroker
from wire.messages import Accepted, Query

pytestmark = pytest.mark.process


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
