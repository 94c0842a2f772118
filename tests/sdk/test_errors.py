"""Every code has its class, and no task error can be taken for the end of a wait."""

import concurrent.futures

import msgspec
import pytest

from sdk import errors
from wire.errors import Code
from wire.exceptions import dump_exception
from wire.parts import Failure

IN_FAILURES = [
    code for code in Code if list(Code).index(code) >= list(Code).index(Code.TASK_FAILED)
]


@pytest.mark.parametrize("code", IN_FAILURES)
def test_a_failure_becomes_an_error_of_the_tree(code):
    error = errors.error_of(Failure(code, "Some", "the message", "the traceback", b"", ["one"]))

    assert isinstance(error, errors.WarmslotError)
    assert "the message" in str(error)
    assert "the traceback" in str(error.__cause__)


def test_no_task_error_is_the_end_of_a_wait():
    tree = [getattr(errors, name) for name in errors.__all__]
    classes = [c for c in tree if isinstance(c, type) and issubclass(c, errors.WarmslotError)]

    assert len(classes) > 20
    assert not any(issubclass(c, TimeoutError) for c in classes)
    assert issubclass(errors.TaskCanceled, concurrent.futures.CancelledError)


def test_a_canceled_task_catches_what_its_calls_end_with_as_canceled():
    """It heard of the end of its call before it heard that nobody wants it any more."""
    gone = errors.error_of(Failure(Code.PARENT_GONE, "", "the task that submitted it was canceled"))

    assert isinstance(gone, errors.TaskCanceled)


def test_help_shows_every_error():
    named = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}
    tree = {name for name, kind in named.items() if issubclass(kind, errors.WarmslotError)}

    assert tree <= set(errors.__all__)


def test_a_history_is_shown():
    error = errors.error_of(
        Failure(Code.POISON_TASK, "", "gave up", "", b"", ["died", "died again"])
    )

    assert error.history == ["died", "died again"]
    assert "died again" in str(error)


def test_the_users_own_exception_says_what_went_wrong_before():
    dumped = dump_exception(OSError("no route"))
    failure = msgspec.structs.replace(dumped, history=["attempt 1: no answer"])

    error = errors.error_of(failure)

    assert type(error) is OSError
    assert error.__notes__ == ["before: attempt 1: no answer"]


def test_what_cannot_be_rebuilt_is_a_failed_task_with_its_text():
    error = errors.error_of(Failure(Code.TASK_FAILED, "pkg.Odd", "text", "Traceback: here", b""))

    assert isinstance(error, errors.TaskFailed)
    assert str(error) == "pkg.Odd: text"
    assert (error.type, error.message, error.traceback) == ("pkg.Odd", "text", "Traceback: here")


def test_what_no_event_loop_would_hold_is_a_failed_task():
    # An asyncio future refuses StopIteration, and whoever awaited `wrap_future` waited for ever.
    error = errors.error_of(dump_exception(StopIteration(3)))

    assert isinstance(error, errors.TaskFailed)
    assert str(error) == "StopIteration: 3"


def test_a_type_without_a_message_ends_in_no_colon():
    assert str(errors.error_of(dump_exception(KeyboardInterrupt()))) == "KeyboardInterrupt"
