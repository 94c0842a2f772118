"""`task.limit(...)`: the thread-safe side of `occupying`, and what the user sees of it.

The rule that must not be broken: what was granted is held by a block that is being run, or given
back.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextvars import ContextVar
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Final

from actor.holding import occupying
from actor.running.release import rest
from sdk.describing.options import read_limits
from sdk.errors import (
    CLASSES,
    Deadlock,
    ReleasedLimit,
    SlotReleased,
    TaskCanceled,
    WarmslotError,
)
from sdk.reading.deadlines import read_wait
from sdk.task import HeldLimit
from wire.limits import FULL, GIVE_BACK
from wire.messages import Occupied
from wire.parts import Token
from wire.texts import brief

if TYPE_CHECKING:
    from actor.core import ActorCore
    from actor.running.context import Run, Runtime


# How long a try waits for the broker to say whether it has what it wants.
TRY_S: Final = 1.0

# The blocks in which this thread or coroutine is, or the one that began it: (token, number).
entered: ContextVar[tuple[tuple[Token, int], ...]] = ContextVar("entered", default=())


def inside(token: Token) -> list[int]:
    """Return the blocks of a run in which this thread or coroutine is."""
    return [own for of, own in entered.get() if of == token]


class LimitWait:
    """One wait for limits, answered from the thread that leads."""

    __slots__ = (
        "_answers",
        "_token",
        "is_try",
        "limits",
        "may_give_back",
        "number",
        "until",
        "within",
    )

    def __init__(
        self, run: "Run", number: int, limits: dict[str, int], timeout: float | None
    ) -> None:
        """Wait for all of *limits*, inside the blocks of this thread or coroutine."""
        self._token = run.token
        self.number = number
        self.within = inside(run.token)
        self.limits = limits
        # Without any time it is a try, which the broker answers at once.
        self.is_try = timeout is not None and timeout <= 0
        wait_s = TRY_S if self.is_try else timeout
        self.until = None if wait_s is None else monotonic() + wait_s
        # A run that is about to enter its environment keeps its slots: see `Releases.begin_wait`.
        self.may_give_back = not (self.is_try or run.is_entering)
        # Those that come, in order; the last one is still to come.
        self._answers: deque[Future[Occupied]] = deque([Future()])

    def begin(self, core: "ActorCore") -> None:
        """Let the core ask the broker."""
        core.occupying.ask(
            core.mailbox.held.get(self._token),
            self._token,
            self.number,
            self.limits,
            self.within,
            may_give_back=self.may_give_back,
            is_try=self.is_try,
        )

    def told(self, answer: Occupied, *, goes_on: bool) -> None:
        """Take an answer; where the wait *goes_on* there comes another one."""
        waiting = self._answers[-1]
        if goes_on:
            self._answers.append(Future())
        # One that gave up hears nothing any more.
        if waiting.set_running_or_notify_cancel():
            waiting.set_result(answer)

    def hear(self) -> Occupied:
        """Return the next answer, which may have come before anybody listened."""
        answer = self._answers[0].result(rest(self.until))
        self._answers.popleft()
        return answer

    async def hear_async(self) -> Occupied:
        """Do as `hear` on an event loop."""
        heard = asyncio.wrap_future(self._answers[0])
        answer = await asyncio.wait_for(heard, rest(self.until))
        self._answers.popleft()
        return answer


class Giving:
    """What a run gives back while it waits for a limit, as one that waits for calls does."""

    __slots__ = ("_count", "_run")

    def __init__(self, run: "Run") -> None:
        """Begin with everything kept."""
        self._run = run
        self._count = 0

    def give(self) -> None:
        """Give back slots and turn, which others wait for in a circle."""
        self._run.releases.begin_wait(keep_limits=True)
        self._count += 1

    def end(self) -> None:
        """Have it again, when no other wait goes on."""
        while self._count:
            self._count -= 1
            self._run.releases.end_wait()

    async def end_async(self) -> None:
        """Do as `end` on an event loop."""
        while self._count:
            self._count -= 1
            await self._run.releases.end_wait_async()


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

    def occupy(
        self,
        number: int,
        limits: dict[str, int],
        timeout: float | None,
        give_back: Callable[[], None],
    ) -> None:
        """Wait until the run has *limits*; *give_back* is called when it is told to."""
        wait = LimitWait(self._run, number, limits, timeout)
        self._runtime.occupy(self._run, wait)
        try:
            while (answer := wait.hear()).code == GIVE_BACK:
                give_back()
        except TimeoutError:
            self.vacate(number)
            raise self._too_late(limits) from None
        except ReleasedLimit:
            self.vacate(number)
            raise
        self._check(answer, limits)

    async def occupy_async(
        self,
        number: int,
        limits: dict[str, int],
        timeout: float | None,  # noqa: ASYNC109
        give_back: Callable[[], None],
    ) -> None:
        """Do as `occupy` on an event loop."""
        wait = LimitWait(self._run, number, limits, timeout)
        self._runtime.occupy(self._run, wait)
        try:
            while (answer := await wait.hear_async()).code == GIVE_BACK:
                give_back()
        except TimeoutError:
            self.vacate(number)
            raise self._too_late(limits) from None
        except (asyncio.CancelledError, ReleasedLimit):
            self.vacate(number)
            raise
        self._check(answer, limits)

    def enter(self, limits: dict[str, int], timeout: float | None) -> int:
        """Wait for *limits* as a block does, which they then have under the number returned.

        What was given back meanwhile the run has again, whatever became of the wait.
        """
        number, giving = self.next_number(), Giving(self._run)
        try:
            try:
                self.occupy(number, limits, timeout, giving.give)
                entered.set((*entered.get(), (self.token, number)))
            finally:
                giving.end()
        except BaseException:
            self.leave(number)
            raise
        return number

    async def enter_async(
        self,
        limits: dict[str, int],
        timeout: float | None,  # noqa: ASYNC109
    ) -> int:
        """Do as `enter` on an event loop."""
        number, giving = self.next_number(), Giving(self._run)
        try:
            try:
                await self.occupy_async(number, limits, timeout, giving.give)
                entered.set((*entered.get(), (self.token, number)))
            except asyncio.CancelledError:
                with contextlib.suppress(TaskCanceled, Deadlock):
                    await giving.end_async()
                raise
            except Exception:
                await giving.end_async()
                raise
            await giving.end_async()
        except BaseException:
            self.leave(number)
            raise
        return number

    def leave(self, number: int) -> None:
        """Give back what a block has."""
        mine = self.token, number
        entered.set(tuple(one for one in entered.get() if one != mine))
        self.vacate(number)

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
            case code if code in {occupying.WITHDRAWN, FULL}:
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
        self._numbers.append(self._limiting.enter(self._limits, self._timeout))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        """Give them back."""
        self._limiting.leave(self._numbers.pop())

    async def __aenter__(self) -> None:
        """Wait for the limits."""
        self._numbers.append(await self._limiting.enter_async(self._limits, self._timeout))

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        """Give them back."""
        self._limiting.leave(self._numbers.pop())


def make_block(
    run: "Run", runtime: "Runtime", name: str, occupy: int, timeout: float | None
) -> LimitBlock:
    """Return the block for `task.limit`. Raises ValueError and TypeError for bad arguments."""
    wait_s = read_wait(timeout)
    if not isinstance(name, str):
        raise TypeError(
            f"limit() takes the name of one limit and how much of it, got {brief(name)}"
        )
    return LimitBlock(run.limiting, runtime, read_limits({name: occupy}), wait_s)


def shown(limits: Mapping[str, int]) -> str:
    """Write limits for people."""
    return ", ".join(name if n == 1 else f"{name} ({n})" for name, n in limits.items())
