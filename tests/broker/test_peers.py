"""Peers outlive their sessions; a host's word counts while it is fresh."""

import pytest

from broker.events.statements import offers
from broker.facts.outbox import Outbox
from broker.facts.peers import COMMANDS_PER_FRAME, Actor, Client, Host, Session
from tests.broker.conversation import actor_hello, attested
from wire.messages import Beat, HostHello


def host(*seen):
    return Host(HostHello(90, "host", 1, {}, list(seen)), 0.0)


def test_commands_beyond_a_frame_go_into_the_next():
    session, outbox = Session(b"rid", 1, Client(1, 0.0), 0.0), Outbox()
    for _ in range(COMMANDS_PER_FRAME):
        outbox.say(session, Beat())
    assert not session.sealed

    outbox.say(session, Beat())

    assert [len(commands) for commands, _ in session.sealed] == [COMMANDS_PER_FRAME]
    assert len(session.commands) == 1


@pytest.mark.parametrize(
    ("cpu_s", "stopped", "at", "vouches"),
    [
        (2.0, False, 1.0, True),
        (1.0, False, 1.0, True),
        (1.0, False, 3.0, False),
        (2.0, False, 3.0, True),
        (2.0, True, 1.0, False),
    ],
)
def test_a_host_vouches_for_what_it_saw_at_work(cpu_s, stopped, at, vouches):
    found = host(attested(11, cpu_s=1.0))

    found.attest([attested(11, cpu_s=cpu_s, stopped=stopped)], at)

    assert found.vouches_for(11, at, fresh_s=2.0) is vouches


def test_a_host_that_is_not_heard_vouches_for_nobody():
    found = host(attested(11))

    assert found.vouches_for(11, 2.0, fresh_s=2.0)
    assert not found.vouches_for(11, 2.1, fresh_s=2.0)
    assert not found.vouches_for(12, 0.0, fresh_s=2.0)


def test_older_labels_are_ignored():
    actor = Actor(actor_hello(labels={"memory": 1}), 0.0)

    assert not offers(actor, 1, {"memory": 2}, 1.0)
    assert offers(actor, 2, {"memory": 2}, 1.0) == ["memory"]
    assert actor.labels == {"memory": 2}
    assert not offers(actor, 3, {"memory": 2}, 2.0)
    assert (actor.labels_version, actor.labels_at) == (3, 1.0)


def test_a_new_session_states_its_labels_anew():
    actor = Actor(actor_hello(labels={"memory": 1}), 0.0)
    offers(actor, 9, {"memory": 9}, 1.0)

    actor.greet(actor_hello(labels={"memory": 1}), 1.0)

    assert (actor.labels_version, actor.labels) == (1, {"memory": 1})
