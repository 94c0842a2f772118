"""An actor process whose start hangs, or whose host ends meanwhile."""

import os
import signal

import pytest

from tests.support.deployment import DEADLINE_S, ROOT, Deployment, is_alive

pytestmark = [pytest.mark.process, pytest.mark.slow]

# A module that our own modules import; hangs as one does that waits for a file system or a licence.
HANGS = """
import os, pathlib, signal
if pathlib.Path({marker!r}).exists():
    with open({pids!r}, "a") as file:
        file.write(f"{{os.getpid()}}\\n")
    while True:
        signal.pause()
"""
ENVIRONMENT = """
import pathlib, threading
from sdk import Environment

class Slow(Environment):
    def enter(self):
        while pathlib.Path({marker!r}).exists():
            threading.Event().wait(0.01)
"""
TIMEOUT_S = DEADLINE_S
# What does not hang takes a third of a second, or ten times as long on a busy machine.
START_S = 5


class Hanging:
    """A folder with a module that hangs as long as a marker is there."""

    def __init__(self, folder, name, text):
        self.marker = folder / "hangs"
        self.marker.touch()
        self.pids = folder / "pids"
        (folder / f"{name}.py").write_text(
            text.format(marker=str(self.marker), pids=str(self.pids))
        )
        self.path = f"{folder}:{ROOT}"

    def started(self):
        return [int(pid) for pid in self.pids.read_text().split()] if self.pids.exists() else []


@pytest.fixture
def world():
    with Deployment() as deployment:
        deployment.start_broker()
        yield deployment


@pytest.mark.parametrize("processes", [1, 2])
def test_what_still_loads_its_modules_ends_with_its_host(world, tmp_path, processes):
    hanging = Hanging(tmp_path, "cloudpickle", HANGS)
    # Where they share their variables, one process loads for all.
    options = () if processes == 1 else ("--env", f"PYTHONPATH={hanging.path}")
    variables = {"PYTHONPATH": hanging.path} if processes == 1 else {}
    world.start_host("h", "--replicas", "2", *options, **variables)
    pids = world.until(lambda: len(set(hanging.started())) == processes and hanging.started())

    world.kill("h")

    world.until(lambda: not any(map(is_alive, pids)))


def test_an_actor_that_hangs_while_it_loads_is_ended_and_started_again(world, tmp_path):
    """As in ray-project/ray#20771: what hangs at its start does not hold its place for ever."""
    hanging = Hanging(tmp_path, "cloudpickle", HANGS + TAKES_ITS_PLACE.format(own=str(tmp_path)))
    # The fork server hangs first, and then the process that is started without it.
    world.start_host("h", "--start-timeout", str(START_S), PYTHONPATH=hanging.path)
    world.until(lambda: len(set(hanging.started())) >= 2, TIMEOUT_S)
    assert "actor_start_timed_out" in world.log("h")
    assert "stage=loading" in world.log("h")
    # Where it hung, as the interpreter saw it.
    assert "cloudpickle.py" in world.log("h")

    hanging.marker.unlink()

    world.until(lambda: client_sees(world, "h/0"), TIMEOUT_S)


# The real module, once it does not hang any more.
TAKES_ITS_PLACE = """
import importlib, sys
sys.path = [one for one in sys.path if one != {own!r}]
del sys.modules["cloudpickle"]
importlib.import_module("cloudpickle")
"""


def client_sees(world, name):
    if not world.clients:
        world.client()
    return [one for one in world.clients[0].actors() if one["name"] == name]


def test_an_environment_that_never_is_entered_at_the_start_ends_its_actor(world, tmp_path):
    hanging = Hanging(tmp_path, "slow_one", ENVIRONMENT)
    options = ("--start-timeout", str(START_S), "--environment", "slow_one:Slow")
    world.start_host("h", *options, "--python-path", str(tmp_path))
    first = world.until(lambda: client_sees(world, "h/0"), TIMEOUT_S)[0]["pid"]
    world.until(lambda: "actor_start_timed_out" in world.log("h"), TIMEOUT_S)
    assert "stage=entering" in world.log("h")

    hanging.marker.unlink()

    def is_warm():
        return [
            one for one in world.clients[0].query("environments")["environments"] if one["warm"]
        ]

    world.until(is_warm, TIMEOUT_S)
    assert client_sees(world, "h/0")[0]["pid"] != first


def test_an_actor_that_is_up_is_not_ended_by_the_timeout_of_its_start(world):
    world.start_host("h", "--start-timeout", "30")
    client = world.client()

    assert client.submit(os.getpid).result(TIMEOUT_S) == world.actors(client, "h/0")["h/0"]["pid"]
    assert "actor_start_timed_out" not in world.log("h")


def test_a_host_that_is_told_to_end_ends_actors_that_hang_in_their_start(world, tmp_path):
    hanging = Hanging(tmp_path, "cloudpickle", HANGS)
    host = world.start_host("h", "--env", f"PYTHONPATH={hanging.path}", "--drain-timeout", "1")
    pids = world.until(hanging.started)

    host.send_signal(signal.SIGTERM)

    world.until(lambda: host.poll() is not None, TIMEOUT_S)
    assert not any(map(is_alive, pids))
