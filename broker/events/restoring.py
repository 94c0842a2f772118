"""What a new start takes over from the journal, what time does to it, and its invariants."""

from collections import Counter
from heapq import heappop
from typing import TYPE_CHECKING, Final

from broker.disk import records, writing
from broker.disk.records import Alias, Record, Row, StoredTasks
from broker.events import downfalls, strategies
from broker.facts.peers import Client
from broker.facts.task import State, Task, Template
from broker.tasks import dead, families, forgetting, inscribing

if TYPE_CHECKING:
    from broker.core import Broker

# How often the code that no task needs any more is looked for.
SWEEP_S: Final = 60.0


def restore(broker: "Broker", stored: StoredTasks, now: float) -> None:
    """Take over what an earlier broker wrote. What may run is held until the window ends."""
    known = broker.records
    tasks, named = len(stored.rows), len(stored.named)
    templates = records.templates_of(stored, broker.backlog)
    for digest, template in templates.items():
        known.calls[digest] = (template, 0)
        for blob in records.codes_of(template):
            known.codes[blob.hash] = known.codes.get(blob.hash, 0) + 1
    for found in records.taken_from(stored.named):
        inscribing.restore(broker, found, templates[found.call])
    for row in records.taken_from(stored.rows):
        template = templates[row.call]
        task = restore_task(broker, row, template, now)
        families.restore(broker, task)  # Who made it stands before it.
        place = template.call.environment
        if row.outcome is None and place is not None and place.named is None:
            broker.environments.learn(place, now).shapes[template.shape] = None
    dead.restore(broker, stored, templates)
    if tasks or named:
        broker.note("restored", tasks=tasks, named=named, octets=known.octets)


def restore_task(broker: "Broker", row: Row, template: Template, now: float) -> Task:
    """Make the task of one row."""
    known = broker.records
    client = broker.clients.get(row.client)
    if client is None:
        client = broker.clients[row.client] = Client(row.client, now)
    state = State.HELD if row.outcome is None else State.ENDED
    task = client.tasks[row.number] = Task(client, row.number, state, now)
    task.template = template
    record = task.record = Record(0, 0)
    records.resume(task, row, now, writing.journal_ms(broker, now))
    first, count = known.calls[template.hash]
    known.calls[template.hash] = (first, count + 1)
    writing.need_code(broker, template.hash)
    record.is_armed = bool(row.armed)
    if row.key is not None and row.digest is not None and row.key_until_ms is not None:
        until = now + (row.key_until_ms - writing.journal_ms(broker, now)) / 1000.0
        record.key = (row.key, row.digest, until)
        known.keys[row.key] = task
    if row.outcome is not None:
        task.ending = records.ending_of(row)
        record.octets = task.ending.size + records.ROW_BYTES
        record.outcome_sequence = 0
        record.may_return = template.head.at_most_once
        age_s = (writing.journal_ms(broker, now) - (row.ended_ms or 0)) / 1000.0
        writing.expire(broker, task, now + broker.settings.outcome_ttl_s - max(0.0, age_s))
    else:
        task.body = row.body or b""
        task.frames = records.frames_of(row)
        task.size = len(task.body) + sum(map(len, task.frames))
        client.task_bytes += task.size
        record.octets = task.size + records.ROW_BYTES
        broker.held[task] = None
        if not (template.head.at_most_once or template.costs.named):
            record.is_restored = True
            known.restored[task] = None
            if row.armed > 1:
                record.given_to = row.armed
                known.given.setdefault(row.armed, []).append(task)
    known.octets += record.octets
    if row.outcome is None and template.shape.limits is not None:
        # Whether it can have them is asked when it is queued: until then its run may be offered.
        strategies.join(broker, task)
    return task


# ---------------------------------------------------------------------- time


