"""What happens to a task: queued again, ended, delivered, dropped, forgotten.

Each function leaves the task in exactly one place: the backlog, the held, an actor, or the
outcomes of its client.
"""

from typing import TYPE_CHECKING, Final

from broker import (
    attaching,
    dead,
    durable,
    isolation,
    named,
    occupancy,
    patience,
    reservation,
    retrying,
)
from broker.peers import Client, Session, is_owned
from broker.task import ENDED, TRANSITIONS, Ending, Event, State, Task
from broker.trouble import Trouble
from wire import codec
from wire.errors import Code
from wire.messages import Result, Stop
from wire.parts import Failure, Status

if TYPE_CHECKING:
    from broker.core import Broker

# Acknowledgements to an actor wait for its next frame or heartbeat, unless so many have gathered.
OUTCOME_ACKS_WAITING_MAX: Final = 256
# Above this size an actor should not have to keep an outcome until the next heartbeat.
OUTCOME_ACK_AT_ONCE_BYTES: Final = 2**20
FORGET: Final = Event.FORGET
SETTLE: Final = Event.SETTLE
DEAD_KEPT: Final = 4_096
LOST_KEPT: Final = 1_024


def requeue(broker: "Broker", task: Task, reason: str, now: float, *, burns: str | None) -> None:
    """Queue *task* again, whose current assignment is gone.

    *burns* says what is known of the run: None, it never started; "crash", its process died in
    it; "shared", it and others did; "loss", it may have started; "innocent", it started, and that
    its process ended says nothing of it.
    """
    token = task.token
    detach(broker, task)
    if task.state is State.UNCLAIMED_RUN:
        broker.unclaimed.pop(task)
        erase(broker, task)
        return
    cancel_children(broker, task)
    assert task.template
    is_named = task.template.shape.named
    if task.client is broker.named.own and not is_named:
        erase(broker, task)  # Which copies are lacking is found out anew.
        return
    if is_named and not named.goes_on(broker, task, token, reason, burns=burns):
        return
    if burns is not None and task.call.at_most_once:
        end(broker, task, Code.OUTCOME_UNKNOWN, f"{reason}; it may have run")
        return
    if burns in ("crash", "shared", "loss") or (is_named and burns is not None):
        trouble = task.trouble = task.trouble or Trouble()
        trouble.crashes += burns == "crash"
        trouble.shared += burns == "shared"
        trouble.losses += burns == "loss"
        trouble.is_patient = False
        beside = ", beside others" if burns == "shared" else ""
        trouble.remember(f"attempt {task.tries + 1}: {reason}{beside}")
        # Of a crash among others nobody knows whose it was, so it is not held against the task.
        task.tries += burns != "shared"
        if not is_named and is_given_up(broker, task, trouble, reason):
            return
        retrying.say_requeued(broker, task)
        # It had found an actor in time: what is to be timed now is another wait.
        task.queued_at = now
    if task.record is not None:
        durable.requeued(broker, task, burns=burns)
    if task.trouble is not None and isolation.must_be_alone(task):
        isolation.isolate(broker, task, now)
        return
    task.move(Event.REQUEUE)
    queue_again(broker, task)


def queue_again(broker: "Broker", task: Task) -> None:
    """Queue *task* ahead of its equals; it ends where its limits are not there any more."""
    assert task.template
    if task.template.shape.limits is not None:
        refused = occupancy.refusal(broker, task.call.limits, None)
        if refused is not None:
            end(broker, task, *refused)
            return
    broker.backlog.push(task, is_back=True)
    patience.watch(broker, task)


def is_given_up(broker: "Broker", task: Task, trouble: Trouble, reason: str) -> bool:
    """End a task that took too many processes along, or was in too many; tell whether."""
    many = trouble.is_poison(broker.settings)
    if many:
        end(broker, task, Code.POISON_TASK, f"given up after {many}: {reason}")
    elif trouble.shared >= broker.settings.shared_max:
        message = (
            f"given up after {trouble.shared} crashes beside other tasks, any of which may be to"
            f" blame, since no actor was free for it alone: {reason}"
        )
        end(broker, task, Code.ACTOR_LOST, message)
    else:
        return False
    return True


def end(broker: "Broker", task: Task, code: Code, message: str) -> None:
    """End *task* by the broker's own decision. It is in no queue and with no actor."""
    end_with(broker, task, failure(task, code, message), code, message)


