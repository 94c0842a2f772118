"""Calls of one line are submitted in their order, each once, whatever those ahead wait for."""

from concurrent.futures import Future

import pytest

from sdk.errors import TaskCanceled
from sdk.futures.deferring import Deferrals


class Waiting(Future):
    """What a call that is not submitted yet has of a future."""

    arguments = ()
    abandon = None

    def settle_canceled(self, reason):
        self.set_exception(TaskCanceled(reason))


@pytest.fixture
def calls():
    return Calls()


class Calls:
    """Submits calls, and knows in which order they left."""

    def __init__(self):
        self.left = []
        self.failed = 0
        self.deferrals = Deferrals(self.fail)

    def fail(self):
        self.failed += 1

    def submit(self, name, *arguments, line="a"):
        future = Waiting()
        self.deferrals.defer(arguments, future, lambda: self.left.append(name), line)
        return future


def test_those_behind_wait_for_the_arguments_of_the_one_ahead(calls):
    argument, late = Waiting(), Waiting()
    calls.submit(1, argument)
    calls.submit(2)
    calls.submit(3, late)
    calls.submit(4)
    assert calls.left == []

    argument.set_result(None)
    assert calls.left == [1, 2]
    late.set_result(None)

    assert calls.left == [1, 2, 3, 4]
    assert not calls.deferrals.lines
    assert not calls.deferrals.waiting


def test_arguments_that_come_in_another_order_change_nothing(calls):
    first, second = Waiting(), Waiting()
    calls.submit(1, first)
    calls.submit(2, second)

    second.set_result(None)
    assert calls.left == []
    first.set_result(None)

    assert calls.left == [1, 2]


def test_other_lines_and_calls_without_one_wait_for_nobody(calls):
    calls.submit(1, Waiting())
    argument = Waiting()
    calls.submit(2, line="b")
    calls.submit(3, argument, line=None)
    argument.set_result(None)

    assert calls.left == [2, 3]


@pytest.mark.parametrize("error", [OSError("no"), TaskCanceled("left")])
def test_a_call_whose_argument_failed_lets_those_behind_go(calls, error):
    argument = Waiting()
    failed = calls.submit(1, argument)
    calls.submit(2)

    argument.set_exception(error)

    assert calls.left == [2]
    assert type(failed.exception(0)) is type(error)
    assert calls.failed == 1


def test_who_gives_up_in_the_line_is_passed_over(calls):
    argument = Waiting()
    first = calls.submit(1, argument)
    second = calls.submit(2)
    calls.submit(3)

    for future in (second, first):
        assert future.abandon()
        future.settle_canceled("given up")
    argument.set_result(None)

    assert calls.left == [3]
    assert not second.abandon()


def test_what_cannot_be_submitted_fails_and_lets_those_behind_go(calls):
    argument, future = Waiting(), Waiting()
    calls.deferrals.defer((argument,), future, lambda: 1 // 0, "a")
    calls.submit(2)

    argument.set_result(None)

    assert calls.left == [2]
    assert isinstance(future.exception(0), ZeroDivisionError)


def test_a_long_line_does_not_grow_the_stack(calls):
    argument = Waiting()
    calls.submit(0, argument)
    for number in range(1, 3_000):
        calls.submit(number)

    argument.set_result(None)

    assert calls.left == list(range(3_000))


@pytest.mark.parametrize("error", [ValueError("x"), TaskCanceled("given up")])
def test_a_long_chain_that_fails_does_not_grow_the_stack(calls, error):
    first = Waiting()
    chain = [first]
    for number in range(3_000):
        chain.append(calls.submit(number, chain[-1], line=None))

    first.set_exception(error)

    assert calls.left == []
    assert calls.failed == 3_000
    assert {type(future.exception(0)) for future in chain} == {type(error)}
    assert str(chain[-1].exception(0)).count(str(error)) == 1
    assert len(str(chain[-1].exception(0))) < 100


def test_ctrl_c_in_the_callback_of_a_call_that_fails_leaves_none_behind_it_waiting(calls):
    first = Waiting()
    second = calls.submit(1, first, line=None)
    third = calls.submit(2, second, line=None)

    def interrupt(_):
        raise KeyboardInterrupt

    second.add_done_callback(interrupt)
    fourth = calls.submit(3, third, line=None)

    with pytest.raises(KeyboardInterrupt):
        first.set_exception(ValueError("x"))

    assert third.done()
    assert fourth.done()


def test_who_stands_in_a_line_waits_for_what_those_ahead_wait_for(calls):
    one, other = Waiting(), Waiting()
    calls.submit(1, one)
    behind = calls.submit(2)
    last = calls.submit(3, other)

    assert behind.arguments == [one]
    assert last.arguments == [other, one]


def test_all_that_wait_can_be_taken_at_once(calls):
    argument = Waiting()
    futures = [calls.submit(1, argument), calls.submit(2)]

    assert calls.deferrals.take_all() == futures
    for future in futures:
        future.settle_canceled("closed")
    argument.set_result(None)

    assert calls.left == []
    assert not calls.deferrals.lines
