"""Durable named actors: what waits for the journal, and what a new start takes over from it."""

import json

import msgspec
import pytest

from tests.broker.conversation import Conversation
from tests.broker.test_named import BLOB, codes, named_is, tasks
from tests.support.disk import Disk, summary, summary_of_rows
from wire.errors import Code
from wire.messages import (
    Answer,
    Assign,
    Credit,
    Death,
    Function,
    Leave,
    Outcome,
    Query,
    Reject,
    Resides,
    Restore,
    Result,
    Stop,
    Submit,
    Template,
)
from wire.parts import Call, Environment, Held, Holding, Named, Status

ID = "Counter:1@default/clicks#1"


@pytest.fixture
def talk():
    return Conversation(disk=Disk(), journal_bytes_max=1_000_000)


def entry(**bounds):
    named = Named("default", "clicks", "Counter:1", **{"max_restarts": -1} | bounds)
    environment = Environment(ID, "Counter", BLOB, named=named)
    return Call("Counter", environment=environment, durable=True)


def makes(client, *, submits=True, **bounds):
    made = entry(**bounds)
    call = Call("Counter.incr", method="incr", environment=made.environment, durable=True)
    entered = [Submit(1, 0, b"")] if submits else []
    client.says(Function(0, BLOB, b"code"), Template(0, made), Template(1, call), *entered)
    return client


def calls(client, *numbers, again=False):
    client.says(*(Submit(number, 1, b"", again=again) for number in numbers))
    return client


def ends(actor, number, *, state=b"", serial=0, epoch=1000, result=b"", free=1):
    frames = [state] if state else []
    outcome = Outcome(epoch, number, Status.RESULT, result, len(frames), 0.1, serial)
    return actor.says(outcome, Credit(free), payloads=frames)


def results(client):
    return {result.task: result.body for result in client.takes(Result)}


def record(talk):
    return talk.broker.named.by_id[ID]


def agree(talk):
    return summary(talk.broker) == summary_of_rows(talk.disk.read())


def entered(talk, **bounds):
    """Return a client and an actor that has what the client made."""
    client, actor = makes(talk.client(), **bounds), talk.actor(free=1)
    ends(actor, *[assign.number for assign in actor.takes(Assign)], state=b"0", serial=1)
    results(client)
    return client, actor


# --- what waits for the journal


def test_it_is_entered_once_it_is_on_disk(talk):
    actor = talk.actor(free=1)
    talk.writes = False
    makes(talk.client())
    assert tasks(actor) == []

    talk.commits()
    talk.commits()

    assert tasks(actor) == [(1, 1)]
    talk.commits()
    assert agree(talk)


def test_whoever_asks_for_it_is_told_once_it_is_on_disk(talk):
    talk.writes = False
    client = makes(talk.client())

    client.says(Query(1, "named", "default/clicks"))
    assert client.takes(Answer) == []
    talk.commits()

    assert len(client.takes(Answer)) == 1


def test_a_call_starts_once_it_is_on_disk(talk):
    client, actor = entered(talk)
    talk.writes = False

    calls(client, 2)
    assert tasks(actor) == []
    talk.commits()

    assert tasks(actor) == [(1, 2)]


def test_an_outcome_and_its_checkpoint_are_on_disk_before_the_result_is_told(talk):
    client, actor = entered(talk)
    calls(client, 2)
    [assign] = actor.takes(Assign)
    talk.writes = False

    ends(actor, assign.number, state=b"1", serial=2, result=b"one")
    assert results(client) == {}
    [(_, operations)] = talk.disk.pending
    assert {"checkpoint", "outcome"} <= {operation[0] for operation in operations}
    talk.commits()

    assert results(client) == {2: b"one"}
    assert agree(talk)


def test_the_next_generation_is_entered_once_the_end_of_the_last_is_on_disk(talk):
    client, host = entered(talk)[0], talk.host()
    calls(client, 2)
    other = talk.actor(12, name="host/1", free=1)
    talk.writes = False

    host.says(Death(11, None, 9, []))
    assert tasks(other) == []
    talk.commits()
    talk.commits()

    assert tasks(other) == [(1, 2)]
    assert [restore.serial for restore in other.takes(Restore)] == [1]


