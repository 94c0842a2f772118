"""Durable tasks (protocol.md section 9.6): what is written of them, and what is said once it is.

The rule that must not be broken: ACCEPTED, the outcome, its acknowledgement to the actor and the
ASSIGN of an at_most_once task are said only after the commit of what they depend on. Whatever is
written gets its place in `waiting`, so that everything follows in the order of the journal.
"""

from heapq import heappush
from typing import TYPE_CHECKING, Final

from broker import (
    attaching,
    inscribing,
    lifecycle,
    patience,
    records,
    reservation,
    retrying,
    spans,
)
from broker.named import NamedActor
from broker.outbox import say_when_written
from broker.peers import Client, Session, is_owned
from broker.records import Alias, Awaited, Record
from broker.task import Event, FunctionBlob, State, Task, Template
from broker.trouble import FailedRun
from wire import codec
from wire.errors import Code
from wire.messages import Accepted, Answer, Query, Submit
from wire.parts import Key, Span

if TYPE_CHECKING:
    from broker.core import Broker

ORDERS: Final = frozenset({"cancel", "cancel-force"})


def write(broker: "Broker", *operation: object) -> int:
    """Let the journal write *operation*; return the number that its commit will have."""
    broker.sequence += 1
    broker.operations.append(operation)
    return broker.sequence


def progress_of(broker: "Broker", task: Task) -> bytes:
    """Return what *task* went through, as its row has it."""
    queued_ms = wall_ms(broker, task.queued_at)
    return records.progress_of(task, queued_ms, broker.records.clock_ms)


def wall_ms(broker: "Broker", at: float) -> int:
    """Return a time of the core's clock in milliseconds since 1970."""
    return int(broker.records.clock_ms + at * 1000.0)


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
            return False
    refused = refusal(broker, task)
    if refused:
        if task.state is not State.QUEUED:
            return True  # It runs already: its client keeps it, as any other.
        lifecycle.end(broker, task, Code.NOT_DURABLE, refused)
        return False
    count_call(broker, template)
    need_code(broker, template.hash)
    until_ms = None
    octets = task.size + records.ROW_BYTES
    record = task.record = Record(0, octets)
    broker.records.octets += octets
    if key is not None:
        ttl_s = broker.settings.outcome_ttl_s if key.ttl_s is None else key.ttl_s
        record.key = (key.text, key.digest, now + ttl_s)
        until_ms = wall_ms(broker, now + ttl_s)
        broker.records.keys[key.text] = task
    record.sequence = write(
        broker,
        "task",
        task.client.incarnation,
        task.number,
        template.hash,
        bytes(task.body),
        records.pack(task.frames),
        progress_of(broker, task),
        None if key is None else key.text,
        None if key is None else key.digest,
        until_ms,
    )
    broker.records.waiting.append((record.sequence, Awaited.SUBMIT, task))
    if template.shape.is_armed_first and task.state is not State.QUEUED:
        arm_row(broker, task)
    return True


def same_key(broker: "Broker", task: Task, former: Task, key: Key) -> None:
    """Let *task* have the outcome of the *former* with its key, unless that is another call."""
    if task.state is not State.QUEUED:
        # A run that was never written, and somebody else has come with the key since.
        if is_owned(task):
            lifecycle.stop(broker, task, reason="another task has its idempotency_key")
        elif task.token is not None and task.actor is not None and task.actor.session is not None:
            task.actor.session.outcome_acks.append(task.token)
        lifecycle.detach(broker, task)
        broker.unclaimed.pop(task, None)
        task.state = State.QUEUED
    assert isinstance(former.record, Record)
    assert former.record.key is not None
    if former.record.key[1] == key.digest:
        attaching.attach_to(broker, task, former)
    else:
        message = f"idempotency_key {key.text!r} belongs to {former.name}, which is another call"
        lifecycle.end(broker, task, Code.CONFLICT, message)


def refusal(broker: "Broker", task: Task) -> str:
    """Say why *task* cannot be written now, or an empty text."""
    known, limit = broker.records, broker.settings.journal_bytes_max
    if not known.has_journal:
        return "this broker keeps no journal: start it without --no-journal for durable tasks"
    if known.refusal:
        return f"the journal cannot be written now: {known.refusal}; submit it again later"
    if task.size > records.ROW_PAYLOAD_BYTES_MAX:
        return f"a durable call may have {records.ROW_PAYLOAD_BYTES_MAX} octets, not {task.size}"
    assert task.template
    if known.octets + task.size + new_code(broker, task.template) > limit:
        return (
            f"the journal holds {known.octets} octets of tasks, outcomes and code, {limit} are"
            " allowed (--journal-bytes-max)"
        )
    biggest = records.ROW_INTEGER_MAX
    if not (0 <= task.client.incarnation <= biggest and 0 <= task.number <= biggest):
        return f"the name of a durable task has numbers up to {biggest}"
    return ""


