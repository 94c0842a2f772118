"""What the broker knows of each environment: its copies, what reuse saved, why it fails.

A copy is an environment in an actor that is not cold there, or an assignment on its way that makes
it so. The rule that must not be broken: a copy is known under its environment and under its actor,
or under neither.
"""

from collections.abc import Container, Iterator
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Any, Final

from broker.facts.deadlines import Deadlines
from broker.facts.peers import Actor
from broker.facts.task import Ending, State, Task
from broker.placing import replicas
from broker.placing.copies import Copy, Kind, Record
from broker.tasks import forgetting, lifecycle, named
from broker.waiting.shapes import Shape
from wire import codec
from wire.errors import Code
from wire.messages import Entered
from wire.parts import Environment, Failure, Status
from wire.texts import brief

if TYPE_CHECKING:
    from broker.core import Broker

# Environments without a copy are remembered for so long, and so many of them.
KEPT_S: Final = 3_600.0
KEPT_MAX: Final = 1_024
# Of so many that were in an actor it is told that they are cold there.
FORMER_MAX: Final = 64
# How often they are looked through for that.
PRUNE_S: Final = 10.0
BACKOFF_MAX_S: Final = 60.0
# What one run counts in how long they take.
RUN_SHARE: Final = 0.125


class Environments:
    """All environments that somebody has or wants."""

    __slots__ = (
        "broken_until",
        "due",
        "kinds",
        "lacking",
        "newest",
        "prune_at",
        "records",
        "unplaced",
    )

    def __init__(self) -> None:
        """Begin with none."""
        self.records: dict[str, Record] = {}
        # By the class what is known of all that are of it.
        self.kinds: dict[str, Kind] = {}
        # Of the versions of one environment the one that was known last, by what they share.
        self.newest: dict[str, Record] = {}
        # When `replicas.look` is due for which; never later than the first thing to do.
        self.due: Deadlines[Record] = Deadlines()
        # When `upkeep.look` is due for those with fewer copies than they are to have; for how many
        # copies of which it found no actor.
        self.lacking: Deadlines[Record] = Deadlines()
        self.unplaced: dict[Record, int] = {}
        self.prune_at = 0.0
        # Until when tasks of any of them may have to end at once.
        self.broken_until = 0.0

    def look_at(self, record: Record, at: float) -> None:
        """Have `replicas.look` look at *record* no later than *at*."""
        if at < record.look_at:
            record.look_at = at
            self.due.set(record, at)

    def lack(self, record: Record, at: float) -> None:
        """Have `upkeep.look` look at *record* at *at*, if it has fewer copies than it needs."""
        if record.template is not None and record.missing:
            self.lacking.set(record, at)

    def learn(self, environment: Environment, now: float) -> Record:
        """Return the record of *environment*, whose policy is now as it says."""
        record = self.records.get(environment.id)
        if record is None:
            kind = self.kinds.setdefault(environment.kind, Kind()) if environment.kind else Kind()
            record = self.records[environment.id] = Record(environment, now, kind)
            if environment.lineage:
                self.newest[environment.lineage] = record
        if record.environment != environment:
            record.take(environment)
            self.lack(record, now)
        record.used_at = now
        return record

    def find(self, shape: Shape) -> Record | None:
        """Return the record of the environment that tasks of *shape* need."""
        return (
            self.records.get(shape.cost.environment) if shape.cost.environment is not None else None
        )

    def successor(self, record: Record) -> Record | None:
        """Return the newer version of an environment that nobody has asked for since, or None."""
        newest = self.newest.get(record.environment.lineage)
        if newest is None or newest is record or record.asked_at >= newest.since or record.waiting:
            return None
        return newest

    def prune(self, now: float) -> None:
        """Forget environments that nobody has, wants or wonders about; now and then."""
        if now < self.prune_at:
            return
        self.prune_at = now + PRUNE_S
        gone = [
            identity
            for identity, record in self.records.items()
            if not (record.copies or len(record.shapes) or now < record.broken_until)
        ]
        excess = len(self.records) - KEPT_MAX
        gone.sort(key=lambda identity: self.records[identity].used_at)
        for place, identity in enumerate(gone):
            if place < excess or now - self.records[identity].used_at >= KEPT_S:
                gone_one = self.records.pop(identity)
                if self.newest.get(gone_one.environment.lineage) is gone_one:
                    del self.newest[gone_one.environment.lineage]
                self.due.discard(gone_one)
                self.lacking.discard(gone_one)
                self.unplaced.pop(gone_one, None)
        if gone:
            known = self.records.values()
            self.kinds = {one.environment.kind: one.kind for one in known if one.environment.kind}

    def check(self, actors: dict[int, Actor]) -> None:
        """Assert that copies are known from both sides, and only those of actors that are here."""
        self.due.check()
        self.lacking.check()
        assert self.unplaced.keys() <= self.lacking.things.keys()
        assert all(self.records.get(one.environment.id) is one for one in self.newest.values())
        for identity, record in self.records.items():
            assert record.environment.id == identity
            assert record.broken_until <= self.broken_until
            assert record.concurrency == record.environment.concurrency
            reuse = record.environment.reuse
            assert record.copies_min == (0 if reuse.is_fresh else reuse.replicas_min)
            kind = record.environment.kind
            assert not kind or self.kinds[kind] is record.kind
            if record.template is not None:
                # Who lacks a copy is looked at again.
                assert not record.missing or record in self.lacking.things
            assert (record.look_at < inf) == (record in self.due.things)
            numbers = [copy.number for copy in record.copies.values()]
            assert len(set(numbers)) == len(numbers)
            for actor, copy in record.copies.items():
                assert actors.get(actor.incarnation) is actor
                assert actor.copies[identity] is copy
                assert copy.record is record
        for actor in actors.values():
            for identity, copy in actor.copies.items():
                assert self.records[identity].copies[actor] is copy
            for task in actor.assigned.values():
                if task.is_released and task.template:
                    held = task.copy_held or ""
                    assert held not in actor.copies or actor.copies[held].idle_since is None


