"""Functions and classes as code to be sent: pickled once, and again only when they changed.

A pickle by value holds everything that a function reaches: its closure, the globals that it names,
the modules of the user's that stand there, with their contents. The rule: such a pickle is kept
only while all of that is the very same objects, and only if each of them is of a kind that cannot
change inside; what reaches anything else (an instance, an array) is pickled again at every submit.
A function of an installed module travels by name and is kept for good.
"""

import contextlib
import copyreg
import dataclasses
import datetime as dt
import decimal
import dis
import enum
import logging
import pathlib
import re
import sys
import types
import uuid
import weakref
from collections.abc import Callable, Iterable, Mapping, ValuesView
from functools import cached_property, lru_cache, partial
from itertools import repeat
from operator import is_
from typing import Any, Final

import msgspec

from sdk.calls.call import Code
from sdk.describing.options import Options
from sdk.errors import SerializationError
from wire.culprit import culprit_in
from wire.payload import (
    Cached,
    PayloadError,
    digest,
    dump_code,
    is_basic,
    is_user_module,
    names_in,
)
from wire.wrapped import is_dispatcher, view_of_dispatcher

REACHED_MAX: Final = 10_000
CAPTURED_MAX: Final = 4_096
MISSING: Final = object()
# Py_TPFLAGS_HEAPTYPE: made by a class statement.
HEAP_TYPE: Final = 1 << 9
# What cloudpickle goes by.
OF_GLOBALS: Final = frozenset({"LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL"})
NEW_ARGUMENTS: Final = ("__getnewargs__", "__getnewargs_ex__")

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
# What nothing of can change.
CONSTANT: Final = (
    *SPELLED,
    types.NotImplementedType,
    types.BuiltinFunctionType,
    dt.tzinfo,
    enum.Enum,
    logging.Logger,  # It travels by its name.
    re.Pattern,
)

# What a class has, whatever its own class makes of being asked.
BASES_OF: Final = type.__dict__["__bases__"].__get__
ATTRIBUTES_OF: Final = type.__dict__["__dict__"].__get__

View = Callable[[Any], tuple[Any, ...]]
Watched = list[tuple[View, Any, tuple[Any, ...]]]
Attributes = types.MappingProxyType[str, Any]
# A class with its bases, and its attributes as they are at any time and as they were: the names,
# and what they stand for.
SeenClass = tuple[
    type, tuple[type, ...], Attributes, tuple[str, ...], ValuesView[Any], tuple[Any, ...]
]


class Captured:
    """The code of one object, and what it reached when it was pickled."""

    __slots__ = (
        "_classes",
        "_empty",
        "_functions",
        "_seen",
        "_target",
        "_watched",
        "code",
        "is_portable",
    )

    def __init__(
        self, target: Any, code: Code, watched: Watched | None, *, is_portable: bool
    ) -> None:
        """*watched* is None for what must be pickled again each time."""
        self.code = code
        self.is_portable = is_portable
        # What is watched must not keep its own root alive.
        self._target = weak(target)
        self._watched = watched
        if watched and watched[0][1] is target:
            watched[0] = (watched[0][0], None, watched[0][2])
        # Code and defaults of a function that names nothing outside, where that is all: looked at
        # without the loop, which would take half as long again for each call.
        self._seen: tuple[Any, ...] | None = None
        if watched and len(watched) == 1 and watched[0][:2] == (view_of_function, None):
            seen = watched[0][2]
            self._seen = seen if len(seen) == 2 else None
        # What environments reach mostly, looked at without a view for each: functions that are
        # code and defaults alone, classes, what is empty.
        self._functions: list[tuple[Any, Any, Any]] = []
        self._classes: list[SeenClass] = []
        self._empty: list[dict[Any, Any]] = []
        if watched and self._seen is None:
            self._watched = [one for one in watched if not self._is_common(*one)]

    def _is_common(self, view: View, holder: Any, seen: tuple[Any, ...]) -> bool:
        """Put *holder* where it is quickly looked at, if it is such a thing."""
        if holder is None:
            return False
        if view is view_of_function and len(seen) == 2:
            self._functions.append((holder, *seen))
        elif view is all_of_class and all(map(is_, bases := BASES_OF(holder), seen)):
            attributes = ATTRIBUTES_OF(holder)
            middle = (len(bases) + len(seen)) // 2
            names, values = seen[len(bases) : middle], seen[middle:]
            self._classes.append((holder, bases, attributes, names, attributes.values(), values))
        elif type(holder) is dict and not seen:
            self._empty.append(holder)
        else:
            return False
        return True

    @property
    def is_kept(self) -> bool:
        """Tell whether it can be used more than once."""
        return self._watched is not None

    @property
    def is_current(self) -> bool:
        """Tell whether pickling again would give the same."""
        seen = self._seen
        if seen is not None:
            function = self._target()
            return (
                function.__code__ is seen[0]
                and function.__defaults__ is seen[1]
                and not (function.__kwdefaults__ or function.__dict__)
            )
        if self._watched is None:
            return False
        for kind, bases, attributes, names, values, former in self._classes:
            if (
                tuple(attributes) != names
                or not all(map(is_, values, former))
                or BASES_OF(kind) is not bases
            ):
                return False
        for function, code, defaults in self._functions:
            if (
                function.__code__ is not code
                or function.__defaults__ is not defaults
                or function.__kwdefaults__
                or function.__dict__
            ):
                return False
        if any(self._empty):
            return False
        for view, holder, seen in self._watched:
            now = view(self._target() if holder is None else holder)
            if len(now) != len(seen) or not all(map(is_, now, seen)):
                return False
        return True


