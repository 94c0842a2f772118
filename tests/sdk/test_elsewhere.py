"""Who waits for what another thread of the client hears is woken by it, also where nothing ends."""

import threading
import time

import pytest

import sdk.loop
from sdk import Client
from tests.sdk.fakes import ScriptedBroker
from tests.support.deployment import DEADLINE_S, wait_until

ACTORS = {"actors": [{"name": "h/0"}]}


@pytest.fixture
def broker():
    with ScriptedBroker(lambda *_: None) as broker:
        broker.answers["actors"] = ACTORS
        yield broker


@pytest.fixture
def client(broker):
    with Client(broker.endpoint, connect_timeout=DEADLINE_S) as client:
        yield client


class Overtaken:
    """The next sleep of a thread that reads, when another has just read what it is to sleep for."""

    def __init__(self, loop, sleep, is_there):
        self.loop, self.sleep, self.is_there = loop, sleep, is_there
        self.wake = sleep.wake
        self.was_slept = False

    def until(self, _):
        self.was_slept = True
        self.loop._reader_sleep = self.sleep

        def read():
            deadline = time.monotonic() + DEADLINE_S / 2
            while not self.is_there() and time.monotonic() < deadline:
                self.loop._turn(-1, woken=True)
                self.loop.settle()

        other = threading.Thread(target=read)
        other.start()
        other.join(DEADLINE_S)
        assert self.is_there()
        assert self.sleep._both.poll(DEADLINE_S * 1000), "nobody woke who waits"
        return False


def was_overtaken(client, is_there, wait):
    """Let *wait* be overtaken in its sleep; False where it had all it needs before it slept."""
    loop = client._connection.loop
    sleep = loop._reader_sleep
    loop._reader_sleep = overtaken = Overtaken(loop, sleep, is_there)
    wait()
    loop._reader_sleep = sleep
    return overtaken.was_slept


def test_an_answer_that_the_daemon_reads_wakes_who_asked(client):
    def asks():
        assert client.actors(DEADLINE_S) == ACTORS["actors"]

    while not was_overtaken(client, lambda: not client._connection._queries, asks):
        pass


def test_a_confirmation_that_the_daemon_reads_wakes_who_waits_for_it(client):
    core = client._connection.core

    def is_overtaken(future):
        def waits():
            assert future.accepted(DEADLINE_S)

        return was_overtaken(client, lambda: core.is_accepted(future.number), waits)

    # Any frame confirms it, so it may be confirmed before anybody waits for that.
    while not is_overtaken(client.submit(len, "abc")):
        pass


def test_an_answer_that_is_read_by_who_waits_for_a_task_wakes_who_asked(
    client, broker, monkeypatch
):
    monkeypatch.setattr(sdk.loop, "SLEEP_S", DEADLINE_S)
    loop, answers = client._connection.loop, []
    future = client.submit(len, "abc")
    waiting = threading.Thread(target=future.result, args=(DEADLINE_S,))
    waiting.start()
    task = broker.left.get(timeout=DEADLINE_S)
    wait_until(lambda: loop._reader == waiting.ident)

    asking = threading.Thread(target=lambda: answers.append(client.actors(None)))
    asking.start()
    wait_until(lambda: answers, DEADLINE_S / 2)

    broker.give("done", task)
    asking.join()
    waiting.join()


class Awake:
    """The sleep of a thread that reads, where there is nothing to sleep for."""

    def until(self, _):
        raise AssertionError("it sleeps for what is there")

    def wake(self):
        """Nobody sleeps."""


def test_what_is_heard_before_a_thread_may_read_is_not_waited_for(client, monkeypatch):
    loop, asked = client._connection.loop, []
    monkeypatch.setattr(loop, "_reader_sleep", Awake())

    def is_done():
        asked.append(loop._reader)
        # As it was at first: while this is said, another thread reads, and sees nobody to wake.
        return len(asked) > 1

    assert loop.wait(is_done, DEADLINE_S)
    monkeypatch.undo()
    assert asked[0] == 0


def test_who_sleeps_until_another_thread_has_read_is_seen_before_it_asks(client):
    loop, seen = client._connection.loop, []

    loop._sleep(lambda: seen.append(loop._sleepers) or True, None, None)

    assert seen[0] == 1
    assert loop._sleepers == 0
