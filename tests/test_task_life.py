"""What ends a task and its process, with real ones: neighbours pay for nothing.

Each task writes a line when it begins, so what ran is known whatever became of its process.
"""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from threading import Event

import pytest

from sdk import Environment, OutcomeUnknown, PoisonTask, TaskTimeout, current_task
from tests.support.deployment import DEADLINE_S, HASTY_HOST, Deployment, environment, is_alive

pytestmark = [pytest.mark.process, pytest.mark.slow]

SHORT = ("--heartbeat", "0.2", "--adopt-window", "0.5")
PATIENCE_S = DEADLINE_S


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "begun")


def begin(path, key):
    task = current_task()
    line = json.dumps([key, os.getpid(), task.attempt]) + "\n"
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)


def begun(path, key):
    """Return the process and the attempt of each start of *key*."""
    if not Path(path).exists():
        return []
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    return [(pid, attempt) for one, pid, attempt in lines if one == key]


def crash(path, key, way):
    begin(path, key)
    Event().wait(0.2)
    match way:
        case "exit":
            os._exit(7)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case _:
            import ctypes

            ctypes.string_at(0)


def until(path, key, flag):
    """Run until *flag* exists, whoever wants it or not; return which attempt it was."""
    begin(path, key)
    while not Path(flag).exists():
        Event().wait(0.01)
    return current_task().attempt


def refreshing(seconds, each):
    """Take longer than the timeout, and say each time around that it goes on."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        current_task().refresh_timeout(each)
        Event().wait(each / 4)
    return current_task().attempt


def hanging_after(seconds):
    current_task().refresh_timeout(seconds)
    while not current_task().is_canceled:
        Event().wait(0.01)


def test_a_long_task_lives_as_long_as_it_refreshes_its_timeout():
    with Deployment(*SHORT) as world:
        world.start_broker()
        world.start_host("h")
        client = world.client()

        assert client.submit(refreshing, 2.0, 0.6, timeout=0.6).result(PATIENCE_S) == 1
        error = client.submit(hanging_after, 0.4).exception(PATIENCE_S)

        assert isinstance(error, TaskTimeout)
        assert "refresh_timeout" in str(error)


@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_a_neighbour_of_a_task_that_must_end_with_its_process_burns_no_try(path, tmp_path, how):
    flag = str(tmp_path / "flag")
    with Deployment(*SHORT) as world:
        world.start_broker()
        world.start_host("h", "--slots", "2", *HASTY_HOST)
        client = world.client()
        world.actors(client, "h/0")
        neighbour = client.submit(until, path, "neighbour", flag)
        timeout = 0.5 if how == "timeout" else None
        stubborn = client.submit(until, path, "stubborn", flag, timeout=timeout)
        world.until(lambda: begun(path, "neighbour") and begun(path, "stubborn"))
        first = begun(path, "stubborn")[0][0]

        if how == "cancel":
            assert stubborn.cancel(force=True)
        else:
            assert isinstance(stubborn.exception(PATIENCE_S), TaskTimeout)

        world.until(lambda: len(begun(path, "neighbour")) == 2, PATIENCE_S)
        Path(flag).touch()
        assert neighbour.result(PATIENCE_S) == 1
        assert [attempt for _, attempt in begun(path, "neighbour")] == [1, 1]
        assert begun(path, "neighbour")[1][0] != first
        assert len(begun(path, "stubborn")) == 1


def call_and_wait(path, flag):
    return current_task().client.submit(until, path, "call", flag).result()


def test_force_ends_the_process_of_a_call_that_does_not_notice(path, tmp_path):
    flag = str(tmp_path / "flag")
    with Deployment(*SHORT) as world:
        world.start_broker()
        world.start_host("h", *HASTY_HOST)
        client = world.client()
        future = client.submit(call_and_wait, path, flag)
        world.until(lambda: begun(path, "call"))
        [(pid, _)] = begun(path, "call")

        assert future.cancel(force=True)

        world.until(lambda: not is_alive(pid))
        Path(flag).touch()
        assert client.submit(until, path, "next", flag).result(PATIENCE_S) == 1
        assert len(begun(path, "call")) == 1


def start_program(path, *, stays):
    child = subprocess.Popen(["sleep", "600"], start_new_session=stays)
    begin(path, child.pid)
    child.wait()


def test_what_a_task_has_started_ends_with_a_host_that_is_killed(path):
    """It stayed: the system ends the actors, and nobody was there who ended what is below them."""
    with Deployment() as world:
        world.start_broker()
        world.start_host("h", "--replicas", "2")
        with world.client() as client:
            client.submit(start_program, path, stays=False)
            world.until(lambda: Path(path).exists() and Path(path).read_text().endswith("\n"))
            child, actor, _ = json.loads(Path(path).read_text())

            world.kill("h")

            world.until(lambda: not (is_alive(child) or is_alive(actor)))


@pytest.mark.parametrize("stays", [False, True])
def test_what_a_task_has_started_ends_with_a_process_that_is_killed(path, stays):
    with Deployment() as world:
        world.start_broker()
        world.start_host("h")
        with world.client() as client:
            once = client.options(at_most_once=True)
            future = once.submit(start_program, path, stays=stays)
            world.until(lambda: Path(path).exists() and Path(path).read_text().endswith("\n"))
            child, actor, _ = json.loads(Path(path).read_text())

            os.kill(actor, signal.SIGKILL)

            assert isinstance(future.exception(PATIENCE_S), OutcomeUnknown)
            if stays:
                os.kill(child, signal.SIGKILL)
            world.until(lambda: not Path("/proc", str(child)).exists())


def test_a_cancel_without_force_costs_no_process(path, tmp_path):
    flag = str(tmp_path / "flag")
    with Deployment(*SHORT) as world:
        world.start_broker()
        world.start_host("h", "--slots", "2")
        client = world.client()
        pid = world.actors(client, "h/0")["h/0"]["pid"]
        stubborn = client.submit(until, path, "stubborn", flag)
        world.until(lambda: begun(path, "stubborn"))

        assert stubborn.cancel()
        world.until(lambda: client.query("status")["assigned"] == 0)
        Path(flag).touch()

        assert client.submit(os.getpid).result(PATIENCE_S) == pid


@pytest.mark.parametrize("way", ["exit", "kill", "segfault"])
def test_three_crashes_are_told_one_by_one_and_cost_the_neighbours_nothing(path, tmp_path, way):
    """As in contribsys/faktory#99, vectorize-io/hindsight#2675: a silent crash counts."""
    flag = str(tmp_path / "flag")
    with Deployment(*SHORT) as world:
        world.start_broker()
        world.start_host("h", "--replicas", "3", "--slots", "2")
        client = world.client()
        world.actors(client, "h/0", "h/1", "h/2")
        neighbours = [client.submit(until, path, f"n{number}", flag) for number in range(2)]
        poison = client.submit(crash, path, "poison", way)

        with pytest.raises(PoisonTask) as caught:
            poison.result(PATIENCE_S)
        Path(flag).touch()

        word = {"exit": "exit status 7", "kill": "signal 9", "segfault": "signal 11"}[way]
        # Those that it shared, before there was an actor for it alone, are held against nobody.
        alone = [line for line in caught.value.history if "beside others" not in line]
        assert len(alone) == 3
        assert len(begun(path, "poison")) == len(caught.value.history)
        assert all(word in line for line in caught.value.history), caught.value.history
        assert [neighbour.result(PATIENCE_S) for neighbour in neighbours] == [1, 1]
        starts = [attempt for n in range(2) for _, attempt in begun(path, f"n{n}")]
        assert starts == [1] * len(starts)


