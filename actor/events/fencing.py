"""The end of strict limits when the broker is away (protocol.md section 9.12).

The broker lets others in a lease after the last frame that it received. So the process ends before:
a part of a lease after it sent the last frame of which it knows that the broker has it. Its host
reckons alike from its own frames, as long as the broker hears it; what it knows comes in by
`vouched`. The rule that must not be broken: nobody holds a strict limit behind that time.
"""

from math import inf
from typing import TYPE_CHECKING, Final

from actor.holding.mailbox import Assignment
from wire.limits import base_of
from wire.messages import Occupied, Welcome
from wire.parts import Held
from wire.session import FENCE_ADMIT_SHARE, FENCE_SHARE

if TYPE_CHECKING:
    from actor.core import ActorCore

REASON: Final = "it holds a strict limit and has not heard from the broker in time"


class Fence:
    """Until when strict limits can be held, as far as this process knows."""

    __slots__ = ("_probe", "is_held", "is_new", "lease_s", "names", "renewed_at", "vouched_at")

    def __init__(self) -> None:
        """Begin with no limit that is strict."""
        self.names: frozenset[str] = frozenset()
        self.lease_s = 0.0
        # When what the broker has heard last was sent: by this process, and by its host.
        self.renewed_at = self.vouched_at = -inf
        # Whether some run may hold one; whether the host does not know yet how things stand.
        self.is_held = self.is_new = False
        # A frame that the broker may have: its number, and when it was sent.
        self._probe = (0, 0.0)

    @property
    def until(self) -> float:
        """Return when whoever holds a strict limit must have ended."""
        if not self.names:
            return inf
        return max(self.renewed_at, self.vouched_at) + FENCE_SHARE * self.lease_s

    def admits(self, now: float) -> bool:
        """Tell whether a run may begin to hold a strict limit; its host must come to know it."""
        return now < self.renewed_at + FENCE_ADMIT_SHARE * self.lease_s

    def said(self, number: int, now: float) -> None:
        """Note that frame *number* is sent now, unless an earlier one is still looked for."""
        if not self._probe[0]:
            self._probe = number, now

    def heard(self, received: int) -> bool:
        """Tell whether the broker has received more than was known."""
        number, sent_at = self._probe
        if not number or received < number:
            return False
        self.renewed_at = max(self.renewed_at, sent_at)
        self._probe = (0, 0.0)
        return True

    def begin(self, welcome: Welcome, said_at: float) -> None:
        """Take over from a new session, whose HELLO was sent at *said_at*."""
        self.names = frozenset(welcome.strict)
        self.lease_s = welcome.lease_s
        # Where nothing is strict nothing is reckoned.
        self.renewed_at = said_at if welcome.strict else -inf
        self._probe = (0, 0.0)

    def is_strict(self, limits: dict[str, int]) -> bool:
        """Tell whether one of *limits* is strict."""
        return any(base_of(name)[0] in self.names for name in limits)


def greet(core: "ActorCore", welcome: Welcome) -> None:
    """Learn which limits are strict, also of what is held already."""
    fence = core.fence
    was_used = bool(fence.names)
    fence.begin(welcome, core.session.said_at)
    for assignment in core.mailbox.held.values():
        recipe = assignment.recipe
        recipe.is_strict = fence.is_strict(recipe.call.limits)
    if was_used or fence.names:
        renew(core)


def heard(core: "ActorCore", received: int) -> None:
    """Note with a heartbeat of the broker, or what takes a strict limit, what it has received."""
    if core.fence.names and core.fence.heard(received):
        renew(core)


def renew(core: "ActorCore") -> None:
    """Let strict limits be held for longer, and the host know it."""
    core.fence.is_held = any(holds(core, one) for one in core.mailbox.held.values())
    core.fence.is_new = True
    core.stopping.fence(core.fence.until)


def may_start(core: "ActorCore", assignment: Assignment) -> bool:
    """Tell whether *assignment*, which takes a strict limit, may start now; hand it back if not."""
    if core.fence.admits(core.now):
        core.fence.is_held = core.fence.is_new = True
        return True
    core.mailbox.drop(assignment)
    recipe = assignment.recipe
    core.returns.reject(assignment.token, "its lease may be over", recipe, bars=False)
    # It comes at once again, and that the broker has this answer is then known: the lease goes on.
    core.fence.said(core.session.sent + 1, core.now)
    return False


def may_have(core: "ActorCore", command: Occupied) -> bool:
    """Tell whether a run may have what the broker grants; if not a new session asks again."""
    if not core.fence.names or command.code:
        return True
    wanted = core.occupying.wanted(command)
    if wanted is None or not core.fence.is_strict(wanted):
        return True
    if core.fence.admits(core.now):
        core.fence.is_held = core.fence.is_new = True
        return True
    core.note("granted_late", token=(command.epoch, command.number))
    core.session.close(core.now)
    return False


def expire(core: "ActorCore") -> None:
    """End the process for the sake of what it holds; where that is nothing there is no need."""
    fence = core.fence
    fence.is_held = any(holds(core, one) for one in core.mailbox.held.values())
    fence.is_new = True
    core.stopping.fence(inf)
    if fence.is_held:
        core.exit_reason = REASON


def vouched(core: "ActorCore", at: float) -> bool:
    """Take over when the host knows that it was heard, and tell whether that is reason to go on."""
    core.fence.vouched_at = max(core.fence.vouched_at, at)
    if core.exit_reason != REASON or core.now >= core.fence.until:
        return False
    core.exit_reason = ""
    core.stopping.fence(core.fence.until)
    return True


def holds(core: "ActorCore", assignment: Assignment) -> bool:
    """Tell whether a run has a strict limit."""
    if assignment.held is Held.WAITING:
        return False
    has = core.occupying.inventory(assignment)
    return any(one.has_it and core.fence.is_strict(one.limits) for one in has)
