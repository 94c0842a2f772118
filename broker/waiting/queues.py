"""Shapes that wait for the same actors, and which of all is looked at next.

A queue is *blocked* while no actor can take a task from it; nobody looks at it until one can. So
the cost of a task does not grow with how many wait that nobody can take. Ranks in the heaps are
never above the true ones: where one is below, that shows when it is first, and is put right.
"""

from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from broker.facts.deadlines import Deadlines
    from broker.facts.task import Task
    from broker.waiting.crews import Crew
    from broker.waiting.shapes import Shape

# From here on a heap is made anew once the greater part of it is void.
VOID_MIN: Final = 64


class Queue:
    """The shapes that wait for one crew, with one environment or none."""

    __slots__ = (
        "_heap",
        "cold_entry",
        "crew",
        "entry",
        "environment",
        "is_blocked",
        "is_skipped",
        "shapes",
    )

    def __init__(self, crew: "Crew", environment: str | None) -> None:
        """Begin empty."""
        self.crew = crew
        self.environment = environment
        self.is_blocked = False
        # Whether no actor of the crew has room for the environment where it is not resident yet.
        self.is_skipped = False
        # Its rank among all queues that are looked at, and among those of its crew for which a
        # cold actor is looked for; None where it does not stand there.
        self.entry: float | None = None
        self.cold_entry: float | None = None
        # How many shapes are here, also those without tasks.
        self.shapes = 0
        # Two of one rank come out in any order; a number for each would take memory a kind.
        self._heap: list[tuple[float, Shape]] = []

    def push(self, shape: "Shape", rank: float) -> None:
        """Let *shape* stand here with *rank*."""
        shape.entry = rank
        if len(self._heap) > VOID_MIN + 2 * self.shapes:
            # Shapes that left, and ranks that were replaced by lower ones.
            valid = {id(e[1]): e for e in self._heap if e[1].queue is self and e[0] == e[1].entry}
            self._heap = list(valid.values())
            heapify(self._heap)
        heappush(self._heap, (rank, shape))

    @property
    def rank(self) -> float | None:
        """The rank before which no task comes here."""
        return self._heap[0][0] if self._heap else None

    @property
    def is_alone(self) -> bool:
        """Tell whether a single shape stands here."""
        return len(self._heap) == 1

    def first(self) -> "tuple[Shape, Task] | None":
        """Return the task that comes next, with its shape."""
        heap = self._heap
        while heap:
            rank, shape = heap[0]
            if shape.entry != rank or shape.queue is not self:
                heappop(heap)
                continue
            task = shape.peek() if shape.count else None
            if task is None:
                heappop(heap)
                shape.entry = None
                continue
            if task.rank != rank:
                shape.entry = rank = task.rank
                if len(heap) > 1:
                    heapreplace(heap, (rank, shape))
                    if heap[0][0] != rank:
                        continue
                else:
                    heap[0] = (rank, shape)
            return shape, task
        return None


class Wait:
    """How long tasks of one shape wait for an actor that they like better, and where they do."""

    __slots__ = ("entry", "queue", "run_s", "until", "within_s")

    def __init__(self, within_s: float) -> None:
        """Begin with a shape of which nothing waits so."""
        self.within_s = within_s
        # How long a task runs, of late; 0.0 while nobody knows.
        self.run_s = 0.0
        # The actors that the first of the tasks waits for, its rank among all that do, and until
        # when; None where it waits for any.
        self.queue: WaitingQueue | None = None
        self.entry = 0.0
        self.until = 0.0


