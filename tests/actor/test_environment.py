"""What is loaded here, whichever of two threads comes first."""

import threading

import cloudpickle

from actor.running.environment import Environments
from actor.running.threads import EventLoopThread
from wire.parts import Environment

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
