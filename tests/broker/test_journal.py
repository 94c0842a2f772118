"""The journal on a real disk: what a commit promises, what a start refuses, what a crash leaves."""

import contextlib
import os
import resource
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest
import zmq

from broker.disk import clocks
from broker.disk import journal as journal_module
from broker.disk.journal import (
    ANNOUNCE_ENDPOINT,
    OCTETS_PER_COMMIT_MAX,
    OPERATIONS_PER_COMMIT_MAX,
    JournalState,
    NullJournal,
    SqliteJournal,
    commit,
    decode_announcement,
    give_back,
)
from broker.disk.opening import (
    LOG_BYTES_AHEAD,
    SCHEMA,
    SCHEMA_STATEMENTS,
    Durability,
    JournalError,
    open_file,
    write_ahead,
)
from broker.disk.records import Parts
from broker.facts.epochs import EPOCH_STEPS
from tests.support.deployment import DEADLINE_S

pytestmark = pytest.mark.process
PATIENCE_MS = 1_000 * DEADLINE_S

# A table of the tests, so that they can see order and atomicity.
STATEMENTS = (*SCHEMA_STATEMENTS, "CREATE TABLE IF NOT EXISTS row (n INTEGER PRIMARY KEY, filler)")
OPERATIONS = {
    "epoch": "UPDATE meta SET value = max(value, ?) WHERE key = 'epoch'",
    "row": "INSERT INTO row VALUES (?, ?)",
}


class Ear:
    """The loop's end of the announcements."""

    def __init__(self):
        self.context = zmq.Context()
        self.router = self.context.socket(zmq.ROUTER)
        self.router.bind(ANNOUNCE_ENDPOINT)
        self.announcer = self.context.socket(zmq.DEALER)
        self.announcer.connect(ANNOUNCE_ENDPOINT)

    def hear(self):
        assert self.router.poll(PATIENCE_MS), "no announcement"
        return decode_announcement(self.router.recv_multipart()[1])

    def hear_until(self, sequence):
        heard = [self.hear()]
        while heard[-1].sequence < sequence:
            heard.append(self.hear())
        return heard

    def close(self):
        self.announcer.close(0)
        self.router.close(0)
        self.context.term()


