"""Exceptions to bytes and back, with the remote traceback as text.

The rule that must not be broken: whatever a user's exception does when it is asked for its text or
pickled, there is a failure to send, and what can be rebuilt is of the user's own class.
"""

import pickle
import traceback
from types import TracebackType

from wire.errors import Code
from wire.parts import Failure
from wire.payload import OURS, pickle_value, told


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
    pickled = b""
    bare = error.__traceback__
    try:
        pickled, _, _ = pickle_value(error, out_of_band=False)
        # An exception may pickle and yet not come back: then the text must do.
        if type(pickle.loads(pickled)).__name__ != type(error).__name__:  # noqa: S301
            pickled = b""
    except Exception:  # noqa: BLE001 - a user's exception can raise anything here.
        pickled = b""
    finally:
        error.__traceback__ = bare
    return Failure(code, type_name(type(error)), _message(error), text, pickled)


def load_exception(failure: Failure) -> BaseException | None:
    """Rebuild the user's exception with the remote traceback as its cause, or return None."""
    if not failure.exception:
        return None
    try:
        error = pickle.loads(failure.exception)  # noqa: S301
    except Exception:  # noqa: BLE001 - a module may be missing here; the caller has the text.
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
        return "".join(traceback.format_exception(type(error), error, shown))
    except Exception as failed:  # noqa: BLE001 - the __str__ of a user's exception can raise.
        return f"{type_name(type(error))}: <could not be formatted: {told(failed)}>"


def _is_ours(frames: TracebackType) -> bool:
    """Tell whether the outermost frame is the runtime's own."""
    name = frames.tb_frame.f_globals.get("__name__", "")
    return str(name).partition(".")[0] in OURS


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
