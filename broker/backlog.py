"""The tasks that are submitted and not assigned: in which order they come out.

Tasks that may go to the same actors wait under one *shape*. Under a shape each client has a lane
for each priority, first in first out. Lanes of all shapes are ordered by one number, the rank: a
flow (a client or fairness key, at one priority) takes the next rank from its own clock, which never
lags behind the rank served last (start-time fair queueing). So a client with 100,000 tasks and one
with a single task alternate, a higher priority is a head start of PRIORITY_STEP ranks, and since
ranks only grow nobody starves.
"""

from collections import deque
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

import msgspec

from broker.task import State, Task
from wire.labels import Desire, affinity, satisfies_all
from wire.limits import HOST_PREFIX
from wire.parts import Call

if TYPE_CHECKING:
    from broker.limits import Limits
    from broker.lines import LaneWaiter
    from broker.peers import Actor, Client

# What one step of priority is worth, in tasks of the own flow that it goes ahead of.
PRIORITY_STEP: Final = 1_000.0
# The type of slots that a task takes which names none.
SLOT: Final = "slot"
# From here on what is skipped anyway is taken out once it is the greater part.
LEFT_OUT_MIN: Final = 64
VOID_MIN: Final = 64
# From here on flows are looked through for those that say nothing any more.
FLOWS_MIN: Final = 4_096

_encode = msgspec.msgpack.Encoder().encode


class Flow:
    """The clock of one client, or fairness key, at one priority."""

    __slots__ = ("head_start", "rank")

    def __init__(self, priority: int) -> None:
        """Begin with a clock that has served nothing."""
        self.rank = 0.0
        self.head_start = priority * PRIORITY_STEP


class Lane:
    """The tasks of one client and priority, with the same limits, under one shape, oldest first."""

    __slots__ = ("client", "entry", "key", "queued", "tasks", "waiter")

    def __init__(self, client: "Client", key: tuple[object, ...]) -> None:
        """Begin empty."""
        self.client = client
        # Who waits for limits in the name of the lane.
        self.waiter: LaneWaiter | None = None
        self.key = key
        self.tasks: deque[Task] = deque()
        # How many of the tasks are queued; the others are skipped when their turn comes.
        self.queued = 0
        # The rank under which the lane stands in the heap of its shape; entries with another one
        # are void.
        self.entry: float | None = None


