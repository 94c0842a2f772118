"""Crashes in the simulator: which of them are held against a task, and who then runs alone."""

from collections import Counter
from collections.abc import Collection
from math import inf
from typing import TYPE_CHECKING, Any

from broker.placing import isolation
from tests.sim.counters import named_of
from wire.errors import Code
from wire.messages import ActorHello, Assign, Death, Requeued
from wire.parts import Failure, Token

if TYPE_CHECKING:
    from broker.core import Broker
    from broker.facts.peers import Actor
    from tests.sim.actors import ActorProcess
    from tests.sim.clients import ClientProcess
    from tests.sim.records import TaskRecord
    from tests.sim.world import World

Name = tuple[int, int]
# Three crashes or five losses, and the one at which they are found.
LOSSES_MAX = 5
POISON_MAX = 3 + LOSSES_MAX
# Those that took everything along: with nobody beside, and at most.
ALONE_MAX = 2
FOUND_MAX = 2 + 9
# How late a broker looks at its clocks.
LOOK_S = 0.25 + 1e-6
# What a report takes to arrive at most, where nothing is slow.
REPORT_S = 0.5
# Faults after which the broker knows of every crash.
TELLING = {"actor_kill", "repeat", "pause", "resume", "press"}


class Crashes:
    """Follows the reports of hosts."""

    def __init__(self, world: "World") -> None:
        """Begin with nobody dead."""
        self.world = world
        self.reported: set[int] = set()
        # How often a process died under a task alone; when one died under it and others.
        self.alone: dict[Name, int] = {}
        self.shared_at: dict[Name, float] = {}
        # And which process that was.
        self.shared_by: dict[Name, int] = {}
        # How many of these each broker has told its client of, and the client has heard of.
        self.shared: dict[tuple[Name, int], int] = {}
        self.heard: dict[Name, int] = {}
        # To which processes each went, or would have gone if they had been there.
        self.given: dict[Name, list[int]] = {}
        # How often a broker began that found it given out by an earlier one.
        self.found: Counter[Name] = Counter()
        # Those of the broker that is there, and how often such a run was offered after all.
        self.missed: set[Name] = set()
        self.offered: Counter[Name] = Counter()
        # Processes that had a successor before their host could tell of their end, and the broker
        # that heard it so; how many of them each assignment comes after.
        self.overtaken: dict[int, Broker] = {}
        # Those that had one before it was told, for whatever reason.
        self.followed: set[int] = set()
        self.doubted: dict[Token, int] = {}
        # Since when no actor is kept for those that wait to be alone.
        self.bare_since = inf
        # When each client was seen last with too many results on their way.
        self.paused_at: dict[int, float] = {}

    def died(self, death: Death) -> None:
        """Take a report, which is said until it was received."""
        if death.incarnation in self.reported:
            return
        self.reported.add(death.incarnation)
        names = [self.world.oracle.assigned[tuple(token)][:2] for token in death.started]
        for name in names:
            if len(names) > 1:
                self.shared_at[name] = self.world.now
                self.shared_by[name] = death.incarnation
            else:
                self.alone[name] = self.alone.get(name, 0) + 1

    def began(self, given: set[Name]) -> None:
        """Note of which tasks a broker that starts now cannot tell whether they went down."""
        self.found.update(given)
        self.missed = set(given)

    def adopted(self, name: Name) -> None:
        """Note that a run went on, so that it took nothing along (9.6 rule 11)."""
        if name in self.missed:
            self.missed.discard(name)
            self.offered[name] += 1

    def overtaking(self, core: "Broker", frame: Any) -> "Actor | None":
        """Return whom the process that says HELLO follows, if nobody has told of their end."""
        hello = frame.commands[0] if frame.commands else None
        former = core.actors_by_name.get(hello.name) if type(hello) is ActorHello else None
        return former if former is not None and former.incarnation in core.actors else None

    def greeted(self, core: "Broker", former: "Actor") -> None:
        """Note a process that its successor's HELLO has ended, if it was let in.

        Its host has told of the death before it started that process, but on another connection.
        """
        if core.dead.get(former.incarnation):
            self.followed.add(former.incarnation)
            self.overtaken[former.incarnation] = core

    def doubts(self, name: Name) -> int:
        """Count the losses that a task was charged with, and of which the broker is not told yet.

        The next broker has that from its client or its journal, and cannot correct it.
        """
        core = self.world.broker.core
        given = self.given.get(name, ())
        record = self.world.oracle.tasks.get(name)
        if record is not None and named_of(record.call) is not None:
            # Of calls to named actors nothing is corrected by what is told later.
            return sum(one in self.followed for one in given)
        return sum(
            at is not core or core.dead.get(one) is not False
            for one, at in self.overtaken.items()
            if one in given
        )

    def counted(self, actor: "ActorProcess", record: "TaskRecord", attempt: int) -> None:
        """Check that who had not started has burned no try, once that is told."""
        name = record.client.incarnation, record.number
        given = self.given.setdefault(name, [])
        profile = self.world.profile
        # A host that is stopped, or not heard, tells of deaths after the next process has come.
        faults = dict.fromkeys(profile.faults.keys() - {"freeze_host"}, 1.0)
        if (
            profile.but(faults=faults).is_deadly
            and not profile.is_forgetful
            and not record.has_parent
        ):
            # What a process took along of which the report is still to come.
            dead = self.world.broker.core.dead
            living = {one.incarnation for one in self.world.actors if one.is_alive}
            # Of calls to named actors nothing is corrected by what is told after that.
            environment = record.call.environment
            kept = self.followed if environment is not None and environment.named else ()
            untold = sum(
                one not in living and (dead.get(one) is not False or one in kept) for one in given
            )
            most = record.burned + len(record.failures) + untold + 1 + self.found[record.origin]
            assert attempt <= most, f"{record.name}: attempt {attempt}, {most} are explained"
        given.append(actor.incarnation)

    def unsent(self, incarnation: int, frame: Any) -> None:
        """Note what was assigned to a process of which the sender finds that it is gone."""
        for command in frame.commands:
            if type(command) is Assign:
                self.given.setdefault((command.client, command.task), []).append(incarnation)

    def went_back(self, names: Collection[Name]) -> None:
        """Expect nothing of what was told of tasks that are in an older journal."""
        for name in names:
            self.heard.pop(name, None)
        for name, epoch in [key for key in self.shared if key[0] in names]:
            del self.shared[name, epoch]

    def gave_client_up(self, record: "TaskRecord", epoch: int) -> None:
        """Expect nothing of what was told of a task that ends with its client here.

        That knows only what it has heard, and a broker that it comes back to knows it from there.
        """
        if not record.call.durable:
            self.shared.pop(((record.client.incarnation, record.number), epoch), None)

    def client_heard(self, client: "ClientProcess", frame: Any) -> None:
        """Note that a client has heard what became of its tasks, and will tell the next broker."""
        for told in frame.commands:
            if type(told) is Requeued:
                name = client.incarnation, told.task
                self.heard[name] = max(self.heard.get(name, 0), told.shared)

    def requeued(self, name: Name, told: Requeued, epoch: int) -> None:
        """Check that a task is blamed for what happened to it alone."""
        found = self.found[self.world.oracle.tasks[name].origin]
        alone = self.alone.get(name, 0) + found
        assert told.crashes <= alone, f"{name[1]}: {told.crashes} crashes, {alone} of its own"
        # The client tells a broker without memory. What went down may come late.
        shared = max(self.heard.get(name, 0), self.shared.get((name, epoch), 0)) - found
        assert told.shared >= shared, f"{name[1]}: {told.shared} shared crashes, were {shared}"
        self.shared[name, epoch] = told.shared

    def looked(self, core: "Broker") -> None:
        """Check that nobody waits for an actor of its own for ever, nor with none kept for it."""
        now, broker = self.world.now, self.world.broker
        paused = [task for task in core.isolation.waiting if task.client.is_paused]
        self.paused_at |= {task.client.incarnation: now for task in paused}
        waiting = [task for task in core.isolation.waiting if task not in paused]
        for task in waiting:
            paused_at = self.paused_at.get(task.client.incarnation, 0.0)
            until = max(core.isolation.waiting[task], broker.frozen_until, paused_at)
            assert now <= until + LOOK_S, f"{task.name} has waited since {until}"
        able = [
            actor.name
            for actor in core.actors.values()
            if waiting and core.isolation.kept is None
            if isolation.is_able(core, waiting[0], actor, now)
        ]
        # An actor may be able since this turn.
        self.bare_since = min(self.bare_since, now) if able else inf
        since = max(self.bare_since, broker.frozen_until)
        assert not able or now <= since + LOOK_S, f"none of {able} is kept for {waiting[0].name}"

    def may_be_lost(self, record: "TaskRecord", failure: Failure) -> bool:
        """Tell whether a task went to enough processes of which nobody told in time."""
        given = self.given.get((record.client.incarnation, record.number), ())
        return "losses" in failure.message and len(given) >= LOSSES_MAX

    def gave_up(self, record: "TaskRecord", failure: Failure) -> None:
        """Check that poison took three processes along, and who is given up was among others."""
        name = record.client.incarnation, record.number
        if failure.code == Code.POISON_TASK and "crashes" in failure.message and record.starts:
            alone = self.alone.get(name, 0) + self.found[record.origin]
            is_other = record.origin != name or record.key is not None
            assert alone >= 3 or is_other, f"{record.name} is poison after {alone} crashes"

    def assigned(self, actor: "ActorProcess", name: Name, token: Token) -> None:
        """Check that who shared a process with a crash is put beside nobody, while it may wait."""
        if self.followed:
            self.doubted[token] = self.doubts(name)
        broker, faults = self.world.broker, self.world.profile.faults.keys()
        alone = self.alone.get(name, 0)
        # Who goes down with each broker is found out as well, at the latest among others.
        record = self.world.oracle.tasks.get(name)
        found = self.found[record.origin] if record is not None else 0
        most = ALONE_MAX if len(self.world.oracle.tasks) == 1 else FOUND_MAX
        along = found - self.offered[record.origin] if record is not None else 0
        assert along <= most or not self.world.profile.along, f"{name[1]} took {along} along"
        # Of some the next process may have told before the host: then it is a loss.
        assert alone < POISON_MAX, f"{name[1]} goes on after {alone} crashes of its own"
        at = self.shared_at.get(name)
        if record is not None and named_of(record.call) is not None:
            return  # It goes where its named actor is, in its order (10.2 rule 5).
        if at is None or broker is None or not faults <= TELLING or self.world.profile.is_slow:
            return
        if broker.core.dead.get(self.shared_by[name]):
            return  # The next process was faster than the host's word, so it is a loss until then.
        alone_s = broker.core.settings.isolation_s - REPORT_S
        known = broker.core.actors.get(actor.incarnation)
        others = known.assigned.keys() - {token} if known is not None else ()
        assert not others or self.world.now - at >= alone_s, f"{name[1]} is put beside {others}"
