"""Copies of environments in the simulator: never too many, and as many as there are to be.

What the broker enters by calls of its own takes nobody's place, and while an environment is in use
it lacks no copy that an actor has a place for. None is left that a run is to come back to, but for
another that needs its place; whoever has its turn again is in what was entered and not left since.
"""

from math import inf
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tests.sim.counters import named_of

if TYPE_CHECKING:
    from actor.holding.mailbox import Assignment
    from tests.sim.actors import ActorProcess
    from tests.sim.world import World
    from wire.messages import Assign
    from wire.parts import Environment

# What is in use no longer than this may be given up any moment.
MARGIN_S = 0.5
# After so many failures in a row nobody tries again, for so long.
FAILURES_MAX = 3
BROKEN_S = 60.0
# So late the broker has heard of a failure.
HEARD_S = 1.0


class Copies:
    """Where which environment is, and when a client's call was inside last."""

    def __init__(self, world: "World") -> None:
        """Begin with none."""
        self.world = world
        self.called_at: dict[str, float] = {}
        # When each could not be entered, since it last was.
        self.failures: dict[str, list[float]] = {}
        # Which processes gave which up by themselves, and have had no task of it since, with the
        # broker that was there then: another one does not know.
        self.gave_up: dict[tuple[int, str], Any] = {}
        # What was entered in which process and not left since.
        self.entered: set[tuple[int, str]] = set()
        # Those of them whose reset failed.
        self.spoiled: set[tuple[int, str]] = set()

    def gives_up(self, actor: "ActorProcess", identities: tuple[str, ...]) -> None:
        """Note that idle copies had to give way to another one."""
        for identity in identities:
            self.gave_up[actor.incarnation, identity] = self.world.broker
            self.exits(actor, identity)

    def left(self, actor: "ActorProcess", identity: str) -> None:
        """Check that no run still has the copy that is left, though nobody needs its place."""
        key = (actor.incarnation, identity)
        if key not in self.entered:
            return  # A named actor, of which `counters` speaks.
        for run in actor.runs.values():
            place = run.assignment.recipe.call.environment
            if place is not None and place.id == identity:
                may_leave = not run.is_released or key in self.spoiled
                assert may_leave, f"{place.name} is left under a run"
        self.exits(actor, identity)

    def exits(self, actor: "ActorProcess", identity: str) -> None:
        """Note that a copy is left, which was entered."""
        key = (actor.incarnation, identity)
        assert key in self.entered, f"{identity} is left in {actor.name}, and was not entered"
        self.entered.discard(key)
        self.spoiled.discard(key)

    def check_inside(self, actor: "ActorProcess") -> None:
        """Check that whoever has its turn is in a copy that was entered."""
        for run in actor.runs.values():
            place = run.assignment.recipe.call.environment
            if place is not None and place.named is None and not (run.is_released or run.enters):
                is_entered = (actor.incarnation, place.id) in self.entered
                assert is_entered, f"a run is inside of {place.name}, which was left"

    def of(self, identity: str) -> "list[ActorProcess]":
        """Return the processes that have a copy."""
        return [
            actor
            for actor in self.world.actors
            if actor.is_alive and identity in actor.core.mailbox.residents.by_id
        ]

    def started(self, actor: "ActorProcess", call: Any, assignment: "Assignment") -> None:
        """Note that an environment is used; what nobody called must not have cost anybody else."""
        self.gives_up(actor, assignment.evicts)
        if call.environment is None or named_of(call) is not None:
            return
        if call.method or call.function:
            self.called_at[call.environment.id] = self.world.now
        elif not self.world.profile.release and not self.world.profile.wait:
            # What comes back to its slot may take a place that the broker knows to be free.
            assert not assignment.evicts, f"{assignment.evicts} give way to what nobody called"

    def enters(self, actor: "ActorProcess", environment: "Environment") -> None:
        """Note that a copy is entered, which was cold."""
        if environment.named is None:
            key = (actor.incarnation, environment.id)
            assert key not in self.entered, f"{environment.name} is entered twice in {actor.name}"
            self.entered.add(key)

    def check_count(self, environment: "Environment") -> None:
        """Check that there are not more copies than there may be, where that can be promised."""
        most = environment.reuse.replicas_max
        if self.world.profile.is_steady and most is not None:
            count = len(self.of(environment.id))
            assert count <= most, f"{count} copies of {environment.name}, {most} may be"

    def assigned(self, actor: "ActorProcess", call: Any) -> None:
        """Check that nobody tries again what could not be entered some times in a row."""
        environment = call.environment
        if environment is not None and (call.method or call.function):
            self.gave_up.pop((actor.incarnation, environment.id), None)
        if environment is None or named_of(call) is not None or not self.world.profile.is_steady:
            return
        failures = self.failures.get(environment.id, [])
        if len(failures) >= FAILURES_MAX and not self.of(environment.id):
            age_s = self.world.now - failures[FAILURES_MAX - 1]
            broker = self.world.broker
            # What it did not hear while it was frozen it hears after that.
            deaf_s = self.world.now - broker.frozen_until if broker is not None else inf
            assert min(age_s, deaf_s) < HEARD_S or age_s >= BROKEN_S, (
                f"{environment.name} is tried once more"
            )

    def failed(self, environment: "Environment") -> None:
        """Note that it could not be entered."""
        self.failures.setdefault(environment.id, []).append(self.world.now)

    def lacking(self) -> set[str]:
        """Return the environments in use that lack a copy for which some actor has a place."""
        broker = self.world.broker
        if broker is None or not broker.is_alive or broker.core.reservation is not None:
            return set()
        core = broker.core
        if core.window_ends_at is not None or core.backlog.count:
            return set()
        found = set()
        for identity, record in core.environments.records.items():
            reuse = record.environment.reuse
            if (
                record.template is not None
                and not (record.failures or reuse.is_fresh or reuse.is_of_client)
                and self.is_in_use(identity, reuse.idle_ttl_s)
                and len(self.of(identity)) + self.unheard(record) < reuse.replicas_min
                and any(self.is_place(actor, core, identity) for actor in self.world.actors)
            ):
                found.add(identity)
        return found

    def unheard(self, record: Any) -> int:
        """Count the copies in processes that the broker does not hear, and that have none now."""
        there = {actor.incarnation for actor in self.of(record.environment.id)}
        living = {actor.incarnation for actor in self.world.actors if actor.is_alive}
        return sum(
            actor.incarnation not in there
            and (actor.incarnation not in living or actor.is_suspect or actor.session is None)
            for actor in record.copies
        )

    def is_in_use(self, identity: str, ttl_s: float) -> bool:
        """Tell whether a client's call was inside of late, as far as the actors saw."""
        return self.world.now < self.called_at.get(identity, -ttl_s) + ttl_s - MARGIN_S

    def is_place(self, actor: "ActorProcess", core: Any, identity: str) -> bool:
        """Tell whether an actor could enter it now, beside what it has (9.7 rule 8)."""
        known = core.actors.get(actor.incarnation)
        residents = actor.core.mailbox.residents
        gave_up_to = self.gave_up.get((actor.incarnation, identity))
        return (
            actor.is_alive
            and not (residents.by_id and gave_up_to is self.world.broker)
            and known is not None
            and known.is_open
            and known.credit.slots_available > 0
            and not (actor.core.standing.closed or actor.core.mailbox.waiting)
            and identity not in residents.by_id
            and len(residents.by_id) + len(self.aside(actor)) < residents.maximum
        )

    @staticmethod
    def aside(actor: "ActorProcess") -> set[str]:
        """Return of what released runs have a copy for themselves, or had before it gave way."""
        places = (
            run.assignment.recipe.call.environment for run in actor.runs.values() if run.is_released
        )
        fresh = {place.id for place in places if place is not None and place.reuse.is_fresh}
        return fresh - actor.core.mailbox.residents.by_id.keys()


def own_call(world: "World", command: "Assign") -> tuple[Any, Any]:
    """Return the broker and the call that it makes itself, for which nobody waits."""
    core = world.broker.core
    assert core.named.own is not None
    assert command.client == core.named.own.incarnation
    call = core.clients[command.client].tasks[command.task].call
    assert call.environment is not None
    assert not call.method
    assert not call.function
    client = SimpleNamespace(name="broker", incarnation=command.client, is_alive=False, world=world)
    return client, call
