"""What the actor grants, and what the broker must think of it (protocol.md section 9).

The grant is computed from what the mailbox holds, each time. It is stated only where it differs
from what the broker computes by itself: the last statement less one for each assignment since.
"""

from actor.holding.mailbox import ONE_SLOT, Mailbox, Recipe
from actor.holding.residents import Warmth
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
    return alone_credit(mailbox, prefetch) or full_credit(mailbox, prefetch)


def alone_credit(mailbox: Mailbox, prefetch: int) -> Credit | None:
    """Compute what is granted where one environment is here, nobody waits and each has one slot.

    None where it is otherwise: then more is to be looked at.
    """
    residents, holders = mailbox.residents, mailbox.holders
    if (
        len(residents.by_id) != 1
        or residents.named.by_id
        or mailbox.has_types
        or mailbox.waiting
        or mailbox.reacquiring
    ):
        return None
    for holder in holders.values():
        if holder.slots is not ONE_SLOT or holder.recipe.replica is not None:
            return None
    ((identity, replica),) = residents.by_id.items()
    is_loading = replica.warmth is Warmth.LOADING
    free = mailbox.slots - len(holders)
    return Credit(
        free,
        prefetch,
        residents.maximum - (is_loading or bool(replica.inside)),
        {identity: 0 if is_loading else replica.turns_free},
    )


def full_credit(mailbox: Mailbox, prefetch: int) -> Credit:
    """Compute what is granted, whatever is here."""
    residents = mailbox.residents
    room = mailbox.slots_unclaimed()
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
        max(0, min(prefetch, prefetch + free)),
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
        credit = compute_credit(mailbox, prefetch, may_grant=may_grant)
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
        if recipe.takes_one_slot and recipe.call.environment is not None:
            self._spend_turn(recipe)
        else:
            # Only what takes one plain slot is followed; after any other the whole is stated again.
            self.is_void = True

    def _spend_turn(self, recipe: Recipe) -> None:
        environment = recipe.call.environment
        assert environment is not None
        pool, turns = environment.pool, self.turns.get(environment.pool)
        if turns is not None:
            self.turns[pool] = max(0, turns - environment.turns)
        # One that was idle can no longer leave for another.
        if environment.named is None and (turns is None or turns >= environment.concurrency):
            self.room = max(0, self.room - 1)


def check_credit(credit: Credit, mailbox: Mailbox, prefetch: int) -> None:
    """Assert that what is granted and what is there never exceed slots and mailbox together."""
    alone = alone_credit(mailbox, prefetch)
    assert alone is None or alone == full_credit(mailbox, prefetch)
    slots = mailbox.capacity[SLOT]
    there = [(a.slots, a.recipe.replica) for a in (*mailbox.waiting, *mailbox.holders.values())]
    there += [(ask.wanted, ask.replica) for ask in mailbox.reacquiring.values()]
    taken = sum(wanted.get(SLOT, 0) for wanted, replica in there if replica is None)
    taken += len({replica for wanted, replica in there if replica and wanted.get(SLOT)})
    granted = credit.free + credit.ahead
    assert 0 <= credit.free <= max(0, slots - taken)
    assert 0 <= credit.ahead <= prefetch
    assert not granted or granted + taken <= slots + prefetch
    assert 0 <= credit.room <= mailbox.residents.maximum
    for identity, turns in credit.turns.items():
        if identity not in mailbox.residents.by_id:
            continue
        replica = mailbox.residents.by_id[identity]
        assert 0 <= turns <= replica.environment.concurrency - sum(replica.inside.values())
