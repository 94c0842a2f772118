"""What others make of the user's code, and cannot be sent as it is: dispatchers, schemas.

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


def is_schema(obj: Any) -> bool:
    """Tell whether *obj* is what pydantic has made of a class or a function."""
    kind = type(obj)
    package = SCHEMAS.get(kind.__name__)
    return package is not None and kind.__module__.partition(".")[0] == package


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
