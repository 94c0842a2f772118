"""Planted bugs that are one line of a function: who is heard no more, and what runs leave behind.

Beside them those of `tests/planted.py` that show in a cluster as well as in the test of one core.
"""

from functools import partial
from typing import Any

from broker.events import liveness, recovery
from broker.holding.kept import Kept
from broker.holding.limits import Limits
from broker.holding.lines import RunWait
from broker.placing import requeueing
from broker.tasks import families, lifecycle, retrying
from broker.waiting.matching import Matching
from tests.model.mutants import MUTANTS as SEARCHED
from tests.planted import BUGS
from tests.sim.mutants import (
    AHEAD,
    BUSY,
    CROWDED,
    IDLE,
    LIMITED,
    LIMITED_RESTARTS,
    LINKS,
    LOADED,
    WAITING,
    Mutant,
    both,
    swap,
)
from tests.sim.mutants_dead import AFTERLIFE
from tests.sim.mutants_durable import KEPT
from tests.sim.mutants_labels import FOND
from tests.sim.mutants_life import CRASHES, RETRIES
from tests.sim.mutants_named import COUNTS, KILLS
from tests.sim.mutants_strict import FENCED, STARTED, UNHEARD
from tests.sim.profile import Profile
from tests.sim.world import World
from tests.support.planting import Bug, planted

SILENT = IDLE.but(slots=3, faults={"freeze_actor": 1.0, "hold_gil": 1.0}, fault=0.1, down_s=5.0)
DEAF = IDLE.but(slots=3, run_s=0.1, faults={"one_way": 1.0}, fault=0.1, down_s=6.0)
OWNED = LOADED.but(kinds={"own": 0.8}, faults={"client_leave": 1.0})
ALONE = COUNTS.but(named=0.0, faults={})
# Runs of one task go on with two actors when a broker without memory begins.
TORN = BUSY.but(
    slots=2,
    pause_s=0.02,
    run_s=2.0,
    delay_s=0.03,
    delay_max_s=2.0,
    fault=0.15,
    faults=dict.fromkeys(("broker_kill", "cut", "flap", "half_open", "late_result", "lose"), 1.0)
    | {"machine_twice": 1.0, "power_loss": 3.0},
    at_most_once=0.0,
    release=0.4,
    cancel=0.3,
)
FAMILIES = BUSY.but(child=0.8, run_s=1.0, at_most_once=0.0, pause_s=0.3, slots=2)


def line(name: str, function: Any, old: str, new: str) -> Any:
    """Make a bug of one line."""
    return partial(planted, Bug(name, function, old, new, ""))


def nobody_is_deaf() -> Any:
    """Take it that what was sent is received."""
    return swap(liveness, "is_deaf", lambda _: lambda actor, now, patience_s: False)


def the_calls_of_a_lost_run_go_on() -> Any:
    """Leave alone what was submitted in a run that counts no more."""
    return swap(families, "part", lambda _: lambda broker, task, why, **_: None)


def an_older_journal_goes_on_from_its_own_epoch() -> Any:
    """Leave the clock out of the epoch of a broker that starts on an older journal."""

    def make(original: Any) -> Any:
        def mutated(self: Any, epoch: int) -> int:
            went_back = self.ledger is not None and self.ledger.went_back
            return self.ledger.epoch_then + 1 if went_back else original(self, epoch)

        return mutated

    return swap(World, "next_epoch", make)


def a_run_is_in_its_own_way() -> Any:
    """Count against a run that waits for its slots what it has of them, and its turn."""

    def lacks(original: Any) -> Any:
        def mutated(self: Any, wait: Any) -> Any:
            found = original(self, wait)
            if isinstance(wait, RunWait) and not wait.enough and wait.task.template:
                found |= self._lacks_slots(wait.task, wait.actor)
            return found

        return mutated

    return both(
        swap(Kept, "lacks", lacks),
        swap(Kept, "blockers", lambda _: lambda self, w: self.keepers(self.lacks(w))),
    )


