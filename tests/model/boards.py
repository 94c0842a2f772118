"""What actors and their host read in the memory that they share, of strict limits.

Each looks before it does anything for which time has passed. What the other one wrote may be as old
as its last turn then, and never is newer.
"""

from math import inf
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.model.world import World

NOBODY = -1
FROZEN = "frozen"


def told_by_host(world: "World", place: int) -> tuple[Any, ...]:
    """Return since when the broker has heard of an actor, as its host wrote it."""
    if not (world.strictly and world.scenario.has_host and world.is_actor[place]):
        return ()
    vouches = dict(world.facts(len(world.names) - 1).vouches)
    return (vouches.get(world.incarnation(place, world.peers[place].process), -inf),)


def seen_by_host(world: "World", place: int) -> tuple[Any, ...]:
    """Return what a host sees: when each actor was sure to be heard, and whether it is stopped."""
    if not (world.strictly and world.kinds[place] == "H"):
        return ()
    return (
        tuple(
            (
                world.incarnation(other, peer.process),
                world.facts(other).renewed_at,
                peer.halted == FROZEN,
            )
            for other, peer in enumerate(world.peers)
            if world.is_actor[other] and peer.core != NOBODY
        ),
    )
