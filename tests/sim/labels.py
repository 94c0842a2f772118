"""Labels that runs change all the time, tasks that require them, and tasks that do not wait long.

What must hold: the broker assigns by the labels that it was told last, the actor starts by those
that it has; a task with a schedule timeout ends neither early, nor late, nor once it had started;
one that likes an actor better waits for it where that is worth it, and no longer than it says.
"""

from math import inf, log2
from typing import TYPE_CHECKING, Any

from broker.facts.task import State
from sdk.calls.call import Code, Plan
from wire.labels import Comparator, Desire, satisfies, satisfies_all
from wire.parts import Call, Token

if TYPE_CHECKING:
    from broker.core import Broker
    from broker.facts.peers import Actor
    from broker.facts.task import Task
    from broker.waiting.shapes import Shape
    from tests.sim.actors import ActorProcess
    from tests.sim.records import TaskRecord
    from tests.sim.world import World
    from wire.messages import Recall

MODELS = ("m0", "m1", "m2")
UNSET = "unset"
HASTE_S = (0.3, 1.5)
# How long who likes an actor better waits for it; and how many of a kind may go at once.
FOND_S = (0.7, 3.0)
AT_ONCE = 20
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
    found += [("fond", plan(f"fond{n}", **options)) for n, options in enumerate(fond())]
    return found


def fond() -> list[dict[str, Any]]:
    """Return what tasks say that would wait for an actor that they like better."""
    likes = [
        [Desire("memory", Comparator.GREATER_THAN, 256, False, 10.0)],
        [Desire("model", Comparator.EQUAL, MODELS[0], False, 5.0)],
        [Desire("memory", Comparator.EXISTS, None, False, -1.0)],
    ]
    return [{"desires": d, "affinity_wait_s": s} for d, s in zip(likes, FOND_S * 2, strict=False)]


def flip(actor: "ActorProcess") -> None:
    """Let a run change the labels of its actor."""
    world = actor.world
    if actor.is_alive:
        offered = world.rng.choice((*MODELS, UNSET))
        world.flips += 1
        world.count("flip")
        world.note("FLIPS", actor, offered)
        actor.core.change_labels({"model": offered}, world.now)


def offer_all(actor: "ActorProcess") -> None:
    """Let every task run here that wants a model."""
    if actor.core.labels.get("model") != list(MODELS):
        actor.core.change_labels({"model": list(MODELS)}, actor.world.now)
        actor.wake_at(actor.world.now)


def check_assign(world: "World", actor: "ActorProcess", call: Call, token: Token) -> None:
    """Check that an actor is given what the labels satisfy that it told the broker last."""
    known = world.broker.core.actors.get(actor.incarnation) if world.broker else None
    if known is not None:
        assert satisfies_all(known.labels, call.desires), f"{call.name} goes to {actor.name}"
        task = known.assigned.get(token)
        if task is not None and task.template:
            check_fond(world, task, known)


def check_fond(world: "World", task: "Task", given: "Actor") -> None:
    """Check that a task, which goes to *given*, was not to wait for a better actor.

    Only where that is plain: what was assigned in the same turn counted among what waits.
    """
    assert world.broker is not None
    core, call, within_s = world.broker.core, task.call, task.call.affinity_wait_s
    if call.environment is not None or not within_s or world.now >= task.queued_at + within_s:
        return
    if task.barred is not None or task.trouble is not None or core.reservation is not None:
        return
    if given.is_leaving:
        return  # It waits for its own calls with all that it is to end.
    wait = task.template.shape.wait if task.template else None
    better = [
        actor
        for actor in core.actors.values()
        if actor.takes_work and weight(actor, call) > weight(given, call)
    ]
    if wait is None or not soon(better, within_s) or task.template is None:
        return
    places = sum(actor.slots["slot"] for actor in better)
    is_worth_it = (task.template.shape.count + AT_ONCE) * wait.run_s <= places * within_s
    assert not is_worth_it, f"{call.name} does not wait for {[actor.name for actor in better]}"