class Shape:
    """What decides where a task may go. Tasks of one shape are interchangeable for placement."""

    __slots__ = (
        "__weakref__",
        "_heap",
        "_sequence",
        "aside",
        "count",
        "desires",
        "environment",
        "fail_infeasible",
        "fits",
        "has_affinity",
        "host_limits",
        "is_large",
        "is_plain",
        "is_told",
        "lanes",
        "limits",
        "may_wait_ahead",
        "plain",
        "slots",
        "typed",
    )

    def __init__(self, call: Call, limits: "Limits | None" = None) -> None:
        """Take from *call* what matters for placement."""
        # Who knows whether there is room, where the calls have limits; those of the actor's host.
        self.limits = limits if call.limits else None
        self.host_limits = host_limits(call)
        self.desires: list[Desire] = call.desires
        self.slots = call.slots
        # What one task costs: plain slots, and slots of other types.
        self.plain = call.slots.get(SLOT, 0) if call.slots else 1
        self.typed = {kind: n for kind, n in call.slots.items() if kind != SLOT}
        self.is_plain = self.plain == 1 and not self.typed
        # One that costs more than one unit could be starved by those that cost less.
        self.is_large = self.plain + sum(self.typed.values()) > 1
        self.fail_infeasible = call.fail_infeasible
        self.environment = call.environment.id if call.environment else None
        self.has_affinity = any(not desire.required for desire in call.desires)
        # A task that waits in a mailbox may be handed back, so what must never run twice does not
        # go there.
        self.may_wait_ahead = not (call.at_most_once or call.limits or call.slots)
        # Whether somebody was told that no connected actor could take one of these.
        self.is_told = False
        self.lanes: dict[tuple[object, ...], Lane] = {}
        # How many tasks are queued here, also those set aside.
        self.count = 0
        # Queued tasks that were REJECTed by every actor that could take them now.
        self.aside: list[Task] = []
        # Actor -> (stamp of its labels, weight or None when it does not satisfy).
        self.fits: dict[Actor, tuple[int, float | None]] = {}
        self._heap: list[tuple[float, int, Lane]] = []
        self._sequence = count()

    @staticmethod
    def key(call: Call) -> bytes:
        """Return what is equal for calls of the same shape."""
        environment = call.environment.id if call.environment else None
        return _encode(
            (
                call.desires,
                sorted(call.slots.items()),
                environment,
                call.at_most_once,
                bool(call.limits),
                host_limits(call),
                call.fail_infeasible,
            )
        )

    def shares(self, other: "Shape") -> bool:
        """Tell whether both take slots of one type."""
        is_plain = self.plain > 0 and other.plain > 0
        return is_plain or not self.typed.keys().isdisjoint(other.typed)

    def could_hold(self, actor: "Actor") -> bool:
        """Tell whether *actor* has the capacity for one task."""
        return all(actor.slots.get(kind, 0) >= amount for kind, amount in self.slots.items())

    def fit(self, actor: "Actor") -> float | None:
        """Return the weight of the affinities that *actor* meets, None when it does not satisfy."""
        known = self.fits.get(actor)
        if known is not None and known[0] == actor.labels_stamp:
            return known[1]
        weight: float | None = None
        if self.could_hold(actor) and satisfies_all(actor.labels, self.desires):
            weight = affinity(actor.labels, self.desires) if self.has_affinity else 0.0
        self.fits[actor] = (actor.labels_stamp, weight)
        return weight

    def push(self, task: Task, *, is_back: bool) -> None:
        """Queue *task* by its rank; one that *is_back* goes ahead of its equals."""
        assert task.state is State.QUEUED
        assert task.template
        key: tuple[object, ...] = (id(task.client), task.template.call.priority)
        if self.limits is not None:
            key = self.lane_key(task)
        lane = self.lanes.get(key)
        if lane is None:
            lane = self.lanes[key] = Lane(task.client, key)
            if self.limits is not None:
                lane.waiter = self.limits.waiter_of(self, lane, task.call.limits)
        tasks = lane.tasks
        self.count += 1
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

    def peek(self) -> Task | None:
        """Return the queued task that comes next, or None when all wait for something else."""
        heap = self._heap
        while heap:
            rank, _, lane = heap[0]
            if rank != lane.entry:
                heappop(heap)
                continue
            tasks = lane.tasks
            while tasks[0].state is not State.QUEUED:
                tasks.popleft()
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
        rank, _, lane = self._heap[0]
        tasks = lane.tasks
        assert tasks[0] is task
        assert rank == task.rank
        tasks.popleft()
        self.count -= 1
        lane.queued -= 1
        if lane.queued:
            lane.entry = rank = tasks[0].rank
            heapreplace(self._heap, (rank, next(self._sequence), lane))
        else:
            heappop(self._heap)
            self._drop(lane)

    def set_aside(self, task: Task) -> None:
        """Put *task*, which `peek` returned, where it does not block those behind it."""
        self.pop(task)
        self.count += 1
        self.aside.append(task)

    def recall_aside(self) -> None:
        """Queue again what was set aside: something changed."""
        aside, self.aside = self.aside, []
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
        if task in self.aside:
            self.aside.remove(task)
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
        if task in self.aside:
            self.aside.remove(task)
            return
        lane = self.lanes[self.lane_key(task)]
        lane.tasks.remove(task)
        lane.queued -= 1
        if not lane.queued:
            self._drop(lane)
        elif lane.waiter is not None:
            self._ask_again(lane)

    def lane_key(self, task: Task) -> tuple[object, ...]:
        """Return under which key the lane of *task* stands."""
        if self.limits is None:
            return (id(task.client), task.call.priority)
        return (id(task.client), task.call.priority, *sorted(task.call.limits.items()))

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
        if len(self._heap) > VOID_MIN + 2 * len(self.lanes):
            # Most entries are void, or there twice; only those at the top are ever dropped.
            entered = ((one.entry, one) for one in self.lanes.values())
            self._heap[:] = [
                (at, next(self._sequence), one) for at, one in entered if at is not None
            ]
            heapify(self._heap)
        else:
            heappush(self._heap, (rank, next(self._sequence), lane))

    def _drop(self, lane: Lane) -> None:
        lane.entry = None
        if lane.waiter is not None:
            lane.waiter.limits.leave(lane.waiter)
        lane.tasks.clear()
        del self.lanes[lane.key]


