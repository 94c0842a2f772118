"""How the journal's file is locked, opened and checked; whoever finds it damaged does not start.

The rule that must not be broken: one process at a time has the folder, and nothing is repaired.
"""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import msgspec

from broker.disk import losses
from broker.disk.losses import LOG_BYTES_MAX, OWNER_OCTETS
from broker.disk.records import octets_of

SCHEMA: Final = 4
# Older files, which only lack tables and sums; the first could not give back empty pages.
SCHEMAS_READ: Final = (1, 2, 3, 4)
SCHEMA_WITHOUT_VACUUM: Final = 1
SCHEMA_STATEMENTS: Final = (
    "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS limits (name TEXT PRIMARY KEY, definition TEXT) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS bindings (key TEXT PRIMARY KEY, actor TEXT) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS orders (actor TEXT PRIMARY KEY, what TEXT) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS codes (hash BLOB PRIMARY KEY, code BLOB, sum INTEGER)",
    "CREATE TABLE IF NOT EXISTS calls (hash BLOB PRIMARY KEY, call BLOB)",
    # Rows stand in the order in which they were submitted. The large ones come last.
    """CREATE TABLE IF NOT EXISTS tasks (client INTEGER, number INTEGER, call BLOB, progress BLOB,
    is_armed INTEGER, key TEXT, digest BLOB, key_until_ms INTEGER, ended_ms INTEGER,
    sum INTEGER, outcome BLOB, body BLOB, frames BLOB, PRIMARY KEY (client, number))""",
    """CREATE TABLE IF NOT EXISTS dead (serial INTEGER PRIMARY KEY, call BLOB, facts BLOB,
    body BLOB, frames BLOB, sum INTEGER)""",
    """CREATE TABLE IF NOT EXISTS named (id TEXT PRIMARY KEY, call BLOB, state BLOB, serial INTEGER,
    checkpoint BLOB, sum INTEGER)""",
)
# Whose rows have a sum over what users sent, which SQLite does not look at. What an older broker
# wrote has none.
SUMMED: Final = ("codes", "tasks", "dead", "named")

# A write that found no room changed nothing and can be repeated. A failed fsync cannot: the kernel
# may have dropped what it could not write, and only a start from the file shows what is there.
CAN_REPEAT: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE})
# What a value raises that nobody wrote so. SQLite sees damage between values, and none in them.
DAMAGE: Final = (msgspec.MsgspecError, ValueError)
# It begins with so much, a little more than what is in it when it is moved into the file: to
# synchronize a file that grows takes about twice as long as one that is written over.
LOG_BYTES_AHEAD: Final = 1_024 * 4_120
# What is worth the time to let go of it.
LARGE_BYTES: Final = 2**20


class Durability(StrEnum):
    """What a commit survives."""

    POWER = "power"  # the loss of power
    PROCESS = "process"  # the end of the process, not of the machine


class JournalError(Exception):
    """The journal cannot be used; the message says why and what to do."""


def damaged(path: Path, what: object) -> JournalError:
    """Return what is raised where the journal has *what* was never written."""
    return JournalError(
        f"journal {path} is damaged ({' '.join(str(what).split())}); "
        "restore it, or move it away to begin with an empty one"
    )


def no_room(path: Path, what: object) -> JournalError:
    """Return what is raised where nothing is wrong with the journal but that it cannot be written.

    To move it away, or to begin in another folder, would lose what it has.
    """
    if path.exists() and path.stat().st_size:
        advice = "make room on its disk and start again, all that it has is kept"
    else:
        advice = "make room, or name another folder with --data-dir"
    return JournalError(f"journal {path} cannot be written: {what}; {advice}")


def add_sums(connection: sqlite3.Connection) -> None:
    """Let tables of an older broker have what `OPERATIONS` writes."""
    for table in SUMMED:
        columns = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        if columns and "sum" not in columns:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN sum INTEGER")


def know_sums(connection: sqlite3.Connection) -> None:
    """Let statements compute what `sum_of` does, step by step: crc(second, crc(first))."""
    # Without a function of ours between them, which would cost more than the sum of what is small.
    for arguments in (1, 2):
        connection.create_function("crc", arguments, crc32, deterministic=True)


