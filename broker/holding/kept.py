"""What those who wait keep meanwhile, and what others lack because of it (protocol.md section 9.8).

What is not known to wait is taken to go on, and what cannot be counted to be free: the rule that
must not be broken is that of `deadlock`.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from broker.disk.records import Alias
from broker.facts import spans
from broker.facts.peers import Actor, is_owned
from broker.facts.task import State, Task
from broker.holding.limits import Limits
from broker.holding.lines import AskWaiter, RunWait, Wants, host_key, keeps
from broker.waiting.costs import SLOT
from broker.waiting.queues import Queue
from broker.waiting.reservation import Reservation
from wire.limits import HOST_PREFIX
from wire.parts import WORN, Environment, Span, Token

if TYPE_CHECKING:
    from broker.core import Broker

ONE_SLOT: Final = {SLOT: 1}
# Of what somebody lacks: what a run that waits for a limit gives back when it is told so.
GIVEN: Final = frozenset({"slots", "turn"})

# What somebody lacks: a key of a limit, slots of a type or a turn on an actor, the end of a run.
Resource = tuple[Any, ...]
Wait = AskWaiter | RunWait


class Kept:
    """What some waits keep as long as they last, and what others lack because of it."""

    def __init__(
        self, broker: "Broker", waiting: Sequence[Wait], reserved: Reservation | None = None
    ) -> None:
        """Sum up what is kept while all of *waiting* last; what is kept twice counts once."""
        self._broker = broker
        self._reserved = reserved
        self._amounts: dict[Resource, int] = {}
        self._keepers: dict[Resource, list[Wait]] = {}
        # Where somebody waits for a slot of its own, ahead of those that share a replica's.
        self._ahead = {
            wait.actor
            for wait in waiting
            if isinstance(wait, RunWait) and not (wait.enough or is_sharing(wait.task))
        }
        # The first of a queue that is to be alone in its group: to find it takes a look at all.
        self._alone: dict[Queue | None, Task | None] = {}
        seen: set[tuple[Token, Any]] = set()
        # Those that are to have all of their slots again.
        self._claiming: list[RunWait] = []
        for wait in waiting:
            token = token_of(wait)
            self._keep(wait, ("run", token), 0)
            for number, wants in kept_by(broker.limits, wait):
                for name, amount in wants:
                    is_new = (token, number) not in seen
                    self._keep(wait, ("key", name), amount if is_new else 0)
                seen.add((token, number))
            # What its actor did not say that it gave back; a named one keeps the turn to the end.
            task, is_new = task_of(wait), (token, "slots") not in seen
            seen.add((token, "slots"))
            if not task.template:
                continue
            actor, call = actor_of(wait), task.call
            parts = broker.limits.waits
            # Whoever was told to give them back is about to say that it did.
            run = broker.limits.runs.get(token)
            is_released = task.is_released or (run is not None and run.giving is not None)
            is_named = call.environment is not None and call.environment.named is not None
            if call.environment is not None and (is_named or not is_released):
                turns = call.environment.turns if is_new else 0
                self._keep(wait, turn_of(actor, call.environment), turns)
            if not is_released and is_sharing(task):
                if token in parts.parts:
                    continue
                # All of them have one slot.
                share = ("share", actor, task.template.costs.place)
                is_new = share not in self._keepers
                self._keep(wait, share, 0)
                self._keep(wait, ("slots", actor, SLOT), int(is_new))
            elif not is_released:
                for kind, amount in parts.left(token, slots_of(task)).items():
                    if amount:
                        self._keep(wait, ("slots", actor, kind), amount if is_new else 0)
            elif isinstance(wait, RunWait) and not wait.enough:
                self._claiming.append(wait)
        for wait in self._claiming:
            self._claim(wait)

    def _claim(self, wait: RunWait) -> None:
        """Count the slots that a run is to have again: no call is given those meanwhile."""
        actor, task = wait.actor, wait.task
        slots = lacked(wait)
        self._keep(wait, ("claim", wait), 0)
        if is_sharing(task):
            assert task.template
            share = ("share", actor, task.template.shape.cost.place)
            claimed = ("claims", *share)
            slots = {SLOT: int(not (share in self._keepers or claimed in self._keepers))}
            self._keep(wait, claimed, 0)
        for kind, amount in slots.items():
            self._keep(wait, ("claims", actor, kind), amount)

    def _keep(self, wait: Wait, resource: Resource, amount: int) -> None:
        self._amounts[resource] = self._amounts.get(resource, 0) + amount
        self._keepers.setdefault(resource, []).append(wait)

    def givers(self, lacking: set[Resource]) -> set[Wait]:
        """Return who keeps slots or turns of *lacking* that it would give back while it waits.

        A named actor's turn, which is of no actor, it keeps to its end.
        """
        given = {one for one in lacking if one[0] in GIVEN and one[1] is not None}
        return {
            wait
            for wait in self.keepers(given)
            if isinstance(wait, AskWaiter) and wait.may_give_back
        }

    def keepers(self, resources: set[Resource]) -> Iterator[Wait]:
        """Return who keeps some of *resources*."""
        return (wait for resource in resources for wait in self._keepers.get(resource, ()))

    def blockers(self, wait: Wait) -> Iterator[Wait]:
        """Return who keeps what *wait* lacks; no run lacks what it kept itself of its slots."""
        keepers = self.keepers(self.lacks(wait))
        if isinstance(wait, AskWaiter) or wait.enough:
            return keepers
        return (other for other in keepers if token_of(other) != wait.token)

    def lacks(self, wait: Wait) -> set[Resource]:
        """Return what *wait* cannot have beside what is kept; nothing if it can end."""
        if isinstance(wait, AskWaiter):
            return self._lacks_limits(wait.wants)
        if wait.enough:
            return self._lacks_calls(wait)
        if not wait.task.template:
            return set()
        is_part = wait.token in self._broker.limits.waits.parts
        if is_part and wait.slots is None:
            return set()  # Nobody says which it lacks.
        lacking = self._lacks_types(wait.task, wait.actor, lacked(wait))
        if not is_inside(wait.task):
            lacking |= self._lacks_turn(wait.task, wait.actor) | self._lacks_place(wait)
        return lacking or self._lacks_behind(wait)

    def _lacks_limits(self, wants: Wants) -> set[Resource]:
        limits = self._broker.limits
        return {
            ("key", name)
            for name, amount in wants
            if not limits.is_decaying(name)
            and limits.maximum(name) - self._amounts.get(("key", name), 0) < amount
            and ("key", name) in self._keepers
        }

    def _lacks_calls(self, wait: RunWait) -> set[Resource]:
        client = self._broker.clients.get(wait.client)
        listed = sum(last - first + 1 for first, last in wait.calls)
        stuck, lacking = 0, set()
        # What is not here has ended, or has still to come.
        tasks = client.tasks if client is not None else {}
        for number in numbers(wait.calls, tasks):
            found = self._lacks_end(tasks[number])
            stuck += bool(found)
            lacking |= found
        return lacking if listed - stuck < wait.enough else set()

    def _lacks_end(self, task: Task) -> set[Resource]:
        """Return what keeps a call from its end; of another name what keeps that task from its."""
        if task.state is State.ATTACHED:
            assert isinstance(task.record, Alias)
            task = task.record.target
        if task.state is State.QUEUED:
            return self._lacks_start(task)
        run = ("run", task.token)
        return {run} if is_owned(task) and not task.is_finished and run in self._keepers else set()

    def _lacks_start(self, task: Task) -> set[Resource]:
        wants = tuple(task.call.limits.items())
        lacking = self._lacks_limits(tuple(w for w in wants if not w[0].startswith(HOST_PREFIX)))
        if lacking:
            return lacking
        assert task.template
        shape, place, waits = task.template.shape, task.call.environment, self._broker.limits.waits
        for actor in self._broker.actors.values():
            if not shape.suits(actor) or self._is_elsewhere(place, actor):
                continue
            if actor.is_leaving and (shape.cost.named or not waits.is_call_of(actor, task)):
                if shape.home is actor:  # It is elsewhere when all runs there have ended.
                    lacking |= {("run", token) for token in actor.assigned} & self._keepers.keys()
                continue
            own = tuple((host_key(name, actor.host), n) for name, n in shape.cost.host_limits)
            missing = self._lacks_slots(task, actor) | self._lacks_limits(own)
            missing |= self._lacks_unclaimed(task, actor)
            if place is not None and place.named is None:
                missing |= self._lacks_room(place, actor)
            elif not missing and (ahead := self._held_up_by(task)) is not None:
                missing = self._lacks_slots(ahead, actor)
            if not missing:
                return set()
            lacking |= missing
        return lacking

    def _held_up_by(self, task: Task) -> Task | None:
        """Return the call to a named actor, to be alone in its group, that *task* waits behind."""
        assert task.template
        queue = task.template.shape.queue
        if queue not in self._alone:
            self._alone[queue] = self._broker.backlog.first_alone(queue)
        first = self._alone[queue]
        return first if first is not None and first.rank < task.rank else None

    def _lacks_behind(self, wait: RunWait) -> set[Resource]:
        """Return which slots a run lacks that are for those that asked for theirs before it.

        One whose environment has no turn is passed over, so of these nothing is said.
        """
        actor = wait.actor
        lacking: set[Resource] = set()
        if not wait.task.is_released or is_sharing(wait.task):
            return lacking
        ahead = {
            ("claim", one): lacked(one)
            for one in self._claiming
            if one.order < wait.order and one.actor is actor and not one.task.call.environment
        }
        for kind, amount in lacked(wait).items() if ahead else ():
            kept = ("slots", actor, kind)
            left = actor.slots.get(kind, 0) - self._amounts.get(kept, 0)
            if left - sum(slots.get(kind, 0) for slots in ahead.values()) < amount:
                lacking |= {kept, *ahead}
        return lacking

    def _lacks_unclaimed(self, task: Task, actor: Actor) -> set[Resource]:
        """Return which slots of *actor* a call lacks that are for others ahead of it.

        For those that wait to have theirs again, and for a large task where it reserved the actor.
        """
        reserved = self._reserved
        lacking: set[Resource] = set()
        if reserved is not None and reserved.binds(task, actor):
            lacking |= self._lacks_slots(reserved.task, actor)
        assert task.template
        if is_sharing(task) and ("share", actor, task.template.shape.cost.place) in self._keepers:
            return lacking
        for kind, amount in slots_of(task).items():
            kept, claim = ("slots", actor, kind), ("claims", actor, kind)
            left = actor.slots.get(kind, 0) - self._amounts.get(kept, 0)
            if claim in self._keepers and left - self._amounts[claim] < amount:
                lacking |= {kept, claim}
        return lacking

    def _is_elsewhere(self, place: Environment | None, actor: Actor) -> bool:
        """Tell whether there are as many copies of *place* as may be, and none on *actor*."""
        if place is None or place.named is not None or place.id in actor.copies:
            return False
        record = self._broker.environments.records.get(place.id)
        if record is None or record.environment.reuse.is_fresh:
            return False
        most = record.environment.reuse.replicas_max
        return most is not None and len(record.copies) >= max(1, most)

    def _lacks_room(self, place: Environment, actor: Actor) -> set[Resource]:
        """Return the turns that keep *place* from being entered in *actor*, where it is cold.

        Whoever is to have its own environment there again, and is not stuck, will go on.
        """
        credit = actor.credit
        if credit.has_resident(place.id) or credit.has_room:
            return set()
        kept = self._turns_inside(actor)
        if not kept:
            return set()
        for token, task in actor.assigned.items():
            own = task.call.environment if task.template else place
            if task.is_released and own is not None and own.id not in actor.copies:
                # Unless it waits for something else, the room may be kept for it.
                mine = self._keepers.get(("run", token), ())
                if not mine:
                    return set()
                if any(isinstance(one, RunWait) and not one.enough for one in mine):
                    kept.add(("run", token))
        return kept

    def _lacks_place(self, wait: RunWait) -> set[Resource]:
        """Return the turns that keep the environment of a run from being entered again.

        It was evicted while the run waited, and goes ahead of all that is cold.
        """
        actor, place = wait.actor, wait.task.call.environment
        if place is None or place.named is not None or place.id in actor.copies:
            return set()
        if not actor.places or actor.count_inside().total() < actor.places:
            return set()
        return self._turns_inside(actor)

    def _turns_inside(self, actor: Actor) -> set[Resource]:
        """Return the turns in all that is entered on *actor*, nothing where one of it can leave.

        One that stays keeps a copy where it is; of those for a single run each has its own.
        """
        inside = actor.count_inside()
        stay = all(
            self._amounts.get(("turn", actor, name), 0) >= count for name, count in inside.items()
        )
        return {("turn", actor, name) for name in inside} if stay else set()

    def _lacks_slots(self, task: Task, actor: Actor) -> set[Resource]:
        """Return which slots of *actor*, or turn there, *task* cannot have to start."""
        return self._lacks_types(task, actor, slots_of(task)) | self._lacks_turn(task, actor)

    def _lacks_types(self, task: Task, actor: Actor, wanted: dict[str, int]) -> set[Resource]:
        """Return which of the slots *wanted* a task cannot have on *actor*."""
        assert task.template
        share = ("share", actor, task.template.costs.place)
        if is_sharing(task) and share in self._keepers and actor not in self._ahead:
            return set()
        kept = {("slots", actor, kind): amount for kind, amount in wanted.items() if amount}
        return {
            slots
            for slots, amount in kept.items()
            if actor.slots.get(slots[2], 0) - self._amounts.get(slots, 0) < amount
        }

    def _lacks_turn(self, task: Task, actor: Actor) -> set[Resource]:
        """Return the turn on *actor* that *task* cannot have, which has none."""
        place = task.call.environment
        if place is None or place.reuse.is_fresh:
            return set()
        turn = turn_of(actor, place)
        kept = self._amounts.get(turn, 0)
        lacks = place.size - kept < place.turns or (kept and is_worn(place, actor))
        return {turn} if lacks else set()


def slots_of(task: Task) -> dict[str, int]:
    """Return what a task costs."""
    return task.call.slots or ONE_SLOT


def lacked(wait: RunWait) -> dict[str, int]:
    """Return the slots that a run waits to have again."""
    return slots_of(wait.task) if wait.slots is None else wait.slots


def is_inside(task: Task) -> bool:
    """Tell whether a run has its turn: one that gave back a part, or is in a named actor, does."""
    place = task.call.environment
    return not task.is_released or (place is not None and place.named is not None)


def is_sharing(task: Task) -> bool:
    """Tell whether a task shares the slot of a replica where others are inside."""
    template = task.template
    return template.shape.cost.is_sharing if template else False


def is_worn(place: Environment, actor: Actor) -> bool:
    """Tell whether the copy of *place* on *actor* takes nobody in until all inside have left.

    What a heartbeat said may be of an earlier copy; then this one has turns.
    """
    worn = actor.environments.get(place.id) == WORN
    return worn and actor.credit.stated.turns.get(place.pool) == 0


def turn_of(actor: Actor, environment: Environment) -> Resource:
    """Return the turn in an environment's copy on *actor*; of a named one there is one copy."""
    return ("turn", None if environment.named is not None else actor, environment.pool)


def numbers(calls: list[Span], tasks: dict[int, Task]) -> Iterator[int]:
    """Return the numbers in *calls* that are among *tasks*."""
    if sum(last - first + 1 for first, last in calls) > len(tasks):
        yield from (number for number in tasks if spans.holds(calls, number))
    else:
        for first, last in calls:
            yield from (number for number in range(first, last + 1) if number in tasks)


def kept_by(limits: Limits, wait: Wait) -> list[tuple[int, Wants]]:
    """Return what limits the run of *wait* does not give back before that is over."""
    if isinstance(wait, AskWaiter):
        return wait.kept()
    run = limits.runs.get(wait.token)
    return keeps(run.rows, wait.within) if run is not None else []


def token_of(wait: Wait) -> Token:
    return wait.run.token if isinstance(wait, AskWaiter) else wait.token


def task_of(wait: Wait) -> Task:
    return wait.run.task if isinstance(wait, AskWaiter) else wait.task


def actor_of(wait: Wait) -> Actor:
    return wait.run.actor if isinstance(wait, AskWaiter) else wait.actor