_captured: dict[int, tuple[Any, Captured]] = {}


def capture(target: Any, what: str = "the function") -> Captured:
    """Return the code of *target*; raise SerializationError when it cannot be pickled."""
    key = id(target)
    entry = _captured.get(key)
    if entry is not None and entry[0]() is target and entry[1].is_current:
        return entry[1]
    # Looked at before it is pickled: what changes in between is noticed at the next submit.
    watched = watch(target)
    try:
        stream, is_portable = dump_code(target)
    except PayloadError as error:
        # Of an environment it is the class: what enter() takes was looked at before.
        root = target[0] if isinstance(target, tuple) else target
        found = culprit_in(root) or str(error)
        module = getattr(root, "__module__", None) or "__main__"
        if found.startswith("global ") and module != "__main__":
            package = module.partition(".")[0]
            found += (
                f"; make it in the call, or install {package!r} here and there to have it imported"
            )
        raise SerializationError(f"{what} cannot be sent: {found}") from error
    if is_portable and isinstance(target, types.FunctionType | type):
        watched = []
    captured = Captured(target, Code(digest(stream), stream), watched, is_portable=is_portable)
    if captured.is_kept:
        if len(_captured) >= CAPTURED_MAX:
            _captured.clear()
        forget = partial(_captured.pop, key, None)
        # Without a weak reference nobody would tell when the id is another's.
        with contextlib.suppress(TypeError):
            _captured[key] = (weakref.ref(target, lambda _: forget()), captured)
    return captured


def weak(target: Any) -> Any:
    """Return a weak reference, or a strong one to what has none."""
    try:
        return weakref.ref(target)
    except TypeError:
        return lambda: target


# --- what a function reaches


def watch(target: Any) -> Watched | None:
    """List what *target* reaches and could change, with what is there now; None when unknown."""
    names: set[str] = set()
    while True:
        known = len(names)
        watched = walk(target, names)
        # Code that was met late may name what lies in a module that was met early.
        if watched is None or len(names) == known:
            return watched


def walk(target: Any, names: set[str]) -> Watched | None:
    """Look into everything once; of modules into what travels with code that knows *names*."""
    watched: Watched = []
    seen: set[int] = set()
    todo: list[Any] = [target]
    while todo:
        value = todo.pop()
        if isinstance(value, CONSTANT) or id(value) in seen:
            continue
        seen.add(id(value))
        if len(seen) > REACHED_MAX:
            return None
        inner = contents(value)
        if inner is None:
            return None
        view: Any
        view, holder = inner
        if type(value) is types.FunctionType:
            names |= names_in(value.__code__)
        elif view is view_of_module:
            view = partial(view_of_module, names=names)
        if view is None:
            continue
        todo += view(holder)
        # What cannot change itself is looked at no more, only what leads to it, and what is in it.
        if view is view_of_class:
            # Pickling an instance would add this to the class.
            copyreg._slotnames(holder)  # type: ignore[attr-defined]  # noqa: SLF001
            watched.append((all_of_class, holder, all_of_class(holder)))
        elif view not in UNCHANGING and type(value) not in IMMUTABLE:
            watched.append((view, holder, view(holder)))
    return watched


def contents(value: Any) -> tuple[View | None, Any] | None:
    """Tell how to look into *value*: nothing to see, or a view; None when it cannot be known."""
    if is_installed_object(value):
        return None, value
    kind = type(value)
    if kind is types.FunctionType and is_dispatcher(value):
        return view_of_dispatcher, value
    view = VIEWS.get(kind)
    if view is not None:
        return view, value
    if isinstance(value, type):
        return view_of_class, value
    if isinstance(value, types.ModuleType):
        return view_of_module, value
    if isinstance(value, msgspec.Struct) and kind.__struct_config__.frozen:
        return view_of_struct, value
    parameters = getattr(kind, "__dataclass_params__", None)
    if parameters is not None and parameters.frozen:
        return view_of_dataclass, value
    if kind.__module__ == "typing":
        return None, value
    return (view_of_instance, value) if is_plain(kind) else None


def is_plain(kind: type) -> bool:
    """Tell whether an instance is pickled as its attributes, of which Python keeps all."""
    return (
        all(base.__flags__ & HEAP_TYPE for base in kind.__mro__[:-1])
        and all(
            getattr(kind, name, None) is getattr(object, name, None)
            for name in ("__reduce_ex__", "__reduce__", "__getstate__", *NEW_ARGUMENTS)
        )
        and kind not in copyreg.dispatch_table
    )


