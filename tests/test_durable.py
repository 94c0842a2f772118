"""Durable tasks with real processes: clients leave, brokers are killed, disks fill."""

import contextlib
import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
from threading import Event

import pytest

from sdk import Conflict, NotDurable, OutcomeUnknown, PoisonTask, TaskCanceled
from tests.support.deployment import DEADLINE_S, Deployment, environment

pytestmark = [pytest.mark.process, pytest.mark.slow]

PATIENCE_S = DEADLINE_S
SHORT = ("--heartbeat", "0.2", "--adopt-window", "0.5", "--client-timeout", "1")


def double(x):
    return 2 * x


def note_and_wait(path, key, flag):
    """Append a line, and run until *flag* exists."""
    from pathlib import Path

    with Path(path).open("a") as file:
        file.write(f"{key}\n")
    while not Path(flag).exists():
        Event().wait(0.01)
    return key


class Journaled(Deployment):
    """A deployment whose broker keeps a journal."""

    def __init__(self, *options):
        super().__init__(*options)
        self.data_dir = self.folder / "data"

    def start_broker(self):
        self.starts += 1
        options = ("--bind", self.endpoint, "--data-dir", str(self.data_dir), *self.broker_options)
        self.start("broker", "-m", "broker", *options)
        self.until(lambda: self.log("broker").count("broker_ready") == self.starts)


SUBMIT_AND_LEAVE = """
    import sys
    from sdk import Client
    from tests.test_durable import double, note_and_wait

    endpoint, path, flag = sys.argv[1:]
    with Client(endpoint) as client:
        futures = [client.submit(double, n, durable=True) for n in range(20)]
        futures.append(client.submit(note_and_wait, path, "long", flag, durable=True))
        assert client.flush(10)
        print(*(future.task_id for future in futures))
"""


def submit_and_leave(world, path, flag):
    """Let another process submit; return the ids of its tasks."""
    arguments = [world.endpoint, str(path), str(flag)]
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SUBMIT_AND_LEAVE), *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout.split()


def test_tasks_of_a_client_that_left_outlive_a_killed_broker_and_are_found(tmp_path):
    path, flag = tmp_path / "ran", tmp_path / "go"
    path.touch()
    with Journaled(*SHORT) as world:
        world.start_broker()
        ids = submit_and_leave(world, path, flag)
        world.restart_broker()
        world.start_host("h", "--slots", "2")
        client = world.client()

        found = [client.get_future(task_id) for task_id in ids]
        assert [future.result(PATIENCE_S) for future in found[:20]] == [2 * n for n in range(20)]
        world.until(lambda: path.read_text() == "long\n")
        world.restart_broker()
        world.until(lambda: client.query("status")["assigned"] == 1)
        flag.touch()

        assert found[20].result(PATIENCE_S) == "long"
        assert path.read_text() == "long\n"
        assert found[20].task_id == ids[20]


def test_an_outcome_outlives_broker_and_actor_and_everybody_gets_it(tmp_path):
    with Journaled(*SHORT) as world:
        world.start_broker()
        world.start_host("h")
        first = world.client()
        future = first.submit(double, 21, durable=True)
        assert future.accepted(PATIENCE_S)
        first.close()
        with pytest.raises(TaskCanceled, match="is durable and goes on"):
            future.result()
        second, third = world.client(), world.client()
        world.until(lambda: second.query("status")["kept"] == 1)
        world.kill("h")
        world.restart_broker()

        others = [client.get_future(future.task_id) for client in (second, third)]

        assert [other.result(PATIENCE_S) for other in others] == [42, 42]


def test_a_key_makes_two_submits_one_also_over_a_restart(tmp_path):
    path, flag = tmp_path / "ran", tmp_path / "go"
    flag.touch()
    with Journaled(*SHORT) as world:
        world.start_broker()
        world.start_host("h")
        client = world.client()
        call = (note_and_wait, str(path), "key", str(flag))

        one = client.submit(*call, idempotency_key="order 17")
        assert one.result(PATIENCE_S) == "key"
        world.restart_broker()
        two = world.client().submit(*call, idempotency_key="order 17", idempotency_ttl=60)
        assert two.result(PATIENCE_S) == "key"

        assert path.read_text() == "key\n"
        with pytest.raises(Conflict, match="order 17"):
            client.submit(double, 1, idempotency_key="order 17").result(PATIENCE_S)


def end_everything(lock, path):
    """Append a line, and end actor, host and broker; mostly the journal has it that this runs."""
    import os
    import signal
    from pathlib import Path

    with Path(path).open("a") as file:
        file.write(f"{os.getppid()}\n")
    Event().wait(0.3)
    broker = int(Path(lock).read_text().split()[0])
    for process in (broker, os.getppid(), os.getpid()):
        os.kill(process, signal.SIGKILL)


def test_a_task_that_ends_actor_host_and_broker_each_time_is_poison(tmp_path):
    lines = tmp_path / "lines"

    def runs():
        return len(lines.read_text().splitlines()) if lines.exists() else 0

    with Journaled(*SHORT) as world:
        world.start_broker()
        client = world.client()
        future = client.submit(
            end_everything, str(world.data_dir / "lock"), str(lines), durable=True
        )
        assert future.accepted(PATIENCE_S)
        number = 0
        # The first run is not counted, nor is one that was quicker than the journal.
        while not future.done():
            number += 1
            world.start_host("h")
            world.until(lambda number=number: future.done() or runs() == number)
            if not future.done():
                world.until(lambda: world.processes["broker"].poll() is not None)
                world.restart_broker()
            world.kill("h")

        with pytest.raises(PoisonTask, match="3 crashes"):
            future.result()
        assert runs() >= 4


