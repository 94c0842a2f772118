"""Whether so much memory is used that starting more would do harm.

The rule that must not be broken: between the bound and a little below it nothing changes, so that
an actor does not open and close with each task.
"""

from typing import Final

# It is over when less than this part of the bound is used.
RECOVERED_SHARE: Final = 0.95


class Pressure:
    """Compares the share of the memory that is used with a bound."""

    __slots__ = ("high", "is_high", "reason")

    def __init__(self, high: float | None) -> None:
        """Begin without pressure; None for *high* means that there never is any."""
        self.high = high
        self.is_high = False
        # What to tell people while it is high.
        self.reason = ""

    def look(self, share: float, of: str) -> bool:
        """Note that *share* of the memory *of* what it is limited by is used; tell of a change."""
        if self.high is None:
            return False
        # Where it is high, it stays so until it is clearly below.
        is_high = share >= self.high * (RECOVERED_SHARE if self.is_high else 1.0)
        if is_high == self.is_high:
            return False
        self.is_high = is_high
        bound = f"{100 * self.high:.4g}%"
        used = f"memory: {share:.0%} of the {of} is used, over --memory-high {bound}"
        self.reason = used if is_high else ""
        return True
