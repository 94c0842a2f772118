"""What an actor may do with what waits in it: who goes first, and for how long nothing may move.

Told from outside, by what starts and ends in its process.
"""

from math import inf
from typing import TYPE_CHECKING, Any

from tests.sim import typed

if TYPE_CHECKING:
    from actor.holding.mailbox import Assignment
    from tests.sim.actors import ActorProcess

# What waits ahead is handed back after so long at most, and a look later.
PATIENCE_S = 1.0
LATE_S = 0.05
LEASE_S = 5.0
ADMITTED = 0.6


class Mailbag:
    """What is seen of the mailbox of one process."""

    def __init__(self, now: float) -> None:
        """Begin empty."""
        self.moved_at = now
        # The most that the process overslept since.
        self.overslept_s = 0.0
        # The first that waits, which may have been asked back.
        self.head: Any = None
        self.ended = 0
        # Whether something waited after the turn before: what came since came in this one.
        self.was_waiting = False
        # Who waited for slots before this turn.
        self.asking: list[Any] = []
        # Since when slots are free for which somebody waits.
        self.idle_since = inf

    def begins(self, actor: "ActorProcess") -> None:
        """Note before a turn who waits for what he gave back."""
        self.asking = list(actor.core.mailbox.reacquiring.values())

    def started(self, actor: "ActorProcess", starts: "list[Assignment]") -> None:
        """Check that nothing starts in slots for which somebody waits who had them (9.1 rule 2)."""
        if not starts:
            return
        mailbox = actor.core.mailbox
        self.moved_at = actor.world.now
        waits: dict[str, int] = {}
        for ask in self.asking:
            is_over = mailbox.reacquiring.get(ask.assignment.token) is not ask
            if is_over or ask.environment is not None or ask.replica is not None:
                continue
            for kind, amount in ask.wanted.items():
                waits[kind] = waits.get(kind, 0) + amount
        held = typed.slots_of((one.recipe.call, one.slots) for one in mailbox.holders.values())
        for one in starts:
            for kind in one.slots if one.recipe.replica is None else ():
                # One who waits behind another that has no room yet gets what that one leaves.
                free = actor.capacity[kind] - held[kind]
                assert waits.get(kind, 0) <= free, (
                    f"{one.token} starts with {kind!r}, of which {free} is left and"
                    f" {waits[kind]} is waited for"
                )

    def check(self, actor: "ActorProcess") -> None:
        """Check that nothing waits behind a long run (9.3 rule 3).

        Who wakes up late does so twice: it looks who is the first, and later how long that waits.
        """
        now, core = actor.world.now, actor.core
        is_kept = core.standing.closed == "keeping"
        former, self.head = self.head, next(iter(core.mailbox.waiting), None)
        if not self.was_waiting or self.head is not former or self.ended or is_kept:
            self.moved_at, self.ended = now, 0
        self.was_waiting = bool(core.mailbox.waiting)
        has_moved = self.moved_at == now
        self.overslept_s = 0.0 if has_moved else max(self.overslept_s, actor.overslept_s)
        waits_s = now - max(self.moved_at, actor.frozen_until)
        longest_s = PATIENCE_S + LATE_S + 2.0 * self.overslept_s
        assert waits_s < longest_s, f"tasks wait in {actor.name} for {waits_s} s"
        self.check_first(actor, list(core.mailbox.reacquiring.values()))

    def check_first(self, actor: "ActorProcess", asks: list[Any]) -> None:
        """Check that who asked first has slots that are free, whatever waits in the mailbox.

        Who kept a part may go first; a slot that a run gives back in a turn is given in the next.
        """
        first = (
            asks[0] if asks and not any(any(a.assignment.slots.values()) for a in asks) else None
        )
        is_idle = first is not None and first.environment is None and first.replica is None
        if first is not None and is_idle:
            holders = actor.core.mailbox.holders.values()
            held = typed.slots_of((one.recipe.call, one.slots) for one in holders)
            free = {kind: actor.capacity[kind] - held.get(kind, 0) for kind in first.wanted}
            is_idle = all(free[kind] >= amount for kind, amount in first.wanted.items())
        if not is_idle:
            self.idle_since = inf
            return
        assert first is not None
        self.idle_since = min(self.idle_since, actor.world.now)
        assert actor.world.now < max(self.idle_since, actor.frozen_until) + LATE_S, (
            f"{first.assignment.token} waits for {first.wanted}, which is free"
        )


def check_strict_start(actor: "ActorProcess", assignment: "Assignment") -> None:
    """Check that a strict limit is taken while the broker was heard of late (9.12 rule 4)."""
    if "s" in assignment.recipe.call.limits:
        unheard_s = actor.world.now - actor.core.fence.renewed_at
        assert unheard_s < ADMITTED * LEASE_S, f"a strict limit is taken after {unheard_s} s"
