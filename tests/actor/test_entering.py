"""Entering and leaving environments: what is said, handed back, given up."""

import pytest

from actor.core import ActorCore
from actor.events.entering import retire
from actor.settings import Settings
from tests.actor.broker_end import (
    BLOB_HASH,
    BrokerEnd,
    connected,
    environment,
    make_core,
    said,
    warm,
)
from wire.codec import CONTROL_BYTES_MAX, encode
from wire.messages import Bye, Credit, Drain, Entered, Evict, Outcome, Reject, Stop
from wire.parts import Environment, Failure, Reuse

FAILURE = Failure("environment-failed", "OSError", "no such file")


def place(identity="e", concurrency=1, **reuse):
    return Environment(identity, identity, BLOB_HASH, {}, concurrency, Reuse(**reuse))


def entering(environment, **options):
    """Return the broker's end, and the token of a run that enters *environment*."""
    end = connected(make_core(**options))
    token = end.assign(end.template(environment=environment))
    end.carry()
    assert end.started[token].loads
    return end, token


def test_the_broker_is_told_how_long_entering_took_and_again_in_each_session():
    end, token = entering(place())
    end.core.entered(token, place(), 2.5, end.now)
    end.carry()
    assert said(end, Entered) == [Entered(place(), 2.5, False)]

    end.restart()
    end.core.broken(end.now)
    end.pass_time(1.0)
    end.carry()

    assert said(end, Entered)[1:] == [Entered(place(), 2.5, True)]


def test_what_is_entered_while_there_is_no_session_counts_as_a_load():
    end, token = entering(place())
    end.restart()
    end.core.broken(end.now)
    end.core.entered(token, place(), 2.5, end.now)

    end.pass_time(1.0)
    end.carry()

    assert said(end, Entered) == [Entered(place(), 2.5, False)]


def test_a_run_whose_environment_failed_is_handed_back_with_the_reason():
    end, token = entering(place())

    end.core.not_entered(end.started.pop(token).token, FAILURE, end.now)
    end.carry()

    assert said(end, Reject) == [Reject(*token, "no such file", False, FAILURE)]
    assert not said(end, Outcome)
    assert end.credit.free == end.credit.room == 1


@pytest.mark.parametrize("is_fresh", [False, True])
def test_what_waits_behind_a_failed_environment_does_not_try_it_at_once(is_fresh):
    """One burst in a mailbox used up all three tries, and broke what had failed for a moment."""
    end = connected(make_core(slots=1, prefetch=3))
    template = end.template(environment=place(is_fresh=is_fresh))
    first, second, third = (end.assign(template) for _ in range(3))
    plain = end.assign(end.template())
    end.carry()
    # What the broker sends before it has heard of the failure comes back too.
    crossing = end.assign(template)
    end.core.not_entered(end.started.pop(first).token, FAILURE, end.now)
    end.carry()

    assert end.rejected.keys() == {first, second, third, crossing}
    assert [said.failure for said in said(end, Reject) if said.failure] == [FAILURE]
    assert list(end.started) == [plain]
    again = end.assign(template)
    end.finish(plain)
    end.carry()
    assert end.started[again].loads


def test_a_failure_of_any_length_is_handed_back_in_a_frame_that_the_broker_takes():
    end, token = entering(place())
    text = "y" * 2 * CONTROL_BYTES_MAX
    failure = Failure("environment-failed", "OSError", text, text, text.encode())

    end.core.not_entered(end.started.pop(token).token, failure, end.now)
    end.carry()

    (reject,) = said(end, Reject)
    assert len(encode(reject)) < CONTROL_BYTES_MAX / 64
    assert reject.failure.message.startswith("yyy")
    assert reject.failure.message.endswith(f"({len(text)} characters)")
    assert reject.failure.exception == b""


def test_that_a_copy_is_gone_is_not_said_before_the_reason():
    end, token = entering(place())

    end.core.not_entered(token, FAILURE, end.now)

    [(frame, _)] = end.core.flush(end.now)
    assert [type(command) for command in frame.commands] == [Reject, Credit]


