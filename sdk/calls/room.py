"""How large an outcome this process can hold, once HELLO is said again and again and none comes.

ZeroMQ closes the connection over a message that it finds no memory for, and tells nobody; what came
just before it, such as WELCOME, goes with it. The broker says the outcome again in each new
session: without a word of ours it would do so for ever.
"""

from collections.abc import Sequence
from typing import Final

# There are other reasons for it; so many in a row are worth a look at what is left of memory.
HELLOS_MAX: Final = 5


class Room:
    """Counts what was said in vain, and has what was measured then."""

    __slots__ = ("_in_vain", "_wanted", "octets")

    def __init__(self) -> None:
        """Begin with no doubt that there is room."""
        # How large an outcome may be now, by the word of whoever can measure it; 0 for any.
        self.octets = 0
        self._wanted: frozenset[int] = frozenset()
        self._in_vain = 0

    @property
    def is_doubtful(self) -> bool:
        """Tell whether it should be measured."""
        return self._in_vain >= HELLOS_MAX

    def said(self, wanted: Sequence[int]) -> int:
        """Return what HELLO says that lists the outcomes *wanted*; 0 for nothing."""
        former, self._wanted = self._wanted, frozenset(wanted)
        self._in_vain = self._in_vain + 1 if former and former <= self._wanted else 0
        if not self.is_doubtful:
            self.octets = 0
        return self.octets
