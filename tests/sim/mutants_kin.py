"""Planted bugs in what an actor that leaves still runs: the calls for which its runs wait."""

from typing import Any

from actor.granting.standing import Standing
from broker.placing import isolation, kin
from tests.sim.mutants import WAITING, Mutant, swap


def who_leaves_runs_nothing() -> Any:
    """Let the calls of its runs wait for another actor."""
    return swap(kin, "look", lambda _: lambda broker, now: None)


def who_leaves_runs_anything() -> Any:
    """Let the backlog have what it grants to the calls of its runs."""

    def leaves(broker: Any, actor: Any) -> None:
        actor.shut()
        actor.is_shut = actor.is_suspect or actor.is_alone

    return swap(isolation, "leaves", lambda _: leaves)


def what_crossed_a_drain_starts() -> Any:
    """Take whatever comes while calls of its runs are taken."""
    return swap(Standing, "has_heard", lambda _: lambda self, received: True)


LEAVING = WAITING.but(
    machines=2,
    replicas=1,
    limit=0.0,
    ask=0.0,
    child=0.8,
    fault=0.03,
    faults={"drain_actor": 1.0, "drain_machine": 0.5},
)
# Once, so that nobody says later when it must have left.
ALONE = LEAVING.but(machines=1, faults={"drain_actor": 1.0}, fault=0.004)
KIN = [
    Mutant(f.__name__, profile, f)
    for f, profile in (
        (who_leaves_runs_nothing, ALONE),
        (who_leaves_runs_anything, LEAVING),
        (what_crossed_a_drain_starts, LEAVING.but(delay_s=0.03, delay_max_s=0.09)),
    )
]
