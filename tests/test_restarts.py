"""Whatever is killed or started again: each future resolves once, nothing runs for nothing.

Real processes, killed by real signals. What ran is read from a log that the tasks write themselves,
a line at a time, each on the disk before the task goes on.
"""

import json
import os
import signal
import sys
import textwrap
import time
from pathlib import Path
from threading import Event
from typing import NamedTuple

import pytest

from sdk import PoisonTask, TaskCanceled, current_task, gather
from tests.support.deployment import DEADLINE_S, Deployment, environment, is_alive

pytestmark = [pytest.mark.process, pytest.mark.slow]

# Times a fifth of the defaults: suspect 0.4 s, lease 1 s.
SHORT = ("--heartbeat", "0.2", "--adopt-window", "0.5")
LEASE_S = 1.0
PATIENCE_S = DEADLINE_S


class Entry(NamedTuple):
    what: str
    key: object
    pid: int
    at: float


@pytest.fixture
def journal(tmp_path):
    """Where tasks write what they do."""
    path = tmp_path / "journal"
    path.touch()
    return str(path)


def note(path, what, key):
    """Append one line, whole and on the disk."""
    line = json.dumps([what, key, os.getpid(), time.monotonic()]) + "\n"
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(file, line.encode())
    os.fsync(file)
    os.close(file)


def entries(path, what=None):
    read = [Entry(*json.loads(line)) for line in Path(path).read_text().splitlines()]
    return [entry for entry in read if what is None or entry.what == what]


# --- what the tasks do


def step(path, key, seconds=0.05):
    note(path, "begin", key)
    Event().wait(seconds)
    note(path, "end", key)
    return key


def step_in_halves(path, key):
    """Hold the slot for a while, then go on without it."""
    note(path, "begin", key)
    Event().wait(0.03)
    note(path, "end", key)
    current_task().release_slot()
    Event().wait(0.06)
    return key


def until_told(path, key, flag):
    """Run until *flag* exists, and say which process that was."""
    note(path, "begin", key)
    while not Path(flag).exists():
        Event().wait(0.01)
    note(path, "end", key)
    return os.getpid()


def until_canceled(path, key):
    note(path, "begin", key)
    while not current_task().is_canceled:
        Event().wait(0.01)
    note(path, "end", key)


def crash_until(path, key, attempt, way):
    """Bring down the process until this is try number *attempt*."""
    import ctypes

    note(path, "begin", key)
    if current_task().attempt < attempt:
        if way == "exit":
            os._exit(7)
        ctypes.string_at(0)
    return current_task().attempt


def hold_the_interpreter(path, seconds, way):
    """Keep the interpreter's lock, so that no other thread of the process runs."""
    import ctypes

    note(path, "begin", way)
    began = time.monotonic()
    if way == "sleeping":
        ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    else:
        number = 7**200_000
        # Each is one call of C that takes long, and the next one begins at once.
        old = sys.getswitchinterval()
        sys.setswitchinterval(1e6)
        while time.monotonic() - began < seconds:
            number * number
        sys.setswitchinterval(old)
    return time.monotonic() - began


def unreleased_together(path):
    """Return the most tasks that held a slot at once; what has no end ended with its process."""
    events = []
    last = {}
    open_ones = {}
    for entry in entries(path):
        last[entry.pid] = entry.at
        if entry.what == "begin":
            open_ones[entry.pid, entry.key] = entry.at
        else:
            began = open_ones.pop((entry.pid, entry.key))
            events += [(began, 1), (entry.at, -1)]
    for (pid, _), began in open_ones.items():
        events += [(began, 1), (max(last[pid], began), -1)]
    most = now = 0
    for _, change in sorted(events):
        now += change
        most = max(most, now)
    return most


# --- the promise


