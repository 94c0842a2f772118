"""Submits through the standard library's interface, for code that knows no other."""

import concurrent.futures
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sdk.futures.future import TaskFuture
from sdk.futures.future import wait as wait_for

if TYPE_CHECKING:
    from sdk.client import Submitter


class TaskExecutor(concurrent.futures.Executor):
    """The standard library's interface; `shutdown` leaves the client open."""

    def __init__(self, submitter: "Submitter") -> None:
        """Submit with *submitter*."""
        self._submitter = submitter
        self._futures: set[TaskFuture] = set()
        self._is_shut_down = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> TaskFuture:
        """Submit a call; every keyword goes to *fn*."""
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future = self._submitter.submit(fn, *args, **kwargs)
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        return future

    def shutdown(
        self,
        wait: bool = True,  # noqa: FBT001, FBT002 - as the base class has it.
        *,
        cancel_futures: bool = False,
    ) -> None:
        """Take no more calls; wait for those that were submitted, or cancel them."""
        self._is_shut_down = True
        futures = list(self._futures)
        if cancel_futures:
            for future in futures:
                future.cancel()
        if wait and futures:
            wait_for(futures, len(futures))
