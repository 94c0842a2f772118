"""Planted bugs in labels that change and in schedule timeouts."""

from typing import Any

from actor import core as actor_core
from broker.events import patience, statements
from broker.facts.deadlines import Deadlines
from broker.placing import preference, requeueing
from broker.tasks import families, forgetting, lifecycle
from sdk.calls.waiting import Waiting
from tests.sim.mutants import BUSY, Mutant, both, swap


def a_change_is_not_heard() -> Any:
    """Go on assigning by the labels of HELLO."""
    return swap(statements, "offers", lambda _: lambda *arguments: False)


def what_came_before_the_change_starts() -> Any:
    """Check the required labels when a task comes in, and never again."""

    def make(original: Any) -> Any:
        def mutated(core: Any) -> None:
            for waiting in core.mailbox.waiting:
                waiting.recipe.satisfied_version = core.labels_version
            original(core)

        return mutated

    return swap(actor_core.starting, "start_all", make)


def nobody_is_given_up() -> Any:
    """Let a task with a schedule timeout wait for ever."""
    return swap(lifecycle, "watch", lambda _: lambda broker, task: None)


def who_has_an_actor_is_given_up() -> Any:
    """Go on counting when the task is assigned."""

    def expire(_: Any) -> Any:
        def mutated(broker: Any, now: float) -> None:
            for task in broker.deadlines.take(now, at_most=99):
                families.part(broker, task, families.Parting.LOST)
                forgetting.detach(broker, task)
                lifecycle.end(broker, task, "schedule-timeout", "too late")

        return mutated

    def discard(_: Any) -> Any:
        return lambda self, thing: None

    return both(
        swap(Deadlines, "discard", discard),
        swap(patience, "expire", expire),
        swap(patience, "check", lambda _: lambda broker: None),
    )


def it_is_given_up_half_way() -> Any:
    """Take a task for late when half of its time is over."""

    def make(original: Any) -> Any:
        def mutated(self: Any, thing: Any, at: float) -> None:
            timeout_s = thing.call.schedule_timeout_s or 0.0
            original(self, thing, at - timeout_s / 2)

        return mutated

    return swap(Deadlines, "set", make)


def a_hand_back_gives_new_time() -> Any:
    """Count anew whenever a task comes back."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, task: Any, reason: str, now: float, *, burns: Any) -> None:
            task.queued_at = now
            original(broker, task, reason, now, burns=burns)

        return mutated

    return swap(requeueing, "requeue", make)


def a_new_broker_gives_new_time() -> Any:
    """Do not tell a broker how long a call has waited."""
    return swap(Waiting, "waited", lambda _: lambda self, number, now: None)


def who_likes_one_better_waits_for_ever() -> Any:
    """Let nobody's wait for a better actor end."""
    return swap(preference, "look", lambda _: lambda broker, now: None)


def who_likes_one_better_goes_to_any() -> Any:
    """Take the best that is free, as if there were no affinity_wait."""
    return swap(preference, "prefer", lambda _: lambda broker, shape, task, actor, now: actor)


def the_time_of_a_wait_begins_anew() -> Any:
    """Count from each look at it, and not from when the task was queued."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, shape: Any, task: Any, actor: Any, now: float) -> Any:
            queued_at, task.queued_at = task.queued_at, now
            found = original(broker, shape, task, actor, now)
            task.queued_at = queued_at
            return found

        return mutated

    return swap(preference, "prefer", make)


CHURN = BUSY.but(model=0.7, churn=1.0, prefetch=2, tasks=100, run_s=0.2, at_most_once=0.0)
FOND = BUSY.but(fond=0.9, churn=0.3, tasks=100, run_s=0.4, pause_s=0.4, at_most_once=0.0)
HASTY = BUSY.but(hasty=0.8, prefetch=2, cancel=0.0, run_s=1.0, at_most_once=0.0)
LABELS = [
    Mutant(f.__name__, profile, f)
    for f, profile in (
        (a_change_is_not_heard, CHURN),
        (what_came_before_the_change_starts, CHURN),
        (who_likes_one_better_waits_for_ever, FOND),
        (who_likes_one_better_goes_to_any, FOND),
        (the_time_of_a_wait_begins_anew, FOND),
        (nobody_is_given_up, HASTY),
        (who_has_an_actor_is_given_up, HASTY),
        (it_is_given_up_half_way, HASTY),
        (a_hand_back_gives_new_time, HASTY.but(model=0.3, churn=1.0, delay_s=0.03)),
        (a_new_broker_gives_new_time, HASTY.but(faults={"broker_kill": 1.0}, down_s=0.5)),
    )
]
