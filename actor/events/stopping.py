"""Runs that are to end: told by STOP, or past their timeout; and the process, when they stay.

The rule that must not be broken: the process ends only for a run that was to be ended by force and
has not returned, or where its event loop is held up for good.
"""

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

from actor.holding.awaiting import Awaiting
from actor.holding.mailbox import Assignment, StopOrder
from actor.holding.occupying import Occupying
from actor.holding.outcomes import Outcomes, failure_timeout
from actor.holding.reacquiring import Reacquiring, Reply
from actor.settings import EXIT_FORCED, EXIT_REFUSED, EXIT_RETIRED, EXIT_SPARE
from wire.parts import Status, Token

if TYPE_CHECKING:
    from actor.core import ActorCore


class Stopping:
    """Whom to tell that nobody wants it, and when what happens otherwise."""

    __slots__ = (
        "_awaiting",
        "_grace_s",
        "_note",
        "_occupying",
        "_outcomes",
        "_reacquiring",
        "_refreshed",
        "_timeouts",
        "deadline",
        "fence_at",
        "force_at",
        "is_held_up",
        "orders",
        "unwanted",
    )

    def __init__(
        self,
        grace_s: float,
        reacquiring: Reacquiring,
        occupying: Occupying,
        awaiting: Awaiting,
        outcomes: Outcomes,
        *,
        note: Callable[..., None],
    ) -> None:
        """Begin with nobody to stop; *grace_s* is left to a run that must end with its process."""
        self._reacquiring = reacquiring
        self._occupying = occupying
        self._awaiting = awaiting
        self._outcomes = outcomes
        self._note = note
        # When the process ends, for runs that must end and have not returned.
        self.force_at = inf
        # When it ends unless the broker is heard, for strict limits.
        self.fence_at = inf
        self._grace_s = grace_s
        # Whom to tell.
        self.orders: list[StopOrder] = []
        # When the next run has had its time, or the process ends.
        self.deadline = inf
        # When each run has had its time; only those that have a limit.
        self._timeouts: dict[Token, float] = {}
        # What those got that asked for more time, at last.
        self._refreshed: dict[Token, float] = {}
        self.unwanted: set[Token] = set()
        # Whether nothing async can go on, and no run is to be ended for that.
        self.is_held_up = False

    @property
    def is_forced(self) -> bool:
        """Tell whether the process is about to end."""
        return self.force_at != inf

    @property
    def why_forced(self) -> str:
        """Say for what the process ends."""
        if self.unwanted:
            return "a run that was to be ended did not return"
        return "an environment's exit holds up the event loop"

    def started(self, assignment: Assignment, now: float) -> None:
        """Note when a run that begins has had its time."""
        timeout_s = assignment.recipe.call.timeout_s
        if timeout_s is not None:
            self._timeouts[assignment.token] = now + timeout_s
            self._reckon()

    def refresh(self, assignment: Assignment | None, seconds: float, now: float) -> None:
        """Let a run have *seconds* more from now, whatever was left to it, unless it is over."""
        if assignment is not None and not assignment.is_stopped:
            self._timeouts[assignment.token] = now + seconds
            self._refreshed[assignment.token] = seconds
            self._reckon()

    def expire(self, held: dict[Token, Assignment], now: float) -> None:
        """End the runs that have had their time: the outcome is said now, whenever they return."""
        for token in [token for token, at in self._timeouts.items() if now >= at]:
            assignment = held[token]
            timeout_s = assignment.recipe.call.timeout_s or 0.0
            body = failure_timeout(assignment, self._refreshed.get(token))
            self._outcomes.keep(assignment, Status.EXPIRED, body, (), timeout_s)
            self._note("timed_out", task=assignment.name, token=token, after_s=timeout_s)
            self.order(assignment, now, force=True, reason="its timeout is over")

    def order(self, assignment: Assignment, now: float, *, force: bool, reason: str) -> None:
        """Have a run told that nobody wants it; with *force* the process ends unless it returns."""
        assignment.is_stopped = True
        self._reacquiring.drop(assignment.token, Reply.CANCELED)
        self._occupying.cancel(assignment.token)
        self._awaiting.stop(assignment)
        self._timeouts.pop(assignment.token, None)
        self._refreshed.pop(assignment.token, None)
        self.orders.append(StopOrder(assignment, force=force, reason=reason))
        if force:
            self.unwanted.add(assignment.token)
            self.force_at = min(self.force_at, now + self._grace_s)
        self._reckon()

    def hold_up(self, now: float) -> None:
        """Have the process end, in which nothing async goes on, unless that is over before."""
        self.is_held_up = True
        self.force_at = min(self.force_at, now + self._grace_s)
        self._reckon()

    def let_go(self) -> bool:
        """Note that it goes on; tell whether for that the process need not end now."""
        self.is_held_up = False
        return self._need_not_end()

    def fence(self, at: float) -> None:
        """Let the process end at *at* if it then holds what it must not."""
        self.fence_at = at
        self._reckon()

    def take(self) -> list[StopOrder]:
        """Return whom to tell."""
        orders, self.orders = self.orders, []
        return orders

    def ended(self, token: Token) -> bool:
        """Forget a run that returned; tell whether for its sake the process need not end now."""
        if self._timeouts:
            self._timeouts.pop(token, None)
            self._refreshed.pop(token, None)
            self._reckon()
        if not self.unwanted:
            return False
        self.unwanted.discard(token)
        return self._need_not_end()

    def _need_not_end(self) -> bool:
        if self.unwanted or self.is_held_up:
            return False
        self.force_at = inf
        self._reckon()
        return True

    def _reckon(self) -> None:
        """Find the deadline, which is asked for more often than it changes."""
        self.deadline = min(self.force_at, self.fence_at, *self._timeouts.values())

    def check(self, held: dict[Token, Assignment]) -> None:
        """Assert that only what is held can be late, and that there is a reason to end."""
        assert self._timeouts.keys() <= held.keys()
        assert self._refreshed.keys() <= self._timeouts.keys()
        assert self.unwanted <= held.keys()
        assert (bool(self.unwanted) or self.is_held_up) == self.is_forced
        assert all(order.assignment.is_stopped for order in self.orders)
        assert self.deadline == min(self.force_at, self.fence_at, *self._timeouts.values())


def exit_status(core: "ActorCore") -> int:
    """Return what the process ends with; what still runs then is reported by the host as lost."""
    if core.failure is not None:
        return EXIT_REFUSED
    if core.exit_reason or core.mailbox.held:
        return EXIT_FORCED
    if core.is_retiring:
        return EXIT_RETIRED
    return EXIT_SPARE if core.is_spare else 0
