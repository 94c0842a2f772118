"""What functools and other libraries make of the user's code arrives as what it was."""

import functools
import os
import pathlib
import pickle
import subprocess
import sys
import textwrap

import pytest

from sdk.describing.code import capture
from sdk.describing.version import version_of
from wire import payload

ROOT = str(pathlib.Path(payload.__file__).parents[1])


@functools.singledispatch
def shown(value):
    return f"a {type(value).__name__}"


@shown.register
def _(value: int):
    return f"{value}"


@shown.register(list)
def _(value):
    return [shown(part) for part in value]


class Shows:
    @functools.singledispatchmethod
    def show(self, value):
        return shown(value)

    @show.register
    def _(self, value: int):
        return value + 1


def elsewhere(value, code):
    """Run *code*, which has `value`, in an interpreter that knows nothing of this file."""
    body, frames = payload.dump(value)
    script = "import pickle, sys\nfrom wire import payload\n"
    script += "value = payload.load(*pickle.load(sys.stdin.buffer))\n" + code
    return run(script, pickle.dumps((body, [bytes(frame) for frame in frames])), ROOT)


def run(script, octets, *paths):
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=octets,
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert not done.returncode, done.stderr.decode()
    return done.stdout


def test_a_function_that_dispatches_by_class_could_not_be_sent():
    assert shown([1, "x"]) == ["1", "a str"]

    assert elsewhere(shown, "print(value([1, 'x']), value.__name__)") == b"['1', 'a str'] shown\n"
    assert elsewhere(Shows(), "print(value.show(1), value.show([2]))") == b"2 ['2']\n"


def test_what_a_dispatcher_was_called_with_made_another_version_of_what_calls_it():
    class Model:
        def work(self, value):
            return shown(value)

    before, code = version_of(Model), capture(Model)

    shown({1.5})

    assert version_of(Model) == before
    assert capture(Model) is code

    shown.register(complex, lambda _: "complex")

    assert version_of(Model) != before
    assert capture(Model) is not code


CACHES = """
import functools
class Cached:
    def __init__(self, function):
        functools.update_wrapper(self, function)
        self.known = {}
    def __call__(self, x):
        if x not in self.known:
            self.known[x] = self.__wrapped__(x)
        return self.known[x]
    def __reduce__(self):
        return self.__qualname__
"""
CALLS = """
import sys
from caches import Cached
from wire import payload
@Cached
def fibonacci(x):
    return x if x < 2 else fibonacci(x - 1) + fibonacci(x - 2)
sys.stdout.buffer.write(payload.dump_code(fibonacci)[0])
"""
FINDS = (
    "import pickle, sys; f = pickle.load(sys.stdin.buffer); print(f(30), f.__name__, len(f.known))"
)


def test_a_function_that_is_an_object_with_a_name_failed_on_the_actor(tmp_path):
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "caches.py").write_text(textwrap.dedent(CACHES))

    stream = run(CALLS, b"", ROOT, str(folder))

    assert run(FINDS, stream, ROOT, str(folder)) == b"832040 fibonacci 31\n"


# As pydantic does: what checks a class is made from all of its schema, and is an attribute of it.
PYDANTIC = """
class SchemaValidator:
    def __init__(self, schema):
        self.schema, self.fields = schema, schema["fields"]
    def __reduce__(self):
        return SchemaValidator, (self.schema,)
"""
NAMESPACES = """
class NsResolver:
    def __init__(self, namespaces=None):
        self.namespaces = namespaces

class ConfigWrapper:
    def __init__(self, config):
        self.config_dict = self.effective = config
    def __getattr__(self, name):
        return self.effective[name]
"""
SENDS = """
import sys, threading
from pydantic_core import SchemaValidator
from pydantic import ConfigWrapper, NsResolver
from wire import payload
lock = threading.Lock()
class Model:
    pass
schema = {"class": Model, "fields": ["a", "b"]}
Model.checks = SchemaValidator(schema)
Model.namespaces = NsResolver(globals())
Model.config = ConfigWrapper({"strict": True})
sys.stdout.buffer.write(payload.dump_code([schema])[0])
"""
READS = """
import pickle, sys
(schema,) = pickle.load(sys.stdin.buffer)
Model = schema["class"]
print(Model.checks.fields, Model.checks.schema["class"] is Model)
print(Model.namespaces.namespaces, Model.config.strict)
"""


@pytest.fixture
def installed(tmp_path):
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "pydantic_core.py").write_text(textwrap.dedent(PYDANTIC))
    (folder / "pydantic.py").write_text(textwrap.dedent(NAMESPACES))
    return str(folder)


def test_a_class_of_pydantic_was_made_from_half_of_its_schema(installed):
    # Of two that refer to one another neither could be sent; what stands beside was sent with it.
    stream = run(SENDS, b"", ROOT, installed)

    assert run(READS, stream, ROOT, installed) == b"['a', 'b'] True\nNone True\n"


ALIASES = """
import sys
from wire import payload
exec('''
type Key = int | str
type Tree = dict[str, Tree] | int
type Pairs[T] = list[tuple[T, T]]
def count(key: Key, tree: Tree, pairs: Pairs[int]) -> int:
    return key
''')
sys.stdout.buffer.write(payload.dump_code(count)[0])
"""
NAMES = """
import pickle, sys
from wire import payload
for _ in range(2):
    count = pickle.loads(count if _ else sys.stdin.buffer.read())
    key, tree, pairs, _ = count.__annotations__.values()
    assert tree.__value__.__args__[0].__args__[1] is tree
    print(count(1, 2, 3), key.__value__, key.__module__, pairs, pairs.__value__.__origin__)
    count = payload.dump_code(count)[0]
"""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the statement is new in 3.12")
def test_a_function_with_the_name_of_a_type_in_its_annotations_failed_on_the_actor():
    stream = run(ALIASES, b"", ROOT)

    said = b"1 int | str __main__ Pairs[int] <class 'list'>\n"
    assert run(NAMES, stream, ROOT) == 2 * said


def test_the_name_of_a_type_that_another_library_makes_failed_on_the_actor(tmp_path):
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "typing_extensions.py").write_text(textwrap.dedent(EXTENSIONS))

    stream = run(EXTENDS, b"", ROOT, str(folder))

    shows = "import pickle, sys; print(*vars(pickle.load(sys.stdin.buffer)).values())"
    assert run(shows, stream, ROOT, str(folder)) == b"Key <class 'int'> () __main__\n"


# As it is before Python 3.12.
EXTENSIONS = """
import sys
class TypeAliasType:
    def __init__(self, name, value, *, type_params=()):
        self.__name__, self.__value__, self.__type_params__ = name, value, type_params
        self.__module__ = sys._getframe(1).f_globals["__name__"]
    def __reduce__(self):
        return self.__name__
"""
EXTENDS = """
import sys
from typing_extensions import TypeAliasType
from wire import payload
Key = TypeAliasType("Key", int)
sys.stdout.buffer.write(payload.dump_code(Key)[0])
"""
