"""The durable record: one SQLite file, one connection, one thread that owns it.

The loop hands operations over and goes on; the thread writes everything that waits in one
transaction and announces the highest sequence in it. The rule that must not be broken: a sequence
is announced only after the commit that holds it and everything submitted before it.

A second connection never exists, not even for reading: the file is locked exclusively. That also
keeps clear of the corruption that SQLite 3.7.0 to 3.51.2 can cause when two connections checkpoint.
"""

import contextlib
import os
import queue
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from enum import StrEnum
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import zmq
from msgspec import Struct

from broker.disk import clocks
from broker.disk.losses import Watch
from broker.disk.opening import (
    CAN_REPEAT,
    DAMAGE,
    SCHEMA_STATEMENTS,
    Durability,
    JournalError,
    damaged,
    let_go,
    lock_folder,
    no_room,
    open_file,
)
from broker.disk.records import (
    DeadRow,
    NamedRow,
    Parts,
    Row,
    StoredTasks,
    check_calls,
    check_sums,
    octets_of,
)
from broker.facts import epochs

sqlite3.register_adapter(Parts, Parts.packed)

ANNOUNCE_ENDPOINT: Final = "inproc://inside-broker"

# What the core may write: the name of an operation and the statement for its fields. Each can be
# repeated without harm. Whatever else is to be kept gets its own line here and its table above.
OPERATIONS: Final[Mapping[str, str]] = {
    # Whether the broker was told to end: said when it was, and no more when the next one has begun.
    "ended": "INSERT OR REPLACE INTO meta VALUES ('ended', 1)",
    "running": "DELETE FROM meta WHERE key = 'ended'",
    "epoch": "UPDATE meta SET value = max(value, ?) WHERE key = 'epoch'",
    "limit-set": "INSERT OR REPLACE INTO limits VALUES (?, ?)",
    "limit-delete": "DELETE FROM limits WHERE name = ?",
    "bind": "INSERT OR REPLACE INTO bindings VALUES (?, ?)",
    "unbind": "DELETE FROM bindings WHERE key = ?",
    "order": "INSERT OR REPLACE INTO orders VALUES (?, ?)",
    "forget-order": "DELETE FROM orders WHERE actor = ?",
    "code": "INSERT OR IGNORE INTO codes (hash, code, sum) VALUES (?1, ?2, crc(?2))",
    "forget-code": "DELETE FROM codes WHERE hash = ?",
    "call": "INSERT OR IGNORE INTO calls VALUES (?, ?)",
    "forget-call": "DELETE FROM calls WHERE hash = ?",
    "task": "INSERT OR IGNORE INTO tasks (client, number, call, body, frames, progress, is_armed,"
    " key, digest, key_until_ms, sum) VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, ?7, ?8, ?9,"
    " crc(ifnull(?5, x''), crc(?4)))",
    "armed": "UPDATE tasks SET is_armed = ? WHERE client = ? AND number = ?",
    "progress": "UPDATE tasks SET progress = ? WHERE client = ? AND number = ?",
    "outcome": "UPDATE tasks SET outcome = ?1, frames = ?2, ended_ms = ?3, body = NULL,"
    " sum = crc(ifnull(?2, x''), crc(?1)) WHERE client = ?4 AND number = ?5",
    "free-key": "UPDATE tasks SET key = NULL WHERE client = ? AND number = ?",
    "forget": "DELETE FROM tasks WHERE client = ? AND number = ?",
    "dead": "INSERT OR REPLACE INTO dead (serial, call, facts, body, frames, sum)"
    " VALUES (?1, ?2, ?3, ?4, ?5, crc(ifnull(?5, x''), crc(ifnull(?4, x''), crc(?3))))",
    "forget-dead": "DELETE FROM dead WHERE serial = ?",
    "named": "INSERT OR IGNORE INTO named (id, call, state, serial) VALUES (?, ?, ?, 0)",
    "named-state": "UPDATE named SET state = ? WHERE id = ?",
    "checkpoint": "UPDATE named SET serial = ?1, checkpoint = ?2, sum = crc(ifnull(?2, x''))"
    " WHERE id = ?3",
    "forget-named": "DELETE FROM named WHERE id = ?",
}

# A transaction takes what waits, up to this: the first of a flood does not wait for the last, and
# has room on a disk that is nearly full.
OPERATIONS_PER_COMMIT_MAX: Final = 4_096
OCTETS_PER_COMMIT_MAX: Final = 16 * 2**20
RETRY_S: Final = 1.0
# The file gives back pages when more than half of it is empty, so many at a time and no more often
# than this.
EMPTY_PAGES_MAX: Final = 2_048
PAGES_GIVEN_BACK: Final = 4_096
GIVE_BACK_S: Final = 1.0
# What the clocks say is stored at each start, and so often while something is written: what was
# written since is that much younger after a boot.
NOTE_CLOCK_S: Final = 60.0
CLOCK_STATEMENT: Final = "INSERT OR REPLACE INTO meta VALUES ('clock', ?)"
BELIEVED_S: Final = 43_200.0
CLOSE_TIMEOUT_S: Final = 5.0

