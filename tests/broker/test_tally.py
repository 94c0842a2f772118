"""What `status` counts of tasks that have ended, since the broker was started."""

from itertools import count

import pytest

from broker.facts.tally import REASONS
from tests.broker.conversation import CODE, Conversation, ask, attested
from tests.broker.test_core import assigned
from tests.support.disk import Disk
from wire.codec import encode_failure, read_code
from wire.errors import FAULTS, Code
from wire.messages import Attach, Bye, Cancel, Credit, Death, Reject
from wire.parts import Call, Failure, Key, Status

ONCE = Call("once", CODE, at_most_once=True)
AGAIN = Call("again", CODE, retries=1)
DURABLE = Call("keep", CODE, durable=True)
# Each asks once.
STRANGERS = count(90_000)
HERE = ("queued", "delayed", "alone", "assigned")


def fails(code=Code.TASK_FAILED, **more):
    return encode_failure(Failure(code, "ValueError", "no", **more))


@pytest.fixture
def talk():
    return Conversation()


def more_than_0(figure):
    """Return of a map only what has occurred."""
    return {k: v for k, v in figure.items() if v} if isinstance(figure, dict) else figure


def told(talk, *names):
    """Return some figures, and look that all tasks are here or have ended."""
    figures = ask(talk.client(next(STRANGERS)), "status")
    ended = figures["succeeded"] + figures["failed"] + figures["canceled"]
    assert figures["submitted"] == ended + sum(figures[name] for name in HERE)
    assert figures["failed"] == sum(figures["failed_by_code"].values())
    assert figures["requeued"] == sum(figures["requeued_by_reason"].values())
    return tuple(more_than_0(figures[name]) for name in names)


def test_a_result_is_counted_when_it_comes_and_not_again_when_it_is_received_or_repeated(talk):
    actor = talk.actor(free=2)
    client = talk.client(unresolved=[(7, 8)]).submits(7, 8)
    first, second = assigned(actor)
    actor.ends(first, b"r")

    assert told(talk, "submitted", "succeeded", "assigned") == (2, 1, 1)

    actor.ends(first, b"r")
    client.greets()
    actor.ends(second, b"r")

    assert told(talk, "submitted", "succeeded", "failed", "canceled") == (2, 2, 0, 0)


def test_what_fails_is_counted_by_the_code_of_its_failure(talk):
    actor = talk.actor(free=3)
    talk.client().submits(7, 8, 9)
    first, second, third = assigned(actor)

    actor.ends(first, fails(), status=Status.FAILURE)
    actor.ends(second, fails(Code.TASK_TIMEOUT), status=Status.EXPIRED)
    actor.ends(third, fails(), status=Status.FAILURE)

    assert told(talk, "failed", "failed_by_code") == (3, {"task-failed": 2, "task-timeout": 1})


def test_what_has_not_occurred_is_told_as_0(talk):
    figures = ask(talk.client(), "status")

    assert set(figures["failed_by_code"]) == set(Code) - FAULTS - {"canceled", "parent-gone"}
    assert set(figures["failed_by_code"].values()) == {0}
    assert figures["requeued_by_reason"] == dict.fromkeys(REASONS, 0)


@pytest.mark.parametrize(
    "body", [fails("a-code-of-ones-own"), fails(Code.BAD_FRAME), b"", b"\xc1 no failure"]
)
def test_a_code_that_nobody_knows_makes_no_count_of_its_own(talk, body):
    actor = talk.actor(free=1)
    talk.client().submits(7)

    actor.ends(*assigned(actor), body, status=Status.FAILURE)

    assert told(talk, "failed_by_code") == ({"task-failed": 1},)


def test_of_a_failure_nothing_is_read_but_its_code():
    body = encode_failure(Failure(Code.DEADLOCK, "E", "no", "trace", b"\xff" * 100, ["a"]))
    # A type that is no text, which nobody needs to read.
    broken = body[:1] + body[1:].replace(b"\xa1E", b"\xa1\xff", 1)

    assert read_code(broken) == Code.DEADLOCK


def test_a_cancel_in_each_place_is_counted_once(talk):
    actor = talk.actor(free=1)
    client = talk.client().submits(7, 8)
    (token,) = assigned(actor)

    client.says(Cancel([7, 8]))
    client.says(Cancel([7, 8]))
    actor.ends(token, b"too late")

    assert told(talk, "submitted", "canceled", "succeeded") == (2, 2, 0)


