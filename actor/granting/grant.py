"""What the actor grants, and what the broker must think of it (protocol.md section 9).

The grant is computed from what the mailbox holds, each time. It is stated only where it differs
from what the broker computes by itself: the last statement less one for each assignment since.
"""

from actor.holding.mailbox import Mailbox
from actor.holding.recipe import Recipe
from actor.holding.residents import LOADING
from actor.holding.room import has_one_each
from actor.settings import SLOT
from wire.messages import Credit
from wire.parts import place_of


def compute_credit(mailbox: Mailbox, prefetch: int, *, may_grant: bool) -> Credit:
    """Compute what the actor grants now."""
    residents = mailbox.residents
    if mailbox.is_plain:
        taken = len(mailbox.holders) + len(mailbox.waiting) + len(mailbox.reacquiring)
        free = mailbox.capacity[SLOT] - taken
        if not may_grant:
            return Credit(0)
        if free >= 0:
            return Credit(free, prefetch, residents.maximum)
        return Credit(0, max(0, prefetch + free), residents.maximum)
    if not may_grant:
        return Credit(0, 0, 0, dict.fromkeys(residents.by_id, 0))
    return calm_credit(mailbox, prefetch) or full_credit(mailbox, prefetch)


def calm_credit(mailbox: Mailbox, prefetch: int) -> Credit | None:
    """Compute what is granted where nobody waits and each has one slot of its own.

    None where it is otherwise: then more is to be looked at.
    """
    residents, holders = mailbox.residents, mailbox.holders
    if (
        mailbox.waiting
        or mailbox.reacquiring
        or mailbox.has_types
        or (holders and not has_one_each(holders))
    ):
        return None
    room = residents.maximum
    turns: dict[str, int] = {}
    for identity, replica in residents.by_id.items():
        if replica.warmth is LOADING:
            room -= 1
            if not replica.is_for_one:
                turns[identity] = 0
            continue
        if replica.inside:
            room -= 1
            if replica.is_for_one:
                continue  # It is left with its run, so never is nobody inside.
        turns[identity] = replica.turns_free
    if residents.named.busy:
        turns |= residents.named.turns(())
    free = mailbox.slots - len(holders)
    return Credit(free, prefetch, room, turns)


def full_credit(mailbox: Mailbox, prefetch: int) -> Credit:
    """Compute what is granted, whatever is here."""
    residents = mailbox.residents
    room, beyond = mailbox.claims()
    free = room.free.pop(SLOT)
    awaited = mailbox.awaited()
    turns = residents.turns_granted(awaited) | residents.named.turns(mailbox.waiting)
    # Nobody shares a slot for which somebody waits.
    shared: tuple[str, ...] = ()
    if room.shared and free >= 0:
        # By the names of all turns that go with such a slot.
        shared = tuple(sorted(pool for pool in turns if place_of(pool) in room.shared))
    return Credit(
        max(0, free),
        max(0, prefetch - len(beyond) + min(0, free)),
        residents.room(awaited),
        turns,
        {kind: max(0, amount) for kind, amount in room.free.items()},
        shared,
    )


