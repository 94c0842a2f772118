"""How an actor leaves, and how runs are ended: by a drain, by force, at the end of their time."""

import pytest

from actor.events import entering
from tests.actor.broker_end import connected, make_core, said
from wire.codec import decode_failure
from wire.errors import Code
from wire.messages import (
    Bye,
    Drain,
    Outcome,
    Stop,
)
from wire.parts import Status


def test_a_drain_hands_back_what_waits_and_leaves_when_the_rest_is_done():
    end = connected(make_core(prefetch=1))
    running, waiting = end.assign(), end.assign()
    end.carry()

    end.core.drain(end.now)
    end.carry()
    assert end.rejected == {waiting: "draining"}
    assert (end.credit.free, end.credit.ahead) == (0, 0)
    assert not end.left

    end.finish(running)
    end.carry()
    assert not end.left
    end.acknowledge()
    end.carry()
    assert end.left
    assert end.core.is_drained


def test_an_assignment_that_crosses_a_drain_is_rejected():
    end = connected(make_core())
    first = end.assign()
    end.carry()
    end.core.drain(end.now)
    token = end.assign()

    end.carry()

    assert end.rejected == {token: "draining"}
    end.finish(first)
    end.carry()


def test_the_broker_can_ask_for_a_drain():
    end = connected(make_core())

    end.say(Drain(None))
    end.carry()

    assert end.left
    assert end.core.is_drained
    assert said(end, Bye) == [Bye("drained")]


def test_a_drain_ends_at_its_deadline_whatever_runs():
    end = connected(make_core())
    end.assign()
    end.carry()
    end.core.drain(end.now, 5.0)
    assert not end.core.is_drained

    end.pass_time(5.0)
    end.core.tick(end.now)

    assert end.core.is_drained


def test_without_a_broker_an_idle_actor_is_drained_at_once():
    core = make_core()
    core.flush(0.0)

    core.drain(0.0)

    assert core.is_drained


def test_without_a_broker_outcomes_are_not_thrown_away():
    end = connected(make_core())
    token = end.assign()
    end.carry()
    end.core.broken(end.now)
    end.finish(token)
    end.core.drain(end.now)
    assert not end.core.is_drained

    end.pass_time(1.0)
    end.carry()

    assert token in end.finished
    end.acknowledge()
    end.carry()
    assert end.core.is_drained


def test_force_hands_back_the_mailbox_and_ends_the_process_after_a_grace():
    end = connected(make_core(slots=2, prefetch=1))
    stuck, _, waiting = end.assign(), end.assign(), end.assign()
    end.carry()

    end.stop(stuck, force=True)
    end.carry()
    assert waiting in end.rejected
    assert end.credit.free == 0
    assert end.core.deadline() <= end.now + 5.0
    end.pass_time(5.0)
    end.core.tick(end.now)

    assert end.core.exit_reason


def test_a_forced_run_that_returns_in_time_spares_the_process():
    end = connected(make_core())
    token = end.assign()
    end.carry()
    end.stop(token, force=True)
    end.carry()

    end.finish(token)
    end.carry()
    end.pass_time(60.0)
    end.carry()

    assert not end.core.exit_reason
    assert end.credit.free == 1


def test_a_run_that_has_had_its_time_fails_before_it_returns():
    end = connected(make_core())
    token = end.assign(end.template(timeout_s=2.0))
    end.carry()
    end.pass_time(2.0)

    (order,) = end.carry()

    assert order.force
    assert decode_failure(end.finished[token].body).code == Code.TASK_TIMEOUT
    assert end.finished[token].status is Status.EXPIRED
    assert end.credit.free == 0
    end.finish(token)
    end.carry()
    assert end.credit.free == 1
    assert len(said(end, Outcome)) == 1


def test_of_a_run_that_has_had_its_time_the_log_has_the_name_that_all_others_call_it_by():
    end = connected(make_core())
    token = end.assign(end.template(timeout_s=2.0))
    end.carry()
    held = end.core.mailbox.held[token]

    end.core.tick(end.now + 2.0)

    (fields,) = [fields for event, fields in end.core.take_notes() if event == "timed_out"]
    assert fields["task"] == f"{held.client:016x}-{held.task}"


def test_a_run_gets_more_time_when_it_asks_for_it():
    end = connected(make_core())
    token = end.assign(end.template(timeout_s=2.0))
    end.carry()
    end.pass_time(1.5)
    end.core.refresh_timeout(token, 2.0, end.now)

    end.pass_time(1.5)
    assert end.carry() == []
    end.pass_time(0.5)
    (order,) = end.carry()

    assert order.force
    assert "the 2.0 s that it got" in decode_failure(end.finished[token].body).message


@pytest.mark.parametrize("timeout_s", [None, 60.0])
def test_a_run_can_give_itself_less_time_also_when_it_had_all(timeout_s):
    end = connected(make_core())
    token = end.assign(end.template(timeout_s=timeout_s))
    end.carry()

    end.core.refresh_timeout(token, 1.0, end.now)
    assert end.core.deadline() <= end.now + 1.0
    end.pass_time(1.0)

    assert [order.assignment.token for order in end.carry()] == [token]


def test_a_run_that_had_its_time_gets_none_again():
    end = connected(make_core())
    token = end.assign(end.template(timeout_s=1.0))
    end.carry()
    end.pass_time(1.0)
    end.carry()

    end.core.refresh_timeout(token, 60.0, end.now)
    end.core.refresh_timeout((9, 9), 60.0, end.now)
    end.pass_time(end.core.settings.force_grace_s)
    end.carry()

    assert end.core.exit_reason


def test_a_process_ends_whose_event_loop_is_held_up_and_its_runs_have_time_until_then():
    end = connected(make_core(slots=2, force_grace_s=1.0))
    token = end.assign()
    end.carry()

    entering.held_up(end.core, "E", True, end.now)
    end.carry()

    assert end.core.standing.closed.startswith("ending")
    assert end.credit.free == 0
    end.finish(token)
    end.carry()
    assert not end.core.exit_reason
    end.pass_time(1.0)
    end.core.tick(end.now)
    assert end.core.exit_reason == "an environment's exit holds up the event loop"


def test_an_event_loop_that_goes_on_again_ends_nothing():
    end = connected(make_core(force_grace_s=1.0))
    entering.held_up(end.core, "E", True, end.now)
    end.carry()

    entering.held_up(end.core, "E", False, end.now)
    end.carry()
    end.pass_time(2.0)
    end.carry()

    assert not end.core.exit_reason
    assert end.credit.free == 1


def test_a_run_that_must_end_still_must_when_the_event_loop_goes_on_again():
    end = connected(make_core(force_grace_s=1.0))
    token = end.assign()
    end.carry()
    end.say(Stop(*token, True, "canceled"))
    end.carry()
    entering.held_up(end.core, "E", True, end.now)

    entering.held_up(end.core, "E", False, end.now)
    end.carry()
    end.pass_time(1.0)
    end.core.tick(end.now)

    assert end.core.exit_reason == "a run that was to be ended did not return"
