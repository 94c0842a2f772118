"""The soak: one cluster under load for as long as wanted, with one fault after another.

The broker is never killed in it, so what it gathers over time shows.
"""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.chaos import strikes, strikes_network
from tests.chaos.cluster import Cluster, descriptors, resident_bytes
from tests.chaos.history import Broken

FAULTS: Final[tuple[Callable[[Cluster], object], ...]] = (
    strikes.actor_kill,
    strikes.machine_kill,
    strikes.child_crash,
    strikes.actor_freeze,
    strikes.broker_freeze,
    strikes_network.partition,
    strikes.client_kill,
    strikes_network.malformed_frames,
    strikes_network.idle_connections,
    strikes.drain,
)
CALM_S: Final = 1.0
# Of so many looks at the broker the first ones are not counted; then both ends are compared.
SETTLING: Final = 20
COMPARED: Final = 10
# A machine's three connections more or less, and two clients', are those of the moment.
DESCRIPTORS_MORE: Final = 16
MEMORY_MORE: Final = 8 * 2**20


def with_limit_and_longer_lease(it: Cluster) -> None:
    """Let nobody have the strict limit beside another, nor be lost since it waits for its turn."""
    strikes_network.with_strict_limit(it)
    strikes.with_longer_lease(it)


def soak(it: Cluster) -> None:
    """Let something go wrong and be over, and look at what the broker has gathered by now."""
    it.withstand(it.random.choice(FAULTS))
    it.load.run(CALM_S)
    # What runs again for this fault is not to be taken for the work of the next one.
    it.settle()
    pid = it.processes["broker"].pid
    threads = sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())
    it.looks.append((resident_bytes(pid), descriptors(pid), threads))
    if len(it.looks) >= SETTLING + 2 * COMPARED:
        compare(it.looks)


def compare(looks: list[tuple[int, int, int]]) -> None:
    """Raise Broken where the broker has grown since it had settled."""
    first, last = looks[SETTLING : SETTLING + COMPARED], looks[-COMPARED:]
    bounds = (MEMORY_MORE, DESCRIPTORS_MORE, 0)
    for what, place, more in zip(
        ("octets", "descriptors", "threads"), range(3), bounds, strict=True
    ):
        was, now = (statistics.median(look[place] for look in some) for some in (first, last))
        if now > was + more:
            raise Broken(f"the broker grew from {was:.0f} to {now:.0f} {what}")
