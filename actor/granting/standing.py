"""Why an actor takes no new work (protocol.md section 9.4).

The rule that must not be broken: a reason ends only with what made it.
"""

from typing import TYPE_CHECKING, Final

from actor.granting.pressure import Pressure

if TYPE_CHECKING:
    from actor.core import ActorCore

DRAINING: Final = "draining"


class Standing:
    """The reasons, and the one that is said."""

    __slots__ = ("closed", "is_paused", "pressure", "said", "said_in")

    def __init__(self, memory_high: float | None) -> None:
        """Begin open; over the share *memory_high* of the memory it closes."""
        self.pressure = Pressure(memory_high)
        # An operator, or a task, wants it so.
        self.is_paused = False
        # Why nothing new may start here; empty when it may. What of it was said.
        self.closed = self.said = ""
        # In which frame of this session that it leaves was said; 0 where HELLO says it.
        self.said_in = 0

    def say(self, number: int) -> None:
        """Note that the reason is said, in frame *number*."""
        if self.said != DRAINING or not number:
            self.said_in = number
        self.said = self.closed

    def has_heard(self, received: int) -> bool:
        """Tell whether the broker knew that it leaves when it had *received* so many frames."""
        return self.closed == self.said == DRAINING and received >= self.said_in

    def reconsider(self, *, is_draining: bool, is_forced: bool) -> None:
        """Find the reason that weighs most."""
        if is_draining:
            self.closed = DRAINING
        elif is_forced:
            self.closed = "ending: a run must end with the process"
        elif self.is_paused:
            self.closed = "paused"
        else:
            self.closed = self.pressure.reason

    def check(self, *, is_draining: bool, is_forced: bool) -> None:
        """Assert that the reason is one of those that hold."""
        is_closed = is_draining or is_forced or self.is_paused or self.pressure.is_high
        assert bool(self.closed) == is_closed


def takes_own_calls(core: "ActorCore") -> bool:
    """Tell whether an actor leaves, and runs of it wait for calls, which may run nowhere else."""
    return core.is_draining and bool(core.awaiting.waits) and not core.stopping.is_forced


def may_take(core: "ActorCore") -> bool:
    """Tell whether something new may start in an actor: anything, or calls of its own runs."""
    return not core.standing.closed or takes_own_calls(core)
