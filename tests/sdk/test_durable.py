"""Durable calls in the client's core: what is sent again, and what is asked until it is written."""

import pytest

from sdk.describing.options import split_key
from sdk.futures.found import read_task_id
from tests.sdk.fakes import Conversation, plan_of, result_of
from wire.codec import decode_failure, encode_failure
from wire.errors import Code
from wire.messages import Accepted, Attach, Query, Submit
from wire.parts import Failure, Key, Status

KEY = Key("order 17", b"d" * 16, 60.0)


def keep():
    return plan_of(durable=True)


def asked(talk):
    return [(c.what, c.argument) for c in talk.broker.heard if isinstance(c, Query)]


def test_a_durable_call_is_accepted_when_the_journal_has_it():
    talk = Conversation().turn()
    task = talk.submit(keep())
    talk.turn()

    assert not talk.core.is_accepted(task)
    assert not talk.core.durable.has_all(task)
    talk.say(Accepted([(task, task)]))

    assert talk.core.is_accepted(task)
    assert talk.core.durable.has_all(task)


def test_a_refused_call_is_not_accepted_before_its_future_knows_of_the_refusal():
    talk = Conversation().turn()
    task = talk.submit(keep())
    talk.turn()

    failure = encode_failure(Failure(Code.NOT_DURABLE, "", "the disk is full"))
    talk.say(result_of(task, failure, status=Status.LOST))

    assert not talk.core.is_accepted(task)


def test_calls_that_are_not_durable_do_not_matter_to_a_flush():
    talk = Conversation().turn()
    talk.submit()

    assert talk.core.durable.has_all(talk.core.number_last)


def test_an_accepted_call_is_not_kept_for_another_send():
    talk = Conversation().turn()
    task = talk.submit(keep(), body=b"large")
    talk.turn()

    talk.say(Accepted([(1, 1_000_000_000_000)]))

    assert talk.core.calls[task].body == b""
    talk.core.check()


def test_a_call_that_was_not_accepted_is_sent_again():
    talk = Conversation().turn()
    task = talk.submit(keep(), body=b"args")
    talk.turn()

    talk.reopen(epoch=2_000)

    assert [(s.task, s.body, s.again) for s in talk.broker.submits] == [
        (task, b"args", False),
        (task, b"args", True),
    ]


def test_an_accepted_call_that_the_broker_lacks_is_never_sent_again():
    talk = Conversation().turn()
    task = talk.submit(keep())
    talk.turn()
    talk.say(Accepted([(task, task)]))

    talk.reopen(epoch=2_000)

    assert len(talk.broker.submits) == 1
    [(number, result, _)] = talk.core.take_outcomes()
    assert number == task
    assert decode_failure(result.body).code == Code.OUTCOME_UNKNOWN


def test_an_accepted_call_that_the_broker_has_stays_open():
    talk = Conversation().turn()
    task = talk.submit(keep())
    talk.turn()
    talk.say(Accepted([(task, task)]))

    talk.reopen()

    assert talk.core.take_outcomes() == []
    talk.say(result_of(task))
    assert len(talk.core.take_outcomes()) == 1


def test_a_call_with_a_key_is_sent_again_with_it():
    talk = Conversation().turn()
    task = talk.submit(keep(), body=b"args", key=KEY)
    talk.turn()
    talk.say(Accepted([(task, task)]))

    talk.reopen(epoch=2_000)

    assert [(s.body, s.key) for s in talk.broker.submits] == [(b"args", KEY)] * 2


def test_what_is_attached_is_attached_again():
    talk = Conversation().turn()
    task = talk.core.attach(99, 5, talk.now)
    talk.turn()

    talk.reopen(epoch=2_000)

    assert talk.broker.attached == [Attach(task, 99, 5)] * 2
    talk.say(result_of(task))
    assert [number for number, _, _ in talk.core.take_outcomes()] == [task]


@pytest.mark.parametrize("force", [False, True])
def test_the_cancel_of_a_durable_call_is_asked_until_it_is_written(force):
    talk = Conversation().turn()
    task = talk.submit(keep())
    talk.turn()
    talk.broker.is_deaf = True
    what = "cancel-force" if force else "cancel"

    talk.core.cancel(task, force, talk.now)
    talk.turn()
    assert asked(talk) == []
    talk.broker.is_deaf = False
    talk.reopen()

    assert asked(talk) == [(what, str(task))]
    assert talk.broker.cancels == []


def test_the_cancel_of_a_found_task_names_it():
    talk = Conversation().turn()
    task = talk.core.attach(255, 5, talk.now)
    talk.turn()

    talk.core.cancel(task, False, talk.now)
    talk.turn()

    assert asked(talk) == [("cancel", "00000000000000ff-5")]


