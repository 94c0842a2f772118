"""What ends a durable task for all who want it: cancels and keys; and journals that are older."""

import msgspec
import pytest

from tests.broker.test_durable import DURABLE, KEY, ONCE, agree, code_of, talk_with_disk
from wire.errors import Code
from wire.messages import (
    Accepted,
    Answer,
    Assign,
    Attach,
    Cancel,
    Credit,
    Query,
    Result,
    Stop,
)
from wire.parts import Held, Holding, Status

# --- an older journal, or one that was not written to the end


def put_back(talk, copy):
    """Kill the broker, and start one on an earlier *copy* of its journal; all connect again."""
    talk.disk.put_back(copy)
    talk.restart()


def test_a_run_of_a_number_that_is_another_name_by_now_is_stopped():
    """It was never written, and somebody else has come with its key since."""
    talk = talk_with_disk()
    first, second = talk.client(1), talk.client(2)
    talk.actor(11, free=1)
    talk.writes = False
    first.submits(1, call=DURABLE, key=KEY)
    talk.restart()
    talk.writes = True
    second.greets().submits(1, call=DURABLE, key=KEY)
    first.greets().submits(1, call=DURABLE, key=KEY, again=True)
    assert talk.state(first, 1) == "attached"

    late = talk.actor(12, name="host/1", holding=[(1, 1, (1000, 1), Held.RUNNING)])

    assert [stop.number for stop in late.takes(Stop)] == [1]
    assert talk.state(first, 1) == "attached"


@pytest.mark.parametrize("state", ["held", "writing"])
def test_a_run_of_which_an_older_journal_does_not_know_is_adopted_and_never_again(state):
    talk = talk_with_disk()
    client = talk.client().submits(1, call=ONCE)
    copy = talk.disk.copy()
    run = talk.actor(11, free=1)
    assert len(run.takes(Assign)) == 1
    put_back(talk, copy)
    if state == "writing":
        other = talk.actor(12, name="host/1")
        talk.wait(2.5, beating=[client, other])
        talk.writes = False
        other.says(Credit(1))
    assert talk.state(client, 1) == state

    run.greets(msgspec.structs.replace(run.hello, holding=[Holding(1, 1, (1000, 1), "running")]))
    assert talk.state(client, 1) == "assigned"
    talk.commits()
    talk.writes = True

    talk.restart()
    client.greets(msgspec.structs.replace(client.hello, unresolved=[(1, 1)]))
    talk.wait(2.5, beating=[client])
    assert [code_of(result) for result in client.takes(Result)] == [Code.OUTCOME_UNKNOWN]


def test_what_was_accepted_after_the_copy_is_not_known_and_says_so():
    talk = talk_with_disk()
    client = talk.client().submits(1, call=DURABLE)
    copy = talk.disk.copy()
    client.submits(2, call=DURABLE)
    assert client.takes(Accepted)

    put_back(talk, copy)
    client.greets()

    assert talk.state(client, 1) == "held"
    assert talk.state(client, 2) is None, "its client ends it, since it was accepted"


# --- cancel


def test_a_cancel_ends_it_for_everybody_and_is_answered_when_it_is_written():
    talk = talk_with_disk()
    client, actor = talk.client(), talk.actor(free=1)
    client.submits(1, call=DURABLE)
    other = talk.client(2)
    other.says(Attach(1, 1, 1))
    talk.writes = False

    other.says(Query(1, "cancel", "0000000000000001-1"))
    assert other.takes(Answer) == []
    assert len(actor.takes(Stop)) == 1
    talk.commits()

    [answer] = other.takes(Answer)
    assert msgspec.msgpack.decode(answer.body) == {"done": "cancel"}
    assert [r.status for r in other.takes(Result)] == [Status.CANCELED]
    assert [r.status for r in client.takes(Result)] == [Status.CANCELED]


@pytest.mark.parametrize("is_known", [True, False])
def test_a_cancel_that_cannot_be_written_is_answered_as_that(is_known):
    """Whether the disk was known to be full: its client says it again to the next broker."""
    talk = talk_with_disk()
    client = talk.client().submits(1, call=DURABLE)
    talk.writes = False
    if is_known:
        talk.broker.journal_stuck("disk is full")

    client.says(Query(1, "cancel", "1"))
    talk.broker.journal_stuck("disk is full")
    talk.flush()

    [answer] = client.takes(Answer)
    told = msgspec.msgpack.decode(answer.body)
    assert told.pop("unwritten") is True
    assert "it is done" in told["error"]
    assert "disk is full" in told["error"]
    talk.restart()
    talk.writes = True
    assert not talk.task(client, 1).is_over
    client.greets()
    client.says(Query(1, "cancel", "1"))
    assert talk.disk.row(1, 1) is None


