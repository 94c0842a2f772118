"""Payloads come back as they went, with large buffers beside them, and by value where they must."""

import collections
import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import pickle
import subprocess
import sys
import textwrap
import threading
import types

import cloudpickle
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire import culprit, payload
from wire.codec import BUFFER_BYTES_MIN, INLINE_BYTES_MAX
from wire.errors import Code

# A child finds the packages as this process does.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(pathlib.Path(payload.__file__).parents[1])}

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=200),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)


@dataclasses.dataclass
class Point:
    x: int
    y: int


def double(x):
    return 2 * x


def run(*values, code):
    """Run *code*, which has `values`, in an interpreter that knows nothing of this file."""
    parts = [payload.dump(value) for value in values]
    script = textwrap.dedent(
        """
        import pickle, sys
        from wire import payload
        values = [payload.load(body, frames) for body, frames in pickle.load(sys.stdin.buffer)]
        """
    ) + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=pickle.dumps([(body, [bytes(f) for f in frames]) for body, frames in parts]),
        capture_output=True,
        check=False,
        env=ENVIRONMENT,
    )
    assert not done.returncode, done.stderr.decode()
    return done.stdout.decode().strip()


@given(PLAIN)
def test_a_plain_value_comes_back(value):
    body, frames = payload.dump(value)

    assert payload.load(body, frames) == value
    assert payload.dump_value(value).is_portable or payload.BUILDERS in body + b"".join(frames)


@pytest.mark.parametrize("size", [0, 10, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1, 10**6])
def test_a_large_body_is_the_first_frame(size):
    body, frames = payload.dump(b"x" * size)

    assert len(body) <= INLINE_BYTES_MAX
    assert (body == b"") == (len(frames) == 1)
    assert payload.load(body, frames) == b"x" * size


@pytest.mark.parametrize(
    ("size", "count"), [(BUFFER_BYTES_MIN - 1, 0), (BUFFER_BYTES_MIN, 1), (10**6, 1)]
)
def test_a_large_array_is_a_frame_of_its_own(size, count):
    array = np.arange(size, dtype=np.uint8)

    body, frames = payload.dump({"array": array})
    loaded = payload.load(body, frames)

    assert len([f for f in frames if payload.size_of(f) == size]) == count
    assert (loaded["array"] == array).all()


def test_an_array_is_not_copied():
    array = np.zeros(10**6, np.uint8)

    body, frames = payload.dump(array)
    loaded = payload.load(body, frames)

    assert np.shares_memory(array, loaded)


def test_a_large_body_and_arrays_stay_apart():
    value = (b"y" * 10_000, np.ones(10_000), np.zeros(10_000))

    body, frames = payload.dump(value)
    text, ones, zeros = payload.load(body, frames)

    assert body == b""
    assert [payload.size_of(f) for f in frames[1:]] == [80_000, 80_000]
    assert (text, ones.sum(), zeros.sum()) == (b"y" * 10_000, 10_000, 0)


def test_an_array_in_pieces_stays_in_the_pickle():
    array = np.zeros((1_000, 1_000))[::2, ::2]

    loaded = payload.load(*payload.dump(array))

    assert loaded.shape == (500, 500)


def test_more_buffers_than_a_message_holds_stay_in_the_pickle():
    arrays = [np.zeros(BUFFER_BYTES_MIN, np.uint8)] * 1
    arrays += [np.zeros(BUFFER_BYTES_MIN, np.uint8) for _ in range(payload.BUFFERS_MAX + 10)]

    body, frames = payload.dump(arrays)

    assert len(frames) == payload.BUFFERS_MAX + 1
    assert len(payload.load(body, frames)) == payload.BUFFERS_MAX + 11


# --- by value, by reference


@pytest.mark.parametrize(
    ("value", "is_portable"),
    [
        (len, True),
        (json.dumps, True),
        (collections.OrderedDict, True),
        (np.float64(1), True),
        (payload.dump, True),
        (lambda: 1, False),
        (double, False),
        (Point, False),
        (Point(1, 2), False),
        (functools.partial(double, 1), False),
        ([{"deep": (double,)}], False),
        ("__main__", True),
    ],
)
def test_code_of_the_user_travels_by_value_and_other_code_by_name(value, is_portable):
    assert payload.dump_value(value).is_portable is is_portable


