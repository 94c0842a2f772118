"""Who waits for limits, and what a key of a limit and a run hold (protocol.md section 9.5).

Plain structures for `broker.limits`, which alone changes them.
"""

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final, TypeAlias

from broker.facts import spans
from wire.limits import HOST_PREFIX
from wire.messages import Await
from wire.parts import Span, Token

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from broker.facts.peers import Actor
    from broker.facts.task import Task
    from broker.holding.limits import Limits
    from broker.waiting.shapes import Lane, Shape

Wants = tuple[tuple[str, int], ...]
# Who is at a key: a task that takes it at scheduling, or what a run asked for from inside.
Member: TypeAlias = "Task | tuple[Token, int]"

# What a run took when it was assigned, and again with its slots.
AT_SCHEDULING: Final = 0
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

    @property
    def group(self) -> "Shape | None":
        """Return the shape for which it waits, None for a run."""
        return None

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

    @property
    def group(self) -> "Shape | None":
        """Return the shape of its tasks."""
        return self.shape

    def is_behind(self, key: "Key") -> bool:
        """Tell whether a lane of its shape had room at *key*, comes first and finds no actor."""
        other = key.awake.get(self.shape)
        if other is None or other is self or other.number or other.lane.entry is None:
            return False
        return other.lane.entry <= self.rank

    def may_go(self, task: "Task") -> bool:
        """Tell whether there is room for *task*, the first of the lane; park the lane if not."""
        blocked = self.limits.blocking(self, task.rank)
        if blocked is None:
            return True
        self.limits.park(self, task.rank, blocked)
        # Those that were left behind it are the first of their shape now; of one rank even here.
        for name, _ in self.wants:
            if name != blocked or self.limits.keys[name].first() is not self:
                self.limits.touch(name)
        return False


class AskWaiter(Waiter):
    """A run that asked from inside, or wants what it took at scheduling again."""

    __slots__ = ("ask", "may_give_back", "run", "within")

    def __init__(
        self,
        run: "LimitedRun",
        ask: int,
        wants: Wants,
        within: list[int] | None = None,
        *,
        may_give_back: bool = False,
    ) -> None:
        """Wait for *wants*, and keep what the asks *within* have meanwhile; None for all."""
        super().__init__(wants)
        self.run = run
        self.ask = ask
        self.within = within
        # Whether the run gives its slots and its turn back meanwhile when it is told so.
        self.may_give_back = may_give_back

    def kept(self) -> list[tuple[int, Wants]]:
        """Return what its run does not give back before it has what it waits for."""
        return keeps(self.run.rows, self.within)


class Line:
    """Who waits at a key, lowest rank first. Leaving costs nothing; the heaps are cleaned later.

    Those of one shape, and those that ask, have a heap each, so that a shape can be skipped whole.
    """

    __slots__ = ("_heaps", "members")

    def __init__(self) -> None:
        """Begin empty."""
        self.members: dict[Waiter, None] = {}
        self._heaps: dict[Shape | None, list[tuple[float, int, Waiter]]] = {}

    def push(self, waiter: Waiter) -> None:
        """Let *waiter* wait under its rank and number."""
        self.members[waiter] = None
        heap = self._heaps.setdefault(waiter.group, [])
        if len(heap) > VOID_MIN + 2 * len(self.members):
            mine = (one for one in self.members if one.group is waiter.group)
            heap[:] = [(one.rank, one.number, one) for one in mine]
            heapify(heap)
        else:
            heappush(heap, (waiter.rank, waiter.number, waiter))

    def remove(self, waiter: Waiter) -> None:
        """Let *waiter* wait no longer."""
        self.members.pop(waiter, None)

    def first(self, skipped: "Container[Shape | None]" = ()) -> Waiter | None:
        """Return who waits with the lowest rank, of no shape that is *skipped*."""
        if not self.members:
            return None
        heaps = self._heaps
        best: tuple[float, int, Waiter] | None = None
        for group, heap in list(heaps.items()):
            if group in skipped:
                continue
            while heap:
                entry = heap[0]
                if entry[2].number == entry[1] and entry[2] in self.members:
                    if best is None or entry[:2] < best[:2]:
                        best = entry
                    break
                heappop(heap)
            else:
                del heaps[group]
        return best[2] if best is not None else None


class Key:
    """One limit, or one key of a limit that is set per key, while somebody needs it."""

    __slots__ = ("awake", "claims", "holders", "level_at", "line", "members", "name", "used")

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
        # The lane of each shape that was let go last: while it finds no actor no other would.
        self.awake: dict[Shape, LaneWaiter] = {}
        # With a strategy that cancels: who has it or waits for it, oldest first.
        self.members: dict[Member, int] = {}

    def first(self) -> Waiter | None:
        """Return who waits here for room with the lowest rank.

        Where one lane of a shape has room and finds no actor there is none for the others either:
        they wait for that, and hold up nobody here.
        """
        skipped: set[Shape | None] = set()
        while True:
            waiter = self.line.first(skipped)
            if not isinstance(waiter, LaneWaiter) or not waiter.is_behind(self):
                return waiter
            skipped.add(waiter.shape)

    def current(self, runs: "dict[Token, LimitedRun]") -> dict[Member, int]:
        """Return the members that are not over."""
        for who in [who for who in self.members if is_gone(who, runs)]:
            del self.members[who]
        return self.members