Operations = Sequence[tuple[Any, ...]]


class JournalState(StrEnum):
    """What the journal's thread announces."""

    COMMITTED = "committed"
    STUCK = "stuck"  # no room: it keeps trying
    RECOVERED = "recovered"
    FAILED = "failed"  # for good


class Announcement(Struct, frozen=True, array_like=True):
    """What the journal's thread tells the loop."""

    state: JournalState
    sequence: int
    reason: str = ""


_encode = msgspec.msgpack.Encoder().encode
decode_announcement = msgspec.msgpack.Decoder(Announcement).decode


class Stored(Struct):
    """What an earlier broker left behind."""

    # Whether there was one; None where nobody can tell.
    had_earlier: bool | None = None
    # Definitions of limits, in JSON, by name.
    limits: dict[str, str] = {}
    tasks: StoredTasks = StoredTasks()
    # The actor's name by the key that is bound to it.
    bindings: dict[str, str] = {}
    # What an operator ordered, by the actor's name.
    orders: dict[str, str] = {}
    # What must be added to the core's clock, in milliseconds, for the time in the journal.
    clock_ms: int = 0
    # Whether it was told to end, and had the time to write that.
    ended_well: bool = False
    # The epoch that it stored last, 0 for none.
    epoch: int = 0
    # What can be seen to be missing of its files, for people.
    lost: list[str] = []


class Journal(Protocol):
    """What the loop needs of a journal."""

    # Read by `start`.
    stored: Stored

    def start(self, announcer: "zmq.Socket[bytes]") -> int:
        """Return the epoch of this start, stored. *announcer* is the journal's until `close`."""

    def submit(self, sequence: int, operations: Operations) -> bool:
        """Take *operations*; True when they count as written already and are not announced."""

    def close(self) -> None:
        """Write what was submitted, and end."""


class NullJournal:
    """Keeps nothing; everything counts as written at once. The epoch comes from the clock alone."""

    def __init__(self, *, clock_ms: Callable[[], int] | None = None) -> None:
        self._clock_ms = clock_ms or clocks.wall_clock_ms
        self.stored = Stored()

    def start(self, announcer: "zmq.Socket[bytes]") -> int:
        """Return the milliseconds of the clock."""
        return self._clock_ms()

    def submit(self, sequence: int, operations: Operations) -> bool:
        """Forget *operations*."""
        return True

    def close(self) -> None:
        """Do nothing."""


