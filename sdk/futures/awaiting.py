"""Futures on an event loop: awaited, or given to `asyncio.wait` as they are.

The rule that must not be broken: what belongs to an event loop is touched by its own thread alone.
The outcome is heard on another one, to which the loop may be closed by then.
"""

import asyncio
import contextlib
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from sdk.errors import Deadlock, TaskCanceled
from sdk.futures.nested import CallWait, waiting_task

if TYPE_CHECKING:
    from sdk.futures.future import TaskFuture


def awaiting(future: "TaskFuture") -> Generator[Any, None, None]:
    """Wait until *future* is done; canceling the wait cancels the task."""
    future.connection.loop.send_gathered()
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    task = waiting_task([future], 1, None, is_blocking=False)

    def wake(_: Future[Any]) -> None:
        # When the event loop is closed, nobody waits on it.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(set_done, waiter)

    future.add_done_callback(wake)
    wait = CallWait([future], 1, is_awaited=True)
    if task is not None:
        wait.wakes(lambda: wake(future))
        task.begin_wait(wait)
    try:
        yield from waiter
    except asyncio.CancelledError:
        future.cancel()
        if task is not None:
            with contextlib.suppress(TaskCanceled, Deadlock):
                yield from task.end_wait_async(wait).__await__()
        raise
    if task is not None:
        yield from task.end_wait_async(wait).__await__()
        wait.check()


def set_done(waiter: "asyncio.Future[None]") -> None:
    """Wake a coroutine, unless it is gone."""
    if not waiter.done():
        waiter.set_result(None)


def heard_by(
    future: "TaskFuture", callback: Callable[[Future[Any]], object]
) -> Callable[[Future[Any]], object]:
    """Return what is to be called for *callback*: on its event loop where `asyncio.wait` has it.

    Raises TypeError for waits of asyncio in a task: its slots are given back for those who await,
    and nobody sees that these do.
    """
    module = getattr(callback, "__module__", "")
    if module not in {"asyncio.tasks", "asyncio.futures"}:
        return callback
    if future.connection.is_nested:
        raise TypeError(
            "in a task asyncio.wait() and wrap_future() take tasks of asyncio, which give its slot"
            " back: say asyncio.ensure_future(future), or await it"
        )
    return on_loop(future, callback) if module == "asyncio.tasks" else callback


class on_loop:  # noqa: N801 - used as a function.
    """Make a callback of `asyncio.wait` run on its event loop."""

    def __init__(self, future: "TaskFuture", callback: Callable[[Future[Any]], object]) -> None:
        """Belong to the event loop that runs now."""
        self._callback = callback
        self._loop = asyncio.get_running_loop()
        future.connection.loop.send_gathered()

    def __call__(self, future: Future[Any]) -> None:
        """Hear of the outcome, on any thread."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._callback, future)

    def __eq__(self, other: object) -> bool:
        """Be found as the callback that was given."""
        return other is self or other == self._callback

    def __hash__(self) -> int:
        """Agree with `==`."""
        return hash(self._callback)
