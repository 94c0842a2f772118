"""What a started broker makes of the durable tasks in its journal."""

import msgspec
import pytest

from broker.core import Broker
from broker.events.restoring import restore
from tests.broker.conversation import CODE, Conversation
from tests.broker.test_durable import DURABLE, KEY, ONCE, agree, code_of, talk_with_disk
from tests.broker.test_environments import place as environment
from tests.support.disk import summary, summary_of_rows
from wire.codec import decode_failure, encode_failure
from wire.errors import Code
from wire.messages import (
    Accepted,
    Answer,
    Assign,
    Attach,
    Bye,
    Credit,
    Death,
    Error,
    OutcomeAck,
    Query,
    Requeued,
    Result,
    Submit,
)
from wire.parts import Backoff, Call, Failure, Kept, Status

# --- restart


def test_a_new_broker_has_what_was_accepted_and_runs_it_after_the_window():
    talk = talk_with_disk()
    client = talk.client()
    client.submits(1, 2, call=DURABLE, body=b"args")
    client.says(Bye("closed"))

    talk.restart()
    actor = talk.actor(free=2)
    assert talk.state(client, 1) == "held"
    assert actor.takes(Assign) == []
    talk.wait(2.5, beating=[actor])
    actor.says(Credit(2))

    assert [(a.client, a.task, a.body) for a in actor.takes(Assign)] == [
        (1, 1, b"args"),
        (1, 2, b"args"),
    ]


def test_what_was_taken_over_has_no_more_copies_of_its_environment_than_may_be():
    # Until an actor said Entered nobody knew of the environment, and each actor entered it.
    talk, place = talk_with_disk(), environment(high=1)
    client = talk.client()
    client.submits(1, 2, call=Call("m", b"", "m", place, durable=True))
    client.says(Bye("closed"))

    talk.restart()
    actors = [talk.actor(11 + n, name=f"host/{n}") for n in range(2)]
    talk.wait(2.5, beating=actors)
    for actor in actors:
        actor.says(Credit(2, 0, 1))

    assert sum(bool(actor.takes(Assign)) for actor in actors) == 1


def test_what_was_taken_over_stayed_in_memory_as_rows_as_well():
    talk = talk_with_disk()
    talk.client().submits(1, 2, call=DURABLE, body=b"args")
    stored, broker = talk.disk.read(), Broker(talk.settings, epoch=9, now=talk.now)
    assert [row.number for row in stored.rows] == [1, 2]

    restore(broker, stored, talk.now)

    assert summary(broker) == summary_of_rows(talk.disk.read())
    assert (stored.rows, stored.dead, stored.named) == ([], [], [])


def test_what_was_not_committed_is_lost_and_sent_again():
    talk = talk_with_disk()
    client = talk.client()
    talk.writes = False
    client.submits(1, call=DURABLE)

    talk.restart()
    talk.writes = True
    client.greets(msgspec.structs.replace(client.hello, unresolved=[(1, 1)]))
    client.submits(1, call=DURABLE, again=True)

    assert client.takes(Accepted) == [Accepted([(1, 1)])]
    assert talk.state(client, 1) == "held"


def test_the_key_of_a_call_whose_parent_is_gone_is_the_next_runs():
    talk = talk_with_disk()
    client = talk.client()

    client.submits(1, call=DURABLE, body=b"args", parent=(1000, 77), key=KEY)
    assert code_of(client.takes(Result)[0]) == Code.PARENT_GONE
    client.submits(2, call=DURABLE, body=b"args", key=KEY)

    assert talk.state(client, 2) == "queued"
    assert talk.broker.records.keys == {KEY.text: talk.task(client, 2)}
    assert agree(talk)


def test_what_was_committed_and_not_announced_is_accepted_in_the_next_session():
    talk = talk_with_disk()
    client = talk.client()
    talk.writes = False
    client.submits(1, call=DURABLE)

    talk.restart(writes_first=True)
    client.greets(msgspec.structs.replace(client.hello, unresolved=[(1, 1)]))

    assert client.takes(Accepted) == [Accepted([(1, 1)])]


