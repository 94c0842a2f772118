"""Limits with real processes: what users write, and kill -9 of whoever holds or grants them."""

import asyncio
import os
import signal
from threading import Event
from typing import ClassVar

import pytest

from sdk import (
    BadOption,
    Deadlock,
    Environment,
    LimitUnknown,
    LocalCluster,
    TaskCanceled,
    current_task,
    gather,
    task,
)
from sdk.__main__ import main
from tests.support.deployment import DEADLINE_S, HASTY_BROKER, HASTY_HOST, HEARTBEAT_S, Deployment
from tests.test_restarts import SHORT, entries, note

pytestmark = pytest.mark.process

TIMEOUT_S = DEADLINE_S
LIMITS = ["db=2", "one=1", "api=1:per-key", "web=2:rate=20/s", "new=1:strategy=cancel-newest"]


@pytest.fixture(scope="module")
def cluster():
    hosts = [{"slots": 4, "replicas": 2, "limits": {"gpu": 2}}]
    with LocalCluster(hosts, limits=LIMITS, arguments=HASTY_BROKER) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster):
    with cluster.client() as client:
        yield client


@pytest.fixture
def journal(tmp_path):
    path = tmp_path / "journal"
    path.touch()
    return str(path)


def together(path):
    """Return how many were between begin and end at once; those that died ended then."""
    now = most = 0
    running = set()
    for entry in entries(path):
        if entry.what == "died":
            running = {one for one in running if one[0] != entry.key}
        elif entry.what == "begin":
            running.add((entry.pid, entry.key))
        else:
            running.discard((entry.pid, entry.key))
        now = len(running)
        most = max(most, now)
    return most


def step(path, key, seconds=0.05):
    note(path, "begin", key)
    Event().wait(seconds)
    note(path, "end", key)
    return key


def step_inside(path, key, name, seconds=0.05):
    with current_task().limit(name):
        return step(path, key, seconds)


async def step_inside_async(path, key, name):
    async with current_task().limit(name):
        note(path, "begin", key)
        await asyncio.sleep(0.05)
        note(path, "end", key)


def until_told(path, key, flag, name):
    """Hold a limit until *flag* exists."""
    with current_task().limit(name):
        note(path, "begin", key)
        while not os.path.exists(flag):  # noqa: PTH110 - it travels to an actor.
            current_task().raise_if_canceled()
            Event().wait(0.01)
        note(path, "end", key)


def holders(client):
    return [h for limit in client.limits() for key in limit["keys"] for h in key["holders"]]


# --- what users write


@pytest.mark.parametrize(("limit", "most"), [("db", 2), ("host:gpu", 2), ("api[x]", 1)])
def test_at_scheduling_no_more_run_than_the_limit_has(client, journal, limit, most):
    limited = client.options(limits={limit: 1})
    futures = [limited.submit(step, journal, key) for key in range(8)]

    assert gather(futures, timeout=TIMEOUT_S) == list(range(8))
    assert together(journal) == most


@pytest.mark.parametrize("function", [step_inside, step_inside_async])
@pytest.mark.parametrize(("limit", "most"), [("db", 2), ("host:gpu", 2), ("api[x]", 1)])
def test_from_inside_no_more_run_than_the_limit_has(client, journal, function, limit, most):
    gather([client.submit(function, journal, k, limit) for k in range(8)], timeout=TIMEOUT_S)

    assert together(journal) == most


def test_from_inside_and_at_scheduling_are_one_line(client, journal):
    futures = [client.options(limits={"db": 1}).submit(step, journal, n) for n in range(4)]
    futures += [client.submit(step_inside, journal, n, "db") for n in range(4, 8)]

    assert sorted(gather(futures, timeout=TIMEOUT_S)) == list(range(8))
    assert together(journal) == 2


class Limited(Environment):
    limits: ClassVar = {"one": 1}

    def work(self, path, key):
        return step(path, key)


@task(limits={"one": 1})
def decorated(path, key):
    return step(path, key)


