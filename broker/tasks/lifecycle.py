"""What happens to a task: queued again, ended, delivered, dropped, forgotten.

Each function leaves the task in exactly one place: the backlog, the held, an actor, or the
outcomes of its client.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from broker.disk import writing
from broker.facts.peers import COMMANDS_PER_FRAME, Actor
from broker.facts.task import ENDED, RESULT, TRANSITIONS, Ending, Event, State, Task
from broker.holding import wants
from broker.tasks import dead, forgetting
from wire import codec
from wire.errors import Code
from wire.limits import HOST_PREFIX
from wire.messages import Result, Stop
from wire.parts import Failure, Status, Token

if TYPE_CHECKING:
    from broker.core import Broker

SETTLE: Final = Event.SETTLE
# How often the wait of a task that crashed alone is doubled, and once less.
DOUBLED_MAX: Final = 6


def queue_again(broker: "Broker", task: Task) -> None:
    """Queue *task* ahead of its equals; it ends where its limits are not there any more."""
    assert task.template
    if task.template.shape.limits is not None:
        refused = wants.refusal(broker, task.call.limits, None)
        if refused is not None:
            end(broker, task, *refused)
            return
    broker.backlog.push(task, is_back=True)
    watch(broker, task)


def is_refused(broker: "Broker", task: Task) -> bool:
    """End *task*, which was held, where by now it can never have its limits; tell whether.

    Limits of hosts say nothing here: not all that will come back may be there.
    """
    assert task.template
    if task.template.shape.limits is None:
        return False
    limits = {n: a for n, a in task.call.limits.items() if not n.startswith(HOST_PREFIX)}
    refused = wants.refusal(broker, limits, None)
    if refused is None:
        return False
    end(broker, task, *refused)
    return True


def end(broker: "Broker", task: Task, code: Code, message: str) -> None:
    """End *task* by the broker's own decision. It is in no queue and with no actor."""
    end_with(broker, task, failure(task, code, message), code, message)


def end_with(broker: "Broker", task: Task, ending: Ending, code: Code, message: str) -> None:
    """End *task*, which is in no queue and with no actor, with an outcome that the broker made."""
    dead.keep_ended(broker, task, ending, code)
    if task.state is not State.ATTACHED:  # No task by that name is here.
        broker.tally.end(code)
    task.move(Event.SETTLE)
    task.ending = ending
    task.children = None
    broker.note("task_ended", task=task.name, code=code, message=message)
    task.unload()
    deliver(broker, task)


def deliver(broker: "Broker", task: Task) -> None:
    """Say the outcome to the client, if it is there; it stays until the client has it."""
    if task.record is not None and not writing.may_tell(broker, task):
        return
    client, ending = task.client, task.ending
    session = client.session
    if session is None:
        if client is broker.named.own:
            forgetting.forget(broker, task)
        return
    assert ending is not None
    frames, size = ending.frames, ending.size
    result = Result(
        task.number, ending.status, ending.body, len(frames), ending.actor, ending.attempt
    )
    if frames or not session.is_dirty or len(session.commands) >= COMMANDS_PER_FRAME:
        broker.say(session, result, frames)
    else:
        session.commands.append(result)
    # After say: a frame that was full is sealed by it.
    client.unreceived.append((session.sent + len(session.sealed) + 1, task, size))
    client.unreceived_bytes += size
    if client.is_behind(broker.settings.window_bytes):
        client.is_paused = True


def deliver_too_large(broker: "Broker", task: Task, size: int, room: int) -> None:
    """Say to a client that has no memory for an outcome that it is there; others can have it."""
    message = (
        f"the result has {size} octets, and its client can have memory for {room} more (a limit of"
        " its process, such as ulimit -v, or the machine's); return a path or a key instead"
    )
    whole, task.ending = task.ending, failure(task, Code.PAYLOAD_TOO_LARGE, message)
    deliver(broker, task)
    task.ending = whole


def stop(broker: "Broker", task: Task, *, force: bool = False, reason: str) -> None:
    """Tell the actor of *task* that nobody wants its run any more."""
    assert task.actor
    assert task.token
    epoch, number = task.token
    if not task.is_finished:
        broker.say(task.actor.session, Stop(epoch, number, force, reason))
        if broker.limited:
            broker.limits.stopped(task.token)


