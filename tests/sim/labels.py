"""Labels that runs change all the time, tasks that require them, and tasks that do not wait long.

What must hold: the broker assigns by the labels that it was told last, the actor starts by those
that it has; a task with a schedule timeout ends neither early, nor late, nor once it had started.
"""

from typing import TYPE_CHECKING, Any

from sdk.call import Code, Plan
from wire.labels import Comparator, Desire, satisfies_all
from wire.parts import Call

if TYPE_CHECKING:
    from tests.sim.oracle import TaskRecord
    from tests.sim.processes import ActorProcess
    from tests.sim.world import World

MODELS = ("m0", "m1", "m2")
UNSET = "unset"
HASTE_S = (0.3, 1.5)
# What a call may be on its way for, where nothing stops the broker.
UNDERWAY_S = 1.0


def make_plans(code: Code) -> list[tuple[str, Plan]]:
    """Return tasks that require a model, would like one, or want none; and the hasty ones."""

    def plan(name: str, **options: Any) -> Plan:
        return Plan(Call(name, code.hash, **options), [code])

    wants = [[Desire("model", Comparator.EQUAL, model)] for model in MODELS]
    wants.append([Desire("model", Comparator.NOT_EQUAL, UNSET)])
    wants.append([Desire("model", Comparator.IN, list(MODELS[:2]), False, 5.0)])
    found = [("model", plan(f"model{n}", desires=desires)) for n, desires in enumerate(wants)]
    for haste_s in HASTE_S:
        for name, options in (
            ("plain", {}),
            ("model", {"desires": wants[0]}),
            ("limited", {"limits": {"b": 1}}),
        ):
            hasty = plan(f"hasty {name} {haste_s}", schedule_timeout_s=haste_s, **options)
            found.append(("hasty", hasty))
    return found


def flip(actor: "ActorProcess") -> None:
    """Let a run change the labels of its actor."""
    world = actor.world
    if actor.is_alive:
        offered = world.rng.choice((*MODELS, UNSET))
        world.flips += 1
        world.note("FLIPS", actor, offered)
        actor.core.change_labels({"model": offered}, world.now)


def offer_all(actor: "ActorProcess") -> None:
    """Let every task run here that wants a model."""
    if actor.core.labels.get("model") != list(MODELS):
        actor.core.change_labels({"model": list(MODELS)}, actor.world.now)
        actor.wake_at(actor.world.now)


def check_assign(world: "World", actor: "ActorProcess", call: Call) -> None:
    """Check that an actor is given what the labels satisfy that it told the broker last."""
    known = world.broker.core.actors.get(actor.incarnation) if world.broker else None
    if known is not None:
        assert satisfies_all(known.labels, call.desires), f"{call.name} goes to {actor.name}"


def check_waiting(world: "World") -> None:
    """Check after a turn of the broker that nobody waits beyond its time, and since when each does.

    A call that was on its way counts from its submission: its client says how long it was.
    """
    assert world.broker is not None
    core = world.broker.core
    can_tell = world.profile.is_gentle and "freeze_broker" not in world.profile.faults
    for task in core.deadlines.things:
        timeout_s = task.call.schedule_timeout_s
        assert timeout_s is not None
        assert world.now < task.queued_at + timeout_s, f"{task.name} waits beyond its time"
        record = world.oracle.tasks.get((task.client.incarnation, task.number))
        if can_tell and record is not None and not record.burned:
            late_s = task.queued_at - record.submitted_at
            assert -1e-6 <= late_s <= UNDERWAY_S, f"{task.name} is said to wait since {late_s}"


def gave_up(world: "World", record: "TaskRecord") -> None:
    """Check a task that found no actor in time."""
    timeout_s = record.call.schedule_timeout_s
    assert timeout_s is not None, record.name
    waited_s = world.now - record.submitted_at
    assert waited_s >= timeout_s - 1e-6, f"{record.name} is given up after {waited_s} s"
    if world.profile.is_gentle:
        assert not record.starts, f"{record.name} had started and is given up"