def test_a_function_and_an_environment_bring_their_limits(client, journal):
    futures = [client.submit(decorated, journal, key) for key in range(3)]
    futures += [client.submit(Limited.work, journal, key) for key in range(3, 6)]

    gather(futures, timeout=TIMEOUT_S)

    assert together(journal) == 1


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        ({"nope": 1}, LimitUnknown),
        ({"db": 3}, BadOption),
        ({"api": 1}, BadOption),
        ({"host:tpu": 1}, LimitUnknown),
        ({"host:gpu": 3}, BadOption),
    ],
)
def test_what_can_never_be_had_is_told_at_once(client, limits, error):
    def inside():
        (name, amount), *_ = limits.items()
        with current_task().limit(name, occupy=amount):
            pass

    with pytest.raises(error):
        client.options(limits=limits).submit(sum, [1]).result(TIMEOUT_S)
    with pytest.raises(error):
        client.submit(inside).result(TIMEOUT_S)


def test_a_wait_can_end_without_the_limit(client, journal, tmp_path):
    flag = tmp_path / "flag"
    held = client.submit(until_told, journal, 1, str(flag), "one")

    def impatient():
        with current_task().limit("one", timeout=0.1):
            pass

    def waits():
        with current_task().limit("one"):
            return True

    wait_for(lambda: entries(journal, "begin"))
    with pytest.raises(TimeoutError, match="limit one"):
        client.submit(impatient).result(TIMEOUT_S)
    canceled = client.submit(waits)
    wait_for(lambda: any(key["waiting"] for limit in client.limits() for key in limit["keys"]))
    canceled.cancel()
    follower = client.submit(waits)
    flag.touch()

    assert follower.result(TIMEOUT_S)
    held.result(TIMEOUT_S)
    assert canceled.cancelled()


def wait_for(question):
    for _ in range(2_000):
        if question():
            return
        Event().wait(0.01)
    pytest.fail("it does not happen")


def test_a_blocking_wait_on_the_event_loop_is_refused(client):
    async def blocks():
        with current_task().limit("one"):
            pass

    with pytest.raises(RuntimeError, match="async with"):
        client.submit(blocks).result(TIMEOUT_S)


def test_a_release_gives_the_limits_back_and_a_reacquire_takes_them_again(client, journal):
    def work(key):
        task = current_task()
        step(journal, key)
        with task.released_slot():
            Event().wait(0.2)
        step(journal, key)

    limited = client.options(limits={"one": 1})
    gather([limited.submit(work, key) for key in range(4)], timeout=TIMEOUT_S)

    assert together(journal) == 1
    order = [entry.key for entry in entries(journal, "begin")]
    # All had it once before the first had it again.
    assert sorted(order[:4]) == [0, 1, 2, 3]


def test_limits_can_be_kept_while_the_slot_is_given_back(client, journal):
    def work(key):
        note(journal, "begin", key)
        assert current_task().release_slot(keep_limits=True)
        Event().wait(0.1)
        note(journal, "end", key)

    limited = client.options(limits={"one": 1})
    gather([limited.submit(work, key) for key in range(3)], timeout=TIMEOUT_S)

    assert together(journal) == 1


@task(limits={"one": 1})
def countdown(level):
    return level and 1 + current_task().client.submit(countdown, level - 1).result()


def test_a_task_that_waits_for_its_children_gives_its_limits_back_meanwhile(client):
    assert client.submit(countdown, 10).result(TIMEOUT_S) == 10


def test_a_circle_ends_with_deadlock_in_the_youngest(client):
    def crossing(first, second):
        with current_task().limit(first):
            Event().wait(0.3)
            try:
                with current_task().limit(second):
                    return "both"
            except Deadlock:
                return "one"

    futures = [client.submit(crossing, "api[a]", "api[b]")]
    futures.append(client.submit(crossing, "api[b]", "api[a]"))

    assert sorted(gather(futures, timeout=TIMEOUT_S)) == ["both", "one"]


