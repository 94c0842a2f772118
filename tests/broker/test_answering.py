"""What is said to questions, and how much of it may be on its way."""

import msgspec

from broker.events import answering
from tests.broker.conversation import Conversation
from wire.messages import PROTOCOL, Answer, Frame, Query


def asks(client, what, *, has_read):
    """Ask; only what *has_read* says is acknowledged. Return the answer."""
    client.sent += 1
    received = client.received if has_read else 0
    client.sends(
        Frame(PROTOCOL, client.epoch, client.session, client.sent, received, [Query(1, what, "")])
    )
    (reply,) = client.takes(Answer)
    return msgspec.msgpack.decode(reply.body)


def test_who_asks_and_does_not_read_is_told_so_until_it_has_read(monkeypatch):
    it = Conversation()
    it.actor(free=1)
    client = it.client()
    monkeypatch.setattr(answering, "UNREAD_BYTES_MAX", 1_000)

    answers = [asks(client, "actors", has_read=False) for _ in range(20)]

    is_refused = ["error" in one for one in answers]
    assert is_refused == sorted(is_refused)
    assert is_refused[0] is False
    assert is_refused[-1] is True
    assert "were not read" in answers[-1]["error"]
    assert asks(client, "actors", has_read=True) == answers[0]


def test_an_order_is_obeyed_whatever_was_not_read(monkeypatch):
    it = Conversation()
    client = it.client()
    monkeypatch.setattr(answering, "UNREAD_BYTES_MAX", 0)

    refused = asks(client, "status", has_read=True)
    killed = asks(client, "named-kill", has_read=True)

    assert "error" in refused
    assert "not a map" in killed["error"]
