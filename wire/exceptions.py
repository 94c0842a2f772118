"""Exceptions to bytes and back, with the remote traceback as text.

The rule that must not be broken: whatever a user's exception does when it is asked for its text or
pickled, there is a failure to send, and what can be rebuilt is of the user's own class.
"""

import contextlib
import pickle
import traceback
from types import TracebackType
from typing import Any, Final

from wire.classes import rebuild
from wire.errors import Code
from wire.ours import is_ours
from wire.parts import Failure
from wire.payload import PayloadError, pickle_value, told
from wire.texts import sendable

TEXT_LENGTH_MAX: Final = 16_384
# What the code of a user raises when it is asked to come along, `sys.exit` too; but for Ctrl-C.
USERS: Final = (Exception, SystemExit)


class RemoteTraceback(Exception):
    """The traceback on the actor, as text: the cause of the exception that `result()` raises."""

    def __init__(self, text: str) -> None:
        """Keep the text."""
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        """Show it below Python's own 'direct cause' line."""
        return f'\n"""\n{self.text.rstrip()}\n"""'


def dump_exception(error: BaseException, code: Code = Code.TASK_FAILED) -> Failure:
    """Make the body of a failed outcome: text, and the exception itself where it survives."""
    text = format_remote(error)
    bare = error.__traceback__
    try:
        pickled = _pickled(error)
    except USERS:  # A user's exception can raise anything here.
        pickled = b""
    finally:
        error.__traceback__ = bare
    # A name of a file in it may be one that cannot be sent.
    kind, message = sendable(type_name(type(error))), sendable(_message(error))
    return Failure(code, kind, message, sendable(text), pickled)


def _pickled(error: BaseException) -> bytes:
    """Pickle *error* so that it is of its own class where it comes back; or return nothing."""
    return _as_it_is(error) or _as_it_is(error, Rebuilt(error))


def _as_it_is(error: BaseException, sent: "Rebuilt | None" = None) -> bytes:
    """Pickle *error*, or *sent* in its place; return nothing where another class comes back."""
    with contextlib.suppress(*USERS):
        stream, _, _ = pickle_value(sent or error, out_of_band=False)
        # It may pickle and yet not come back: Python calls the class with `args` again.
        if type(pickle.loads(stream)).__name__ == type(error).__name__:  # noqa: S301
            return stream
    return b""


class Rebuilt:
    """Pickles as an exception that is made without its `__init__`, and without what cannot travel.

    An `__init__` that takes anything but `args` is the rule in users' code, and a lock or a
    connection in an attribute no reason to lose the class by which they catch it.
    """

    def __init__(self, error: BaseException) -> None:
        """Take apart *error*."""
        self._error = error

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as class, arguments and attributes."""
        error = self._error
        left: list[str] = []
        args = tuple(
            part if _travels(part, f"argument {place}", left) else repr(part)
            for place, part in enumerate(args_of(error))
        )
        state = {
            name: part
            for name, part in vars(error).items()
            if _travels(part, f"attribute {name!r}", left)
        }
        return rebuild, (type(error), args, state, left)


def args_of(error: BaseException) -> tuple[Any, ...]:
    """Return the arguments of *error*, with each of a group's own errors as it can travel."""
    if not isinstance(error, BaseExceptionGroup):
        return error.args
    own = [one if _as_it_is(one) else Rebuilt(one) for one in error.exceptions]
    return error.message, own


def _travels(part: object, what: str, left: list[str]) -> bool:
    """Tell whether *part* can be sent, and note in *left* why not."""
    try:
        stream, _, _ = pickle_value(part, out_of_band=False)
        pickle.loads(stream)  # noqa: S301
    except USERS as error:
        why = str(error) if isinstance(error, PayloadError) else told(error)
        left.append(f"{what} stayed on the actor: {why}")
        return False
    return True


def shortened(failure: Failure) -> Failure:
    """Return *failure* as text of bounded length: for where there is little room."""
    message, traced = failure.message, failure.traceback
    if len(message) > TEXT_LENGTH_MAX:
        message = f"{message[:TEXT_LENGTH_MAX]}... ({len(message)} characters)"
    if len(traced) > TEXT_LENGTH_MAX:
        # In its middle it may be one line of any length: where it happened is told before that.
        half = TEXT_LENGTH_MAX // 2
        traced = f"{traced[:half]}\n... ({len(traced)} characters)\n{traced[-half:]}"
    return Failure(
        failure.code, failure.type, message, traced, b"", failure.history, failure.retriable
    )


def load_exception(failure: Failure) -> BaseException | None:
    """Rebuild the user's exception with the remote traceback as its cause, or return None."""
    if not failure.exception:
        return None
    try:
        error = pickle.loads(failure.exception)  # noqa: S301
    except USERS:  # A module may be missing here; the caller has the text.
        return None
    if not isinstance(error, BaseException):
        return None
    if failure.traceback:
        error.__cause__ = RemoteTraceback(failure.traceback)
    return error


def format_remote(error: BaseException) -> str:
    """Format the traceback without the frames of the runtime above the user's code."""
    frames = error.__traceback__
    while frames is not None and _is_ours(frames):
        frames = frames.tb_next
    shown = frames if frames is not None else error.__traceback__
    try:
        if frames is None and isinstance(error, TypeError | ImportError):
            # Called with other arguments than it takes, or not there: nothing of the user's ran.
            return "".join(traceback.format_exception_only(error))
        return "".join(traceback.format_exception(type(error), error, shown))
    except Exception as failed:  # noqa: BLE001 - the __str__ of a user's exception can raise.
        return f"{type_name(type(error))}: <could not be formatted: {told(failed)}>"


def _is_ours(frames: TracebackType) -> bool:
    """Tell whether the outermost frame is the runtime's own."""
    frame = frames.tb_frame
    return is_ours(str(frame.f_globals.get("__name__", "")), frame.f_code.co_filename)


def type_name(kind: type) -> str:
    """Name a type with its module, as a traceback does."""
    if kind.__module__ in ("builtins", "__main__"):
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def _message(error: BaseException) -> str:
    """Return the text of *error*, whatever its `__str__` does."""
    try:
        return str(error)
    except Exception as failed:  # noqa: BLE001 - as above.
        return f"<no message: {told(failed)}>"
