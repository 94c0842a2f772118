"""Tasks that wait for one another in a circle hear of it within a few heartbeats: real processes.

Which circle: calls that need what their caller keeps, over one level or several, crossing callers,
slots that are held by whoever waits for a limit.
"""

import asyncio
import threading

import pytest

from sdk import (
    Deadlock,
    Environment,
    LocalCluster,
    ReusePolicy,
    as_completed,
    current_task,
    gather,
    wait,
)
from tests.support.deployment import DEADLINE_S, HASTY_BROKER, HEARTBEAT_S

pytestmark = pytest.mark.process

TIMEOUT_S = DEADLINE_S


@pytest.fixture(scope="module")
def client():
    with (
        LocalCluster(actors=1, slots=4, limits=["a=1", "b=1"], arguments=HASTY_BROKER) as cluster,
        cluster.client() as client,
    ):
        yield client


@pytest.fixture
def narrow_client():
    with (
        LocalCluster(actors=1, slots=1, limits=["a=1"], arguments=HASTY_BROKER) as cluster,
        cluster.client() as client,
    ):
        yield client


def identity(value):
    return value


def outcome(wait_for):
    """Return what became of a wait, and of a task that goes on after it."""
    try:
        return wait_for()
    except Deadlock as error:
        return f"deadlock: {error}"


WAYS = {
    "result": lambda futures: futures[0].result(),
    "exception": lambda futures: futures[0].exception(),
    "wait": lambda futures: wait(futures, num_returns=len(futures)),
    "as_completed": lambda futures: [future.result() for future in as_completed(futures)],
    "gather": gather,
    "patient gather": lambda futures: gather(futures, return_exceptions=True),
}


@pytest.mark.parametrize("how", WAYS)
def test_who_waits_for_a_call_that_needs_its_own_limit_hears_of_it(client, how):
    def work():
        task = current_task()
        with task.limit("a"):
            futures = [task.client.submit(identity, 1, limits={"a": 1}) for _ in range(2)]
            return outcome(lambda: WAYS[how](futures))

    said = client.submit(work).result(TIMEOUT_S)

    assert said.startswith("deadlock: it waits for calls of its own in a circle, with itself"), said


def test_who_awaits_such_a_call_hears_of_it(client):
    async def work():
        task = current_task()
        async with task.limit("a"):
            try:
                await task.client.submit(identity, 1, limits={"a": 1})
            except Deadlock:
                # The wait is over, the task is not: it has its slot again.
                return task.is_released
        return "no deadlock"

    assert client.submit(work).result(TIMEOUT_S) is False


def ask_for(name):
    with current_task().limit(name):
        return "has it"


def test_a_call_that_asks_for_what_its_caller_keeps_is_the_younger(client):
    def work():
        task = current_task()
        with task.limit("a"):
            return outcome(lambda: task.client.submit(ask_for, "a").result())

    assert client.submit(work).result(TIMEOUT_S).startswith("deadlock: it waits for limit a")


def nest(levels):
    task = current_task()
    if levels:
        return task.client.submit(nest, levels - 1).result()
    return task.client.submit(identity, "has it", limits={"a": 1}).result()


def test_the_youngest_over_several_levels_hears_of_it(client):
    def work():
        task = current_task()
        with task.limit("a"):
            return outcome(lambda: task.client.submit(nest, 2).result())

    said = client.submit(work).result(TIMEOUT_S)

    assert said.startswith("deadlock: it waits for calls of its own"), said


def test_callers_that_cross_end(client):
    def work(own, other):
        task = current_task()
        with task.limit(own):
            return outcome(lambda: task.client.submit(ask_for, other).result())

    futures = [client.submit(work, "a", "b"), client.submit(work, "b", "a")]
    results = [future.result(TIMEOUT_S) for future in futures]

    assert "has it" in results, results


def test_who_gave_its_slot_back_hears_that_its_holder_waits_for_it(narrow_client):
    """The one slot goes to a call that asks for the limit, ahead of the one that is waited for."""

    def work():
        task = current_task()
        with task.limit("a"):
            other = task.client.submit(ask_for, "a", priority=1)
            return task.client.submit(identity, "has it").result(), outcome(other.exception)

    said, error = narrow_client.submit(work).result(TIMEOUT_S)

    assert said == "has it"
    assert isinstance(error, Deadlock), error


