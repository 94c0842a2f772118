"""The version of code: words that say what a class does, the same in each process.

Where it lies, in which order its attributes stand and what happens to be one object is no part of
it. The rule that must not be broken: what behaves in another way has another version, as far as
that can be seen; what cannot be looked into counts with its type alone.
"""

import enum
import hashlib
import logging
import re
import types
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from sdk.describing.code import (
    HIDDEN,
    SPELLED,
    contents,
    is_installed_object,
    view_of_function,
    watch,
)
from sdk.errors import SerializationError
from wire.culprit import culprit
from wire.payload import PayloadError, dump_code, is_basic, names_in
from wire.wrapped import is_dispatcher, is_of_pydantic, view_of_dispatcher

# What was met, by its id: its number, and itself, so that nothing else has this id meanwhile.
Seen = dict[Hashable, tuple[int, Any]]


class Word(str):
    """A word that is written as it stands."""

    __slots__ = ()


class Used(NamedTuple):
    """A module, as far as code that knows *names* could use it."""

    module: types.ModuleType
    names: frozenset[str]


def version_of(kind: type) -> str:
    """Digest the code of *kind* and what it calls; the same in each run of a script."""
    return digest_of_words(kind, 6)


def digest_of_words(value: Any, size: int, seen: Seen | None = None) -> str:
    """Digest what *value* reaches, as far as that is known, to *size* octets in hex."""
    feed = hashlib.blake2b(digest_size=size)
    for text in words_of(value, {} if seen is None else seen):
        feed.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return feed.hexdigest()


def words_of(value: Any, seen: Seen) -> Iterator[str]:
    """Write *value* as words that do not depend on addresses, hashes or where the file lies.

    However deep it goes: the stack is a list.
    """
    todo = [value]
    while todo:
        text, parts = look(todo.pop(), seen)
        yield text
        todo += reversed(parts)


def look(value: Any, seen: Seen) -> tuple[str, Sequence[Any]]:
    """Return a word for *value*, and what is in it."""
    kind = type(value)
    if kind is Word:
        return value, ()
    if kind is Used:
        return f"module {value.module.__name__}", parts_of_module(value, seen)
    if isinstance(value, SPELLED) and not isinstance(value, enum.Enum):
        return f"{kind.__name__} {value!r}", ()
    if kind is types.CodeType:
        return words_of_code(value), value.co_consts
    if kind is tuple:
        # Whether two equal ones are one object is chance.
        return f"tuple {len(value)}", value
    if id(value) in seen:
        return f"{kind.__name__} number {seen[id(value)][0]}", ()
    seen[id(value)] = (len(seen), value)
    if is_installed_object(value):
        module, name = getattr(value, "__module__", ""), getattr(value, "__qualname__", "")
        return f"{kind.__name__} {module} {name}", ()
    return kind.__name__, parts_of(value, seen)


def parts_of(value: Any, seen: Seen) -> Sequence[Any]:
    """Return what is in *value*, which was not met before."""
    match value:
        case types.FunctionType():
            if is_dispatcher(value):
                return [Word(value.__qualname__), *view_of_dispatcher(value)]
            names = names_in(value.__code__)
            parts = view_of_function(value)
            is_module = types.ModuleType
            inside = (Used(p, names) if isinstance(p, is_module) else p for p in parts)
            return [Word(value.__qualname__), *inside]
        case type():
            # Sorted: where a class was unpickled its attributes stand in another order.
            named = sorted((name, p) for name, p in value.__dict__.items() if name not in HIDDEN)
            attributes = (part for name, own in named for part in (Word(name), own))
            return [Word(value.__qualname__), *value.__bases__, *attributes]
        case types.ModuleType():
            return [Word(value.__name__)]
        case re.Pattern():
            return [value.pattern, value.flags]
        case enum.Enum() | logging.Logger():
            return [Word(value.name), Word(type(value).__qualname__)]
        case types.BuiltinFunctionType():
            return [Word(value.__module__), Word(value.__qualname__)]
        case dict():
            return [part for pair in value.items() for part in pair]
        case set() | frozenset():
            # Each begins with what was known before: they come in any order.
            return sorted(
                Word(repr(p) if isinstance(p, SPELLED) else digest_of_words(p, 8, dict(seen)))
                for p in value
            )
        case _ if is_of_pydantic(value) and hasattr(value, "cls_ref"):
            # Of a validator; that has the address of its class in it.
            return [value.cls_var_name, value.func, value.info]
        case _:
            inner = contents(value)
            return () if inner is None or inner[0] is None else inner[0](value)


def parts_of_module(used: Used, seen: Seen) -> Sequence[Any]:
    """Return what code could use of a module of the user's."""
    module, names = used
    if is_installed_object(module) or (id(module), names) in seen:
        return ()
    seen[id(module), names] = (len(seen), module)
    parts: list[Any] = []
    for name in sorted(names & vars(module).keys()):
        part = vars(module)[name]
        if isinstance(part, types.ModuleType):
            parts.append(Used(part, names))
        elif is_basic(part) and not name.startswith("__"):
            parts += (Word(name), part)
    return parts


def words_of_code(code: types.CodeType) -> str:
    """Write what *code* does, without where it stands and its constants."""
    names = (*code.co_names, *code.co_varnames, *code.co_freevars, *code.co_cellvars)
    takes = f"{code.co_argcount} {code.co_posonlyargcount} {code.co_kwonlyargcount}"
    does = f"{code.co_flags} {code.co_code.hex()} {code.co_exceptiontable.hex()}"
    return f"code {code.co_name} {takes} {does} {' '.join(names)}"


def digest_of(parameters: Mapping[str, Any]) -> str:
    """Name parameters by what they hold; empty for none."""
    if not parameters:
        return ""
    try:
        octets = msgspec.msgpack.encode(dict(parameters), order="deterministic")
    except (TypeError, OverflowError):
        known = dict(sorted(parameters.items()))
        try:
            octets, _ = dump_code(known)
        except PayloadError as error:
            found = culprit((), parameters) or str(error)
            raise SerializationError(f"what enter() takes cannot be sent: {found}") from error
        # A pickle of the user's own class is another one in each process.
        if watch(known) is not None:
            return digest_of_words(known, 8)
    return hashlib.blake2b(octets, digest_size=8).hexdigest()
