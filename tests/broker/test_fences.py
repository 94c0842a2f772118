"""Strict limits at the broker: who may still hold one that is lost (protocol.md section 9.12)."""

import json

import pytest

from broker.events.defining import define
from tests.broker.conversation import actor_hello, attested
from tests.broker.test_explain import ask
from tests.broker.test_limits import EPOCH, call, got, lasts, limited
from wire.limits import read_definition
from wire.messages import (
    Answer,
    Assign,
    Bye,
    Cancel,
    Credit,
    Death,
    HostBeat,
    Kill,
    Occupy,
    Query,
    Stop,
    Vacate,
    Welcome,
    Who,
)
from wire.parts import HeldLimits

HELD = [HeldLimits(0, {"db": 1}, has_it=True)]
LEASE_S = 5.0


def strict(*, definition="db=1:strict", recovered=True):
    talk = limited(definition, recovered=False)
    if recovered:
        talk.wait(LEASE_S)
    return talk


def held_by_one_that_is_silent(*, has_host=True):
    """Let an actor hold the limit, that says nothing more from now on, and another one wait."""
    talk = strict()
    host = talk.host(actors=[attested(11)]) if has_host else None
    actor = talk.actor(free=1)
    talk.client().submits(1, 2, call=call())
    assert got(actor) == [1]
    return talk, host, talk.actor(12, name="host/1", host=91, free=1)


def passes(talk, seconds, *talkers):
    """Let time pass; return what the last of *talkers* was assigned."""
    lasts(talk, seconds, *talkers)
    talkers[-1].says(Credit(1))
    return got(talkers[-1])


# --- what strict means at all


def test_a_strict_limit_is_read_and_none_with_a_rate():
    assert read_definition("db=1:strict").strict
    with pytest.raises(ValueError, match="strict makes no sense"):
        read_definition("db=1:rate=1/s:strict")


def test_actors_learn_with_a_new_session_what_is_strict():
    talk = strict()
    actor, client = talk.actor(), talk.client()
    assert [w.strict for w in actor.takes(Welcome)] == [["db"]]
    assert [w.strict for w in client.takes(Welcome)] == [[]]

    define(talk.broker, read_definition("api=1:strict"))
    talk.flush()
    assert actor.takes(Who)
    actor.greets()

    assert [w.strict for w in actor.takes(Welcome)] == [["api", "db"]]


@pytest.mark.parametrize("first", ["db=1", None])
def test_what_is_held_cannot_be_made_strict(first):
    talk = limited("db=1")
    actor = talk.actor(free=1)
    talk.client().submits(1, call=call())
    if first is None:
        ask(talk.client(9), "limit-delete", "db")

    with pytest.raises(ValueError, match="do not know that it is strict"):
        define(talk.broker, read_definition("db=1:strict"))
    assert actor.takes(Who) == []


def test_a_lease_of_few_heartbeats_is_too_short():
    talk = limited(lease_s=3.0)

    with pytest.raises(ValueError, match="4 heartbeats"):
        define(talk.broker, read_definition("db=1:strict"))


def test_an_operator_cannot_let_another_one_in_beside_a_strict_holder():
    talk = strict()
    talk.actor(free=1)
    client = talk.client().submits(1, call=call())

    client.says(Query(5, "limit-release", f"{EPOCH}.1.0"))

    assert b"with force instead" in client.takes(Answer)[0].body


# --- a lost actor


def test_a_silent_actor_without_a_host_holds_it_until_its_lease_is_over():
    talk, _, other = held_by_one_that_is_silent(has_host=False)

    assert passes(talk, 4.75, other) == []
    assert passes(talk, 1.0, other) == [1]


def test_a_host_that_is_heard_is_told_to_kill_and_the_limit_is_free_with_the_death():
    talk, host, other = held_by_one_that_is_silent()
    host.hello = HostBeat([attested(11, stopped=True)])

    def lives():
        for _ in range(8):
            host.says(HostBeat([attested(11, stopped=True)]))
            lasts(talk, 1.0, other)

    lives()
    assert len(host.takes(Kill)) > 1, "it is said until the process is dead"
    other.says(Credit(1))
    assert got(other) == []

    host.says(Death(11, None, 9, []))

    assert got(other) == [1]


def test_where_actor_and_host_are_silent_the_later_of_both_counts():
    talk, host, other = held_by_one_that_is_silent()
    lasts(talk, 3.0, other)
    host.says(HostBeat([attested(11, stopped=True)]))

    assert passes(talk, 4.5, other) == []
    assert talk.noted("actor_lost")
    assert passes(talk, 1.0, other) == [1]


def test_a_host_that_was_replaced_may_have_let_its_actor_go_on():
    talk, host, other = held_by_one_that_is_silent()
    lasts(talk, 3.0, other)
    host.says(HostBeat([attested(11)]))
    talk.host(95, actors=[])

    assert passes(talk, 4.5, other) == []
    assert passes(talk, 1.0, other) == [1]


def test_a_host_that_does_not_have_the_process_holds_up_nobody():
    talk, host, other = held_by_one_that_is_silent()
    for _ in range(8):
        host.says(HostBeat([]))
        lasts(talk, 1.0, other)

    other.says(Credit(1))
    assert got(other) == [1]


