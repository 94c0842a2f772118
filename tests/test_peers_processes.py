"""What failed at others and takes real processes, connections or an event loop to show.

Which thread each is about stands in its docstring, and in the list of `test_peers_failures`.
"""

import asyncio
import json
import os
import random
import resource
import socket
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pytest

from sdk import Client, LocalCluster, TaskCanceled, current_task
from tests.chaos.cluster import free_port
from tests.chaos.proxy import Proxy, Way
from tests.support.deployment import DEADLINE_S, Deployment, is_alive

pytestmark = [pytest.mark.process, pytest.mark.slow]

TIMEOUT_S = DEADLINE_S
# Times a fifth of the defaults.
SHORT = ("--heartbeat", "0.2", "--adopt-window", "0.5")
LEASE_S = 1.0
MEGABYTE = 1_000_000


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "notes"
    path.touch()
    return str(path)


def note(path, *what):
    with Path(path).open("a") as file:
        file.write(json.dumps(what) + "\n")


def notes(path):
    return [tuple(json.loads(line)) for line in Path(path).read_text().splitlines()]


@contextmanager
def behind_a_proxy(*options):
    """Give a deployment, the proxy behind which its host is, a client, and the actor's process."""
    port = free_port()
    with Deployment(*SHORT, "--bind", f"tcp://127.0.0.1:{port}") as world:
        world.start_broker()
        proxy = Proxy(("127.0.0.1", port))
        try:
            world.start("a", "-m", "actor", "--broker", proxy.endpoint, "--name", "a", *options)
            client = world.client()
            yield world, proxy, client, world.actors(client, "a/0")["a/0"]["pid"]
        finally:
            proxy.close()


# --- what the tasks do


def identity(value):
    return value


def child(path, attempt):
    note(path, "child", attempt)
    return attempt


def parent(path):
    """Submit a call when the time is over, and once more when tried again."""
    task = current_task()
    note(path, "began", task.attempt)
    if task.attempt == 1:
        while not task.is_canceled:
            Event().wait(0.01)
    return task.client.submit(child, path, task.attempt).result(TIMEOUT_S)


def until_told(path, flag):
    """Run until *flag* exists or nobody wants it any more, and say which run it is."""
    task = current_task()
    note(path, os.getpid(), *task.token)
    while not (Path(flag).exists() or task.is_canceled):
        Event().wait(0.01)
    note(path, os.getpid(), "canceled" if task.is_canceled else "told")
    return list(task.token)


def size_and_process(octets):
    return len(octets), os.getpid()


def talks_on(path):
    """Give the actor something to say all the time, until somebody notes that it is enough."""
    number = 0
    while ("enough",) not in notes(path):
        number += 1
        current_task().actor.upsert_labels({"number": number})
        note(path, number)
        Event().wait(0.05)
    return number


# --- runs beside runs


def test_a_run_that_had_its_time_submits_nothing_beside_its_retry(path):
    """hatchet-dev/hatchet#1022, from one end to the other."""
    with LocalCluster(actors=2) as cluster, cluster.client() as client:
        future = client.options(timeout=2.0, retries=3).submit(parent, path)

        attempt = future.result(TIMEOUT_S)

    noted = Counter(notes(path))
    assert attempt > 1
    assert noted["child", 1] == 0
    assert noted["child", attempt] == 1


def test_a_zombie_has_the_lower_token_and_no_visible_outcome(path, tmp_path):
    """jbielick/faktory_worker_node#163 and Jepsen: RabbitMQ. Whoever guards something by tokens
    refuses the run whose lease is over, and that run is ended once somebody can be told.
    """
    flag = tmp_path / "flag"
    with behind_a_proxy() as (world, proxy, client, first):
        future = client.submit(until_told, path, str(flag))
        world.until(lambda: len(notes(path)) == 1)
        world.start_host("b")
        world.actors(client, "b/0")

        proxy.stall()
        world.until(lambda: len(notes(path)) == 2)
        (_, *old), (_, *new) = notes(path)
        proxy.heal()
        world.until(lambda: (first, "canceled") in notes(path) or not is_alive(first))
        flag.touch()

        assert new > old
        assert future.result(TIMEOUT_S) == new
        world.until(lambda: client.query("status")["assigned"] == 0)


# --- connections


def test_who_was_cut_off_for_many_leases_is_heard_again(path):
    """zeromq/libzmq#2224: a cable is pulled, and put back a long time later."""
    with behind_a_proxy() as (world, proxy, client, pid):
        proxy.swallow()
        world.until(lambda: "a/0" not in {one["name"] for one in client.actors()})
        Event().wait(8 * LEASE_S)
        proxy.heal()

        assert client.submit(os.getpid).result(TIMEOUT_S) == pid


