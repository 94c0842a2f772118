"""Released tasks that wait for their slots again (protocol.md section 9.1).

Each gets what it asks for whole, slots and turn together, ahead of everything in the mailbox. The
rule that must not be broken: whoever asked is answered once.
"""

from collections.abc import Iterator
from enum import StrEnum
from math import inf

from actor.holding.mailbox import NO_UNITS, Ask, Assignment, Mailbox
from wire.parts import Token

NOBODY: tuple[str, ...] = ()


class Reply(StrEnum):
    """How a wait for slots ended."""

    GRANTED = "granted"
    TIMEOUT = "timeout"
    CANCELED = "canceled"
    # Whoever has the slots waits for this run in turn, and it is the youngest.
    DEADLOCK = "deadlock"
    # The run returned meanwhile, or is not known here.
    ENDED = "ended"


class Answer:
    """What to tell a run that asked for its slots."""

    __slots__ = ("evicts", "loads", "reply", "token", "units")

    def __init__(self, token: Token, reply: Reply, assignment: Assignment | None) -> None:
        """Say of the moment of the answer what the run then holds."""
        self.token = token
        self.reply = reply
        self.units = NO_UNITS if assignment is None else assignment.units
        # Whether the run has to load its environment, after which others are gone.
        self.loads, self.evicts = False, NOBODY
        if assignment is not None and reply is Reply.GRANTED:
            self.loads, self.evicts = assignment.loads, assignment.evicts


class Reacquiring:
    """Asks, and their answers."""

    __slots__ = ("_mailbox", "answers")

    def __init__(self, mailbox: Mailbox) -> None:
        """Begin with nobody who asks."""
        self._mailbox = mailbox
        # Whom to tell what.
        self.answers: list[Answer] = []

    @property
    def deadline(self) -> float:
        """Return when the next has waited for as long as it wanted."""
        asks = self._mailbox.reacquiring
        return min(ask.until for ask in asks.values()) if asks else inf

    def ask(
        self,
        token: Token,
        slots: dict[str, int],
        until: float,
        within: list[int] | None = None,
    ) -> None:
        """Let a run wait for *slots* in all, and for its turn; answer at once what cannot wait."""
        mailbox = self._mailbox
        assignment = mailbox.held.get(token)
        if assignment is None or token in mailbox.reacquiring:
            self.answers.append(Answer(token, Reply.ENDED, assignment))
        elif assignment.is_stopped:
            self.answers.append(Answer(token, Reply.CANCELED, assignment))
        else:
            # Nobody asks for more than it once had at the same time: see `next_reacquirer`.
            assert all(n <= assignment.recipe.slots.get(kind, 0) for kind, n in slots.items())
            mailbox.reacquiring[token] = Ask(assignment, slots, until, within)

    def drop(self, token: Token, reply: Reply) -> None:
        """End a wait without slots; one that does not wait is ignored."""
        ask = self._mailbox.reacquiring.pop(token, None)
        if ask is not None:
            self.answers.append(Answer(token, reply, ask.assignment))

    def expire(self, now: float) -> None:
        """End the waits that have lasted for as long as they were to."""
        asks = self._mailbox.reacquiring
        for token in [token for token, ask in asks.items() if now >= ask.until]:
            self.drop(token, Reply.TIMEOUT)

    def grant(self) -> Iterator[tuple[Assignment, bool]]:
        """Give slots and turn to all that can have them; tell of each whether it had none."""
        mailbox = self._mailbox
        while (ask := mailbox.next_reacquirer()) is not None:
            had_none = mailbox.regain(ask)
            self.answers.append(Answer(ask.assignment.token, Reply.GRANTED, ask.assignment))
            yield ask.assignment, had_none

    def take(self) -> list[Answer]:
        """Return whom to tell what."""
        answers, self.answers = self.answers, []
        return answers