def test_killed_it_is_out_of_the_journal_before_that_is_answered(talk):
    client, _ = entered(talk)
    talk.writes = False

    client.says(Query(1, "named-kill", json.dumps({"actor": ID})))
    assert client.takes(Answer) == []
    talk.commits()

    assert len(client.takes(Answer)) == 1
    assert talk.disk.read().named == []


def test_without_a_journal_it_is_refused_and_says_so():
    talk = Conversation()
    client = makes(talk.client())

    assert codes(client) == {1: Code.NOT_DURABLE}
    assert talk.broker.named.by_id == {}


# --- in their order


IO = f"{ID}\nio"
# The slots of the templates: the entry, and calls of each kind.
ALONE, READ, SCAN = 1, 2, 3


def grouped(talk, client):
    """Let *client* call an actor that has a group of two turns beside that without a name."""
    named = Named("default", "clicks", "Counter:1", -1, groups={"io": 2})
    place = Environment(ID, "Counter", BLOB, named=named)
    io = msgspec.structs.replace(place, group="io")
    kinds = (
        ("", place),
        ("incr", place),
        ("read", io),
        ("scan", msgspec.structs.replace(io, turns=2)),
    )
    made = [
        Template(slot, Call(f"Counter.{method}", method=method, environment=at, durable=True))
        for slot, (method, at) in enumerate(kinds)
    ]
    client.says(Function(0, BLOB, b"code"), *made)
    return client


def inside(none, io):
    """Return what an actor states that is inside, with so many free turns of each group."""
    return Credit(2, 0, 1, {ID: none, IO: io}, {}, [ID, IO])


def handed_back(talk, client, *others):
    """Let an actor hand back the first of calls that may all start, with what was behind it.

    *others* are what is submitted then by whom, as client and template slot.
    """
    actor = talk.actor(free=2)
    client.says(Submit(1, 0, b""))
    [entry] = actor.takes(Assign)
    ends(actor, entry.number, state=b"0", serial=1, free=2)
    talk.writes = False
    client.says(Submit(2, SCAN, b""))
    for number, (other, kind) in enumerate(others, 3):
        other.says(Submit(number, kind, b""))
    # All are written at once, and the first of them is assigned alone.
    actor.says(inside(0, 2))
    talk.commits()
    [first] = actor.takes(Assign)
    assert first.task == 2
    actor.says(Reject(1000, first.number, "", False), inside(0, 0))
    assert talk.state(client, 2) == "queued"
    return actor


@pytest.mark.parametrize("kind", [SCAN, READ])
def test_what_its_client_submitted_behind_it_waits_for_a_call_that_is_written_again(talk, kind):
    client = grouped(talk, talk.client())
    actor = handed_back(talk, client, (client, kind))

    actor.says(inside(1, 2))
    assert tasks(actor) == []
    assert (talk.state(client, 2), talk.state(client, 3)) == ("writing", "writing")
    talk.commits()
    assert tasks(actor)[:1] == [(1, 2)]

    actor.says(inside(1, 2))
    assert tasks(actor) == [(1, 3)]
    assert agree(talk)


def test_calls_of_others_and_of_other_groups_wait_for_none_that_is_written_again(talk):
    client, other = grouped(talk, talk.client()), grouped(talk, talk.client(2))
    actor = handed_back(talk, client, (client, ALONE), (other, READ))

    actor.says(inside(1, 2))

    assert sorted(tasks(actor)) == [(1, 3), (2, 4)]
    assert talk.state(client, 2) == "writing"


# --- bounds


def test_a_checkpoint_for_which_there_is_no_room_fails_its_call(talk):
    client, actor = entered(talk)
    calls(client, 2, 3)
    [assign] = actor.takes(Assign)

    ends(actor, assign.number, state=bytes(2_000_000), serial=2)

    assert codes(client) == {2: Code.NOT_DURABLE}
    assert (record(talk).serial, bytes(record(talk).checkpoint)) == (1, b"0")
    [assign] = actor.takes(Assign)
    ends(actor, assign.number, state=b"3", serial=3)
    assert results(client).keys() == {3}
    assert record(talk).serial == 3
    assert agree(talk)


