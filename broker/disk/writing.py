"""What the journal has of durable tasks: what is written, and what is on disk (section 9.6).

Each operation gets a number, and is on disk once the commit with that number was announced. Nothing
here tells anybody anything: who waits for a commit stands in `durable`.
"""

from heapq import heapify, heappush
from typing import TYPE_CHECKING

from broker.disk import records
from broker.disk.records import Alias, Awaited, Record
from broker.facts.deadlines import VOID_MIN
from broker.facts.task import FunctionBlob, State, Task, Template
from broker.facts.trouble import FailedRun

if TYPE_CHECKING:
    from broker.core import Broker


def write(broker: "Broker", *operation: object) -> int:
    """Let the journal write *operation*; return the number that its commit will have."""
    broker.sequence += 1
    broker.operations.append(operation)
    return broker.sequence


def progress_of(broker: "Broker", task: Task) -> bytes:
    """Return what *task* went through, as its row has it."""
    queued_ms = journal_ms(broker, task.queued_at)
    return records.progress_of(task, queued_ms, broker.records.clock_ms)


def journal_ms(broker: "Broker", at: float) -> int:
    """Return a time of the core's clock as the journal has it (`broker.clocks`)."""
    return int(broker.records.clock_ms + at * 1000.0)


def wall_ms(broker: "Broker", at: float) -> int:
    """Return a time of the core's clock in milliseconds since 1970, for people."""
    return int(broker.records.wall_ms + at * 1000.0)


def never(broker: "Broker", task: Task) -> str:
    """Say why *task* can be written at no time, or an empty text."""
    if not broker.records.has_journal:
        return "this broker keeps no journal: start it without --no-journal for durable tasks"
    if task.size > records.ROW_PAYLOAD_BYTES_MAX:
        return f"a durable call may have {records.ROW_PAYLOAD_BYTES_MAX} octets, not {task.size}"
    biggest = records.ROW_INTEGER_MAX
    if not (0 <= task.client.incarnation <= biggest and 0 <= task.number <= biggest):
        return f"the name of a durable task has numbers up to {biggest}"
    return ""


def not_now(broker: "Broker", task: Task) -> str:
    """Say why *task*, which is new, cannot be written now, or an empty text."""
    known, limit = broker.records, broker.settings.journal_bytes_max
    if known.refusal:
        return f"the journal cannot be written now: {known.refusal}; submit it again later"
    assert task.template
    if known.octets + task.size + new_code(broker, task.template) > limit:
        return (
            f"the journal holds {known.octets} octets of tasks, outcomes and code, {limit} are"
            " allowed (--journal-bytes-max)"
        )
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


def is_written(broker: "Broker", task: Task) -> bool:
    """Tell whether the journal has *task*, or the one whose other name it is."""
    record = task.record
    if isinstance(record, Alias):
        record = record.target.record
    return isinstance(record, Record) and record.sequence <= broker.committed_sequence


def must_arm(task: Task) -> bool:
    """Tell whether the journal must have it that *task* may start, and does not."""
    record = task.record
    if not isinstance(record, Record):
        return False
    return not record.is_armed or bool(record.given_to and record.given_to != process_of(task))


def arm_row(broker: "Broker", task: Task) -> int:
    record = task.record
    assert isinstance(record, Record)
    record.is_armed = True
    record.given_to = process_of(task) if is_counted(task) else 0
    return write(broker, "armed", record.given_to or 1, *records.name_of(task))


def process_of(task: Task) -> int:
    """Return which process *task* was given to, where a row can say that, or 0."""
    incarnation = task.actor.incarnation if task.actor is not None else 0
    return incarnation if 1 < incarnation <= records.ROW_INTEGER_MAX else 0


def may_have_run(task: Task) -> bool:
    """Tell whether an at_most_once task that nobody offers may have started earlier."""
    return not isinstance(task.record, Record) or task.record.is_armed


def requeued(broker: "Broker", task: Task, *, burns: str | None) -> None:
    """Write what an assignment that is over did to *task*."""
    record = task.record
    assert isinstance(record, Record)
    if burns is not None:
        write_progress(broker, task)
    if record.is_armed and (burns is None or is_counted(task)):
        disarm(broker, task, record)


def write_progress(broker: "Broker", task: Task) -> int:
    """Write what *task* went through by now, of which its client is told then."""
    sequence = write(broker, "progress", progress_of(broker, task), *records.name_of(task))
    if task.trouble is not None:
        task.trouble.sequence = sequence
        broker.records.waiting.append((sequence, Awaited.PROGRESS, task))
    return sequence


def is_counted(task: Task) -> bool:
    """Tell whether a run of *task* that goes down with the broker is counted at the next start."""
    return isinstance(task.record, Record) and task.record.is_restored


def disarm(broker: "Broker", task: Task, record: Record) -> None:
    """Write that *task* has not started, or that its run is over."""
    record.is_armed, record.given_to = False, 0
    write(broker, "armed", 0, *records.name_of(task))


def failed(broker: "Broker", task: Task, run: FailedRun | None) -> None:
    """Write that *task* is tried again; the actor keeps the failure of *run* until then."""
    record = task.record
    if isinstance(record, Record) and record.is_armed and is_counted(task):
        disarm(broker, task, record)
    sequence = write_progress(broker, task)
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
    if record.is_restored:
        known.restored.pop(task, None)
    if task.size:  # Its client submitted it again, and the outcome was here already.
        task.unload()
    known.octets -= record.octets
    record.octets = ending.size + records.ROW_BYTES
    known.octets += record.octets
    record.outcome_sequence = write(
        broker,
        "outcome",
        records.told_of(ending),
        records.pack(ending.frames),
        journal_ms(broker, broker.ticked_at),
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
    if len(known.expiring) > known.expiring_max:
        # Most outcomes are received long before: those tasks are not kept for their times.
        known.expiring = [one for one in known.expiring if one[2].state is not State.FORGOTTEN]
        heapify(known.expiring)
        known.expiring_max = VOID_MIN + 2 * len(known.expiring)


def free_key(broker: "Broker", task: Task, record: Record) -> None:
    """Let what comes with the key of *task* from now on be a new call."""
    assert record.key is not None
    broker.records.keys.pop(record.key[0], None)
    record.key = None
    write(broker, "free-key", *records.name_of(task))
