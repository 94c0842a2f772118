"""Durable tasks: what waits for the journal, who finds them, and what a new broker takes over."""

from hashlib import blake2b

import msgspec
import pytest

from broker.disk.records import ROW_BYTES
from broker.events.defining import define
from tests.broker.conversation import CODE, Conversation
from tests.support.disk import Disk, summary, summary_of_rows
from wire.codec import decode_failure
from wire.errors import Code
from wire.limits import read_definition
from wire.messages import (
    Accepted,
    Assign,
    Attach,
    Bye,
    Function,
    OutcomeAck,
    Query,
    Result,
    Submit,
    Template,
)
from wire.parts import Call, Environment, Key

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


def test_what_ends_for_its_limit_after_it_was_read_back_is_counted_once():
    """Its outcome was counted twice, and its call taken off before it was counted."""
    talk = talk_with_disk()
    define(talk.broker, read_definition("db=1"))
    client = talk.client()
    call = Call("keep", CODE, durable=True, limits={"db": 1})
    client.submits(1, call=call, body=b"x" * 10_000)

    talk.restart()  # Without the limit: the call ends with the window.
    client.greets(msgspec.structs.replace(client.hello, unresolved=[(1, 1)]))
    talk.wait(talk.settings.adopt_window_s, beating=[client])
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


@pytest.mark.parametrize("is_started_again", [False, True])
def test_an_at_most_once_call_does_not_start_again_for_a_client_that_others_outlasted(
    is_started_again,
):
    """It was forgotten once others had its outcome, and new when its own client came back."""
    talk = talk_with_disk()
    client, actor = talk.client(), talk.actor(free=1)
    client.submits(1, call=ONCE)
    actor.ends((1000, actor.takes(Assign)[0].number), b"value")
    client.vanishes()
    if is_started_again:
        talk.restart()
    other = talk.client(2)
    talk.wait(talk.settings.client_timeout_s + 1, beating=[other])
    other.says(Attach(1, 1, 1))
    assert [r.body for r in other.takes(Result)] == [b"value"]
    other.beats()

    back = talk.client(unresolved=[(1, 1)])

    assert [r.body for r in back.takes(Result)] == [b"value"]
    back.beats()
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
