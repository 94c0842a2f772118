"""A run comes back to the copy that had to leave under it: in the core, and with real threads."""

import threading

import pytest

from sdk.errors import EnvironmentFailed
from sdk.task import current_task
from tests.actor.broker_end import connected, environment, make_core, said, warm
from tests.actor.test_entering import entering, place
from tests.actor.test_residents import away
from tests.support.deployment import DEADLINE_S
from wire.codec import decode_failure
from wire.messages import Evict, Outcome
from wire.parts import Held

# What the functions of a test share with it; they run in this process.
events = {}
seen = []
kept = []


@pytest.fixture(autouse=True)
def _nothing_is_left():
    for shared in (events, seen, kept):
        shared.clear()


def event(name):
    """Return an event that the test and its functions share."""
    from tests.actor import test_coming_back

    return test_coming_back.events.setdefault(name, threading.Event())


def note(what):
    from tests.actor import test_coming_back

    test_coming_back.seen.append(what)


# --- the core


def left_and_entered_again(end, **reuse):
    """Let "a" make room for "b", and another task of it enter it again; return that one."""
    other = end.assign(end.template(environment=environment("b")))
    end.carry()
    assert end.started[other].evicts == ("a",)
    warm(end.core, "b", end.now)
    end.finish(other)
    again = end.assign(0)
    end.carry()
    assert end.started[again].loads
    warm(end.core, "a", end.now)
    end.carry()
    return again


def test_a_copy_that_had_to_leave_is_the_runs_own_again_once_anybody_has_entered_it():
    """It counted as idle: nobody thought of the run that was in it before it had to leave."""
    end, token = away(environments_max=1)
    end.finish(left_and_entered_again(end))
    end.say(Evict("a", "idle"))
    end.carry()
    assert not end.core.entering.take_evictions()

    end.finish(token)
    end.say(Evict("a", "idle"))
    end.carry()

    assert end.core.entering.take_evictions() == ["a"]


def test_a_copy_that_had_to_leave_is_forgotten_with_the_last_run_that_has_released():
    end, token = away(environments_max=1)
    other = end.assign(end.template(environment=environment("b")))
    end.carry()
    warm(end.core, "b", end.now)
    assert end.core.mailbox.residents.left.keys() == {"a"}

    end.finish(token)
    end.carry()

    assert not end.core.mailbox.residents.left
    assert other in end.core.mailbox.held


def test_nobody_preloads_another_copy_than_the_one_that_released_runs_have_in_hand():
    """The run that came back was told that its environment had failed."""
    end, token = away(environments_max=1)
    other = end.assign(end.template(environment=environment("b")))
    end.carry()
    warm(end.core, "b", end.now)
    end.finish(other)
    end.say(Evict("b", "idle"))
    end.carry()

    assert not end.core.mailbox.residents.preload(environment("a"))

    end.finish(token)
    assert end.core.mailbox.residents.preload(environment("a"))


def test_who_could_not_enter_a_copy_again_holds_on_to_it_all_the_same():
    end, token = away(environments_max=1)
    other = end.assign(end.template(environment=environment("b")))
    end.carry()
    warm(end.core, "b", end.now)
    end.finish(other)
    end.core.reacquire(token, {"slot": 1}, end.now)
    end.carry()
    end.core.environment_lost("a", end.now)
    end.core.release(token, None, end.now)
    end.carry()
    assert list(end.core.mailbox.residents.left["a"].away) == [token]

    end.finish(token)

    assert not end.core.mailbox.residents.left


def left_and_asked_for(end, token):
    """Let a released run's copy make room for another one, and the run come back to it."""
    assert end.core.release(token, None, end.now)
    end.carry()
    other = end.assign(end.template(environment=place("f")))
    end.carry()
    warm(end.core, "f", end.now)
    end.finish(other)
    end.core.reacquire(token, {"slot": 1}, end.now)
    stops = end.carry()
    assert end.core.mailbox.held[token].loads
    return stops


