"""May more connections come? Each takes a file descriptor. Shell, like what stands beside it.

Where the last one is gone ZeroMQ answers nobody new, and ends a process that listens on ipc: so
what is about to happen is said while somebody can still do something about it.
"""

import contextlib
import math
import os
import resource
from typing import Final

FILES_WANTED: Final = 65_536
# Over this share of them they are few.
SHARE_LOW: Final = 0.9
LOOK_INTERVAL_S: Final = 1.0

Note = tuple[str, dict[str, object]]


def raise_file_limit() -> float:
    """Allow as many connections as the system lets us, and return how many that may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, FILES_WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # Where the system says no, fewer connections are what there is.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return file_limit()


def file_limit() -> float:
    """Return how many descriptors there may be."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if soft == resource.RLIM_INFINITY else soft


class Descriptors:
    """Looks now and then how many are left."""

    def __init__(self, descriptor: int) -> None:
        """Look by means of any *descriptor* that stays open."""
        self._descriptor = descriptor
        self._look_at = -math.inf
        self._is_low = False

    def look(self, now: float) -> list[Note]:
        """Return what is to be logged: once when they run low, and again after there were more."""
        if now < self._look_at:
            return []
        self._look_at = now + LOOK_INTERVAL_S
        limit = file_limit()
        try:
            # The system gives the lowest that is free.
            used = os.dup(self._descriptor)
            os.close(used)
        except OSError:
            used = int(min(limit, FILES_WANTED))
        was_low, self._is_low = self._is_low, used >= SHARE_LOW * limit
        if was_low or not self._is_low:
            return []
        hint = (
            "raise LimitNOFILE=: nobody can connect without one, and on ipc ZeroMQ ends the broker"
        )
        return [("descriptors_low", {"used": used, "limit": limit, "hint": hint})]
