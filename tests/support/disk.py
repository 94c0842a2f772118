"""A journal on a simulated disk: the real statements, written when somebody says so."""

import sqlite3
from collections import deque
from contextlib import closing
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from broker.core import Broker
from broker.disk import clocks
from broker.disk.clocks import Reading
from broker.disk.journal import CLOCK_STATEMENT, OPERATIONS, commit, read_point, read_tasks
from broker.disk.opening import SCHEMA, SCHEMA_STATEMENTS, Durability, know_sums, open_file
from broker.disk.records import StoredTasks
from broker.events.restoring import restore
from broker.facts import orders

WALL_MS = 1_790_000_000_000
BELIEVED_MS = 43_200_000


class Disk:
    """What an SQLite file would hold, and what is on its way to it."""

    def __init__(self) -> None:
        """Begin with an empty file."""
        self.connection = in_memory()
        for statement in SCHEMA_STATEMENTS:
            self.connection.execute(statement)
        self.connection.execute("INSERT INTO meta VALUES ('schema', ?)", (SCHEMA,))
        self.pending: deque[tuple[int, list[tuple[Any, ...]]]] = deque()

    def submit(self, sequence: int, operations: list[tuple[Any, ...]]) -> None:
        """Take a batch, which is lost with its broker until it is written."""
        self.pending.append((sequence, operations))

    def write(self, *, times: int = 1) -> int:
        """Write the oldest batch and return its number; more than once, as a replay would."""
        sequence, operations = self.pending.popleft()
        for _ in range(times):
            commit(self.connection, OPERATIONS, operations)
        return sequence

    def begin(self, reading: Reading) -> int:
        """Note what the clocks say, and return what is added to them for the journal's time."""
        last = clocks.decode(read_point(self.connection))
        clock_ms = clocks.journal_ms(last, reading, believed_ms=BELIEVED_MS)
        clock_ms -= reading.since_boot_ms
        self.connection.execute(CLOCK_STATEMENT, (clocks.encode(reading, clock_ms),))
        return clock_ms

    def write_all(self) -> int:
        """Write everything and return the highest number, 0 for nothing."""
        sequence = 0
        while self.pending:
            sequence = self.write()
        return sequence

    def tear(self, rng: Random) -> bool:
        """Write the oldest batch, lose power at some octet of it, and read what is left.

        For this once in a real file, opened as the journal opens it. Return whether the batch
        is there as a whole; it must be that or nothing.
        """
        before, (_, operations) = self._rows(), self.pending[0]
        with TemporaryDirectory(prefix="warmslot-torn-") as text:
            path, left = Path(text) / "journal.db", Path(text) / "left.db"
            path.write_bytes(self.connection.serialize())
            with closing(opened(path)) as connection:
                log = Path(f"{path}-wal")
                written = log.stat().st_size if log.exists() else 0
                commit(connection, OPERATIONS, operations)
                octets = bytearray(log.read_bytes())
                left.write_bytes(path.read_bytes())
            # Sectors reach the disk in any order: what is behind the cut may be there or not.
            at = rng.randint(written, len(octets))
            octets[at:] = rng.choice((b"", bytes(len(octets) - at), rng.randbytes(100)))
            Path(f"{left}-wal").write_bytes(octets)
            lost: list[str] = []
            with closing(opened(left, lost)) as connection:
                self.connection = in_memory()
                connection.backup(self.connection)
            assert not lost, f"what was never announced is told as lost: {lost}"
        self.pending.popleft()
        after = self._rows()
        if after == before:
            return False
        commit(self.connection, OPERATIONS, operations)
        assert self._rows() == after, "half of a batch was left by a torn log"
        return True

    def copy(self) -> sqlite3.Connection:
        """Return a copy of the file as it is."""
        copy = in_memory()
        self.connection.backup(copy)
        return copy

    def put_back(self, copy: sqlite3.Connection) -> None:
        """Have an earlier copy in the place of what there is."""
        self.pending.clear()
        self.connection = copy

    def _rows(self) -> list[str]:
        return list(self.connection.iterdump())

    def read(self) -> StoredTasks:
        """Read what a broker that starts now would find."""
        return read_tasks(self.connection)

    def row(self, client: int, number: int) -> Any:
        """Return (is_armed, outcome) of a task, or None."""
        return self.connection.execute(
            "SELECT is_armed, outcome FROM tasks WHERE client = ? AND number = ?",
            (client, number),
        ).fetchone()

    def give_to(self, core: Broker, now: float, reading: Reading | None = None) -> None:
        """Let *core* keep its journal here, beginning with what is there.

        *reading* is what the clocks say; without it nobody ever sets them.
        """
        core.records.has_journal = True
        core.records.clock_ms = core.records.wall_ms = WALL_MS
        if reading is not None:
            core.records.clock_ms = self.begin(reading)
        restore(core, self.read(), now)
        orders.restore(core, self.orders())

    def orders(self) -> dict[str, str]:
        """Return what an operator ordered, by the actor's name."""
        return dict(self.connection.execute("SELECT actor, what FROM orders"))