def test_the_tasks_of_a_copy_that_had_to_leave_are_counted_on():
    end, token = entering(place(max_tasks=2), slots=2)
    warm(end.core, "e", end.now)
    left_and_asked_for(end, token)
    warm(end.core, "e", end.now)
    end.finish(token)
    end.carry()
    assert not end.core.entering.take_evictions()

    last = end.assign(0)
    end.carry()
    assert not end.started[last].loads
    end.finish(last)
    end.carry()

    assert end.core.entering.take_evictions() == ["e"]


def test_a_run_that_comes_back_and_hangs_in_enter_has_had_its_time():
    """It had no end: the run, its slot and its place were lost for ever."""
    end, token = entering(place(enter_timeout_s=3.0), force_grace_s=1.0)
    end.core.entering.where = lambda of: "it waits for a download" if of == token else ""
    warm(end.core, "e", end.now)
    left_and_asked_for(end, token)
    end.pass_time(2.9)
    assert not end.carry()

    end.pass_time(0.1)
    stops = end.carry()

    [outcome] = [one for one in said(end, Outcome) if (one.epoch, one.number) == token]
    failure = decode_failure(outcome.body)
    assert outcome.status == "expired"
    assert failure.code == "environment-failed"
    assert "could not be entered again within its enter_timeout of 3 s" in failure.message
    assert failure.traceback == "it waits for a download"
    assert [order.force for order in stops] == [True]
    end.pass_time(1.0)
    end.core.tick(end.now)
    assert end.core.exit_reason


def test_a_run_that_could_not_enter_again_is_late_no_more():
    end, token = entering(place(enter_timeout_s=3.0))
    warm(end.core, "e", end.now)
    left_and_asked_for(end, token)
    end.core.environment_lost("e", end.now)
    end.core.release(token, None, end.now)
    end.carry()

    end.pass_time(5.0)

    assert not end.carry()
    assert token in end.core.mailbox.held


def test_the_timeout_of_a_task_does_not_begin_anew_where_it_enters_again():
    end = connected(make_core())
    token = end.assign(end.template(environment=place(), timeout_s=2.0))
    end.carry()
    warm(end.core, "e", end.now)
    left_and_asked_for(end, token)
    end.pass_time(1.5)
    end.core.entered(token, place(), 1.5, end.now)
    end.pass_time(0.6)

    [order] = end.carry()

    assert order.reason == "its timeout is over"


# --- real threads, a real core


class Model:
    def enter(self):
        from tests.actor.test_coming_back import note

        note("enter")

    def exit(self):
        from tests.actor.test_coming_back import note

        note("exit")


class Other:
    pass


def test_a_run_comes_back_to_its_own_copy_that_had_to_leave(stage):
    """It was another instance: a method that had waited went on with a `self` that was closed."""

    def work():
        from tests.actor.test_coming_back import event

        task = current_task()
        before = task.environment
        task.release_slot()
        event("released").set()
        event("again").wait(DEADLINE_S)
        task.reacquire_slot()
        return task.environment is before, type(task.environment).__name__

    stage = stage()
    token = stage.begin(stage.template(work, Model))
    stage.until(lambda: stage.held(token) is Held.RELEASED)
    stage.value(stage.begin(stage.template(lambda: 1, Other)))
    event("again").set()

    is_same, name = stage.value(token)

    assert (is_same, name) == (True, "Model")
    assert seen == ["enter", "exit", "enter"]


def come_back(name):
    """Release, come back when the test says so, and return what is wrong with the copy then."""
    from tests.actor.test_coming_back import event

    task = current_task()
    before = task.environment
    task.release_slot()
    event(f"{name} released").set()
    event(name).wait(DEADLINE_S)
    try:
        task.reacquire_slot()
    except EnvironmentFailed as error:
        return str(error)
    return "" if task.environment is before else "another one"


def test_runs_come_back_to_what_another_task_has_entered_before_them(stage):
    stage = stage(slots=2)
    model, other = stage.template(come_back, Model), stage.template(lambda: 1, Other)
    runs = []
    for name in "ab":
        runs.append(stage.begin(model, name))
        stage.until(event(f"{name} released").is_set)
        stage.until(lambda: stage.held(runs[-1]) is Held.RELEASED)
    stage.value(stage.begin(other))
    stage.value(stage.begin(stage.template(lambda: 1, Model)))
    event("a").set()
    event("b").set()

    assert [stage.value(run) for run in runs] == ["", ""]
    assert seen == ["enter", "exit", "enter"]


