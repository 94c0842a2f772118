"""The whole surface of the SDK against a LocalCluster of two unlike actors.

`large` has two slots and labels, `small` has one slot and says where it is.
"""

import asyncio
import concurrent.futures
import threading
from functools import partial
from pathlib import Path

import pytest

from sdk import (
    AsyncClient,
    Client,
    LocalCluster,
    NotInTask,
    TaskCanceled,
    TaskTimeout,
    as_completed,
    current_task,
    gather,
    task,
    wait,
)
from tests.support.deployment import (
    DEADLINE_S,
    HASTY_BROKER,
    HASTY_HOST,
    Deployment,
    wait_until,
)

pytestmark = [pytest.mark.process, pytest.mark.slow]

PATIENCE_S = DEADLINE_S
LARGE, SMALL = "large/0", "small/0"
LABELS = {"memory": 512, "ratio": 0.5, "gpu": True, "model": ["v1", "v2"], "zone": "eu"}
ON_LARGE = {"name": LARGE}
ON_SMALL = {"name": SMALL}
ACTORS = [
    {"name": "large", "slots": 2, "labels": LABELS, "arguments": HASTY_HOST},
    # Nothing waits ahead here, so that the order in which tasks start can be told.
    {
        "name": "small",
        "slots": 1,
        "labels": {"memory": 16, "zone": "us"},
        "prefetch": 0,
        "arguments": HASTY_HOST,
    },
]


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(ACTORS, arguments=HASTY_BROKER) as cluster:
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
