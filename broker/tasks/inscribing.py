"""What the journal has of durable named actors, and what waits for it (protocol.md section 9.10).

The rule that must not be broken: nobody enters a durable named actor before everything that was
decided of its last generation is on disk. So no generation begins from a state that a new start of
the broker would not find.
"""

from typing import TYPE_CHECKING, Any

from broker.disk import records, writing
from broker.disk.records import Awaited, NamedRow, Record
from broker.facts.task import Task, Template
from broker.tasks import lifecycle, naming, reentering
from wire.errors import Code

if TYPE_CHECKING:
    from broker.core import Broker
    from broker.tasks.naming import NamedActor

# ---------------------------------------------------------------------- what is written


def begin(broker: "Broker", record: "NamedActor", template: Template) -> None:
    """Write a named actor that a durable call has made; any other is kept in memory alone."""
    if not (record.call.durable and broker.records.has_journal):
        return
    writing.count_call(broker, template)
    record.hash = template.hash
    writing.need_code(broker, record.hash)
    count_octets(broker, record)
    writing.write(broker, "named", record.id, record.hash, records.state_of(record))
    seal(broker, record)


def changed(broker: "Broker", record: "NamedActor", *, is_over: bool = False) -> None:
    """Write how a named actor stands; where its generation *is_over*, the next waits for that."""
    if record.hash:
        writing.write(broker, "named-state", records.state_of(record), record.id)
        if is_over:
            seal(broker, record)


def seal(broker: "Broker", record: "NamedActor") -> None:
    """Let nobody enter it before all that was decided so far is on disk."""
    record.sealed = broker.sequence
    broker.records.waiting.append((record.sealed, Awaited.SEALED, record))


def is_written(broker: "Broker", record: "NamedActor") -> None:
    """Let one be entered of which everything is on disk."""
    if broker.named.by_id.get(record.id) is record and record.sealed <= broker.committed_sequence:
        record.sealed = 0
        naming.settle_at(broker, record, record.home, record.generation)
        reentering.look(broker, record)


def refusal(broker: "Broker", record: "NamedActor", octets: int) -> str:
    """Say why a checkpoint of so many *octets* cannot be kept, or an empty text."""
    known, limit = broker.records, broker.settings.journal_bytes_max
    former = len(record.checkpoint) if record.serial else 0
    if not record.hash or octets <= former or known.octets + octets - former <= limit:
        return ""
    return (
        f"the call has run, but there is no room for the checkpoint of {record.title}, {octets}"
        f" octets: the journal holds {known.octets}, {limit} are allowed (--journal-bytes-max)"
    )


def keep(broker: "Broker", record: "NamedActor") -> None:
    """Write the newest checkpoint, in the same step as the outcome that it came with."""
    if record.hash:
        count_octets(broker, record)
        parts = records.pack((record.checkpoint,))
        writing.write(broker, "checkpoint", record.serial, parts, record.id)


def forget(broker: "Broker", record: "NamedActor") -> None:
    """Take an actor that has ended out of the journal."""
    if record.hash:
        known = broker.records
        writing.let_go_of_code(broker, record.hash)
        first, count = known.calls[record.hash]
        known.calls[record.hash] = (first, count - 1)
        known.octets -= record.octets
        writing.write(broker, "forget-named", record.id)


def count_octets(broker: "Broker", record: "NamedActor") -> None:
    """Count what the row of *record* takes now."""
    octets = records.ROW_BYTES + (len(record.checkpoint) if record.serial else 0)
    broker.records.octets += octets - record.octets
    record.octets = octets


def must_arm(broker: "Broker", task: Task) -> bool:
    """Tell whether the journal must have it first that *task* may start.

    It may have that already, and another one that its client submitted before it does not yet: that
    was handed back. Written anew, both come in their order.
    """
    if writing.must_arm(task):
        return True
    assert task.template
    cost = task.template.costs
    record = broker.named.by_id.get(cost.place or "")
    if record is None or not record.writing:
        return False
    return any(
        one.client is task.client
        and one.rank < task.rank
        and one.template
        and one.template.costs.pool == cost.pool
        for one in broker.records.writing
    )


# ---------------------------------------------------------------------- what is read back


def restore(broker: "Broker", row: NamedRow, template: Template) -> None:
    """Take over a named actor; until it is known whether its process lives nobody enters it."""
    known = broker.records
    record = naming.NamedActor(template.call, template.blob)
    first, count = known.calls[template.hash]
    known.calls[template.hash] = (first, count + 1)
    record.hash = template.hash
    writing.need_code(broker, record.hash)
    state = records.decode_named_state(row.state)
    record.generation, record.fence = state.generation, state.fence
    record.restarts = state.restarts
    record.is_awaited = record.generation > record.fence
    if row.checkpoint is not None:
        record.serial, (record.checkpoint,) = row.serial, records.unpack(row.checkpoint)
    count_octets(broker, record)
    broker.named.add(record)


def goes_on(broker: "Broker", task: Task, record: "NamedActor") -> bool:
    """Tell whether a call may start that an earlier broker let start, and that nobody offers.

    Where its actor is the process would have offered it: so it never began. Otherwise it may have.
    """
    row = task.record
    if not (isinstance(row, Record) and row.is_armed):
        return True
    if record.home is not None:
        writing.requeued(broker, task, burns=None)
        return True
    most = record.named.max_task_retries
    if 0 <= most <= task.tries:
        message = f"{record.title}: its process was lost with the broker; the call may have run"
        lifecycle.end(broker, task, Code.ACTOR_LOST, message)
        return False
    task.tries += 1
    writing.requeued(broker, task, burns="loss")
    return True


# ---------------------------------------------------------------------- invariants


def check(broker: "Broker") -> None:
    """Assert that what is durable is in the journal, and that nothing enters what is not sealed."""
    for record in broker.named.by_id.values():
        assert bool(record.octets) == bool(record.hash)
        assert not record.sealed or record.home is None
        assert not record.is_awaited or record.home is None
        assert record.hash or not (record.sealed or record.is_awaited)
        writing = [task.call.environment for task in broker.records.writing]
        assert record.writing == sum(1 for one in writing if one and one.id == record.id)


def summary(broker: "Broker") -> dict[str, Any]:
    """Return what the journal must have of named actors."""
    return {
        record.id: (
            record.hash,
            records.state_of(record),
            record.serial,
            bytes(record.checkpoint) if record.serial else None,
        )
        for record in broker.named.by_id.values()
        if record.hash
    }
