"""Who reads what comes for a client, and who is woken."""

import concurrent.futures
import contextlib
import sys
import threading
import time

import pytest

import sdk.connection
import sdk.loop
from sdk import Client, TaskCanceled, gather
from tests.sdk.client.acting import TIMEOUT_S, act, identity, later
from tests.sdk.fakes import ScriptedBroker
from wire.messages import Result
from wire.parts import Status
from wire.payload import dump

pytestmark = pytest.mark.process


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
