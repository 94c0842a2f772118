"""A planted bug: a rule of the protocol, taken out of the real cores by a patch at run time.

A simulator that does not find these finds nothing. Each has the swarm in which it shows quickly.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest.mock import patch

from tests.sim import healing
from tests.sim.profile import Profile
from tests.sim.world import World

# Fast runs, short pauses: much happens in few steps.
BUSY = Profile(tasks=60, pause_s=0.05, run_s=0.4, fault=0.05, hang=0.0, environment=0.0, label=0.0)
IDLE = BUSY.but(pause_s=0.7)
ROOMY = BUSY.but(slots=4, pause_s=0.5, run_s=4.0)
RESTARTS = BUSY.but(faults={"broker_kill": 1.0}, down_s=0.5, run_s=2.0)
LINKS = BUSY.but(faults={"cut": 1.0, "partition": 1.0}, lost=0.5, down_s=2.0)
SLOW = LINKS.but(delay_s=0.3, delay_max_s=1.0, batch=0.0)
DEAF = ROOMY.but(
    faults={"cut": 1.0, "freeze_actor": 1.0}, lost=0.0, delay_s=0.8, run_s=1.0, at_most_once=0.7
)
AHEAD = BUSY.but(prefetch=3, replicas=3, at_most_once=0.0, hang=0.3, run_s=1.0, tasks=20)
PAUSES = BUSY.but(prefetch=2, faults={"pause": 2.0, "resume": 1.0, "broker_kill": 0.3}, down_s=0.5)
CROSSING = AHEAD.but(run_s=0.1, hang=0.1, delay_s=0.03, delay_max_s=0.09, pause_s=0.04, tasks=60)
LIMITED = BUSY.but(limit=0.8, ask=0.5, slots=3, at_most_once=0.0, force=0.0)
LIMITED_RESTARTS = LIMITED.but(faults={"broker_kill": 1.0}, down_s=0.5, run_s=3.0)
LOADED = BUSY.but(
    environment=1.0, at_most_once=0.0, release=0.0, environments_max=2, replicas=3, cancel=0.0
)
WAITING = LIMITED.but(slots=1, child=0.5, wait=1.0, cancel=0.0, tasks=20)
CROWDED = WAITING.but(slots=3, replicas=1, environment=0.5, limit=0.4, tasks=30, run_s=0.3)
WITH_ONCE = {"at_most_once": 0.5}
STICKY = BUSY.but(sticky=0.9, at_most_once=0.0, label=0.0, replicas=2, machines=2)


@dataclass(frozen=True)
class Mutant:
    """A bug, and where it shows."""

    name: str
    profile: Profile | None
    plant: Callable[[], Any]


def swap(owner: Any, name: str, make: Callable[[Any], Any]) -> Any:
    """Put what *make* returns, given the original, into the place of *name*."""
    return patch.object(owner, name, make(getattr(owner, name)))


@contextmanager
def both(*patches: Any) -> Iterator[None]:
    """Plant several patches that make one bug."""
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in reversed(patches):
            one.stop()


class Caught(NamedTuple):
    """What went wrong in a seed, and after how many turns; None: when all was to come to rest."""

    how: str
    turns: int | None


def run(mutant: Mutant | None, profile: Profile | None, seed: int, steps: int) -> Caught | None:
    """Run a seed with *mutant* planted; return what goes wrong, if anything does."""
    planted = mutant.plant() if mutant else nullcontext()
    with planted, impatient():
        world = World(seed, profile)
        try:
            world.run(steps)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong shows it.
            turns = None if world.is_healing else world.steps
            return Caught(f"{type(error).__name__}: {error}", turns)
    return None


def impatient() -> Any:
    """Wait less long for all to come to rest, which most planted bugs never let happen.

    What goes wrong by that alone does so without the bug as well, and shows nothing.
    """
    return patch.multiple(healing, HEAL_S_MAX=45.0, HEAL_TASK_S=0.5)
