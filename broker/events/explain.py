"""What the broker can tell: live state, and why a task waits. Changes nothing."""

from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from broker.disk import writing
from broker.disk.records import Record
from broker.events import reasons, residing
from broker.facts.peers import Actor, Client
from broker.facts.task import State, Task
from broker.holding import occupants
from broker.placing import environments, isolation, recall
from broker.tasks import attaching, dead, retrying
from wire.parts import WORN
from wire.release import release
from wire.texts import brief, cut

if TYPE_CHECKING:
    from broker.core import Broker

TASKS_LISTED_MAX: Final = 1_000
# How long an actor that stays away is told of; for this time and no longer somebody misses it.
LOST_TOLD_S: Final = 86_400.0
# The states in which a task waits to be given to an actor.
WAITING: Final = (State.QUEUED, State.ALONE, State.DELAYED, State.HELD, State.WRITING)


def answer(
    broker: "Broker", client: Client, what: str, argument: str, now: float
) -> dict[str, Any]:
    """Answer a QUERY; what makes no sense gets `{"error": text}`."""
    match what:
        case "status":
            return status(broker, now) if not argument else explain(broker, client, argument, now)
        case "actors":
            at = residing.titles(broker)
            actors = [describe_actor(broker, actor, at, now) for actor in broker.actors.values()]
            return {"actors": actors, "lost": lost(broker, now)}
        case "clients":
            return {"clients": [describe_client(known, now) for known in broker.clients.values()]}
        case "tasks":
            clients = broker.clients.values()
            tasks = (task for known in clients for task in known.tasks.values())
            return {
                "count": sum(len(known.tasks) for known in clients),
                "tasks": [describe_task(task, now) for task in islice(tasks, TASKS_LISTED_MAX)],
            }
        case "environments":
            return environments.describe(broker, now)
        case "dead":
            return dead.answer(broker, argument)
        case "limits":
            return occupants.describe(broker, argument)
        case "explain":
            return explain(broker, client, argument, now)
        case _:
            return {
                "error": f"unknown query {brief(what)}; known: status, actors, clients, tasks,"
                " environments, explain, dead, limits, named, drain, pause, resume,"
                " environment-retry, dead-forget, cancel, cancel-force, limit-set, limit-delete,"
                " limit-release, named-kill"
            }


def status(broker: "Broker", now: float) -> dict[str, Any]:
    """Return the broker's own figures."""
    counts, tally = count(broker), broker.tally
    here = sum(counts.values()) - counts["ended"]
    unclaimed = sum(task.state is State.UNCLAIMED_RUN for task in broker.unclaimed)
    return {
        "release": release(),
        "epoch": broker.epoch,
        "started_at": started_at(broker),
        "uptime_s": now - broker.started_at,
        "recovering": broker.window_ends_at is not None,
        "clients": sum(client.session is not None for client in broker.clients.values()),
        "actors": len(broker.actors),
        "actors_closed": sum(bool(actor.closed) for actor in broker.actors.values()),
        "hosts": len(broker.hosts),
        "queued": counts["queued"],
        "delayed": counts["delayed"],
        "alone": counts["alone"],
        "assigned": counts["assigned"],
        "released": sum(
            task.is_released for actor in broker.actors.values() for task in actor.assigned.values()
        ),
        "ended": counts["ended"],
        "dead": len(broker.dead_tasks.by_name),
        "kept": sum(map(len, broker.records.kept.values())),
        "journal": journal(broker),
        "journal_octets": broker.records.octets,
        "submitted": here - unclaimed + tally.ended,
        "succeeded": tally.succeeded,
        "failed": sum(tally.failed.values()),
        "failed_by_code": dict(tally.failed),
        "canceled": tally.canceled,
        "retried": tally.retried,
        "requeued": sum(tally.requeued.values()),
        "requeued_by_reason": dict(tally.requeued),
        "assignments": broker.assignments,
        "recalled": broker.recalls.count,
        "rejected": tally.rejected,
    }


def started_at(broker: "Broker") -> str:
    """Return since when the broker counts, as log lines tell the time."""
    started = datetime.fromtimestamp(writing.wall_ms(broker, broker.started_at) / 1000.0, UTC)
    return f"{started:%Y-%m-%dT%H:%M:%S}.{started.microsecond // 1000:03}Z"


def count(broker: "Broker") -> dict[str, int]:
    """Count the tasks in each state by the places where they are, not one by one."""
    clients = broker.clients.values()
    counts = {
        "queued": broker.backlog.count + len(broker.held) + len(broker.records.writing),
        "delayed": len(broker.delays.things),
        "alone": len(broker.isolation.waiting),
        "assigned": sum(len(actor.assigned) for actor in broker.actors.values()),
    }
    attached = 0
    if broker.records.calls:  # Else there is no durable task that could have another name.
        tasks = (task for client in clients for task in client.tasks.values())
        attached = sum(task.state is State.ATTACHED for task in tasks)
    total = sum(len(client.tasks) for client in clients)
    return counts | {"ended": total - attached - sum(counts.values())}


