"""Calls that share the slot of their replica: what they cost, what is known of them, who waits."""

import pytest
from msgspec import structs

from tests.broker.conversation import CODE, Conversation, explained
from tests.broker.test_environments import asked, call, place, tokens
from wire.messages import Assign, Credit, Entered
from wire.parts import Call, Held, Holding

SHARED = place(0, 1, concurrency=4)
ALONE = structs.replace(SHARED, turns=4)


@pytest.fixture
def talk():
    return Conversation()


def inside(talk, client, *, slots=1, number=1):
    """Return an actor of so many slots where one call is inside, and its token."""
    client.submits(number, call=call(SHARED))
    actor = talk.actor(11, slots={"slot": slots}).says(Credit(slots, 0, 1))
    [token] = tokens(actor)
    actor.says(Entered(SHARED, 0.1), Credit(slots - 1, 0, 0, {"e": 3}, {}, ("e",)))
    return actor, token


def test_calls_share_the_one_slot_up_to_the_turns(talk):
    client = talk.client()
    actor, _ = inside(talk, client)

    client.submits(*range(2, 8), call=call(SHARED))

    assert len(actor.takes(Assign)) == 3
    assert explained(client, 7)["actors"] == {"host/0": "no turn free in environment E"}


def test_a_cold_replica_takes_one_until_it_is_known_to_be_there(talk):
    talk.client().submits(1, 2, 3, call=call(SHARED))

    actor = talk.actor(11).says(Credit(2, 0, 1))

    assert len(actor.takes(Assign)) == 1


def test_those_in_flight_to_an_idle_replica_take_one_slot_together(talk):
    client = talk.client()
    actor = talk.actor(11).says(Entered(SHARED, 0.1), Credit(2, 0, 0, {"e": 4}))

    client.submits(1, 2, 3, call=call(SHARED))
    client.submits(4, 5, call=Call("work", CODE), slot=1)

    assert len(actor.takes(Assign)) == 4
    assert talk.state(client, 5) == "queued"


def test_a_slot_that_came_free_meanwhile_is_for_those_in_flight(talk):
    client = talk.client()
    actor, token = inside(talk, client)
    received = actor.received
    client.submits(2, 3, call=call(SHARED))
    assert len(tokens(actor)) == 2

    actor.received = received
    actor.ends(token)
    actor.says(Credit(1, 0, 0, {"e": 4}))
    client.submits(4, call=Call("work", CODE), slot=1)

    assert not actor.takes(Assign)
    assert talk.broker.actors[11].credit.available == 0


def test_a_call_that_must_be_alone_takes_a_slot_of_its_own(talk):
    client = talk.client()
    actor, token = inside(talk, client)
    client.submits(2, call=call(ALONE), slot=1)
    assert explained(client, 2)["actors"] == {
        "host/0": "no turn free in environment E, in which it must be alone"
    }

    actor.ends(token)
    actor.says(Credit(1, 0, 0, {"e": 4}))

    assert len(actor.takes(Assign)) == 1
    assert talk.broker.actors[11].credit.available == 0


def test_another_environment_does_not_share_the_slot(talk):
    client = talk.client()
    actor, _ = inside(talk, client)
    other = place(0, 1, identity="f", concurrency=4)
    client.submits(2, call=call(other), slot=1)

    actor.says(Credit(0, 0, 1, {"e": 3, "f": 4}, {}, ("e",)))

    assert not actor.takes(Assign)


def test_what_names_its_slots_shares_none(talk):
    client = talk.client()
    actor, _ = inside(talk, client, slots=2)
    two = structs.replace(call(SHARED), slots={"slot": 2})

    client.submits(2, call=two, slot=1)

    assert not actor.takes(Assign)


def test_nobody_shares_while_the_actor_says_that_somebody_waits_for_the_slot(talk):
    client = talk.client()
    actor, _ = inside(talk, client)
    actor.says(Credit(0, 0, 0, {"e": 3}))

    client.submits(2, call=call(SHARED))
    assert not actor.takes(Assign)
    actor.says(Credit(0, 0, 0, {"e": 3}, {}, ("e",)))

    assert len(actor.takes(Assign)) == 1


def test_a_new_session_knows_nothing_of_who_shared(talk):
    client = talk.client()
    actor, token = inside(talk, client)
    actor.connects()
    actor.greets(structs.replace(actor.hello, holding=[Holding(1, 1, token, Held.RUNNING)]))

    client.submits(2, call=call(SHARED))
    assert not actor.takes(Assign)
    actor.says(Credit(0, 0, 0, {"e": 3}, {}, ("e",)))

    assert len(actor.takes(Assign)) == 1


def test_what_is_shown_as_held_is_the_one_slot(talk):
    client = talk.client()
    actor, _ = inside(talk, client, slots=2)
    client.submits(2, 3, call=call(SHARED))
    assert len(actor.takes(Assign)) == 2

    [shown] = asked(talk, client, "actors")["actors"]

    assert shown["held"] == {"slot": 1}


def in_two(talk, environment):
    """Return a client, and two actors of two slots with a copy each in which nobody is."""
    client = talk.client()
    client.submits(1, 2, call=call(structs.replace(environment, turns=4), 0.0))
    found = [talk.actor(11 + n, name=f"host/{n}", slots={"slot": 2}) for n in (0, 1)]
    given = [tokens(actor.says(Credit(2, 0, 1))) for actor in found]
    for actor, [token] in zip(found, given, strict=True):
        actor.says(Entered(environment, 0.1), Credit(1, 0, 0, {"e": 0}))
        actor.ends(token)
        actor.says(Credit(2, 0, 0, {"e": 4}))
    return client, found


def one_by_one(client, found, environment, *, count):
    """Submit calls that stay inside, each when the one before it is known; return where they go."""
    counts = [0, 0]
    for number in range(3, 3 + count):
        client.submits(number, call=call(environment, 0.0))
        for at, actor in enumerate(found):
            if tokens(actor):
                counts[at] += 1
                actor.says(Credit(1, 0, 0, {"e": 4 - counts[at]}, {}, ("e",)))
    return counts


def test_calls_that_run_beside_one_another_fill_the_lowest_copy(talk):
    environment = place(1, 2, concurrency=4)
    client, found = in_two(talk, environment)

    assert one_by_one(client, found, environment, count=3) == [3, 0]


def test_what_the_lowest_copy_has_no_turn_for_goes_to_the_next(talk):
    environment = place(1, 2, concurrency=4)
    client, found = in_two(talk, environment)

    assert one_by_one(client, found, environment, count=6) == [4, 2]


def test_calls_that_wait_for_a_batch_go_where_none_runs(talk):
    environment = structs.replace(place(1, 2, concurrency=4), gathers=True)
    client, found = in_two(talk, environment)

    assert one_by_one(client, found, environment, count=2) == [1, 1]


def test_where_no_copy_may_be_given_up_alone_calls_are_spread(talk):
    environment = place(2, 2, concurrency=4)
    client, found = in_two(talk, environment)

    assert one_by_one(client, found, environment, count=4) == [2, 2]
