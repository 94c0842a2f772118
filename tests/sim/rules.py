"""What fails when a rule of protocol.md is taken away: the planted bugs that do that.

By the section and the number of the rule there. They are those of the simulator, of the search in
`tests/model`, and of `tests/planted.py`: what a single core alone shows.
"""

RULES: dict[str, dict[int, tuple[str, ...]]] = {
    "8.1": {
        1: (
            "a_lost_hello_is_not_repeated",
            "no_echo",
        ),
        2: (
            "no_deaf_rule",
            "former_sessions_count",
        ),
        3: ("credit_outlives_its_session",),
        4: (
            "older_hellos_count",
            "late_frames_count",
            "what_does_not_count_renews_a_lease",
        ),
        5: (
            "kept_is_not_said_again",
            "a_cancel_is_said_once",
        ),
    },
    "8.4": {
        1: (
            "nothing_is_adopted",
            "what_it_gave_itself_is_adopted",
            "what_it_gave_with_an_earlier_epoch_is_adopted",
            "kept_is_not_listed",
        ),
        2: (
            "again_is_not_held",
            "what_was_held_stays_so",
        ),
        3: ("the_lower_token_wins",),
        4: (
            "what_waits_adopts_nothing",
            "a_run_whose_calls_have_ended_is_taken_back",
        ),
        5: ("the_unclaimed_stay",),
        6: (
            "a_new_broker_lets_in_at_once",
            "an_inventory_names_no_limits",
        ),
        7: (
            "a_new_broker_does_not_wait",
            "what_may_have_started_starts_again",
            "an_older_journal_is_believed",
        ),
        8: ("what_comes_before_its_parent_has_none",),
    },
    "8.5": {
        1: (
            "nobody_is_given_up",
            "it_is_given_up_half_way",
            "who_has_an_actor_is_given_up",
        ),
        2: ("a_hand_back_gives_new_time",),
        3: ("what_is_held_is_timed",),
        4: ("a_new_broker_gives_new_time",),
    },
    "9.1": {
        1: (
            "a_release_keeps_the_slot",
            "a_part_is_all_of_it",
            "a_part_is_nothing",
            "the_other_unit_is_given_back",
        ),
        2: ("who_reacquires_waits_behind_the_mailbox",),
        3: ("what_is_waited_for_is_stated_free",),
        4: ("a_wait_has_no_end", "who_asks_without_any_time_is_too_late"),
        5: ("released_is_not_listed",),
        6: ("who_waits_for_its_calls_keeps_its_slots", "who_makes_way_gives_its_limits_back"),
        7: ("any_number_is_released",),
    },
    "9.3": {
        1: ("what_must_not_wait_does",),
        2: (
            "nobody_asks_back",
            "what_is_asked_back_is_gone",
            "what_runs_is_handed_back",
        ),
        3: ("what_waits_behind_a_long_run_stays",),
        4: (
            "a_hand_back_bars",
            "a_hand_back_burns_a_try",
        ),
        5: ("who_waits_for_a_turn_is_none_that_waits_ahead",),
    },
    "9.5": {
        1: (
            "half_of_it_is_taken",
            "there_is_always_room",
        ),
        2: ("the_line_is_passed",),
        3: ("a_holder_that_waits_holds_up_others",),
        4: (
            "the_end_gives_nothing_back",
            "a_stopped_run_is_never_over",
            "a_dead_actor_keeps_what_it_had",
        ),
        5: ("nobody_is_told_of_room", "one_is_let_go_and_nobody_looks_again"),
        6: ("what_can_never_be_had_waits", "what_is_held_is_refused_at_once"),
        7: ("a_limit_keeps_its_first_maximum", "what_was_held_waits_for_more_than_there_is"),
        8: (
            "what_comes_back_with_time_is_held",
            "the_end_gives_a_rate_back",
            "who_waited_takes_from_a_rate_again",
        ),
        9: (
            "who_asks_for_more_goes_on_though_its_caller_is_canceled_for_it",
            "keys_take_no_turns",
            "what_is_had_from_inside_is_not_counted",
            "a_run_that_asks_always_waits",
        ),
        10: ("a_key_stays",),
        11: ("what_cannot_be_written_is_ordered",),
    },
    "9.6": {
        1: (
            "accepted_before_the_commit",
            "told_before_the_commit",
        ),
        2: ("started_before_the_commit",),
        3: (
            "durable_tasks_go_with_their_client",
            "a_cancel_is_not_written",
        ),
        4: (
            "what_others_had_is_forgotten_of_who_may_say_it_again",
            "the_first_takes_all",
            "acknowledged_before_the_commit",
        ),
        5: ("keys_do_not_matter",),
        6: ("a_new_broker_forgets",),
        7: ("what_cannot_be_written_is_accepted", "what_was_offered_waits_for_no_room"),
        8: (
            "time_stands_while_no_broker_runs",
            "the_clock_on_the_wall_is_believed",
        ),
        9: ("a_pause_ends_with_its_session",),
        10: (
            "what_is_durable_has_no_maker",
            "a_lost_run_leaves_its_calls",
            "a_new_broker_knows_no_families",
            "a_cancel_reaches_no_durable_call",
            "force_stops_at_the_parent",
        ),
        11: (
            "what_goes_down_with_the_broker_is_not_counted",
            "what_a_process_that_lives_never_began_is_counted",
        ),
    },
    "9.7": {
        1: ("entering_is_running",),
        2: (
            "copies_are_not_counted",
            "what_flies_is_no_copy",
        ),
        3: (
            "a_copy_above_the_minimum_is_entered_at_once",
            "a_first_load_is_as_long_as_guessed",
            "a_class_has_no_load_time",
            "one_waits_for_a_copy_before_there_is_one",
        ),
        4: (
            "idle_copies_stay",
            "a_copy_is_given_up_for_one_that_can_go_nowhere",
            "a_copy_stays_where_none_of_those_may_go_that_wait",
            "a_copy_stays_in_an_actor_that_takes_no_work",
            "a_copy_leaves_an_actor_that_is_paused_for_a_moment",
            "an_order_to_evict_is_given_once",
            "an_event_loop_is_held_up_for_ever",
            "nobody_holds_on_to_a_copy",
            "a_copy_is_idle_while_a_run_is_away",
            "a_copy_is_given_up_under_a_run",
            "one_that_a_run_comes_back_to_leaves_first",
            "one_that_a_run_comes_back_to_gives_way_as_any_other",
            "a_run_holds_on_to_its_copy_after_its_end",
        ),
        5: (
            "no_environment_is_ever_broken",
            "what_leaves_takes_of_the_time_to_enter",
            "what_waits_behind_a_failed_environment_tries_it_at_once",
            "what_comes_back_to_a_broken_environment_waits",
            "what_is_broken_now_is_not_looked_for",
        ),
        6: (
            "a_copy_wears_never",
            "a_copy_wears_under_a_run",
            "a_reset_may_take_for_ever",
            "what_a_run_has_come_to_is_lost_with_a_late_reset",
            "a_copy_is_left_under_others_whose_reset_failed",
        ),
        7: (
            "a_fresh_copy_is_kept",
            "a_fresh_copy_is_left_under_its_run",
            "a_fresh_copy_leaves_before_what_is_idle",
            "calls_with_copies_of_their_own_share_one",
            "a_copy_for_one_run_takes_no_room_on_its_way",
        ),
        8: (
            "a_new_policy_has_the_old_minimum",
            "what_is_lost_is_not_replaced",
            "what_nobody_called_goes_first",
            "what_nobody_calls_takes_the_place_of_a_fresh_copy",
        ),
        9: ("who_is_called_is_an_older_version",),
        10: (
            "what_was_kept_for_a_client_stays_without_it",
            "another_client_of_the_process_plays_no_part",
        ),
        11: (
            "who_comes_back_enters_nothing",
            "a_run_comes_back_to_another_instance",
            "a_copy_that_had_to_leave_is_nobodys_when_it_is_entered_again",
            "what_has_not_returned_from_its_exit_is_entered_again",
            "who_enters_again_may_take_for_ever",
        ),
    },
    "9.8": {
        1: (
            "free_slots_of_an_actor_that_drains_are_a_way_out",
            "slots_are_nobodys",
            "nobody_says_that_it_waits",
            "a_worn_copy_has_turns",
            "a_slot_to_be_had_again_is_free",
            "who_asked_before_is_not_ahead",
            "a_run_is_in_its_own_way",
            "who_is_to_be_alone_holds_up_nobody",
        ),
        2: ("circles_stay",),
        3: (
            "all_who_wait_are_in_circles",
            "a_place_that_is_kept_is_free",
            "runs_with_copies_of_their_own_have_one_place",
        ),
        4: ("what_others_of_the_run_hold_is_kept", "what_is_left_of_a_part_is_free"),
        5: ("an_actor_stays_reserved", "who_shares_leaves_a_slot_that_was_left"),
        6: (
            "what_is_left_of_a_part_is_not_heard",
            "a_hello_says_nothing_of_parts",
            "who_waits_for_a_part_lacks_all",
        ),
        7: (
            "nobody_makes_way",
            "whoever_waits_makes_way",
            "who_was_told_to_make_way_counts_as_gone_for_good",
            "a_named_actor_gives_its_turn_back",
        ),
    },
    "9.9": {
        1: ("those_that_come_are_not_counted",),
        2: ("what_does_not_come_is_waited_for",),
        3: (
            "nobody_is_let_go",
            "who_may_leave_takes_turns",
            "only_what_is_there_at_a_look_keeps_an_actor",
        ),
    },
    "9.10": {
        1: ("two_have_one_name",),
        2: (
            "it_is_wherever_there_is_a_slot",
            "nobody_waits_to_be_alone_in_its_group",
            "turns_of_a_group_are_always_free",
            "other_groups_enter_it_behind_one_that_came_back",
            "what_is_behind_one_that_came_back_is_waited_for",
        ),
        3: ("a_release_gives_the_turn_back",),
        4: (
            "the_lower_generation_stays",
            "a_process_that_enters_it_again_replaces_itself",
            "credit_is_stated_before_who_is_here",
        ),
        5: ("nobody_enters_it_again",),
        6: (
            "what_may_have_run_runs_again",
            "a_call_burns_a_retry_for_others",
        ),
        7: ("one_that_cannot_be_entered_is_tried_for_ever",),
        8: (
            "it_begins_from_nothing",
            "the_checkpoint_comes_one_call_late",
            "no_checkpoint_is_kept",
            "a_canceled_call_takes_the_checkpoint_along",
            "a_checkpoint_that_was_lost_is_not_said_again",
        ),
        9: ("any_number_of_calls_may_wait",),
        10: (
            "the_checkpoint_is_written_after_its_outcome",
            "what_is_written_again_is_overtaken",
            "one_that_may_come_back_is_entered",
            "who_comes_back_by_a_run_is_not_bound",
        ),
        11: ("a_generation_is_never_over",),
        12: ("a_killed_one_stays_in_its_process",),
        13: (
            "what_a_client_left_behind_is_forgotten",
            "what_has_ended_in_its_process_is_not_heard",
        ),
    },
    "9.11": {
        1: ("calls_of_named_actors_are_kept",),
        2: (
            "what_ended_badly_is_not_kept",
            "the_dead_go_with_the_broker",
        ),
        3: (
            "a_forgotten_one_stays_on_disk",
            "the_dead_are_without_number",
        ),
        4: ("a_redriven_task_is_not_durable",),
        5: (
            "a_dead_task_runs_again_for_each_who_asks",
            "that_it_was_redriven_is_not_written",
        ),
        6: ("what_is_refused_is_redriven",),
    },
    "9.12": {
        1: (
            "actors_are_not_told_what_is_strict",
            "welcome_names_no_strict_limits",
            "what_is_held_becomes_strict",
        ),
        2: (
            "the_word_of_a_host_that_is_gone_does_not_count",
            "a_fence_is_reckoned_from_what_is_heard",
            "a_host_speaks_for_whom_a_new_broker_never_heard",
        ),
        3: (
            "who_holds_a_strict_limit_goes_on",
            "nobody_ends_for_a_limit",
            "who_is_stopped_is_not_ended",
        ),
        4: ("a_strict_limit_is_taken_late", "what_is_granted_late_is_had"),
        5: (
            "the_host_of_a_lost_holder_is_told_nothing",
            "a_part_of_what_is_lost_is_free",
            "a_lost_actor_has_no_limits",
        ),
        6: (
            "a_new_broker_gives_strict_limits_after_its_window",
            "a_new_broker_waits_for_no_lease",
        ),
        7: ("an_operator_takes_a_strict_limit_back",),
        8: ("a_stopped_run_holds_nothing_strict",),
    },
    "10.1": {
        1: ("every_failure_may_be_tried_again",),
        2: (
            "a_failure_burns_two_tries",
            "what_must_not_be_retried_is",
            "the_calls_of_a_failed_run_go_on",
        ),
        3: (
            "no_back_off",
            "the_delayed_stay",
        ),
        4: (
            "a_known_failure_counts_again",
            "a_failed_run_can_be_adopted",
        ),
        5: ("what_went_wrong_before_is_not_told",),
        6: ("any_outcome_counts",),
    },
    "10.2": {
        1: (
            "a_shared_crash_is_held_against_all",
            "what_befell_it_with_others_is_forgotten",
        ),
        2: (
            "suspects_run_beside_others",
            "an_actor_of_its_own_takes_others",
        ),
        3: ("no_actor_is_kept_for_a_suspect",),
        4: ("a_suspect_waits_for_ever",),
        5: ("a_suspect_passes_the_line",),
    },
    "11.2": {
        1: (
            "who_likes_one_better_waits_for_ever",
            "who_likes_one_better_goes_to_any",
            "the_time_of_a_wait_begins_anew",
        ),
        2: ("who_is_busy_for_long_is_waited_for",),
        3: ("a_burst_waits_for_the_better_one",),
        4: ("it_is_asked_back_for_a_lesser_one",),
    },
}

