"""Sticky keys with real processes: a burst, what a task submits, a broker and an actor that die."""

import os
import signal

import pytest

from sdk import Sticky, current_task, gather
from tests.support.deployment import DEADLINE_S, Deployment

pytestmark = [pytest.mark.process, pytest.mark.slow]

SHORT = ("--heartbeat", "0.2", "--adopt-window", "0.5")
TIMEOUT_S = DEADLINE_S


def where(_=None):
    return current_task().actor.name


def family():
    client = current_task().client
    own = client.options(sticky="own").submit(where)
    return where(), client.submit(where).result(TIMEOUT_S), own.result(TIMEOUT_S)


@pytest.fixture(params=["journal", "no journal"])
def world(request):
    with Deployment(*SHORT) as world:
        if request.param == "journal":
            # The last one given counts, and this takes back that it keeps nothing.
            world.keeps = ("--data-dir", str(world.folder / "data"))
        else:
            world.keeps = ("--no-journal",)
        start_broker(world)
        for name in ("one", "two"):
            world.start_host(name, "--replicas", "2")
        yield world


def start_broker(world):
    world.starts += 1
    world.start("broker", "-m", "broker", "--bind", world.endpoint, *SHORT, *world.keeps)
    world.until(lambda: world.log("broker").count("broker_ready") == world.starts)


ALL = ("one/0", "one/1", "two/0", "two/1")


def test_a_key_stays_with_its_actor_over_a_restart_of_the_broker(world):
    client = world.client()
    world.actors(client, *ALL)

    ran = {
        key: set(gather([client.submit(where, sticky=key) for _ in range(8)], timeout=TIMEOUT_S))
        for key in ("a", "b", "c")
    }
    assert all(len(actors) == 1 for actors in ran.values())
    # What a task submits goes to the same actor, unless it says otherwise.
    own, child, other = client.submit(family, sticky=Sticky("a", hard=True)).result(TIMEOUT_S)
    assert {own, child} == ran["a"]

    world.kill("broker")
    start_broker(world)
    world.actors(client, *ALL)

    for key, actors in {**ran, "own": {other}}.items():
        if key == "own" and world.keeps == ("--no-journal",):
            continue  # The client that knew it was in a task that has ended.
        again = [client.submit(where, sticky=Sticky(key, hard=True)) for _ in range(3)]
        assert set(gather(again, timeout=TIMEOUT_S)) == actors, key


def test_a_hard_key_waits_for_the_actor_that_is_started_again(world):
    client = world.client()
    pids = {name: actor["pid"] for name, actor in world.actors(client, *ALL).items()}
    name = client.submit(where, sticky=Sticky("a", hard=True)).result(TIMEOUT_S)
    os.kill(pids[name], signal.SIGKILL)

    futures = [client.submit(where, sticky=Sticky("a", hard=True)) for _ in range(3)]

    assert set(gather(futures, timeout=TIMEOUT_S)) == {name}
