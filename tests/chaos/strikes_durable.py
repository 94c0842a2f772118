"""What goes wrong with the journal and with those who rely on it: a function a fault.

As in `strikes`, each happens once to a cluster under load, and what was accepted must be there.
"""

import contextlib
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import sdk
from broker.disk.journal import read_tasks
from broker.disk.opening import SCHEMA_STATEMENTS, Durability, open_file
from sdk import Client
from tests.chaos import history, power, strikes
from tests.chaos.cluster import TIMEOUT_S, Cluster
from tests.chaos.load import outcome_of, work
from tests.support.deployment import ROOT, environment

# --- clients that come back


def client_resumes(it: Cluster) -> None:
    """Kill a program in the middle of durable calls; another finds each, and none runs twice."""
    before = strikes.again(it)
    name = strikes.client_kill(it)
    entries = it.reader.entries()
    had = {e["key"] for e in entries if e["what"] == history.OUTCOME}
    tasks = {e["key"]: e["task"] for e in entries if e["what"] == history.NAMED}
    accepted = {e["key"] for e in entries if e["what"] == history.ACCEPTED}
    with Client(it.endpoint) as client:
        for call in strikes.calls_of(it, name):
            key = call["key"]
            if key in had:
                continue
            found = None
            if "idempotency_key" in call["durable"]:
                found = submit_again(it, client, call)
            if key in tasks and (key in accepted or found):
                resolve(it, client, key, tasks[key], found, is_accepted=key in accepted)
            elif found:
                note_outcome(it, key, found)
    strikes.check_again(it, before, "a client that came back")


def submit_again(it: Cluster, client: Client, call: history.Entry) -> tuple[str, list[int]]:
    """Submit the same call under the same key, and return its outcome."""
    limits, durable = call["limits"], call["durable"]
    options = client.options(at_most_once=call["once"], limits=limits, **durable)
    future = options.submit(work, str(it.history), call["key"], *call["arguments"])
    it.load.until(future.done, it.story)
    return outcome_of(future)


def resolve(
    it: Cluster,
    client: Client,
    key: str,
    task: str,
    found: tuple[str, list[int]] | None,
    *,
    is_accepted: bool,
) -> None:
    """Find a task by its id, and note its outcome: the same that its key has."""
    future = client.get_future(task)
    it.load.until(future.done, it.story)
    outcome = outcome_of(future)
    if outcome[0] != "OutcomeUnknown" and found and outcome != found:
        raise history.Broken(f"{key}: {outcome} by its id, {found} by its key")
    if found:
        note_outcome(it, key, found)
    elif is_accepted:
        note_outcome(it, key, outcome)


def note_outcome(it: Cluster, key: str, outcome: tuple[str, list[int]]) -> None:
    """Note what the killed client would have had; it may have taken it and not noted it."""
    kind, token = outcome
    path = str(it.history)
    history.note(path, what=history.OUTCOME, key=key, kind=kind, token=token, was_taken=True)


# --- disks

# More than the journal ever needs while there is room, and what it is to come back to.
DISK_BYTES: Final = 2**30
SMALL_BYTES: Final = 16 * 2**20
HEAVY_BYTES: Final = 256 * 2**10
FULL_FOR_S: Final = 0.5
RECOVERED_S: Final = 5.0
# Nobody offers it: a task that desires it waits for ever.
NEVER: Final = {"there": "never"}


