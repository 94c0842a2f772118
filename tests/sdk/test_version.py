"""A class has one version in each process, and another as soon as it does something else."""

import functools
import importlib
import re
import subprocess
import sys
import textwrap
import types

import pytest

from sdk.describing.code import capture
from sdk.describing.version import version_of
from tests.sdk.fakes import unpickled_elsewhere

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
    from sdk.describing.version import version_of
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


def pair(*, first=0, second=0):
    return first, second


class First:
    def takes(self, first, second):
        return first, second

    def has_default(self, *, first=1, second):
        return first, second

    partly = functools.partial(pair, first=1)
    positional = functools.partial(pair, first=1)

    def tries(self):
        try:
            self.takes(1, 2)
        except ValueError:
            return 1
        return self.takes(1, 2)


class Second:
    def takes(self, first, *, second):
        return first, second

    def has_default(self, *, first, second=1):
        return first, second

    partly = functools.partial(pair, second=1)
    positional = functools.partial(pair, "first", 1)

    def tries(self):
        try:
            self.takes(1, 2)
            return self.takes(1, 2)
        except ValueError:
            return 1


@pytest.mark.parametrize("name", ["takes", "has_default", "partly", "positional", "tries"])
def test_a_version_changes_with_the_names_by_which_something_is_known(name):
    versions = {
        version_of(type("Thing", (), {name: renamed(kind.__dict__[name])}))
        for kind in (First, Second)
    }

    assert len(versions) == 2


def renamed(part):
    """Let no name of the class that it is from tell it apart."""
    if isinstance(part, types.FunctionType):
        part.__qualname__ = part.__name__
    return part


def test_a_class_has_the_same_version_where_it_was_unpickled(monkeypatch):
    there = unpickled_elsewhere(monkeypatch, Unordered)

    assert there is not Unordered
    assert version_of(there) == version_of(Unordered)


class Unordered:
    """Its attributes do not stand in the order of their names."""

    b = 2

    def work(self):
        return self.a, self.found

    @functools.cached_property
    def found(self):
        return self.b

    a = 1


def test_a_class_of_pydantic_was_another_version_in_each_process():
    class Decorator:
        __module__ = "pydantic._internal"

        def __init__(self, address, info):
            self.cls_ref, self.cls_var_name = f"Row:{address}", "check"
            self.func, self.info = len, info

    def used(address, info="before"):
        class Row:
            cells = 3

        Row.__pydantic_core_schema__ = {"ref": f"Row:{address}"}
        Row.__pydantic_decorators__ = {"check": Decorator(address, info)}

        class Model:
            def work(self):
                return Row()

        return Model

    assert version_of(used(1)) == version_of(used(2)) != version_of(used(1, "after"))


def test_a_long_chain_of_helpers_has_a_version():
    def chain(length):
        function = len
        for _ in range(length):
            function = link_to(function)
        return type("Chain", (), {"work": function})

    assert version_of(chain(2_000)) == version_of(chain(2_000)) != version_of(chain(2_001))


def link_to(function):
    def link(x):
        return function(x)

    return link


HELPERS = """
untouched = 1
SIZE = 1
def load():
    return SIZE
"""


def test_a_version_is_short():
    assert re.fullmatch("[0-9a-f]{12}", version_of(Timed))