def test_a_hundred_tasks_outlive_three_brokers_and_an_actor(journal):
    with Deployment("--adopt-window", "1") as world:
        world.start_broker()
        world.start_host("h", "--slots", "2")
        client = world.client()
        first = world.actors(client, "h/0")["h/0"]["pid"]

        settled = []
        futures = client.map(step, [journal] * 100, range(100))
        for future in futures:
            future.add_done_callback(lambda future: settled.append(future.result()))
        for count in (10, 30, 50):
            world.until(lambda count=count: len(entries(journal, "end")) >= count)
            world.restart_broker()
        world.until(lambda: len(entries(journal, "end")) >= 75)
        os.kill(first, signal.SIGKILL)

        assert gather(futures, timeout=PATIENCE_S) == list(range(100))
        assert sorted(settled) == list(range(100))
        assert len(entries(journal, "begin")) <= 104
        assert unreleased_together(journal) <= 2
        again = [e.key for e in entries(journal, "begin")]
        assert {key for key in again if again.count(key) > 1} <= {
            # Only what the killed process had begun may have run twice.
            e.key
            for e in entries(journal, "begin")
            if e.pid == first
        }


@pytest.mark.parametrize("prefetch", ["0", "8"])
def test_on_one_slot_no_two_unreleased_tasks_overlap_over_a_broker_kill(journal, prefetch):
    with Deployment(*SHORT) as world:
        world.start_broker()
        world.start_host("h", "--slots", "1", "--prefetch", prefetch)
        client = world.client()
        world.actors(client, "h/0")

        futures = client.map(step_in_halves, [journal] * 40, range(40))
        world.until(lambda: len(entries(journal, "end")) >= 10)
        world.restart_broker()

        assert gather(futures, timeout=PATIENCE_S) == list(range(40))
        assert unreleased_together(journal) == 1
        assert len(entries(journal, "begin")) == 40


def test_what_ran_on_over_a_broker_kill_is_not_run_again(journal, tmp_path):
    go = tmp_path / "go"
    with Deployment(*SHORT) as world:
        world.start_broker()
        world.start_host("h", "--slots", "2")
        client = world.client()
        world.actors(client, "h/0")
        futures = client.map(until_told, [journal] * 4, range(4), [str(go)] * 4)
        world.until(lambda: len(entries(journal, "begin")) == 2)

        world.restart_broker()
        pid = world.actors(client, "h/0")["h/0"]["pid"]
        world.until(lambda: client.query("status")["assigned"] == 2)
        go.touch()

        assert gather(futures, timeout=PATIENCE_S) == [pid] * 4
        assert sorted(entry.key for entry in entries(journal, "begin")) == [0, 1, 2, 3]


def test_what_ended_while_there_was_no_broker_is_not_run_again(journal, tmp_path):
    go = tmp_path / "go"
    with Deployment(*SHORT) as world:
        world.start_broker()
        world.start_host("h", "--slots", "2")
        client = world.client()
        pid = world.actors(client, "h/0")["h/0"]["pid"]
        futures = client.map(until_told, [journal] * 2, range(2), [str(go)] * 2)
        world.until(lambda: len(entries(journal, "begin")) == 2)

        world.kill("broker")
        go.touch()
        world.until(lambda: len(entries(journal, "end")) == 2)
        late = client.submit(step, journal, "late")
        world.start_broker()

        assert gather(futures, timeout=PATIENCE_S) == [pid] * 2
        assert late.result(PATIENCE_S) == "late"
        assert len(entries(journal, "begin")) == 3


# --- actors and hosts


def test_the_tasks_of_a_killed_actor_run_elsewhere_as_soon_as_its_host_has_seen_it(
    journal, tmp_path
):
    go = tmp_path / "go"
    with Deployment() as world:
        world.start_broker()
        world.start_host("a", "--slots", "2")
        client = world.client()
        pid = world.actors(client, "a/0")["a/0"]["pid"]
        futures = client.map(until_told, [journal] * 2, range(2), [str(go)] * 2)
        world.until(lambda: len(entries(journal, "begin")) == 2)
        world.start_host("b", "--slots", "2")
        other = world.actors(client, "b/0")["b/0"]["pid"]

        os.kill(pid, signal.SIGKILL)
        world.until(lambda: len(entries(journal, "begin")) == 4)
        again = entries(journal, "begin")[2:]
        go.touch()

        assert {entry.key for entry in again} == {0, 1}
        # Not when its lease was over.
        assert "died of signal 9" in world.log("broker")
        assert "was silent" not in world.log("broker")
        gather(futures, timeout=PATIENCE_S)
        # Nobody can tell which of the two brought it down.
        assert {future.attempt for future in futures} == {1}
        assert other in {entry.pid for entry in again}


