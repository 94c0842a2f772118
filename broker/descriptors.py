"""May more connections come? Each takes a file descriptor. Shell, like what stands beside it.

Where the last one is gone ZeroMQ answers nobody new, and ends a process that listens on ipc. So
what is about to happen is said while somebody can still do something about it, and ipc is shut.
"""

import contextlib
import math
import os
import resource
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from wire.reaching import shut_path

FILES_WANTED: Final = 65_536
# With fewer left they are few, until there are twice as many.
SHARE_LEFT: Final = 0.1
LEFT_MIN: Final = 8
# Up to so many are counted, and often, since those that are few may come in a moment. Of more Linux
# tells the number, from 6.2 on, and others at least the lowest that is free.
COUNTED_MAX: Final = 4_096
COUNT_INTERVAL_S: Final = 0.01
# Where that takes long, as with thousands, so many times as long passes before the next time.
COUNT_PAUSE: Final = 10
LOOK_INTERVAL_S: Final = 1.0
FOLDER: Final = "/dev/fd"
LINUX_FOLDER: Final = "/proc/self/fd"

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
    """Looks now and then how many are left, and lets nobody in by ipc while they are few."""

    def __init__(self, descriptor: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Look by means of any *descriptor* that stays open."""
        self._descriptor = descriptor
        self._clock = clock
        self._look_at = -math.inf
        self._is_low = False

    def look(self, now: float, endpoints: Iterable[str] = ()) -> list[Note]:
        """Return what is to be logged: once when they run low, and again after there were more."""
        if now < self._look_at:
            return []
        limit = file_limit()
        began = self._clock()
        used = self._count(limit)
        pause_s = COUNT_PAUSE * (self._clock() - began)
        least_s = COUNT_INTERVAL_S if limit <= COUNTED_MAX else LOOK_INTERVAL_S
        self._look_at = now + max(least_s, pause_s)
        was_low, few = self._is_low, max(SHARE_LEFT * limit, LEFT_MIN)
        self._is_low = limit - used < (2 * few if was_low else few)
        if was_low is not self._is_low:
            for path in map(file_of, endpoints):
                if path is not None:
                    move(path, shut_path(path), is_back=was_low)
        if was_low or not self._is_low:
            return []
        hint = "raise LimitNOFILE=: nobody can connect before some have left"
        return [("descriptors_low", {"used": used, "limit": limit, "hint": hint})]

    def _count(self, limit: float) -> int:
        """Return how many are in use."""
        try:
            # The system gives the lowest that is free.
            used = os.dup(self._descriptor)
            os.close(used)
        except OSError:
            return int(min(limit, FILES_WANTED))
        # Not each system has them.
        with contextlib.suppress(OSError):
            if limit <= COUNTED_MAX:
                used = sum(1 for _ in os.scandir(FOLDER)) - 1
            else:
                used = max(used, Path(LINUX_FOLDER).stat().st_size)
        return used


def file_of(endpoint: str) -> str | None:
    """Return the file by which others find an ipc *endpoint*, None where there is none."""
    path = endpoint.removeprefix("ipc://")
    return None if path == endpoint or path.startswith("@") else path


def move(path: str, aside: str, *, is_back: bool) -> None:
    """Let nobody find *path*, or have it found again: who is connected is not touched."""
    with contextlib.suppress(OSError):
        Path(aside if is_back else path).rename(path if is_back else aside)
