"""A host ends actors that may hold strict limits, when no broker hears of them."""

from tests.actor.test_supervision import WELCOME, Broker
from wire.messages import (
    PROTOCOL,
    Beat,
    Frame,
)

# --- strict limits


def heard(broker):
    """Let the broker acknowledge all that the host has said."""
    broker.number += 1
    core = broker.core
    session, sent = core.session.number, core.session.sent
    frame = Frame(PROTOCOL, broker.epoch, session, broker.number, sent, [Beat()])
    core.receive(frame, broker.now)


def started_again(broker):
    """Let another broker welcome the host."""
    broker.core.broken(broker.now)
    broker.turn(0.25)
    broker.epoch += 1
    broker.number = 0
    broker.tell_outside(WELCOME)


def test_an_actor_that_does_not_end_by_itself_is_ended_after_the_later_of_both_was_heard():
    broker = Broker().open()
    (ward,) = broker.core.running()
    ward.renewed_at = 2.0
    broker.turn(6.4)
    assert broker.core.take_kills() == []
    assert broker.core.deadline() <= 6.5

    broker.turn(0.2)

    assert broker.core.take_kills() == [ward]
    assert ward.is_ended, "no run is to blame"
    broker.turn(1.0)
    assert broker.core.take_kills() == []


def test_an_actor_whose_host_is_heard_is_let_be():
    broker = Broker().open()
    (ward,) = broker.core.running()
    ward.renewed_at = 0.0
    for _ in range(12):
        broker.turn(1.0)
        heard(broker)

    assert broker.core.take_kills() == []
    assert broker.core.renewed_at == broker.now


def test_a_host_that_a_new_broker_hears_does_not_speak_for_a_holder_that_it_has_not_heard():
    """That broker knows of no holder, and lets others in when a lease is over."""
    broker = Broker().open()
    (ward,) = broker.core.running()
    ward.renewed_at = 0.0
    heard(broker)
    started_again(broker)
    before = broker.core.vouches(ward)
    for _ in range(4):
        broker.turn(1.0)
        heard(broker)
    assert broker.core.vouches(ward) == before
    assert broker.core.take_kills() == []

    broker.turn(0.6)

    assert broker.core.take_kills() == [ward]


def test_a_holder_that_a_new_broker_has_heard_is_let_be():
    broker = Broker().open()
    (ward,) = broker.core.running()
    ward.renewed_at = 0.0
    started_again(broker)
    ward.renewed_at = broker.now
    for _ in range(12):
        broker.turn(1.0)
        heard(broker)

    assert broker.core.take_kills() == []
    assert broker.core.vouches(ward) == broker.now


def test_an_actor_that_holds_no_strict_limit_is_let_be():
    broker = Broker().open()
    broker.turn(60.0)

    assert broker.core.take_kills() == []
