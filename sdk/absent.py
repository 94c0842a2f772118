"""What users of such systems look for and what does not exist here yet: refused by name.

One clear line is worth more than an AttributeError, which says that it was a typing error.
"""

from collections.abc import Callable
from typing import Final, NoReturn

# Commands of `python -m sdk`, and what to do without them.
COMMANDS: Final = {
    "logs": "what tasks print and log is on the output of their host",
}


def absent(what: str, instead: str) -> Callable[..., NoReturn]:
    """Make a function that raises NotImplementedError, saying what to do *instead* of *what*."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise NotImplementedError(f"{what} does not exist yet: {instead}")

    refuse.__doc__ = f"Raise NotImplementedError: {what} does not exist yet."
    return refuse


progress = absent("TaskFuture.progress()", "status() says where the task is")
stream = absent("TaskFuture.stream()", "return a list, or submit a call for each part")
report_progress = absent("report_progress()", "task.log.info() says how far it is, in the log")
continuation = absent(
    "continuation()",
    "return current_task().client.submit(...).result(), which gives the slot back meanwhile",
)
