"""The future of a task that this client did not submit, or not in this process."""

import re
from typing import TYPE_CHECKING, Final

from sdk.future import TaskFuture

if TYPE_CHECKING:
    from sdk.connection import Connection

TASK_ID: Final = re.compile(r"([0-9a-f]{16})-([0-9]{1,19})")


class FoundFuture(TaskFuture):
    """The outcome of a durable task, found by its id."""

    def __init__(self, connection: "Connection", task_id: str) -> None:
        """Stand for *task_id*; what it is called is the broker's to know."""
        super().__init__(connection, task_id)
        self._found = task_id

    @property
    def task_id(self) -> str:
        """Return the id of the task, under which every client finds it."""
        return self._found


def read_task_id(text: str) -> tuple[int, int]:
    """Return the incarnation and the number in a task's id; raise ValueError for another text."""
    match = TASK_ID.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no task id, as future.task_id is")
    return int(match[1], 16), int(match[2])
