"""Durable tasks: what waits for the journal, who finds them, and what a new broker takes over."""

from hashlib import blake2b

import msgspec
import pytest

from broker.core import Broker
from broker.disk.records import ROW_BYTES
from broker.events.defining import define
from broker.events.restoring import restore
from tests.broker.conversation import CODE, Conversation
from tests.support.disk import Disk, summary, summary_of_rows
from wire.codec import decode_failure, encode_failure
from wire.errors import Code
from wire.limits import read_definition
from wire.messages import (
    Accepted,
    Answer,
    Assign,
    Attach,
    Bye,
    Cancel,
    Credit,
    Death,
    Error,
    Function,
    OutcomeAck,
    Query,
    Requeued,
    Result,
    Stop,
    Submit,
    Template,
)
from wire.parts import Backoff, Call, Environment, Failure, Held, Holding, Kept, Key, Status

DURABLE = Call("keep", CODE, durable=True)
ONCE = Call("once", CODE, durable=True, at_most_once=True)
KEY = Key("order 17", b"d" * 16, 60.0)


def talk_with_disk(**settings):
    return Conversation(disk=Disk(), **settings)


def code_of(result):
    return decode_failure(result.body).code


def agree(talk):
    return summary(talk.broker) == summary_of_rows(talk.disk.read())


# --- what waits for the journal


def test_accepted_is_said_after_the_commit():
    talk = talk_with_disk()
    client = talk.client()
    talk.writes = False

    client.submits(1, 2, 3, call=DURABLE, body=b"args")
    assert client.takes(Accepted) == []
    talk.commits()

    assert client.takes(Accepted) == [Accepted([(1, 3)])]
    assert agree(talk)


def test_a_task_that_is_not_durable_waits_for_no_commit():
    talk = talk_with_disk()
    client, actor = talk.client(), talk.actor(free=2)
    talk.writes = False

    client.submits(1, call=DURABLE).submits(2, slot=1)
    tokens = [(1000, assign.number) for assign in actor.takes(Assign)]
    actor.ends(tokens[0], b"one").ends(tokens[1], b"two")

    assert [(result.task, result.body) for result in client.takes(Result)] == [(2, b"two")]


def test_an_outcome_is_said_and_acknowledged_after_its_commit():
    talk = talk_with_disk()
    client, actor = talk.client(), talk.actor(free=1)
    client.submits(1, call=DURABLE)
    [assign] = actor.takes(Assign)
    talk.writes = False

    actor.ends((1000, assign.number), b"value")
    talk.wait(2.0, beating=[client, actor])
    assert client.takes(Result) == []
    assert actor.takes(OutcomeAck) == []
    talk.commits()
    talk.wait(1.5, beating=[client, actor])

    assert [result.body for result in client.takes(Result)] == [b"value"]
    assert [ack.accepted for ack in actor.takes(OutcomeAck)] == [[(1000, assign.number)]]


def test_what_its_client_received_leaves_the_journal():
    talk = talk_with_disk()
    client, actor = talk.client(), talk.actor(free=1)
    client.submits(1, call=DURABLE)
    [assign] = actor.takes(Assign)
    actor.ends((1000, assign.number), b"value")

    client.beats()

    assert talk.disk.read().rows == []
    assert talk.broker.records.octets == 0
    assert talk.task(client, 1) is None


def test_an_at_most_once_task_starts_when_the_journal_lets_it():
    talk = talk_with_disk()
    client, actor = talk.client(), talk.actor(free=1)
    client.submits(1, call=ONCE)
    assert len(actor.takes(Assign)) == 1
    talk.writes = False

    client.submits(2, call=ONCE)
    actor.ends((1000, 1), free=1)
    assert talk.state(client, 2) == "writing"
    assert actor.takes(Assign) == []
    talk.commits()

    assert len(actor.takes(Assign)) == 1
    assert talk.disk.row(1, 2) == (1, None)


def test_an_at_most_once_task_that_is_handed_back_is_written_as_not_started():
    talk = talk_with_disk()
    client, actor = talk.client(), talk.actor(free=1)
    client.submits(1, call=ONCE)
    [assign] = actor.takes(Assign)
    actor.greets()
    talk.wait(1.0, beating=[client])

    assert talk.state(client, 1) == "queued"
    assert talk.disk.row(1, 1) == (0, None)
    assert assign.attempt == 1


# --- refusals


def test_without_a_journal_a_durable_task_is_refused_through_its_future():
    talk = Conversation()
    client, actor = talk.client(), talk.actor(free=1)

    client.submits(1, call=DURABLE)

    [result] = client.takes(Result)
    assert code_of(result) == Code.NOT_DURABLE
    assert "--no-journal" in decode_failure(result.body).message
    assert actor.takes(Assign) == []


def test_while_the_disk_is_full_new_durable_tasks_are_refused_and_others_are_not():
    talk = talk_with_disk()
    client, actor = talk.client(), talk.actor(free=3)
    talk.broker.journal_stuck("database or disk is full")

    client.submits(1, call=DURABLE).submits(2, slot=1)
    [result] = client.takes(Result)
    assert (result.task, code_of(result)) == (1, Code.NOT_DURABLE)
    assert "database or disk is full" in decode_failure(result.body).message
    assert [assign.task for assign in actor.takes(Assign)] == [2]

    talk.broker.journal_stuck("")
    client.submits(3, call=DURABLE)
    assert client.takes(Accepted) == [Accepted([(3, 3)])]


