"""Who holds limits when peers wait for one another, come, go and are started again."""

import msgspec
import pytest

from tests.broker.conversation import Conversation, actor_hello, explained
from tests.broker.test_limits import EPOCH, call, ends, failures, got, lasts, limited
from tests.support.disk import Disk
from wire.errors import Code
from wire.messages import (
    Credit,
    Error,
    HostHello,
    Occupied,
    Occupy,
    Outcome,
    Result,
    Vacate,
)
from wire.parts import HeldLimits, Status

# --- circles


def test_of_runs_that_wait_in_a_circle_the_youngest_is_told():
    talk = limited("db=1", "api=1")
    actor = talk.actor(free=3, slots={"slot": 3})
    talk.client().submits(1, 2, 3)
    actor.says(Occupy(EPOCH, 1, 1, {"db": 1}), Occupy(EPOCH, 2, 1, {"api": 1}))
    actor.says(Occupy(EPOCH, 1, 2, {"api": 1}), Occupy(EPOCH, 2, 2, {"db": 1}))
    actor.says(Occupy(EPOCH, 3, 1, {"db": 1}))
    actor.takes(Occupied)

    lasts(talk, 1.5, actor)

    (told,) = actor.takes(Occupied)
    assert (told.number, told.ask, told.code) == (2, 2, Code.DEADLOCK)
    assert "limit db in a circle" in told.message
    # It still has what it had; when it gives that back the other goes on.
    actor.says(Vacate(EPOCH, 2, 1))
    assert actor.takes(Occupied) == [Occupied(EPOCH, 1, 2)]


def test_a_run_that_waits_for_what_it_has_itself_is_told():
    talk = limited("db=1")
    actor = talk.actor(free=1)
    talk.client().submits(1, call=call())
    actor.says(Occupy(EPOCH, 1, 1, {"db": 1}))

    lasts(talk, 1.5, actor)

    assert [told.code for told in actor.takes(Occupied)] == [Code.DEADLOCK]


def test_what_another_coroutine_of_a_run_holds_closes_no_circle():
    talk = limited("db=1")
    actor = talk.actor(free=1)
    talk.client().submits(1)
    actor.says(Occupy(EPOCH, 1, 1, {"db": 1}, []), Occupy(EPOCH, 1, 2, {"db": 1}, []))
    actor.takes(Occupied)

    lasts(talk, 2.5, actor)
    assert actor.takes(Occupied) == []
    actor.says(Vacate(EPOCH, 1, 1))

    assert actor.takes(Occupied) == [Occupied(EPOCH, 1, 2)]


def test_a_run_that_asked_for_what_comes_back_with_time_leaves_nothing():
    talk = limited("web=2:rate=10/s")
    actor = talk.actor(free=1)
    talk.client().submits(1)
    lasts(talk, 1.0, actor)

    actor.says(Occupy(EPOCH, 1, 1, {"web": 1}))

    assert actor.takes(Occupied) == [Occupied(EPOCH, 1, 1)]
    assert not talk.broker.limits.runs


def test_whoever_waits_for_one_that_can_go_on_is_in_no_circle():
    talk = limited("db=2", "api=1")
    actor = talk.actor(free=3, slots={"slot": 3})
    talk.client().submits(1, 2, 3)
    for number, name in ((1, "db"), (2, "db"), (3, "api")):
        actor.says(Occupy(EPOCH, number, 1, {name: 1}))
    actor.says(Occupy(EPOCH, 1, 2, {"api": 1}), Occupy(EPOCH, 3, 2, {"db": 1}))
    actor.takes(Occupied)

    # The second run holds db and waits for nothing.
    lasts(talk, 2.5, actor)

    assert actor.takes(Occupied) == []


# --- sessions and restarts


def test_an_inventory_says_what_a_run_has():
    talk = limited("db=1")
    actor = talk.actor(free=1)
    talk.client().submits(1, 2, call=call())
    got(actor)
    held = [HeldLimits(0, {"db": 1}, has_it=True)]
    other = talk.actor(12, name="host/1", free=1)

    hello = actor.hello
    actor.greets(actor_hello(holding=[(1, 1, (EPOCH, 1), "running", held)]))
    assert got(other) == []
    actor.greets(actor_hello(holding=[(1, 1, (EPOCH, 1), "released", [])]))

    assert hello.name == "host/0"
    assert got(other) == [2]


