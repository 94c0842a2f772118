"""Planted bugs in the life of a task: retries, time limits, crashes."""

from typing import Any
from unittest.mock import patch

import msgspec

from actor.supervision import HostCore
from broker.events import departures, doubts, recovery
from broker.facts.task import Task
from broker.facts.trouble import Trouble
from broker.holding.limits import Limits
from broker.placing import isolation, requeueing
from broker.tasks import retrying
from sdk.calls import asking
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


def a_failure_burns_two_tries() -> Any:
    """Count a failed run twice."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, task: Any, *rest: Any) -> None:
            task.tries += 1
            original(broker, task, *rest)

        return mutated

    return swap(retrying, "again", make)


def what_must_not_be_retried_is() -> Any:
    """Try again whatever has failed, whether its actor allows it or not."""

    def make(original: Any) -> Any:
        return lambda body: msgspec.structs.replace(original(body), retriable=True)

    return swap(retrying, "read_failure", make)


def a_shared_crash_is_held_against_all() -> Any:
    """Count a crash toward poison of each task that was in the process."""

    def make(original: Any) -> Any:
        def mutated(*arguments: Any, burns: Any) -> None:
            original(*arguments, burns="crash" if burns == "shared" else burns)

        return mutated

    return swap(requeueing, "requeue", make)


def what_stood_beside_is_blamed() -> Any:
    """Blame those for whose neighbour their process was ended."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, session: Any, command: Any, own: Any, now: float) -> None:
            actor = broker.actors.get(command.incarnation)
            for token in command.beside:
                task = broker.tokens.get(tuple(token))
                if actor is not None and task is not None and task.actor is actor:
                    requeueing.requeue(broker, task, "it died", now, burns="crash")
            original(broker, session, command, own, now)

        return mutated

    return swap(departures, "death", make)


def suspects_run_beside_others() -> Any:
    """Queue as any other who was in a process that crashed."""
    return swap(Task, "must_be_alone", lambda _: False)


def an_actor_of_its_own_takes_others() -> Any:
    """Put others beside a task that must be alone."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, actor: Any, *, is_alone: bool) -> None:
            original(broker, actor, is_alone=False)
            actor.is_alone = is_alone

        return mutated

    return swap(isolation, "shut", make)


def poison_is_never_found_out() -> Any:
    """Give a task that ends its process to one process after the other."""
    return swap(Trouble, "is_poison", lambda _: lambda self, settings: "")


def a_report_that_comes_late_changes_nothing() -> Any:
    """Charge with a loss whoever was in a process that was replaced before its death was told."""
    return swap(doubts, "died", lambda _: lambda *arguments: None)


def what_befell_it_with_others_is_forgotten() -> Any:
    """Say nothing of crashes beside others to a new broker."""

    def make(original: Any) -> Any:
        return lambda *arguments: msgspec.structs.replace(original(*arguments), shared=0)

    return swap(asking.Trials, "say", make)


def a_start_may_hang() -> Any:
    """Never end a process for a start that takes too long."""
    return swap(HostCore, "_give_up_start", lambda _: lambda self, ward, now: None)


CRASHES = BUSY.but(slots=3, crash=0.15, run_s=1.0, at_most_once=0.0, cancel=0.0, child=0.0)
ENDED = CRASHES.but(crash=0.0, timeout=0.5, hang=0.5, cancel=0.3, force=1.0, run_s=2.0)
RETRIES = BUSY.but(retry=0.8, at_most_once=0.0, cancel=0.0, force=0.0)
RESTARTS = RETRIES.but(faults={"broker_kill": 1.0}, down_s=0.3)
AFRESH = CRASHES.but(
    faults={"broker_kill": 1.0}, down_s=0.3, crash=0.4, shrunk=frozenset({"isolation_s"})
)
OVERTAKEN = BUSY.but(
    faults={"actor_kill": 1.0, "freeze_broker": 1.0, "freeze_host": 1.0},
    fault=0.2,
    down_s=3.0,
    prefetch=3,
    at_most_once=0.0,
    cancel=0.0,
    child=0.0,
)
LIFE = [
    Mutant(f.__name__, profile, f)
    for f, profile in (
        (no_back_off, RETRIES),
        (the_delayed_stay, RETRIES),
        (a_known_failure_counts_again, RESTARTS),
        (what_is_left_of_a_wait_is_not_said, RESTARTS.but(fault=0.01, run_s=0.2)),
        (a_suspect_that_waits_stays_alone, WAITING.but(crash=0.1, replicas=1)),
        (a_failure_burns_two_tries, RETRIES),
        (what_must_not_be_retried_is, RETRIES),
        (a_shared_crash_is_held_against_all, CRASHES),
        (what_stood_beside_is_blamed, ENDED),
        (suspects_run_beside_others, CRASHES),
        (an_actor_of_its_own_takes_others, CRASHES),
        (poison_is_never_found_out, CRASHES.but(crash=1.0, tasks=1, run_s=0.1)),
        (a_failed_run_can_be_adopted, RETRIES.but(faults={"cut": 1.0}, fault=0.1)),
        (what_befell_it_with_others_is_forgotten, AFRESH),
        (a_report_that_comes_late_changes_nothing, OVERTAKEN),
        (a_start_may_hang, BUSY.but(faults={"start_hangs": 1.0})),
    )
]