class SmallDisk:
    """A file system of its own for the journal, seen only by those who enter its namespace."""

    def __init__(self, folder: Path) -> None:
        """Mount it. Raises OSError where nobody may."""
        mount = f"mount -t tmpfs -o size={DISK_BYTES} none {folder} && echo ready && exec sleep inf"
        self._holder = subprocess.Popen(
            ["unshare", "--map-root-user", "--mount", "sh", "-c", mount],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._holder.stdout
        if self._holder.stdout.readline() != b"ready\n":
            self.close()
            raise OSError("no namespace of our own here")
        self._mounted_at = folder
        pid = self._holder.pid
        self.prefix = ("nsenter", "--preserve-credentials", "-U", "-m", "-t", str(pid))
        # Where it is seen from outside.
        self.folder = Path(f"/proc/{pid}/root{folder}")

    def fill(self) -> None:
        """Leave no room."""
        is_full = False
        while not is_full:
            there = os.statvfs(self.folder)
            # It is refused where more was written meanwhile.
            is_full = self._resize((there.f_blocks - there.f_bfree) * there.f_frsize)

    def empty(self) -> None:
        """Give the room back."""
        assert self._resize(DISK_BYTES)

    def _resize(self, octets: int) -> bool:
        mount = ("mount", "-o", f"remount,size={octets}", str(self._mounted_at))
        found = subprocess.run([*self.prefix, *mount], capture_output=True, check=False)
        return found.returncode == 0

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()
        if self._holder.stdout:
            self._holder.stdout.close()


class FileLimit:
    """What stands for a full disk where nobody may mount one: no file of the broker can grow."""

    def __init__(self, it: Cluster) -> None:
        self.it = it
        self.prefix = ()
        self.folder = it.data_dir

    def _limit(self, octets: int) -> None:
        if "broker" not in self.it.processes:
            return
        pid = self.it.processes["broker"].pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        # No limit at all is -1, which is less than any.
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (octets or hard, hard))

    def fill(self) -> None:
        self._limit((self.folder / "journal.db-wal").stat().st_size)

    def empty(self) -> None:
        self._limit(0)

    def close(self) -> None:
        """Leave nothing, since nothing was made."""


def on_small_disk(it: Cluster) -> None:
    """Let the broker of a cluster keep its journal on a disk that can be filled."""
    try:
        it.disk = SmallDisk(it.data_dir)
    except OSError:
        it.disk = FileLimit(it)
    it.broker_prefix = it.disk.prefix


def heavy(octets: bytes) -> int:
    return len(octets)


def disk_full(it: Cluster) -> None:
    """Fill the disk, kill the broker now and then, and let there be room again."""
    client = it.load.client
    stuck = it.log("broker").count("journal_stuck")
    it.disk.fill()
    waiting = []
    began = time.monotonic()
    while it.log("broker").count("journal_stuck") == stuck:
        # The log of writes is written over in place, until it must grow. These stay until then:
        # of what has ended the room is used again, and one that ends soon needs no more of it.
        fills = client.submit(heavy, bytes(HEAVY_BYTES), durable=True, desired_labels=NEVER)
        waiting.append(fills)
        it.load.run(0.02)
        assert time.monotonic() - began < TIMEOUT_S, it.story()
    refused = client.submit(heavy, b"", durable=True)
    it.load.until(refused.done, it.story)
    assert isinstance(refused.exception(0), sdk.NotDurable), refused.exception(0)
    # Who needs no journal is not held up.
    plain = client.submit(heavy, b"1")
    it.load.until(plain.done, it.story)
    assert plain.result(0) == 1
    it.load.run(it.random.uniform(0.0, FULL_FOR_S))
    it.disk.empty()
    if it.random.random() < 0.2:
        it.restart_broker()
    began = time.monotonic()
    while True:
        future = client.submit(heavy, b"12", durable=True)
        it.load.until(future.done, it.story)
        if future.exception(0) is None:
            break
        assert isinstance(future.exception(0), sdk.NotDurable), future.exception(0)
    took_s = time.monotonic() - began
    assert took_s < RECOVERED_S, f"{took_s:.1f} s until it was written again"
    for one in waiting:
        one.cancel()
    for one in waiting:
        it.load.until(one.done, it.story)
        assert outcome_of(one)[0] in {"NotDurable", "TaskCanceled"}, outcome_of(one)
    # What is empty in the file is to be filled the next time, before that needs room of the disk.
    it.load.until(lambda: (it.disk.folder / "journal.db").stat().st_size < SMALL_BYTES, it.story)


