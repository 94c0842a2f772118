"""Why an actor takes no new work (protocol.md section 9.4).

The rule that must not be broken: a reason ends only with what made it.
"""

from actor.pressure import Pressure


class Standing:
    """The reasons, and the one that is said."""

    __slots__ = ("closed", "is_paused", "pressure", "said")

    def __init__(self, memory_high: float | None) -> None:
        """Begin open; over the share *memory_high* of the memory it closes."""
        self.pressure = Pressure(memory_high)
        # An operator, or a task, wants it so.
        self.is_paused = False
        # Why nothing new may start here; empty when it may. What of it was said.
        self.closed = self.said = ""

    def reconsider(self, *, is_draining: bool, is_forced: bool) -> None:
        """Find the reason that weighs most."""
        if is_draining:
            self.closed = "draining"
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
