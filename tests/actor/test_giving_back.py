"""A run gives its slots back while it waits for a limit, and has them again (protocol.md 9.1, 9.8).

The test is the leader and all threads of the run, so each order of events is made.
"""

import asyncio

import pytest

from actor.holding.occupying import AT_SCHEDULING
from actor.running import limiting
from actor.running.limiting import LimitWait
from sdk.errors import Deadlock, ReleasedLimit, TaskCanceled
from tests.actor.broker_end import connected, make_core, said
from wire.errors import Code
from wire.limits import FULL, GIVE_BACK
from wire.messages import Occupied, Occupy, Reacquire, Release, Vacate
from wire.parts import Held

DB = {"db": 1}


def tells(pair, code="", ask=1):
    """Let the broker answer an ask, and the run act on that."""
    pair.end.say(Occupied(*pair.token, ask, code))
    goes_on(pair)


def goes_on(pair):
    for _ in range(4):
        pair.tell()
        pair.go_on()
        pair.lead()
    pair.end.carry()


def enters(pair, timeout=None):
    task = pair.begin(pair.run.limiting.enter_async(DB, timeout))
    goes_on(pair)
    return task


def occupy_others(pair):
    """Let another task take the slot that the run gave back."""
    other = pair.end.assign(pair.stage.template(len))
    pair.stage.started.add(other)
    pair.end.carry()
    return other


def test_who_is_told_so_gives_its_slots_back_and_has_them_again_with_the_limit(pair):
    pair = pair(limits={"api": 1})
    entering = enters(pair)
    (ask,) = said(pair.end, Occupy)
    assert ask.may_give_back

    tells(pair, GIVE_BACK)
    assert pair.assignment.held is Held.RELEASED
    assert [release.keep_limits for release in said(pair.end, Release)] == [True]
    other = occupy_others(pair)
    tells(pair)
    assert not entering.done(), "it has the limit, and no slot"
    pair.end.finish(other)
    goes_on(pair)

    assert entering.result() == 1
    assert len(said(pair.end, Reacquire)) == 1
    assert pair.agree()


def test_while_it_waits_for_its_slots_it_stands_in_its_block(pair):
    """What it keeps is in a circle: whoever has the slots may wait for the limit."""
    pair = pair()
    entering = enters(pair)
    tells(pair, GIVE_BACK)
    occupy_others(pair)
    tells(pair)

    assert pair.core.mailbox.reacquiring[pair.token].within == [1]
    entering.cancel()
    goes_on(pair)
    assert said(pair.end, Vacate)[-1] == Vacate(*pair.token, 1)


def test_a_grant_that_comes_with_it_is_not_missed(pair):
    pair = pair()
    entering = enters(pair)

    pair.end.say(Occupied(*pair.token, 1, GIVE_BACK), Occupied(*pair.token, 1))
    goes_on(pair)

    assert entering.result() == 1
    assert (len(said(pair.end, Release)), len(said(pair.end, Reacquire))) == (1, 1)
    assert pair.agree()


def test_its_time_is_over_it_has_its_slots_again_and_is_told(pair):
    pair = pair()
    entering = enters(pair, timeout=0.2)
    tells(pair, GIVE_BACK)
    other = occupy_others(pair)
    pair.events.run_until_complete(asyncio.sleep(0.25))
    goes_on(pair)
    assert said(pair.end, Vacate) == [Vacate(*pair.token, 1)]
    assert not entering.done()

    pair.end.finish(other)
    goes_on(pair)

    assert "did not get limit db in time" in str(entering.exception())
    assert pair.agree()
    assert not pair.run.has_released


def test_told_again_it_gives_back_what_it_had_again_meanwhile(pair):
    pair = pair()
    entering = enters(pair)
    tells(pair, GIVE_BACK)
    again = pair.begin(pair.run.releases.reacquire_async(pair.assignment.recipe.slots, None))
    goes_on(pair)
    assert again.done()

    tells(pair, GIVE_BACK)
    assert pair.assignment.held is Held.RELEASED
    tells(pair)

    assert entering.result() == 1
    assert not pair.run.has_released
    assert pair.agree()


