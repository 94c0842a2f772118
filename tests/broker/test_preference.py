"""A task that likes one actor better waits for it as long as it says, and no longer."""

import msgspec
import pytest

from tests.broker.conversation import CODE, Conversation
from wire.labels import Comparator, Desire
from wire.messages import (
    ActorBeat,
    Answer,
    Assign,
    Beat,
    Cancel,
    Credit,
    LabelsChanged,
    Outcome,
    Query,
    Recall,
    Reject,
)
from wire.parts import Call, Status

LIKED = Desire("model", Comparator.EQUAL, "v2", False, 100)
FOND = Call("fond", CODE, desires=[LIKED], affinity_wait_s=2.0)
OTHER = Call(
    "other", CODE, desires=[Desire("model", Comparator.EQUAL, "v3", False)], affinity_wait_s=2.0
)
SPILLING = Call("spilling", CODE, desires=[LIKED])
PATIENT = {"suspect_s": 50.0, "lease_s": 60.0, "gil_grace_s": 70.0}


def ask(client, what, argument):
    client.says(Query(1, what, argument))
    return msgspec.msgpack.decode(client.takes(Answer)[0].body)


@pytest.fixture
def talk():
    # Nobody beats here, and nobody is silent for too long.
    return Conversation(window_bytes=1_000, **PATIENT)


@pytest.fixture
def busy(talk):
    """Return who offers the model and runs a task, and who offers nothing and is free."""
    client = talk.client()
    better = talk.actor(11, name="h/0", labels={"model": "v2"}, slots={"slot": 1}, free=1)
    client.submits(1)
    assert better.takes(Assign)
    lesser = talk.actor(12, name="h/1", slots={"slot": 1}, free=1)
    return client, better, lesser


def test_it_waits_for_the_better_one_that_is_busy(busy):
    client, better, lesser = busy

    client.submits(2, call=FOND)
    assert not lesser.takes(Assign)
    better.ends((1000, 1), free=1)

    assert [a.task for a in better.takes(Assign)] == [2]


def test_it_goes_to_any_when_its_time_is_over(talk, busy):
    client, _, lesser = busy
    client.submits(2, call=FOND)

    talk.wait(1.75)
    early = lesser.takes(Assign)
    talk.wait(0.25)

    assert not early
    assert [a.task for a in lesser.takes(Assign)] == [2]


def test_the_broker_wants_to_be_woken_when_a_wait_ends(talk, busy):
    client, *_ = busy

    client.submits(2, call=FOND)
    talk.broker.beat_at = talk.broker.ticked_at = talk.now + 60

    assert talk.broker.deadline() == talk.now + 2.0


def test_without_the_option_it_spills_at_once(busy):
    client, _, lesser = busy

    client.submits(2, call=SPILLING)

    assert lesser.takes(Assign)


def test_nobody_behind_it_waits_for_that(busy):
    client, _, lesser = busy

    client.submits(2, call=FOND)
    client.submits(3, slot=1)

    assert [a.task for a in lesser.takes(Assign)] == [3]


def test_it_does_not_wait_for_one_that_takes_no_work(talk, busy):
    client, better, lesser = busy
    client.submits(2, call=FOND)
    hello = better.hello

    better.says(ActorBeat(Credit(0), 1, hello.labels, [(1000, 1)], {}, "paused"))

    assert lesser.takes(Assign)


def test_it_does_not_wait_for_one_that_is_gone(busy):
    client, better, lesser = busy
    client.submits(2, call=FOND)

    better.vanishes()

    assert lesser.takes(Assign)


def test_it_does_not_wait_for_a_label_that_went(busy):
    client, better, lesser = busy
    client.submits(2, call=FOND)

    better.says(LabelsChanged(2, {}))

    assert lesser.takes(Assign)


def test_it_does_not_wait_where_runs_take_longer(busy):
    client, better, lesser = busy
    client.submits(2, call=FOND)
    better.says(Outcome(1000, 1, Status.RESULT, b"", 0, 60.0), Credit(1))
    assert better.takes(Assign)

    client.submits(3, call=FOND)

    assert [a.task for a in lesser.takes(Assign)] == [3]


def test_a_burst_that_would_take_longer_spreads_at_once(busy):
    client, better, lesser = busy
    client.submits(2, call=FOND)
    better.ends((1000, 1), free=1)
    better.says(Outcome(1000, 2, Status.RESULT, b"", 0, 1.0), Credit(1))

    client.submits(3, 4, 5, call=FOND)
    client.submits(6, 7, 8, call=FOND)

    assert [a.task for a in better.takes(Assign)] == [2, 3]
    assert [a.task for a in lesser.takes(Assign)] == [4]


def test_one_that_was_rejected_waits_no_more(busy):
    client, better, lesser = busy
    client.submits(2, call=FOND)
    better.ends((1000, 1), free=1)

    better.says(Reject(1000, 2, "not now"), Credit(0))

    assert [a.task for a in lesser.takes(Assign)] == [2]


