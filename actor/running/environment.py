"""The environments that are loaded here: entered once, used by many runs, left in the end.

Which one is entered, used or evicted is the core's decision; here it is done, in the thread of the
run that needs it. The rules that must not be broken: what was entered is left, by eviction or at
the end, once; and nothing is entered again whose `exit` has not returned.
"""

import asyncio
import inspect
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Container, Iterable
from functools import partial
from types import CodeType
from typing import TYPE_CHECKING, Any, Final

from actor.holding.recipe import THREAD, Buffer, Recipe, Way
from actor.logs import log
from actor.running.checkpoints import Checkpoints
from actor.running.code import is_async
from actor.running.reserve import Reserve
from actor.running.threads import EventLoopThread
from actor.running.whereabouts import of_coroutine, of_thread
from sdk.describing.batching import Batch, batches_of
from wire import payload
from wire.parts import Environment, Token

if TYPE_CHECKING:
    from actor.running.context import Run

# An event loop that comes to nothing else for so long is held up.
HELD_UP_S: Final = 1.0


class Resident:
    """One loaded copy."""

    __slots__ = (
        "batches",
        "checkpoints",
        "exit_timeout_s",
        "holds_up",
        "id",
        "instance",
        "is_given_up",
        "is_left",
        "leaving",
        "load_s",
        "name",
        "resets",
    )

    def __init__(self, environment: Environment, instance: Any, batches: dict[str, Batch]) -> None:
        """Hold what `enter` is about to prepare, with the methods that take *batches*."""
        self.id = environment.id
        self.name = environment.name
        self.instance = instance
        # How long it took to enter it.
        self.load_s = 0.0
        # Whether its `exit` has returned since: it can be entered again.
        self.is_left = threading.Event()
        self.exit_timeout_s = environment.reuse.exit_timeout_s
        # Whether a task that was to enter it again has a new one, since that had not returned.
        self.is_given_up = False
        # What an async `exit` returned; whether it was told that this holds up the event loop.
        self.leaving: object = None
        self.holds_up = False
        self.batches = batches
        # A hook that is not there, or does nothing, costs a run nothing.
        reset = None if does_nothing(instance, "reset") else getattr(instance, "reset", None)
        self.resets: Callable[[], Any] | None = reset
        # A named actor is what its calls have made of it: nothing brings it back to where it was,
        # and once it is entered it may be asked for its state.
        self.checkpoints: Checkpoints | None = None
        if environment.named is not None:
            self.resets = None


