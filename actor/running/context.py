"""What a task sees of its run, and of the actor that runs it."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from actor.holding.mailbox import Assignment
from actor.logs import task_log
from actor.running.environment import Resident
from actor.running.giving import Give
from actor.running.limiting import Limiting, LimitWait, make_block
from actor.running.release import Block, Releases
from actor.settings import Launch
from sdk.describing.options import read_timeout
from sdk.errors import SlotReleased
from sdk.futures.nested import hand_over, last_unheard
from sdk.reading.deadlines import read_wait
from sdk.task import ActorContext, HeldLimit, ReleasedSlot, TaskContext
from wire.labels import Labels, LabelValues, check_own, validate_key, validate_labels

if TYPE_CHECKING:
    from sdk.client import Client
    from sdk.futures.nested import CallWait


class Runtime(Protocol):
    """What a run may ask of the actor, from any thread."""

    launch: Launch
    identity: "Identity"

    def release(self, run: "Run", give: Give) -> None:
        """Give back the slot of *run*, after the environment's return to what it was."""

    def give_again(self, run: "Run", give: Give) -> None:
        """Give back what *run* was granted and does not use."""

    def ask(self, run: "Run", slots: dict[str, int], timeout: float | None) -> None:
        """Let *run* wait for its slots; `Releases.answered` hears what became of it."""

    def refresh_timeout(self, run: "Run", seconds: float) -> None:
        """Let *run* have *seconds* more."""

    def withdraw(self, run: "Run") -> None:
        """Let *run* wait no longer."""

    def begin_wait(self, run: "Run", wait: "CallWait") -> None:
        """Note that *run* waits for calls; `CallWait.refuse` ends a wait in a circle."""

    def end_wait(self, run: "Run", wait: "CallWait") -> None:
        """Note that a wait is over."""

    def occupy(self, run: "Run", wait: LimitWait) -> None:
        """Let *run* wait for limits."""

    def vacate(self, run: "Run", number: int) -> None:
        """Give back what *run* has of limits, or asked for, under *number*."""

    def enter_again(self, run: "Run") -> Resident | None:
        """Return the environment of *run*, loading it again when the core said so."""

    def leave_unloaded(self, run: "Run", evicts: tuple[str, ...]) -> None:
        """Tell the core that the environment that *run* was to load is not there."""

    def count_released(self, run: "Run", *, is_bounded: bool = True) -> None:
        """Count one more run without a slot; raise ReleasedLimit when there are too many."""

    def count_reacquired(self, run: "Run") -> None:
        """Count one run less without a slot."""

    def refuse_on_event_loop(self, what: str, instead: str) -> None:
        """Raise RuntimeError on the event loop, which must not be blocked."""

    def nested_client(self, run: "Run") -> "Client":
        """Return the client for calls made inside *run*."""


class Identity(ActorContext):
    """The actor, as a task sees it."""

    __slots__ = ("_launch", "_lock", "_loop")

    def __init__(self, launch: Launch, loop: Any) -> None:
        """Speak for the actor of *loop*."""
        self._launch = launch
        self._loop = loop
        self._lock = threading.Lock()

    @property
    def id(self) -> int:
        """Return the incarnation of this actor process."""
        return self._launch.incarnation

    @property
    def name(self) -> str:
        """Return HOST/INDEX."""
        return self._launch.core.name

    @property
    def host(self) -> str:
        """Return the name of the actor's host."""
        return self._launch.host_name

    @property
    def labels(self) -> Labels:
        """Return a copy of what the actor offers now."""
        offered: Labels = self._loop.core.labels
        return {
            key: list(value) if isinstance(value, list) else value for key, value in offered.items()
        }

    def upsert_labels(self, labels: Mapping[str, LabelValues]) -> None:
        """Set these labels for the life of the actor."""
        if not isinstance(labels, Mapping):
            raise TypeError(f"upsert_labels takes a mapping from label to value, got {labels!r}")
        chosen = validate_labels(labels)
        check_own({**self._loop.core.upserted, **chosen})
        self._loop.change_labels(chosen, ())

    def delete_labels(self, *keys: str) -> None:
        """Take back labels that were upserted."""
        for key in keys:
            if not isinstance(key, str):
                raise TypeError(f"delete_labels takes keys one by one, got {key!r}")
            validate_key(key)
        self._loop.change_labels({}, keys)

    def pause(self) -> None:
        """Take no new work."""
        self._loop.pause(paused=True)

    def resume(self) -> None:
        """Take work again."""
        self._loop.pause(paused=False)


