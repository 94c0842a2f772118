"""A run gives its slot back and has it again: real threads, a real event loop, a real core."""

import asyncio
import threading

import pytest

from actor.running.release import rest
from sdk.errors import ReleasedLimit, SlotReleased, TaskCanceled
from sdk.task import current_task
from tests.support.deployment import DEADLINE_S
from wire.parts import Held

# What the functions of a test share with it; they run in this process.
events = {}
seen = []


@pytest.fixture(autouse=True)
def _nothing_is_left():
    events.clear()
    seen.clear()


def event(name):
    """Return an event that the test and its functions share."""
    from tests.actor import test_release

    return test_release.events.setdefault(name, threading.Event())


def test_a_wait_may_have_more_time_than_a_thread_can_wait_at_once():
    assert rest(float("inf")) == rest(1e300) == threading.TIMEOUT_MAX


def note(what):
    from tests.actor import test_release

    test_release.seen.append(what)


def hold(name):
    """Hold a slot until the test says that it is enough."""
    from tests.actor.test_release import event

    event(name + " runs").set()
    event(name).wait(DEADLINE_S)
    return name


def release_and_reacquire(timeout=None):
    from tests.actor.test_release import event

    task = current_task()
    task.release_slot()
    event("released").set()
    event("again").wait(DEADLINE_S)
    task.reacquire_slot(timeout)
    return "again"


def test_a_task_gives_its_slot_back_and_has_it_again(stage):
    stage = stage()
    token = stage.begin(stage.template(release_and_reacquire))
    stage.until(lambda: stage.held(token) is Held.RELEASED)
    other = stage.begin(stage.template(hold), "other")
    stage.until(event("other runs").is_set)

    event("again").set()
    stage.until(lambda: stage.core.mailbox.reacquiring)
    assert token not in stage.end.finished
    event("other").set()

    assert stage.value(token) == "again"
    assert stage.value(other) == "other"
    assert stage.end.credit.free == 1


def test_only_a_slot_that_is_given_back_for_good_says_for_how_long_it_was_held(stage):
    def work():
        releases = current_task().releases
        releases.begin_wait()
        releases.end_wait()
        return current_task().release_slot()

    stage = stage()

    assert stage.value(stage.begin(stage.template(work)))

    for_a_wait, for_good = stage.held_s
    assert for_a_wait is None
    assert for_good > 0.0


def test_a_timeout_raises_and_leaves_the_task_released(stage):
    def work():
        from tests.actor.test_release import event

        task = current_task()
        task.release_slot()
        event("again").wait(DEADLINE_S)
        try:
            task.reacquire_slot(timeout=1.0)
        except TimeoutError as error:
            return str(error), task.release_slot()

    stage = stage()
    token = stage.begin(stage.template(work))
    stage.until(lambda: stage.held(token) is Held.RELEASED)
    stage.begin(stage.template(hold), "other")
    event("again").set()
    stage.until(lambda: stage.core.mailbox.reacquiring)

    stage.end.pass_time(1.0)

    text, took_effect = stage.value(token)
    assert "did not get its slot again in time" in text
    assert not took_effect
    event("other").set()


def test_canceled_while_it_waits_it_raises(stage):
    def work():
        from tests.actor.test_release import release_and_reacquire

        try:
            release_and_reacquire()
        except TaskCanceled as error:
            note("canceled: " + str(error))
            raise

    from tests.actor.test_release import note

    stage = stage()
    token = stage.begin(stage.template(work))
    stage.until(lambda: stage.held(token) is Held.RELEASED)
    stage.begin(stage.template(hold), "other")
    event("again").set()
    stage.until(lambda: stage.core.mailbox.reacquiring)

    stage.end.stop(token)
    stage.until(lambda: token not in stage.core.mailbox.held)

    assert len(seen) == 1
    assert "canceled while it waited" in seen[0]
    event("other").set()


def test_a_block_without_the_slot(stage):
    def work():
        from tests.actor.test_release import event

        task = current_task()
        with task.released_slot():
            event("released").set()
            event("again").wait(DEADLINE_S)
        first = task.release_slot()
        with task.released_slot():
            pass
        return first, task.release_slot()

    stage = stage()
    token = stage.begin(stage.template(work))
    stage.until(lambda: stage.held(token) is Held.RELEASED)
    event("again").set()

    # It had its slot after the first block, and stayed released after the second.
    assert stage.value(token) == (True, False)


def test_on_the_event_loop_the_blocking_forms_say_what_to_do(stage):
    async def work():
        task = current_task()
        errors = []
        for blocking in (task.reacquire_slot, task.released_slot().__enter__):
            try:
                blocking()
            except RuntimeError as error:
                errors.append(str(error))
        return errors

    stage = stage()
    first, second = stage.value(stage.begin(stage.template(work)))

    assert "await task.reacquire_slot_async()" in first
    assert "async with task.released_slot()" in second