class SqliteJournal:
    """The journal in *folder*. One process at a time may have it."""

    def __init__(
        self,
        folder: Path,
        *,
        durability: Durability = Durability.POWER,
        operations: Mapping[str, str] = OPERATIONS,
        statements: Sequence[str] = SCHEMA_STATEMENTS,
        clock_ms: Callable[[], int] | None = None,
        believed_s: float = BELIEVED_S,
    ) -> None:
        """Remember where; nothing is touched before `start`.

        *believed_s* is how much of the time over a boot is believed that the clock says.
        """
        self._folder = folder
        self._path = folder / "journal.db"
        # The device and the number of the file that was opened.
        self._file = (0, 0)
        self._durability = durability
        self._operations = {"clock": CLOCK_STATEMENT, **operations}
        self._statements = statements
        self._clock_ms = clock_ms or clocks.wall_clock_ms
        self._believed_ms = int(believed_s * 1000.0)
        self.stored = Stored()
        self._lock: int | None = None
        self._queue: queue.SimpleQueue[tuple[int, Operations] | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, announcer: "zmq.Socket[bytes]") -> int:
        """Lock the folder, check the file, store and return the next epoch. Raises JournalError."""
        self._lock = lock_folder(self._folder)
        started: Future[int] = Future()
        run = (announcer, started)
        thread = threading.Thread(target=self._run, args=run, name="journal", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:
            self.close()
            told = str(error) or type(error).__name__
            raise JournalError(f"journal {self._path} needs a thread: {told}") from None
        self._thread = thread
        try:
            return started.result()
        except JournalError:
            self.close()
            raise

    def submit(self, sequence: int, operations: Operations) -> bool:
        """Hand *operations* to the thread. Sequences rise; they are announced when written."""
        self._queue.put((sequence, operations))
        return False

    def close(self) -> None:
        """Write what was submitted, as long as that is possible, and give the folder free."""
        self._closing.set()
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT_S)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _run(self, announcer: "zmq.Socket[bytes]", started: Future[int]) -> None:
        """Own the connection from its opening to its end."""
        with contextlib.ExitStack() as stack:
            try:
                assert self._lock is not None
                watch = stack.enter_context(contextlib.closing(Watch(self._path, self._lock)))
                connection = stack.enter_context(contextlib.closing(self._open(watch)))
                stack.callback(watch.take_back)
                epoch = self._begin(connection)
            except BaseException as error:  # noqa: BLE001 - whatever it is, `start` waits for it.
                started.set_exception(error)
                return
            watch.begin(self.stored.epoch, epoch)
            self.stored.lost = watch.lost
            started.set_result(epoch)
            # Whatever ends this thread early ends the broker: nothing it decides could be kept.
            failure = "the journal's thread ended with an exception"
            try:
                self._write_all(connection, announcer, watch)
                failure = ""
            except sqlite3.Error as error:
                failure = f"{error} ({getattr(error, 'sqlite_errorname', 'unknown')})"
            finally:
                if failure:
                    announce(announcer, JournalState.FAILED, reason=failure)

    def _open(self, watch: Watch) -> sqlite3.Connection:
        if watch.is_emptied:
            raise damaged(self._path, "it is empty, and an earlier broker has had one here")
        return open_file(
            self._path, durability=self._durability, statements=self._statements, lost=watch.lost
        )

    def _begin(self, connection: sqlite3.Connection) -> int:
        """Read what is there, and return the epoch of this start. Raises JournalError."""
        try:
            opened = self._path.stat()
            self._file = (opened.st_dev, opened.st_ino)
            self.stored = read_stored(connection)
            return self._next_epoch(connection)
        except DAMAGE as error:
            raise damaged(self._path, error) from None
        except (sqlite3.Error, OSError) as error:
            if getattr(error, "sqlite_errorcode", None) in CAN_REPEAT:
                raise no_room(self._path, error) from None
            raise JournalError(f"journal {self._path}: {error}") from None

    def _next_epoch(self, connection: sqlite3.Connection) -> int:
        """Return the epoch of this start, stored with the time that it is in the journal."""
        reading = clocks.read(self._clock_ms())
        last = clocks.decode(read_point(connection))
        now_ms = clocks.journal_ms(last, reading, believed_ms=self._believed_ms)
        self.stored.clock_ms = now_ms - reading.since_boot_ms
        point = clocks.encode(reading, self.stored.clock_ms)
        # Of another start from a copy of this file, with a clock that was set back, nobody knows.
        own = secrets.randbelow(epochs.EPOCH_STEPS)
        return next_epoch(connection, reading.wall_ms, own, point)

    def _point(self) -> tuple[Any, ...]:
        """Return the operation that stores what the clocks say now."""
        return ("clock", clocks.encode(clocks.read(self._clock_ms()), self.stored.clock_ms))

    def _write_all(
        self, connection: sqlite3.Connection, announcer: "zmq.Socket[bytes]", watch: Watch
    ) -> None:
        """Write batch after batch until `close`."""
        is_ending = False
        looked_at = noted_at = time.monotonic()
        while not is_ending:
            sequence, operations, octets, is_ending = self._next_batch()
            if operations and time.monotonic() - noted_at >= NOTE_CLOCK_S:
                operations.append(self._point())
                noted_at = time.monotonic()
            if operations and self._write(connection, operations, announcer):
                announce(announcer, JournalState.COMMITTED, sequence=sequence)
            let_go(connection, self._operations, operations, octets)
            if time.monotonic() - looked_at >= GIVE_BACK_S:
                give_back(connection)
                watch.note_growth()
                looked_at = time.monotonic()

    def _next_batch(self) -> tuple[int, list[tuple[Any, ...]], int, bool]:
        """Return all that waits: its highest sequence, operations, octets; and whether to end."""
        sequence = octets = 0
        operations: list[tuple[Any, ...]] = []
        item = self._queue.get()
        while item is not None:
            sequence = item[0]
            operations += item[1]
            octets += octets_of(item[1])
            if len(operations) >= OPERATIONS_PER_COMMIT_MAX or octets >= OCTETS_PER_COMMIT_MAX:
                return sequence, operations, octets, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return sequence, operations, octets, False
        return sequence, operations, octets, True

    def _write(
        self,
        connection: sqlite3.Connection,
        operations: Operations,
        announcer: "zmq.Socket[bytes]",
    ) -> bool:
        """Commit *operations*, again while that cannot be; False when `close` came first."""
        is_stuck = False
        while True:
            reason = self._not_in_place()
            try:
                if not reason:
                    commit(connection, self._operations, operations)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode not in CAN_REPEAT:
                    raise
                reason = str(error)
            if not reason:
                if is_stuck:
                    announce(announcer, JournalState.RECOVERED)
                return True
            if not is_stuck:
                announce(announcer, JournalState.STUCK, reason=reason)
            is_stuck = True
            if self._closing.wait(RETRY_S):
                return False

    def _not_in_place(self) -> str:
        """Return why nobody would find what is written; SQLite itself would write on."""
        try:
            found = self._path.stat()
        except OSError as error:
            what = f"was deleted or moved away ({error.strerror})"
        else:
            if (found.st_dev, found.st_ino) == self._file:
                return ""
            what = "is another file than was opened"
        return f"{self._path} {what}; put it back, or start again with what is there then"


