"""What is known of the futures that a `wait` left over, so that the next one need not look at all.

`while pending: done, pending = wait(pending)` would otherwise look at each future once for each
other one. The rule that must not be broken: what is known is used only for a list that still holds
the same futures in the same order.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from operator import index
from typing import TYPE_CHECKING, Any, Final

from wire.texts import brief

if TYPE_CHECKING:
    from sdk.futures.future import TaskFuture
    from sdk.loop import Loop

# Below this it costs less to look.
MANY: Final = 64


class Remaining(list["TaskFuture"]):
    """The futures that are not returned as done: a list as any other."""

    __slots__ = ("is_plain", "known")

    def __init__(self, futures: "list[TaskFuture]", *, is_plain: bool) -> None:
        """Begin with nothing known; with *is_plain* it stays so."""
        super().__init__(futures)
        self.known: Known | None = None
        self.is_plain = is_plain

    def __reduce__(self) -> tuple[Any, ...]:
        """Be copied as a list."""
        return list, (), None, iter(self)


class Known:
    """Which of the futures of a list are done: they say so themselves."""

    __slots__ = ("_done", "_fresh", "_left", "_places", "loop", "order")

    def __init__(self, futures: "list[TaskFuture]", loop: "Loop") -> None:
        """Watch *futures*, of which none is there twice and all are of one *loop*."""
        self.loop = loop
        self.order = list(futures)
        # Where each stood at first that was not seen done, and all that are left. No future that is
        # taken is kept here: its result may be large.
        self._places = {future: place for place, future in enumerate(futures)}
        self._left = list(range(len(futures)))
        self._fresh: deque[TaskFuture] = deque()
        # The places of those that are done, the first one first.
        self._done: list[int] = []
        for future in futures:
            future.add_done_callback(self._fresh.append)  # type: ignore[arg-type]

    def has(self, wanted: int) -> Callable[[], bool]:
        """Return what tells whether *wanted* are done."""
        fresh, done = self._fresh, self._done
        return lambda: len(fresh) + len(done) >= wanted

    def take(self, wanted: int) -> "list[TaskFuture]":
        """Take out the first of those that are done, *wanted* at most."""
        fresh, done = self._fresh, self._done
        while fresh:
            heappush(done, self._places.pop(fresh.popleft()))
        taken: list[TaskFuture] = []
        while done and len(taken) < wanted:
            index = bisect_left(self._left, heappop(done))
            del self._left[index]
            taken.append(self.order.pop(index))
        return taken


def known_of(given: Remaining, kind: type["TaskFuture"]) -> Known | None:
    """Return what is known of what an earlier `wait` left over; None where that is nothing.

    *kind* is what each must be. They are watched once at most; a list that its owner changes is
    looked at each time.
    """
    known = given.known
    if known is not None:
        if known.order == given:
            return known
        given.known = None
    if given.is_plain or len(given) < MANY:
        return None
    given.is_plain = True
    if {*map(type, given)} != {kind}:
        return None
    futures = list(given)
    loops = {future.connection.loop for future in futures}
    is_nested = any(future.connection.is_nested for future in futures)
    if len(loops) > 1 or is_nested or len(set(futures)) < len(futures):
        return None
    given.known = Known(futures, loops.pop())
    return given.known


def read_count(count: Any, given: int) -> int:
    """Return how many of the *given* are waited for: a whole number of any kind, as of numpy."""
    is_whole = hasattr(type(count), "__index__") and type(count) is not bool
    if not is_whole or not 0 < count <= max(1, given):
        raise ValueError(f"num_returns={brief(count)} must be from 1 to {given}")
    return index(count)
