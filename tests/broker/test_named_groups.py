"""Concurrency groups of named actors: turns of their own, and one line for each."""

import pytest

from tests.broker.conversation import Conversation
from tests.broker.test_named import BLOB, ID, tasks, token
from wire.errors import Code
from wire.messages import Assign, Cancel, Credit, Error, Function, Reject, Submit, Template
from wire.parts import Call, Environment, Failure, Named

IO = f"{ID}\nio"
# The slots of the templates: the entry, and calls of each kind.
ENTRY, ALONE, READ, SCAN = range(4)


@pytest.fixture
def talk():
    return Conversation()


def call(method="", *, group="", turns=1, groups=None):
    named = Named(
        "default", "clicks", "Counter:1", 1, groups={"io": 2} if groups is None else groups
    )
    environment = Environment(ID, "Counter", BLOB, {}, 1, named=named, turns=turns, group=group)
    return Call(f"Counter.{method}", method=method, environment=environment)


def makes(client):
    client.says(
        Function(0, BLOB, b"code"),
        Template(ENTRY, call()),
        Template(ALONE, call("incr")),
        Template(READ, call("read", group="io")),
        Template(SCAN, call("scan", group="io", turns=2)),
        Submit(1, ENTRY, b""),
    )
    return client


def calls(client, *kinds):
    """Submit a call of each of *kinds*, numbered from 2."""
    client.says(*(Submit(number, kind, b"") for number, kind in enumerate(kinds, 2)))


def inside(none=1, io=2, free=1):
    """Return what an actor states that is inside, with so many free turns of each group."""
    return Credit(free, 0, 1, {ID: none, IO: io}, {}, [ID, IO])


def entered(talk, *, free=2):
    actor = talk.actor(free=free)
    client = makes(talk.client())
    actor.ends(token(1), free=free)
    actor.takes(Assign)
    return actor, client


def numbers(actor):
    return [task for _, task in tasks(actor)]


def test_calls_of_different_groups_do_not_wait_for_one_another(talk):
    actor, client = entered(talk)

    calls(client, ALONE, READ, ALONE, READ, READ)

    assert numbers(actor) == [2, 3, 5]
    actor.says(inside(none=0, io=0))
    assert numbers(actor) == []


def test_all_groups_share_one_slot(talk):
    actor, client = entered(talk, free=1)

    calls(client, ALONE, READ, READ)

    assert numbers(actor) == [2, 3, 4]


def test_one_that_is_to_be_alone_waits_for_its_group_and_holds_up_those_behind_it(talk):
    actor, client = entered(talk)
    calls(client, READ, SCAN, READ, ALONE)
    assert numbers(actor) == [2, 5]

    actor.says(inside(none=0, io=1))
    assert numbers(actor) == []
    actor.says(inside(none=0, io=2))
    assert numbers(actor) == [3]

    actor.says(inside(none=0, io=2))
    assert numbers(actor) == [4]


def test_nobody_is_held_up_by_one_that_is_not_wanted_any_more(talk):
    actor, client = entered(talk)
    calls(client, READ, SCAN, READ)
    actor.says(inside(io=1))
    assert numbers(actor) == [2]

    client.says(Cancel([3], False))

    assert numbers(actor) == [4]


def test_one_that_comes_back_goes_ahead_of_one_that_waits_to_be_alone(talk):
    actor, client = entered(talk)
    calls(client, READ, READ, SCAN)
    first, second = actor.takes(Assign)
    assert (first.task, second.task) == (2, 3)

    actor.says(Reject(1000, second.number, "", False), inside(io=1))

    assert numbers(actor) == [3]


def test_a_group_that_is_not_there_is_refused(talk):
    _, client = entered(talk)

    client.says(Template(4, call("read", group="gpu")))

    assert [error.code for error in client.takes(Error)] == [Code.BAD_FRAME]


def test_more_turns_than_a_group_has_are_refused(talk):
    _, client = entered(talk)

    client.says(Template(4, call("read", group="io", turns=3)))

    assert [error.code for error in client.takes(Error)] == [Code.BAD_FRAME]


@pytest.mark.parametrize("failure", [None, Failure(Code.ENVIRONMENT_FAILED, "OSError", "no file")])
def test_what_is_on_its_way_behind_an_entry_that_was_handed_back_is_overtaken_by_nobody(
    talk, failure
):
    actor = talk.actor(11, free=2)
    client = makes(talk.client())
    calls(client, READ, READ)
    assert numbers(actor) == [1, 2, 3]
    other = talk.actor(12, name="host/1")

    actor.says(Reject(*token(1), "paused", False, failure), Credit(0))

    assert [talk.state(client, number) for number in (1, 2, 3)] == ["queued"] * 3
    actor.says(Reject(*token(2), "paused", False), Reject(*token(3), "paused", False))
    client.says(Submit(4, READ, b""))
    if failure is not None:
        talk.wait(1.5, beating=[actor, other, client])
    other.says(Credit(2))
    assert numbers(other) == [1, 2, 3]


def test_what_is_on_its_way_behind_a_call_that_cannot_enter_it_is_queued_again(talk):
    actor = talk.actor(11, free=2)
    client = makes(talk.client())
    calls(client, READ, READ)
    client.says(Cancel([1], False))
    failure = Failure(Code.ENVIRONMENT_FAILED, "OSError", "no file")

    actor.says(Reject(*token(2), "no file", False, failure), Credit(0))

    assert [talk.state(client, number) for number in (2, 3)] == ["queued"] * 2
