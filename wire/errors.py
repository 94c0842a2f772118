"""Error codes, and the exception that the receiving side of the wire raises.

Codes are part of the protocol (section 12) and never change their meaning. The errors that a user
sees are in `sdk.errors`, one class a code.
"""

from enum import StrEnum
from typing import Final


class Code(StrEnum):
    """What went wrong. In ERROR, or in the Failure of an outcome."""

    # The peer's fault; in ERROR.
    BAD_FRAME = "bad-frame"
    PROTOCOL_MISMATCH = "protocol-mismatch"
    NOT_ALLOWED = "not-allowed"
    NAME_TAKEN = "name-taken"
    TABLE_OVERFLOW = "table-overflow"
    UNKNOWN_TEMPLATE = "unknown-template"
    WINDOW_EXCEEDED = "window-exceeded"
    NOT_AUTHORIZED = "not-authorized"
    # Why a task did not end with a result or an exception of its own; in Failure.
    TASK_FAILED = "task-failed"
    CANCELED = "canceled"
    TASK_TIMEOUT = "task-timeout"
    SCHEDULE_TIMEOUT = "schedule-timeout"
    INFEASIBLE = "infeasible"
    ACTOR_LOST = "actor-lost"
    OUTCOME_UNKNOWN = "outcome-unknown"
    POISON_TASK = "poison-task"
    ENVIRONMENT_FAILED = "environment-failed"
    PAYLOAD_TOO_LARGE = "payload-too-large"
    PARENT_GONE = "parent-gone"
    LIMIT_UNKNOWN = "limit-unknown"
    CONFLICT = "conflict"
    NOT_DURABLE = "not-durable"
    DEADLOCK = "deadlock"
    SERIALIZATION = "serialization"
    BAD_OPTION = "bad-option"
    QUEUE_FULL = "queue-full"


# Those that stand in ERROR; no task ends with one.
FAULTS: Final = frozenset(
    {
        Code.BAD_FRAME,
        Code.PROTOCOL_MISMATCH,
        Code.NOT_ALLOWED,
        Code.NAME_TAKEN,
        Code.TABLE_OVERFLOW,
        Code.UNKNOWN_TEMPLATE,
        Code.WINDOW_EXCEEDED,
        Code.NOT_AUTHORIZED,
    }
)


class RemoteProtocolError(Exception):
    """The peer broke the protocol: answered with ERROR, logged, never fatal to us."""

    def __init__(self, code: Code, message: str, *, fatal: bool = False) -> None:
        """Remember what to answer."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.fatal = fatal
