"""Calls with a key: what is the same call, in each process, and what is another."""

import dataclasses
import enum
import functools
import os
import subprocess
import sys
from array import array
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sdk
from sdk.describing.likeness import digest_of, digest_of_arguments
from wire.parts import Call, Environment, Named

SCRIPT = """
import collections, dataclasses, enum, functools, sys
import sdk.describing.likeness

class Plain:
    def __init__(self, **attributes):
        vars(self).update(attributes)

@dataclasses.dataclass
class Order:
    number: int
    items: set

class Color(enum.Enum):
    RED = 1

Pair = collections.namedtuple("Pair", "a b")
looped = Plain(tags={"x", "y", "z"})
looped.me = looped
turn = int(sys.argv[1])
shared = " ".join(["a", "b"])
both = [shared, shared] if turn else [" ".join(["a", "b"]), " ".join(["a", "b"])]
values = [
    Plain(tags={"a", "b", "c", "d"}, order=Order(17, {"pen", "ink", "paper"})),
    [Order, Color.RED, Pair(1, 2), Plain.__init__],
    {frozenset({"a", "b", "c"}): Plain(x=1), Pair: {2}},
    looped,
    both,
    lambda x: x + len({"u", "v", "w"}),
    functools.partial(Plain, x={"a", "b"}),
]
for value in values:
    print(sdk.describing.likeness.digest_of_arguments((value,), {}).hex())
"""


def digest(*args, **kwargs):
    return digest_of_arguments(args, kwargs)


@pytest.mark.slow
def test_the_same_arguments_have_the_same_digest_in_each_run_of_a_script(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = str(Path(sdk.__file__).parents[1])

    runs = [
        subprocess.run(
            [sys.executable, script, seed],
            capture_output=True,
            text=True,
            check=True,
            env=dict(os.environ, PYTHONPATH=root, PYTHONHASHSEED=seed),
        ).stdout.split()
        for seed in ("0", "1")
    ]

    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 7


class Color(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass
class Point:
    x: int
    y: object = None


@dataclasses.dataclass
class Place:
    x: int
    y: object = None


NAMED = Named("space", "clicks", "identity")


def times(factor):
    return lambda x: x * factor


def test_another_value_or_another_type_has_another_digest():
    values = [
        *(1, 1.0, True, "1", b"1", None, -1, 2**70, bytearray(b"1"), array("i", [1])),
        *([1], (1,), {1}, frozenset({1}), {1: 1}, {1: 2}, {2: 1}, [[1]], {"a": {1}}, {"a": {2}}),
        *(Point(1), Point(2), Place(1), Point(1, {"a"}), Point(1, {"b"}), Point, Place),
        *(Color.RED, Color.BLUE, times, times(2), times(3), functools.partial(times, 2)),
        *(bytearray(b"x" * 20_000), bytearray(b"x" * 19_999 + b"y"), b"x" * 20_000),
        *([b"ab", b"c"], [b"a", b"bc"], os, sys, list[int], dict[str, int], (), {}, [], set()),
    ]

    digests = [digest(value) for value in values]

    assert len(set(digests)) == len(values)
    assert digest(1, 2) != digest((1, 2))
    assert digest(1) != digest(x=1)
    assert digest(x=1) != digest(y=1)


def test_what_has_no_order_and_what_is_one_object_by_chance_makes_no_difference():
    word, like_it = (" ".join(map(str, range(3))) for _ in range(2))

    assert word is not like_it
    assert digest(a=1, b=2) == digest(b=2, a=1)
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest([word, word]) == digest([word, like_it])


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3)
hashable = st.recursive(
    plain,
    lambda part: st.tuples(part, part) | st.frozensets(part, max_size=4),
    max_leaves=4,
)
values = st.recursive(
    hashable,
    lambda part: (
        st.lists(part, max_size=4)
        | st.dictionaries(hashable, part, max_size=4)
        | st.builds(Point, st.integers(), part)
    ),
    max_leaves=8,
)


def again(value):
    """Make an equal value of other objects, in which what has no order stands the other way."""
    match value:
        case str():
            return "".join(value)
        case list() | tuple():
            return type(value)(map(again, value))
        case frozenset():
            return frozenset([again(part) for part in reversed(list(value))])
        case dict():
            return {again(key): again(part) for key, part in reversed(value.items())}
        case Point():
            return Point(value.x, again(value.y))
    return value


@settings(max_examples=50)
@given(values)
def test_an_equal_value_of_other_objects_has_the_same_digest(value):
    assert digest(again(value)) == digest(value)


@settings(max_examples=50)
@given(values, values)
def test_two_values_with_the_same_digest_are_equal(one, other):
    assert digest(one) != digest(other) or one == other


def test_a_value_that_is_a_part_of_itself_has_a_digest():
    one, other = [1], [2]
    one.append(one)
    other.append(other)

    assert digest(one) != digest(other)
    assert digest(one) == digest(one)


def test_the_digest_of_a_call_is_of_what_is_called_and_with_what():
    call, arguments = Call("work", b"c" * 16), b"a" * 16
    first = digest_of(call, arguments)

    assert digest_of(Call("work", b"d" * 16, priority=5), arguments) == first
    others = {
        digest_of(Call("play", b"c" * 16), arguments),
        digest_of(Call("work", b"", "method"), arguments),
        digest_of(Call("work", b"", "", Environment("m.E:p:v", "E", b"")), arguments),
        digest_of(call, b"b" * 16),
    }
    assert len(others | {first}) == 5


def test_a_new_version_of_an_environment_is_the_same_one_and_other_parameters_are_not():
    def in_class(name, named=None):
        call = Call("work", b"", "method", Environment(name, "E", b"", named=named))
        return digest_of(call, b"")

    assert in_class("m.E:p:v1") == in_class("m.E:p:v2:client") == in_class("m.E:p:v1:fresh")
    assert in_class("m.E:p:v1") != in_class("m.E:q:v1")
    assert in_class("m.E:p:v1") != in_class("m.F:p:v1")
    assert in_class("a:b:c", NAMED) != in_class("a:b:d", NAMED)
