"""The whole surface of the SDK against a LocalCluster of two unlike actors.

`large` has two slots and labels, `small` has one slot and says where it is.
"""

import asyncio
import concurrent.futures
import os
import subprocess
import sys
import textwrap
import threading
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import sdk.calls.reasons
import sdk.connection
from sdk import (
    AsyncClient,
    Client,
    Comparator,
    Desired,
    Environment,
    EnvironmentFailed,
    LocalCluster,
    NotInTask,
    PoisonTask,
    ReusePolicy,
    ScheduleTimeout,
    SlotReleased,
    TaskCanceled,
    TaskTimeout,
    as_completed,
    current_task,
    gather,
    task,
    wait,
)
from tests.support.deployment import DEADLINE_S, Deployment, environment, wait_until

pytestmark = [pytest.mark.process, pytest.mark.slow]

PATIENCE_S = DEADLINE_S
LARGE, SMALL = "large/0", "small/0"
LABELS = {"memory": 512, "ratio": 0.5, "gpu": True, "model": ["v1", "v2"], "zone": "eu"}
ON_LARGE = {"name": LARGE}
ON_SMALL = {"name": SMALL}


@pytest.fixture(scope="module")
def cluster():
    actors = [
        {"name": "large", "slots": 2, "labels": LABELS},
        # Nothing waits ahead here, so that the order in which tasks start can be told.
        {"name": "small", "slots": 1, "labels": {"memory": 16, "zone": "us"}, "prefetch": 0},
    ]
    with LocalCluster(actors) as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    with cluster.client() as client:
        yield client
    # Nothing that a test began goes on: the next one finds the slots free.
    with Client(cluster.endpoint) as client:
        wait_until(lambda: is_at_rest(client))


def is_at_rest(client):
    """Tell whether the broker knows of each actor that it could take as much as it ever can."""
    actors = client.actors()
    return len(actors) == 2 and all(
        one["state"] == "open" and not one["holding"] and one["free"] == one["slots"]["slot"]
        for one in actors
    )


@pytest.fixture
def flag(tmp_path):
    return tmp_path / "flag"


def double(value):
    return value * 2


def where():
    return current_task().actor.name


def wait_for(path):
    while not Path(path).exists():
        current_task().raise_if_canceled()
        threading.Event().wait(0.005)
    return Path(path).name


def touch_and_wait_for(begun, path):
    Path(begun).touch()
    return wait_for(path)


def fail(text):
    raise LookupError(text)


# --- calls and futures


def test_map_keeps_the_order(client):
    assert gather(client.map(pow, range(200), [2] * 200), timeout=PATIENCE_S) == [
        n**2 for n in range(200)
    ]


def test_wait_returns_what_is_done_and_what_is_not(client, flag):
    slow = client.submit(wait_for, flag)
    fast = client.map(double, [1, 2])

    ready, pending = wait([slow, *fast], num_returns=2, timeout=PATIENCE_S)

    assert (ready, pending) == (fast, [slow])
    assert wait([slow], timeout=0.05) == ([], [slow])
    flag.touch()
    assert wait([slow, *fast], num_returns=3, timeout=PATIENCE_S) == ([slow, *fast], [])


def test_as_completed_takes_more_while_it_goes(client):
    done = as_completed(client.map(double, [1, 2]), timeout=PATIENCE_S)
    seen = []
    for future in done:
        seen.append(future.result())
        if len(seen) <= 3:
            done.add(client.submit(double, future.result()))

    assert sorted(seen) in ([2, 4, 4, 8, 8], [2, 4, 4, 8, 16])


def test_gather_raises_the_first_error_or_returns_it(client, flag):
    slow = client.submit(wait_for, flag)
    bad = client.submit(fail, "no such thing")

    with pytest.raises(LookupError, match="no such thing"):
        gather([slow, bad], timeout=PATIENCE_S)

    flag.touch()
    first, second = gather([slow, bad], return_exceptions=True, timeout=PATIENCE_S)
    assert (first, type(second)) == ("flag", LookupError)


