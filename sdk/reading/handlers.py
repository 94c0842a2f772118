"""Who hears of what a client's loop reads. Called without its lock, on the thread that reads."""

from typing import Any

from wire.messages import Result


class Handlers:
    """What the loop has to tell."""

    def settle(self, task: int, result: Result, payloads: Any) -> None:
        """Give a future its outcome."""
        raise NotImplementedError

    def answer(self, request: int, body: bytes) -> None:
        """Give a query its answer."""
        raise NotImplementedError

    def note(self, event: str, fields: dict[str, Any]) -> None:
        """Log what the core noted."""
        raise NotImplementedError

    def look(self, now: float) -> None:
        """Look for what takes too long; called about every half second."""
        raise NotImplementedError


def nothing() -> None:
    """Do nothing: what has no receiver, and is told to whoever waits for anything."""
