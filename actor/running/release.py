"""What a run has given back, and how it gets it again: the thread-safe side of rules 5 and 6.

The core decides who gets slots and when; here a run asks it, waits for the answer, enters its
environment anew and says what the user sees. The rule that must not be broken: what was granted is
either held by the run or given back to the core.
"""

import asyncio
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any

from actor.holding.occupying import AT_SCHEDULING
from actor.holding.reacquiring import Answer, Reply
from sdk.errors import Deadlock, SlotReleased, TaskCanceled
from sdk.task import ReleasedSlot

if TYPE_CHECKING:
    from actor.running.context import Run, Runtime


class Ask:
    """One wait for slots: who asked handles the answer, others wait until that is done."""

    __slots__ = ("answer", "done", "is_abandoned", "slots")

    def __init__(self, slots: dict[str, int]) -> None:
        """Wait to hold *slots* in all."""
        self.slots = slots
        self.answer: Future[Answer] = Future()
        self.done: Future[None] = Future()
        self.is_abandoned = False


class Releases:
    """The slots of one run, from its first release on."""

    __slots__ = (
        "_ask",
        "_has_limits",
        "_keeps_limits",
        "_lock",
        "_run",
        "_runtime",
        "_waits",
        "_wanted",
        "held",
        "units",
    )

    def __init__(self, run: "Run", runtime: "Runtime", lock: threading.Lock) -> None:
        """Begin with what the task asked for."""
        self._run = run
        self._runtime = runtime
        self._lock = lock
        self.held: dict[str, int] = dict(run.assignment.recipe.slots)
        self.units: dict[str, tuple[str, ...]] = run.assignment.units
        self._ask: Ask | None = None
        # Whether it has the limits that it took at scheduling, and keeps them at the next release.
        self._has_limits = True
        self._keeps_limits = False
        # How many waits go on for which the slots were given back, and what is to be had again.
        self._waits = 0
        self._wanted: dict[str, int] | None = None

    # --- giving back

    def release(self) -> dict[str, int] | None:
        """Give everything back; return what that was, or None when it was done before."""
        with self._lock:
            # Also when a wait has given the slots back: now they stay so.
            held, self._wanted = self._wanted, None
            if self._run.has_released:
                return held
            held = self._give_all()
        self._runtime.release(self._run, None, monotonic() - self._run.began)
        return held

    def keep_limits(self) -> None:
        """Keep the limits when everything else is given back next."""
        with self._lock:
            if self._run.has_released:
                return
            self._keeps_limits = True
        self._runtime.keep_limits(self._run)

    def release_part(self, slots: Mapping[str, int]) -> bool:
        """Give back what *slots* names; False when nothing of that is held."""
        check_part(slots, self._run.assignment.recipe.slots)
        with self._lock:
            if self._run.has_released:
                return False
            given = {kind: min(n, self.held.get(kind, 0)) for kind, n in slots.items()}
            given = {kind: n for kind, n in given.items() if n}
            if not given:
                return False
            self.held = {kind: n - given.get(kind, 0) for kind, n in self.held.items()}
            self.units = {k: names[: self.held[k]] for k, names in self.units.items()}
        self._runtime.release(self._run, given)
        return True

    def begin_wait(self) -> None:
        """Give everything back for a wait, unless that was done before."""
        with self._lock:
            is_first, self._waits = not self._waits, self._waits + 1
            # A wait inside `enter` keeps the slot: the turn in the environment, which it would have
            # to have again, is there only when `enter` is over.
            if not is_first or self._run.has_released or self._run.is_entering:
                return
            try:
                self._wanted = self._give_all()
            except BaseException:
                self._waits -= 1
                raise
        self._runtime.release(self._run, None)

    def _give_all(self) -> dict[str, int]:
        """Note that nothing is held, if the actor bears one more such task."""
        self._runtime.count_released(self._run)
        held, self.held = self.held, {}
        self._has_limits = self._has_limits and self._keeps_limits
        self._keeps_limits = False
        self.units = {}
        self._run.has_released = True
        return held

    # --- having it again

    def end_wait(self) -> None:
        """Have again what was given back for the waits, when this was the last."""
        wanted = self._after_wait()
        if wanted is not None:
            self.reacquire(wanted, None)

    async def end_wait_async(self) -> None:
        """Do as `end_wait` without blocking the event loop."""
        wanted = self._after_wait()
        if wanted is not None:
            await self.reacquire_async(wanted, None)

    def _after_wait(self) -> dict[str, int] | None:
        with self._lock:
            self._waits -= 1
            if self._waits:
                return None
            wanted, self._wanted = self._wanted, None
            return wanted

    def reacquire(self, slots: dict[str, int], timeout: float | None) -> None:
        """Wait until *slots* in all are held, and the turn."""
        self._runtime.wait_for_reset(self._run)
        until = None if timeout is None else monotonic() + timeout
        while not self._has(slots):
            ask, is_mine = self._join(slots, until)
            if not is_mine:
                ask.done.result(rest(until))
                continue
            self._settle(ask, ask.answer.result())
        limits = self._limits_lacking()
        if limits:
            try:
                self._run.limiting.occupy(AT_SCHEDULING, limits, rest(until))
            except BaseException:
                # All or nothing: who did not get its limits again is without its slots as before.
                self.release()
                raise
            self._has_limits = True

    async def reacquire_async(self, slots: dict[str, int], timeout: float | None) -> None:  # noqa: ASYNC109
        """Do as `reacquire` without blocking the event loop."""
        if self._run.resetting is not None:
            await asyncio.shield(self._run.resetting)
        until = None if timeout is None else monotonic() + timeout
        while not self._has(slots):
            ask, is_mine = self._join(slots, until)
            if not is_mine:
                done = asyncio.shield(asyncio.wrap_future(ask.done))
                await asyncio.wait_for(done, rest(until))
                continue
            try:
                answer = await asyncio.shield(asyncio.wrap_future(ask.answer))
            except asyncio.CancelledError:
                self._abandon(ask)
                raise
            # The environment may have to be loaded, which is no work for the event loop.
            if answer.loads:
                await asyncio.to_thread(self._settle, ask, answer)
            else:
                self._settle(ask, answer)
        limits = self._limits_lacking()
        if limits:
            try:
                await self._run.limiting.occupy_async(AT_SCHEDULING, limits, rest(until))
            except BaseException:
                self.release()
                raise
            self._has_limits = True

    def _limits_lacking(self) -> dict[str, int] | None:
        """Return the limits that were given back with the slots."""
        return None if self._has_limits else self._run.assignment.recipe.call.limits

    def answered(self, answer: Answer) -> None:
        """Take the answer of the core; the leader calls this."""
        with self._lock:
            ask = self._ask
            assert ask is not None
            if ask.is_abandoned:
                self._ask = None
            else:
                ask.answer.set_result(answer)
        if ask.is_abandoned:
            self._undo(ask, answer)
            ask.done.set_result(None)

    def _has(self, slots: dict[str, int]) -> bool:
        with self._lock:
            if self._run.is_closed:
                raise SlotReleased(f"task {self._run.name!r} has ended: it has no slot any more")
            held = self.held
            return not self._run.has_released and all(
                held.get(kind, 0) >= n for kind, n in slots.items()
            )

    def _join(self, slots: dict[str, int], until: float | None) -> tuple[Ask, bool]:
        """Return the wait that goes on, or a new one, which is the caller's."""
        with self._lock:
            if self._ask is not None:
                return self._ask, False
            ask = self._ask = Ask(slots)
        self._runtime.ask(self._run, slots, rest(until))
        return ask, True

    def _settle(self, ask: Ask, answer: Answer) -> None:
        """Act on the answer, and let those go on who wait for it; raise what the user is told."""
        try:
            if answer.reply is Reply.GRANTED:
                self._enter(ask, answer)
            else:
                raise refusal(self._run.name, answer.reply)
        finally:
            with self._lock:
                self._ask = None
            ask.done.set_result(None)

    def _enter(self, ask: Ask, answer: Answer) -> None:
        """Hold what was granted; when the environment cannot be entered it is given back."""
        try:
            resident = self._runtime.enter_again(self._run)
        except BaseException:
            # That it could not be loaded, the core knows already.
            self._give_again(ask)
            raise
        with self._lock:
            is_over = self._run.is_closed
            if not is_over:
                self.held, self.units = ask.slots, answer.units
                self._run.resident = resident
                self._run.has_released = False
                self._runtime.count_reacquired(self._run)
        if is_over:
            self._give_again(ask)
            raise refusal(self._run.name, Reply.ENDED)

    def _abandon(self, ask: Ask) -> None:
        """Wait no longer; what is granted nevertheless is given back."""
        with self._lock:
            ask.is_abandoned = not ask.answer.done()
            if not ask.is_abandoned:
                self._ask = None
        if ask.is_abandoned:
            self._runtime.withdraw(self._run)
        else:
            self._undo(ask, ask.answer.result())
            ask.done.set_result(None)

    def _undo(self, ask: Ask, answer: Answer) -> None:
        """Give back what was granted to nobody."""
        if answer.reply is Reply.GRANTED:
            if answer.loads:
                self._runtime.leave_unloaded(self._run, answer.evicts)
            self._give_again(ask)

    def _give_again(self, ask: Ask) -> None:
        """Have the core take back what it granted, and nothing that was kept all the time."""
        if self._run.has_released:
            self._runtime.give_again(self._run, None)
        else:
            part = {kind: n - self.held.get(kind, 0) for kind, n in ask.slots.items()}
            self._runtime.give_again(self._run, {kind: n for kind, n in part.items() if n > 0})


