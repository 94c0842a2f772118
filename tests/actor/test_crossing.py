"""Two threads of one run: what one gives back crosses what the other is given.

The test is the leader and both threads, so each order of events is made and not waited for.
"""

import threading

import pytest

from actor.holding.occupying import AT_SCHEDULING
from tests.actor.broker_end import connected, make_core, said
from tests.actor.pair import SLOTS
from tests.support.deployment import DEADLINE_S
from wire.messages import Occupied, Occupy, Release, Vacate
from wire.parts import Held


def test_limits_that_a_wait_gives_back_before_their_thread_saw_the_grant_are_asked_for_again(pair):
    """The thread that saw the grant late believed that the run had what was given back since."""
    pair = pair(limits={"db": 1})
    releases = pair.run.releases
    releases.begin_wait()
    pair.lead()
    first = pair.begin(releases.end_wait_async())
    pair.lead()
    pair.go_on()
    pair.lead()
    pair.grant_limits()

    releases.begin_wait()
    pair.lead()
    pair.go_on()
    assert first.done()
    assert not pair.has_limits
    second = pair.begin(releases.end_wait_async())
    pair.lead()
    pair.go_on()
    pair.lead()

    assert not second.done()
    assert len(said(pair.end, Occupy)) == 2
    pair.grant_limits()
    pair.go_on()
    assert second.done()
    assert pair.has_limits
    assert pair.agree()


def test_limits_that_come_for_a_thread_while_another_one_waits_go_back(pair):
    """The run kept them for as long as the wait lasted, perhaps for a call that needs them."""
    pair = pair(limits={"db": 1})
    releases = pair.run.releases
    releases.begin_wait()
    pair.lead()
    pair.begin(releases.end_wait_async())
    pair.lead()
    pair.go_on()
    pair.lead()

    releases.begin_wait()
    pair.lead()
    assert [release.keep_limits for release in said(pair.end, Release)] == [False, True]
    pair.grant_limits()
    pair.go_on()

    assert not pair.has_limits
    assert said(pair.end, Vacate) == [Vacate(*pair.token, AT_SCHEDULING)]
    second = pair.begin(releases.end_wait_async())
    pair.lead()
    pair.go_on()
    pair.lead()
    pair.grant_limits()
    pair.go_on()
    assert second.done()
    assert pair.has_limits


def test_limits_that_two_threads_wait_for_stay_when_they_come(pair):
    """They went back for the first of them although the second one wants them."""
    pair = pair(limits={"db": 1})
    releases = pair.run.releases
    releases.begin_wait()
    pair.lead()
    first = pair.begin(releases.end_wait_async())
    pair.lead()
    pair.go_on()
    pair.lead()
    releases.begin_wait()
    pair.lead()
    second = pair.begin(releases.end_wait_async())
    pair.lead()
    pair.go_on()
    pair.lead()

    pair.grant_limits()
    pair.go_on()

    assert first.done()
    assert second.done()
    assert pair.has_limits
    assert not said(pair.end, Vacate)


def test_a_wait_that_begins_before_another_thread_saw_its_slots_gives_back_all(pair):
    """The run believed to have slots that were given to others."""
    pair = pair(slots=SLOTS)
    pair.run.release_slot({"gpu": 1})
    pair.lead()
    again = pair.begin(pair.run.reacquire_slot_async())
    pair.lead()

    pair.run.releases.begin_wait()
    pair.lead()
    assert pair.assignment.held is Held.RELEASED
    pair.go_on()

    # It wants them, so it asks again.
    assert not again.done()
    pair.lead()
    pair.go_on()
    assert again.done()
    assert pair.agree()


def test_a_part_that_is_given_back_before_another_thread_saw_its_slots_is_not_its_own(pair):
    pair = pair(slots=SLOTS)
    pair.run.release_slot({"gpu": 1})
    pair.lead()
    again = pair.begin(pair.run.reacquire_slot_async())
    pair.lead()

    assert pair.run.release_slot({"slot": 1})
    pair.lead()
    pair.go_on()

    pair.lead()
    pair.go_on()
    assert again.done()
    assert pair.agree()
    assert pair.assignment.slots == SLOTS


@pytest.mark.parametrize("is_seen_first", [True, False])
def test_a_part_that_is_given_back_while_another_thread_waits_leaves_both_sides_at_one(
    pair, is_seen_first
):
    pair = pair(slots=SLOTS)
    pair.run.release_slot({"gpu": 1})
    pair.lead()
    again = pair.begin(pair.run.reacquire_slot_async())
    if is_seen_first:
        pair.lead()
    pair.run.release_slot({"gpu": 1})
    pair.lead()
    for _ in range(3):
        pair.go_on()
        pair.lead()

    assert again.done()
    assert pair.agree()


def test_who_asks_waits_until_the_leader_knows_what_was_given_back(pair):
    """It was told that it had all already, and then the leader took that back."""
    pair = pair(environment=Resetting)
    pair.run.resident = resident = Resetting()
    release = threading.Thread(target=pair.run.release_slot)
    release.start()
    assert resident.begun.wait(DEADLINE_S)
    again = pair.begin(pair.run.reacquire_slot_async())
    pair.lead()
    pair.go_on()
    assert not again.done()
    resident.goes_on.set()
    release.join()
    pair.lead()
    assert pair.assignment.held is Held.RELEASED


class Resetting:
    """A copy whose `reset` takes for as long as the test likes."""

    id = "Model"

    def __init__(self):
        self.begun, self.goes_on = threading.Event(), threading.Event()

    def resets(self):
        self.begun.set()
        self.goes_on.wait(DEADLINE_S)