@pytest.mark.parametrize("limits", [{}, {"db": 0}, {"db": -5}, {"d b": 1}])
@pytest.mark.parametrize("has_it", [False, True])
def test_an_inventory_of_amounts_that_are_none_is_refused(limits, has_it):
    talk = limited("db=1")
    actor = talk.actor(free=1)
    talk.client().submits(1)
    asked = [HeldLimits(1, limits, has_it=has_it)]

    actor.greets(actor_hello(holding=[(1, 1, (EPOCH, 1), "running", asked)]))

    assert [error.code for error in actor.takes(Error)] == [Code.BAD_FRAME]
    assert not talk.broker.limits.keys


def test_a_grant_that_was_lost_is_said_again():
    talk = limited("db=1")
    actor = talk.actor(free=1)
    talk.client().submits(1)
    actor.is_deaf = True
    actor.says(Occupy(EPOCH, 1, 1, {"db": 1}))
    actor.is_deaf = False

    asked = [HeldLimits(1, {"db": 1}, has_it=False)]
    actor.greets(actor_hello(holding=[(1, 1, (EPOCH, 1), "running", asked)]))

    assert actor.takes(Occupied) == [Occupied(EPOCH, 1, 1)]


def test_after_a_restart_nobody_is_let_in_before_the_lease_is_over():
    talk = limited("db=1", recovered=False)
    talk.broker.had_earlier = True
    actor = talk.actor(free=1)
    talk.client().submits(1, call=call())
    lasts(talk, 4.0, actor)
    actor.says(Credit(1))
    assert got(actor) == []

    held = [HeldLimits(0, {"db": 1}, has_it=True)]
    late = talk.actor(12, name="host/1")
    late.greets(actor_hello(12, name="host/1", holding=[(7, 1, (900, 4), "running", held)]))
    lasts(talk, 3.0, actor, late)
    actor.says(Credit(1))

    # The late run was stopped by the broker, which knows no task of it, and has not returned yet.
    assert got(actor) == []
    late.says(Vacate(900, 4))
    assert got(actor) == [1]


def test_an_adopted_run_holds_what_it_says_also_above_the_maximum():
    talk = limited("db=1", recovered=False)
    held = [HeldLimits(0, {"db": 1}, has_it=True), HeldLimits(1, {"db": 1}, has_it=True)]
    actor = talk.actor()
    actor.greets(actor_hello(holding=[(1, 7, (900, 4), "running", held)]))
    client = talk.client(unresolved=[(7, 7)])
    client.submits(7, call=call(), again=True)
    client.submits(8, call=call())
    other = talk.actor(12, name="host/1")
    lasts(talk, 7.0, actor, other, client)
    other.says(Credit(1))
    assert got(other) == []

    actor.says(Outcome(900, 4, Status.RESULT, b""), Credit(0))

    assert got(other) == [8]


# --- hosts


def machine(talk, number, **limits):
    from tests.broker.conversation import Talker

    return Talker(talk, HostHello(90 + number, f"gpu{number}", 4700, limits, []))


def test_a_limit_of_a_host_is_shared_by_its_actors_alone():
    talk = limited()
    hosts = [machine(talk, 0, gpu=1), machine(talk, 1, gpu=1)]
    actors = [
        talk.actor(11, name="gpu0/0", host=90, free=2),
        talk.actor(12, name="gpu0/1", host=90, free=2),
        talk.actor(13, name="gpu1/0", host=91, free=2),
    ]

    talk.client().submits(1, 2, 3, call=call(limits={"host:gpu": 1}))

    assert len(hosts) == 2
    placed = [got(actor) for actor in actors]
    assert len(placed[0]) + len(placed[1]) == 1
    assert len(placed[2]) == 1


def test_a_run_asks_for_a_limit_of_its_host():
    talk = limited()
    machine(talk, 0, gpu=1)
    actor = talk.actor(11, name="gpu0/0", host=90, free=2)
    client = talk.client().submits(1)
    actor.says(Occupy(EPOCH, 1, 1, {"host:gpu": 1}))
    assert actor.takes(Occupied) == [Occupied(EPOCH, 1, 1)]
    client.submits(2, call=call(limits={"host:gpu": 1}), slot=1)
    assert got(actor) == [1]

    actor.says(Vacate(EPOCH, 1, 1))

    assert got(actor) == [2]


def test_a_limit_that_no_host_states_is_unknown():
    talk = limited()
    machine(talk, 0, gpu=1)

    client = talk.client().submits(1, call=call(limits={"host:tpu": 1}))
    client.submits(2, call=call(limits={"host:gpu": 2}), slot=1)

    found = failures(client)
    assert [found[1].code, found[2].code] == [Code.LIMIT_UNKNOWN, Code.BAD_OPTION]
    assert "--limit tpu=N" in found[1].message


