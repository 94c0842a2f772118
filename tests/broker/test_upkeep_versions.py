"""Copies of an older version of an environment give their place to those of the newer one."""

import pytest

from tests.broker.conversation import Conversation
from tests.broker.test_environments import (
    FAILURE,
    call,
    enters,
    place,
    tokens,
)
from tests.broker.test_upkeep import has_nothing, passes, used
from wire.messages import (
    Credit,
    Evict,
    Reject,
)
from wire.messages import Template as TemplateMessage


@pytest.fixture
def talk():
    return Conversation(environment_retry_s=1.0)


OLD, NEW = (place(2, 2, identity=name, lineage="E") for name in ("v1", "v2"))


def idles(actor, token, environment):
    """End a call, after which the place of its environment is one that others may have."""
    actor.ends(token)
    actor.says(Credit(2, 0, 1, {environment.id: 1}))


def changed(talk, *, fails=False):
    """Let a newer version be called once beside two idle copies of an older one."""
    client, first, second = used(talk, OLD, 2, with_client=True)
    first.says(Credit(2, 0, 1, {"v1": 1}))
    talk.wait(0.25)
    [token] = tokens(second)
    enters(second, OLD)
    idles(second, token, OLD)
    client.submits(2, call=call(NEW), slot=1)
    [(actor, token)] = [(actor, token) for actor in (first, second) for token in tokens(actor)]
    if fails:
        has_nothing(actor)
        actor.says(Reject(*token, "no", False, FAILURE))
    else:
        enters(actor, NEW)
        idles(actor, token, NEW)
    return client, actor, second if actor is first else first


def test_an_older_version_gives_its_place_to_the_copy_that_a_newer_one_lacks(talk):
    client, actor, other = changed(talk)
    passes(talk, 0.5, client, actor, other)

    assert [evict.environment for evict in other.takes(Evict)] == ["v1"]
    has_nothing(other)

    passes(talk, 0.25, client, actor, other)
    assert len(tokens(other)) == 1
    assert not actor.takes(Evict)


def test_a_version_that_is_called_beside_the_newer_one_keeps_its_place(talk):
    client, actor, other = changed(talk)
    client.submits(3, call=call(OLD), slot=2)
    [token] = tokens(other)
    idles(other, token, OLD)

    passes(talk, 2.0, client, actor, other)

    assert not other.takes(Evict)
    assert not actor.takes(Evict)


def test_a_version_that_cannot_be_entered_takes_no_place_of_an_older_one(talk):
    client, actor, other = changed(talk, fails=True)

    passes(talk, 0.75, client, actor, other)

    assert not other.takes(Evict)


def test_an_older_version_that_nobody_calls_has_no_minimum(talk):
    client, actor, other = changed(talk)
    third = talk.actor(21, name="host/9").says(Credit(2, 0, 1))
    passes(talk, 0.5, client, actor, other, third)

    templates = third.takes(TemplateMessage)
    assert [one.call.environment.id for one in templates] == ["v2"]
