"""Dead tasks with real processes: what ended badly outlives a broker, and is redriven."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Event

import pytest

from sdk import OutcomeUnknown, PoisonTask, TaskCanceled
from sdk.__main__ import main
from tests.support.deployment import DEADLINE_S, Deployment, environment, wait_until

pytestmark = [pytest.mark.process, pytest.mark.slow]

PATIENCE_S = DEADLINE_S
SHORT = ("--heartbeat", "0.2", "--adopt-window", "0.5", "--client-timeout", "1")


def end_the_process(path, flag):
    """Note that we ran; without *flag* take the process along."""
    with Path(path).open("a") as file:
        file.write("ran\n")
    if not Path(flag).exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def note_and_wait(path, flag):
    """Note that we run, and run until *flag* exists."""
    with Path(path).open("a") as file:
        file.write("ran\n")
    while not Path(flag).exists():
        Event().wait(0.01)
    return "waited"


class Journaled(Deployment):
    """A deployment whose broker keeps a journal."""

    def start_broker(self):
        self.starts += 1
        data = ("--data-dir", str(self.folder / "data"))
        self.start("broker", "-m", "broker", "--bind", self.endpoint, *data, *self.broker_options)
        self.until(lambda: self.log("broker").count("broker_ready") == self.starts)


def runs(path):
    return path.read_text().count("ran")


def told(world, capsys, *arguments, status=0):
    """Return what the command prints."""
    capsys.readouterr()
    assert main([*arguments, "--broker", world.endpoint, "--timeout", "20"]) == status
    return capsys.readouterr().out


def test_poison_and_doubt_outlive_a_killed_broker_and_are_redriven_once(tmp_path, capsys):
    path, flag = tmp_path / "ran", tmp_path / "go"
    with Journaled(*SHORT) as world:
        world.start_broker()
        host = world.start_host("h", "--slots", "1")
        client = world.client()
        poison = client.submit(end_the_process, path, flag)
        with pytest.raises(PoisonTask):
            poison.result(PATIENCE_S)
        doubt = client.submit(note_and_wait, path, flag, at_most_once=True)
        wait_until(lambda: runs(path) == 4)
        (actor,) = world.actors(client, "h/0").values()
        os.kill(actor["pid"], signal.SIGKILL)
        with pytest.raises(OutcomeUnknown):
            doubt.result(PATIENCE_S)
        ids = [poison.task_id, doubt.task_id]
        # An order is answered when all that was decided before it is on disk.
        client.set_limit("any", 1)

        world.restart_broker()

        listed = told(world, capsys, "tasks", "--dead")
        assert [line.split()[0] for line in listed.splitlines()[1:]] == ids
        shown = told(world, capsys, "tasks", "--dead", ids[0])
        assert "3 tries, 0 failures, 3 crashes" in shown
        assert shown.count("died of signal 9") >= 3

        flag.touch()
        first = told(world, capsys, "redrive", "--all")
        news = [line.split()[-1] for line in first.splitlines()]
        # Also where they have ended since: whoever asks once more takes no outcome along.
        wait_until(lambda: runs(path) == 6 and not client.query("tasks")["tasks"])
        again = told(world, capsys, "redrive", *ids)
        assert again == first
        listed = json.loads(told(world, capsys, "redrive", *ids, "--json"))["redriven"]
        assert [(one["task"], one["redriven_as"]) for one in listed] == [
            *zip(ids, news, strict=True)
        ]
        assert not set(news) & set(ids)
        other = world.client()
        values = [other.get_future(new).result(PATIENCE_S) for new in news]
        assert values == ["alive", "waited"]
        assert runs(path) == 6
        nothing = "no dead task is left to be run again\n"
        assert told(world, capsys, "redrive", "--all") == nothing
        assert told(world, capsys, "tasks", "--dead", "--forget", "--all") == "2 forgotten\n"
        assert host.poll() is None


def test_without_a_journal_the_command_waits_for_what_it_redrives(tmp_path, capsys):
    path, flag = tmp_path / "ran", tmp_path / "go"
    with Deployment(*SHORT) as world:
        world.start_broker()
        world.start_host("h", "--slots", "1")
        client = world.client()
        future = client.submit(end_the_process, path, flag)
        with pytest.raises(PoisonTask):
            future.result(PATIENCE_S)

        flag.touch()
        # What is not there ended the command, and with it the run that it had just begun.
        gone = f"{future.task_id.partition('-')[0]}-99"
        printed = told(world, capsys, "redrive", gone, "nope", future.task_id, status=1)

        assert printed.startswith(f"{future.task_id} as ")
        assert printed.endswith(": alive\n")
        assert runs(path) == 4
        assert client.dead_tasks()[0]["redriven_as"]
        assert told(world, capsys, "redrive", gone, status=1) == ""


def fail_again(path):
    with Path(path).open("a") as file:
        file.write("ran\n")
    raise ValueError("as ever")


def test_what_fails_again_is_redriven_once_by_one_command(tmp_path, capsys):
    """`redrive --all --wait` ran what it had made dead itself, without end."""
    path = tmp_path / "ran"
    with Journaled(*SHORT) as world:
        world.start_broker()
        world.start_host("h", "--slots", "1")
        client = world.client()
        for future in client.map(fail_again, [path] * 3, durable=True):
            assert isinstance(future.exception(PATIENCE_S), ValueError)

        printed = told(world, capsys, "redrive", "--all", "--wait", status=1)

        assert runs(path) == 6
        assert printed.count("ValueError: as ever") == 3
        told(world, capsys, "redrive", "--all", "--wait", status=1)
        assert runs(path) == 9


def test_a_task_of_another_client_is_canceled_from_a_terminal(tmp_path, capsys):
    path, flag = tmp_path / "ran", tmp_path / "go"
    with Deployment(*SHORT) as world:
        world.start_broker()
        world.start_host("h", "--slots", "1")
        client = world.client()
        future = client.submit(note_and_wait, path, flag)
        wait_until(lambda: path.exists() and runs(path) == 1)

        told(world, capsys, "cancel", future.task_id)

        with pytest.raises(TaskCanceled):
            future.result(PATIENCE_S)
        flag.touch()


def test_the_options_of_a_command_are_explained():
    for command in ("tasks", "redrive"):
        told_help = subprocess.run(
            [sys.executable, "-m", "sdk", command, "--help"],
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert "dead" in told_help
