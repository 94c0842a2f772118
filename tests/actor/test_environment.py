"""What is loaded here, whichever of two threads comes first."""

import asyncio
import queue
import threading

import cloudpickle
import pytest

from actor.running.environment import Environments
from actor.running.threads import EventLoopThread
from tests.support.deployment import DEADLINE_S
from wire.parts import Environment, Reuse

LOG: list[str] = []


class Place:
    def enter(self, name):
        self.name = name
        LOG.append(f"enter {name}")

    def exit(self):
        LOG.append(f"exit {self.name}")


def load(environments, name):
    blob = cloudpickle.dumps((Place, {"name": name}))
    return environments.load(Environment(name, name, b"b"), blob)


def test_a_copy_that_is_loaded_again_is_not_left_by_who_was_to_evict_the_former_one():
    environments = Environments(EventLoopThread("unused"))
    load(environments, "one")
    load(environments, "three")
    LOG.clear()
    # Ordered first: "one" makes room for "two"; then "three" for "one". The second is faster.
    environments.evict(["three"])
    again = load(environments, "one")
    environments.evict(["one"])
    load(environments, "two")
    assert environments.find("one") is again
    assert LOG == ["exit three", "exit one", "enter one", "enter two"]
    environments.evict(["one"])
    assert environments.find("one") is None


def test_who_loads_waits_for_one_that_leaves_and_whose_thread_has_not_begun(monkeypatch):
    # It was joined before it was started: a run could not enter its environment again.
    environments = Environments(EventLoopThread("unused"))
    load(environments, "one")
    LOG.clear()

    class Slow(threading.Thread):
        """A thread that begins when somebody else had the time to load."""

        def start(self):
            monkeypatch.undo()
            loader.start()
            loader.join(0.2)
            super().start()

    loader = threading.Thread(target=load, args=(environments, "one"), daemon=True)
    monkeypatch.setattr(threading, "Thread", Slow)
    environments.leave(["one"])
    loader.join(20)

    assert LOG == ["exit one", "enter one"]
    assert environments.find("one") is not None


goes_on = threading.Event()


@pytest.fixture(autouse=True)
def _nothing_stays():
    goes_on.clear()
    yield
    goes_on.set()


class Blocks:
    async def exit(self):
        goes_on.wait(DEADLINE_S)


class Waits:
    async def exit(self):
        await asyncio.to_thread(goes_on.wait, DEADLINE_S)


def leaves(kind, monkeypatch):
    """Leave an environment whose `exit` takes too long, and return who hears what of it."""
    monkeypatch.setattr("actor.running.environment.HELD_UP_S", 0.05)
    environments = Environments(EventLoopThread("left"))
    heard = queue.Queue()
    environments.tell_held_up = lambda name, is_held: heard.put((name, is_held))
    blob = cloudpickle.dumps((kind, {}))
    reuse = Reuse(exit_timeout_s=0.05)
    environments.load(Environment("e", "E", b"b", {}, 1, reuse), blob)
    environments.evict(["e"])
    return heard


def test_an_exit_that_holds_up_the_event_loop_is_told_until_it_lets_go(monkeypatch):
    """Nothing async ever went on in that process."""
    heard = leaves(Blocks, monkeypatch)

    assert heard.get(timeout=DEADLINE_S) == ("E", True)
    assert heard.empty()
    goes_on.set()

    assert heard.get(timeout=DEADLINE_S) == ("E", False)


def test_an_exit_that_only_waits_for_too_long_holds_up_nothing(monkeypatch):
    assert leaves(Waits, monkeypatch).empty()