def test_a_coroutine_has_its_slot_again(stage):
    async def work():
        task = current_task()
        async with task.released_slot():
            pass
        task.release_slot()
        await task.reacquire_slot_async()
        return task.is_released

    stage = stage()

    assert stage.value(stage.begin(stage.template(work))) is False


def test_a_coroutine_that_waits_no_longer_gives_back_what_it_is_granted(stage):
    async def work():
        from tests.actor.test_release import event

        task = current_task()
        task.release_slot()
        event("released").set()
        try:
            await asyncio.wait_for(task.reacquire_slot_async(), 0.05)
        except TimeoutError:
            event("gave up").set()
            await asyncio.to_thread(event("end").wait, 10)
            return task.is_released

    stage = stage()
    token = stage.begin(stage.template(work))
    stage.until(lambda: stage.held(token) is Held.RELEASED)
    other = stage.begin(stage.template(hold), "other")
    stage.until(event("gave up").is_set)
    event("other").set()
    stage.value(other)
    stage.until(lambda: stage.end.credit.free == 1)
    event("end").set()

    assert stage.value(token) is True


def test_a_part_is_given_back_with_the_names_of_its_units(stage):
    def work():
        task = current_task()
        before = task.slot_ids
        took = task.release_slot({"gpu": 1}), task.release_slot({"gpu": 1, "io": 1})
        between = task.slot_ids
        last = task.release_slot({"gpu": 1})
        task.reacquire_slot()
        return before, took, between, last, task.slot_ids

    stage = stage(slots={"slot": 1, "gpu": 2, "io": 2}, units={"gpu": ["a", "b"]})
    template = stage.template(work, slots={"gpu": 2, "io": 1})

    before, took, between, last, after = stage.value(stage.begin(template))

    assert before == {"gpu": ["a", "b"]}
    assert took == (True, True)
    assert between == {"gpu": []}
    assert last is False
    assert sorted(after["gpu"]) == ["a", "b"]


@pytest.mark.parametrize(
    ("part", "kind"),
    [({"gpu": 3}, ValueError), ({"gpu": 0}, ValueError), ({}, TypeError), (1, TypeError)],
)
def test_what_cannot_be_given_back_is_refused(stage, part, kind):
    def work():
        current_task().release_slot(part)

    stage = stage(slots={"slot": 1, "gpu": 2})

    token = stage.begin(stage.template(work, slots={"gpu": 2}))

    assert isinstance(stage.error(token), kind)


def test_at_the_bound_release_says_so(stage):
    stage = stage(released_max=1)
    first = stage.begin(stage.template(release_and_reacquire))
    stage.until(lambda: stage.held(first) is Held.RELEASED)

    second = stage.begin(stage.template(lambda: current_task().release_slot()))

    error = stage.error(second)
    assert isinstance(error, ReleasedLimit)
    assert "--released-max" in str(error)
    event("again").set()
    stage.value(first)
    assert stage.value(stage.begin(stage.template(lambda: current_task().release_slot()))) is True


def test_a_run_that_waits_for_calls_of_its_own_gives_its_slots_back_meanwhile(stage):
    def waits():
        from sdk.futures.nested import CallWait
        from tests.actor.test_release import event

        task, wait = current_task(), CallWait([], 1)
        task.begin_wait(wait)
        event("waits").set()
        event("over").wait(DEADLINE_S)
        task.end_wait(wait)

    stage = stage()
    token = stage.begin(stage.template(waits))
    stage.until(lambda: event("waits").is_set() and stage.posts.empty())
    held = stage.held(token)
    event("over").set()

    assert stage.value(token) is None
    assert held is Held.RELEASED


def test_a_run_that_ends_while_a_thread_of_it_waits(stage):
    def work():
        import contextvars

        from tests.actor.test_release import event, note

        task = current_task()
        task.release_slot()
        event("released").set()
        event("again").wait(DEADLINE_S)

        def wait():
            try:
                task.reacquire_slot()
            except SlotReleased as error:
                note(str(error))
                event("told").set()

        threading.Thread(target=contextvars.copy_context().run, args=(wait,)).start()
        event("end").wait(DEADLINE_S)
        return "ended"

    stage = stage()
    token = stage.begin(stage.template(work))
    stage.until(lambda: stage.held(token) is Held.RELEASED)
    other = stage.begin(stage.template(hold), "other")
    event("again").set()
    stage.until(lambda: stage.core.mailbox.reacquiring)
    event("end").set()

    assert stage.value(token) == "ended"
    stage.until(event("told").is_set)
    assert "has ended" in seen[0]
    event("other").set()
    assert stage.value(other) == "other"
    assert stage.end.credit.free == 1