def test_what_it_takes_is_counted_and_given_back(talk):
    client, actor = entered(talk)
    before = talk.broker.records.octets
    calls(client, 2)
    [assign] = actor.takes(Assign)
    ends(actor, assign.number, state=bytes(10_000), serial=2)
    client.says(Query(1, "status"))
    assert talk.broker.records.octets > before + 9_000

    client.says(Query(2, "named-kill", json.dumps({"actor": ID})))

    assert talk.broker.records.octets < before
    assert agree(talk)


def test_who_looks_for_one_while_the_disk_is_full_waits_for_it(talk):
    """It was told that it is done, and would be written: nothing had been ordered."""
    talk.writes = False
    client = makes(talk.client())
    client.says(Query(1, "named", "default/clicks"))
    talk.broker.journal_stuck("disk is full")
    client.says(
        Query(2, "named", "default/clicks"), Query(3, "named-kill", json.dumps({"actor": ID}))
    )

    assert [answer.request for answer in client.takes(Answer)] == [3]
    talk.broker.journal_stuck("")
    talk.commits()

    assert [answer.request for answer in client.takes(Answer)] == [1, 2]


def test_while_the_disk_is_full_calls_are_refused_and_then_go_on(talk):
    client, actor = entered(talk)
    talk.broker.journal_stuck("disk is full")

    calls(client, 2)
    assert codes(client) == {2: Code.NOT_DURABLE}
    talk.broker.journal_stuck("")
    calls(client, 3)

    assert tasks(actor) == [(1, 3)]


# --- a new start


def test_killed_with_everything_it_begins_again_from_its_last_checkpoint(talk):
    client, actor = entered(talk)
    calls(client, 2)
    ends(actor, actor.takes(Assign)[0].number, state=b"1", serial=2, result=b"one")
    assert results(client) == {2: b"one"}
    talk.restart()
    talk.wait(5.5)

    late = makes(talk.client(3), submits=False)
    assert named_is(late, "default/clicks")["named"][0]["state"] == "restarting"
    other = talk.actor(12, name="host/1", free=1)

    assert tasks(other) == [(2000, 1)]
    [(restore, payloads)] = [(c, p) for _, c, p in other.heard if isinstance(c, Restore)]
    assert (restore.serial, payloads) == (2, [b"1"])
    assert record(talk).restarts == 1


def test_what_nobody_had_entered_again_yet_is_by_the_next_broker(talk):
    entered(talk)
    talk.host().says(Death(11, None, 9, []))
    talk.restart()
    talk.wait(5.5)

    other = talk.actor(12, name="host/1", free=1)

    assert tasks(other) == [(2000, 1)]
    assert [restore.serial for restore in other.takes(Restore)] == [1]
    assert record(talk).restarts == 1


def test_nobody_enters_it_before_its_process_had_the_time_to_come_back(talk):
    client, actor = entered(talk)
    generation = record(talk).generation
    talk.restart()
    client.greets()
    makes(client, submits=False)
    calls(client, 2)
    other = talk.actor(12, name="host/1", free=1)
    talk.wait(4.0, beating=[client, other])
    assert tasks(other) == []

    actor.greets()
    actor.says(Resides(entry(), generation, 1, 2), Credit(1), payloads=[b"code", b"0"])

    assert tasks(actor) == [(1, 2)]
    assert record(talk).restarts == 0


def test_a_generation_that_the_journal_has_replaced_is_told_to_leave(talk):
    entered(talk)
    former = record(talk).generation
    talk.host().says(Death(11, None, 9, []))
    other = talk.actor(12, name="host/1", free=1)
    assert tasks(other) == [(1000, 1)]
    talk.restart()

    late = talk.actor(13, name="host/2")
    late.says(Resides(entry(), former, 1, 2), payloads=[b"code", b"0"])

    assert [leave.generation for leave in late.takes(Leave)] == [former]
    assert record(talk).home is None


