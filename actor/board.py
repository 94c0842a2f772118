"""Which runs have started and are not settled, in memory that outlives the actor's process.

The actor writes a record before it touches anything that came from a user, and frees it when the
outcome is at the broker or nobody wants it. So what stands here when the process dies is exactly
what may have run and whose outcome may be lost. There are no locks: a record is written by the
thread that owns it, and its state last.
"""

import mmap
import os
import struct
from typing import Final

from actor.platform import open_shared
from wire.parts import Token

RECORDS_MAX: Final = 16_384

# Magic, records, whether the actor left by itself, runs that found no record.
HEADER: Final = struct.Struct("<8sQQQ")
MAGIC: Final = b"warmslt1"
LEFT_AT: Final = 16
OVERFLOW_AT: Final = 24
# Epoch and number of the token, state.
RECORD: Final = struct.Struct("<QQQ")
WORD: Final = struct.Struct("<Q")
STATE_AT: Final = 16

FREE: Final = 0
STARTED: Final = 1
RELEASED: Final = 2
FINISHED: Final = 3
ENTERING: Final = 4


class Board:
    """The region, mapped by both ends."""

    def __init__(self, fd: int, *, records: int = RECORDS_MAX) -> None:
        """Map *fd*, which stays open and belongs to the caller."""
        self._size = HEADER.size + records * RECORD.size
        self._map = mmap.mmap(fd, self._size)
        self.records = records
        # The actor's end: where each run stands, and which records are free, the lowest last.
        self._places: dict[Token, int] = {}
        self._free = list(
            range(HEADER.size + (records - 1) * RECORD.size, HEADER.size - 1, -RECORD.size)
        )
        self._finished: dict[Token, int] = {}

    @classmethod
    def create(cls, *, records: int = RECORDS_MAX) -> tuple["Board", int]:
        """Return a new region and the descriptor that leads to it."""
        fd = open_shared(HEADER.size + records * RECORD.size)
        board = cls(fd, records=records)
        HEADER.pack_into(board._map, 0, MAGIC, records, 0, 0)
        return board, fd

    # --- the actor's end

    def reserve(self, token: Token) -> int:
        """Return the place for *token*; the I/O thread calls this before it starts the run.

        A full board gives away the record of the run that finished first: its outcome has had the
        most time to arrive.
        """
        if self._free:
            place = self._free.pop()
        elif self._finished:
            oldest = next(iter(self._finished))
            place = self._finished.pop(oldest)
            del self._places[oldest]
            WORD.pack_into(self._map, place + STATE_AT, FREE)
        else:
            (count,) = WORD.unpack_from(self._map, OVERFLOW_AT)
            WORD.pack_into(self._map, OVERFLOW_AT, count + 1)
            return 0
        self._places[token] = place
        return place

    def enter(self, place: int, token: Token) -> None:
        """Record that the environment of the run is entered, before it begins."""
        if place:
            RECORD.pack_into(self._map, place, token[0], token[1], ENTERING)

    def start(self, place: int, token: Token) -> None:
        """Record that the run begins; called in the thread that runs it."""
        if place:
            RECORD.pack_into(self._map, place, token[0], token[1], STARTED)

    def release(self, token: Token) -> None:
        """Record that the run goes on without its slot."""
        place = self._places.get(token)
        if place is not None:
            WORD.pack_into(self._map, place + STATE_AT, RELEASED)

    def reacquire(self, token: Token) -> None:
        """Record that the run has its slot again."""
        place = self._places.get(token)
        if place is not None:
            WORD.pack_into(self._map, place + STATE_AT, STARTED)

    def finish(self, token: Token) -> None:
        """Record that the run has returned and its outcome is on its way."""
        place = self._places.get(token)
        if place is not None:
            WORD.pack_into(self._map, place + STATE_AT, FINISHED)
            self._finished[token] = place

    def settle(self, token: Token) -> None:
        """Free the record of a run whose outcome is at the broker, or that nobody wants."""
        place = self._places.pop(token, None)
        if place is not None:
            WORD.pack_into(self._map, place + STATE_AT, FREE)
            self._finished.pop(token, None)
            self._free.append(place)

    def leave(self) -> None:
        """Record that the actor ends because it was told to, not because a task made it."""
        WORD.pack_into(self._map, LEFT_AT, 1)

    # --- the host's end

    def started(self) -> list[Token]:
        """Return the runs that had started and are not settled."""
        return self._tokens(STARTED, RELEASED, FINISHED)

    def entering(self) -> list[Token]:
        """Return the runs that had not started, since their environment was being entered."""
        return self._tokens(ENTERING)

    def _tokens(self, *states: int) -> list[Token]:
        tokens = []
        for place in range(HEADER.size, self._size, RECORD.size):
            epoch, number, state = RECORD.unpack_from(self._map, place)
            if state in states:
                tokens.append((epoch, number))
        return sorted(tokens)

    @property
    def has_left(self) -> bool:
        """Tell whether the actor ended because it was told to."""
        return bool(WORD.unpack_from(self._map, LEFT_AT)[0])

    @property
    def overflow(self) -> int:
        """Return how many runs found no record, and are not in `started`."""
        count: int = WORD.unpack_from(self._map, OVERFLOW_AT)[0]
        return count

    def close(self) -> None:
        """Unmap."""
        self._map.close()


def close_fd(fd: int) -> None:
    """Close the descriptor of a region."""
    os.close(fd)
