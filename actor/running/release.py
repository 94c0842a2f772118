"""What a run has given back, and how it gets it again: the thread-safe side of rules 5 and 6.

The core decides who gets slots and when; here a run asks it, waits for the answer, enters its
environment anew and says what the user sees. The rule that must not be broken: what was granted is
either held by the run or given back to the core.
"""

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any

from actor.holding.occupying import AT_SCHEDULING
from actor.holding.reacquiring import Answer, Reply
from actor.running.giving import Ask, Give, refusal
from actor.running.threads import aside
from sdk.errors import ReleasedLimit, SlotReleased
from sdk.task import ReleasedSlot

if TYPE_CHECKING:
    from actor.running.context import Run, Runtime


class Releases:
    """The slots of one run, from its first release on."""

    __slots__ = (
        "_ask",
        "_gave_limits",
        "_gives",
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
        # What was given back and the leader may not know; all since it answered a wait that is not
        # over.
        self._gives: list[Give] = []
        # Whether it ever gave back the limits that it took at scheduling. If it has them the core
        # knows.
        self._gave_limits = False
        # How many waits go on for which the slots were given back, and what is to be had again.
        self._waits = 0
        self._wanted: dict[str, int] | None = None

    # --- giving back

    def release(
        self, *, keep_limits: bool = False, is_bounded: bool = True
    ) -> dict[str, int] | None:
        """Give everything back; return what that was, or None when it was done before."""
        with self._lock:
            # Also when a wait has given the slots back: now they stay so.
            held, self._wanted = self._wanted, None
            if self._run.has_released:
                if self._ask is not None:
                    self._ask.is_unwanted = self._ask.is_after_wait
                return held
            held = self.held
            give = Give(None, monotonic() - self._run.began, keeps_limits=keep_limits)
            self._give_all(give, is_bounded=is_bounded)
        self._runtime.release(self._run, give)
        return held

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
            give = self._note(Give(given))
        self._runtime.release(self._run, give)
        return True

    def begin_wait(self, *, keep_limits: bool = False) -> None:
        """Give everything back for a wait, unless that was done before."""
        with self._lock:
            self._waits += 1
            # A wait inside `enter` keeps the slot: the turn in the environment, which it would have
            # to have again, is there only when `enter` is over.
            if self._run.has_released or self._run.is_entering:
                if keep_limits and self._ask is not None:
                    # It is told so since the core has granted what no thread has seen yet.
                    self._ask.is_unwanted = True
                return
            try:
                give = self._give_for_wait(keep_limits=keep_limits)
            except BaseException:
                self._waits -= 1
                raise
        self._runtime.release(self._run, give)

    def _give_for_wait(self, *, keep_limits: bool = False) -> Give:
        wanted, give = self.held, Give(None, keeps_limits=keep_limits)
        self._give_all(give)
        self._wanted = wanted
        return give

    def _give_all(self, give: Give, *, is_bounded: bool = True) -> None:
        """Note that nothing is held, if the actor bears one more such task."""
        self._runtime.count_released(self._run, is_bounded=is_bounded)
        self._note(give)
        self.held = {}
        self.units = {}
        self._run.has_released = True
        self._gave_limits |= not give.keeps_limits

    def _note(self, give: Give) -> Give:
        """Note what is given back, and forget what is known."""
        if self._ask is None and self._gives:
            self._forget_known()
        self._gives.append(give)
        return give

    def _forget_known(self) -> None:
        self._gives = [give for give in self._gives if not give.is_known]

    # --- having it again

    def end_wait(self) -> None:
        """Have again what was given back for the waits, when this was the last."""
        wanted = self._after_wait()
        if wanted is not None:
            with self._for_good_if_not():
                self.reacquire(wanted, None, is_after_wait=True)

    async def end_wait_async(self) -> None:
        """Do as `end_wait` without blocking the event loop."""
        wanted = self._after_wait()
        if wanted is not None:
            with self._for_good_if_not():
                await self.reacquire_async(wanted, None, is_after_wait=True)

    def _after_wait(self) -> dict[str, int] | None:
        """Return what is to be had again now. It stays wanted until it is, or released for good."""
        with self._lock:
            self._waits -= 1
            return None if self._waits else self._wanted

    @contextlib.contextmanager
    def _for_good_if_not(self) -> Iterator[None]:
        """Let the run go on without what it could not have again."""
        try:
            yield
        except BaseException:
            with self._lock:
                self._wanted = None
            raise

    @property
    def _is_wanted(self) -> bool:
        """Tell whether a wait that is over still wants its slots: none has begun since."""
        return not self._waits and self._wanted is not None

    def _keep_for_wait(self) -> bool:
        """Keep what a wait that is over has again, or give it back where another one has begun.

        That one found nothing to give back when it began. Tell whether it is kept.
        """
        with self._lock:
            is_kept = not self._run.has_released
            if not (self._waits and is_kept and self._wanted is not None):
                if is_kept:
                    self._wanted = None
                return is_kept
            try:
                give = self._give_for_wait()
            except ReleasedLimit:
                return True  # The wait goes on with its slots, as those do that are too many.
        self._runtime.release(self._run, give)
        return False

    def reacquire(
        self, slots: dict[str, int], timeout: float | None, *, is_after_wait: bool = False
    ) -> None:
        """Wait until *slots* in all are held, the turn, and the limits taken at scheduling."""
        until = None if timeout is None else monotonic() + timeout
        limits = None
        try:
            while self._regain(slots, until, is_after_wait=is_after_wait):
                limits = self._limits_lacking()
                if not limits:
                    return
                give = partial(self._give_for_limits, is_after_wait=is_after_wait)
                self._run.limiting.occupy(AT_SCHEDULING, limits, rest(until), give)
                if not self._run.has_released:
                    return
        except BaseException:
            self._lose(limits)
            raise
        self._lose_limits(limits)

    def _regain(self, slots: dict[str, int], until: float | None, *, is_after_wait: bool) -> bool:
        """Wait until *slots* in all are held, and the turn; tell whether they still are wanted."""
        while not self._has(slots):
            if is_after_wait and not self._is_wanted:
                return False
            ask = self._join(slots, until, is_after_wait=is_after_wait)
            if isinstance(ask, Ask):
                self._settle(ask, ask.answer.result())
                continue
            try:
                ask.result(rest(until))
            except TimeoutError:
                raise refusal(self._run.name, Reply.TIMEOUT) from None
        return not is_after_wait or self._keep_for_wait()

    async def reacquire_async(
        self,
        slots: dict[str, int],
        timeout: float | None,  # noqa: ASYNC109
        *,
        is_after_wait: bool = False,
    ) -> None:
        """Do as `reacquire` without blocking the event loop."""
        until = None if timeout is None else monotonic() + timeout
        limits = None
        try:
            while await self._regain_async(slots, until, is_after_wait=is_after_wait):
                limits = self._limits_lacking()
                if not limits:
                    return
                give = partial(self._give_for_limits, is_after_wait=is_after_wait)
                await self._run.limiting.occupy_async(AT_SCHEDULING, limits, rest(until), give)
                if not self._run.has_released:
                    return
        except BaseException:
            self._lose(limits)
            raise
        self._lose_limits(limits)

    async def _regain_async(
        self, slots: dict[str, int], until: float | None, *, is_after_wait: bool
    ) -> bool:
        """Do as `_regain` without blocking the event loop."""
        while not self._has(slots):
            if is_after_wait and not self._is_wanted:
                return False
            ask = self._join(slots, until, is_after_wait=is_after_wait)
            if not isinstance(ask, Ask):
                done = asyncio.shield(asyncio.wrap_future(ask))
                try:
                    await asyncio.wait_for(done, rest(until))
                except TimeoutError:
                    raise refusal(self._run.name, Reply.TIMEOUT) from None
                continue
            try:
                answer = await asyncio.shield(asyncio.wrap_future(ask.answer))
            except asyncio.CancelledError:
                self._abandon(ask)
                raise
            # The environment may have to be loaded, which is no work for the event loop.
            if answer.loads:
                await aside(self._settle, ask, answer)
            else:
                self._settle(ask, answer)
        return not is_after_wait or self._keep_for_wait()

    def _give_for_limits(self, *, is_after_wait: bool) -> None:
        """Give all back but limits, while it waits for those that it took at scheduling."""
        with self._lock:
            if self._run.has_released:
                return
            if is_after_wait:
                give = self._give_for_wait(keep_limits=True)
            else:
                give = Give(None, keeps_limits=True)
                self._give_all(give)
        self._runtime.release(self._run, give)

    def _lose(self, limits: dict[str, int] | None) -> None:
        """Be without all where some could not be had: slots and limits it has both, or neither."""
        if limits:
            # It was one of those without slots until a moment ago.
            self.release(is_bounded=False)
            self._lose_limits(limits)

    def _lose_limits(self, limits: dict[str, int] | None) -> None:
        """Be without the limits taken at scheduling, where the slots are not had again."""
        if limits:
            self._run.limiting.vacate(AT_SCHEDULING)

    def _limits_lacking(self) -> dict[str, int] | None:
        """Return the limits that it may be without; asked for them the core says so if not."""
        return self._run.assignment.recipe.call.limits if self._gave_limits else None

    def answered(self, answer: Answer) -> None:
        """Take the answer of the core; the leader calls this, before it sees what comes next."""
        with self._lock:
            ask = self._ask
            assert ask is not None
            if self._gives:
                self._forget_known()
            if not ask.is_abandoned:
                ask.answer.set_result(answer)
        if ask.is_abandoned:
            self._undo(ask, answer)
            self._end(ask)

    def _end(self, ask: Ask) -> None:
        """Let those go on who wait for the end of *ask*."""
        with self._lock:
            self._ask = None
        ask.done.set_result(None)

    def _has(self, slots: dict[str, int]) -> bool:
        with self._lock:
            if self._run.is_closed:
                raise SlotReleased(f"task {self._run.name!r} has ended: it has no slot any more")
            held = self.held
            return not self._run.has_released and all(
                held.get(kind, 0) >= n for kind, n in slots.items()
            )

    def _join(
        self, slots: dict[str, int], until: float | None, *, is_after_wait: bool
    ) -> Ask | Future[None]:
        """Return a new wait, which is the caller's, or what has to be over before there is one."""
        with self._lock:
            if self._ask is not None:
                return self._ask.done
            for give in self._gives:
                # The core would grant at once what it does not know to be given back.
                unsaid = None if give.is_said else give.unsaid()
                if unsaid is not None:
                    return unsaid
            ask = self._ask = Ask(slots, is_after_wait=is_after_wait)
        self._runtime.ask(self._run, slots, rest(until))
        return ask

    def _settle(self, ask: Ask, answer: Answer) -> None:
        """Act on the answer, and let those go on who wait for it; raise what the user is told."""
        try:
            if answer.reply is Reply.GRANTED:
                self._enter(ask, answer)
            else:
                raise refusal(self._run.name, answer.reply)
        finally:
            self._end(ask)

    def _enter(self, ask: Ask, answer: Answer) -> None:
        """Hold what was granted; when the environment cannot be entered it is given back.

        Hold nothing where another thread gave back all in between: who asked asks again.
        """
        if self._left(ask) is None:
            return
        try:
            resident = self._runtime.enter_again(self._run)
        except BaseException:
            if self._left(ask) is None:
                return
            # That it could not be loaded, the core knows already.
            self._give_again(ask)
            raise
        with self._lock:
            is_over = self._run.is_closed
            held = None if is_over or ask.is_unwanted else self._left(ask)
            if held is not None:
                self.held = held
                self.units = {kind: names[: held[kind]] for kind, names in answer.units.items()}
                self._run.resident = resident
                self._run.has_released = False
                self._runtime.count_reacquired(self._run)
        if held is None:
            self._give_again(ask)
        if is_over:
            raise refusal(self._run.name, Reply.ENDED)

    def _left(self, ask: Ask) -> dict[str, int] | None:
        """Return what there is of the granted that was not given back since; None for nothing.

        Only a run that had kept a part can have given something back.
        """
        left = ask.slots
        for give in self._gives:
            given = give.typed
            if given is None:
                return None
            left = {kind: max(0, n - given.get(kind, 0)) for kind, n in left.items()}
        return left

    def _abandon(self, ask: Ask) -> None:
        """Wait no longer; what is granted nevertheless is given back."""
        with self._lock:
            ask.is_abandoned = not ask.answer.done()
        if ask.is_abandoned:
            self._runtime.withdraw(self._run)
        else:
            self._undo(ask, ask.answer.result())
            self._end(ask)

    def _undo(self, ask: Ask, answer: Answer) -> None:
        """Give back what was granted to nobody."""
        if answer.reply is Reply.GRANTED:
            if answer.loads:
                self._runtime.leave_unloaded(self._run, answer.evicts)
            self._give_again(ask)

    def _give_again(self, ask: Ask) -> None:
        """Have the core take back what it granted, and nothing that was kept all the time."""
        with self._lock:
            left, part = self._left(ask), None
            if left is None:
                return
            if not self._run.has_released:
                part = {kind: n - self.held.get(kind, 0) for kind, n in left.items()}
                part = {kind: n for kind, n in part.items() if n > 0}
            give = self._note(Give(part, keeps_limits=not self._gave_limits))
        self._runtime.give_again(self._run, give)


class Block(ReleasedSlot):
    """`with task.released_slot():`, and the same for `async with`: a wait as one for calls is."""

    def __init__(self, releases: Releases, runtime: "Runtime") -> None:
        """Do nothing yet."""
        self._releases = releases
        self._runtime = runtime

    def __enter__(self) -> None:
        """Give everything back."""
        self._runtime.refuse_on_event_loop("released_slot()", "async with task.released_slot()")
        self._releases.begin_wait()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        """Wait until it is had again, unless it had been given back before the block."""
        self._releases.end_wait()

    async def __aenter__(self) -> None:
        """Give everything back."""
        self._releases.begin_wait()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        """Wait until it is had again, unless it had been given back before the block."""
        await self._releases.end_wait_async()


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


def rest(until: float | None) -> float | None:
    """Return how many seconds are left, no more than a thread can wait at once."""
    return None if until is None else min(max(0.0, until - monotonic()), threading.TIMEOUT_MAX)
