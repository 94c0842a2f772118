"""Short tasks wait ahead in the actors, and none of them behind a long one: real processes."""

import os
import select
import time

import pytest

from sdk import LocalCluster, current_task, gather
from tests.support.deployment import DEADLINE_S, Deployment, wait_until

pytestmark = pytest.mark.process

PATIENCE_S = DEADLINE_S
SHORT_S = 0.001


def short(number):
    select.select([], [], [], SHORT_S)
    return number


def long(gate):
    """Last until the test opens the *gate*."""
    deadline = time.monotonic() + 2 * PATIENCE_S
    while not os.path.exists(gate) and time.monotonic() < deadline:  # noqa: PTH110 - as it is sent.
        select.select([], [], [], SHORT_S)
    return current_task().actor.name


def ahead_of(client):
    return sum(actor["ahead"] for actor in client.actors())


@pytest.mark.parametrize("prefetch", [8, "auto"])
def test_no_short_task_waits_behind_a_long_one_while_another_actor_is_free(tmp_path, prefetch):
    gate = str(tmp_path / "open")
    with LocalCluster(actors=3, prefetch=prefetch) as cluster, cluster.client() as client:
        # So that the actors know that runs are short.
        gather([client.submit(short, n) for n in range(300)])
        futures = []
        longs = []
        for number in range(300):
            if number in (40, 170):
                longs.append(client.submit(long, gate))
            futures.append(client.submit(short, number))

        results = [future.result(PATIENCE_S) for future in futures]

        assert results == list(range(300))
        assert not any(future.done() for future in longs)
        (tmp_path / "open").touch()
        assert len({future.result(PATIENCE_S) for future in longs}) == 2


def test_tasks_that_wait_behind_a_long_one_run_in_an_actor_that_comes_later(tmp_path):
    gate = str(tmp_path / "open")
    with Deployment() as world:
        world.start_broker()
        world.start_host("one", "--prefetch", "8")
        client = world.client()
        world.actors(client, "one/0")
        blocked = client.submit(long, gate)
        futures = [client.submit(short, number) for number in range(8)]
        world.until(lambda: client.actors()[0]["holding"])

        world.start_host("two")

        assert gather(futures, timeout=PATIENCE_S) == list(range(8))
        assert not blocked.done()
        (tmp_path / "open").touch()
        assert blocked.result(PATIENCE_S) == "one/0"


def test_auto_grants_ahead_for_short_runs_and_takes_it_back_for_long_ones(tmp_path):
    with LocalCluster(actors=1) as cluster, cluster.client() as client:
        assert ahead_of(client) == 0

        def is_on():
            gather([client.submit(int, number) for number in range(200)])
            return ahead_of(client) > 0

        wait_until(is_on)
        client.submit(time.sleep, 0.5).result(PATIENCE_S)
        gather([client.submit(time.sleep, 0.2) for _ in range(2)])

        assert ahead_of(client) == 0
