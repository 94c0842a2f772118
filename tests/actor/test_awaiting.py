"""Waits for calls and for slots: said once a heartbeat, taken back at once (section 9.8)."""

from actor.granting.inventory import make_hello
from actor.holding.awaiting import SLOTS
from actor.holding.reacquiring import Reply
from tests.actor.broker_end import EPOCH, HASH, connected, make_core
from tests.actor.test_reacquire import answers, ask, begun, release, released
from wire.errors import Code
from wire.messages import ActorBeat, Await, Occupied, Stop, Vacate
from wire.parts import Call

BEAT_S = 1.0


class Wait:
    """A wait for calls 8 and 9 of client 5."""

    def __init__(self, found=(5, [(8, 9)], 2)):
        self.found = found
        self.is_said = False
        self.within = [1]
        self.refusal = ""

    def calls(self):
        return self.found

    def refuse(self, reason):
        self.refusal = reason

    def cancel(self, reason):
        self.refusal = reason


def said(end):
    """Return what was said of waits since the last call."""
    commands = [command for command in end.everything if isinstance(command, Await | Vacate)]
    end.everything.clear()
    return commands


def beat(end):
    end.now += BEAT_S
    end.carry()


def beats(end):
    return [command for command in end.everything if isinstance(command, ActorBeat)]


def begin(end, wait=None):
    token = released(end)
    wait = wait or Wait()
    end.core.awaiting.begin(token, 3, wait)
    end.carry()
    said(end)
    return token, wait


def test_a_wait_that_is_over_before_the_heartbeat_costs_nothing():
    end = connected(make_core())
    token, _ = begin(end)

    end.core.awaiting.end(token, 3)
    beat(end)

    assert said(end) == []


def test_a_wait_is_said_with_the_heartbeat_and_once():
    end = connected(make_core())
    token, _ = begin(end)

    beat(end)
    assert said(end) == [Await(*token, 3, 5, [(8, 9)], 2, [1])]
    beat(end)

    assert said(end) == []


def test_one_that_was_said_is_taken_back_at_once():
    end = connected(make_core())
    token, _ = begin(end)
    beat(end)
    said(end)

    end.core.awaiting.end(token, 3)
    end.carry()

    assert said(end) == [Vacate(*token, 3)]


def test_one_of_which_there_is_nothing_to_tell_is_not_said():
    end = connected(make_core())
    begin(end, Wait(None))

    beat(end)

    assert said(end) == []


def test_a_new_session_is_told_again():
    end = connected(make_core())
    begin(end)
    beat(end)
    said(end)

    end.restart()
    end.core.session.close(end.now)
    beat(end)
    beat(end)

    assert [type(command) for command in said(end)] == [Await]


def test_a_run_that_ended_is_not_said_to_wait():
    end = connected(make_core())
    token, _ = begin(end)
    end.finish(token)
    end.carry()

    beat(end)

    assert said(end) == []
    assert not end.core.awaiting.waits


def test_a_wait_for_slots_is_said_and_taken_back_when_they_are_had():
    end = connected(make_core())
    token = released(end)
    other = begun(end)
    ask(end, token)
    said(end)

    beat(end)
    assert said(end) == [Await(*token, SLOTS)]
    end.finish(other)
    end.carry()

    assert said(end) == [Vacate(*token, SLOTS)]
    assert answers(end) == [(token, Reply.GRANTED)]


def parted():
    """Let a run of one plain slot and two GPUs give back one of these."""
    end = connected(make_core(slots={"slot": 1, "gpu": 2}))
    token = begun(end, end.template(Call("g", HASH, slots={"slot": 1, "gpu": 2})))
    release(end, token, {"gpu": 1})
    return end, token


def test_what_is_left_of_a_part_is_said_with_hello_and_each_heartbeat():
    end, token = parted()
    left = {"slot": 1, "gpu": 1}

    beat(end)

    assert beats(end)[-1].parts == [(token, left)]
    assert [item.slots for item in make_hello(end.core).holding] == [left]
    ask(end, token, {"slot": 1, "gpu": 2})
    beat(end)
    assert beats(end)[-1].parts == []
    assert [item.slots for item in make_hello(end.core).holding] == [None]


def test_a_run_that_has_none_of_its_slots_has_no_part_of_them():
    end, token = parted()
    release(end, token)

    beat(end)

    assert beats(end)[-1].parts == []


def test_a_wait_for_slots_says_which_of_them_it_lacks():
    end, token = parted()
    other = begun(end, end.template(Call("h", HASH, slots={"gpu": 1})))
    ask(end, token, {"slot": 1, "gpu": 2})

    beat(end)

    assert said(end) == [Await(*token, SLOTS, slots={"slot": 0, "gpu": 1})]
    assert other in end.core.mailbox.holders


def test_who_waits_for_its_slots_in_a_circle_goes_on_without():
    end = connected(make_core())
    token = released(end)
    begun(end)
    ask(end, token)
    beat(end)

    end.say(Occupied(*token, SLOTS, Code.DEADLOCK, "in a circle"))
    end.carry()

    assert answers(end) == [(token, Reply.DEADLOCK)]
    assert token not in end.core.mailbox.reacquiring


def test_who_waits_for_calls_in_a_circle_is_told_why():
    end = connected(make_core())
    token, wait = begin(end)
    beat(end)

    end.say(Occupied(*token, 3, Code.DEADLOCK, "in a circle"))
    end.carry()
    for refuse, reason in end.core.awaiting.take_refused():
        refuse(reason)

    assert wait.refusal == "in a circle"
    assert not end.core.awaiting.waits


def test_a_run_that_nobody_wants_waits_for_no_call():
    """A call that goes on without it may itself wait for what the run holds until it returns."""
    end = connected(make_core())
    token, wait = begin(end)
    beat(end)
    assert [type(command) for command in said(end)] == [Await]

    end.say(Stop(*token))
    end.carry()

    assert said(end) == [Vacate(*token, 3)]
    assert end.core.has_orders
    for cancel, reason in end.core.awaiting.take_refused():
        cancel(reason)
    assert "canceled while it waited for calls of its own" in wait.refusal
    assert not end.core.awaiting.waits


def test_a_wait_of_a_run_that_is_not_here_is_none():
    end = connected(make_core())

    end.core.awaiting.begin((EPOCH, 99), 1, Wait())

    assert not end.core.awaiting.waits


def test_one_that_is_paused_and_then_leaves_grants_for_the_calls_of_its_runs():
    end = connected(make_core())
    begin(end)
    end.core.pause(end.now)
    end.carry()
    assert end.credit.free == 0, "who is paused can wait until it is resumed"

    end.core.drain(end.now)
    end.carry()

    assert end.credit.free == 1, "nobody resumes one that leaves"