def check(broker: "Broker") -> None:
    """Assert that the places add up to what the tasks say themselves."""
    states: dict[str, int] = dict.fromkeys(State, 0)
    for client in broker.clients.values():
        for task in client.tasks.values():
            states[task.state] += 1
    counts = count(broker)
    assert counts["queued"] == states[State.QUEUED] + states[State.HELD] + states[State.WRITING]
    assert counts["delayed"] == states[State.DELAYED]
    assert counts["alone"] == states[State.ALONE]
    assert len(broker.held) == states[State.HELD]
    assert len(broker.unclaimed) == states[State.UNCLAIMED_RUN] + states[State.UNCLAIMED_OUTCOME]
    assert counts["assigned"] == states[State.ASSIGNED] + states[State.UNCLAIMED_RUN]
    assert counts["ended"] == states[State.ENDED] + states[State.UNCLAIMED_OUTCOME]


def journal(broker: "Broker") -> str:
    """Say in a few words whether durable tasks can be written."""
    if not broker.records.has_journal:
        return "none"
    return f"cannot be written: {broker.records.refusal}" if broker.records.refusal else "ok"


def describe_actor(
    broker: "Broker", actor: Actor, named: Mapping[Actor, dict[str, str]], now: float
) -> dict[str, Any]:
    """Return what an operator wants to know of an actor; *named* says who resides where."""
    stated = actor.credit.stated
    return {
        "name": actor.name,
        "incarnation": actor.incarnation,
        "host": actor.name.rpartition("/")[0],
        "pid": actor.pid,
        "python": actor.python,
        "release": actor.release,
        "labels": actor.labels,
        "labels_version": actor.labels_version,
        "slots": actor.slots,
        "free": stated.free,
        "ahead": stated.ahead,
        "available": actor.credit.available,
        "typed": stated.typed,
        # Not of those that wait in its mailbox, as far as one can tell.
        "held": {
            kind: min(amount, actor.slots.get(kind, amount))
            for kind, amount in reasons.slots_held(broker, actor).items()
        },
        "holding": [
            {"task": task.name, "state": run_state(task), "attempt": task.tries + 1}
            for task in actor.assigned.values()
        ],
        "state": actor_state(actor),
        "closed": actor.closed,
        "environments": states(actor, cold(broker, actor)),
        "named": named.get(actor, {}),
        "silent_s": max(0.0, now - actor.heard_at),
    }


def lost(broker: "Broker", now: float) -> list[dict[str, Any]]:
    """Return the actors that were silent past their lease, whose names nobody has had since."""
    return [
        {
            "name": actor.name,
            "incarnation": actor.incarnation,
            "host": actor.name.rpartition("/")[0],
            "pid": actor.pid,
            "silent_s": now - actor.heard_at,
            "tasks": actor.lost,
        }
        for actor in broker.actors_by_name.values()
        if actor.incarnation not in broker.actors and now - actor.heard_at < LOST_TOLD_S
    ]


def cold(broker: "Broker", actor: Actor) -> list[str]:
    """Return the environments that *actor* had, or could enter for what waits, and has not.

    The newest first, and of each kind so many at most.
    """
    records = broker.environments.records
    queues = (queue for crew in actor.crews for queue in crew.queues.values())
    wanted = [
        queue.environment for queue in islice(queues, environments.FORMER_MAX) if queue.first()
    ]
    return [
        identity
        for identity in dict.fromkeys([*wanted, *reversed(actor.former)])
        if identity in records and identity not in actor.copies
    ]


def states(actor: Actor, cold: list[str]) -> dict[str, str]:
    """Return how the environments of *actor* stand there.

    What it said of them may be as old as a heartbeat; that one is worn only it knows.
    """
    known = {name: "warm" if copy.is_warm else "loading" for name, copy in actor.copies.items()}
    told = actor.environments.items()
    known |= {name: state for name, state in told if state == WORN or name not in known}
    # Of copies for single runs the last heartbeat may know none yet.
    known = dict.fromkeys(actor.count_inside(), "warm") | known
    return known | {name: "cold" for name in cold if name not in known}


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
        "name": task.template.head.name if task.template else "",
        "client": task.client.name,
        "state": run_state(task),
        "tries": task.tries,
        "actor": task.actor.name if task.actor else "",
        "waits_s": now - task.queued_at if task.state in WAITING else None,
    }