def test_a_full_journal_refuses_and_takes_again_what_fits():
    talk = talk_with_disk(journal_bytes_max=2_000)
    client, actor = talk.client(), talk.actor(free=1)
    client.submits(1, call=DURABLE, body=b"x" * 1_000)
    client.submits(2, call=DURABLE, body=b"x" * 1_000)
    [result] = client.takes(Result)
    assert (result.task, code_of(result)) == (2, Code.NOT_DURABLE)

    actor.ends((1000, 1))
    client.beats()
    client.submits(3, call=DURABLE, body=b"x" * 1_000)

    assert client.takes(Accepted)[-1] == Accepted([(3, 3)])


def submits_code(client, number, code, body=b"", **options):
    """Submit a durable call of a function that has these octets of *code*."""
    function = blake2b(code, digest_size=16).digest()
    blob = Function(0, function, code)
    client.says(blob, Template(0, Call("keep", function, durable=True, **options)))
    client.says(Submit(number, 0, body, 0))


def test_a_journal_is_full_of_code_as_well():
    """Code counted for nothing: any number of functions of any size was taken."""
    talk = talk_with_disk(journal_bytes_max=10_000)
    client = talk.client()
    submits_code(client, 1, b"a" * 6_000)
    submits_code(client, 2, b"b" * 6_000)
    [result] = client.takes(Result)
    assert (result.task, code_of(result)) == (2, Code.NOT_DURABLE)
    # What is there counts once, also in calls of another kind.
    submits_code(client, 3, b"a" * 6_000)
    submits_code(client, 4, b"a" * 6_000, priority=7)
    assert client.takes(Accepted)[-1] == Accepted([(4, 4)])
    octets = talk.broker.records.octets
    assert octets == 6_000 + 3 * ROW_BYTES

    talk.restart()
    assert talk.broker.records.octets == octets
    talk.wait(11.0)
    client = talk.client(2)
    submits_code(client, 1, b"b" * 6_000)
    assert [code_of(result) for result in client.takes(Result)] == [Code.NOT_DURABLE]
    for own, number in ((5, 1), (6, 3), (7, 4)):
        client.says(Query(own, "cancel", f"{1:016x}-{number}"), Attach(own, 1, number))
    client.beats()

    assert talk.broker.records.octets == 0
    submits_code(client, 8, b"b" * 6_000)
    assert client.takes(Accepted)[-1] == Accepted([(8, 8)])


def test_code_of_an_environment_that_is_the_functions_counts_once():
    talk = talk_with_disk(journal_bytes_max=2_000)
    client = talk.client()
    function = blake2b(b"a" * 1_500, digest_size=16).digest()
    environment = Environment("e1", "env", function)

    submits_code(client, 1, b"a" * 1_500, environment=environment)

    assert client.takes(Accepted) == [Accepted([(1, 1)])]
    assert talk.broker.records.octets == 1_500 + ROW_BYTES


def test_what_ends_while_it_is_read_back_is_counted_once():
    """Its outcome was counted twice, and its call taken off before it was counted."""
    talk = talk_with_disk()
    define(talk.broker, read_definition("db=1"))
    client = talk.client()
    call = Call("keep", CODE, durable=True, limits={"db": 1})
    client.submits(1, call=call, body=b"x" * 10_000)

    talk.restart()  # Without the limit: the call ends at once.
    client.greets(msgspec.structs.replace(client.hello, unresolved=[(1, 1)]))
    [result] = client.takes(Result)
    client.beats()

    assert code_of(result) == Code.LIMIT_UNKNOWN
    assert talk.broker.records.octets == 0


# --- who owns it


@pytest.mark.parametrize("way", ["bye", "timeout", "unlisted"])
def test_a_durable_task_goes_on_without_its_client(way):
    talk = talk_with_disk()
    client, actor = talk.client(), talk.actor()
    client.submits(1, call=DURABLE).submits(2, slot=1)

    match way:
        case "bye":
            client.says(Bye("closed"))
        case "timeout":
            client.vanishes()
            talk.wait(11.0, beating=[actor])
        case "unlisted":
            client.greets()

    assert talk.state(client, 1) == "queued"
    assert talk.state(client, 2) is None
    assert len(talk.disk.read().rows) == 1


def test_whoever_attaches_gets_the_outcome_and_then_it_is_forgotten():
    talk = talk_with_disk()
    client, actor = talk.client(), talk.actor(free=1)
    client.submits(1, call=DURABLE)
    client.says(Bye("closed"))
    first, second = talk.client(2), talk.client(3)
    first.says(Attach(1, 1, 1))
    actor.ends((1000, 1), b"value")
    second.says(Attach(5, 1, 1))

    assert [(r.task, r.body) for r in first.takes(Result)] == [(1, b"value")]
    assert [(r.task, r.body) for r in second.takes(Result)] == [(5, b"value")]
    first.beats()
    assert len(talk.disk.read().rows) == 1
    second.beats()
    assert talk.disk.read().rows == []


