"""The client's own log: few lines, on stderr, through structlog.

Who has configured structlog gets them through his own chain. Nothing here is on the path of a task.
"""

import sys
from typing import Any

import structlog


def logger() -> Any:
    """Return a logger to stderr as it is now, or the user's where structlog is configured."""
    if structlog.is_configured():
        return structlog.get_logger("warmslot")
    return structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
    )