class WaitingQueue:
    """The shapes that wait for an actor of one crew, since those that are free are liked less."""

    __slots__ = ("_heap", "_sequence", "_waits", "count", "crew", "entry", "is_blocked")

    def __init__(self, crew: "Crew", waits: "Deadlines[Shape]") -> None:
        """Begin empty. *waits* has all that wait so, and until when."""
        self.crew = crew
        self._waits = waits
        # Blocked while no actor of the crew can take a task of its cost.
        self.is_blocked = False
        self.entry: float | None = None
        # How many shapes wait here.
        self.count = 0
        self._heap: list[tuple[float, int, Shape]] = []
        self._sequence = count(1)

    def push(self, shape: "Shape", rank: float, until: float) -> None:
        """Let *shape* stand here with *rank*, no longer than *until*; it stands in no other one."""
        wait = shape.wait
        assert wait is not None
        wait.queue, wait.entry, wait.until = self, rank, until
        self._waits.set(shape, until)
        self.count += 1
        if len(self._heap) > VOID_MIN + 2 * self.count:
            valid = {id(e[2]): e for e in self._heap if self._holds(e)}
            self._heap = list(valid.values())
            heapify(self._heap)
        heappush(self._heap, (rank, next(self._sequence), shape))

    def drop(self, shape: "Shape") -> None:
        """Let *shape*, which stands here, wait so no more."""
        assert shape.wait is not None
        shape.wait.queue = None
        self.count -= 1
        self._waits.discard(shape)

    def _holds(self, entry: "tuple[float, int, Shape]") -> bool:
        wait = entry[2].wait
        return wait is not None and wait.queue is self and wait.entry == entry[0]

    @property
    def rank(self) -> float | None:
        """The rank before which no task comes here."""
        return self._heap[0][0] if self._heap else None

    def first(self) -> "tuple[Shape, Task] | None":
        """Return the task that comes next, with its shape."""
        heap = self._heap
        while heap:
            shape = heap[0][2]
            if self._holds(heap[0]):
                task = shape.peek()
                if task is not None and task.rank <= heap[0][0]:
                    return shape, task
                if task is not None:
                    assert shape.wait
                    shape.wait.entry = task.rank
                    heapreplace(heap, (task.rank, next(self._sequence), shape))
                    continue
                # All wait for something else, and are looked at again once they have it.
                self.drop(shape)
            heappop(heap)
        return None


class ColdQueue:
    """The queues of one crew whose environment has to be loaded somewhere, or waits for a turn."""

    __slots__ = ("_heap", "_sequence", "entry", "is_blocked", "skipped")

    def __init__(self) -> None:
        """Begin empty."""
        # Blocked while no actor of the crew has room for any other environment.
        self.is_blocked = False
        self.entry: float | None = None
        # Queues whose environment is resident already wherever there is room.
        self.skipped: dict[Queue, None] = {}
        self._heap: list[tuple[float, int, Queue]] = []
        self._sequence = count(1)

    def push(self, queue: Queue, rank: float) -> None:
        """Let *queue* stand here with *rank*."""
        queue.cold_entry = rank
        heappush(self._heap, (rank, next(self._sequence), queue))

    @property
    def rank(self) -> float | None:
        """The rank before which no task comes here."""
        return self._heap[0][0] if self._heap else None

    def skip(self, queue: Queue) -> None:
        """Leave *queue* out until somebody has room who does not have its environment."""
        queue.is_skipped = True
        queue.cold_entry = None
        self.skipped[queue] = None

    def first(self) -> "tuple[Shape, Task] | None":
        """Return the task that comes next, with its shape."""
        heap = self._heap
        while heap:
            rank, _, queue = heap[0]
            if queue.cold_entry != rank:
                heappop(heap)
                continue
            found = queue.first()
            if found is None:
                heappop(heap)
                queue.cold_entry = None
                continue
            if found[1].rank != rank:
                queue.cold_entry = rank = found[1].rank
                heapreplace(heap, (rank, next(self._sequence), queue))
                if heap[0][0] != rank:
                    continue
            return found
        return None


class Ready:
    """All queues that are to be looked at, the one with the lowest rank first."""

    __slots__ = ("_sequence", "heap")

    def __init__(self) -> None:
        """Begin with nothing to look at."""
        self.heap: list[tuple[float, int, Queue | ColdQueue | WaitingQueue]] = []
        self._sequence = count(1)

    def enter(self, queue: Queue | ColdQueue | WaitingQueue) -> None:
        """Let *queue*, which is not blocked, take part with the rank that it has now."""
        rank = queue.rank
        if rank is not None and (queue.entry is None or rank < queue.entry):
            queue.entry = rank
            heappush(self.heap, (rank, next(self._sequence), queue))

    def first(self) -> "tuple[Shape, Task] | None":
        """Return the lowest ranked task that may find an actor, with its shape."""
        heap = self.heap
        while heap:
            rank, _, queue = heap[0]
            if queue.entry != rank:
                heappop(heap)
                continue
            found = queue.first()
            if found is None:
                heappop(heap)
                queue.entry = None
                continue
            if found[1].rank != rank:
                queue.entry = rank = found[1].rank
                if len(heap) > 1:
                    heapreplace(heap, (rank, next(self._sequence), queue))
                    if heap[0][0] != rank:
                        continue
                else:
                    heap[0] = (rank, 0, queue)
            return found
        return None
