"""An actor that is closed takes nothing new, loses nothing, and says so."""

from tests.actor.broker_end import BrokerEnd, connected, environment, make_core, warm
from wire.messages import ActorBeat, Pause, Reject


def closed(end):
    beats = [command for command in end.everything if isinstance(command, ActorBeat)]
    return beats[-1].closed if beats else None


def test_a_pause_takes_the_credit_back_and_a_resume_states_it_again():
    end = connected(make_core(slots=2, prefetch=1))

    end.say(Pause(True))
    end.carry()
    assert (end.credit.free, end.credit.ahead, end.credit.room) == (0, 0, 0)
    assert closed(end) == "paused"

    end.say(Pause(False))
    end.carry()
    assert (end.credit.free, end.credit.ahead) == (2, 1)
    assert closed(end) == ""


def test_a_pause_hands_back_what_waits_and_what_crosses_and_lets_run_what_runs():
    end = connected(make_core(prefetch=1))
    running, waiting = end.assign(), end.assign()
    end.carry()
    crossing = end.assign()

    end.core.pause(end.now)
    end.carry()

    assert list(end.started) == [running]
    assert end.rejected == {waiting: "paused", crossing: "paused"}
    assert not any(reject.bars for reject in end.everything if isinstance(reject, Reject))
    end.finish(running)
    end.carry()
    assert running in end.finished
    assert end.available == 0


def test_a_paused_actor_keeps_its_environments():
    end = connected(make_core())
    token = end.assign(end.template(environment=environment("a")))
    end.carry()
    warm(end.core, "a", end.now)
    end.finish(token)
    end.core.pause(end.now)
    end.carry()
    assert end.credit.turns == {"a": 0}

    end.core.pause(end.now, paused=False)
    end.carry()

    assert end.credit.turns == {"a": 1}
    assert end.labels["environment.a"] == "warm"


def test_a_task_of_a_paused_actor_gets_its_slot_again():
    end = connected(make_core())
    token = end.assign()
    end.carry()
    end.core.release(token, None, end.now)
    end.core.pause(end.now)
    end.carry()

    end.core.reacquire(token, {"slot": 1}, end.now)
    end.carry()

    assert [answer.reply for answer in end.answers] == ["granted"]


def test_a_paused_actor_says_so_to_a_broker_that_was_started_again():
    end = connected(make_core())
    end.core.pause(end.now)
    end.carry()
    end.restart()
    end.everything.clear()

    end.pass_time(6.0)
    end.carry()

    assert end.is_open
    assert end.core.standing.is_paused
    assert (end.credit.free, end.credit.ahead) == (0, 0)


def test_a_pause_between_hello_and_welcome_is_said_after_it():
    end = BrokerEnd(make_core())
    end.turn()

    end.core.pause(end.now)
    end.carry()

    assert closed(end) == "paused"
    assert end.credit.free == 0


def test_a_drain_weighs_more_than_a_pause():
    end = connected(make_core())
    token = end.assign()
    end.carry()
    end.core.pause(end.now)

    end.core.drain(end.now)
    end.carry()
    assert closed(end) == "draining"
    end.core.pause(end.now, paused=False)
    end.carry()

    assert closed(end) == "draining"
    assert end.available == 0
    end.finish(token)
