"""An actor that leaves is given the calls of its own runs, and nothing else."""

import pytest

from tests.broker.conversation import CODE, Conversation, actor_hello
from tests.support.disk import Disk
from wire.labels import Comparator, Desire
from wire.messages import ActorBeat, Assign, Await, Credit, Release
from wire.parts import Call, Held


def beat(actor, credit, holding=(), closed="draining"):
    actor.says(ActorBeat(credit, 1, {}, list(holding), {}, closed))


@pytest.fixture
def talk():
    return Conversation()


def got(actor):
    return [assign.task for assign in actor.takes(Assign)]


def test_a_call_of_a_run_starts_on_the_actor_that_leaves(talk):
    actor = talk.actor(11, free=1)
    client = talk.client().submits(1)
    assert got(actor) == [1]
    client.submits(2)
    client.submits(3, parent=(1000, 1))

    beat(actor, Credit(1), [(1000, 1)])

    assert got(actor) == [3], "the other one waits for an actor that stays"


def test_one_that_comes_later_starts_there_too(talk):
    actor = talk.actor(11, free=1)
    client = talk.client().submits(1)
    beat(actor, Credit(1), [(1000, 1)])

    client.submits(2, parent=(1000, 1))

    assert got(actor) == [1, 2]


def test_nothing_starts_there_that_it_does_not_grant(talk):
    actor = talk.actor(11, free=1)
    client = talk.client().submits(1)
    beat(actor, Credit(0), [(1000, 1)])

    client.submits(2, parent=(1000, 1))

    assert got(actor) == [1]


def test_a_call_does_not_wait_for_a_better_actor_than_the_one_that_leaves(talk):
    leaving, better = talk.actor(11, free=1), talk.actor(12, name="b/0", labels={"zone": "eu"})
    client = talk.client().submits(1)
    beat(leaving, Credit(0), [(1000, 1)])
    better.says(Credit(1))
    likes = [Desire("zone", Comparator.EQUAL, "eu", False, 100.0)]
    client.submits(2, call=Call("busy", CODE, desires=likes))
    client.submits(3, call=Call("fond", CODE, desires=likes, affinity_wait_s=5.0), parent=(1000, 1))
    assert (got(leaving), got(better)) == ([1], [2])

    beat(leaving, Credit(1), [(1000, 1)])

    assert got(leaving) == [3]


def test_another_actor_goes_first(talk):
    leaving = talk.actor(11, free=1)
    client = talk.client().submits(1)
    beat(leaving, Credit(0), [(1000, 1)])
    other = talk.actor(12, name="host/1", free=1)

    client.submits(2, parent=(1000, 1))

    assert (got(leaving), got(other)) == ([1], [2])


def test_one_that_wants_labels_waits_for_an_actor_that_has_them(talk):
    actor = talk.actor(11, free=1)
    client = talk.client().submits(1)
    beat(actor, Credit(1), [(1000, 1)])

    client.submits(2, parent=(1000, 1), call=Call("large", CODE, slots={"slot": 9}), slot=1)

    assert got(actor) == [1]


def test_it_leaves_after_a_new_session_too(talk):
    actor = talk.actor(11, free=1)
    client = talk.client().submits(1)
    client.submits(2, parent=(1000, 1))
    assert got(actor) == [1]
    running = [(1, 1, (1000, 1), Held.RELEASED)]

    actor.greets(actor_hello(11, holding=running, closed="draining"))
    actor.says(Credit(1))

    assert got(actor) == [2]


@pytest.mark.parametrize("at_most_once", [False, True])
def test_a_durable_call_for_which_a_run_waits_starts_there_too(at_most_once):
    talk = Conversation(disk=Disk())
    actor = talk.actor(11, free=1)
    client = talk.client().submits(1)
    durable = Call("keep", CODE, durable=True, at_most_once=at_most_once)
    client.submits(2, call=durable, slot=1)  # As one that it looked for by its id.
    actor.says(Release(1000, 1))
    beat(actor, Credit(1), [(1000, 1)])
    assert got(actor) == [1], "nobody waits for it"
    talk.writes = False

    actor.says(Await(1000, 1, 1, 1, [(2, 2)], 1))

    assert got(actor) == ([] if at_most_once else [2]), "what starts once is written first"
    talk.commits()
    assert got(actor) == ([2] if at_most_once else [])


@pytest.mark.parametrize("at_most_once", [False, True])
def test_a_durable_call_that_a_run_has_made_starts_there_too(at_most_once):
    talk = Conversation(disk=Disk())
    actor = talk.actor(11, free=1)
    client = talk.client().submits(1)
    durable = Call("keep", CODE, durable=True, at_most_once=at_most_once)
    client.submits(2, parent=(1000, 1), call=durable, slot=1)
    actor.says(Release(1000, 1))

    beat(actor, Credit(1), [(1000, 1)])

    assert got(actor) == [1, 2]


def test_a_run_that_waits_for_very_many_calls_does_not_stop_the_broker(talk):
    actor = talk.actor(11, free=1)
    client = talk.client().submits(1)
    assert got(actor) == [1]
    elsewhere = Call("work", CODE, desires=[Desire("zone", Comparator.EQUAL, "eu")])
    client.submits(*range(2, 1002), call=elsewhere, slot=1, parent=(1000, 1))
    beat(actor, Credit(1), [(1000, 1)])

    client.submits(1002, slot=2, parent=(1000, 1))

    assert got(actor) == [], "it looked at a thousand calls just before"
    talk.wait(0.25)
    assert got(actor) == [1002]
