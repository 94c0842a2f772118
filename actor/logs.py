"""How a host and its actors write their logs: one line an event, on stderr."""

import sys
from collections.abc import Iterable
from typing import Any, Final

import structlog

from wire.logs import LEVEL_DEFAULT, LEVELS
from wire.stream import Stream

QUIET: Final = frozenset({"welcome", "rejected", "granted_late"})
# What an operator has to look at.
WARNINGS: Final = frozenset(
    {
        "actor_died",
        "actor_not_started",
        "actor_start_timed_out",
        "assigned_twice",
        "bad_frame",
        "drain_timed_out",
        "event_loop_held_up",
        "fenced",
        "kill_ordered",
        "no_thread",
        "not_for_a_host",
        "not_for_an_actor",
        "reset_timed_out",
        "told_of_error",
    }
)

log = structlog.get_logger("actor")
task_log = structlog.get_logger("task")


def log_notes(notes: Iterable[tuple[str, dict[str, Any]]], **who: str) -> None:
    """Write what the core of an actor or a host noted; *who* says of which."""
    for event, fields in notes:
        is_warning = event in WARNINGS or (event == "memory" and fields["high"])
        level = "warning" if is_warning else "debug" if event in QUIET else "info"
        getattr(log, level)(event, **who, **fields)


def warn(event: str, **fields: Any) -> None:
    """Write what somebody should look at, before a host is there to say it."""
    structlog.get_logger("host").warning(event, **fields)


def configure_logs(style: str, level: str = LEVEL_DEFAULT) -> None:
    """Write events from *level* on, for people or as JSON."""
    stream = Stream(sys.stderr)
    renderer: structlog.typing.Processor
    if style == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=stream.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            stream.add_lost,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        # A line is one write: host and actors share stderr, which may be unbuffered.
        logger_factory=structlog.WriteLoggerFactory(stream),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )


def keep_logs() -> None:
    """Write the lines of an actor and its tasks as now, whatever a task configures for its own."""
    for each in (log, task_log):
        each.bind()
