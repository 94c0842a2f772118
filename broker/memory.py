"""What becomes of memory that is free again, and of what lives as long as the process."""

import ctypes
import gc
from typing import Final

# From <malloc.h>.
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
# Left alone glibc goes up to 32 MiB with the largest block that was ever freed, and then payloads
# lie between small blocks that keep their memory from the system when they are gone. Not less: each
# one is a mapping, and a process may have 65,530.
LARGE_BYTES: Final = 2**20


def give_back_large() -> None:
    """Let the system have what is large as soon as it is free, where the allocator can be told."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        # Or each message somewhat below that would move the end of the heap there and back.
        mallopt(M_TRIM_THRESHOLD, 2 * LARGE_BYTES)


def settle_garbage() -> None:
    """Leave what lives as long as the process out of every collection, and collect seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    # What the journal's thread has read is free now, and the allocator keeps it for that thread.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # That of glibc.
        trim(0)