def test_a_durable_run_goes_on_over_a_restart_and_is_adopted():
    talk = talk_with_disk()
    client, actor = talk.client(), talk.actor(free=1)
    client.submits(1, call=DURABLE)
    actor.takes(Assign)
    token = (1000, 1)

    talk.restart()
    holding = [
        msgspec.convert(
            [1, 1, token, "running"], type(actor.hello).__annotations__["holding"].__args__[0]
        )
    ]
    actor.greets(msgspec.structs.replace(actor.hello, holding=holding))
    assert talk.state(client, 1) == "assigned"
    actor.ends(token, b"value")
    client.greets(msgspec.structs.replace(client.hello, unresolved=[(1, 1)]))

    assert [r.body for r in client.takes(Result)] == [b"value"]


@pytest.mark.parametrize("was_assigned", [True, False])
def test_an_at_most_once_task_that_may_have_run_is_not_run_again(was_assigned):
    talk = talk_with_disk()
    client = talk.client()
    if was_assigned:
        talk.actor(free=1)
    client.submits(1, call=ONCE)

    talk.restart()
    client.greets(msgspec.structs.replace(client.hello, unresolved=[(1, 1)]))
    talk.wait(2.5, beating=[client])

    if was_assigned:
        [result] = client.takes(Result)
        assert code_of(result) == Code.OUTCOME_UNKNOWN
    else:
        assert talk.state(client, 1) == "queued"


def test_tries_outlive_the_broker():
    talk = talk_with_disk(losses_max=2)
    client, actor = talk.client(), talk.actor(free=1)
    client.submits(1, call=DURABLE)
    talk.actor(12, name="host/0")

    talk.restart()
    other = talk.actor(13, name="host/1")
    talk.wait(2.5, beating=[other])
    other.says(Credit(1))

    assert [a.attempt for a in other.takes(Assign)] == [2]
    assert actor.incarnation == 11


def test_an_outcome_that_was_written_is_the_outcome():
    talk = talk_with_disk()
    client, actor = talk.client(), talk.actor(free=1)
    client.submits(1, call=DURABLE)
    actor.takes(Assign)
    client.is_deaf = True
    actor.ends((1000, 1), b"value")

    talk.restart()
    client.is_deaf = False
    client.greets(msgspec.structs.replace(client.hello, unresolved=[(1, 1)]))

    assert [r.body for r in client.takes(Result)] == [b"value"]
    assert talk.state(client, 1) == "ended"


def test_payload_frames_outlive_the_broker():
    talk = talk_with_disk()
    client = talk.client()
    client.submits(9, call=DURABLE)
    client.says(Submit(10, 0, b"", 2), payloads=[b"large", b"larger"])

    talk.restart()
    actor = talk.actor()
    talk.wait(2.5, beating=[actor])
    actor.says(Credit(2))

    heard = {c.task: p for _, c, p in actor.heard if isinstance(c, Assign)}
    assert [bytes(part) for part in heard[10]][-2:] == [b"large", b"larger"]
    assert agree(talk)


def fails(actor, token):
    failure = Failure(Code.TASK_FAILED, "OSError", "no route", retriable=True)
    return actor.ends(token, encode_failure(failure), status=Status.FAILURE, free=1)


RETRIED = Call("keep", CODE, durable=True, retries=1, backoff=Backoff(5.0, 1.0, 5.0, 0.0))


def test_a_failure_that_is_tried_again_is_acknowledged_after_its_commit():
    talk = talk_with_disk()
    client, actor = talk.client(), talk.actor(free=1)
    client.submits(1, call=RETRIED)
    [assign] = actor.takes(Assign)
    talk.writes = False

    fails(actor, (1000, assign.number))
    talk.wait(1.0, beating=[client, actor])
    assert actor.takes(OutcomeAck) == []
    assert talk.state(client, 1) == "delayed"
    talk.commits()
    talk.wait(1.0, beating=[client, actor])

    assert [ack.accepted for ack in actor.takes(OutcomeAck)] == [[(1000, assign.number)]]
    assert agree(talk)


def test_what_went_wrong_is_told_after_its_commit():
    """A broker that ended before the commit let the next one count less than its client knew."""
    talk, client = talk_of_a_crash()
    untold = client.takes(Requeued)

    talk.commits()

    assert untold == []
    assert [(told.task, told.crashes) for told in client.takes(Requeued)] == [(1, 1)]