def test_told_before_it_saw_that_it_has_its_slots_again_it_gives_them_back(pair):
    """The broker takes it that it did: nobody would be told of a circle over them any more."""
    pair = pair()
    pair.run.release_slot()
    goes_on(pair)
    entering = enters(pair)
    again = pair.begin(pair.run.reacquire_slot_async())
    pair.lead()
    assert pair.assignment.held is Held.RUNNING
    assert pair.run.has_released

    before = len(said(pair.end, Release))
    pair.end.say(Occupied(*pair.token, 1, GIVE_BACK))
    pair.tell()
    pair.lead()
    goes_on(pair)

    assert len(said(pair.end, Release)) == before + 1
    assert again.done()
    tells(pair)
    assert entering.result() == 1
    assert pair.agree()


def test_canceled_it_goes_on_without(pair):
    pair = pair()
    entering = enters(pair)
    tells(pair, GIVE_BACK)
    occupy_others(pair)

    pair.end.stop(pair.token)
    goes_on(pair)

    assert isinstance(entering.exception(), TaskCanceled)
    assert pair.run.has_released


def test_who_is_told_of_a_circle_behind_it_has_its_slots_again(pair):
    pair = pair()
    entering = enters(pair)
    tells(pair, GIVE_BACK)
    tells(pair, Code.DEADLOCK)

    assert isinstance(entering.exception(), Deadlock)
    assert not pair.run.has_released
    assert pair.agree()


def test_too_many_runs_without_slots_end_the_wait(pair):
    pair = pair()
    pair.stage.slots._released |= {(0, n): pair.run for n in range(100)}
    entering = enters(pair)
    tells(pair, GIVE_BACK)

    assert isinstance(entering.exception(), ReleasedLimit)
    assert said(pair.end, Vacate) == [Vacate(*pair.token, 1)]
    assert pair.agree()


def test_a_run_that_gave_back_a_part_gives_back_the_rest(pair):
    pair = pair(slots={"slot": 1, "gpu": 2})
    pair.run.release_slot({"gpu": 1})
    entering = enters(pair)
    tells(pair, GIVE_BACK)
    assert pair.assignment.held is Held.RELEASED
    tells(pair)

    assert entering.done()
    assert pair.run.releases.held == {"slot": 1, "gpu": 1}
    assert pair.agree()


# ---------------------------------------------------------------------- limits taken at scheduling


def regains(pair, timeout=None):
    """Let a run that gave everything back have its slots again, and wait for its limits."""
    pair.run.releases.begin_wait()
    goes_on(pair)
    regaining = pair.begin(pair.run.releases.end_wait_async())
    goes_on(pair)
    assert not pair.run.has_released
    return regaining


def test_who_waits_for_its_limits_behind_a_wait_makes_way_as_well(pair):
    pair = pair(limits=DB)
    regaining = regains(pair)
    assert said(pair.end, Occupy)[-1].may_give_back

    tells(pair, GIVE_BACK, AT_SCHEDULING)
    assert pair.assignment.held is Held.RELEASED
    other = occupy_others(pair)
    tells(pair, "", AT_SCHEDULING)
    assert not regaining.done()
    assert pair.has_limits
    pair.end.finish(other)
    goes_on(pair)

    assert regaining.done()
    assert regaining.exception() is None
    assert pair.has_limits
    assert pair.agree()


def test_slots_and_limits_it_has_both_or_neither(pair):
    """It had its limits, and its time was over before it had its slots."""
    pair = pair(limits=DB)
    pair.run.release_slot()
    goes_on(pair)
    slots = pair.assignment.recipe.slots
    regaining = pair.begin(pair.run.releases.reacquire_async(slots, 100.0))
    goes_on(pair)
    tells(pair, GIVE_BACK, AT_SCHEDULING)
    occupy_others(pair)
    tells(pair, "", AT_SCHEDULING)
    assert pair.has_limits

    pair.end.pass_time(100.0)
    goes_on(pair)

    assert isinstance(regaining.exception(), TimeoutError)
    assert pair.run.has_released
    assert not pair.has_limits
    assert said(pair.end, Vacate)[-1] == Vacate(*pair.token, AT_SCHEDULING)


