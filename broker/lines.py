"""Who waits for limits, and what a key of a limit and a run hold (protocol.md section 9.5).

Plain structures for `broker.limits`, which alone changes them.
"""

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final

from wire.messages import Token

if TYPE_CHECKING:
    from broker.backlog import Lane, Shape
    from broker.limits import Limits
    from broker.peers import Actor
    from broker.task import Task

Wants = tuple[tuple[str, int], ...]

# From here on a heap is made anew once the greater part of it is void.
VOID_MIN: Final = 64


class Waiter:
    """Somebody who wants limits: a lane of the backlog, or the ask of a run."""

    __slots__ = ("blocked", "number", "rank", "wants")

    def __init__(self, wants: Wants) -> None:
        """Begin without waiting."""
        self.wants = wants
        self.rank = 0.0
        # The key that lacks room; which entry in the lines is the valid one, 0 for none.
        self.blocked = ""
        self.number = 0

    def __lt__(self, other: "Waiter") -> bool:
        """Let a heap hold one waiter twice."""
        return False

    def amount(self, name: str) -> int:
        """Return how much of a key it wants."""
        return next((amount for wanted, amount in self.wants if wanted == name), 0)


class LaneWaiter(Waiter):
    """The tasks of one lane; the first of them is meant."""

    __slots__ = ("lane", "limits", "shape")

    def __init__(self, limits: "Limits", shape: "Shape", lane: "Lane", wants: Wants) -> None:
        """Speak for *lane*, which stands under *shape*."""
        super().__init__(wants)
        self.limits = limits
        self.shape = shape
        self.lane = lane

    def may_go(self, task: "Task") -> bool:
        """Tell whether there is room for *task*, the first of the lane; park the lane if not."""
        blocked = self.limits.blocking(self, task.rank)
        if blocked is None:
            return True
        self.limits.park(self, task.rank, blocked)
        return False


class AskWaiter(Waiter):
    """A run that asked from inside, or wants what it took at scheduling again."""

    __slots__ = ("ask", "run")

    def __init__(self, run: "LimitedRun", ask: int, wants: Wants) -> None:
        """Wait for *wants*."""
        super().__init__(wants)
        self.run = run
        self.ask = ask


class Line:
    """Who waits at a key, lowest rank first. Leaving costs nothing; the heap is cleaned later."""

    __slots__ = ("_heap", "members")

    def __init__(self) -> None:
        """Begin empty."""
        self.members: dict[Waiter, None] = {}
        self._heap: list[tuple[float, int, Waiter]] = []

    def push(self, waiter: Waiter) -> None:
        """Let *waiter* wait under its rank and number."""
        self.members[waiter] = None
        if len(self._heap) > VOID_MIN + 2 * len(self.members):
            self._heap = [(one.rank, one.number, one) for one in self.members]
            heapify(self._heap)
        else:
            heappush(self._heap, (waiter.rank, waiter.number, waiter))

    def remove(self, waiter: Waiter) -> None:
        """Let *waiter* wait no longer."""
        self.members.pop(waiter, None)

    def first(self) -> Waiter | None:
        """Return who waits with the lowest rank."""
        heap = self._heap
        while heap:
            _, number, waiter = heap[0]
            if waiter.number == number and waiter in self.members:
                return waiter
            heappop(heap)
        return None


class Key:
    """One limit, or one key of a limit that is set per key, while somebody needs it."""

    __slots__ = ("claims", "holders", "level_at", "line", "members", "name", "used")

    def __init__(self, name: str, level: float, now: float) -> None:
        """Begin with what time has not given back yet, if it does that."""
        self.name = name
        # What is held; with a rate what has not come back, as of *level_at*.
        self.used: float = level
        self.level_at = now
        self.holders: dict[tuple[Token, int], int] = {}
        # Those that lack room here; those that lack it elsewhere and keep their place here.
        self.line = Line()
        self.claims = Line()
        # With a strategy that cancels: the tasks that there are, oldest first.
        self.members: dict[Task, int] = {}


class LimitedRun:
    """What one assignment holds of limits, and what it waits for."""

    __slots__ = ("actor", "asks", "is_stopped", "rows", "task", "token")

    def __init__(self, token: Token, task: "Task", actor: "Actor") -> None:
        """Begin with nothing."""
        self.token = token
        self.task = task
        self.actor = actor
        self.rows: dict[int, Wants] = {}
        self.asks: dict[int, AskWaiter] = {}
        # Nobody wants it any more, but it has not returned yet.
        self.is_stopped = False
