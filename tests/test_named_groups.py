"""Concurrency groups of named actors, as users write them, with real processes."""

import asyncio
import threading
from typing import ClassVar

import pytest

from sdk import Deadlock, Environment, LocalCluster, concurrency_group, gather
from tests.support.deployment import DEADLINE_S, HASTY_BROKER, HASTY_HOST

pytestmark = pytest.mark.process

TIMEOUT_S = DEADLINE_S


class Store(Environment):
    """Reads come together, two at a time; writes one after the other; who looks waits for none."""

    concurrency_groups: ClassVar = {"io": 2}

    def enter(self):
        self.here = 0
        self.most = 0
        self.order = []
        self.both = asyncio.Event()
        self.written = threading.Event()

    @concurrency_group("io")
    async def read(self, number):
        self.order.append(number)
        self.here += 1
        self.most = max(self.most, self.here)
        if self.here == 2:
            self.both.set()
        await self.both.wait()
        self.here -= 1
        return number

    @concurrency_group("io")
    def scan(self):
        return self.here

    def write(self):
        assert self.written.wait(TIMEOUT_S)
        return "written"

    def look(self):
        self.written.set()
        return list(self.order), self.most

    async def ask(self, me, group):
        return await me.look.options(concurrency_group=group).submit()


@pytest.fixture(scope="module")
def cluster():
    actors = [{"replicas": 2, "slots": 2, "arguments": HASTY_HOST}]
    with LocalCluster(actors, arguments=HASTY_BROKER) as cluster:
        yield cluster


def test_two_of_a_group_are_inside_and_their_order_is_that_of_the_caller(client):
    store = client.actor(Store)

    assert gather(store.read.map(range(10)), timeout=TIMEOUT_S) == list(range(10))

    order, most = store.look.submit().result(TIMEOUT_S)
    assert most == 2
    assert all(number <= order.index(number) + 1 for number in range(10))


def test_a_call_of_another_group_does_not_wait(client):
    store = client.actor(Store)
    written = store.write.submit()

    looked = store.look.options(concurrency_group="io").submit()

    assert looked.result(TIMEOUT_S) == ([], 0)
    assert written.result(TIMEOUT_S) == "written"


def test_a_sync_method_is_alone_in_its_group(client):
    store = client.actor(Store)
    reads = [store.read.submit(n) for n in range(2)]

    assert store.scan.submit().result(TIMEOUT_S) == 0
    assert gather(reads, timeout=TIMEOUT_S) == [0, 1]


def test_a_call_that_waits_for_its_own_group_is_told_so_and_for_another_one_is_not(client):
    store = client.actor(Store)

    with pytest.raises(Deadlock):
        store.ask.submit(store, None).result(TIMEOUT_S)

    assert store.ask.submit(store, "io").result(TIMEOUT_S) == ([], 0)


class Plain:
    @concurrency_group("gpu")
    def infer(self):
        return 1

    def look(self):
        return 2


def test_the_sizes_can_stand_where_it_is_made(client):
    plain = client.actor(Plain, concurrency_groups={"gpu": 1, "io": 1})

    assert plain.infer.submit().result(TIMEOUT_S) == 1
    assert plain.look.options(concurrency_group="io").submit().result(TIMEOUT_S) == 2
    with pytest.raises(ValueError, match="has no concurrency group 'net'; it has 'gpu', 'io'"):
        plain.look.options(concurrency_group="net").submit()


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({}, "is of the concurrency group 'gpu', which has no size"),
        ({"concurrency_groups": {"gpu": 0}}, "'gpu': 0 is not an int of at least 1"),
        ({"concurrency_groups": {"gpu": 2}}, r"\{'gpu': 2\} needs an async method"),
        ({"concurrency_groups": {"gpu": 1, "io": 3}}, r"\{'io': 3\} needs an async method"),
        ({"concurrency_groups": {"gpu": 1}, "concurrency": 2}, "concurrency=2 needs an async"),
        ({"concurrency_groups": {"": 1}}, "concurrency group '' is not a string"),
    ],
)
def test_what_nobody_could_use_is_refused_where_it_is_written(client, given, error):
    with pytest.raises(ValueError, match=error):
        client.actor(Plain, **given)
