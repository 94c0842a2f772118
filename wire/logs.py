"""Where each program writes its log lines.

The rule that must not be broken: a log line costs a program nothing but the line. A terminal that
was closed, a reader that went away or a full disk is no reason to stop.
"""

from contextlib import suppress
from typing import TextIO


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
