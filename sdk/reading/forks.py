"""What a forked child is told of the clients that it was born with.

It has none of their threads and must not touch their sockets, which are the parent's.
"""

import os
from typing import Final, Protocol
from weakref import WeakSet

REFUSAL: Final = (
    "this client belongs to the process that this one was forked from; "
    "make a Client of your own after the fork"
)


class Watched(Protocol):
    """What has threads and sockets."""

    def forked(self) -> None:
        """Refuse everything from now on."""


_watched: WeakSet[Watched] = WeakSet()


def watch(one: Watched) -> None:
    """Tell *one* in each child that is forked while it exists."""
    _watched.add(one)


def forget(one: Watched) -> None:
    """Tell it no more."""
    _watched.discard(one)


def _tell() -> None:
    for one in list(_watched):
        one.forked()


os.register_at_fork(after_in_child=_tell)
