"""The tasks that are submitted and not assigned: in which order they come out.

Tasks that may go to the same actors wait under one *shape* (`shapes`), shapes for the same actors
in one queue (`queues`). All are ordered by one number, the rank: a flow (a client or fairness key,
at one priority) takes the next rank from its own clock, which never lags behind the rank served
last (start-time fair queueing). So a client with 100,000 tasks and one with a single task
alternate, a higher priority is a head start of PRIORITY_STEP ranks, and since ranks only grow
nobody starves.
"""

from heapq import heappop
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

import msgspec

from broker.facts.task import PRIORITY_STEP, FunctionBlob, Kind, State, Task, head_of
from broker.waiting.costs import Cost
from broker.waiting.matching import Matching
from broker.waiting.queues import Queue, Ready
from broker.waiting.shapes import Lane, Shape, shape_of
from wire.parts import Call

if TYPE_CHECKING:
    from broker.facts.peers import Client
    from broker.holding.limits import Limits

# From here on flows are looked through for those that say nothing any more.
FLOWS_MIN: Final = 4_096
# Of so many functions calls may desire something else each time and share what else they say.
KINDS_MAX: Final = 256

_encode = msgspec.msgpack.Encoder().encode


class Flow:
    """The clock of one client, or fairness key, at one priority."""

    __slots__ = ("head_start", "rank")

    def __init__(self, priority: int) -> None:
        """Begin with a clock that has served nothing."""
        self.rank = 0.0
        self.head_start = priority * PRIORITY_STEP


