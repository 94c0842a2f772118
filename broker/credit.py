"""What an actor granted and what of it is spent (protocol.md section 9).

available = what was stated - assignments in frames numbered beyond those received when it was
stated. Nothing here is counted up and down over time: each statement replaces all that was known.
"""

from collections import deque
from typing import TYPE_CHECKING

from wire.messages import Credit

if TYPE_CHECKING:
    from broker.backlog import Shape

NO_CREDIT = Credit(0)


class CreditAccount:
    """The credit of one session."""

    __slots__ = ("_cold", "_in_flight", "_turns", "available", "stated")

    def __init__(self) -> None:
        """Begin without credit."""
        self.stated = NO_CREDIT
        # How many more tasks may be assigned, those for the mailbox included.
        self.available = 0
        # (frame, environment id or None), oldest first.
        self._in_flight: deque[tuple[int, str | None]] = deque()
        # What of the assignments in flight takes a turn of which environment, and which enter a
        # cold one.
        self._turns: dict[str, int] = {}
        self._cold = 0

    @property
    def slots_available(self) -> int:
        """How many more tasks would find a slot."""
        return max(0, self.stated.free - len(self._in_flight))

    @property
    def in_flight(self) -> int:
        """How many assignments the last statement does not know yet."""
        return len(self._in_flight)

    def state(self, credit: Credit, received: int) -> None:
        """Replace what is known by what the actor stated when it had *received* frames."""
        self.stated = credit
        in_flight = self._in_flight
        while in_flight and in_flight[0][0] <= received:
            in_flight.popleft()
        left = credit.free + credit.ahead - len(in_flight)
        self.available = left if left > 0 else 0  # noqa: FURB136 - a call of max costs more.
        if self._turns:
            self._recount()

    def covers(self, shape: "Shape") -> bool:
        """Tell whether one more task of *shape* may be assigned now."""
        stated, flying = self.stated, len(self._in_flight)
        environment = shape.environment
        if environment is None:
            return stated.free + (stated.ahead if shape.may_wait_ahead else 0) > flying
        turns = stated.turns.get(environment)
        taken = self._turns.get(environment, 0)
        if stated.free > flying:
            if turns is not None and turns > taken:
                return True
            if turns is None and not taken and stated.room > self._cold:
                return True
        # Behind a replica that is warm here a task may wait in the mailbox.
        return (
            turns is not None
            and shape.may_wait_ahead
            and stated.ahead > 0
            and stated.free + stated.ahead > flying
        )

    def is_warm(self, environment: str) -> bool:
        """Tell whether *environment* is loaded or loading, with a free turn."""
        turns = self.stated.turns.get(environment)
        return turns is not None and turns > self._turns.get(environment, 0)

    def spend(self, frame: int, shape: "Shape") -> None:
        """Count an assignment of *shape* that travels in *frame*."""
        environment = shape.environment
        self._in_flight.append((frame, environment))
        self.available -= 1
        if environment is not None:
            self._turns[environment] = self._turns.get(environment, 0) + 1
            if environment not in self.stated.turns:
                self._cold += 1

    def void(self) -> None:
        """Forget everything: credit dies with its session."""
        self.stated = NO_CREDIT
        self.available = 0
        self._in_flight.clear()
        self._turns.clear()
        self._cold = 0

    def check(self) -> None:
        """Assert that the derived counts are those of the assignments in flight."""
        left = self.stated.free + self.stated.ahead - len(self._in_flight)
        assert self.available == max(0, left)
        turns: dict[str, int] = {}
        for _, environment in self._in_flight:
            if environment is not None:
                turns[environment] = turns.get(environment, 0) + 1
        assert turns == {k: v for k, v in self._turns.items() if v}
        assert self._cold == sum(n for e, n in turns.items() if e not in self.stated.turns)
        frames = [frame for frame, _ in self._in_flight]
        assert frames == sorted(frames)

    def _recount(self) -> None:
        self._turns.clear()
        self._cold = 0
        for _, environment in self._in_flight:
            if environment is not None:
                self._turns[environment] = self._turns.get(environment, 0) + 1
                if environment not in self.stated.turns:
                    self._cold += 1
