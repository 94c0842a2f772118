"""What makes a method of an environment take many calls at once: `@batch`.

The method is written for lists and called one item at a time. The rule that must not be broken:
each call gets its own item back, or its own error.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, NamedTuple, TypeVar, overload

from wire.texts import brief

F = TypeVar("F", bound=Callable[..., Any])

BATCH_ATTRIBUTE: Final = "__warmslot_batch__"
SIZE_MAX: Final = 65_536
# Of these a list can be made, with something else in it than the results.
NO_LISTS: Final = (str, bytes, bytearray, Mapping, AbstractSet)
UNNAMED: Final = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.VAR_POSITIONAL,
    inspect.Parameter.VAR_KEYWORD,
)


class Batch(NamedTuple):
    """How many calls one batch takes, and for how long it may wait for more."""

    max_size: int
    max_wait_s: float
    is_async: bool = False


@overload
def batch(function: F, /) -> F: ...


@overload
def batch(*, max_size: int = 32, max_wait_ms: float = 5.0) -> Callable[[F], F]: ...


def batch(
    function: F | None = None, /, *, max_size: int = 32, max_wait_ms: float = 5.0
) -> F | Callable[[F], F]:
    """Collect single calls of an environment's method into one call with lists.

    The method gets a list for each parameter, all of one length, and returns a list (or any
    sequence) of as many results; where one is an exception, that call alone raises it. What it
    raises itself all calls raise. At most *max_size* calls are in a batch. It starts at once
    while no other batch runs in the replica; calls that come meanwhile are the next one, which
    waits for up to *max_wait_ms* only when more calls are likely to wait with the broker, since
    the replica had no turn left. In a batch there is no `current_task()`. Raises TypeError or
    ValueError here for what could never work.
    """
    if type(max_size) is not int or not 1 <= max_size <= SIZE_MAX:
        raise ValueError(f"max_size={brief(max_size)} must be an int from 1 to {SIZE_MAX}")
    if type(max_wait_ms) not in (int, float) or not 0 <= max_wait_ms < 3_600_000:
        raise ValueError(
            f"max_wait_ms={brief(max_wait_ms)} must be milliseconds, at least 0 and below an hour"
        )

    def mark(method: F) -> F:
        check_method(method)
        is_async = inspect.iscoroutinefunction(method)
        setattr(method, BATCH_ATTRIBUTE, Batch(max_size, max_wait_ms / 1000.0, is_async))
        return method

    return mark if function is None else mark(function)


def check_method(method: Any) -> None:
    """Raise TypeError for what cannot be called with lists by name."""
    if not inspect.isfunction(method):
        raise TypeError(f"@batch is for a method of an Environment, got {brief(method)}")
    if inspect.isgeneratorfunction(method) or inspect.isasyncgenfunction(method):
        raise TypeError(f"@batch: {method.__qualname__} must return a list, not yield")
    parameters = list(inspect.signature(method).parameters.values())[1:]
    if not parameters:
        raise TypeError(f"@batch: {method.__qualname__} takes nothing of which lists could be made")
    for parameter in parameters:
        if parameter.kind in UNNAMED:
            raise TypeError(
                f"@batch: {method.__qualname__} must take parameters by name, not {parameter}"
            )


def batch_of(method: Any) -> Batch | None:
    """Return what `@batch` says of a function, None where there is none."""
    return getattr(method, BATCH_ATTRIBUTE, None)


def batches_of(cls: type) -> dict[str, Batch]:
    """Return the batched methods of a class."""
    found: dict[str, Batch] = {}
    for kind in reversed(cls.__mro__):
        for name, value in kind.__dict__.items():
            found.pop(name, None)
            if inspect.isfunction(value) and (batch := batch_of(value)) is not None:
                found[name] = batch
    return found


class Columns:
    """The arguments of some calls of one method, as a list for each parameter."""

    __slots__ = ("_rows", "_signature")

    def __init__(self, method: Any) -> None:
        """Begin with no call; *method* is bound to its object."""
        self._signature = inspect.signature(method)
        self._rows: list[dict[str, Any]] = []

    def add(self, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        """Add one call; raise TypeError where the method does not take its arguments."""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        self._rows.append(bound.arguments)

    @property
    def count(self) -> int:
        """Return how many calls there are."""
        return len(self._rows)

    def lists(self) -> dict[str, list[Any]]:
        """Return what the method is called with."""
        return {name: [row[name] for row in self._rows] for name in self._signature.parameters}


def split(name: str, returned: Any, count: int) -> list[Any]:
    """Return one result for each of *count* calls; raise where they are not as many."""
    try:
        results = None if isinstance(returned, NO_LISTS) else list(returned)
    except TypeError:
        results = None
    if results is None:
        raise TypeError(
            f"{name} is a @batch method and must return a list of {count} results, got"
            f" {type(returned).__name__}"
        )
    if len(results) != count:
        raise ValueError(f"{name} returned {len(results)} results for a batch of {count} calls")
    return results


def check_batches(cls: type) -> None:
    """Raise ValueError where a sync batch could not be alone in its copy."""
    concurrency = type.__getattribute__(cls, "reuse").concurrency
    for name in batches_of(cls) if concurrency > 1 else ():
        if not inspect.iscoroutinefunction(type.__getattribute__(cls, name)):
            raise ValueError(
                f"{cls.__qualname__}.{name}: concurrency={concurrency} needs an async @batch"
                " method; a sync batch holds its copy alone"
            )
