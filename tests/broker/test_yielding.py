"""Calls that share a slot and keep coming leave it to whoever waits for it, for a moment."""

import pytest

from broker.facts.peers import YIELDS_AFTER_S
from broker.placing.yielding import HOLD_S, PATIENCE_S
from tests.broker.conversation import CODE, Conversation
from tests.broker.test_environments import call, tokens
from tests.broker.test_limits import EPOCH, limited
from tests.broker.test_turns import ALONE, SHARED, inside
from wire.messages import Assign, Await, Credit, Entered, Occupy, Release
from wire.parts import Call


@pytest.fixture
def talk():
    return Conversation()


def shares(turns=3):
    """Return what an actor with one slot states while so many turns are free."""
    return Credit(0, 0, 0, {"e": turns}, {}, ("e",))


def numbers(actor):
    return [assign.task for assign in actor.takes(Assign)]


def put_off(talk, *, by=None):
    """Return client and actor, where task 2 waits for the slot of call 1, which is inside."""
    client = talk.client()
    actor, token = inside(talk, client)
    client.submits(2, call=by or Call("work", CODE), slot=1)
    talk.wait(PATIENCE_S, beating=[client])
    actor.beats(holding=[token], credit=shares())
    numbers(actor)
    return client, actor, token


def goes_on(talk, client, actor, *tokens, seconds):
    """Let some calls stay inside for so long."""
    for _ in range(seconds):
        talk.wait(1.0, beating=[client])
        actor.beats(holding=tokens, credit=shares(4 - len(tokens)))


def test_a_task_that_waits_for_the_slot_has_it_once_nobody_is_inside(talk):
    client, actor, token = put_off(talk)

    client.submits(3, 4, call=call(SHARED))
    assert numbers(actor) == []
    actor.ends(token)
    actor.says(Credit(1, 0, 0, {"e": 4}))

    assert numbers(actor) == [2]
    assert talk.broker.reservation is None


def test_one_that_is_to_be_alone_inside_is_not_put_off_for_ever(talk):
    client, actor, token = put_off(talk, by=call(ALONE))

    client.submits(3, 4, call=call(SHARED))
    assert numbers(actor) == []
    actor.ends(token)
    actor.says(Credit(1, 0, 0, {"e": 4}))

    assert numbers(actor) == [2]


def test_nobody_yields_to_one_that_has_just_come(talk):
    client = talk.client()
    actor, _ = inside(talk, client)
    client.submits(2, call=Call("work", CODE), slot=1)

    client.submits(3, call=call(SHARED))

    assert numbers(actor) == [3]


def test_in_vain_they_yield_for_a_moment_and_less_often(talk):
    client, actor, first = put_off(talk)
    client.submits(3, call=call(SHARED))
    assert numbers(actor) == []

    talk.wait(HOLD_S, beating=[client])
    [second] = tokens(actor)
    goes_on(talk, client, actor, first, second, seconds=2)
    client.submits(4, call=call(SHARED))
    [third] = tokens(actor)
    goes_on(talk, client, actor, first, second, third, seconds=int(YIELDS_AFTER_S))
    client.submits(5, call=call(SHARED))
    assert numbers(actor) == []


def test_nobody_yields_to_one_that_could_not_be_there(talk):
    client = talk.client()
    actor, token = inside(talk, client)
    client.submits(2, call=Call("work", CODE, slots={"gpu": 1}), slot=1)
    talk.wait(PATIENCE_S, beating=[client])
    actor.beats(holding=[token], credit=shares())

    client.submits(3, call=call(SHARED))

    assert numbers(actor) == [3]


def test_nobody_yields_where_that_closes_a_circle():
    """Found by seed 892619909138220604: the slot was left, and kept again in the same moment.

    Run 1 waits for call 4, which yields to task 3: that waits for the slot of run 2, which waits
    for the limit of run 1.
    """
    talk = limited("db=1")
    actor = talk.actor(11, slots={"slot": 1}).says(Credit(1, 0, 1))
    client = talk.client().submits(1)
    actor.says(Occupy(EPOCH, 1, 1, {"db": 1}, []), Credit(1, 0, 1), Release(EPOCH, 1))
    client.submits(2, call=call(SHARED), slot=1)
    actor.says(Entered(SHARED, 0.1), shares(), Occupy(EPOCH, 2, 1, {"db": 1}, []))
    client.submits(3, call=Call("work", CODE), slot=2)
    talk.wait(PATIENCE_S, beating=[client])
    actor.beats(holding=[(EPOCH, 1), (EPOCH, 2)], credit=shares())
    assert numbers(actor) == [1, 2]
    client.submits(4, call=call(SHARED), slot=1, parent=(EPOCH, 1))
    assert numbers(actor) == []

    actor.says(Await(EPOCH, 1, 9, 1, [(4, 4)], 1, [1]))
    talk.wait(HOLD_S / 2, beating=[client])

    assert numbers(actor) == [4]


def test_whoever_stands_beside_the_one_to_whom_the_slot_is_left_may_have_it(talk):
    """Found by seed 362799767970908552: it was first in the queue, and was held up with all of it.

    Three clients have a task of one rank each; which of those is looked at first may change.
    """
    client, actor, token = put_off(talk)
    others = [talk.client(number).submits(1, call=Call("work", CODE)) for number in (2, 3)]
    client.submits(3, call=call(SHARED))
    assert talk.broker.reservation.task.number == 2
    ahead = talk.client(4).submits(1, call=Call("work", CODE, priority=9))
    actor.ends(token)
    actor.says(Credit(1, 0, 0, {"e": 4}))
    [first] = tokens(actor)
    assert talk.broker.tokens[first].client.incarnation == ahead.incarnation

    for _ in range(1 + len(others)):
        actor.ends(first)
        actor.says(Credit(1, 0, 0, {"e": 4}))
        talk.broker.check()
        [first] = tokens(actor)
