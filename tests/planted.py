"""Planted bugs that a cluster at random does not show: one line of a rule is another one.

Each stands beside the test that fails with it: of one core, where the rule decides something that
nobody outside could tell from chance (who goes first, which of two stays), or that needs a setting,
an operator or an hour of the clock. `tests/sim/rules.py` says which rule each one breaks.
"""

from actor.events import fencing, starting
from actor.events.fencing import Fence
from actor.granting import inventory
from actor.granting.prefetch import Prefetch
from actor.granting.returns import Returns
from actor.holding import retries
from actor.holding.mailbox import Mailbox
from actor.holding.named import NamedReplicas
from actor.holding.reacquiring import Reacquiring
from actor.holding.residents import Replica, Residents
from actor.running.release import Releases
from actor.running.slot import Slots
from actor.supervision import HostCore
from broker.events import (
    defining,
    occupancy,
    recovery,
    redriving,
    residing,
    restoring,
    scaling,
    statements,
    strategies,
    submission,
)
from broker.facts.peers import Actor
from broker.holding import deadlock, fences, lines
from broker.holding.deadlock import Kept
from broker.holding.limits import Limits
from broker.placing import (
    callers,
    environments,
    isolation,
    placement,
    preference,
    replicas,
    requeueing,
)
from broker.placing.copies import Record
from broker.tasks import dead, durable, families, named, retrying
from sdk.core import ClientCore
from tests.support.planting import Bug