def end_with(broker: "Broker", task: Task, ending: Ending, code: Code, message: str) -> None:
    """End *task*, which is in no queue and with no actor, with an outcome that the broker made."""
    dead.keep_ended(broker, task, ending, code)
    task.move(Event.SETTLE)
    task.ending = ending
    broker.note("task_ended", task=task.name, code=code, message=message)
    unload(task)
    deliver(broker, task)


def deliver(broker: "Broker", task: Task) -> None:
    """Say the outcome to the client, if it is there; it stays until the client has it."""
    if task.record is not None and not durable.may_tell(broker, task):
        return
    client, ending = task.client, task.ending
    session = client.session
    if session is None:
        if client is broker.named.own:
            forget(broker, task)
        return
    assert ending is not None
    result = Result(
        task.number,
        ending.status,
        ending.body,
        len(ending.frames),
        ending.actor,
        ending.attempt,
    )
    broker.say(session, result, ending.frames)
    # After say: a frame that was full is sealed by it.
    frame = session.sent + len(session.sealed) + 1
    client.unreceived.append((frame, task, ending.size))
    client.unreceived_bytes += ending.size
    if client.is_behind(broker.settings.window_bytes):
        client.is_paused = True


def drop(broker: "Broker", task: Task, *, force: bool = False, reason: str) -> None:
    """Nobody wants *task* any more: stop its run, let its actor forget its outcome."""
    if is_owned(task):
        stop(broker, task, force=force, reason=reason)
        cancel_children(broker, task)
    forget(broker, task)


def stop(broker: "Broker", task: Task, *, force: bool = False, reason: str) -> None:
    """Tell the actor of *task* that nobody wants its run any more."""
    assert task.actor
    assert task.token
    epoch, number = task.token
    if not task.is_finished:
        broker.say(task.actor.session, Stop(epoch, number, force, reason))
        if broker.limited:
            broker.limits.stopped(task.token)


def forget(broker: "Broker", task: Task) -> None:
    """Let go of *task*, acknowledging its outcome to the actor that keeps it."""
    state = task.state
    if state is State.ENDED or state is State.UNCLAIMED_OUTCOME:
        actor, token = task.actor, task.token
        if token is not None and actor is not None and actor.session is not None:
            actor.session.outcome_acks.append(token)
            hurry(broker, actor.session, task.ending.size if task.ending else 0)
    elif state is State.QUEUED:
        take_out(broker, task)
    elif state is State.HELD:
        del broker.held[task]
    elif state is State.DELAYED:
        broker.delays.discard(task)
    elif state is State.ALONE:
        del broker.isolation.waiting[task]
    if state is State.UNCLAIMED_OUTCOME or state is State.UNCLAIMED_RUN:
        del broker.unclaimed[task]
    detach(broker, task)
    erase(broker, task)


def take_out(broker: "Broker", task: Task) -> None:
    """Take a queued task from where it waits; it is skipped when its turn comes."""
    broker.backlog.forget(task)
    broker.deadlines.discard(task)
    if broker.reservation is not None and broker.reservation.task is task:
        reservation.let_go(broker)


def received(broker: "Broker", task: Task, size: int) -> None:
    """Forget *task*, whose client has its outcome of *size* octets: `forget` where all is known."""
    if task.record is not None:
        attaching.received(broker, task)
        return
    token, actor, client = task.token, task.actor, task.client
    if token is not None:
        del broker.tokens[token]
        if actor is not None and (session := actor.session) is not None:
            acks = session.outcome_acks
            acks.append(token)
            if size >= OUTCOME_ACK_AT_ONCE_BYTES or len(acks) >= OUTCOME_ACKS_WAITING_MAX:
                broker.outbox.hurry(session)
    task.token = task.actor = task.ending = None
    task.state = TRANSITIONS[task.state, FORGET]
    del client.tasks[task.number]
    if task.size:  # Its client submitted it again, and the outcome was here already.
        unload(task)
    parent, task.parent = task.parent, None
    if parent is not None and parent.children:
        parent.children.pop(task, None)


def relieve(broker: "Broker") -> None:
    """Let actors that leave forget outcomes of clients that are away: they are kept here.

    Such a client may be dead, or of those that nobody claims may have had them, and a host would
    not leave before its timeout is over. Done with each heartbeat while it is so; what is
    acknowledged twice does no harm.
    """
    leaving = {actor for actor in broker.actors.values() if actor.is_leaving and actor.session}
    if not leaving:
        return
    kept = [task for task in broker.unclaimed if task.state is State.UNCLAIMED_OUTCOME]
    for client in broker.clients.values():
        if client.session is None:
            kept += [task for task in client.tasks.values() if task.state is ENDED]
    for task in kept:
        actor = task.actor
        if actor in leaving and task.record is None and task.token:
            assert actor is not None
            assert actor.session is not None
            actor.session.outcome_acks.append(task.token)