def test_a_killed_host_leaves_no_actor_and_its_tasks_run_elsewhere(journal, tmp_path):
    go = tmp_path / "go"
    with Deployment(*SHORT) as world:
        world.start_broker()
        world.start_host("a", "--replicas", "2")
        client = world.client()
        found = world.actors(client, "a/0", "a/1")
        pids = [found[name]["pid"] for name in ("a/0", "a/1")]
        futures = client.map(until_told, [journal] * 2, range(2), [str(go)] * 2)
        world.until(lambda: len(entries(journal, "begin")) == 2)
        world.start_host("b", "--slots", "2")
        other = world.actors(client, "b/0")["b/0"]["pid"]

        world.kill("a")

        world.until(lambda: not any(map(is_alive, pids)))
        world.until(lambda: len(entries(journal, "begin")) == 4)
        go.touch()
        assert gather(futures, timeout=PATIENCE_S) == [other] * 2


def test_a_stopped_actor_loses_its_task_and_its_late_outcome_is_not_visible(journal, tmp_path):
    go = tmp_path / "go"
    with Deployment(*SHORT) as world:
        world.start_broker()
        world.start_host("a")
        client = world.client()
        pid = world.actors(client, "a/0")["a/0"]["pid"]
        future = client.submit(until_told, journal, "task", str(go))
        world.until(lambda: entries(journal, "begin"))
        world.start_host("b")
        other = world.actors(client, "b/0")["b/0"]["pid"]
        seen = []
        future.add_done_callback(lambda future: seen.append(future.result()))

        os.kill(pid, signal.SIGSTOP)
        try:
            world.until(lambda: len(entries(journal, "begin")) == 2)
            go.touch()
            assert future.result(PATIENCE_S) == other
        finally:
            os.kill(pid, signal.SIGCONT)

        # It comes back, its late outcome is nobody's, and it works on.
        world.until(lambda: len(entries(journal, "end")) == 2)
        world.actors(client, "a/0", "b/0")
        world.until(lambda: client.query("status")["assigned"] == 0)
        there = client.submit(os.getpid, desired_labels={"name": "a/0"})
        assert there.result(PATIENCE_S) == pid
        assert (seen, future.attempt) == ([other], 2)


@pytest.mark.parametrize("way", ["computing", "sleeping"])
def test_holding_the_interpreter_longer_than_the_lease_is_no_death(journal, way):
    with Deployment(*SHORT) as world:
        world.start_broker()
        world.start_host("h")
        client = world.client()
        pid = world.actors(client, "h/0")["h/0"]["pid"]

        held_s = client.submit(hold_the_interpreter, journal, 2.5 * LEASE_S, way).result(PATIENCE_S)

        assert held_s > 2 * LEASE_S
        assert len(entries(journal, "begin")) == 1
        assert client.submit(os.getpid).result(PATIENCE_S) == pid


@pytest.mark.parametrize("way", ["exit", "segfault"])
def test_a_task_that_brings_down_its_process_is_run_again(journal, way):
    with Deployment() as world:
        world.start_broker()
        world.start_host("h", "--replicas", "2")
        client = world.client()
        world.actors(client, "h/0", "h/1")

        future = client.submit(crash_until, journal, way, 2, way)

        assert future.result(PATIENCE_S) == 2
        assert future.attempt == 2


def test_a_task_that_always_brings_down_its_process_is_poison(journal):
    with Deployment() as world:
        world.start_broker()
        world.start_host("h", "--replicas", "3")
        client = world.client()
        world.actors(client, "h/0", "h/1", "h/2")
        bystanders = client.map(step, [journal] * 30, range(30))

        poison = client.submit(crash_until, journal, "poison", 99, "exit")

        with pytest.raises(PoisonTask) as caught:
            poison.result(PATIENCE_S)
        assert len(caught.value.history) == 3
        assert all("7" in line for line in caught.value.history), caught.value.history
        assert len([e for e in entries(journal, "begin") if e.key == "poison"]) == 3
        assert gather(bystanders, timeout=PATIENCE_S) == list(range(30))