def test_a_durable_task_can_be_canceled_from_elsewhere():
    with Journaled(*SHORT) as world:
        world.start_broker()
        client, other = world.client(), world.client()
        future = client.submit(double, 1, durable=True)
        assert future.accepted(PATIENCE_S)

        other.get_future(future.task_id).cancel()

        with pytest.raises(TaskCanceled):
            future.result(PATIENCE_S)
        world.until(lambda: client.query("status")["queued"] == 0)


def test_a_cancel_outlives_the_broker():
    with Journaled(*SHORT) as world:
        world.start_broker()
        client = world.client()
        future = client.submit(double, 1, durable=True)
        assert future.accepted(PATIENCE_S)
        future.cancel()
        assert client.flush(PATIENCE_S)

        world.restart_broker()

        assert client.query("status", timeout=PATIENCE_S)["queued"] == 0


def test_without_a_journal_a_durable_task_says_so():
    with Deployment() as world:
        world.start_broker()
        client = world.client()

        future = client.submit(double, 1, durable=True)

        assert not future.accepted(PATIENCE_S)
        with pytest.raises(NotDurable, match="--no-journal"):
            future.result(PATIENCE_S)


def test_a_task_that_nobody_knows_cannot_be_found():
    with Journaled() as world:
        world.start_broker()
        client = world.client()

        with pytest.raises(OutcomeUnknown, match="is not known here"):
            client.get_future("0000000000000001-1").result(PATIENCE_S)
        with pytest.raises(ValueError, match="'nonsense' is no task id"):
            client.get_future("nonsense")


def test_a_second_broker_on_the_same_journal_refuses_at_once():
    with Journaled() as world:
        world.start_broker()

        other = f"ipc://{world.folder}/other.sock"
        second = subprocess.run(
            [sys.executable, "-m", "broker", "--bind", other, "--data-dir", str(world.data_dir)],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

        assert second.returncode == 2
        [line] = second.stderr.splitlines()
        assert f"is in use by the broker of process {world.processes['broker'].pid}" in line


def test_a_full_disk_refuses_durable_tasks_alone_and_recovers_by_itself():
    with Journaled(*SHORT) as world:
        world.start_broker()
        world.start_host("h")
        client = world.client()
        assert client.submit(double, 1, durable=True).result(PATIENCE_S) == 2
        pid = world.processes["broker"].pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)

        # Nothing can be written beyond this, as on a full disk; where the log of writes goes on it
        # is longer than that, and what the broker says is not.
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (16_384, hard))
        waits = client.map(double, range(20), durable=True)
        world.until(lambda: "journal_stuck" in world.log("broker"))
        refused = client.submit(double, 3, durable=True)

        with pytest.raises(NotDurable, match="cannot be written now"):
            refused.result(PATIENCE_S)
        assert client.submit(double, 4).result(PATIENCE_S) == 8
        assert not waits[-1].done()

        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
        assert [future.result(PATIENCE_S) for future in waits] == [2 * n for n in range(20)]
        assert client.submit(double, 5, durable=True).accepted(PATIENCE_S)
        world.restart_broker()
        assert client.submit(double, 6, durable=True).result(PATIENCE_S) == 12


def test_a_damaged_journal_keeps_the_broker_from_starting_in_one_line():
    with Journaled(*SHORT) as world:
        world.start_broker()
        client = world.client()
        client.map(double, range(2_000), durable=True)
        assert client.flush(PATIENCE_S)
        client.close()
        world.kill("broker", signal.SIGTERM)
        journal = world.data_dir / "journal.db"
        octets = bytearray(journal.read_bytes())
        for at in range(8_192, len(octets), 4_096):
            octets[at : at + 64] = bytes(64)
        journal.write_bytes(octets)

        other = f"ipc://{world.folder}/other.sock"
        started = subprocess.run(
            [sys.executable, "-m", "broker", "--bind", other, "--data-dir", str(world.data_dir)],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

        assert started.returncode == 2
        [line] = started.stderr.splitlines()
        assert str(journal) in line
        assert "restore it, or move it away" in line


def test_a_broker_that_is_told_to_end_leaves_its_mark_and_every_task_as_it_was(tmp_path):
    path, flag = tmp_path / "ran", tmp_path / "go"

    def mark():
        with contextlib.closing(sqlite3.connect(world.data_dir / "journal.db")) as connection:
            return connection.execute("SELECT value FROM meta WHERE key = 'ended'").fetchall()

    with Journaled(*SHORT) as world:
        world.start_broker()
        world.start_host("h", "--slots", "2")
        first = world.client()
        ended = first.submit(double, 21, durable=True)
        assert ended.accepted(PATIENCE_S)
        first.close()
        client = world.client()
        world.until(lambda: client.query("status")["kept"] == 1)
        runs = client.submit(note_and_wait, str(path), "runs", str(flag), durable=True)
        world.until(path.exists)
        waits = client.submit(double, 2, durable=True, desired_labels={"zone": "nowhere"})
        assert client.flush(PATIENCE_S)
        broker = world.processes["broker"]

        broker.send_signal(signal.SIGTERM)
        assert broker.wait(PATIENCE_S) == 0
        assert mark() == [(1,)]
        # The log of writes is in the file: one file can be copied.
        assert {one.name for one in world.data_dir.iterdir()} == {"journal.db", "lock"}
        world.start_broker()

        def standing():
            status = client.query("status", timeout=PATIENCE_S)
            return [status[state] for state in ("queued", "assigned", "kept")]

        world.until(lambda: standing() == [1, 1, 1])
        flag.touch()
        assert runs.result(PATIENCE_S) == "runs"
        assert path.read_text() == "runs\n"
        assert client.get_future(ended.task_id).result(PATIENCE_S) == 42
        assert not waits.done()
        # One that is killed was not told to end, whatever the one before it was.
        world.kill("broker")
        assert mark() == []
