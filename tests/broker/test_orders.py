"""Orders of an operator reach the actors that they name, once and in any session."""

import msgspec
import pytest

from broker.facts import orders
from tests.broker.conversation import Conversation, actor_hello
from tests.broker.test_explain import ask
from tests.support.disk import Disk
from wire.messages import ActorBeat, Answer, Bye, Credit, Drain, Pause, Query


@pytest.fixture
def talk():
    return Conversation()


def paused(actor):
    return [command.paused for command in actor.takes(Pause)]


def beat(closed):
    return ActorBeat(Credit(0), 1, {}, [], {}, closed)


def test_an_order_reaches_the_actors_that_it_names(talk):
    one, two = talk.actor(11, name="gpu1/0"), talk.actor(12, name="gpu1/1")
    other = talk.actor(13, name="gpu2/0")

    answer = ask(talk.client(), "pause", "gpu1/*")

    assert answer == {"actors": ["gpu1/0", "gpu1/1"], "away": []}
    assert (paused(one), paused(two), paused(other)) == ([True], [True], [])


def test_a_pattern_that_is_long_to_read_does_not_stop_the_broker(talk):
    actor = talk.actor(11, name="gpu1/0")

    answer = ask(talk.client(), "pause", "[" * 60_000)

    assert answer == {"error": "a pattern has at most 1,024 characters, not 60,000"}
    assert paused(actor) == []


def test_each_order_is_a_command_of_its_own(talk):
    actor = talk.actor(11, name="gpu1/0")
    client = talk.client()

    ask(client, "pause", "gpu1/0")
    ask(client, "resume", "gpu1/0")
    ask(client, "drain", "gpu1/0")

    assert paused(actor) == [True, False]
    assert actor.takes(Drain) == [Drain(None)]


def test_an_order_that_was_lost_with_its_session_is_said_in_the_next(talk):
    actor = talk.actor(11, name="gpu1/0")
    actor.is_deaf = True
    ask(talk.client(), "pause", "gpu1/0")
    actor.connects()
    actor.is_deaf = False

    actor.greets()

    assert paused(actor) == [True]


def test_an_order_that_was_heard_is_not_said_again(talk):
    actor = talk.actor(11, name="gpu1/0")
    ask(talk.client(), "pause", "gpu1/0")
    actor.says(Credit(0))
    assert paused(actor) == [True]

    actor.greets()

    assert paused(actor) == []


def test_an_actor_that_is_away_is_told_when_it_is_back(talk):
    actor = talk.actor(11, name="gpu1/0")
    actor.vanishes()

    assert ask(talk.client(), "drain", "gpu1/0") == {"actors": [], "away": ["gpu1/0"]}
    actor.connects()
    actor.greets()

    assert actor.takes(Drain) == [Drain(None)]


# --- what stands


def test_the_next_process_of_a_paused_actor_is_paused_as_well(talk):
    talk.actor(11, name="gpu1/0")
    client = talk.client()
    ask(client, "pause", "gpu1/*")

    assert paused(talk.actor(12, name="gpu1/0")) == [True]
    ask(client, "resume", "gpu1/0")

    assert paused(talk.actor(13, name="gpu1/0")) == []


def test_the_next_process_of_a_drained_actor_is_what_it_was_drained_for(talk):
    actor, other = talk.actor(11, name="gpu1/0"), talk.actor(12, name="gpu1/1")
    ask(talk.client(), "drain", "gpu1/*")
    actor.says(Bye("drained"))
    other.vanishes()

    assert talk.actor(21, name="gpu1/0").takes(Drain) == []
    assert talk.actor(22, name="gpu1/1").takes(Drain) == []
    assert talk.broker.orders == {}


def test_an_actor_that_opened_itself_again_is_not_ordered_any_more(talk):
    actor = talk.actor(11, name="gpu1/0")
    ask(talk.client(), "pause", "gpu1/0")

    actor.says(beat("paused"))
    assert talk.broker.orders == {"gpu1/0": "pause"}
    actor.says(beat(""))

    assert talk.broker.orders == {}


