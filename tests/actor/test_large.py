"""What is told of a large message before it comes (protocol.md section 8.2)."""

import pytest

from tests.actor.broker_end import connected, make_core
from wire.messages import Beat


@pytest.mark.parametrize("size", [2**20, 2**20 + 1])
def test_the_broker_is_told_of_a_large_result_before_it_comes(size):
    """Heartbeats wait behind it, and the actor was lost where it took longer than a lease."""
    end = connected(make_core())
    token = end.assign()
    end.carry()
    end.finish(token, body=bytes(size))
    end.turn()

    *before, (frame, payloads) = end.to_broker

    assert payloads == [bytes(size)]
    told = [(other.number, other.commands) for other, _ in before]
    assert told == ([(0, [Beat(size)])] if size > 2**20 else [])
    end.carry()
    assert frame.number == end.core.session.sent
