"""From a function and its options to a plan: what the broker and the actor are told once.

Plans are kept with the Options object, by the identity of the function, and made anew when the code
changed. A plan that holds code by value is pinned to this minor version of Python by a required
label.
"""

import contextlib
import inspect
from functools import lru_cache, partial
from typing import Any, Final

from sdk.calls.call import Plan
from sdk.describing.batching import batch_of
from sdk.describing.code import Captured, capture, weak
from sdk.describing.hooks import HOOKS
from sdk.describing.options import (
    ALWAYS,
    INHERITED_STICKY,
    NAME_LENGTH_MAX,
    NAMES,
    NO_OPTIONS,
    Options,
    Sticky,
    likely,
)
from sdk.environment import Environment, EnvironmentType, MethodReference, Specification
from sdk.task import OPTIONS_ATTRIBUTE
from wire.labels import Comparator, Desire
from wire.parts import Call
from wire.parts import Sticky as StickyPart
from wire.release import PYTHON
from wire.retries import check_retries
from wire.texts import brief

PLANS_MAX: Final = 4_096
PYTHON_DESIRE: Final = Desire("python", Comparator.EQUAL, PYTHON)


class Planned:
    """The plans of one function with one set of options."""

    __slots__ = ("_captured", "_environment", "_pinned", "_portable", "name", "reference")

    # Its calls keep no order.
    line = ""

    def __init__(
        self, captured: Captured | None, environment: Captured | None, call: Call, anchor: Any
    ) -> None:
        """Make both plans: for arguments that any Python version reads, and pinned."""
        self.reference = weak(anchor)
        self.name = call.name
        self._captured = captured
        self._environment = environment
        parts = [part for part in (captured, environment) if part is not None]
        codes = [part.code for part in parts]
        self._pinned = Plan(pinned(call), codes)
        is_portable = all(part.is_portable for part in parts)
        self._portable = Plan(call, codes) if is_portable else self._pinned

    def plan(self, *, is_portable: bool) -> Plan:
        """Return the plan for arguments that are portable or not."""
        return self._portable if is_portable else self._pinned

    @property
    def is_current(self) -> bool:
        """Tell whether the code is still the same."""
        captured, environment = self._captured, self._environment
        return (captured is None or captured.is_current) and (
            environment is None or environment.is_current
        )


def plan_for(target: Any, options: Options) -> Planned:
    """Return the plans for calling *target* with *options*. Raises SerializationError."""
    key: Any = id(target)
    anchor = target
    if type(target) is MethodReference:
        specification = target.specification
        if target.key:
            key, anchor = target.key, specification.cls
        elif target.key is None:
            key, anchor = (*specification.key, target.name), specification.cls
    entry: Planned | None = options.plans.get(key)
    if entry is not None and entry.reference() is anchor and entry.is_current:
        return entry
    merged = options.over(getattr(target, OPTIONS_ATTRIBUTE, NO_OPTIONS))
    planned = make(target, merged, anchor)
    if len(options.plans) >= PLANS_MAX:
        options.plans.clear()
    options.plans[key] = planned
    return planned


def check_enter(specification: Specification) -> None:
    """Raise TypeError for what can never be entered, before that is tried three times."""
    cls = specification.cls
    if inspect.isabstract(cls):
        lacks = ", ".join(sorted(type.__getattribute__(cls, "__abstractmethods__")))
        raise TypeError(
            f"{cls.__qualname__} is abstract, it lacks {lacks}: submit a method of a class below it"
        )
    with contextlib.suppress(ValueError):
        try:
            inspect.signature(cls.__init__).bind(None)
        except TypeError as error:
            raise TypeError(
                f"{cls.__qualname__}.__init__(): {error}; it is called without any, what is to be"
                " given goes to enter()"
            ) from None
    if specification.key[1]:
        return  # What `using` was given it has looked at.
    with contextlib.suppress(ValueError):  # Of what is not written in Python nobody may know.
        try:
            inspect.signature(cls.enter).bind(None)
        except TypeError as error:
            hint = f"say {cls.__qualname__}.using(...) with what it takes"
            raise TypeError(f"{cls.__qualname__}.enter(): {error}; {hint}") from None


