"""Environments that are kept for the clients of one process, and go with the last of them."""

import pytest

from broker.placing import callers
from broker.placing.callers import UNKNOWN_MAX
from tests.broker.conversation import Conversation
from tests.broker.test_environments import actors, call, ends, enters, place, tokens
from wire.messages import Beat, Bye, Credit, Evict


@pytest.fixture
def talk():
    return Conversation(client_timeout_s=2.0)


def private(low=0, high=2, identity="e"):
    return place(low, high, identity=identity, idle_ttl_s=600.0, is_of_client=True)


def warm(talk, environment, *clients):
    """Let one call of each client run in the first actor, and return that."""
    [actor] = actors(talk, 1)
    for number, client in enumerate(clients, 1):
        client.submits(number, call=call(environment))
        [token] = tokens(actor)
        if number == 1:
            enters(actor, environment)
        ends(actor, token, environment)
    return actor


def evicted(actor):
    return [(command.environment, command.reason) for command in actor.takes(Evict)]


def test_what_is_kept_for_a_client_goes_with_it(talk):
    client = talk.client()
    actor = warm(talk, private(), client)
    talk.wait(1.0)
    assert not evicted(actor)

    client.says(Bye("done"))
    talk.wait(0.25)

    assert evicted(actor) == [("e", "its client is gone")]


def test_what_is_kept_for_everybody_stays(talk):
    client = talk.client()
    actor = warm(talk, place(0, 2, idle_ttl_s=600.0), client)

    client.says(Bye("done"))
    talk.wait(0.25)

    assert not evicted(actor)


def test_it_stays_while_another_client_of_the_process_is_here(talk):
    first, second = talk.client(101), talk.client(102)
    actor = warm(talk, private(), first, second)

    first.says(Bye("done"))
    talk.wait(0.25)
    assert not evicted(actor)

    second.says(Bye("done"))
    talk.wait(0.25)
    assert evicted(actor) == [("e", "its client is gone")]


def test_a_client_that_is_cut_off_has_its_time_to_come_back(talk):
    client = talk.client()
    actor = warm(talk, private(), client)

    client.vanishes()
    talk.wait(1.0)
    assert not evicted(actor)

    talk.wait(1.5)
    assert evicted(actor) == [("e", "its client is gone")]


def test_a_client_whose_last_task_ends_while_it_is_away_is_missed_at_its_time():
    """It was forgotten with that task, and what was kept for it stayed for ever."""
    talk = Conversation(client_timeout_s=2.0, recovered=False)
    client = talk.client()
    talk.actor(12, name="host/1", holding=[(client.incarnation, 77, (999, 1), "running")])
    talk.wait(1.25, beating=[client])
    actor = warm(talk, private(), client)
    client.says(Beat())
    client.vanishes()

    talk.wait(1.25)
    assert [note["task"] for note in talk.noted("unclaimed")] == [f"{client.incarnation:016x}-77"]
    assert not evicted(actor)

    talk.wait(1.0)
    assert evicted(actor) == [("e", "its client is gone")]
    assert talk.broker.clients == {}


def test_a_copy_in_use_goes_when_nobody_is_inside_any_more(talk):
    environment = private()
    client = talk.client()
    actor = warm(talk, environment, client)
    client.submits(2, call=call(environment))
    [token] = tokens(actor)

    client.says(Bye("done"))
    talk.wait(0.25)
    assert not evicted(actor)

    ends(actor, token, environment)
    talk.wait(0.25)
    assert evicted(actor) == [("e", "its client is gone")]


def test_the_minimum_is_not_entered_again_for_who_is_gone(talk):
    environment = private(1, 2)
    client = talk.client()
    actor = warm(talk, environment, client)
    client.says(Bye("done"))
    talk.wait(0.25)
    assert evicted(actor)

    actor.says(Credit(2, 0, 1))
    talk.wait(1.0)

    assert not tokens(actor)


def test_a_process_that_is_back_finds_its_environment_in_use(talk):
    environment = private()
    client = talk.client(101)
    actor = warm(talk, environment, client)
    client.says(Bye("done"))

    talk.client(103).submits(1, call=call(environment))
    talk.wait(0.25)

    assert len(tokens(actor)) == 1
    assert not talk.broker.callers.abandoned


def test_environments_that_the_broker_has_forgotten_are_forgotten_here(talk):
    client = talk.client()
    broker = talk.broker
    for number in range(3 * UNKNOWN_MAX):
        callers.came(broker, private(identity=f"e{number}"), broker.clients[client.incarnation])

    assert len(broker.callers.by_environment) < 2 * UNKNOWN_MAX
    broker.callers.check()
