"""Tasks that wait for calls of their own give their slots back: real processes, one slot."""

import asyncio
import os
import select
from pathlib import Path

import pytest

from sdk import (
    Environment,
    EnvironmentFailed,
    Infeasible,
    LocalCluster,
    TaskCanceled,
    as_completed,
    current_task,
    gather,
    wait,
)
from tests.support.deployment import DEADLINE_S, HASTY_BROKER

pytestmark = pytest.mark.process

TIMEOUT_S = DEADLINE_S
LEVELS = 50
LEFT = 20


@pytest.fixture(scope="module")
def client():
    with (
        LocalCluster(actors=1, slots=1, arguments=HASTY_BROKER) as cluster,
        cluster.client() as client,
    ):
        yield client


def countdown(level):
    if not level:
        return 0
    return 1 + current_task().client.submit(countdown, level - 1).result()


async def countdown_async(level):
    if not level:
        return 0
    return 1 + await current_task().client.submit(countdown_async, level - 1)


def identity(value):
    return value


@pytest.mark.parametrize("function", [countdown, countdown_async])
def test_fifty_levels_end_on_one_slot(client, function):
    assert client.submit(function, LEVELS).result(TIMEOUT_S) == LEVELS


def test_who_calls_from_a_task_is_known_by_its_actor(client):
    """All of a host were "task of forkserver.py"."""
    assert client.submit(countdown, 1).result(TIMEOUT_S) == 1

    known = client.query("clients")["clients"]
    assert "tasks of local/0" in [one["name"] for one in known]


def wait_in(how):
    task = current_task()
    futures = [task.client.submit(identity, n) for n in range(3)]
    match how:
        case "wait":
            ready, pending = wait(futures, num_returns=3)
            assert not pending
            results = [future.result() for future in ready]
        case "as_completed":
            results = [future.result() for future in as_completed(futures)]
        case _:
            results = gather(futures)
    return sorted(results), task.is_released


@pytest.mark.parametrize("how", ["wait", "as_completed", "gather"])
def test_every_way_to_wait_gives_the_slot_back_and_has_it_again(client, how):
    assert client.submit(wait_in, how).result(TIMEOUT_S) == ([0, 1, 2], False)


def test_coroutines_that_wait_side_by_side_hold_nothing_meanwhile(client):
    async def work():
        task = current_task()
        found = await asyncio.gather(*(task.client.submit(identity, n) for n in range(5)))
        return found, task.is_released

    assert client.submit(work).result(TIMEOUT_S) == ([0, 1, 2, 3, 4], False)


def test_who_leaves_an_executor_gives_its_slot_back_for_what_runs(client):
    # It waited in a way that nobody sees, and the call for its slot, both for ever.
    def work():
        with current_task().client.executor() as executor:
            futures = [executor.submit(identity, n) for n in range(3)]
        return [future.done() for future in futures], current_task().is_released

    assert client.submit(work).result(TIMEOUT_S) == ([True, True, True], False)


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_calls_for_which_a_task_does_not_wait_go_on(client, tmp_path, kind):
    # They take another way to the broker: where its outcome was there first they were refused.
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDWR)

    def child():
        Path(pipe).write_bytes(b".")

    def leaves():
        current_task().client.submit(child)

    async def leaves_async():
        current_task().client.submit(child)

    for _ in range(LEFT):
        client.submit(leaves_async if kind == "async" else leaves).result(TIMEOUT_S)

    said = b""
    while len(said) < LEFT and select.select([end], [], [], TIMEOUT_S)[0]:
        said += os.read(end, LEFT)
    os.close(end)
    assert len(said) == LEFT


def test_who_had_released_its_slot_stays_released(client):
    def work():
        task = current_task()
        task.release_slot()
        task.client.submit(identity, 1).result()
        return task.is_released

    assert client.submit(work).result(TIMEOUT_S) is True


def test_an_outcome_that_is_there_costs_no_slot(client):
    def work():
        task = current_task()
        future = task.client.submit(identity, 1)
        with task.released_slot():
            future.result()
        before = task.is_released
        return before, future.result(), task.is_released

    assert client.submit(work).result(TIMEOUT_S) == (False, 1, False)


def test_looking_is_no_wait(client):
    def work():
        task = current_task()
        future = task.client.submit(identity, 1)
        try:
            future.result(timeout=0)
        except TimeoutError:
            return task.is_released, future.result()

    assert client.submit(work).result(TIMEOUT_S) == (False, 1)


def test_a_blocking_wait_on_the_event_loop_says_what_to_do(client):
    async def work():
        future = current_task().client.submit(identity, 1)
        try:
            future.result()
        except RuntimeError as error:
            return str(error), await future

    text, value = client.submit(work).result(TIMEOUT_S)

    assert "await" in text
    assert value == 1


