"""Planted bugs in which somebody sleeps on: nothing is said wrong, and something never ends."""

from math import inf
from typing import Any

from broker.events import recovery
from broker.tasks import durable
from tests.sim.mutants import BUSY, Mutant, swap
from wire.session import PeerSession


def what_is_written_wakes_nobody() -> Any:
    """Do not look what waited for a commit, when the journal announces it."""
    return swap(durable, "committed", lambda _: lambda broker: None)


def a_lost_hello_is_not_repeated() -> Any:
    """Sleep until the answer to a HELLO comes, which may be lost."""

    def make(original: Any) -> Any:
        def mutated(self: Any, command: Any, now: float) -> Any:
            frame = original(self, command, now)
            self.hello_at = inf
            return frame

        return mutated

    return swap(PeerSession, "hello", make)


def what_was_held_stays_so() -> Any:
    """Let every second task that was held for the adopt window be held on."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, now: float) -> None:
            kept = list(broker.held)[::2]
            for task in kept:
                del broker.held[task]
            original(broker, now)
            broker.held.update(dict.fromkeys(kept))

        return mutated

    return swap(recovery, "end_window", make)


WAKEUPS = [
    Mutant(f.__name__, profile, f)
    for f, profile in (
        (what_is_written_wakes_nobody, BUSY.but(durable=0.5)),
        (a_lost_hello_is_not_repeated, BUSY.but(faults={"lose": 1.0}, fault=0.3)),
        (what_was_held_stays_so, BUSY.but(faults={"broker_kill": 1.0}, down_s=0.3)),
    )
]
