"""How many tasks may wait in the mailbox beyond the slots, and when they are handed back.

Waiting ahead saves a round trip to each task, and costs freedom: what waits here cannot start
anywhere else. So it pays only where runs are short against the round trip. The actor decides, since
it alone knows both, run times and the way to the broker and back, without a message. The rule that
must not be broken: nothing waits here behind a run that lasts long.
"""

from math import ceil, inf
from typing import Final

from wire.parts import Token

# What waits ahead at most when the actor decides.
AHEAD_MAX: Final = 64
# How often is looked at what ran and what waits.
LOOK_S: Final = 0.01
# What a task costs the actor beside its run.
OVERHEAD_S: Final = 20e-6
# Runs shorter than so many round trips may have others waiting; up to twice that they keep them.
SHORT_ROUND_TRIPS: Final = 20.0
LONG_ROUND_TRIPS: Final = 40.0
# What waits ahead lasts for about so many round trips.
COVERED_ROUND_TRIPS: Final = 8.0
ROUND_TRIP_MIN_S: Final = 50e-6
# Where for longer than this, or so many usual runs, no slot became free or the first that waits did
# not start, a long run is ahead.
PATIENCE_MIN_S: Final = 0.01
PATIENCE_MAX_S: Final = 1.0
PATIENCE_RUNS: Final = 4.0


class Prefetch:
    """Decides how much credit is granted ahead. Fed with run times, frames and the clock."""

    __slots__ = (
        "_asked_at",
        "_depth",
        "_head",
        "_head_at",
        "_moved_at",
        "ahead",
        "busy_s",
        "is_auto",
        "is_stuck",
        "look_at",
        "maximum",
        "may_probe",
        "probe",
        "round_trip_s",
        "runs",
        "usual_s",
    )

    def __init__(self, ahead: int | None) -> None:
        """Grant *ahead* at any time; None lets the runs decide, from 0."""
        self.is_auto = ahead is None
        self.maximum = AHEAD_MAX if ahead is None else ahead
        # What may wait now.
        self.ahead = self._depth = 0 if ahead is None else ahead
        # Whether what waited was handed back, and nothing has ended since.
        self.is_stuck = False
        # The runs since the last look, and how long they took together.
        self.runs = 0
        self.busy_s = 0.0
        # What a run usually takes: 0 until one has ended.
        self.usual_s = 0.0
        # The shortest way to the broker and back in this session.
        self.round_trip_s = inf
        # The number of the frame that is timed; inf for none. One between two looks is enough.
        self.probe: float = inf
        self.may_probe = True
        self.look_at = -inf
        self._asked_at = 0.0
        self._head: Token | None = None
        self._head_at = self._moved_at = inf

    @property
    def patience_s(self) -> float:
        """Return for how long nothing need move."""
        long_s = LONG_ROUND_TRIPS * self.round_trip_s if self.round_trip_s < inf else 0.0
        return min(PATIENCE_MAX_S, max(PATIENCE_MIN_S, long_s, PATIENCE_RUNS * self.usual_s))

    def greets(self, now: float) -> None:
        """Begin to measure anew: a HELLO leaves."""
        self._asked_at = now
        self.probe = self.round_trip_s = inf
        self.may_probe = True

    def said(self, number: int, now: float) -> None:
        """Time the frame *number*, which leaves now."""
        self.probe = number
        self.may_probe = False
        self._asked_at = now

    def answered(self, now: float) -> None:
        """Take the time until the broker's answer; the shortest is the round trip."""
        self.probe = inf
        self.round_trip_s = max(ROUND_TRIP_MIN_S, min(self.round_trip_s, now - self._asked_at))

    def given_back(self, held_s: float) -> None:
        """Count the slot that a run gave back for good after *held_s*: what waits here moves on."""
        self.runs += 1
        self.busy_s += held_s
        if self.is_stuck:
            self.freed()

    def freed(self) -> None:
        """Grant again what is usual: a run has ended, so what waits here moves on."""
        self.is_stuck = False
        self.ahead = self._depth

    def close(self) -> None:
        """Grant nothing ahead any more."""
        self.is_auto = False
        self.maximum = self.ahead = self._depth = 0

    def look(self, now: float, head: Token | None, slots: int, *, is_full: bool) -> bool:
        """Adapt to the runs since the last look; tell if what waits must be handed back.

        *head* is the first that waits; *is_full* tells that no slot is free.
        """
        self.look_at = now + LOOK_S
        self.may_probe = self.probe == inf
        if head is None or head != self._head:
            self._head, self._head_at = head, now
        if self.runs or not is_full:
            self._moved_at = now
        if self.runs:
            mean_s = self.busy_s / self.runs
            # Taken off at once, granted again slowly.
            self.usual_s = mean_s if mean_s > self.usual_s else (mean_s + self.usual_s) / 2
            self.runs, self.busy_s = 0, 0.0
            if self.is_auto:
                self._depth = self._fitting(slots)
                if not self.is_stuck:
                    self.ahead = self._depth
        if self.is_stuck or not self.ahead:
            return False
        waits_s = now - min(self._head_at, self._moved_at)
        if waits_s < self.patience_s:
            return False
        self.is_stuck = True
        self.ahead = 0
        if self.is_auto:
            self._depth = 0
            self.usual_s = max(self.usual_s, waits_s)
        return True

    def _fitting(self, slots: int) -> int:
        """Return how many should wait: a power of two, so that it seldom changes."""
        depth, way_s = self._depth, self.round_trip_s
        if way_s == inf:
            return depth
        if self.usual_s > way_s * (LONG_ROUND_TRIPS if depth else SHORT_ROUND_TRIPS):
            return 0
        wanted = COVERED_ROUND_TRIPS * slots * way_s / (self.usual_s + OVERHEAD_S)
        fitting = 1
        while fitting < min(ceil(wanted), self.maximum):
            fitting *= 2
        return depth if depth // 4 < fitting < 2 * depth else fitting

    def check(self) -> None:
        """Assert that it never grants more than it may."""
        assert 0 <= self.ahead <= self._depth <= self.maximum
        assert not (self.is_stuck and self.ahead)