def count_call(broker: "Broker", template: Template) -> None:
    """Count one more task of a call, and write the call and its code where they are new."""
    known = broker.records
    digest = template.hash
    if digest and digest in known.calls:
        first, count = known.calls[digest]
        known.calls[digest] = (first, count + 1)
        return
    template.hash, encoded = records.hash_call(template.call)
    if template.hash in known.calls:
        count_call(broker, template)
        return
    for blob in records.codes_of(template):
        count_code(broker, blob)
    known.calls[template.hash] = (template, 1)
    write(broker, "call", template.hash, encoded)


def count_code(broker: "Broker", blob: FunctionBlob) -> None:
    """Count one more call with this code, and write it where it is new."""
    codes = broker.records.codes
    if blob.hash not in codes:
        codes[blob.hash] = 0
        write(broker, "code", blob.hash, records.code_of(blob))
    codes[blob.hash] += 1


def new_code(broker: "Broker", template: Template) -> int:
    """Return how many octets of code a task of *template* needs that nothing else here does."""
    needed = broker.records.needed
    codes = records.codes_of(template)
    return sum({b.hash: records.size_of(b) for b in codes if b.hash not in needed}.values())


def need_code(broker: "Broker", digest: bytes) -> None:
    """Count the code of a call, in octets, for one more task or named actor that is kept."""
    known = broker.records
    for blob in records.codes_of(known.calls[digest][0]):
        octets, count = known.needed.get(blob.hash, (0, 0))
        if not count:
            octets = records.size_of(blob)
            known.octets += octets
        known.needed[blob.hash] = (octets, count + 1)


def let_go_of_code(broker: "Broker", digest: bytes) -> None:
    """Count the code of a call for one less: what nothing needs takes no room any more."""
    known = broker.records
    for blob in records.codes_of(known.calls[digest][0]):
        octets, count = known.needed.pop(blob.hash)
        if count > 1:
            known.needed[blob.hash] = (octets, count - 1)
        else:
            known.octets -= octets


def said_again(broker: "Broker", session: Session, task: Task) -> None:
    """Answer a SUBMIT or ATTACH of a task that is here already."""
    if is_written(broker, task):
        broker.say(session, Accepted([(task.number, task.number)]))
    if task.state is State.ENDED and all(task is not t for _, t, _ in task.client.unreceived):
        lifecycle.deliver(broker, task)


def is_written(broker: "Broker", task: Task) -> bool:
    """Tell whether the journal has *task*, or the one whose other name it is."""
    record = task.record
    if isinstance(record, Alias):
        record = record.target.record
    return isinstance(record, Record) and record.sequence <= broker.committed_sequence


# ---------------------------------------------------------------------- start and end


def must_arm(task: Task) -> bool:
    """Tell whether the journal must have it that *task* may start, and does not."""
    return isinstance(task.record, Record) and not task.record.is_armed


def arm(broker: "Broker", task: Task) -> None:
    """Write that an at_most_once task may start; it is queued again once that is on disk.

    An actor had credit for it, and will have again.
    """
    if broker.reservation is not None and broker.reservation.task is task:
        reservation.let_go(broker)
    task.move(Event.WRITE)
    broker.records.writing[task] = None
    if task.template and task.template.shape.named:
        inscribing.count_writing(broker, task)
    sequence = arm_row(broker, task)
    broker.records.waiting.append((sequence, Awaited.ARMED, task))


def written(broker: "Broker", task: Task) -> None:
    """Take *task* from among those that wait until they may start."""
    del broker.records.writing[task]
    if task.template and task.template.shape.named:
        inscribing.count_writing(broker, task)


def arm_row(broker: "Broker", task: Task) -> int:
    assert isinstance(task.record, Record)
    task.record.is_armed = True
    return write(broker, "armed", 1, *records.name_of(task))


def may_have_run(task: Task) -> bool:
    """Tell whether an at_most_once task that nobody offers may have started earlier."""
    return not isinstance(task.record, Record) or task.record.is_armed


def requeued(broker: "Broker", task: Task, *, burns: str | None) -> None:
    """Write what an assignment that is over did to *task*."""
    record = task.record
    assert isinstance(record, Record)
    if burns is not None:
        write(broker, "progress", progress_of(broker, task), *records.name_of(task))
    elif record.is_armed:
        record.is_armed = False
        write(broker, "armed", 0, *records.name_of(task))


