"""The functions that the templates name, unpickled once and kept while they are used.

Unpickling runs code of a user, so it happens in the thread of the run and never in the I/O thread.
"""

import inspect
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from actor.holding.recipe import Buffer
from wire import payload

LOADED_MAX: Final = 512


class Loaded:
    """A function that is ready to be called."""

    __slots__ = ("call", "is_async")

    def __init__(self, call: Callable[..., Any]) -> None:
        """Look once whether it has to run on the event loop."""
        self.call = call
        self.is_async = is_async(call)


class CodeCache:
    """What was unpickled, by the hash of its octets. The least recently used leaves first."""

    def __init__(self, maximum: int = LOADED_MAX) -> None:
        """Begin empty."""
        self._maximum = maximum
        self._loaded: OrderedDict[bytes, Loaded] = OrderedDict()
        self._lock = threading.Lock()

    def load(self, digest: bytes, code: Buffer) -> Loaded:
        """Return the function of *digest*; raise what unpickling *code* raises."""
        with self._lock:
            loaded = self._loaded.get(digest)
            if loaded is not None:
                self._loaded.move_to_end(digest)
                return loaded
        function = payload.load(code, ())
        if not callable(function):
            raise TypeError(f"what is to be called is {payload.describe(function)}")
        loaded = Loaded(function)
        with self._lock:
            # Another thread may have been faster: all runs share the globals of one copy.
            loaded = self._loaded.setdefault(digest, loaded)
            while len(self._loaded) > self._maximum:
                self._loaded.popitem(last=False)
        return loaded


def is_async(call: Callable[..., Any]) -> bool:
    """Tell whether calling it makes a coroutine."""
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(
        getattr(call, "__call__", None)  # noqa: B004
    )
