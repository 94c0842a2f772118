"""How much memory this process could still have."""

import contextlib
import mmap
from typing import Final

from sdk.core import ClientCore

STEP_MIN: Final = 2**16
FLAGS: Final = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


def measure(core: ClientCore) -> None:
    """Let *core* know how large an outcome can be, where it doubts that there is room for any."""
    if core.room.is_doubtful and core.session.welcome is not None:
        core.room.octets = room(core.session.welcome.payload_bytes_max)


def room(wanted: int) -> int:
    """Return how many octets there may be at once, 0 where it is all that is *wanted*."""
    if may_be(wanted):
        return 0
    found, step = STEP_MIN, wanted // 2
    while step >= STEP_MIN:
        if may_be(found + step):
            found += step
        step //= 2
    return found


def may_be(octets: int) -> bool:
    """Tell whether the system gives us so much more. Nothing of it is touched."""
    with contextlib.suppress(OSError, ValueError, OverflowError, MemoryError):
        mmap.mmap(-1, octets, flags=FLAGS).close()
        return True
    return False