def test_once_no_run_has_it_in_hand_an_environment_is_a_new_instance(stage):
    def own():
        return id(current_task().environment)

    stage = stage()
    model = stage.template(own, Kept)
    first = stage.value(stage.begin(model))
    stage.value(stage.begin(stage.template(lambda: 1, Other)))

    assert stage.value(stage.begin(model)) != first


class Kept(Model):
    def enter(self):
        from tests.actor.test_coming_back import kept

        kept.append(self)


class Fails(Model):
    def enter(self):
        super().enter()
        from tests.actor.test_coming_back import seen

        if len(seen) == 3:
            raise OSError("no such weights")


def test_who_comes_back_to_what_cannot_be_entered_may_do_so_again(stage):
    def work():
        from tests.actor.test_coming_back import event

        task = current_task()
        before = task.environment
        task.release_slot()
        event("again").wait(DEADLINE_S)
        try:
            task.reacquire_slot()
        except EnvironmentFailed as error:
            told = repr(error), repr(error.__cause__), task.is_released
        task.reacquire_slot()
        return told, task.environment is before

    stage = stage()
    token = stage.begin(stage.template(work, Fails))
    stage.until(lambda: stage.held(token) is Held.RELEASED)
    stage.value(stage.begin(stage.template(lambda: 1, Other)))
    event("again").set()

    (error, cause, was_released), is_same = stage.value(token)

    assert "Fails could not be entered again" in error
    assert "no such weights" in cause
    assert was_released
    assert is_same
    # What had been entered in part is left as well.
    assert seen == ["enter", "exit", "enter", "exit", "enter"]
    assert not stage.core.mailbox.residents.left


class Stays(Model):
    def exit(self):
        from tests.actor.test_coming_back import event

        event("exits").set()
        event("may leave").wait(DEADLINE_S)


@pytest.mark.parametrize("is_first", [True, False])
def test_nobody_comes_back_to_a_copy_whose_exit_has_not_returned(stage, is_first):
    """By itself, or where another task has a new instance of it by then."""
    stage = stage(slots=2)
    stays = stage.template(come_back, Stays, exit_timeout_s=0.05)
    token = stage.begin(stays, "a")
    stage.until(event("a released").is_set)
    stage.until(lambda: stage.held(token) is Held.RELEASED)
    stage.value(stage.begin(stage.template(lambda: 1, Other)))
    assert event("exits").is_set()
    if not is_first:
        stage.value(stage.begin(stage.template(lambda: 1, Stays, exit_timeout_s=0.05)))
    event("a").set()

    told = stage.value(token)
    event("may leave").set()

    assert told == (
        "environment Stays could not be entered again: TimeoutError: its exit has not returned"
        " within its exit_timeout of 0.05 s"
        if is_first
        else "environment Stays is another copy by now"
    )


def test_what_was_waited_for_in_vain_is_waited_for_no_more(stage):
    """Each task that entered the environment anew waited for the exit of the first instance."""
    stage = stage(slots=2)
    stays = stage.template(come_back, Stays, exit_timeout_s=0.05)
    token = stage.begin(stays, "a")
    stage.until(event("a released").is_set)
    stage.until(lambda: stage.held(token) is Held.RELEASED)
    [held] = [run.resident for run in stage.slots._released.values()]
    other = stage.template(lambda: 1, Other)
    anew = stage.template(lambda: 1, Stays, exit_timeout_s=0.05)
    stage.value(stage.begin(other))
    stage.value(stage.begin(anew))
    assert held.is_given_up
    stage.value(stage.begin(other))

    # It would not come to an end.
    held.exit_timeout_s = None
    assert stage.value(stage.begin(anew)) == 1

    event("may leave").set()
    event("a").set()
    stage.value(token)