class Backlog:
    """All shapes, the flows' clocks, and which shapes may have something to place."""

    __slots__ = ("_flows", "_flows_max", "_shapes", "limits", "ready", "served", "waiting")

    def __init__(self) -> None:
        """Begin empty."""
        # Set by the broker, which needs the backlog to make it.
        self.limits: Limits | None = None
        # A shape lives as long as a template or a queued task uses it.
        self._shapes: WeakValueDictionary[bytes, Shape] = WeakValueDictionary()
        self._flows: dict[tuple[object, int], Flow] = {}
        self._flows_max = FLOWS_MIN
        self.served = 0.0
        # Shapes with queued tasks: those to be looked at, and those that nobody can take now.
        self.ready: dict[Shape, None] = {}
        self.waiting: dict[Shape, None] = {}

    def shape_of(self, call: Call) -> Shape:
        """Return the shape of *call*, the same one for all calls that may go to the same actors."""
        key = Shape.key(call)
        shape = self._shapes.get(key)
        if shape is None:
            shape = Shape(call, self.limits)
            self._shapes[key] = shape
        return shape

    def rank(self, task: Task) -> None:
        """Give a new task its place in the order."""
        assert task.template
        call, limits = task.template.call, task.template.shape.limits
        owner: object = call.fairness_key or task.client.incarnation
        if limits is not None:
            # Where the keys of a limit take turns, each has a flow of its own.
            owner = limits.turns(call.limits) or owner
        flow = self._flows.get((owner, call.priority)) or self._flow(owner, call.priority)
        rank = flow.rank if flow.rank > self.served else self.served  # noqa: FURB136 - max costs more.
        flow.rank = rank = rank + 1.0
        task.rank = rank - flow.head_start

    def rank_of_ask(self, owner: object, priority: int) -> float:
        """Return the place of a run that asks for limits beside the queued tasks of its client."""
        flow = self._flows.get((owner, priority)) or self._flow(owner, priority)
        flow.rank = max(flow.rank, self.served) + 1.0
        return flow.rank - flow.head_start

    def _flow(self, owner: object, priority: int) -> Flow:
        if len(self._flows) > self._flows_max:
            self._flows = {k: f for k, f in self._flows.items() if f.rank > self.served}
            self._flows_max = max(FLOWS_MIN, 2 * len(self._flows))
        flow = self._flows[owner, priority] = Flow(priority)
        return flow

    def push(self, task: Task, *, is_back: bool = False) -> None:
        """Queue *task*; one that comes back keeps its rank."""
        assert task.template
        shape = task.template.shape
        if not is_back:
            self.rank(task)
        shape.push(task, is_back=is_back)
        if self.waiting:
            self.waiting.pop(shape, None)
        self.ready[shape] = None

    def remove(self, task: Task) -> None:
        """Take out a task that is adopted while it is queued."""
        assert task.template
        shape = task.template.shape
        shape.remove(task)
        if shape.limits is not None and shape.count:
            self._look_again(shape)

    def forget(self, task: Task) -> None:
        """Count out a queued task that nobody wants; it is skipped when its turn comes."""
        assert task.template
        shape = task.template.shape
        shape.forget(task)
        if shape.limits is not None and shape.count:
            self._look_again(shape)

    def wake_lane(self, shape: Shape, lane: Lane) -> None:
        """Let a lane take part again for whose first task the limits have room."""
        shape.unpark(lane)
        self._look_again(shape)

    def _look_again(self, shape: Shape) -> None:
        self.waiting.pop(shape, None)
        self.ready[shape] = None

    def serve(self, task: Task) -> None:
        """Let the common clock follow the task that is placed now."""
        assert task.template
        rank = task.rank + task.template.call.priority * PRIORITY_STEP
        if rank > self.served:  # noqa: PLR1730 - as above.
            self.served = rank

    def wake(self) -> None:
        """Look again at every shape that waits: an actor may take more than before."""
        if self.waiting:
            for shape in self.waiting:
                if shape.aside:
                    shape.recall_aside()
            self.ready.update(self.waiting)
            self.waiting.clear()

    def next_ready(self) -> tuple[Shape, Task] | None:
        """Return the lowest ranked task that was not looked at, with its shape."""
        ready = self.ready
        if len(ready) == 1:
            [only] = ready
            first = only.peek() if only.count else None
            if first is not None:
                return only, first
        best: tuple[Shape, Task] | None = None
        for shape in tuple(ready):
            task = shape.peek() if shape.count else None
            if task is None:
                del ready[shape]
                if shape.aside:
                    self.waiting[shape] = None
            elif best is None or task.rank < best[1].rank:
                best = (shape, task)
        return best

    def block(self, shape: Shape) -> None:
        """Nobody can take a task of *shape* now."""
        del self.ready[shape]
        if shape.count:
            self.waiting[shape] = None

    def unpark(self, client: "Client") -> None:
        """Let the lanes of a client that was paused take part again."""
        for shape, lane in client.parked:
            shape.unpark(lane)
            self.waiting.pop(shape, None)
            self.ready[shape] = None
        client.parked.clear()

    def forget_actor(self, actor: "Actor") -> None:
        """Drop what is remembered of an actor that is gone."""
        for shape in self._shapes.values():
            shape.fits.pop(actor, None)

    @property
    def count(self) -> int:
        """How many tasks are queued."""
        return sum(shape.count for shape in self._shapes.values())

    def check(self) -> None:
        """Assert that each shape counts what it holds, and that none with tasks is overlooked."""
        for shape in self._shapes.values():
            queued = [
                t for lane in shape.lanes.values() for t in lane.tasks if t.state is State.QUEUED
            ]
            assert shape.count == len(queued) + len(shape.aside), (shape.count, queued, shape.aside)
            assert all(task.state is State.QUEUED for task in shape.aside)
            for lane in shape.lanes.values():
                assert lane.queued == sum(task.state is State.QUEUED for task in lane.tasks)
                ranks = [task.rank for task in lane.tasks]
                assert ranks == sorted(ranks)
            if shape.count:
                parked = any(
                    s is shape for lane in shape.lanes.values() for s, _ in lane.client.parked
                )
                parked |= any(lane.waiter and lane.waiter.number for lane in shape.lanes.values())
                assert shape in self.ready or shape in self.waiting or parked


def host_limits(call: Call) -> list[tuple[str, int]]:
    """Return the limits of *call* that each host states for itself, without their prefix."""
    return sorted(
        (name.removeprefix(HOST_PREFIX), amount)
        for name, amount in call.limits.items()
        if name.startswith(HOST_PREFIX)
    )
