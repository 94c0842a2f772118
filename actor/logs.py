"""How a host and its actors write their logs: one line an event, on stderr."""

import sys
from collections.abc import Iterable
from typing import Any, Final

import structlog

from wire.stream import Stream

QUIET: Final = frozenset({"welcome", "rejected"})

log = structlog.get_logger("actor")


def log_notes(actor: str, notes: Iterable[tuple[str, dict[str, Any]]]) -> None:
    """Write what the core of *actor* noted."""
    for event, fields in notes:
        if event in QUIET:
            log.debug(event, actor=actor, **fields)
        else:
            log.info(event, actor=actor, **fields)


def warn(event: str, **fields: Any) -> None:
    """Write what somebody should look at, before a host is there to say it."""
    structlog.get_logger("host").warning(event, **fields)


def configure_logs(style: str) -> None:
    """Write events for people, or as JSON."""
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
        wrapper_class=structlog.make_filtering_bound_logger(20),
        # A line is one write: host and actors share stderr, which may be unbuffered.
        logger_factory=structlog.WriteLoggerFactory(stream),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
