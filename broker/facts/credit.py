"""What an actor granted and what of it is spent (protocol.md section 9).

available = what was stated - assignments in frames numbered beyond those received when it was
stated. Nothing here is counted up and down over time: each statement replaces all that was known.
"""

from collections import deque
from typing import TYPE_CHECKING, Final

from wire.messages import Credit

if TYPE_CHECKING:
    from broker.waiting.costs import Cost

NO_CREDIT = Credit(0)
# Under which name those are counted that have a copy for themselves: each of them takes room.
OWN: Final = ""


class CreditAccount:
    """The credit of one session."""

    __slots__ = (
        "_filled",
        "_flying",
        "_in_flight",
        "_opening",
        "_typed",
        "available",
        "has_more",
        "stated",
        "turns_flying",
    )

    def __init__(self) -> None:
        """Begin without credit."""
        self.stated = NO_CREDIT
        # How many more tasks of one plain slot may be assigned, those for the mailbox included.
        self.available = 0
        # Whether a slot of another type is left, or a turn that needs no slot.
        self.has_more = False
        # (frame, cost), oldest first.
        self._in_flight: deque[tuple[int, Cost]] = deque()
        # What the assignments in flight take: plain slots, slots of other types, turns of which
        # environment; and how many of these were cold or idle, and are room no more.
        self._flying = 0
        self._typed: dict[str, int] = {}
        self.turns_flying: dict[str, int] = {}
        self._filled = 0
        # Environments of assignments in flight that share the slot of a replica which has none yet:
        # one for all of them. With the turns of a named one, of which nothing need be stated; None
        # where these are of several groups.
        self._opening: dict[str, int | None] = {}

    @property
    def slots_available(self) -> int:
        """How many more tasks would find a slot."""
        return max(0, self.stated.free - self._flying)

    @property
    def in_flight(self) -> int:
        """How many assignments the last statement does not know yet."""
        return len(self._in_flight)

    def state(self, credit: Credit, received: int) -> None:
        """Replace what is known by what the actor stated when it had *received* frames."""
        self.stated = credit
        in_flight = self._in_flight
        while in_flight and in_flight[0][0] <= received:
            self._flying -= in_flight.popleft()[1].plain
        if self.turns_flying or self._typed:
            if in_flight:
                self._recount()
            else:
                self._land()
        left = credit.free + credit.ahead - self._flying
        self.available = left if left > 0 else 0  # noqa: FURB136 - a call of max costs more.
        self.has_more = bool(credit.typed or credit.shared or self._opening) and self._has_more()

    def covers(self, cost: "Cost", kept: "Cost | None" = None) -> bool:
        """Tell whether one more task of *cost* may be assigned now, beside one *kept* room for."""
        if (kept is not None and cost.shares(kept)) or not cost.is_plain:
            return self.has_place(cost, kept)
        stated, flying = self.stated, self._flying
        environment = cost.environment
        if environment is None:
            return stated.free + (stated.ahead if cost.may_wait_ahead else 0) > flying
        turns = stated.turns.get(environment)
        taken = self.turns_flying.get(environment, 0)
        if stated.free > flying:
            if turns is not None and turns - taken >= cost.turns_taken:
                return True
            if turns is None and not taken and stated.room > self._filled:
                return True
        # Behind a replica that is warm here a task may wait in the mailbox.
        return (
            turns is not None
            and cost.may_wait_ahead
            and stated.ahead > 0
            and stated.free + stated.ahead > flying
        )

    def has_place(self, cost: "Cost", kept: "Cost | None") -> bool:
        """Tell whether a task of *cost* would start at once, beside one *kept* room for."""
        if kept is not None and not cost.shares(kept):
            kept = None
        if kept is not None and kept.place == cost.place and kept.turns_taken > cost.turns_taken:
            return False  # Whoever is to be alone inside would never be.
        return self.has_slots(cost, kept) and self._has_turn(cost.environment, cost.turns_taken)

    @property
    def room(self) -> int:
        """How many more environments could be loaded, in the place of those that are idle too."""
        return self.stated.room - self._filled

    @property
    def has_room(self) -> bool:
        """Tell whether one more environment could be loaded."""
        return self.stated.room > self._filled

    def has_resident(self, environment: str) -> bool:
        """Tell whether *environment* is resident, or is to be loaded for what is in flight."""
        return environment in self.stated.turns or environment in self.turns_flying

    def lacks(self, cost: "Cost") -> int:
        """Return how many slots are missing for one more task of *cost*, of all types."""
        plain = 1 if cost.is_sharing and not self.is_shared(cost.place) else cost.plain
        lacking = max(0, plain - self.slots_available)
        for kind, amount in cost.typed.items():
            lacking += max(0, amount - self.free_of(kind))
        return lacking

    def free_of(self, kind: str) -> int:
        """Return how many slots of a type, other than plain ones, one more task could have."""
        return max(0, self._left(kind))

    def _left(self, kind: str) -> int:
        return self.stated.typed.get(kind, 0) - self._typed.get(kind, 0)

    def has_slots(self, cost: "Cost", kept: "Cost | None" = None) -> bool:
        """Tell whether all of its slots are free, apart from those *kept* needs.

        So is a turn of a named actor, which has all of them where nothing is said of it.
        """
        return self.has_slots_in(cost.place, cost, kept)

    def has_slots_in(self, place: str | None, cost: "Cost", kept: "Cost | None" = None) -> bool:
        """Do as `has_slots` for a task that costs as *cost* does and enters *place*."""
        free = self.stated.free - self._flying
        if kept is not None:
            free -= kept.plain
        elif cost.is_plain:
            return free > 0
        plain = cost.plain
        if cost.is_sharing:
            if kept is not None or not self.is_shared(place):
                plain = 1
            elif free < 0 and place not in self.stated.shared:
                return False  # The slot that those on their way share is not granted any more.
        if plain and plain > free:
            return False
        if cost.named and not self._has_turn_of(cost):
            return False
        return not cost.typed or all(
            self._left(kind) - (kept.typed.get(kind, 0) if kept else 0) >= amount
            for kind, amount in cost.typed.items()
        )

    def _has_turn(self, environment: str | None, turns: int) -> bool:
        """Tell whether so many turns are free, or room where they would be."""
        if environment is None or self.is_warm(environment, turns):
            return True
        return not self.has_resident(environment) and self.has_room

    def _has_turn_of(self, cost: "Cost") -> bool:
        pool, flying = cost.pool, self.turns_flying
        assert pool
        turns = self.stated.turns.get(pool, cost.turns)
        return turns - (flying.get(pool, 0) if flying else 0) >= cost.turns_taken

    def _has_more(self) -> bool:
        stated = self.stated
        if any(self._left(kind) > 0 for kind in stated.typed):
            return True
        if any(self.is_warm(environment) for environment in stated.shared):
            return True
        return any(
            turns is None
            or stated.turns.get(environment, turns) > self.turns_flying.get(environment, 0)
            for environment, turns in self._opening.items()
        )

    def is_shared(self, environment: str | None) -> bool:
        """Tell whether a replica of *environment* has its slot, also by what is in flight."""
        return environment in self.stated.shared or environment in self._opening

    def is_warm(self, environment: str, turns: int = 1) -> bool:
        """Tell whether *environment* is loaded or loading, with so many free turns."""
        stated = self.stated.turns.get(environment)
        return stated is not None and stated - self.turns_flying.get(environment, 0) >= turns

    def flies_to(self, environment: str) -> int:
        """Return how many turns are taken of which the last statement does not know."""
        return self.turns_flying.get(environment, 0)

    def spend(self, frame: int, cost: "Cost") -> None:
        """Count an assignment of *cost* that travels in *frame*."""
        environment = cost.place
        self._in_flight.append((frame, cost))
        self._flying += cost.plain
        self.available -= cost.plain
        if cost.typed:
            for kind, amount in cost.typed.items():
                self._typed[kind] = self._typed.get(kind, 0) + amount
            self.has_more = self._has_more()
        if environment is not None:
            self._take_turns(cost)
            if cost.is_sharing:
                self._share(environment, cost)
            elif self.has_more:
                self.has_more = self._has_more()

    def _share(self, environment: str, cost: "Cost") -> None:
        """Count the slot that a replica needs for all who share it."""
        if not self.is_shared(environment):
            self._open(environment, cost)
            self._flying += 1
            self.available = max(0, self.available - 1)
        self.has_more = self._has_more()

    def _open(self, environment: str, cost: "Cost") -> None:
        turns = cost.turns if cost.named else 0
        self._opening[environment] = None if cost.has_groups else turns

    def _take_turns(self, cost: "Cost") -> None:
        pool, flying = cost.pool, self.turns_flying
        assert pool is not None
        taken = flying.get(pool, 0)
        flying[pool] = taken + cost.turns_taken
        if not (taken or cost.named):
            turns = self.stated.turns.get(pool)
            # One that is idle could have left for another until now.
            if turns is None or turns >= cost.turns:
                self._filled += 1
        elif not pool:
            self._filled += 1

    def void(self) -> None:
        """Forget everything: credit dies with its session."""
        self.stated = NO_CREDIT
        self.available = self._flying = 0
        self.has_more = False
        self._in_flight.clear()
        self.turns_flying.clear()
        self._opening.clear()
        self._typed.clear()
        self._filled = 0

    def check(self) -> None:
        """Assert that the derived counts are those of the assignments in flight."""
        plain = sum(cost.plain for _, cost in self._in_flight)
        assert self._flying == plain + len(self._opening)
        sharing = {cost.place for _, cost in self._in_flight if cost.is_sharing}
        assert self._opening.keys() == sharing - {*self.stated.shared}
        left = self.stated.free + self.stated.ahead - self._flying
        assert self.available == max(0, left)
        assert self.has_more == self._has_more()
        filled = 0
        turns: dict[str, int] = {}
        typed: dict[str, int] = {}
        for _, cost in self._in_flight:
            if cost.pool is not None:
                known = self.stated.turns.get(cost.pool, cost.turns)
                is_first = cost.pool not in turns or cost.pool == OWN
                filled += not cost.named and is_first and known >= cost.turns
                turns[cost.pool] = turns.get(cost.pool, 0) + cost.turns_taken
            for kind, amount in cost.typed.items():
                typed[kind] = typed.get(kind, 0) + amount
        assert typed == self._typed
        assert turns == {k: v for k, v in self.turns_flying.items() if v}
        assert self._filled == filled
        frames = [frame for frame, _ in self._in_flight]
        assert frames == sorted(frames)

    def _land(self) -> None:
        """Count as `_recount` does where nothing is in flight."""
        self.turns_flying.clear()
        if self._typed:
            self._typed.clear()
        if self._opening:
            self._opening.clear()
        self._filled = self._flying = 0

    def _recount(self) -> None:
        self.turns_flying.clear()
        self._typed.clear()
        self._filled = 0
        self._flying -= len(self._opening)
        self._opening.clear()
        for _, cost in self._in_flight:
            for kind, amount in cost.typed.items():
                self._typed[kind] = self._typed.get(kind, 0) + amount
            environment = cost.place
            if environment is not None:
                self._take_turns(cost)
                if cost.is_sharing and environment not in self.stated.shared:
                    self._open(environment, cost)
        self._flying += len(self._opening)