def test_what_is_given_to_an_actor_that_hears_nothing_runs_elsewhere(path):
    """hatchet-dev/hatchet#2432: its listener is dead, and it says all the time that it lives."""
    with behind_a_proxy() as (world, proxy, client, _):
        proxy.swallow(Way.DOWN)
        future = client.submit(os.getpid)
        world.until(lambda: client.query("status")["assigned"] == 1)
        world.start_host("b")
        other = world.actors(client, "b/0")["b/0"]["pid"]

        assert future.result(TIMEOUT_S) == other
        proxy.heal()
        world.until(lambda: "a/0" in {one["name"] for one in client.actors()})


def test_a_message_that_takes_several_leases_ends_no_session_of_who_has_something_to_say(path):
    """zeromq/libzmq#2709: whoever looks at its clock meanwhile finds that nothing came."""
    octets = bytes(MEGABYTE * 3)
    with behind_a_proxy("--slots", "2") as (world, proxy, client, pid):
        assert client.submit(size_and_process, b"").result(TIMEOUT_S) == (0, pid)
        talks = client.submit(talks_on, path)
        world.until(lambda: notes(path))
        before = world.log("broker").count("session_opened")

        proxy.slow(MEGABYTE, Way.DOWN)
        future = client.submit(size_and_process, octets)
        assert future.result(TIMEOUT_S) == (len(octets), pid)
        note(path, "enough")

        assert talks.result(TIMEOUT_S) > 0
        assert future.history == ()
        assert world.log("broker").count("session_opened") == before, world.story()


@pytest.mark.parametrize("way", list(Way))
def test_a_message_that_takes_several_leases_to_arrive_costs_nobody_a_lease(way):
    """zeromq/libzmq#2709: a heartbeat has to wait for what is on its way, and counts as missed."""
    octets = bytes(MEGABYTE * 3)
    with behind_a_proxy() as (world, proxy, client, pid):
        assert client.submit(size_and_process, b"").result(TIMEOUT_S) == (0, pid)
        proxy.slow(MEGABYTE, way)
        began = time.monotonic()

        if way is Way.DOWN:
            future = client.submit(size_and_process, octets)
            assert future.result(TIMEOUT_S) == (len(octets), pid)
        else:
            future = client.submit(bytes, len(octets))
            assert len(future.result(TIMEOUT_S)) == len(octets)

        assert time.monotonic() - began > 2 * LEASE_S
        assert future.history == ()
        assert "actor_lost" not in world.log("broker"), world.story()
        assert client.submit(os.getpid).result(TIMEOUT_S) == pid


def test_a_broker_without_descriptors_serves_those_who_are_connected():
    """zeromq/pyzmq#234 and zeromq/libzmq#1306: no abort, and whoever comes later waits."""
    port = free_port()
    with Deployment("--bind", f"tcp://127.0.0.1:{port}") as world:
        world.start_broker()
        world.start_host("a")
        client = world.client()
        world.actors(client, "a/0")
        broker = world.processes["broker"]
        soft, hard = resource.prlimit(broker.pid, resource.RLIMIT_NOFILE)
        there = sum(1 for _ in Path(f"/proc/{broker.pid}/fd").iterdir())

        resource.prlimit(broker.pid, resource.RLIMIT_NOFILE, (there + 3, hard))
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
        served = [client.submit(identity, n).result(TIMEOUT_S) for n in range(50)]
        for one in idle:
            one.close()
        resource.prlimit(broker.pid, resource.RLIMIT_NOFILE, (soft, hard))

        assert served == list(range(50))
        assert broker.poll() is None
        with Client(f"tcp://127.0.0.1:{port}") as late:
            assert late.submit(identity, "late").result(TIMEOUT_S) == "late"


# --- event loops


def test_each_awaited_call_of_a_flood_ends_once_whatever_is_canceled():
    """zeromq/pyzmq#1203, #1085 and #1925: events missed, messages lost where a wait is canceled."""
    chance = random.Random(1)
    calls = 5_000

    async def flood(client):
        async def call(number):
            return await client.submit(identity, number)

        waits = [asyncio.ensure_future(call(n)) for n in range(calls)]
        canceled = set()
        # All are submitted then, and none is done: outcomes are given out between two steps.
        await asyncio.sleep(0)
        while not all(wait.done() for wait in waits):
            for number in chance.sample(range(calls), 20):
                if len(canceled) < calls // 4 and waits[number].cancel():
                    canceled.add(number)
            await asyncio.sleep(0.001)
        return canceled, await asyncio.gather(*waits, return_exceptions=True)

    with LocalCluster(actors=1, slots=4) as cluster, cluster.client() as client:
        canceled, outcomes = asyncio.run(flood(client))

        for number, outcome in enumerate(outcomes):
            lost = number in canceled and isinstance(outcome, asyncio.CancelledError | TaskCanceled)
            assert lost or outcome == number
        assert canceled
        assert client.submit(identity, "after").result(TIMEOUT_S) == "after"
        status = client.query("status")
        assert (status["queued"], status["assigned"]) == (0, 0)
