"""Which failures may be tried again, as the actor judges them."""

import pytest

from actor.holding.retries import is_retriable, is_timeout_retriable
from actor.running.endings import describe
from sdk import NonRetryable, TaskCanceled, TaskTimeout
from sdk.describing.options import read_retry_on
from tests.actor.broker_end import connected, make_core
from wire.codec import decode_failure
from wire.messages import Outcome
from wire.parts import Call


class Mine(OSError):
    pass


class BadInput(NonRetryable, ValueError):
    pass


def call(*kinds, retries=1):
    return Call("work", retries=retries, retry_on=read_retry_on(kinds) if kinds else [])


@pytest.mark.parametrize(
    ("error", "of", "may"),
    [
        (ValueError("x"), call(), True),
        (ValueError("x"), call(retries=0), False),
        (OSError("x"), call(OSError), True),
        (ConnectionResetError("x"), call(OSError), True),
        (Mine("x"), call(OSError), True),
        (Mine("x"), call(Mine, KeyError), True),
        (OSError("x"), call(Mine), False),
        (ValueError("x"), call(OSError), False),
        (NonRetryable("x"), call(), False),
        (BadInput("x"), call(ValueError), False),
        (TaskCanceled("x"), call(), False),
        (SystemExit(1), call(), False),
        (SystemExit(1), call(SystemExit), True),
        (KeyboardInterrupt(), call(), False),
        (MemoryError(), call(), True),
    ],
)
def test_a_failure_may_be_tried_again(error, of, may):
    assert is_retriable(error, of) is may
    assert decode_failure(describe(error, of)[1]).retriable is may


def test_a_class_that_travelled_by_value_is_told_by_its_name():
    twin = type("Mine", (OSError,), {"__module__": __name__, "__qualname__": "Mine"})

    assert is_retriable(twin("x"), call(Mine))


@pytest.mark.parametrize(
    ("of", "may"),
    [
        (call(), True),
        (call(TaskTimeout), True),
        (call(OSError), False),
        (call(retries=0), False),
    ],
)
def test_a_run_that_had_its_time_may_be_tried_again(of, may):
    assert is_timeout_retriable(of) is may


def test_the_outcome_of_a_run_that_had_its_time_says_whether_it_may_be_tried_again():
    end = connected(make_core())
    end.assign(end.template(timeout_s=1.0, retries=1))
    end.carry()

    end.pass_time(2.0)
    end.carry()

    (outcome,) = [one for one in end.everything if isinstance(one, Outcome)]
    assert decode_failure(outcome.body).retriable
