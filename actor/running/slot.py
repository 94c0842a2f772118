"""Where tasks run: the one place that calls code of a user.

A run always ends in an outcome, whatever the code raises. A sync function runs in a thread of its
own, an async one on the event loop; both see their run as `current_task()`.
"""

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

from actor.events import entering
from actor.holding.mailbox import Assignment, StopOrder
from actor.holding.reacquiring import Answer
from actor.holding.recipe import THREAD, Recipe, Way
from actor.machine.board import Board
from actor.running.batching import Batching
from actor.running.code import CodeCache, Loaded
from actor.running.context import Identity, Run
from actor.running.endings import Ending, EnvironmentFailure, describe, failure_of, pack
from actor.running.environment import Environments, Resident, way_of
from actor.running.giving import Give
from actor.running.limiting import LimitWait, inside
from actor.running.resetting import Resets
from actor.running.threads import EventLoopThread, ThreadPool, aside, end_unused
from actor.settings import Launch
from sdk.errors import EnvironmentFailed, ReleasedLimit, TaskCanceled
from sdk.futures.nested import CallWait
from sdk.task import running
from wire import payload
from wire.limits import GIVE_BACK
from wire.messages import Occupied
from wire.parts import Call, Environment, Token

if TYPE_CHECKING:
    from actor.loop import Loop
    from sdk.client import Client


