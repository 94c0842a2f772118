"""What became of the tasks that this broker has had, in counts that only grow.

The rule that must not be broken: a task that this broker has had is counted as ended once, or is
still here. So how many it has had is no count of its own.
"""

from typing import Final

from broker.facts.task import Ending, State
from wire.codec import read_code
from wire.errors import FAULTS, Code
from wire.parts import Status

# Ended because nobody wanted it any more.
CANCELED: Final = frozenset({Code.CANCELED, Code.PARENT_GONE})
FAILED: Final = tuple(code for code in Code if code not in CANCELED | FAULTS)
# What is known of a run that is to be made again.
UNSTARTED: Final = "unstarted"
REASONS: Final = (UNSTARTED, "crash", "shared", "loss", "innocent")
# Here, and to be counted once it has ended. One that nobody has claimed may be nobody's; another
# name of a durable task is no task.
HERE: Final = frozenset(
    {State.QUEUED, State.HELD, State.WRITING, State.ALONE, State.DELAYED, State.ASSIGNED}
)


class Tally:
    """How tasks have ended since this broker was started, and how often one was to run again."""

    __slots__ = ("canceled", "failed", "rejected", "requeued", "retried", "succeeded")

    def __init__(self) -> None:
        """Begin with nothing."""
        self.succeeded = 0
        self.canceled = 0
        # By code. All are told of from the start, as who draws a rate needs the 0 before the 1.
        self.failed = dict.fromkeys(FAILED, 0)
        # Tries after a failure; assignments that are gone, by what is known of the run; those that
        # an actor gave back itself.
        self.retried = 0
        self.requeued = dict.fromkeys(REASONS, 0)
        self.rejected = 0

    @property
    def ended(self) -> int:
        """Return how many tasks have ended."""
        return self.succeeded + self.canceled + sum(self.failed.values())

    def end(self, code: str) -> None:
        """Count a task that has no result; a *code* that is none of ours is a failure."""
        if code in CANCELED:
            self.canceled += 1
        else:
            self.failed[Code(code) if code in self.failed else Code.TASK_FAILED] += 1

    def settle(self, ending: Ending) -> None:
        """Count a task by what its actor said that it came to."""
        if ending.status is Status.RESULT:
            self.succeeded += 1
            return
        self.end(read_code(ending.body or (ending.frames or (b"",))[0]))

    def drop(self, state: State) -> None:
        """Count a task that is forgotten in this *state*, if nobody has waited for its end."""
        if state in HERE:
            self.canceled += 1
