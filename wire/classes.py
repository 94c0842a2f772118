"""Classes that travel by value: what they are made from, and what becomes of those that are known.

And errors of such classes, which are values as well where a task returns them; and what only
annotations name, as a NewType or a TypedDict.

cloudpickle makes a class without its `__slots__`, so its objects kept all in a `__dict__` that
those of the user's own class do not have, and none came back. And it fills a class anew that the
process has already. The rule that must not be broken: a class that was written in this process
stays as it is, whatever comes back of it; its methods have the globals of their module.

There are no public means for that. With a cloudpickle that has not the names below, which one of
version 3 might become, classes travel as it does them by itself.
"""

import contextlib
import types
from typing import Any, Final, Generic, NewType, ParamSpec, TypedDict, TypeVarTuple
from weakref import WeakSet

from cloudpickle import cloudpickle

# Where the makers of cloudpickle 3 have the id of a class, and what it is begun with.
TRACKED: Final = {"_make_skeleton_class": 4, "_make_skeleton_enum": 5}
BEGUN_WITH: Final = 3
KINDS: Final = (str, tuple, list, dict)
PLAIN_REDUCE: Final = BaseException.__reduce__
PLAIN_REDUCE_EX: Final = BaseException.__reduce_ex__

SET_STATE: Final[Any] = getattr(cloudpickle, "_class_setstate", None)
MAKE_CLASS: Final[Any] = getattr(cloudpickle, "_make_skeleton_class", None)
KNOWN_CLASSES: Final = "_DYNAMIC_CLASS_TRACKER_BY_ID"
KNOWS_HOW: Final = bool(SET_STATE and MAKE_CLASS) and hasattr(cloudpickle, KNOWN_CLASSES)

# A field of a class with `__slots__`, or of one that is written in C.
Member: Final = types.MemberDescriptorType
# What those that a parser raises say beside their arguments.
SYNTAX_FIELDS: Final = (
    "msg",
    "filename",
    "lineno",
    "offset",
    "text",
    "end_lineno",
    "end_offset",
)

# What stands in annotations, and would travel by a name that nobody has there.
TYPE_NAMES: Final = (NewType, ParamSpec, TypeVarTuple)
# A TypedDict cannot be made of what it is, a kind of dict: that is no base which another may have.
TYPED_DICT: Final = type(types.new_class("_", (TypedDict,)))
# What one says of itself, all that it has from those above included; not each Python has them all.
TYPED_DICT_SAYS: Final = (
    "__annotations__",
    "__doc__",
    "__module__",
    "__qualname__",
    "__total__",
    "__required_keys__",
    "__optional_keys__",
    "__readonly_keys__",
    "__mutable_keys__",
)

# Those that came from elsewhere: they are filled again, since their code may have changed there.
_made: Final[WeakSet[type]] = WeakSet()


def as_ours(obj: Any, reduced: Any) -> Any:
    """Return how to make the class *obj*, *reduced* as cloudpickle does it; all else as it is.

    An error is made without its `__init__`, which may take anything else than `args`, unless its
    class says how it is pickled.
    """
    if isinstance(obj, BaseException):
        kind = type(obj)
        if kind.__reduce__ is not PLAIN_REDUCE or kind.__reduce_ex__ is not PLAIN_REDUCE_EX:
            return reduced
        # It is known before its attributes, which may refer to it.
        return rebuild, (kind, obj.args, {}, []), fields_of(obj), None, None, fill_error
    if not isinstance(obj, type) or type(reduced) is not tuple or len(reduced) != 6:
        return reduced
    make, parts, state, *items, fill = reduced
    tracked_at = TRACKED.get(make.__name__)
    if not KNOWS_HOW or tracked_at is None or fill is not SET_STATE or len(parts) <= tracked_at:
        return reduced
    slots = type.__getattribute__(obj, "__dict__").get("__slots__")
    # A named tuple says of itself that it has none, and takes nobody's word for it.
    is_named = slots == () and issubclass(obj, tuple)
    if make is MAKE_CLASS:
        begun = {**parts[BEGUN_WITH], "__qualname__": obj.__qualname__}
        if isinstance(slots, KINDS) and not is_named:
            begun["__slots__"] = slots
        parts = (*parts[:BEGUN_WITH], begun, *parts[BEGUN_WITH + 1 :])
    return make_class, (make, parts[tracked_at], parts), state, *items, fill_class


