"""Environments: a class that is loaded once and used by many tasks.

`Vision.detect` is a reference to submit; taken from an instance it is the method as ever. What has
the same qualified name, parameters and version is one environment: a second run finds it warm.
"""

import inspect
import math
import os
import secrets
import types
import warnings
from abc import ABCMeta
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, ClassVar, Final
from weakref import WeakKeyDictionary

from msgspec import Struct

from sdk.describing.batching import batches_of, check_batches
from sdk.describing.code import Captured, capture
from sdk.describing.groups import read_sizes
from sdk.describing.hooks import HOOKS, check_hooks, say_where
from sdk.describing.options import NAME_LENGTH_MAX, read_desires, read_limits, read_slots
from sdk.describing.version import digest_of, version_of
from wire.labels import Desire, Labels, check_own, validate_labels
from wire.limits import AMOUNT_MAX, is_amount
from wire.parts import Environment as EnvironmentMessage
from wire.parts import Reuse
from wire.texts import brief

SCOPES: Final = ("global", "client")
NONE_IS_OFF: Final = frozenset({"max_tasks"})
# By id of a process: what tells its environments apart from those of others, for scope="client".
# One that was forked, as an actor is, has one of its own.
_processes: Final[dict[int, str]] = {}


class ReusePolicy(Struct, frozen=True, kw_only=True):
    """How many copies of an environment are kept, for how long, and what one may take.

    *replicas* is (minimum, maximum), an int n means (n, n); *idle_ttl* ends the idle environment
    and *scaledown_ttl* one idle replica above the minimum, in seconds or as a timedelta, any
    positive value; *concurrency* is how many calls of async methods may be inside one replica at a
    time, where they hold one slot together; a sync one is alone in it. *scope* "client" keeps a
    copy for the tasks of this process alone, until the last of its clients is gone. A copy that has
    run *max_tasks* tasks is replaced, and so is an actor process that takes more than
    *max_memory_mb* (MiB). Raises ValueError here for what means nothing.
    """

    replicas: int | tuple[int, int] = 2
    idle_ttl: float | timedelta = 30.0
    concurrency: int = 1
    scaledown_ttl: float | timedelta = 30.0
    scope: str = "global"
    max_tasks: int | None = None
    max_memory_mb: float | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for numbers that mean nothing."""
        (low, high), told = self.replicas_range, brief(self.replicas)
        if not (is_amount(low, least=0) and is_amount(high)):
            what = f"an int from 1 to {AMOUNT_MAX}, or a tuple (minimum, maximum) of ints"
            raise ValueError(f"replicas={told} must be {what}, the minimum 0 or more")
        if low > high:
            raise ValueError(f"replicas={told}: the minimum is above the maximum")
        for name in ("concurrency", "max_tasks"):
            value = getattr(self, name)
            if not is_amount(value) and not (value is None and name in NONE_IS_OFF):
                raise ValueError(f"{name}={brief(value)} must be an int from 1 to {AMOUNT_MAX}")
        for name in ("idle_ttl", "scaledown_ttl"):
            time_of(name, getattr(self, name))
        if self.scope not in SCOPES:
            raise ValueError(f"scope={brief(self.scope)} must be {' or '.join(map(repr, SCOPES))}")
        memory = self.max_memory_mb
        is_number = type(memory) in (int, float)
        if memory is not None and not (is_number and 0 < memory <= AMOUNT_MAX):
            raise ValueError(
                f"max_memory_mb={brief(memory)} must be a number above 0, at most {AMOUNT_MAX}"
            )

    @property
    def replicas_range(self) -> tuple[int, int]:
        """Return minimum and maximum."""
        if isinstance(self.replicas, tuple):
            if len(self.replicas) != 2:
                raise ValueError(f"replicas={self.replicas!r} must be an int or (minimum, maximum)")
            return self.replicas
        return (self.replicas, self.replicas)

    @property
    def idle_ttl_s(self) -> float:
        """Return *idle_ttl* in seconds."""
        return seconds(self.idle_ttl)

    @property
    def scaledown_ttl_s(self) -> float:
        """Return *scaledown_ttl* in seconds."""
        return seconds(self.scaledown_ttl)


def time_of(name: str, time: Any) -> float:
    """Return a time in seconds; raise ValueError, naming it, when it is not above 0."""
    value = seconds(time, f"{name}=")
    if not value > 0 or math.isnan(value):
        raise ValueError(f"{name}={brief(time)} must be a time above 0")
    return value


def seconds(time: float | timedelta, what: str = "") -> float:
    """Return a time in seconds; raise ValueError, saying *what*, when it is none."""
    if isinstance(time, timedelta):
        return time.total_seconds()
    if isinstance(time, bool) or not isinstance(time, int | float):
        raise ValueError(f"{what}{brief(time)} is neither seconds nor a timedelta")  # noqa: TRY004
    try:
        return float(time)
    except OverflowError:
        return math.inf if time > 0 else -math.inf


ATTRIBUTE_OF: Final = type.__getattribute__
FUNCTION: Final[Any] = types.FunctionType
# References that are kept, so that not each submit makes one.
REFERENCES_MAX: Final = 1_024


class EnvironmentType(ABCMeta):
    """The type of environment classes: a method taken from the class is a reference to submit."""

    def __getattribute__(cls, name: str) -> Any:
        """Bind a method to the class that it is taken from, which may inherit it."""
        value = ATTRIBUTE_OF(cls, name)
        if type(value) is FUNCTION:
            # Each submit asks for it, and mostly for one that was asked for before.
            reference = _references.get((cls, name))
            if reference is not None and reference.function is value:
                return reference
            return refer(cls, name, value)
        return value


class Environment(metaclass=EnvironmentType):
    """Something expensive that stays loaded in an actor. Subclass it and write `enter`.

    `enter(**parameters)` runs once for each copy, `reset()` after each task, `exit()` when the copy
    is given up, always; both again on one that had to leave while a method of it waited, before
    that goes on. Each may be `async def`. Methods are tasks: `client.submit(Vision.detect, image)`.
    """

    # Where nothing is said there is a second copy only while tasks wait for one: it may be large.
    reuse: ClassVar[ReusePolicy] = ReusePolicy(replicas=(1, 2))
    # What an actor offers while it has a copy.
    labels: ClassVar[Mapping[str, Any]] = {}
    # What an actor must offer to get one.
    desired_labels: ClassVar[Mapping[str, Any]] = {}
    # How many calls may be inside a named actor of it at once, by group: see `concurrency_group`.
    concurrency_groups: ClassVar[Mapping[str, int]] = {}
    # What each task in it takes of slots and limits, as the options *slots* and *limits* say it,
    # which lie over this: a call's own slots take the place of these, its limits are added by name.
    slots: ClassVar[int | Mapping[str, int]] = 1
    limits: ClassVar[Mapping[str, int]] = {}
    # By default a digest of the code; say a string to decide yourself when the old copies are
    # stale.
    version: ClassVar[str | None] = None
    # Seconds or a timedelta, None for no end: how long `enter`, or `reset`, may take before it has
    # failed, and how long anybody waits for `exit`.
    enter_timeout: ClassVar[float | timedelta | None] = 600.0
    exit_timeout: ClassVar[float | timedelta | None] = 10.0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Raise ValueError here, where the class is written, for what could never work."""
        super().__init_subclass__(**kwargs)
        own = cls.__dict__
        if "reuse" in own and not isinstance(own["reuse"], ReusePolicy):
            raise TypeError(f"{cls.__qualname__}.reuse must be a ReusePolicy, got {own['reuse']!r}")
        if "reuse" in own and own["reuse"].concurrency > 1 and not has_async_method(cls):
            raise ValueError(
                f"{cls.__qualname__}: concurrency={own['reuse'].concurrency} needs an async "
                "method; a sync method holds its copy alone"
            )
        check_batches(cls)
        check_hooks(cls)
        for name in ("enter_timeout", "exit_timeout"):
            if own.get(name) is not None:
                time_of(f"{cls.__qualname__}.{name}", own[name])
        if "reuse" in own:
            warn_of_starvation(cls.__qualname__, own["reuse"])
        if "concurrency_groups" in own:
            read_sizes(own["concurrency_groups"])
        if "labels" in own:
            read_labels(cls)
        if "desired_labels" in own:
            read_desires(own["desired_labels"])
        if "slots" in own:
            read_slots(own["slots"])
        if "limits" in own:
            read_limits(own["limits"])

    def enter(self) -> Any:
        """Load; may take parameters, and may be async."""

    def reset(self) -> Any:
        """Bring the copy back to where the next task may begin; may be async."""

    def exit(self) -> Any:
        """Give back what `enter` took; may be async."""

    @classmethod
    def using(cls, **parameters: Any) -> "Specification":
        """Return this environment with parameters for `enter`: another environment of the class."""
        try:
            inspect.signature(cls.enter).bind(None, **parameters)
        except TypeError as error:
            raise TypeError(f"{cls.__qualname__}.enter(): {error}") from None
        return Specification(cls, parameters)


