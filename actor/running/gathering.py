"""Which calls of batched methods run as one, and when: decided here, run in `batching`.

The rule that must not be broken: a call waits only while its replica runs a batch, or for at most
its *max_wait* where more calls are likely to come.
"""

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from sdk.describing.batching import Batch

if TYPE_CHECKING:
    from actor.running.context import Run

NOT_WAITING: Final = 0.0


class Gathering:
    """The calls of one environment that were given to it and have not started."""

    __slots__ = ("at_once", "batches", "queues", "running", "waits_until")

    def __init__(self, batches: dict[str, Batch], concurrency: int) -> None:
        """Begin with none; *concurrency* is how many turns the environment has."""
        self.batches = batches
        # So many batches run at once; a sync one alone.
        self.at_once = max(1, concurrency // max(batch.max_size for batch in batches.values()))
        self.running = 0
        # Method -> its calls; the method whose first call came first is first.
        self.queues: dict[str, deque[Run]] = {}
        self.waits_until = NOT_WAITING

    def add(self, method: str, run: "Run") -> None:
        """Take one more call. It ends a wait for others: whoever answers sends all at once."""
        self.queues.setdefault(method, deque()).append(run)
        self.waits_until = NOT_WAITING

    def take(self, now: float) -> "Iterator[tuple[str, list[Run]]]":
        """Yield the batches that start now, each with its method."""
        while self.queues and self.running < self.at_once:
            method, queue = next(iter(self.queues.items()))
            size = self.batches[method].max_size
            if len(queue) < size and now < self.waits_until:
                return
            self.waits_until = NOT_WAITING
            runs = [queue.popleft() for _ in range(min(size, len(queue)))]
            del self.queues[method]
            if queue:
                self.queues[method] = queue
            self.running += 1
            yield method, runs

    def ended(self, now: float, *, was_full: bool) -> bool:
        """Note that a batch has ended; tell whether what gathered waits for more.

        It does when the environment had no turn left: then more calls may wait with the broker.
        """
        self.running -= 1
        if not was_full or not self.queues:
            return False
        method, queue = next(iter(self.queues.items()))
        batch = self.batches[method]
        if len(queue) >= batch.max_size or not batch.max_wait_s:
            return False
        self.waits_until = now + batch.max_wait_s
        return True

    def check(self) -> None:
        """Assert that nobody waits who could start."""
        assert 0 <= self.running <= self.at_once
        assert all(self.queues.values())
        assert not self.queues or self.running == self.at_once or self.waits_until
