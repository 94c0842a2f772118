"""Messages that take longer than a lease: heartbeats wait behind them (protocol.md 8.2)."""

import pytest

from tests.broker.conversation import CODE, Conversation, ask
from tests.broker.test_core import assigned
from wire.messages import (
    PROTOCOL,
    Assign,
    Beat,
    Frame,
    Function,
    Outcome,
    Result,
    Submit,
    Template,
)
from wire.parts import Call, Status

MEGABYTE = 1_000_000
LARGE = bytes(30 * MEGABYTE)


@pytest.fixture
def talk():
    return Conversation()


def ahead(peer, octets, *, session=None):
    """Let *peer* tell of a message with so many octets of payload."""
    number = peer.session if session is None else session
    peer.sends(Frame(PROTOCOL, peer.epoch, number, 0, 0, [Beat(octets)]))


def order(peer, kind):
    """Return what *peer* heard of *kind*, and of large messages, in order."""
    return [
        (frame.number, getattr(command, "ahead", None))
        for frame, command, _ in peer.heard
        if isinstance(command, kind) or getattr(command, "ahead", 0)
    ]


def submit(client, *bodies):
    calls = [Submit(number, 0, b"", 1) for number in range(1, len(bodies) + 1)]
    return client.says(
        Function(0, CODE, b"code"), Template(0, Call("work", CODE)), *calls, payloads=bodies
    )


def test_an_actor_is_told_of_a_large_call_before_it_comes(talk):
    actor = talk.actor(free=2)

    submit(talk.client(), LARGE)

    (outside, told), (number, _) = order(actor, Assign)
    assert (outside, told) == (0, len(LARGE))
    assert number > 0


def test_a_client_is_told_of_a_large_result_and_has_it_only_once_it_received_it(talk):
    """It stands outside the count: the numbers of results were given out before."""
    actor, client = talk.actor(free=1), talk.client()
    client.submits(7)
    (token,) = assigned(actor)

    actor.says(Outcome(*token, Status.RESULT, b"", 1), payloads=[LARGE])

    (outside, told), (number, _) = order(client, Result)
    assert (outside, told) == (0, len(LARGE))
    assert number == client.received
    client.received -= 1
    client.says(Beat())
    assert talk.state(client, 7) == "ended"
    client.received += 1
    client.says(Beat())
    assert talk.state(client, 7) is None


def test_what_is_small_is_not_told_of(talk):
    actor = talk.actor(free=2)

    submit(talk.client(), bytes(2**19), bytes(2**19))

    assert [told for _, told in order(actor, Assign)] == [None, None]


def sending(talk):
    """Return an actor with a task, that has begun to send a result that takes 30 s."""
    actor, client = talk.actor(free=1), talk.client()
    client.submits(7)
    (token,) = assigned(actor)
    ahead(actor, len(LARGE))
    return actor, client, token


def test_an_actor_whose_result_takes_several_leases_keeps_its_task(talk):
    actor, client, token = sending(talk)

    talk.wait(29.0, beating=[client])
    assert not talk.noted("actor_lost")
    [described] = ask(talk.client(2), "actors")["actors"]
    assert described["silent_s"] == 0.0
    actor.says(Outcome(*token, Status.RESULT, b"", 1), payloads=[LARGE])

    assert client.takes(Result)
    talk.wait(4.5, beating=[client])
    assert not talk.noted("actor_lost")
    talk.wait(1.0, beating=[client])
    assert talk.noted("actor_lost")


def test_a_large_result_that_does_not_come_is_waited_for_no_longer_than_it_may_take(talk):
    _, client, _ = sending(talk)

    talk.wait(34.5, beating=[client])
    assert not talk.noted("actor_lost")
    talk.wait(1.0, beating=[client])

    assert talk.noted("actor_lost")
    assert talk.state(client, 7) == "queued"


def test_a_large_result_whose_connection_is_gone_is_waited_for_no_longer(talk):
    actor, client, _ = sending(talk)
    talk.wait(1.0, beating=[client])

    actor.vanishes()

    talk.wait(5.5, beating=[client])
    assert talk.noted("actor_lost")


def test_a_stall_of_the_broker_does_not_shorten_what_a_large_result_may_take(talk):
    _, client, _ = sending(talk)

    talk.sleep(10.0)
    talk.wake()
    talk.wait(20.0, beating=[client])

    assert not talk.noted("actor_lost")


@pytest.mark.parametrize("who", ["a client", "a host", "an earlier session"])
def test_whoever_else_tells_of_large_messages_is_not_waited_for(talk, who):
    actor, client, host = talk.actor(free=1), talk.client(), talk.host()
    match who:
        case "a client":
            ahead(client, 10**12)
        case "a host":
            ahead(host, 10**12)
        case _:
            actor.greets()
            ahead(actor, 10**12, session=actor.session - 1)

    talk.wait(6.0)

    assert talk.broker.actors == {}
    assert talk.broker.hosts == {}
    assert client.incarnation in talk.broker.clients
