"""Durable tasks (protocol.md section 9.6): what is written of them, and what is said once it is.

The rule that must not be broken: ACCEPTED, the outcome, its acknowledgement to the actor and the
ASSIGN of an at_most_once task are said only after the commit of what they depend on. Whatever is
written gets its place in `waiting`, so that everything follows in the order of the journal.
"""

from typing import TYPE_CHECKING, Final

from broker.disk import records, writing
from broker.disk.records import Awaited, Record
from broker.facts import spans
from broker.facts.outbox import say_when_written
from broker.facts.peers import Client, Session, is_owned
from broker.facts.task import Event, State, Task
from broker.facts.trouble import FailedRun
from broker.tasks import attaching, families, forgetting, inscribing, lifecycle, naming, retrying
from broker.tasks.naming import NamedActor
from broker.waiting import reservation
from wire import codec
from wire.errors import Code
from wire.messages import Accepted, Answer, Query, Submit
from wire.parts import Key, Span
from wire.texts import cut

if TYPE_CHECKING:
    from broker.core import Broker

ORDERS: Final = frozenset({"cancel", "cancel-force"})


# ---------------------------------------------------------------------- submit


def keep(broker: "Broker", task: Task, command: Submit, now: float) -> bool:
    """Write a durable task; False when it ended at once, or is another name of an earlier one."""
    template = task.template
    assert template
    if task.state is State.QUEUED and task.size > broker.settings.payload_bytes_max:
        return True  # It ends for its size.
    key = command.key
    if key is not None:
        former = broker.records.keys.get(key.text)
        if former is not None:
            same_key(broker, task, former, key)
            if command.parent is not None:
                families.attached(broker, task, command.parent)
            return False
    refused = writing.never(broker, task)
    if task.state is not State.QUEUED:
        if refused:
            return True  # It runs already: its client keeps it, as any other.
        # Whatever hinders the journal now: it waits for room, as what was sent before.
    elif refused := refused or writing.not_now(broker, task):
        lifecycle.end(broker, task, Code.NOT_DURABLE, refused)
        return False
    writing.count_call(broker, template)
    writing.need_code(broker, template.hash)
    until_ms = None
    octets = task.size + records.ROW_BYTES
    record = task.record = Record(0, octets)
    broker.records.octets += octets
    record.maker = families.maker_of(broker, command.parent)
    if key is not None:
        ttl_s = broker.settings.outcome_ttl_s if key.ttl_s is None else key.ttl_s
        record.key = (key.text, key.digest, now + ttl_s)
        until_ms = writing.journal_ms(broker, now + ttl_s)
        broker.records.keys[key.text] = task
    record.sequence = writing.write(
        broker,
        "task",
        task.client.incarnation,
        task.number,
        template.hash,
        bytes(task.body),
        records.pack(task.frames),
        writing.progress_of(broker, task),
        None if key is None else key.text,
        None if key is None else key.digest,
        until_ms,
    )
    broker.records.waiting.append((record.sequence, Awaited.SUBMIT, task))
    if template.shape.cost.is_armed_first and task.state is not State.QUEUED:
        writing.arm_row(broker, task)
    return True


def same_key(broker: "Broker", task: Task, former: Task, key: Key) -> None:
    """Let *task* have the outcome of the *former* with its key, unless that is another call."""
    if task.state is not State.QUEUED:
        # A run that was never written, and somebody else has come with the key since.
        if is_owned(task):
            families.halt(broker, task, reason="another task has its idempotency_key")
        elif task.token is not None and task.actor is not None and task.actor.session is not None:
            task.actor.session.outcome_acks.append(task.token)
        forgetting.detach(broker, task)
        broker.unclaimed.pop(task, None)
        task.state = State.QUEUED
    assert isinstance(former.record, Record)
    assert former.record.key is not None
    if former.record.key[1] == key.digest:
        attaching.attach_to(broker, task, former)
    else:
        message = f"idempotency_key {key.text!r} belongs to {former.name}, which is another call"
        lifecycle.end(broker, task, Code.CONFLICT, message)


def said_again(broker: "Broker", session: Session, task: Task) -> None:
    """Answer a SUBMIT or ATTACH of a task that is here already."""
    if writing.is_written(broker, task):
        broker.say(session, Accepted([(task.number, task.number)]))
    if task.state is State.ENDED and all(task is not t for _, t, _ in task.client.unreceived):
        lifecycle.deliver(broker, task)