async def two_at_once():
    async def hold(number):
        async with current_task().limit("one"):
            # Longer than the heartbeats with which circles are looked for.
            await asyncio.sleep(2.2 * HEARTBEAT_S)
        return number

    return await asyncio.gather(hold(1), hold(2))


def test_a_coroutine_that_waits_for_another_of_its_own_task_is_in_no_circle(client):
    assert client.submit(two_at_once).result(TIMEOUT_S) == [1, 2]


def test_a_rate_lets_so_many_in(client):
    from time import monotonic

    began = monotonic()
    limited = client.options(limits={"web": 1})
    gather([limited.submit(sum, [n]) for n in range(12)], timeout=TIMEOUT_S)

    assert monotonic() - began >= 10 / 20 - 0.1


def test_the_newest_is_canceled(client, journal, tmp_path):
    flag = tmp_path / "flag"
    limited = client.options(limits={"new": 1})

    def waits(path):
        note(journal, "begin", 1)
        while not os.path.exists(path):  # noqa: PTH110
            Event().wait(0.01)

    first = limited.submit(waits, str(flag))
    wait_for(lambda: entries(journal, "begin"))
    second = limited.submit(sum, [1])

    with pytest.raises(TaskCanceled, match="came before"):
        second.result(TIMEOUT_S)
    flag.touch()
    first.result(TIMEOUT_S)


def test_explain_names_the_limit_and_who_holds_it(client, journal, tmp_path):
    flag = tmp_path / "flag"
    held = client.submit(until_told, journal, 1, str(flag), "one")
    wait_for(lambda: entries(journal, "begin"))
    waiting = client.options(limits={"one": 1}).submit(sum, [1])
    wait_for(lambda: "limit one is full" in client.explain(waiting)["reason"])

    assert held.task_id in client.explain(waiting)["reason"]
    flag.touch()
    assert waiting.result(TIMEOUT_S) == 1


def test_the_command_line_sets_lists_releases_and_deletes(
    cluster, client, capsys, journal, tmp_path
):
    at = ("--broker", cluster.endpoint)
    flag = tmp_path / "flag"
    assert main(["limits", "set", "fresh", "1", *at]) == 0
    held = client.submit(until_told, journal, 1, str(flag), "fresh")
    wait_for(lambda: entries(journal, "begin"))
    waiting = client.options(limits={"fresh": 1}).submit(sum, [1])
    capsys.readouterr()

    assert main(["limits", *at]) == 0
    shown = capsys.readouterr().out
    (line,) = [line for line in shown.splitlines() if held.task_id in line]
    assert main(["limits", "release", line.split()[1], *at]) == 0
    assert waiting.result(TIMEOUT_S) == 1
    assert main(["limits", "delete", "fresh", *at]) == 0
    assert main(["limits", "delete", "fresh", *at]) == 1
    assert main(["limits", "get", "fresh", *at]) == 1
    assert main(["limits", "delete", "host:gpu", *at]) == 1
    assert "what their actors say with --limit" in capsys.readouterr().err
    assert main(["limits", "set", "fresh", "0", *at]) == 2
    flag.touch()
    held.result(TIMEOUT_S)


# --- kill -9


@pytest.mark.parametrize("how", ["inside", "scheduling"])
def test_a_killed_actor_gives_back_at_once_what_it_held(journal, tmp_path, how):
    with Deployment(*SHORT, "--limit", "db=1") as world:
        world.start_broker()
        world.start_host("a")
        client = world.client()
        pid = world.actors(client, "a/0")["a/0"]["pid"]
        flag = str(tmp_path / "flag")
        limited = client.options(limits={"db": 1}) if how == "scheduling" else client
        target = "other" if how == "scheduling" else "db"
        client.set_limit("other", 5)
        held = limited.submit(until_told, journal, 1, flag, target)
        world.until(lambda: entries(journal, "begin"))
        world.start_host("b")
        world.actors(client, "b/0")
        waiting = client.options(limits={"db": 1}).submit(step, journal, 2)
        world.until(lambda: "limit db is full" in client.explain(waiting)["reason"])

        os.kill(pid, signal.SIGKILL)
        (tmp_path / "flag").touch()

        assert waiting.result(TIMEOUT_S) == 2
        held.result(TIMEOUT_S)
        world.until(lambda: not holders(client))


