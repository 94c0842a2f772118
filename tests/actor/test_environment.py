"""What is loaded here, whichever of two threads comes first."""

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