def test_a_task_that_shared_its_process_with_a_crash_runs_alone_next_and_burns_no_try(
    path, tmp_path
):
    flag = str(tmp_path / "flag")
    with Deployment(*SHORT) as world:
        world.start_broker()
        world.start_host("h", "--slots", "2")
        client = world.client()
        world.actors(client, "h/0")
        neighbour = client.submit(until, path, "neighbour", flag)
        world.until(lambda: begun(path, "neighbour"))
        poison = client.submit(crash, path, "poison", "kill")

        world.until(lambda: len(begun(path, "neighbour")) == 2, PATIENCE_S)
        assert len(begun(path, "poison")) == 1
        Path(flag).touch()

        with pytest.raises(PoisonTask) as caught:
            poison.result(PATIENCE_S)
        assert neighbour.result(PATIENCE_S) == 1
        assert [attempt for _, attempt in begun(path, "neighbour")] == [1, 1]
        # The crash that it shared is held against nobody.
        assert [attempt for _, attempt in begun(path, "poison")] == [1, 1, 2, 3]
        assert len(caught.value.history) == 4


def family(path, level, flag):
    """Submit a call like this one, three levels deep, and wait until told or canceled."""
    begin(path, f"level{level}")
    task = current_task()
    if level < 3:
        task.client.submit(family, path, level + 1, flag)
    while not task.is_canceled and not Path(flag).exists():
        Event().wait(0.01)
    begin(path, f"level{level} {'canceled' if task.is_canceled else 'told'}")


def test_a_cancel_reaches_the_children_of_children(path, tmp_path):
    flag = str(tmp_path / "flag")
    with Deployment(*SHORT) as world:
        world.start_broker()
        world.start_host("h", "--slots", "3")
        client = world.client()
        root = client.submit(family, path, 1, flag)
        world.until(lambda: begun(path, "level3"))

        assert root.cancel()

        world.until(lambda: all(begun(path, f"level{n} canceled") for n in (1, 2, 3)))
        world.until(lambda: client.query("status")["assigned"] == 0)
        assert len(begun(path, "level1")) == len(begun(path, "level3")) == 1


class Warm(Environment):
    """Says in which process it was entered, and how often there."""

    def enter(self):
        self.entered = (os.getpid(), id(self))

    def which(self):
        return self.entered


INTERRUPTED = """
    import sys
    from sdk import Client, gather
    from tests.test_task_life import Warm, until

    endpoint, path, flag = sys.argv[1:]
    with Client(endpoint) as client:
        running = client.submit(until, path, "interrupted", flag, environment=Warm)
        waiting = client.map(until, [path] * 5, ["never"] * 5, [flag] * 5, environment=Warm)
        gather([running, *waiting])
"""


def test_one_ctrl_c_costs_no_warm_model(path, tmp_path):
    flag = str(tmp_path / "flag")
    with Deployment(*SHORT) as world:
        world.start_broker()
        world.start_host("h", "--slots", "1")
        client = world.client()
        first = client.submit(Warm.which).result(PATIENCE_S)
        program = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(INTERRUPTED), world.endpoint, path, flag],
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        world.until(lambda: begun(path, "interrupted"))

        program.send_signal(signal.SIGINT)
        _, said = program.communicate(timeout=PATIENCE_S)
        world.until(lambda: client.query("status")["queued"] == 0)
        Path(flag).touch()

        assert "KeyboardInterrupt" in said
        assert client.submit(Warm.which).result(PATIENCE_S) == first
        assert begun(path, "never") == []
