"""Since when calls wait that do not want to wait for long: those with a schedule timeout.

The broker ends such a call when no actor was found in time. It is told how long the call waited
here; one that no broker was ever sent ends here, since nobody else could.
"""

from heapq import heapify, heappop, heappush
from math import inf
from typing import Final

# From here on entries that are void are taken out once they are the greater part.
VOID_MIN: Final = 64


class Waiting:
    """Each call with a schedule timeout: since when it waits, and when its time is over."""

    __slots__ = ("_heap", "due_at", "since")

    def __init__(self) -> None:
        """Begin with nobody who waits."""
        # Number -> since when it waits, by the clock of this process.
        self.since: dict[int, float] = {}
        self._heap: list[tuple[float, int]] = []
        # When the time of the first call is over that is not known to be at a broker.
        self.due_at = inf

    def begin(self, number: int, timeout_s: float, now: float) -> None:
        """Count the time of a new call."""
        self.since[number] = now
        if len(self._heap) > VOID_MIN + 2 * len(self.since):
            self._heap = [entry for entry in self._heap if entry[1] in self.since]
            heapify(self._heap)
        heappush(self._heap, (now + timeout_s, number))
        self.due_at = self._heap[0][0]

    def again(self, number: int, now: float) -> None:
        """Count anew: its run was lost, so it had found an actor."""
        if number in self.since:
            self.since[number] = now

    def end(self, number: int) -> None:
        """Count no more."""
        if self.since.pop(number, None) is not None and not self.since:
            self._heap.clear()
            self.due_at = inf

    def waited(self, number: int, now: float) -> float | None:
        """Return for how long a call has waited, None for one that may wait for ever."""
        since = self.since.get(number)
        return None if since is None else now - since

    def take(self, now: float) -> list[int]:
        """Return whose time is over, each once."""
        due: list[int] = []
        heap = self._heap
        while heap and heap[0][0] <= now:
            _, number = heappop(heap)
            if number in self.since:
                due.append(number)
        self.due_at = heap[0][0] if heap else inf
        return due
