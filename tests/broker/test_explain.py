"""Why a task waits, in words."""

import msgspec
import pytest

from broker import explain
from tests.broker.conversation import CODE, Conversation
from wire.labels import Comparator, Desire
from wire.messages import Answer, Assign, Query, Reject
from wire.parts import Call

LARGE = Desire("memory", Comparator.GREATER_THAN, 256)


@pytest.fixture
def talk():
    return Conversation()


def ask(client, what, argument=""):
    client.says(Query(1, what, argument))
    (answer,) = client.takes(Answer)
    return msgspec.msgpack.decode(answer.body)


def test_without_actors(talk):
    assert ask(talk.client().submits(7), "explain", "7")["reason"] == "no actor is connected"


def test_a_label_that_nobody_offers(talk):
    talk.actor(labels={"memory": 64}, free=1)
    client = talk.client().submits(7, call=Call("work", CODE, desires=[LARGE]))

    reason = ask(client, "explain", "7")["reason"]

    assert reason == ("no connected actor satisfies it (host/0: needs memory gt 256, offers 64)")


def test_actors_that_are_busy(talk):
    talk.actor(free=1)
    client = talk.client().submits(7, 8)

    assert ask(client, "explain", "8")["reason"] == "every actor that satisfies it is busy (1 of 1)"
    assert ask(client, "explain", "7")["reason"] == "it is with actor host/0"


def test_each_actor_says_since_when_the_task_could_not_have_it(talk):
    talk.actor(11, name="h/0", free=1, labels={"memory": 512})
    client = talk.client().submits(7)
    talk.actor(12, name="h/1", labels={"memory": 64})
    talk.wait(0.5)
    client.submits(8, call=Call("work", CODE, desires=[LARGE]), slot=1)
    talk.wait(1.0)

    answer = ask(client, "explain", "8")

    assert answer["actors"]["h/0"] == "no free slot (1 tasks)"
    assert answer["actors_s"]["h/0"] == answer["waits_s"]
    assert answer["actors_s"]["h/1"] == answer["waits_s"] + 0.5


def test_a_slot_type_that_nobody_has(talk):
    talk.actor(free=1)
    client = talk.client().submits(7, call=Call("work", CODE, slots={"gpu": 1}))

    assert "needs 1 of slot gpu, has 0" in ask(client, "explain", "7")["reason"]


def test_an_actor_that_rejected(talk):
    actor = talk.actor(free=1)
    client = talk.client().submits(7)
    (assign,) = actor.takes(Assign)
    actor.says(Reject(actor.epoch, assign.number, "paused"))

    assert ask(client, "explain", "7")["actors"] == {"host/0": "rejected it"}


def test_a_broker_that_recovers():
    talk = Conversation(recovered=False)
    client = talk.client().submits(7, again=True)

    assert "started again" in ask(client, "explain", "7")["reason"]


@pytest.mark.parametrize("argument", ["99", "", "x", "1-2-3", "zz-1", "9" * 5000, "-", "1-"])
def test_a_task_that_nobody_knows(talk, argument):
    assert ask(talk.client(), "explain", argument)["state"] == "unknown"


@pytest.mark.parametrize("what", ["status", "actors", "clients", "tasks"])
def test_every_query_is_answered_and_changes_nothing(talk, what):
    talk.actor(free=1)
    client = talk.client().submits(7, 8)
    before = talk.broker.backlog.count

    assert "error" not in ask(client, what)
    assert talk.broker.backlog.count == before


def test_the_status_of_a_broker_with_many_tasks_looks_at_none_of_them(talk):
    class Untouched(dict):
        def values(self):
            raise AssertionError("it went through all tasks")

    talk.actor(free=1)
    client = talk.client().submits(7, 8, 9)
    known = talk.broker.clients[client.incarnation]
    tasks, known.tasks = known.tasks, Untouched(known.tasks)

    status = explain.status(talk.broker, talk.now)

    known.tasks = tasks
    assert (status["queued"], status["assigned"], status["ended"]) == (2, 1, 0)


def test_the_status_says_whether_durable_tasks_can_be_written(talk):
    assert explain.status(talk.broker, talk.now)["journal"] == "none"

    talk.broker.records.has_journal = True
    talk.broker.journal_stuck("disk is full")

    assert explain.status(talk.broker, talk.now)["journal"] == "cannot be written: disk is full"


def test_a_query_that_makes_no_sense(talk):
    assert "unknown query" in ask(talk.client(), "weather")["error"]


def test_a_task_can_be_named_in_full(talk):
    client = talk.client().submits(7)
    name = talk.task(client, 7).name

    assert ask(talk.client(2), "explain", name)["task"] == name