def test_orders_are_kept_for_so_many(talk):
    talk.actor(12, name="gpu1/1")
    talk.broker.orders.update((f"gone/{n}", "pause") for n in range(orders.STANDING_MAX))

    ask(talk.client(), "pause", "gpu1/1")

    assert len(talk.broker.orders) == orders.STANDING_MAX
    assert "gone/0" not in talk.broker.orders
    assert talk.broker.orders["gpu1/1"] == "pause"


def test_an_order_outlives_the_broker_and_is_answered_when_it_is_on_disk():
    talk = Conversation(disk=Disk())
    actor, client = talk.actor(11, name="gpu1/0"), talk.client()
    talk.writes = False
    client.says(Query(1, "pause", "gpu1/0"))
    assert (paused(actor), client.takes(Answer)) == ([True], [])
    talk.commits()
    assert len(client.takes(Answer)) == 1

    talk.restart()

    assert paused(talk.actor(12, name="gpu1/0")) == [True]


def test_a_drain_that_was_not_heard_is_said_by_the_next_broker_to_the_same_process():
    talk = Conversation(disk=Disk())
    actor = talk.actor(11, name="gpu1/0")
    ask(talk.client(), "drain", "gpu1/0")
    talk.restart()

    actor.greets()

    assert actor.takes(Drain) == [Drain(None)]


def test_an_order_is_given_and_answered_while_the_disk_is_full():
    talk = Conversation(disk=Disk())
    actor = talk.actor(11, name="gpu1/0")
    talk.broker.journal_stuck("disk is full")
    talk.writes = False

    answer = ask(talk.client(), "pause", "gpu1/0")

    assert (answer["actors"], paused(actor)) == (["gpu1/0"], [True])


@pytest.mark.parametrize(
    ("pattern", "complaint"),
    [
        ("gpu9/0", "no actor is called 'gpu9/0'; connected: gpu1/0"),
        ("gpu1", "no actor is called 'gpu1', but its actors are: say 'gpu1/*'"),
        # It was repeated in all its length.
        ("k" * 999, f"no actor is called '{'k' * 199}... (1,001 characters); connected: gpu1/0"),
    ],
)
def test_a_name_that_nobody_has_is_answered_with_who_there_is(talk, pattern, complaint):
    talk.actor(11, name="gpu1/0")

    assert ask(talk.client(), "pause", pattern) == {"error": complaint}


def test_what_an_actor_says_of_itself_is_shown(talk):
    actor = talk.actor(11, name="gpu1/0", slots={"slot": 1})
    client = talk.client().submits(1)

    actor.says(beat("memory: 97 % of the machine is used, over 95 %"))

    [shown] = ask(client, "actors")["actors"]
    assert shown["state"] == "memory"
    assert shown["closed"] == "memory: 97 % of the machine is used, over 95 %"
    assert ask(client, "status")["actors_closed"] == 1
    found = ask(client, "explain", "1")
    assert found["actors"] == {"gpu1/0": f"takes no work: {shown['closed']}"}
    assert found["reason"] == f"every actor that satisfies it takes no work ({shown['closed']})"
    actor.says(beat(""))
    assert ask(client, "actors")["actors"][0]["state"] == "open"


def test_a_restarted_broker_knows_who_is_paused_from_its_hello(talk):
    hello = msgspec.structs.replace(actor_hello(11), closed="paused")
    actor = talk.actor(11)

    actor.greets(hello)

    assert ask(talk.client(), "actors")["actors"][0]["state"] == "paused"


def test_a_task_that_waits_in_an_actor_is_explained_so(talk):
    actor = talk.actor(11, name="gpu1/0", slots={"slot": 1}, prefetch=4)
    actor.says(Credit(1, 4))
    client = talk.client().submits(1, 2)

    assert ask(client, "explain", "1")["reason"] == "it is with actor gpu1/0"
    assert "waits there behind what runs" in ask(client, "explain", "2")["reason"]
