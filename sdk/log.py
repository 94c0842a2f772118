"""The client's own log: few lines, on stderr, through structlog.

Who has configured structlog gets them through his own chain. Nothing here is on the path of a task.
The rule that must not be broken: what cannot be said is no reason for a client to stop.
"""

import sys
from contextlib import suppress
from typing import Any

import structlog

from wire.stream import Stream


class Quiet:
    """Says what it is told, and keeps to itself what goes wrong with that."""

    __slots__ = ("_log",)

    def __init__(self, log: Any) -> None:
        """Say it by *log*."""
        self._log = log

    def info(self, event: str, **fields: Any) -> None:
        """Say what happened."""
        self._say(self._log.info, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Say what somebody should look at."""
        self._say(self._log.warning, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Say what was refused."""
        self._say(self._log.error, event, fields)

    def _say(self, level: Any, event: str, fields: dict[str, Any]) -> None:
        # The chain is the user's code, and may write to what was closed; the caller is the one
        # thread that reads the socket.
        with suppress(Exception):
            level(event, **fields)


def logger() -> Quiet:
    """Return a logger to stderr as it is now, or the user's where structlog is configured."""
    if structlog.is_configured():
        return Quiet(structlog.get_logger("warmslot"))
    stream = Stream(sys.stderr)
    return Quiet(
        structlog.wrap_logger(
            structlog.WriteLogger(stream),  # type: ignore[arg-type]
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                stream.add_lost,
                structlog.dev.ConsoleRenderer(colors=stream.isatty()),
            ],
        )
    )