# Those that no planted bug of the simulator shows, and why; another test does.
ELSEWHERE: dict[tuple[str, int], str] = {
    (
        "8.4",
        8,
    ): "no seed that was tried had a call come to a new broker before its run was offered",
    ("9.1", 6): "it is the runtime around user code, in whose place the simulator has its own",
    ("9.1", 7): "it is the runtime around user code, in whose place the simulator has its own",
    ("9.7", 9): "no environment there has versions",
    ("9.9", 1): "more actors than are needed are let go again, and harm nobody",
    ("9.9", 2): "there every actor that was asked for comes, though some of them late",
    ("9.10", 11): "no seed that was tried had a lost process offer a call that was still open",
    ("10.2", 5): "who goes first of two that may both go is not seen from outside",
}

# What has no number in its section, or stands in a table there.
BESIDE: dict[str, tuple[str, ...]] = {
    "7.6": ("who_was_told_says_a_new_call",),
    "7.11": ("what_comes_while_another_thread_waits_is_kept",),
    "7.22": ("who_lets_results_lie_gets_more",),
    "7.25": ("who_is_canceled_waits_on_for_its_calls",),
    "7.35": ("what_was_said_of_the_wait_before_counts",),
    "8.1": ("no_who", "gaps_do_not_matter", "repetitions_count"),
    "8.3": ("epoch_does_not_rise", "an_older_journal_goes_on_from_its_own_epoch"),
    "8.4": ("results_are_said_once", "a_client_never_says_again", "acknowledged_too_early"),
    "9": ("credit_ignores_what_flies", "credit_is_a_difference"),
    "9.1": (
        "a_release_keeps_the_limits",
        "what_another_thread_gave_back_is_held",
        "what_comes_again_is_kept_through_a_wait_that_began_meanwhile",
    ),
    "9.2": (
        "what_is_being_loaded_has_turns",
        "a_turn_never_costs_a_slot",
        "turns_in_flight_are_free",
        "a_busy_replica_holds_no_slot",
        "nobody_is_alone",
        "turns_alone_are_nothing",
        "types_do_not_matter",
        "types_in_flight_are_free",
        "some_of_it_is_enough",
        "who_left_a_slot_in_vain_is_not_looked_at_again",
        "who_stands_before_it_is_bound",
    ),
    "9.3": ("waiting_is_not_listed",),
    "9.4": (
        "a_paused_actor_grants",
        "who_is_resumed_stays_closed",
        "what_was_full_stays_full",
        "who_leaves_runs_nothing",
        "who_leaves_runs_anything",
        "what_crossed_a_drain_starts",
        "who_leaves_does_not_wait",
    ),
    "9.6": (
        "what_is_written_wakes_nobody",
        "what_went_wrong_is_told_unwritten",
        "what_went_wrong_is_told_unwritten_to_who_comes_back",
    ),
    "10": (
        "nobody_is_suspected",
        "nobody_is_deaf",
        "a_lease_never_ends",
        "the_calls_of_a_lost_run_go_on",
        "the_calls_of_a_canceled_run_go_on",
        "stalls_are_not_forgiven",
        "doubt_runs_again",
        "stale_is_not_acknowledged",
        "absent_is_not_requeued",
        "a_reject_burns_a_try",
        "absence_burns_a_try",
        "no_release_by_hello",
        "kept_is_forgotten_with_its_session",
        "what_stood_beside_is_blamed",
        "poison_is_never_found_out",
        "a_report_that_comes_late_changes_nothing",
        "a_start_may_hang",
    ),
    "9.8": ("room_is_nobodys",),
    "10.1": ("what_is_left_of_a_wait_is_not_said",),
    "10.2": ("a_suspect_that_waits_stays_alone",),
    "11": (
        "labels_are_checked_once",
        "a_change_is_not_heard",
        "what_came_before_the_change_starts",
        "who_was_ranked_before_is_not_ranked_again",
    ),
    "11.1": ("a_key_is_never_bound", "a_burst_is_not_held_together", "a_hard_key_falls_back"),
}