_warned: set[str] = set()


def warn_of_starvation(name: str, policy: ReusePolicy) -> None:
    """Warn once of an environment in which nothing can run beside a task that waits in it."""
    if policy.replicas_range[1] == 1 and policy.concurrency == 1 and name not in _warned:
        _warned.add(name)
        warnings.warn(
            f"{name}: replicas=1 with concurrency=1 runs its tasks one at a time: one that waits"
            " for another of them by any other means than its future starves both",
            stacklevel=4,
        )


def has_async_method(cls: type) -> bool:
    """Tell whether a method that can be submitted is a coroutine function."""
    return any(
        inspect.iscoroutinefunction(value) and name not in HOOKS
        for kind in cls.__mro__
        for name, value in kind.__dict__.items()
    )


def turns_of(cls: type[Environment]) -> int:
    """Return how many turns a copy has: as many as the batches hold that may run at once."""
    concurrency: int = type.__getattribute__(cls, "reuse").concurrency
    return concurrency * max((one.max_size for one in batches_of(cls).values()), default=1)


def read_labels(cls: type) -> Labels:
    """Read the labels that an actor offers while it has a copy; raise ValueError for a bad one."""
    return check_own(validate_labels(type.__getattribute__(cls, "labels")))


class Specification:
    """An environment class with parameters. Its methods can be submitted."""

    __slots__ = ("__weakref__", "_cls", "_parameters")

    def __init__(self, cls: type[Environment], parameters: Mapping[str, Any]) -> None:
        """Name it; nothing is loaded here."""
        self._cls = cls
        self._parameters = dict(parameters)

    def __getattr__(self, name: str) -> "MethodReference":
        """Return a method as a reference to submit."""
        if not name.startswith("_"):
            value = type.__getattribute__(self._cls, name)
            if type(value) is types.FunctionType and name not in HOOKS:
                return MethodReference(self, name, value)
        raise AttributeError(f"{self!r} has no method {name!r}")

    def __eq__(self, other: object) -> bool:
        """Tell whether it is the same class with the same parameters."""
        return (
            isinstance(other, Specification)
            and self._cls is other._cls
            and digest_of(self._parameters) == digest_of(other._parameters)
        )

    def __hash__(self) -> int:
        """Agree with `==`."""
        return hash((self._cls, digest_of(self._parameters)))

    def __repr__(self) -> str:
        """Show how it was made."""
        given = ", ".join(f"{key}={value!r}" for key, value in self._parameters.items())
        given = given if len(given) <= NAME_LENGTH_MAX else f"{given[:NAME_LENGTH_MAX]}..."
        return f"{self._cls.__qualname__}.using({given})" if given else self._cls.__qualname__

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel with the class."""
        return Specification, (self._cls, self._parameters)

    @property
    def identity(self) -> str:
        """Return qualified name, parameters and version: what makes it the same environment."""
        cls = self._cls
        version = type.__getattribute__(cls, "version")
        shown = version_of(cls) if version is None else str(version)
        # A copy never has more turns, or fewer, than it was entered with.
        turns = turns_of(cls)
        own = f":{turns}" if turns > 1 else ""
        return f"{self._whose}:{shown}{self._scope}{own}"

    @property
    def lineage(self) -> str:
        """Return what all versions of it have in common."""
        return f"{self._whose}{self._scope}"

    @property
    def _whose(self) -> str:
        cls = self._cls
        return f"{cls.__module__}.{cls.__qualname__}:{digest_of(self._parameters)}"

    @property
    def _scope(self) -> str:
        scope = type.__getattribute__(self._cls, "reuse").scope
        if scope != "client":
            return ""
        return f":{_processes.setdefault(os.getpid(), secrets.token_hex(6))}"

    @property
    def desires(self) -> dict[str, Desire]:
        """Return what an actor must offer, by label."""
        return read_desires(type.__getattribute__(self._cls, "desired_labels"))

    @property
    def slots(self) -> dict[str, int]:
        """Return what each task in it takes of slots by type, empty for one plain slot."""
        return read_slots(type.__getattribute__(self._cls, "slots"))

    @property
    def limits(self) -> dict[str, int]:
        """Return what each task in it takes of limits."""
        return read_limits(type.__getattribute__(self._cls, "limits"))

    @property
    def key(self) -> tuple[int, str]:
        """Return class and parameters as a key of this process."""
        return id(self._cls), digest_of(self._parameters)

    @property
    def cls(self) -> type[Environment]:
        """Return the class."""
        return self._cls

    def captured(self) -> Captured:
        """Return the code that makes it: a pickle of `(class, parameters)`."""
        of_class = _captured.setdefault(self._cls, {})
        parameters = digest_of(self._parameters)
        captured = of_class.get(parameters)
        if captured is None or not captured.is_current:
            what = f"the environment {self!r}"
            captured = of_class[parameters] = capture((self._cls, self._parameters), what)
        return captured

    def message(
        self,
        captured: Captured,
        *,
        is_fresh: bool = False,
        is_alone: bool = True,
        method: str = "",
    ) -> EnvironmentMessage:
        """Return what the broker is told; *is_fresh* is a copy for one call.

        A call that *is_alone* takes all turns of a copy; one of a batched *method* takes one, and
        any other as many as a batch.
        """
        cls = self._cls
        policy: ReusePolicy = type.__getattribute__(cls, "reuse")
        low, high = policy.replicas_range
        enter_timeout, exit_timeout = (
            type.__getattribute__(cls, name) for name in ("enter_timeout", "exit_timeout")
        )
        reuse = Reuse(
            replicas_min=low,
            replicas_max=high,
            idle_ttl_s=policy.idle_ttl_s,
            scaledown_ttl_s=policy.scaledown_ttl_s,
            max_tasks=policy.max_tasks,
            max_memory_mb=policy.max_memory_mb,
            enter_timeout_s=None if enter_timeout is None else seconds(enter_timeout),
            exit_timeout_s=None if exit_timeout is None else seconds(exit_timeout),
            is_fresh=is_fresh,
            is_of_client=policy.scope == "client" and not is_fresh,
        )
        all_turns = turns_of(cls)
        if is_fresh or method in batches_of(cls):
            turns = 1
        else:
            turns = all_turns if is_alone else all_turns // policy.concurrency
        return EnvironmentMessage(
            f"{self.identity}:fresh" if is_fresh else self.identity,
            repr(self),
            captured.code.hash,
            {} if is_fresh else read_labels(cls),
            1 if is_fresh else all_turns,
            reuse,
            turns=turns,
            lineage="" if is_fresh else self.lineage,
            gathers=not is_fresh and method in batches_of(cls),
            kind=f"{cls.__module__}.{cls.__qualname__}",
        )


_captured: WeakKeyDictionary[type, dict[str, Captured]] = WeakKeyDictionary()
_references: dict[tuple[type, str], "MethodReference"] = {}


class MethodReference:
    """A method of an environment, as it is taken from the class: to be submitted, or called."""

    specification: Specification
    name: str
    function: types.FunctionType
    key: tuple[()] | tuple[int, str, str] | None

    def __init__(
        self, specification: Specification, name: str, function: types.FunctionType
    ) -> None:
        """Bind *function* to the environment, and look like it."""
        digest = specification.key[1]
        # As `functools.update_wrapper` does, without its loops.
        self.__dict__.update(
            function.__dict__,
            __module__=function.__module__,
            __doc__=function.__doc__,
            __name__=function.__name__,
            __wrapped__=function,
            specification=specification,
            name=name,
            function=function,
            # How its plans are kept, where no parameter that may change belongs to that.
            key=None if digest else (*specification.key, name),
        )

    def __setattr__(self, name: str, value: Any) -> None:
        """Change this one; who takes it from the class next gets another."""
        _references.pop((self.specification.cls, self.name), None)
        # And its plans are its own.
        self.__dict__.update({name: value, "key": ()})

    def __getattr__(self, name: str) -> Any:
        """Find what is seldom asked for."""
        if name == "__qualname__":
            return f"{self.specification.cls.__qualname__}.{self.name}"
        if name == "__annotations__":
            return self.function.__annotations__
        raise AttributeError(f"{self!r} has no attribute {name!r}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the plain function, as `Class.method(instance, ...)` does."""
        try:
            return self.function(*args, **kwargs)
        except TypeError as error:
            say_where(self, error)
            raise

    def __repr__(self) -> str:
        """Show environment and method."""
        return f"<method {self.name!r} of {self.specification!r}>"

    def __eq__(self, other: object) -> bool:
        """Tell whether it is the same method of the same environment."""
        return (
            isinstance(other, MethodReference)
            and self.name == other.name
            and self.specification == other.specification
        )

    def __hash__(self) -> int:
        """Agree with `==`."""
        return hash((self.name, self.specification))

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as class and name."""
        return getattr, (self.specification, self.name)


def refer(cls: Any, name: str, function: types.FunctionType) -> Any:
    """Return *function*, or the reference to it where it is a task of the environment *cls*."""
    mro = ATTRIBUTE_OF(cls, "__mro__")
    if name in HOOKS or name.startswith("__") or Environment not in mro[1:]:
        return function
    if len(_references) >= REFERENCES_MAX:
        _references.clear()
    reference = _references[cls, name] = MethodReference(Specification(cls, {}), name, function)
    return reference


def specification_of(environment: Any) -> Specification:
    """Read what the option *environment* takes: a class, or the result of `using`."""
    if isinstance(environment, Specification):
        return environment
    if isinstance(environment, EnvironmentType) and environment is not Environment:
        return Specification(environment, {})  # type: ignore[arg-type]
    what = "environment must be a subclass of Environment, or Class.using(...)"
    raise TypeError(f"{what}, got {brief(environment)}")