def test_a_stopped_run_whose_environment_failed_says_nothing():
    end, token = entering(place())
    end.stop(token)
    end.carry()

    end.core.not_entered(end.started.pop(token).token, FAILURE, end.now)
    end.carry()

    assert not said(end, Reject)
    assert not end.core.mailbox.held


def test_an_environment_that_takes_too_long_is_handed_back_and_its_process_ends():
    end, token = entering(place(enter_timeout_s=3.0), force_grace_s=1.0)
    end.core.entering.where = lambda of: "it waits for a download" if of == token else ""
    end.pass_time(2.9)
    end.carry()
    assert not said(end, Reject)

    end.pass_time(0.1)
    stops = end.carry()

    [rejected] = said(end, Reject)
    assert "enter_timeout of 3 s" in rejected.failure.message
    assert rejected.failure.traceback == "it waits for a download"
    assert [order.force for order in stops] == [True]
    end.pass_time(1.0)
    end.core.tick(end.now)
    assert end.core.exit_reason
    assert token in end.core.mailbox.held


def test_what_leaves_first_takes_none_of_the_time_to_enter():
    """An environment was broken for an `exit` of another one that took longer than its `enter`."""
    end, token = entering(place(enter_timeout_s=3.0))
    assignment = end.started[token]
    end.core.entering.hold(assignment, end.now)
    end.pass_time(100.0)
    end.carry()
    assert not said(end, Reject)

    end.core.entering.go_on(assignment, end.now)
    end.pass_time(2.9)
    end.carry()
    assert not said(end, Reject)
    end.pass_time(0.1)
    end.carry()

    assert said(end, Reject)


def test_a_canceled_run_that_hangs_in_enter_holds_its_slot_no_longer_than_its_enter_timeout():
    end, token = entering(place(enter_timeout_s=2.0), force_grace_s=1.0)
    end.say(Stop(*token, False, "canceled"))
    end.carry()
    assert not end.core.stopping.is_forced

    end.pass_time(2.0)
    end.carry()
    assert not said(end, Reject)
    end.pass_time(1.0)
    end.core.tick(end.now)

    assert end.core.exit_reason


def test_the_timeout_of_a_task_counts_from_where_it_starts():
    end = connected(make_core())
    token = end.assign(end.template(environment=place(), timeout_s=1.0))
    end.carry()
    end.pass_time(5.0)
    end.carry()
    assert not end.core.stopping.orders

    end.core.entered(token, place(), 5.0, end.now)
    end.pass_time(1.0)

    assert end.carry()
    assert said(end, Outcome)[0].status == "expired"


def test_a_copy_is_given_up_after_its_last_task():
    end, token = entering(place(max_tasks=2), slots=2)
    warm(end.core, "e", end.now)
    end.finish(token)
    end.carry()
    assert end.credit.turns == {"e": 1}
    assert not end.core.entering.evictions

    token = end.assign(0)
    end.carry()
    # The broker counts the turn off by itself.
    assert end.credit.turns == {"e": 1}
    assert not end.core.said.differs(Credit(1, 0, 0, {"e": 0}))
    end.finish(token)
    end.carry()

    assert end.credit.turns == {}
    assert end.core.entering.take_evictions() == ["e"]
    token = end.assign(0)
    end.carry()
    assert end.started[token].loads


def test_a_worn_copy_stays_until_the_runs_that_wait_have_ended():
    """Those that wait for calls of their own: these may be of it, and it is their `self`."""
    end, token = entering(place(max_tasks=1), slots=2)
    warm(end.core, "e", end.now)
    assert end.core.release(token, None, end.now)
    end.carry()
    assert end.credit.turns == {"e": 1}
    assert not end.core.entering.take_evictions()

    inner = end.assign(0)
    end.carry()
    assert not end.started[inner].loads
    end.finish(inner)
    end.core.reacquire(token, {"slot": 1}, end.now)
    end.carry()
    # The broker counted the turn off with the call.
    assert end.core.said.turns == {"e": 0}
    assert end.core.mailbox.held[token].is_inside
    assert not end.core.mailbox.held[token].loads
    assert not end.core.entering.take_evictions()
    end.finish(token)
    end.carry()

    assert end.core.entering.take_evictions() == ["e"]
    assert end.credit.turns == {}


