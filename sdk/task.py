"""The task's own side: `current_task()`, and what an actor supplies behind it.

An actor makes one TaskContext for each run and sets `running` around the user's function; a context
variable, so that threads and coroutines each see their own. `@task` gives a function default
options.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sdk.errors import NotInTask

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sdk.client import Client
    from wire.labels import Labels, LabelValues

F = TypeVar("F", bound="Callable[..., Any]")

OPTIONS_ATTRIBUTE: Final = "__warmslot_options__"


class ActorContext(ABC):
    """The actor that runs the task."""

    __slots__ = ()

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

        Raises ValueError for a key or a value that cannot be a label.
        """

    @abstractmethod
    def delete_labels(self, *keys: str) -> None:
        """Take back labels that were upserted; unknown keys are ignored."""


class TaskContext(ABC):
    """The task that runs here, as `current_task()` returns it."""

    __slots__ = ()

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

    @abstractmethod
    def release_slot(self) -> bool:
        """Give back the slot and the turn in the environment, and run on; False the second time.

        The task stays owned: it dies with the actor and is then run again or failed like any other.
        """

    def raise_if_canceled(self) -> None:
        """Raise TaskCanceled when nobody wants the outcome any more."""
        from sdk.errors import TaskCanceled  # noqa: PLC0415

        if self.is_canceled:
            raise TaskCanceled(f"task {self.id} was canceled")


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


def task(**options: Any) -> Callable[[F], F]:
    """Give a function default options; it stays callable as it was.

    Options of the call itself replace those here, key by key. Raises as `Client.options` does.
    """
    from sdk.options import Options  # noqa: PLC0415 - it imports this module.

    chosen = Options.of(options)

    def mark(function: F) -> F:
        setattr(function, OPTIONS_ATTRIBUTE, chosen)
        return function

    return mark
