"""Which runs have started and are not settled, in memory that outlives the actor's process.

The actor writes a record before it touches anything that came from a user, and frees it when the
outcome is at the broker or nobody wants it. So what stands here when the process dies is exactly
what may have run and whose outcome may be lost. There are no locks: a record is written by the
thread that owns it, and its state last.
"""

import mmap
import os
import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import Final, NamedTuple

from actor.machine.platform import open_shared
from wire.parts import Token

# More outcomes than this are never kept at once (`outcomes.OVERHEAD_BYTES`), so with those that
# hold slots or have released them every run has a record.
RECORDS: Final = 65_536 + 4_096

# Magic, records, whether the actor left by itself, runs that found no record, whether it ends for
# the sake of the runs that are doomed; whether it may hold strict limits, and when the newest frame
# was sent that the broker has, by the actor and by its host: seconds of the clock that both have;
# how far the start of the process has come; how many outcomes it keeps for clients that have not
# received them.
HEADER: Final = struct.Struct("<8sQQQQQddQQ")
MAGIC: Final = b"warmslt5"
LEFT_AT: Final = 16
OVERFLOW_AT: Final = 24
FORCED_AT: Final = 32
HELD_AT: Final = 40
RENEWED_AT: Final = 48
VOUCHED_AT: Final = 56
STAGE_AT: Final = 64
KEPT_AT: Final = 72
# Epoch and number of the token, state.
RECORD: Final = struct.Struct("<QQQ")
WORD: Final = struct.Struct("<Q")
CLOCK: Final = struct.Struct("<d")
NEVER: Final = float("-inf")
STATE_AT: Final = 16

FREE: Final = 0
STARTED: Final = 1
RELEASED: Final = 2
FINISHED: Final = 3
ENTERING: Final = 4
DOOMED: Final = 5


class Stage(IntEnum):
    """How far the start of an actor has come."""

    LOADING = 0  # its own modules
    ENTERING = 1  # it works, and enters what it is to have from the start
    UP = 2


class Runs(NamedTuple):
    """How the runs stood that were not settled when their process ended, as DEATH tells it."""

    started: list[Token]
    finished: list[Token]
    entering: list[Token]
    # Had started, and the process was ended for the sake of others.
    beside: list[Token]


