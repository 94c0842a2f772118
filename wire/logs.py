"""Which log lines are written: those of a level, and of what has no end only some."""

from collections.abc import Iterable, Iterator
from typing import Any, Final

Note = tuple[str, dict[str, Any]]

# As the standard library names and numbers them.
LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
LEVEL_DEFAULT: Final = "info"

# What somebody else can make happen as often as he likes.
ENDLESS: Final = frozenset({"bad_frame"})


class Seldom:
    """Tells of what has no end the first time, the tenth, the hundredth, and of all else always."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        """Begin with nothing that has happened."""
        self._counts: dict[str, int] = {}

    def pick(self, notes: Iterable[Note]) -> Iterator[Note]:
        """Return what is to be written of *notes*, with how often it has happened by now."""
        for event, fields in notes:
            if event not in ENDLESS:
                yield event, fields
                continue
            count = self._counts[event] = self._counts.get(event, 0) + 1
            if str(count).strip("0") == "1":
                yield event, {"count": count, **fields}
