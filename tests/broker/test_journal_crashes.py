"""What crashes and full disks leave of the journal, in processes of their own."""

import os
import resource
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from broker.disk import journal as journal_module
from broker.disk.journal import (
    JournalState,
    SqliteJournal,
)
from broker.disk.opening import (
    JournalError,
)
from tests.broker.test_journal import rows
from tests.support.deployment import DEADLINE_S

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[2]


# --- crashes and full disks, in processes of their own

WRITER = """
import itertools, sys
from pathlib import Path
from broker.disk.journal import SqliteJournal
from tests.broker import test_journal as here

ear = here.Ear()
journal = SqliteJournal(
    Path(sys.argv[1]), operations=here.OPERATIONS, statements=here.STATEMENTS
)
print("epoch", journal.start(ear.announcer), flush=True)
sequence = submitted = announced = 0
while True:
    while submitted - announced < 300:
        sequence += 1
        journal.submit(sequence, [("row", 2 * sequence, "x" * 200), ("row", 2 * sequence + 1, "")])
        submitted = sequence
    announced = ear.hear().sequence
    print(announced, flush=True)
"""

FULL = """
import resource, sys
from pathlib import Path
from broker.disk.journal import SqliteJournal
from tests.broker import test_journal as here

ear = here.Ear()
journal = SqliteJournal(
    Path(sys.argv[1]), operations=here.OPERATIONS, statements=here.STATEMENTS
)
journal.start(ear.announcer)
journal.submit(1, [("row", 1, "x")])
ear.hear()
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
journal.submit(2, [("row", n, "x" * 1000) for n in range(2, 1_002)])
print(ear.hear().state, flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
print(ear.hear().state, flush=True)
print(ear.hear().sequence, flush=True)
journal.submit(3, [("row", 5_000, "x")])
print(ear.hear().sequence, flush=True)
journal.close()
ear.close()
"""


def run_child(code, folder):
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("lines", [1, 2, 7, 30])
def test_a_killed_process_loses_nothing_that_was_announced(journal_in, tmp_path, lines):
    with run_child(WRITER, tmp_path) as child:
        epoch = int(child.stdout.readline().split()[1])
        for _ in range(lines):
            announced = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        # What it said before the end came counts as well.
        said = [line for line in child.stdout.read().split("\n") if line.strip()]
    announced = int(said[-1]) if said else announced

    journal, later = journal_in(tmp_path, clock_ms=lambda: 0)
    journal.close()

    kept = rows(tmp_path)
    assert kept == list(range(2, len(kept) + 2))
    assert len(kept) % 2 == 0
    assert len(kept) // 2 >= announced
    assert later > epoch


@pytest.mark.slow
@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_FSIZE)[1] != resource.RLIM_INFINITY,
    reason="files are limited here already",
)
def test_a_disk_without_room_is_told_and_used_again_when_there_is_some(journal_in, tmp_path):
    with run_child(FULL, tmp_path) as child:
        said = child.stdout.read().split("\n")

    assert said[:4] == ["stuck", "recovered", "2", "3"]
    assert child.returncode == 0
    journal, _ = journal_in(tmp_path)
    journal.close()
    assert rows(tmp_path) == [*range(1, 1_002), 5_000]


def test_a_start_without_room_does_not_blame_the_file(journal_in, tmp_path, monkeypatch):
    class Full(sqlite3.Connection):
        def execute(self, *arguments):
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

    def connect(path, **options):
        return original(path, factory=Full, **options)

    original = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", connect)

    with pytest.raises(JournalError, match="disk is full; make room, or name another folder"):
        journal_in(tmp_path)


def test_a_start_without_room_does_not_send_who_has_a_journal_to_another_folder(
    journal_in, tmp_path, monkeypatch
):
    journal, _ = journal_in(tmp_path)
    journal.close()

    def is_full(*_):
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    monkeypatch.setattr(journal_module, "next_epoch", is_full)

    with pytest.raises(JournalError, match="make room on its disk and start again, all that"):
        journal_in(tmp_path)


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_file_that_is_moved_away_was_written_on_as_if_nothing_was(
    journal_in, ear, tmp_path, monkeypatch, is_replaced
):
    monkeypatch.setattr(journal_module, "RETRY_S", 0.001)
    journal, _ = journal_in(tmp_path)
    file, elsewhere = tmp_path / "journal.db", tmp_path / "elsewhere.db"
    file.rename(elsewhere)
    if is_replaced:
        file.write_bytes(b"")

    journal.submit(1, [("row", 1, "")])

    said = ear.hear()
    assert said.state is JournalState.STUCK
    assert ("another file" if is_replaced else "deleted or moved away") in said.reason
    elsewhere.replace(file)
    assert ear.hear().state is JournalState.RECOVERED
    assert ear.hear().sequence == 1
    journal.close()
    assert rows(tmp_path) == [1]


def test_close_does_not_wait_for_room(ear, tmp_path, monkeypatch):
    class Full(sqlite3.Connection):
        def executemany(self, *arguments):
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

    def connect(path, **options):
        return original(path, factory=Full, **options)

    original = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", connect)
    monkeypatch.setattr(journal_module, "RETRY_S", 3_600.0)
    monkeypatch.setattr(journal_module, "CLOSE_TIMEOUT_S", DEADLINE_S)
    journal = SqliteJournal(tmp_path)
    journal.start(ear.announcer)
    journal.submit(1, [("epoch", 1)])
    assert ear.hear().state is JournalState.STUCK

    journal.close()

    assert not journal._thread.is_alive()