def check_worth(world: "World", core: "Broker") -> None:
    """Check of those that begin to wait in this turn that it is worth it.

    What else of their kind was there then, and is placed by now, would only have made it less so.
    """
    waiting = {shape: shape.wait.until for shape in core.waits.things if shape.wait is not None}
    former, world.oracle.fond = world.oracle.fond, waiting
    for shape in waiting:
        wait = shape.wait
        if wait is None or wait.queue is None or former.get(shape) == wait.until:
            continue
        better = [actor for actor in wait.queue.crew.members if actor.takes_work]
        assert soon(better, wait.within_s), "who likes one better waits for those that are busy"
        places = sum(actor.slots["slot"] for actor in better)
        needed_s = shape.count * wait.run_s
        assert needed_s <= places * wait.within_s, f"{shape.count} wait for {places} places"


def check_recall(world: "World", command: "Recall") -> None:
    """Check that who likes an actor better is not asked back from it for a lesser one."""
    assert world.broker is not None
    asked_back = world.broker.core.recalls.asked
    for token in command.tokens:
        asked = asked_back.get(tuple(token))
        if asked is not None and asked.task.template and asked.task.actor is not None:
            call, given = asked.task.call, asked.task.actor
            if weight(asked.target, call) < weight(given, call):
                check_fond(world, asked.task, asked.target)


def soon(better: "list[Actor]", within_s: float) -> "list[Actor]":
    """Return those whose runs end within some time, as far as anybody knows."""
    return [a for a in better if a.run_s == 0.0 or 2.0 ** (log2(a.run_s) // 1) <= within_s]


def weight(actor: "Actor", call: Call) -> float:
    """Return how much an actor is liked."""
    return sum(d.weight for d in call.desires if not d.required and satisfies(actor.labels, d))


def check_waiting(world: "World") -> None:
    """Check after a turn of the broker that nobody waits beyond its time, and since when each does.

    A call that was on its way counts from its submission: its client says how long it was.
    """
    assert world.broker is not None
    core = world.broker.core
    check_worth(world, core)
    for shape in core.waits.things:
        check_kind(shape, world.now)
    can_tell = world.profile.is_gentle and "freeze_broker" not in world.profile.faults
    for task in core.deadlines.things:
        timeout_s = task.call.schedule_timeout_s
        assert timeout_s is not None, f"{task.name} has no time, and is watched"
        assert world.now < task.queued_at + timeout_s, f"{task.name} waits beyond its time"
        record = world.oracle.tasks.get((task.client.incarnation, task.number))
        if can_tell and record is not None and not record.burned:
            late_s = task.queued_at - record.submitted_at
            assert -1e-6 <= late_s <= UNDERWAY_S, f"{task.name} is said to wait since {late_s}"


def check_kind(shape: "Shape", now: float) -> None:
    """Check of a kind that waits for a better actor that its first task does, for its own time.

    One whose client receives nothing goes after all others, from when it is looked at next.
    """
    wait = shape.wait
    assert wait is not None, "a kind waits for a better actor that never does"
    assert wait.queue is not None, "a kind is to be woken that waits for no better actor"
    assert now < wait.until, "who likes one better waits beyond its time"
    queued = [t for t in shape.tasks() if t.state is State.QUEUED and t not in shape.aside]
    assert queued, "a kind waits for a better actor, and no task of it is there"
    first = min((task.rank for task in queued if not task.client.is_paused), default=inf)
    waited_s = {task.name: wait.until - task.queued_at for task in queued if task.rank <= first}
    is_own = any(abs(wait_s - wait.within_s) < 1e-6 for wait_s in waited_s.values())
    assert is_own, f"none of {waited_s}, the first of their kind, waits for {wait.within_s} s"
    liked = list(wait.queue.crew.members)
    takes_work = any(actor.takes_work for actor in liked)
    assert takes_work, f"{list(waited_s)} wait for {[a.name for a in liked]}, who take no work"


def gave_up(world: "World", record: "TaskRecord") -> None:
    """Check a task that found no actor in time."""
    timeout_s = record.call.schedule_timeout_s
    assert timeout_s is not None, record.name
    waited_s = world.now - record.submitted_at
    assert waited_s >= timeout_s - 1e-6, f"{record.name} is given up after {waited_s} s"
    if world.profile.is_gentle:
        assert not record.starts, f"{record.name} had started and is given up"
