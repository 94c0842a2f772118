"""Runs the calls of batched methods together, and takes what comes of it apart again.

Which of them are one batch is decided in `gathering`, by the thread that leads; the method itself
runs in a thread of the pool, or on the event loop. The rule that must not be broken: each call ends
in one outcome, whatever the method does with the others.
"""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from actor.machine.board import Board
from actor.running.context import Run
from actor.running.endings import Ending, describe, pack
from actor.running.gathering import Gathering
from actor.running.threads import EventLoopThread, ThreadPool, aside
from sdk.describing.batching import Columns, split
from sdk.errors import TaskCanceled

if TYPE_CHECKING:
    from actor.loop import Loop
    from actor.running.environment import Resident
    from actor.running.slot import Slots


class Batching:
    """All batches of one actor."""

    def __init__(
        self, slots: "Slots", loop: "Loop", board: Board, pool: ThreadPool, events: EventLoopThread
    ) -> None:
        """Begin with no call."""
        self._slots = slots
        self._loop = loop
        self._board = board
        self._pool = pool
        self._events = events
        self._gatherings: dict[str, Gathering] = {}
        # Where calls came in this turn.
        self.fresh: dict[str, Gathering] = {}

    # --- for the thread that leads

    def join(self, run: Run) -> bool:
        """Let *run* be in a batch, which begins at the end of this turn if it may.

        False where the copy is not there.
        """
        call = run.assignment.recipe.call
        environment = call.environment
        assert environment is not None
        resident = run.resident = run.resident or self._slots.environments.find(environment.id)
        if resident is None:
            return False
        gathering = self._gatherings.get(environment.id)
        if gathering is None:
            gathering = Gathering(resident.batches, environment.size)
            self._gatherings[environment.id] = gathering
        gathering.add(call.method, run)
        self.fresh[environment.id] = gathering
        return True

    def came(self, run: Run, now: float) -> None:
        """Let a run be in a batch of which that turned out in its thread."""
        if self.join(run):
            self.start(now)

    def start(self, now: float) -> None:
        """Begin the batches that may."""
        fresh, self.fresh = self.fresh, {}
        for identity, gathering in fresh.items():
            for method, runs in gathering.take(now):
                resident = runs[0].resident
                assert resident is not None
                one = Running(identity, method, runs, resident, now)
                if one.is_async:
                    self._events.call(self._begin_async, one)
                else:
                    self._pool.start(self._run_in_thread, one)
            gathering.check()

    def _due(self, identity: str, now: float) -> None:
        """Begin what has waited for long enough."""
        gathering = self._gatherings.get(identity)
        if gathering is not None:
            self.fresh[identity] = gathering
            self.start(now)

    def _ended(self, one: "Running", endings: Sequence[Ending | None], now: float) -> None:
        """Take the outcomes of a batch, which leave in one frame, and begin the next one."""
        core = self._loop.core
        was_full = core.said.turns.get(one.identity) == 0
        for run, ending in zip(one.runs, endings, strict=True):
            if ending is not None:
                status, body, frames = ending
                run_s = now - one.began
                self._loop.finish(run.assignment, status, body, frames, run_s, None, now)
        if not one.is_async:
            self._pool.ended()
        gathering = self._gatherings[one.identity]
        if gathering.ended(now, was_full=was_full):
            wait_s = gathering.waits_until - now
            self._events.call(self._events.loop.call_later, wait_s, self._wake, one.identity)
        elif not (gathering.queues or gathering.running):
            # The next copy may be of another class.
            del self._gatherings[one.identity]
            return
        self.fresh[one.identity] = gathering
        self.start(now)

    def _wake(self, identity: str) -> None:
        self._loop.post(self._due, identity)

    # --- where the method runs

    def _run_in_thread(self, one: "Running") -> None:
        self._begin(one)
        results = one.call(self._slots.arguments)
        self._hand_over(one, results)

    def _begin_async(self, one: "Running") -> None:
        _ = self._slots.keep(self._run_async(one))

    async def _run_async(self, one: "Running") -> None:
        self._begin(one)
        results = await one.call_async(self._slots.arguments)
        # What brings the environment back to where it was, and takes a checkpoint, may block.
        if one.resident.resets is None and one.resident.checkpoints is None:
            self._hand_over(one, results)
        else:
            await aside(self._hand_over, one, results)

    def _begin(self, one: "Running") -> None:
        for run in one.runs:
            self._board.start(run.place, run.assignment.token)

    def _hand_over(self, one: "Running", results: Sequence[Any]) -> None:
        """Make the outcomes, and hand them over together."""
        endings: list[Ending | None] = [
            describe(result, run.assignment.recipe.call)
            if isinstance(result, BaseException)
            else pack(result)
            for run, result in zip(one.runs, results, strict=True)
        ]
        for run in one.runs:
            run.close()
        if one.resident.resets is not None:
            self._slots.resets.call(one.resident, list(zip(one.runs, endings, strict=True)))
        if one.resident.checkpoints is not None:
            for place, run in enumerate(one.runs):
                ending, endings[place] = endings[place], None
                assert ending is not None
                one.resident.checkpoints.hand_over(
                    self._loop.finish, run.assignment, ending, one.began_at, self._loop.post
                )
        self._loop.post(self._ended, one, endings)


class Running:
    """One batch."""

    __slots__ = ("began", "began_at", "identity", "is_async", "method", "resident", "runs")

    def __init__(
        self, identity: str, method: str, runs: list[Run], resident: "Resident", now: float
    ) -> None:
        """Name the calls, of which each has its turn."""
        self.identity = identity
        self.method = method
        self.runs = runs
        self.resident = resident
        self.began = now
        self.began_at = time.monotonic()
        self.is_async = resident.batches[method].is_async

    @property
    def name(self) -> str:
        """Name the method for people."""
        return f"{type(self.resident.instance).__qualname__}.{self.method}"

    def call(self, read: Callable[[Any], Any]) -> list[Any]:
        """Call the method and return for each call its result, or what it raises."""
        results, columns, places = self._gather(read)
        if places:
            try:
                returned = getattr(self.resident.instance, self.method)(**columns.lists())
                self._spread(results, places, split(self.name, returned, len(places)))
            except BaseException as error:  # noqa: BLE001 - whatever the user's code raises.
                self._spread(results, places, [error] * len(places))
        return results

    async def call_async(self, read: Callable[[Any], Any]) -> list[Any]:
        """Do as `call` for a coroutine function."""
        results, columns, places = self._gather(read)
        if places:
            try:
                returned = await getattr(self.resident.instance, self.method)(**columns.lists())
                self._spread(results, places, split(self.name, returned, len(places)))
            except BaseException as error:  # noqa: BLE001 - whatever the user's code raises.
                self._spread(results, places, [error] * len(places))
        return results

    def _gather(self, read: Callable[[Any], Any]) -> tuple[list[Any], Columns, list[int]]:
        """Return what is known of each call, the arguments of the others, and which those are."""
        columns = Columns(getattr(self.resident.instance, self.method))
        results: list[Any] = [None] * len(self.runs)
        places = []
        for place, run in enumerate(self.runs):
            if run.is_canceled_flag:
                results[place] = TaskCanceled(f"task {run.id} was canceled")
                continue
            try:
                columns.add(*read(run.assignment))
                places.append(place)
            except BaseException as error:  # noqa: BLE001 - to unpickle runs code of the user.
                results[place] = error
        return results, columns, places

    @staticmethod
    def _spread(results: list[Any], places: list[int], found: list[Any]) -> None:
        for place, result in zip(places, found, strict=True):
            results[place] = result