def test_what_is_not_known_is_told_as_that_also_where_nothing_can_be_written():
    talk = talk_with_disk()
    client = talk.client().submits(1, call=DURABLE)
    talk.broker.journal_stuck("disk is full")
    talk.writes = False
    client.says(Query(1, "cancel", "1"))

    client.says(Query(2, "cancel", "7"))

    answer = client.takes(Answer)[-1]
    assert msgspec.msgpack.decode(answer.body) == {
        "error": "task 7 is not known here",
        "unwritten": True,
    }


def test_the_cancel_of_another_name_lets_go_of_the_name_alone():
    talk = talk_with_disk()
    client, other = talk.client(), talk.client(2)
    client.submits(1, call=DURABLE)
    other.says(Attach(1, 1, 1))

    other.says(Cancel([1]))

    assert talk.state(client, 1) == "queued"
    assert talk.state(other, 1) is None


@pytest.mark.parametrize("state", ["queued", "held", "writing", "assigned"])
def test_a_durable_task_can_be_canceled_in_every_state(state):
    talk = talk_with_disk()
    client = talk.client()
    talk.writes = False
    match state:
        case "queued":
            client.submits(1, call=DURABLE)
        case "held":
            client.submits(1, call=DURABLE)
            talk.commits()
            talk.restart()
            client.greets(msgspec.structs.replace(client.hello, unresolved=[(1, 1)]))
        case "writing":
            talk.actor(free=1)
            client.submits(1, call=ONCE)
        case "assigned":
            talk.actor(free=1)
            client.submits(1, call=DURABLE)
    assert talk.state(client, 1) == state

    client.says(Cancel([1]))
    talk.commits()

    assert [r.status for r in client.takes(Result)] == [Status.CANCELED]
    client.beats()
    talk.commits()
    assert talk.disk.read().rows == []


# --- keys


def test_the_same_key_and_digest_have_one_outcome():
    talk = talk_with_disk()
    client, actor, other = talk.client(), talk.actor(free=2), talk.client(2)

    client.submits(1, call=DURABLE, key=KEY)
    other.submits(1, call=DURABLE, key=KEY)
    assert other.takes(Accepted) == [Accepted([(1, 1)])]
    actor.ends((1000, 1), b"value")
    client.submits(2, call=DURABLE, key=KEY)

    assert [(r.task, r.body) for r in client.takes(Result)] == [(1, b"value"), (2, b"value")]
    assert [(r.task, r.body) for r in other.takes(Result)] == [(1, b"value")]
    assert len(actor.takes(Assign)) == 1


def test_the_same_key_with_another_digest_is_a_conflict():
    talk = talk_with_disk()
    client = talk.client()
    client.submits(1, call=DURABLE, key=KEY)

    client.submits(2, call=DURABLE, key=msgspec.structs.replace(KEY, digest=b"e" * 16))

    [result] = client.takes(Result)
    assert (result.task, code_of(result)) == (2, Code.CONFLICT)


def test_an_outcome_is_kept_for_its_key_and_no_longer():
    talk = talk_with_disk()
    client, actor = talk.client(), talk.actor(free=1)
    client.submits(1, call=DURABLE, key=KEY)
    actor.ends((1000, 1), b"value")
    client.beats()
    assert len(talk.disk.read().rows) == 1
    assert len(client.talk.broker.clients[1].tasks) == 0

    talk.wait(61.0, beating=[client, actor])

    assert talk.disk.read().rows == []
    client.submits(2, call=DURABLE, key=KEY)
    assert talk.state(client, 2) == "queued"


def test_a_canceled_task_gives_its_key_free():
    talk = talk_with_disk()
    client = talk.client()
    client.submits(1, call=DURABLE, key=KEY)

    client.says(Cancel([1]))
    client.submits(2, call=DURABLE, key=KEY)

    assert talk.state(client, 2) == "queued"
    assert agree(talk)


def test_a_key_outlives_the_broker():
    talk = talk_with_disk()
    client, actor = talk.client(), talk.actor(free=1)
    client.submits(1, call=DURABLE, key=KEY)
    actor.ends((1000, 1), b"value")
    client.beats()

    talk.restart()
    client.greets()
    client.submits(2, call=DURABLE, key=KEY)

    assert [(r.task, r.body) for r in client.takes(Result)] == [(2, b"value")]
