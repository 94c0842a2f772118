"""Every actor is started again, one host after the other, while tasks come and run."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Event

import pytest

from sdk import Environment, gather
from tests.support.deployment import DEADLINE_S, Deployment, environment

pytestmark = [pytest.mark.process, pytest.mark.slow]

PATIENCE_S = DEADLINE_S
HOSTS = ("a", "b", "c")


class Resident(Environment):
    """What is loaded again in each new process."""

    def enter(self):
        self.pid = os.getpid()

    def work(self, path, number, seconds):
        """Write a line before and after, as only a run does that nobody cut off."""
        for word in ("begins", "ends"):
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(file, f"{word} {number}\n".encode())
            os.close(file)
            if word == "begins":
                Event().wait(seconds)
        assert self.pid == os.getpid()
        return number


@pytest.mark.parametrize("how", ["sigterm", "order"])
def test_a_rolling_restart_under_load_loses_and_repeats_nothing(tmp_path, how):
    path = str(tmp_path / "ran")
    with Deployment() as world:
        world.start_broker()
        hosts = {name: world.start_host(name, "--slots", "2") for name in HOSTS}
        client = world.client()
        before = {
            name: actor["pid"]
            for name, actor in world.actors(client, *(f"{name}/0" for name in HOSTS)).items()
        }
        futures = []

        def submit(count):
            numbers = range(len(futures), len(futures) + count)
            futures.extend(
                client.submit(Resident.work, path, number, 0.01 * (number % 7), retries=2)
                for number in numbers
            )

        submit(100)
        for name in HOSTS:
            if how == "sigterm":
                hosts[name].send_signal(signal.SIGTERM)
            else:
                client.query("drain", f"{name}/*")
            submit(60)
            assert hosts[name].wait(PATIENCE_S) == 0, world.story()
            world.start_host(name, "--slots", "2")
            world.actors(client, f"{name}/0")
            submit(40)

        assert gather(futures, timeout=PATIENCE_S) == list(range(400))
        after = world.actors(client, *(f"{name}/0" for name in HOSTS))
        assert all(after[name]["pid"] != pid for name, pid in before.items())
        lines = Path(path).read_text().splitlines()
        assert sorted(lines) == sorted(f"{w} {n}" for w in ("begins", "ends") for n in range(400))
        assert all(not future.history for future in futures)


CLIENT = """
import sys
from sdk import Client

client = Client(sys.argv[1])
client.submit("nobody ever takes this".upper)
client.flush()
print("submitted", flush=True)
sys.stdin.read()
"""


def test_a_host_that_is_stopped_with_its_broker_waits_for_no_client_that_was_killed():
    """It waited for `--drain-timeout`, and then said that an outcome had reached nobody."""
    with Deployment("--client-timeout", "3600") as world:
        world.start_broker()
        client = world.client()
        command = (sys.executable, "-c", CLIENT, world.endpoint)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(command, env=environment(), **pipes) as killed:
            assert killed.stdout.readline() == b"submitted\n"
            killed.kill()
        world.until(lambda: client.query("status")["clients"] == 1)
        host = world.start_host("a", "--drain-timeout", "3600")
        world.until(lambda: client.query("status")["ended"] == 1)

        # As Ctrl-C does to all that a terminal has started.
        host.send_signal(signal.SIGINT)
        world.until(lambda: "actor=a/0 holding=0 kept=1" in world.log("a"))
        world.processes["broker"].send_signal(signal.SIGINT)

        assert world.processes["broker"].wait(PATIENCE_S) == 0
        assert host.wait(PATIENCE_S) == 0
        assert "reason=drained" in world.log("a")


def test_a_host_that_is_stopped_with_its_broker_waits_for_no_client_that_has_all():
    """What clients have they say within a heartbeat, and the broker was gone before that."""
    with Deployment() as world:
        world.start_broker()
        client = world.client()
        host = world.start_host("a", "--drain-timeout", "3600")
        futures = [client.submit(len, "abc") for _ in range(200)]
        assert gather(futures) == [3] * 200

        host.send_signal(signal.SIGTERM)
        world.processes["broker"].send_signal(signal.SIGTERM)

        assert world.processes["broker"].wait(PATIENCE_S) == 0
        assert host.wait(PATIENCE_S) == 0
