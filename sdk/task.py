"""The task's own side: `current_task()`, and what an actor supplies behind it.

An actor makes one TaskContext for each run and sets `running` around the user's function; a context
variable, so that threads and coroutines each see their own. `@task` gives a function default
options.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from sdk import absent
from sdk.errors import NotInTask

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sdk.client import Client
    from sdk.futures.nested import CallWait
    from wire.labels import Labels, LabelValues

F = TypeVar("F", bound="Callable[..., Any]")

OPTIONS_ATTRIBUTE: Final = "__warmslot_options__"


class ActorContext(ABC):
    """The actor that runs the task."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Show its name."""
        return f"<actor {self.name!r}>"

    @property
    @abstractmethod
    def id(self) -> int:
        """Return the incarnation of this actor process, a random 64-bit number."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Return HOST/INDEX."""

    @property
    @abstractmethod
    def host(self) -> str:
        """Return the name of the actor's host."""

    @property
    @abstractmethod
    def labels(self) -> Labels:
        """Return a copy of what the actor offers now."""

    @abstractmethod
    def upsert_labels(self, labels: Mapping[str, LabelValues]) -> None:
        """Set these labels for the life of the actor; an upserted one overrides the command line's.

        A list is several values under one key. When this returns, no task starts here any more that
        the labels do not satisfy; those that wait here are handed back, and go elsewhere. Raises
        ValueError for a key or a value that cannot be a label, for a key that is built in, and for
        more than 256 KiB of labels: each heartbeat carries them.
        """

    @abstractmethod
    def delete_labels(self, *keys: str) -> None:
        """Take back labels that were upserted, as soon as `upsert_labels` sets them.

        What the command line or a warm environment offers under the key is offered again; a key
        that was not upserted is left as it is.
        """

    @abstractmethod
    def pause(self) -> None:
        """Let the actor take no new work until `resume`, or `python -m sdk resume` from outside.

        What runs goes on, environments stay loaded, what waits is handed back.
        """

    @abstractmethod
    def resume(self) -> None:
        """Let the actor take work again; one that is not paused goes on as before."""


class ReleasedSlot(AbstractContextManager[None], AbstractAsyncContextManager[None]):
    """A block in which a task runs without its slot: `with` in a thread, `async with` elsewhere."""


class HeldLimit(AbstractContextManager[None], AbstractAsyncContextManager[None]):
    """A block in which a task has a limit: `with` in a thread, `async with` elsewhere."""