class Statement:
    """The credit that the broker counts with."""

    __slots__ = ("ahead", "free", "is_void", "room", "shared", "turns", "typed")

    def __init__(self) -> None:
        """Begin without one."""
        self.is_void = True
        self.free = 0
        self.ahead = 0
        self.room = 0
        self.turns: dict[str, int] = {}
        self.typed: dict[str, int] = {}
        self.shared: tuple[str, ...] = ()

    def void(self) -> None:
        """Forget it: credit dies with its session."""
        self.is_void = True

    def news(self, mailbox: Mailbox, prefetch: int, *, may_grant: bool) -> Credit | None:
        """Note what is granted now, and return it if it has to be stated."""
        if (
            may_grant
            and not (mailbox.unusual or mailbox.residents.by_id or mailbox.has_types)
            and not (self.is_void or self.turns or self.typed)
        ):
            # The usual case, without a Credit that says what is known; no turns, nothing shared.
            free = mailbox.slots - (
                len(mailbox.holders) + len(mailbox.waiting) + len(mailbox.reacquiring)
            )
            ahead = prefetch
            if free < 0:
                ahead = prefetch + free if prefetch + free > 0 else 0  # noqa: FURB136
                free = 0
            room = mailbox.residents.maximum
            if self.free == free and self.ahead == ahead and self.room == room:
                return None
            self.free, self.ahead, self.room = free, ahead, room
            return Credit(free, ahead, room)
        # As `compute_credit` does, which looks at what else there may be.
        calm = calm_credit(mailbox, prefetch) if may_grant and mailbox.residents.by_id else None
        credit = calm or compute_credit(mailbox, prefetch, may_grant=may_grant)
        if not self.differs(credit):
            return None
        self.say(credit)
        return credit

    def say(self, credit: Credit) -> None:
        """Note what is stated now."""
        self.is_void = False
        self.free = credit.free
        self.ahead = credit.ahead
        self.room = credit.room
        self.turns = dict(credit.turns) if credit.turns else credit.turns
        self.typed = credit.typed
        self.shared = credit.shared

    def differs(self, credit: Credit) -> bool:
        """Tell whether *credit* has to be stated."""
        return (
            self.is_void
            or self.free != credit.free
            or self.ahead != credit.ahead
            or self.room != credit.room
            or self.turns != credit.turns
            or self.typed != credit.typed
            or self.shared != credit.shared
        )

    def spend(self, recipe: Recipe | None) -> None:
        """Follow the broker: an assignment takes one of what is free, or else of what is ahead."""
        if recipe is None or recipe.is_plain:
            if self.free > 0:
                self.free -= 1
            elif self.ahead > 0:
                self.ahead -= 1
            return
        if recipe.replica is not None:
            if recipe.replica in self.shared:
                self._spend_turn(recipe)
                return
            self.shared = tuple(sorted((*self.shared, recipe.replica)))
        if self.free > 0:
            self.free -= 1
        else:
            self.ahead = self.ahead - 1 if self.ahead > 0 else 0
        if recipe.takes_one_slot:
            self._spend_turn(recipe)
        else:
            # Only what takes one plain slot is followed; after any other the whole is stated again.
            self.is_void = True

    def _spend_turn(self, recipe: Recipe) -> None:
        environment, stated = recipe.environment, self.turns
        assert environment is not None
        turns = stated.get(recipe.pool)
        if turns is not None:
            left = turns - environment.turns
            stated[recipe.pool] = left if left > 0 else 0  # noqa: FURB136
        # One that was idle can no longer leave for another.
        if (
            self.room > 0
            and not recipe.is_named
            and (turns is None or turns >= environment.concurrency)
        ):
            self.room -= 1


def check_credit(credit: Credit, mailbox: Mailbox, prefetch: int) -> None:
    """Assert that what is granted and what is there never exceed slots and mailbox together."""
    calm = calm_credit(mailbox, prefetch)
    assert calm is None or calm == full_credit(mailbox, prefetch)
    slots = mailbox.capacity[SLOT]
    # More than may wait are about to be handed back.
    beyond = mailbox.claims()[1]
    ahead = min(len(beyond), prefetch)
    there = [(a.slots, a.recipe.replica) for a in mailbox.holders.values()]
    there += [(ask.wanted, ask.replica) for ask in mailbox.reacquiring.values()]
    there += [(a.slots, a.recipe.replica) for a in mailbox.waiting if a not in beyond]
    taken = sum(wanted.get(SLOT, 0) for wanted, replica in there if replica is None)
    taken += len({replica for wanted, replica in there if replica and wanted.get(SLOT)})
    granted = credit.free + credit.ahead
    assert 0 <= credit.free <= max(0, slots - taken)
    assert 0 <= credit.ahead <= prefetch - ahead
    assert not granted or granted + taken + ahead <= slots + prefetch
    assert 0 <= credit.room <= mailbox.residents.maximum
    for identity, turns in credit.turns.items():
        if identity not in mailbox.residents.by_id:
            continue
        replica = mailbox.residents.by_id[identity]
        assert 0 <= turns <= replica.environment.concurrency - sum(replica.inside.values())
