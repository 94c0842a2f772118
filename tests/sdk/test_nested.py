"""What a task says of the calls that it waits for."""

import concurrent.futures
import contextvars
import threading
from types import SimpleNamespace

import pytest

from sdk.calls.call import Owned
from sdk.errors import Deadlock, TaskCanceled
from sdk.futures.future import TaskFuture
from sdk.futures.nested import SPANS_MAX, CallWait, hand_over, last_unheard
from sdk.task import running

PENDING, DONE = "PENDING", "FINISHED"


class Connection:
    def __init__(self, incarnation=5):
        self.core = SimpleNamespace(incarnation=incarnation)


HERE = Connection()


def future(number, state=PENDING, arguments=(), connection=HERE):
    return SimpleNamespace(number=number, _state=state, arguments=arguments, connection=connection)


def waits(*futures, enough=None):
    return CallWait(futures, len(futures) if enough is None else enough).calls()


def test_numbers_stand_in_spans():
    assert waits(*map(future, (9, 7, 4, 8))) == (5, [(4, 4), (7, 9)], 4)


def test_what_is_done_counts_as_enough_already():
    assert waits(future(1), future(2, DONE), future(3), enough=2) == (5, [(1, 1), (3, 3)], 1)


def test_a_call_that_waits_for_its_arguments_stands_for_them():
    inner = future(3)
    outer = future(0, arguments=(future(2), future(0, arguments=(inner, future(1, DONE)))))

    assert waits(outer, inner) == (5, [(2, 3)], 2)


@pytest.mark.parametrize(
    "futures",
    [
        [future(1, DONE)],
        [future(0)],
        [future(1), future(1, connection=Connection())],
        [future(2 * n) for n in range(1, SPANS_MAX + 2)],
    ],
    ids=["done", "not submitted", "two clients", "too many pieces"],
)
def test_what_cannot_be_told_is_not(futures):
    assert waits(*futures) is None


def test_one_of_two_that_waits_for_its_arguments_is_not_told():
    assert waits(future(1), future(0, arguments=(future(2),)), enough=1) is None


def test_who_was_refused_and_has_enough_is_not_told():
    one = future(1)
    wait = CallWait([one], 1)
    wait.refusal = "in a circle"
    with pytest.raises(Deadlock, match="in a circle"):
        wait.check()

    one._state = DONE

    wait.check()


def test_who_is_canceled_while_it_waits_is_told_so_but_for_a_coroutine():
    wait, awaited = CallWait([], 1), CallWait([], 1, is_awaited=True)

    wait.cancel("canceled")
    awaited.cancel("canceled")

    with pytest.raises(TaskCanceled, match="canceled"):
        wait.check()
    awaited.check()


def test_a_waker_that_comes_late_is_called_at_once():
    wait = CallWait([], 1)
    wait.refuse("in a circle")
    called = []

    wait.wakes(lambda: called.append(True))

    assert called


def in_a_task(work, *arguments):
    """Call *work* where a task runs."""
    context = contextvars.copy_context()
    context.run(running.set, object())
    return context.run(work, *arguments)


def test_a_wait_of_the_standard_library_is_refused_in_a_task_since_it_would_keep_the_slot():
    # The call waited for this very slot, for ever, and nobody saw why.
    connection = SimpleNamespace(is_nested=True, condition=threading.Condition())
    pending = TaskFuture(connection, "nested")

    with pytest.raises(TypeError, match="those of sdk do"):
        in_a_task(concurrent.futures.wait, [pending], 0)
    with pytest.raises(TypeError, match="those of sdk do"):
        in_a_task(lambda: next(concurrent.futures.as_completed([pending], 0)))


def test_a_wait_of_the_standard_library_goes_on_where_no_task_runs():
    connection = SimpleNamespace(is_nested=True, condition=threading.Condition())
    pending = TaskFuture(connection, "nested")

    assert concurrent.futures.wait([pending], 0) == (set(), {pending})


PARENT, OTHER = (7, 1), (7, 2)


class Ending:
    """A task that has returned."""

    def __init__(self, canceled_at=lambda: False):
        self.canceled_at = canceled_at
        self.releases, self.released = 0, lambda: None

    @property
    def is_canceled(self):
        return self.canceled_at()

    def release_slot(self):
        self.releases += 1
        self.released()


class Caller:
    """A connection with calls of runs: number -> run, each sent in the frame of its number."""

    def __init__(self, calls, *, confirmed=0, is_open=True):
        self.core = SimpleNamespace(
            calls={n: self.owned(n, run) for n, run in calls.items()},
            confirmed=confirmed,
            session=SimpleNamespace(number=1, is_open=is_open),
        )
        self.loop = self
        self.core.is_sent = lambda number: self.core.calls[number].is_there
        self.lock = threading.Lock()
        self.asked = self.looked = 0

    @staticmethod
    def owned(number, run):
        return Owned(number, None, b"", (), run, 0, sent=(1, number), is_there=True)

    def ask(self, what, argument, answered):
        self.asked += 1

    def wait(self, is_over, timeout):
        """Let the broker receive one more frame, if it is there."""
        self.looked += 1
        self.core.confirmed += self.core.session.is_open


@pytest.mark.parametrize(("confirmed", "number"), [(0, 3), (2, 3), (3, None), (4, None)], ids=str)
def test_the_last_call_of_a_run_is_looked_for_among_those_not_confirmed(confirmed, number):
    connection = Caller({1: PARENT, 2: OTHER, 3: PARENT, 4: OTHER}, confirmed=confirmed)

    assert last_unheard(connection, PARENT) == number


def test_a_run_ends_when_the_broker_has_its_calls():
    connection = Caller({1: PARENT, 2: PARENT})

    hand_over(connection, 2, Ending())

    assert (connection.core.confirmed, connection.asked) == (2, 2)


def test_a_run_that_nobody_wants_ends_without_a_broker():
    connection = Caller({1: PARENT}, is_open=False)

    hand_over(connection, 1, Ending(canceled_at=lambda: connection.looked == 3))

    assert connection.asked == 0


def test_a_run_that_ends_makes_way_for_calls_that_must_run_before_the_broker_takes_its_last():
    # With a full window the last call waited for one before it, and that for the run's slot.
    connection = Caller({1: PARENT})
    connection.core.calls[1].is_there = False
    task = Ending()
    task.released = lambda: setattr(connection.core.calls[1], "is_there", True)

    hand_over(connection, 1, task)

    assert task.releases == 1