class Backlog:
    """All shapes, the flows' clocks, and which queues may have something to place."""

    __slots__ = (
        "_costs",
        "_flows",
        "_flows_max",
        "_kinds",
        "_ready",
        "_shapes",
        "limits",
        "matching",
        "newcomer",
        "ready",
        "served",
    )

    def __init__(self) -> None:
        """Begin empty."""
        # Set by the broker, which needs the backlog to make it.
        self.limits: Limits | None = None
        # A shape lives as long as a template or a queued task uses it, and so does what it costs.
        self._costs: WeakValueDictionary[bytes, Cost] = WeakValueDictionary()
        self._shapes: WeakValueDictionary[bytes, Shape] = WeakValueDictionary()
        # What calls that came of late have in common.
        self._kinds: dict[tuple[object, ...], Kind] = {}
        self._flows: dict[tuple[object, int], Flow] = {}
        self._flows_max = FLOWS_MIN
        self.served = 0.0
        self._ready = Ready()
        # Not empty while there is something to be looked at.
        self.ready = self._ready.heap
        self.matching = Matching(self._ready)
        # A shape with the only task that is to be looked at, which stands in no heap yet: in most
        # turns it is placed from here.
        self.newcomer: Shape | None = None

    def shape_of(self, call: Call) -> Shape:
        """Return the shape of *call*, the same one for all calls that may go to the same actors."""
        cost_key = Cost.key_of(call)
        key = Shape.key(call, cost_key)
        shape = self._shapes.get(key)
        if shape is None:
            cost = self._costs.get(cost_key)
            if cost is None:
                cost = self._costs[cost_key] = Cost(call)
            shape = self._shapes[key] = shape_of(call, self.limits, cost)
        return shape

    def kind_of(
        self, call: Call, shape: Shape, function: FunctionBlob | None, blob: FunctionBlob | None
    ) -> Kind:
        """Return what *call* has in common with others that desire something else, once for all."""
        head, kinds = head_of(call), self._kinds
        # Code is that of who sent it: whatever it is named, another one's is not run in its place.
        key = (_encode(head), shape.cost, function, blob)
        kind = kinds.get(key)
        if kind is None:
            if len(kinds) >= KINDS_MAX:
                kinds.clear()
            kind = kinds[key] = Kind(head, shape.cost.of(call), function, blob)
        return kind

    def rank(self, task: Task) -> None:
        """Give a new task its place in the order."""
        assert task.template
        call, limits = task.template.kind.head, task.template.shape.limits
        owner: object = call.fairness_key or task.client.incarnation
        if limits is not None:
            # Where the keys of a limit take turns, each has a flow of its own.
            owner = limits.turns(call.limits) or owner
        flow = self._flows.get((owner, call.priority)) or self._flow(owner, call.priority)
        rank = flow.rank
        if rank < self.served:  # noqa: PLR1730 - max costs more.
            rank = self.served
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
        if self.newcomer is not None:
            self.line_up()
        if not is_back:
            self.rank(task)
        shape.push(task, is_back=is_back)
        queue = shape.queue
        if queue is None:
            self.matching.attach(shape)
            queue = shape.queue
            assert queue is not None
        if queue.is_blocked:
            crew, count = queue.crew, shape.count
            # More may have to be done than to find an actor; and what waits for a copy of its
            # environment may be too much for it by now.
            if crew.is_special or (queue.environment is not None and not count & (count - 1)):
                crew.unblock(self._ready)
        elif shape.cost.is_direct and shape.only is task and shape.entry is None and not self.ready:
            self.newcomer = shape
            return
        if shape.entry is None or task.rank < shape.entry:
            self.matching.look(shape)

    def line_up(self) -> None:
        """Let the newcomer stand with all others: it is not the only one that is looked at."""
        shape, self.newcomer = self.newcomer, None
        if shape is not None and shape.queue is not None:
            self.matching.look(shape)

    def remove(self, task: Task) -> None:
        """Take out a task that is adopted while it is queued."""
        assert task.template
        shape = task.template.shape
        shape.remove(task)
        self._look_behind(shape)

    def forget(self, task: Task) -> None:
        """Count out a queued task that nobody wants; it is skipped when its turn comes."""
        assert task.template
        shape = task.template.shape
        shape.forget(task)
        self._look_behind(shape)

    def _look_behind(self, shape: Shape) -> None:
        """Look at who stood behind a task that is gone."""
        if shape.wait is not None:
            # The wait was that of the first, which may be the one that is gone.
            self.matching.end_wait(shape)
        elif shape.limits is not None and shape.count:
            self.matching.look(shape)
        if not shape.count:
            self.matching.rest(shape)
        if shape.cost.alone is not None and shape.queue is not None:
            # It may have been the one that was to be alone, and held up the others.
            shape.queue.crew.unblock(self._ready)

    def take(self, shape: Shape, task: Task) -> None:
        """Take out *task*, which `next_ready` returned, to be placed now."""
        shape.pop(task)
        if not shape.count:
            self.matching.rest(shape)
        self.serve(task)

    def set_aside(self, shape: Shape, task: Task) -> None:
        """Let *task*, which `next_ready` returned, not be in the way of those behind it."""
        self.matching.set_aside(shape, task)

    def wake_lane(self, shape: Shape, lane: Lane) -> None:
        """Let a lane take part again for whose first task the limits have room."""
        shape.unpark(lane)
        self.matching.look(shape)

    def serve(self, task: Task) -> None:
        """Let the common clock follow the task that is placed now."""
        assert task.template
        rank = task.rank + task.template.kind.head_start
        if rank > self.served:  # noqa: PLR1730 - as above.
            self.served = rank

    def wake(self) -> None:
        """Look again at everything: something happened that may concern anybody."""
        self.matching.wake()

    def next_ready(self) -> tuple[Shape, Task] | None:
        """Return the lowest ranked task that may find an actor, with its shape."""
        if self.newcomer is not None:
            self.line_up()
        return self._ready.first()

    def block(self, queue: Queue) -> None:
        """Note that nobody can take the task of *queue* that `next_ready` returned."""
        self.matching.blocks += 1
        queue.crew.block(queue)
        ready = self.ready
        if ready[0][2] is queue:
            heappop(ready)

    def leave(self, queue: Queue) -> None:
        """Look no more at *queue*, which `next_ready` found first, and which is empty now."""
        queue.entry = None
        heappop(self.ready)

    def unpark(self, client: "Client") -> None:
        """Let the lanes of a client that was paused take part again."""
        for shape, lane in client.parked:
            shape.unpark(lane)
            # Meanwhile it may have lost all its tasks, and its place with them.
            if shape.queue is not None:
                self.matching.look(shape)
        client.parked.clear()

    def first_alone(self, queue: Queue | None) -> Task | None:
        """Return the first call to a named actor in *queue* that is to be alone in its group."""
        alone = (
            one
            for shape in self._shapes.values()
            if shape.queue is queue and shape.cost.alone is not None
            for one in shape.standing()
            if one.template and one.template.costs is shape.cost.alone
        )
        return min(alone, key=lambda one: one.rank, default=None)

    def shapes(self) -> list[Shape]:
        """Return every shape that there is."""
        return list(self._shapes.values())

    @property
    def count(self) -> int:
        """How many tasks are queued."""
        return sum(shape.count for shape in self._shapes.values())

    def check(self) -> None:
        """Assert that each shape counts what it holds, and stands where its tasks come out."""
        for shape in self._shapes.values():
            queued = [
                t for lane in shape.lanes.values() for t in lane.tasks if t.state is State.QUEUED
            ]
            if shape.only is not None:
                assert not shape.lanes
                assert shape.limits is None
                queued.append(shape.only)
            assert len({*queued, *shape.aside}) == len(queued) + len(shape.aside)
            assert shape.count == len(queued) + len(shape.aside), (shape.count, queued, shape.aside)
            assert all(task.state is State.QUEUED for task in queued)
            assert all(task.state is State.QUEUED for task in shape.aside)
            for lane in shape.lanes.values():
                assert lane.queued == sum(task.state is State.QUEUED for task in lane.tasks)
                ranks = [task.rank for task in lane.tasks]
                assert ranks == sorted(ranks)
            if shape.count:
                self._check_place(shape)
        self.matching.check()

    def _check_place(self, shape: Shape) -> None:
        queue = shape.queue
        assert queue is not None
        if shape is self.newcomer:
            assert shape.cost.is_direct
            return
        if shape.rank is None or shape.entry is None:
            parked = any(s is shape for lane in shape.lanes.values() for s, _ in lane.client.parked)
            parked |= any(lane.waiter and lane.waiter.number for lane in shape.lanes.values())
            parked |= shape.wait is not None and shape.wait.queue is not None
            assert parked or (shape.aside and shape in queue.crew.aside)
            return
        assert shape.entry <= shape.rank
        assert queue.is_blocked or (queue.entry is not None and queue.entry <= shape.entry)
        if queue.environment is not None and not queue.is_skipped:
            cold = queue.crew.cold
            assert queue.cold_entry is not None
            assert queue.cold_entry <= shape.entry
            assert cold.is_blocked or (cold.entry is not None and cold.entry <= shape.entry)