def test_what_went_wrong_is_told_after_its_commit_to_who_comes_back_as_well():
    talk, client = talk_of_a_crash()

    client.greets(msgspec.structs.replace(client.hello, unresolved=[(1, 1)]))
    untold = client.takes(Requeued)
    talk.commits()

    assert untold == []
    assert [(told.task, told.crashes) for told in client.takes(Requeued)] == [(1, 1)]


def talk_of_a_crash():
    """Return a conversation in which an actor died under a durable task, which is not written."""
    talk = talk_with_disk()
    client, actor = talk.client(), talk.actor(11, free=1)
    client.submits(1, call=DURABLE)
    [assign] = actor.takes(Assign)
    host = talk.host()
    talk.writes = False
    host.says(Death(11, None, 6, [(1000, assign.number)]))
    return talk, client


def test_a_wait_for_the_next_try_outlives_the_broker_and_the_client():
    talk = talk_with_disk()
    client, actor = talk.client(), talk.actor(free=1)
    client.submits(1, call=RETRIED)
    [assign] = actor.takes(Assign)
    fails(actor, (1000, assign.number))

    talk.restart()
    assert talk.state(client, 1) == "held"
    talk.wait(2.5)
    assert talk.state(client, 1) == "delayed"
    other = talk.actor(12, name="host/1")
    talk.wait(3.0, beating=[other])
    other.says(Credit(1))

    [again] = other.takes(Assign)
    assert again.attempt == 2
    fails(other, (other.epoch, again.number))
    client.greets(msgspec.structs.replace(client.hello, unresolved=[(1, 1)]))
    [result] = client.takes(Result)
    assert decode_failure(result.body).history == ["attempt 1 on host/0: OSError: no route"]


def test_a_durable_task_that_waits_for_its_next_try_can_be_canceled():
    talk = talk_with_disk()
    client, actor = talk.client(), talk.actor(free=1)
    client.submits(1, call=RETRIED)
    [assign] = actor.takes(Assign)
    fails(actor, (1000, assign.number))

    client.says(Query(1, "cancel", "1"))

    assert len(client.takes(Answer)) == 1
    assert talk.task(client, 1) is None


def test_what_its_client_canceled_takes_no_room_in_its_window():
    talk = talk_with_disk(window_tasks=1)
    client = talk.client()
    client.submits(1, call=DURABLE)
    talk.writes = False

    client.says(Query(1, "cancel", "1"))
    client.submits(2, call=DURABLE)
    talk.writes = True
    talk.commits()

    assert talk.state(client, 2) == "queued"
    assert [row.number for row in talk.disk.read().rows] == [2]


def test_what_an_older_journal_has_and_its_client_does_not_list_takes_no_room_in_its_window():
    talk = talk_with_disk(window_tasks=1)
    client, actor = talk.client(), talk.actor(free=1)
    client.submits(1, call=DURABLE)

    client.greets(msgspec.structs.replace(client.hello, unresolved=[(2, 2)]))
    client.submits(2)
    actor.ends((1000, 1), b"value")

    assert client.takes(Error) == []
    assert talk.state(client, 2) is not None
    assert client.takes(Result) == []
    assert [row.number for row in talk.disk.read().rows] == [1]


def test_an_outcome_that_came_before_its_call_leaves_no_call_behind():
    talk = talk_with_disk(epoch=1000, recovered=False)
    kept = Kept(1, 7, (900, 3))
    actor = talk.actor()
    actor.greets(msgspec.structs.replace(actor.hello, kept=[kept]), epoch=900)
    actor.ends((900, 3), b"value")
    client = talk.client(unresolved=[(7, 7)])

    client.submits(7, call=DURABLE, body=b"args", again=True)
    assert [r.body for r in client.takes(Result)] == [b"value"]
    client.says(Bye("closed"))

    assert talk.disk.read().rows == []


@pytest.mark.parametrize("reason", ["stuck", "full"])
def test_an_outcome_that_came_before_its_call_waits_for_the_journal(reason):
    """It was told at once, unwritten, where its call could not be written just then."""
    talk = talk_with_disk(recovered=False, journal_bytes_max=10)
    kept = Kept(1, 7, (900, 3))
    actor = talk.actor()
    actor.greets(msgspec.structs.replace(actor.hello, kept=[kept]), epoch=900)
    actor.ends((900, 3), b"value")
    client = talk.client(unresolved=[(7, 7)])
    talk.writes = False
    if reason == "stuck":
        talk.broker.journal_stuck("disk is full")

    client.submits(7, call=DURABLE, again=True)
    untold = [*client.takes(Result), *actor.takes(OutcomeAck)]
    talk.commits()

    assert untold == []
    assert [r.body for r in client.takes(Result)] == [b"value"]


