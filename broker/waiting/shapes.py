"""What decides where a task may go, and the tasks that wait under it.

Tasks that may go to the same actors wait under one *shape*. Under a shape each client has a lane
for each priority, first in first out; the lowest rank of all lanes comes first.
"""

from collections import deque
from hashlib import blake2b
from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING, Final

import msgspec

from broker.facts.task import State, Task
from broker.waiting.costs import Cost, has_affinity, is_choosy
from broker.waiting.queues import Wait
from wire.labels import Desire, satisfies_all
from wire.parts import Call

if TYPE_CHECKING:
    from broker.facts.peers import Actor, Client
    from broker.holding.limits import Limits
    from broker.holding.lines import LaneWaiter
    from broker.waiting.crews import Crew
    from broker.waiting.queues import Queue

# From here on what is skipped anyway is taken out once it is the greater part.
LEFT_OUT_MIN: Final = 64
VOID_MIN: Final = 64
# From here on a lane holds its tasks as a deque, which is large while it is short.
FEW_TASKS: Final = 16
# A key is a digest, so that long desires cost no memory twice.
KEY_SIZE: Final = 16

_encode = msgspec.msgpack.Encoder().encode


class Lane:
    """The tasks of one client and priority, with the same limits, under one shape, oldest first."""

    __slots__ = ("client", "entry", "key", "queued", "tasks", "waiter")

    def __init__(self, client: "Client", key: object) -> None:
        """Begin empty."""
        self.client = client
        # Who waits for limits in the name of the lane.
        self.waiter: LaneWaiter | None = None
        self.key = key
        self.tasks: list[Task] | deque[Task] = []
        # How many of the tasks are queued; the others are skipped when their turn comes.
        self.queued = 0
        # The rank under which the lane stands in the heap of its shape; entries with another one
        # are void.
        self.entry: float | None = None

    def __lt__(self, other: "Lane") -> bool:
        """Let a heap hold two with one rank, in any order."""
        return False


class Lanes(dict[object, Lane]):
    """The lanes of one shape by their keys, and in the order in which they come."""

    __slots__ = ("heap",)

    def __init__(self) -> None:
        """Begin without any."""
        super().__init__()
        self.heap: list[tuple[float, Lane]] = []