class LimitedRun:
    """What one assignment holds of limits, and what it waits for."""

    __slots__ = ("actor", "asks", "giving", "is_stopped", "rows", "task", "token")

    def __init__(self, token: Token, task: "Task", actor: "Actor") -> None:
        """Begin with nothing."""
        self.token = token
        self.task = task
        self.actor = actor
        self.rows: dict[int, Wants] = {}
        self.asks: dict[int, AskWaiter] = {}
        # Nobody wants it any more, but it has not returned yet.
        self.is_stopped = False
        # The ask for which it was told to give its slots and its turn back, until it says so.
        self.giving: int | None = None


def is_gone(who: Member, runs: dict[Token, LimitedRun]) -> bool:
    """Tell whether a task has ended, or a run has no more what it asked for, or soon will not."""
    if not isinstance(who, tuple):
        return who.is_over
    run = runs.get(who[0])
    return run is None or run.is_stopped or not (who[1] in run.rows or who[1] in run.asks)


class Fenced:
    """A lost actor that may still live, and have strict limits until it is known to be dead."""

    __slots__ = ("actor", "lost_at", "until")

    def __init__(self, actor: "Actor", now: float, until: float) -> None:
        """Believe that it lives up to *until*, where nothing is heard of its host."""
        self.actor = actor
        self.lost_at = now
        self.until = until


class RunWait:
    """A run that waits for calls of its own, or where it names none for its slots."""

    __slots__ = (
        "actor",
        "ask",
        "calls",
        "client",
        "enough",
        "order",
        "slots",
        "task",
        "token",
        "within",
    )

    def __init__(self, task: "Task", actor: "Actor", command: Await, order: int) -> None:
        """Wait as *command* says, behind those of a lower *order* where it is for slots."""
        self.order = order
        self.token = (command.epoch, command.number)
        self.task = task
        self.actor = actor
        self.ask = command.ask
        self.client = command.client
        self.calls: list[Span] = spans.merge(command.calls)
        self.enough = command.enough
        self.within = command.within
        # Which slots it lacks; None for all that its template names.
        self.slots = command.slots


class Waits:
    """The waits of runs that are not for limits, as their actors state them."""

    __slots__ = ("by_run", "count", "is_new", "parts")

    def __init__(self) -> None:
        """Begin with nobody who waits."""
        self.by_run: dict[Token, dict[int, RunWait]] = {}
        # How many were said so far.
        self.count = 0
        # What runs have at least that gave back a part of their slots: some they may have again.
        self.parts: dict[Token, dict[str, int]] = {}
        # Whether somebody said so since the last look.
        self.is_new = False

    def gave(self, token: Token, slots: dict[str, int], part: dict[str, int]) -> None:
        """Note that a run that had *slots* gave back a part of what it has of them."""
        left = self.left(token, slots)
        self.parts[token] = {kind: max(0, n - part.get(kind, 0)) for kind, n in left.items()}

    def left(self, token: Token, slots: dict[str, int]) -> dict[str, int]:
        """Return what a run that had *slots* still has of them at least."""
        return self.parts.get(token, slots)

    def state(
        self, tokens: "Iterable[Token]", parts: "Iterable[tuple[Token, dict[str, int]]]"
    ) -> None:
        """Take over what is said of all runs of one actor, whose are the *tokens*."""
        known = dict(parts)
        for token in tokens:
            if token in known:
                self.parts[token] = known[token]
            else:
                self.parts.pop(token, None)

    def is_call_of(self, actor: object, task: "Task") -> bool:
        """Tell whether a run of *actor* made *task*, or waits for it."""
        if task.parent is not None and task.parent.actor is actor:
            return True
        client, number = task.client.incarnation, task.number
        return any(
            wait.actor is actor and wait.client == client and spans.holds(wait.calls, number)
            for waits in self.by_run.values()
            for wait in waits.values()
        )

    def end(self, token: Token, ask: int | None, actor: object) -> None:
        """Forget a wait that is over, or all of a run."""
        waits = self.by_run.get(token)
        if waits is None:
            return
        for number in [n for n in waits if ask is None or n == ask]:
            if waits[number].actor is actor:
                del waits[number]
        if not waits:
            del self.by_run[token]

    def forget(self, actor: object) -> None:
        """Forget what runs of *actor* wait for; its new session says it again."""
        for token in list(self.by_run):
            self.end(token, None, actor)

    def sweep(self, tokens: "dict[Token, Task]") -> None:
        """Forget the waits of runs that are over."""
        for token in [token for token in self.by_run if token not in tokens]:
            del self.by_run[token]
        if self.parts:
            self.parts = {t: part for t, part in self.parts.items() if t in tokens}


def keeps(rows: dict[int, Wants], within: list[int] | None) -> list[tuple[int, Wants]]:
    """Return what of its *rows* a run keeps during a wait inside the asks *within*, None for all.

    What was taken at scheduling ends with the run, which ends after each of its waits.
    """
    return [(n, rows[n]) for n in rows if within is None or n == AT_SCHEDULING or n in within]


def host_key(own: str, host: int) -> str:
    """Name the key of a limit that one host states for its actors."""
    return f"{HOST_PREFIX}{own}@{host:x}"


def shown(name: str) -> str:
    """Return a key's name as users write it."""
    return name.rpartition("@")[0] if name.startswith(HOST_PREFIX) else name
