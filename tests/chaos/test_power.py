"""A power cut leaves what was synchronized, and of the rest what chance leaves."""

import random
import subprocess
import sys

import pytest

from broker.disk.opening import Durability, open_file
from tests.chaos import power
from tests.chaos.power import SYNC, TRUNCATE, WRITE, Access, leave, read
from tests.support.deployment import ROOT, environment

DB, WAL = power.NAMES
STATEMENTS = ("CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID",)

WRITER = """
import sys
from pathlib import Path
from broker.disk.journal import commit
from broker.disk.opening import Durability, open_file
from tests.chaos import power, test_power as here

folder, trace, durability = sys.argv[1:]
power.trace(trace)
path = Path(folder) / "journal.db"
connection = open_file(path, durability=Durability(durability), statements=here.STATEMENTS)
for number in range(40):
    commit(connection, {"put": "INSERT INTO meta VALUES (?, ?)"}, [("put", number, "x" * 3_000)])
    print(len(power.read(Path(trace))), flush=True)
"""


def access(kind, name=DB, offset=0, octets=b""):
    return Access(0.0, kind, name, offset, octets)


def left(accesses, folder, seed=1):
    leave(accesses, folder, random.Random(seed))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_synchronized_is_there(tmp_path):
    written = [access(WRITE, octets=b"abc"), access(WRITE, offset=5, octets=b"x"), access(SYNC)]

    assert left(written, tmp_path) == {DB: b"abc\0\0x"}


def test_what_is_cut_off_is_gone_and_what_is_made_longer_is_zero(tmp_path):
    shorter, longer = access(TRUNCATE, offset=2), access(TRUNCATE, offset=4)
    accesses = [access(WRITE, octets=b"abc"), shorter, longer, access(SYNC)]

    assert left(accesses, tmp_path) == {DB: b"ab\0\0"}


def test_what_is_not_synchronized_may_be_there_or_not_or_in_part(tmp_path):
    whole = b"a" * 1_024
    seen = set()
    for seed in range(50):
        folder = tmp_path / str(seed)
        folder.mkdir()
        # Another file that is synchronized helps this one nothing.
        found = left([access(WRITE, octets=whole), access(SYNC, WAL)], folder, seed)
        seen.add(found.get(DB, b""))

    assert seen == {b"", whole[:512], whole}


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("durability", Durability)
def test_a_commit_outlives_a_power_cut_where_it_is_synchronized(tmp_path, durability):
    """Without the synchronizing some are lost: the disk that is made here can lose them."""
    place, trace = tmp_path / "place", tmp_path / "trace"
    place.mkdir()
    ran = subprocess.run(
        [sys.executable, "-c", WRITER, str(place), str(trace), durability],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    # So many accesses there were when so many rows were announced.
    announced = [int(line) for line in ran.stdout.split()]
    accesses = read(trace)
    lost = 0
    chance = random.Random(1)
    for cut in [chance.randrange(announced[0], len(accesses) + 1) for _ in range(60)]:
        folder = tmp_path / f"cut{chance.random()}"
        folder.mkdir()
        leave(accesses[:cut], folder, chance)
        connection = open_file(folder / "journal.db", durability=durability, statements=STATEMENTS)
        rows = connection.execute("SELECT key FROM meta WHERE key != 'schema'").fetchall()
        connection.close()
        due = sum(one <= cut for one in announced)
        assert sorted(int(key) for (key,) in rows) == list(range(len(rows)))
        lost += len(rows) < due

    assert bool(lost) == (durability is Durability.PROCESS)