def test_one_that_was_killed_is_not_found_again(talk):
    client, actor = entered(talk)
    generation = record(talk).generation
    client.says(Query(1, "named-kill", json.dumps({"actor": ID})))
    talk.restart()

    actor.greets()
    actor.says(Resides(entry(), generation, 1, 2), payloads=[b"code", b"0"])

    assert [leave.generation for leave in actor.takes(Leave)] == [generation]
    assert talk.broker.named.by_id == {}


def test_without_a_restart_left_it_ends_when_its_process_does_not_come_back(talk):
    client, _ = entered(talk, max_restarts=0)
    talk.restart()
    client.greets()
    makes(client, submits=False)
    calls(client, 2)

    talk.wait(5.5, beating=[client])

    assert codes(client) == {2: Code.ACTOR_LOST}
    assert talk.disk.read().named == []


def test_a_call_that_may_have_run_when_all_was_lost_runs_again_only_if_it_may(talk):
    client, actor = entered(talk, max_task_retries=1)
    calls(client, 2, 3)
    assert tasks(actor) == [(1, 2)]
    talk.restart()
    talk.wait(5.5)

    other = talk.actor(12, name="host/1", free=1)
    [assign] = other.takes(Assign)
    assert (assign.task, assign.attempt) == (2, 2)
    talk.restart()
    talk.wait(5.5)

    third = talk.actor(13, name="host/2", free=1)
    assert [(one.task, one.attempt) for one in third.takes(Assign)] == [(3, 1)]
    [ended] = talk.noted("task_ended")
    assert (ended["code"], ended["task"][-2:]) == (Code.ACTOR_LOST, "-2")


def test_a_call_that_its_process_never_got_is_no_retry(talk):
    client, actor = entered(talk)
    generation = record(talk).generation
    calls(client, 2)
    talk.restart()

    actor.greets()
    actor.says(Resides(entry(), generation, 1, 2), Credit(1), payloads=[b"code", b"0"])
    talk.wait(2.1, beating=[actor])
    actor.says(Credit(1))

    [assign] = actor.takes(Assign)
    assert (assign.task, assign.attempt) == (2, 1)


def test_a_run_of_a_process_that_was_lost_is_stopped_when_it_comes_back(talk):
    client, actor = entered(talk, max_task_retries=-1)
    calls(client, 2)
    [assign] = actor.takes(Assign)
    talk.wait(6.0, beating=[client])
    assert talk.state(client, 2) == "queued"

    offered = Holding(1, 2, (1000, assign.number), Held.RUNNING)
    actor.greets(msgspec.structs.replace(actor.hello, holding=[offered]))

    assert talk.state(client, 2) == "queued"
    assert [stop.number for stop in actor.takes(Stop)] == [assign.number]


def offers_and_is_lost(talk, *, resides):
    """Let the process offer a call to a started broker, and another one take its place."""
    client, actor = entered(talk, max_task_retries=-1)
    generation = record(talk).generation
    calls(client, 2)
    [assign] = actor.takes(Assign)
    talk.restart()
    offered = Holding(1, 2, (1000, assign.number), Held.RUNNING)
    actor.greets(msgspec.structs.replace(actor.hello, holding=[offered]))
    if resides:
        actor.says(Resides(entry(), generation, 1, 2), payloads=[b"code", b"0"])
    talk.writes = False
    other = talk.actor(12, name="host/1", free=1)
    talk.actor(13, name=actor.hello.name)
    return other


def test_who_comes_back_and_is_lost_has_no_follower_before_its_process_had_the_time(talk):
    """Only HELLO was heard of it: a call of its generation, and not that it is the actor."""
    other = offers_and_is_lost(talk, resides=False)
    talk.writes = True
    talk.commits()
    assert tasks(other) == []

    talk.wait(5.5, beating=[other])
    other.says(Credit(1))

    assert tasks(other) == [(1, 2)]


def test_who_comes_back_and_is_lost_has_no_follower_before_that_is_on_disk(talk):
    other = offers_and_is_lost(talk, resides=True)
    assert tasks(other) == []

    talk.commits()
    talk.commits()

    assert tasks(other) == [(1, 2)]
