"""Until when an actor holds strict limits that does not hear from the broker (section 9.12)."""

import pytest
from msgspec import structs

from actor.events import fencing
from tests.actor.broker_end import CODE, EPOCH, HASH, WELCOME, make_core
from wire.messages import (
    PROTOCOL,
    ActorHello,
    Assign,
    Beat,
    Frame,
    Function,
    Occupied,
    OutcomeAck,
    Reject,
    Stop,
    Template,
    Welcome,
)
from wire.parts import Call, Status
from wire.session import State

STRICT = structs.replace(WELCOME, strict=["db"])
TOKEN = (EPOCH, 1)


class End:
    """The broker's end of a session in which *limits* are strict, and one run that has some."""

    def __init__(self, limits=None, welcome=STRICT, **settings):
        self.core = make_core(**settings)
        self.now = 0.0
        self.number = 0
        self.frames = []
        self.starts = []
        self.turn()
        self.outside(welcome)
        self.says(Function(0, HASH, CODE), Template(0, Call("f", HASH, limits=limits or {})))

    def outside(self, command):
        session = self.core.session.number
        self.core.receive(Frame(PROTOCOL, EPOCH, session, 0, 0, [command]), (), self.now)
        self.number = 0
        self.turn()

    def says(self, *commands, received=0):
        self.number += 1
        session = self.core.session.number
        frame = Frame(PROTOCOL, EPOCH, session, self.number, received, list(commands))
        self.core.receive(frame, (), self.now)
        self.turn()
        return self

    def at(self, now):
        self.now = now
        self.turn()
        return self

    def turn(self):
        self.core.tick(self.now)
        self.starts += self.core.take_starts()
        self.core.occupying.take_answers()
        # The host is told.
        self.core.fence.is_new = False
        self.frames += [frame for frame, _ in self.core.flush(self.now)]
        self.core.take_notes()
        self.core.check()

    def assigned(self):
        return self.says(Assign(1, 1, 1, 0, 1, b""))

    def said(self, kind):
        return [c for frame in self.frames for c in frame.commands if type(c) is kind]


def holding(**settings):
    return End({"db": 1}, **settings).assigned()


def test_who_holds_a_strict_limit_ends_a_part_of_a_lease_after_it_was_heard():
    end = holding().at(3.9)
    assert not end.core.exit_reason

    assert end.core.deadline() == 4.0
    assert end.at(4.0).core.exit_reason == fencing.REASON


@pytest.mark.parametrize(
    "end",
    [
        lambda: End({"db": 1}),
        lambda: End({"other": 1}).assigned(),
        lambda: End({"db": 1}, WELCOME).assigned(),
    ],
)
def test_who_holds_none_goes_on(end):
    end = end().at(4.0)

    assert not end.core.exit_reason
    assert not end.core.fence.is_held


def test_a_host_was_not_told_that_nothing_is_held_any_more_and_ended_the_process():
    end = holding()
    end.core.finished(TOKEN, Status.RESULT, b"", (), 0.1, 0.5)
    end.at(3.9)
    assert end.core.fence.is_held
    assert not end.core.has_orders

    end.core.tick(4.0)

    assert not end.core.exit_reason
    assert not end.core.fence.is_held
    assert end.core.has_orders


def test_a_heartbeat_that_is_acknowledged_counts_from_when_it_was_sent():
    end = holding().at(1.0)
    sent = end.core.session.sent
    end.now = 1.7
    end.says(Beat(), received=sent)

    assert not end.at(4.9).core.exit_reason
    assert end.at(5.0).core.exit_reason


def test_what_was_sent_before_is_no_news():
    end = holding().at(1.0)
    sent = end.core.session.sent
    end.now = 3.5
    end.says(Beat(), received=sent - 2)

    assert end.at(4.0).core.exit_reason


def test_a_new_session_counts_from_its_hello():
    end = holding()
    end.core.session.close(2.0)
    end.at(2.0)
    end.now = 3.0
    end.outside(STRICT)

    assert not end.at(5.9).core.exit_reason
    assert end.at(6.0).core.exit_reason


def test_a_host_that_is_heard_lets_it_go_on():
    end = holding().at(4.0)
    assert not fencing.vouched(end.core, 0.0)
    assert end.core.exit_reason

    assert fencing.vouched(end.core, 2.5)

    assert not end.at(6.4).core.exit_reason
    assert end.at(6.5).core.exit_reason


def test_a_limit_that_becomes_strict_is_held_from_then_on():
    end = End({"db": 1}, WELCOME).assigned()
    end.core.session.close(1.0)
    end.at(1.0).outside(STRICT)

    assert end.core.fence.is_held
    assert end.at(5.0).core.exit_reason


def test_an_assignment_that_comes_late_is_handed_back():
    end = End({"db": 1}).at(3.0).assigned()

    assert not end.starts
    assert [(r.reason, r.bars) for r in end.said(Reject)] == [("its lease may be over", False)]


def test_an_assignment_that_came_late_goes_to_and_fro_once():
    end = End({"db": 1}).at(3.0).assigned()
    sent = end.core.session.sent

    end.at(3.001).says(Assign(2, 1, 1, 0, 1, b""), received=sent)

    assert len(end.starts) == 1
    assert len(end.said(Reject)) == 1


def test_an_assignment_that_does_not_know_of_the_answer_is_handed_back_too():
    end = End({"db": 1}).at(3.0).assigned()
    sent = end.core.session.sent

    end.at(3.001).says(Assign(2, 1, 1, 0, 1, b""), received=sent - 2)

    assert not end.starts
    assert len(end.said(Reject)) == 2


def test_a_grant_that_comes_late_is_asked_for_in_a_new_session():
    end = End().assigned()
    (run,) = end.starts
    end.core.occupying.ask(run, TOKEN, 1, {"db": 1})
    end.at(3.0).says(Occupied(*TOKEN, 1))

    assert end.core.session.state is not State.OPEN
    (asked,) = end.said(ActorHello)[-1].holding[0].limits
    assert (asked.limits, asked.has_it) == ({"db": 1}, False)


def test_what_was_asked_for_from_inside_counts_until_it_is_given_back():
    end = End().assigned()
    (run,) = end.starts
    end.core.occupying.ask(run, TOKEN, 1, {"db": 1})
    end.says(Occupied(*TOKEN, 1))
    assert end.core.fence.is_held

    end.core.occupying.vacate(TOKEN, 1)

    assert not end.at(4.0).core.exit_reason


def test_a_run_that_was_stopped_holds_what_it_has():
    end = holding()
    end.says(Stop(*TOKEN))

    assert end.at(4.0).core.exit_reason


def test_a_run_that_was_stopped_or_timed_out_is_listed_with_what_it_has():
    end = holding()
    end.says(Stop(*TOKEN))
    end.core.session.close(1.0)
    end.at(1.0)

    hello = end.said(ActorHello)[-1]
    assert hello.holding == []
    (stopped,) = hello.stopped
    assert (stopped.token, stopped.limits[0].limits) == (TOKEN, {"db": 1})
    end.core.finished(TOKEN, Status.CANCELED, b"", (), 0.1, 1.0)
    end.core.session.close(1.0)
    end.at(1.0)
    assert end.said(ActorHello)[-1].stopped == []


def test_an_outcome_that_is_acknowledged_ends_the_watch():
    end = holding()
    end.core.finished(TOKEN, Status.RESULT, b"", (), 0.1, 0.5)
    end.says(OutcomeAck([TOKEN]))

    assert not end.at(4.0).core.exit_reason
    assert isinstance(STRICT, Welcome)