def follow(broker: "Broker", actor: Actor, now: float) -> None:
    """Note what the credit of *actor* says of its environments."""
    turns, copies, flying = actor.credit.stated.turns, actor.copies, actor.credit.turns_flying
    away = count_away(actor) if actor.away else ()
    if not copies.keys() <= turns.keys():
        drop_gone(broker, actor, now)
    for identity, free in turns.items():
        copy = copies.get(identity)
        if copy is None:
            found = broker.environments.records.get(identity)
            if found is None or found.is_for_one:
                continue
            copy = add(found, actor, now)
        record = copy.record
        if copy.evicted_in is not None and (session := actor.session) is not None:
            told, frame = copy.evicted_in
            if told is not session or session.acked >= frame:
                # It was in use by then, or never heard of it: the time begins anew.
                copy.evicted_in = copy.idle_since = None
        if (
            (flying and flying.get(identity))
            or identity in away
            or (free < record.concurrency and is_used(actor, identity))
        ):
            copy.idle_since = None
        elif copy.idle_since is None:
            copy.used_until(now)
            copy.idle_since = now
            # Mostly it is looked at before that anyway.
            if record.look_at > now + record.rests_s or copy.is_ordered or broker.callers.abandoned:
                broker.environments.look_at(record, replicas.idle_at(broker, record, now))


def came_off(broker: "Broker", actor: Actor, now: float) -> None:
    """Note that a task of *actor* is over, where runs hold on to copies: it may state nothing."""
    follow(broker, actor, now)
    actor.ranked_as = None
    broker.backlog.matching.improve(actor)


def holds_on(actor: Actor, task: Task) -> None:
    """Note that *task* gave back its turn in *actor*: what its run holds is that copy, or the next.

    Any of them, where nobody knows yet what the run is of.
    """
    assert task.token is not None
    actor.away[task.token] = None
    if not task.template:
        for copy in actor.copies.values():
            copy.idle_since = None
    elif (held := task.copy_held) is not None and held in actor.copies:
        actor.copies[held].idle_since = None


def count_away(actor: Actor) -> Container[str]:
    """Return of which copies runs hold on to that gave back their turn; forget the others.

    Of all, where nobody knows yet what a run is of.
    """
    found: set[str] = set()
    for token in list(actor.away):
        task = actor.assigned.get(token)
        if task is None or not task.is_released:
            del actor.away[token]
            actor.ranked_as = None  # What it states ranks it higher now.
        elif not task.template:
            return actor.copies
        elif (held := task.copy_held) is not None:
            found.add(held)
    return found


def drop_gone(broker: "Broker", actor: Actor, now: float) -> None:
    """Count out the copies that *actor* does not state any more."""
    turns = actor.credit.stated.turns
    for identity, copy in list(actor.copies.items()):
        if identity not in turns and not actor.credit.flies_to(identity):
            if copy.idle_since is not None and copy.evicted_in is None:
                # Others, or the memory that it took, were more to the actor.
                copy.record.lost_place.add(actor.incarnation)
            drop(broker, copy, now)


def is_used(actor: Actor, identity: str) -> bool:
    """Tell whether *actor* has a task that is inside the environment, or may be."""
    return any(
        not task.template or (task.template.costs.environment == identity and not task.is_released)
        for task in actor.assigned.values()
    )


