"""Named actors around a restart: entered before anybody calls, adopted, given up, replaced."""

import json

import pytest
from msgspec import structs

from tests.broker.conversation import Conversation
from tests.broker.test_named import (
    ID,
    OLD,
    call,
    calls,
    codes,
    entry,
    makes,
    named_is,
    state,
    state_of,
    tasks,
    token,
)
from wire.errors import Code
from wire.messages import (
    Cancel,
    Credit,
    Death,
    Leave,
    Outcome,
    Query,
    Resides,
    Restore,
    Stop,
    Template,
)
from wire.parts import Held, Holding, Status

# The first call of the broker's own client, which enters again what was lost.
OWN = (1000, 1)


@pytest.fixture
def talk():
    return Conversation()


# --- entered again before anybody calls


def lost(talk, **bounds):
    """Return a client and a host of whose actor the process is lost, with nothing that waits."""
    host, actor = talk.host(), talk.actor(11, free=1)
    client = makes(talk.client(), **bounds)
    actor.says(Outcome(*token(1), Status.RESULT, b"", 1, 0.1, 1), Credit(1), payloads=[b"state"])
    host.says(Death(11, None, 9, []))
    return client, host


def test_one_that_was_lost_is_entered_again_at_once(talk):
    client, _ = lost(talk, max_restarts=1)

    other = talk.actor(12, name="host/1", free=1)

    assert [command.serial for command in other.takes(Restore)] == [1]
    assert tasks(other) == [OWN]
    assert state(talk).home.name == "host/1"
    other.ends(token(2), free=1)
    assert talk.broker.named.own.tasks == {}
    assert codes(client) == {}


def test_it_is_entered_again_also_when_the_call_that_was_to_enter_it_is_canceled(talk):
    host, actor = talk.host(), talk.actor(11, free=1)
    client = calls(makes(talk.client(), max_restarts=1), 2)
    actor.says(Outcome(*token(1), Status.RESULT, b"", 1, 0.1, 1), Credit(0), payloads=[b"state"])
    host.says(Death(11, None, 9, []))
    client.says(Cancel([2], False))

    talk.wait(1.0, beating=[client, host])

    assert tasks(talk.actor(12, name="host/1", free=1)) == [OWN]


def test_a_call_that_comes_meanwhile_finds_it_entered_and_is_the_only_one_that_counts(talk):
    client, _ = lost(talk, max_restarts=1, max_pending=1)

    calls(client, 2, 3)

    assert codes(client) == {3: Code.QUEUE_FULL}
    other = talk.actor(12, name="host/1", free=1)
    assert tasks(other) == [OWN]
    assert tasks(other.ends(token(2), free=1)) == [(1, 2)]


def test_an_entry_that_ends_its_process_again_uses_up_the_restarts(talk):
    client, host = lost(talk, max_restarts=1)
    other = talk.actor(12, name="host/1", free=1)
    assert tasks(other) == [OWN]

    host.says(Death(12, None, 9, [token(2)]))

    assert state_of(talk) == {}
    assert talk.broker.named.own.tasks == {}
    assert tasks(talk.actor(13, name="host/2", free=1)) == []
    calls(client, 2)
    assert codes(client) == {2: Code.ACTOR_LOST}


def test_one_that_is_killed_is_not_entered_again(talk):
    client, _ = lost(talk, max_restarts=1)

    client.says(Query(1, "named-kill", json.dumps({"actor": ID})))

    assert tasks(talk.actor(12, name="host/1", free=1)) == []
    assert talk.broker.named.own.tasks == {}


def test_what_was_taken_over_from_a_process_is_entered_by_its_entry_and_no_method():
    talk = Conversation(recovered=False)
    host, actor = talk.host(), talk.actor(11)
    actor.says(Resides(call(max_restarts=1), OLD, 4, 2), payloads=[b"code", b"state"])
    talk.wait(2.0, beating=[actor, host])

    host.says(Death(11, None, 9, []))
    other = talk.actor(12, name="host/1", free=1)

    entered = [template.call for template in other.takes(Template)]
    assert [(call.method, call.function) for call in entered] == [("", b"")]


# --- around a restart of the broker


def test_a_started_broker_adopts_what_a_process_has():
    talk = Conversation(recovered=False)
    client = talk.client(unresolved=[(7, 7)])
    client.says(Template(1, call()))
    calls(client, 7, again=True)
    actor = talk.actor(free=1)

    actor.says(Resides(entry(), OLD, 4, 2), payloads=[b"code", b"state"])
    talk.wait(2.0, beating=[actor, client])
    actor.says(Credit(1))

    assert tasks(actor) == [(1, 7)]
    assert (state(talk).generation, state(talk).checkpoint) == (OLD, b"state")


