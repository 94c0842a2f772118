"""Calls that do not want to wait for long, as their client sees them."""

import pytest

from sdk import Client, ScheduleTimeout
from tests.sdk.fakes import Conversation, plan_of, result_of
from tests.support.deployment import DEADLINE_S
from wire.codec import decode_failure
from wire.errors import Code
from wire.messages import Requeued

HASTY = plan_of("hasty", schedule_timeout_s=3.0)


def ended(talk):
    return {n: decode_failure(result.body) for n, result, _ in talk.core.take_outcomes()}


def test_a_call_that_no_broker_was_sent_ends_here():
    talk = Conversation()
    talk.broker.is_deaf = True
    hasty, patient = talk.submit(HASTY), talk.submit()
    for now in (0.5, 1.0, 2.0, 2.9):
        talk.turn(now)
    assert not ended(talk)
    assert talk.core.deadline() <= 3.0

    talk.turn(3.0)

    failures = ended(talk)
    assert failures.keys() == {hasty}
    assert failures[hasty].code == Code.SCHEDULE_TIMEOUT
    assert "cannot be reached" in failures[hasty].message
    assert patient in talk.core.calls


def test_a_call_that_waits_for_the_window_ends_here():
    talk = Conversation(window_tasks=1)
    talk.submit()
    hasty = talk.submit(HASTY)
    talk.turn()

    talk.turn(3.0)

    assert "in this process" in ended(talk)[hasty].message


def test_what_a_broker_was_sent_is_for_the_broker_to_end():
    talk = Conversation()
    hasty = talk.submit(HASTY)
    talk.turn()
    talk.broker.is_deaf = True
    talk.core.broken(talk.now)

    for now in range(1, 30):
        talk.turn(float(now))

    assert hasty in talk.core.calls
    assert not ended(talk)


def test_the_broker_is_told_how_long_it_waited():
    talk = Conversation()
    hasty, patient = talk.submit(HASTY), talk.submit()

    talk.turn(1.5)

    told = {submit.task: submit.waited_s for submit in talk.broker.submits}
    assert told == {hasty: 1.5, patient: None}


def test_a_broker_that_was_started_again_is_told_the_whole_time():
    talk = Conversation()
    talk.submit(HASTY)
    talk.turn()

    talk.reopen(epoch=5_000)

    last = talk.broker.submits[-1]
    assert last.again
    assert last.waited_s == talk.now


def test_after_a_lost_run_the_time_begins_anew():
    talk = Conversation()
    hasty = talk.submit(HASTY)
    talk.turn()
    talk.turn(10.0)
    talk.say(Requeued(hasty, 1, "died"))

    talk.reopen(epoch=5_000)

    assert talk.broker.submits[-1].waited_s == talk.now - 10.0


def test_what_has_its_outcome_is_not_counted_any_more():
    talk = Conversation()
    numbers = [talk.submit(HASTY) for _ in range(1_000)]
    talk.turn()
    for number in numbers[:-1]:
        talk.say(result_of(number))
    assert talk.core.deadline() < 10.0
    talk.submit(HASTY)

    assert len(talk.core._waiting._heap) < 100
    talk.say(result_of(numbers[-1]), result_of(numbers[-1] + 1))
    talk.core.cancel(numbers[-1] + 1, False, talk.now)
    assert talk.core._waiting.due_at == float("inf")


def test_a_client_that_leaves_counts_for_nobody_any_more():
    """Found by seed 98: a tick after `leave` looked for a call that was not there."""
    talk = Conversation()
    talk.submit(HASTY)
    talk.turn()
    talk.core.leave(talk.now)
    talk.turn()

    talk.core.tick(10.0)

    assert not ended(talk)


def test_without_a_broker_the_future_ends():
    with Client("tcp://127.0.0.1:9") as client:
        future = client.submit(abs, 1, schedule_timeout=0.3)

        with pytest.raises(ScheduleTimeout, match="cannot be reached"):
            future.result(DEADLINE_S)