def assigned(broker: "Broker", task: Task, actor: Actor, now: float) -> None:
    """Note that *task* goes to *actor*, where its environment is then not idle."""
    assert task.template
    identity = task.template.costs.environment
    # Calls to named actors are of no environment here.
    record = broker.environments.records.get(identity) if identity is not None else None
    if record is not None:
        goes_in(broker, record, task, actor, now)


def goes_in(broker: "Broker", record: Record, task: Task, actor: Actor, now: float) -> None:
    """Do as `assigned` for the environment of *record*."""
    copy = actor.copies.get(record.environment.id)
    if copy is None:
        replicas.enters(broker, record, actor, now)
        if record.is_for_one:
            record.used_at = now
            return
        copy = add(record, actor, now)
    if task.client is broker.named.own:
        copy.is_ordered, copy.idle_since = True, None
        return
    record.used_at = record.called_at = now
    if task.queued_at > record.asked_at:  # noqa: PLR1730 - a call of max costs more.
        record.asked_at = task.queued_at
    record.hits += copy.is_warm
    if copy.is_warm and not actor.credit.is_warm(record.environment.id, 0):
        broker.recalls.ahead[actor] = None  # It waits for a turn, perhaps in a free slot.
    copy.is_ordered, copy.idle_since, template = False, None, task.template
    # Mostly it is called as before, and has the copies that it is to have.
    if record.copies_min and (
        record.template is not template
        or len(record.copies) < record.copies_min
        or record.lost_place
    ):
        assert template
        replicas.called(broker, record, template, actor, now)


def ran(broker: "Broker", task: Task, run_s: float) -> None:
    """Note how long a task ran."""
    template = task.template
    if not template or (identity := template.costs.environment) is None:
        return
    record = broker.environments.records.get(identity)
    if record is not None and 0.0 <= run_s < inf and task.client is not broker.named.own:
        usual_s = record.run_s
        record.run_s = usual_s + (run_s - usual_s) * RUN_SHARE if usual_s else run_s


def entered(broker: "Broker", actor: Actor, command: Entered, now: float) -> None:
    """Note that an environment is warm in *actor*: whatever failed before has passed."""
    environment = command.environment
    record = broker.environments.learn(environment, now)
    if not record.is_for_one:
        copy = actor.copies.get(environment.id)
        if copy is None:
            copy = add(record, actor, now)
            broker.backlog.matching.improve(actor)
        record.entered(copy)
    # The heartbeat that said more of it was of an earlier copy.
    actor.environments.pop(environment.id, None)
    actor.entered_at = actor.entering_until = now
    if not command.again:
        record.loads += 1
    record.load_s = command.load_s
    record.kind.entered(command.load_s)
    record.failures = 0
    record.failed_on.clear()
    record.retry_at = record.broken_until = 0.0
    broker.environments.lack(record, now)
    broker.backlog.matching.wake_shapes(record.shapes)
    broker.note(
        "environment_entered",
        environment=environment.name,
        actor=actor.name,
        load_s=round(command.load_s, 3),
        again=command.again,
    )


def failed(
    broker: "Broker", environment: Environment, actor: Actor, failure: Failure, now: float
) -> None:
    """Note that an environment could not be entered: wait, or give up and end its tasks."""
    if environment.named is not None:
        named.failed(broker, environment, failure, now)
        return
    record = broker.environments.learn(environment, now)
    settings = broker.settings
    actor.entering_until = now
    record.failures += 1
    record.failed_on.add(actor.incarnation)
    if (copy := actor.copies.get(environment.id)) is not None and not copy.is_warm:
        record.hanging[copy] = None
    record.failure = failure
    backoff_s = settings.environment_retry_s * 2.0 ** min(record.failures - 1, 16)
    record.retry_at = now + min(backoff_s, BACKOFF_MAX_S)
    broker.environments.look_at(record, record.retry_at)
    broker.environments.lack(record, record.retry_at)
    broker.note(
        "environment_failed",
        environment=environment.name,
        actor=actor.name,
        failures=record.failures,
        reason=failure.message,
    )
    if record.failures >= settings.environment_failures_max and not record.is_warm:
        record.broken_until = now + settings.environment_broken_s
        known = broker.environments
        known.broken_until = max(known.broken_until, record.broken_until)
        broker.environments.look_at(record, record.broken_until)
        broker.note("environment_broken", environment=environment.name, reason=failure.message)
        for task in list(queued(broker, environment.id)):
            forgetting.take_out(broker, task)
            end(broker, task, record)


def queued(broker: "Broker", identity: str) -> Iterator[Task]:
    """Yield the tasks that wait for an environment."""
    for client in broker.clients.values():
        for task in client.tasks.values():
            if task.state is State.QUEUED and task.template:
                environment = task.template.costs.environment
                if environment == identity:
                    yield task