# ---------------------------------------------------------------------- start and end


def arm(broker: "Broker", task: Task) -> None:
    """Write that an at_most_once task may start; it is queued again once that is on disk.

    An actor had credit for it, and will have again.
    """
    if broker.reservation is not None and broker.reservation.task is task:
        reservation.let_go(broker)
    task.move(Event.WRITE)
    broker.records.writing[task] = None
    if task.template and task.template.costs.named:
        naming.count_writing(broker, task)
    sequence = writing.arm_row(broker, task)
    broker.records.waiting.append((sequence, Awaited.ARMED, task))


def committed(broker: "Broker") -> None:
    """Say and do what waited for everything up to the commit that was announced."""
    waiting, limit = broker.records.waiting, broker.committed_sequence
    accepted: dict[Client, list[Span]] = {}
    while waiting and waiting[0][0] <= limit:
        sequence, what, task = waiting.popleft()
        if isinstance(task, FailedRun):
            assert what is Awaited.FAILED
            retrying.acknowledge(broker, task.actor, task.token)
            continue
        if isinstance(task, NamedActor):
            assert what is Awaited.SEALED
            inscribing.is_written(broker, task)
            continue
        if task.state is State.FORGOTTEN:
            continue
        record = task.record
        assert isinstance(record, Record)
        match what:
            case Awaited.SUBMIT:
                for one in (task, *record.attached):
                    accepted.setdefault(one.client, []).append((one.number, one.number))
            case Awaited.OUTCOME:
                publish(broker, task, record)
            case Awaited.ARMED:
                if task.state is State.WRITING:
                    forgetting.written(broker, task)
                    task.move(Event.WRITTEN)
                    lifecycle.queue_again(broker, task)
            case Awaited.PROGRESS:
                if task.trouble is not None and task.trouble.sequence == sequence:
                    retrying.say_again(broker, task, broker.ticked_at)
            case Awaited.FAILED | Awaited.SEALED:
                raise AssertionError(task)
    for client, numbers in accepted.items():
        broker.say(client.session, Accepted(spans.merge(numbers)))


def publish(broker: "Broker", task: Task, record: Record) -> None:
    """Tell everybody the outcome that is on disk, and let its actor forget it."""
    token, actor = task.token, task.actor
    if token is not None:
        forgetting.detach(broker, task)
        if actor is not None and actor.session is not None:
            actor.session.outcome_acks.append(token)
            forgetting.hurry(broker, actor.session, task.ending.size if task.ending else 0)
    if record.is_wanted:
        lifecycle.deliver(broker, task)
    for other in list(record.attached):
        attaching.pass_on(broker, other, task)
    forgetting.put_away(broker, task)


# ---------------------------------------------------------------------- cancel


def order(broker: "Broker", session: Session, command: Query) -> None:
    """Cancel the task that a client names, whoever submitted it; answer when that is on disk."""
    client = session.peer
    assert isinstance(client, Client)
    owner, separator, number = command.argument.rpartition("-")
    try:
        task = attaching.find(
            broker, int(owner, 16) if separator else client.incarnation, int(number)
        )
    except ValueError:
        task = None
    reply = {"done": command.what}
    if task is None:
        reply = {"error": f"task {cut(command.argument)} is not known here"}
    else:
        own = client.tasks.get(int(number)) if not separator else None
        if own is not None:
            give_up(broker, own)
        cancel(broker, task, "it was canceled", force=command.what == "cancel-force")
    say_when_written(broker, session, Answer(command.request, codec.encode(reply)))


def give_up(broker: "Broker", task: Task) -> None:
    """Take *task* out of the window of its client, which waits for its outcome no more."""
    record = task.record
    if isinstance(record, Record):
        record.is_wanted = False
        record.is_taken = True
        forgetting.put_away(broker, task)
    else:  # Another name, or one that was refused.
        families.drop(broker, task, reason="canceled")


def cancel(broker: "Broker", task: Task, message: str, *, force: bool) -> None:
    """End *task* as canceled, wherever it is, for everybody who waits for it."""
    if not families.withdraw(broker, task, message, force=force):
        return
    families.part(broker, task, families.Parting.CANCELED, force=force)
    record = task.record
    if isinstance(record, Record) and record.key is not None:
        writing.free_key(broker, task, record)
    lifecycle.end(broker, task, Code.CANCELED, message)
