"""The broker's log: structlog on standard error, and a bound on what one event may write.

The rule that must not be broken: a log line costs the broker nothing but the line. A reader of
standard error that went away or does not read is no reason to stop, a peer that sends garbage all
day none to fill a disk.
"""

import sys
from collections.abc import Sequence
from typing import Any, Final, TextIO

import msgspec
import structlog

from wire.logs import LEVEL_DEFAULT, LEVELS
from wire.stream import Stream

LOG_FORMATS: Final = ("console", "json")

# More lines of one event than this in one window are counted and not written.
WINDOW_S: Final = 10.0
LINES_MAX: Final = 200
LINES_MAX_OF: Final = {
    "bad_message": 10,
    "key_refused": 10,
    "send_refused": 10,
    "unsatisfiable": 50,
}

# What an operator has to look at.
WARNINGS: Final = frozenset(
    {
        "actor_lost",
        "bad_message",
        "descriptors_low",
        "divergence",
        "environment_broken",
        "environment_failed",
        "host_lost",
        "journal_stuck",
        "key_refused",
        "keys_unusable",
        "named_failed",
        "send_refused",
        "stalled",
        "task_dead",
        "unsatisfiable",
        "unsatisfiable_more",
    }
)

# What placing does with single tasks, of which `explain` tells why.
QUIET: Final = frozenset({"adopted", "give_back", "reservation_left", "slot_is_left"})

Note = tuple[str, dict[str, Any]]


def open_log(
    log_format: str, file: TextIO | None = sys.stderr, *, level: str = LEVEL_DEFAULT
) -> Any:
    """Return a structlog logger that writes to *file*, one line an event from *level* on."""
    stream = Stream(file)
    # As actors and clients write it, whose lines may stand between these.
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    renderer: list[Any]
    if log_format == "json":
        renderer = [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=to_json),
        ]
    else:
        # Without rich, which would print every local variable of the core.
        plain = structlog.dev.plain_traceback
        renderer = [
            structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=plain)
        ]
    lazy = structlog.wrap_logger(
        structlog.WriteLogger(stream),  # type: ignore[arg-type]
        processors=[structlog.processors.add_log_level, stamp, stream.add_lost, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
    )
    # Or each line would bind it anew, and leave a circle of objects to the collector of garbage.
    return lazy.bind()


def to_json(event: dict[str, Any], **_: Any) -> str:
    """Format *event* as one line; what JSON does not know is written as its text."""
    return msgspec.json.encode(event, enc_hook=str).decode()


class NoteLog:
    """Writes the notes of the core, each kind of event only so often."""

    def __init__(self, log: Any, *, level: str = LEVEL_DEFAULT) -> None:
        """Write to *log* what is of *level* or above."""
        self._log = log
        self._level = LEVELS[level]
        self._window_ends = 0.0
        self._counts: dict[str, int] = {}

    def write(self, notes: Sequence[Note], now: float) -> None:
        """Log *notes*; what is over the bound is counted and told when the window ends."""
        if now >= self._window_ends:
            self.end_window()
            self._window_ends = now + WINDOW_S
        for event, fields in notes:
            level = level_of(event, fields)
            if LEVELS[level] < self._level:
                continue
            count = self._counts.get(event, 0) + 1
            self._counts[event] = count
            if count <= LINES_MAX_OF.get(event, LINES_MAX):
                self._line(level, event, fields)

    def end_window(self) -> None:
        """Tell how much was left out since the window began."""
        for event, count in self._counts.items():
            left_out = count - LINES_MAX_OF.get(event, LINES_MAX)
            if left_out > 0:
                self._log.warning("notes_left_out", of=event, count=left_out)
        self._counts.clear()

    def _line(self, level: str, event: str, fields: dict[str, Any]) -> None:
        """Write one note. Routing ids are bytes, and readable only in hexadecimal."""
        shown = {
            name: value.hex() if isinstance(value, bytes) else value
            for name, value in fields.items()
        }
        getattr(self._log, level)(event, **shown)


def level_of(event: str, fields: dict[str, Any]) -> str:
    """Return at which level a note is written.

    Clients come and go, as each `sdk status` does: only one that leaves tasks behind is news.
    """
    if event in WARNINGS:
        return "warning"
    is_client = event == "session_opened" and fields.get("role") == "client"
    is_gone = event in {"client_left", "client_gone"} and not fields.get("tasks")
    if is_client or is_gone or event in QUIET:
        return "debug"
    return "info"
