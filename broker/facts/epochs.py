"""The number of a broker's start, above each that is known (protocol.md section 8.3).

The rule that must not be broken: two starts never have the same, also where the clock was set back
and neither can know of the other.
"""

from collections import deque
from typing import Final

# By how many steps, at most, an epoch is raised above one that is known.
EPOCH_STEPS: Final = 2**20
# So many that one broker had before are known.
FORMER_MAX: Final = 16


def begin(stored: int, clock_ms: int, own: int) -> int:
    """Return the epoch of a start whose journal has *stored*, 0 for none.

    *own* tells this start from all others.
    """
    return clock_ms if clock_ms > stored else above(stored, own)


def above(known: int, own: int) -> int:
    """Return an epoch above one that is *known*, and not that of a start with another *own*."""
    return known + 1 + own % EPOCH_STEPS


def own(first: int) -> deque[int]:
    """Return the epochs that a broker has had, which begins with *first*, the newest ones."""
    return deque([first], maxlen=FORMER_MAX + 1)