class Board:
    """The region, mapped by both ends."""

    def __init__(self, fd: int) -> None:
        """Map *fd*, which stays open and belongs to the caller."""
        records = (os.fstat(fd).st_size - HEADER.size) // RECORD.size
        self._size = HEADER.size + records * RECORD.size
        self._map = mmap.mmap(fd, self._size)
        # The same as words, each of which is written at once, and for less than `pack_into` takes.
        self._words = memoryview(self._map)[: self._size].cast("Q")
        # The actor's end: where each run stands, which records are free again, and which were
        # never used.
        self._places: dict[Token, int] = {}
        self._free: list[int] = []
        self._unused = HEADER.size
        self._finished: dict[Token, int] = {}

    @classmethod
    def create(cls, *, records: int = RECORDS) -> tuple["Board", int]:
        """Return a new region and the descriptor that leads to it."""
        fd = open_shared(HEADER.size + records * RECORD.size)
        try:
            board = cls(fd)
        except OSError:
            os.close(fd)
            raise
        HEADER.pack_into(board._map, 0, MAGIC, records, 0, 0, 0, 0, NEVER, NEVER, Stage.LOADING, 0)
        return board, fd

    # --- the actor's end

    def reserve(self, token: Token) -> int:
        """Return the place for *token*; the I/O thread calls this before it starts the run.

        A full board gives away the record of the run that finished first: its outcome has had the
        most time to arrive.
        """
        if self._free:
            place = self._free.pop()
        elif self._unused < self._size:
            place = self._unused
            self._unused += RECORD.size
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
            words, at = self._words, place >> 3
            words[at], words[at + 1] = token
            words[at + 2] = STARTED

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
            self._words[(place + STATE_AT) >> 3] = FINISHED
            self._finished[token] = place

    def settle(self, token: Token) -> None:
        """Free the record of a run whose outcome is at the broker, or that nobody wants."""
        place = self._places.pop(token, None)
        if place is not None:
            self._words[(place + STATE_AT) >> 3] = FREE
            self._finished.pop(token, None)
            self._free.append(place)

    def renew(self, at: float, *, is_held: bool) -> None:
        """Record whether strict limits may be held here, and when the broker was sure to hear."""
        if is_held:
            WORD.pack_into(self._map, HELD_AT, 1)
        CLOCK.pack_into(self._map, RENEWED_AT, at)
        if not is_held:
            WORD.pack_into(self._map, HELD_AT, 0)

    @property
    def vouched_at(self) -> float:
        """Return when the host was sure to be heard by the broker."""
        at: float = CLOCK.unpack_from(self._map, VOUCHED_AT)[0]
        return at

    @property
    def has_begun(self) -> bool:
        """Tell whether a run has begun here whose outcome is not at the broker yet."""
        return any(self.read())

    def leave(self) -> None:
        """Record that the actor ends because it was told to, not because a task made it."""
        WORD.pack_into(self._map, LEFT_AT, 1)

    def force(self, doomed: Iterable[Token]) -> None:
        """Record that the process ends for the sake of the runs *doomed*, which do not return."""
        for token in doomed:
            place = self._places.get(token)
            if place is not None:
                WORD.pack_into(self._map, place + STATE_AT, DOOMED)
        WORD.pack_into(self._map, FORCED_AT, 1)

    def reach(self, stage: Stage) -> None:
        """Record how far the start has come."""
        WORD.pack_into(self._map, STAGE_AT, stage)

    def keep(self, count: int) -> None:
        """Record how many outcomes wait for their clients, now and then."""
        WORD.pack_into(self._map, KEPT_AT, count)

    # --- the host's end

    @property
    def stage(self) -> Stage:
        """Return how far the start has come."""
        return Stage(WORD.unpack_from(self._map, STAGE_AT)[0])

    def vouch(self, at: float) -> float | None:
        """Record when the host was sure to be heard; return that of the actor, None if it need not.

        It need not be heard where it can hold no strict limit.
        """
        CLOCK.pack_into(self._map, VOUCHED_AT, at)
        if not WORD.unpack_from(self._map, HELD_AT)[0]:
            return None
        renewed_at: float = CLOCK.unpack_from(self._map, RENEWED_AT)[0]
        return renewed_at

    def read(self, *, is_ended: bool = False) -> Runs:
        """Return the runs that are not settled; *is_ended*: the host itself ended the process."""
        states: dict[int, list[Token]] = {}
        for place in range(HEADER.size, self._size, RECORD.size):
            epoch, number, state = RECORD.unpack_from(self._map, place)
            if state != FREE:
                states.setdefault(state, []).append((epoch, number))
        running = sorted(states.get(STARTED, []) + states.get(RELEASED, []))
        doomed = sorted(states.get(DOOMED, []))
        finished, entering = sorted(states.get(FINISHED, [])), sorted(states.get(ENTERING, []))
        is_forced = is_ended or bool(WORD.unpack_from(self._map, FORCED_AT)[0])
        if is_forced:
            # It says nothing against an environment that it was being entered.
            return Runs(doomed, finished, [], running)
        return Runs(sorted(running + doomed), finished, entering, [])

    @property
    def kept(self) -> int:
        """Return how many outcomes were kept when that was last looked at."""
        count: int = WORD.unpack_from(self._map, KEPT_AT)[0]
        return count

    @property
    def has_left(self) -> bool:
        """Tell whether the actor ended because it was told to."""
        return bool(WORD.unpack_from(self._map, LEFT_AT)[0])

    @property
    def overflow(self) -> int:
        """Return how many runs found no record, and are not in `read`."""
        count: int = WORD.unpack_from(self._map, OVERFLOW_AT)[0]
        return count

    def close(self) -> None:
        """Unmap."""
        self._words.release()
        self._map.close()