def test_who_is_replaced_by_another_process_holds_it_until_it_is_dead():
    talk, host, other = held_by_one_that_is_silent()
    successor = talk.actor(13, free=1)
    assert got(successor) == []

    host.says(Death(11, None, 9, [], beside=[(EPOCH, 1)]))

    assert got(successor) + got(other) == [1]


def test_who_leaves_holds_nothing():
    talk = strict()
    actor = talk.actor(free=1)
    talk.client().submits(1, 2, call=call())
    other = talk.actor(12, name="host/1", free=1)

    actor.says(Bye("drained"))

    assert got(other) == [1]


def test_a_limit_beside_a_strict_one_is_kept_with_it_and_others_are_not():
    talk = limited("db=1:strict", "api=1", "web=1", recovered=False)
    talk.wait(LEASE_S)
    actor = talk.actor(free=2)
    client = talk.client().submits(1, call=call(limits={"db": 1, "api": 1}))
    client.submits(2, call=call(limits={"web": 1}), slot=1)
    assert got(actor) == [1, 2]
    host = talk.host(actors=[attested(11)])
    for _ in range(6):
        lasts(talk, 1.0)
        host.says(HostBeat([attested(11, stopped=True)]))

    assert {"db", "api"} == talk.broker.limits.keys.keys() & {"db", "api", "web"}


def test_a_lost_one_that_comes_back_has_what_it_says():
    talk, host, other = held_by_one_that_is_silent()
    (actor,) = [one for one in talk.peers.values() if one.incarnation == 11]
    for _ in range(7):
        lasts(talk, 1.0, other)
        host.says(HostBeat([attested(11, stopped=True)]))
    assert talk.broker.limits.fenced

    actor.greets(actor_hello(holding=[(1, 1, (EPOCH, 1), "running", HELD)]))
    assert not talk.broker.limits.fenced
    assert actor.takes(Stop) or talk.broker.tokens[EPOCH, 1]
    lasts(talk, 1.0, actor, other)
    assert got(other) == []
    actor.ends((EPOCH, 1), free=0)

    assert (got(other) or got(actor)) != []


# --- what was stopped and has not returned


def test_a_stopped_run_holds_its_limits_also_in_a_new_session():
    talk = limited("db=1")
    actor = talk.actor(free=1)
    client = talk.client().submits(1, 2, call=call())
    assert got(actor) == [1]
    client.says(Cancel([1]))
    other = talk.actor(12, name="host/1", free=1)

    stopped = [(1, 1, (EPOCH, 1), "running", HELD)]
    actor.greets(actor_hello(stopped=stopped))
    assert got(other) == []
    actor.says(Vacate(EPOCH, 1))

    assert got(other) == [2]


def test_a_started_broker_learns_what_stopped_runs_hold():
    talk = limited("db=1", recovered=False)
    talk.broker.had_earlier = True
    actor = talk.actor(stopped=[(7, 1, (900, 4), "running", HELD)])
    talk.client().submits(1, call=call())
    other = talk.actor(12, name="host/1", free=1)
    assert passes(talk, 6.0, actor, other) == []

    actor.says(Vacate(900, 4))

    assert got(other) == [1]


def test_a_run_that_was_stopped_by_a_broker_that_forgot_it_ends_as_any_other():
    """It was canceled, its STOP was lost, and the broker adopts it again in its window."""
    talk = limited("db=1", recovered=False)
    actor = talk.actor()
    held = (7, 1, (900, 4), "running", HELD)
    actor.greets(actor_hello(holding=[held]))
    client = talk.client(7, unresolved=[(1, 1)])
    client.says(Cancel([1]))
    actor.greets(actor_hello(holding=[held]))

    actor.ends((900, 4), free=1)

    assert not talk.broker.limits.runs


# --- a started broker


def test_nobody_has_a_strict_limit_before_a_lease_is_over():
    talk = strict(recovered=False)
    actor = talk.actor(free=1)
    talk.client().submits(1, call=call())

    assert passes(talk, 4.5, actor) == []
    assert passes(talk, 1.0, actor) == [1]


def test_one_that_is_set_early_waits_as_well():
    talk = limited()
    talk.actor()
    client = talk.client()
    definition = json.dumps({"name": "db", "maximum": 1, "strict": True})

    assert ask(client, "limit-set", definition) == {"done": "limit-set"}

    assert talk.broker.limits.is_closed
    lasts(talk, 4.0, client)
    assert not talk.broker.limits.is_closed


def test_a_run_asks_for_a_strict_limit_and_keeps_it_when_it_is_lost():
    talk = strict()
    host = talk.host(actors=[attested(11)])
    actor = talk.actor(free=1)
    talk.client().submits(1)
    assert actor.takes(Assign)
    actor.says(Occupy(EPOCH, 1, 1, {"db": 1}))
    for _ in range(6):
        lasts(talk, 1.0)
        host.says(HostBeat([attested(11, stopped=True)]))

    assert talk.broker.limits.keys["db"].holders == {((EPOCH, 1), 1): 1}
