"""What is missing of a journal's files is told at the next start, and nothing else is.

A kill leaves the files as they are between two writes: that is what these tests copy and make.
"""

import contextlib
import shutil
import sqlite3

import pytest
import zmq

from broker.disk import journal as journal_module
from broker.disk.journal import (
    ANNOUNCE_ENDPOINT,
    OPERATIONS,
    SqliteJournal,
    commit,
    decode_announcement,
    give_back,
)
from broker.disk.losses import HEADER, log_of, read_log
from broker.disk.opening import SCHEMA_STATEMENTS, Durability, JournalError, open_file
from tests.support.deployment import DEADLINE_S

pytestmark = pytest.mark.process

STATEMENTS = (*SCHEMA_STATEMENTS, "CREATE TABLE IF NOT EXISTS row (n INTEGER PRIMARY KEY, filler)")
COMMITS = 20
PAGE_OCTETS = 4_096 + 24


@pytest.fixture
def announced():
    """Return the end at which a journal announces, and the one at which that is heard."""
    with zmq.Context() as context, context.socket(zmq.PAIR) as heard:
        heard.set(zmq.RCVTIMEO, int(DEADLINE_S * 1_000))
        heard.bind(ANNOUNCE_ENDPOINT)
        with context.socket(zmq.PAIR) as announcer:
            announcer.connect(ANNOUNCE_ENDPOINT)
            yield announcer, heard


@contextlib.contextmanager
def journal(folder, announcer, *, statements=STATEMENTS, **options):
    operations = {**OPERATIONS, "row": "INSERT INTO row VALUES (?, ?)"}
    one = SqliteJournal(folder, operations=operations, statements=statements, **options)
    one.start(announcer)
    try:
        yield one
    finally:
        one.close()


@pytest.fixture(params=list(Durability))
def killed(request, announced, tmp_path, monkeypatch):
    """Return a folder as a kill leaves it, after so many commits."""
    # Else the growth of the log is noted once a second, and what came last may be cut unnoticed.
    monkeypatch.setattr(journal_module, "GIVE_BACK_S", 0.0)
    announcer, heard = announced
    with journal(tmp_path / "live", announcer, durability=request.param) as one:
        for number in range(1, COMMITS + 1):
            one.submit(number, [("row", number, "x" * 3_000)])
            assert decode_announcement(heard.recv()).sequence == number
        shutil.copytree(tmp_path / "live", tmp_path / "left")
    return tmp_path / "left"


def told(folder, announcer):
    with journal(folder, announcer) as one:
        return one.stored.lost


def rows(folder):
    with contextlib.closing(sqlite3.connect(folder / "journal.db")) as connection:
        return connection.execute("SELECT count(*) FROM row").fetchone()[0]


def change(file, at):
    octets = bytearray(file.read_bytes())
    octets[at] ^= 0x10
    file.write_bytes(octets)


def test_of_a_broker_that_was_killed_nothing_is_missing(killed, announced):
    assert told(killed, announced[0]) == []
    assert rows(killed) == COMMITS
    assert told(killed, announced[0]) == []


@pytest.mark.parametrize("octets", [0, 32, 30_000])
def test_a_log_of_writes_that_was_cut_lost_commits_without_a_line(killed, announced, octets):
    with log_of(killed / "journal.db").open("r+b") as log:
        log.truncate(octets)

    [line] = told(killed, announced[0])

    assert "journal.db-wal had" in line
    assert "what was written last is lost" in line
    assert rows(killed) < COMMITS


def test_a_log_of_writes_that_is_gone_lost_commits_without_a_line(killed, announced):
    log_of(killed / "journal.db").unlink()

    [line] = told(killed, announced[0])

    assert "and has 0" in line


def test_an_octet_that_was_flipped_in_the_log_lost_the_commits_behind_it(killed, announced):
    log = log_of(killed / "journal.db")
    middle = read_log(log).last // 2
    change(log, HEADER.size + middle * PAGE_OCTETS + 100)

    [line] = told(killed, announced[0])

    assert "journal.db-wal is damaged behind its first" in line
    assert rows(killed) < COMMITS


def test_a_log_whose_beginning_is_damaged_is_told(killed, announced):
    change(log_of(killed / "journal.db"), 20)

    [line] = told(killed, announced[0])

    assert "damaged at its beginning" in line


