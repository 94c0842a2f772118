"""The handle of a named actor: what calls it, from the program that made it or from a task.

The rule that must not be broken: a handle means one actor, and never another that has its name
later.
"""

import json
from collections.abc import Callable, Iterable
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sdk.calls.call import Code, Plan
from sdk.describing.groups import read_group
from sdk.describing.options import NAME_LENGTH_MAX, NO_OPTIONS, Options
from sdk.errors import ActorLost
from sdk.futures.future import TaskFuture
from sdk.reading.deadlines import deadline_of
from sdk.task import running
from wire.parts import Call, Named
from wire.parts import Environment as EnvironmentMessage
from wire.texts import brief

if TYPE_CHECKING:
    from sdk.client import Client

# What a single call may say; where it runs is decided where the actor is made.
CALL_OPTIONS: Final = frozenset({"timeout", "name", "metadata", "concurrency_group"})
TIMEOUT_DEFAULT_S: Final = 10.0
# How often it is asked again while a broker that was started again finds out what there is.
ASK_INTERVAL_S: Final = 0.02


class ActorHandle:
    """Calls one named actor: `handle.method.submit(...)`; can be sent into tasks.

    Its calls start in the order in which this process submits them, those of each concurrency group
    for themselves. Inside a task it uses that
    task's client. What `client.actor` returned; an actor of the same name that is made later is
    another one, and calls through this handle then raise ActorLost.
    """

    __slots__ = ("_call", "_client", "_codes", "_entered", "_methods")

    def __init__(
        self,
        call: Call,
        codes: Iterable[Code],
        client: "Client | None",
        entered: TaskFuture | None = None,
    ) -> None:
        """Speak for the actor that *call* enters."""
        self._call = call
        self._codes = tuple(codes)
        self._client = client
        self._entered = entered
        self._methods: dict[Any, Planned] = {}

    def __getattr__(self, name: str) -> "ActorMethod":
        """Return a method to submit."""
        if name.startswith("_"):
            raise AttributeError(name)
        return self.method(name)

    def method(self, name: str) -> "ActorMethod":
        """Return the method *name*, also one that is called like something of the handle itself."""
        known = self._named.methods
        if known and name not in known:
            raise AttributeError(f"{self!r} has no method {brief(name)}; it has {', '.join(known)}")
        return ActorMethod(repr(self), name, NO_OPTIONS, self._planned, self._client_here)

    @property
    def address(self) -> str:
        """Return NAMESPACE/NAME."""
        return f"{self._named.namespace}/{self._named.name}"

    def ready(self, timeout: float | None = None) -> None:
        """Wait until it is entered; raise why it could not be, or TimeoutError.

        Raises ActorLost when it has ended meanwhile.
        """
        deadline = deadline_of(timeout)
        if self._entered is not None:
            self._entered.result(timeout)
        found = look_up(self._client_here(), self._named.namespace, self._named.name, deadline)
        # Asked, not called: a call would wait for its turn, or enter anew what nobody remembers.
        if found is None or found["call"].environment.id != self._environment.id:
            raise ActorLost(f"{self!r} has ended")
        if found["state"] != "alive":
            left = None if deadline is None else max(0.001, deadline - monotonic())
            self._submitter(Planned(self._call, self._codes)).result(left)

    def kill(self, *, force: bool = True, timeout: float | None = TIMEOUT_DEFAULT_S) -> bool:
        """End the actor: calls without an outcome raise ActorLost; tell whether it was there.

        What runs in it is told; with *force* its process is ended if that does not return in time,
        and what else runs there runs again elsewhere.
        """
        wish = json.dumps({"actor": self._environment.id, "force": force})
        return bool(self._client_here().query("named-kill", wish, timeout)["killed"])

    def __dir__(self) -> list[str]:
        """List the methods as well."""
        return [*super().__dir__(), *self._named.methods]

    def __repr__(self) -> str:
        """Show class and address."""
        return f"<actor {self._environment.name} {self.address!r}>"

    def __eq__(self, other: object) -> bool:
        """Tell whether it is the same actor."""
        return isinstance(other, ActorHandle) and self._environment.id == other._environment.id

    def __hash__(self) -> int:
        """Agree with `==`."""
        return hash(self._environment.id)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel without the client and the code, which the broker has."""
        return rebuild, (msgspec.msgpack.encode(self._call),)

    @property
    def _environment(self) -> EnvironmentMessage:
        assert self._call.environment
        return self._call.environment

    @property
    def _named(self) -> Named:
        assert self._environment.named
        return self._environment.named

    def _client_here(self) -> "Client":
        """Return the client of the task that runs here, or the one that made the handle."""
        task = running.get()
        client = task.client if task is not None else self._client
        if client is None:
            raise RuntimeError(
                f"{self!r} has no client in this process: say client.get_actor"
                f"({self._named.name!r}, namespace={self._named.namespace!r})"
            )
        return client

    def _planned(self, method: str, options: Options) -> "Planned":
        """Return what the calls of a method have in common."""
        chosen = options.chosen
        key = (method, json.dumps(chosen, sort_keys=True)) if chosen else method
        planned = self._methods.get(key)
        if planned is None:
            default = f"{self._environment.name}.{method}"[:NAME_LENGTH_MAX]
            call = msgspec.structs.replace(
                self._call,
                method=method,
                environment=self._turns_of(method, chosen.get("concurrency_group")),
                name=chosen.get("name", default),
                timeout_s=chosen.get("timeout"),
                metadata=chosen.get("metadata", {}),
            )
            planned = self._methods[key] = Planned(call, self._codes)
        return planned

    def _turns_of(self, method: str, group: str | None) -> EnvironmentMessage:
        """Return the actor with the turns that a call takes: of its own group, or of *group*."""
        named, environment = self._named, self._environment
        group = named.grouped.get(method, "") if group is None else group
        if group and group not in named.groups:
            shown = ", ".join(map(repr, sorted(named.groups))) or "none"
            raise ValueError(f"{self!r} has no concurrency group {brief(group)}; it has {shown}")
        environment = msgspec.structs.replace(environment, group=group)
        if method in named.together or environment.size == 1:
            return environment
        return msgspec.structs.replace(environment, turns=environment.size)

    def _submitter(self, planned: "Planned") -> TaskFuture:
        return self._client_here().submit_planned(planned, (), {})


def look_up(
    client: "Client", namespace: str, name: str, deadline: float | None
) -> dict[str, Any] | None:
    """Ask the broker who has a name, once it knows: not before its adopt window is over.

    Returns how that actor stands, and as *call* the one that enters it.
    """
    while True:
        left = None if deadline is None else max(0.001, deadline - monotonic())
        answer = client.query("named", f"{namespace}/{name}", left)
        if answer["named"]:
            found: dict[str, Any] = answer["named"][0]
            return found | {"call": msgspec.convert(found["call"], Call)}
        if not answer["recovering"]:
            return None
        pause(client, deadline)


def pause(client: "Client", deadline: float | None) -> None:
    """Let a moment pass before it is asked again; raise TimeoutError when the time is over."""
    if deadline is not None and monotonic() >= deadline:
        raise TimeoutError(
            f"the broker at {client.endpoint} could not say in time who has the name: it was"
            " started again, or takes no more calls of this client now"
        )
    client.pause(ASK_INTERVAL_S)


def rebuild(octets: bytes) -> ActorHandle:
    """Make the handle that was sent."""
    return ActorHandle(msgspec.msgpack.decode(octets, type=Call), (), None)


class Planned:
    """The plan of calls to a named actor: all of them go to it, whatever their arguments need."""

    __slots__ = ("_plan", "line", "name")

    def __init__(self, call: Call, codes: Iterable[Code]) -> None:
        """Keep what the calls share."""
        assert call.environment
        self.name = call.name
        # Those of one group keep their order.
        self.line = call.environment.pool
        self._plan = Plan(call, codes)

    def plan(self, *, is_portable: bool) -> Plan:
        """Return the plan."""
        return self._plan


class ActorMethod:
    """A method of a named actor."""

    __slots__ = ("_client", "_name", "_options", "_plan", "_title")

    def __init__(
        self,
        title: str,
        name: str,
        options: Options,
        plan: Callable[[str, Options], Planned],
        client: Callable[[], "Client"],
    ) -> None:
        """Bind it to its actor, who says what its calls have in common and through whom they go."""
        self._title = title
        self._name = name
        self._options = options
        self._plan = plan
        self._client = client

    def submit(self, *args: Any, **kwargs: Any) -> TaskFuture:
        """Call it and return the future at once; every keyword goes to the method."""
        return self._client().submit_planned(self._plan(self._name, self._options), args, kwargs)

    def map(self, *iterables: Iterable[Any]) -> list[TaskFuture]:
        """Call it for each item of *iterables*, in order, in few messages."""
        return self._client().map_planned(self._plan(self._name, self._options), iterables)

    def options(self, **options: Any) -> "ActorMethod":
        """Return the method with other *timeout*, *name* or *metadata* for its calls.

        Or of another *concurrency_group*, which the actor must have: ValueError at its submit.
        """
        for name in options:
            if name not in CALL_OPTIONS:
                raise TypeError(
                    f"{brief(name)} is no option of a call to an actor; those are"
                    f" {', '.join(sorted(CALL_OPTIONS))}: the rest is decided by client.actor()"
                )
        given = {name: value for name, value in options.items() if name != "concurrency_group"}
        chosen = Options.of(given).over(self._options)
        if options.get("concurrency_group") is not None:
            group = read_group(options["concurrency_group"])
            chosen = Options(chosen.chosen | {"concurrency_group": group})
        return ActorMethod(self._title, self._name, chosen, self._plan, self._client)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: it runs elsewhere."""
        raise TypeError(f"{self!r} runs in its actor: say .{self._name}.submit(...).result()")

    def __repr__(self) -> str:
        """Show method and actor."""
        return f"<method {self._name!r} of {self._title}>"
