"""What a start refuses: files that are no journal, damaged ones, and those of a newer broker."""

import contextlib
import os
import sqlite3
import sys
import threading
from hashlib import blake2b

import msgspec
import pytest

from broker.disk import journal as journal_module
from broker.disk.journal import (
    commit,
)
from broker.disk.opening import (
    SCHEMA_STATEMENTS,
    Durability,
    JournalError,
    open_file,
)
from broker.disk.opening import SUMMED as SUMMED_TABLES
from broker.disk.records import Parts
from tests.support.deployment import ended_at_once
from wire.parts import Call

pytestmark = pytest.mark.process


# --- what a start refuses


def test_a_file_that_is_no_journal_is_refused(journal_in, tmp_path):
    (tmp_path / "journal.db").write_bytes(b"not a database, but long enough to be looked at" * 100)

    with pytest.raises(JournalError, match="cannot be read: file is not a database"):
        journal_in(tmp_path)


def test_a_damaged_file_is_refused_and_not_repaired(journal_in, ear, tmp_path):
    journal, _ = journal_in(tmp_path)
    for n in range(1, 2_001):
        journal.submit(n, [("row", n, "x" * 100)])
    ear.hear_until(2_000)
    journal.close()
    file = tmp_path / "journal.db"
    content = bytearray(file.read_bytes())
    content[20_000:28_000] = os.urandom(8_000)
    file.write_bytes(content)

    with pytest.raises(JournalError, match=r"damaged|cannot be read"):
        journal_in(tmp_path)

    assert file.read_bytes() == content


def test_a_definition_that_is_no_text_did_not_let_a_start_wait_for_ever(journal_in, tmp_path):
    journal, _ = journal_in(tmp_path)
    journal.close()
    file = tmp_path / "journal.db"
    file.write_bytes(file.read_bytes().replace(b"TABLE limits (name", b"TABLE limits \xb3name"))

    with pytest.raises(JournalError, match="restore it, or move it away"):
        journal_in(tmp_path)


def with_task(folder, *, call=b"call", name=None, needs=None, number=1, **fields):
    """Make a journal with one task, some of whose fields are not what a broker writes."""
    digest = blake2b(call, digest_size=16).digest() if name is None else name
    connection = open_file(
        folder / "journal.db", durability=Durability.PROCESS, statements=SCHEMA_STATEMENTS
    )
    with contextlib.closing(connection):
        commit(
            connection,
            journal_module.OPERATIONS,
            [
                ("call", digest, call),
                ("task", 7, number, needs or digest, b"body", None, b"", None, None, None),
            ],
        )
        for field, value in fields.items():
            connection.execute(f"UPDATE tasks SET {field} = ?", (value,))


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"name": b"0123456789abcdef"}, "call 30313233.* is not what was written"),
        ({"needs": b"other"}, "call 6f74686572 is missing"),
        ({"client": "nobody"}, r"Expected `int`, got `str`"),
        ({"progress": None}, r"Expected `bytes`, got `null`"),
    ],
)
def test_a_value_that_no_broker_wrote_was_taken_for_one(journal_in, tmp_path, fields, what):
    with_task(tmp_path, **fields)

    with pytest.raises(JournalError, match=rf"is damaged \(.*{what}.*restore it"):
        journal_in(tmp_path)


@pytest.mark.parametrize("value", ["a text", 7, None])
def test_a_clock_that_is_no_blob_ended_a_start_with_a_traceback(journal_in, tmp_path, value):
    journal, _ = journal_in(tmp_path)
    journal.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "journal.db")) as connection:
        connection.execute("UPDATE meta SET value = ? WHERE key = 'clock'", (value,))
        connection.commit()

    with pytest.raises(JournalError, match=r"is damaged \(.*restore it"):
        journal_in(tmp_path)


SUMMED = {
    ("tasks", "body"): "task 0000000000000007-1",
    ("tasks", "frames"): "task 0000000000000007-1",
    ("tasks", "outcome"): "task 0000000000000007-2",
    ("codes", "code"): "code 00000000000000000000000000000000",
    ("dead", "facts"): "dead task 1",
    ("dead", "frames"): "dead task 1",
    ("named", "checkpoint"): "the checkpoint of named actor clicks",
}