def test_who_cannot_have_its_limits_is_without_its_slots_among_however_many(pair):
    """It kept its slots, had no limit, and was told that too many had released theirs."""
    pair = pair(limits=DB)
    regaining = regains(pair)
    pair.stage.slots._released |= {(0, n): pair.run for n in range(100)}

    tells(pair, Code.DEADLOCK, AT_SCHEDULING)

    assert isinstance(regaining.exception(), Deadlock)
    assert pair.run.has_released
    assert not pair.has_limits


def test_what_is_released_for_good_meanwhile_stays_so(pair):
    pair = pair(limits=DB)
    regaining = regains(pair)
    tells(pair, GIVE_BACK, AT_SCHEDULING)

    pair.run.release_slot()
    tells(pair, "", AT_SCHEDULING)

    assert regaining.done()
    assert pair.run.has_released
    assert not pair.has_limits


# ---------------------------------------------------------------------- what the core knows


def test_an_answer_that_comes_too_late_is_for_nobody():
    core = make_core()
    end = connected(core)
    token = end.assign(end.template())
    end.carry()
    occupying = core.occupying
    occupying.ask(core.mailbox.held[token], token, 1, DB, [], may_give_back=True)
    (listed,) = occupying.inventory(core.mailbox.held[token])
    assert listed.may_give_back

    occupying.told(Occupied(*token, 1), 0)
    assert [told.code for told in occupying.take_answers()] == [""]
    occupying.told(Occupied(*token, 1, GIVE_BACK), 0)
    occupying.told(Occupied(*token, 7, GIVE_BACK), 0)
    assert occupying.take_answers() == []


# ---------------------------------------------------------------------- at once or not at all


def test_without_any_time_it_is_a_try(pair):
    pair = pair()
    first = enters(pair, timeout=0)
    (ask,) = said(pair.end, Occupy)
    assert ask.is_try
    assert not ask.may_give_back
    tells(pair)
    assert first.result() == 1

    second = enters(pair, timeout=0)
    tells(pair, FULL, ask=2)

    assert "did not get limit db in time" in str(second.exception())


def test_a_try_waits_for_no_broker_that_is_away(pair, monkeypatch):
    monkeypatch.setattr(limiting, "TRY_S", 0.05)
    pair = pair()
    entering = enters(pair, timeout=0)
    pair.events.run_until_complete(asyncio.sleep(0.1))

    assert isinstance(entering.exception(), TimeoutError)
    goes_on(pair)
    assert said(pair.end, Vacate) == [Vacate(*pair.token, 1)]


def test_a_run_that_enters_its_environment_keeps_its_slots(pair):
    pair = pair()
    assert LimitWait(pair.run, 1, DB, None).may_give_back

    class Entering:
        token, is_entering = pair.token, True

    assert not LimitWait(Entering, 1, DB, None).may_give_back


def test_what_was_told_before_the_run_listened_is_heard_in_its_order(pair):
    """Its thread was late: the broker took it for one that gave its slots back, for ever."""
    pair = pair()
    wait = LimitWait(pair.run, 1, DB, None)

    wait.told(Occupied(*pair.token, 1, GIVE_BACK), goes_on=True)
    wait.told(Occupied(*pair.token, 1), goes_on=False)

    assert [wait.hear().code, wait.hear().code] == [GIVE_BACK, ""]


@pytest.mark.parametrize("is_free", [True, False])
def test_slots_that_are_free_are_had_again_without_any_time(is_free):
    core = make_core()
    end = connected(core)
    token = end.assign(end.template())
    end.carry()
    core.release(token, None, end.now)
    if not is_free:
        end.carry()
        end.assign(end.template())
        end.carry()

    core.reacquire(token, {"slot": 1}, end.now, timeout_s=0)
    core.tick(end.now)
    core.take_starts()

    assert [answer.reply for answer in core.take_answers()] == ["granted" if is_free else "timeout"]


def test_a_mapping_of_limits_is_refused_with_what_limit_takes(pair):
    with pytest.raises(TypeError, match=r"^limit\(\) takes the name of one limit"):
        limiting.make_block(pair().run, None, DB, 1, None)
