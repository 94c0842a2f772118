"""Where calls with a sticky key ran last, for a broker that was started again and kept nothing.

The broker decides, and may know better: this is only what a client saw last.
"""

from typing import Final

# Those seen the longest ago are forgotten beyond so many; a broker takes no more of them.
KEYS_MAX: Final = 4_096


class Bound:
    """The actor's name by the key of the calls that it ran, those seen last at the end."""

    __slots__ = ("actors",)

    def __init__(self) -> None:
        """Begin with none."""
        self.actors: dict[str, str] = {}

    def note(self, key: str, actor: str) -> None:
        """Note that a call with *key* ran on *actor*."""
        self.actors.pop(key, None)
        self.actors[key] = actor
        if len(self.actors) > KEYS_MAX:
            del self.actors[next(iter(self.actors))]
