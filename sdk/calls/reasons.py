"""Which reasons why calls wait are said with their text, and which are only counted.

A client may have 10,000 kinds of calls that wait, each for a reason of its own. The rule that must
not be broken: of each reason that is not said one hears in a number, soon.
"""

import re
from typing import Final

# So many lines with a text in one window; what is new beyond these is counted at its end.
SAID_MAX: Final = 10
WINDOW_S: Final = 30.0
# So many are known again. Who has more is told of some once more, no more often than of new ones.
KEPT_MAX: Final = 4_096
# Who waits again for what nobody has waited for all this time is told once more.
FORGOTTEN_S: Final = 60.0
# For how long something has been so, or will be, makes no other reason of it.
SECONDS: Final = re.compile(r"\b\d+(\.\d+)? s\b")


class Reasons:
    """What the user was told of late."""

    __slots__ = ("_known", "_said", "_until", "more")

    def __init__(self) -> None:
        """Begin with nothing said."""
        # Reason -> when a call last had it.
        self._known: dict[str, float] = {}
        self._said = 0
        self._until = 0.0
        # How many new reasons were not said since the last count.
        self.more = 0

    def is_said(self, reason: str, now: float) -> bool:
        """Note *reason*, and tell whether it is to be said with its text."""
        reason = SECONDS.sub("", reason)
        seen = self._known.pop(reason, None)
        if len(self._known) >= KEPT_MAX:
            del self._known[next(iter(self._known))]
        self._known[reason] = now
        if seen is not None and now - seen < FORGOTTEN_S:
            return False
        if now >= self._until and not self.more:
            self._said, self._until = 0, now + WINDOW_S
        if self._said < SAID_MAX:
            self._said += 1
            return True
        self.more += 1
        return False

    def count(self, now: float) -> int:
        """Return how many more there were, once at the end of a window; else 0."""
        if not self.more or now < self._until:
            return 0
        more, self.more = self.more, 0
        return more
