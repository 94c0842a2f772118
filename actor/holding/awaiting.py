"""Which runs wait for calls of their own, or for their slots (protocol.md section 9.8).

Such a wait is said with the heartbeat that finds it still there, since few last that long; one that
was said is taken back as soon as it is over. The rule that must not be broken: the broker is never
left with a wait that is over.
"""

from collections.abc import Callable
from typing import Final, Protocol

from actor.holding.mailbox import Assignment, Mailbox
from wire.messages import Await, Occupied, Vacate
from wire.parts import Span, Token

# Under this number a run waits for its slots; it asks for limits and calls under those from 1.
SLOTS: Final = -1


class Waited(Protocol):
    """A wait for calls, as a run began it."""

    is_said: bool
    within: list[int] | None

    def calls(self) -> tuple[int, list[Span], int] | None:
        """Return whose calls, which of them, and how many; None when that is not to be said."""

    def refuse(self, reason: str) -> None:
        """End the wait: it would never be over."""

    def cancel(self, reason: str) -> None:
        """End the wait: nobody wants the run any more."""


class Awaiting:
    """The waits of all runs of one actor, those for limits apart."""

    __slots__ = ("_mailbox", "_say", "refused", "said", "waits")

    def __init__(self, mailbox: Mailbox, say: Callable[[Await | Vacate], None]) -> None:
        """Begin with nobody who waits; *say* tells the broker."""
        self._mailbox = mailbox
        self._say = say
        self.waits: dict[tuple[Token, int], Waited] = {}
        # Whose wait for slots the broker knows.
        self.said: set[Token] = set()
        # What ends the waits that are to be ended, and why.
        self.refused: list[tuple[Callable[[str], None], str]] = []

    def begin(self, token: Token, number: int, wait: Waited) -> None:
        """Let a run wait."""
        if token in self._mailbox.held:
            self.waits[token, number] = wait

    def end(self, token: Token, number: int) -> None:
        """Note that a wait is over."""
        wait = self.waits.pop((token, number), None)
        if wait is not None and wait.is_said:
            self._say(Vacate(*token, number))

    def state(self) -> None:
        """Say which waits there are, those that the broker knows apart; once a heartbeat."""
        held = self._mailbox.held
        for (token, number), wait in list(self.waits.items()):
            if token not in held:
                del self.waits[token, number]
            elif not wait.is_said and not held[token].is_stopped:
                found = wait.calls()
                if found is not None:
                    wait.is_said = True
                    client, calls, enough = found
                    self._say(Await(*token, number, client, calls, enough, wait.within))
        for token, ask in self._mailbox.reacquiring.items():
            if token not in self.said:
                self.said.add(token)
                lacking = ask.wanted
                is_all = lacking == ask.assignment.recipe.slots
                slots = None if is_all else lacking
                self._say(Await(*token, SLOTS, within=ask.within, slots=slots))

    def take_back(self) -> None:
        """Tell the broker of waits for slots that are over; before anything else is sent."""
        over = self.said - self._mailbox.reacquiring.keys()
        for token in sorted(over):
            self.said.discard(token)
            self._say(Vacate(*token, SLOTS))

    def told(self, command: Occupied) -> bool:
        """Take what the broker says of a wait; False when it speaks of a limit."""
        wait = self.waits.pop(((command.epoch, command.number), command.ask), None)
        if wait is not None:
            self.refused.append((wait.refuse, command.message))
        return wait is not None

    def stop(self, assignment: Assignment) -> None:
        """End the waits of a run that nobody wants: what it waits for may wait for the run."""
        name = assignment.recipe.call.name
        for token, number in [key for key in self.waits if key[0] == assignment.token]:
            wait = self.waits[token, number]
            self.end(token, number)
            message = f"task {name!r} was canceled while it waited for calls of its own"
            self.refused.append((wait.cancel, message))

    def take_refused(self) -> list[tuple[Callable[[str], None], str]]:
        """Return what ends the waits that are to be ended, and why."""
        refused, self.refused = self.refused, []
        return refused

    def void(self) -> None:
        """Note that a new session knows of none."""
        self.said.clear()
        for wait in self.waits.values():
            wait.is_said = False