class Asking(Environment):
    def enter(self):
        self.weights = current_task().client.submit(abs, -7).result(TIMEOUT_S)

    def read(self):
        return self.weights


class AskingAsync(Asking):
    async def enter(self):
        self.weights = await current_task().client.submit(abs, -8)


class Closed(Environment):
    """Is of use between `enter` and `exit` alone."""

    def enter(self, name=""):
        self.is_open = True

    def exit(self):
        self.is_open = False

    def work(self):
        return self.is_open

    def calls(self, place):
        """Return whether it can be used behind a wait for what needs its place."""
        found = current_task().client.submit(place.work).result()
        return found and self.is_open and current_task().environment is self

    async def calls_async(self, place):
        found = await current_task().client.submit(place.work)
        return found and self.is_open and current_task().environment is self

    def gives_back(self, place):
        task = current_task()
        with task.released_slot():
            found = task.client.submit(place.work).result()
        return found and self.is_open and task.environment is self


@pytest.mark.parametrize("how", ["calls", "calls_async", "gives_back"])
def test_a_method_comes_back_to_a_self_that_is_open_though_its_copy_had_to_leave(client, how):
    """Another instance was loaded for it: after `child.result()` its `self.model` was closed."""
    other, third = Closed.using(name="other"), Closed.using(name="third")
    found = [client.submit(getattr(Closed, how), other) for _ in range(4)]
    # Those that have nothing to do with them take the only place as well.
    found += [client.submit(third.work) for _ in range(4)]
    found += [client.submit(Closed.work) for _ in range(4)]

    assert [future.result(TIMEOUT_S) for future in found] == [True] * 12


def test_an_enter_that_waits_for_a_call_of_its_own_does_not_hang():
    with LocalCluster(1, slots=2) as cluster, cluster.client() as client:
        assert client.submit(Asking.read).result(TIMEOUT_S) == 7
        assert client.submit(AskingAsync.read).result(TIMEOUT_S) == 8


class Hasty(Environment):
    def enter(self, how):
        if how == "release":
            current_task().release_slot()
        with current_task().released_slot():
            pass

    def read(self):
        return 1


@pytest.mark.parametrize("how", ["release", "block"])
def test_an_enter_that_gives_its_slot_back_is_told_so_and_does_not_hang(how):
    with (
        LocalCluster(1, slots=1, arguments=HASTY_BROKER) as cluster,
        cluster.client() as client,
        pytest.raises(EnvironmentFailed, match=r"release.*_slot\(\) inside enter\(\)"),
    ):
        client.submit(Hasty.using(how=how).read).result(TIMEOUT_S)


def test_an_enter_that_waits_for_the_slot_that_it_has_is_told_so():
    with (
        LocalCluster(1, slots=1, arguments=HASTY_BROKER) as cluster,
        cluster.client() as client,
        pytest.raises(EnvironmentFailed, match="Deadlock"),
    ):
        client.submit(Asking.read).result(TIMEOUT_S)


def test_a_failed_call_raises_with_the_slot_had_again(client):
    def fail():
        raise KeyError("inside")

    def work():
        task = current_task()
        try:
            task.client.submit(fail).result()
        except KeyError:
            return task.is_released

    assert client.submit(work).result(TIMEOUT_S) is False


def test_a_canceled_task_that_waits_ends_and_leaves_its_slot(client):
    def parent():
        return current_task().client.submit(countdown, LEVELS).result()

    future = client.submit(parent)
    future.cancel()

    with pytest.raises(TaskCanceled):
        future.result(TIMEOUT_S)
    assert client.submit(identity, 3).result(TIMEOUT_S) == 3


# --- slot types


def test_each_task_knows_which_unit_it_holds():
    def hold():
        task = current_task()
        mine = task.slot_ids["gpu"]
        task.client.pause(0.2)
        return mine

    slots = {"slot": 1, "gpu": ["a", "b"]}
    with LocalCluster(actors=1, slots=slots) as cluster, cluster.client() as client:
        found = gather([client.submit(hold, slots={"gpu": 1}) for _ in range(2)])
        both = client.submit(lambda: current_task().slot_ids, slots={"gpu": 2})

        assert sorted(found) == [["a"], ["b"]]
        assert sorted(both.result(TIMEOUT_S)["gpu"]) == ["a", "b"]
        with pytest.raises(Infeasible, match="gpu"):
            client.submit(identity, 1, slots={"gpu": 3}, fail_infeasible=True).result(TIMEOUT_S)
