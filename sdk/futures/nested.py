"""A task that waits for calls of its own: it gives its slots back, and says what it waits for.

Its actor says so with the next heartbeat, and the broker finds those who wait in a circle. The rule
that must not be broken: what a wait is told reaches whoever sleeps in it.
"""

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Final

from sdk.calls.asking import PROBE
from sdk.errors import Deadlock, ReleasedLimit, TaskCanceled, WarmslotError
from sdk.reading.deadlines import read_wait
from sdk.task import TaskContext, running
from wire.parts import Span, Token

if TYPE_CHECKING:
    from sdk.connection import Connection
    from sdk.core import ClientCore
    from sdk.futures.future import TaskFuture

FINISHED: Final = "FINISHED"
DONE: Final = frozenset({FINISHED, "CANCELLED", "CANCELLED_AND_NOTIFIED"})
# A wait for calls in more pieces than this is not told of.
SPANS_MAX: Final = 1_000
# How long a run that ends waits before it looks again whether anybody wants that.
LOOK_S: Final = 1.0


class CallWait:
    """One wait for *enough* of some futures."""

    __slots__ = (
        "_error",
        "_futures",
        "_wakers",
        "enough",
        "is_awaited",
        "is_said",
        "number",
        "refusal",
        "within",
    )

    def __init__(
        self, futures: "Collection[TaskFuture]", enough: int, *, is_awaited: bool = False
    ) -> None:
        """Begin; the actor gives the number and the blocks that the wait stands in."""
        self._futures = futures
        # Whether a coroutine waits, which is canceled itself.
        self.is_awaited = is_awaited
        self._error: type[Deadlock | TaskCanceled] = Deadlock
        self.enough = enough
        self.number = 0
        self.within: list[int] | None = None
        # Whether the broker knows of it; why it will never be over.
        self.is_said = False
        self.refusal = ""
        self._wakers: list[Callable[[], object]] = []

    def calls(self) -> tuple[int, list[Span], int] | None:
        """Return whose calls are waited for, which, and how many; None when that is not to be told.

        Any thread may ask, so it is a copy that is looked through.
        """
        pending = [future for future in list(self._futures) if future._state not in DONE]  # noqa: SLF001
        enough = self.enough - (len(self._futures) - len(pending))
        if enough == len(pending):
            pending = list(with_arguments(pending))
            enough = len(pending)
        connections = {future.connection for future in pending}
        if enough < 1 or len(connections) > 1:
            return None
        spans = spans_of(future.number for future in pending if future.number)
        named = sum(last - first + 1 for first, last in spans)
        if named < len(pending) or len(spans) > SPANS_MAX:
            return None
        return connections.pop().core.incarnation, spans, enough

    def or_refused(self, is_done: Callable[[], bool]) -> Callable[[], bool]:
        """Return what is true when *is_done* is, or the wait is never over."""
        return lambda: bool(self.refusal) or is_done()

    def wakes(self, waker: Callable[[], object]) -> None:
        """Call *waker* when the wait is refused, at once when it is."""
        self._wakers.append(waker)
        if self.refusal:
            waker()

    def cancel(self, reason: str) -> None:
        """End the wait since nobody wants its run any more."""
        if not self.is_awaited:
            self._error = TaskCanceled
            self.refuse(reason)

    def refuse(self, reason: str) -> None:
        """End the wait in whichever thread it sleeps."""
        self.refusal = reason
        for waker in list(self._wakers):
            waker()
        for connection in {future.connection for future in list(self._futures)}:
            wake(connection)

    def check(self) -> None:
        """Raise what the wait ended with, when it is not over nevertheless."""
        if self.refusal:
            done = sum(future._state in DONE for future in list(self._futures))  # noqa: SLF001
            if done < self.enough:
                raise self._error(self.refusal)


def wake(connection: "Connection") -> None:
    """Have whoever waits on *connection* look again."""
    connection.loop.count(0)
    with connection.condition:
        connection.condition.notify_all()


def with_arguments(futures: "Collection[TaskFuture]") -> "Iterator[TaskFuture]":
    """Return *futures*, in place of those not submitted yet what they wait for as arguments."""
    ahead, seen = list(futures), set[int]()
    while ahead:
        future = ahead.pop()
        if id(future) in seen or future._state in DONE:  # noqa: SLF001
            continue
        seen.add(id(future))
        if future.number or not future.arguments:
            yield future
        else:
            ahead.extend(future.arguments)


def is_heard(core: "ClientCore", number: int) -> bool:
    """Tell whether the broker has received a call; one that has ended is there no more."""
    owned = core.calls.get(number)
    return owned is None or owned.is_heard(core.session.number, core.confirmed)


def last_unheard(connection: "Connection", parent: Token) -> int | None:
    """Return the last call made in the run *parent*, unless the broker has said that it has it."""
    with connection.loop.lock:
        core = connection.core
        for number in reversed(core.calls):
            if is_heard(core, number):
                return None  # And all before it.
            if core.calls[number].parent == parent:
                return number
    return None


def hand_over(connection: "Connection", number: int, task: TaskContext) -> None:
    """Wait until the broker has the call *number*, the last that *task* has made.

    The outcome of the task goes another way: where it came first the call would be refused. Where
    the broker takes no more calls before others have run these may need its slot.
    """
    core = connection.core

    def is_over() -> bool:
        return is_heard(core, number) or task.is_canceled

    with contextlib.suppress(WarmslotError):
        while not is_over():
            if core.session.is_open:
                # Its answer says at once what was received.
                connection.ask(*PROBE, lambda _: None)
            if not connection.loop.wait(is_over, LOOK_S) and not core.is_sent(number):
                with contextlib.suppress(ReleasedLimit):
                    task.release_slot()


def spans_of(numbers: Iterator[int]) -> list[Span]:
    """Return the runs of consecutive *numbers*."""
    spans: list[Span] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1] = (spans[-1][0], number)
        else:
            spans.append((number, number))
    return spans


def waiting_task(
    futures: "Collection[TaskFuture]",
    wanted: int,
    timeout: float | None,
    *,
    is_blocking: bool = True,
) -> TaskContext | None:
    """Return the task that waits here until *wanted* calls of its own are done; None otherwise."""
    task = running.get()
    if task is None or not any(future.connection.is_nested for future in futures):
        return None
    wait_s = read_wait(timeout)
    is_looking = wait_s is not None and wait_s <= 0
    if is_looking or sum(future._state in DONE for future in futures) >= wanted:  # noqa: SLF001
        return None
    if is_blocking:
        task.refuse_blocking("waiting for a future", "await it")
    return task


@contextlib.contextmanager
def slot_given_back(
    futures: "Collection[TaskFuture]", wanted: int, timeout: float | None
) -> Iterator[CallWait | None]:
    """Give back the slot of the task that waits here, if there is one, and have it again after.

    Raises Deadlock at the end when the broker found that the wait would never be over, TaskCanceled
    when nobody wants the task any more.
    """
    task = waiting_task(futures, wanted, timeout)
    if task is None:
        yield None
        return
    wait = CallWait(futures, wanted)
    task.begin_wait(wait)
    try:
        yield wait
    finally:
        task.end_wait(wait)
    wait.check()