def test_nobody_hears_of_it_where_a_call_takes_its_time(client):
    def slow():
        threading.Event().wait(2.5 * HEARTBEAT_S)
        return "has it"

    def work():
        task = current_task()
        with task.limit("a"):
            return outcome(lambda: task.client.submit(slow).result())

    assert client.submit(work).result(TIMEOUT_S) == "has it"


def test_a_coroutine_beside_one_that_waits_goes_on(client):
    async def work():
        task = current_task()

        async def blocked():
            async with task.limit("a"):
                return await task.client.submit(identity, 1, limits={"a": 1})

        results = await asyncio.gather(
            blocked(), task.client.submit(identity, 2), return_exceptions=True
        )
        return [type(one).__name__ if isinstance(one, Exception) else one for one in results]

    assert client.submit(work).result(TIMEOUT_S) == ["Deadlock", 2]


class Echo(Environment):
    """Calls another named actor, or itself, in the middle of a call."""

    def hello(self):
        return "hello"

    def call(self, other):
        return outcome(other.hello.submit().result)

    def call_back(self, other, me):
        return other.call.submit(me).result()


def test_a_named_actor_that_waits_for_itself_hears_of_it(client):
    echo = client.actor(Echo, name="narcissus")

    said = echo.call.submit(echo).result(TIMEOUT_S)

    assert said.startswith("deadlock: it waits for calls of its own in a circle, with itself"), said
    assert echo.hello.submit().result(TIMEOUT_S) == "hello"


def test_named_actors_that_wait_for_one_another_hear_of_it_in_the_younger(client):
    first, second = (client.actor(Echo, name=name) for name in ("first", "second"))

    said = first.call_back.submit(second, first).result(TIMEOUT_S)

    assert said.startswith("deadlock: it waits for calls of its own in a circle, with"), said
    assert first.call.submit(second).result(TIMEOUT_S) == "hello"


class Once(Environment):
    """Has two turns, and is loaded anew after a single call."""

    reuse = ReusePolicy(replicas=1, concurrency=2, max_tasks=1)

    async def ask(self):
        async with current_task().limit("a"):
            return "has it"

    async def hello(self):
        return "hello"


def test_a_circle_through_a_copy_that_takes_no_more_calls_is_left(client):
    def work():
        task = current_task()
        with task.limit("a"):
            inside, behind = task.client.submit(Once.ask), task.client.submit(Once.hello)
            said = behind.result()
        return said, inside.result()

    assert client.submit(work).result(TIMEOUT_S) == ("hello", "has it")


def call_inside():
    task = current_task()
    with task.limit("a"):
        found = task.client.submit(identity, "has it").result()
        return found, task.is_released


async def call_inside_async():
    task = current_task()
    async with task.limit("a"):
        found = await task.client.submit(identity, "has it")
        return found, task.is_released


def call_with_limit():
    task = current_task()
    return task.client.submit(identity, "has it").result(), task.is_released


def test_tasks_on_one_slot_that_take_a_limit_and_wait_for_a_call_make_way_for_one_another(
    narrow_client,
):
    """Whoever waited for the limit kept the slot, and one of them was told in two rounds of three.

    The call of whoever had the limit could not start.
    """
    for _ in range(30):
        futures = [narrow_client.submit(call_inside) for _ in range(3)]
        assert gather(futures, timeout=TIMEOUT_S) == [("has it", False)] * 3


def test_so_do_coroutines_and_tasks_that_have_it_from_the_start(narrow_client):
    for _ in range(5):
        futures = [narrow_client.submit(call_inside_async) for _ in range(2)]
        futures += [narrow_client.submit(call_with_limit, limits={"a": 1}), futures[0]]
        assert gather(futures, timeout=TIMEOUT_S) == [("has it", False)] * 4


def test_a_limit_for_which_there_is_no_time_is_had_where_it_is_free(client):
    def work():
        task = current_task()
        with task.limit("a", timeout=0):
            try:
                with task.limit("a", timeout=0):
                    return "has it twice"
            except TimeoutError as error:
                text = str(error)
        task.release_slot()
        task.reacquire_slot(timeout=0)
        return text, task.is_released

    text, is_released = client.submit(work, limits={"b": 1}).result(TIMEOUT_S)

    assert text.endswith("did not get limit a in time")
    assert not is_released
