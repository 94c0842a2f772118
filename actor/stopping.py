"""Runs that are to end: told by STOP, or past their timeout; and the process, when they stay.

The rule that must not be broken: the process ends only for a run that was to be ended by force and
has not returned.
"""

from math import inf

from actor.mailbox import Assignment, StopOrder
from wire.messages import Token


class Stopping:
    """Whom to tell that nobody wants it, and when what happens otherwise."""

    __slots__ = ("_grace_s", "_orders", "_timeouts", "_unwanted", "force_at")

    def __init__(self, grace_s: float) -> None:
        """Begin with nobody to stop; *grace_s* is left to a run that must end with its process."""
        # When the process ends, for runs that must end and have not returned.
        self.force_at = inf
        self._grace_s = grace_s
        self._orders: list[StopOrder] = []
        # When each run has had its time; only those that have a limit.
        self._timeouts: dict[Token, float] = {}
        self._unwanted: set[Token] = set()

    @property
    def has_orders(self) -> bool:
        """Tell whether somebody is to be told."""
        return bool(self._orders)

    @property
    def is_forced(self) -> bool:
        """Tell whether the process is about to end."""
        return self.force_at != inf

    @property
    def deadline(self) -> float:
        """Return when the next run has had its time, or the process ends."""
        return min(self.force_at, *self._timeouts.values()) if self._timeouts else self.force_at

    def started(self, assignment: Assignment, now: float) -> None:
        """Note when a run that begins has had its time."""
        timeout_s = assignment.recipe.call.timeout_s
        if timeout_s is not None:
            self._timeouts[assignment.token] = now + timeout_s

    def due(self, now: float) -> list[Token]:
        """Return the runs that have had their time."""
        return [token for token, at in self._timeouts.items() if now >= at]

    def order(self, assignment: Assignment, now: float, *, force: bool, reason: str) -> None:
        """Have a run told that nobody wants it; with *force* the process ends unless it returns."""
        assignment.is_stopped = True
        self._timeouts.pop(assignment.token, None)
        self._orders.append(StopOrder(assignment, force=force, reason=reason))
        if force:
            self._unwanted.add(assignment.token)
            self.force_at = min(self.force_at, now + self._grace_s)

    def take(self) -> list[StopOrder]:
        """Return whom to tell."""
        orders, self._orders = self._orders, []
        return orders

    def ended(self, token: Token) -> bool:
        """Forget a run that returned; tell whether for its sake the process need not end now."""
        if self._timeouts:
            self._timeouts.pop(token, None)
        if not self._unwanted:
            return False
        self._unwanted.discard(token)
        if self._unwanted:
            return False
        self.force_at = inf
        return True

    def check(self, held: dict[Token, Assignment]) -> None:
        """Assert that only what is held can be late, and that there is a reason to end."""
        assert self._timeouts.keys() <= held.keys()
        assert self._unwanted <= held.keys()
        assert bool(self._unwanted) == self.is_forced
        assert all(order.assignment.is_stopped for order in self._orders)
