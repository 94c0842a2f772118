"""What an actor holds: the mailbox of what waits, who has a slot, who waits to have it again.

Everything that is stated to the broker is computed from what stands here, never counted up and
down. The rule that must not be broken: whoever holds a slot is in `holders`, and their slots never
exceed the capacity.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from actor.holding.recipe import Buffer, Recipe
from actor.holding.residents import Residents, Turns, Warmth
from actor.holding.room import Room, has_one_each
from actor.settings import SLOT
from wire.parts import Environment, Held, Token

Payloads = Sequence[Buffer]
NO_SLOTS: Final[dict[str, int]] = {}
NO_UNITS: Final[dict[str, tuple[str, ...]]] = {}
# Looked up once, for the path of each task: a member of an enum costs a search through its class.
WAITING: Final = Held.WAITING
RUNNING: Final = Held.RUNNING
RELEASED: Final = Held.RELEASED


class Assignment(Struct, eq=False):
    """One giving of a task to this actor; a Struct, which is made with less than other objects."""

    token: Token
    client: int
    task: int
    attempt: int
    recipe: Recipe
    body: Buffer
    payloads: Payloads
    slots: dict[str, int]
    held: Held = WAITING
    # Which of the units that have names it holds.
    units: dict[str, tuple[str, ...]] = NO_UNITS
    is_stopped: bool = False
    # Whether it has a turn in its environment; whether it must load it, after which others are
    # gone.
    is_inside: bool = False
    loads: bool = False
    evicts: tuple[str, ...] = ()

    __repr__ = object.__repr__

    @property
    def name(self) -> str:
        """Name the task for people and logs, as its client and the broker do."""
        return f"{self.client:016x}-{self.task}"

    @property
    def is_named(self) -> bool:
        """Tell whether it is a call to a named actor, in which it keeps its turn to its end."""
        return self.recipe.is_named


class Ask:
    """A released task, or one that gave back a part, which waits to hold *slots* again."""

    __slots__ = ("assignment", "slots", "until", "within")

    def __init__(
        self,
        assignment: Assignment,
        slots: dict[str, int],
        until: float,
        within: list[int] | None = None,
    ) -> None:
        """Wait up to *until*, inside the blocks *within*; what it still holds stays there."""
        self.assignment = assignment
        self.slots = slots
        self.until = until
        self.within = within

    @property
    def wanted(self) -> dict[str, int]:
        """Return what is missing, of each type."""
        held = self.assignment.slots
        return {kind: max(0, n - held.get(kind, 0)) for kind, n in self.slots.items()}

    @property
    def replica(self) -> str | None:
        """Return the environment in whose replica it shares a slot."""
        return self.assignment.recipe.replica

    @property
    def environment(self) -> Environment | None:
        """Return where it needs a turn, which only one that kept a part still has."""
        is_inside = self.assignment.is_inside
        return None if is_inside else self.assignment.recipe.call.environment


class StopOrder:
    """Whom to tell that nobody wants it any more."""

    __slots__ = ("assignment", "force", "reason")

    def __init__(self, assignment: Assignment, *, force: bool, reason: str) -> None:
        """Name the run and why."""
        self.assignment = assignment
        self.force = force
        self.reason = reason


class Mailbox:
    """Every assignment that the actor holds: waiting, holding slots, or released."""

    __slots__ = (
        "capacity",
        "has_fixed",
        "has_types",
        "held",
        "holders",
        "reacquiring",
        "residents",
        "slots",
        "units",
        "unusual",
        "waiting",
    )

    def __init__(
        self,
        capacity: dict[str, int],
        environments_max: int,
        units: dict[str, list[str]] | None = None,
    ) -> None:
        """Begin empty; *units* has the names of the slots of some types."""
        self.units = units or {}
        self.capacity = {SLOT: 0, **capacity}
        self.slots = self.capacity[SLOT]
        self.has_types = any(kind != SLOT for kind in capacity)
        self.held: dict[Token, Assignment] = {}
        self.waiting: deque[Assignment] = deque()
        self.holders: dict[Token, Assignment] = {}
        # Who waits for its slots again, in order of asking.
        self.reacquiring: dict[Token, Ask] = {}
        self.residents = Residents(environments_max)
        # Those held that need more than one plain slot, or an environment.
        self.unusual: set[Token] = set()
        # Whether some of those that wait perhaps may not, unless they start at once.
        self.has_fixed = False

    @property
    def is_plain(self) -> bool:
        """Tell whether there are only plain slots here, and only tasks of one."""
        return not (self.unusual or self.residents.by_id or self.has_types)

    @property
    def is_full(self) -> bool:
        """Tell whether every plain slot is held."""
        if len(self.holders) < self.slots:
            return False
        is_simple = not self.unusual or has_one_each(self.holders)
        return is_simple or self.slots_free().free[SLOT] <= 0

    def put(self, assignment: Assignment) -> None:
        """Let *assignment* wait behind the others."""
        self.held[assignment.token] = assignment
        self.waiting.append(assignment)
        if not assignment.recipe.is_common:
            if not assignment.recipe.is_plain:
                self.unusual.add(assignment.token)
                if assignment.recipe.is_for_one:
                    assignment.recipe = assignment.recipe.for_one(assignment.token)
            if not assignment.recipe.may_wait_ahead:
                self.has_fixed = True

    def drop(self, assignment: Assignment) -> None:
        """Forget one that waits."""
        self.waiting.remove(assignment)
        self._forget(assignment)

    def fits(self, recipe: Recipe) -> bool:
        """Tell whether so much could ever be free here."""
        for kind, amount in recipe.slots.items():  # noqa: SIM110 - a generator costs more.
            if amount > self.capacity.get(kind, 0):
                return False
        return True

    def next_start(self) -> Assignment | None:
        """Return the first that can start now, or None.

        One whose environment has no turn is passed over, and with it those behind it in its group
        of a named actor. For one whose slots are not free what it needs is kept, so that small ones
        never starve a large one.
        """
        waiting = self.waiting
        if not (self.unusual or self.residents.by_id or self.has_types):
            taken = len(self.holders) + len(self.reacquiring)
            return waiting[0] if waiting and taken < self.slots else None
        if len(waiting) == 1 and not (self.holders or self.reacquiring):
            place = waiting[0].recipe.environment  # Whoever is alone has what there is.
            return waiting[0] if place is None or self.residents.can_enter(place) else None
        free = self.slots_free()
        ahead = set()
        for ask in self.reacquiring.values():
            free.take(ask.wanted, ask.replica)
            if ask.environment is not None:
                ahead.add(ask.environment.id)
        # Whoever reacquires enters first: its own environment, and any other that must be loaded.
        resident = self.residents.by_id
        is_full = not ahead <= resident.keys()
        for assignment in waiting:
            environment = assignment.recipe.call.environment
            if environment is not None and (
                environment.pool in ahead
                or (is_full and environment.named is None and environment.id not in resident)
                or not self.residents.can_enter(environment)
            ):
                if environment.named is not None:
                    ahead.add(environment.pool)
                continue
            if free.covers(assignment.slots, assignment.recipe.replica):
                return assignment
            free.take(assignment.slots, assignment.recipe.replica)
            if free.is_full and not self.has_types:
                return None
            if environment is not None and environment.named is not None:
                # Nor does a call of another group enter the actor ahead of this one.
                is_here = self.residents.named.has(environment)
                ahead.update((environment.pool,) if is_here else environment.pools)
        return None

    def next_reacquirer(self) -> Ask | None:
        """Return the first that can have all that it waits for now, or None.

        Those that kept a part go first and never wait for one another in a circle: the one that
        last had all of its own at once had it beside what the others still hold, so it fits. Of
        those that hold nothing one whose environment has no turn is passed over; for one whose
        slots are not free what it needs is kept.
        """
        free = self.slots_free()
        rest: list[Ask] = []
        for ask in self.reacquiring.values():
            if not any(ask.assignment.slots.values()):
                rest.append(ask)
            elif free.covers(ask.wanted, ask.replica):
                return ask
        for ask in self.reacquiring.values():
            if any(ask.assignment.slots.values()):
                free.take(ask.wanted, ask.replica)
        for ask in rest:
            if ask.environment is None or self.residents.can_enter(ask.environment):
                if free.covers(ask.wanted, ask.replica):
                    return ask
                free.take(ask.wanted, ask.replica)
        return None

    def regain(self, ask: Ask) -> bool:
        """Give one that waits its slots and its turn again; tell whether it had nothing at all."""
        assignment = ask.assignment
        del self.reacquiring[assignment.token]
        had_none = assignment.held is Held.RELEASED
        assignment.held = Held.RUNNING
        assignment.slots = ask.slots
        self.holders[assignment.token] = assignment
        assignment.loads, assignment.evicts = False, ()
        if ask.environment is not None:
            self.residents.enter(assignment)
        self._allot(assignment)
        if ask.slots != assignment.recipe.slots:
            self.unusual.add(assignment.token)
        return had_none

    def start(self, assignment: Assignment) -> None:
        """Give one that waits its slots and its turn."""
        if self.waiting[0] is assignment:
            self.waiting.popleft()
        else:
            self.waiting.remove(assignment)
        assignment.held = RUNNING
        self.holders[assignment.token] = assignment
        if assignment.recipe.environment is not None:
            self.residents.enter(assignment)
        if self.units:
            self._allot(assignment)

    def release(self, assignment: Assignment, typed: dict[str, int] | None) -> bool:
        """Take back all that a running one holds, or the part of its slots that *typed* names."""
        if assignment.token not in self.holders:
            return False
        if typed is not None:
            left = {
                kind: max(0, amount - typed.get(kind, 0))
                for kind, amount in assignment.slots.items()
            }
            if left == assignment.slots:
                return False
            # From here on its slots are not those of its recipe.
            self.unusual.add(assignment.token)
            assignment.slots = left
            assignment.units = {k: names[: left[k]] for k, names in assignment.units.items()}
            return True
        del self.holders[assignment.token]
        assignment.slots = NO_SLOTS
        assignment.units = NO_UNITS
        assignment.held = Held.RELEASED
        if assignment.is_inside and not assignment.is_named:
            self.residents.leave(assignment, is_over=False)
        return True

    def end(self, assignment: Assignment) -> None:
        """Forget one that returned. It waits for nothing any more."""
        token = assignment.token
        assert token not in self.reacquiring
        self.holders.pop(token, None)
        if assignment.is_inside:
            self.residents.leave(assignment)
        del self.held[token]
        if self.unusual:
            self.unusual.discard(token)
            if assignment.held is RELEASED:
                self.residents.ended(assignment)

    def slots_free(self) -> Room:
        """Return what nobody holds."""
        free = Room(self.capacity)
        for holder in self.holders.values():
            free.take(holder.slots, holder.recipe.replica)
        return free

    def claims(self) -> tuple[Room, list[Assignment]]:
        """Return what nobody has or is about to have, and who waits for more than a load.

        Those are the ones beyond: who waits for a turn, or for room, takes no slot before. Below 0
        where those who reacquire want more than there is.
        """
        free = self.slots_free()
        if not (self.waiting or self.reacquiring):
            return free, []
        turns = Turns(self.residents)
        for ask in self.reacquiring.values():
            free.take(ask.wanted, ask.replica)
            if ask.environment is not None:
                turns.keep(ask.environment)
        beyond = []
        for assignment in self.waiting:
            environment, replica = assignment.recipe.environment, assignment.recipe.replica
            has_slots = free.covers(assignment.slots, replica)
            if has_slots and (environment is None or turns.covers(environment)):
                free.take(assignment.slots, replica)
                if environment is not None:
                    turns.take(environment)
                continue
            beyond.append(assignment)
            if not has_slots:
                free.close()
            if assignment.is_named and environment is not None:
                turns.close(environment)
        return free, beyond

    def awaited(self) -> dict[str, int]:
        """Count the turns that those take who wait for each environment."""
        counts: dict[str, int] = {}
        places = [assignment.recipe.call.environment for assignment in self.waiting]
        for environment in (*places, *(ask.environment for ask in self.reacquiring.values())):
            if environment is not None and environment.named is None:
                counts[environment.id] = counts.get(environment.id, 0) + environment.turns
        return counts

    def _allot(self, assignment: Assignment) -> None:
        """Give *assignment* names for the units that it holds; those that it has it keeps."""
        units: dict[str, tuple[str, ...]] = {}
        for kind, names in self.units.items():
            amount = assignment.slots.get(kind, 0)
            if amount:
                taken = {name for h in self.holders.values() for name in h.units.get(kind, ())}
                own = assignment.units.get(kind, ())
                free = [name for name in names if name not in taken]
                units[kind] = (*own, *free[: amount - len(own)])
        assignment.units = units

    def _forget(self, assignment: Assignment) -> None:
        del self.held[assignment.token]
        if self.unusual:
            self.unusual.discard(assignment.token)

    def check(self) -> None:
        """Assert that each assignment is in one place and nothing is given twice."""
        assert self.slots == self.capacity[SLOT]
        assert self.unusual <= self.held.keys()
        assert {t for t, a in self.held.items() if not a.recipe.is_plain} <= self.unusual
        waiting = {assignment.token for assignment in self.waiting}
        assert len(waiting) == len(self.waiting)
        assert self.has_fixed or all(one.recipe.may_wait_ahead for one in self.waiting)
        assert not waiting & self.holders.keys()
        assert waiting | self.holders.keys() <= self.held.keys()
        assert all(amount >= 0 for amount in self.slots_free().free.values())
        for token, ask in self.reacquiring.items():
            assert self.held[token] is ask.assignment
            assert ask.assignment.held is not Held.WAITING
            assert not ask.assignment.is_stopped
        for kind, names in self.units.items():
            given = [name for h in self.holders.values() for name in h.units.get(kind, ())]
            assert len(given) == len(set(given))
            assert set(given) <= set(names)
            assert len(given) == sum(h.slots.get(kind, 0) for h in self.holders.values())
        self.residents.check(self.held)
        for token, assignment in self.held.items():
            assert assignment.token == token
            match assignment.held:
                case Held.WAITING:
                    assert token in waiting
                    assert not assignment.is_stopped
                    assert not assignment.is_inside
                case Held.RUNNING:
                    assert token in self.holders
                case Held.RELEASED:
                    assert token not in self.holders
                    assert token not in waiting
                    assert assignment.is_named or not assignment.is_inside
        self.residents.named.check(self.held)
        inside = {token for replica in self.residents.by_id.values() for token in replica.inside}
        assert inside <= self.holders.keys()
        # Those of a copy that could not be entered have not been told yet.
        left = (replica.inside.keys() for replica in self.residents.left.values())
        named = (replica.inside.keys() for replica in self.residents.named.by_id.values())
        inside = inside.union(*left, *named)
        assert inside == {token for token, assignment in self.held.items() if assignment.is_inside}
        for replica in self.residents.by_id.values():
            assert sum(replica.inside.values()) <= replica.environment.concurrency
            assert all(self.held[token].held is RELEASED for token in replica.away)
            assert not (replica.away and replica.environment.reuse.is_fresh)
            assert replica.warmth is not Warmth.COLD
