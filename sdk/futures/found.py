"""The future of a task that this client did not submit, or that is a dead one's next life."""

import re
from time import monotonic
from typing import TYPE_CHECKING, Final

from sdk.futures.future import TaskFuture
from wire.texts import brief

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


def named_task(task: object) -> str:
    """Return the name of a task that is asked about. Raises TypeError and ValueError."""
    if not isinstance(task, str):
        raise TypeError(f"a TaskFuture or the id of a task is asked about, not {brief(task)}")
    if not task.strip():
        raise ValueError(
            f"{brief(task)} is not the id of a task, as `python -m sdk tasks` shows it"
        )
    return task


def find(connection: "Connection", task_id: str) -> TaskFuture:
    """Return the future of a durable task, whoever submitted it. Raises ValueError."""
    incarnation, number = read_task_id(task_id)
    core = connection.core
    if incarnation == core.incarnation:
        own = connection.futures.get(number) or connection.told.get(number)
        if own is not None:
            return own
    return attach(connection, FoundFuture(connection, task_id), task_id, redrive=False)


def redrive(connection: "Connection", task_id: str) -> TaskFuture:
    """Have the call of a dead task submitted again; return its future. Raises ValueError."""
    future = TaskFuture(connection, f"{task_id}, again")
    return attach(connection, future, task_id, redrive=True)


def attach(
    connection: "Connection", future: TaskFuture, task_id: str, *, redrive: bool
) -> TaskFuture:
    """Let *future* have the outcome of a task that the broker has."""
    incarnation, wanted = read_task_id(task_id)
    loop, now = connection.loop, monotonic()
    with loop.lock:
        loop.check_usable()
        number = connection.core.attach(incarnation, wanted, now, redrive=redrive)
        future.number, future.since = number, now
        connection.futures[number] = future
        loop.flush(now)
    if loop.has_unsettled:
        loop.settle()
    return future


def read_task_id(text: str) -> tuple[int, int]:
    """Return the incarnation and the number in a task's id; raise for what is none."""
    if not isinstance(text, str):
        raise TypeError(f"a task id is a string, as future.task_id is, not {brief(text)}")
    match = TASK_ID.fullmatch(text)
    if match is None:
        raise ValueError(f"{brief(text)} is no task id, as future.task_id is")
    return int(match[1], 16), int(match[2])
