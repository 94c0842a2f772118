"""What SUBMIT does: a new task is queued, or ended at once; one that is there is claimed."""

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING, Any

from broker.disk import writing
from broker.disk.records import Record
from broker.events import doubts, occupancy, strategies
from broker.facts.peers import Client, Session
from broker.facts.task import ENDED, QUEUED, TRIES_MAX, Event, State, Task, Template
from broker.facts.trouble import NO_TOKEN
from broker.placing import environments, requeueing
from broker.tasks import attaching, bindings, dead, durable, families, lifecycle, named, retrying
from wire.errors import Code, RemoteProtocolError
from wire.messages import Attach, Submit
from wire.parts import Token

if TYPE_CHECKING:
    from broker.core import Broker


def submit(  # noqa: PLR0917
    broker: "Broker",
    session: Session,
    command: Submit,
    own: Sequence[Any],
    now: float,
    template: Template | None = None,
) -> None:
    """Take a call: queue it, hold it, or give it to the client whose it is.

    *template* is what it is made of where its client does not know that.
    """
    client = session.peer
    assert isinstance(client, Client)
    if template is None:
        template = session.templates_known.get(command.template)
    if template is None:
        raise RemoteProtocolError(
            Code.UNKNOWN_TEMPLATE, f"template {command.template} was not sent"
        )
    number, kind = command.task, template.kind
    task = client.tasks.get(number)
    if task is None and kind.is_durable:
        task = attaching.put_back(broker, client, number)
    if task is not None and task.state not in (State.UNCLAIMED_RUN, State.UNCLAIMED_OUTCOME):
        if task.record is not None:
            durable.said_again(broker, session, task)
        elif task.state is ENDED and all(task is not sent for _, sent, _ in client.unreceived):
            lifecycle.deliver(broker, task)
        return
    if task is None:
        if len(client.tasks) - len(broker.unclaimed) >= broker.settings.window_tasks:
            check_window(broker, client)
        task = client.tasks[number] = Task(client, number, QUEUED, now)
    if command.again or command.tries:
        task.tries = max(task.tries, min(command.tries, TRIES_MAX))
        if client.tried is not None and client.tried.task == command.task:
            retrying.take_over(task, client.tried, now)
    if command.waited_s is not None and 0.0 < command.waited_s < inf:
        task.queued_at = now - command.waited_s
    task.template = template
    task.body = command.body
    task.frames = own
    task.size = size = len(command.body) + (sum(map(len, own)) if own else 0)
    client.task_bytes += size
    if kind.is_durable and not durable.keep(broker, task, command, now):
        return
    if task.state is QUEUED:
        if (
            kind.is_usual
            and size <= broker.settings.payload_bytes_max
            and not (command.again or command.parent or task.trouble)
        ):
            if kind.costs.place is None or may_enter(broker, task, now):
                broker.backlog.push(task)
        else:
            enter(broker, task, command, now)
    else:
        claim(broker, task, command, now)


def may_enter(broker: "Broker", task: Task, now: float) -> bool:
    """Tell whether a usual call waits for what it enters, or end it: nobody can enter that."""
    assert task.template
    if task.template.costs.named:
        return named.admit(broker, task, is_new=True)
    # Mostly nothing is broken.
    return now >= broker.environments.broken_until or not environments.is_refused(broker, task, now)


def claim(broker: "Broker", task: Task, command: Submit, now: float) -> None:
    """Let *task*, which an actor has offered, be its client's."""
    assert task.template
    shape = task.template.shape
    broker.unclaimed.pop(task)
    if broker.dead_tasks.by_name:
        dead.lives_again(broker, (task.client.incarnation, task.number))
    if shape.limits is not None:
        strategies.join(broker, task)
    if shape.sticky and task.actor is not None:
        bindings.bind(broker, shape.sticky, task.actor.name, now)
    if shape.cost.named:
        named.claim(broker, task)
    if task.ending is not None and retrying.retry(broker, task, task.ending, now):
        return
    task.move(Event.CLAIM)
    if task.state is State.ENDED:
        assert task.ending
        broker.tally.settle(task.ending)
        task.children = None
        lifecycle.deliver(broker, task)
        return
    if command.parent is not None:
        families.adopt(broker, task, command.parent)
    over = NO_TOKEN if task.trouble is None else task.trouble.failed
    if task.token and task.token <= over and task.is_finished:
        # What its actor says of it, with its next frame, is known or counts no more.
        retrying.wait(broker, task, now)
    elif task.token and task.token <= over:
        # The broker before was to have it run again, and has ended what this run had called.
        reason = "an earlier broker had given it up"
        families.halt(broker, task, reason=reason)
        requeueing.requeue(broker, task, reason, now, burns=None)


