"""What an actor may do with what waits in it: who goes first, and for how long nothing may move.

Told from outside, by what starts and ends in its process.
"""

from typing import TYPE_CHECKING, Any

from tests.sim import typed

if TYPE_CHECKING:
    from actor.mailbox import Assignment
    from tests.sim.processes import ActorProcess

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
        self.ended = 0
        # Who waited for slots before this turn.
        self.asking: list[Any] = []

    def begins(self, actor: "ActorProcess") -> None:
        """Note before a turn who waits for what he gave back."""
        self.asking = list(actor.core.mailbox.reacquiring.values())

    def started(self, actor: "ActorProcess", starts: "list[Assignment]") -> None:
        """Check that nothing starts in slots for which somebody waits who had them (9.1 rule 2)."""
        mailbox = actor.core.mailbox
        if starts:
            self.moved_at = actor.world.now
        for ask in self.asking:
            if not starts or mailbox.reacquiring.get(ask.assignment.token) is not ask:
                continue
            if ask.environment is not None or ask.replica is not None:
                continue
            free = dict(actor.capacity)
            held = typed.slots_of((one.recipe.call, one.slots) for one in mailbox.holders.values())
            for kind, amount in held.items():
                free[kind] = free.get(kind, 0) - amount
            for one in starts:
                for kind, amount in one.slots.items():
                    free[kind] = free.get(kind, 0) + amount
            assert any(free[kind] < amount for kind, amount in ask.wanted.items()), (
                f"{[one.token for one in starts]} start ahead of {ask.assignment.token}"
            )

    def check(self, actor: "ActorProcess") -> None:
        """Check that nothing waits behind a long run (9.3 rule 3)."""
        now, core = actor.world.now, actor.core
        is_kept = core.standing.closed == "keeping"
        if not core.mailbox.waiting or self.ended or is_kept:
            self.moved_at, self.ended = now, 0
        waits_s = now - max(self.moved_at, actor.frozen_until)
        assert waits_s < PATIENCE_S + LATE_S, f"tasks wait in {actor.name} for {waits_s} s"


def check_strict_start(actor: "ActorProcess", assignment: "Assignment") -> None:
    """Check that a strict limit is taken while the broker was heard of late (9.12 rule 4)."""
    if "s" in assignment.recipe.call.limits:
        unheard_s = actor.world.now - actor.core.fence.renewed_at
        assert unheard_s < ADMITTED * LEASE_S, f"a strict limit is taken after {unheard_s} s"
