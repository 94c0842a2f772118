"""What a user can catch: one tree below WarmslotError, one class for each code of the protocol.

The wait's own timeout is the built-in TimeoutError, and no class here is one: whoever catches it
knows that the task goes on.
"""

import concurrent.futures
from typing import Final

from wire.errors import Code
from wire.exceptions import RemoteTraceback, load_exception
from wire.parts import Failure

__all__ = [
    "ActorLost",
    "ActorUnknown",
    "BadOption",
    "BrokerUnreachable",
    "ClientClosed",
    "Conflict",
    "Deadlock",
    "EnvironmentFailed",
    "Infeasible",
    "LimitUnknown",
    "NonRetryable",
    "NotAuthorized",
    "NotDurable",
    "NotInTask",
    "OutcomeUnknown",
    "ParentGone",
    "PayloadTooLarge",
    "PoisonTask",
    "ProtocolMismatch",
    "QueueFull",
    "ReleasedLimit",
    "RemoteTraceback",
    "ScheduleTimeout",
    "SerializationError",
    "SlotReleased",
    "TaskCanceled",
    "TaskFailed",
    "TaskTimeout",
    "WarmslotError",
    "error_of",
]


class WarmslotError(Exception):
    """Anything that warmslot itself raises; your functions' own exceptions stay as they are."""


class TaskFailed(WarmslotError):
    """The function raised an exception that cannot be rebuilt here; the text is all there is.

    *type* is its qualified name, *message* its text, *traceback* the remote traceback.
    """

    def __init__(self, message: str, *, type: str = "", traceback: str = "") -> None:  # noqa: A002
        """Keep what is known of the original."""
        super().__init__(message)
        self.type = type
        self.message = message
        self.traceback = traceback

    def __str__(self) -> str:
        """Show the type that was raised."""
        return ": ".join(filter(None, [self.type, self.message]))


class NonRetryable(WarmslotError):
    """Raise this, or a class of your own below it, in a task that is not to be tried again.

    *retries* and *retry_on* of the call do not count then.
    """


class TaskTimeout(WarmslotError):
    """The task ran for longer than its *timeout* and was ended.

    *retries* covers it as any exception, unless *retry_on* names others only.
    """


class ScheduleTimeout(WarmslotError):
    """The task found no actor within its *schedule_timeout*; the message says what was missing."""


class TaskCanceled(WarmslotError, concurrent.futures.CancelledError):
    """Nobody wants the task any more: it was canceled, or its client closed."""


class Infeasible(WarmslotError):
    """No actor that is connected could ever run the task."""


class ActorLost(WarmslotError):
    """The actor died or was lost while it ran the task; the message has exit code or signal."""


class ActorUnknown(ActorLost, LookupError):
    """No named actor has this name."""


class QueueFull(WarmslotError):
    """More calls wait for this named actor than its *max_pending* allows."""


class OutcomeUnknown(WarmslotError):
    """A task may have run; nobody can tell, and it is not run again.

    One that is at_most_once, or a call of a named actor whose client was cut off for long.
    """


class PoisonTask(WarmslotError):
    """The task brought down too many actors; *history* has one line for each."""

    def __init__(self, message: str, history: list[str] | None = None) -> None:
        """Keep the history."""
        super().__init__(message)
        self.history = history or []

    def __str__(self) -> str:
        """Show the history below the message."""
        return "\n  ".join([str(self.args[0]), *self.history])


class EnvironmentFailed(WarmslotError):
    """The environment's `enter` raised; the cause is the remote traceback."""


class SlotReleased(WarmslotError):
    """The task gave back its slot, and with it what it now asks for."""


class ReleasedLimit(WarmslotError):
    """Too many tasks of this actor have released their slots and still run."""


class Deadlock(WarmslotError):
    """Waiting here would wait for itself: tasks hold limits and wait for one another's."""


class LimitUnknown(WarmslotError):
    """No limit has this name."""


class BadOption(WarmslotError, ValueError):
    """An option can never be met, such as more of a limit than its maximum."""


class Conflict(WarmslotError):
    """Something else has this name or key already."""


class NotDurable(WarmslotError):
    """The broker cannot keep a durable task now: no journal, a full disk or a full journal."""


class ParentGone(TaskCanceled):
    """The call was made inside a task whose run does not count any more."""


class PayloadTooLarge(WarmslotError, ValueError):
    """Arguments, code or a result are over the broker's *payload_bytes_max*."""


class SerializationError(WarmslotError, ValueError):
    """Something cannot be pickled; the message names which argument and which place in it."""


class NotAuthorized(WarmslotError):
    """The broker does not let us in: no key, one that it does not know, or of another role."""


class ProtocolMismatch(WarmslotError):
    """The broker speaks another version of the protocol."""


class BrokerUnreachable(WarmslotError, ConnectionError):
    """No broker answered within *connect_timeout*."""


class ClientClosed(WarmslotError, RuntimeError):
    """The client was closed, or belongs to the process that this one was forked from."""


class NotInTask(WarmslotError, RuntimeError):
    """There is no task here: `current_task` works inside a function that an actor runs."""


CLASSES: Final[dict[str, type[WarmslotError]]] = {
    Code.CANCELED: TaskCanceled,
    Code.TASK_TIMEOUT: TaskTimeout,
    Code.SCHEDULE_TIMEOUT: ScheduleTimeout,
    Code.INFEASIBLE: Infeasible,
    Code.ACTOR_LOST: ActorLost,
    Code.OUTCOME_UNKNOWN: OutcomeUnknown,
    Code.ENVIRONMENT_FAILED: EnvironmentFailed,
    Code.PAYLOAD_TOO_LARGE: PayloadTooLarge,
    Code.PARENT_GONE: ParentGone,
    Code.LIMIT_UNKNOWN: LimitUnknown,
    Code.BAD_OPTION: BadOption,
    Code.CONFLICT: Conflict,
    Code.NOT_DURABLE: NotDurable,
    Code.DEADLOCK: Deadlock,
    Code.SERIALIZATION: SerializationError,
    Code.QUEUE_FULL: QueueFull,
    Code.PROTOCOL_MISMATCH: ProtocolMismatch,
    Code.NOT_AUTHORIZED: NotAuthorized,
}


def error_of(failure: Failure) -> BaseException:
    """Return what `result()` raises for *failure*: the user's own exception, or one of the tree."""
    if failure.code == Code.TASK_FAILED:
        error = load_exception(failure)
        # What would end the caller's own program, or its event loop, must not come from afar. Nor
        # what an asyncio future refuses to hold: whoever awaits it would wait for ever.
        if not isinstance(error, Exception) or isinstance(error, StopIteration):
            failed = TaskFailed(failure.message, type=failure.type, traceback=failure.traceback)
            error = with_cause(failed, failure)
        for line in failure.history:
            # Shown below the traceback.
            error.add_note(f"before: {line}")
        return error
    if failure.code == Code.POISON_TASK:
        return with_cause(PoisonTask(failure.message, failure.history), failure)
    message = "\n  ".join([failure.message, *failure.history])
    kind = CLASSES.get(failure.code)
    if kind is None:
        return with_cause(WarmslotError(f"{failure.code}: {message}"), failure)
    return with_cause(kind(message), failure)


def with_cause(error: BaseException, failure: Failure) -> BaseException:
    """Attach the remote traceback, when there is one."""
    if failure.traceback:
        error.__cause__ = RemoteTraceback(failure.traceback)
    return error