def check_file(it: Cluster) -> None:
    """Kill the broker, and ask SQLite itself whether the file is whole."""
    it.kill("broker")
    folder = Path(it.disk.folder) if it.disk else it.data_dir
    copy = it.folder / "copy"
    copy.mkdir()
    for path in folder.glob("journal.db*"):
        shutil.copyfile(path, copy / path.name)
    with contextlib.closing(sqlite3.connect(copy / "journal.db")) as connection:
        verdicts: list[Any] = connection.execute("PRAGMA integrity_check").fetchall()
    if verdicts != [("ok",)]:
        raise history.Broken(f"the journal is damaged: {verdicts[:3]}")


# --- two of them


def second_broker(it: Cluster) -> None:
    """Start another broker on the same journal, which must refuse."""
    second = ("--bind", f"ipc://{it.folder}/second", "--data-dir", str(it.data_dir))
    took_s = run_broker(it, second, status=2)
    # What it takes to load the program, on cores that are shared, is not what refusing takes.
    loading_s = run_broker(it, ("--help",), status=0)
    it.measured[REFUSED].append(max(0.0, took_s - loading_s))


def run_broker(it: Cluster, options: Sequence[str], *, status: int) -> float:
    """Go on until another broker has ended with a status; return the seconds that it took."""
    process = subprocess.Popen(
        [*it.broker_prefix, sys.executable, "-m", "broker", *options],
        env=environment(),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        took_s = it.load.until(lambda: process.poll() is not None, it.story)
    finally:
        process.kill()
        _, told = process.communicate()
    assert process.returncode == status, told
    return took_s


REFUSED: Final = "seconds until a second broker refused, without what loading it takes"

# --- power


def with_trace(it: Cluster) -> None:
    """Have each access of the broker to its journal noted."""
    it.broker_program = ("-c", power.PROGRAM.format(path=str(it.trace)))


def power_cut(it: Cluster) -> None:
    """Cut the power at some moment up to now, on a copy: what was accepted by then is there."""
    future = it.load.client.submit(heavy, b"", durable=True, desired_labels=NEVER)
    it.load.until(lambda: future.accepted(0), it.story)
    it.held[future.task_id] = time.monotonic()
    it.load.run(0.05)
    accesses = power.read(it.trace)
    cut = it.random.randrange(len(accesses))
    folder = it.folder / f"cut{it.strikes}"
    folder.mkdir()
    power.leave(accesses[:cut], folder, it.random)
    left = open_file(
        folder / "journal.db", durability=Durability.POWER, statements=SCHEMA_STATEMENTS
    )
    with contextlib.closing(left):
        rows = {
            f"{row.client:016x}-{row.number}": row.outcome is not None
            for row in read_tasks(left).rows
        }
    shutil.rmtree(folder)
    check_cut(it, rows, accesses[cut].at)


def check_cut(it: Cluster, rows: dict[str, bool], cut_at: float) -> None:
    """Hold what a cut has left against what clients and tasks had noted when it came."""
    before = [e for e in it.reader.entries() if e["at"] < cut_at]
    keys = {what: {e["key"] for e in before if e["what"] == what} for what in WRITTEN}
    tasks = {e["key"]: e["task"] for e in before if e["what"] == history.NAMED}
    for key in keys[history.ACCEPTED] - keys[history.ENDED]:
        if tasks[key] not in rows:
            raise history.Broken(f"{key} was accepted, and a power cut takes it")
    for key in keys[history.OUTCOME] & tasks.keys():
        if not rows.get(tasks[key], True):
            raise history.Broken(f"the outcome of {key} was told before it was kept")
    for task, accepted_at in it.held.items():
        if accepted_at < cut_at and task not in rows:
            raise history.Broken(f"{task} was accepted and waits, and a power cut takes it")


WRITTEN: Final = (history.ACCEPTED, history.ENDED, history.OUTCOME)
