"""A `reset` that takes too long: in the core, and with real threads."""

import threading

import pytest

from actor.events import resetting
from sdk.task import current_task
from tests.actor.broker_end import said, warm
from tests.actor.test_entering import entering, place
from tests.support.deployment import DEADLINE_S
from wire.codec import decode_failure
from wire.messages import Outcome, Stop
from wire.parts import Status

# What the methods of a test share with it; they run in this process.
events = {}


@pytest.fixture(autouse=True)
def _nothing_is_left():
    events.clear()
    yield
    event("goes on").set()


def event(name):
    """Return an event that the test and its functions share."""
    from tests.actor import test_resetting

    return test_resetting.events.setdefault(name, threading.Event())


# --- the core


def resets(end, token, ending, began=0.0):
    """Let the reset after a run go on, which *began* then."""
    runs = [(token, ending, 0.5)]
    resetting.goes_on(end.core, began, runs, lambda: "it waits for a lock")
    return end.carry()


def late(**reuse):
    end, token = entering(place(**reuse), force_grace_s=1.0)
    warm(end.core, "e", end.now)
    end.carry()
    return end, token


RESULT = Status.RESULT, b"value", ()


def test_the_outcome_of_a_run_is_said_though_its_reset_hangs():
    """The task had no end, and its slot and turn with it."""
    end, token = late(enter_timeout_s=3.0)
    end.pass_time(2.9)
    end.carry()
    assert not resets(end, token, RESULT)

    end.pass_time(0.1)
    end.carry()
    [order] = resets(end, token, RESULT)

    [outcome] = said(end, Outcome)
    assert (outcome.status, outcome.body, outcome.run_s) == ("result", b"value", 0.5)
    assert order.force
    assert "could not be reset within its enter_timeout of 3 s" in order.reason
    # Once is enough.
    assert not resets(end, token, RESULT)
    end.pass_time(1.0)
    end.core.tick(end.now)
    assert end.core.exit_reason


def test_who_is_back_from_a_late_reset_soon_enough_leaves_the_process_and_not_the_copy():
    end, token = late(enter_timeout_s=3.0)
    end.pass_time(3.0)
    end.carry()
    resets(end, token, RESULT)

    end.finish(token)
    end.carry()
    end.pass_time(2.0)
    end.carry()

    assert len(said(end, Outcome)) == 1
    assert not end.core.exit_reason
    assert end.core.entering.take_evictions() == ["e"]
    assert end.credit.free == 1


def test_a_run_that_was_to_release_and_hangs_in_reset_has_had_its_time():
    end, token = late(enter_timeout_s=3.0)
    end.pass_time(3.0)
    end.carry()

    resets(end, token, None)

    [outcome] = said(end, Outcome)
    failure = decode_failure(outcome.body)
    assert (outcome.status, failure.code) == ("expired", "environment-failed")
    assert failure.traceback == "it waits for a lock"


def test_a_canceled_run_that_hangs_in_reset_holds_its_slot_no_longer():
    end, token = late(enter_timeout_s=3.0)
    end.say(Stop(*token, False, "canceled"))
    end.carry()
    end.pass_time(3.0)
    end.carry()

    resets(end, token, RESULT)

    assert not said(end, Outcome)
    assert end.core.stopping.is_forced


def test_without_an_enter_timeout_a_reset_takes_as_long_as_it_likes():
    end, token = late(enter_timeout_s=None)
    end.pass_time(1_000.0)
    end.carry()

    assert not resets(end, token, RESULT)


def test_a_result_that_is_too_large_is_so_after_a_late_reset_as_well():
    end, token = late(enter_timeout_s=3.0)
    end.pass_time(3.0)
    end.carry()

    resets(end, token, (Status.RESULT, b"", (bytes(2**28), b"x")))

    [outcome] = said(end, Outcome)
    assert decode_failure(outcome.body).code == "payload-too-large"


# --- real threads, a real core


class Hangs:
    def work(self):
        return "done"

    def reset(self):
        from tests.actor.test_resetting import event

        event("resets").set()
        event("goes on").wait(DEADLINE_S)


class HangsAsync:
    async def reset(self):
        import asyncio

        from tests.actor.test_resetting import event

        event("resets").set()
        await asyncio.sleep(DEADLINE_S)


def hang(stage, function, environment):
    """Begin a run and return it once its reset goes on, and has done so for an hour."""
    token = stage.begin(stage.template(function, environment))
    stage.until(event("resets").is_set)
    [reset] = stage.slots.resets._going_on
    reset.began = stage.end.now - 3_600.0
    stage.slots.resets.look(stage.core)
    return token


@pytest.mark.parametrize("environment", [Hangs, HangsAsync])
def test_a_run_whose_reset_hangs_ends_with_its_result(stage, environment):
    stage = stage()
    token = hang(stage, lambda: "done", environment)

    assert stage.value(token) == "done"
    if environment is HangsAsync:
        # It is canceled, and nothing has to be ended.
        stage.until(lambda: token not in stage.core.mailbox.held)
        assert not stage.core.stopping.is_forced
    else:
        assert stage.core.stopping.is_forced


def test_a_coroutine_whose_reset_hangs_ends_with_its_result(stage):
    async def work():
        return "done"

    stage = stage()

    assert stage.value(hang(stage, work, Hangs)) == "done"


def test_a_run_that_hangs_in_its_release_is_told_where(stage):
    def work():
        current_task().release_slot()

    stage = stage()
    outcome = stage.outcome(hang(stage, work, Hangs))

    failure = decode_failure(outcome.body)
    assert outcome.status == "expired"
    assert "wait(DEADLINE_S)" in failure.traceback
    assert "_call" not in failure.traceback