def test_an_outcome_stays_while_its_client_may_come_back():
    talk = talk_with_disk()
    client, actor = talk.client(), talk.actor(free=1)
    client.submits(1, call=DURABLE)
    client.vanishes()
    other = talk.client(2)
    other.says(Attach(1, 1, 1))
    actor.ends((1000, 1), b"value")
    other.beats()
    assert len(talk.disk.read().rows) == 1

    client.connects()
    client.greets(msgspec.structs.replace(client.hello, unresolved=[(1, 1)]))

    assert [r.body for r in client.takes(Result)] == [b"value"]
    client.beats()
    assert talk.disk.read().rows == []


def puts_away(talk):
    """Have the outcome of a task with a key put away, since its client has it."""
    client, actor = talk.client(), talk.actor(free=1)
    client.submits(1, call=DURABLE, key=KEY)
    [assign] = actor.takes(Assign)
    actor.ends((1000, assign.number), b"value", free=1)
    client.beats()
    assert talk.task(client, 1) is None
    client.takes(Result)
    return client, actor


@pytest.mark.parametrize("way", ["submit", "submit with another key", "attach"])
def test_a_number_whose_outcome_was_put_away_is_answered_with_it(way):
    talk = talk_with_disk()
    client, actor = puts_away(talk)
    octets = talk.broker.records.octets

    if way == "attach":
        client.says(Attach(1, 99, 99))
    else:
        client.submits(1, call=DURABLE, key=KEY if way == "submit" else None)

    assert [result.body for result in client.takes(Result)] == [b"value"]
    assert actor.takes(Assign) == []
    assert talk.broker.records.octets == octets
    client.beats()
    assert talk.task(client, 1) is None
    assert agree(talk)


def test_a_number_that_was_put_away_and_is_something_else_by_now_stays_so():
    talk = talk_with_disk()
    client, actor = puts_away(talk)

    client.submits(1, slot=2)
    client.greets(msgspec.structs.replace(client.hello, unresolved=[(1, 1)]))
    [assign] = actor.takes(Assign)
    actor.ends((1000, assign.number), b"other")

    assert [result.body for result in client.takes(Result)] == [b"other"]
    assert agree(talk)


def test_a_client_that_comes_back_late_still_finds_what_nobody_took():
    talk = talk_with_disk()
    client, actor = talk.client(), talk.actor(free=1)
    client.submits(1, call=DURABLE)
    client.vanishes()
    actor.ends((1000, 1), b"value")
    talk.wait(12.0, beating=[actor])
    assert 1 in talk.broker.records.kept[1]

    client.connects()
    client.greets(msgspec.structs.replace(client.hello, unresolved=[(1, 1)]))

    assert [r.body for r in client.takes(Result)] == [b"value"]
    assert talk.broker.records.kept == {}


def test_what_is_not_durable_or_not_known_cannot_be_found():
    talk = talk_with_disk()
    client, other = talk.client(), talk.client(2)
    client.submits(1)

    other.says(Attach(1, 1, 1), Attach(2, 1, 99))

    results = other.takes(Result)
    assert [code_of(result) for result in results] == [Code.OUTCOME_UNKNOWN] * 2
    assert "is not durable" in decode_failure(results[0].body).message
    assert "is not known here" in decode_failure(results[1].body).message


def test_an_outcome_that_nobody_takes_is_forgotten_in_the_end():
    talk = talk_with_disk(outcome_ttl_s=30.0)
    client, actor = talk.client(), talk.actor(free=1)
    client.submits(1, call=DURABLE)
    client.says(Bye("closed"))
    actor.ends((1000, 1), b"value")

    talk.wait(29.0)
    assert len(talk.disk.read().rows) == 1
    talk.wait(2.0)

    assert talk.disk.read().rows == []
    assert talk.noted("outcome_expired")


def test_what_passes_while_no_broker_runs_counts():
    talk = talk_with_disk(outcome_ttl_s=30.0)
    client, actor = talk.client(), talk.actor(free=1)
    client.submits(1, call=DURABLE)
    client.says(Bye("closed"))
    actor.ends((1000, 1), b"value")
    talk.wait(10.0)

    talk.sleep(15.0)
    talk.restart()

    talk.wait(4.0)
    assert len(talk.disk.read().rows) == 1
    talk.wait(2.0)
    assert talk.disk.read().rows == []


def test_code_that_no_task_needs_leaves_the_journal():
    talk = talk_with_disk()
    client, actor = talk.client(), talk.actor(free=1)
    client.submits(1, call=DURABLE)
    actor.ends((1000, 1))
    client.beats()
    assert talk.disk.read().codes == {CODE: b"code"}

    talk.wait(125.0, beating=[client, actor])

    assert talk.disk.read().codes == {}
    assert talk.disk.read().calls == {}
    client.submits(2, call=DURABLE)
    assert talk.disk.read().codes == {CODE: b"code"}


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
