"""What an actor hands back, and that nothing of it starts."""

from tests.actor.broker_end import connected, environment, make_core, warm
from wire.messages import Recall, Reject


def rejects(end):
    return [command for command in end.everything if isinstance(command, Reject)]


def test_a_recall_brings_back_what_waits_and_leaves_what_runs():
    end = connected(make_core(prefetch=3))
    first, second, third = end.assign(), end.assign(), end.assign()
    end.carry()

    end.say(Recall([first, third, (9, 9)], "another actor is free"))
    end.carry()

    assert end.rejected == {third: "another actor is free"}
    assert [reject.bars for reject in rejects(end)] == [False]
    assert (end.credit.free, end.credit.ahead) == (0, 2)
    end.finish(first)
    end.carry()
    assert list(end.started) == [second]


def test_what_is_handed_back_stands_in_the_frame_that_acknowledges_the_recall():
    end = connected(make_core(prefetch=3))
    end.assign()
    second = end.assign()
    end.carry()
    recall = end.say(Recall([second], "another actor is free"))
    end.tell()

    end.turn()

    frame, _ = end.to_broker[0]
    assert frame.received == recall.number
    assert type(frame.commands[0]) is Reject


def test_a_recall_of_what_came_with_it_brings_that_back():
    end = connected(make_core(prefetch=3))
    end.assign()
    second = end.assign()

    end.say(Recall([second], "another actor is free"))
    end.carry()

    assert list(end.rejected) == [second]


def test_an_assignment_that_crosses_a_drain_does_not_bar():
    end = connected(make_core())
    running = end.assign()
    end.carry()
    crossing = end.assign()

    end.core.drain(end.now)
    end.carry()

    assert list(end.started) == [running]
    assert end.rejected == {crossing: "draining"}
    assert [reject.bars for reject in rejects(end)] == [False]


def test_what_waits_for_its_environment_to_be_loaded_stays():
    end = connected(make_core(slots=3))
    template = end.template(environment=environment("a", concurrency=2))
    first, second, third = end.assign(template), end.assign(template), end.assign(template)

    end.carry()

    assert list(end.started) == [first]
    assert list(end.rejected) == [third]
    warm(end.core, "a", end.now)
    end.carry()
    assert list(end.started) == [first, second]


def test_a_statement_that_takes_back_what_was_granted_ahead_hands_back_what_came():
    end = connected(make_core(prefetch=2))
    tokens = [end.assign() for _ in range(3)]
    end.carry()
    end.core.prefetch.ahead = 1

    end.core.release(tokens[0], None, end.now)
    end.carry()
    crossing = [end.assign() for _ in range(2)]
    end.carry()

    assert list(end.started) == tokens[:2]
    assert list(end.rejected) == crossing
    assert end.available == 0
