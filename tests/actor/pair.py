"""A run of which a test is the leader and all threads: it makes each order of events."""

import asyncio

from actor.holding.occupying import AT_SCHEDULING
from actor.running.context import Run
from tests.actor.stage import Stage
from wire.messages import Occupied
from wire.parts import Held

SLOTS = {"slot": 1, "gpu": 2}


class Pair:
    """A run of which the test is all threads; what they post the leader sees when the test says."""

    def __init__(self, fd, *, environment=None, **options):
        self.stage = Stage(fd, slots=SLOTS)
        self.end, self.core = self.stage.end, self.stage.core
        self.token = self.end.assign(self.stage.template(len, environment, **options))
        self.end.carry()
        self.assignment = self.end.started[self.token]
        self.stage.started.add(self.token)
        self.run = Run(self.assignment, 0, self.stage.slots)
        self.run.began = 0.0
        self.events = asyncio.new_event_loop()

    def lead(self):
        """Take what was posted, and tell what is to be told."""
        while not self.stage.posts.empty():
            method, arguments = self.stage.posts.get()
            method(*arguments, self.end.now)
            self.tell()
        self.tell()

    def tell(self):
        self.stage.settle()
        for told in self.core.occupying.take_answers():
            self.stage.slots.occupied(told)

    def grant_limits(self):
        """Let the broker say that the run has again what it took at scheduling."""
        self.end.say(Occupied(*self.token, AT_SCHEDULING))
        self.tell()

    def begin(self, coroutine):
        """Let another thread begin, up to where it waits."""
        task = self.events.create_task(coroutine)
        self.go_on()
        return task

    def go_on(self):
        """Let the coroutines see what they were told."""
        for _ in range(8):
            self.events.run_until_complete(asyncio.sleep(0))

    @property
    def has_limits(self):
        return any(
            held.ask == AT_SCHEDULING and held.has_it
            for held in self.core.occupying.inventory(self.assignment)
        )

    def agree(self):
        """Tell whether the run believes to hold what the core says that it holds."""
        self.core.check()
        held = {kind: n for kind, n in self.run.releases.held.items() if n}
        assert {kind: n for kind, n in self.assignment.slots.items() if n} == held
        assert self.run.has_released == (self.assignment.held is Held.RELEASED)
        assert dict(self.assignment.units) == self.run.releases.units
        return True
