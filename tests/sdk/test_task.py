"""The task's own side is there inside a task, and says so where it is not."""

import asyncio
import contextvars
import threading

import pytest

from sdk import (
    Desired,
    NotInTask,
    TaskCanceled,
    TaskFuture,
    continuation,
    current_task,
    task,
)
from sdk.describing.options import NO_OPTIONS, Options
from sdk.plan import plan_for
from sdk.task import OPTIONS_ATTRIBUTE, TaskContext, running
from wire.payload import load_function


class Context(TaskContext):
    """A task that says what it is told to."""

    def __init__(self, number, *, is_canceled=False):
        self.number = number
        self.canceled = is_canceled

    id = property(lambda self: f"c-{self.number}")
    is_canceled = property(lambda self: self.canceled)
    attempt = token = name = metadata = actor = environment = log = client = property()
    slot_ids = property()

    def refresh_timeout(self, seconds): ...

    def release_slot(self, slots=None):
        return True

    def reacquire_slot(self, timeout=None): ...

    async def reacquire_slot_async(self, timeout=None): ...  # noqa: ASYNC109

    def released_slot(self): ...

    def begin_wait(self, wait): ...

    def end_wait(self, wait): ...

    async def end_wait_async(self, wait): ...

    def limit(self, name, occupy=1, timeout=None): ...

    def refuse_blocking(self, what, instead): ...


def test_outside_of_a_task_there_is_none():
    with pytest.raises(NotInTask, match="outside of a task"):
        current_task()


def test_each_thread_and_each_coroutine_has_its_own():
    def work(number):
        running.set(Context(number))
        return current_task().number

    async def both():
        async def one(number):
            running.set(Context(number))
            await asyncio.sleep(0)
            return current_task().number

        return await asyncio.gather(one(1), one(2))

    assert contextvars.copy_context().run(work, 5) == 5
    assert asyncio.run(both()) == [1, 2]
    with pytest.raises(NotInTask):
        current_task()


def test_a_thread_of_ones_own_has_none():
    caught = []

    def work():
        running.set(Context(1))

        def inner():
            try:
                current_task()
            except NotInTask as error:
                caught.append(error)

        thread = threading.Thread(target=inner)
        thread.start()
        thread.join()

    contextvars.copy_context().run(work)

    assert len(caught) == 1


def test_raise_if_canceled():
    Context(1).raise_if_canceled()
    with pytest.raises(TaskCanceled, match="c-7"):
        Context(7, is_canceled=True).raise_if_canceled()


def test_a_decorated_function_stays_what_it_was():
    def work(x):
        return x + 1

    decorated = task(priority=2, name="worker")(work)

    assert decorated is work
    assert decorated(1) == 2


def test_its_options_hold_and_the_calls_own_lie_over_them():
    @task(priority=2, name="worker")
    def work(x):
        return x

    plain = plan_for(work, NO_OPTIONS).plan(is_portable=True).call
    over = plan_for(work, Options.of({"priority": 5})).plan(is_portable=True).call

    assert (plain.priority, plain.name) == (2, "worker")
    assert (over.priority, over.name) == (5, "worker")


def test_without_parentheses_it_marks_the_function_all_the_same():
    @task
    def work(x):
        return x + 1

    assert work(1) == 2
    assert plan_for(work, NO_OPTIONS).name.endswith("work")


def test_its_options_travel_with_it():
    @task(priority=2)
    def work(x):
        return x

    planned = plan_for(work, NO_OPTIONS).plan(is_portable=True)

    travelled = load_function(planned.codes[0].stream)
    assert getattr(travelled, OPTIONS_ATTRIBUTE).chosen == {"priority": 2}


@pytest.mark.parametrize(
    ("options", "error"), [({"wibble": 1}, TypeError), ({"priority": 99}, ValueError)]
)
def test_a_bad_option_is_refused_where_it_is_written(options, error):
    with pytest.raises(error):
        task(**options)


def test_a_wait_for_a_better_actor_is_for_what_is_desired_and_not_required():
    liked = {"model": Desired("v2", required=False)}
    options = Options.of({"desired_labels": liked, "affinity_wait": 2})

    def work():
        pass

    call = plan_for(work, options).plan(is_portable=True).call

    assert call.affinity_wait_s == 2.0
    with pytest.raises(ValueError, match="required=False prefer"):
        plan_for(work, Options.of({"affinity_wait": 2})).plan(is_portable=True)


@pytest.mark.parametrize("refuse", [continuation, TaskFuture.stream, TaskContext.report_progress])
def test_what_does_not_exist_yet_is_refused_by_name(refuse):
    with pytest.raises(NotImplementedError, match="does not exist yet: "):
        refuse(1, 2, of=3)
