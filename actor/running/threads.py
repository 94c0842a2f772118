"""Threads for sync functions and one event loop for async ones.

A run keeps its thread until it returns, also without its slot, so the next run gets another one:
the pool grows to the most that ever ran at once, and its threads are used again. Those that lead
the process or stand by for that are of the pool, too, so whichever there are too many of do what is
left of the other. Where the system gives no more (a container may have so many, or memory is out) a
run waits for one that others leave: the process, and with it all that runs in it, does not end for
that. Where there are no others it ends: what waits here has not begun, and runs elsewhere or in the
next process.
"""

import asyncio
import contextvars
import os
import threading
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from actor.logs import log
from actor.machine.board import Board
from actor.running.whereabouts import of_thread

T = TypeVar("T")

# How long whoever waits for a thread of the event loop, or for it, waits until it asks again.
LOOK_S: Final = 1.0


class ThreadPool:
    """As many daemon threads as there are runs at once, with those that lead and stand by."""

    def __init__(
        self, name: str, note: Callable[..., None], gives_up: Callable[[BaseException], None]
    ) -> None:
        """Begin without a thread; *note* where the system gives no more.

        *gives_up* is called first where it gives not even one beside the one that leads.
        """
        self._name = name
        self._note = note
        self._gives_up = gives_up
        self._queue: SimpleQueue[tuple[Callable[[Any], None], Any]] = SimpleQueue()
        # How many have something to do, how many of these lead or stand by, how many there are.
        self._busy = 0
        self._lent = 0
        self._threads = 0
        self._is_noted = False
        # Has one of those that stand by come back, unless fewer than so many would be left.
        self.call_off: Callable[[int], bool] = nobody_stands_by

    def start(self, target: Callable[[Any], None], argument: object) -> None:
        """Call *target*, which must not raise, in a thread of its own; for the I/O thread only."""
        self._busy += 1
        self._queue.put((target, argument))
        if self._busy > self._threads:
            self.grow()

    def grow(self, least: int = 1) -> None:
        """Find a thread for each run that waits for one, if there is room: the I/O thread.

        Where the system gives none, *least* of those are left that stand by.
        """
        while self._busy > self._threads:
            if self._take_back(1):
                continue
            try:
                self._add()
            except (RuntimeError, MemoryError) as error:
                if self._take_back(least):
                    continue
                if self._threads == self._lent <= 1:
                    self._gives_up(error)
                if not self._is_noted:
                    self._is_noted = True
                    self._note("no_thread", threads=self._threads, reason=str(error))
                return
        self._is_noted = False

    def _add(self) -> None:
        name = f"{self._name}-{self._threads + 1}"
        threading.Thread(target=self._work, name=name, daemon=True).start()
        self._threads += 1

    def lend(self, target: Callable[[Any], None], argument: object) -> bool:
        """Call *target*, which leads or stands by, in a thread; False where there is none for it.

        Only the I/O thread calls this. *target* returns when it is called off, or all is over.
        """
        if self._busy >= self._threads:
            try:
                self._add()
            except (RuntimeError, MemoryError):
                return False
        self._busy += 1
        self._lent += 1
        self._queue.put((target, argument))
        return True

    def _take_back(self, least: int) -> bool:
        """Have one that was lent come back for a run, if *least* are left that stand by."""
        is_called_off = self.call_off(least)
        self._busy -= is_called_off
        self._lent -= is_called_off
        return is_called_off

    def spare(self, lock: threading.Lock) -> None:
        """Have a run that waits get one of those that stand by; *lock* is the I/O thread's."""
        if self._busy > self._threads:
            with lock:
                self.grow(least=0)

    def ended(self) -> None:
        """Note that a run has handed back its outcome. Only the I/O thread calls this."""
        self._busy -= 1

    @property
    def threads(self) -> int:
        """Return how many there are."""
        return self._threads

    def _work(self) -> None:
        get = self._queue.get
        while True:
            target, argument = get()
            target(argument)
            # What the run left must not live until the next one.
            del target, argument


def nobody_stands_by(_least: int) -> bool:
    """Tell that nobody came back."""
    return False


def end_unused(actor: str, board: Board, residents: Collection[str], error: BaseException) -> None:
    """End the process, for which there is not one thread, unless something would be lost with it.

    From whichever thread leads: others have none either, so nobody could do more in good order.
    """
    if not residents and not board.has_begun:
        log.error("cannot_run", actor=actor, reason=str(error) or type(error).__name__)
        os._exit(1)


class EventLoopThread:
    """One event loop for all async functions of the actor; its thread starts with the first."""

    def __init__(self, name: str) -> None:
        """Begin without a thread."""
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop, running."""
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(
                    target=self._work, args=(loop,), name=self._name, daemon=True
                )
                try:
                    thread.start()
                except BaseException:
                    loop.close()
                    raise
                # Only now: where there was no room for it, whoever comes next tries again.
                self._loop, self._thread = loop, thread
            return self._loop

    def begin(self) -> None:
        """Have it run, and wait where the system gives no thread for it; never on the I/O thread.

        The leader may, while it runs a task: a guard takes the lead.
        """
        while True:
            try:
                _ = self.loop
            except (RuntimeError, MemoryError):
                threading.Event().wait(LOOK_S)
            else:
                return

    @property
    def is_current(self) -> bool:
        """Tell whether the caller is on the event loop."""
        return self._thread is threading.current_thread()

    def call(self, function: Callable[..., Any], *arguments: object) -> None:
        """Call *function* on the event loop soon."""
        self.loop.call_soon_threadsafe(function, *arguments)

    def submit(self, awaitable: Awaitable[T]) -> "Future[T]":
        """Run *awaitable* on the event loop."""
        return asyncio.run_coroutine_threadsafe(_await(awaitable), self.loop)

    def wait(self, awaitable: Awaitable[T], timeout_s: float | None = None) -> T:
        """Run *awaitable* on the event loop and wait for its value; never on the loop itself."""
        assert not self.is_current
        return self.submit(awaitable).result(timeout_s)

    def answers(self, within_s: float) -> bool:
        """Tell whether the event loop comes to anything new *within_s* seconds; never on it."""
        assert not self.is_current
        came = threading.Event()
        self.call(came.set)
        return came.wait(within_s)

    def where(self) -> str:
        """Say where the event loop is at this moment, as a traceback does."""
        ident = self._thread.ident if self._thread is not None else None
        return of_thread(ident, (EventLoopThread._work.__code__,)) if ident is not None else ""

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        while True:
            try:
                loop.run_forever()
            except (SystemExit, KeyboardInterrupt):
                # A task that a user's task left behind wanted to exit; the others go on.
                continue


async def aside(function: Callable[..., T], *arguments: object) -> T:
    """Do as `asyncio.to_thread`, and where the system gives no thread wait for one."""
    loop = asyncio.get_running_loop()
    done: Future[T] = Future()
    # Taken out by whichever thread begins, since one that the system did not give leaves its work
    # to the others that there are.
    todo = [partial(contextvars.copy_context().run, function, *arguments)]

    def work() -> None:
        try:
            call = todo.pop()
        except IndexError:
            return
        if done.set_running_or_notify_cancel():
            try:
                done.set_result(call())
            except BaseException as error:  # noqa: BLE001 - it is for whoever waits.
                done.set_exception(error)

    outcome = asyncio.wrap_future(done)
    while todo:
        try:
            _ = loop.run_in_executor(None, work)
        except (RuntimeError, MemoryError):
            await asyncio.wait((outcome,), timeout=LOOK_S)
        else:
            break
    return await outcome


async def _await(awaitable: Awaitable[T]) -> T:
    return await awaitable
