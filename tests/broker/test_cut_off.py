"""What becomes of the calls of a run that had its time, or failed before its client was back."""

import msgspec
import pytest

from tests.broker.conversation import CODE
from tests.broker.test_families import DURABLE, KEY, ROOT, Family, code_of
from wire.codec import encode_failure
from wire.errors import Code
from wire.messages import Assign, Result, Stop
from wire.parts import Call, Failure, Kept, Status

PLAIN = Call("plain", CODE)
LATE = encode_failure(Failure(Code.TASK_TIMEOUT, "", "it had its time", retriable=True))


def test_the_calls_of_a_run_that_had_its_time_for_the_last_time_end():
    """They went on, and kept the slots of whoever came next: nobody waited for them any more."""
    family = Family(parent=PLAIN, call=PLAIN)

    family.actor.ends(family.token, LATE, status=Status.EXPIRED)
    family.root.beats()

    assert code_of(family.root, 1) == Code.TASK_TIMEOUT
    assert code_of(family.nested, 1) == Code.PARENT_GONE
    assert [stop.number for stop in family.actor.takes(Stop)] == [2]


def test_the_calls_of_a_call_of_a_run_that_had_its_time_end_but_for_durable_ones():
    family = Family(parent=PLAIN, call=PLAIN, free=1)
    [second] = [(1000, a.number) for a in family.actor.takes(Assign)]
    family.nested.submits(2, call=PLAIN, parent=second, slot=2)
    family.nested.submits(3, call=DURABLE, parent=second, slot=3)

    family.actor.ends(family.token, LATE, status=Status.EXPIRED)

    states = [family.talk.state(family.nested, number) for number in (1, 2, 3)]
    assert states == ["ended", "ended", "queued"]


@pytest.mark.parametrize("key", [None, KEY])
def test_a_durable_call_of_a_run_that_had_its_time_goes_on(key):
    family = Family(parent=PLAIN, key=key)

    family.actor.ends(family.token, LATE, status=Status.EXPIRED)
    family.root.beats()

    assert family.state == "assigned"
    family.actor.ends((1000, 2), b"more")
    assert [result.body for result in family.nested.takes(Result)] == [b"more"]


def test_the_calls_of_a_run_that_raised_for_the_last_time_go_on():
    family = Family(parent=PLAIN, call=PLAIN)

    family.actor.ends(family.token, LATE, status=Status.FAILURE)

    assert family.state == "assigned"


def test_the_calls_of_a_run_that_had_its_time_before_its_client_was_back_end_when_it_is():
    family = Family(parent=PLAIN, call=PLAIN)
    family.talk.restart()
    kept = [Kept(ROOT, 1, family.token, retriable=True)]
    family.actor.greets(msgspec.structs.replace(family.actor.hello, kept=kept))
    family.nested.greets(msgspec.structs.replace(family.nested.hello, unresolved=[(1, 1)]))
    family.nested.submits(1, call=PLAIN, parent=family.token, again=True)
    family.actor.ends(family.token, LATE, status=Status.EXPIRED, free=0)
    assert family.state == "held"

    family.root.greets(msgspec.structs.replace(family.root.hello, unresolved=[(1, 1)]))
    family.root.submits(1, call=PLAIN, again=True)

    assert code_of(family.root, 1) == Code.TASK_TIMEOUT
    assert code_of(family.nested, 1) == Code.PARENT_GONE


@pytest.mark.parametrize("call", [PLAIN, DURABLE])
def test_a_call_that_comes_behind_the_failure_of_its_run_ends_when_that_is_tried_again(call):
    """In a started broker it went on, beside the one that the next run made."""
    family = Family(parent=PLAIN, call=PLAIN)
    family.talk.restart()
    kept = [Kept(ROOT, 1, family.token, retriable=True)]
    family.actor.greets(msgspec.structs.replace(family.actor.hello, kept=kept))
    family.actor.ends(family.token, LATE, status=Status.FAILURE, free=0)
    assert family.talk.state(family.root, 1) == "unclaimed-outcome"
    family.nested.greets(msgspec.structs.replace(family.nested.hello, unresolved=[(1, 1)]))
    family.nested.submits(1, call=call, parent=family.token, again=True)
    assert code_of(family.nested, 1) is None

    family.root.greets(msgspec.structs.replace(family.root.hello, unresolved=[(1, 1)]))
    family.root.submits(1, call=Call("plain", CODE, retries=1), again=True)

    assert code_of(family.nested, 1) == Code.PARENT_GONE


def test_a_call_that_comes_behind_the_result_of_its_run_goes_on():
    family = Family(parent=PLAIN, call=PLAIN)
    family.talk.restart()
    kept = [Kept(ROOT, 1, family.token)]
    family.actor.greets(msgspec.structs.replace(family.actor.hello, kept=kept))
    family.actor.ends(family.token, b"value", free=0)
    family.nested.greets(msgspec.structs.replace(family.nested.hello, unresolved=[(1, 1)]))
    family.nested.submits(1, call=PLAIN, parent=family.token, again=True)

    family.root.greets(msgspec.structs.replace(family.root.hello, unresolved=[(1, 1)]))
    family.root.submits(1, call=PLAIN, again=True)
    family.talk.wait(2.5, beating=[family.root, family.nested])

    assert [result.body for result in family.root.takes(Result)] == [b"value"]
    assert family.state == "queued"
