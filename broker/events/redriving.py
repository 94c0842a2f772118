"""What ATTACH does: it finds a durable task, or has the call of a dead one submitted again.

The rule that must not be broken: a dead task is submitted again once, whoever asks and however
often. So the dead task remembers as which one, in the same commit that has the new one.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from broker.disk import records
from broker.disk.records import Record
from broker.events import submission
from broker.facts.peers import Client, Session
from broker.facts.task import QUEUED, State, Task, Template
from broker.tasks import attaching, dead, durable, families, lifecycle
from broker.tasks.dead import DeadTask, text_of
from wire.errors import Code
from wire.messages import Accepted, Attach, Submit

if TYPE_CHECKING:
    from broker.core import Broker


def attach(
    broker: "Broker", session: Session, command: Attach, own: Sequence[Any], now: float
) -> None:
    """Let a number of a client stand for a task that it did not submit itself."""
    if not command.redrive:
        submission.attach(broker, session, command, own, now)
        return
    client = session.peer
    assert isinstance(client, Client)
    task = client.tasks.get(command.task)
    is_new = task is None or task.state in (State.UNCLAIMED_RUN, State.UNCLAIMED_OUTCOME)
    if is_new:
        submission.check_window(broker, client)
        redrive(broker, session, client, command, now)
        task = client.tasks.get(command.task)
    elif task is not None:
        durable.said_again(broker, session, task)
    # Without a journal nothing more can come of it than that it is here.
    if not broker.records.has_journal and task is not None and not task.is_over:
        broker.say(session, Accepted([(task.number, task.number)]))


def redrive(
    broker: "Broker", session: Session, client: Client, command: Attach, now: float
) -> None:
    """Submit the call of a dead task as one of *client*, unless that was done before."""
    gone = broker.dead_tasks.by_name.get((command.client, command.number))
    name = text_of((command.client, command.number))
    if gone is None:
        message = f"no dead task {name} is kept here: it never died, or was forgotten since"
        refuse(broker, client, command, Code.OUTCOME_UNKNOWN, message, now)
    elif gone.facts.successor is not None:
        follow(broker, client, command, gone.facts.successor, now)
    elif gone.template is None:
        message = (
            f"the call of {name} is not kept: it takes {gone.facts.octets} octets (see"
            " --dead-bytes-max)"
        )
        refuse(broker, client, command, Code.PAYLOAD_TOO_LARGE, message, now)
    else:
        submit(broker, session, client, command, gone, now)


def submit(  # noqa: PLR0917
    broker: "Broker",
    session: Session,
    client: Client,
    command: Attach,
    gone: DeadTask,
    now: float,
) -> None:
    """Submit the call of *gone*; as durable where there is a journal, so that it has an owner."""
    assert gone.template is not None
    template = template_of(broker, gone.template, now)
    # Nobody knows whether an earlier broker let it start.
    again = broker.window_ends_at is not None and broker.records.has_journal
    call = Submit(command.task, 0, gone.body, len(gone.frames), again=again)
    was_there = command.task in client.tasks
    submission.submit(broker, session, call, gone.frames, now, template)
    task = client.tasks.get(command.task)
    successor = (client.incarnation, command.task)
    if not was_there and task is not None and task.state is State.ENDED:
        # Refused at once: it is as dead as before, under the name that it had.
        dead.lives_again(broker, successor)
        return
    dead.redriven(broker, gone, successor)


def template_of(broker: "Broker", template: Template, now: float) -> Template:
    """Return what the new task is made of, the same for all of one call."""
    call = template.call
    if call.environment is not None:
        broker.environments.learn(call.environment, now).shapes[template.shape] = None
    if template.head.durable or not broker.records.has_journal:
        return template
    call = replace(call, durable=True)
    digest, _ = records.hash_call(call)
    known = broker.records.calls.get(digest)
    if known is not None:
        return known[0]
    shape = broker.backlog.shape_of(call)
    return Template(call, shape, function=template.function, blob=template.blob)


def follow(
    broker: "Broker", client: Client, command: Attach, successor: tuple[int, int], now: float
) -> None:
    """Let the client have the outcome of the task that another REDRIVE of the same has made."""
    target = attaching.find(broker, *successor)
    if target is not None and isinstance(target.record, Record):
        attaching.attach_to(broker, begin(broker, client, command, now), target)
        return
    message = f"it was submitted again as {text_of(successor)}, whose outcome is not kept here"
    refuse(broker, client, command, Code.OUTCOME_UNKNOWN, message, now)


def refuse(  # noqa: PLR0917
    broker: "Broker", client: Client, command: Attach, code: Code, message: str, now: float
) -> None:
    """End the number at once, and what an earlier broker may have started under it."""
    lifecycle.end(broker, begin(broker, client, command, now), code, message)


def begin(broker: "Broker", client: Client, command: Attach, now: float) -> Task:
    """Make a task of the number, in the place of what an earlier broker let start under it."""
    unclaimed = client.tasks.get(command.task)
    if unclaimed is not None:
        families.drop(broker, unclaimed, reason="nobody can claim it")
    task = client.tasks[command.task] = Task(client, command.task, QUEUED, now)
    return task