def test_a_future_is_an_argument_at_any_depth(client):
    one = client.submit(double, 1)
    two = client.submit(double, one)

    nested = client.submit(double, [one, {"deep": (two, 5)}])

    assert nested.result(PATIENCE_S) == [2, {"deep": (4, 5)}] * 2


def test_an_argument_that_failed_fails_the_call_without_running_it(client):
    bad = client.submit(fail, "first")

    with pytest.raises(LookupError, match="first"):
        client.submit(double, bad).result(PATIENCE_S)


def test_a_queued_and_a_running_task_can_be_canceled(client, flag, tmp_path):
    begun = tmp_path / "begun"
    running = client.options(desired_labels=ON_SMALL).submit(touch_and_wait_for, begun, flag)
    queued = client.options(desired_labels=ON_SMALL).submit(double, 1)
    wait_until(begun.exists)

    assert queued.cancel()
    assert running.cancel()

    for future in (queued, running):
        assert future.cancelled()
        with pytest.raises(TaskCanceled):
            future.result(0)
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(0)
    # The running one was told, and gave its slot back.
    assert client.submit(where, desired_labels=ON_SMALL).result(PATIENCE_S) == SMALL
    assert not flag.exists()


def hang(begun):
    Path(begun).touch()
    threading.Event().wait()


def test_force_ends_what_does_not_listen(client, tmp_path):
    begun = tmp_path / "begun"
    future = client.submit(hang, begun, desired_labels=ON_SMALL)
    wait_until(begun.exists)

    assert future.cancel(force=True)

    assert client.submit(where, desired_labels=ON_SMALL).result(PATIENCE_S) == SMALL


def test_a_future_can_be_awaited_and_shielded_and_canceled(cluster, client, flag):
    async def use():
        async with AsyncClient(cluster.endpoint) as other:
            both = await asyncio.gather(other.submit(double, 1), other.submit(double, 2))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(slow := other.submit(wait_for, flag), 0.05)
            return both, slow.cancelled()

    assert asyncio.run(use()) == ([2, 4], True)


def test_an_async_client_asks_what_a_client_asks(cluster):
    async def ask():
        async with AsyncClient(cluster.endpoint) as other:
            await other.set_limit("asked", 2)
            limits = {limit["name"]: limit["maximum"] for limit in await other.limits()}
            await other.delete_limit("asked")
            loop = asyncio.get_running_loop()
            doubled = await loop.run_in_executor(other.executor(), double, 4)
            return limits["asked"], await other.named(), await other.query("status"), doubled

    maximum, named, status, doubled = asyncio.run(ask())

    assert (maximum, named, doubled) == (2, [], 8)
    assert status["actors"] >= 1


def test_the_standard_library_knows_executor_and_futures(client):
    with client.executor(desired_labels=ON_LARGE) as executor:
        futures = [executor.submit(double, n) for n in range(5)]
        done, pending = concurrent.futures.wait(futures, timeout=PATIENCE_S)
        assert list(executor.map(double, range(5), timeout=PATIENCE_S)) == [0, 2, 4, 6, 8]

    assert (len(done), len(pending)) == (5, 0)
    assert [f.result() for f in futures] == [0, 2, 4, 6, 8]


def test_callbacks_come_without_anybody_waiting(client):
    heard = threading.Event()

    client.submit(double, 1).add_done_callback(lambda _: heard.set())

    assert heard.wait(PATIENCE_S)


class Shortage(Exception):
    def __init__(self, what, amount):
        super().__init__(what, amount)
        self.amount = amount


def run_short():
    try:
        fail("inner")
    except LookupError as error:
        raise Shortage("memory", 3) from error


def test_an_exception_is_itself_with_the_remote_traceback(client):
    with pytest.raises(Shortage) as caught:
        client.submit(run_short).result(PATIENCE_S)

    assert caught.value.amount == 3
    text = str(caught.value.__cause__)
    assert "in run_short" in text
    assert 'raise Shortage("memory", 3) from error' in text
    assert "LookupError: inner" in text
    # The frames of the runtime are not the user's business.
    assert "slot.py" not in text


def test_many_threads_share_a_client(client):
    def use(start):
        return gather(client.map(double, range(start, start + 20)), timeout=PATIENCE_S)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(use, range(8)))

    assert results == [[2 * n for n in range(start, start + 20)] for start in range(8)]


