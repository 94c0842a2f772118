"""What a task raised comes back as itself, and its text comes back whatever it is."""

import pickle
import sys
import threading
import types

import pytest
from msgspec import structs

from wire import exceptions, payload
from wire.codec import decode_failure, encode_failure
from wire.errors import Code
from wire.ours import ROOT


class Mine(Exception):
    pass


class Strict(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")
        self.one = one


class Locked(Exception):
    def __init__(self):
        super().__init__("locked")
        self.lock = threading.Lock()
        self.limit = 3


class Refused(OSError):
    def __init__(self, code):
        super().__init__(111, f"refused with {code}")
        self.code = code


class Unreadable(UnicodeDecodeError):
    def __init__(self, code):
        super().__init__("utf-8", b"\xff", 0, 1, "odd")
        self.code = code


class Stubborn(Exception):
    def __new__(cls, key):
        if key != 1:
            raise TypeError("one is the key")
        return super().__new__(cls, "other")

    def __init__(self, key):
        super().__init__("other")


class Guarded(Exception):
    lock = threading.Lock()


class Slotted(Exception):
    __slots__ = ("code",)

    def __init__(self, code):
        self.code = code
        self.about = [self]

    def __str__(self):
        return f"code {self.code}"


class Request:
    def __init__(self):
        self.url = "http://there"
        self.headers = threading.Lock()
        self.is_done = threading.Condition()


class Answered(Exception):
    """As those of HTTP and RPC libraries are: what they say is made of what they hold."""

    def __init__(self):
        super().__init__(Request())
        self.request = self.args[0]
        self.headers = self.request.headers

    def __str__(self):
        with self.request.is_done:
            return f"404 at {self.request.url}"

    def __repr__(self):
        return f"Answered({self.request.url}, {self.headers!r})"


class Unparsed(SyntaxError):
    def __init__(self, place):
        super().__init__("bad", ("page.html", *place, "<a"))
        self.args = ("bad",)
        self.log = threading.Lock()


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("mute")


class Leaving(Exception):
    def __reduce__(self):
        return sys.exit, (3,)


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


def test_a_text_that_cannot_be_sent_is_written_as_in_a_string():
    error = raised(ValueError("name \udcff"))

    failure = decode_failure(encode_failure(exceptions.dump_exception(error)))

    assert failure.message == r"name \udcff"
    assert r"ValueError: name \udcff" in failure.traceback
    assert str(exceptions.load_exception(failure)) == "name \udcff"


def test_a_group_keeps_the_classes_of_what_is_in_it():
    error = raised(
        ExceptionGroup("g", [ValueError(1), Strict(1, 2), ExceptionGroup("inner", [Locked()])])
    )

    back = exceptions.load_exception(exceptions.dump_exception(error))

    assert type(back) is ExceptionGroup
    one, strict, inner = back.exceptions
    assert (type(one), type(strict), strict.one) == (ValueError, Strict, 1)
    assert (type(inner.exceptions[0]), inner.exceptions[0].limit) == (Locked, 3)


def test_an_exception_whose_init_takes_other_arguments_keeps_its_class():
    error = raised(Strict(1, 2))
    error.args = (*error.args, None)

    back = exceptions.load_exception(exceptions.dump_exception(error))

    assert type(back) is Strict
    assert (str(back), back.args, back.one) == (str(error), ("1 and 2", None), 1)
    assert "raise error" in str(back.__cause__)


def test_an_exception_that_holds_a_lock_leaves_only_that_behind():
    back = exceptions.load_exception(exceptions.dump_exception(raised(Locked())))

    assert type(back) is Locked
    assert (str(back), back.limit) == ("locked", 3)
    assert not hasattr(back, "lock")
    (note,) = back.__notes__
    assert note.startswith("attribute 'lock' stayed on the actor: a value of type lock cannot be")


@pytest.mark.parametrize("error", [Refused(7), Unreadable(7)], ids=lambda e: type(e).__name__)
def test_fields_of_a_built_in_exception_come_along_without_its_init(error):
    back = exceptions.load_exception(exceptions.dump_exception(raised(error)))

    assert type(back) is type(error)
    assert str(back) == str(error)
    assert getattr(back, "errno", None) == getattr(error, "errno", None)
    assert getattr(back, "reason", None) == getattr(error, "reason", None)
    assert back.code == 7


def test_an_exception_that_exits_where_it_is_unpickled_comes_back():
    """It was told as a lack of memory, and would have ended a client that got it as it is."""
    failure = exceptions.dump_exception(raised(Leaving("gone")))
    as_it_is = structs.replace(failure, exception=pickle.dumps(Leaving("gone")))

    assert type(exceptions.load_exception(failure)) is Leaving
    assert exceptions.load_exception(as_it_is) is None
    assert (as_it_is.type.rpartition(".")[2], as_it_is.message) == ("Leaving", "gone")


def test_an_exception_whose_fields_are_slots_lost_them():
    for back in (
        exceptions.load_exception(exceptions.dump_exception(raised(Slotted(7)))),
        pickle.loads(payload.pickle_value([Slotted(7)], out_of_band=False)[0])[0],
    ):
        assert type(back) is Slotted
        assert (str(back), back.about) == ("code 7", [back])


def test_an_exception_had_no_text_where_a_part_of_what_it_holds_cannot_travel():
    back = exceptions.load_exception(exceptions.dump_exception(raised(Answered())))

    assert type(back) is Answered
    assert str(back) == "404 at http://there"
    assert repr(back).startswith("Answered(http://there, '<unlocked _thread.lock object at")
    assert back.args[0] is back.request
    assert [note.partition(":")[0] for note in back.__notes__] == [
        "a part of argument 0 stayed on the actor",
        "attribute 'headers' stayed on the actor",
    ]


def test_an_error_of_a_parser_that_holds_its_log_lost_where_it_is():
    back = exceptions.load_exception(exceptions.dump_exception(raised(Unparsed((3, 5)))))

    assert (type(back), back.args) == (Unparsed, ("bad",))
    assert (back.filename, back.lineno, back.offset, back.text) == ("page.html", 3, 5, "<a")


def test_an_exception_that_no_argument_makes_again_lost_its_class():
    back = exceptions.load_exception(exceptions.dump_exception(raised(Stubborn(1))))

    assert (type(back), str(back)) == (Stubborn, "other")


@pytest.mark.parametrize("error", [Mute(), Guarded()], ids=["mute", "guarded"])
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


SLOT = str(ROOT / "actor" / "running" / "slot.py")


def test_the_runtimes_own_frames_are_left_out_of_the_traceback():
    runtime = types.ModuleType("actor.running.slot")
    exec(compile("def call(f):\n    return f()", SLOT, "exec"), runtime.__dict__)

    def users():
        raise ValueError("here")

    try:
        runtime.call(users)
    except ValueError as caught:
        # This test stands above the runtime, where an actor has only its own frames.
        text = exceptions.format_remote(caught.with_traceback(caught.__traceback__.tb_next))

    assert "users" in text
    assert "in call" not in text


def test_the_frames_of_a_module_of_the_users_that_is_called_as_one_of_ours_stay():
    users = types.ModuleType("actor")
    exec(compile("def act(): raise ValueError('here')", "/somewhere/actor.py", "exec"), vars(users))

    with pytest.raises(ValueError, match="here") as caught:
        users.act()
    text = exceptions.format_remote(caught.value.with_traceback(caught.tb.tb_next))

    assert "/somewhere/actor.py" in text


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


def test_a_call_with_wrong_arguments_shows_no_frames_of_ours():
    def ours(function):
        names = {"__name__": "actor.running.slot", "function": function}
        code = compile("function()", SLOT, "exec")
        with pytest.raises(TypeError) as caught:
            exec(code, names)
        return caught.value.with_traceback(caught.value.__traceback__.tb_next)

    def double(x):
        return 2 * x

    refused = exceptions.format_remote(ours(double))
    failed = exceptions.format_remote(ours(lambda: double("a", "b")))

    assert refused.startswith("TypeError: ")
    assert "missing 1 required positional argument" in refused
    assert "File" not in refused
    assert 'File "' + __file__ in failed
    assert "actor.running.slot" not in failed