def test_what_it_waits_for_is_told(talk, busy):
    client, *_ = busy

    client.submits(2, call=FOND)
    told = ask(client, "explain", "2")

    assert told["reason"] == "it waits up to 2.0 s more for an actor that it likes better (h/0)"
    assert told["actors"] == {
        "h/0": "no free slot (1 task)",
        "h/1": "has a free slot, and is passed for a better one for 2.0 s",
    }


def test_who_stood_behind_one_that_was_canceled_waits_for_nobody_where_all_are_busy(talk, busy):
    client, _, lesser = busy
    client.submits(2, call=FOND)
    talk.wait(1.0)
    client.submits(3, call=FOND)
    client.submits(4, slot=1)
    assert lesser.takes(Assign)
    # Those that would go to the same actors find nobody.
    client.submits(5, call=OTHER)

    client.says(Cancel([2], False))

    assert ask(client, "explain", "3")["reason"] == "every actor that satisfies it is busy (2 of 2)"
    assert not talk.broker.waits.things


def test_who_stood_behind_one_that_was_canceled_waits_its_own_time(talk, busy):
    client, _, lesser = busy
    client.submits(2, call=FOND)
    talk.wait(1.0)
    client.submits(3, call=FOND)
    client.submits(4, slot=1)
    assert lesser.takes(Assign)
    client.submits(5, call=OTHER)
    client.says(Cancel([2, 5], False))

    lesser.ends((1000, 2), free=1)
    talk.wait(1.75)
    early = lesser.takes(Assign)
    talk.wait(0.25)

    assert not early
    assert [a.task for a in lesser.takes(Assign)] == [3]


def test_where_the_last_one_is_canceled_nobody_waits(talk, busy):
    client, *_ = busy
    client.submits(2, call=FOND)

    client.says(Cancel([2], False))

    assert not talk.broker.waits.things


def test_while_its_client_receives_nothing_it_waits_for_no_actor(talk, busy):
    client, better, lesser = busy
    client.submits(2, call=FOND)
    client.submits(3, slot=1)
    assert lesser.takes(Assign)
    lesser.says(Outcome(1000, 2, Status.RESULT, b"x" * 1_000, 0, 0.1), Credit(1))

    better.vanishes()
    paused = (lesser.takes(Assign), list(talk.broker.waits.things))
    client.says(Beat())

    assert paused == ([], [])
    assert [a.task for a in lesser.takes(Assign)] == [2]


def test_who_stands_behind_another_one_is_told_its_own_time(talk, busy):
    client, *_ = busy
    client.submits(2, call=FOND)
    talk.wait(0.5)

    client.submits(3, call=FOND)
    told = ask(client, "explain", "3")

    assert told["reason"] == "it waits up to 2.0 s more for an actor that it likes better (h/0)"
    assert told["actors"]["h/1"] == "has a free slot, and is passed for a better one for 2.0 s"


def test_one_that_all_rejected_is_not_told_to_wait_with_its_kind(busy):
    client, better, lesser = busy
    client.submits(2, call=FOND)
    better.ends((1000, 1), free=1)
    better.says(Reject(1000, 2, "not now"), Credit(0))
    lesser.says(Reject(1000, 3, "not now"), Credit(1))

    client.submits(3, call=FOND)

    assert "likes better" in ask(client, "explain", "3")["reason"]
    assert "rejected it" in ask(client, "explain", "2")["reason"]


def test_a_better_one_has_it_wait_ahead_and_it_stays_there(talk, busy):
    client, better, _ = busy
    better.says(Credit(0, 2))

    client.submits(2, call=FOND)
    assert better.takes(Assign)
    talk.wait(1.0)
    early = better.takes(Recall)
    talk.wait(1.5)

    assert not early
    assert [one.tokens for one in better.takes(Recall)] == [[(1000, 2)]]


def test_canceled_while_it_waits_it_is_gone(talk, busy):
    client, better, lesser = busy
    client.submits(2, call=FOND)

    client.vanishes()
    talk.wait(talk.settings.client_timeout_s + 1.0, beating=[better, lesser])

    assert not talk.broker.waits.things


def test_what_was_adopted_where_it_waits_ahead_stays_there_as_well():
    """None of its kind had stood in a queue, so nobody knew whom it likes better."""
    talk = Conversation(recovered=False, **PATIENT)
    running, waiting = (500, 3), (500, 4)
    holding = [(1, 1, running, "running"), (1, 2, waiting, "waiting")]
    better = talk.actor(11, name="h/0", labels={"model": "v2"}, holding=holding, slots={"slot": 1})
    talk.client(unresolved=[(1, 2)]).submits(1, again=True).submits(2, call=FOND, again=True)
    lesser = talk.actor(12, name="h/1", slots={"slot": 1}, free=1)

    talk.wait(1.0)
    early = better.takes(Recall)
    talk.wait(1.5)

    assert not early
    assert not lesser.takes(Assign)
    assert [one.tokens for one in better.takes(Recall)] == [[waiting]]
