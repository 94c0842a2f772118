"""Named actors: one copy of a class that has an address, made or found.

counter = client.actor(Counter, start=0, name="clicks", get_if_exists=True)
counter.incr.submit(2).result()

The rule that must not be broken: whoever asks for a name gets the one actor that has it, or is told
why not.
"""

import functools
import inspect
import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from sdk.calls.call import Code
from sdk.describing.code import capture
from sdk.describing.groups import groups_of
from sdk.describing.hooks import HOOKS
from sdk.describing.options import NAME_LENGTH_MAX, read_desires, read_flag, read_limits, read_slots
from sdk.describing.version import digest_of, version_of
from sdk.environment import (
    Environment,
    EnvironmentType,
    Specification,
    read_labels,
    seconds,
)
from sdk.errors import ActorUnknown, Conflict
from sdk.futures.future import TaskFuture
from sdk.handle import (
    TIMEOUT_DEFAULT_S,
    ActorHandle,
    Planned,
    look_up,
    pause,
)
from sdk.plan import PYTHON_DESIRE
from sdk.reading.deadlines import deadline_of
from wire.labels import Labels
from wire.parts import Call, Named, Reuse
from wire.parts import Environment as EnvironmentMessage
from wire.texts import brief, check_text

if TYPE_CHECKING:
    from sdk.client import Client

NAMESPACE_DEFAULT: Final = "default"
LIFETIMES: Final = ("client", "detached")
# What `Client.actor` takes for itself; every other keyword goes to the class.
ACTOR_OPTIONS: Final = frozenset(
    {
        "concurrency",
        "concurrency_groups",
        "desired_labels",
        "durable",
        "get_if_exists",
        "lifetime",
        "limits",
        "max_pending",
        "max_restarts",
        "max_task_retries",
        "name",
        "namespace",
        "slots",
        "timeout",
    }
)


class Plain:
    """A class that is no Environment, entered by its own `__init__`."""

    def __init__(self, cls: type) -> None:
        """Hold the class."""
        self._cls = cls
        self._instance: Any = None

    def enter(self, **parameters: Any) -> None:
        """Make the instance."""
        self._instance = self._cls(**parameters)

    def __getattr__(self, name: str) -> Any:
        """Be the instance in everything else."""
        return getattr(self.__dict__.get("_instance"), name)


