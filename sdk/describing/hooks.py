"""What an environment's class has for its actor to call, and where it is written so that it can."""

import inspect
from typing import Any, Final

from sdk.describing.batching import batch_of

# What belongs to the environment itself; everything else that is a function is a task.
HOOKS: Final = frozenset({"enter", "exit", "reset", "using", "checkpoint", "restore"})
# Those that are called with nothing but the copy.
BARE: Final = frozenset({"exit", "reset", "checkpoint"})


def check_hooks(cls: type) -> None:
    """Raise TypeError for a hook that its actor could not call, or of which nothing would run."""
    for name in sorted(HOOKS & cls.__dict__.keys()):
        written = cls.__dict__[name]
        hook = getattr(written, "__func__", written)
        shown = f"{cls.__qualname__}.{name}"
        if not (callable(hook) or hasattr(type(hook), "__get__")):
            raise TypeError(f"{shown} is for the actor to call, which {hook!r} does not let it")
        if inspect.isgeneratorfunction(hook) or inspect.isasyncgenfunction(hook):
            raise TypeError(
                f"{shown} is a generator, of which nothing would run: what stands behind its"
                " `yield` belongs into exit()"
            )
        if batch_of(hook) is not None:
            raise TypeError(
                f"{shown} is called once for each copy: @batch is for what is submitted"
            )
        if name in BARE and inspect.isfunction(written):
            check_bare(shown, written)


def check_bare(shown: str, hook: Any) -> None:
    """Raise TypeError for a hook that wants more than the copy."""
    try:
        inspect.signature(hook).bind(None)
    except TypeError as error:
        raise TypeError(f"{shown}() is called with nothing but self: {error}") from None


def say_where(method: Any, error: TypeError) -> None:
    """Say where a *method* taken from the class runs, if its call failed before it was entered."""
    traceback = error.__traceback__
    if traceback is not None and traceback.tb_next is None:
        raise TypeError(
            f"{error}; {method!r} runs in a copy: client.submit({method.__qualname__}, ...), or"
            f" current_task().environment.{method.__name__}(...) in a task that has one"
        ) from None