def announce(
    announcer: "zmq.Socket[bytes]", state: JournalState, *, sequence: int = 0, reason: str = ""
) -> None:
    """Tell the loop."""
    announcer.send(_encode(Announcement(state, sequence, reason)), zmq.NOBLOCK)


def commit(
    connection: sqlite3.Connection, statements: Mapping[str, str], operations: Operations
) -> None:
    """Write *operations* in their order, all or none."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for name, alike in groupby(operations, key=itemgetter(0)):
            connection.executemany(statements[name], (operation[1:] for operation in alike))
        connection.execute("COMMIT")
    except sqlite3.Error:
        # Some errors have already ended the transaction.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def give_back(connection: sqlite3.Connection) -> None:
    """Give empty pages back to the disk, some at a time, where they are most of the file."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (empty,) = connection.execute("PRAGMA freelist_count").fetchone()
    if empty <= max(EMPTY_PAGES_MAX, pages // 2):
        return
    try:
        # As a script: what has no columns is otherwise run for one page alone.
        connection.executescript(f"PRAGMA incremental_vacuum({PAGES_GIVEN_BACK})")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode not in CAN_REPEAT:
            raise


def read_stored(connection: sqlite3.Connection) -> Stored:
    """Read what an earlier broker left behind."""
    earlier = connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
    limits = connection.execute("SELECT name, definition FROM limits ORDER BY name")
    tasks = read_tasks(connection)
    bindings = connection.execute("SELECT key, actor FROM bindings")
    orders = connection.execute("SELECT actor, what FROM orders")
    ended_well = connection.execute("SELECT 1 FROM meta WHERE key = 'ended'").fetchone()
    return Stored(
        earlier is not None,
        dict(read_rows(limits, tuple[str, str])),
        tasks,
        dict(read_rows(bindings, tuple[str, str])),
        dict(read_rows(orders, tuple[str, str])),
        ended_well=ended_well is not None,
        epoch=msgspec.convert(earlier[0], int) if earlier else 0,
    )


def read_tasks(connection: sqlite3.Connection) -> StoredTasks:
    """Read every durable task, in the order in which they were submitted, and named actors."""
    found = connection.execute(
        "SELECT client, number, call, body, frames, progress, is_armed, key, digest, key_until_ms,"
        " outcome, ended_ms, sum FROM tasks ORDER BY rowid"
    )
    rows = read_rows(found, Row)
    found = connection.execute(
        "SELECT serial, call, facts, body, frames, sum FROM dead ORDER BY serial"
    )
    dead = read_rows(found, DeadRow)
    calls = read_rows(connection.execute("SELECT hash, call FROM calls"), tuple[bytes, bytes])
    found = connection.execute("SELECT hash, code, sum FROM codes")
    codes = read_rows(found, tuple[bytes, bytes, int | None])
    named = connection.execute("SELECT id, call, state, serial, checkpoint, sum FROM named")
    stored = StoredTasks(rows, dead, dict(calls), {}, read_rows(named, NamedRow))
    check_sums(stored, codes)
    stored.codes.update((digest, code) for digest, code, _ in codes)
    check_calls(stored)
    return stored


def read_rows(found: Iterable[Any], kind: Any) -> Any:
    """Return what was *found* as a list of *kind*. Raises ValidationError for any other value."""
    return msgspec.convert(list(found), list[kind], strict=False, builtin_types=(bytes,))


def read_point(connection: sqlite3.Connection) -> bytes | None:
    """Return what an earlier broker stored of the clocks."""
    found = connection.execute("SELECT value FROM meta WHERE key = 'clock'")
    rows: list[tuple[bytes]] = read_rows(found, tuple[bytes])
    return rows[0][0] if rows else None


def next_epoch(connection: sqlite3.Connection, clock_ms: int, own: int, point: bytes) -> int:
    """Store and return an epoch above every earlier one, near the clock where that is possible.

    *own* tells this start from all others; beside it is stored at which *point* of time that was.
    """
    row = connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
    epoch = epochs.begin(int(row[0]) if row else 0, clock_ms, own)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('epoch', ?)", (epoch,))
    connection.execute(CLOCK_STATEMENT, (point,))
    connection.execute("COMMIT")
    return epoch
