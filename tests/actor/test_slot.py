"""Slots with real threads and a real event loop, below a loop that only collects."""

import asyncio
import queue
import re
import sys
import threading

import cloudpickle
import numpy as np
import pytest

from actor.events.entering import Entering
from actor.holding.mailbox import Assignment, StopOrder
from actor.holding.recipe import Recipe
from actor.machine.board import Board
from actor.running.endings import pack
from actor.running.slot import Slots
from actor.settings import Launch, Settings
from sdk.errors import NotInTask, TaskCanceled, error_of
from sdk.task import current_task
from tests.support.deployment import DEADLINE_S
from wire import exceptions, payload
from wire.codec import decode_failure
from wire.errors import Code
from wire.messages import Assign
from wire.parts import Call, Environment, Status

LAUNCH = Launch(core=Settings(name="h/0"), broker="tcp://[::1]:1", incarnation=99, host_name="h")


class Shell:
    """What the loop is to the slots."""

    def __init__(self, fd):
        self.board = Board(fd)
        self.core = self
        self.notes = []
        self.entering = Entering()
        self.labels, self.upserted = {"memory": 512}, {}
        self.posts = queue.Queue()
        self.environments = []
        self.released = []
        self.ended = {}
        self.runs_s = []
        self.number = 0
        self.slots = Slots(self, LAUNCH, self.board)

    def note(self, event, **fields):
        self.notes.append((event, fields))

    def post(self, method, *arguments):
        self.posts.put((method, arguments))

    # Nothing is looked at between the posts.
    post_quietly = post

    def entered(self, token, environment, load_s, now=None):
        self.environments.append((environment.id, "warm"))

    def environment_lost(self, identity, now=None):
        self.environments.append((identity, "cold"))

    def not_entered(self, assignment, failure, now=None):
        self.slots.ended(assignment)
        self.ended[assignment.token] = ("not entered", failure, ())

    def give_back(self, assignment, give):
        self.post(self.release, assignment, give)

    def release(self, assignment, give, now=None):
        give.is_known = True
        self.released.append(assignment.token)

    def change_labels(self, labels, deleted):
        self.labels = {**self.labels, **labels}
        for key in deleted:
            self.labels.pop(key, None)

    def finish(self, assignment, status, body, frames, run_s, checkpoint=None, now=None):  # noqa: PLR0917
        self.slots.ended(assignment)
        self.runs_s.append(run_s)
        self.ended[assignment.token] = (status, body, frames)

    def begin(self, function, *args, environment=None, method="", loads=False, evicts=(), **kwargs):
        self.number += 1
        code = cloudpickle.dumps(function) if function else None
        described = None
        blob = None
        if environment is not None:
            identity, kind, parameters = environment
            blob = cloudpickle.dumps((kind, parameters))
            described = Environment(identity, identity, b"b")
        digest = payload.digest(code) if code else b""
        call = Call("f", digest, method, described, metadata={"k": 1})
        body, frames = payload.dump((args, kwargs))
        command = Assign(self.number, 255, self.number, 0, 2, body, len(frames))
        recipe = Recipe(call, code=code, blob=blob)
        assignment = Assignment(
            (5, self.number),
            command.client,
            command.task,
            command.attempt,
            recipe,
            command.body,
            frames,
            recipe.slots,
        )
        assignment.loads = loads
        assignment.evicts = evicts
        self.slots.start(assignment)
        return assignment

    def step(self):
        method, arguments = self.posts.get(timeout=DEADLINE_S)
        method(*arguments, now=0.0)

    def end(self, assignment):
        while assignment.token not in self.ended:
            self.step()
        return self.ended.pop(assignment.token)

    def value(self, assignment):
        status, body, frames = self.end(assignment)
        assert status is Status.RESULT, decode_failure(body)
        return payload.load(body, frames)

    def failure(self, assignment):
        status, body, _ = self.end(assignment)
        assert status is Status.FAILURE
        return decode_failure(body)


# --- sync and async


def test_a_sync_function_returns_its_value(shell):
    assert shell.value(shell.begin(lambda a, b: a + b, 1, b=2)) == 3


def test_an_async_function_returns_its_value(shell):
    async def double(value):
        await asyncio.sleep(0)
        return value * 2

    assert shell.value(shell.begin(double, 4)) == 8
    # The second time it is known where it runs, and no thread is needed.
    assert shell.value(shell.begin(double, 5)) == 10


def test_a_sync_function_may_return_an_awaitable(shell):
    async def inner():
        return threading.current_thread().name

    run = shell.begin(lambda: inner())  # noqa: PLW0108 - a plain function.

    assert shell.value(run) == "slot-async"


