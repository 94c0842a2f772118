"""What the broker can tell: live state, and why a task waits. Changes nothing."""

from typing import TYPE_CHECKING, Any, Final

from broker import occupancy, recall
from broker.peers import Actor, Client
from broker.task import State, Task
from wire.labels import Desire, satisfies

if TYPE_CHECKING:
    from broker.core import Broker

TASKS_LISTED_MAX: Final = 1_000


def answer(
    broker: "Broker", client: Client, what: str, argument: str, now: float
) -> dict[str, Any]:
    """Answer a QUERY; what makes no sense gets `{"error": text}`."""
    match what:
        case "status":
            return status(broker, now) if not argument else explain(broker, client, argument, now)
        case "actors":
            return {"actors": [describe_actor(actor, now) for actor in broker.actors.values()]}
        case "clients":
            return {"clients": [describe_client(known, now) for known in broker.clients.values()]}
        case "tasks":
            tasks = [task for known in broker.clients.values() for task in known.tasks.values()]
            return {
                "count": len(tasks),
                "tasks": [describe_task(task, now) for task in tasks[:TASKS_LISTED_MAX]],
            }
        case "limits":
            return occupancy.describe(broker)
        case "explain":
            return explain(broker, client, argument, now)
        case _:
            return {
                "error": f"unknown query {what!r}; known: status, actors, clients, tasks, explain,"
                " limits, drain, pause, resume, limit-set, limit-delete, limit-release"
            }


def status(broker: "Broker", now: float) -> dict[str, Any]:
    """Return the broker's own figures."""
    states: dict[str, int] = dict.fromkeys(State, 0)
    for client in broker.clients.values():
        for task in client.tasks.values():
            states[task.state] += 1
    return {
        "epoch": broker.epoch,
        "uptime_s": now - broker.started_at,
        "recovering": broker.window_ends_at is not None,
        "clients": sum(client.session is not None for client in broker.clients.values()),
        "actors": len(broker.actors),
        "actors_closed": sum(bool(actor.closed) for actor in broker.actors.values()),
        "hosts": len(broker.hosts),
        "queued": states[State.QUEUED] + states[State.HELD],
        "assigned": states[State.ASSIGNED] + states[State.UNCLAIMED_RUN],
        "ended": states[State.ENDED] + states[State.UNCLAIMED_OUTCOME],
        "assignments": broker.assignments,
        "recalled": broker.recalls.count,
    }


def describe_actor(actor: Actor, now: float) -> dict[str, Any]:
    """Return what an operator wants to know of an actor."""
    stated = actor.credit.stated
    return {
        "name": actor.name,
        "incarnation": actor.incarnation,
        "host": actor.name.rpartition("/")[0],
        "pid": actor.pid,
        "python": actor.python,
        "labels": actor.labels,
        "labels_version": actor.labels_version,
        "slots": actor.slots,
        "free": stated.free,
        "ahead": stated.ahead,
        "available": actor.credit.available,
        "typed": stated.typed,
        "holding": [
            {"task": task.name, "state": run_state(task), "attempt": task.tries + 1}
            for task in actor.assigned.values()
        ],
        "state": actor_state(actor),
        "closed": actor.closed,
        "environments": actor.environments,
        "silent_s": now - actor.heard_at,
    }


def actor_state(actor: Actor) -> str:
    """Return in a word how an actor stands."""
    if actor.session is None:
        return "disconnected"
    if actor.is_suspect:
        return "suspect"
    return actor.closed.partition(":")[0] or "open"


def run_state(task: Task) -> str:
    """Return in a word how an assigned task stands."""
    return "released" if task.is_released else str(task.state)


def describe_client(client: Client, now: float) -> dict[str, Any]:
    """Return what an operator wants to know of a client."""
    return {
        "name": client.name,
        "incarnation": client.incarnation,
        "python": client.python,
        "tasks": len(client.tasks),
        "octets": client.task_bytes,
        "gone_s": None if client.gone_at is None else now - client.gone_at,
    }


def describe_task(task: Task, now: float) -> dict[str, Any]:
    """Return where a task stands."""
    return {
        "task": task.name,
        "name": task.call.name if task.template else "",
        "client": task.client.name,
        "state": run_state(task),
        "tries": task.tries,
        "actor": task.actor.name if task.actor else "",
        "waits_s": now - task.queued_at,
    }


