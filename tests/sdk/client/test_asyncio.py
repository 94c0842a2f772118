"""A client in an event loop."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

from sdk import AsyncClient, Client, TaskCanceled
from sdk.futures.future import TaskFuture
from tests.sdk.client.acting import TIMEOUT_S, identity

pytestmark = pytest.mark.process


def test_asyncio_wait_takes_futures_as_they_are(client):
    async def run():
        futures = [client.submit(identity, n) for n in range(3)]
        done, pending = await asyncio.wait(futures, timeout=TIMEOUT_S)
        assert done == set(futures)
        assert not pending
        late = client.submit(identity, 3)
        assert await late == 3
        assert await asyncio.wait([late]) == ({late}, set())
        assert futures[0].remove_done_callback(print) == 0
        return [future.result(0) for future in futures]

    assert asyncio.run(run()) == [0, 1, 2]


def test_asyncio_wait_in_a_task_is_refused_since_it_would_keep_the_slot():
    connection = SimpleNamespace(is_nested=True, condition=threading.Condition())
    future = TaskFuture(connection, "nested")

    async def run():
        with pytest.raises(TypeError, match="ensure_future"):
            await asyncio.wait([future])
        with pytest.raises(TypeError, match="ensure_future"):
            asyncio.wrap_future(future)

    asyncio.run(run())


def test_asyncio_wait_lets_go_of_futures_that_it_gave_up(client):
    async def run():
        future = client.submit(identity, "later")
        done, pending = await asyncio.wait([future], timeout=0)
        assert (done, pending) == (set(), {future})
        assert not future._callbacks_made
        assert future.cancel()

    asyncio.run(run())


def test_a_future_can_be_awaited(broker):
    async def work():
        async with AsyncClient(broker.endpoint, connect_timeout=TIMEOUT_S) as client:
            one = await client.submit(identity, 1)
            rest = await asyncio.gather(*client.map(identity, range(3)))
            with pytest.raises(OSError, match="x"):
                await client.options(priority=1).submit(identity, "raise", OSError("x"))
            with pytest.raises(TaskCanceled):
                await client.submit(identity, "cancel")
            assert await client.flush(TIMEOUT_S)
            return one, rest

    assert asyncio.run(work()) == (1, [0, 1, 2])


def test_canceling_the_wait_cancels_the_task(broker):
    async def work():
        async with AsyncClient(broker.endpoint) as client:
            future = client.submit(identity, "later")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(future, 0.05)
            return future

    assert asyncio.run(work()).cancelled()


def test_an_async_client_has_what_a_client_has():
    inside = {"endpoint", "incarnation", "map_planned", "pause", "submit_planned"}
    missing = {name for name in dir(Client) if name[0] != "_"} - {*dir(AsyncClient)}

    assert missing <= inside


def test_an_async_client_is_entered_first():
    with pytest.raises(RuntimeError, match="async with"):
        AsyncClient().submit(identity)