def test_arrays_travel_outside_the_pickle(shell):
    array = np.arange(10_000)

    _, body, frames = shell.end(shell.begin(lambda a: a * 2, array))

    assert len(frames) >= 1
    assert (payload.load(body, frames) == array * 2).all()


def test_sync_runs_go_on_side_by_side_in_reused_threads(shell):
    import actor.running.threads

    barrier = threading.Barrier(3)
    gates.append(barrier)

    def meet():
        from tests.actor import test_slot

        test_slot.gates[-1].wait(DEADLINE_S)
        return threading.current_thread().name

    for _ in range(3):
        runs = [shell.begin(meet) for _ in range(3)]
        names = {shell.value(run) for run in runs}
        assert len(names) == 3
    assert isinstance(shell.slots.pool, actor.running.threads.ThreadPool)
    assert shell.slots.pool.threads == 3


gates = []


def test_coroutines_go_on_side_by_side(shell):
    async def meet(number):
        from tests.actor import test_slot

        events = test_slot.events
        events.setdefault(number, asyncio.Event()).set()
        await asyncio.wait_for(events.setdefault(1 - number, asyncio.Event()).wait(), 10)
        return number

    events.clear()
    first, second = shell.begin(meet, 0), shell.begin(meet, 1)

    assert {shell.value(first), shell.value(second)} == {0, 1}


events = {}


# --- what the code of a user can do


def test_an_exception_comes_back_with_its_traceback(shell):
    def fail():
        raise KeyError("missing")

    failure = shell.failure(shell.begin(fail))

    assert (failure.code, failure.type) == (Code.TASK_FAILED, "KeyError")
    assert "in fail" in failure.traceback
    assert "actor/running/slot.py" not in failure.traceback
    assert isinstance(error_of(failure), KeyError)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError])
def test_what_would_end_a_process_ends_the_task(shell, kind, is_async):
    def fail():
        raise kind("no")

    async def fail_async():
        raise kind("no")

    failure = shell.failure(shell.begin(fail_async if is_async else fail))

    assert failure.type == kind.__name__
    assert shell.value(shell.begin(lambda: 1)) == 1


def test_a_task_that_a_coroutine_left_behind_cannot_end_the_event_loop(shell):
    async def leave():
        async def exit_later():
            sys.exit(3)

        later = asyncio.get_running_loop().create_task(exit_later())
        await asyncio.wait([later])
        return "here"

    assert shell.value(shell.begin(leave)) == "here"
    assert shell.value(shell.begin(leave)) == "here"


def test_a_result_that_cannot_be_pickled_says_so(shell):
    failure = shell.failure(shell.begin(lambda: {"a": [0, threading.Lock()]}))

    assert failure.code == Code.SERIALIZATION
    assert "['a'][1]: a value of type lock" in failure.message


def test_a_generator_says_what_to_return_instead(shell):
    def numbers():
        yield 1

    failure = shell.failure(shell.begin(numbers))

    assert failure.message.endswith("; return a list of what it yields")


def test_a_task_and_its_actor_say_which_they_are(shell):
    shown = shell.value(shell.begin(lambda: f"{current_task()} on {current_task().actor}"))

    assert re.fullmatch(r"<task '.*' .*, attempt \d+> on <actor '.*'>", shown)


def test_an_import_of_what_is_not_there_says_where_it_is_looked_for(shell):
    def load():
        import no_such_module  # noqa: F401

    failure = shell.failure(shell.begin(load))

    [note] = exceptions.load_exception(failure).__notes__
    assert "import it at the top of the file" in note
    assert note in failure.traceback


def test_a_result_that_is_a_file_is_told_to_be_its_path(tmp_path):
    with (tmp_path / "file").open("w") as file:
        _, body, _ = pack(file)

    assert decode_failure(body).message.endswith("; return its path, or what is in it")


def test_an_exception_that_cannot_be_pickled_comes_back_as_text(shell):
    def fail():
        import threading

        class Odd(Exception):
            lock = threading.Lock()

        raise Odd("strange")

    failure = shell.failure(shell.begin(fail))

    assert "strange" in failure.message
    assert failure.exception == b""


def test_a_module_that_is_missing_is_named_with_the_actor(shell):
    class Missing:
        def __reduce__(self):
            return (__import__, ("no_such_module_anywhere",))

    failure = shell.failure(shell.begin(lambda value: value, Missing()))

    assert failure.type == "ModuleNotFoundError"
    assert "no_such_module_anywhere" in failure.message
    assert "h/0" in failure.message