def test_a_worn_copy_is_given_up_with_the_end_of_a_run_that_never_comes_back():
    end, token = entering(place(max_tasks=1), slots=2)
    warm(end.core, "e", end.now)
    assert end.core.release(token, None, end.now)
    end.carry()

    end.finish(token)
    end.carry()

    assert end.core.entering.take_evictions() == ["e"]
    assert end.credit.turns == {}


def test_who_comes_back_counts_once_among_the_tasks_of_a_copy():
    end, token = entering(place(max_tasks=2), slots=2)
    warm(end.core, "e", end.now)
    assert end.core.release(token, None, end.now)
    end.core.reacquire(token, {"slot": 1}, end.now)
    end.carry()
    end.finish(token)
    end.carry()

    assert end.credit.turns == {"e": 1}
    assert not end.core.entering.take_evictions()


def own(token, identity="e"):
    """Return the id that a copy for one run has in its actor."""
    return f"{identity} of {token[0]},{token[1]}"


def test_a_fresh_copy_takes_one_task_and_offers_nothing():
    end, token = entering(place(is_fresh=True))
    warm(end.core, own(token), end.now)
    end.carry()
    assert end.labels == {}
    assert end.credit.turns == {}

    end.finish(token)
    end.carry()

    assert end.core.entering.take_evictions() == [own(token)]
    assert said(end, Entered) == [Entered(place(is_fresh=True), 0.1, False)]
    assert end.credit.room == 1


def fresh_away(**options):
    """Let the run of a fresh copy give its slot back; return the broker's end, and its token."""
    end, token = entering(place(is_fresh=True), **options)
    warm(end.core, own(token), end.now)
    end.carry()
    assert end.core.release(token, None, end.now)
    end.carry()
    return end, token


def test_each_run_of_a_fresh_environment_has_a_place_of_its_own():
    """A second one waited for the first to end, or drove its copy out while that waited."""
    end, first = entering(place(is_fresh=True), slots=3, environments_max=3)
    assert (end.core.said.room, end.core.said.turns) == (2, {})
    second = end.assign(end.template(environment=place(is_fresh=True)))
    end.carry()
    for token in (first, second):
        assert end.started[token].loads
        warm(end.core, own(token), end.now)
    end.carry()
    stated = end.core.said
    assert (stated.free, stated.room, stated.turns) == (1, 1, {})

    assert end.core.release(first, None, end.now)
    third = end.assign(end.template(environment=place(is_fresh=True)))
    end.carry()

    assert end.started[third].evicts == ()
    warm(end.core, own(third), end.now)
    end.core.reacquire(first, {"slot": 1}, end.now)
    end.carry()
    assert not end.core.mailbox.held[first].loads
    assert stated.room == 0
    assert end.core.mailbox.residents.states() == {"e": "worn"}


def test_a_fresh_copy_that_could_not_be_entered_takes_none_along():
    end, first = entering(place(is_fresh=True), slots=2, environments_max=2)
    warm(end.core, own(first), end.now)
    second = end.assign(end.template(environment=place(is_fresh=True)))
    end.carry()

    end.core.not_entered(second, FAILURE, end.now)
    end.carry()

    assert said(end, Reject) == [Reject(*second, "no such file", False, FAILURE)]
    assert end.credit.room == 1
    assert [*end.core.mailbox.residents.by_id] == [own(first)]


def test_a_fresh_copy_is_kept_for_its_run_that_waits():
    """It was left in the middle of a method, and another one entered after the wait."""
    end, token = fresh_away(slots=2, environments_max=1)
    assert not end.core.entering.take_evictions()
    # Nobody else has a turn in it, and its place is free for whoever needs it.
    assert end.credit.turns == {}
    assert end.credit.room == 1
    end.core.reacquire(token, {"slot": 1}, end.now)
    end.carry()

    assert end.core.mailbox.held[token].is_inside
    assert not end.core.mailbox.held[token].loads
    assert (end.credit.room, end.credit.turns) == (0, {})
    end.finish(token)
    end.carry()
    assert end.core.entering.take_evictions() == [own(token)]


