"""Concurrency groups of named actors: which calls may be inside at once, which wait in one line.

A group has a name and a size. Calls of one group start in the order of each caller, at most so many
at once; calls of different groups do not wait for one another. The rule that must not be broken: a
sync method is alone in its group, so no two of its threads meet where nobody expects it.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from msgspec import Struct

from sdk.describing.batching import batch_of
from wire.parts import GROUP_MARK
from wire.texts import brief

F = TypeVar("F", bound=Callable[..., Any])

GROUP_ATTRIBUTE: Final = "__warmslot_group__"
NAME_LENGTH_MAX: Final = 256
SIZE_LIMIT: Final = 2**31


def concurrency_group(name: str) -> Callable[[F], F]:
    """Let calls of a method of a named actor belong to the concurrency group *name*.

    The sizes stand where the actor is made: `client.actor(Cls, concurrency_groups={"io": 2})`, or
    in the class as `concurrency_groups`. A single call says another one by
    `handle.method.options(concurrency_group="io")`. Methods without one are in the group without a
    name, whose size is *concurrency*.
    """
    read_group(name)

    def mark(method: F) -> F:
        if isinstance(method, property):
            raise TypeError(f"@concurrency_group marks a method, got {brief(method)}")
        setattr(method, GROUP_ATTRIBUTE, name)
        return method

    return mark


class Groups(Struct, frozen=True):
    """Sizes by name, the group of each method that has one, methods that may be inside together."""

    sizes: dict[str, int] = {}
    grouped: dict[str, str] = {}
    together: list[str] = []


def read_group(name: Any) -> str:
    """Read the name of a group."""
    if not isinstance(name, str) or not 0 < len(name) <= NAME_LENGTH_MAX or GROUP_MARK in name:
        raise ValueError(
            f"concurrency group {brief(name)} is not a string of 1 to {NAME_LENGTH_MAX} characters"
            " in one line"
        )
    return name


def read_sizes(given: Any) -> dict[str, int]:
    """Read how many calls may be inside at once of each group."""
    if not isinstance(given, Mapping):
        raise TypeError(f"concurrency_groups={brief(given)} is no mapping from name to size")
    for name, size in given.items():
        read_group(name)
        if type(size) is not int or not 1 <= size < SIZE_LIMIT:
            raise ValueError(
                f"concurrency_groups: {brief(name)}: {brief(size)} is not an int of at least 1"
            )
    return dict(given)


def groups_of(cls: type, methods: list[str], *, concurrency: int, given: Any) -> Groups:
    """Return the groups of an actor made of *cls*; raise ValueError for one that nobody can use.

    *methods*: what can be called on it; empty where only it knows. *given*: what was said where it
    is made, None for what stands in the class.
    """
    if given is None:
        given = inspect.getattr_static(cls, "concurrency_groups", {})
    sizes = read_sizes(given)
    functions = {name: function_of(cls, name) for name in methods or names_of(cls)}
    grouped = {
        name: group
        for name, function in functions.items()
        if (group := getattr(function, GROUP_ATTRIBUTE, ""))
    }
    for name, group in grouped.items():
        if group not in sizes:
            raise ValueError(
                f"{cls.__qualname__}.{name} is of the concurrency group {group!r}, which has no"
                f" size: say concurrency_groups={{{group!r}: 1}}"
            )
    together = sorted(name for name, function in functions.items() if may_meet(function))
    if methods:
        check_use(cls, {"": concurrency} | sizes, functions, grouped, together)
    has_more = concurrency > 1 or bool(sizes)
    return Groups(sizes, grouped, together if has_more else [])


def check_use(
    cls: type,
    sizes: dict[str, int],
    functions: dict[str, Any],
    grouped: dict[str, str],
    together: list[str],
) -> None:
    """Raise ValueError for a group of several calls that only sync methods could use."""
    for group, size in sizes.items():
        own = {name for name in functions if grouped.get(name, "") == group}
        # A single call may name a group that no method has.
        usable = own or (functions.keys() if group else set())
        if size > 1 and usable.isdisjoint(together):
            said = f"concurrency_groups={{{group!r}: {size}}}" if group else f"concurrency={size}"
            shown = ", ".join(sorted(usable)) or "there is none"
            raise ValueError(
                f"{cls.__qualname__}: {said} needs an async method; sync ones run one at a time"
                f" in their group ({shown}): give those that may run beside others a group of"
                " their own"
            )


def names_of(cls: type) -> list[str]:
    """Return what a class defines, also one whose instances know of more."""
    names = {name for kind in cls.__mro__ for name in kind.__dict__}
    return sorted(name for name in names if not name.startswith("_"))


def function_of(cls: type, name: str) -> Any:
    """Return the function behind a method."""
    method = inspect.getattr_static(cls, name)
    if getattr(method, GROUP_ATTRIBUTE, ""):
        return method
    return method.__func__ if isinstance(method, staticmethod | classmethod) else method


def may_meet(function: Any) -> bool:
    """Tell whether calls of it may be inside together: on the event loop, or in one batch."""
    if isinstance(function, staticmethod | classmethod):
        function = function.__func__
    return inspect.iscoroutinefunction(function) or batch_of(function) is not None