def make_class(make: Any, tracked: str, parts: tuple[Any, ...]) -> type:
    """Return the class that this process has of it, or begin one; called by the unpickler."""
    known: type | None = getattr(cloudpickle, KNOWN_CLASSES, {}).get(tracked)
    if known is not None:
        return known
    made: type = make(*parts)
    _made.add(made)
    return made


def fill_class(made: type, state: Any) -> None:
    """Put what has travelled into a class that is from elsewhere; called by the unpickler."""
    if SET_STATE is None:
        raise ImportError(
            f"the class {made.__qualname__} was sent by a process with another cloudpickle: install"
            " the same version here"
        )
    if made in _made:
        SET_STATE(made, state)


def rebuild(
    kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any], left: list[str]
) -> BaseException:
    """Make an exception of *kind* without calling its `__init__`; called by the unpickler."""
    # Those that are built in keep some of their arguments in fields of their own.
    python: Any = next(base for base in kind.__mro__ if base.__module__ == "builtins")
    try:
        error = kind.__new__(kind, *args)
    except Exception:  # noqa: BLE001 - it may take other arguments, or be no more than a name in C.
        error = python.__new__(kind, *args)
    with contextlib.suppress(Exception):
        python.__init__(error, *args)
    error.args = args
    fill_error(error, state)
    for line in left:
        error.add_note(line)
    return error


def fields_of(error: BaseException) -> dict[str, Any]:
    """Return what *error* keeps beside its arguments, also where its class has `__slots__`."""
    kinds = [kind for kind in type(error).__mro__ if kind.__module__ != "builtins"]
    named = [name for kind in kinds for name, part in vars(kind).items() if type(part) is Member]
    if isinstance(error, SyntaxError):
        named += SYNTAX_FIELDS
    found = ((name, getattr(error, name, None)) for name in named)
    return {**{name: part for name, part in found if part is not None}, **vars(error)}


def fill_error(error: BaseException, state: dict[str, Any]) -> None:
    """Give *error* the fields that it had, whatever its class does where one is set."""
    kinds = type(error).__mro__
    for name, part in state.items():
        field = next((vars(kind)[name] for kind in kinds if name in vars(kind)), None)
        if type(field) is Member:
            with contextlib.suppress(AttributeError, TypeError):  # Some can only be read.
                field.__set__(error, part)
        else:
            vars(error)[name] = part


def is_type_name(obj: Any) -> bool:
    """Tell whether *obj* is one of TYPE_NAMES, or a TypedDict."""
    return type(obj) in TYPE_NAMES or type(obj) is TYPED_DICT


def name_again(obj: Any) -> Any:
    """Return how to make what `is_type_name` tells of."""
    if type(obj) is TYPED_DICT:
        state = {name: getattr(obj, name) for name in TYPED_DICT_SAYS if hasattr(obj, name)}
        parts = (obj.__name__, getattr(obj, "__parameters__", ()))
        # It is known before its annotations, which may refer to it.
        return make_typed_dict, parts, state, None, None, fill_typed_dict
    above = (obj.__supertype__,) if type(obj) is NewType else ()
    return make_type_name, (type(obj), (obj.__name__, *above), obj.__module__)


def make_typed_dict(name: str, parameters: tuple[Any, ...]) -> Any:
    """Begin a TypedDict; called by the unpickler."""
    generic: Any = Generic
    return types.new_class(name, (TypedDict, generic[parameters]) if parameters else (TypedDict,))


def fill_typed_dict(made: Any, state: dict[str, Any]) -> None:
    """Let a TypedDict say of itself what it said where it was written; called by the unpickler."""
    for name, said in state.items():
        setattr(made, name, said)


def make_type_name(kind: Any, parts: tuple[Any, ...], module: str) -> Any:
    """Make one of TYPE_NAMES; called by the unpickler."""
    made = kind(*parts)
    # For whoever pickles it again.
    made.__module__ = module
    return made