class Block(ReleasedSlot):
    """`with task.released_slot():`, and the same for `async with`."""

    def __init__(self, releases: Releases, runtime: "Runtime") -> None:
        """Do nothing yet."""
        self._releases = releases
        self._runtime = runtime
        self._wanted: dict[str, int] | None = None

    def __enter__(self) -> None:
        """Give everything back."""
        self._runtime.refuse_on_event_loop("released_slot()", "async with task.released_slot()")
        self._wanted = self._releases.release()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        """Wait until it is had again, unless it had been given back before the block."""
        if self._wanted is not None:
            self._releases.reacquire(self._wanted, None)

    async def __aenter__(self) -> None:
        """Give everything back."""
        self._wanted = self._releases.release()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        """Wait until it is had again, unless it had been given back before the block."""
        if self._wanted is not None:
            await self._releases.reacquire_async(self._wanted, None)


def check_part(slots: Any, owned: Mapping[str, int]) -> None:
    """Raise for what cannot be given back."""
    if not isinstance(slots, Mapping) or not slots:
        raise TypeError(
            f"release_slot() takes nothing, or a mapping from slot type to int, got {slots!r}"
        )
    for kind, amount in slots.items():
        if type(amount) is not int or amount < 1:
            raise ValueError(f"release_slot(): {kind!r}: {amount!r} is not an amount of at least 1")
        if amount > owned.get(kind, 0):
            raise ValueError(
                f"release_slot(): {amount} of {kind!r} is more than the task asked for: "
                f"{dict(owned)}"
            )


def refusal(name: str, reply: Reply) -> Exception:
    """Return what a user is told whose wait for slots ended without them."""
    match reply:
        case Reply.TIMEOUT:
            return TimeoutError(f"task {name!r} did not get its slot again in time; it goes on")
        case Reply.CANCELED:
            return TaskCanceled(f"task {name!r} was canceled while it waited for its slot")
        case Reply.DEADLOCK:
            return Deadlock(
                f"task {name!r} waits for its slot in a circle: whoever has it waits for what this"
                " task has, which is the younger; it goes on without its slot"
            )
        case _:
            return SlotReleased(f"task {name!r} has ended: it gets no slot any more")


def rest(until: float | None) -> float | None:
    """Return how many seconds are left."""
    return None if until is None else max(0.0, until - monotonic())
