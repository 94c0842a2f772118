"""The client for programs that run on asyncio: what may block is awaited."""

import asyncio
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

from sdk.client import BATCH_DEFAULT, Client, Submitter
from sdk.futures.executor import TaskExecutor
from sdk.futures.future import TaskFuture
from sdk.handle import ActorHandle
from sdk.named import NAMESPACE_DEFAULT


class AsyncClient:
    """A Client for asyncio: `async with AsyncClient() as client: await client.submit(fn, 1)`.

    `submit`, `map` and `options` are those of Client and return at once; futures are awaitable.
    """

    def __init__(self, endpoint: str | None = None, **arguments: Any) -> None:
        """Take what `Client` takes; connects when it is entered."""
        self._make = lambda: Client(endpoint, **arguments)
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """Return the client below; raises RuntimeError before `async with`."""
        if self._client is None:
            raise RuntimeError("use `async with AsyncClient(...) as client:`")
        return self._client

    async def __aenter__(self) -> Self:
        """Connect."""
        self._client = await asyncio.to_thread(self._make)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        """Leave."""
        await self.close()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **given: Any) -> TaskFuture:
        """Submit as `Client.submit` does."""
        return self.client.submit(fn, *args, **given)

    def options(self, **options: Any) -> Submitter:
        """Return a submitter as `Client.options` does."""
        return self.client.options(**options)

    def get_future(self, task_id: str) -> TaskFuture:
        """Return the future of a durable task as `Client.get_future` does."""
        return self.client.get_future(task_id)

    def redrive(self, task_id: str) -> TaskFuture:
        """Submit the call of a dead task again as `Client.redrive` does."""
        return self.client.redrive(task_id)

    async def dead_tasks(self) -> list[dict[str, Any]]:
        """Return what ended badly and is kept."""
        return await asyncio.to_thread(self.client.dead_tasks)

    async def forget_dead(self, *task_ids: str) -> list[str]:
        """Let the broker forget dead tasks."""
        return await asyncio.to_thread(self.client.forget_dead, *task_ids)

    def map(
        self,
        fn: Callable[..., Any],
        /,
        *iterables: Iterable[Any],
        batch: int = BATCH_DEFAULT,
        **options: Any,
    ) -> list[TaskFuture]:
        """Submit many calls as `Client.map` does."""
        return self.client.map(fn, *iterables, batch=batch, **options)

    async def actor(self, cls: Any, /, *args: Any, **given: Any) -> ActorHandle:
        """Make a named actor as `Client.actor` does."""
        return await asyncio.to_thread(self.client.actor, cls, *args, **given)

    async def get_actor(self, name: str, namespace: str = NAMESPACE_DEFAULT) -> ActorHandle:
        """Return the handle of the actor that has this name."""
        return await asyncio.to_thread(self.client.get_actor, name, namespace)

    async def named(self) -> list[dict[str, Any]]:
        """Return every named actor."""
        return await asyncio.to_thread(self.client.named)

    async def query(self, what: str, argument: str = "") -> dict[str, Any]:
        """Ask the broker as `Client.query` does."""
        return await asyncio.to_thread(self.client.query, what, argument)

    def executor(self, **options: Any) -> TaskExecutor:
        """Return an executor as `Client.executor` does, for `loop.run_in_executor`."""
        return self.client.executor(**options)

    async def limits(self) -> list[dict[str, Any]]:
        """Return every limit, and who holds and wants it."""
        return await asyncio.to_thread(self.client.limits)

    async def set_limit(self, name: str, maximum: int, **given: Any) -> None:
        """Set a limit as `Client.set_limit` does."""
        await asyncio.to_thread(self.client.set_limit, name, maximum, **given)

    async def delete_limit(self, name: str) -> None:
        """Delete a limit."""
        await asyncio.to_thread(self.client.delete_limit, name)

    async def release_limit(self, holder: str) -> None:
        """Take all limits from a holder as `Client.release_limit` does."""
        await asyncio.to_thread(self.client.release_limit, holder)

    async def actors(self) -> list[dict[str, Any]]:
        """Return what the broker knows of each actor."""
        return await asyncio.to_thread(self.client.actors)

    async def explain(self, future: TaskFuture) -> dict[str, Any]:
        """Return why a task waits."""
        return await asyncio.to_thread(self.client.explain, future)

    async def flush(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109
        """Wait until the broker has every call."""
        return await asyncio.to_thread(self.client.flush, timeout)

    async def close(self, wait: bool = False) -> None:  # noqa: FBT001, FBT002 - as Client has it.
        """Leave."""
        await asyncio.to_thread(self.client.close, wait)