def relieve(broker: "Broker") -> None:
    """Let actors that leave forget outcomes of clients that are away: they are kept here.

    Such a client may be dead, or of those that nobody claims may have had them, and a host would
    not leave before its timeout is over. Done with each heartbeat while it is so; what is
    acknowledged twice does no harm.
    """
    if any(actor.is_leaving and actor.session for actor in broker.actors.values()):
        for actor, token in kept_for_nobody(broker):
            if actor.is_leaving and actor.session is not None:
                actor.session.outcome_acks.append(token)


def is_waited_for(broker: "Broker") -> bool:
    """Tell whether actors may end as well that are not rid of outcomes yet, or have not heard it.

    Those are what an actor that leaves and runs nothing waits for; clients say with a heartbeat
    what they have.
    """
    for actor in broker.actors.values():
        session = actor.session if actor.is_leaving else None
        if session is not None and (not actor.assigned or session.acked < session.sent):
            return True
    return any(kept_for_nobody(broker))


def is_unsettled(broker: "Broker") -> bool:
    """Tell whether some have perhaps not heard yet what lets an actor go that ends as well."""
    if any(client.unreceived for client in broker.clients.values()):
        return True
    sessions = [actor.session for actor in broker.actors.values() if actor.session is not None]
    return any(session.acked < session.sent for session in sessions)


def farewell(broker: "Broker") -> None:
    """Say what rides on the next frame, for there is none: an actor may wait for it to end."""
    relieve(broker)
    for session in broker.sessions.values():
        if session.outcome_acks or session.outcome_acks_stale:
            broker.outbox.hurry(session)


def kept_for_nobody(broker: "Broker") -> Iterator[tuple[Actor, Token]]:
    """Return the outcomes of clients that are away, and which actors that are there keep them."""
    kept = [task for task in broker.unclaimed if task.state is State.UNCLAIMED_OUTCOME]
    for client in broker.clients.values():
        if client.session is None:
            kept += [task for task in client.tasks.values() if task.state is ENDED]
    for task in kept:
        actor = task.actor
        if actor is not None and actor.session and task.record is None and task.token:
            yield actor, task.token


def settle(broker: "Broker", task: Task, ending: Ending) -> None:
    """Take over an outcome from the current assignment; children of a task that ended go on."""
    task.state = state = TRANSITIONS[task.state, SETTLE]
    task.ending = ending
    if broker.limited and task.token is not None:
        if ending.status is Status.EXPIRED:
            broker.limits.stopped(task.token)
        broker.limits.end(task.token)
    # As `task.unload`.
    if task.size:
        task.client.task_bytes -= task.size
        task.size = 0
    task.body, task.frames = b"", ()
    if state is ENDED:
        task.children = None
        if ending.status is RESULT:
            broker.tally.succeeded += 1
        else:
            broker.tally.settle(ending)
        deliver(broker, task)


def failure(task: Task, code: Code, message: str) -> Ending:
    failure = Failure(code, "", message, history=task.trouble.history if task.trouble else [])
    status = Status.CANCELED if code is Code.CANCELED else Status.LOST
    name = task.actor.name if task.actor else ""
    # Where none goes on, the last attempt is the one that was counted last.
    attempt = task.tries if task.tries and task.actor is None else task.tries + 1
    return Ending(status, codec.encode_failure(failure), (), name, attempt)


def isolate(broker: "Broker", task: Task, now: float) -> None:
    """Let *task* wait for an actor that holds nothing else, the longer the more has happened."""
    task.move(Event.ISOLATE)
    trouble = task.trouble
    assert trouble
    crashes = min(max(trouble.crashes + trouble.shared, 1), DOUBLED_MAX)
    wait_s = broker.settings.isolation_s * 2.0 ** (crashes - 1)
    broker.isolation.waiting[task] = now + wait_s
    broker.isolation.is_needed = True


def watch(broker: "Broker", task: Task) -> None:
    """Let *task*, which is queued now, end when it has waited for as long as it says."""
    timeout_s = task.call.schedule_timeout_s
    if timeout_s is not None:
        broker.deadlines.set(task, task.queued_at + timeout_s)
