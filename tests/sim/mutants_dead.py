"""Planted bugs in what is kept of tasks that ended badly."""

from typing import Any

from broker.events import restoring
from broker.tasks import dead
from tests.sim.mutants import BUSY, Mutant, both, swap


def what_ended_badly_is_not_kept() -> Any:
    """Keep nothing."""
    return swap(dead, "keep", lambda _: lambda broker, task, ending, failure: None)


def a_dead_task_runs_again_for_each_who_asks() -> Any:
    """Forget that a dead task was submitted again."""
    return swap(dead, "redriven", lambda _: lambda broker, gone, successor: None)


def that_it_was_redriven_is_not_written() -> Any:
    """Remember in memory alone that a dead task was submitted again."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, gone: Any, successor: Any) -> None:
            was_written, gone.is_written = gone.is_written, False
            original(broker, gone, successor)
            gone.is_written = was_written

        return mutated

    calls = swap(restoring, "check", lambda _: lambda broker: None)
    return both(calls, swap(dead, "redriven", make))


def the_dead_go_with_the_broker() -> Any:
    """Take over nothing of what an earlier broker kept."""
    return swap(dead, "restore", lambda _: lambda broker, stored, templates: None)


def a_forgotten_one_stays_on_disk() -> Any:
    """Forget a dead task in memory alone."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, gone: Any) -> None:
            before = list(broker.operations)
            original(broker, gone)
            broker.operations[:] = before

        return mutated

    return swap(dead, "forget", make)


DYING = BUSY.but(
    retry=0.7,
    at_most_once=0.3,
    redrive=0.3,
    machines=2,
    faults={"actor_kill": 1.0},
    down_s=0.3,
)
KEPT = DYING.but(durable=0.6, commit_s=0.02)
RESTARTED = KEPT.but(faults={"broker_kill": 1.0}, fail=0.7, durable=0.9, fault=0.02)
AFTERLIFE = [
    Mutant(f.__name__, profile, f)
    for f, profile in (
        (what_ended_badly_is_not_kept, DYING),
        (a_dead_task_runs_again_for_each_who_asks, KEPT),
        (that_it_was_redriven_is_not_written, RESTARTED),
        (the_dead_go_with_the_broker, RESTARTED),
        (a_forgotten_one_stays_on_disk, RESTARTED),
    )
]