def is_refused(broker: "Broker", task: Task, now: float) -> bool:
    """End *task*, which is in no queue, when its environment is broken; tell whether it was."""
    assert task.template
    identity = task.template.costs.environment
    record = broker.environments.records.get(identity) if identity is not None else None
    if record is None or now >= record.broken_until or record.is_warm:
        return False
    end(broker, task, record)
    return True


def end(broker: "Broker", task: Task, record: Record) -> None:
    """End *task* with what the last failure of its environment said."""
    failure = record.failure
    assert failure is not None
    told = Failure(
        failure.code,
        failure.type,
        f"{failure.message} ({record.failures} failures in a row: tasks of it end at once for"
        f" {broker.settings.environment_broken_s:g} s, see `python -m sdk environments`)",
        failure.traceback,
        failure.exception,
    )
    ending = Ending(Status.FAILURE, codec.encode_failure(told), (), "", task.tries + 1)
    lifecycle.end_with(broker, task, ending, Code.ENVIRONMENT_FAILED, failure.message)


def retry(broker: "Broker", name: str) -> dict[str, Any]:
    """Let the environments that are called *name*, or have it as id, be entered again now."""
    records = broker.environments.records.values()
    named = [r for r in records if name in (r.environment.name, r.environment.id)]
    for record in named:
        record.failures = 0
        record.failed_on.clear()
        record.retry_at = record.broken_until = 0.0
        broker.environments.lack(record, broker.ticked_at)
        broker.backlog.matching.wake_shapes(record.shapes)
    ids = [record.environment.id for record in named]
    return {"environments": ids} if named else {"error": f"no environment is called {brief(name)}"}


def add(record: Record, actor: Actor, now: float) -> Copy:
    """Count one more copy."""
    taken = {copy.number for copy in record.copies.values()}
    number = next(number for number in count() if number not in taken)
    copy = Copy(record, actor, number, now)
    record.copies[actor] = actor.copies[record.environment.id] = copy
    # What is preferred to what may be otherwise with it.
    actor.ranked_as = None
    return copy


def drop(broker: "Broker", copy: Copy, now: float) -> None:
    """Count a copy out: others may take its place."""
    actor, identity = copy.actor, copy.record.environment.id
    copy.used_until(now)
    copy.record.lost(copy)
    del actor.copies[identity]
    actor.ranked_as = None
    if not copy.record.is_for_one:
        actor.former.pop(identity, None)
        actor.former[identity] = None
        if len(actor.former) > FORMER_MAX:
            del actor.former[next(iter(actor.former))]
    broker.environments.lack(copy.record, now)
    newer = broker.environments.successor(copy.record)
    if newer is not None:
        broker.environments.lack(newer, now)
    if copy.record.copies:
        # The others may be idle as a whole now.
        broker.environments.look_at(copy.record, now)
    broker.backlog.matching.wake_shapes(copy.record.shapes)


def forget_actor(broker: "Broker", actor: Actor, now: float) -> None:
    """Count out all copies of an actor that is lost."""
    for copy in list(actor.copies.values()):
        drop(broker, copy, now)


def describe(broker: "Broker", now: float) -> dict[str, Any]:
    """Answer the query "environments"."""
    records = broker.environments.records.values()
    return {"environments": [describe_one(broker, record, now) for record in records]}


def describe_one(broker: "Broker", record: Record, now: float) -> dict[str, Any]:
    """Return what an operator wants to know of an environment."""
    reuse = record.environment.reuse
    there = {copy.actor.name: copy.is_warm for copy in record.copies.values()}
    bounds = reuse.replicas_min, reuse.replicas_max
    if record.is_for_one:
        identity, bounds = record.environment.id, (0, None)
        actors = [actor for actor in broker.actors.values() if identity in actor.count_inside()]
        there = {one.name: one.environments.get(identity) != "loading" for one in actors}
    warm = sum(there.values())
    usual = "warm" if warm else "loading" if there else "cold"
    return {
        "name": record.environment.name,
        "id": record.environment.id,
        "state": "broken" if record.is_broken(now) else usual,
        "warm": warm,
        "loading": len(there) - warm,
        "actors": sorted(there),
        "replicas_min": bounds[0],
        "replicas_max": bounds[1],
        "waiting": record.waiting,
        "loads": record.loads,
        "load_s": record.load_s,
        "hits": record.hits,
        "saved_s": record.hits * record.load_s,
        "failures": record.failures,
        "retry_s": max(0.0, record.retry_at - now),
        "reason": record.failure.message if record.failures and record.failure else "",
    }
