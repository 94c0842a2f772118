"""What the actor gives back of what it was assigned and has not started (protocol.md section 9.3).

The rule that must not be broken: what is handed back has not started and never will, and whatever
waits and cannot start is within what is granted ahead.
"""

from collections.abc import Callable, Iterable
from math import inf
from typing import Final

from actor.granting.prefetch import Prefetch
from actor.granting.standing import DRAINING
from actor.holding.mailbox import Assignment, Mailbox
from actor.holding.outcomes import Outcomes
from actor.holding.recipe import Recipe
from actor.settings import SLOT
from wire.messages import Recall, Reject
from wire.parts import Environment, Failure, Held, Token

BEHIND: Final = "one ahead of it was handed back"


class Returns:
    """The REJECTs that are to be said, and why."""

    __slots__ = ("_mailbox", "_note", "_outcomes", "_prefetch", "behind", "failed", "said_next")

    def __init__(
        self,
        mailbox: Mailbox,
        prefetch: Prefetch,
        outcomes: Outcomes,
        note: Callable[..., None],
    ) -> None:
        """Begin with nothing to hand back."""
        self._mailbox = mailbox
        self._prefetch = prefetch
        self._outcomes = outcomes
        self._note = note
        # Those that returned since their environment could not be entered, until that is said.
        self.failed: list[Token] = []
        # What is to be said next.
        self.said_next: list[Reject] = []
        # Where a call of a named actor was handed back, or one whose environment failed, and the
        # frame that says so: what the broker assigned there before it had that comes back as well.
        self.behind: dict[str, float] = {}

    def take(self, number: int) -> list[Reject]:
        """Return what the frame *number* is to say. HELLO, which is 0, says it without words."""
        taken, self.said_next = self.said_next, []
        if not number:
            self.behind.clear()
        if self.failed:
            # The board has them until the broker does, so an end of the process is a failure too.
            self._outcomes.sent(number, self.failed)
            self.failed = []
        for pool, said_in in self.behind.items():
            if said_in == inf:
                self.behind[pool] = number
        return taken

    def reject(
        self,
        token: Token,
        reason: str,
        recipe: Recipe | None = None,
        *,
        bars: bool = True,
        failure: Failure | None = None,
    ) -> None:
        """Let others have an assignment; it may come again unless that *bars* this actor."""
        self.said_next.append(Reject(token[0], token[1], reason, bars, failure))
        self._note("rejected", token=token, reason=reason)
        environment = recipe.known if recipe is not None else None
        if environment is not None and (environment.named is not None or failure is not None):
            self._hand_back_behind(environment)

    def _hand_back_behind(self, environment: Environment) -> None:
        """Let all come back that is behind a call of a named actor which was handed back.

        Where that actor is not here, of its other groups as well: the broker lets it be entered
        anywhere now, and what it begins from came with this call. So does what is behind one whose
        environment failed: when that is tried again, and where, is the broker's to say.
        """
        named = self._mailbox.residents.named
        if environment.named is not None:
            named.handed_back(environment)
        if named.has(environment):
            self.behind[environment.pool] = inf
            return
        self.behind |= dict.fromkeys(environment.pools, inf)
        places = ((other, other.recipe.known) for other in self._mailbox.waiting)
        same = [other for other, place in places if place and place.id == environment.id]
        self.hand_back(BEHIND, same)

    def stands_behind(self, recipe: Recipe, received: int) -> bool:
        """Tell whether a call was assigned by a broker that had *received* so many frames only.

        And did not know that one ahead of it was handed back.
        """
        for pool in [pool for pool, said_in in self.behind.items() if received >= said_in]:
            del self.behind[pool]
        environment = recipe.call.environment
        return environment is not None and environment.pool in self.behind

    def hand_back(self, reason: str, waiting: Iterable[Assignment] | None = None) -> None:
        """Let others have what waits, all of it unless *waiting* names some."""
        for assignment in list(self._mailbox.waiting if waiting is None else waiting):
            if assignment.token in self._mailbox.held:
                self._mailbox.drop(assignment)
                self.reject(assignment.token, reason, assignment.recipe, bars=False)

    def close(self, *, kept: int) -> None:
        """Hand back what waits, and let nothing wait ahead any more: the actor leaves."""
        self._note("draining", holding=len(self._mailbox.held), kept=kept)
        self._prefetch.close()
        self.hand_back(DRAINING)

    def refuse(self, token: Token, template: int, recipe: Recipe | None, closed: str) -> None:
        """Say why an assignment that came is not taken: *closed* says why none is now."""
        if recipe is None:
            self.reject(token, f"template {template} did not come", None)
        elif recipe.missing:
            self.reject(token, recipe.missing, recipe)
        else:
            self.reject(token, closed, recipe, bars=False)

    def recall(self, command: Recall) -> None:
        """Hand back what the broker would like to have and has not started."""
        named = (self._mailbox.held.get(token) for token in command.tokens)
        self.hand_back(command.reason, [a for a in named if a and a.held is Held.WAITING])

    def trim(self) -> None:
        """Hand back what cannot start and may not wait, or is more than what is granted ahead.

        The newest first. What takes other than one plain slot, has limits or must not run twice
        never waits: it was to start at once, and somebody was faster.
        """
        mailbox, ahead, waiting = self._mailbox, self._prefetch.ahead, self._mailbox.waiting
        if mailbox.has_fixed:
            mailbox.has_fixed = any(not one.recipe.may_wait_ahead for one in waiting)
        if len(waiting) > ahead or mailbox.has_fixed:
            beyond = self.beyond()
            late = [one for one in beyond if not one.recipe.may_wait_ahead]
            late += [one for one in beyond if one.recipe.may_wait_ahead][ahead:]
            self.hand_back("no slot is left for it here", late)

    def beyond(self) -> list[Assignment]:
        """Return those that wait for more than their environment to be loaded, oldest first."""
        mailbox = self._mailbox
        if mailbox.is_plain:
            return list(mailbox.waiting)
        return mailbox.claims()[1]

    def check(self) -> None:
        """Assert that nothing waits here for which nothing is granted."""
        self._prefetch.check()
        beyond = self.beyond()
        assert len(beyond) <= self._prefetch.ahead
        assert all(one.recipe.may_wait_ahead for one in beyond)

    def look(self, now: float) -> None:
        """Adapt what may wait to what ran, and hand it back from behind a long run."""
        mailbox = self._mailbox
        head = mailbox.waiting[0].token if mailbox.waiting else None
        slots = mailbox.capacity[SLOT]
        if self._prefetch.look(now, head, slots, is_full=mailbox.is_full):
            self.hand_back("a run ahead of it is long")