class Blueprint:
    """What a named actor is made of: a class with parameters, and what it needs."""

    __slots__ = (
        "cls",
        "codes",
        "concurrency",
        "desires",
        "identity",
        "labels",
        "limits",
        "methods",
        "reuse",
        "slots",
        "title",
    )

    def __init__(self, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Read a class, or `Class.using(...)`; raise TypeError for what is none."""
        self.labels: Labels = {}
        self.reuse = reuse_of(Environment)
        self.desires = read_desires(None)
        self.slots: dict[str, int] = {}
        self.limits: dict[str, int] = {}
        self.concurrency = 1
        if isinstance(target, Specification):
            if args or kwargs:
                raise TypeError(
                    f"{brief(target)} has its parameters already, got {brief(args)} {brief(kwargs)}"
                )
            specification = target
        elif isinstance(target, EnvironmentType) and target is not Environment:
            specification = Specification(target, bind(target, target.enter, args, kwargs))  # type: ignore[arg-type]
        elif isinstance(target, type):
            self._read_plain(target, args, kwargs)
            return
        else:
            raise TypeError(f"an actor is made of a class, got {brief(target)}")
        cls = self.cls = specification.cls
        self.identity = specification.identity
        self.title = repr(specification)
        self.codes: list[Code] = [specification.captured().code]
        self.desires = specification.desires
        self.slots = specification.slots
        self.limits = specification.limits
        self.labels = read_labels(cls)
        self.reuse = reuse_of(cls)
        self.concurrency = type.__getattribute__(cls, "reuse").concurrency
        self.methods = methods_of(cls)

    def _read_plain(self, cls: type, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.cls = cls
        parameters = bind(cls, cls.__init__, args, kwargs)  # type: ignore[misc]
        self.title = cls.__qualname__
        where = f"{cls.__module__}.{cls.__qualname__}"
        self.identity = f"{where}:{digest_of(parameters)}:{version_of(cls)}"
        pair = (functools.partial(Plain, cls), parameters)
        self.codes = [capture(pair, f"the class {self.title!r}").code]
        self.methods = methods_of(cls)


def reuse_of(cls: type[Environment]) -> Reuse:
    """Return the times that *cls* has to be entered and left; nothing else of its policy holds."""
    enter_s, exit_s = (
        None if time is None else seconds(time)
        for time in (
            type.__getattribute__(cls, "enter_timeout"),
            type.__getattribute__(cls, "exit_timeout"),
        )
    )
    return Reuse(1, 1, enter_timeout_s=enter_s, exit_timeout_s=exit_s)


def bind(cls: type, enter: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters by name; raise TypeError where they are not those of the class."""
    try:
        signature = inspect.signature(enter)
    except ValueError:  # Of a class that is written in C.
        if args:
            raise TypeError(
                f"{cls.__qualname__} takes keywords only here, got {brief(args)}"
            ) from None
        return dict(kwargs)
    if enter is object.__init__:
        signature = inspect.Signature(
            [inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)]
        )
    try:
        bound = signature.bind(None, *args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{cls.__qualname__}: {error}") from None
    parameters: dict[str, Any] = {}
    for index, (name, value) in enumerate(bound.arguments.items()):
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            parameters |= value
        elif index and kind in (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.VAR_POSITIONAL,
        ):
            raise TypeError(f"{cls.__qualname__}: the parameter {name!r} has no keyword")
        elif index:
            parameters[name] = value
    return parameters


def methods_of(cls: type) -> list[str]:
    """Return what can be called on an actor of *cls*; nothing where only it knows that itself."""
    if any("__getattr__" in kind.__dict__ for kind in cls.__mro__):
        return []
    names = {
        name
        for kind in cls.__mro__
        for name, value in kind.__dict__.items()
        if callable(value) or isinstance(value, staticmethod | classmethod)
    }
    check_hooks(cls, names)
    return sorted(name for name in names if not name.startswith("_") and name not in HOOKS)


def check_hooks(cls: type, names: set[str]) -> None:
    """Raise TypeError where a state is said that nobody can begin from, or only later."""
    if ("checkpoint" in names) != ("restore" in names):
        raise TypeError(
            f"{cls.__qualname__} has one of checkpoint() and restore(state): needs both"
        )
    hook = inspect.getattr_static(cls, "checkpoint", None)
    if inspect.iscoroutinefunction(hook):
        raise TypeError(
            f"{cls.__qualname__}.checkpoint must not be async: it is one moment's state"
        )


# ---------------------------------------------------------------------- making and finding


def make_actor(
    client: "Client", target: Any, args: Sequence[Any], given: Mapping[str, Any]
) -> ActorHandle:
    """Make a named actor, or find the one that has the name; see `Client.actor`."""
    chosen = {name: value for name, value in given.items() if name in ACTOR_OPTIONS}
    kwargs = {name: value for name, value in given.items() if name not in ACTOR_OPTIONS}
    refuse_ambiguous(target, chosen)
    blueprint = Blueprint(target, args, kwargs)
    timeout = chosen.pop("timeout", TIMEOUT_DEFAULT_S)
    deadline = deadline_of(timeout)
    get_if_exists = chosen.pop("get_if_exists", False)
    while True:
        call = entry_call(blueprint, chosen, client.incarnation)
        entered = client.submit_planned(Planned(call, blueprint.codes), (), {})
        try:
            found = ask(client, call, entered, deadline)
        except BaseException:
            entered.cancel()
            raise
        if found is not None:
            break
    assert call.environment
    assert found.environment
    assert found.environment.named
    if found.environment.id == call.environment.id:
        return ActorHandle(call, blueprint.codes, client, entered)
    entered.cancel()
    named = found.environment.named
    address = f"{named.namespace}/{named.name}"
    if not get_if_exists:
        raise Conflict(
            f"there is an actor {address!r} already, a {found.environment.name}: say"
            " get_if_exists=True to have it, or kill() it first"
        )
    if named.identity != blueprint.identity:
        raise Conflict(
            f"the actor {address!r} was made with {difference(named.identity, blueprint.identity)}:"
            " kill() it first, or take another name"
        )
    return ActorHandle(found, blueprint.codes, client)


def difference(one: str, other: str) -> str:
    """Say in what two identities differ."""
    mine, yours = one.split(":", 2), other.split(":", 2)
    if mine[0] != yours[0]:
        return f"the class {mine[0]}, not {yours[0]}"
    parts = ("", "other parameters", "another version of its code")
    pairs = zip(parts, mine, yours, strict=False)
    return " and ".join(part for part, a, b in pairs if a != b)


def refuse_ambiguous(target: Any, chosen: Mapping[str, Any]) -> None:
    """Raise TypeError for an option that could be a parameter of the class."""
    if isinstance(target, Specification):
        return
    enter = getattr(target, "enter", None) if isinstance(target, EnvironmentType) else None
    enter = enter or getattr(target, "__init__", None)
    try:
        names = set(inspect.signature(enter).parameters) if enter else set()
    except (TypeError, ValueError):
        names = set()
    for name in chosen:
        if name in names:
            raise TypeError(
                f"{name!r} is an option of client.actor() and a parameter of {brief(target)}: say"
                f" client.actor(Class.using({name}=...)) for the parameter of an Environment,"
                " or rename it"
            )


def entry_call(blueprint: Blueprint, chosen: Mapping[str, Any], incarnation: int) -> Call:
    """Make the call that enters the actor; raise TypeError or ValueError for a bad option."""
    name = chosen.get("name")
    name = secrets.token_hex(6) if name is None else read_address("name", name)
    namespace = read_address("namespace", chosen.get("namespace", NAMESPACE_DEFAULT))
    if "/" in namespace:
        raise ValueError(f"namespace={brief(namespace)} must not have a '/'")
    is_durable = read_flag("durable", chosen.get("durable", False))
    # What outlives its process, and everybody else, is not to end with one of them.
    lifetime = chosen.get("lifetime", LIFETIMES[is_durable])
    if lifetime not in LIFETIMES:
        raise ValueError(f"lifetime={brief(lifetime)} is neither {' nor '.join(LIFETIMES)}")
    concurrency = read_count(
        "concurrency", chosen.get("concurrency", blueprint.concurrency), least=1
    )
    groups = groups_of(
        blueprint.cls,
        blueprint.methods,
        concurrency=concurrency,
        given=chosen.get("concurrency_groups"),
    )
    named = Named(
        namespace,
        name,
        blueprint.identity,
        incarnation if lifetime == LIFETIMES[0] else 0,
        read_count("max_restarts", chosen.get("max_restarts", -is_durable), least=-1),
        read_count("max_task_retries", chosen.get("max_task_retries", 0), least=-1),
        read_count("max_pending", chosen.get("max_pending") or 0, least=0),
        blueprint.methods,
        groups.sizes,
        groups.grouped,
        groups.together,
    )
    environment = EnvironmentMessage(
        f"{blueprint.identity}@{namespace}/{name}#{secrets.token_hex(8)}",
        blueprint.title,
        blueprint.codes[0].hash,
        blueprint.labels,
        concurrency,
        blueprint.reuse,
        named,
    )
    desires = blueprint.desires | read_desires(chosen.get("desired_labels"))
    desires.setdefault(PYTHON_DESIRE.key, PYTHON_DESIRE)
    return Call(
        name=blueprint.title[:NAME_LENGTH_MAX],
        environment=environment,
        desires=list(desires.values()),
        slots=read_slots(chosen["slots"]) if "slots" in chosen else blueprint.slots,
        limits=blueprint.limits | read_limits(chosen.get("limits", {})),
        durable=is_durable,
    )


def read_address(what: str, text: Any) -> str:
    """Read a name or a namespace."""
    if not isinstance(text, str) or not 0 < len(text) <= NAME_LENGTH_MAX:
        raise ValueError(
            f"{what}={brief(text)} is not a string of 1 to {NAME_LENGTH_MAX} characters"
        )
    check_text(what, text)
    if not text.isprintable():
        raise ValueError(f"{what}={brief(text)} has characters that cannot be printed in one line")
    return text


def read_count(what: str, number: Any, *, least: int) -> int:
    """Read an int of at least *least*."""
    if type(number) is not int or not least <= number < 2**31:
        raise ValueError(f"{what}={brief(number)} is not an int of at least {least}")
    return number


def ask(client: "Client", call: Call, entered: TaskFuture, deadline: float | None) -> Call | None:
    """Return the entry call of whoever has the name now; None when it is free again."""
    assert call.environment
    assert call.environment.named
    named = call.environment.named
    while True:
        found = look_up(client, named.namespace, named.name, deadline)
        if found is not None:
            return call_in(found)
        if entered.done():
            error = entered.exception()
            if isinstance(error, Conflict):
                return None  # Who had it has ended in between.
            entered.result()
            raise ActorUnknown(f"the actor '{named.namespace}/{named.name}' was killed at once")
        pause(client, deadline)


def find_actor(client: "Client", name: str, namespace: str, timeout: float | None) -> ActorHandle:
    """Return the handle of the actor that has a name; raise ActorUnknown when there is none."""
    _ = read_address("name", name), read_address("namespace", namespace)
    found = look_up(client, namespace, name, deadline_of(timeout))
    if found is None:
        raise ActorUnknown(f"there is no actor '{namespace}/{name}'")
    return ActorHandle(call_in(found), (), client)


def call_in(found: Mapping[str, Any]) -> Call:
    """Return the call that enters the actor of which *found* is how it stands."""
    call: Call = found["call"]
    return call