class Run(TaskContext):
    """One run of a task, from its start to its outcome."""

    __slots__ = (
        "_client",
        "_limiting",
        "_lock",
        "_log",
        "_releases",
        "_runtime",
        "assignment",
        "began",
        "has_released",
        "is_canceled_flag",
        "is_closed",
        "place",
        "resetting",
        "resident",
        "stop_hook",
        "stop_task",
    )

    def __init__(self, assignment: Assignment, place: int, runtime: Runtime) -> None:
        """Begin; *place* is its record on the board."""
        self.assignment = assignment
        self.place = place
        # When its code began, which is what it takes a slot for: said by whoever calls it.
        self.began: float
        self.resident: Resident | None = None
        self.is_canceled_flag = False
        # How to tell a coroutine that nobody wants it; set while it runs.
        self.stop_task: Callable[[], object] | None = None
        # The same for what its environment does for it, `enter` or `reset`.
        self.stop_hook: Callable[[], object] | None = None
        # The environment's return to what it was, where the event loop does that.
        self.resetting: asyncio.Task[None] | None = None
        # Whether it runs without its slots; whether it has returned.
        self.has_released = False
        self.is_closed = False
        self._runtime = runtime
        self._releases: Releases | None = None
        self._limiting: Limiting | None = None
        self._lock = threading.Lock()
        self._log: Any = None
        self._client: Client | None = None

    @property
    def id(self) -> str:
        """Return the task's id."""
        return self.assignment.name

    @property
    def attempt(self) -> int:
        """Return which try this is, from 1."""
        return self.assignment.attempt

    @property
    def token(self) -> tuple[int, int]:
        """Return (epoch, n) of this assignment."""
        return self.assignment.token

    @property
    def name(self) -> str:
        """Return the name for people."""
        return self.assignment.recipe.call.name

    @property
    def metadata(self) -> Mapping[str, str | int | float | bool | None]:
        """Return the option *metadata*."""
        return dict(self.assignment.recipe.call.metadata)

    @property
    def actor(self) -> ActorContext:
        """Return the actor that runs the task."""
        return self._runtime.identity

    @property
    def is_entering(self) -> bool:
        """Tell whether it has an environment and is not inside it yet."""
        return self.resident is None and self.assignment.recipe.call.environment is not None

    @property
    def environment(self) -> Any:
        """Return the resident object, None for a call without."""
        if self.has_released and self.resident is not None and not self.assignment.is_named:
            raise SlotReleased(
                f"task {self.name!r} gave back its slot and with it its turn in the environment:"
                " keep what is needed in a variable before release_slot()"
            )
        return self.resident.instance if self.resident is not None else None

    @property
    def log(self) -> Any:
        """Return a logger that is tagged with the task."""
        if self._log is None:
            self._log = task_log.bind(
                actor=self.actor.name, task=self.id, name=self.name, attempt=self.attempt
            )
        return self._log

    @property
    def client(self) -> "Client":
        """Return a client for nested calls."""
        with self._lock:
            if self._client is None:
                self._client = self._runtime.nested_client(self)
            return self._client

    @property
    def is_canceled(self) -> bool:
        """Tell whether nobody wants the outcome any more."""
        return self.is_canceled_flag

    def refresh_timeout(self, seconds: float) -> None:
        """Let the task run for *seconds* more."""
        self.raise_if_canceled()
        self._runtime.refresh_timeout(self, read_timeout("refresh_timeout", seconds))

    @property
    def is_released(self) -> bool:
        """Tell whether the slot was given back."""
        return self.has_released

    @property
    def slot_ids(self) -> dict[str, list[str]]:
        """Return the names of the units that the task holds."""
        return {kind: list(names) for kind, names in self.releases.units.items()}

    def release_slot(
        self, slots: Mapping[str, int] | None = None, *, keep_limits: bool = False
    ) -> bool:
        """Give back slots, turn and limits, or what *slots* names, and run on."""
        self._refuse_inside_enter("release_slot()")
        if slots is not None:
            return self.releases.release_part(slots)
        return self.releases.release(keep_limits=keep_limits) is not None

    def limit(self, name: str, occupy: int = 1, timeout: float | None = None) -> HeldLimit:
        """Return a block that holds *occupy* of a limit."""
        return make_block(self, self._runtime, name, occupy, timeout)

    def reacquire_slot(self, timeout: float | None = None) -> None:
        """Wait until the task has its slots and its turn again."""
        self._runtime.refuse_on_event_loop("reacquire_slot()", "await task.reacquire_slot_async()")
        self.releases.reacquire(self.assignment.recipe.slots, read_wait(timeout))

    async def reacquire_slot_async(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Do as `reacquire_slot` on an event loop."""
        wait_s = read_wait(timeout)
        await self.releases.reacquire_async(self.assignment.recipe.slots, wait_s)

    def released_slot(self) -> ReleasedSlot:
        """Return a block that runs without the slot."""
        self._refuse_inside_enter("released_slot()")
        return Block(self.releases, self._runtime)

    def _refuse_inside_enter(self, what: str) -> None:
        """Raise where the turn in the environment, which goes with the slot, is still to come."""
        if self.is_entering:
            raise RuntimeError(
                f"{what} inside enter(): the slot is what the environment is loaded with; a task"
                " can give it back once it is inside"
            )

    def begin_wait(self, wait: "CallWait") -> None:
        """Give everything back for a wait."""
        # First what the turn finds that the release wakes.
        self._runtime.begin_wait(self, wait)
        try:
            self.releases.begin_wait()
        except BaseException:
            self._runtime.end_wait(self, wait)
            raise

    def end_wait(self, wait: "CallWait") -> None:
        """Have it again."""
        self._runtime.end_wait(self, wait)
        self.releases.end_wait()

    async def end_wait_async(self, wait: "CallWait") -> None:
        """Have it again."""
        self._runtime.end_wait(self, wait)
        await self.releases.end_wait_async()

    def refuse_blocking(self, what: str, instead: str) -> None:
        """Raise RuntimeError on the event loop."""
        self._runtime.refuse_on_event_loop(what, instead)

    @property
    def releases(self) -> Releases:
        """Return what the run has given back; most runs never need it."""
        with self._lock:
            if self._releases is None:
                self._releases = Releases(self, self._runtime, self._lock)
            return self._releases

    @property
    def limiting(self) -> Limiting:
        """Return what asks for limits; most runs never need it."""
        with self._lock:
            if self._limiting is None:
                self._limiting = Limiting(self, self._runtime, self._lock)
            return self._limiting

    def unheard(self) -> Callable[[], None] | None:
        """Return how to wait until the broker has all calls of the run, where it may not.

        They go on when the run has an outcome, so that must not come first.
        """
        if self._client is None:
            return None
        connection = self._client._connection  # noqa: SLF001 - nobody else has to wait for that.
        number = last_unheard(connection, self.token)
        if number is None:
            return None
        return partial(hand_over, connection, number, self)

    def hand_over(self) -> None:
        """Wait until the broker has all calls of the run."""
        # Most runs have none, and pay this one look.
        if self._client is not None and (wait := self.unheard()) is not None:
            wait()

    def close(self) -> bool:
        """Note the end of the run: nothing can be given back now. Tell if it had its slot."""
        # Half the price of a block of `with`, and nothing here can raise.
        lock = self._lock
        lock.acquire()
        had_slot = not self.has_released
        self.has_released = self.is_closed = True
        lock.release()
        return had_slot