def make(target: Any, options: Options, anchor: Any) -> Planned:
    """Make the plans for *target*: a function, or a method of an environment."""
    chosen = options.chosen
    specification: Specification | None = chosen.get("environment")
    method, captured = "", None
    if isinstance(target, MethodReference):
        if specification is not None and specification != target.specification:
            raise ValueError(
                f"{target!r} runs in {target.specification!r}; environment={specification!r} is "
                "another one"
            )
        specification, method = target.specification, target.name
        options = options.over(getattr(target.function, OPTIONS_ATTRIBUTE, NO_OPTIONS))
        chosen = options.chosen
    elif not callable(target):
        raise TypeError(f"{brief(target)} is not callable")
    else:
        captured = code_of(target)
    if specification is not None:
        check_enter(specification)
    environment = specification.captured() if specification is not None else None
    is_fresh = not chosen.get("reuse", True)
    if is_fresh and specification is None:
        raise ValueError(f"reuse=False for {name_of(target)}(), which runs in no environment")
    desires = {} if specification is None else dict(specification.desires)
    desires |= chosen.get("desired_labels", {})
    call = Call(
        name=chosen.get("name") or name_of(target)[:NAME_LENGTH_MAX],
        function=captured.code.hash if captured is not None else b"",
        method=method,
        environment=specification.message(
            environment, is_fresh=is_fresh, is_alone=not is_coroutine(target), method=method
        )
        if specification and environment
        else None,
        desires=list(desires.values()),
        slots=chosen.get("slots", {} if specification is None else specification.slots),
        limits=({} if specification is None else specification.limits) | chosen.get("limits", {}),
        priority=chosen.get("priority", 0),
        fairness_key=chosen.get("fairness_key", ""),
        timeout_s=chosen.get("timeout"),
        schedule_timeout_s=chosen.get("schedule_timeout"),
        at_most_once=chosen.get("at_most_once", False),
        durable=chosen.get("durable", False),
        metadata=chosen.get("metadata", {}),
        fail_infeasible=chosen.get("fail_infeasible", False),
        retries=chosen.get("retries", 0),
        backoff=chosen.get("retry_backoff"),
        retry_on=chosen.get("retry_on", []),
        sticky=sticky_of(chosen),
        affinity_wait_s=chosen.get("affinity_wait"),
    )
    is_fond = call.environment is not None or any(not desire.required for desire in call.desires)
    if call.affinity_wait_s is not None and not is_fond:
        raise ValueError(
            f"affinity_wait={call.affinity_wait_s:g} is for a copy of an environment, or for an "
            f"actor that desired labels with required=False prefer, and {call.name!r} has neither"
        )
    check_retries(call)
    return Planned(captured, environment, call, anchor)


def code_of(function: Any) -> Captured:
    """Return the code of a function; raise TypeError for one that must be called another way."""
    owner = getattr(function, "__self__", None)
    if isinstance(owner, Environment):
        kind = type(owner).__qualname__
        raise TypeError(
            f"{name_of(function)!r} is a method of an instance, which nobody has entered: submit"
            f" {kind}.{function.__name__}, or {kind}.using(...).{function.__name__}"
        )
    if isinstance(function, EnvironmentType):
        raise TypeError(
            f"{function.__qualname__} is an environment, which is no task by itself: submit a"
            f" method of it, or a function with environment={function.__qualname__}"
        )
    if getattr(function, "__name__", "") in HOOKS and (whose := class_of_hook(function)):
        raise TypeError(
            f"{function.__qualname__} is for the actor to call: it enters {whose} before the first"
            " task that needs it; submit a method of your own, or a function with"
            f" environment={whose}"
        )
    if isinstance(function, partial) and isinstance(function.func, MethodReference):
        raise TypeError(
            f"a partial of {function.func!r} runs in no environment: submit"
            f" {name_of(function)} itself, with all of its arguments"
        )
    if batch_of(function) is not None:
        raise TypeError(
            f"{name_of(function)!r} has @batch, which is for a method of an Environment: submit"
            " Class.method"
        )
    return capture(function, f"the function {name_of(function)!r}")