# --- waits that overlap


def test_a_wait_that_begins_while_another_thread_gets_its_slots_again_has_them_given_back(pair):
    """The run kept its only slot through the wait for a call that needed it, to a Deadlock."""
    pair = pair()
    releases = pair.run.releases
    releases.begin_wait()
    pair.lead()
    first = pair.begin(releases.end_wait_async())
    pair.lead()

    releases.begin_wait()
    pair.go_on()
    pair.lead()

    assert first.done()
    assert pair.assignment.held is Held.RELEASED
    assert pair.agree()
    second = pair.begin(releases.end_wait_async())
    pair.lead()
    pair.go_on()
    assert second.done()
    assert pair.assignment.held is Held.RUNNING
    assert pair.agree()


def test_a_second_wait_gives_back_what_came_again_during_the_first(pair):
    pair = pair()
    releases = pair.run.releases
    releases.begin_wait()
    pair.lead()
    again = pair.begin(pair.run.reacquire_slot_async())
    pair.lead()
    pair.go_on()
    assert again.done()

    releases.begin_wait()
    pair.lead()

    assert pair.assignment.held is Held.RELEASED
    ends = [pair.begin(releases.end_wait_async()) for _ in range(2)]
    pair.lead()
    pair.go_on()
    assert all(end.done() for end in ends)
    assert pair.agree()
    assert pair.assignment.held is Held.RUNNING


def test_two_threads_whose_waits_end_one_after_the_other_both_have_the_slots_again(pair):
    """The second one went on at once, without."""
    pair = pair()
    releases = pair.run.releases
    releases.begin_wait()
    pair.lead()
    first = pair.begin(releases.end_wait_async())
    releases.begin_wait()

    second = pair.begin(releases.end_wait_async())

    assert not second.done()
    pair.lead()
    pair.go_on()
    assert first.done()
    assert second.done()
    assert pair.assignment.held is Held.RUNNING
    assert pair.agree()


def test_a_block_without_the_slot_that_ends_during_a_wait_leaves_it_without(pair):
    """It took the slot that the wait of another coroutine for its own call needed."""
    pair = pair()
    block, releases = pair.run.released_slot(), pair.run.releases
    pair.events.run_until_complete(block.__aenter__())
    releases.begin_wait()
    pair.lead()

    assert pair.begin(block.__aexit__(None, None, None)).done()
    pair.lead()

    assert pair.assignment.held is Held.RELEASED
    end = pair.begin(releases.end_wait_async())
    pair.lead()
    pair.go_on()
    assert end.done()
    assert pair.agree()
    assert pair.assignment.held is Held.RUNNING


def test_slots_that_are_released_while_a_wait_gets_them_again_stay_so(pair):
    pair = pair()
    releases = pair.run.releases
    releases.begin_wait()
    pair.lead()
    end = pair.begin(releases.end_wait_async())

    assert pair.run.release_slot()
    for _ in range(3):
        pair.lead()
        pair.go_on()

    assert end.done()
    releases.begin_wait()
    pair.begin(releases.end_wait_async())
    pair.lead()
    assert not pair.run.release_slot()


# --- in the core


@pytest.mark.parametrize("is_given_first", [True, False])
def test_limits_that_are_asked_for_again_go_back_with_the_answer_that_a_release_crosses(
    is_given_first,
):
    """The broker took back with the release what the run believed to have just got."""
    end = connected(make_core())
    token = end.assign(end.template(limits={"db": 1}))
    end.carry()
    core, held = end.core, end.core.mailbox.held[token]
    assert not core.occupying.released(held, None).keep_limits
    core.occupying.ask(held, token, 0, {"db": 1})
    answer = Occupied(*token, 0)

    if is_given_first:
        core.occupying.told(answer, 0)
    release = core.occupying.released(held, None)
    if not is_given_first:
        core.occupying.told(answer, 0)

    assert release.keep_limits is not is_given_first
    assert core.occupying.runs[token].has_given_back
    assert (Vacate(*token, 0) in core.commands) is not is_given_first
    assert core.occupying.take_answers() == [answer]
    core.check()


def test_what_the_broker_says_of_limits_that_a_run_gave_up_is_not_for_its_next_wait():
    """It believed to have what it had given back, since both waits have the same number."""
    end = connected(make_core())
    token = end.assign(end.template(limits={"db": 1}))
    end.carry()
    core, held = end.core, end.core.mailbox.held[token]
    core.release(token, None, end.now)
    core.occupying.ask(held, token, 0, {"db": 1})
    end.carry()
    end.say(Occupied(*token, 0))
    core.occupying.vacate(token, 0)
    core.occupying.take_answers()
    core.occupying.ask(held, token, 0, {"db": 1})

    end.carry()

    assert core.occupying.runs[token].has_given_back
    assert not core.occupying.take_answers()
    end.say(Occupied(*token, 0))
    end.carry()
    assert not core.occupying.runs[token].has_given_back
    assert core.occupying.take_answers() == [Occupied(*token, 0)]


def test_a_run_that_has_what_it_took_at_scheduling_is_told_so_when_it_asks_for_it():
    end = connected(make_core())
    token = end.assign(end.template(limits={"db": 1}))
    end.carry()

    end.core.occupying.ask(end.core.mailbox.held[token], token, 0, {"db": 1})

    assert end.core.occupying.take_answers() == [Occupied(*token, 0)]
    end.core.check()
