"""Where each program writes its log lines.

The rule that must not be broken: a log line costs a program nothing but the line. A terminal that
was closed, a reader that went away or a full disk is no reason to stop.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, Final, TextIO

Note = tuple[str, dict[str, Any]]

# What somebody else can make happen as often as he likes.
ENDLESS: Final = frozenset({"bad_frame"})


class Stream:
    """Standard error, or nothing while it cannot be written."""

    def __init__(self, file: TextIO | None) -> None:
        """Write to *file*, which Python has as None where it was closed before the start."""
        self._file = file

    def isatty(self) -> bool:
        """Tell whether a person sees it at once, in colours."""
        with suppress(ValueError):
            return self._file is not None and self._file.isatty()
        return False

    def write(self, text: str) -> None:
        """Write unless nobody can read it."""
        if self._file is not None:
            with suppress(OSError, ValueError):
                self._file.write(text)

    def flush(self) -> None:
        """Flush unless nobody can read it."""
        if self._file is not None:
            with suppress(OSError, ValueError):
                self._file.flush()


class Seldom:
    """Tells of what has no end the first time, the tenth, the hundredth, and of all else always."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        """Begin with nothing that has happened."""
        self._counts: dict[str, int] = {}

    def pick(self, notes: Iterable[Note]) -> Iterator[Note]:
        """Return what is to be written of *notes*, with how often it has happened by now."""
        for event, fields in notes:
            if event not in ENDLESS:
                yield event, fields
                continue
            count = self._counts[event] = self._counts.get(event, 0) + 1
            if str(count).strip("0") == "1":
                yield event, {"count": count, **fields}