OF_LINES = (
    (
        "what_is_left_of_a_part_is_free",
        CROWDED.but(typed=0.5),
        Kept.__init__,
        "if amount:",
        "if amount and token not in parts.parts:",
    ),
    (
        "nobody_is_suspected",
        SILENT,
        liveness.judge_actor,
        "is_suspect = silent_s >=",
        "is_suspect = False and silent_s >=",
    ),
    (
        "the_calls_of_a_failed_run_go_on",
        FAMILIES.but(retry=1.0),
        retrying.wait,
        "families.part(broker, task, families.Parting.LOST)",
        "pass",
    ),
    (
        "the_calls_of_a_run_that_had_its_time_go_on",
        FAMILIES.but(timeout=1.0, run_s=3.0, slots=4, cancel=0.0, tasks=30),
        retrying.retry,
        "families.cut_off(broker, task)",
        "pass",
    ),
    (
        "the_calls_of_a_canceled_run_go_on",
        FAMILIES.but(cancel=0.3),
        families.drop,
        "part(broker, task, Parting.CANCELED if is_canceled else Parting.LEFT, force=force)",
        "pass",
    ),
    (
        "a_run_whose_calls_have_ended_is_taken_back",
        FAMILIES.but(
            machines=1,
            replicas=1,
            run_s=6.0,
            cancel=0.0,
            faults={"freeze_actor": 1.0},
            fault=0.1,
            down_s=9.0,
        ),
        requeueing.requeue,
        "trouble.failed = max(trouble.failed, token)",
        "pass",
    ),
    (
        "who_was_ranked_before_is_not_ranked_again",
        LOADED,
        Matching.improve,
        "is_settled and actor.ranked_at == self.blocks and actor.ranked_as == stated",
        "is_settled and actor.ranked_as == stated",
    ),
    (
        "what_comes_back_with_time_is_held",
        BUSY.but(kinds={"rated": 0.7}),
        Limits.take,
        "definition is not None and definition.rate is not None",
        "False",
    ),
    (
        "what_was_held_waits_for_more_than_there_is",
        LIMITED_RESTARTS.but(faults={"broker_kill": 1.0, "change_limit": 2.0}, fault=0.1),
        recovery.end_window,
        "elif not lifecycle.is_refused(broker, task):",
        "else:",
    ),
    (
        "who_lets_results_lie_gets_more",
        BUSY.but(window_bytes=64, faults={"slow_client": 1.0}, fault=0.1, down_s=3.0),
        lifecycle.deliver,
        "client.is_paused = True",
        "pass",
    ),
)
# Those of a single core, and of the search, each in the swarm in which it shows; None is any.
SHOWN: dict[str, Profile | None] = {
    "the_lower_token_wins": TORN,
    "what_waits_adopts_nothing": None,
    "what_is_waited_for_is_stated_free": None,
    "a_wait_has_no_end": None,
    "who_reacquires_waits_behind_the_mailbox": AHEAD.but(
        release=0.9, reacquire=True, replicas=1, run_s=1.0
    ),
    "what_is_held_is_timed": RETRIES.but(
        hasty=0.8, faults={"broker_kill": 1.0}, fault=0.05, down_s=1.0
    ),
    "what_waits_behind_a_long_run_stays": AHEAD.but(replicas=1),
    "a_holder_that_waits_holds_up_others": WAITING,
    "what_can_never_be_had_waits": BUSY.but(hopeless=0.3),
    "a_limit_keeps_its_first_maximum": LIMITED.but(faults={"change_limit": 1.0}),
    "a_key_stays": LIMITED,
    "what_cannot_be_written_is_ordered": KEPT.but(
        faults={"change_limit": 1.0, "disk_full": 1.0}, fault=0.2, down_s=5.0
    ),
    "no_environment_is_ever_broken": LOADED.but(enter_fail=0.95, environment=0.9, tasks=40),
    "a_copy_wears_never": LOADED,
    "a_fresh_copy_is_kept": LOADED,
    "calls_of_named_actors_are_kept": KILLS,
    "a_redriven_task_is_not_durable": AFTERLIFE[0].profile.but(durable=0.5, redrive=0.8),
    "a_strict_limit_is_taken_late": UNHEARD.but(run_s=2.0),
    "a_new_broker_gives_strict_limits_after_its_window": STARTED,
    "welcome_names_no_strict_limits": FENCED,
    "what_went_wrong_before_is_not_told": RETRIES,
    "a_suspect_waits_for_ever": CRASHES.but(
        replicas=1, hang=0.5, shrunk=frozenset({"isolation_s"})
    ),
    "released_is_not_listed": LINKS.but(release=1.0, at_most_once=0.5, run_s=2.0),
    "repetitions_count": BUSY.but(faults={"repeat": 1.0}, fault=0.1, at_most_once=0.5),
    "kept_is_forgotten_with_its_session": LINKS.but(lost=1.0, fault=0.1),
    "a_reject_burns_a_try": BUSY.but(faults={"pause": 1.0, "resume": 1.0}, fault=0.1),
    "late_frames_count": LINKS.but(lost=0.0, ordered=False, cancel=0.3),
    "what_is_had_from_inside_is_not_counted": LIMITED.but(rival=0.8),
    "a_copy_above_the_minimum_is_entered_at_once": LOADED.but(kinds={"patient": 0.8}),
    "a_copy_stays_where_none_of_those_may_go_that_wait": LOADED.but(
        sticky=0.5, environment=0.0, kinds={"torn": 0.5}
    ),
    "what_was_kept_for_a_client_stays_without_it": OWNED,
    "another_client_of_the_process_plays_no_part": OWNED,
    "an_actor_stays_reserved": CROWDED.but(typed=0.5),
    "two_have_one_name": ALONE.but(kinds={"namesake": 0.8}),
    "one_that_cannot_be_entered_is_tried_for_ever": ALONE.but(
        named=0.9, enter_fail=0.9, release=0.0, pause_s=1.0
    ),
    "any_number_of_calls_may_wait": ALONE.but(kinds={"bounded": 0.9}),
    "a_killed_one_stays_in_its_process": COUNTS.but(faults={"named_kill": 1.0}),
    "a_stopped_run_holds_nothing_strict": UNHEARD.but(cancel=0.5),
    "every_failure_may_be_tried_again": RETRIES,
    "no_actor_is_kept_for_a_suspect": CRASHES.but(hang=0.3),
    "a_burst_waits_for_the_better_one": FOND,
    "it_is_asked_back_for_a_lesser_one": FOND.but(prefetch=2),
    "what_cannot_be_written_is_accepted": KEPT.but(
        faults={"disk_full": 1.0}, fault=0.1, down_s=5.0
    ),
    "what_is_refused_is_redriven": AFTERLIFE[1].profile.but(
        faults={"actor_kill": 1.0, "disk_full": 2.0}, fault=0.2, down_s=5.0, redrive=0.9
    ),
    "what_is_left_of_a_part_is_not_heard": CROWDED.but(
        typed=0.9, release=0.9, reacquire=True, environment=0.0, limit=0.0, clients=1
    ),
    "an_operator_takes_a_strict_limit_back": FENCED.but(faults={"take_back": 1.0}),
    "who_is_busy_for_long_is_waited_for": FOND.but(run_s=3.0, slots=3, pause_s=0.2, churn=0.0),
    "who_leaves_does_not_wait": BUSY.but(faults={"drain_machine": 1.0, "drain_actor": 1.0}),
}
PLANTS = {bug.name: partial(planted, bug) for bug in BUGS} | {
    mutant.name: mutant.plant for mutant in SEARCHED
}
LINES = [
    Mutant("nobody_is_deaf", DEAF, nobody_is_deaf),
    Mutant(
        "the_calls_of_a_lost_run_go_on",
        FAMILIES.but(faults={"actor_kill": 1.0}),
        the_calls_of_a_lost_run_go_on,
    ),
    Mutant(
        "an_older_journal_goes_on_from_its_own_epoch",
        KEPT.but(faults={"old_journal": 1.0, "actor_kill": 1.0}, fault=0.1, down_s=0.3),
        an_older_journal_goes_on_from_its_own_epoch,
    ),
    Mutant(
        "a_run_is_in_its_own_way",
        BUSY.but(named=0.9, release=0.9, reacquire=True, run_s=2.0, cancel=0.0, at_most_once=0.0),
        a_run_is_in_its_own_way,
    ),
    *(
        Mutant(name, profile, line(name, function, old, new))
        for name, profile, function, old, new in OF_LINES
    ),
    *(Mutant(name, profile, PLANTS[name]) for name, profile in SHOWN.items()),
]
