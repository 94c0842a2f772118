"""A function is pickled once, and again as soon as anything that travels with it has changed."""

import dataclasses
import datetime as dt
import enum
import functools
import importlib
import json
import logging
import re
import subprocess
import sys
import textwrap
import types

import cloudpickle
import pytest

from sdk.code import capture, version_of, watch
from sdk.errors import SerializationError
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


def test_a_large_graph_is_not_watched():
    functions = [closed_over(n) for n in range(1_000)]

    assert watch(closed_over(functions)) is None


def test_a_function_that_is_gone_is_forgotten():
    from sdk import code

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


# --- versions

CLASS = """
    import json
    SCALE = {scale}
    def helper(x):
        return x * SCALE
    class Thing:
        names = {{"b", "a", "c"}}
        def work(self, x):
            {body}
            return helper(x) in {{"x", "y", "z", {scale}}}
    from sdk.code import version_of
    print(version_of(Thing))
"""


def version_in_a_new_process(tmp_path, *, scale=1, body="pass", above=""):
    script = tmp_path / "script.py"
    script.write_text(above + textwrap.dedent(CLASS).format(scale=scale, body=body))
    root = __import__("pathlib").Path(sys.modules["sdk"].__file__).parents[1]
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        check=True,
        env=dict(__import__("os").environ, PYTHONPATH=str(root), PYTHONHASHSEED="random"),
    )
    return done.stdout.strip()


@pytest.mark.slow
def test_a_version_is_the_same_in_each_run_and_wherever_the_code_stands(tmp_path):
    first = version_in_a_new_process(tmp_path)

    assert version_in_a_new_process(tmp_path) == first
    assert version_in_a_new_process(tmp_path, above="# a comment\n\n\n") == first


@pytest.mark.slow
def test_a_version_changes_with_the_code_and_with_what_it_calls(tmp_path):
    versions = {
        version_in_a_new_process(tmp_path),
        version_in_a_new_process(tmp_path, body="x = 1"),
        version_in_a_new_process(tmp_path, scale=2),
    }

    assert len(versions) == 3


# A variable of the script, which has nothing to do with the attribute of this name.
elapsed = 0.0


class Timed:
    def work(self):
        self.elapsed = 1.0
        return self.elapsed


def test_a_variable_that_is_called_like_an_attribute_is_no_part_of_the_code(monkeypatch):
    version, captured = version_of(Timed), capture(Timed)

    monkeypatch.setattr(sys.modules[__name__], "elapsed", 5.0)

    assert version_of(Timed) == version
    assert capture(Timed) is captured


def test_a_version_changes_with_what_it_calls_of_a_module_of_the_users(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "called_helpers.py").write_text(HELPERS)
    helpers = importlib.import_module("called_helpers")

    class Caller:
        def work(self):
            return helpers.load()

    versions = [version_of(Caller)]
    monkeypatch.setattr(helpers, "untouched", 2)
    versions.append(version_of(Caller))
    monkeypatch.setattr(helpers, "SIZE", 2)
    versions.append(version_of(Caller))
    monkeypatch.setattr(helpers, "load", lambda: 3)
    versions.append(version_of(Caller))

    assert versions[0] == versions[1]
    assert len(set(versions)) == 3


def test_a_class_has_the_same_version_where_it_was_unpickled(monkeypatch):
    there = unpickled_elsewhere(monkeypatch, Unordered)

    assert there is not Unordered
    assert version_of(there) == version_of(Unordered)


def unpickled_elsewhere(monkeypatch, kind):
    """Return the class as a process has it that has never seen it."""
    stream = capture(kind).code.stream
    for known in ("_DYNAMIC_CLASS_TRACKER_BY_ID", "_DYNAMIC_CLASS_TRACKER_BY_CLASS"):
        monkeypatch.setattr(cloudpickle.cloudpickle, known, {})
    return load_function(stream)


class Unordered:
    """Its attributes do not stand in the order of their names."""

    b = 2

    def work(self):
        return self.a, self.found, once(3)

    @functools.cached_property
    def found(self):
        return self.b

    a = 1


@functools.lru_cache(maxsize=7)
def once(x):
    return x if x < 3 else once(x - 1)


def test_what_has_a_cache_travels_with_its_code():
    stream = capture(once).code.stream

    there = load_function(stream)

    assert there is not once
    assert there(4) == 2
    assert there.cache_parameters()["maxsize"] == 7
    assert capture(once) is capture(once)


def test_a_property_that_keeps_what_it_finds_travels(monkeypatch):
    there = unpickled_elsewhere(monkeypatch, Unordered)

    assert there().work() == (1, 2, 2)


HELPERS = """
untouched = 1
SIZE = 1
def load():
    return SIZE
"""


def test_a_version_is_short():
    assert re.fullmatch("[0-9a-f]{12}", version_of(Frozen))
