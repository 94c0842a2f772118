"""Planted bugs of environments and named actors: see `tests.planted`."""

from actor.events import resetting, starting
from actor.events.entering import Entering
from actor.events.stopping import Stopping
from actor.granting.returns import Returns
from actor.holding.mailbox import Mailbox
from actor.holding.named import NamedReplicas
from actor.holding.residents import Replica, Residents
from actor.running.environment import Environments
from actor.running.slot import Slots
from broker.events import (
    residing,
)
from broker.facts.credit import CreditAccount
from broker.facts.peers import Actor
from broker.placing import (
    callers,
    environments,
    replicas,
    requeueing,
)
from broker.placing.copies import Record
from broker.tasks import named, naming
from tests.support.planting import Bug

ENVIRONMENTS = [
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
        "a_copy_stays_where_none_of_those_may_go_that_wait",
        replicas.is_astray,
        "isdisjoint(record.copies)",
        "isdisjoint(record.copies) is None",
        "broker/test_idle_copies.py"
        "::test_the_only_copy_that_there_may_be_moves_to_where_those_may_go_that_wait",
    ),
    Bug(
        "a_copy_stays_in_an_actor_that_takes_no_work",
        replicas.moves_at,
        "if copy.actor.closed",
        "if False",
        "broker/test_idle_copies.py"
        "::test_the_only_copy_leaves_a_paused_actor_once_waiting_cost_as_much_as_to_enter_it",
    ),
    Bug(
        "a_copy_leaves_an_actor_that_is_paused_for_a_moment",
        replicas.moves_at,
        "max(since(record, task), min(closed))",
        "since(record, task)",
        "broker/test_idle_copies.py"
        "::test_what_waited_long_before_its_actor_was_paused_waits_for_it_from_then_on",
    ),
    Bug(
        "a_copy_is_given_up_for_one_that_can_go_nowhere",
        replicas.moving_copy,
        "shape.queue.crew.has_room()",
        "True",
        "broker/test_idle_copies.py"
        "::test_a_copy_stays_while_those_that_may_not_go_there_may_go_nowhere_else_either",
    ),
    Bug(
        "a_first_load_is_as_long_as_guessed",
        replicas.expected_s,
        "max(guess_s, 2.0 * (now - began))",
        "guess_s",
        "broker/test_bursts.py::test_a_burst_for_an_environment_that_nobody_has_is_entered_once",
    ),
    Bug(
        "a_class_has_no_load_time",
        replicas.expected_s,
        "class_s is None",
        "True",
        "broker/test_bursts.py"
        "::test_what_was_never_entered_is_expected_to_take_as_long_as_others_of_its_class",
    ),
    Bug(
        "one_waits_for_a_copy_before_there_is_one",
        replicas.since,
        "record.is_awaited(copy)",
        "False",
        "broker/test_bursts.py::test_a_burst_that_has_waited_for_actors_is_entered_once",
    ),
    Bug(
        "what_hangs_counts_as_what_serves",
        Record.usable,
        " - len(self.hanging)",
        "",
        "broker/test_environments.py"
        "::test_one_that_hangs_was_waited_for_though_an_operator_let_it_be_tried_again",
    ),
    Bug(
        "no_environment_is_ever_broken",
        environments.failed,
        "record.failures >= settings.environment_failures_max",
        "False",
        "broker/test_environments.py::test_after_three_failures_its_tasks_end_at_once",
    ),
    Bug(
        "what_waits_behind_a_failed_environment_tries_it_at_once",
        Returns.reject,
        "or failure is not None",
        "or False",
        "actor/test_entering.py"
        "::test_what_waits_behind_a_failed_environment_does_not_try_it_at_once",
    ),
    Bug(
        "what_comes_back_to_a_broken_environment_waits",
        requeueing.requeue,
        "if now < broker.environments.broken_until and",
        "if False and",
        "broker/test_bursts.py"
        "::test_what_is_handed_back_once_its_environment_is_broken_ends_at_once",
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
        "broker/test_idle_copies.py"
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
        "broker/test_idle_copies.py::test_an_idle_copy_gives_way_before_one_of_a_run_that_waits",
    ),
    Bug(
        "a_run_holds_on_to_its_copy_after_its_end",
        environments.came_off,
        "broker.backlog.matching.improve(actor)",
        "pass",
        "broker/test_idle_copies.py"
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
        "what_leaves_takes_of_the_time_to_enter",
        Entering.hold,
        "inf",
        "self.until[assignment.token]",
        "actor/test_entering.py::test_what_leaves_first_takes_none_of_the_time_to_enter",
    ),
    Bug(
        "a_reset_may_take_for_ever",
        resetting.goes_on,
        "timeout_s is None",
        "True",
        "actor/test_resetting.py::test_the_outcome_of_a_run_is_said_though_its_reset_hangs",
    ),
    Bug(
        "what_a_run_has_come_to_is_lost_with_a_late_reset",
        resetting.goes_on,
        "(ending or late)",
        "late",
        "actor/test_resetting.py::test_a_result_that_is_too_large_is_so_after_a_late_reset_as_well",
    ),
    Bug(
        "an_event_loop_is_held_up_for_ever",
        Stopping.hold_up,
        "self.force_at = min(self.force_at, now + self._grace_s)",
        "self.force_at = self.force_at",
        "actor/test_stopping.py"
        "::test_a_process_ends_whose_event_loop_is_held_up_and_its_runs_have_time_until_then",
    ),
    Bug(
        "a_copy_is_left_under_others_whose_reset_failed",
        Residents.spoil,
        "self._give_up_worn(replica)",
        "self._give_up(identity) or self.worn.append(identity)",
        "actor/test_residents.py::test_a_copy_whose_reset_failed_is_left_once_nobody_is_inside",
    ),
    Bug(
        "a_fresh_copy_is_left_under_its_run",
        Residents.leave,
        "elif replica.warmth is WARM and",
        "elif False and",
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
        "+ aside",
        "",
        "broker/test_upkeep.py::test_no_copy_is_entered_where_a_run_has_its_own_put_aside",
    ),
    Bug(
        "calls_with_copies_of_their_own_share_one",
        Mailbox.put,
        "if assignment.recipe.is_for_one:",
        "if False:",
        "actor/test_entering.py::test_each_run_of_a_fresh_environment_has_a_place_of_its_own",
    ),
    Bug(
        "a_copy_for_one_run_takes_no_room_on_its_way",
        CreditAccount._take_turns,
        "elif not pool:",
        "elif False:",
        "broker/test_environments.py::test_each_call_with_a_copy_of_its_own_takes_a_place",
    ),
    Bug(
        "runs_with_copies_of_their_own_have_one_place",
        Actor.count_inside,
        "+= 1",
        "= 1",
        "broker/test_deadlock_slots.py"
        "::test_places_of_runs_that_have_copies_of_their_own_close_a_circle",
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
        "broker/test_upkeep_versions.py::test_a_version_that_is_called_beside_the_newer_one_keeps_its_place",
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
    Bug(
        "a_run_comes_back_to_another_instance",
        Slots._held,
        "may_wait[0] if may_wait else None",
        "None",
        "actor/test_coming_back.py::test_runs_come_back_to_what_another_task_has_entered_before_them",
    ),
    Bug(
        "a_copy_that_had_to_leave_is_nobodys_when_it_is_entered_again",
        Residents._begin,
        "replica.away = former.away",
        "pass",
        "actor/test_coming_back.py"
        "::test_a_copy_that_had_to_leave_is_the_runs_own_again_once_anybody_has_entered_it",
    ),
    Bug(
        "what_has_not_returned_from_its_exit_is_entered_again",
        Environments._load,
        "held is not None and not held.is_left.is_set()",
        "False",
        "actor/test_coming_back.py::test_nobody_comes_back_to_a_copy_whose_exit_has_not_returned",
    ),
    Bug(
        "who_enters_again_may_take_for_ever",
        starting.start_all,
        "if regained.loads:",
        "if False:",
        "actor/test_coming_back.py::test_a_run_that_comes_back_and_hangs_in_enter_has_had_its_time",
    ),
    # --- 9.10 Named actors
    Bug(
        "a_call_burns_a_retry_for_others",
        requeueing.requeue,
        'burns in ("crash", "shared", "loss")',
        'burns in ("crash", "shared", "loss") or (is_named and burns is not None)',
        "broker/test_named_crashes.py"
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
        "broker/test_named_crashes.py::test_a_checkpoint_that_was_lost_with_a_canceled_call_is_said_again",
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
        "broker/test_named_restarts.py::test_of_two_holders_the_higher_generation_stays",
    ),
    Bug(
        "a_process_that_enters_it_again_replaces_itself",
        residing.resides,
        "former is not None and former is not actor",
        "former is not None",
        "broker/test_named_restarts.py"
        "::test_a_process_where_a_later_call_entered_it_has_not_replaced_itself",
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
        "one_that_may_come_back_is_entered",
        naming.NamedActor.is_shut,
        "self.is_awaited or ",
        "",
        "broker/test_inscribing.py"
        "::test_who_comes_back_and_is_lost_has_no_follower_before_its_process_had_the_time",
    ),
    Bug(
        "who_comes_back_by_a_run_is_not_bound",
        named.goes_on,
        "naming.know(broker, record, task.template)",
        "pass",
        "broker/test_inscribing.py"
        "::test_who_comes_back_and_is_lost_has_no_follower_before_that_is_on_disk",
    ),
    Bug(
        "what_has_ended_in_its_process_is_not_heard",
        residing.resides,
        "for client, numbers in command.ended",
        "for client, numbers in ()",
        "broker/test_named_doubt.py::test_a_call_that_has_ended_in_a_process_that_a_started_broker"
        "_finds_does_not_run_again",
    ),
    Bug(
        "a_killed_one_stays_in_its_process",
        named.end,
        "if record.home is not None:",
        "if False:",
        "broker/test_named.py::test_killed_it_leaves_its_process_and_its_calls_end",
    ),
]