def test_code_that_is_no_function_says_so(shell):
    assert "a value of type int" in shell.failure(shell.begin(42)).message


def test_a_wrong_number_of_arguments_is_the_users_error(shell):
    assert shell.failure(shell.begin(lambda: 1, 2)).type == "TypeError"


def test_a_coroutine_that_cancels_itself_is_canceled(shell):
    async def cancel():
        asyncio.current_task().cancel()
        await asyncio.sleep(1)

    assert shell.failure(shell.begin(cancel)).code == Code.CANCELED


# --- the task's own side


def describe():
    task = current_task()
    return (
        task.id,
        task.attempt,
        task.token,
        task.name,
        dict(task.metadata),
        task.actor.id,
        task.actor.name,
        task.actor.host,
        task.actor.labels,
    )


async def describe_async():
    return describe()


@pytest.mark.parametrize("function", [describe, describe_async])
def test_a_task_knows_itself_and_its_actor(shell, function):
    value = shell.value(shell.begin(function))

    assert value == (
        "00000000000000ff-1", 2, (5, 1), "f", {"k": 1}, 99, "h/0", "h", {"memory": 512},
    )  # fmt: skip


def test_outside_of_a_task_there_is_none(shell):
    def ask_in_thread():
        found = []

        def ask():
            try:
                found.append(current_task())
            except NotInTask as error:
                found.append(type(error).__name__)

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        return found

    assert shell.value(shell.begin(ask_in_thread)) == ["NotInTask"]
    with pytest.raises(NotInTask):
        current_task()


def test_context_variables_do_not_leak_into_the_next_run(shell):
    def remember():
        import contextvars
        import decimal

        before = decimal.getcontext().prec
        decimal.setcontext(decimal.Context(prec=7))
        return before, contextvars.copy_context() is not None

    first = shell.value(shell.begin(remember))
    second = shell.value(shell.begin(remember))

    assert first == second


def test_a_release_takes_effect_once(shell):
    def release():
        task = current_task()
        return task.release_slot(), task.release_slot()

    run = shell.begin(release)

    assert shell.value(run) == (True, False)
    assert shell.released == [run.token]


def test_labels_are_changed_from_within(shell):
    def change():
        actor = current_task().actor
        actor.upsert_labels({"model": "v2", "zones": ["a", "b"]})
        actor.delete_labels("memory")
        return actor.labels

    assert shell.value(shell.begin(change)) == {"model": "v2", "zones": ["a", "b"]}


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda actor: actor.upsert_labels({"a b": 1}), "ValueError", "'a b'"),
        (lambda actor: actor.upsert_labels("model"), "TypeError", "mapping"),
        (lambda actor: actor.delete_labels(["model"]), "TypeError", "'model'"),
        (lambda actor: actor.delete_labels("a b"), "ValueError", "'a b'"),
    ],
)
def test_a_bad_label_is_refused_where_it_is_made(shell, change, error, text):
    failure = shell.failure(shell.begin(lambda: change(current_task().actor)))

    assert failure.type == error
    assert text in failure.message


def test_a_sync_run_sees_that_nobody_wants_it(shell):
    gates.append(threading.Event())

    def wait():
        from tests.actor import test_slot

        test_slot.gates[-1].wait(DEADLINE_S)
        current_task().raise_if_canceled()

    run = shell.begin(wait)
    shell.slots.stop(StopOrder(run, force=False, reason="canceled"))
    gates[-1].set()

    assert isinstance(error_of(shell.failure(run)), TaskCanceled)


def test_a_coroutine_is_canceled(shell):
    started = threading.Event()
    gates.append(started)

    async def wait():
        from tests.actor import test_slot

        test_slot.gates[-1].set()
        await asyncio.sleep(1000)

    run = shell.begin(wait)
    assert started.wait(DEADLINE_S)
    shell.slots.stop(StopOrder(run, force=False, reason="canceled"))

    assert shell.failure(run).code == Code.CANCELED


# --- the board


def test_the_board_knows_what_runs(shell):
    gates.append(threading.Event())

    def wait():
        from tests.actor import test_slot

        test_slot.gates[-2].set()
        test_slot.gates[-1].wait(DEADLINE_S)

    gates.append(threading.Event())
    run = shell.begin(wait)
    assert gates[-2].wait(DEADLINE_S)
    assert shell.board.read().started == [run.token]
    gates[-1].set()
    shell.value(run)

    shell.board.settle(run.token)

    assert shell.board.read().started == []
