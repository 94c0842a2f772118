"""What others make of the user's code, and cannot be sent as it is: dispatchers, names, schemas.

`functools.singledispatch` keeps weak references to classes it was called with, and the schemas of
pydantic hold what they were written beside, and one another in the middle of being read. The rule
that must not be broken: what arrives does the same, whatever was called before it was sent.
"""

import functools
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any, Final


def _nothing(*_: Any) -> None:
    """Stand for a function that is not there yet."""


# Names of types that do not know yet what they stand for.
_begun: Final[dict[Any, list[Any]]] = {}
# Each dispatcher has the same code, and all else in its closure.
DISPATCHER: Final[CodeType] = getattr(functools.singledispatch(_nothing), "__code__")  # noqa: B009
# Those of other libraries by their names, with the packages that they are of.
SCHEMAS: Final = {
    "SchemaValidator": "pydantic_core",
    "SchemaSerializer": "pydantic_core",
    "NsResolver": "pydantic",
    "ConfigWrapper": "pydantic",
}
PARTS: Final = (dict, list, tuple)
# Of a `type` statement, which is there from Python 3.12 on, and of who makes one without.
ALIASES: Final = frozenset({("typing", "TypeAliasType"), ("typing_extensions", "TypeAliasType")})


def is_dispatcher(function: FunctionType) -> bool:
    """Tell whether *function* is what `functools.singledispatch` has made."""
    return function.__code__ is DISPATCHER


def view_of_dispatcher(function: Any) -> tuple[Any, ...]:
    """See for which classes a dispatcher has which functions."""
    return (function.__wrapped__, *function.registry, *function.registry.values())


def dispatcher_again(function: Any) -> tuple[Any, ...]:
    """Return how to make a dispatcher."""
    # It is known before its functions, which may call it.
    state = function.__wrapped__, dict(function.registry)
    return make_dispatcher, (function.__name__,), state, None, None, fill_dispatcher


def make_dispatcher(name: str) -> Any:
    """Begin a dispatcher; called by the unpickler."""
    begun = FunctionType(_nothing.__code__, {}, name)
    return functools.singledispatch(begun)


def fill_dispatcher(made: Any, state: tuple[Any, dict[type, Callable[..., Any]]]) -> None:
    """Let a dispatcher have its functions; called by the unpickler."""
    wrapped, registry = state
    for kind, function in registry.items():
        made.register(kind, function)
    functools.update_wrapper(made, wrapped)


def is_alias(obj: Any) -> bool:
    """Tell whether *obj* is the name of a type, as `type Key = int | str` makes one."""
    return (type(obj).__module__, type(obj).__name__) in ALIASES


def alias_again(obj: Any) -> tuple[Any, ...]:
    """Return how to make the name of a type."""
    kind, parameters = type(obj), obj.__type_params__
    if parameters or kind.__module__ != "typing":
        return make_alias, (kind, obj.__name__, obj.__value__, parameters, obj.__module__)
    # It is known before what it stands for, which may have it as a part.
    found: list[Any] = [obj.__value__]
    return begin_alias, (obj.__name__, obj.__module__), found, None, None, fill_alias


def make_alias(kind: Any, name: str, value: Any, parameters: Any, module: str) -> Any:
    """Make the name of a type, which takes its module from whoever calls; from the unpickler."""
    known = {"__name__": module, "make": kind, "of": (name, value), "to": parameters}
    return eval("make(*of, type_params=to)", known)  # noqa: S307


def begin_alias(name: str, module: str) -> Any:
    """Begin the name of a type, which asks later what it stands for; called by the unpickler."""
    found: list[Any] = []
    known: dict[str, Any] = {"__name__": module, "found__": found}
    exec(f"type {name} = found__[0]", known)  # noqa: S102
    _begun[known[name]] = found
    return known[name]


def fill_alias(made: Any, found: list[Any]) -> None:
    """Let the name of a type stand for something; called by the unpickler."""
    _begun.pop(made).extend(found)


def is_pickled_by_name(obj: Any) -> bool:
    """Tell whether *obj* is an object in the place of a function, as `cachetools.cached` makes it.

    It has a name of its own, and says that this is all of it that is to be pickled.
    """
    if "__qualname__" not in getattr(obj, "__dict__", ()):
        return False
    kind: Any = type(obj)
    says = type(kind.__reduce__) is FunctionType and kind.__reduce_ex__ is object.__reduce_ex__
    return says and isinstance(obj.__reduce__(), str)


def object_again(obj: Any) -> tuple[Any, ...]:
    """Return how to make an object of its class and its attributes."""
    return object.__new__, (type(obj),), obj.__getstate__()


def is_schema(obj: Any) -> bool:
    """Tell whether *obj* is what pydantic has made of a class or a function."""
    kind = type(obj)
    package = SCHEMAS.get(kind.__name__)
    return package is not None and kind.__module__.partition(".")[0] == package


def is_of_pydantic(obj: Any) -> bool:
    """Tell whether the class of *obj* is one of pydantic's own."""
    return type(obj).__module__.partition(".")[0] == "pydantic"


def schema_again(obj: Any, protocol: int) -> Any:
    """Return how to make a schema, with nothing in it that another one has as well.

    A class stands in its own schema and has it as an attribute: where the schema was met first the
    class was made from a half of it. What a function was written beside is looked at no more once
    there is a schema, and has all that stands there.
    """
    name = type(obj).__name__
    if name == "NsResolver":
        return type(obj), ()
    if name == "ConfigWrapper":
        # It looks for what it has not in what it has, and has nothing yet where it is read.
        return type(obj), (obj.config_dict,)
    make, *parts = obj.__reduce_ex__(protocol)
    return (make, *unshared(parts, {}))


def unshared(part: Any, known: dict[int, Any]) -> Any:
    """Copy what *part* is put together from, and nothing that has an identity."""
    if type(part) not in PARTS:
        return part
    if id(part) not in known:
        if type(part) is dict:
            known[id(part)] = {key: unshared(value, known) for key, value in part.items()}
        else:
            known[id(part)] = type(part)(unshared(value, known) for value in part)
    return known[id(part)]
