"""What is due at a time of its own: a heap that lets go of what is discarded.

What must not be broken: a thing stands here at most once, and what was discarded is never due. Who
has no such time does not come here, so tasks without one pay nothing.
"""

from collections.abc import Callable, Hashable
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import Final, Generic, TypeVar

# From here on entries that are void are taken out once they are the greater part.
VOID_MIN: Final = 64

T = TypeVar("T", bound=Hashable)


class Deadlines(Generic[T]):
    """Things with a time each, the earliest first; those of one time in the order of `set`."""

    __slots__ = ("_heap", "_serial", "due_at", "things")

    def __init__(self) -> None:
        """Begin with nothing due, ever."""
        self._heap: list[tuple[float, int, T]] = []
        self._serial = count()
        # The valid entry of each thing that has a time; every other one in the heap is void.
        self.things: dict[T, int] = {}
        # No later than the earliest; earlier where that was discarded.
        self.due_at = inf

    def set(self, thing: T, at: float) -> None:
        """Let *thing* be due at *at*, and at no other time."""
        serial = self.things[thing] = next(self._serial)
        heappush(self._heap, (at, serial, thing))
        if len(self._heap) > VOID_MIN + 2 * len(self.things):
            self._heap = [entry for entry in self._heap if self.things.get(entry[2]) == entry[1]]
            heapify(self._heap)
        self.due_at = self._heap[0][0]

    def discard(self, thing: T) -> None:
        """Let *thing* be due no more, if it was to be."""
        if self.things.pop(thing, None) is not None and not self.things:
            self._heap.clear()
            self.due_at = inf

    def take(self, now: float, *, at_most: int) -> list[T]:
        """Return and forget what is due, the earliest first; what is left over stays due."""
        taken: list[T] = []
        heap = self._heap
        while heap and heap[0][0] <= now and len(taken) < at_most:
            _, serial, thing = heappop(heap)
            if self.things.get(thing) == serial:
                del self.things[thing]
                taken.append(thing)
        self.due_at = heap[0][0] if heap else inf
        return taken

    def postpone(self, by_s: float) -> None:
        """Let everything be due *by_s* later."""
        self._heap = [(at + by_s, serial, thing) for at, serial, thing in self._heap]
        # Two next to each other may be one by now, of which the one set first comes first.
        heapify(self._heap)
        self.due_at += by_s

    def renew(self, due: Callable[[T], float]) -> None:
        """Let everything be due when *due* says of it."""
        self._heap = [(due(thing), serial, thing) for thing, serial in self.things.items()]
        heapify(self._heap)
        self.due_at = self._heap[0][0] if self._heap else inf

    def check(self) -> None:
        """Assert that every thing has one valid entry, and that none is overlooked."""
        valid = [entry for entry in self._heap if self.things.get(entry[2]) == entry[1]]
        assert len(valid) == len(self.things)
        assert self.due_at == (self._heap[0][0] if self._heap else inf)
        assert all(self._heap[(i - 1) // 2] <= e for i, e in enumerate(self._heap) if i)
