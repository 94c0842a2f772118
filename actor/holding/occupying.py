"""Which limits the runs of an actor have, and which they wait for (protocol.md section 9.5).

The broker decides who gets what; here stands what was asked and what came, so that each HELLO can
say it. The rule that must not be broken: whoever asked is answered once, and what a run has is
given back when it ends.
"""

from collections.abc import Callable
from typing import Final

from actor.holding.mailbox import Assignment
from wire.limits import GIVE_BACK
from wire.messages import Occupied, Occupy, Release, Vacate
from wire.parts import HeldLimits, Token
from wire.session import PeerSession

AT_SCHEDULING: Final = 0
# Codes of answers that no broker sends: what this actor says by itself.
CANCELED: Final = "canceled"
ENDED: Final = "ended"
WITHDRAWN: Final = "withdrawn"
# An operator took it back.
RELEASED: Final = "released"

# The part of its slots that a run gives back by name; None is all that it has.
Typed = dict[str, int] | None


class Ask:
    """What a run wants, or has."""

    __slots__ = ("has_it", "limits", "may_give_back", "within")

    def __init__(
        self, limits: dict[str, int], within: list[int] | None, *, may_give_back: bool
    ) -> None:
        """Begin to wait, inside the blocks *within*; None for all of the run."""
        self.limits = limits
        self.within = within
        self.may_give_back = may_give_back
        self.has_it = False


class RunLimits:
    """The limits of one run, apart from those that it took at scheduling and still has."""

    __slots__ = ("asks", "gives_back", "has_given_back", "withdrawn")

    def __init__(self) -> None:
        """Begin as every run does."""
        self.asks: dict[int, Ask] = {}
        # Whether it is without what it took at scheduling, and whether it is to be without it once
        # it has it again.
        self.has_given_back = False
        self.gives_back = False
        # The session and the frame that say so where it did not wait for that to the end. Until the
        # broker has that, what it says of it was said before, and taken back.
        self.withdrawn = (0, 0)