class TaskContext(ABC):
    """The task that runs here, as `current_task()` returns it."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Show name, id and attempt."""
        return f"<task {self.name!r} {self.id}, attempt {self.attempt}>"

    @property
    @abstractmethod
    def id(self) -> str:
        """Return the task's id, the same as the future's `task_id`."""

    @property
    @abstractmethod
    def attempt(self) -> int:
        """Return which try this is, from 1."""

    @property
    @abstractmethod
    def token(self) -> tuple[int, int]:
        """Return (epoch, n) of this assignment; a later one is greater: it fences resources."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Return the name for people: the option *name*, or the function's."""

    @property
    @abstractmethod
    def metadata(self) -> Mapping[str, str | int | float | bool | None]:
        """Return the option *metadata*."""

    @property
    @abstractmethod
    def actor(self) -> ActorContext:
        """Return the actor that runs the task."""

    @property
    @abstractmethod
    def environment(self) -> Any:
        """Return the resident object, or None; raises SlotReleased after `release_slot`."""

    @property
    @abstractmethod
    def log(self) -> Any:
        """Return a structlog logger that is tagged with the task."""

    @property
    @abstractmethod
    def client(self) -> Client:
        """Return a client for nested calls: they carry this task's token, and die with its run."""

    @property
    @abstractmethod
    def is_canceled(self) -> bool:
        """Tell whether nobody wants the outcome any more; look at it in long loops."""

    @property
    @abstractmethod
    def slot_ids(self) -> dict[str, list[str]]:
        """Return the names of the units that the task holds, by slot type.

        For types whose units have names, as with `python -m actor --slot gpu=0,1`: a task with
        `slots={"gpu": 1}` finds `slot_ids["gpu"] == ["0"]`, and nobody else holds that one.
        """

    @abstractmethod
    def release_slot(
        self, slots: Mapping[str, int] | None = None, *, keep_limits: bool = False
    ) -> bool:
        """Give back the slot and the turn in the environment, and run on; False the second time.

        The limits that it took at scheduling go along, unless *keep_limits*. The task stays owned:
        it dies with the actor and is then run again or failed like any other. With *slots*, a
        mapping from slot type to amount, only that is given back, and turn and limits are kept; of
        units with names those at the end. Raises ReleasedLimit when too many tasks of the actor run
        without their slots (`--released-max`), ValueError for more than it asked for.
        """

    @abstractmethod
    def limit(self, name: str, occupy: int = 1, timeout: float | None = None) -> HeldLimit:
        """Return a block that holds *occupy* of a limit: `with task.limit("db"):`, or `async with`.

        *name* is a limit of the broker ("db", "api[customer-7]") or of this machine ("host:gpu").
        The block waits for it, in line with the tasks that wait at scheduling, and gives it back
        at its end; so does the end of the run, or its death. Where the holder waits for what needs
        the slot of this task, that is given back meanwhile, with its turn in the environment.
        Entering it raises the built-in TimeoutError after *timeout* seconds, in which the way to
        the broker and back counts, at once for 0 when it is not free, TaskCanceled when the task is
        canceled, LimitUnknown for a name that nobody set, BadOption for more than the maximum,
        Deadlock in the youngest of tasks that wait for one another's limits, ReleasedLimit when too
        many tasks of the actor run without their slots, and RuntimeError for `with` on the event
        loop.
        """

    @abstractmethod
    def reacquire_slot(self, timeout: float | None = None) -> None:
        """Wait until the task has all its slots and its turn again; at once when it has them.

        It has the limits again that it took at scheduling, once there is room for them.

        It goes ahead of all tasks that have not started, in the order of asking. Its environment is
        loaded again when it had to leave meanwhile, so take it anew from `environment`. After
        *timeout* seconds, at once for 0 when they are not free, the built-in TimeoutError is raised
        and the task stays released. Raises TaskCanceled when the task is canceled, Deadlock when
        whoever has the slot waits for this task in turn, EnvironmentFailed when its environment
        cannot be loaded again, and RuntimeError on the event loop.
        """

    @abstractmethod
    async def reacquire_slot_async(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Do as `reacquire_slot` on an event loop."""

    @abstractmethod
    def released_slot(self) -> ReleasedSlot:
        """Return a block without the slot: `with task.released_slot():`, or `async with`.

        At its end it waits for what it gave back, as `reacquire_slot` does; a task that had
        released its slot before, or does so in the block, stays released. While another thread or
        coroutine is in such a block or waits for calls it goes on without.
        """

    @abstractmethod
    def begin_wait(self, wait: CallWait) -> None:
        """Give the slot back for *wait*; the futures of `client` call this, `end_wait` after it."""

    @abstractmethod
    def end_wait(self, wait: CallWait) -> None:
        """Have again what was given back for *wait*, when no other goes on.

        Raises Deadlock when whoever has the slot waits for this task in turn, and it is younger.
        """

    @abstractmethod
    async def end_wait_async(self, wait: CallWait) -> None:
        """Do as `end_wait` on an event loop."""

    @abstractmethod
    def refuse_blocking(self, what: str, instead: str) -> None:
        """Raise RuntimeError, naming *what* and *instead*, on the event loop of the actor."""

    @abstractmethod
    def refresh_timeout(self, seconds: float) -> None:
        """Let the task run for *seconds* from now, more or less than was left of its *timeout*.

        A task without a *timeout* has one from then on, so a loop that says it each time around
        ends when it hangs. Raises TaskCanceled when the task is canceled or its time was over,
        ValueError for what is not a number of seconds above 0.
        """

    def raise_if_canceled(self) -> None:
        """Raise TaskCanceled when nobody wants the outcome any more."""
        from sdk.errors import TaskCanceled  # noqa: PLC0415

        if self.is_canceled:
            raise TaskCanceled(f"task {self.id} was canceled")

    report_progress = absent.report_progress


running: ContextVar[TaskContext | None] = ContextVar("warmslot_task", default=None)


def current_task() -> TaskContext:
    """Return the task that this function runs as; raises NotInTask outside of one.

    A thread that the task started by itself has none: copy the context
    (`contextvars.copy_context`).
    """
    context = running.get()
    if context is None:
        raise NotInTask(
            "current_task() was called outside of a task: it works inside a function that was "
            "submitted, on the thread or coroutine that the actor runs it on"
        )
    return context


@overload
def task(function: F, /) -> F: ...


@overload
def task(**options: Any) -> Callable[[F], F]: ...


def task(function: F | None = None, /, **options: Any) -> F | Callable[[F], F]:
    """Give a function default options; it stays callable as it was.

    Options of the call itself replace those here, key by key; a bare `@task` has none. Raises as
    `Client.options` does.
    """
    from sdk.describing.options import Options  # noqa: PLC0415 - it imports this module.

    chosen = Options.of(options)

    def mark(function: F) -> F:
        setattr(function, OPTIONS_ATTRIBUTE, chosen)
        return function

    return mark if function is None else mark(function)
