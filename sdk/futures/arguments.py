"""Arguments: pickled, and futures among them replaced by their results.

Nobody looks through the arguments of an ordinary call: a future announces itself when it is
pickled.
"""

import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sdk.errors import SerializationError
from sdk.futures.future import FutureInside, TaskFuture
from wire.codec import INLINE_BYTES_MAX
from wire.culprit import culprit
from wire.payload import PICKLE_PROTOCOL, Dumped, PayloadError, dump_value

# What pickles by itself, without a buffer, code or a future in it.
PLAIN: Final = frozenset({type(None), bool, int, float, str, bytes})


def dump_arguments(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Dumped | None:
    """Pickle the arguments of the function *name*; None when there is a future among them.

    Raises SerializationError, which names the argument.
    """
    if not kwargs and PLAIN.issuperset(map(type, args)):
        stream = pickle.dumps((args, kwargs), PICKLE_PROTOCOL)
        if len(stream) <= INLINE_BYTES_MAX:
            return Dumped(stream, [], True)
        return Dumped(b"", [stream], True)
    try:
        return dump_value((args, kwargs))
    except PayloadError as error:
        if isinstance(error.__cause__, FutureInside) and futures_in((args, kwargs)):
            return None
        where = culprit(args, kwargs) or str(error)
        raise SerializationError(f"{name}(): {where}") from error


def futures_in(value: Any) -> list[TaskFuture]:
    """Find the futures in lists, tuples and dicts, at any depth, each once."""
    found: dict[TaskFuture, None] = {}
    seen: set[int] = set()
    todo = [value]
    while todo:
        part = todo.pop()
        if isinstance(part, TaskFuture):
            found[part] = None
        elif isinstance(part, list | tuple | dict) and id(part) not in seen:
            seen.add(id(part))
            todo += part.values() if isinstance(part, dict) else part
    return list(found)


def with_results(value: Any) -> Any:
    """Put results in the place of futures, which are done; what has none stays as it is."""
    if isinstance(value, TaskFuture):
        return value.result(0)
    if isinstance(value, list):
        items = [with_results(item) for item in value]
        return items if is_changed(items, value) else value
    if isinstance(value, tuple):
        items = [with_results(item) for item in value]
        if not is_changed(items, value):
            return value
        # A named tuple is made from its fields, any other from one sequence.
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        changed = {key: with_results(item) for key, item in value.items()}
        return changed if is_changed(changed.values(), value.values()) else value
    return value


def is_changed(new: Any, old: Any) -> bool:
    """Tell whether any item is another object."""
    return any(a is not b for a, b in zip(new, old, strict=True))


class Deferred:
    """A call that waits for the futures among its arguments; it holds no thread."""

    def __init__(self, futures: Sequence[TaskFuture], submit: Callable[[], None]) -> None:
        """Call *submit* once, on the thread that settles the last of *futures*."""
        self._rest = set(futures)
        self._submit = submit
        self._futures = futures

    def start(self, fail: Callable[[BaseException], None]) -> None:
        """Begin to wait; *fail* hears of the first that has no result."""
        self._fail = fail
        for future in self._futures:
            future.add_done_callback(self._one_done)

    def _one_done(self, future: Any) -> None:
        try:
            error = future.exception(0)
        except Exception as canceled:  # noqa: BLE001 - a canceled argument cancels what needs it.
            error = canceled
        if error is not None:
            self._fail(error)
            return
        try:
            self._rest.remove(future)
        except KeyError:
            return
        if not self._rest:
            self._submit()