def explain(broker: "Broker", client: Client, argument: str, now: float) -> dict[str, Any]:
    """Say why a task waits: its state, one line, and per actor what is missing."""
    task = find_task(broker, client, argument)
    if task is None:
        return {"actors": {}} | explain_unknown(broker, argument)
    reply: dict[str, Any] = describe_task(task, now) | {"actors": {}}
    match task.state:
        case State.QUEUED | State.ALONE | State.DELAYED | State.HELD | State.WRITING:
            reason = why_waiting(broker, task, now)
            reply["reason"] = reason.text
            if task.state is State.QUEUED:
                explain_queued(broker, task, reason, reply, now)
        case State.ASSIGNED | State.UNCLAIMED_RUN:
            reply["reason"] = f"it is with actor {reply['actor']}"
            loading = reasons.entering_at(task, task.actor)
            if loading:
                reply["reason"] += f", where {loading}"
            elif task.actor and task in recall.waiting_at(broker.recalls, task.actor):
                reply["reason"] += ", and waits there behind what runs"
            elif text := occupants.explain_run(broker, task):
                reply["reason"] += f", and waits there: {text}{call_waiting(broker, task, now)}"
            if task.actor and (text := reasons.unheard(broker, task.actor, now)):
                reply["reason"] += f"; that one is {text}"
        case _:
            reply["reason"] = explain_ended(broker, task)
    return reply


def explain_ended(broker: "Broker", task: Task) -> str:
    """Say why *task*, which has ended, is still here: mostly nobody has received its outcome."""
    record = task.record
    if task.state is State.UNCLAIMED_OUTCOME:
        return "it has ended, and no client has come for it since the broker was started"
    if isinstance(record, Record) and not writing.has_outcome(broker, record):
        is_stuck = f", which {journal(broker)}" if broker.records.refusal else ""
        return f"it has ended, and its outcome is told once the journal has it{is_stuck}"
    if isinstance(record, Record) and record.is_taken:
        return "it has ended, and its outcome is kept"
    is_away = ", which is away," if task.client.session is None else ""
    return f"it has ended, and its client{is_away} has not received the outcome"


def explain_unknown(broker: "Broker", argument: str) -> dict[str, Any]:
    """Say what is known of a task that is not here: it may be dead."""
    gone = dead.find(broker, argument)
    if gone is None:
        return {"state": "unknown", "reason": f"task {cut(argument)} is not known here"}
    return {"state": "dead", "reason": f"{gone.facts.code}: {gone.facts.message}"}


def why_waiting(broker: "Broker", task: Task, now: float) -> reasons.Reason:
    """Say in one line why *task* waits to be given to an actor."""
    match task.state:
        case State.ALONE:
            text = isolation.explain(broker)
        case State.DELAYED:
            text = retrying.explain(task, now)
        case State.HELD:
            text = "the broker has just started and waits for actors that may run it"
        case State.WRITING:
            text = "an actor may start it once the journal says so"
        case _:
            reason, named = reasons.reason_of(broker, task, now), ""
            if task.template and task.template.costs.named:
                named = residing.explain(broker, task)
            is_kept = bool(named and reasons.kept_everywhere(broker, task))
            return reason if is_kept or not named else reason._replace(text=named)
    return reasons.Reason(text, task.queued_at)


def call_waiting(broker: "Broker", task: Task, now: float) -> str:
    """Say why one of the calls that the run of *task* waits for has no actor yet, or nothing."""
    assert task.token
    for wait in broker.limits.waits.by_run.get(task.token, {}).values():
        for number in occupants.numbers_shown(wait):
            call = attaching.find(broker, wait.client, number)
            if call is not None and call.state in WAITING:
                text = why_waiting(broker, call, now).text
                return f"; {call.name} has no actor: {text}"
    return ""


def explain_queued(
    broker: "Broker", task: Task, reason: reasons.Reason, reply: dict[str, Any], now: float
) -> None:
    """Say which actor lacks what for *task*, and for how long it has been so."""
    reply["reason_s"] = now - reason.since
    reply["satisfiable"] = reason.is_satisfiable
    reply["actors_s"] = {}
    everywhere = reasons.kept_everywhere(broker, task)
    for actor in broker.actors.values():
        text, since = reasons.missing(broker, task, actor, everywhere, now)
        reply["actors"][actor.name] = text
        reply["actors_s"][actor.name] = now - since
    if task.call.limits:
        _, reply["limits"] = occupants.explain(broker, task)
    if task.call.schedule_timeout_s is not None:
        reply["ends_s"] = max(0.0, task.queued_at + task.call.schedule_timeout_s - now)


def find_task(broker: "Broker", client: Client, argument: str) -> Task | None:
    """Find a task by its number, of this client, or by its whole name, of any."""
    owner, separator, number = argument.rpartition("-")
    try:
        incarnation = int(owner, 16) if separator else client.incarnation
        return attaching.find(broker, incarnation, int(number))
    except ValueError:
        return None