def is_installed_object(value: Any) -> bool:
    """Tell whether a function, a class or a module travels by name."""
    if isinstance(value, types.ModuleType):
        return not is_user_module(value.__name__, value)
    if not isinstance(value, types.FunctionType | type):
        return False
    module = sys.modules.get(value.__module__)
    if module is None or is_user_module(value.__module__, module):
        return False
    return "<locals>" not in value.__qualname__


def view_of_function(function: types.FunctionType) -> tuple[Any, ...]:
    """See code, defaults, closure, attributes, and the globals that it names."""
    code = function.__code__
    find = function.__globals__.get
    seen = (code, function.__defaults__, *map(find, globals_of(code), repeat(MISSING)))
    if function.__kwdefaults__:
        seen += (function.__kwdefaults__,)
    if function.__closure__:
        seen += tuple(map(cell_of, function.__closure__))
    if attributes := function.__dict__:
        seen += (*attributes, *attributes.values())
    return seen


def cell_of(cell: types.CellType) -> Any:
    """Return what a closure holds; a variable that is not set yet is a value of its own."""
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING


@lru_cache(4096)
def globals_of(code: types.CodeType) -> tuple[str, ...]:
    """List the globals of *code* and of the code inside it: what travels with them.

    An attribute is none, whatever it is called: a script's own variable that happens to have the
    name of one is no part of the code.
    """
    own = {str(step.argval) for step in dis.get_instructions(code) if step.opname in OF_GLOBALS}
    inner = (globals_of(part) for part in code.co_consts if isinstance(part, types.CodeType))
    return tuple(sorted(own.union(*inner)))


def view_of_class(kind: type) -> tuple[Any, ...]:
    """See bases and attributes, without what Python keeps there for itself."""
    return (*kind.__bases__, *(v for k, v in kind.__dict__.items() if k not in HIDDEN))


def all_of_class(kind: type) -> tuple[Any, ...]:
    """See bases and all attributes: that they are still the same is quickly seen."""
    return (*BASES_OF(kind), *view_of_dict(ATTRIBUTES_OF(kind)))


def view_of_dict(known: Mapping[Any, Any]) -> tuple[Any, ...]:
    """See the keys, and what they stand for: the same under another name is another thing."""
    return (*known, *known.values())


def view_of_module(module: types.ModuleType, names: Iterable[str] = ()) -> tuple[Any, ...]:
    """See what of the module travels with code that knows *names*."""
    return view_of_dict(
        {
            name: value
            for name, value in vars(module).items()
            if not name.startswith("__") and (name in names or is_basic(value))
        }
    )


def view_of_struct(value: msgspec.Struct) -> tuple[Any, ...]:
    """See class and fields."""
    return (type(value), *(getattr(value, name) for name in value.__struct_fields__))


def view_of_dataclass(value: Any) -> tuple[Any, ...]:
    """See class and fields."""
    fields = dataclasses.fields(value)
    return (type(value), *(getattr(value, field.name) for field in fields))


def view_of_instance(value: Any) -> tuple[Any, ...]:
    """See class and attributes, also those in slots."""
    found = getattr(value, "__dict__", {})
    slots = [
        name
        for base in type(value).__mro__
        for name in copyreg._slotnames(base)  # type: ignore[attr-defined]  # noqa: SLF001
    ]
    return (type(value), *view_of_dict(found), *(getattr(value, n, MISSING) for n in slots))


HIDDEN: Final = frozenset(
    {
        "__abstractmethods__",
        "__dataclass_fields__",
        "__dataclass_params__",
        "__dict__",
        "__doc__",
        "__firstlineno__",
        "__module__",
        "__pydantic_core_schema__",  # Made of the fields, with addresses of classes in it.
        "__slotnames__",
        "__static_attributes__",
        "__weakref__",
        "_abc_impl",
    }
)
VIEWS: Final[dict[type, View | None]] = {
    types.FunctionType: view_of_function,
    types.MethodType: lambda m: (m.__self__, m.__func__),
    types.CodeType: lambda _: (),
    property: lambda p: (p.fget, p.fset, p.fdel),
    staticmethod: lambda s: (s.__func__,),
    classmethod: lambda c: (c.__func__,),
    Cached: lambda c: (c.__wrapped__, *c.cache_parameters().values()),
    cached_property: lambda p: (p.func,),
    partial: lambda p: (p.func, p.args, p.keywords),
    tuple: tuple,
    frozenset: tuple,
    list: tuple,
    set: tuple,
    dict: view_of_dict,
    types.MappingProxyType: view_of_dict,
    object: lambda _: (),
    Options: lambda o: view_of_dict(o.chosen),
}
UNCHANGING: Final = (view_of_struct, view_of_dataclass)
IMMUTABLE: Final = frozenset(
    {
        types.CodeType,
        types.MethodType,
        property,
        staticmethod,
        classmethod,
        tuple,
        frozenset,
        Options,
    }
)