class Shape:
    """What decides where a task may go. Tasks of one shape are interchangeable for placement."""

    __slots__ = (
        "__weakref__",
        "_lanes",
        "aside",
        "cost",
        "count",
        "desires",
        "entry",
        "is_told",
        "limits",
        "only",
        "queue",
    )

    # What only a `Choosy` one has otherwise: of 100,000 kinds most desire something, and no more.
    # The only actor that may have the tasks, and whether even that one may not now.
    home: "Actor | None" = None
    is_shut: bool = False
    # The key that may be bound to one actor.
    sticky: str = ""
    has_affinity: bool = False
    # Where tasks wait for an actor that they like better, though another one is free.
    wait: Wait | None = None
    # Who of those actors has which weight, the highest first; each with those before it.
    tiers: "list[tuple[float, Crew]] | None" = None

    def __init__(
        self, call: Call, limits: "Limits | None" = None, cost: Cost | None = None
    ) -> None:
        """Take from *call* what matters for placement; *cost* is that of all such calls."""
        self.cost = cost or Cost(call)
        # Who knows whether there is room, where the calls have limits.
        self.limits = limits if call.limits else None
        self.desires: tuple[Desire, ...] = tuple(call.desires)
        # Whether somebody was told that no connected actor could take one of these; None where it
        # stands among those of which that is to be looked at.
        self.is_told: bool | None = False
        # A task that waits here with no other stands in no lane: of 100,000 kinds most have but
        # one. With limits each has a lane, which waits in their lines.
        self.only: Task | None = None
        self._lanes: Lanes | None = None
        # How many tasks are queued here, also those set aside.
        self.count = 0
        # Queued tasks that were REJECTed by every actor that could take them now.
        self.aside: list[Task] | tuple[()] = ()
        # Where it waits, with others for the same actors, and the rank under which it stands there;
        # None while that is not known.
        self.queue: Queue | None = None
        self.entry: float | None = None

    def __lt__(self, other: "Shape") -> bool:
        """Let a heap hold two with one rank."""
        return False

    @staticmethod
    def key(call: Call, cost_key: bytes) -> bytes:
        """Return what is equal for calls of the same shape, however much they desire."""
        sticky = (call.sticky.key, call.sticky.hard) if call.sticky is not None else None
        return blake2b(_encode((cost_key, call.desires, sticky)), digest_size=KEY_SIZE).digest()

    def may_go_to(self, actor: "Actor") -> bool:
        """Tell whether calls to a named actor may go to *actor*: it is there, or nowhere yet."""
        return not self.is_shut and (self.home is None or self.home is actor)

    def suits(self, actor: "Actor") -> bool:
        """Tell whether *actor* has the capacity for one task and meets all that it requires."""
        if self.queue is not None:
            return actor in self.queue.crew.members
        if self.sticky:
            return False  # It may be bound to another one.
        return (
            self.may_go_to(actor)
            and self.cost.fits(actor)
            and satisfies_all(actor.labels, self.desires)
        )

    @property
    def rank(self) -> float | None:
        """The rank before which no task comes here, None when all wait for something else."""
        if self.only is not None:
            return self.only.rank
        lanes = self._lanes
        return lanes.heap[0][0] if lanes is not None and lanes.heap else None

    @property
    def lanes(self) -> dict[object, Lane]:
        """The lanes of this shape; none while there is but one task."""
        return self._lanes or {}

    def tasks(self) -> list[Task]:
        """Return all that wait here, also those set aside."""
        only = [self.only] if self.only is not None else []
        return [*only, *(task for lane in self.lanes.values() for task in lane.tasks), *self.aside]

    def standing(self) -> list[Task]:
        """Return those that wait for an actor, and for nothing else."""
        only = [self.only] if self.only is not None else []
        armed = (one for one in self.lanes.values() if one.entry is not None)
        tasks = (*only, *(task for lane in armed for task in lane.tasks))
        return [one for one in tasks if one.state is State.QUEUED and not one.client.is_paused]

    def push(self, task: Task, *, is_back: bool) -> None:
        """Queue *task* by its rank; one that *is_back* goes ahead of its equals."""
        assert task.state is State.QUEUED
        self.count += 1
        lanes = self._lanes
        if lanes is None:
            if self.only is None and self.limits is None:
                self.only = task
                return
            lanes = self._line_up()
        priority = task.template.kind.priority if task.template else 0
        # As `lane_key`.
        key = self.lane_key(task) if priority or self.limits is not None else task.client
        lane = lanes.get(key)
        if lane is None:
            lane = lanes[key] = Lane(task.client, key)
            if self.limits is not None:
                lane.waiter = self.limits.waiter_of(self, lane, task.call.limits)
        tasks = lane.tasks
        lane.queued += 1
        if not tasks:
            tasks.append(task)
            self._enter(lane)
        elif is_back or task.rank < tasks[-1].rank:
            at = 0
            while at < len(tasks) and tasks[at].rank < task.rank:
                at += 1
            tasks.insert(at, task)
            if at == 0:
                self._enter(lane)
        else:
            tasks.append(task)
        if len(tasks) == FEW_TASKS and isinstance(tasks, list):
            lane.tasks = deque(tasks)

    def _line_up(self) -> "Lanes":
        """Return the lanes, which are made now; the only task stands in one from now on."""
        lanes = self._lanes = Lanes()
        task, self.only = self.only, None
        if task is not None:
            key = self.lane_key(task)
            lane = lanes[key] = Lane(task.client, key)
            lane.tasks.append(task)
            lane.queued = 1
            self._enter(lane)
        return lanes

    def peek(self) -> Task | None:
        """Return the queued task that comes next, or None when all wait for something else."""
        only = self.only
        if only is not None:
            if not only.client.is_paused:
                return only
            self._line_up()
        lanes = self._lanes
        heap = lanes.heap if lanes is not None else None
        while heap:
            rank, lane = heap[0]
            if rank != lane.entry:
                heappop(heap)
                continue
            tasks = lane.tasks
            while tasks[0].state is not State.QUEUED:
                del tasks[0]
            if tasks[0].rank != rank:
                heappop(heap)
                self._enter(lane)
            elif lane.client.is_paused:
                heappop(heap)
                lane.entry = None
                lane.client.parked.append((self, lane))
            elif lane.waiter is None or lane.waiter.may_go(tasks[0]):
                return tasks[0]
            else:
                heappop(heap)
                lane.entry = None
                continue
            if lane.waiter is not None:
                # Those that were behind it may be the first of their shape now.
                lane.waiter.limits.leave(lane.waiter)
        return None

    def pop(self, task: Task) -> None:
        """Take out *task*, which `peek` returned."""
        self.count -= 1
        if task is self.only:
            self.only = None
            return
        assert self._lanes is not None
        heap = self._lanes.heap
        rank, lane = heap[0]
        tasks = lane.tasks
        assert tasks[0] is task
        assert rank == task.rank
        del tasks[0]
        lane.queued -= 1
        if lane.queued:
            lane.entry = rank = tasks[0].rank
            heapreplace(heap, (rank, lane))
        else:
            heappop(heap)
            self._drop(lane)

    def lone_lane(self) -> Lane | None:
        """Return the only lane, if there is but one and it waits for no limit."""
        lanes = self._lanes
        if lanes is None or len(lanes) != 1 or len(lanes.heap) != 1 or self.limits is not None:
            return None
        return lanes.heap[0][1]

    def advance(self, lane: Lane, taken: int) -> None:
        """Count out so many tasks that were taken from the only *lane*, which has some left."""
        assert self._lanes is not None
        self.count -= taken
        lane.queued -= taken
        lane.entry = rank = lane.tasks[0].rank
        self._lanes.heap[0] = (rank, lane)

    def set_aside(self, task: Task) -> None:
        """Put *task*, which `peek` returned, where it does not block those behind it."""
        self.pop(task)
        self.count += 1
        if isinstance(self.aside, tuple):
            self.aside = [task]
        else:
            self.aside.append(task)

    def recall_aside(self) -> None:
        """Queue again what was set aside: something changed."""
        aside, self.aside = self.aside, ()
        for task in aside:
            if task.state is State.QUEUED:
                self.count -= 1
                self.push(task, is_back=True)

    def unpark(self, lane: Lane) -> None:
        """Let a lane take part again whose client was paused."""
        if lane.tasks:
            self._enter(lane)

    def forget(self, task: Task) -> None:
        """Count out a queued task that nobody wants; it is skipped when its turn comes."""
        self.count -= 1
        if self._is_alone_or_aside(task):
            return
        lane = self.lanes[self.lane_key(task)]
        lane.queued -= 1
        if not lane.queued:
            self._drop(lane)
            return
        if lane.waiter is not None:
            self._ask_again(lane)
        if len(lane.tasks) > LEFT_OUT_MIN + 2 * lane.queued:
            # Their turn may never come.
            kept = [one for one in lane.tasks if one.state is State.QUEUED and one is not task]
            lane.tasks = deque(kept)

    def remove(self, task: Task) -> None:
        """Take out a queued task wherever it stands; slow, for the rare late adoption."""
        assert task.state is State.QUEUED
        self.count -= 1
        if self._is_alone_or_aside(task):
            return
        lane = self.lanes[self.lane_key(task)]
        lane.tasks.remove(task)
        lane.queued -= 1
        if not lane.queued:
            self._drop(lane)
        elif lane.waiter is not None:
            self._ask_again(lane)

    def _is_alone_or_aside(self, task: Task) -> bool:
        """Take out *task* where it stands in no lane, and tell whether it did not."""
        if task is self.only:
            self.only = None
        elif task in self.aside:
            assert isinstance(self.aside, list)
            self.aside.remove(task)
        else:
            return False
        return True

    def lane_key(self, task: Task) -> object:
        """Return under which key the lane of *task* stands."""
        assert task.template
        call = task.template.head
        if self.limits is None:
            return (task.client, call.priority) if call.priority else task.client
        return (task.client, call.priority, *sorted(call.limits.items()))

    def _ask_again(self, lane: Lane) -> None:
        """Let a lane that waits for limits say anew who is its first."""
        assert lane.waiter is not None
        if lane.waiter.number:
            lane.waiter.limits.unpark(lane.waiter)
            self._enter(lane)
        else:
            lane.waiter.limits.leave(lane.waiter)

    def _enter(self, lane: Lane) -> None:
        lane.entry = rank = lane.tasks[0].rank
        lanes = self._lanes
        assert lanes is not None
        heap = lanes.heap
        if len(heap) > VOID_MIN + 2 * len(lanes):
            # Most entries are void, or there twice; only those at the top are ever dropped.
            heap[:] = [(one.entry, one) for one in lanes.values() if one.entry is not None]
            heapify(heap)
        else:
            heappush(heap, (rank, lane))

    def _drop(self, lane: Lane) -> None:
        lane.entry = None
        if lane.waiter is not None:
            lane.waiter.limits.leave(lane.waiter)
        lane.tasks.clear()
        assert self._lanes
        del self._lanes[lane.key]
        if not self._lanes:
            # What is left in the heap is void.
            self._lanes = None


class Choosy(Shape):
    """A shape whose tasks like some actors better than others, or are bound to one of them."""

    __slots__ = ("has_affinity", "home", "is_shut", "sticky", "tiers", "wait")

    def __init__(
        self, call: Call, limits: "Limits | None" = None, cost: Cost | None = None
    ) -> None:
        """Take from *call* what it likes, and to what it is bound."""
        super().__init__(call, limits, cost)
        self.home = self.tiers = self.wait = None
        self.is_shut = False
        self.sticky = call.sticky.key if call.sticky is not None else ""
        self.has_affinity = has_affinity(call)
        if self.has_affinity and self.cost.affinity_wait_s and self.cost.place is None:
            self.wait = Wait(self.cost.affinity_wait_s)


def shape_of(call: Call, limits: "Limits | None" = None, cost: Cost | None = None) -> Shape:
    """Return a new shape for *call*."""
    is_named = call.environment is not None and call.environment.named is not None
    return (Choosy if is_named or is_choosy(call) else Shape)(call, limits, cost)