def let_go(
    connection: sqlite3.Connection,
    statements: Mapping[str, str],
    operations: Sequence[tuple[Any, ...]],
    octets: int,
) -> None:
    """Let *connection* have no copy of what is large in *operations*, of so many *octets*.

    SQLite keeps what a statement was executed with until it is executed again, which may be never.
    """
    if octets < LARGE_BYTES:
        return
    fields = {one[0]: len(one) - 1 for one in operations if octets_of((one,)) >= LARGE_BYTES}
    for name, count in fields.items():
        connection.execute("BEGIN")
        # With nothing in their place, which may be refused, and is taken back.
        with contextlib.suppress(sqlite3.Error):
            connection.execute(statements[name], (None,) * count)
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def lock_folder(folder: Path) -> int:
    """Make *folder* if it is not there, and lock it for this process. Raises JournalError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        advice = "name another one with --data-dir, or keep nothing with --no-journal"
        with contextlib.suppress(OSError):
            if (folder / "journal.db").exists():
                advice = "let it be written to and start again, all that its journal has is kept"
        raise JournalError(f"data folder {folder}: {error.strerror}; {advice}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.pread(lock, OWNER_OCTETS, 0).decode(errors="replace").strip()
        os.close(lock)
        raise JournalError(
            f"data folder {folder} is in use by the broker of process {owner or 'unknown'}; "
            "stop that one, or name another folder with --data-dir"
        ) from None
    # For whoever finds it locked. On a full disk the journal itself says what is wrong.
    with contextlib.suppress(OSError):
        os.pwrite(lock, f"{os.getpid()}".ljust(OWNER_OCTETS - 1).encode() + b"\n", 0)
    return lock


def open_file(
    path: Path,
    *,
    durability: Durability,
    statements: Sequence[str],
    lost: list[str] | None = None,
) -> sqlite3.Connection:
    """Open and check the journal, making it if it is not there. Raises JournalError.

    What can be seen to be missing of its log of writes is added to *lost*.
    """
    try:
        # Transactions begin and end where this file says so.
        connection = sqlite3.connect(path, isolation_level=None, timeout=0.0)
    except sqlite3.Error as error:
        raise JournalError(
            f"journal {path}: {error}; move away what is there, or name another folder with"
            " --data-dir"
        ) from None
    try:
        # Beside a new file is the log of another one, if there is any: it is taken away.
        log = losses.read_log(losses.log_of(path)) if path.stat().st_size else losses.Log()
        set_up(connection, path, durability=durability)
        # Before anything is written, which may begin the log anew.
        (_, read, _) = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if lost is not None and (what := losses.of_log(losses.log_of(path), log, read)):
            lost.append(what)
        prepare(connection, path, statements=statements)
    except sqlite3.Error as error:
        connection.close()
        if getattr(error, "sqlite_errorcode", None) in CAN_REPEAT:
            raise no_room(path, error) from None
        raise JournalError(
            f"journal {path} cannot be read: {error}; "
            "restore it, or move it away to begin with an empty one"
        ) from None
    except UnicodeError as error:  # In what SQLite quotes of a table's definition.
        connection.close()
        raise damaged(path, error) from None
    except JournalError:
        connection.close()
        raise
    if durability is Durability.POWER:
        write_ahead(losses.log_of(path))
    return connection


def write_ahead(log: Path, octets: int = LOG_BYTES_AHEAD) -> None:
    """Let the *log* of writes have its usual length from the start.

    SQLite reads it up to the first frame without its checksum, and writes over what follows. Where
    there is no room it goes on as it was.
    """
    with contextlib.suppress(OSError), log.open("r+b", buffering=0) as file:
        found = file.seek(0, os.SEEK_END)
        # Zeros, not a hole: only what was written before can be written over.
        zeros = bytes(max(0, octets - found))
        try:
            is_complete = file.write(zeros) == len(zeros)
            os.fsync(file.fileno())
        except OSError:
            is_complete = False
        if not is_complete:
            file.truncate(found)


def set_up(connection: sqlite3.Connection, path: Path, *, durability: Durability) -> None:
    """Say how the file is used."""
    know_sums(connection)
    # Before the first access, so that not even the memory shared between connections is made.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    if not path.stat().st_size:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES_MAX}")
    level = "FULL" if durability is Durability.POWER else "NORMAL"
    connection.execute(f"PRAGMA synchronous = {level}")
    # Only macOS knows the difference: its fsync leaves the data in the drive.
    if durability is Durability.POWER:
        connection.execute("PRAGMA fullfsync = ON")
        connection.execute("PRAGMA checkpoint_fullfsync = ON")


def prepare(connection: sqlite3.Connection, path: Path, *, statements: Sequence[str]) -> None:
    """Make what is not there, and refuse a file that is damaged or newer."""
    verdicts = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
    if verdicts != ["ok"]:
        raise damaged(path, "; ".join(verdicts))
    connection.execute("BEGIN IMMEDIATE")
    for statement in statements:
        connection.execute(statement)
    connection.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (SCHEMA,))
    (schema,) = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    was = schema
    if schema in SCHEMAS_READ[:-1]:
        add_sums(connection)
        connection.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (SCHEMA,))
        schema = SCHEMA
    connection.execute("COMMIT")
    if was == SCHEMA_WITHOUT_VACUUM:
        # From here on the file can give back what is empty; it is small, since it had no tasks.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("VACUUM")
    if schema != SCHEMA:
        raise JournalError(
            f"journal {path} has schema {schema}, this broker reads {SCHEMA}; "
            "use the version of warmslot that wrote it"
        )
