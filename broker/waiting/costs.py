"""What a task costs, and what it enters: all that decides where it may go but labels and keys.

All shapes at one cost share it, of which there are few where 100,000 kinds of tasks each desire
something else. Nothing here ever changes.
"""

from typing import TYPE_CHECKING, Final

import msgspec

from broker.facts.credit import OWN
from wire.limits import HOST_PREFIX
from wire.parts import Call

if TYPE_CHECKING:
    from broker.facts.peers import Actor

# The type of slots that a task takes which names none.
SLOT: Final = "slot"

# What most calls have; never changed.
NO_SLOTS: Final[dict[str, int]] = {}
NO_LIMITS: Final[list[tuple[str, int]]] = []

_encode = msgspec.msgpack.Encoder().encode


class Cost:
    """What one task takes: slots, turns of an environment, limits of the actor's host."""

    __slots__ = (
        "__weakref__",
        "affinity_wait_s",
        "alone",
        "environment",
        "fail_infeasible",
        "has_groups",
        "host_limits",
        "is_armed_first",
        "is_direct",
        "is_hard",
        "is_large",
        "is_plain",
        "is_sharing",
        "is_simple",
        "key",
        "may_wait_ahead",
        "named",
        "needs_admission",
        "packs",
        "place",
        "plain",
        "pool",
        "slots",
        "turns",
        "turns_taken",
        "typed",
    )

    def __init__(self, call: Call) -> None:
        """Take from *call* what its tasks cost."""
        # What those cost that are alone in their group of a named actor.
        self.alone: Cost | None = None
        # Limits of the actor's host.
        self.host_limits = host_limits(call) if call.limits else NO_LIMITS
        self.slots = call.slots
        # What one task costs: plain slots, and slots of other types.
        self.plain = call.slots.get(SLOT, 0) if call.slots else 1
        self.typed = NO_SLOTS
        if call.slots:
            self.typed = {kind: n for kind, n in call.slots.items() if kind != SLOT}
        self._enter_at(call)
        self.needs_admission = bool(call.limits) or self.named
        self.is_plain = self.plain == 1 and not self.typed and not self.named
        # One that costs more than one unit could be starved by those that cost less.
        self.is_large = self.plain + sum(self.typed.values()) > 1
        self.fail_infeasible = call.fail_infeasible
        # Whether only the actor of its key will do, if that is bound.
        self.is_hard = call.sticky is not None and call.sticky.hard
        # A task that waits in a mailbox may be handed back, so what must never run twice does not
        # go there, nor what must keep its order.
        self.may_wait_ahead = not (
            call.at_most_once or call.limits or call.slots or self.named or self.is_sharing
        )
        # Tasks that may start only once the journal says so. Of a call to a durable named actor it
        # must know, since what the call changes will be in a checkpoint.
        self.is_armed_first = is_armed_first(call)
        # Whoever satisfies it and has a slot, where its environment is warm if it has one, and the
        # turn of a named actor, can have a task, and the first of these is the best. Where more
        # than one call is inside they share a slot, and cost no plain one.
        self.is_direct = (
            self.plain == 1
            and not self.typed
            and not (is_choosy(call) or call.limits or call.fail_infeasible)
            and not self.is_armed_first
        )
        self.is_simple = self.is_direct and self.place is None
        # What is equal for those that any actor can take, or none: the environment plays no part.
        self.key: tuple[object, ...] = (
            self.plain,
            (self.is_sharing, self.packs),
            tuple(sorted(self.typed.items())),
            self.may_wait_ahead,
            tuple(self.host_limits),
            self.fail_infeasible,
            self.pool if self.named else None,
            self.turns_taken,
            self.affinity_wait_s,
        )

    def of(self, call: Call) -> "Cost":
        """Return what *call* costs, whose shape is at this cost: it may be alone in its group."""
        turns = call.environment.turns if self.named and call.environment else 1
        if turns == 1:
            return self
        if self.alone is None:
            self.alone = Cost(call)
            self.alone.turns_taken = turns
        return self.alone

    def _enter_at(self, call: Call) -> None:
        # How long a task waits for a copy of its environment before it has one more entered; None
        # for as long as entering takes.
        self.affinity_wait_s = call.affinity_wait_s
        # What is to be entered, and how many may be inside; what room must be found for, if it is
        # not there. Calls to a named actor need no room, but go where it is; now perhaps nowhere.
        self.place = call.environment.id if call.environment else None
        self.pool = call.environment.pool if call.environment else None
        if call.environment is not None and call.environment.reuse.is_fresh:
            self.pool = OWN
        self.turns = call.environment.size if call.environment else 0
        # How many turns of its environment one task takes.
        self.turns_taken = call.environment.turns if call.environment else 0
        self.named = call.environment is not None and call.environment.named is not None
        # Whether it needs no slot of its own where others are inside: one that takes a turn among
        # several is free where its replica holds a slot, and takes one for all elsewhere.
        is_among, self.has_groups = self.turns_taken < self.turns, False
        if self.named:
            # All calls of a group wait in one line: what each takes is what its template costs.
            assert call.environment
            is_among, self.turns_taken = call.environment.is_shared, 1
            self.has_groups = bool(call.environment.named and call.environment.named.groups)
        self.is_sharing = is_among and self.plain == 1 and not self.typed
        if self.is_sharing:
            self.plain = 0
        # Whether its tasks fill one copy before they use the next, since all inside run at once.
        self.packs = self.is_sharing and not self.named
        if call.environment is not None and call.environment.gathers:
            self.packs = False
        self.environment = None if self.named else self.place

    @staticmethod
    def key_of(call: Call) -> bytes:
        """Return what is equal for calls at one cost."""
        place = call.environment
        environment = None
        if place is not None and place.named is not None:
            environment = (place.pool, 1, place.size, False)
        elif place is not None:
            environment = (place.id, place.turns, place.concurrency, place.gathers)
        return _encode(
            (
                sorted(call.slots.items()),
                environment,
                (call.at_most_once, is_armed_first(call)),
                (bool(call.limits), is_choosy(call)),
                host_limits(call),
                (call.fail_infeasible, call.sticky is not None and call.sticky.hard),
                call.affinity_wait_s,
            )
        )

    def shares(self, other: "Cost") -> bool:
        """Tell whether both take slots of one type."""
        takes_plain = self.plain > 0 or self.is_sharing
        is_plain = takes_plain and (other.plain > 0 or other.is_sharing)
        return is_plain or not self.typed.keys().isdisjoint(other.typed)

    def fits(self, actor: "Actor") -> bool:
        """Tell whether *actor* has the capacity for one task."""
        return all(actor.slots.get(kind, 0) >= amount for kind, amount in self.slots.items())


def has_affinity(call: Call) -> bool:
    """Tell whether *call* likes some of the actors that satisfy it better than others."""
    return any(not desire.required for desire in call.desires)


def is_choosy(call: Call) -> bool:
    """Tell whether more than what *call* requires decides which actor is the right one."""
    return call.sticky is not None or has_affinity(call)


def is_armed_first(call: Call) -> bool:
    """Tell whether the journal must say that a task may start."""
    is_named = call.environment is not None and call.environment.named is not None
    return call.durable and (call.at_most_once or is_named)


def host_limits(call: Call) -> list[tuple[str, int]]:
    """Return the limits of *call* that each host states for itself, without their prefix."""
    return sorted(
        (name.removeprefix(HOST_PREFIX), amount)
        for name, amount in call.limits.items()
        if name.startswith(HOST_PREFIX)
    )
