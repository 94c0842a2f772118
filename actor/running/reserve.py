"""Memory that is kept for the moment at which there is none.

Code of a user that asks for more than there is gets a MemoryError, and may still have all that it
took. What is to be done then, to run an `exit` and to say what happened, needs memory as well, and
libraries below us end the process, or hang, where they get none. The rule that must not be broken:
it is given back before anything is done about such an error.
"""

import errno
import mmap
from typing import Final

# Address space alone, as nobody writes to it: two stacks of threads, and what a frame takes.
RESERVE_BYTES: Final = 32 * 2**20
# Where it cannot be had again when it is looked for so often, memory has leaked.
MISSES_MAX: Final = 5
# An error made of others can stand at the end of a row that is no longer than this.
CAUSES_MAX: Final = 16


class Reserve:
    """Some address space, held until it is needed."""

    __slots__ = ("_held", "_misses")

    def __init__(self) -> None:
        """Hold it, if it can be had."""
        self._held: mmap.mmap | None = None
        # How often in a row it could not be had.
        self._misses = 0
        self.take()

    @property
    def is_held(self) -> bool:
        """Tell whether it is there."""
        return self._held is not None

    @property
    def is_missing(self) -> bool:
        """Tell whether it could not be had again when it was tried last."""
        return self._misses > 0

    @property
    def is_lost(self) -> bool:
        """Tell whether nothing seems to bring it back but a new process."""
        return self._misses >= MISSES_MAX

    def take(self) -> None:
        """Hold it again, if it can be had."""
        if self._held is not None:
            return
        try:
            # As much as is held is left for whoever comes next.
            hold(2 * RESERVE_BYTES).close()
            self._held = hold(RESERVE_BYTES)
            self._misses = 0
        except (OSError, MemoryError):
            self._misses += 1

    def give(self) -> None:
        """Give it back, for whoever asks for memory next."""
        held, self._held = self._held, None
        if held is not None:
            held.close()

    def give_for(self, error: BaseException) -> None:
        """Give it back if *error* says that memory is out."""
        if is_out_of_memory(error):
            self.give()


def hold(octets: int) -> mmap.mmap:
    """Return so much address space; raise OSError or MemoryError."""
    return mmap.mmap(-1, octets, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether *error*, or what it was made of, says that memory is out."""
    cause: BaseException | None = error
    for _ in range(CAUSES_MAX):
        if cause is None:
            return False
        if isinstance(cause, MemoryError):
            return True
        if isinstance(cause, OSError) and cause.errno == errno.ENOMEM:
            return True
        cause = cause.__cause__ or cause.__context__
    return False
