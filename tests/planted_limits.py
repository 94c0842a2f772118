"""Planted bugs of limits, of circles over them, and of strict ones: see `tests.planted`."""

from actor.events import fencing
from actor.events.fencing import Fence
from actor.events.stopping import Stopping
from actor.granting import inventory
from actor.supervision import HostCore
from broker.events import (
    defining,
    holders,
    occupancy,
    statements,
    strategies,
    submission,
)
from broker.holding import deadlock, fences, kept, lines
from broker.holding.kept import Kept
from broker.holding.limits import Limits
from broker.waiting import reservation
from tests.support.planting import Bug

LIMITS = [
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
        "who_waited_takes_from_a_rate_again",
        occupancy.ask,
        "if not limits.is_decaying(name)",
        "",
        "broker/test_limits_set.py::test_a_run_that_waited_does_not_take_from_a_rate_again",
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
        "has_woken |= self.let_go(waiter)",
        "has_woken |= self.let_go(waiter); break",
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
        "actor.count_inside().total() < actor.places",
        "True",
        "broker/test_deadlock_slots.py"
        "::test_a_run_whose_environment_had_to_leave_lacks_a_place_where_others_keep_all",
    ),
    Bug(
        "a_worn_copy_has_turns",
        kept.is_worn,
        "actor.environments.get(place.id) == WORN",
        "False",
        "broker/test_deadlock_slots.py"
        "::test_a_copy_that_takes_no_more_calls_until_it_is_left_closes_a_circle",
    ),
    Bug(
        "a_slot_to_be_had_again_is_free",
        Kept._lacks_unclaimed,
        "claim in self._keepers",
        "False",
        "broker/test_deadlock_slots.py::test_a_slot_that_a_run_is_to_have_again_is_no_way_out_for_a_call",
    ),
    Bug(
        "who_asked_before_is_not_ahead",
        Kept._lacks_behind,
        "one.order < wait.order",
        "False",
        "broker/test_deadlock_slots.py::test_a_run_waits_for_its_slots_behind_one_that_asked_before_it",
    ),
    Bug(
        "who_is_to_be_alone_holds_up_nobody",
        Kept._lacks_start,
        "elif not missing and",
        "elif False and",
        "broker/test_deadlock.py"
        "::test_a_call_behind_one_that_is_to_be_alone_in_its_group_closes_a_circle",
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
        "who_shares_leaves_a_slot_that_was_left",
        reservation.leave,
        "actor.yields_at = max(actor.yields_at, until)",
        "pass",
        "broker/test_yielding.py::test_nobody_yields_where_that_closes_a_circle",
    ),
    Bug(
        "what_is_left_of_a_part_is_not_heard",
        statements.actor_beat,
        "command.parts or broker.limits.waits.parts",
        "False",
        "broker/test_deadlock_slots.py::test_what_is_left_of_a_part_that_was_given_back_is_kept",
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
        kept.lacked,
        "wait.slots is None",
        "True",
        "broker/test_deadlock_slots.py::test_a_run_that_waits_for_a_part_lacks_no_more_than_that",
    ),
    Bug(
        "who_was_told_to_make_way_counts_as_gone_for_good",
        Limits.vacate,
        "None if run.giving == ask else run.giving",
        "run.giving",
        "broker/test_giving_back.py::test_who_has_its_slot_again_is_told_again",
    ),
    Bug(
        "a_named_actor_gives_its_turn_back",
        Kept.givers,
        "one[1] is not None",
        "True",
        "broker/test_giving_back.py::test_the_turn_in_a_named_actor_is_not",
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
        "actor/test_supervision_strict.py"
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
    Bug(
        "free_slots_of_an_actor_that_drains_are_a_way_out",
        Kept._lacks_start,
        "actor.is_leaving and",
        "False and",
        "broker/test_deadlock_slots.py"
        "::test_free_slots_of_an_actor_that_drains_are_no_way_out_for_a_call_to_a_named_actor",
    ),
    Bug(
        "who_asks_for_more_goes_on_though_its_caller_is_canceled_for_it",
        holders.greet,
        "holder is not None and current(broker, actor, token)",
        "holder is not None",
        "broker/test_strategies.py"
        "::test_a_run_that_has_its_own_caller_canceled_by_a_new_session_keeps_nothing_alive",
    ),
    Bug(
        "who_is_canceled_waits_on_for_its_calls",
        Stopping.order,
        "self._awaiting.stop(assignment)",
        "None",
        "actor/test_awaiting.py::test_a_run_that_nobody_wants_waits_for_no_call",
    ),
]