@pytest.mark.parametrize("place", SUMMED)
def test_octets_that_were_flipped_in_what_a_user_sent_were_not_noticed(journal_in, tmp_path, place):
    call = b"call"
    digest = blake2b(call, digest_size=16).digest()
    with_task(tmp_path, call=call)
    file = tmp_path / "journal.db"
    settings = {"durability": Durability.PROCESS, "statements": SCHEMA_STATEMENTS}
    with contextlib.closing(open_file(file, **settings)) as connection:
        operations = [
            ("forget", 7, 1),
            ("task", 7, 1, digest, b"body", Parts([b"part"]), b"\x90", None, None, None),
            ("task", 7, 2, digest, b"body", None, b"\x90", None, None, None),
            ("outcome", b"told", Parts([b"value"]), 5, 7, 2),
            ("code", bytes(16), b"code"),
            ("dead", 1, None, b"facts", b"body", Parts([b"part"])),
            ("named", "clicks", digest, b"\x90"),
            ("checkpoint", 1, Parts([b"state"]), "clicks"),
        ]
        commit(connection, journal_module.OPERATIONS, operations)
        whole = journal_module.read_tasks(connection)
        assert [row.sum is None for row in whole.rows] == [False, False]
        table, column = place
        ((octets,),) = connection.execute(
            f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL LIMIT 1"
        )
        flipped = bytes([*octets[:-1], octets[-1] ^ 1])
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (flipped, octets))

    with pytest.raises(
        JournalError, match=rf"is damaged \({SUMMED[place]} is not what was written"
    ):
        journal_in(tmp_path)


def test_what_an_older_broker_wrote_has_no_sum_and_what_this_one_writes_has(journal_in, tmp_path):
    with_task(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "journal.db")) as connection:
        for table in SUMMED_TABLES:
            connection.execute(f"ALTER TABLE {table} DROP COLUMN sum")
        connection.execute("UPDATE meta SET value = 3 WHERE key = 'schema'")
        connection.commit()

    journal, _ = journal_in(tmp_path)
    journal.close()
    [row] = journal.stored.tasks.rows
    assert (row.body, row.sum) == (b"body", None)

    with_task(tmp_path, number=2)
    later, _ = journal_in(tmp_path)
    assert [row.sum is None for row in later.stored.tasks.rows] == [True, False]


def test_what_stands_in_a_damaged_value_is_one_line(tmp_path):
    call = msgspec.msgpack.encode(Call("work"))
    with_task(tmp_path, call=call, progress=b"\xc1")

    command = (sys.executable, "-m", "broker", "--data-dir", str(tmp_path))
    ran = ended_at_once(*command, WARMSLOT_BIND=f"ipc://{tmp_path}/broker")

    assert ran.returncode == 2
    assert ran.stderr.startswith(f"broker: journal {tmp_path}/journal.db is damaged (")
    assert ran.stderr.count("\n") == 1, ran.stderr


def test_a_newer_schema_is_refused(journal_in, tmp_path):
    journal, _ = journal_in(tmp_path)
    journal.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "journal.db")) as connection:
        connection.execute("UPDATE meta SET value = 99 WHERE key = 'schema'")
        connection.commit()

    with pytest.raises(JournalError, match="has schema 99"):
        journal_in(tmp_path)


def test_a_folder_that_cannot_be_made_is_refused(journal_in, tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(JournalError, match="--data-dir"):
        journal_in(tmp_path / "file" / "data")


def test_a_journal_that_finds_no_thread_ended_the_broker_with_two_tracebacks(
    journal_in, tmp_path, monkeypatch
):
    def starts_not(_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", starts_not)
        with pytest.raises(JournalError, match=r"journal\.db needs a thread: can't start new"):
            journal_in(tmp_path)

    journal_in(tmp_path)


def test_a_refused_start_leaves_no_thread_and_no_lock(journal_in, tmp_path):
    (tmp_path / "journal.db").write_bytes(b"x" * 5_000)
    with pytest.raises(JournalError):
        journal_in(tmp_path)
    (tmp_path / "journal.db").unlink()

    journal_in(tmp_path)

    assert sum(thread.name == "journal" for thread in threading.enumerate()) == 1
