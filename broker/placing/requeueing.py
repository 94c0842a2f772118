"""What becomes of a task whose assignment is gone: another try, a run alone, or an end.

The rule that must not be broken: whoever may run twice says so; a task that took too many processes
along does not get one more.
"""

from typing import TYPE_CHECKING

from broker.disk import writing
from broker.facts.peers import Actor, Session
from broker.facts.tally import UNSTARTED
from broker.facts.task import Event, State, Task
from broker.facts.trouble import Trouble
from broker.placing import environments
from broker.tasks import families, forgetting, lifecycle, named, retrying
from wire.errors import Code
from wire.messages import Reject

if TYPE_CHECKING:
    from broker.core import Broker


def requeue(broker: "Broker", task: Task, reason: str, now: float, *, burns: str | None) -> None:
    """Queue *task* again, whose current assignment is gone.

    *burns* says what is known of the run: None, it never started; "crash", its process died in
    it; "shared", it and others did; "loss", it may have started; "innocent", it started, and that
    its process ended says nothing of it.
    """
    token = task.token
    forgetting.detach(broker, task)
    if task.state is State.UNCLAIMED_RUN:
        broker.unclaimed.pop(task)
        families.part(broker, task, families.Parting.UNCLAIMED)
        forgetting.erase(broker, task)
        return
    has_parted = families.part(broker, task, families.Parting.LOST)
    assert task.template
    is_named = task.template.costs.named
    if task.client is broker.named.own and not is_named:
        forgetting.erase(broker, task)  # Which copies are lacking is found out anew.
        return
    if is_named and not named.goes_on(broker, task, token, reason, burns=burns):
        return
    if burns is not None and task.call.at_most_once:
        lifecycle.end(broker, task, Code.OUTCOME_UNKNOWN, f"{reason}; it may have run")
        return
    if burns in ("crash", "shared", "loss"):
        trouble = charge(task, reason, burns=burns)
        if has_parted and token is not None:
            # Its process may come back with it, and it would be told that its calls are gone.
            trouble.failed = max(trouble.failed, token)
        if not is_named and is_given_up(broker, task, trouble, reason):
            return
        retrying.say_requeued(broker, task)
        # It had found an actor in time: what is to be timed now is another wait.
        task.queued_at = now
    if now < broker.environments.broken_until and environments.is_refused(broker, task, now):
        return
    broker.tally.requeued[burns or UNSTARTED] += 1
    if task.record is not None:
        writing.requeued(broker, task, burns=burns)
    if task.must_be_alone:
        lifecycle.isolate(broker, task, now)
        return
    task.move(Event.REQUEUE)
    lifecycle.queue_again(broker, task)


def charge(task: Task, reason: str, *, burns: str) -> Trouble:
    """Hold a run of *task* against it as *burns* says, and return all that went wrong with it."""
    trouble = task.trouble = task.trouble or Trouble()
    trouble.crashes += burns == "crash"
    trouble.shared += burns == "shared"
    trouble.losses += burns == "loss"
    trouble.is_patient = False
    beside = ", beside others" if burns == "shared" else ""
    trouble.remember(f"attempt {task.tries + 1}: {reason}{beside}")
    # Of a crash among others nobody knows whose it was, so it is not held against the task.
    task.tries += burns != "shared"
    return trouble


def is_given_up(broker: "Broker", task: Task, trouble: Trouble, reason: str) -> bool:
    """End a task that took too many processes along, or was in too many; tell whether."""
    many = trouble.is_poison(broker.settings)
    if many:
        lifecycle.end(broker, task, Code.POISON_TASK, f"given up after {many}: {reason}")
    elif trouble.shared >= broker.settings.shared_max:
        message = (
            f"given up after {trouble.shared} crashes beside other tasks, any of which may be to"
            f" blame, since no actor was free for it alone: {reason}"
        )
        lifecycle.end(broker, task, Code.ACTOR_LOST, message)
    else:
        return False
    return True


def rejected(broker: "Broker", session: Session, task: Task, command: Reject, now: float) -> None:
    """Queue *task* again, which its actor did not take, and not for that actor where it says so."""
    actor = session.peer
    assert isinstance(actor, Actor)
    broker.tally.rejected += 1
    if command.bars:
        if task.barred is None:
            task.barred = {}
        task.barred[actor] = (actor.labels_version, session.number)
    reason = f"actor {actor.name} rejected it: {command.reason}"
    requeue(broker, task, reason, now, burns=None)
    if command.failure is not None and task.template and task.call.environment is not None:
        environments.failed(broker, task.call.environment, actor, command.failure, now)
    if task.template and task.template.costs.named:
        for other in named.calls_behind(broker, task, actor):
            requeue(broker, other, reason, now, burns=None)
