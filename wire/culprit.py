"""Which part of a value cannot be pickled, and where in it that is: for whoever reads the message.

The rule that must not be broken: nothing is asked of a value that its pickling did not ask already.
"""

import functools
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import (
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Final

from wire.payload import PayloadError, names_in, pickle_value

PATH_DEPTH_MAX: Final = 4


def culprit(args: Sequence[object], kwargs: Mapping[str, object]) -> str:
    """Name the argument that cannot be pickled and the place in it; empty when each alone can."""
    for name, value in [*((f"argument {n}", v) for n, v in enumerate(args)), *kwargs.items()]:
        label = name if name.startswith("argument ") else f"argument {name!r}"
        found = culprit_in(value, label)
        if found:
            return found
    return ""


def culprit_in(value: object, path: str = "", seen: frozenset[int] = frozenset()) -> str:
    """Descend into what *value* consists of to the first part that cannot be pickled."""
    try:
        pickle_value(value, out_of_band=True)
    except PayloadError as error:
        seen |= {id(value)}
        parts = parts_of(value) if len(seen) <= PATH_DEPTH_MAX else []
        for step, part in parts:
            found = "" if id(part) in seen else culprit_in(part, path + step, seen)
            if found:
                return found
        if any(id(part) in seen for _, part in parts):
            return ""  # It cannot since what it belongs to cannot: another part of that is why.
        return f"{path.removeprefix(', ')}: {error}" if path else str(error)
    return ""


# Of what is pickled so, that which it consists of travels.
PLAIN_REDUCE: Final = (object.__reduce__, BaseException.__reduce__)


def parts_of(value: object) -> list[tuple[str, object]]:
    """Return what travels with *value*, and how it is named there."""
    match value:
        case list() | tuple():
            return [(f"[{index}]", part) for index, part in enumerate(value)]
        case dict():
            return [(f"[{key!r}]", part) for key, part in value.items()]
        case FunctionType():
            named = captured_by(value)
        case MethodType():
            return [(", its object", value.__self__)]
        case functools.partial():
            return [("", value.func), (", arguments", value.args), (", arguments", value.keywords)]
        case _ if type(value).__reduce__ not in PLAIN_REDUCE:
            return []  # Its class says what travels, or why nothing does.
        case _:
            named = []
            with suppress(Exception):  # The user's class may have something of its own there.
                named = [
                    ("attribute", name, part)
                    for name, part in vars(value).items()
                    if not isinstance(part, GetSetDescriptorType | MemberDescriptorType)
                ]
    return [(f", {kind} {name!r}", part) for kind, name, part in named]


def captured_by(function: FunctionType) -> list[tuple[str, str, object]]:
    """Return what a function that travels by value takes along: kind, name and value of each."""
    code = function.__code__
    named: list[tuple[str, str, object]] = []
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        with suppress(ValueError):  # It is empty yet.
            named.append(("variable", name, cell.cell_contents))
    known = function.__globals__
    named += [("global", name, known[name]) for name in sorted(names_in(code)) if name in known]
    parameters = code.co_varnames[: code.co_argcount]
    defaults = function.__defaults__ or ()
    named += [
        ("default", name, part)
        for name, part in zip(parameters[::-1], defaults[::-1], strict=False)
    ]
    named += [("default", name, part) for name, part in (function.__kwdefaults__ or {}).items()]
    return [one for one in named if not isinstance(one[2], ModuleType)]
