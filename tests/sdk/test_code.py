"""A function is pickled once, and again as soon as anything that travels with it has changed."""

import dataclasses
import datetime as dt
import enum
import functools
import importlib
import json
import logging
import re
import sys
import types

import pytest

from sdk.describing.code import REACHED_MAX, capture, watch
from sdk.errors import SerializationError
from tests.sdk.fakes import unpickled_elsewhere
from wire.payload import load_function

FACTOR = 2
TABLE = {"a": 1}
log = logging.getLogger("test")


class Color(enum.Enum):
    RED = 1


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: int


@dataclasses.dataclass
class Loose:
    x: int


class Slotted:
    __slots__ = ("a",)

    def __init__(self):
        self.a = 1


def scale(x):
    return x * FACTOR


def indirect(x):
    return scale(x) + 1


def closed_over(value):
    def inner():
        return value

    return inner


def test_the_same_function_is_pickled_once():
    assert capture(scale) is capture(scale)


def test_a_function_of_an_installed_module_is_kept_for_good():
    captured = capture(json.dumps)

    assert captured.is_kept
    assert captured.is_portable
    assert capture(json.dumps) is captured


def test_a_global_that_is_set_anew_is_sent_anew(monkeypatch):
    before = capture(indirect)
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 10)

    after = capture(indirect)

    assert after.code.hash != before.code.hash
    assert load_function(after.code.stream)(2) == 21


def test_a_closure_that_is_set_anew_is_sent_anew():
    count = 1

    def read():
        return count

    before = capture(read)
    count = 2

    assert load_function(before.code.stream)() == 1
    assert load_function(capture(read).code.stream)() == 2


def state_of(value):
    return value.a if isinstance(value, Slotted) else value


@pytest.mark.parametrize(
    ("value", "change"),
    [
        ([1], lambda v: v.append(2)),
        ({"a": 1}, lambda v: v.update(a=2)),
        ({1}, lambda v: v.add(2)),
        ([[1]], lambda v: v[0].append(2)),
        (Loose(1), lambda v: setattr(v, "x", 2)),
        (Loose([1]), lambda v: v.x.append(2)),
        (Slotted(), lambda v: setattr(v, "a", 2)),
        (types.SimpleNamespace(x=1), lambda v: setattr(v, "x", 2)),
        (bytearray(b"a"), lambda v: v.append(1)),
    ],
)
def test_what_changes_inside_is_never_sent_stale(value, change):
    function = closed_over(value)
    before = load_function(capture(function).code.stream)()

    change(value)

    after = load_function(capture(function).code.stream)()
    assert state_of(after) == state_of(value) != state_of(before)


@pytest.mark.parametrize(
    "value",
    [
        1,
        "text",
        (1, (2, "x")),
        [1, 2],
        {"k": [1]},
        frozenset({1}),
        Color.RED,
        Frozen(1),
        Loose([1]),
        Slotted(),
        dt.timedelta(seconds=1),
        re.compile("a"),
        log,
        json,
        json.dumps,
        int,
        scale,
        list[int],
    ],
)
def test_what_is_known_through_and_through_is_kept(value):
    function = closed_over(value)

    assert capture(function) is capture(function)


def test_default_arguments_and_attributes_count():
    def work(x=1, *, y=2):
        return x + y

    before = capture(work)
    work.__kwdefaults__["y"] = 3
    between = capture(work)
    work.__defaults__ = (10,)
    after = capture(work)

    assert len({before.code.hash, between.code.hash, after.code.hash}) == 3


def test_the_same_value_under_another_name_counts():
    class Thing:
        pass

    def work(*, first=1, second=0):
        return first, second, vars(Thing)

    def rename_attribute():
        del Thing.first
        Thing.second = shared

    def rename_default():
        work.__kwdefaults__ = {"second": shared}

    def rename_mark():
        del work.first
        work.second = shared

    shared = (1, 2)
    Thing.first = shared
    work.__kwdefaults__ = {"first": shared}
    work.first = shared
    hashes = [capture(work).code.hash]
    for rename in (rename_attribute, rename_default, rename_mark):
        rename()
        hashes.append(capture(work).code.hash)

    assert len(set(hashes)) == 4


def test_a_variable_of_a_module_under_another_name_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "renamed_helpers.py").write_text("SIZE = 1_000_000\n")
    helpers = importlib.import_module("renamed_helpers")

    def work():
        return helpers.SIZE, helpers.LENGTH

    before = capture(work)
    helpers.LENGTH = helpers.SIZE
    del helpers.SIZE

    assert capture(work).code.hash != before.code.hash


def test_new_code_counts():
    def work():
        return 1

    before = capture(work)
    work.__code__ = (lambda: 2).__code__

    assert load_function(capture(work).code.stream)() == 2
    assert capture(work) is not before


def test_a_helper_module_counts(tmp_path, monkeypatch):
    (tmp_path / "helped_of_test.py").write_text("K = 1\nTABLE = [1]\ndef f(): return K\n")
    monkeypatch.syspath_prepend(tmp_path)
    helped = importlib.import_module("helped_of_test")

    def work():
        return helped.f() + helped.TABLE[0]

    try:
        before = capture(work)
        assert capture(work) is before
        helped.K = 5
        middle = capture(work)
        helped.TABLE.append(3)
        after = capture(work)
    finally:
        sys.modules.pop("helped_of_test")

    assert len({before.code.hash, middle.code.hash, after.code.hash}) == 3
    assert load_function(after.code.stream)() == 6


def lone(a, b=1):
    return a + b


def other(a, b=1):
    return a - b


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("__code__", other.__code__),
        ("__defaults__", (2,)),
        ("__kwdefaults__", {"b": 3}),
        ("mark", "new"),
    ],
)
def test_a_function_that_names_nothing_outside_is_pickled_again_when_it_has_changed(name, value):
    function = types.FunctionType(lone.__code__, globals(), "lone", lone.__defaults__)
    function.__module__ = __name__
    before = capture(function)
    assert before.is_current
    assert capture(function) is before

    setattr(function, name, value)

    assert not before.is_current
    assert capture(function) is not before


def test_a_large_graph_is_not_watched():
    functions = [closed_over(n) for n in range(REACHED_MAX)]

    assert watch(closed_over(functions)) is None


def test_a_function_that_is_gone_is_forgotten():
    from sdk.describing import code

    function = closed_over(1)
    capture(function)
    key = id(function)
    del function

    assert key not in code._captured


def test_what_cannot_be_pickled_is_named():
    lock = __import__("threading").Lock()

    def work():
        return lock

    with pytest.raises(SerializationError, match=r"the function 'work'.*lock"):
        capture(work, "the function 'work'")


def test_a_function_of_a_module_that_has_a_lock_says_that_installing_it_helps():
    names = {"__name__": "project.work", "LOCK": __import__("threading").Lock()}
    exec("def work():\n    return LOCK", names)

    with pytest.raises(SerializationError, match=r"global 'LOCK': .*install 'project' here and"):
        capture(names["work"])


@functools.lru_cache(maxsize=7)
def once(x):
    return x if x < 3 else once(x - 1)


class Finder:
    @functools.cached_property
    def found(self):
        return 2


def test_what_has_a_cache_travels_with_its_code():
    stream = capture(once).code.stream

    there = load_function(stream)

    assert there is not once
    assert there(4) == 2
    assert there.cache_parameters()["maxsize"] == 7
    assert capture(once) is capture(once)


def test_a_property_that_keeps_what_it_finds_travels(monkeypatch):
    there = unpickled_elsewhere(monkeypatch, Finder)

    assert there().found == 2
