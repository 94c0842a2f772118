"""Messages of a few octets that take longer than a lease: a seed's numbers are so much smaller.

Behind such a message everything waits, heartbeats too, and whoever waits for it must know.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final
from unittest.mock import patch

from wire import session

if TYPE_CHECKING:
    from tests.sim.network import Message
    from tests.sim.world import World

# Most that has payload frames is larger; 11 octets take up to 7 s, the lease is 5 s.
BYTES_MIN: Final = 4
BYTES_PER_S_MIN: Final = 1.5
LONGEST_S: Final = 8.0


def takes_s(world: "World", message: "Message") -> float:
    """Return how much longer a message takes for what is in its payload frames."""
    octets = sum(map(len, message[1]))
    if octets <= BYTES_MIN:
        return 0.0
    world.count("large message")
    return world.lateness.uniform(0.0, min(octets / BYTES_PER_S_MIN, LONGEST_S))


@contextmanager
def messages(*, are_large: bool) -> Iterator[None]:
    """Let a few octets be large, for whoever sends and whoever waits."""
    if not are_large:
        yield
        return
    with (
        patch.object(session, "AHEAD_BYTES_MIN", BYTES_MIN),
        patch.object(session, "TRANSFER_BYTES_PER_S_MIN", BYTES_PER_S_MIN),
    ):
        yield