def rows(folder):
    with contextlib.closing(sqlite3.connect(folder / "journal.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return [n for (n,) in connection.execute("SELECT n FROM row ORDER BY n")]


# --- the file


def test_a_file_of_the_first_schema_is_taken_over(journal_in, tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "journal.db", isolation_level=None)) as old:
        old.execute("PRAGMA journal_mode = WAL")
        for statement in SCHEMA_STATEMENTS[:2]:
            old.execute(statement)
        old.execute("INSERT INTO meta VALUES ('schema', 1), ('epoch', 7000)")
        old.execute("INSERT INTO limits VALUES ('db', '{}')")

    journal, epoch = journal_in(tmp_path, clock_ms=lambda: 5_000)
    assert 7_000 < epoch <= 7_000 + EPOCH_STEPS
    assert journal.stored.limits == {"db": "{}"}
    assert journal.stored.tasks.rows == []
    journal.close()

    with contextlib.closing(sqlite3.connect(tmp_path / "journal.db")) as file:
        assert file.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone() == (SCHEMA,)
        assert file.execute("PRAGMA auto_vacuum").fetchone() == (2,)


def test_what_is_empty_is_given_back_to_the_disk(tmp_path):
    connection = open_file(
        tmp_path / "journal.db", durability=Durability.PROCESS, statements=STATEMENTS
    )
    with contextlib.closing(connection):
        rows = [("row", n, b"x" * 4_000) for n in range(5_000)]
        commit(connection, OPERATIONS, rows)
        (full,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute("DELETE FROM row")
        for _ in range(2):
            give_back(connection)

        (left,) = connection.execute("PRAGMA page_count").fetchone()
        assert left < full // 2


def resident():
    """Return how much of memory this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_what_was_large_in_a_commit_stayed_in_memory_until_the_next_of_its_kind(
    journal_in, ear, tmp_path
):
    large = 40 * 2**20
    journal, _ = journal_in(
        tmp_path, operations=journal_module.OPERATIONS, durability=Durability.PROCESS
    )
    before = resident()
    journal.submit(1, [("task", 7, 1, b"call", bytes(large), None, b"", None, None, None)])
    journal.submit(2, [("outcome", b"", Parts([bytes(large)]), 5, 7, 1)])
    journal.submit(3, [("dead", 1, b"call", b"facts", b"", Parts([bytes(large)]))])
    journal.submit(4, [("named", "id", b"call", b""), ("checkpoint", 1, bytes(large), "id")])
    journal.submit(5, [("code", b"hash", bytes(large))])
    journal.submit(6, [("forget", 7, 2)])

    ear.hear_until(6)

    assert resident() - before < large
    journal.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "journal.db")) as file:
        for table in ("tasks", "dead", "named", "codes"):
            assert file.execute(f"SELECT count(*) FROM {table}").fetchone() == (1,)


# --- epochs


def test_an_epoch_is_the_clock_when_that_is_ahead(journal_in, tmp_path):
    _, epoch = journal_in(tmp_path, clock_ms=lambda: 5_000)

    assert epoch == 5_000


def test_an_epoch_rises_when_the_clock_went_back(journal_in, tmp_path):
    first, _ = journal_in(tmp_path, clock_ms=lambda: 5_000)
    first.close()

    _, epoch = journal_in(tmp_path, clock_ms=lambda: 3_000)

    assert 5_000 < epoch <= 5_000 + EPOCH_STEPS


def test_an_epoch_is_taken_once_though_an_older_journal_was_put_back(journal_in, tmp_path):
    """A copy that was put back gave the same epoch again, and so the same tokens."""
    first, _ = journal_in(tmp_path, clock_ms=lambda: 5_000)
    first.close()
    copy = (tmp_path / "journal.db").read_bytes()
    taken = []
    for _ in range(3):
        (tmp_path / "journal.db").write_bytes(copy)
        journal, epoch = journal_in(tmp_path, clock_ms=lambda: 3_000)
        journal.close()
        taken.append(epoch)

    assert len(set(taken)) > 1


@pytest.mark.parametrize("step_ms", [315_360_000_000, -4_000])
def test_a_clock_that_is_set_between_two_starts_changes_no_time_in_the_journal(
    journal_in, tmp_path, step_ms
):
    first, _ = journal_in(tmp_path, clock_ms=lambda: 5_000)
    first.close()

    second, _ = journal_in(tmp_path, clock_ms=lambda: 5_000 + step_ms)

    # Where boots have names: added to the one clock of the machine, it is the same as before.
    assert clocks.read(0).boot == "" or second.stored.clock_ms == first.stored.clock_ms


def test_the_time_over_a_boot_goes_on_from_what_was_written_last(
    journal_in, ear, tmp_path, monkeypatch
):
    monkeypatch.setattr(journal_module, "NOTE_CLOCK_S", 0.0)
    wall = iter([5_000, 65_000])
    first, _ = journal_in(tmp_path, clock_ms=lambda: next(wall))
    first.submit(1, [("row", 1, "")])
    ear.hear_until(1)
    first.close()

    with contextlib.closing(sqlite3.connect(tmp_path / "journal.db")) as connection:
        point = clocks.decode(journal_module.read_point(connection))

    assert point.reading.wall_ms == 65_000
    assert point.journal_ms - point.reading.since_boot_ms == first.stored.clock_ms


def test_a_raised_epoch_counts_at_the_next_start(journal_in, ear, tmp_path):
    first, _ = journal_in(tmp_path, clock_ms=lambda: 5_000)
    first.submit(1, [("epoch", 9_000), ("epoch", 8_000)])
    assert ear.hear().sequence == 1
    first.close()

    _, epoch = journal_in(tmp_path, clock_ms=lambda: 5_000)

    assert 9_000 < epoch <= 9_000 + EPOCH_STEPS


def test_without_a_journal_the_epoch_is_the_clock_and_everything_counts_as_written():
    journal = NullJournal(clock_ms=lambda: 7)

    assert journal.start(None) == 7
    assert journal.submit(1, [("epoch", 8)]) is True
    journal.close()


# --- commits


def test_what_is_announced_is_on_disk(journal_in, ear, tmp_path):
    journal, _ = journal_in(tmp_path)

    journal.submit(1, [("row", 1, ""), ("row", 2, "")])
    journal.submit(2, [("row", 3, "")])
    heard = ear.hear_until(2)
    journal.close()

    assert {announcement.state for announcement in heard} == {JournalState.COMMITTED}
    assert rows(tmp_path) == [1, 2, 3]


def test_what_waits_is_one_commit(journal_in, ear, tmp_path):
    journal, _ = journal_in(tmp_path)

    for n in range(1, 2_001):
        journal.submit(n, [("row", n, "")])
    heard = ear.hear_until(2_000)

    sequences = [announcement.sequence for announcement in heard]
    assert sequences == sorted(set(sequences))
    assert len(sequences) < 1_000


def test_a_flood_is_committed_in_parts(journal_in, ear, tmp_path):
    journal, _ = journal_in(tmp_path)
    many = OPERATIONS_PER_COMMIT_MAX * 2

    for n in range(1, many + 1):
        journal.submit(n, [("row", n, "")])
    heard = ear.hear_until(many)
    journal.close()

    assert len(heard) >= 2
    assert rows(tmp_path) == list(range(1, many + 1))


def test_a_flood_of_large_ones_is_committed_in_parts(ear, tmp_path):
    """They were one transaction of gigabytes, behind which everything else waited."""
    journal = SqliteJournal(tmp_path, operations=OPERATIONS, statements=STATEMENTS)
    large, parts = bytes(OCTETS_PER_COMMIT_MAX // 4), 3
    for n in range(1, 4 * parts + 1):
        journal.submit(n, [("row", n, large if n % 2 else Parts([large[1:], b"x"]))])

    journal.start(ear.announcer)
    heard = ear.hear_until(4 * parts)
    journal.close()

    assert [announcement.sequence for announcement in heard] == [4, 8, 12]
    assert rows(tmp_path) == list(range(1, 4 * parts + 1))


def test_close_writes_what_was_submitted(journal_in, tmp_path):
    journal, _ = journal_in(tmp_path)

    for n in range(1, 501):
        journal.submit(n, [("row", n, "")])
    journal.close()

    assert rows(tmp_path) == list(range(1, 501))


@pytest.mark.parametrize(("durability", "level"), [("power", 2), ("process", 1)])
def test_durability_is_how_hard_a_commit_is_synchronized(tmp_path, durability, level):
    path = tmp_path / "journal.db"
    connection = open_file(path, durability=Durability(durability), statements=STATEMENTS)

    with contextlib.closing(connection):
        assert connection.execute("PRAGMA synchronous").fetchone() == (level,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def log_of(folder):
    return folder / "journal.db-wal"


@pytest.mark.parametrize("durability", list(Durability))
def test_the_log_of_writes_does_not_grow_with_the_first_commits(tmp_path, durability):
    path = tmp_path / "journal.db"
    connection = open_file(path, durability=durability, statements=STATEMENTS)

    with contextlib.closing(connection):
        begun = log_of(tmp_path).stat().st_size
        commit(connection, OPERATIONS, [("row", 1, b"x" * 100_000)])
        # Only where each commit is synchronized does that cost anything.
        assert (begun == LOG_BYTES_AHEAD) is (durability is Durability.POWER)
        assert (log_of(tmp_path).stat().st_size == begun) is (durability is Durability.POWER)
        # What a crash would leave is read up to the first frame that is none.
        (tmp_path / "left").mkdir()
        shutil.copy(path, tmp_path / "left")
        shutil.copy(log_of(tmp_path), tmp_path / "left")

    assert rows(tmp_path / "left") == [1]


def test_a_log_of_writes_that_finds_no_room_stays_as_it_was(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"frames")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        write_ahead(log)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

    assert log.read_bytes() == b"frames"
    write_ahead(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_operations_keep_their_order_and_all_or_none_are_written():
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE row (n INTEGER PRIMARY KEY)")
    statements = {
        "add": "INSERT INTO row VALUES (?)",
        "shift": "UPDATE row SET n = n + ?",
    }

    commit(connection, statements, [("add", 1), ("shift", 10), ("add", 2), ("add", 3)])
    with pytest.raises(sqlite3.IntegrityError):
        commit(connection, statements, [("add", 4), ("add", 4)])

    assert connection.execute("SELECT n FROM row").fetchall() == [(2,), (3,), (11,)]
    assert not connection.in_transaction
    connection.close()


def test_an_operation_that_cannot_be_written_ends_the_journal_for_good(journal_in, ear, tmp_path):
    journal, _ = journal_in(tmp_path)

    journal.submit(1, [("row", 1, "")])
    journal.submit(2, [("row", 1, "")])

    heard = ear.hear()
    if heard.state is JournalState.COMMITTED:
        heard = ear.hear()
    assert heard.state is JournalState.FAILED
    assert "UNIQUE" in heard.reason


# --- one owner


def test_a_second_broker_is_refused_and_told_who_has_it(journal_in, ear, tmp_path):
    journal_in(tmp_path)
    second = SqliteJournal(tmp_path)

    with pytest.raises(JournalError, match=rf"in use by the broker of process {os.getpid()}"):
        second.start(ear.announcer)


def test_nobody_else_can_open_the_file_while_a_broker_has_it(journal_in, tmp_path):
    journal_in(tmp_path)

    other = sqlite3.connect(tmp_path / "journal.db", timeout=0)
    with contextlib.closing(other), pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("SELECT * FROM meta")

    assert not (tmp_path / "journal.db-shm").exists()


def test_a_closed_journal_gives_its_folder_free(journal_in, tmp_path):
    first, epoch = journal_in(tmp_path)
    first.close()

    _, later = journal_in(tmp_path)

    assert later > epoch
