"""Who wants the outcome of a durable task: its client, and whoever attached to it.

A number of another client can be another name of a task, which then ends as the task does. The rule
that must not be broken: an outcome stays until its client has it or is gone, and everybody who
attached has it, and somebody has; or until its time is over. One of an at_most_once call stays also
for a client that is gone: where it comes back it says the call again, which must not start again.
"""

from typing import TYPE_CHECKING

from broker.disk import writing
from broker.disk.records import Alias, Record
from broker.facts import spans
from broker.facts.peers import Client
from broker.facts.task import Event, State, Task
from broker.tasks import families, forgetting, lifecycle
from wire.errors import Code
from wire.messages import Accepted, Attach
from wire.parts import Span

if TYPE_CHECKING:
    from broker.core import Broker


def attach(broker: "Broker", client: Client, command: Attach, now: float) -> None:
    """Make a number of *client*, which it did not use before, another name of a durable task."""
    target = find(broker, command.client, command.number)
    task = client.tasks[command.task] = Task(client, command.task, State.ATTACHED, now)
    if target is None or target.record is None:
        name = f"{command.client:016x}-{command.number}"
        what = "is not durable" if target is not None else "is not known here"
        message = (
            f"task {name} {what}: only a durable task can be found, from when it was accepted"
            " until its outcome was received or was kept for --outcome-ttl"
        )
        lifecycle.end(broker, task, Code.OUTCOME_UNKNOWN, message)
    else:
        attach_to(broker, task, target)


def find(broker: "Broker", incarnation: int, number: int) -> Task | None:
    """Find a task by its whole name; another name leads to the task itself."""
    client = broker.clients.get(incarnation)
    task = client.tasks.get(number) if client is not None else None
    if task is None:
        task = broker.records.kept.get(incarnation, {}).get(number)
    if task is not None and isinstance(task.record, Alias):
        return task.record.target
    return task


def attach_to(broker: "Broker", task: Task, target: Task) -> None:
    """Let *task*, which is new, end as *target* does."""
    record = target.record
    assert isinstance(record, Record)
    task.unload()
    task.state = State.ATTACHED
    task.record = Alias(target)
    record.attached[task] = None
    if record.sequence <= broker.committed_sequence:
        number = task.number
        broker.say(task.client.session, Accepted([(number, number)]))
    if target.state is State.ENDED and writing.has_outcome(broker, record):
        pass_on(broker, task, target)


def pass_on(broker: "Broker", task: Task, target: Task) -> None:
    """End *task* as its target has ended."""
    task.ending = target.ending
    task.move(Event.SETTLE)
    lifecycle.deliver(broker, task)


# ---------------------------------------------------------------------- who still wants it


def unlisted(broker: "Broker", task: Task) -> None:
    """Act on a HELLO of its own client that does not name *task*."""
    record = task.record
    if isinstance(record, Alias):
        families.drop(broker, task, reason="its client wants it no more")
    elif isinstance(record, Record) and writing.has_outcome(broker, record):
        forgetting.received_durable(broker, task)
    elif isinstance(record, Record):
        # An older journal has it, whose outcome the client has or which it canceled. It goes on,
        # is told nobody unasked, and takes no part of the window.
        record.is_wanted = False


def left(broker: "Broker", task: Task, *, may_return: bool) -> None:
    """Keep *task*, whose client is gone, for whoever asks for it."""
    record = task.record
    if isinstance(record, Record):
        record.is_wanted = False
        record.may_return = may_return and task.call.at_most_once
        forgetting.put_away(broker, task)
    else:
        families.drop(broker, task, reason="its client is gone")


def listed(broker: "Broker", client: Client, wanted: list[Span]) -> None:
    """Give back to a client that says HELLO what was put away and it asks for.

    What goes on was not put away, but nobody was to be told of its end since the client was gone.
    """
    for number, task in client.tasks.items():
        if isinstance(task.record, Record) and spans.holds(wanted, number):
            task.record.is_wanted = True
    kept = broker.records.kept.pop(client.incarnation, None)
    for number, task in (kept or {}).items():
        if spans.holds(wanted, number) and number not in client.tasks:
            give_back(client, task)
        else:
            broker.records.kept.setdefault(client.incarnation, {})[number] = task


def put_back(broker: "Broker", client: Client, number: int) -> Task | None:
    """Give a client back the task of a number that was put away, and that it says once more."""
    kept = broker.records.kept.get(client.incarnation)
    task = kept.pop(number, None) if kept is not None else None
    if task is not None:
        if not kept:
            del broker.records.kept[client.incarnation]
        give_back(client, task)
    return task


def give_back(client: Client, task: Task) -> None:
    assert isinstance(task.record, Record)
    task.record.is_wanted = True
    task.client = client
    client.tasks[task.number] = task


def say_accepted(broker: "Broker", client: Client) -> None:
    """Say at the beginning of a session what of a client is in the journal."""
    numbers = [
        (task.number, task.number)
        for task in client.tasks.values()
        if task.record is not None and writing.is_written(broker, task)
    ]
    if numbers:
        broker.say(client.session, Accepted(spans.merge(numbers)))