def test_a_fresh_copy_leaves_with_the_end_of_a_run_that_has_released():
    end, token = fresh_away(slots=2)

    end.finish(token)
    end.carry()

    assert end.core.entering.take_evictions() == [own(token)]


@pytest.mark.parametrize("identity", ["e", "b"])
def test_the_place_of_a_fresh_copy_is_for_whoever_needs_it_while_its_run_waits(identity):
    """A call of its own that is to have one as well, or another environment: else both wait."""
    end, token = fresh_away(slots=2, environments_max=1)
    inner = end.assign(end.template(environment=place(identity, is_fresh=True)))
    end.carry()

    assert end.started[inner].loads
    assert end.started[inner].evicts == (own(token),)
    warm(end.core, own(inner, identity), end.now)
    end.finish(inner)
    end.core.reacquire(token, {"slot": 1}, end.now)
    end.carry()
    assert end.core.entering.take_evictions() == [own(inner, identity)]
    assert end.core.mailbox.held[token].loads


def test_a_fresh_copy_that_is_kept_for_its_run_leaves_after_what_is_idle():
    end, token = fresh_away(slots=2, environments_max=2)
    for identity, evicts in (("b", ()), ("c", ("b",))):
        inner = end.assign(end.template(environment=environment(identity)))
        end.carry()
        warm(end.core, identity, end.now)
        assert end.started[inner].evicts == evicts
        end.finish(inner)
        end.carry()

    end.core.reacquire(token, {"slot": 1}, end.now)
    end.carry()
    assert not end.core.mailbox.held[token].loads


def test_an_idle_environment_is_given_up_when_that_is_ordered():
    end, token = entering(place())
    warm(end.core, "e", end.now)
    end.finish(token)
    end.carry()

    end.say(Evict("e", "idle"))
    end.carry()

    assert end.core.entering.take_evictions() == ["e"]
    assert end.credit.turns == {}
    assert end.labels == {}


def test_an_environment_that_is_used_loading_or_awaited_stays():
    end, token = entering(place(), prefetch=1)
    end.say(Evict("e", "idle"))
    end.carry()
    warm(end.core, "e", end.now)
    end.say(Evict("e", "idle"))
    end.carry()
    end.assign(0)
    end.say(Evict("e", "idle"))
    end.carry()
    end.finish(token)

    end.carry()

    assert not end.core.entering.evictions
    assert [assignment.loads for assignment in end.started.values()] == [False]


def test_an_actor_that_retires_leaves_by_bye_and_is_followed():
    core = ActorCore(Settings(name="h/0", slots={"slot": 1}), incarnation=7, now=0.0)
    end = BrokerEnd(core)
    end.carry()

    retire(core, "memory")
    end.carry()

    assert said(end, Bye)
    assert core.is_drained
    assert core.is_retiring


def test_an_actor_that_retires_and_is_told_to_leave_was_followed_all_the_same():
    core = ActorCore(Settings(name="h/0", slots={"slot": 1}), incarnation=7, now=0.0)
    end = BrokerEnd(core)
    end.carry()
    retire(core, "memory")

    end.say(Drain(None))
    end.carry()

    assert core.is_drained
    assert not core.is_retiring


def test_a_run_whose_environment_failed_is_settled_only_when_the_broker_has_heard_it():
    end, token = entering(place())
    end.core.not_entered(end.started.pop(token).token, FAILURE, end.now)
    end.to_broker += end.core.flush(end.now)
    assert end.core.take_settled() == []

    end.hear()
    end.say(Stop(0, 99, False, "nobody"))
    end.tell()

    assert end.core.take_settled() == [token]


def test_what_a_new_session_says_by_silence_is_settled_too():
    end, token = entering(place())
    end.core.not_entered(end.started.pop(token).token, FAILURE, end.now)
    end.core.flush(end.now)
    end.core.broken(end.now)

    end.pass_time(1.0)
    end.core.tick(end.now)
    end.core.flush(end.now)

    assert end.core.take_settled() == [token]
