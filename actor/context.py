"""What a task sees of its run, and of the actor that runs it."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from actor.environment import Resident
from actor.mailbox import Assignment
from actor.settings import Launch
from sdk.errors import SlotReleased
from sdk.task import ActorContext, TaskContext
from wire.labels import Labels, LabelValues, validate_key, validate_value

if TYPE_CHECKING:
    from sdk.client import Client


class Runtime(Protocol):
    """What a run may ask of the actor, from any thread."""

    launch: Launch
    identity: "Identity"

    def release(self, run: "Run", typed: dict[str, int] | None) -> None:
        """Give back the slot of *run*."""

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
        checked: Labels = {}
        for key, value in labels.items():
            validate_key(key)
            for one in value if isinstance(value, list) else [value]:
                validate_value(key, one)
            checked[key] = list(value) if isinstance(value, list) else value
        self._loop.change_labels(checked, ())

    def delete_labels(self, *keys: str) -> None:
        """Take back labels that were upserted."""
        self._loop.change_labels({}, keys)


class Run(TaskContext):
    """One run of a task, from its start to its outcome."""

    __slots__ = (
        "_client",
        "_is_released",
        "_lock",
        "_log",
        "_runtime",
        "assignment",
        "is_canceled_flag",
        "place",
        "resetting",
        "resident",
        "stop_task",
    )

    def __init__(self, assignment: Assignment, place: int, runtime: Runtime) -> None:
        """Begin; *place* is its record on the board."""
        self.assignment = assignment
        self.place = place
        self.resident: Resident | None = None
        self.is_canceled_flag = False
        # How to tell a coroutine that nobody wants it; set while it runs.
        self.stop_task: Callable[[], object] | None = None
        # The environment's return to what it was, where the event loop does that.
        self.resetting: asyncio.Task[None] | None = None
        self._runtime = runtime
        self._is_released = False
        self._lock = threading.Lock()
        self._log: Any = None
        self._client: Client | None = None

    @property
    def id(self) -> str:
        """Return the task's id."""
        return f"{self.assignment.client:016x}-{self.assignment.task}"

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
    def environment(self) -> Any:
        """Return the resident object, None for a call without."""
        if self._is_released and self.assignment.recipe.call.environment is not None:
            raise SlotReleased(
                f"task {self.name!r} gave back its slot and with it its turn in the environment:"
                " keep what is needed in a variable before release_slot()"
            )
        return self.resident.instance if self.resident is not None else None

    @property
    def log(self) -> Any:
        """Return a logger that is tagged with the task."""
        if self._log is None:
            self._log = structlog.get_logger("task").bind(
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

    @property
    def is_released(self) -> bool:
        """Tell whether the slot was given back."""
        return self._is_released

    def release_slot(self) -> bool:
        """Give back the slot and the turn, and run on."""
        with self._lock:
            if self._is_released:
                return False
            self._is_released = True
        self._runtime.release(self, None)
        return True

    def close(self) -> bool:
        """Note the end of the run: nothing can be given back now. Tell if it had its slot."""
        with self._lock:
            had_slot = not self._is_released
            self._is_released = True
        return had_slot
