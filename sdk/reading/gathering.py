"""When calls submitted one by one leave: the first at once, those close behind it together.

A message for each call would cost client, broker and operating system more than the call itself. So
what is submitted shortly after a message has left waits for the next one. That leaves when enough
has gathered, with the first submit after GATHER_S, or as soon as anybody waits for anything. Where
nothing has gathered by then, the next call leaves at once again: who submits waits for each alone.
For who submits and then does something else the daemon looks every LOOK_S. All of it happens under
the loop's lock, apart from the daemon's looks.
"""

from math import inf
from typing import Final

GATHER_S: Final = 0.001
CALLS_MAX: Final = 64
# How often the daemon looks while calls gather, and after how many looks at nothing it sleeps.
LOOK_S: Final = 0.001
LOOKS_MAX: Final = 20


class Gathering:
    """What the loop knows of calls that wait for company."""

    __slots__ = ("_looks", "is_open", "is_watched", "until")

    def __init__(self) -> None:
        """Begin with nothing that waits, and the first call free to leave."""
        # Whether calls wait, and from when on nothing may wait any longer.
        self.is_open = False
        self.until = 0.0
        # Whether the daemon looks by itself.
        self.is_watched = False
        self._looks = 0

    def may_wait(self, queued: int, now: float) -> bool:
        """Tell whether a new call can wait for others; if not, all that is there leaves now."""
        if now < self.until and queued < CALLS_MAX:
            return True
        self.until = now + GATHER_S
        return False

    def begin(self) -> bool:
        """Let calls wait; tell whether the daemon has to be woken for that."""
        self.is_open = True
        if self.is_watched:
            return False
        self.is_watched = True
        return True

    def next_look(self, now: float) -> float:
        """Return when the daemon has to look again."""
        if not self.is_watched:
            return inf
        if self.is_open:
            self._looks = 0
        elif self._looks < LOOKS_MAX:
            self._looks += 1
        else:
            self._looks = 0
            # In this order: whoever lets calls wait after the flag has fallen wakes the daemon.
            self.is_watched = False
            if not self._has_begun():
                return inf
            self.is_watched = True
        return now + LOOK_S

    def _has_begun(self) -> bool:
        """Look once more: calls may wait since a moment ago."""
        return self.is_open