def explain(broker: "Broker", client: Client, argument: str, now: float) -> dict[str, Any]:
    """Say why a task waits: its state, one line, and per actor what is missing."""
    task = find_task(broker, client, argument)
    if task is None:
        return {"state": "unknown", "reason": f"task {argument} is not known here", "actors": {}}
    reply: dict[str, Any] = describe_task(task, now) | {"actors": {}}
    match task.state:
        case State.QUEUED:
            reply["actors"] = {
                a.name: missing(broker, task, a, now) for a in broker.actors.values()
            }
            reply["reason"] = reason_of(broker, task, reply["actors"])
            if task.call.limits:
                reason, reply["limits"] = occupancy.explain(broker, task)
                reply["reason"] = reason or reply["reason"]
        case State.HELD:
            reply["reason"] = "the broker was started again and waits for actors that may run it"
        case State.ASSIGNED | State.UNCLAIMED_RUN:
            reply["reason"] = f"it is with actor {reply['actor']}"
            if task.actor and task in recall.waiting_at(broker.recalls, task.actor):
                reply["reason"] += ", and waits there behind what runs"
        case _:
            reply["reason"] = "it has ended"
    return reply


def find_task(broker: "Broker", client: Client, argument: str) -> Task | None:
    """Find a task by its number, of this client, or by its whole name, of any."""
    owner, separator, number = argument.rpartition("-")
    try:
        known = broker.clients.get(int(owner, 16)) if separator else client
        return known.tasks.get(int(number)) if known else None
    except ValueError:
        return None


def reason_of(broker: "Broker", task: Task, actors: dict[str, str]) -> str:
    """Sum up in one line why *task* waits."""
    if not actors:
        return "no actor is connected"
    if task.client.is_paused:
        return "its client does not receive its results"
    able = [a for a in broker.actors.values() if not unmet(task, a)]
    if not able:
        shown = "; ".join(f"{name}: {text}" for name, text in list(actors.items())[:3])
        return f"no connected actor satisfies it ({shown}{'; ...' if len(actors) > 3 else ''})"
    closed = [actor for actor in able if actor.closed]
    if len(closed) == len(able):
        shown = ", ".join(sorted({actor.closed for actor in closed}))
        return f"every actor that satisfies it takes no work ({shown})"
    return f"every actor that satisfies it is busy ({len(able)} of {len(actors)})"


def missing(broker: "Broker", task: Task, actor: Actor, now: float) -> str:
    """Say why *actor* does not get *task* now."""
    lacking = unmet(task, actor)
    if lacking:
        return lacking
    if actor.session is None:
        return f"not connected, silent for {now - actor.heard_at:.1f} s"
    if actor.is_suspect:
        return f"suspect, silent for {now - actor.heard_at:.1f} s"
    if actor.closed:
        return f"takes no work: {actor.closed}"
    if task.barred and actor in task.barred:
        return "rejected it"
    if task.call.limits and (lacking := occupancy.lacking_on(broker, task, actor)):
        return lacking
    assert task.template
    shape, credit = task.template.shape, actor.credit
    short = credit.lacks(shape)
    if short and not shape.is_plain:
        return f"{short} slots are missing of {shape.slots} ({len(actor.assigned)} tasks)"
    if not (credit.available or credit.has_typed):
        return f"no free slot ({len(actor.assigned)} tasks)"
    reserved = broker.reservation
    is_bound = reserved is not None and reserved.binds(task, actor)
    if reserved is not None and is_bound and not credit.covers(shape, reserved.shape):
        return "kept free for an older task that needs more slots"
    if not credit.covers(shape):
        environment = task.call.environment
        return (
            f"no turn in environment {environment.name}" if environment else "no slot of its kind"
        )
    return "has a free slot"


def unmet(task: Task, actor: Actor) -> str:
    """Say what of the task's requirements *actor* never meets as it is, or an empty text."""
    parts = [
        text(desire, actor)
        for desire in task.call.desires
        if desire.required and not satisfies(actor.labels, desire)
    ]
    for kind, amount in task.call.slots.items():
        capacity = actor.slots.get(kind, 0)
        if capacity < amount:
            parts.append(f"needs {amount} of slot {kind}, has {capacity}")
    return ", ".join(parts)


def text(desire: Desire, actor: Actor) -> str:
    """Say what was desired and what is offered."""
    value = "" if desire.value is None else f" {desire.value!r}"
    offered = repr(actor.labels[desire.key]) if desire.key in actor.labels else "nothing"
    return f"needs {desire.key} {desire.comparator}{value}, offers {offered}"