def test_a_run_does_not_wait_for_a_limit_behind_a_task_that_waits_for_its_slot():
    talk = limited("b=1", "k=1")
    actor = talk.actor(free=2, slots={"slot": 2})
    client = talk.client().submits(1, call=call(limits={"b": 1}))
    client.submits(2, call=call(limits={"b": 1, "k": 1}), slot=1)
    talk.client(2).submits(1, call=call(limits={"b": 1, "k": 1}))
    client.submits(3, call=call(limits={}), slot=2)
    assert got(actor) == [1, 3]
    ends(actor, 1, 0)

    actor.says(Occupy(EPOCH, 2, 1, {"k": 1}))

    assert [said.ask for said in actor.takes(Occupied)] == [1]


# --- a limit that is gone with the former broker


def talk_that_loses_its_limit(was_durable):
    """Return a broker that begins without a limit that a run has, its client and its actor."""
    talk = Conversation(disk=Disk(), limits=["db=1"])
    client, actor = talk.client(), talk.actor(free=1)
    client.submits(1, call=call(durable=was_durable))
    assert got(actor) == [1]
    talk.limits = []
    talk.restart()
    client.greets(msgspec.structs.replace(client.hello, unresolved=[(1, 1)]))
    if not was_durable:
        client.submits(1, call=call(), again=True)
    assert talk.state(client, 1) == "held"
    return talk, client, actor


@pytest.mark.parametrize("was_durable", [True, False])
def test_a_run_whose_limit_is_gone_with_its_broker_is_adopted(was_durable):
    talk, client, actor = talk_that_loses_its_limit(was_durable)

    held = [HeldLimits(0, {"db": 1}, has_it=True)]
    actor.greets(actor_hello(holding=[(1, 1, (EPOCH, 1), "running", held)]))
    assert talk.state(client, 1) == "assigned"
    actor.ends((EPOCH, 1), b"value")

    assert [result.body for result in client.takes(Result)] == [b"value"]


@pytest.mark.parametrize("was_durable", [True, False])
def test_an_outcome_that_was_kept_is_taken_though_its_limit_is_gone(was_durable):
    _, client, actor = talk_that_loses_its_limit(was_durable)

    actor.greets(actor_hello(kept=[(1, 1, (EPOCH, 1), False)]))
    actor.ends((EPOCH, 1), b"value")

    assert [result.body for result in client.takes(Result)] == [b"value"]


@pytest.mark.parametrize("was_durable", [True, False])
def test_a_task_that_nobody_offers_is_told_that_its_limit_is_gone(was_durable):
    talk, client, _ = talk_that_loses_its_limit(was_durable)
    assert failures(client) == {}

    lasts(talk, 3.0, client)

    assert failures(client)[1].code == Code.LIMIT_UNKNOWN


# --- a limit of hosts that are not there yet


def test_a_run_that_asked_before_its_host_was_there_is_told_what_that_has_not():
    talk = limited()
    actor = talk.actor(11, name="gpu0/0", host=90, free=1)
    client = talk.client().submits(1)
    actor.says(Occupy(EPOCH, 1, 1, {"host:gpu": 1}), Occupy(EPOCH, 1, 2, {"host:gpu": 2}))
    actor.says(Occupy(EPOCH, 1, 3, {"host:tpu": 1}))
    assert actor.takes(Occupied) == []

    machine(talk, 1, tpu=1)
    assert actor.takes(Occupied) == []
    machine(talk, 0, gpu=1)

    said = actor.takes(Occupied)
    assert {one.ask: one.code for one in said} == {1: "", 2: Code.BAD_OPTION, 3: Code.LIMIT_UNKNOWN}
    assert "limit 'host:gpu': 2 is more than host gpu0 has: 1" in [one.message for one in said]
    assert talk.state(client, 1) == "assigned"


@pytest.mark.parametrize("is_durable", [True, False])
def test_what_waits_for_a_limit_that_no_host_has_says_so_and_goes_to_the_one_that_comes(is_durable):
    talk = Conversation(disk=Disk(), recovered=False)
    client = talk.client().submits(1, call=call(limits={"host:gpu": 1}, durable=is_durable))
    if is_durable:
        talk.restart()
        client.greets()
    other = machine(talk, 1, tpu=1)
    actor = talk.actor(12, name="gpu1/0", host=91, free=1)
    lasts(talk, 6.0, client, other, actor)
    actor.says(Credit(1))

    found = explained(client, 1)
    assert found["reason"].startswith("limit 'host:gpu': no host states one of that name")
    assert not found["satisfiable"]

    machine(talk, 0, gpu=1)
    late = talk.actor(11, name="gpu0/0", host=90, free=1)
    assert got(late) == [1]
