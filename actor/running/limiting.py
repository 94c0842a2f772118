"""`task.limit(...)`: the thread-safe side of `occupying`, and what the user sees of it.

The rule that must not be broken: what was granted is held by a block that is being run, or given
back.
"""

import asyncio
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING

from actor.holding import occupying
from sdk.describing.options import check_wait, read_limits
from sdk.errors import CLASSES, SlotReleased, TaskCanceled, WarmslotError
from sdk.task import HeldLimit
from wire.messages import Occupied
from wire.parts import Token

if TYPE_CHECKING:
    from actor.running.context import Run, Runtime


# The blocks in which this thread or coroutine is, or the one that began it: (token, number).
entered: ContextVar[tuple[tuple[Token, int], ...]] = ContextVar("entered", default=())


def inside(token: Token) -> list[int]:
    """Return the blocks of a run in which this thread or coroutine is."""
    return [own for of, own in entered.get() if of == token]


class LimitWait:
    """One wait for limits, answered from the thread that leads."""

    __slots__ = ("answer", "limits", "number", "within")

    def __init__(self, token: Token, number: int, limits: dict[str, int]) -> None:
        """Wait for all of *limits*, inside the blocks of this thread or coroutine."""
        self.number = number
        self.within = inside(token)
        self.limits = limits
        self.answer: Future[Occupied] = Future()


class Limiting:
    """What one run asks for, from any of its threads and coroutines."""

    __slots__ = ("_lock", "_number", "_run", "_runtime")

    def __init__(self, run: "Run", runtime: "Runtime", lock: threading.Lock) -> None:
        """Begin with nothing asked."""
        self._run = run
        self._runtime = runtime
        self._lock = lock
        self._number = occupying.AT_SCHEDULING

    @property
    def token(self) -> Token:
        """Return the token of the run."""
        return self._run.token

    def next_number(self) -> int:
        """Return the number of a new ask."""
        with self._lock:
            self._number += 1
            return self._number

    def occupy(self, number: int, limits: dict[str, int], timeout: float | None) -> None:
        """Wait until the run has *limits*."""
        wait = LimitWait(self._run.token, number, limits)
        self._runtime.occupy(self._run, wait)
        try:
            answer = wait.answer.result(timeout)
        except TimeoutError:
            self.vacate(number)
            raise self._too_late(limits) from None
        self._check(answer, limits)

    async def occupy_async(
        self,
        number: int,
        limits: dict[str, int],
        timeout: float | None,  # noqa: ASYNC109
    ) -> None:
        """Do as `occupy` on an event loop."""
        wait = LimitWait(self._run.token, number, limits)
        self._runtime.occupy(self._run, wait)
        try:
            answer = await asyncio.wait_for(asyncio.wrap_future(wait.answer), timeout)
        except TimeoutError:
            self.vacate(number)
            raise self._too_late(limits) from None
        except asyncio.CancelledError:
            self.vacate(number)
            raise
        self._check(answer, limits)

    def vacate(self, number: int) -> None:
        """Give back what was asked for under *number*, or wait for it no longer."""
        self._runtime.vacate(self._run, number)

    def _too_late(self, limits: Mapping[str, int]) -> TimeoutError:
        return TimeoutError(f"task {self._run.name!r} did not get limit {shown(limits)} in time")

    def _check(self, answer: Occupied, limits: Mapping[str, int]) -> None:
        name = self._run.name
        match answer.code:
            case "":
                return
            case occupying.CANCELED:
                raise TaskCanceled(f"task {name!r} was canceled while it waited: {shown(limits)}")
            case occupying.ENDED:
                raise SlotReleased(f"task {name!r} has ended: it gets no limit any more")
            case occupying.WITHDRAWN:
                raise self._too_late(limits)
            case code:
                raise CLASSES.get(code, WarmslotError)(answer.message)


class LimitBlock(HeldLimit):
    """`with task.limit("db"):`, and the same for `async with`."""

    def __init__(
        self, limiting: Limiting, runtime: "Runtime", limits: dict[str, int], timeout: float | None
    ) -> None:
        """Do nothing yet."""
        self._limiting = limiting
        self._runtime = runtime
        self._limits = limits
        self._timeout = timeout
        # A block may be entered again, also inside itself.
        self._numbers: list[int] = []

    def __enter__(self) -> None:
        """Wait for the limits."""
        self._runtime.refuse_on_event_loop("task.limit()", "async with task.limit(...)")
        number = self._limiting.next_number()
        self._limiting.occupy(number, self._limits, self._timeout)
        self._enter(number)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        """Give them back."""
        self._leave()

    def _enter(self, number: int) -> None:
        self._numbers.append(number)
        entered.set((*entered.get(), (self._limiting.token, number)))

    def _leave(self) -> None:
        number = self._numbers.pop()
        mine = self._limiting.token, number
        entered.set(tuple(one for one in entered.get() if one != mine))
        self._limiting.vacate(number)

    async def __aenter__(self) -> None:
        """Wait for the limits."""
        number = self._limiting.next_number()
        await self._limiting.occupy_async(number, self._limits, self._timeout)
        self._enter(number)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        """Give them back."""
        self._leave()


def make_block(
    run: "Run", runtime: "Runtime", name: str, occupy: int, timeout: float | None
) -> LimitBlock:
    """Return the block for `task.limit`. Raises ValueError and TypeError for bad arguments."""
    check_wait(timeout)
    return LimitBlock(run.limiting, runtime, read_limits({name: occupy}), timeout)


def shown(limits: Mapping[str, int]) -> str:
    """Write limits for people."""
    return ", ".join(name if n == 1 else f"{name} ({n})" for name, n in limits.items())
