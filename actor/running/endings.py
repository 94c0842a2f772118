"""How a run ends, as the outcome that is sent: a value that was returned, or what was raised.

What must not be broken: there is an outcome whatever the code of a user did, also when memory is
out.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from io import IOBase
from typing import Final

from msgspec.structs import replace

from actor.holding.recipe import Buffer
from actor.holding.retries import is_retriable
from sdk.errors import CLASSES, TaskCanceled, WarmslotError
from wire import exceptions, payload
from wire.codec import encode_failure
from wire.culprit import culprit_in
from wire.errors import Code
from wire.parts import Call, Failure, Status

# Made beforehand: when memory is out, nothing new can be.
OUT_OF_MEMORY: Final = encode_failure(
    Failure(Code.TASK_FAILED, "MemoryError", "the actor ran out of memory")
)
CODES: Final = {kind: code for code, kind in CLASSES.items()}

# Looked up once, for the path of each task.
RESULT: Final = Status.RESULT
ITERATORS: Final = (Iterator, AsyncIterator)

# What an import from inside of a function says; where its code is loaded more is known.
ABSENT_FROM: Final = " on actor "
ABSENT: Final = (
    "an actor imports what is installed where it runs; the code of a module of your own travels"
    " with a function that names it: import it at the top of the file, and not inside of the"
    " function"
)

Ending = tuple[Status, Buffer, Sequence[Buffer]]


class EnvironmentFailure(Exception):
    """The environment could not be entered; the cause says why."""


def pack(value: object) -> Ending:
    """Make the outcome of a function that returned *value*."""
    try:
        body, frames = payload.dump(value)
    except payload.PayloadError as error:
        is_file = isinstance(value, IOBase)
        yields = isinstance(value, ITERATORS) and not is_file
        hint = "; return a list of what it yields" if yields else ""
        hint = "; return its path, or what is in it" if is_file else hint
        failure = Failure(
            Code.SERIALIZATION,
            "SerializationError",
            f"the result cannot be sent back: {why_not(value, error)}{hint}",
        )
        return Status.FAILURE, encode_failure(failure), ()
    return RESULT, body, frames


def why_not(value: object, error: payload.PayloadError) -> str:
    """Say which part of *value* cannot be pickled, and where it is; or as *error* does."""
    with contextlib.suppress(Exception):  # Memory may be out, or the user's code does as it likes.
        return culprit_in(value) or str(error)
    return str(error)


def describe(error: BaseException, call: Call) -> Ending:
    """Make the outcome of a run of *call* that raised *error*."""
    try:
        if isinstance(error, asyncio.CancelledError):
            error = TaskCanceled("the coroutine was canceled from inside")
        elif type(error) is ModuleNotFoundError and ABSENT_FROM not in str(error):
            error.add_note(ABSENT)
        code = CODES.get(type(error)) if isinstance(error, WarmslotError) else None
        failure = exceptions.dump_exception(error, Code(code) if code else Code.TASK_FAILED)
        if is_retriable(error, call):
            failure = replace(failure, retriable=True)
        return Status.FAILURE, encode_failure(failure), ()
    except BaseException:  # noqa: BLE001 - memory may be out, or the exception is beyond help.
        return Status.FAILURE, OUT_OF_MEMORY, ()


def failure_of(error: EnvironmentFailure) -> Failure:
    """Say why an environment could not be entered."""
    cause = error.__cause__
    assert cause is not None
    what = f"environment {error} could not be entered"
    try:
        failure = exceptions.dump_exception(cause, Code.ENVIRONMENT_FAILED)
        message = f"{what}: {payload.told(cause)}"
        return Failure(failure.code, failure.type, message, failure.traceback)
    except BaseException:  # noqa: BLE001 - memory may be out, or the exception is beyond help.
        return Failure(Code.ENVIRONMENT_FAILED, "", what)
