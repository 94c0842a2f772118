"""An operator pauses, resumes and drains actors, from a terminal: real processes."""

import os
import select
import subprocess
import sys
import time

import pytest

from sdk import current_task, gather
from tests.support.deployment import DEADLINE_S, Deployment, environment, is_alive

pytestmark = pytest.mark.process

PATIENCE_S = DEADLINE_S


@pytest.fixture
def world():
    with Deployment() as world:
        world.start_broker()
        yield world


def warmslot(world, *arguments):
    """Run `python -m sdk ...` and return its status, output and complaint."""
    ran = subprocess.run(
        [sys.executable, "-m", "sdk", *arguments, "--broker", world.endpoint],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.returncode, ran.stdout.splitlines(), ran.stderr.strip()


def state(client, name):
    return {actor["name"]: actor["state"] for actor in client.actors()}.get(name, "gone")


def where():
    return current_task().actor.name


def wait_for(path):
    deadline = time.monotonic() + 2 * PATIENCE_S
    while not os.path.exists(path) and time.monotonic() < deadline:  # noqa: PTH110 - as it is sent.
        select.select([], [], [], 0.005)
    return where()


def pause_here():
    current_task().actor.pause()
    return os.getpid()


def test_a_paused_actor_gets_no_work_until_it_is_resumed(world, tmp_path):
    world.start_host("one")
    world.start_host("two")
    client = world.client()
    world.actors(client, "one/0", "two/0")
    running = client.submit(wait_for, str(tmp_path / "go"), desired_labels={"name": "one/0"})
    world.until(lambda: world.actors(client, "one/0")["one/0"]["holding"])

    assert warmslot(world, "pause", "one/*") == (0, ["ACTOR  STATE", "one/0  paused"], "")
    assert set(gather([client.submit(where) for _ in range(20)])) == {"two/0"}
    waiting = client.submit(where, desired_labels={"name": "one/0"})
    assert client.flush(PATIENCE_S)
    assert "takes no work: paused" in client.explain(waiting)["actors"]["one/0"]
    (tmp_path / "go").touch()
    assert running.result(PATIENCE_S) == "one/0"
    assert not waiting.done()

    assert warmslot(world, "resume", "one/0") == (0, ["ACTOR  STATE", "one/0  open"], "")
    assert waiting.result(PATIENCE_S) == "one/0"


def test_a_paused_actor_is_still_paused_when_the_broker_was_started_again(world):
    world.start_host("one")
    client = world.client()
    world.actors(client, "one/0")
    assert warmslot(world, "pause", "one/0")[0] == 0

    world.restart_broker()

    world.until(lambda: state(client, "one/0") == "paused")
    waiting = client.submit(where)
    assert warmslot(world, "resume", "one/0")[0] == 0
    assert waiting.result(PATIENCE_S) == "one/0"


def test_a_task_can_pause_its_own_actor(world):
    world.start_host("one")
    client = world.client()
    world.actors(client, "one/0")

    pid = client.submit(pause_here).result(PATIENCE_S)

    world.until(lambda: state(client, "one/0") == "paused")
    assert is_alive(pid)
    waiting = client.submit(where)
    assert warmslot(world, "resume", "one/0")[0] == 0
    assert waiting.result(PATIENCE_S) == "one/0"


def test_a_drained_actor_finishes_what_it_runs_and_leaves_and_nothing_is_lost(world, tmp_path):
    world.start_host("one", "--replicas", "2")
    client = world.client()
    found = world.actors(client, "one/0", "one/1")
    running = client.submit(wait_for, str(tmp_path / "go"), desired_labels={"name": "one/0"})
    futures = [client.submit(where) for _ in range(100)]
    gather(futures[:20])

    status, lines, _ = warmslot(world, "drain", "one/0")
    assert (status, lines[1]) == (0, "one/0  draining")
    (tmp_path / "go").touch()

    assert running.result(PATIENCE_S) == "one/0"
    assert set(gather(futures, timeout=PATIENCE_S)) <= {"one/0", "one/1"}
    world.until(lambda: state(client, "one/0") == "gone")
    world.until(lambda: not is_alive(found["one/0"]["pid"]))
    assert client.submit(where).result(PATIENCE_S) == "one/1"


def test_an_actor_whose_memory_is_full_takes_no_work_and_says_why(world):
    world.start_host("full", "--memory-high", "0.0001")
    client = world.client()
    world.until(lambda: state(client, "full/0") == "memory")

    waiting = client.submit(where)

    assert client.flush(PATIENCE_S)
    found = client.explain(waiting)
    assert "of the machine is used, over --memory-high 0.01%" in found["actors"]["full/0"]
    assert "takes no work" in found["reason"]
    assert world.log("full").count("memory ") == 1
    world.start_host("roomy", "--memory-high", "off")
    assert waiting.result(PATIENCE_S) == "roomy/0"


def test_a_name_that_nobody_has_is_one_line_and_status_1(world):
    world.start_host("one")
    world.actors(world.client(), "one/0")

    assert warmslot(world, "pause", "nobody/0") == (
        1,
        [],
        "warmslot: pause nobody/0: no actor is called 'nobody/0'; connected: one/0",
    )


def descend(level, path):
    """Call itself, once *path* is there."""
    wait_for(path)
    if not level:
        return [where()]
    return [where(), *current_task().client.submit(descend, level - 1, path).result()]


def test_an_actor_that_drains_runs_the_calls_for_which_its_runs_wait(world, tmp_path):
    host = world.start_host("one", "--drain-timeout", "600")
    client = world.client()
    path = str(tmp_path / "go")
    future = client.submit(descend, 20, path)
    world.until(lambda: world.actors(client, "one/0")["one/0"]["holding"])
    stranger = client.submit(where)

    assert warmslot(world, "drain", "one/0") == (0, ["ACTOR  STATE", "one/0  draining"], "")
    (tmp_path / "go").touch()

    assert future.result(PATIENCE_S) == ["one/0"] * 21
    world.until(lambda: state(client, "one/0") == "gone")
    assert not stranger.done()
    # Nobody is left there.
    assert host.wait(PATIENCE_S) == 0


# Of tasks, of the host, of the actor; and which of them are told where.
EVENTS = ("deep_in_it", "usual_of_it", "odd_of_it", "actor_started", "connected", "welcome")
LEVELS_OF = {"deep": set(EVENTS), "calm": {"odd_of_it"}}


def write_lines():
    log = current_task().log
    log.debug("deep_in_it")
    log.info("usual_of_it")
    log.warning("odd_of_it")


def test_the_level_of_a_host_holds_in_its_actors_and_for_the_lines_of_tasks(world):
    world.start_host("deep", "--log-level", "debug")
    world.start_host("calm", "--log-level", "warning", "--start-method", "spawn")
    client = world.client()
    world.actors(client, "deep/0", "calm/0")

    gather([client.submit(write_lines, desired_labels={"name": f"{name}/0"}) for name in LEVELS_OF])

    for name, events in LEVELS_OF.items():
        world.until(lambda name=name: "odd_of_it" in world.log(name))
        told = world.log(name)
        assert {event for event in EVENTS if event in told} == events


COUNTED = {
    "submitted_total": 9,
    "succeeded_total": 5,
    'failed_total{code="task-failed"}': 3,
    "canceled_total": 1,
}


def test_a_whole_day_is_told_in_counts_that_add_up(world):
    world.start_host("one", "--slots", "2")
    client = world.client()
    world.actors(client, "one/0")
    good = [client.submit(where) for _ in range(5)]
    bad = [client.submit(int, "no number") for _ in range(3)]
    never = client.submit(where, desired_labels={"zone": "mars"})
    for future in (*good, *bad):
        future.exception(timeout=PATIENCE_S)
    never.accepted(timeout=PATIENCE_S)
    never.cancel()

    def told():
        status, lines, _ = warmslot(world, "status", "--prometheus")
        assert status == 0
        values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: int(values[f"warmslot_tasks_{name}"]) for name in COUNTED}

    world.until(lambda: told() == COUNTED)
    # Neither who asked nor who submitted has written a line.
    assert "role=client" not in world.log("broker")
    assert "client_left" not in world.log("broker")
