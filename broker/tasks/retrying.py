"""Which failures are tried again, and when (protocol.md section 10.1).

A task that waits for its next try holds nothing: no slot, no limit, no actor. The rule that must
not be broken: one failed run counts once, however often and by whom it is told of. So the client is
told which run it was, and the actor keeps that outcome until the client knows.
"""

from typing import TYPE_CHECKING

from broker.disk import writing
from broker.disk.records import Record
from broker.facts.peers import Actor, Client
from broker.facts.task import Ending, Event, State, Task
from broker.facts.trouble import (
    HISTORY_MAX,
    NO_TOKEN,
    WAIT_S_MAX,
    FailedRun,
    Trouble,
    delay_s,
)
from broker.tasks import dead, families, forgetting, lifecycle
from wire.codec import encode_failure, read_failure
from wire.messages import Requeued, Tried
from wire.parts import Failure, Status, Token

if TYPE_CHECKING:
    from broker.core import Broker

# What a client can say that it knows of; far above every limit.
COUNT_MAX = 2**31


def retry(broker: "Broker", task: Task, ending: Ending, now: float) -> bool:
    """Try *task* again, if its failure and its call say so; tell whether.

    *ending* is not taken over then. Otherwise it is, with what went wrong before added to it.
    """
    if not task.template:
        # Nobody has claimed it yet, so what its call says is not known.
        failure = read_failure(body_of(ending))
        task.is_retriable = failure is not None and failure.retriable
        return False
    if is_tried_again(broker, task, ending, now):
        return True
    if ending.status is Status.EXPIRED:
        families.cut_off(broker, task)
    if task.call.retries or task.record is not None:
        dead.keep_failed(broker, task, ending)
    return False


def is_tried_again(broker: "Broker", task: Task, ending: Ending, now: float) -> bool:
    """Let *task* wait for its next try, if it has one; tell whether."""
    call = task.call
    trouble = task.trouble
    if ending.status is not Status.FAILURE and ending.status is not Status.EXPIRED:
        return False
    if trouble is None:
        if not call.retries:
            return False
        trouble = Trouble()
    failure = read_failure(body_of(ending))
    if failure is None:
        return False
    assert task.token
    is_known = task.token <= trouble.failed
    failures = trouble.failures + (not is_known)
    is_last = not failure.retriable or failures > call.retries or call.at_most_once
    if is_last and not is_known:
        tell_history(ending, failure, trouble)
        return False
    task.trouble = trouble
    wait_s = max(0.0, trouble.due_at - now)
    if not is_known:
        trouble.failed = task.token
        trouble.failures = failures
        trouble.remember(f"{whose(task, ending.actor)}: {line_of(failure)}")
        task.tries += 1
        broker.tally.retried += 1
        client = task.client
        wait_s = delay_s(call, failures, client.incarnation, task.number)
        trouble.due_at = now + wait_s
    again(broker, task, ending, wait_s, now)
    return True


def again(broker: "Broker", task: Task, ending: Ending, wait_s: float, now: float) -> None:
    """Let *task*, whose run has failed, wait for its next try."""
    actor, token, trouble = task.actor, task.token, task.trouble
    assert token
    assert trouble
    if broker.limited and ending.status is Status.EXPIRED:
        broker.limits.stopped(token)
    wait(broker, task, now)
    reason = "".join(trouble.history[-1:])
    broker.note("retry", task=task.name, after_s=round(wait_s, 3), reason=reason)
    say_requeued(broker, task, wait_s)
    session = task.client.session
    run = FailedRun(actor, token) if actor is not None else None
    if task.record is not None:
        writing.failed(broker, task, run)
    elif run is not None and session is not None:
        # After say: a frame that was full is sealed by it.
        frame = session.sent + len(session.sealed) + 1
        task.client.unreceived.append((frame, run, 0))
    elif run is not None:
        acknowledge(broker, run.actor, run.token)


def wait(broker: "Broker", task: Task, now: float) -> None:
    """Let *task*, whose run counts no more, wait for the time of its next try."""
    token, trouble = task.token, task.trouble
    assert token
    assert trouble
    forgetting.detach(broker, task)
    families.part(broker, task, families.Parting.LOST)
    families.ended(broker, token)
    task.ending = None
    if broker.window_ends_at is not None and token[0] != broker.epoch:
        # Somebody may still offer its next try.
        task.move(Event.HOLD)
        broker.held[task] = None
    else:
        task.move(Event.RETRY)
        broker.delays.set(task, max(now, trouble.due_at))


def wake(broker: "Broker", now: float) -> None:
    """Queue again whose time has come."""
    for task in broker.delays.take(now, at_most=COUNT_MAX):
        if task.must_be_alone:
            lifecycle.isolate(broker, task, now)
            continue
        task.move(Event.DUE)
        # It had found an actor in time: what is to be timed now is another wait.
        task.queued_at = now
        lifecycle.queue_again(broker, task)