def test_a_last_commit_that_was_torn_is_no_loss(killed, announced):
    """It was never announced: what is behind the last whole commit may be of one."""
    log = log_of(killed / "journal.db")
    change(log, HEADER.size + (read_log(log).last - 1) * PAGE_OCTETS + 100)

    assert told(killed, announced[0]) == []
    assert rows(killed) == COMMITS - 1


def test_an_empty_file_was_taken_for_a_new_one(killed, announced):
    (killed / "journal.db").write_bytes(b"")

    for _ in range(2):  # It is refused until somebody does something.
        with pytest.raises(JournalError, match=r"it is empty.*restore it, or move it away"):
            told(killed, announced[0])
    (killed / "journal.db").unlink()

    [line] = told(killed, announced[0])
    assert "not there any more" in line
    assert told(killed, announced[0]) == []


def test_an_older_copy_is_told(killed, announced, tmp_path):
    assert told(killed, announced[0]) == []
    copy = (killed / "journal.db").read_bytes()
    assert told(killed, announced[0]) == []
    (killed / "journal.db").write_bytes(copy)

    [line] = told(killed, announced[0])

    assert "is older than the journal of the last start here" in line


def test_a_start_that_was_refused_takes_the_log_away_and_says_nothing(killed, announced):
    with (
        pytest.raises(JournalError, match="cannot be read"),
        journal(killed, announced[0], statements=["NO STATEMENT"]),
    ):
        pass
    assert not log_of(killed / "journal.db").exists()

    assert told(killed, announced[0]) == []
    assert rows(killed) == COMMITS


# --- killed in the middle of what no commit waits for


def left_by(folder, name, content, log):
    """Return what a start finds in a file with this *content* and *log*."""
    path = folder / name / "journal.db"
    path.parent.mkdir()
    path.write_bytes(content)
    log_of(path).write_bytes(log)
    lost = []
    connection = open_file(path, durability=Durability.PROCESS, statements=STATEMENTS, lost=lost)
    with contextlib.closing(connection):
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        found = [n for (n,) in connection.execute("SELECT n FROM row ORDER BY n")]
    return found, lost


def pages(content):
    return [content[at : at + 4_096] for at in range(0, len(content), 4_096)]


@pytest.fixture
def shrinking(tmp_path, monkeypatch):
    """Return an open file most of which is empty, and what is in it."""
    monkeypatch.setattr(journal_module, "EMPTY_PAGES_MAX", 10)
    path = tmp_path / "journal.db"
    connection = open_file(path, durability=Durability.PROCESS, statements=STATEMENTS)
    with contextlib.closing(connection):
        commit(connection, ROW, [("row", n, "x" * 3_000) for n in range(1, 101)])
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        commit(connection, ROW, [("forget", n) for n in range(1, 91)])
        yield path, connection


ROW = {"row": "INSERT INTO row VALUES (?, ?)", "forget": "DELETE FROM row WHERE n = ?"}
KEPT = list(range(91, 101))


def test_a_kill_while_empty_pages_are_given_back_loses_nothing(shrinking, tmp_path):
    path, connection = shrinking
    before = read_log(log_of(path)).last
    give_back(connection)
    content, log = path.read_bytes(), log_of(path).read_bytes()
    after = read_log(log_of(path)).last
    assert after > before, "nothing was given back"

    for frames in range(before, after + 1):
        cut = log[: HEADER.size + frames * PAGE_OCTETS]
        assert left_by(tmp_path, f"{frames}", content, cut) == (KEPT, [])


def test_a_kill_while_the_log_is_moved_into_the_file_loses_nothing(shrinking, tmp_path):
    path, connection = shrinking
    give_back(connection)
    old, log = pages(path.read_bytes()), log_of(path).read_bytes()
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    new = pages(path.read_bytes())
    changed = [at for at, page in enumerate(new) if at >= len(old) or page != old[at]]
    assert len(changed) > 5
    assert len(new) < len(old), "the file is cut last"

    for count in range(len(changed) + 1):
        half = list(old)
        for at in changed[:count]:
            half[at] = new[at]
        assert left_by(tmp_path, f"{count}", b"".join(half), log) == (KEPT, [])
    assert left_by(tmp_path, "cut", b"".join(new), log) == (KEPT, [])
