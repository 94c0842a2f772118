"""Batches in real processes: what is collected, who is told what, and what ends one."""

import os
import threading
import warnings
from pathlib import Path

import pytest

from sdk import (
    Environment,
    LocalCluster,
    NotInTask,
    PoisonTask,
    ReusePolicy,
    TaskCanceled,
    batch,
    current_task,
    gather,
)
from tests.support.deployment import DEADLINE_S, wait_until

pytestmark = [pytest.mark.process, pytest.mark.slow]

PATIENCE_S = DEADLINE_S


with warnings.catch_warnings():
    # Tasks of one replica never wait for one another here.
    warnings.simplefilter("ignore", UserWarning)

    class Model(Environment):
        reuse = ReusePolicy(replicas=(0, 1), idle_ttl=60)

        def enter(self, gate=""):
            self.gate = Path(gate)
            self.sizes = []

        @batch(max_size=8, max_wait_ms=60_000)
        def double(self, numbers, by=2):
            self.note(len(numbers))
            return [number * factor for number, factor in zip(numbers, by, strict=True)]

        @batch(max_size=2, max_wait_ms=50)
        def pair(self, numbers):
            self.note(len(numbers))
            return numbers

        def note(self, size):
            """Wait for the gate, which a test opens."""
            self.sizes.append(size)
            while not self.gate.exists():
                threading.Event().wait(0.005)

        @batch
        def picky(self, numbers):
            if 13 in numbers:
                raise OSError("no 13")
            return [ValueError(f"{n} is odd") if n % 2 else n for n in numbers]

        @batch
        def short(self, numbers):
            return numbers[:-1]

        @batch
        def context(self, numbers):
            try:
                return [current_task().name for _ in numbers]
            except NotInTask:
                return numbers

        @batch
        def fatal(self, numbers):
            if 13 in numbers:
                os._exit(9)
            return numbers

        def seen(self):
            return self.sizes


class Asynchronous(Environment):
    reuse = ReusePolicy(replicas=(0, 1), idle_ttl=60, concurrency=2)

    def enter(self):
        import asyncio

        self.inside = 0
        self.both = asyncio.Event()

    @batch(max_size=4)
    async def meet(self, numbers):
        """Return when two batches are inside."""
        self.inside += 1
        if self.inside == 2:
            self.both.set()
        await self.both.wait()
        return numbers


class Plain:
    @batch(max_size=8)
    def double(self, numbers):
        return [(number * 2, len(numbers)) for number in numbers]


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(actors=1, slots=1) as cluster:
        yield cluster


@pytest.fixture
def gate(tmp_path):
    return tmp_path / "gate"


def held(client):
    return sum(len(actor["holding"]) for actor in client.actors())


def begun(client, method, count):
    """Return the futures of one call that runs, and of *count* that wait for it in the actor."""
    first = client.submit(method, 0)
    wait_until(lambda: held(client) == 1, PATIENCE_S)
    futures = [first, *(client.submit(method, number) for number in range(1, count + 1))]
    wait_until(lambda: held(client) == count + 1, PATIENCE_S)
    return futures


def test_calls_that_come_while_one_runs_are_the_next_batch(client, gate):
    model = Model.using(gate=str(gate))
    futures = begun(client, model.double, 7)

    gate.touch()

    assert gather(futures, timeout=PATIENCE_S) == [0, 2, 4, 6, 8, 10, 12, 14]
    sizes = client.submit(model.seen).result(PATIENCE_S)
    assert sum(sizes) == 8
    assert max(sizes) >= 4


def test_a_single_call_waits_for_nobody(client, gate):
    gate.touch()
    model = Model.using(gate=str(gate))

    # It would wait for a minute.
    assert client.submit(model.double, 4, by=3).result(PATIENCE_S) == 12


def test_what_waits_for_more_goes_when_its_time_is_over(client, gate):
    model = Model.using(gate=str(gate))
    futures = begun(client, model.pair, 1)

    gate.touch()

    assert gather(futures, timeout=PATIENCE_S) == [0, 1]


def test_a_call_that_is_canceled_while_it_gathers_is_in_no_batch(client, gate):
    model = Model.using(gate=str(gate))
    first, second, third = begun(client, model.double, 2)

    assert second.cancel()
    gate.touch()

    assert gather([first, third], timeout=PATIENCE_S) == [0, 4]
    with pytest.raises(TaskCanceled):
        second.result(PATIENCE_S)


def test_each_call_has_its_own_error(client):
    futures = [client.submit(Model.picky, number) for number in range(6)]

    found = gather(futures, return_exceptions=True, timeout=PATIENCE_S)

    assert [n for n in found if isinstance(n, int)] == [0, 2, 4]
    assert [str(n) for n in found if not isinstance(n, int)] == [
        "1 is odd",
        "3 is odd",
        "5 is odd",
    ]


def test_what_the_method_raises_all_calls_raise(client):
    with pytest.raises(OSError, match="no 13"):
        client.submit(Model.picky, 13).result(PATIENCE_S)


def test_too_few_results_are_an_error_and_nobody_has_anothers(client):
    with pytest.raises(ValueError, match=r"Model\.short returned 0 results for a batch of 1"):
        client.submit(Model.short, 1).result(PATIENCE_S)


def test_arguments_that_do_not_fit_are_the_error_of_one_call(client):
    wrong = client.submit(Model.picky, 2, 3, 4)

    assert client.submit(Model.picky, 2).result(PATIENCE_S) == 2
    with pytest.raises(TypeError, match="too many positional"):
        wrong.result(PATIENCE_S)


def test_in_a_batch_there_is_no_task(client):
    assert client.submit(Model.context, 1).result(PATIENCE_S) == 1


def test_a_fresh_copy_has_a_batch_of_one(client):
    assert client.submit(Model.picky, 2, reuse=False).result(PATIENCE_S) == 2


def test_async_batches_run_beside_one_another(client):
    futures = [client.submit(Asynchronous.meet, number) for number in range(8)]

    assert gather(futures, timeout=PATIENCE_S) == list(range(8))


def test_a_named_actor_collects_as_many_as_may_be_inside(client):
    plain = client.actor(Plain, name="plain", concurrency=4)

    found = gather([plain.double.submit(number) for number in range(20)], timeout=PATIENCE_S)

    assert [value for value, _ in found] == list(range(0, 40, 2))
    assert max(size for _, size in found) <= 4


def test_a_batch_that_ends_its_process_takes_nobody_else_along(client):
    futures = [client.submit(Model.fatal, number) for number in (1, 13, 2)]

    assert gather([futures[0], futures[2]], timeout=PATIENCE_S) == [1, 2]
    with pytest.raises(PoisonTask):
        futures[1].result(PATIENCE_S)