def detach(broker: "Broker", task: Task) -> None:
    """Take the current assignment from *task*, if it has one."""
    token = task.token
    if token is not None:
        if broker.limited:
            broker.limits.end(token)
        del broker.tokens[token]
        if task.actor is not None:
            task.actor.assigned.pop(token, None)
    task.token = task.actor = None
    task.is_released = task.is_finished = task.is_retriable = False


def bury(broker: "Broker", incarnation: int, *, replaced: bool = False) -> None:
    """Remember a process that can never come back."""
    broker.dead[incarnation] = replaced
    if len(broker.dead) > DEAD_KEPT:
        broker.dead.popitem(last=False)


def forget_names(broker: "Broker") -> None:
    """Let go of the names of lost actors that stayed away the longest, beyond a number of them."""
    names, actors = broker.actors_by_name, broker.actors
    if len(names) > len(actors) + LOST_KEPT:
        lost = next(name for name, one in names.items() if one.incarnation not in actors)
        del names[lost]


def erase(broker: "Broker", task: Task) -> None:
    task.move(Event.FORGET)
    client = task.client
    if client.tasks.pop(task.number, None) is not None and task.size:
        unload(task)
    parent, task.parent = task.parent, None
    if parent is not None and parent.children:
        parent.children.pop(task, None)
    task.ending = None
    if task.record is not None:
        attaching.erased(broker, task)
    forget_client(broker, client)


def forget_client(broker: "Broker", client: Client) -> None:
    """Forget a client without session and tasks.

    Of what was put away the client is the former one: its process may have come back since.
    """
    incarnation = client.incarnation
    if client.session is None and not client.tasks and broker.clients.get(incarnation) is client:
        del broker.clients[incarnation]


def settle(broker: "Broker", task: Task, ending: Ending) -> None:
    """Take over an outcome from the current assignment; children of a task that ended go on."""
    task.state = state = TRANSITIONS[task.state, SETTLE]
    task.ending = ending
    task.children = None
    if broker.limited and task.token is not None:
        if ending.status is Status.EXPIRED:
            broker.limits.stopped(task.token)
        broker.limits.end(task.token)
    # As `unload`.
    task.client.task_bytes -= task.size
    task.size = 0
    task.body, task.frames = b"", ()
    if state is ENDED:
        deliver(broker, task)


def unload(task: Task) -> None:
    """Let go of the call itself, which is not needed any more."""
    task.client.task_bytes -= task.size
    task.size = 0
    task.body, task.frames = b"", ()


def failure(task: Task, code: Code, message: str) -> Ending:
    failure = Failure(code, "", message, history=task.trouble.history if task.trouble else [])
    status = Status.CANCELED if code is Code.CANCELED else Status.LOST
    name = task.actor.name if task.actor else ""
    # Where none goes on, the last attempt is the one that was counted last.
    attempt = task.tries if task.tries and task.actor is None else task.tries + 1
    return Ending(status, codec.encode_failure(failure), (), name, attempt)


def cancel_children(broker: "Broker", task: Task) -> None:
    """End what a lost run submitted: the next run submits it again."""
    # Not by recursion: how deep calls are nested is the user's to say.
    families = [task]
    while families:
        task = families.pop()
        children, task.children = task.children, None
        for child in children or ():
            match child.state:
                case State.QUEUED:
                    broker.backlog.remove(child)
                    broker.deadlines.discard(child)
                case State.HELD:
                    del broker.held[child]
                case State.DELAYED:
                    broker.delays.discard(child)
                case State.ALONE:
                    del broker.isolation.waiting[child]
                case State.ASSIGNED:
                    stop(broker, child, reason="its parent was lost")
                    detach(broker, child)
                    families.append(child)
                case _:
                    continue
            end(broker, child, Code.PARENT_GONE, "the run that submitted it was lost")


def hurry(broker: "Broker", session: Session, size: int) -> None:
    """Acknowledge now what is large or has gathered; the rest rides on the next frame."""
    waiting = len(session.outcome_acks) + len(session.outcome_acks_stale)
    if waiting >= OUTCOME_ACKS_WAITING_MAX or size >= OUTCOME_ACK_AT_ONCE_BYTES:
        broker.outbox.hurry(session)