def test_what_a_client_leaves_behind_is_canceled_and_what_it_had_is_not(talk):
    actor = talk.actor(free=1)
    client = talk.client().submits(7, 8)
    actor.ends(*assigned(actor), b"r")

    client.says(Bye("done"))

    assert told(talk, "submitted", "succeeded", "canceled") == (2, 1, 1)


def test_what_the_broker_ends_itself_is_counted_by_the_code_that_its_client_is_told(talk):
    host = talk.host(actors=[attested(11)])
    actor = talk.actor(free=1)
    talk.client().submits(7, call=ONCE)

    host.says(Death(11, None, 9, assigned(actor)))

    assert told(talk, "failed_by_code", "requeued") == ({"outcome-unknown": 1}, 0)


def test_each_assignment_that_is_gone_is_counted_by_what_is_known_of_its_run(talk):
    host = talk.host(actors=[attested(11)])
    actor = talk.actor(free=2)
    talk.client().submits(7, 8)
    first, _ = assigned(actor)

    host.says(Death(11, None, 11, [first]))

    assert told(talk, "requeued_by_reason") == ({"crash": 1, "unstarted": 1},)


def test_what_an_actor_gives_back_is_counted_as_rejected_and_runs_again(talk):
    actor = talk.actor(free=1)
    talk.client().submits(7)

    actor.says(Reject(*assigned(actor)[0], "it is draining", bars=False), Credit(0))

    figures = told(talk, "rejected", "requeued_by_reason", "submitted")
    assert figures == (1, {"unstarted": 1}, 1)


def test_a_failure_that_is_tried_again_is_a_retry_and_no_failure(talk):
    actor = talk.actor(free=1)
    talk.client().submits(7, call=AGAIN)

    actor.ends(*assigned(actor), fails(retriable=True), status=Status.FAILURE, free=1)
    assert told(talk, "retried", "failed", "delayed") == (1, 0, 1)
    talk.wait(20.0, beating=[actor])
    actor.says(Credit(1))
    actor.ends(*assigned(actor), fails(retriable=True), status=Status.FAILURE)

    assert told(talk, "retried", "failed", "submitted") == (1, 1, 1)


def test_an_adopted_run_counts_once_its_client_has_come():
    talk = Conversation(recovered=False)
    actor = talk.actor(holding=[(1, 7, (900, 1), "running")])
    assert ask(talk.client(99), "status")["submitted"] == 0

    client = talk.client(unresolved=[(7, 7)]).submits(7, again=True)
    assert told(talk, "submitted", "assigned") == (1, 1)
    actor.ends((900, 1), b"r")

    assert told(talk, "submitted", "succeeded") == (1, 1)
    assert talk.state(client, 7) == "ended"


def test_an_outcome_that_was_there_before_its_client_counts_once_that_has_come():
    talk = Conversation(recovered=False)
    talk.actor(kept=[(1, 7, (900, 1))]).ends((900, 1), b"r")
    assert told(talk, "submitted", "succeeded") == (0, 0)

    talk.client(unresolved=[(7, 7)]).submits(7, again=True)

    assert told(talk, "submitted", "succeeded") == (1, 1)


def test_another_name_of_a_durable_task_is_no_task():
    talk = Conversation(disk=Disk())
    actor = talk.actor(free=1)
    talk.client(1).submits(7, call=DURABLE, key=Key("k", b"d"))
    other = talk.client(2).submits(1, call=DURABLE, key=Key("k", b"d"))
    other.says(Attach(2, 1, 7), Attach(3, 1, 99))
    assert told(talk, "submitted", "failed") == (1, 0)

    actor.ends(*assigned(actor), b"r")

    assert told(talk, "submitted", "succeeded") == (1, 1)


def test_a_restarted_broker_counts_anew_and_says_since_when():
    talk = Conversation(disk=Disk())
    actor = talk.actor(free=1)
    talk.client().submits(7, 8, call=DURABLE)
    actor.ends(*assigned(actor), b"r")
    talk.broker.records.wall_ms = 1_790_000_000_000.0
    assert told(talk, "started_at") == ("2026-09-21T14:15:00.000Z",)

    talk.restart(writes_first=True)

    # What the journal has and goes on is its task as well.
    assert told(talk, "submitted", "succeeded", "queued") == (1, 0, 1)