def test_an_outcome_that_came_before_its_call_is_told_where_no_journal_will_ever_have_it():
    talk = Conversation(recovered=False)
    kept = Kept(1, 7, (900, 3))
    actor = talk.actor()
    actor.greets(msgspec.structs.replace(actor.hello, kept=[kept]), epoch=900)
    actor.ends((900, 3), b"value")

    client = talk.client(unresolved=[(7, 7)])
    client.submits(7, call=DURABLE, again=True)

    assert [r.body for r in client.takes(Result)] == [b"value"]


def test_what_was_refused_and_canceled_takes_no_room_in_the_window():
    talk = talk_with_disk(window_tasks=1)
    client = talk.client()
    talk.broker.journal_stuck("disk is full")
    client.is_deaf = True
    client.submits(1, call=DURABLE)

    client.says(Query(1, "cancel", "1"))
    client.submits(2)

    assert talk.state(client, 2) == "queued"


def test_what_is_asked_of_another_name_is_told_of_the_task():
    talk = talk_with_disk()
    client, other = talk.client(), talk.client(2)
    client.submits(1, call=DURABLE, body=b"args")
    other.says(Attach(5, 1, 1))

    other.says(Query(1, "explain", "5"), Query(2, "status"))

    explained, status = (msgspec.msgpack.decode(answer.body) for answer in other.takes(Answer))
    assert (explained["state"], explained["reason"]) == ("queued", "no actor is connected")
    assert (status["queued"], status["journal_octets"]) == (1, talk.broker.records.octets)


def test_a_client_that_came_back_is_not_forgotten_with_what_it_had_left_behind():
    talk = talk_with_disk()
    client, actor = talk.client(), talk.actor(free=1)
    client.submits(1, call=DURABLE)
    [assign] = actor.takes(Assign)
    client.is_deaf = True
    actor.ends((1000, assign.number), b"value")
    talk.broker.unreachable(client.rid, talk.now)
    talk.wait(talk.settings.client_timeout_s + 1.0, beating=[actor])
    assert talk.task(client, 1) is None, "it is put away"

    client.is_deaf = False
    client.connects()
    client.greets().submits(2, call=DURABLE)
    client.says(Attach(3, 1, 1))
    assert [result.body for result in client.takes(Result)] == [b"value"]
    client.beats()

    assert talk.broker.records.kept == {}
    assert talk.state(client, 2) == "queued"


def test_what_waits_for_the_commit_that_lets_it_start_can_be_canceled():
    talk = talk_with_disk()
    client, actor = talk.client(), talk.actor(free=1)
    talk.writes = False
    client.submits(1, call=ONCE)
    assert talk.state(client, 1) == "writing"

    client.says(Query(1, "cancel", "1"))
    talk.commits()

    assert len(client.takes(Answer)) == 1
    assert talk.task(client, 1) is None
    assert actor.takes(Assign) == []


def test_a_client_that_was_gone_for_long_is_told_how_ended_what_went_on_meanwhile():
    talk = talk_with_disk()
    client, actor = talk.client(), talk.actor(free=1)
    client.submits(1, call=DURABLE)
    [assign] = actor.takes(Assign)
    talk.broker.unreachable(client.rid, talk.now)
    holding = [(1000, assign.number)]
    for _ in range(int(talk.settings.client_timeout_s) + 2):
        talk.wait(1.0)
        actor.beats(holding=holding)

    client.connects()
    client.greets(msgspec.structs.replace(client.hello, unresolved=[(1, 1)]))
    actor.ends((1000, assign.number), b"value")

    assert [result.body for result in client.takes(Result)] == [b"value"]


def test_what_everybody_has_is_not_remembered_until_its_time_is_over():
    talk = talk_with_disk()
    client, actor = talk.client(), talk.actor(free=1)

    for number in range(1, 1_000):
        client.submits(number, call=DURABLE)
        actor.ends((1000, number), b"value", free=1)
        client.beats()

    assert talk.disk.read().rows == []
    assert len(talk.broker.records.expiring) < 100