class Occupying:
    """The limits of all runs of one actor."""

    __slots__ = ("_say", "_session", "answers", "runs")

    def __init__(self, session: PeerSession, say: Callable[[Occupy | Vacate], None]) -> None:
        """Begin with nothing; *say* tells the broker, in the next frame of *session*."""
        self._session = session
        self._say = say
        # Only runs of which there is something to say.
        self.runs: dict[Token, RunLimits] = {}
        self.answers: list[Occupied] = []

    def take_answers(self) -> list[Occupied]:
        """Return what runs are to be told of what they asked for."""
        answers, self.answers = self.answers, []
        return answers

    def ask(
        self,
        assignment: Assignment | None,
        token: Token,
        number: int,
        limits: dict[str, int],
        within: list[int] | None = None,
        *,
        may_give_back: bool = False,
        is_try: bool = False,
    ) -> None:
        """Let a run ask the broker; one that is over or canceled is told so at once."""
        run = self.runs.get(token)
        if assignment is None:
            self.answers.append(Occupied(*token, number, ENDED))
        elif number == AT_SCHEDULING and not (run and run.has_given_back):
            self.answers.append(Occupied(*token, number))
        elif assignment.is_stopped:
            self.answers.append(Occupied(*token, number, CANCELED))
        else:
            run = run or self._run(token)
            known = run.asks.get(number)
            if known is None:
                run.asks[number] = Ask(limits, within, may_give_back=may_give_back)
                self._say(Occupy(*token, number, limits, within, may_give_back, is_try))
            elif known.has_it:
                self.answers.append(Occupied(*token, number))
            elif number == AT_SCHEDULING:
                run.gives_back = False

    def wanted(self, command: Occupied) -> dict[str, int] | None:
        """Return what the ask was for that the broker answers, None for one that is not there."""
        run = self.runs.get((command.epoch, command.number))
        known = run.asks.get(command.ask) if run else None
        return known.limits if known is not None else None

    def told(self, command: Occupied, received: int) -> None:
        """Take the answer of a broker that had *received* so many frames of this session."""
        token, number = (command.epoch, command.number), command.ask
        run = self.runs.get(token)
        known = run.asks.get(number) if run else None
        if run and number == AT_SCHEDULING and (self._session.number, received) < run.withdrawn:
            known = None  # It is for what the run asked for before, under the same number.
        if command.code == RELEASED:
            if number == AT_SCHEDULING:
                self._run(token).has_given_back = True
            elif run is not None:
                run.asks.pop(number, None)
        elif run is not None and known is not None and not known.has_it:
            if command.code == GIVE_BACK:
                pass  # It waits on.
            elif number == AT_SCHEDULING:
                del run.asks[number]
                gives_back, run.gives_back = run.gives_back, False
                if gives_back and not command.code:
                    self._say(Vacate(*token, number))
                elif not command.code:
                    run.has_given_back = False
            elif command.code:
                del run.asks[number]
            else:
                known.has_it = True
            self.answers.append(command)

    def vacate(self, token: Token, number: int) -> None:
        """Give back what a run has, or wait for it no longer."""
        run = self.runs.get(token)
        if run is None:
            return
        known = run.asks.pop(number, None)
        if known is not None or (number == AT_SCHEDULING and not run.has_given_back):
            run.has_given_back |= number == AT_SCHEDULING
            self._withdraw(run, number)
            self._say(Vacate(*token, number))
            if known is not None and not known.has_it:
                self.answers.append(Occupied(*token, number, WITHDRAWN))

    def released(self, assignment: Assignment, typed: Typed, *, keeps: bool = False) -> Release:
        """Note that a run gave slots back, and with all of them its limits, unless it keeps those.

        What it asks for again in this moment goes back when it comes: the broker may have given it
        already, and nobody could tell which came first. Return what to tell the broker.
        """
        token = assignment.token
        if typed is not None or not assignment.recipe.call.limits:
            return Release(*token, typed)
        run = self._run(token)
        run.gives_back = AT_SCHEDULING in run.asks and not keeps
        keeps |= run.gives_back
        run.has_given_back |= not keeps
        return Release(*token, typed, keeps)

    def cancel(self, token: Token) -> None:
        """Let a run that nobody wants wait no longer; what it has it has until it returns."""
        run = self.runs.get(token)
        for number in [n for n, ask in run.asks.items() if not ask.has_it] if run else ():
            del self.runs[token].asks[number]
            self._withdraw(self.runs[token], number)
            self._say(Vacate(*token, number))
            self.answers.append(Occupied(*token, number, CANCELED))

    def ended(self, assignment: Assignment) -> None:
        """Forget a run; whoever of it still waits is told."""
        token = assignment.token
        has_some = self._holds(assignment)
        run = self.runs.pop(token, None)
        for number, ask in run.asks.items() if run else ():
            has_some = True
            if not ask.has_it:
                self.answers.append(Occupied(*token, number, ENDED))
        if assignment.is_stopped and has_some:
            # The broker counts it until it hears this: there is no outcome.
            self._say(Vacate(*token))

    def dropped(self, assignment: Assignment) -> None:
        """Forget one that never starts, since nobody wants it."""
        assignment.is_stopped = True
        self.ended(assignment)

    def inventory(self, assignment: Assignment) -> list[HeldLimits]:
        """List what a run has and what it waits for."""
        run = self.runs.get(assignment.token)
        found = (
            [
                HeldLimits(n, a.limits, a.has_it, a.within, a.may_give_back)
                for n, a in run.asks.items()
            ]
            if run
            else []
        )
        if self._holds(assignment):
            found.append(HeldLimits(AT_SCHEDULING, assignment.recipe.call.limits, has_it=True))
        return found

    def check(self, held: dict[Token, Assignment]) -> None:
        """Assert that only what is here has or wants limits."""
        assert self.runs.keys() <= held.keys()
        for token, run in self.runs.items():
            assert AT_SCHEDULING not in run.asks or run.has_given_back, token
            assert AT_SCHEDULING in run.asks or not run.gives_back, token

    def _withdraw(self, run: RunLimits, number: int) -> None:
        """Note that what is asked for under one number again and again is asked for no more."""
        if number == AT_SCHEDULING:
            run.gives_back = False
            run.withdrawn = (self._session.number, self._session.sent + 1)

    def _run(self, token: Token) -> RunLimits:
        run = self.runs.get(token)
        if run is None:
            run = self.runs[token] = RunLimits()
        return run

    def _holds(self, assignment: Assignment) -> bool:
        run = self.runs.get(assignment.token)
        return bool(assignment.recipe.call.limits) and not (run and run.has_given_back)