def test_of_two_holders_the_higher_generation_stays():
    talk = Conversation(recovered=False)
    first, second = talk.actor(11), talk.actor(12, name="host/1")

    first.says(Resides(entry(), (500, 3), 0, 1), payloads=[b"code"])
    second.says(Resides(entry(), (500, 9), 0, 1), payloads=[b"code"])
    third = talk.actor(13, name="host/2")
    third.says(Resides(entry(), (500, 5), 0, 1), payloads=[b"code"])

    assert [leave.generation for leave in first.takes(Leave)] == [(500, 3)]
    assert second.takes(Leave) == []
    assert [leave.generation for leave in third.takes(Leave)] == [(500, 5)]


def test_calls_of_a_generation_that_was_replaced_end_there():
    talk = Conversation(recovered=False)
    first = talk.actor(11, slots={"slot": 1})
    client = talk.client()
    client.says(Template(1, call()))
    first.says(Resides(entry(), (500, 3), 0, 1), Credit(1), payloads=[b"code"])
    calls(client, 7, 8)
    talk.wait(2.0, beating=[first, client])
    first.says(Credit(1))
    assert tasks(first) == [(1, 7)]

    second = talk.actor(12, name="host/1")
    second.says(Resides(entry(), (500, 9), 0, 1), Credit(1), payloads=[b"code"])

    assert [stop.number for stop in first.takes(Stop)] == [1]
    assert codes(client) == {7: Code.ACTOR_LOST}
    assert tasks(second) == [(1, 8)]


def test_a_process_where_a_later_call_entered_it_has_not_replaced_itself(talk):
    actor = talk.actor(11, free=1)
    client = calls(makes(talk.client()), 2)
    client.says(Cancel([1], False))
    actor.says(Credit(1))
    assert tasks(actor) == [(1, 1), (1, 2)]
    runs = Holding(1, 2, token(2), Held.RUNNING)

    actor.greets(structs.replace(actor.hello, holding=[runs]))
    actor.says(Resides(entry(), token(2), 0, 1), payloads=[b"code"])

    assert talk.state(client, 2) == "assigned"
    assert (actor.takes(Leave), actor.takes(Stop)) == ([], [])
    assert state(talk).generation == token(2)


def test_of_two_actors_of_one_name_the_higher_generation_stays():
    talk = Conversation(recovered=False)
    first, second = talk.actor(11), talk.actor(12, name="host/1")
    other = "Counter:1@default/clicks#2"

    first.says(Resides(entry(), (500, 3), 0, 1), payloads=[b"code"])
    second.says(Resides(entry(other), (500, 9), 0, 1), payloads=[b"code"])

    assert [leave.environment for leave in first.takes(Leave)] == [ID]
    assert state(talk).id == other


def test_what_is_made_while_nobody_knows_who_is_there_waits_for_the_window():
    talk = Conversation(recovered=False)
    client = makes(talk.client(2), 5, identity="Counter:1@default/clicks#2", owner=2)
    assert talk.state(client, 5) == "held"
    assert named_is(client, "default/clicks") == {"named": [], "recovering": True}

    actor = talk.actor()
    actor.says(Resides(entry(), OLD, 0, 1), payloads=[b"code"])
    talk.wait(2.0, beating=[actor, client])

    assert codes(client) == {5: Code.CONFLICT}


def test_a_call_waits_for_a_process_that_is_late_after_a_restart():
    talk = Conversation(recovered=False)
    client = talk.client(unresolved=[(7, 7)])
    client.greets(epoch=900)
    client.says(Template(1, call()))
    calls(client, 7, 8, again=True)
    talk.wait(3.0, beating=[client])
    assert talk.state(client, 7) == "held"

    actor = talk.actor()
    actor.says(Resides(entry(), OLD, 0, 1), Credit(1), payloads=[b"code"])

    assert tasks(actor) == [(1, 7)]


def test_a_call_to_one_that_was_lost_with_a_broker_says_so():
    talk = Conversation(recovered=False)
    client = talk.client(unresolved=[(7, 7)])
    client.says(Template(1, call()))
    calls(client, 7, again=True)

    talk.wait(2.0, beating=[client])

    assert codes(client) == {7: Code.ACTOR_LOST}


def test_a_process_that_was_lost_and_comes_back_has_to_give_it_up(talk):
    actor = talk.actor(11, free=1)
    client = makes(talk.client(), max_restarts=-1)
    actor.ends(token(1), free=1)
    talk.wait(6.0, beating=[client])

    actor.greets()
    actor.says(Resides(entry(max_restarts=-1), token(1), 0, 1), payloads=[b"code"])

    assert [leave.generation for leave in actor.takes(Leave)] == [token(1)]
    assert state(talk).home is None
