"""What a task raised comes back as itself, and its text comes back whatever it is."""

import threading
import types

import pytest

from wire import exceptions
from wire.errors import Code


class Mine(Exception):
    pass


class Strict(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


class Locked(Exception):
    def __init__(self):
        super().__init__("locked")
        self.lock = threading.Lock()


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("mute")


def raised(error):
    with pytest.raises(type(error)) as caught:
        raise error
    return caught.value


@pytest.mark.parametrize("error", [ValueError("bad"), KeyError("k"), Mine("own"), OSError(2, "no")])
def test_an_exception_comes_back_with_the_remote_traceback(error):
    failure = exceptions.dump_exception(raised(error))
    back = exceptions.load_exception(failure)

    assert type(back) is type(error)
    assert back.args == error.args
    assert isinstance(back.__cause__, exceptions.RemoteTraceback)
    assert "raise error" in str(back.__cause__)
    assert failure.code == Code.TASK_FAILED


@pytest.mark.parametrize(
    "error", [Strict(1, 2), Locked(), Mute()], ids=["strict", "locked", "mute"]
)
def test_an_exception_that_cannot_travel_leaves_its_text(error):
    failure = exceptions.dump_exception(raised(error))

    assert type(error).__name__ in failure.type
    assert type(error).__name__ in failure.traceback
    if not isinstance(error, Mute):
        assert exceptions.load_exception(failure) is None


def test_an_exception_of_a_module_that_is_missing_here_is_none():
    failure = exceptions.dump_exception(raised(ValueError("x")))
    broken = type(failure)(*[getattr(failure, f) for f in failure.__struct_fields__[:4]], b"junk")

    assert exceptions.load_exception(broken) is None


def test_the_runtimes_own_frames_are_left_out_of_the_traceback():
    runtime = types.ModuleType("actor.slot")
    exec("def call(f):\n    return f()", runtime.__dict__)

    def users():
        raise ValueError("here")

    try:
        runtime.call(users)
    except ValueError as caught:
        # This test stands above the runtime, where an actor has only its own frames.
        text = exceptions.format_remote(caught.with_traceback(caught.__traceback__.tb_next))

    assert "users" in text
    assert "in call" not in text


def test_a_chain_of_exceptions_is_in_the_text():
    def work():
        try:
            {}["first"]
        except KeyError as error:
            raise ValueError("second") from error

    with pytest.raises(ValueError, match="second") as caught:
        work()
    failure = exceptions.dump_exception(caught.value)

    assert "KeyError: 'first'" in failure.traceback
    assert "direct cause" in failure.traceback