# --- code and data


def test_lambdas_closures_partials_and_local_classes_travel(client):
    offset = 3

    class Point:
        def __init__(self, x):
            self.x = x

        def moved(self, by):
            return Point(self.x + by + offset)

    assert client.submit(lambda x: x + offset, 4).result(PATIENCE_S) == 7
    assert client.submit(partial(pow, 2), 5).result(PATIENCE_S) == 32
    moved = client.submit(Point(1).moved, 2).result(PATIENCE_S)
    assert (type(moved), moved.x) == (Point, 6)


def test_a_closure_that_changed_is_sent_again(client):
    count = 1

    def read():
        return count

    first = client.submit(read).result(PATIENCE_S)
    count = 2

    assert (first, client.submit(read).result(PATIENCE_S)) == (1, 2)


SCRIPT = """
    import sys
    from sdk import Client
    import own_helper

    FACTOR = int(sys.argv[2])

    def scale(value):
        return own_helper.shift(value) * FACTOR

    if __name__ == "__main__":
        with Client(sys.argv[1], connect_timeout=60) as client:
            print(client.submit(scale, 1).result(60))
"""


def run_script(path, *arguments):
    done = subprocess.run(
        [sys.executable, str(path), *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_main_and_own_modules_travel_by_value_as_they_are_now(cluster, tmp_path):
    script, helper = tmp_path / "script.py", tmp_path / "own_helper.py"
    script.write_text(textwrap.dedent(SCRIPT))

    helper.write_text("def shift(value):\n    return value + 1\n")
    first = run_script(script, cluster.endpoint, "10")
    helper.write_text("def shift(value):\n    return value + 200\n")
    second = run_script(script, cluster.endpoint, "10")

    assert (first, second) == (["20"], ["2010"])


def describe_array(array):
    return array.flags.owndata, array.nbytes, float(array.sum())


def test_arrays_travel_out_of_band_both_ways(client):
    array = np.ones((1000, 1000))

    owns, size, total = client.submit(describe_array, array).result(PATIENCE_S)
    back = client.submit(double, {"x": array}).exception(PATIENCE_S)
    twice = client.submit(np.multiply, array, 2).result(PATIENCE_S)

    # An array that does not own its memory lies in the frame that it came in.
    assert (owns, size, total) == (False, array.nbytes, 1e6)
    assert isinstance(back, TypeError)
    assert not twice.flags.owndata
    assert twice.sum() == 2e6


# --- labels

CHOICES = [
    ({"memory": 512}, LARGE),
    ({"memory": 512.0}, LARGE),
    ({"memory": Desired(512, Comparator.NOT_EQUAL)}, SMALL),
    ({"memory": Desired(256, Comparator.GREATER_THAN)}, LARGE),
    ({"memory": Desired(512, Comparator.GREATER_THAN_OR_EQUAL)}, LARGE),
    ({"memory": Desired(512, Comparator.LESS_THAN)}, SMALL),
    ({"memory": Desired(16, Comparator.LESS_THAN_OR_EQUAL)}, SMALL),
    ({"ratio": Desired(0.4, Comparator.GREATER_THAN)}, LARGE),
    ({"zone": Desired(["us", "ap"], Comparator.IN)}, SMALL),
    ({"zone": Desired(["us", "ap"], Comparator.NOT_IN)}, LARGE),
    ({"gpu": Desired(comparator=Comparator.EXISTS)}, LARGE),
    ({"gpu": Desired(comparator=Comparator.NOT_EXISTS)}, SMALL),
    ({"gpu": True}, LARGE),
    ({"model": "v2"}, LARGE),
    ({"model": Desired("v2", Comparator.NOT_EQUAL)}, SMALL),
    ({"model": {"value": "v1", "comparator": Comparator.EQUAL, "required": True}}, LARGE),
    ({"zone": "us", "memory": Desired(100, Comparator.LESS_THAN)}, SMALL),
]


@pytest.mark.parametrize(("labels", "actor"), CHOICES, ids=str)
def test_desired_labels_choose_the_actor(client, labels, actor):
    assert client.submit(where, desired_labels=labels).result(PATIENCE_S) == actor


def test_a_wish_pulls_and_a_heavier_one_pulls_harder(client):
    wishes = {
        "zone": Desired("us", required=False, weight=1),
        "memory": Desired(256, Comparator.GREATER_THAN, required=False, weight=10),
    }
    light = {"zone": Desired("us", required=False), "nowhere": Desired("x", required=False)}

    assert client.submit(where, desired_labels=wishes).result(PATIENCE_S) == LARGE
    assert client.submit(where, desired_labels=light).result(PATIENCE_S) == SMALL


def relabel(upserted, deleted):
    actor = current_task().actor
    actor.upsert_labels(upserted)
    actor.delete_labels(*deleted)


def test_labels_that_change_at_run_time_move_what_waits(client):
    waiting = client.submit(where, desired_labels={"loaded": "v7"})
    assert "loaded" in client.explain(waiting)["reason"]

    client.submit(relabel, {"loaded": "v7"}, [], desired_labels=ON_SMALL).result(PATIENCE_S)

    assert waiting.result(PATIENCE_S) == SMALL
    client.submit(relabel, {}, ["loaded"], desired_labels=ON_SMALL).result(PATIENCE_S)
    gone = client.submit(where, desired_labels={"loaded": "v7"})
    assert "offers nothing" in client.explain(gone)["reason"]
    assert gone.cancel()


def change_and_read(labels):
    actor = current_task().actor
    actor.upsert_labels(labels)
    first = actor.labels
    actor.delete_labels(*labels)
    return first, actor.labels


async def change_and_read_async(labels):
    return change_and_read(labels)


@pytest.mark.parametrize("function", [change_and_read, change_and_read_async])
def test_a_change_of_labels_holds_when_the_call_returns(client, function):
    future = client.submit(function, {"loaded": ["v1", 2, 0.5, True]}, desired_labels=ON_LARGE)
    first, second = future.result(PATIENCE_S)

    assert first["loaded"] == ["v1", 2, 0.5, True]
    assert "loaded" not in second
    assert second["memory"] == 512


def test_two_actors_of_one_host_have_labels_of_their_own():
    labels = {"gpu": "{index}", "1:big": True, "limit": float("inf")}
    with LocalCluster(actors=[{"replicas": 2, "labels": labels}]) as cluster:
        client = cluster.client()
        wish = {"gpu": "1", "big": True, "limit": Desired(1e9, Comparator.GREATER_THAN)}

        assert client.submit(where, desired_labels=wish).result(PATIENCE_S) == "local0/1"
        assert client.submit(where, desired_labels={"gpu": "0"}).result(PATIENCE_S) == "local0/0"
        offered = {actor["name"]: actor["labels"] for actor in client.actors()}
        assert "big" not in offered["local0/0"]


def test_a_task_that_wants_no_long_wait_ends_with_the_reason(client):
    wish = {"zone": "moon"}
    # That without a limit is there as long as it is asked about.
    like_it = client.submit(double, 1, desired_labels=wish)
    reason = client.explain(like_it)["reason"]
    like_it.cancel()

    future = client.submit(double, 1, desired_labels=wish, schedule_timeout=0.5)
    with pytest.raises(ScheduleTimeout) as caught:
        future.result(PATIENCE_S)

    assert str(caught.value) == f"no actor within 0.5 s: {reason}"
    assert "zone eq 'moon', offers 'eu'" in reason
    assert client.submit(double, 1, schedule_timeout=PATIENCE_S).result(PATIENCE_S) == 2


def test_why_a_task_waits_can_be_asked_and_is_logged_after_three_seconds(client, capfd):
    future = client.submit(double, 1, desired_labels={"memory": 4096, "zone": "moon"})

    answer = client.explain(future)

    assert answer["state"] == "queued"
    assert future.status() == "unsatisfiable"
    assert "memory eq 4096, offers 512" in answer["actors"][LARGE]
    assert "zone eq 'moon', offers 'us'" in answer["actors"][SMALL]
    said = []
    wait_until(lambda: said.append(capfd.readouterr().err) or "task_waits" in "".join(said))
    (line,) = [line for line in "".join(said).splitlines() if "task_waits" in line]
    assert future.task_id in line
    assert "4096" in line
    assert future.cancel()


def test_of_many_reasons_the_first_are_logged_and_the_others_counted(client, capfd, monkeypatch):
    monkeypatch.setattr(sdk.calls.reasons, "WINDOW_S", 1.0)
    monkeypatch.setattr(sdk.connection, "PATIENCE_S", 0.1)

    futures = [client.submit(double, 1, desired_labels={"customer": n}) for n in range(40)]

    said = []
    wait_until(lambda: said.append(capfd.readouterr().err) or "task_waits_more" in "".join(said))
    lines = "".join(said).splitlines()
    assert sum("task_waits " in line for line in lines) == sdk.calls.reasons.SAID_MAX
    [more] = [line for line in lines if "task_waits_more" in line]
    assert "waiting_tasks=40" in more
    assert all(future.cancel() for future in futures)


# --- the slot


def release_and_wait(begun, path):
    task = current_task()
    first, second = task.release_slot(), task.release_slot()
    Path(begun).touch()
    return first, second, wait_for(path)


def test_a_released_slot_is_the_next_tasks_and_the_first_goes_on(client, flag, tmp_path):
    small = client.options(desired_labels=ON_SMALL)
    releasing = [small.submit(release_and_wait, tmp_path / f"begun{n}", flag) for n in range(3)]

    # All three hold no slot at the same time on the one that has a single one.
    for n in range(3):
        wait_until((tmp_path / f"begun{n}").exists)
    assert small.submit(where).result(PATIENCE_S) == SMALL
    assert not any(future.done() for future in releasing)
    (actor,) = [actor for actor in client.actors() if actor["name"] == SMALL]
    assert sorted(run["state"] for run in actor["holding"]) == ["released"] * 3

    flag.touch()
    assert gather(releasing, timeout=PATIENCE_S) == [(True, False, "flag")] * 3


def test_a_released_task_can_be_canceled(client, flag, tmp_path):
    begun = tmp_path / "begun"
    future = client.submit(release_and_wait, begun, flag)
    wait_until(begun.exists)

    assert future.cancel()

    wait_until(lambda: client.query("status")["assigned"] == 0)


def release_and_die():
    current_task().release_slot()
    os._exit(9)


def test_a_released_task_dies_with_its_process(client):
    with pytest.raises(PoisonTask, match="9"):
        client.submit(release_and_die, desired_labels=ON_SMALL).result(PATIENCE_S)


# --- environments


class Counter(Environment):
    reuse = ReusePolicy(replicas=(1, 2))
    labels: ClassVar = {"counter": "here"}

    def enter(self, start=0):
        self.count = start

    def add(self, amount):
        self.count += amount
        return self.count, os.getpid()

    async def add_later(self, amount):
        await asyncio.sleep(0.01)
        return self.add(amount)


class Picky(Environment):
    def enter(self, path):
        if not Path(path).exists():
            raise FileNotFoundError(f"{path} is not there yet")

    def ask(self):
        return "entered"


class Clean(Environment):
    def enter(self):
        self.resets = 0

    def reset(self):
        self.resets += 1

    def look(self):
        return self.resets


def count_with(amount):
    return current_task().environment.add(amount)


def test_an_environment_stays_and_is_shared_by_functions_and_methods(client):
    small = client.options(desired_labels=ON_SMALL)
    first, pid = small.submit(Counter.add, 1).result(PATIENCE_S)
    using = client.options(desired_labels=ON_SMALL, environment=Counter)

    assert using.submit(count_with, 1).result(PATIENCE_S) == (first + 1, pid)
    assert small.submit(Counter.add_later, 1).result(PATIENCE_S) == (first + 2, pid)
    # Its labels are offered while it is warm.
    assert client.submit(where, desired_labels={"counter": "here"}).result(PATIENCE_S) == SMALL


def test_parameters_make_another_environment(client):
    small = client.options(desired_labels=ON_SMALL)
    hundred = Counter.using(start=100)

    small.submit(Counter.add, 0).result(PATIENCE_S)
    assert small.submit(hundred.add, 1).result(PATIENCE_S)[0] == 101
    assert small.submit(hundred.add, 1).result(PATIENCE_S)[0] == 102
    assert small.submit(Counter.add, 0).result(PATIENCE_S)[0] < 100


def test_only_one_task_at_a_time_is_in_an_environment(client):
    class Turnstile(Environment):
        def enter(self):
            self.inside = 0

        def go(self):
            self.inside += 1
            seen = self.inside
            threading.Event().wait(0.005)
            self.inside -= 1
            return seen

    large = client.options(desired_labels=ON_LARGE)
    futures = [large.submit(Turnstile.go) for _ in range(20)]
    assert gather(futures, timeout=PATIENCE_S) == [1] * 20


def test_reset_runs_between_tasks(client):
    small = client.options(desired_labels=ON_SMALL)

    looks = [small.submit(Clean.look).result(PATIENCE_S) for _ in range(3)]

    assert looks == [0, 1, 2]


def test_an_environment_that_cannot_be_entered_fails_the_task_and_may_be_tried_again(client, flag):
    picky = Picky.using(path=str(flag))
    with pytest.raises(EnvironmentFailed) as caught:
        client.submit(picky.ask).result(PATIENCE_S)
    assert "is not there yet" in str(caught.value)
    assert "in enter" in str(caught.value.__cause__)

    flag.touch()
    client.query("environment-retry", repr(picky))

    assert client.submit(picky.ask).result(PATIENCE_S) == "entered"


def release_and_ask():
    task = current_task()
    resident = task.environment
    task.release_slot()
    try:
        return task.environment
    except SlotReleased as error:
        return resident.add(0)[0] >= 0, str(error)


def test_after_release_slot_the_environment_is_somebody_elses(client):
    kept, text = client.submit(release_and_ask, environment=Counter).result(PATIENCE_S)

    assert kept
    assert "before release_slot()" in text


WARM_SCRIPT = """
    import os, sys
    from sdk import Client, Environment

    class Model(Environment):
        def enter(self):
            self.count = 0

        def step(self):
            self.count += 1
            return self.count, os.getpid()

    with Client(sys.argv[1], connect_timeout=60) as client:
        small = client.options(desired_labels={"name": "small/0"})
        print(*small.submit(Model.step).result(60))
"""


def test_a_second_run_of_the_same_script_finds_its_environment_warm(cluster, tmp_path):
    script = tmp_path / "warm.py"
    script.write_text(textwrap.dedent(WARM_SCRIPT))
    first = run_script(script, cluster.endpoint)
    second = run_script(script, cluster.endpoint)
    # Another line of code is another model.
    script.write_text(textwrap.dedent(WARM_SCRIPT).replace("count += 1", "count += 5"))
    changed = run_script(script, cluster.endpoint)

    assert first[0] == "1"
    assert second == ["2", first[1]]
    assert changed == ["5", first[1]]


# --- async functions, options, the task's own side


async def meet(path, number, count):
    """Wait on the event loop for all others; the slot is given back so that all can meet."""
    current_task().release_slot()
    with path.open("a") as file:
        file.write(f"{number}\n")
    while len(path.read_text().splitlines()) < count:  # noqa: ASYNC110 - that is what they share.
        await asyncio.sleep(0.01)
    return current_task().actor.name, number


def test_async_functions_run_on_the_event_loop_together(client, tmp_path):
    large = client.options(desired_labels=ON_LARGE)

    futures = large.map(meet, [tmp_path / "all"] * 40, range(40), [40] * 40)

    assert gather(futures, timeout=PATIENCE_S) == [(LARGE, n) for n in range(40)]


def touch(path):
    Path(path).touch()


async def note_the_cancel(begun, told):
    touch(begun)
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        touch(told)
        raise


def test_a_coroutine_is_canceled_where_it_waits(client, tmp_path):
    begun, told = tmp_path / "begun", tmp_path / "told"
    future = client.submit(note_the_cancel, begun, told)
    wait_until(begun.exists)

    assert future.cancel()

    wait_until(told.exists)


def test_a_task_knows_itself(client):
    def look():
        task = current_task()
        return task.id, task.name, task.attempt, dict(task.metadata), task.actor.labels["zone"]

    future = client.options(
        name="look here", metadata={"run": 7}, desired_labels=ON_SMALL, priority=3
    ).submit(look)

    assert future.result(PATIENCE_S) == (future.task_id, "look here", 1, {"run": 7}, "us")
    assert (future.actor, future.attempt) == (SMALL, 1)
    with pytest.raises(NotInTask):
        current_task()


@task(desired_labels=ON_SMALL, name="decorated")
def decorated(value):
    return value, current_task().name


def test_a_decorated_function_has_options_of_its_own(client):
    assert client.submit(decorated, 1).result(PATIENCE_S) == (1, "decorated")
    over = client.options(name="over").submit(decorated, 2)
    assert over.result(PATIENCE_S) == (2, "over")
    assert over.actor == SMALL


def test_priority_goes_before_order(client, flag, tmp_path):
    begun = tmp_path / "begun"
    small = partial(client.options, desired_labels=ON_SMALL)
    blocker = small().submit(touch_and_wait_for, begun, flag)
    wait_until(begun.exists)
    done = []
    futures = [small(priority=p).submit(double, p) for p in (-5, 0, 5)]
    for future in futures:
        future.add_done_callback(lambda future: done.append(future.result()))
    assert client.flush(PATIENCE_S)

    flag.touch()

    gather([blocker, *futures], timeout=PATIENCE_S)
    assert done == [10, 0, -10]


def test_a_task_may_take_more_than_one_slot(client):
    assert client.submit(where, slots=2).result(PATIENCE_S) == LARGE
    never = client.submit(where, slots=3)
    assert "needs 3 slots, has 2" in client.explain(never)["reason"]
    assert never.cancel()


def test_a_timeout_ends_a_task_and_is_no_timeout_of_the_wait(client, tmp_path):
    begun = tmp_path / "begun"
    future = client.options(timeout=0.3).submit(touch_and_wait_for, begun, tmp_path / "never")

    with pytest.raises(TaskTimeout) as caught:
        future.result(PATIENCE_S)

    assert not isinstance(caught.value, TimeoutError)
    assert "0.3 s" in str(caught.value)


def call_others(values):
    client = current_task().client
    return sum(gather(client.map(double, values), timeout=60))


def test_a_task_may_submit_tasks(client):
    future = client.submit(call_others, [1, 2, 3], desired_labels=ON_LARGE)

    assert future.result(PATIENCE_S) == 12


def test_accepted_and_flush_mean_that_the_broker_has_it(client, flag):
    futures = [client.submit(wait_for, flag) for _ in range(10)]

    assert futures[-1].accepted(PATIENCE_S)
    assert client.flush(PATIENCE_S)

    tasks = client.query("tasks")["tasks"]
    assert sum(task["name"] == "wait_for" for task in tasks) == 10
    flag.touch()
    gather(futures, timeout=PATIENCE_S)


def test_a_task_beyond_the_window_waits_here_and_says_so(tmp_path):
    with Deployment("--window-tasks", "2") as world:
        world.start_broker()
        client = world.client()
        futures = client.map(double, range(3))

        wait_until(lambda: futures[1].status() == "unsatisfiable")
        assert futures[2].status() == "waiting"
        assert "in this process" in client.explain(futures[2])["reason"]

        world.start_host("h")
        assert gather(futures, timeout=PATIENCE_S) == [0, 2, 4]


def number_of_assignment(_):
    return current_task().token[1]


def test_two_clients_share_the_actors_fairly(cluster, client, flag):
    holder = client.submit(wait_for, flag, desired_labels=ON_SMALL)
    with Client(cluster.endpoint) as other:
        many = client.options(desired_labels=ON_SMALL).map(number_of_assignment, range(200))
        client.flush(PATIENCE_S)
        few = other.options(desired_labels=ON_SMALL).map(number_of_assignment, range(5))
        other.flush(PATIENCE_S)
        flag.touch()

        last_of_few = max(gather(few, timeout=PATIENCE_S))
        of_many = gather(many, timeout=PATIENCE_S)
    assert sum(number < last_of_few for number in of_many) < 100
    assert holder.result(PATIENCE_S) == flag.name
