"""What becomes of classes that travel by value, and come back."""

import collections
import dataclasses
import enum
import os
import pathlib
import pickle
import subprocess
import sys
from typing import Generic, NamedTuple, TypeVar

import cloudpickle
import pytest

from wire import payload

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(pathlib.Path(payload.__file__).parents[1])}
ELSEWHERE = """
import pickle, sys
from wire import payload
for _ in range(2):
    values = [payload.load(body, frames) for body, frames in pickle.load(sys.stdin.buffer)]
    back = [payload.dump((value, getattr(value, "total", None))) for value in values]
    pickle.dump([(body, [bytes(f) for f in frames]) for body, frames in back], sys.stdout.buffer)
    sys.stdout.buffer.flush()
"""

factor = 1


class Slotted:
    __slots__ = ("size",)

    def __init__(self):
        self.size = 3


@dataclasses.dataclass(slots=True)
class Point:
    x: int = 1


class Above(Slotted):
    pass


class Both:
    __slots__ = ("__dict__", "size")

    def __init__(self):
        self.size, self.more = 1, 2


class Bare(Slotted):
    __slots__ = ()


class Private:
    __slots__ = ("__size",)

    def __init__(self):
        self.__size = 4

    def size(self):
        return self.__size


class Named(NamedTuple):
    one: int
    two: str = "x"


Plain = collections.namedtuple("Plain", "one two")  # noqa: PYI024 - another kind.
T = TypeVar("T")


class Box(Generic[T]):
    def __init__(self, value: T):
        self.value = value


@dataclasses.dataclass(slots=True, frozen=True, kw_only=True)
class Frozen:
    x: int = 1
    parts: list = dataclasses.field(default_factory=list)


class Counted:
    total = 0

    def scaled(self):
        return factor


class Color(enum.Enum):
    RED = 1

    def scaled(self):
        return factor


class Elsewhere:
    """Another process, which says back what it is told."""

    def __enter__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-c", ELSEWHERE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=ENVIRONMENT,
        )
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait() in (0, 1)

    def say(self, *values):
        parts = [payload.dump(value) for value in values]
        told = [(body, [bytes(frame) for frame in frames]) for body, frames in parts]
        pickle.dump(told, self._process.stdin)
        self._process.stdin.flush()
        return pickle.load(self._process.stdout)


def read(heard):
    return [payload.load(body, frames)[0] for body, frames in heard]


def there_and_back(*values):
    with Elsewhere() as elsewhere:
        heard = elsewhere.say(*values)
        elsewhere.say()
    return read(heard)


def test_objects_with_slots_come_back():
    slotted, point, above, both = there_and_back(Slotted(), Point(5), Above(), Both())

    assert (type(slotted), slotted.size) == (Slotted, 3)
    assert point == Point(5)
    assert (type(above), above.size) == (Above, 3)
    assert (type(both), both.size, both.more) == (Both, 1, 2)
    with pytest.raises(AttributeError):
        slotted.other = 1


def test_classes_of_every_kind_come_back():
    values = [Named(1), Plain(1, 2), Frozen(x=3), Color.RED]

    assert there_and_back(*values) == values
    bare, private, box = there_and_back(Bare(), Private(), Box[int](5))

    assert (bare.size, private.size(), box.value) == (3, 4, 5)
    assert {type(bare), type(private), type(box)} == {Bare, Private, Box}


class Outer:
    class Inner:
        @property
        def total(self):
            return type(self).__qualname__


def test_a_class_in_another_lost_there_where_it_stands():
    with Elsewhere() as elsewhere:
        heard = elsewhere.say(Outer.Inner())
        elsewhere.say()

    assert payload.load(*heard[0])[1] == "Outer.Inner"


class Strict(Exception):
    def __init__(self, text, *, code):
        super().__init__(text)
        self.code = code


class Own(Strict):
    def __reduce__(self):
        return restore, (self.code,)


def restore(code):
    return Own("restored", code=code)


def test_errors_that_are_values_come_back():
    circle = Strict("circle", code=6)
    circle.me = circle
    error, own, group, circle = there_and_back(
        Strict("bad", code=3), Own("bad", code=4), [ValueError("x"), Strict("in", code=5)], circle
    )

    assert (type(error), error.args, error.code) == (Strict, ("bad",), 3)
    assert (type(own), own.args, own.code) == (Own, ("restored",), 4)
    assert (type(group[0]), type(group[1]), group[1].code) == (ValueError, Strict, 5)
    assert circle.me is circle


def test_a_class_is_what_it_was_when_objects_of_it_come_back(monkeypatch):
    scaled = Counted.__dict__["scaled"]
    with Elsewhere() as elsewhere:
        heard = elsewhere.say(Counted(), Color.RED)
        elsewhere.say()
    monkeypatch.setattr(Counted, "total", 7)
    monkeypatch.setattr(sys.modules[__name__], "factor", 2)

    counted, red = read(heard)

    assert type(counted) is Counted
    assert Counted.__dict__["scaled"] is scaled
    assert (Counted.total, counted.scaled()) == (7, 2)
    assert red is Color.RED
    assert red.scaled() == 2


def test_a_class_from_elsewhere_has_what_was_changed_there(monkeypatch):
    totals = []
    with Elsewhere() as elsewhere:
        for total in (0, 7):
            monkeypatch.setattr(Counted, "total", total)
            [(body, frames)] = elsewhere.say(Counted())
            totals.append(payload.load(body, frames)[1])

    assert totals == [0, 7]


WITHOUT_NAMES = """
import sys
from wire import classes, payload

class Local:
    def __init__(self, size):
        self.size = size

assert not classes.KNOWS_HOW
made = payload.load(*payload.dump(Local(3))[:2])
print(made.size, type(made) is Local)
try:
    classes.fill_class(Local, ({}, {}))
except ImportError as error:
    print(error)
"""


def test_a_cloudpickle_that_calls_its_parts_otherwise_was_the_end_of_every_class(tmp_path):
    package = pathlib.Path(cloudpickle.__file__).parent
    (tmp_path / "cloudpickle").mkdir()
    for path in package.glob("*.py"):
        text = path.read_text()
        for name in ("_class_setstate", "_make_skeleton_class", "_DYNAMIC_CLASS_TRACKER_BY_ID"):
            text = text.replace(name, f"{name}_renamed")
        (tmp_path / "cloudpickle" / path.name).write_text(text)

    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_NAMES],
        env=ENVIRONMENT | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ran.stderr, ran.returncode) == ("", 0)
    is_itself, refused = ran.stdout.splitlines()
    assert is_itself == "3 True"
    assert refused.startswith("the class Local was sent by a process with another cloudpickle")