def test_a_killed_broker_lets_nobody_in_before_it_knows_who_holds(journal, tmp_path):
    with Deployment(*SHORT, "--limit", "db=2") as world:
        world.start_broker()
        world.start_host("a", "--slots", "6", "--limit", "gpu=1")
        client = world.client()
        world.actors(client, "a/0")
        flag = str(tmp_path / "flag")
        held = [
            client.options(limits={"db": 1}).submit(until_told, journal, 1, flag, "host:gpu"),
            client.submit(until_told, journal, 2, flag, "db"),
        ]
        world.until(lambda: len(entries(journal, "begin")) == 2)
        futures = [client.options(limits={"db": 1}).submit(step, journal, n) for n in range(3, 8)]
        inside = [client.submit(step_inside, journal, n, "db") for n in range(8, 10)]

        world.restart_broker()
        # Long after the window and the lease, the two that ran on still hold it.
        world.until(lambda: client.query("limits")["is_open"])
        assert {holder["amount"] for holder in holders(client)} == {1}
        assert len(entries(journal, "begin")) == 2
        (tmp_path / "flag").touch()

        gather(held, timeout=TIMEOUT_S)
        assert sorted(gather(futures + inside, timeout=TIMEOUT_S)) == list(range(3, 10))
        assert together(journal) == 2
        world.until(lambda: not holders(client))


@pytest.mark.slow
def test_kills_of_actors_under_load_leave_no_holder_behind(journal):
    kills = 12
    with Deployment(*SHORT, "--limit", "db=2", "--limit", "api=2") as world:
        world.start_broker()
        world.start_host("a", "--slots", "3", "--replicas", "2", *HASTY_HOST)
        client = world.client()
        world.actors(client, "a/0", "a/1")

        def work(key):
            task = current_task()
            with task.limit("api"):
                Event().wait(0.01)
            with task.released_slot():
                Event().wait(0.01)
            note(journal, "end", key)
            return key

        futures = [client.options(limits={"db": 1}).submit(work, n) for n in range(40)]
        futures += [client.submit(work, n) for n in range(40, 160)]
        for kill in range(kills):
            world.until(lambda kill=kill: len(entries(journal, "end")) >= 8 * kill)
            pids = [actor["pid"] for actor in client.actors() if actor["state"] == "open"]
            if pids:
                os.kill(pids[kill % len(pids)], signal.SIGKILL)

        done = [future.exception(TIMEOUT_S) for future in futures]
        # A task that was there at three deaths is poison; every other one has its result.
        assert sum(error is not None for error in done) < len(done) / 4
        world.until(lambda: not holders(client))


def test_definitions_are_in_the_journal(tmp_path):
    with Deployment("--data-dir", str(tmp_path / "journal")) as world:
        world.broker_options = tuple(o for o in world.broker_options if o != "--no-journal")
        start_with_journal(world)
        client = world.client()
        client.set_limit("db", 3)
        client.set_limit("api", 1, per_key=True, strategy="round-robin")
        client.set_limit("gone", 1)
        client.delete_limit("gone")

        world.kill("broker")
        start_with_journal(world)

        found = {limit["name"]: limit for limit in client.limits()}
        assert found.keys() == {"api", "db"}
        assert (found["db"]["maximum"], found["api"]["strategy"]) == (3, "round-robin")


def start_with_journal(world):
    world.starts += 1
    world.start("broker", "-m", "broker", "--bind", world.endpoint, *world.broker_options)
    world.until(lambda: world.log("broker").count("broker_ready") == world.starts)