class Slots:
    """Starts and stops runs for the I/O thread."""

    def __init__(self, loop: "Loop", launch: Launch, board: Board) -> None:
        """Begin without threads."""
        self.launch = launch
        self.identity = Identity(launch, loop)
        self._loop = loop
        self._board = board
        self._code = CodeCache()
        self._events = EventLoopThread("slot-async")
        self.environments = Environments(self._events)
        gives_up = partial(end_unused, launch.core.name, board, self.environments.residents)
        self.pool = ThreadPool("slot", loop.core.note, gives_up)
        loop.core.entering.where = self.environments.where
        self.environments.tell_held_up = partial(loop.post, entering.held_up, loop.core)
        self._lost = partial(loop.post, loop.core.environment_lost)
        self.resets = Resets(self.environments, self._lost)
        self.batching = Batching(self, loop, board, self.pool, self._events)
        self._runs: dict[Token, Run] = {}
        # Runs that began on the event loop and never had a thread.
        self._tasks: set[asyncio.Task[None]] = set()
        self._threaded: set[Token] = set()
        # Those that run without a slot, and those that were promised an answer.
        self._released: dict[Token, Run] = {}
        self._released_lock = threading.Lock()
        self._asking: dict[Token, Run] = {}
        # Waits for limits, by run and number; several may wait for what a run had.
        self._occupying: dict[tuple[Token, int], list[LimitWait]] = {}

    # --- the I/O thread's side

    def start(self, assignment: Assignment) -> None:
        """Start a run in a thread, or on the event loop when that is known to be its place."""
        if (run := self.prepare(assignment)) is not None:
            self._threaded.add(assignment.token)
            self.pool.start(self._run_in_thread, run)

    def prepare(self, assignment: Assignment) -> Run | None:
        """Return a run that the caller gives a thread, None when it started on the event loop."""
        run = Run(assignment, self._board.reserve(assignment.token), self)
        self._runs[assignment.token] = run
        way = assignment.recipe.way
        if way <= THREAD or assignment.loads:
            return run
        if way is Way.EVENT_LOOP:
            self._events.call(self._begin_async, run)
        elif not self.batching.join(run):
            return run
        return None

    def run_here(self, run: Run) -> None:
        """Run in the leader's own thread, which looks at what was posted when this returns."""
        self._run_sync(run, self._loop.post_quietly)

    def stop(self, order: StopOrder) -> None:
        """Tell a run that nobody wants it."""
        run = self._runs.get(order.assignment.token)
        if run is not None:
            run.is_canceled_flag = True
            if (cancel := run.stop_task) is not None:
                self._events.call(cancel)
            if order.force and run.stop_hook is not None:
                run.stop_hook()

    def answer(self, answer: Answer) -> None:
        """Tell a run what became of its wait for slots."""
        run = self._asking.pop(answer.token, None)
        if run is not None:
            run.releases.answered(answer)

    def occupied(self, answer: Occupied) -> None:
        """Tell a run what became of its wait for limits."""
        key = ((answer.epoch, answer.number), answer.ask)
        goes_on = answer.code == GIVE_BACK
        for wait in self._occupying.get(key, ()) if goes_on else self._occupying.pop(key, ()):
            wait.told(answer, goes_on=goes_on)

    def ended(self, assignment: Assignment) -> None:
        """Forget a run that has handed back its outcome."""
        token = assignment.token
        self._runs.pop(token, None)
        if self._released and token in self._released:
            self._has_slot(token)
        if self._threaded and token in self._threaded:
            self._threaded.discard(token)
            self.pool.ended()

    def _left_thread(self, run: Run, now: float) -> None:
        """Note that *run* goes on on the event loop, so that its thread is for another one."""
        if run.token in self._threaded:
            self._threaded.discard(run.token)
            self.pool.ended()

    def look(self) -> None:
        """Look once a second at what hangs, and for threads that there was no room for."""
        self.resets.look(self._loop.core)
        self.pool.grow(least=0)

    def close(self) -> None:
        """Leave the environments. What still runs is left to the end of the process."""
        self.environments.close()

    # --- a run's side

    def release(self, run: Run, give: Give) -> None:
        """Give back the slot of *run*, and its turn once the environment is as it was."""
        resident = run.resident
        # Who gives back a part keeps the turn.
        if give.typed is not None or resident is None or resident.resets is None:
            self.give_again(run, give)
        elif self._events.is_current:
            run.resetting = self.keep(self._reset_then_release(run, resident, give))
        else:
            self.resets.call(resident, ((run, None),))
            self.give_again(run, give)

    def give_again(self, run: Run, give: Give) -> None:
        """Give back what *run* was granted and does not use."""
        self._loop.give_back(run.assignment, give)
        give.said()

    def ask(self, run: Run, slots: dict[str, int], timeout: float | None) -> None:
        """Let *run* wait for its slots."""
        self._loop.post(self._ask, run, slots, timeout, inside(run.token))

    def _ask(
        self,
        run: Run,
        slots: dict[str, int],
        timeout: float | None,
        within: list[int],
        now: float,
    ) -> None:
        self._asking[run.token] = run
        self._loop.core.reacquire(run.token, slots, now, timeout_s=timeout, within=within)

    def refresh_timeout(self, run: Run, seconds: float) -> None:
        """Let *run* have *seconds* more."""
        self._loop.post(self._loop.core.refresh_timeout, run.token, seconds)

    def withdraw(self, run: Run) -> None:
        """Let *run* wait no longer."""
        self._loop.post(self._loop.core.withdraw, run.token)

    def begin_wait(self, run: Run, wait: CallWait) -> None:
        """Note that *run* waits for calls, for the heartbeat that finds it still waiting."""
        wait.number = run.limiting.next_number()
        wait.within = inside(run.token)
        self._loop.post_quietly(self._begin_wait, run, wait)

    def _begin_wait(self, run: Run, wait: CallWait, now: float) -> None:
        self._loop.core.awaiting.begin(run.token, wait.number, wait)

    def end_wait(self, run: Run, wait: CallWait) -> None:
        """Note that a wait is over; at once where the broker knows of it."""
        post = self._loop.post if wait.is_said else self._loop.post_quietly
        post(self._end_wait, run, wait)

    def _end_wait(self, run: Run, wait: CallWait, now: float) -> None:
        self._loop.core.awaiting.end(run.token, wait.number)

    def occupy(self, run: Run, wait: LimitWait) -> None:
        """Let *run* wait for limits."""
        self._loop.post(self._occupy, run, wait)

    def _occupy(self, run: Run, wait: LimitWait, now: float) -> None:
        self._occupying.setdefault((run.token, wait.number), []).append(wait)
        wait.begin(self._loop.core)

    def vacate(self, run: Run, number: int) -> None:
        """Give back what *run* has of limits, or asked for, under *number*."""
        self._loop.post(self._vacate, run, number)

    def _vacate(self, run: Run, number: int, now: float) -> None:
        self._loop.core.occupying.vacate(run.token, number)

    def enter_again(self, run: Run) -> Resident | None:
        """Return the environment of *run*, loading it again when the core said so."""
        environment = run.assignment.recipe.call.environment
        if environment is None:
            return None
        if not run.assignment.loads:
            resident = self.environments.find(environment.id)
            if resident is not run.resident:
                raise EnvironmentFailed(f"environment {environment.name} is another copy by now")
            return resident
        try:
            return self._enter(run, environment)
        except EnvironmentFailure as error:
            self._lost(environment.id)
            cause = error.__cause__
            assert cause is not None
            why = f"environment {error} could not be entered again: {payload.told(cause)}"
            raise EnvironmentFailed(why) from cause

    def leave_unloaded(self, run: Run, evicts: tuple[str, ...]) -> None:
        """Tell the core that the environment that *run* was to load is not there."""
        environment = run.assignment.recipe.call.environment
        assert environment is not None
        self.environments.leave(evicts)
        self._lost(environment.id)

    def count_released(self, run: Run, *, is_bounded: bool = True) -> None:
        """Count one more run without a slot; raise ReleasedLimit when there are too many."""
        most = self.launch.core.released_max
        with self._released_lock:
            if is_bounded and len(self._released) >= most:
                raise ReleasedLimit(
                    f"{most} tasks of actor {self.identity.name} run, or wait for calls of their"
                    " own, without their slots already: start it with a higher --released-max"
                )
            self._released[run.token] = run

    def count_reacquired(self, run: Run) -> None:
        """Count one run less without a slot."""
        self._has_slot(run.token)
        self._board.reacquire(run.token)

    def _has_slot(self, token: Token) -> None:
        with self._released_lock:
            self._released.pop(token, None)

    def _held(self, run: Run, identity: str) -> Resident | None:
        """Return what *run*, or else another released one, has in hand of an environment."""
        with self._released_lock:
            others = [one.resident for one in self._released.values()]
        found = [one for one in (run.resident, *others) if one is not None and one.id == identity]
        # What a task has waited for in vain is its run's own alone.
        may_wait = [one for one in found if one is run.resident or not one.is_given_up]
        return may_wait[0] if may_wait else None

    def refuse_on_event_loop(self, what: str, instead: str) -> None:
        """Raise RuntimeError on the event loop, which must not be blocked."""
        if self._events.is_current:
            raise RuntimeError(
                f"{what} would block the event loop of all async tasks here: say {instead}"
            )

    def nested_client(self, run: Run) -> "Client":
        """Return a client whose calls carry the token of *run*."""
        from sdk.client import Client  # noqa: PLC0415 - most runs need none.
        from sdk.describing.options import inheriting  # noqa: PLC0415

        inherited = inheriting(run.assignment.recipe.call.sticky)
        launch = self.launch
        name = f"tasks of {launch.core.name}"
        return Client(
            launch.broker, name=name, keys=launch.keys, parent=run.token, inherited=inherited
        )

    def _run_in_thread(self, run: Run) -> None:
        self._run_sync(run, self._loop.post)

    def _run_sync(self, run: Run, post: Callable[..., None]) -> None:
        """Run in this thread, unless it turns out to be a coroutine's call."""
        run.began = time.monotonic()
        assignment = run.assignment
        try:
            if assignment.loads:
                self._board.enter(run.place, assignment.token)
            else:
                self._board.start(run.place, assignment.token)
            ending = contextvars.copy_context().run(self._call, run)
        except EnvironmentFailure as error:
            run.close()
            post(self._loop.not_entered, assignment, failure_of(error))
            return
        except BaseException as error:  # noqa: BLE001 - whatever the user's code raises.
            if assignment.loads and run.resident is None:
                # Not even that could be tried, as where others have taken all memory.
                self._not_tried(run, error, post)
                return
            ending = self.describe(error, assignment.recipe.call)
        if ending is None:
            return
        run.hand_over()
        had_slot, resident = run.close(), run.resident
        if resident is not None:
            # The environment goes back to what it was, unless that was done at the release.
            if had_slot and resident.resets is not None and not assignment.recipe.is_entry:
                self.resets.call(resident, ((run, ending),))
            if resident.checkpoints is not None:
                finish = self._loop.finish
                resident.checkpoints.hand_over(finish, assignment, ending, run.began, post)
                return
        post(self._loop.finish, assignment, *ending, time.monotonic() - run.began, None)

    def _call(self, run: Run) -> Ending | None:
        """Call the function of *run*; None when it is a coroutine, which the event loop runs."""
        assignment = run.assignment
        running.set(run)
        recipe = assignment.recipe
        call = recipe.call
        if recipe.environment is not None:
            if assignment.loads:
                run.resident = self._enter(run, recipe.environment)
                # To enter is not to run: who wants to know how long runs take is not to be misled.
                run.began += run.resident.load_s
                self._board.start(run.place, assignment.token)
            else:
                run.resident = self.environments.residents[recipe.environment.id]
        if call.function:
            loaded = recipe.loaded or self._function(recipe)
            function, goes_to_loop = loaded.call, loaded.is_async
        elif not call.method:
            return pack(None)  # Entering was all there was to do.
        else:
            resident = run.resident
            assert resident is not None
            way = recipe.way or way_of(recipe, resident)
            goes_to_loop = way is not THREAD
            if goes_to_loop and way is Way.BATCH:
                self._events.begin()
                self._loop.post_quietly(self._left_thread, run)
                self._loop.post(self.batching.came, run)
                return None
            function = getattr(resident.instance, call.method)
        if goes_to_loop:
            self._events.begin()
            recipe.way = Way.EVENT_LOOP
            self._loop.post_quietly(self._left_thread, run)
            self._events.call(self._begin_async, run)
            return None
        if run.is_canceled_flag:
            raise TaskCanceled(f"task {run.id} was canceled")
        args, kwargs = self.arguments(assignment)
        value = function(*args, **kwargs)
        del args, kwargs
        if hasattr(type(value), "__await__"):
            value = self._events.wait(value)
        return pack(value)

    def _begin_async(self, run: Run) -> None:
        """Start the coroutine of *run*; on the event loop."""
        _ = self.keep(self._run_async(run))

    async def _run_async(self, run: Run) -> None:
        """Run the coroutine of *run* in a task of its own, which alone is canceled."""
        run.began = time.monotonic()
        assignment = run.assignment
        running.set(run)
        self._board.start(run.place, assignment.token)
        inner = asyncio.get_running_loop().create_task(self._await(run))
        run.stop_task = inner.cancel
        if run.is_canceled_flag:
            inner.cancel()
        try:
            ending = await inner
        except BaseException as error:  # noqa: BLE001 - canceled before its first step.
            ending = self.describe(error, assignment.recipe.call)
        run.stop_task = None
        if (wait := run.unheard()) is not None:
            await aside(wait)
        had_slot, resident = run.close(), run.resident
        if run.resetting is not None:
            await run.resetting
        if had_slot and resident is not None and resident.resets is not None:
            await aside(self.resets.call, resident, ((run, ending),))
        if resident is not None and resident.checkpoints is not None:
            post = self._loop.post
            resident.checkpoints.hand_over(self._loop.finish, assignment, ending, run.began, post)
            return
        self._loop.post(self._loop.finish, assignment, *ending, time.monotonic() - run.began, None)

    async def _await(self, run: Run) -> Ending:
        assignment = run.assignment
        call = assignment.recipe.call
        try:
            if call.environment is not None and run.resident is None:
                run.resident = self.environments.find(call.environment.id)
            if call.function:
                function = self._function(assignment.recipe).call
            else:
                assert run.resident is not None
                function = getattr(run.resident.instance, call.method)
            args, kwargs = self.arguments(assignment)
            return pack(await function(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - whatever the user's code raises.
            return self.describe(error, call)

    def describe(self, error: BaseException, call: Call) -> Ending:
        """Make the outcome of a run that raised *error*, also where memory is out."""
        self.environments.reserve.give_for(error)
        return describe(error, call)

    def _function(self, recipe: Recipe) -> Loaded:
        """Return the function of *recipe*, unpickling it the first time."""
        assert recipe.code is not None
        try:
            recipe.loaded = self._code.load(recipe.call.function, recipe.code)
        except ImportError as error:
            raise self._not_here(error) from error
        return recipe.loaded

    def arguments(self, assignment: Assignment) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Unpickle the arguments of *assignment*."""
        try:
            loaded = payload.load(assignment.body, assignment.payloads)
        except ImportError as error:
            raise self._not_here(error) from error
        # The client pickles the pair; whatever else it were, the call below would say so.
        pair: tuple[tuple[Any, ...], dict[str, Any]] = loaded  # type: ignore[assignment]
        return pair

    def _not_here(self, error: ImportError) -> ImportError:
        """Say which module is missing, and where."""
        return type(error)(
            f"{error} on actor {self.identity.name}: install the module there, or submit from a"
            " module that is not installed, whose code then travels with the task",
            name=error.name,
        )

    def _enter(self, run: Run, environment: Environment) -> Resident:
        """Enter the environment of *run*, as the core said."""
        assignment = run.assignment
        blob, checkpoint, held = assignment.recipe.blob, None, None
        assert blob is not None
        if environment.named is not None:
            checkpoint = self._loop.core.mailbox.residents.named.restored(environment.id)
        else:
            held = self._held(run, environment.id)
        if not self.environments.is_room(assignment.evicts, held):
            # What leaves takes its own time, and not that of what is entered.
            self._loop.post(self._loop.core.entering.hold, assignment)
            self.environments.make_room(assignment.evicts, held)
            self._loop.post(self._loop.core.entering.go_on, assignment)
        began = time.monotonic()
        try:
            resident = self.environments.load(environment, blob, run, checkpoint, held)
        except BaseException as error:
            self.environments.reserve.give()
            raise EnvironmentFailure(environment.name) from error
        resident.load_s = time.monotonic() - began
        self._loop.post(self._loop.core.entered, run.token, environment, resident.load_s)
        return resident

    def _not_tried(self, run: Run, error: BaseException, post: Callable[..., None]) -> None:
        """Hand a run back that did not come to enter its environment."""
        environment = run.assignment.recipe.call.environment
        assert environment is not None
        self.environments.reserve.give()
        failed = EnvironmentFailure(environment.name)
        failed.__cause__ = error
        run.close()
        post(self._loop.not_entered, run.assignment, failure_of(failed))

    async def _reset_then_release(self, run: Run, of: Resident, give: Give) -> None:
        await aside(self.resets.call, of, ((run, None),))
        self.give_again(run, give)

    def keep(self, coroutine: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Start *coroutine* on the event loop, the caller's thread, and hold it until it ends."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