def check_window(broker: "Broker", client: Client) -> None:
    """Raise for a client that has more here than WELCOME allows."""
    # What actors offer, and perhaps nobody wants, does not count.
    window = broker.settings.window_tasks
    if len(client.tasks) - len(broker.unclaimed) < window:
        return
    # Nor does what is durable and was given up by its client.
    if sum(counts(task) for task in client.tasks.values()) >= window:
        raise RemoteProtocolError(
            Code.WINDOW_EXCEEDED,
            f"more than {broker.settings.window_tasks} tasks without an outcome",
            fatal=True,
        )


def counts(task: Task) -> bool:
    """Tell whether *task* takes part of the window of its client."""
    if task.state is State.UNCLAIMED_RUN or task.state is State.UNCLAIMED_OUTCOME:
        return False
    return not isinstance(task.record, Record) or task.record.is_wanted


def attach(
    broker: "Broker", session: Session, command: Attach, own: Sequence[Any], now: float
) -> None:
    """Find a durable task, which may be another client's."""
    client = session.peer
    assert isinstance(client, Client)
    task = client.tasks.get(command.task) or attaching.put_back(broker, client, command.task)
    if task is not None:
        durable.said_again(broker, session, task)
        return
    check_window(broker, client)
    attaching.attach(broker, client, command, now)


def refuse_for(broker: "Broker", parent: Token, now: float) -> None:
    """Let a run stay over that is not here, since a call of its own is refused for that."""
    maker = doubts.charged_with(broker, parent)
    if maker is not None:
        retrying.count_no_more(broker, maker, parent, now)
    else:
        families.refuse(broker, parent)


def enter(broker: "Broker", task: Task, command: Submit, now: float) -> None:
    """Queue a new task, or say at once why not."""
    assert task.template
    if task.size > broker.settings.payload_bytes_max:
        lifecycle.end(
            broker,
            task,
            Code.PAYLOAD_TOO_LARGE,
            f"the call has {task.size} octets, "
            f"{broker.settings.payload_bytes_max} are allowed here",
        )
    elif command.parent is not None and not families.may_adopt(broker, command.parent):
        refuse_for(broker, command.parent, now)
        reason = "the run that submitted this one has ended, or was given to another actor"
        end_orphan(broker, task, reason)
    elif (
        task.template.costs.environment is not None and environments.is_refused(broker, task, now)
    ) or (task.template.costs.needs_admission and not admit(broker, task, command, now)):
        # One that is held ends with the run that made it as well.
        if command.parent is not None and not task.is_over:
            adopt_held(broker, task, command.parent)
    # Only now, since a call can have its own caller canceled, and with it all that that called.
    elif command.parent is not None and not families.adopt(broker, task, command.parent):
        end_orphan(broker, task, "the task that submitted this one was canceled for it")
    elif command.again and is_placed_again(broker, task, now):
        return
    elif task.trouble is not None and task.must_be_alone:
        task.state = State.HELD
        lifecycle.isolate(broker, task, now)
    else:
        broker.backlog.push(task)
        if task.template.head.schedule_timeout_s is not None:
            lifecycle.watch(broker, task)


def adopt_held(broker: "Broker", task: Task, parent: Token) -> None:
    """Note in which run a call was made that is held, and let it end where that is gone."""
    reason = "the task that submitted this one was canceled for it"
    if not families.adopt(broker, task, parent) and families.withdraw(broker, task, reason):
        end_orphan(broker, task, reason)


def is_placed_again(broker: "Broker", task: Task, now: float) -> bool:
    """Find the place of a task that was sent before, if that is no queue; tell whether."""
    if broker.dead_tasks.by_name:
        dead.lives_again(broker, (task.client.incarnation, task.number))
    if broker.records.orphans:
        families.sent_again(broker, task.client.incarnation, [(task.number, task.number)])
    if broker.window_ends_at is not None:
        task.state = State.HELD
        broker.held[task] = None
    elif task.call.at_most_once and task.record is None:
        lifecycle.end(
            broker, task, Code.OUTCOME_UNKNOWN, "it was sent before the broker was started again"
        )
    elif retrying.is_early(task, now):
        assert task.trouble
        task.state = State.DELAYED
        broker.delays.set(task, task.trouble.due_at)
    else:
        return False
    return True


def end_orphan(broker: "Broker", task: Task, message: str) -> None:
    """End a call that was made in a run which counts no more; the next run makes it again."""
    record = task.record
    if isinstance(record, Record) and record.key is not None:
        writing.free_key(broker, task, record)
    lifecycle.end(broker, task, Code.PARENT_GONE, message)


def admit(broker: "Broker", task: Task, command: Submit, now: float) -> bool:
    """Tell whether a task with limits, or a call to a named actor, is to be queued."""
    assert task.template
    shape = task.template.shape
    if shape.limits is not None:
        is_held = command.again and broker.window_ends_at is not None
        if not occupancy.admit(broker, task, now, is_held=is_held):
            return False
    return not shape.cost.named or named.admit(broker, task, is_new=not command.again)
