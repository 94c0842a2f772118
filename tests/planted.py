"""Planted bugs that a cluster at random does not show: one line of a rule is another one.

Each stands beside the test that fails with it: of one core, where the rule decides something that
nobody outside could tell from chance (who goes first, which of two stays), or that needs a setting,
an operator or an hour of the clock. `tests/sim/rules.py` says which rule each one breaks.
"""

from actor.events import starting
from actor.granting.prefetch import Prefetch
from actor.holding import retries
from actor.holding.mailbox import Mailbox
from actor.holding.occupying import Occupying
from actor.holding.reacquiring import Reacquiring
from actor.holding.residents import Residents
from actor.running.release import Releases
from actor.running.slot import Slots
from broker.events import (
    recovery,
    redriving,
    restoring,
    scaling,
    submission,
)
from broker.placing import (
    isolation,
    placement,
    preference,
)
from broker.tasks import dead, durable, families, forgetting, retrying
from sdk.core import ClientCore
from tests.planted_environments import ENVIRONMENTS
from tests.planted_limits import LIMITS
from tests.support.planting import Bug

BUGS = [
    *LIMITS,
    *ENVIRONMENTS,
    # --- 7.6 SUBMIT
    Bug(
        "who_was_told_says_a_new_call",
        ClientCore._add_calls,
        "is_told or ",
        "",
        "sdk/test_sessions.py"
        "::test_a_crash_beside_others_counts_where_the_same_broker_has_given_its_client_up",
    ),
    # --- 8.4 A restarted broker
    Bug(
        "what_it_gave_itself_is_adopted",
        recovery.offered,
        "not families.may_come(broker, token)",
        "broker.window_ends_at is None",
        "broker/test_recovery.py"
        "::test_what_was_canceled_while_its_actor_was_away_is_not_adopted_in_the_window",
    ),
    Bug(
        "what_it_gave_with_an_earlier_epoch_is_adopted",
        families.may_come,
        "parent[0] not in broker.epochs",
        "parent[0] != broker.epoch",
        "broker/test_recovery.py"
        "::test_what_was_canceled_before_the_epoch_rose_is_not_adopted_in_the_window",
    ),
    Bug(
        "the_lower_token_wins",
        recovery.beats,
        "item.token > task.token",
        "item.token < task.token",
        "broker/test_recovery.py::test_of_two_adopted_runs_the_higher_token_wins",
    ),
    Bug(
        "what_waits_adopts_nothing",
        recovery.offered,
        "State.QUEUED | State.HELD |",
        "State.HELD |",
        "broker/test_recovery.py"
        "::test_a_run_offered_after_the_window_is_adopted_while_its_task_waits",
    ),
    Bug(
        "an_older_journal_is_believed",
        recovery.adopt,
        "writing.must_arm(task)",
        "False",
        "broker/test_durable_keys.py"
        "::test_a_run_of_which_an_older_journal_does_not_know_is_adopted_and_never_again",
    ),
    Bug(
        "what_comes_before_its_parent_has_none",
        recovery.adopt,
        "if broker.unparented:",
        "if False:",
        "broker/test_recovery.py::test_the_calls_of_an_adopted_run_are_canceled_with_it",
    ),
    Bug(
        "who_is_offered_late_has_none_of_its_calls",
        families.end_window,
        "broker.unparented.setdefault(parent, []).append(task)",
        "pass",
        "broker/test_recovery.py"
        "::test_the_call_of_a_run_that_was_offered_after_the_window_went_on_without_it",
    ),
    Bug(
        "who_is_stopped_leaves_its_calls",
        recovery.stop,
        "if broker.unparented or broker.window_ends_at is not None:",
        "if False:",
        "broker/test_recovery.py"
        "::test_the_call_of_a_run_that_was_offered_and_stopped_went_on_without_it",
    ),
    Bug(
        "what_comes_after_its_run_was_over_goes_on",
        families.ended,
        "if may_come(broker, parent):",
        "if False:",
        "broker/test_recovery.py"
        "::test_a_call_that_came_in_the_window_once_its_adopted_run_was_over_went_on",
    ),
    # --- 8.5 Waiting too long
    Bug(
        "what_is_held_is_timed",
        submission.is_placed_again,
        "broker.held[task] = None",
        "broker.held[task] = broker.deadlines.set(task, now)",
        "broker/test_patience.py::test_a_held_task_does_not_end_before_it_is_queued",
    ),
    # --- 9.1 Release and reacquire
    Bug(
        "who_asks_without_any_time_is_too_late",
        starting.expire,
        "start_all(core)",
        "pass",
        "actor/test_giving_back.py::test_slots_that_are_free_are_had_again_without_any_time",
    ),
    Bug(
        "who_makes_way_gives_its_limits_back",
        Releases._give_for_wait,
        "keeps_limits=keep_limits",
        "keeps_limits=False",
        "actor/test_giving_back.py"
        "::test_who_is_told_so_gives_its_slots_back_and_has_them_again_with_the_limit",
    ),
    Bug(
        "who_waits_for_its_calls_keeps_its_slots",
        Releases.begin_wait,
        "self._run.has_released or self._run.is_entering",
        "True",
        "actor/test_release.py::test_a_run_that_waits_for_calls_of_its_own_gives_its_slots_back_meanwhile",
    ),
    Bug(
        "who_reacquires_waits_behind_the_mailbox",
        starting.start_all,
        "if mailbox.reacquiring else",
        "if mailbox.reacquiring and not mailbox.waiting else",
        "actor/test_reacquire.py::test_who_reacquires_goes_ahead_of_the_mailbox",
    ),
    Bug(
        "what_is_waited_for_is_stated_free",
        Mailbox.claims,
        "self.reacquiring.values()",
        "()",
        "actor/test_reacquire.py::test_what_is_waited_for_is_not_stated_free",
    ),
    Bug(
        "a_wait_has_no_end",
        Reacquiring.expire,
        "now >= ask.until",
        "False",
        "actor/test_reacquire.py::test_a_wait_ends_with_its_time_and_leaves_the_task_released",
    ),
    Bug(
        "what_comes_while_another_thread_waits_is_kept",
        Occupying.told,
        "gives_back and not command.code",
        "False",
        "actor/test_crossing.py"
        "::test_limits_that_come_for_a_thread_while_another_one_waits_go_back",
    ),
    Bug(
        "what_was_said_of_the_wait_before_counts",
        Occupying.told,
        "(self._session.number, received) < run.withdrawn",
        "False",
        "actor/test_crossing.py"
        "::test_what_the_broker_says_of_limits_that_a_run_gave_up_is_not_for_its_next_wait",
    ),
    Bug(
        "what_comes_again_is_kept_through_a_wait_that_began_meanwhile",
        Releases._keep_for_wait,
        "self._waits and is_kept",
        "False",
        "actor/test_crossing.py"
        "::test_a_wait_that_begins_while_another_thread_gets_its_slots_again_has_them_given_back",
    ),
    Bug(
        "what_another_thread_gave_back_is_held",
        Releases._left,
        "in self._gives",
        "in self._gives[:0]",
        "actor/test_crossing.py"
        "::test_a_wait_that_begins_before_another_thread_saw_its_slots_gives_back_all",
    ),
    Bug(
        "any_number_is_released",
        Slots.count_released,
        "len(self._released) >= most",
        "False",
        "actor/test_release.py::test_at_the_bound_release_says_so",
    ),
    # --- 9.2 Types and costs
    Bug(
        "what_is_being_loaded_has_turns",
        Residents.turns_granted,
        "replica.warmth is Warmth.LOADING",
        "False",
        "actor/test_turns.py"
        "::test_while_it_is_entered_no_turn_is_granted_and_who_comes_waits_for_that_alone",
    ),
    # --- 9.3 Waiting ahead
    Bug(
        "what_waits_behind_a_long_run_stays",
        Prefetch.look,
        "waits_s < self.patience_s",
        "True",
        "actor/test_prefetch.py"
        "::test_what_waits_behind_a_long_run_is_handed_back_until_a_run_has_ended",
    ),
    # --- 9.6 Durable tasks
    Bug(
        "force_stops_at_the_parent",
        families.settle,
        "why.value, force=force",
        "why.value, force=False",
        "broker/test_families.py::test_force_reaches_the_calls_of_a_task_as_well",
    ),
    Bug(
        "what_others_had_is_forgotten_of_who_may_say_it_again",
        forgetting.put_away,
        "record.attached or record.may_return",
        "record.attached",
        "broker/test_durable.py"
        "::test_an_at_most_once_call_does_not_start_again_for_a_client_that_others_outlasted",
    ),
    Bug(
        "time_stands_while_no_broker_runs",
        restoring.restore_task,
        "max(0.0, age_s)",
        "0.0",
        "broker/test_durable.py::test_what_passes_while_no_broker_runs_counts",
    ),
    Bug(
        "what_cannot_be_written_is_accepted",
        durable.keep,
        "elif refused := refused or writing.not_now(broker, task):",
        "elif False:",
        "broker/test_durable.py"
        "::test_while_the_disk_is_full_new_durable_tasks_are_refused_and_others_are_not",
    ),
    Bug(
        "what_was_offered_waits_for_no_room",
        durable.keep,
        "if refused:",
        "if refused or writing.not_now(broker, task):",
        "broker/test_durable_restart.py::test_an_outcome_that_came_before_its_call_waits_for_the_journal",
    ),
    Bug(
        "what_went_wrong_is_told_unwritten",
        retrying.say_requeued,
        "if not isinstance(task.record, Record):",
        "if True:",
        "broker/test_durable_restart.py::test_what_went_wrong_is_told_after_its_commit",
    ),
    Bug(
        "what_went_wrong_is_told_unwritten_to_who_comes_back",
        retrying.say_again,
        " or trouble.sequence > broker.committed_sequence",
        "",
        "broker/test_durable_restart.py"
        "::test_what_went_wrong_is_told_after_its_commit_to_who_comes_back_as_well",
    ),
    Bug(
        "a_cancel_reaches_no_durable_call",
        families.goes_on,
        "why in _LEAVING or",
        "why is not Parting.LOST or",
        "broker/test_families.py::test_a_durable_call_is_canceled_with_the_task_that_made_it",
    ),
    # --- 9.9 More actors
    Bug(
        "those_that_come_are_not_counted",
        scaling.ask_for,
        "wanted -= sum(coming[host] for host in hosts)",
        "pass",
        "broker/test_scaling.py::test_a_burst_has_as_many_started_as_the_policy_allows",
    ),
    Bug(
        "what_does_not_come_is_waited_for",
        scaling.count_coming,
        "now < host.asked_until",
        "True",
        "broker/test_scaling.py::test_what_does_not_come_is_asked_for_again",
    ),
    Bug(
        "who_may_leave_takes_turns",
        scaling.rank,
        "last + place * BEHIND",
        "0",
        "broker/test_scaling.py::test_calls_one_at_a_time_keep_one_actor",
    ),
    Bug(
        "nobody_takes_the_place_of_one_that_was_let_go",
        scaling.rank,
        "max(0, actors_min - len(within))",
        "0",
        "broker/test_scaling.py::test_one_above_the_minimum_takes_the_place_of_one_that_was_let_go",
    ),
    Bug(
        "only_what_is_there_at_a_look_keeps_an_actor",
        scaling.let_go,
        " or actor.used_at != actor.used_before",
        "",
        "broker/test_scaling.py::test_calls_that_end_between_two_looks_keep_their_actor",
    ),
    # --- 9.11 Dead tasks
    Bug(
        "calls_of_named_actors_are_kept",
        dead.keep,
        "template.costs.named or not",
        "not",
        "broker/test_named.py::test_a_call_that_ended_badly_is_not_kept_as_dead",
    ),
    Bug(
        "the_dead_are_without_number",
        dead.bound,
        "len(known.by_name) > settings.dead_tasks_max or",
        "",
        "broker/test_dead.py::test_the_oldest_go_first",
    ),
    Bug(
        "a_redriven_task_is_not_durable",
        redriving.template_of,
        "template.head.durable or not broker.records.has_journal",
        "True",
        "broker/test_dead.py::test_it_is_the_journals_where_there_is_one",
    ),
    Bug(
        "what_is_refused_is_redriven",
        redriving.submit,
        "not was_there and",
        "False and",
        "broker/test_dead.py::test_what_is_refused_at_once_stays_as_dead_as_it_was",
    ),
    # --- 10.1 Retries
    Bug(
        "every_failure_may_be_tried_again",
        retries.is_retriable,
        "not isinstance(error, NEVER) and",
        "",
        "actor/test_retries.py::test_a_failure_may_be_tried_again",
    ),
    Bug(
        "what_went_wrong_before_is_not_told",
        retrying.tell_history,
        "if not trouble.history:",
        "if True:",
        "broker/test_retrying.py"
        "::test_the_last_error_is_the_outcome_and_has_what_went_wrong_before",
    ),
    # --- 10.2 Running alone
    Bug(
        "a_suspect_passes_the_line",
        placement.covers,
        "not limits.lets_go(task.call.limits, task.rank)",
        "False",
        "broker/test_isolation.py::test_a_suspect_with_limits_waits_for_room",
    ),
    Bug(
        "no_actor_is_kept_for_a_suspect",
        isolation.look,
        "isolation.kept is None and able",
        "False",
        "broker/test_isolation.py::test_no_suspect_goes_to_an_actor_that_holds_something",
    ),
    Bug(
        "a_suspect_waits_for_ever",
        isolation.look,
        "now >= until",
        "False",
        "broker/test_isolation.py::test_nobody_waits_for_an_actor_of_its_own_for_ever",
    ),
    # --- 11.2 Waiting for a better actor
    Bug(
        "who_is_busy_for_long_is_waited_for",
        preference.is_worth_it,
        "not offers.soon(working, wait.within_s)",
        "False",
        "broker/test_preference.py::test_it_does_not_wait_where_runs_take_longer",
    ),
    Bug(
        "a_burst_waits_for_the_better_one",
        preference.is_worth_it,
        "shape.count * wait.run_s <= places * wait.within_s",
        "True",
        "broker/test_preference.py::test_a_burst_that_would_take_longer_spreads_at_once",
    ),
    Bug(
        "it_is_asked_back_for_a_lesser_one",
        preference.stays_until,
        "task.queued_at + shape.wait.within_s",
        "-inf",
        "broker/test_preference.py::test_a_better_one_has_it_wait_ahead_and_it_stays_there",
    ),
]