def forgive(broker: "Broker", stall_s: float) -> None:
    """Let everybody wait for as long as the broker itself was stopped."""
    for task in broker.delays.things:
        assert task.trouble
        task.trouble.due_at += stall_s
    broker.delays.postpone(stall_s)


def take_over(task: Task, told: Tried, now: float) -> None:
    """Let *task* go on from what its client knows that went wrong."""
    trouble = task.trouble = task.trouble or Trouble()
    trouble.failures = max(trouble.failures, min(told.failures, COUNT_MAX))
    trouble.crashes = max(trouble.crashes, min(told.crashes, COUNT_MAX))
    trouble.losses = max(trouble.losses, min(told.losses, COUNT_MAX))
    trouble.shared = max(trouble.shared, min(told.shared, COUNT_MAX))
    trouble.failed = max(trouble.failed, told.failed or trouble.failed)
    if told.wait_s > 0.0:
        trouble.due_at = now + min(told.wait_s, WAIT_S_MAX)
    for line in told.history[-HISTORY_MAX:]:
        trouble.remember(line)


def is_early(task: Task, now: float) -> bool:
    """Tell whether the time of the next try of *task* has not come."""
    return task.trouble is not None and task.trouble.due_at > now


def say_requeued(broker: "Broker", task: Task, wait_s: float = 0.0) -> None:
    """Tell the client what it has to say when it sends the task again.

    Of what is in the journal it is told once that is on disk: a broker that did not know of it
    would count less than its client was told.
    """
    if not isinstance(task.record, Record):
        tell(broker, task, wait_s)


def tell(broker: "Broker", task: Task, wait_s: float) -> None:
    trouble = task.trouble
    assert trouble
    broker.say(
        task.client.session,
        Requeued(
            task.number,
            task.tries,
            trouble.history[-1] if trouble.history else "",
            trouble.failures,
            trouble.crashes,
            trouble.losses,
            wait_s,
            trouble.failed if trouble.failed > NO_TOKEN else None,
            trouble.shared,
        ),
    )


def count_no_more(broker: "Broker", task: Task, token: Token, now: float) -> None:
    """Let nothing count any more that is offered of a lost run of *task*, or of an earlier one."""
    if task.is_over or (task.token is not None and task.token <= token):
        return
    trouble = task.trouble = task.trouble or Trouble()
    if token <= trouble.failed:
        return
    trouble.failed = token
    if isinstance(task.record, Record):
        writing.write_progress(broker, task)
    say_again(broker, task, now)


def say_again(broker: "Broker", task: Task, now: float) -> None:
    """Tell a client what went wrong, unless the journal is to have that and does not yet."""
    trouble = task.trouble
    if trouble is None or task.is_over or trouble.sequence > broker.committed_sequence:
        return
    wait_s = trouble.due_at - now if task.state is State.DELAYED else 0.0
    tell(broker, task, max(0.0, wait_s))


def explain(task: Task, now: float) -> str:
    """Say until when *task* waits, and why."""
    assert task.trouble
    wait_s = max(0.0, task.trouble.due_at - now)
    return f"it waits for its retry in {wait_s:.1f} s ({'; '.join(task.trouble.history[-1:])})"


def acknowledge(broker: "Broker", actor: Actor, token: Token) -> None:
    """Let *actor* forget the outcome of a run that is tried again."""
    if actor.session is not None:
        actor.session.outcome_acks.append(token)
        forgetting.hurry(broker, actor.session, 0)


def let_go(broker: "Broker", client: Client) -> None:
    """Wait no longer for *client* to receive what is on its way to it."""
    for _, what, _ in client.unreceived:
        if isinstance(what, FailedRun):
            acknowledge(broker, what.actor, what.token)
    client.unreceived.clear()
    client.unreceived_bytes = 0


def tell_history(ending: Ending, failure: Failure, trouble: Trouble) -> None:
    """Add what went wrong before to the last failure of a task."""
    if not trouble.history:
        return
    fields = {name: getattr(failure, name) for name in failure.__struct_fields__}
    body = encode_failure(Failure(**(fields | {"history": trouble.history})))
    if ending.body:
        ending.body, ending.frames = body, ()
    else:
        ending.frames = [body, *ending.frames[1:]]
    ending.size = len(ending.body) + sum(map(len, ending.frames))


def body_of(ending: Ending) -> bytes:
    """Return what says how a task ended, wherever it travelled."""
    return ending.body or (ending.frames or (b"",))[0]


def whose(task: Task, actor: str) -> str:
    """Say which attempt it was, and where."""
    return f"attempt {task.tries + 1} on {actor}" if actor else f"attempt {task.tries + 1}"


def line_of(failure: Failure) -> str:
    """Say in one line what a run has raised."""
    text = " ".join(failure.message.split())
    return ": ".join(filter(None, (failure.type or failure.code, text)))
