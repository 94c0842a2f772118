"""Planted bugs in the life of a task: retries, time limits, crashes."""

from typing import Any
from unittest.mock import patch

import msgspec

from broker import isolation, recovery, retrying
from broker.limits import Limits
from sdk import asking
from tests.sim.mutants import BUSY, WAITING, Mutant, swap


def no_back_off() -> Any:
    """Try again at once what has failed."""
    return swap(retrying, "delay_s", lambda _: lambda *arguments: 0.0)


def the_delayed_stay() -> Any:
    """Forget that the time of a next try has come."""
    return swap(retrying, "wake", lambda _: lambda broker, now: broker.delays.take(now, at_most=9))


def a_known_failure_counts_again() -> Any:
    """Count a failure that the client knows of, when its actor tells of it again."""

    def make(original: Any) -> Any:
        def mutated(task: Any, told: Any, now: float) -> None:
            original(task, told, now)
            task.trouble.failed = (0, 0)

        return mutated

    return swap(retrying, "take_over", make)


def what_is_left_of_a_wait_is_not_said() -> Any:
    """Send a call that waits for its next try again as if it did not."""

    def make(original: Any) -> Any:
        return lambda *arguments: msgspec.structs.replace(original(*arguments), wait_s=0.0)

    return swap(asking.Trials, "say", make)


def a_failed_run_can_be_adopted() -> Any:
    """Adopt what is offered of a run whose failure is known."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, actor: Any, item: Any, now: float) -> None:
            known = broker.clients.get(item.client)
            task = known.tasks.get(item.task) if known else None
            if task is not None and task.trouble is not None and task.state == "delayed":
                task.trouble.failed = (0, 0)
            original(broker, actor, item, now)

        return mutated

    return swap(recovery, "offered", make)


def a_suspect_that_waits_stays_alone() -> Any:
    """Keep the actor of a run that waits for calls, which may need it."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, now: float) -> None:
            with patch.object(Limits, "is_waiting", lambda self, token: False):
                original(broker, now)

        return mutated

    return swap(isolation, "look", make)


RETRIES = BUSY.but(retry=0.8, at_most_once=0.0, cancel=0.0, force=0.0)
RESTARTS = RETRIES.but(faults={"broker_kill": 1.0}, down_s=0.3)
LIFE = [
    Mutant(f.__name__, profile, f)
    for f, profile in (
        (no_back_off, RETRIES),
        (the_delayed_stay, RETRIES),
        (a_known_failure_counts_again, RESTARTS),
        (what_is_left_of_a_wait_is_not_said, RESTARTS.but(fault=0.01, run_s=0.2)),
        (a_suspect_that_waits_stays_alone, WAITING.but(crash=0.1, replicas=1)),
        (a_failed_run_can_be_adopted, RETRIES.but(faults={"cut": 1.0}, fault=0.1)),
    )
]
