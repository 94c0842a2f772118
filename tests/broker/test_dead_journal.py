"""Dead tasks outlive their broker: what the journal has of them, and of who redrove them."""

import msgspec
import pytest

from tests.broker.conversation import Conversation
from tests.broker.test_dead import asked, assigned, code, dies, end, fails, name, redrives
from tests.support.disk import Disk
from wire.errors import Code
from wire.messages import (
    Assign,
    Stop,
)
from wire.parts import Held


@pytest.fixture
def talk():
    return Conversation()


# --- the journal


def test_dead_tasks_outlive_the_broker_with_call_and_history():
    talk = Conversation(disk=Disk())
    client = talk.client()
    dies(talk, client)
    before = asked(client, argument=name(client, 1))

    talk.restart()
    client.greets()

    assert asked(client, argument=name(client, 1)) == before
    redrives(client, 2, 1)
    talk.wait(2.5, beating=[client])
    (assign,) = talk.actor(12, name="host/1", free=1).takes(Assign)
    assert (assign.task, assign.body) == (2, b"arguments")


def test_what_was_redriven_stays_so_over_a_restart():
    talk = Conversation(disk=Disk())
    client = talk.client()
    dies(talk, client)
    redrives(client, 2, 1)

    talk.restart()
    other = talk.client(2)
    redrives(other, 1, 1)
    talk.wait(2.5, beating=[other])

    assert talk.state(other, 1) == "attached"
    assert talk.state(client, 2) == "queued"


def redriven_and_not_written():
    """Return a broker that forgot the redrive of task 1 as 2, which an actor still runs."""
    talk = Conversation(disk=Disk())
    client = talk.client()
    fails(client, talk.actor(free=1))
    talk.writes = False
    actor = talk.actor(12, name="host/1", free=1)
    redrives(client, 2, 1)
    (token,) = assigned(actor)

    talk.restart()
    talk.writes = True
    actor.greets(holding_of(actor, client, 2, token))
    return talk, client, actor, token


def test_a_redrive_that_was_never_written_is_adopted_when_it_is_said_again():
    talk, client, actor, token = redriven_and_not_written()
    client.greets(msgspec.structs.replace(client.hello, unresolved=[(2, 2)]))
    redrives(client, 2, 1)

    assert talk.state(client, 2) == "assigned"
    actor.ends(token, b"value")
    assert end(client, 2).body == b"value"


def test_of_two_that_redrive_over_a_restart_the_first_that_is_written_counts():
    talk, client, actor, token = redriven_and_not_written()
    other = redrives(talk.client(2), 1, 1)
    client.greets(msgspec.structs.replace(client.hello, unresolved=[(2, 2)]))
    redrives(client, 2, 1)

    assert [stop.number for stop in actor.takes(Stop)] == [token[1]]
    assert [talk.state(client, 2), talk.state(other, 1)] == ["attached", "held"]


def test_the_code_of_a_dead_task_stays_in_the_journal_and_leaves_with_it():
    talk = Conversation(disk=Disk())
    client = talk.client()
    dies(talk, client)
    client.beats()
    talk.wait(200.0, beating=[client])
    assert len(talk.disk.read().codes) == 1

    asked(client, "dead-forget", "*")
    talk.wait(200.0, beating=[client])

    stored = talk.disk.read()
    assert (stored.dead, stored.calls, stored.codes) == ([], {}, {})


def test_what_is_not_durable_waits_for_no_room_on_a_full_disk():
    talk = Conversation(disk=Disk())
    client = talk.client()
    talk.broker.journal_stuck("disk is full")

    dies(talk, client)

    assert asked(client)["count"] == 1
    assert talk.disk.read().dead == []
    assert code(end(client, 1)) == Code.OUTCOME_UNKNOWN


def holding_of(actor, client, number, token):
    held = (client.incarnation, number, token, Held.RUNNING)
    holding = [msgspec.convert(held, type(actor.hello).__annotations__["holding"].__args__[0])]
    return msgspec.structs.replace(actor.hello, holding=holding)