class Environments:
    """What is loaded here, by the id of the environment."""

    def __init__(self, loop: EventLoopThread) -> None:
        """Begin with nothing."""
        self._loop = loop
        self.reserve = Reserve()
        self.residents: dict[str, Resident] = {}
        # How many evictions of an environment were done before their own run came to it.
        self._evicted_early: Counter[str] = Counter()
        # What leaves in the background; each of these threads has begun.
        self._leaving: dict[threading.Thread, None] = {}
        # Which thread enters for which run, or what it waits for there.
        self._entering: dict[Token, int | Awaitable[Any]] = {}
        # Whom to tell that the `exit` of an environment holds up the event loop, or does no more.
        self.tell_held_up: Callable[[str, bool], None] = nobody_hears
        self._lock = threading.Lock()

    def find(self, identity: str) -> Resident | None:
        """Return the loaded copy, or None."""
        return self.residents.get(identity)

    def where(self, token: Token) -> str:
        """Say where a run is that enters, as a traceback does; an empty text when nobody knows."""
        own = (Environments._load.__code__, Environments._enter.__code__)
        return self.where_is(self._entering.get(token), own)

    def where_is(self, found: int | Awaitable[Any] | None, own: Container[CodeType]) -> str:
        """Say where a thread is, below our *own* code, or what somebody waits for."""
        if isinstance(found, int):
            return of_thread(found, own)
        if inspect.iscoroutine(found) and inspect.getcoroutinestate(found) == inspect.CORO_CREATED:
            # Something else holds up the event loop.
            return self._loop.where()
        return of_coroutine(found)

    def load(
        self,
        environment: Environment,
        blob: Buffer,
        run: "Run | None" = None,
        checkpoint: Buffer | None = None,
        held: Resident | None = None,
    ) -> Resident:
        """Unpickle and enter an environment; raise what the user's code raises, keeping nothing.

        While an `async def enter` goes on for *run*, its `stop_hook` cancels that. A named
        actor begins from *checkpoint*, if it has said one. What a released run has *held* since it
        had to leave is entered once more; it raises TimeoutError where *run* itself holds what
        cannot be.
        """
        if run is None:
            return self._load(environment, blob, run, checkpoint, held)
        self._entering[run.token] = threading.get_ident()
        try:
            return self._load(environment, blob, run, checkpoint, held)
        finally:
            del self._entering[run.token]

    def _load(
        self,
        environment: Environment,
        blob: Buffer,
        run: "Run | None",
        checkpoint: Buffer | None,
        held: Resident | None,
    ) -> Resident:
        with self._lock:
            # To be evicted by another run, whose thread is slower than this one.
            former = self.residents.pop(environment.id, None)
            if former is not None:
                self._evicted_early[environment.id] += 1
        if former is not None:
            self._leave(former)
        # What has been given up has room for two only if the user says so by --environments-max.
        self._await_leaving()
        if held is not None and not held.is_left.is_set():
            if run is not None and run.resident is held:
                within = f"within its exit_timeout of {held.exit_timeout_s:g} s"
                raise TimeoutError(f"its exit has not returned {within}")
            held = None
        pair: tuple[type | partial[Any], dict[str, Any]] = payload.load(blob, ())  # type: ignore[assignment]
        kind, parameters = pair
        if held is None:
            # A named actor may be made of a class that knows nothing of environments.
            written = kind.args[0] if isinstance(kind, partial) else kind
            resident = Resident(environment, kind(), batches_of(written))
        else:
            resident = held
            resident.is_left.clear()
            resident.is_given_up = False
        try:
            enter = getattr(resident.instance, "enter", None)
            if enter is not None:
                self._enter(enter, parameters, run)
            if environment.named is not None:
                resident.checkpoints = Checkpoints.of(resident.instance, environment.name)
                if checkpoint is not None and resident.checkpoints is not None:
                    resident.checkpoints.restore(checkpoint, self.call)
        except BaseException:
            # Half of it may be there: what it has taken so far is given back. Perhaps it took all.
            self.reserve.give()
            self._leave(resident)
            raise
        with self._lock:
            self.residents[environment.id] = resident
        return resident

    def _enter(
        self, enter: Callable[..., Any], parameters: dict[str, Any], run: "Run | None"
    ) -> None:
        returned = enter(**parameters)
        if not inspect.isawaitable(returned):
            return
        if run is None:
            self._loop.wait(returned)
            return
        self._entering[run.token] = returned
        self.wait_for(returned, run)

    def wait_for(self, hook: Awaitable[Any], run: "Run") -> None:
        """Wait for the end of an async *hook*, which *run* can have canceled meanwhile."""
        try:
            self._loop.wait(self._await(hook, run))
        finally:
            run.stop_hook = None

    async def _await(self, hook: Awaitable[Any], run: "Run") -> None:
        task = asyncio.current_task()
        assert task is not None
        # Whoever waits is told when it has ended, and not that it was to: it may hold the loop up.
        run.stop_hook = partial(self._loop.call, task.cancel)
        await hook

    def evict(self, identities: Iterable[str]) -> None:
        """Leave these environments; what their `exit` raises is logged."""
        for identity in identities:
            resident = self._take(identity)
            if resident is not None:
                self._leave(resident)

    def is_room(self, evicts: Collection[str], held: Resident | None) -> bool:
        """Tell whether nothing has to leave before one more is entered, which may be *held*."""
        is_left = held is None or held.is_left.is_set()
        return is_left and len(evicts) + len(self._leaving) == 0

    def make_room(self, evicts: Iterable[str], held: Resident | None) -> None:
        """Leave what has to, and wait for it, but for no `exit` longer than it may take."""
        self.evict(evicts)
        self._await_leaving()
        if held is not None and not held.is_left.wait(held.exit_timeout_s):
            held.is_given_up = True

    def leave(self, identities: Iterable[str]) -> None:
        """Leave these environments in threads of their own; the next `load` waits for the end."""
        for identity in identities:
            resident = self._take(identity)
            if resident is None:
                continue
            thread = threading.Thread(target=self._leave_here, args=(resident,), daemon=True)
            try:
                with self._lock:
                    thread.start()
                    self._leaving[thread] = None
            except (RuntimeError, MemoryError):
                # As `_leave` does: rather here, for as long as it takes, than not.
                self._leave(resident)

    def _await_leaving(self) -> None:
        with self._lock:
            threads = list(self._leaving)
        for thread in threads:
            thread.join()

    def _take(self, identity: str) -> Resident | None:
        with self._lock:
            if self._evicted_early[identity]:
                self._evicted_early[identity] -= 1
                return None
            del self._evicted_early[identity]
            return self.residents.pop(identity, None)

    def close(self) -> None:
        """Leave all environments, for at most the *exit_timeout* of each."""
        with self._lock:
            identities = list(self.residents)
        self.leave(identities)
        self._await_leaving()

    def call(self, hook: Callable[..., Any], **parameters: object) -> Any:
        """Call a sync or async hook and wait for its end; never on the event loop."""
        returned = hook(**parameters)
        if inspect.isawaitable(returned):
            return self._loop.wait(returned)
        return returned

    def _leave_here(self, resident: Resident) -> None:
        self._leave(resident)
        with self._lock:
            del self._leaving[threading.current_thread()]

    def _leave(self, resident: Resident) -> None:
        """Call `exit` in a thread of its own, and wait for it as long as the environment says."""
        leave = getattr(resident.instance, "exit", None)
        if leave is None or does_nothing(resident.instance, "exit"):
            resident.is_left.set()
            return
        thread = threading.Thread(target=self._exit, args=(resident, leave), daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError):
            # Without room for a thread it is better called here, for as long as it takes, than not.
            self._exit(resident, leave)
            return
        thread.join(resident.exit_timeout_s)
        if thread.is_alive():
            log.warning(
                "environment_exit_timed_out",
                environment=resident.name,
                after_s=resident.exit_timeout_s,
            )
            self._look_after(resident)

    def _look_after(self, resident: Resident) -> None:
        """Tell if an `exit` that takes too long holds up the event loop: nothing async goes on."""
        if not is_inside(resident.leaving) or self._loop.answers(HELD_UP_S):
            return
        if is_inside(resident.leaving):
            resident.holds_up = True
            self.tell_held_up(resident.name, True)
            if resident.leaving is None:
                # It may have returned before it was told that it does not.
                self.tell_held_up(resident.name, False)

    def _exit(self, resident: Resident, leave: Callable[[], Any]) -> None:
        try:
            returned = leave()
            if inspect.isawaitable(returned):
                resident.leaving = returned
                self._loop.wait(returned)
        except BaseException as error:  # noqa: BLE001 - code of a user runs in here.
            log.warning(
                "environment_exit_failed", environment=resident.name, reason=payload.told(error)
            )
        finally:
            resident.leaving = None
            if resident.holds_up:
                resident.holds_up = False
                self.tell_held_up(resident.name, False)
            resident.is_left.set()


def nobody_hears(name: str, is_held: bool) -> None:  # noqa: FBT001
    """Tell nobody."""


def is_inside(awaitable: object) -> bool:
    """Tell whether some thread is inside of a coroutine at this moment."""
    return bool(getattr(awaitable, "cr_running", False))


def does_nothing(instance: object, hook: str) -> bool:
    """Tell whether a hook is the one that `Environment` itself has."""
    inherited = getattr(type(instance), hook, None)
    module = getattr(inherited, "__module__", None) or ""
    return module.partition(".")[0] == "sdk"


def way_of(recipe: Recipe, resident: Resident) -> Way:
    """Find out where the calls of *recipe* run, and note it in there."""
    method = recipe.call.method
    if method in resident.batches:
        recipe.way = Way.BATCH
    else:
        recipe.way = Way.EVENT_LOOP if is_async(getattr(resident.instance, method)) else THREAD
    return recipe.way
