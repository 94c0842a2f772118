"""Exceptions to bytes and back, with the remote traceback as text.

The rule that must not be broken: whatever a user's exception does when it is asked for its text or
pickled, there is a failure to send, and what can be rebuilt is of the user's own class.
"""

import contextlib
import pickle
import traceback
from types import TracebackType
from typing import Any, Final

from wire.classes import fields_of, rebuild
from wire.errors import Code
from wire.ours import is_ours
from wire.parts import Failure
from wire.payload import LOCKS, PayloadError, pickle_in_part, pickle_value, told
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
    reads = _reads(error)
    return (
        _as_it_is(error, error, reads=reads)
        or _as_it_is(error, Rebuilt(error), reads=reads)
        or _as_it_is(error, Rebuilt(error, has_texts=True), reads=reads)
        or _as_it_is(error, Rebuilt(error), reads=False)
    )


def _as_it_is(error: BaseException, sent: "BaseException | Rebuilt", *, reads: bool) -> bytes:
    """Pickle *sent* for *error*; return nothing where it comes back as something else.

    With *reads* that goes for one that cannot say any more what it is.
    """
    with contextlib.suppress(*USERS):
        stream, _, _ = pickle_value(sent, out_of_band=False)
        # It may pickle and yet not come back: Python calls the class with `args` again.
        back = pickle.loads(stream)  # noqa: S301
        if type(back).__name__ == type(error).__name__ and (not reads or _reads(back)):
            return stream
    return b""


def _reads(error: BaseException) -> bool:
    """Tell whether *error* has a text: that may be made of attributes which have to be there."""
    try:
        return isinstance(f"{error!s}{error!r}", str)
    except USERS:
        return False


class Rebuilt:
    """Pickles as an exception that is made without its `__init__`, and without what cannot travel.

    An `__init__` that takes anything but `args` is the rule in users' code, and a lock or a
    connection in an attribute no reason to lose the class by which they catch it. Of an attribute
    comes along what can; of one that cannot at all nothing, or with *has_texts* what it is.
    """

    def __init__(self, error: BaseException, *, has_texts: bool = False) -> None:
        """Take apart *error*."""
        self._error = error
        self._has_texts = has_texts

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as class, arguments and attributes."""
        error = self._error
        left: list[str] = []
        args = self._args()
        sent = {
            id(part): what_travels(part, f"argument {place}", left)
            for place, part in enumerate(args)
        }
        found = tuple(
            repr(part) if sent[id(part)] is None and part is not None else sent[id(part)]
            for part in args
        )
        state: dict[str, Any] = {}
        for name, part in fields_of(error).items():
            # It is often an argument as well, and said of it already what stayed.
            if id(part) not in sent:
                sent[id(part)] = what_travels(part, f"attribute {name!r}", left)
            if sent[id(part)] is not None or part is None:
                state[name] = sent[id(part)]
            elif self._has_texts:
                state[name] = repr(part)
        return rebuild, (type(error), found, state, left)

    def _args(self) -> tuple[Any, ...]:
        """Return the arguments, with each of a group's own errors as it can travel."""
        error, has_texts = self._error, self._has_texts
        if not isinstance(error, BaseExceptionGroup):
            return error.args
        own = [
            one if _as_it_is(one, one, reads=_reads(one)) else Rebuilt(one, has_texts=has_texts)
            for one in error.exceptions
        ]
        return error.message, own


class Remains:
    """Pickles as what is left of a value."""

    def __init__(self, stream: bytes) -> None:
        """Take it as it was pickled."""
        self._stream = stream

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as the octets that it is read from."""
        return pickle.loads, (self._stream,)


def what_travels(part: object, what: str, left: list[str]) -> object:
    """Return what can be sent of *part*, None for nothing, and note in *left* what cannot."""
    try:
        stream, _, _ = pickle_value(part, out_of_band=False)
        pickle.loads(stream)  # noqa: S301
    except USERS as error:
        why = str(error) if isinstance(error, PayloadError) else told(error)
    else:
        return part
    with contextlib.suppress(*USERS):
        stream = pickle_in_part(part)
        kind = type(pickle.loads(stream))  # noqa: S301
        if kind.__name__ == type(part).__name__ and kind not in LOCKS:
            left.append(f"a part of {what} stayed on the actor: {why}")
            return Remains(stream)
    left.append(f"{what} stayed on the actor: {why}")
    return None


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
