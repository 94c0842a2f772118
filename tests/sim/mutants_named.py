"""Planted bugs in named actors: where they are, what they begin from, which calls run again."""

from typing import Any

from actor.events import entering
from actor.granting.grant import compute_credit
from actor.holding.mailbox import Assignment
from actor.holding.named import NamedReplica, NamedReplicas
from broker.disk import writing
from broker.events import residing
from broker.tasks import inscribing, named, reentering
from broker.waiting.costs import Cost
from broker.waiting.matching import Matching
from tests.sim.mutants import BUSY, Mutant, swap


def it_begins_from_nothing() -> Any:
    """Enter a named actor again without what it said last."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, task: Any, actor: Any) -> None:
            record = broker.named.by_id[task.call.environment.id]
            serial, record.serial = record.serial, 0
            original(broker, task, actor)
            record.serial = serial

        return mutated

    return swap(named, "assigned", make)


def it_is_wherever_there_is_a_slot() -> Any:
    """Let calls to a named actor go anywhere."""

    def make(original: Any) -> Any:
        return lambda matching, shape, home, *, is_shut: original(
            matching, shape, None, is_shut=is_shut
        )

    return swap(Matching, "bind", make)


def what_may_have_run_runs_again() -> Any:
    """Queue a call again that may have run, whatever was said of that."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, task: Any, token: Any, reason: str, *, burns: str | None) -> bool:
            if burns is not None and broker.named.by_id.get(task.call.environment.id):
                return True
            return bool(original(broker, task, token, reason, burns=burns))

        return mutated

    return swap(named, "goes_on", make)


def the_checkpoint_comes_one_call_late() -> Any:
    """Send with each outcome the checkpoint that belongs to the one before."""

    def make(original: Any) -> Any:
        last: dict[str, Any] = {}

        def mutated(replicas: Any, assignment: Any, frames: Any, checkpoint: Any) -> Any:
            identity = assignment.recipe.call.environment.id
            late, last[identity] = last.get(identity, b""), checkpoint
            return original(replicas, assignment, frames, late)

        return mutated

    return swap(NamedReplicas, "seal", make)


def no_checkpoint_is_kept() -> Any:
    """Take the checkpoint from an outcome and let it go."""

    def make(_: Any) -> Any:
        def mutated(broker: Any, task: Any, command: Any, own: Any) -> Any:
            return own[:-1]

        return mutated

    return swap(residing, "take_checkpoint", make)


def a_release_gives_the_turn_back() -> Any:
    """Let a second call in while one that has released its slot is still inside."""
    return swap(Assignment, "is_named", lambda _: property(lambda assignment: False))


def nobody_enters_it_again() -> Any:
    """Leave a named actor that was lost to its next call."""
    return swap(reentering, "look", lambda _: lambda broker, record: None)


def the_checkpoint_is_written_after_its_outcome() -> Any:
    """Keep a checkpoint in memory and let the journal have it with the next one."""

    def make(original: Any) -> Any:
        late: dict[str, tuple[Any, ...]] = {}

        def mutated(broker: Any, record: Any) -> None:
            before = len(broker.operations)
            original(broker, record)
            if record.hash:
                (operation,) = broker.operations[before:]
                broker.operations[before:] = [late[record.id]] if record.id in late else []
                late[record.id] = operation

        return mutated

    return swap(inscribing, "keep", make)


def nobody_waits_to_be_alone_in_its_group() -> Any:
    """Assign a call that is to be alone where one turn is free."""
    return swap(Cost, "of", lambda _: lambda cost, call: cost)


def turns_of_a_group_are_always_free() -> Any:
    """State all turns of a named actor, whoever is inside."""
    return swap(NamedReplica, "turns_free", lambda _: lambda self: self.environment.pools)


def what_a_client_left_behind_is_forgotten() -> Any:
    """Take a call for a new one that may have run before its client was given up."""
    return swap(named, "gave_up", lambda _: lambda broker, tasks: None)


def what_is_written_again_is_overtaken() -> Any:
    """Assign a call that may start while its client's former one is written anew."""
    return swap(inscribing, "must_arm", lambda _: lambda broker, task: writing.must_arm(task))


COUNTS = BUSY.but(
    named=0.9, at_most_once=0.0, cancel=0.0, force=0.0, replicas=2, faults={"cut": 1.0}
)
KILLS = COUNTS.but(crash=0.1, run_s=0.1, pause_s=0.2)
JOURNALED = COUNTS.but(
    durable=0.05,
    attach=0.1,
    commit_s=0.05,
    run_s=0.2,
    pause_s=0.1,
    down_s=1.0,
    crash=0.05,
    faults={"broker_kill": 1.0, "actor_kill": 0.5, "cut": 0.5},
)
GROUPS = COUNTS.but(named=0.0, grouped=0.9)
WRITTEN = GROUPS.but(durable=0.05, commit_s=0.05, run_s=0.1)


def credit_is_stated_before_who_is_here() -> Any:
    """Grant at once in a new session, before the broker knows which named actors are here."""

    def make(_: Any) -> Any:
        return lambda core, *, may_grant: compute_credit(
            core.mailbox, core.prefetch.ahead, may_grant=may_grant
        )

    return swap(entering, "credit_of", make)


AWAY = COUNTS.but(faults={"partition": 1.0, "silent_drop": 1.0}, long=1.0, fault=0.03)
NAMED = [
    Mutant(f.__name__, profile, f)
    for f, profile in (
        (it_begins_from_nothing, KILLS),
        (it_is_wherever_there_is_a_slot, COUNTS),
        (what_may_have_run_runs_again, KILLS),
        (the_checkpoint_comes_one_call_late, KILLS),
        (no_checkpoint_is_kept, KILLS),
        (a_release_gives_the_turn_back, COUNTS.but(release=0.5)),
        (nobody_enters_it_again, KILLS),
        (the_checkpoint_is_written_after_its_outcome, JOURNALED),
        (nobody_waits_to_be_alone_in_its_group, GROUPS),
        (turns_of_a_group_are_always_free, GROUPS),
        (what_is_written_again_is_overtaken, WRITTEN),
        (what_a_client_left_behind_is_forgotten, AWAY),
        (
            credit_is_stated_before_who_is_here,
            AWAY.but(pause_s=0.3, down_s=1.0, faults=AWAY.faults | {"broker_kill": 0.3}),
        ),
    )
]