BUGS = [
    # --- 7.6 SUBMIT
    Bug(
        "who_was_told_says_a_new_call",
        ClientCore._add_calls,
        "is_told or ",
        "",
        "sdk/test_core.py"
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
        "who_waits_for_its_calls_keeps_its_slots",
        Releases.begin_wait,
        "not is_first or self._run.has_released or self._run.is_entering",
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
        Mailbox.slots_unclaimed,
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
    # --- 9.5 Limits
    Bug(
        "a_holder_that_waits_holds_up_others",
        Limits._is_waiting,
        "r.task.children or self.is_waiting(r.token)",
        "False",
        "broker/test_limits.py::test_a_holder_that_waits_for_its_own_child_lets_the_child_pass",
    ),
    Bug(
        "what_can_never_be_had_waits",
        occupancy.admit,
        "if refused is not None:",
        "if False:",
        "broker/test_limits.py::test_what_can_never_be_had_ends_at_once",
    ),
    Bug(
        "what_is_held_is_refused_at_once",
        submission.admit,
        "command.again and",
        "False and",
        "broker/test_limit_holders.py::test_a_run_whose_limit_is_gone_with_its_broker_is_adopted",
    ),
    Bug(
        "a_limit_keeps_its_first_maximum",
        defining.define,
        "limits.definitions[definition.name] = definition",
        "limits.definitions.setdefault(definition.name, definition)",
        "broker/test_limits_set.py::test_a_limit_can_be_set_raised_lowered_and_deleted",
    ),
    Bug(
        "the_end_gives_a_rate_back",
        Limits._rate,
        "definition.rate if",
        "None if",
        "broker/test_limits_set.py::test_a_rate_gives_back_with_time_and_not_with_the_end",
    ),
    Bug(
        "keys_take_no_turns",
        Limits.turns,
        "Strategy.ROUND_ROBIN",
        "None",
        "broker/test_limits_set.py::test_keys_take_turns_where_that_is_the_strategy",
    ),
    Bug(
        "what_is_had_from_inside_is_not_counted",
        strategies.join_run,
        "number != AT_SCHEDULING",
        "False",
        "broker/test_strategies.py"
        "::test_a_call_that_comes_is_canceled_where_a_run_has_it_from_inside",
    ),
    Bug(
        "a_run_that_asks_always_waits",
        occupancy.ask,
        "not may_wait(broker, task, wanted)",
        "False",
        "broker/test_strategies.py::test_a_run_that_asks_where_there_is_no_room_is_canceled",
    ),
    Bug(
        "one_is_let_go_and_nobody_looks_again",
        Limits._stir,
        "has_woken |= self._let_go(waiter)",
        "has_woken |= self._let_go(waiter); break",
        "broker/test_limits.py::test_all_who_have_room_at_once_are_told_at_once",
    ),
    Bug(
        "a_key_stays",
        Limits.touch,
        "del self.keys[name]",
        "pass",
        "broker/test_limits.py::test_a_key_that_nobody_needs_is_not_there",
    ),
    Bug(
        "what_cannot_be_written_is_ordered",
        defining.obey,
        'broker.records.refusal and command.what != "limit-release"',
        "False",
        "broker/test_limits_set.py::test_while_nothing_can_be_written_an_operator_is_told_why",
    ),
    # --- 9.6 Durable tasks
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
    # --- 9.7 Environments
    Bug(
        "a_copy_above_the_minimum_is_entered_at_once",
        replicas.enter_at,
        "since(record, task) + wait_s(record, task, now)",
        "task.queued_at",
        "broker/test_environments.py"
        "::test_above_the_minimum_a_copy_is_entered_only_after_as_long_as_that_takes",
    ),
    Bug(
        "a_first_load_is_as_long_as_guessed",
        replicas.expected_s,
        "max(guess_s, 2.0 * (now - began))",
        "guess_s",
        "broker/test_environments.py"
        "::test_a_burst_for_an_environment_that_nobody_has_is_entered_once",
    ),
    Bug(
        "a_class_has_no_load_time",
        replicas.expected_s,
        "class_s is None",
        "True",
        "broker/test_environments.py"
        "::test_what_was_never_entered_is_expected_to_take_as_long_as_others_of_its_class",
    ),
    Bug(
        "one_waits_for_a_copy_before_there_is_one",
        replicas.since,
        "not copy.is_warm",
        "False",
        "broker/test_environments.py::test_a_burst_that_has_waited_for_actors_is_entered_once",
    ),
    Bug(
        "no_environment_is_ever_broken",
        environments.failed,
        "record.failures >= settings.environment_failures_max",
        "False",
        "broker/test_environments.py::test_after_three_failures_its_tasks_end_at_once",
    ),
    Bug(
        "what_is_broken_now_is_not_looked_for",
        environments.failed,
        "known.broken_until = max(known.broken_until, record.broken_until)",
        "pass",
        "broker/test_environments.py::test_a_broken_environment_is_let_try_once_after_a_minute",
    ),
    Bug(
        "a_new_policy_has_the_old_minimum",
        Record.take,
        "0 if reuse.is_fresh else reuse.replicas_min",
        'getattr(self, "copies_min", reuse.replicas_min)',
        "broker/test_upkeep.py::test_a_new_policy_holds_for_the_copies_that_are_there",
    ),
    Bug(
        "a_copy_wears_never",
        Residents._give_up_worn,
        "if is_worn and",
        "if False and",
        "actor/test_entering.py::test_a_copy_is_given_up_after_its_last_task",
    ),
    Bug(
        "a_copy_is_idle_while_a_run_is_away",
        environments.follow,
        "identity in away",
        "False",
        "broker/test_environments.py"
        "::test_a_copy_is_not_given_up_in_the_middle_of_a_method_that_waits_for_its_own_call",
    ),
    Bug(
        "a_copy_is_given_up_under_a_run",
        Residents.evict,
        "or replica.away",
        "or False",
        "actor/test_residents.py::test_a_copy_is_not_given_up_while_a_run_is_to_come_back_to_it",
    ),
    Bug(
        "one_that_a_run_comes_back_to_leaves_first",
        Residents._saved,
        "bool(replica.away)",
        "False",
        "actor/test_residents.py::test_one_that_a_run_is_to_come_back_to_is_the_last_that_leaves",
    ),
    Bug(
        "one_that_a_run_comes_back_to_gives_way_as_any_other",
        Actor.ease,
        "not self.away or",
        "True or",
        "broker/test_environments.py::test_an_idle_copy_gives_way_before_one_of_a_run_that_waits",
    ),
    Bug(
        "a_run_holds_on_to_its_copy_after_its_end",
        environments.came_off,
        "broker.backlog.matching.improve(actor)",
        "pass",
        "broker/test_environments.py"
        "::test_a_copy_is_idle_as_others_once_the_run_has_ended_that_held_on_to_it",
    ),
    Bug(
        "a_copy_wears_under_a_run",
        Replica.tasks_left,
        "if self.away:",
        "if False:",
        "actor/test_entering.py::test_a_worn_copy_stays_until_the_runs_that_wait_have_ended",
    ),
    Bug(
        "a_fresh_copy_is_left_under_its_run",
        Residents.leave,
        "elif replica.warmth is WARM:",
        "elif False:",
        "actor/test_entering.py::test_a_fresh_copy_is_kept_for_its_run_that_waits",
    ),
    Bug(
        "a_fresh_copy_leaves_before_what_is_idle",
        Residents._make_room,
        "(idle is None or idle.away)",
        "True",
        "actor/test_entering.py"
        "::test_a_fresh_copy_that_is_kept_for_its_run_leaves_after_what_is_idle",
    ),
    Bug(
        "what_nobody_calls_takes_the_place_of_a_fresh_copy",
        Actor.has_place_for_nobody,
        "+ len(aside - self.copies.keys())",
        "",
        "broker/test_upkeep.py::test_no_copy_is_entered_where_a_run_has_its_own_put_aside",
    ),
    Bug(
        "a_fresh_copy_is_kept",
        Replica.tasks_left,
        "1 if reuse.is_fresh else reuse.max_tasks",
        "reuse.max_tasks",
        "actor/test_entering.py::test_a_fresh_copy_takes_one_task_and_offers_nothing",
    ),
    Bug(
        "who_is_called_is_an_older_version",
        environments.Environments.successor,
        "record.asked_at >= newest.since",
        "False",
        "broker/test_upkeep.py::test_a_version_that_is_called_beside_the_newer_one_keeps_its_place",
    ),
    Bug(
        "what_was_kept_for_a_client_stays_without_it",
        callers.left,
        "if others:",
        "if True:",
        "broker/test_callers.py::test_what_is_kept_for_a_client_goes_with_it",
    ),
    Bug(
        "another_client_of_the_process_plays_no_part",
        callers.left,
        "if others:",
        "if False:",
        "broker/test_callers.py::test_it_stays_while_another_client_of_the_process_is_here",
    ),
    # --- 9.8 Circles
    Bug(
        "what_others_of_the_run_hold_is_kept",
        lines.keeps,
        "within is None or n == AT_SCHEDULING or n in within",
        "True",
        "broker/test_deadlock.py::test_what_is_not_kept_during_the_wait_closes_no_circle",
    ),
    Bug(
        "a_place_that_is_kept_is_free",
        Kept._lacks_place,
        "len(actor.copies) < actor.places",
        "True",
        "broker/test_deadlock.py"
        "::test_a_run_whose_environment_had_to_leave_lacks_a_place_where_others_keep_all",
    ),
    Bug(
        "a_worn_copy_has_turns",
        deadlock.is_worn,
        "actor.environments.get(place.id) == WORN",
        "False",
        "broker/test_deadlock.py"
        "::test_a_copy_that_takes_no_more_calls_until_it_is_left_closes_a_circle",
    ),
    Bug(
        "a_slot_to_be_had_again_is_free",
        Kept._lacks_unclaimed,
        "claim in self._keepers",
        "False",
        "broker/test_deadlock.py::test_a_slot_that_a_run_is_to_have_again_is_no_way_out_for_a_call",
    ),
    Bug(
        "who_asked_before_is_not_ahead",
        Kept._lacks_behind,
        "one.order < wait.order",
        "False",
        "broker/test_deadlock.py::test_a_run_waits_for_its_slots_behind_one_that_asked_before_it",
    ),
    Bug(
        "an_actor_stays_reserved",
        deadlock.look_at_reserved,
        "find(broker, reserved) is None",
        "True",
        "broker/test_slots.py"
        "::test_a_reservation_is_left_where_its_slots_are_held_by_who_waits_for_a_call_behind_it",
    ),
    Bug(
        "what_is_left_of_a_part_is_not_heard",
        statements.actor_beat,
        "command.parts or broker.limits.waits.parts",
        "False",
        "broker/test_deadlock.py::test_what_is_left_of_a_part_that_was_given_back_is_kept",
    ),
    Bug(
        "a_hello_says_nothing_of_parts",
        inventory.make_hello,
        "part_of(a)",
        "None",
        "actor/test_awaiting.py::test_what_is_left_of_a_part_is_said_with_hello_and_each_heartbeat",
    ),
    Bug(
        "who_waits_for_a_part_lacks_all",
        deadlock.lacked,
        "wait.slots is None",
        "True",
        "broker/test_deadlock.py::test_a_run_that_waits_for_a_part_lacks_no_more_than_that",
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
    # --- 9.10 Named actors
    Bug(
        "a_call_burns_a_retry_for_others",
        requeueing.requeue,
        'burns in ("crash", "shared", "loss")',
        'burns in ("crash", "shared", "loss") or (is_named and burns is not None)',
        "broker/test_named.py"
        "::test_a_call_whose_process_ended_for_others_runs_again_and_burns_no_retry",
    ),
    Bug(
        "other_groups_enter_it_behind_one_that_came_back",
        Returns._hand_back_behind,
        "environment.pools",
        "[environment.pool]",
        "actor/test_named_groups.py"
        "::test_what_is_behind_an_entry_that_was_handed_back_comes_back_in_all_groups",
    ),
    Bug(
        "what_is_behind_one_that_came_back_is_waited_for",
        requeueing.rejected,
        "named.calls_behind(broker, task, actor)",
        "()",
        "broker/test_named_groups.py"
        "::test_what_is_on_its_way_behind_a_call_that_cannot_enter_it_is_queued_again",
    ),
    Bug(
        "a_canceled_call_takes_the_checkpoint_along",
        NamedReplicas.canceled,
        "self._kept.add(environment.id)",
        "self._restoring.pop(environment.id)",
        "actor/test_named.py"
        "::test_a_checkpoint_that_came_with_a_canceled_call_is_where_the_next_begins",
    ),
    Bug(
        "a_checkpoint_that_was_lost_is_not_said_again",
        named.greet,
        "record.is_unsure = True",
        "record.is_unsure = False",
        "broker/test_named.py::test_a_checkpoint_that_was_lost_with_a_canceled_call_is_said_again",
    ),
    Bug(
        "two_have_one_name",
        named.make,
        "if taken is not None:",
        "if False:",
        "broker/test_named.py::test_two_that_make_one_name_at_once_get_the_same_one",
    ),
    Bug(
        "the_lower_generation_stays",
        residing.is_newer,
        "generation > known.generation)",
        "generation < known.generation)",
        "broker/test_named.py::test_of_two_holders_the_higher_generation_stays",
    ),
    Bug(
        "one_that_cannot_be_entered_is_tried_for_ever",
        named.failed,
        "record.failures >= settings.environment_failures_max",
        "False",
        "broker/test_named.py"
        "::test_one_that_cannot_be_entered_is_tried_again_later_and_not_for_ever",
    ),
    Bug(
        "any_number_of_calls_may_wait",
        named.admit,
        "record.calls_queued >= most",
        "False",
        "broker/test_named.py::test_more_calls_than_may_wait_are_refused",
    ),
    Bug(
        "a_generation_is_never_over",
        named.may_offer,
        "record is None or record.home is actor",
        "True",
        "broker/test_inscribing.py"
        "::test_a_run_of_a_process_that_was_lost_is_stopped_when_it_comes_back",
    ),
    Bug(
        "a_killed_one_stays_in_its_process",
        named.end,
        "if record.home is not None:",
        "if False:",
        "broker/test_named.py::test_killed_it_leaves_its_process_and_its_calls_end",
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
    # --- 9.12 Strict limits
    Bug(
        "a_stopped_run_holds_nothing_strict",
        fencing.holds,
        "assignment.held is Held.WAITING",
        "assignment.is_stopped or assignment.held is Held.WAITING",
        "actor/test_fencing.py::test_a_run_that_was_stopped_holds_what_it_has",
    ),
    Bug(
        "what_is_held_becomes_strict",
        defining.check_strict,
        "any(key.holders for key in busy)",
        "False",
        "broker/test_fences.py::test_what_is_held_cannot_be_made_strict",
    ),
    Bug(
        "actors_are_not_told_what_is_strict",
        defining.define,
        "tell_actors(broker)",
        "broker.limits.strict = frozenset({definition.name})",
        "broker/test_fences.py::test_actors_learn_with_a_new_session_what_is_strict",
    ),
    Bug(
        "the_word_of_a_host_that_is_gone_does_not_count",
        fences.host_gone,
        "max(actor.vouched_at, host.heard_at)",
        "actor.vouched_at",
        "broker/test_fences.py::test_a_host_that_was_replaced_may_have_let_its_actor_go_on",
    ),
    Bug(
        "a_part_of_what_is_lost_is_free",
        Limits.is_strict,
        "any(base_of",
        "all(base_of",
        "broker/test_fences.py"
        "::test_a_limit_beside_a_strict_one_is_kept_with_it_and_others_are_not",
    ),
    Bug(
        "a_host_speaks_for_whom_a_new_broker_never_heard",
        HostCore.vouches,
        "ward.renewed_at >= self._epoch_at",
        "True",
        "actor/test_supervision.py"
        "::test_a_host_that_a_new_broker_hears_does_not_speak_for_a_holder_that_it_has_not_heard",
    ),
    Bug(
        "who_holds_a_strict_limit_goes_on",
        fencing.expire,
        "if fence.is_held:",
        "if False:",
        "actor/test_fencing.py"
        "::test_who_holds_a_strict_limit_ends_a_part_of_a_lease_after_it_was_heard",
    ),
    Bug(
        "a_strict_limit_is_taken_late",
        Fence.admits,
        "now < self.renewed_at + FENCE_ADMIT_SHARE * self.lease_s",
        "True",
        "actor/test_fencing.py::test_an_assignment_that_comes_late_is_handed_back",
    ),
    Bug(
        "the_host_of_a_lost_holder_is_told_nothing",
        fences.order,
        "host is not None and incarnation in host.attested",
        "False",
        "broker/test_fences.py"
        "::test_a_host_that_is_heard_is_told_to_kill_and_the_limit_is_free_with_the_death",
    ),
    Bug(
        "a_new_broker_gives_strict_limits_after_its_window",
        occupancy.tick,
        "broker.had_earlier or limits.strict",
        "broker.had_earlier",
        "broker/test_fences.py::test_nobody_has_a_strict_limit_before_a_lease_is_over",
    ),
    Bug(
        "an_operator_takes_a_strict_limit_back",
        defining.force,
        "broker.limits.is_strict(run)",
        "False",
        "broker/test_fences.py::test_an_operator_cannot_let_another_one_in_beside_a_strict_holder",
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
