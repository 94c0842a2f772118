"""Why an actor takes no new work (protocol.md section 9.4).

The rule that must not be broken: a reason ends only with what made it.
"""


class Standing:
    """The reasons, and the one that is said."""

    __slots__ = ("closed", "is_paused", "said")

    def __init__(self) -> None:
        """Begin open."""
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
            self.closed = ""

    def check(self, *, is_draining: bool, is_forced: bool) -> None:
        """Assert that the reason is one of those that hold."""
        assert bool(self.closed) == (is_draining or is_forced or self.is_paused)