def test_a_drained_host_finishes_what_runs_and_leaves_the_rest_to_others(journal, tmp_path):
    go = tmp_path / "go"
    with Deployment() as world:
        world.start_broker()
        a = world.start_host("a", "--prefetch", "2")
        client = world.client()
        pid = world.actors(client, "a/0")["a/0"]["pid"]
        futures = client.map(until_told, [journal] * 4, range(4), [str(go)] * 4)
        world.until(lambda: entries(journal, "begin"))

        a.send_signal(signal.SIGTERM)
        world.start_host("b", "--slots", "3")
        other = world.actors(client, "b/0")["b/0"]["pid"]
        world.until(lambda: len(entries(journal, "begin")) == 4)
        go.touch()

        assert gather(futures, timeout=PATIENCE_S) == [pid, other, other, other]
        assert a.wait(PATIENCE_S) == 0
        assert not is_alive(pid)
        assert len(entries(journal, "begin")) == 4


def test_a_host_with_nothing_to_do_leaves_at_once():
    # No beat comes in time: whatever the broker says by itself is not what ends it.
    with Deployment("--heartbeat", "600") as world:
        world.start_broker()
        host = world.start_host("h", "--replicas", "2")
        world.actors(world.client(), "h/0", "h/1")

        host.send_signal(signal.SIGTERM)

        assert host.wait(PATIENCE_S) == 0


# --- the broker itself, and clients


def test_a_broker_that_was_stopped_longer_than_the_lease_takes_nothing_away(journal, tmp_path):
    go = tmp_path / "go"
    with Deployment(*SHORT) as world:
        world.start_broker()
        world.start_host("h", "--slots", "2")
        client = world.client()
        pid = world.actors(client, "h/0")["h/0"]["pid"]
        futures = client.map(until_told, [journal] * 3, range(3), [str(go)] * 3)
        world.until(lambda: len(entries(journal, "begin")) == 2)

        world.processes["broker"].send_signal(signal.SIGSTOP)
        Event().wait(2.5 * LEASE_S)
        world.processes["broker"].send_signal(signal.SIGCONT)
        world.until(lambda: client.query("status")["assigned"] == 2)
        go.touch()

        assert gather(futures, timeout=PATIENCE_S) == [pid] * 3
        assert len(entries(journal, "begin")) == 3
        assert {future.attempt for future in futures} == {1}


ABANDON = """
    import sys, signal, os
    from pathlib import Path
    from threading import Event
    sys.path.insert(0, {root!r})
    from sdk import Client
    from tests.test_restarts import until_canceled, entries
    client = Client({endpoint!r})
    futures = client.map(until_canceled, [{journal!r}] * 6, range(6))
    while len(entries({journal!r}, "begin")) < 2:
        Event().wait(0.01)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_tasks_of_a_killed_client_are_canceled_and_its_slots_come_back(journal):
    with Deployment(*SHORT, "--client-timeout", "0.5") as world:
        world.start_broker()
        world.start_host("h", "--slots", "2")
        client = world.client()
        world.actors(client, "h/0")
        text = textwrap.dedent(ABANDON).format(
            root=environment()["PYTHONPATH"], endpoint=world.endpoint, journal=journal
        )

        other = world.start("client", "-c", text)
        assert other.wait(PATIENCE_S) == -signal.SIGKILL

        futures = client.map(step, [journal] * 2, ["mine", "mine"])
        assert gather(futures, timeout=PATIENCE_S) == ["mine", "mine"]
        # What had not begun never does.
        assert {e.key for e in entries(journal, "begin")} - {"mine"} == {0, 1}
        world.until(lambda: client.query("tasks")["count"] == 0)


def test_a_client_that_is_closed_cancels_what_it_has(journal):
    with Deployment() as world:
        world.start_broker()
        world.start_host("h")
        client, other = world.client(), world.client()
        world.actors(other, "h/0")
        futures = client.map(until_canceled, [journal] * 3, range(3))
        world.until(lambda: entries(journal, "begin"))

        client.close()

        assert other.submit(step, journal, "other").result(PATIENCE_S) == "other"
        for future in futures:
            with pytest.raises(TaskCanceled):
                future.result(0)
        assert len(entries(journal, "begin")) == 2
