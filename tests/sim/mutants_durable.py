"""Planted bugs in what a broker promises of durable tasks."""

from typing import Any

import msgspec

from broker.disk import clocks, writing
from broker.disk.records import Alias
from broker.events import downfalls, restoring
from broker.facts.task import Event
from broker.tasks import attaching, durable, families, forgetting
from tests.sim.mutants import BUSY, RESTARTS, Mutant, both, swap
from tests.support import disk
from wire.messages import Accepted


def accepted_before_the_commit() -> Any:
    """Say ACCEPTED as soon as the task is on its way to the disk."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, task: Any, command: Any, now: float) -> bool:
            kept = original(broker, task, command, now)
            if kept and task.record is not None:
                broker.say(task.client.session, Accepted([(task.number, task.number)]))
            return kept

        return mutated

    return swap(durable, "keep", make)


def told_before_the_commit() -> Any:
    """Tell an outcome while it is written."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, task: Any) -> bool:
            original(broker, task)
            return True

        return mutated

    return swap(writing, "may_tell", make)


def acknowledged_before_the_commit() -> Any:
    """Let the actor forget an outcome while it is written."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, task: Any, record: Any) -> None:
            original(broker, task, record)
            if task.token is not None and task.actor.session is not None:
                task.actor.session.outcome_acks.append(task.token)

        return mutated

    return swap(writing, "write_outcome", make)


def started_before_the_commit() -> Any:
    """Assign an at_most_once task that the journal does not let start."""
    check = swap(restoring, "check", lambda _: lambda broker: None)
    return both(check, swap(writing, "must_arm", lambda _: lambda task: False))


def what_may_have_started_starts_again() -> Any:
    """Forget with the broker that an at_most_once task may have started."""
    return swap(writing, "may_have_run", lambda _: lambda task: False)


def a_new_broker_forgets() -> Any:
    """Begin with an empty journal."""
    return swap(disk, "restore", lambda _: lambda core, stored, now: None)


def a_new_broker_does_not_wait() -> Any:
    """Queue at once what an earlier broker may have given to an actor."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, stored: Any, now: float) -> None:
            original(broker, stored, now)
            for task in list(broker.held):
                del broker.held[task]
                task.move(Event.RELEASE_HOLD)
                broker.backlog.push(task)

        return mutated

    return swap(disk, "restore", make)


def durable_tasks_go_with_their_client() -> Any:
    """Cancel what is durable when its client is gone."""

    def make(_: Any) -> Any:
        return lambda broker, task, **_: families.drop(broker, task, reason="its client is gone")

    return swap(attaching, "left", make)


def the_first_takes_all() -> Any:
    """Forget an outcome when one of those who want it has it."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, task: Any) -> None:
            target = task.record.target if isinstance(task.record, Alias) else task
            original(broker, task)
            if target.record.is_wanted:
                forgetting.erase(broker, target)

        return mutated

    return swap(forgetting, "received_durable", make)


def keys_do_not_matter() -> Any:
    """Run each call by itself, whatever its key."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, task: Any, command: Any, now: float) -> bool:
            return original(broker, task, msgspec.structs.replace(command, key=None), now)

        return mutated

    return swap(durable, "keep", make)


def a_cancel_is_not_written() -> Any:
    """End a task that is canceled in memory alone."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, task: Any, message: str, *, force: bool) -> None:
            before = len(broker.operations)
            original(broker, task, message, force=force)
            del broker.operations[before:]

        return mutated

    return swap(durable, "cancel", make)


def what_is_durable_has_no_maker() -> Any:
    """Let a durable call be its own from the beginning."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, task: Any, owner: Any, token: Any) -> None:
            if task.record is None:
                original(broker, task, owner, token)

        return mutated

    return both(
        swap(families, "belong", make),
        swap(families, "maker_of", lambda _: lambda broker, parent: None),
    )


def a_lost_run_leaves_its_calls() -> Any:
    """Let durable calls go on whatever becomes of the run that made them."""

    def make(original: Any) -> Any:
        return lambda call, why: call.record is not None or original(call, why)

    return swap(families, "goes_on", make)


def a_new_broker_knows_no_families() -> Any:
    """Take over no family from the journal."""
    return swap(families, "restore", lambda _: lambda broker, task: None)


def what_goes_down_with_the_broker_is_not_counted() -> Any:
    """Give a task out again whatever it took along."""
    return swap(downfalls, "count", lambda _: lambda broker, held: None)


def what_a_process_that_lives_never_began_is_counted() -> Any:
    """Count what was given to a process that comes back without it."""

    def make(_: Any) -> Any:
        return lambda broker, actor: broker.records.given.pop(actor.incarnation, None)

    return swap(downfalls, "came_back", make)


def the_clock_on_the_wall_is_believed() -> Any:
    """Take it that so much has passed since the last start as the clock on the wall says."""
    return swap(clocks, "journal_ms", lambda _: lambda last, now, *, believed_ms: now.wall_ms)


KEPT = BUSY.but(
    durable=0.7,
    attach=0.5,
    commit_s=0.1,
    machines=2,
    faults={"broker_kill": 1.0, "client_kill": 0.5, "cut": 0.5, "actor_kill": 0.3},
    down_s=1.0,
)
KEPT_RESTARTS = RESTARTS.but(durable=0.8, commit_s=0.01, pause_s=0.2)
FAMILIES = KEPT.but(child=0.9, keyed=0.0, at_most_once=0.0, attach=0.0, run_s=2.0, durable=1.0)
ORPHANS = FAMILIES.but(faults={"actor_kill": 1.0}, slots=2)
# One task that takes everything along each time.
DOWNFALLS = BUSY.but(
    along=1.0,
    tasks=1,
    clients=1,
    child=0.0,
    cancel=0.0,
    at_most_once=0.0,
    durable=1.0,
    commit_s=0.0001,
    run_s=0.1,
    down_s=0.1,
)
# Some of what was given out is lost on its way, or handed back to nobody, and nobody dies.
HANDED_BACK = KEPT_RESTARTS.but(
    faults={"broker_kill": 1.0, "pause": 1.0, "resume": 1.0},
    fault=0.05,
    at_most_once=0.0,
    prefetch=3,
    run_s=2.0,
    down_s=0.1,
)
LEAVING = KEPT.but(faults={"client_leave": 1.0}, run_s=3.0, pause_s=0.3)
DURABLE = [
    Mutant(f.__name__, profile, f)
    for f, profile in (
        (accepted_before_the_commit, KEPT),
        (told_before_the_commit, KEPT),
        (acknowledged_before_the_commit, KEPT),
        (started_before_the_commit, KEPT),
        (what_may_have_started_starts_again, KEPT),
        (a_new_broker_forgets, KEPT),
        (a_new_broker_does_not_wait, KEPT_RESTARTS),
        (durable_tasks_go_with_their_client, LEAVING),
        (the_first_takes_all, KEPT.but(attach=1.0)),
        (keys_do_not_matter, KEPT.but(keyed=0.7)),
        (a_cancel_is_not_written, KEPT.but(cancel=0.4)),
        (the_clock_on_the_wall_is_believed, KEPT.but(clock_jumps=True, keyed=0.5)),
        (what_goes_down_with_the_broker_is_not_counted, DOWNFALLS),
        (what_a_process_that_lives_never_began_is_counted, HANDED_BACK),
        (what_is_durable_has_no_maker, ORPHANS),
        (a_lost_run_leaves_its_calls, ORPHANS),
        (
            a_new_broker_knows_no_families,
            FAMILIES.but(faults={"broker_kill": 1.0, "actor_kill": 1.0}),
        ),
    )
]
