"""Where each program writes its log lines.

The rule that must not be broken: a log line costs a program nothing but the line. A terminal that
was closed, a reader that went away or does not read, or a full disk is no reason to stop.
"""

import os
import select
import stat
import time
from collections.abc import MutableMapping
from contextlib import suppress
from io import TextIOWrapper
from typing import Any, Final, TextIO

# How long lines wait for a reader that is slow, and which share of all time they may wait.
PATIENCE_MAX_S: Final = 0.1
PATIENCE_SHARE: Final = 0.02
# So much a pipe or a socket takes at once where it takes anything.
PIECE_BYTES: Final = 4096
# Whatever stands in a line, it can be written.
ESCAPED: Final = "backslashreplace"


class Stream:
    """Standard error, or nothing while it cannot be written without waiting."""

    def __init__(self, file: TextIO | None) -> None:
        """Write to *file*, which Python has as None where it was closed before the start."""
        self._file = file
        self._lost = 0
        # The beginning of a line was written, and not its end.
        self._is_cut = False
        self._patience_s = PATIENCE_MAX_S
        self._waited_at = time.monotonic()

    def isatty(self) -> bool:
        """Tell whether a person sees it at once, in colours."""
        with suppress(ValueError):
            return self._file is not None and self._file.isatty()
        return False

    def add_lost(
        self, logger: object, method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """Add to *event* how many lines before it nobody can read; a processor of structlog."""
        if self._lost:
            event["lines_lost"] = self._lost
        return event

    def write(self, lines: str) -> None:
        """Write whole *lines* unless nobody can read them."""
        file = self._file
        if file is None:
            return
        is_written = False
        with suppress(OSError, ValueError):
            # What somebody has put in its place may have more to do than to write to a descriptor.
            if type(file) is TextIOWrapper:
                is_written = self._write_at_once(file.fileno(), lines.encode("utf-8", ESCAPED))
            else:
                file.write(lines)
                is_written = True
        self._lost = 0 if is_written else self._lost + 1

    def flush(self) -> None:
        """Flush what `write` has not written by itself."""
        if self._file is not None and type(self._file) is not TextIOWrapper:
            with suppress(OSError, ValueError):
                self._file.flush()

    def _write_at_once(self, fd: int, octets: bytes) -> bool:
        """Write *octets* and tell whether all were; what would have to wait is given up."""
        poller = select.poll()
        poller.register(fd, select.POLLOUT)
        # A line for a file is one write, however long: others may write to it as well.
        is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        rest = memoryview(b"\n" + octets if self._is_cut else octets)
        while rest and (poller.poll(0) or self._wait(poller)):
            rest = rest[os.write(fd, rest if is_file else rest[:PIECE_BYTES]) :]
            self._is_cut = bool(rest)
        return not rest

    def _wait(self, poller: select.poll) -> bool:
        """Wait for a reader, as long as that was not done for long of late."""
        now = time.monotonic()
        gained_s = (now - self._waited_at) * PATIENCE_SHARE
        self._patience_s = min(self._patience_s + gained_s, PATIENCE_MAX_S)
        is_ready = bool(poller.poll(int(self._patience_s * 1000)))
        self._waited_at = time.monotonic()
        self._patience_s = max(0.0, self._patience_s - (self._waited_at - now))
        return is_ready