class InMemory(sqlite3.Connection):
    """A file that nobody else can have: whoever lets go of it last closes it, in any thread."""

    def __del__(self) -> None:
        """Close it, which newer Pythons want said."""
        self.close()


def in_memory() -> sqlite3.Connection:
    """Return a new file in memory."""
    connection = sqlite3.connect(
        ":memory:", isolation_level=None, check_same_thread=False, factory=InMemory
    )
    know_sums(connection)
    return connection


def opened(path: Path, lost: list[str] | None = None) -> sqlite3.Connection:
    """Open a file as the journal does, with a log of writes that ends where its frames do."""
    return open_file(path, durability=Durability.PROCESS, statements=SCHEMA_STATEMENTS, lost=lost)


def summary(core: Broker) -> dict[Any, Any]:
    """Return what the journal must have of the durable tasks and named actors in *core*."""
    from broker.disk import records
    from broker.tasks import inscribing

    kept = (task for tasks in core.records.kept.values() for task in tasks.values())
    own = (task for client in core.clients.values() for task in client.tasks.values())
    found: dict[tuple[Any, int], Any] = {}
    for task in (*own, *kept):
        record = task.record
        if not isinstance(record, records.Record):
            continue
        ending = task.ending if record.outcome_sequence is not None else None
        outcome = None if ending is None else records.told_of(ending)
        parts = task.frames if ending is None else ending.frames
        found[records.name_of(task)] = (
            task.template.hash,
            b"" if ending else bytes(task.body),
            tuple(bytes(part) for part in parts),
            bool(record.is_armed),
            record.key and record.key[:2],
            outcome,
        )
    found |= {
        ("dead", dead.serial): (
            dead.template and dead.template.hash,
            dead.facts.successor,
            bytes(dead.body),
            tuple(bytes(part) for part in dead.frames),
        )
        for dead in core.dead_tasks.by_name.values()
        if dead.is_written
    }
    return found | inscribing.summary(core)


def summary_of_rows(stored: StoredTasks) -> dict[Any, Any]:
    """Return the same of rows."""
    from broker.disk import records
    from broker.tasks import dead

    found: dict[Any, Any] = {
        ("dead", row.serial): (
            row.call,
            dead.read_facts(row.facts).successor,
            row.body or b"",
            tuple(records.unpack(row.frames)),
        )
        for row in stored.dead
    }
    named = {
        row.id: (
            row.call,
            row.state,
            row.serial,
            None if row.checkpoint is None else records.unpack(row.checkpoint)[0],
        )
        for row in stored.named
    }
    return (
        found
        | named
        | {
            (row.client, row.number): (
                row.call,
                b"" if row.outcome is not None else row.body,
                tuple(records.frames_of(row)),
                bool(row.armed),
                row.key and (row.key, row.digest),
                row.outcome,
            )
            for row in stored.rows
        }
    )
