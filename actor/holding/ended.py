"""Which calls have ended in a named actor: what a broker that has lost its memory cannot know.

Numbers of one client mostly follow one another, so they are kept as spans, and few of those. Where
there are too many the lowest become one: a number in between is then taken for one that has ended,
which its client has never been told of only where calls of that age still wait.
"""

from bisect import insort
from typing import Final

from wire.parts import Span

CLIENTS_KEPT: Final = 256
SPANS_KEPT: Final = 64


class EndedCalls:
    """The calls of each client that have ended here, whoever has had their outcome."""

    __slots__ = ("by_client",)

    def __init__(self) -> None:
        """Begin with none."""
        self.by_client: dict[int, list[Span]] = {}

    def add(self, client: int, number: int) -> None:
        """Note that a call has ended. The client goes of which none has for the longest."""
        spans = self.by_client.pop(client, None)
        if spans is None:
            spans = [(number, number)]
            if len(self.by_client) >= CLIENTS_KEPT:
                del self.by_client[next(iter(self.by_client))]
        elif number == spans[-1][1] + 1:
            spans[-1] = (spans[-1][0], number)
        else:
            insort(spans, (number, number))
            if len(spans) > SPANS_KEPT:
                spans[:2] = [(spans[0][0], max(spans[0][1], spans[1][1]))]
        self.by_client[client] = spans

    def state(self) -> list[tuple[int, list[Span]]]:
        """Return all of them, to be said."""
        return [(client, list(spans)) for client, spans in self.by_client.items()]