def test_a_function_of_a_test_runs_where_the_test_is_not():
    assert run(double, Point(3, 4), code="print(values[0](21), values[1].x)") == "42 3"


def test_ours_travel_by_name_wherever_they_lie():
    body, _ = payload.dump([payload.dump, Code])

    assert b"cloudpickle" not in body


def test_a_helper_module_travels_with_the_function_that_uses_it(tmp_path, monkeypatch):
    (tmp_path / "helper_of_test.py").write_text("def add(x): return x + SHIFT\nSHIFT = 5\n")
    (tmp_path / "user_of_test.py").write_text(
        "import helper_of_test\nfrom helper_of_test import add\n"
        "def both(x): return add(x) + helper_of_test.add(x)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("user_of_test")
    try:
        assert run(module.both, code="print(values[0](1))") == "12"
    finally:
        sys.modules.pop("user_of_test")
        sys.modules.pop("helper_of_test")


def test_what_happens_to_stand_in_a_module_stays_where_it_is(tmp_path, monkeypatch):
    (tmp_path / "stateful_of_test.py").write_text(
        "import threading\nLOCK = threading.Lock()\nLARGE = list(range(100_000))\nTABLE = [7]\n"
        "def used(): return TABLE[0]\n"
        "def unused(): return LOCK\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    stateful = importlib.import_module("stateful_of_test")

    def work():
        return stateful.used() + stateful.TABLE[0]

    try:
        assert run(work, code="print(values[0]())") == "14"
        assert len(payload.dump_code(work)[0]) < 10_000
    finally:
        sys.modules.pop("stateful_of_test")


def test_modules_that_import_one_another_travel(tmp_path, monkeypatch):
    (tmp_path / "one_of_test.py").write_text(
        "import two_of_test\ndef f(n): return two_of_test.g(n)\n"
    )
    (tmp_path / "two_of_test.py").write_text(
        "import one_of_test\ndef g(n): return one_of_test.f(n - 1) if n else 'end'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    one = importlib.import_module("one_of_test")
    try:
        assert run(one.f, code="print(values[0](5))") == "end"
    finally:
        sys.modules.pop("one_of_test")
        sys.modules.pop("two_of_test")


def test_what_runs_as_main_travels_by_value(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from wire import payload\n"
        "class Mine:\n    pass\n"
        "def f(): return Mine()\n"
        "print(payload.dump_value(f).is_portable, payload.dump_value(Mine()).is_portable)\n"
    )

    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False, env=ENVIRONMENT
    )

    assert done.stdout.split() == ["False", "False"], done.stderr


def test_cloudpickles_registry_is_left_as_it_was():
    before = cloudpickle.list_registry_pickle_by_value()

    payload.dump(double)

    assert cloudpickle.list_registry_pickle_by_value() == before


def test_a_module_with_two_names_is_one(monkeypatch):
    # As multiprocessing does it in a child that it spawns.
    monkeypatch.setitem(sys.modules, "__mp_main__", sys.modules["__main__"])
    before = cloudpickle.list_registry_pickle_by_value()

    payload.dump(double)

    assert cloudpickle.list_registry_pickle_by_value() == before


def test_many_threads_may_pickle_by_value():
    streams = []

    def work():
        streams.extend(payload.dump_code(double)[0] for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(streams)) == 1
    assert len(streams) == 160


def test_a_module_that_is_imported_later_is_noticed(tmp_path, monkeypatch):
    payload.dump(double)
    (tmp_path / "late_of_test.py").write_text("def f(): return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("late_of_test")

    try:
        assert not payload.dump_value(module.f).is_portable
    finally:
        sys.modules.pop("late_of_test")


@pytest.mark.parametrize(
    ("name", "path", "is_users"),
    [
        ("json", json.__file__, False),
        ("numpy.linalg", np.linalg.__file__, False),
        ("sys", None, False),
        ("sdk.client", "/somewhere/sdk/client.py", False),
        ("project.models", "/somewhere/project/models.py", True),
        ("__main__", None, True),
        ("made_by_hand", None, True),
        ("thing", "/somewhere/.venv/lib/python3.11/site-packages/thing.py", False),
        ("thing", "/usr/lib/python3/dist-packages/thing.py", False),
    ],
)
def test_who_is_the_users(name, path, is_users):
    module = types.ModuleType(name)
    if path:
        module.__file__ = path

    assert payload.is_user_module(name, module) is is_users


def test_a_module_of_the_users_that_is_called_as_one_of_ours_is_theirs(monkeypatch):
    module = types.ModuleType("actor")
    module.__file__ = "/somewhere/actor.py"
    monkeypatch.setitem(sys.modules, "actor", module)

    assert payload.is_user_module("actor", module)


def test_a_namespace_is_judged_by_its_folders():
    module = types.ModuleType("space")
    module.__path__ = ["/somewhere/space"]

    assert payload.is_user_module("space", module)


# --- errors


@pytest.mark.parametrize(
    ("args", "kwargs", "place"),
    [
        ((1, threading.Lock()), {}, "argument 1: "),
        ((), {"lock": threading.Lock()}, "argument 'lock': "),
        (([1, {"a": (2, threading.Lock())}],), {}, "argument 0[1]['a'][1]: "),
        ((1, 2), {"x": 3}, ""),
    ],
)
def test_the_argument_that_cannot_be_pickled_is_named(args, kwargs, place):
    found = culprit.culprit(args, kwargs)

    assert found.startswith(place)
    assert bool(found) == bool(place)
    assert not place or "lock" in found


LOCK = threading.Lock()


def uses_a_global(again=False):
    return uses_a_global() if again else [LOCK for _ in range(1)]


def with_a_default(value=1, *, lock=LOCK):
    return value, lock


def with_a_variable():
    mine = threading.Lock()
    return lambda: mine


class Holder:
    __slots__ = ("__dict__", "slot")

    def __init__(self):
        super().__init__()
        self.own = LOCK

    def method(self):
        return self.own


class Shared:
    def method(self):
        return Shared.lock

    lock = LOCK


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (uses_a_global, "global 'LOCK': a value of type lock"),
        (with_a_default, "default 'lock': "),
        (with_a_variable(), "variable 'mine': "),
        (functools.partial(len, [LOCK]), ", arguments[0][0]: "),
        (Holder().method, "its object, attribute 'own': "),
        (Shared, "attribute 'lock': "),
        ([len, Holder()], "[1], attribute 'own': "),
        (LOCK, "a value of type lock cannot be pickled"),
        (len, ""),
    ],
)
def test_what_a_function_takes_along_is_named_when_it_cannot_be_pickled(value, place):
    assert culprit.culprit_in(value).startswith(place.removeprefix(", "))
    assert bool(culprit.culprit_in(value)) == bool(place)


def test_a_value_that_cannot_be_pickled_says_what_and_why():
    with pytest.raises(payload.PayloadError, match=r"a value of type lock cannot be .*TypeError"):
        payload.dump(threading.Lock())


def test_a_hash_has_16_octets_and_names_the_stream():
    assert len(payload.digest(b"a")) == 16
    assert payload.digest(b"a") == payload.digest(bytearray(b"a")) != payload.digest(b"b")


def test_code_that_travels_by_value_says_in_which_file_it_stands():
    def fail():
        raise ValueError("here")

    stream, _ = payload.dump_code(fail)

    assert payload.load_function(stream).__code__.co_filename == __file__


@pytest.mark.parametrize("name", sorted(payload.REQUIRED))
def test_what_we_need_is_no_users_module_wherever_it_lies(name):
    module = types.ModuleType(name)
    module.__file__ = f"/srv/vendored/{name}/__init__.py"

    assert not payload.is_user_module(f"{name}.inner", module)
