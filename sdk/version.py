"""The version of code: words that say what a class does, the same in each process.

Where it lies, in which order its attributes stand and what happens to be one object is no part of
it. The rule that must not be broken: what behaves in another way has another version, as far as
that can be seen; what cannot be looked into counts with its type alone.
"""

import datetime as dt
import decimal
import enum
import hashlib
import logging
import pathlib
import re
import types
import uuid
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, Final

from sdk.code import HIDDEN, contents, is_installed_object, view_of_function
from wire.payload import is_basic, names_in

# Constants of which `repr` says everything, in each process the same.
SPELLED: Final = (
    str,
    bytes,
    int,
    float,
    complex,
    types.NoneType,
    range,
    types.EllipsisType,
    types.GenericAlias,
    types.UnionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    dt.date,
    dt.time,
    dt.timedelta,
    dt.timezone,
    decimal.Decimal,
    pathlib.PurePath,
    uuid.UUID,
)

# What was met, by its id: its number, and itself, so that nothing else has this id meanwhile.
Seen = dict[Hashable, tuple[int, Any]]


def version_of(kind: type) -> str:
    """Digest the code of *kind* and what it calls; the same in each run of a script."""
    return digest_of_words(kind, 6)


def digest_of_words(value: Any, size: int) -> str:
    """Digest what *value* reaches, as far as that is known, to *size* octets in hex."""
    feed = hashlib.blake2b(digest_size=size)
    for text in words_of(value, {}):
        feed.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return feed.hexdigest()


def words_of(value: Any, seen: Seen) -> Iterator[str]:
    """Write *value* as words that do not depend on addresses, hashes or where the file lies."""
    kind = type(value)
    if isinstance(value, SPELLED) and not isinstance(value, enum.Enum):
        yield f"{kind.__name__} {value!r}"
        return
    if isinstance(value, types.CodeType):
        yield from words_of_code(value, seen)
        return
    yield kind.__name__
    if kind is tuple:
        # Whether two equal ones are one object is chance.
        for part in value:
            yield from words_of(part, seen)
        return
    if id(value) in seen:
        yield f"number {seen[id(value)][0]}"
        return
    seen[id(value)] = (len(seen), value)
    if is_installed_object(value):
        yield f"{getattr(value, '__module__', '')} {getattr(value, '__qualname__', '')}"
        return
    yield from words_inside(value, seen)


def words_inside(value: Any, seen: Seen) -> Iterator[str]:
    """Write what is in *value*, which was not met before."""
    match value:
        case types.FunctionType():
            yield value.__qualname__
            names = names_in(value.__code__)
            for part in view_of_function(value):
                if isinstance(part, types.ModuleType):
                    yield from words_of_module(part, names, seen)
                else:
                    yield from words_of(part, seen)
        case type():
            yield value.__qualname__
            for base in value.__bases__:
                yield from words_of(base, seen)
            # Sorted: where a class was unpickled its attributes stand in another order.
            for name, part in sorted(value.__dict__.items()):
                if name not in HIDDEN:
                    yield name
                    yield from words_of(part, seen)
        case types.ModuleType():
            yield value.__name__
        case re.Pattern():
            yield f"{value.pattern!r} {value.flags}"
        case enum.Enum() | logging.Logger():
            yield value.name
            yield type(value).__qualname__
        case types.BuiltinFunctionType():
            yield f"{value.__module__} {value.__qualname__}"
        case dict():
            for key, part in value.items():
                yield from words_of(key, seen)
                yield from words_of(part, seen)
        case set() | frozenset():
            # Each begins with what was known before: they come in any order.
            yield from sorted(" ".join(words_of(part, dict(seen))) for part in value)
        case _:
            inner = contents(value)
            if inner is not None and inner[0] is not None:
                for part in inner[0](value):
                    yield from words_of(part, seen)


def words_of_module(module: types.ModuleType, names: frozenset[str], seen: Seen) -> Iterator[str]:
    """Write what code that knows *names* could use of a module of the user's."""
    yield f"module {module.__name__}"
    if is_installed_object(module) or (id(module), names) in seen:
        return
    seen[id(module), names] = (len(seen), module)
    for name in sorted(names & vars(module).keys()):
        part = vars(module)[name]
        if isinstance(part, types.ModuleType):
            yield from words_of_module(part, names, seen)
        elif is_basic(part) and not name.startswith("__"):
            yield name
            yield from words_of(part, seen)


def words_of_code(code: types.CodeType, seen: Seen) -> Iterable[str]:
    """Write what *code* does, without where it stands."""
    yield f"code {code.co_name} {code.co_flags} {code.co_code.hex()}"
    yield " ".join((*code.co_names, *code.co_varnames, *code.co_freevars, *code.co_cellvars))
    for constant in code.co_consts:
        yield from words_of(constant, seen)