def class_of_hook(function: Any) -> str:
    """Name the environment class that *function* is a hook of, if it is one."""
    todo: list[type] = [Environment]
    for cls in todo:
        if cls.__dict__.get(function.__name__) is function:
            return cls.__qualname__
        todo += type.__subclasses__(cls)
    return ""


def sticky_of(chosen: dict[str, Any]) -> StickyPart | None:
    """Return what the broker is told of the key that was chosen, or inherited."""
    sticky: Sticky | None = chosen.get("sticky") or chosen.get(INHERITED_STICKY)
    return None if sticky is None else StickyPart(sticky.key, sticky.hard, sticky.inherit)


def is_coroutine(target: Any) -> bool:
    """Tell whether a call of *target* runs on the event loop, so that others may be inside too."""
    function = target.function if isinstance(target, MethodReference) else target
    called = inspect.getattr_static(type(function), "__call__", None)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)


def pinned(call: Call) -> Call:
    """Return *call* with the wish for this Python version, unless the user has said otherwise."""
    if any(desire.key == "python" for desire in call.desires):
        return call
    fields = {name: getattr(call, name) for name in call.__struct_fields__}
    fields["desires"] = [*call.desires, PYTHON_DESIRE]
    return Call(**fields)


def name_of(target: Any) -> str:
    """Name a function for people."""
    name = getattr(target, "__qualname__", None) or getattr(
        getattr(target, "func", None), "__qualname__", None
    )
    return name if isinstance(name, str) else type(target).__qualname__


def split_keywords(target: Any, given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tell options from keyword arguments of *target*.

    Raises TypeError, naming `client.options()`, for a keyword that could be both, and for one that
    is neither: it would fail in an actor, or be an option misspelled that nobody misses.
    """
    options: dict[str, Any] = {}
    kwargs: dict[str, Any] = {}
    for name, value in given.items():
        if name in ALWAYS:
            options[name] = value
        elif name not in NAMES:
            if not could_be_parameter(target, name):
                refuse_stranger(target, name)
            kwargs[name] = value
        elif could_be_parameter(target, name):
            raise TypeError(
                f"{brief(name)} is an option of submit() and could be a parameter of "
                f"{name_of(target)}(): say client.options({name}=...).submit(...) for the option, "
                f"or client.options().submit(..., {name}=...) for the parameter"
            )
        else:
            options[name] = value
    return options, kwargs


def refuse_stranger(target: Any, name: str) -> None:
    """Raise TypeError for a keyword that neither *target* takes nor `submit`."""
    function = target.function if isinstance(target, MethodReference) else target
    meant = likely(name)
    # What a decorator takes for itself does not stand in the signature of what it wraps.
    if hasattr(function, "__wrapped__"):
        named, is_open = keywords_in(inspect.signature(function, follow_wrapped=False))
        if name in named or (is_open and not meant):
            return
    raise TypeError(
        f"{brief(name)} is neither an option of submit() nor a parameter of {name_of(target)}()"
        + (f": {meant}" if meant else "")
    )


def could_be_parameter(target: Any, name: str) -> bool:
    """Tell whether *target* may take *name* as a keyword."""
    function = target.function if isinstance(target, MethodReference) else target
    try:
        names, is_open = keywords_of(function)
    except TypeError:  # Not hashable: look each time.
        names, is_open = keywords_of.__wrapped__(function)
    return is_open or name in names


@lru_cache(1024)
def keywords_of(function: Any) -> tuple[frozenset[str], bool]:
    """Return the keywords that *function* takes, and whether it takes any."""
    try:
        return keywords_in(inspect.signature(function))
    except (TypeError, ValueError):
        return frozenset(), True


def keywords_in(signature: inspect.Signature) -> tuple[frozenset[str], bool]:
    """Return the keywords that stand in *signature*, and whether any other may be given."""
    parameters = signature.parameters.values()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return (
        frozenset(p.name for p in parameters if p.kind in named),
        any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters),
    )