def test_the_cancel_of_a_found_task_was_lost_before_the_first_session():
    talk = Conversation()
    task = talk.core.attach(255, 5, talk.now)

    talk.core.cancel(task, False, talk.now)
    talk.turn().turn()

    assert asked(talk) == [("cancel", "00000000000000ff-5")]
    assert talk.broker.attached == []
    assert talk.broker.cancels == []


def test_the_cancel_of_a_call_that_was_never_sent_says_nothing():
    talk = Conversation()
    task = talk.submit(keep())

    talk.core.cancel(task, False, talk.now)
    talk.turn()

    assert asked(talk) == []
    assert talk.core.durable.has_all(task)


def test_who_leaves_forgets_what_goes_on():
    talk = Conversation().turn()
    task = talk.submit(keep())
    talk.turn()
    assert not talk.core.durable.goes_on(talk.core.calls[task])
    talk.say(Accepted([(task, task)]))
    assert talk.core.durable.goes_on(talk.core.calls[task])

    talk.core.leave(talk.now)
    talk.turn()

    assert talk.core.has_left
    assert not talk.core.durable.goes_on(talk.core.calls.get(task))


# --- keys


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"idempotency_key": 17}, TypeError, "17"),
        ({"idempotency_key": ""}, ValueError, "1 to 256"),
        ({"idempotency_key": "x" * 257}, ValueError, "1 to 256"),
        ({"idempotency_key": "\udcff"}, ValueError, "no valid text"),
        ({"idempotency_key": "k", "idempotency_ttl": 0}, ValueError, "0"),
        ({"idempotency_key": "k", "idempotency_ttl": True}, ValueError, "True"),
        ({"idempotency_key": "k", "idempotency_ttl": float("nan")}, ValueError, "nan"),
        ({"idempotency_key": "k", "durable": False}, ValueError, "durable=False"),
        ({"idempotency_ttl": 5.0}, ValueError, "without an idempotency_key"),
    ],
)
def test_a_key_that_makes_no_sense_is_refused(options, error, text):
    with pytest.raises(error, match=text):
        split_key(options)


def test_a_key_is_taken_out_of_the_options():
    options = {"idempotency_key": "k", "idempotency_ttl": 5, "priority": 1}

    assert split_key(options) == (("k", 5.0), {"priority": 1})
    assert split_key({"priority": 1}) == (None, {"priority": 1})


@pytest.mark.parametrize("text", ["", "7", "ff-7", "0" * 16, "0" * 16 + "-x", "G" * 16 + "-1"])
def test_what_is_no_task_id_is_refused(text):
    with pytest.raises(ValueError, match="is no task id"):
        read_task_id(text)


def test_what_is_no_text_is_no_task_id_either():
    with pytest.raises(TypeError, match="a task id is a string"):
        read_task_id(None)


def test_a_task_id_is_read():
    assert read_task_id("00000000000000ff-7") == (255, 7)


def test_the_answer_to_a_cancel_ends_the_question():
    talk = Conversation().turn()
    task = talk.submit(keep())
    talk.turn()
    talk.broker.answers["cancel"] = {"done": "cancel"}
    talk.core.cancel(task, False, talk.now)
    talk.turn()

    talk.reopen()

    assert asked(talk) == [("cancel", str(task))]
    assert [type(c) for c in talk.broker.heard].count(Submit) == 1


def test_a_cancel_that_is_not_written_is_said_again_in_each_session_until_it_is():
    """The next broker had the call again, and it ran."""
    talk = Conversation().turn()
    task = talk.submit(keep())
    talk.turn()
    talk.broker.answers["cancel"] = {"error": "it is done, and not on disk", "unwritten": True}
    talk.core.cancel(task, False, talk.now)
    talk.turn()
    talk.broker.answers["cancel"] = {"error": "it is not known here"}

    talk.reopen(epoch=2_000)
    talk.reopen(epoch=3_000)

    assert asked(talk) == [("cancel", str(task))] * 2
    talk.core.check()


def test_who_leaves_takes_no_outcome_along_that_nobody_saw():
    talk = Conversation().turn()
    task = talk.submit(keep())
    talk.turn()
    talk.core.leave(talk.now)
    talk.say(Accepted([(task, task)]), result_of(task))

    outgoing = talk.core.flush(talk.now)

    assert [frame.received for frame, _ in outgoing] == [0]
    assert talk.core.take_outcomes() == []


def test_who_leaves_without_a_session_still_lists_what_is_durable():
    talk = Conversation().turn()
    task = talk.submit(keep())
    talk.submit()
    talk.turn()
    talk.core.leave(talk.now)
    talk.core.flush(talk.now)

    talk.core.broken(talk.now)
    talk.turn(talk.now + 1.0)

    assert talk.broker.hellos[-1].unresolved == [(task, task)]