def failed(broker: "Broker", task: Task, run: FailedRun | None) -> None:
    """Write that *task* is tried again; the actor keeps the failure of *run* until then."""
    sequence = write(broker, "progress", progress_of(broker, task), *records.name_of(task))
    if run is not None:
        broker.records.waiting.append((sequence, Awaited.FAILED, run))


def may_tell(broker: "Broker", task: Task) -> bool:
    """Tell whether the outcome of *task* is on disk; one that is new is written first."""
    record = task.record
    if not isinstance(record, Record):
        return True
    if record.outcome_sequence is None:
        write_outcome(broker, task, record)
        return False
    return has_outcome(broker, record) and record.is_wanted


def has_outcome(broker: "Broker", record: Record) -> bool:
    """Tell whether the outcome is on disk."""
    sequence = record.outcome_sequence
    return sequence is not None and sequence <= broker.committed_sequence


def write_outcome(broker: "Broker", task: Task, record: Record) -> None:
    ending, known = task.ending, broker.records
    assert ending is not None
    if task.size:  # Its client submitted it again, and the outcome was here already.
        lifecycle.unload(task)
    known.octets -= record.octets
    record.octets = ending.size + records.ROW_BYTES
    known.octets += record.octets
    record.outcome_sequence = write(
        broker,
        "outcome",
        records.told_of(ending),
        records.pack(ending.frames),
        wall_ms(broker, broker.ticked_at),
        *records.name_of(task),
    )
    known.waiting.append((record.outcome_sequence, Awaited.OUTCOME, task))
    expire(broker, task, broker.ticked_at + broker.settings.outcome_ttl_s)


def expire(broker: "Broker", task: Task, at: float) -> None:
    """Let the outcome of *task* be kept until *at*, and as long as its key holds."""
    record = task.record
    assert isinstance(record, Record)
    record.expires_at = at
    if record.key is not None:
        record.expires_at = max(at, record.key[2])
        look_at(broker, task, record.key[2])
    look_at(broker, task, record.expires_at)


def look_at(broker: "Broker", task: Task, at: float) -> None:
    known = broker.records
    known.serial += 1
    heappush(known.expiring, (at, known.serial, task))


def committed(broker: "Broker") -> None:
    """Say and do what waited for everything up to the commit that was announced."""
    waiting, limit = broker.records.waiting, broker.committed_sequence
    accepted: dict[Client, list[Span]] = {}
    while waiting and waiting[0][0] <= limit:
        _, what, task = waiting.popleft()
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
                    written(broker, task)
                    task.move(Event.WRITTEN)
                    broker.backlog.push(task, is_back=True)
                    patience.watch(broker, task)
            case Awaited.FAILED | Awaited.SEALED:
                raise AssertionError(task)
    for client, numbers in accepted.items():
        broker.say(client.session, Accepted(spans.merge(numbers)))


def publish(broker: "Broker", task: Task, record: Record) -> None:
    """Tell everybody the outcome that is on disk, and let its actor forget it."""
    token, actor = task.token, task.actor
    if token is not None:
        lifecycle.detach(broker, task)
        if actor is not None and actor.session is not None:
            actor.session.outcome_acks.append(token)
            lifecycle.hurry(broker, actor.session, task.ending.size if task.ending else 0)
    if record.is_wanted:
        lifecycle.deliver(broker, task)
    for other in list(record.attached):
        attaching.pass_on(broker, other, task)
    attaching.put_away(broker, task)


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
        reply = {"error": f"task {command.argument} is not known here"}
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
        attaching.put_away(broker, task)
    else:  # Another name, or one that was refused.
        lifecycle.drop(broker, task, reason="canceled")


def cancel(broker: "Broker", task: Task, message: str, *, force: bool) -> None:
    """End *task* as canceled, wherever it is, for everybody who waits for it."""
    match task.state:
        case State.QUEUED:
            lifecycle.take_out(broker, task)
        case State.HELD:
            del broker.held[task]
        case State.WRITING:
            written(broker, task)
        case State.DELAYED:
            broker.delays.discard(task)
        case State.ALONE:
            del broker.isolation.waiting[task]
        case State.ASSIGNED:
            lifecycle.stop(broker, task, force=force, reason=message)
            lifecycle.cancel_children(broker, task)
            lifecycle.detach(broker, task)
        case _:
            return
    record = task.record
    if isinstance(record, Record) and record.key is not None:
        free_key(broker, task, record)
    lifecycle.end(broker, task, Code.CANCELED, message)


def free_key(broker: "Broker", task: Task, record: Record) -> None:
    """Let what comes with the key of *task* from now on be a new call."""
    assert record.key is not None
    broker.records.keys.pop(record.key[0], None)
    record.key = None
    write(broker, "free-key", *records.name_of(task))
