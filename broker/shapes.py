"""What decides where a task may go, and the tasks that wait under it.

Tasks that may go to the same actors wait under one *shape*. Under a shape each client has a lane
for each priority, first in first out; the lowest rank of all lanes comes first.
"""

from collections import deque
from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING, Final

import msgspec

from broker.queues import Wait
from broker.task import State, Task
from wire.labels import Desire, satisfies_all
from wire.limits import HOST_PREFIX
from wire.parts import Call

if TYPE_CHECKING:
    from broker.crews import Crew
    from broker.limits import Limits
    from broker.lines import LaneWaiter
    from broker.peers import Actor, Client
    from broker.queues import Queue

# The type of slots that a task takes which names none.
SLOT: Final = "slot"
# From here on what is skipped anyway is taken out once it is the greater part.
LEFT_OUT_MIN: Final = 64
VOID_MIN: Final = 64
# From here on a lane holds its tasks as a deque, which is large while it is short.
FEW_TASKS: Final = 16

# What most shapes have; never changed.
NO_SLOTS: Final[dict[str, int]] = {}
NO_LIMITS: Final[list[tuple[str, int]]] = []

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


class Shape:
    """What decides where a task may go. Tasks of one shape are interchangeable for placement."""

    __slots__ = (
        "__weakref__",
        "_entered",
        "_heap",
        "_lanes",
        "affinity_wait_s",
        "alone",
        "aside",
        "cost",
        "count",
        "desires",
        "entry",
        "environment",
        "fail_infeasible",
        "has_affinity",
        "has_groups",
        "home",
        "host_limits",
        "is_armed_first",
        "is_hard",
        "is_large",
        "is_plain",
        "is_sharing",
        "is_shut",
        "is_simple",
        "is_told",
        "limits",
        "may_wait_ahead",
        "named",
        "needs_admission",
        "only",
        "packs",
        "place",
        "plain",
        "pool",
        "queue",
        "slots",
        "sticky",
        "tiers",
        "turns",
        "turns_taken",
        "typed",
        "wait",
    )

    def __init__(self, call: Call, limits: "Limits | None" = None) -> None:
        """Take from *call* what matters for placement."""
        # Who knows whether there is room, where the calls have limits; those of the actor's host.
        self.limits = limits if call.limits else None
        self.host_limits = host_limits(call) if call.limits else NO_LIMITS
        self.desires: list[Desire] = call.desires
        self.slots = call.slots
        # What one task costs: plain slots, and slots of other types.
        self.plain = call.slots.get(SLOT, 0) if call.slots else 1
        self.typed = NO_SLOTS
        if call.slots:
            self.typed = {kind: n for kind, n in call.slots.items() if kind != SLOT}
        self._enter_at(call)
        self.needs_admission = self.limits is not None or self.named
        self.is_plain = self.plain == 1 and not self.typed and not self.named
        # One that costs more than one unit could be starved by those that cost less.
        self.is_large = self.plain + sum(self.typed.values()) > 1
        self.fail_infeasible = call.fail_infeasible
        # The key that may be bound to one actor, and whether only that one will do.
        self.sticky = call.sticky.key if call.sticky is not None else ""
        self.is_hard = call.sticky is not None and call.sticky.hard
        self.has_affinity = any(not desire.required for desire in call.desires)
        # A task that waits in a mailbox may be handed back, so what must never run twice does not
        # go there, nor what must keep its order.
        self.may_wait_ahead = not (
            call.at_most_once or call.limits or call.slots or self.named or self.is_sharing
        )
        # Tasks that may start only once the journal says so. Of a call to a durable named actor it
        # must know, since what the call changes will be in a checkpoint.
        self.is_armed_first = is_armed_first(call)
        # Whether somebody was told that no connected actor could take one of these.
        self.is_told = False
        # A task that waits here with no other stands in no lane: of 100,000 kinds most have but
        # one. With limits each has a lane, which waits in their lines.
        self.only: Task | None = None
        self._lanes: dict[object, Lane] | None = None
        # How many tasks are queued here, also those set aside.
        self.count = 0
        # Queued tasks that were REJECTed by every actor that could take them now.
        self.aside: list[Task] | tuple[()] = ()
        # Whoever satisfies it and has a slot can have a task, and the first of these is the best.
        self.is_simple = (
            self.is_plain
            and self.environment is None
            and not (self.has_affinity or call.limits or call.fail_infeasible or self.sticky)
            and not self.is_armed_first
        )
        # Where tasks wait for an actor that they like better, though another one is free.
        self.wait: Wait | None = None
        if self.has_affinity and self.affinity_wait_s and self.place is None:
            self.wait = Wait(self.affinity_wait_s)
        self.cost = self._cost()
        # Where it waits, with others for the same actors, and the rank under which it stands there;
        # None while that is not known.
        self.queue: Queue | None = None
        self.entry: float | None = None
        # Who of those actors has which weight, the highest first; each with those before it.
        self.tiers: list[tuple[float, Crew]] | None = None
        self._heap: list[tuple[float, int, Lane]] | None = None
        # How many entries of the heap were made; of two with one rank the earlier goes first.
        self._entered = 0

    def _cost(self) -> tuple[object, ...]:
        """Return what is equal for those that any actor can take, or none.

        Labels and environment play no part.
        """
        return (
            self.plain,
            (self.is_sharing, self.packs),
            tuple(sorted(self.typed.items())),
            self.may_wait_ahead,
            tuple(self.host_limits),
            self.fail_infeasible,
            self.pool if self.named else None,
            self.turns_taken,
            self.affinity_wait_s,
        )

    def _enter_at(self, call: Call) -> None:
        # How long a task waits for a copy of its environment before it has one more entered; None
        # for as long as entering takes.
        self.affinity_wait_s = call.affinity_wait_s
        # What is to be entered, and how many may be inside; what room must be found for, if it is
        # not there. Calls to a named actor need no room, but go where it is; now perhaps nowhere.
        self.place = call.environment.id if call.environment else None
        self.pool = call.environment.pool if call.environment else None
        self.turns = call.environment.size if call.environment else 0
        # How many turns of its environment one task takes.
        self.turns_taken = call.environment.turns if call.environment else 0
        self.named = call.environment is not None and call.environment.named is not None
        # Whether it needs no slot of its own where others are inside: one that takes a turn among
        # several is free where its replica holds a slot, and takes one for all elsewhere.
        is_among, self.has_groups = self.turns_taken < self.turns, False
        if self.named:
            # All calls of a group wait in one line: what each takes is what its template costs.
            assert call.environment
            is_among, self.turns_taken = call.environment.is_shared, 1
            self.has_groups = bool(call.environment.named and call.environment.named.groups)
        self.alone: Shape | None = None
        self.is_sharing = is_among and self.plain == 1 and not self.typed
        if self.is_sharing:
            self.plain = 0
        # Whether its tasks fill one copy before they use the next, since all inside run at once.
        self.packs = self.is_sharing and not self.named
        if call.environment is not None and call.environment.gathers:
            self.packs = False
        self.environment = None if self.named else self.place
        self.home: Actor | None = None
        self.is_shut = False

    @staticmethod
    def key(call: Call) -> bytes:
        """Return what is equal for calls of the same shape."""
        place = call.environment
        environment = None
        if place is not None and place.named is not None:
            environment = (place.pool, 1, place.size, False)
        elif place is not None:
            environment = (place.id, place.turns, place.concurrency, place.gathers)
        return _encode(
            (
                call.desires,
                sorted(call.slots.items()),
                environment,
                (call.at_most_once, is_armed_first(call)),
                bool(call.limits),
                host_limits(call),
                call.fail_infeasible,
                (call.sticky.key, call.sticky.hard) if call.sticky is not None else None,
                call.affinity_wait_s,
            )
        )

    def costs_of(self, call: Call) -> "Shape":
        """Return the shape of what *call* costs, which waits here: it may be alone in its group."""
        turns = call.environment.turns if self.named and call.environment else 1
        if turns == 1:
            return self
        if self.alone is None:
            self.alone = Shape(call, self.limits)
            self.alone.turns_taken = turns
        return self.alone

    def shares(self, other: "Shape") -> bool:
        """Tell whether both take slots of one type."""
        takes_plain = self.plain > 0 or self.is_sharing
        is_plain = takes_plain and (other.plain > 0 or other.is_sharing)
        return is_plain or not self.typed.keys().isdisjoint(other.typed)

    def could_hold(self, actor: "Actor") -> bool:
        """Tell whether *actor* has the capacity for one task."""
        return all(actor.slots.get(kind, 0) >= amount for kind, amount in self.slots.items())

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
            and self.could_hold(actor)
            and satisfies_all(actor.labels, self.desires)
        )

    @property
    def rank(self) -> float | None:
        """The rank before which no task comes here, None when all wait for something else."""
        if self.only is not None:
            return self.only.rank
        return self._heap[0][0] if self._heap else None

    @property
    def lanes(self) -> dict[object, Lane]:
        """The lanes of this shape; none while there is but one task."""
        return self._lanes or {}

    def tasks(self) -> list[Task]:
        """Return all that wait here, also those set aside."""
        only = [self.only] if self.only is not None else []
        return [*only, *(task for lane in self.lanes.values() for task in lane.tasks), *self.aside]

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
        key = self.lane_key(task)
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

    def _line_up(self) -> dict[object, Lane]:
        """Return the lanes, which are made now; the only task stands in one from now on."""
        lanes = self._lanes = {}
        self._heap = []
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
        heap = self._heap
        while heap:
            rank, _, lane = heap[0]
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
        heap = self._heap
        assert heap
        rank, _, lane = heap[0]
        tasks = lane.tasks
        assert tasks[0] is task
        assert rank == task.rank
        del tasks[0]
        lane.queued -= 1
        if lane.queued:
            lane.entry = rank = tasks[0].rank
            self._entered += 1
            heapreplace(heap, (rank, self._entered, lane))
        else:
            heappop(heap)
            self._drop(lane)

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
        call = task.template.call
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
        heap = self._heap
        assert heap is not None
        if len(heap) > VOID_MIN + 2 * len(self.lanes):
            # Most entries are void, or there twice; only those at the top are ever dropped.
            entered = [(one.entry, one) for one in self.lanes.values() if one.entry is not None]
            heap[:] = [(at, number, one) for number, (at, one) in enumerate(entered)]
            self._entered = len(entered)
            heapify(heap)
        else:
            self._entered += 1
            heappush(heap, (rank, self._entered, lane))

    def _drop(self, lane: Lane) -> None:
        lane.entry = None
        if lane.waiter is not None:
            lane.waiter.limits.leave(lane.waiter)
        lane.tasks.clear()
        assert self._lanes
        del self._lanes[lane.key]
        if not self._lanes:
            # What is left in the heap is void.
            self._lanes = self._heap = None


def is_armed_first(call: Call) -> bool:
    """Tell whether the journal must say that a task may start."""
    is_named = call.environment is not None and call.environment.named is not None
    return call.durable and (call.at_most_once or is_named)


def host_limits(call: Call) -> list[tuple[str, int]]:
    """Return the limits of *call* that each host states for itself, without their prefix."""
    return sorted(
        (name.removeprefix(HOST_PREFIX), amount)
        for name, amount in call.limits.items()
        if name.startswith(HOST_PREFIX)
    )