def tick(broker: "Broker", now: float) -> None:
    """Forget outcomes that were kept for long enough, and code that no task needs."""
    known = broker.records
    while known.expiring and known.expiring[0][0] <= now:
        _, _, task = heappop(known.expiring)
        record = task.record
        if task.state is not State.ENDED or not isinstance(record, Record):
            continue
        if not writing.has_outcome(broker, record):
            writing.look_at(broker, task, now + SWEEP_S)
            continue
        if record.expires_at > now:
            if record.key is not None and record.key[2] <= now:
                writing.free_key(broker, task, record)
                forgetting.put_away(broker, task)
        else:
            broker.note("outcome_expired", task=task.name)
            for other in record.attached:
                other.record = None
            record.attached.clear()
            forgetting.erase(broker, task)
    if now - known.swept_at >= SWEEP_S:
        known.swept_at = now
        downfalls.forget(broker)
        sweep(broker)


def sweep(broker: "Broker") -> None:
    """Take calls and code out of the journal that no task has used for a whole interval."""
    known = broker.records
    unused = {digest for digest, (_, count) in known.calls.items() if not count}
    for digest in sorted(unused & known.idle):
        template, _ = known.calls.pop(digest)
        writing.write(broker, "forget-call", digest)
        for blob in records.codes_of(template):
            known.codes[blob.hash] -= 1
            if not known.codes[blob.hash]:
                del known.codes[blob.hash]
                writing.write(broker, "forget-code", blob.hash)
    known.idle = unused & known.calls.keys()


# ---------------------------------------------------------------------- invariants


def check(broker: "Broker") -> None:
    """Assert that the core and its journal agree on what is there."""
    known = broker.records
    tasks = [
        task
        for client in broker.clients.values()
        for task in client.tasks.values()
        if task.record is not None
    ]
    kept = [task for tasks in known.kept.values() for task in tasks.values()]
    rows = [task for task in (*tasks, *kept) if isinstance(task.record, Record)]
    named = [record for record in broker.named.by_id.values() if record.hash]
    octets = sum(t.record.octets for t in rows if isinstance(t.record, Record))
    octets += sum(record.octets for record in named)
    assert known.octets == octets + sum(size for size, _ in known.needed.values())
    counts: dict[bytes, int] = dict.fromkeys(known.calls, 0)
    for actor in named:
        counts[actor.hash] += 1
    assert known.given.keys().isdisjoint(broker.actors)
    for task in rows:
        record = task.record
        assert isinstance(record, Record)
        assert task.template
        counts[task.template.hash] += 1
        assert (task in known.writing) == (task.state is State.WRITING)
        if record.outcome_sequence is not None:
            assert task.state is State.ENDED
            assert record.outcome_sequence >= record.sequence
        is_armed_first = task.call.at_most_once or task.template.costs.named
        is_looked_at = task.token is not None and task.token[1] <= known.looked
        if is_armed_first or (record.is_restored and is_looked_at):
            assert record.is_armed or task.state is not State.ASSIGNED
        assert not record.is_restored or task in known.restored or task.is_over
        for other in record.attached:
            assert isinstance(other.record, Alias)
            assert other.record.target is task
            assert other.client.tasks[other.number] is other
        if record.key is not None:
            assert known.keys[record.key[0]] is task
    needed: Counter[bytes] = Counter()
    for digest, count in counts.items():  # Dead tasks, with bounds of their own, come after.
        for blob in records.codes_of(known.calls[digest][0]):
            needed[blob.hash] += count
    assert +needed == {digest: count for digest, (_, count) in known.needed.items()}
    assert known.needed.keys() <= known.codes.keys()
    for one in broker.dead_tasks.by_name.values():
        if one.is_written and one.template is not None:
            counts[one.template.hash] += 1
    for task in kept:
        assert task.state is State.ENDED
        assert isinstance(task.record, Record)
        assert not task.record.is_wanted
    for task in tasks:
        if isinstance(task.record, Alias):
            assert isinstance(task.record.target.record, Record)
            assert task in task.record.target.record.attached
    assert counts == {digest: count for digest, (_, count) in known.calls.items()}
    assert [sequence for sequence, _, _ in known.waiting] == sorted(
        sequence for sequence, _, _ in known.waiting
    )
