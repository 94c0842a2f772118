"""What a client's core has to tell its loop: outcomes, answers, notes, each taken once."""

from typing import Any

from sdk.calls.call import Payloads
from wire.messages import Result


class News:
    """A part of the client's core; the loop takes what gathered here."""

    def __init__(self) -> None:
        """Begin with nothing to tell."""
        self.outcomes: list[tuple[int, Result, Payloads]] = []
        self.answers: list[tuple[int, bytes]] = []
        self.notes: list[tuple[str, dict[str, Any]]] = []

    def take_outcomes(self) -> list[tuple[int, Result, Payloads]]:
        """Return the outcomes since the last time; each call has one."""
        outcomes, self.outcomes = self.outcomes, []
        return outcomes

    def take_answers(self) -> list[tuple[int, bytes]]:
        """Return the answers since the last time, each as msgpack."""
        answers, self.answers = self.answers, []
        return answers

    def take_notes(self) -> list[tuple[str, dict[str, Any]]]:
        """Return what happened since the last time, for the log."""
        notes, self.notes = self.notes, []
        return notes

    def _note(self, event: str, **fields: Any) -> None:
        self.notes.append((event, fields))
