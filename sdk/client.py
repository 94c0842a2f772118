"""The client: submit functions, get futures."""

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from types import TracebackType
from typing import Any, Final, Protocol, Self

import msgspec

from sdk.calls.asking import check_question
from sdk.calls.call import Plan
from sdk.connection import Connection, process_name, shared_connection
from sdk.describing.likeness import digest_of, digest_of_arguments
from sdk.describing.options import NO_OPTIONS, Desired, Options, split_key
from sdk.futures.arguments import dump_arguments, futures_in, with_results
from sdk.futures.executor import TaskExecutor
from sdk.futures.found import find, named_task, redrive
from sdk.futures.future import QUERY_TIMEOUT_S, TaskFuture
from sdk.handle import ActorHandle
from sdk.named import NAMESPACE_DEFAULT, find_actor, make_actor
from sdk.plan import plan_for, split_keywords
from wire.keys import Folder
from wire.limits import AMOUNT_MAX, Definition, Strategy, check_definition, read_rate, read_strategy
from wire.parts import Key, Token
from wire.payload import Dumped
from wire.texts import brief

BATCH_DEFAULT: Final = 1_000
OPTIONS_CACHED_MAX: Final = 256


class AnyPlanned(Protocol):
    """What calls have in common: of a function with its options, or of a named actor's method."""

    name: str
    line: str

    def plan(self, *, is_portable: bool) -> Plan:
        """Return the plan for arguments that are portable or not."""


class Submitter:
    """Submits with one set of options; what `Client.options` returns."""

    def __init__(
        self,
        connection: Connection,
        options: Options,
        parent: Token | None,
        key: tuple[str, float | None] | None = None,
    ) -> None:
        """Share *connection*; *key* is an idempotency key and its time to live."""
        self._connection = connection
        self._options = options
        self._parent = parent
        self._key = key

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> TaskFuture:
        """Submit `fn(*args, **kwargs)` and return its future at once; every keyword goes to *fn*.

        Raises SerializationError, which names the argument. An array of 16 KiB or more is not
        copied: do not change it before the future is done.
        """
        return self.submit_planned(plan_for(fn, self._options), args, kwargs)

    def submit_planned(
        self, planned: AnyPlanned, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> TaskFuture:
        """Submit a call whose plans are made; those of one line keep their order."""
        future = TaskFuture(self._connection, planned.name)
        dumped = dump_arguments(planned.name, args, kwargs)
        if dumped is None or (planned.line and self._has_line(planned.line)):
            self._defer(planned, args, kwargs, future, dumped)
            return future
        if self._key is None:
            plan = planned.plan(is_portable=dumped.is_portable)
            return self._connection.submit(plan, dumped, self._parent, future)
        return self._submit(planned, dumped, future, digest_of_arguments(args, kwargs))

    def _submit(
        self, planned: AnyPlanned, dumped: Dumped, future: TaskFuture, digest: bytes | None
    ) -> TaskFuture:
        plan = planned.plan(is_portable=dumped.is_portable)
        if digest is None or self._key is None:
            return self._connection.submit(plan, dumped, self._parent, future)
        key = Key(self._key[0], digest_of(plan.call, digest), self._key[1])
        return self._connection.submit(plan, dumped, self._parent, future, key)

    def map(
        self, fn: Callable[..., Any], /, *iterables: Iterable[Any], batch: int = BATCH_DEFAULT
    ) -> list[TaskFuture]:
        """Submit one call for each item of *iterables*, in messages of *batch*."""
        if self._key is not None:
            raise ValueError("map() makes many calls, and an idempotency_key belongs to one")
        if type(batch) is not int or batch < 1:
            raise ValueError(f"batch={brief(batch)} must be an int of at least 1")
        return self.map_planned(plan_for(fn, self._options), iterables, batch)

    def map_planned(
        self,
        planned: AnyPlanned,
        iterables: tuple[Iterable[Any], ...],
        batch: int = BATCH_DEFAULT,
    ) -> list[TaskFuture]:
        """Submit one call for each item of *iterables*, whose plans are made."""
        if not iterables:
            raise TypeError("map() needs at least one iterable")
        futures: list[TaskFuture] = []
        items = zip(*iterables, strict=False)
        while chunk := list(islice(items, min(batch, AMOUNT_MAX))):
            calls: list[tuple[Plan, Dumped, TaskFuture]] = []
            for args in chunk:
                future = TaskFuture(self._connection, planned.name)
                futures.append(future)
                dumped = dump_arguments(planned.name, args, {})
                if dumped is None or (planned.line and self._has_line(planned.line)):
                    if planned.line and calls:
                        self._connection.submit_many(calls, self._parent)
                        calls = []
                    self._defer(planned, args, {}, future, dumped)
                else:
                    calls.append((planned.plan(is_portable=dumped.is_portable), dumped, future))
            self._connection.submit_many(calls, self._parent)
        return futures

    @property
    def checked(self) -> Options:
        """Return the options, with the plans that were made for them."""
        return self._options

    def _defer(
        self,
        planned: AnyPlanned,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        future: TaskFuture,
        dumped: Dumped | None,
    ) -> None:
        """Submit when futures among the arguments are done, and nobody stands ahead in its line."""
        has_key = self._key is not None
        digest = digest_of_arguments(args, kwargs) if has_key and dumped is not None else None

        def begin() -> None:
            ready, found = dumped, digest
            if ready is None:
                whole = with_results(args), with_results(dict(kwargs))
                ready = dump_arguments(planned.name, *whole)
                found = digest_of_arguments(*whole) if has_key else None
            assert ready is not None, "a result was a future"
            _ = self._submit(planned, ready, future, found)

        arguments = futures_in((args, kwargs)) if dumped is None else []
        # Each task in a process calls for itself.
        line = (planned.line, self._parent) if planned.line else None
        self._connection.deferrals.defer(arguments, future, begin, line)

    def _has_line(self, line: str) -> bool:
        return (line, self._parent) in self._connection.deferrals.lines


class Client:
    """A connection to the broker at *endpoint*, default $WARMSLOT_BROKER or tcp://127.0.0.1:5555.

    Returns at once and waits for a broker in the background, with one line on stderr after 3 s.
    With *connect_timeout* (seconds) it raises BrokerUnreachable or NotAuthorized instead. *keys*,
    default $WARMSLOT_KEYS, is a folder that `warmslot keys` made, for a tcp:// broker with keys;
    ValueError says what is wrong in it. *name* is for people. *parent* is the token of the task
    that calls are made for, *inherited* what they have from it: users take `current_task().client`.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        connect_timeout: float | None = None,
        keys: Folder | None = None,
        name: str | None = None,
        parent: Token | None = None,
        inherited: Options = NO_OPTIONS,
    ) -> None:
        """Connect."""
        self._parent = parent
        if parent is None:
            self._connection = Connection(endpoint, name or process_name(), keys)
        else:
            self._connection = shared_connection(endpoint, name or process_name(), keys)
        self._inherited = inherited
        self._plain = Submitter(self._connection, inherited, parent)
        self._cached: dict[Any, Submitter] = {}
        if connect_timeout is not None:
            try:
                self._connection.wait_open(connect_timeout)
            except BaseException:
                self.close()
                raise

    @property
    def endpoint(self) -> str:
        """Return the broker's endpoint."""
        return self._connection.endpoint

    def submit(self, fn: Callable[..., Any], /, *args: Any, **given: Any) -> TaskFuture:
        """Submit `fn(*args)` and return its future at once.

        Keywords are options (`desired_labels`, `environment`, `priority`, ...) or go to *fn*. One
        that is an option and could be a parameter of *fn* raises TypeError: then say
        `client.options()`. Raises SerializationError, which names the argument that cannot be
        pickled. An array of 16 KiB or more is not copied: do not change it before the future is
        done.
        """
        if not given:
            return self._plain.submit(fn, *args)
        options, kwargs = split_keywords(fn, given)
        return (self._with(options) if options else self._plain).submit(fn, *args, **kwargs)

    def options(self, **options: Any) -> Submitter:
        """Return a submitter with these options, whose keywords all go to the function.

        Raises TypeError for what is no option and ValueError for a value that cannot be.
        """
        return self._with(options)

    def map(
        self,
        fn: Callable[..., Any],
        /,
        *iterables: Iterable[Any],
        batch: int = BATCH_DEFAULT,
        **options: Any,
    ) -> list[TaskFuture]:
        """Submit one call for each item of *iterables*, as `map` pairs them; return their futures.

        *batch* is how many calls go into one message. The other keywords are options.
        """
        submitter = self._with(options) if options else self._plain
        return submitter.map(fn, *iterables, batch=batch)

    def get_future(self, task_id: str) -> TaskFuture:
        """Return the future of a durable task by its `task_id`, from any process.

        Each that asks gets the outcome; of this client's own it is the future that `submit` gave,
        while somebody holds that. OutcomeUnknown is that of a task which the broker does not know:
        it was never accepted, or its outcome was received and let go, or kept for too long.
        """
        return find(self._connection, task_id)

    def dead_tasks(self, timeout: float | None = QUERY_TIMEOUT_S) -> list[dict[str, Any]]:
        """Return what ended badly and is kept, at most 1,000, those first that can be redriven.

        Each has task (its id), name, ended_ms (since 1970), code, message, tries, failures,
        crashes, losses, history, has_call, and redriven_as, the id of its next life.
        `query("dead", task_id)` returns one in full, with its traceback and options.
        """
        dead: list[dict[str, Any]] = self.query("dead", timeout=timeout)["dead"]
        return dead

    def redrive(self, task_id: str) -> TaskFuture:
        """Submit the call of a dead task again, under a new id and with new counters.

        Once, whoever asks: another redrive of the same task gets the outcome of the first. With a
        journal the new task is durable, `accepted()` says when it is safe; without one it is this
        client's, and ends with it. OutcomeUnknown is that of a task which is not kept (any more).
        """
        return redrive(self._connection, task_id)

    def forget_dead(self, *task_ids: str, timeout: float | None = QUERY_TIMEOUT_S) -> list[str]:
        """Let the broker forget these dead tasks, `"*"` for all; return whose ids they had."""
        answer = self.query("dead-forget", " ".join(map(named_task, task_ids)), timeout)
        forgotten: list[str] = answer["forgotten"]
        return forgotten

    def actor(self, cls: Any, /, *args: Any, **given: Any) -> ActorHandle:
        """Make one copy of *cls* that keeps its state and has an address; return its handle.

        *cls* is a class, an Environment or any other, or `Class.using(...)`; arguments are those of
        its `enter`, or `__init__`. Options: *name* (default: a random one) and *namespace*;
        *get_if_exists* returns the actor that has the name, if class, parameters and code are the
        same; *lifetime* "client" ends it with this client, "detached" when it is killed;
        *max_restarts* is how often it is entered again elsewhere when its process dies (0; -1
        without end), from what `checkpoint()` said last, if the class has that and
        `restore(state)`; *max_task_retries* how often a call runs again that may have run when
        that happened (0; -1), which else raises ActorLost; *max_pending* how many calls may wait;
        *concurrency* how many calls of async methods may be inside at once (1), beside those of
        *concurrency_groups*, a mapping from name to size (see `concurrency_group`); a sync method
        is alone in its group; *durable* keeps it, its newest checkpoint
        and its calls in the broker's journal, where they outlive everybody: then *lifetime* is
        "detached" and *max_restarts* -1 by default, and calls raise NotDurable while nothing can be
        written; *desired_labels*, *slots*, *limits* as in `submit`, for each call. Waits up to
        *timeout* (10 s) for the broker's word, not for the entry: that is `handle.ready()`. Raises
        Conflict when the name is taken.
        """
        return make_actor(self, cls, args, given)

    def get_actor(
        self,
        name: str,
        namespace: str = NAMESPACE_DEFAULT,
        timeout: float | None = QUERY_TIMEOUT_S,
    ) -> ActorHandle:
        """Return the handle of the actor that has this name; raise ActorUnknown for none."""
        return find_actor(self, name, namespace, timeout)

    def named(self, timeout: float | None = QUERY_TIMEOUT_S) -> list[dict[str, Any]]:
        """Return every named actor: name, state, actor, generation, pending, restarts."""
        named: list[dict[str, Any]] = self.query("named", timeout=timeout)["named"]
        return named

    @property
    def incarnation(self) -> int:
        """Return the number of this client, with which its named actors end."""
        return self._connection.core.incarnation

    def submit_planned(
        self, planned: AnyPlanned, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> TaskFuture:
        """Submit a call of a named actor."""
        return self._plain.submit_planned(planned, args, kwargs)

    def map_planned(
        self, planned: AnyPlanned, iterables: tuple[Iterable[Any], ...]
    ) -> list[TaskFuture]:
        """Submit many calls of a named actor."""
        return self._plain.map_planned(planned, iterables)

    def executor(self, **options: Any) -> TaskExecutor:
        """Return a `concurrent.futures.Executor` that submits with these options."""
        return TaskExecutor(self._with(options))

    def actors(self, timeout: float | None = QUERY_TIMEOUT_S) -> list[dict[str, Any]]:
        """Return what the broker knows of each actor: name, labels, slots, free, state."""
        actors: list[dict[str, Any]] = self.query("actors", timeout=timeout)["actors"]
        return actors

    def explain(
        self, future: TaskFuture | str, timeout: float | None = QUERY_TIMEOUT_S
    ) -> dict[str, Any]:
        """Return why a task waits: `state`, `reason`, and in `actors` what each actor lacks for it.

        *future* may be the id of any task. A queued one also has `reason_s` and `actors_s`, for how
        many seconds it has been so; `satisfiable`, False while no connected actor could ever take
        it; `ends_s` of its schedule timeout; and `limits`, with their holders, where it has some.
        """
        if not isinstance(future, TaskFuture):
            return self.query("explain", named_task(future), timeout)
        if future.done():
            return {"state": "ended", "reason": "its outcome is here", "actors": {}}
        if future.number:
            return future.connection.explain(future.number, timeout)
        return {"state": "waiting", "reason": "waits for results that it needs", "actors": {}}

    def query(
        self, what: str, argument: str = "", timeout: float | None = QUERY_TIMEOUT_S
    ) -> dict[str, Any]:
        """Ask the broker: actors, clients, dead, environments, explain, limits, status, tasks.

        Or order actors, by a name or a pattern as *argument*: drain, pause, resume; or let an
        environment that is broken be entered again: environment-retry (protocol.md 7.8).
        Raises TimeoutError, WarmslotError for what it cannot answer, and NotAuthorized as soon as
        it lets this client not in.
        """
        check_question(what, argument)
        return self._connection.query(what, argument, timeout)

    def limits(self, timeout: float | None = QUERY_TIMEOUT_S) -> list[dict[str, Any]]:
        """Return every limit: name, maximum, and its keys with who holds them and how many wait.

        Those that hosts state for their actors are called "host:NAME" and have the host's name.
        """
        limits: list[dict[str, Any]] = self.query("limits", timeout=timeout)["limits"]
        return limits

    def set_limit(
        self,
        name: str,
        maximum: int,
        *,
        per_key: bool = False,
        rate: str | None = None,
        strategy: str = Strategy.QUEUE,
        strict: bool = False,
        timeout: float | None = QUERY_TIMEOUT_S,
    ) -> None:
        """Let at most *maximum* at once have the limit *name*; of each key where it is *per_key*.

        *rate*, as "10/s" or "600/min": what was taken comes back with time, and not with the end of
        its holder. *strategy*: "queue", "round-robin", "cancel-in-progress" or "cancel-newest".
        *strict*: never exceeded, whatever fails: a process that holds it and hears nothing from the
        broker is ended before others are let in, with all that runs in it.
        A limit that is there is changed; who holds more than there is now keeps it. Returns when it
        is in the broker's journal. Raises ValueError for what makes no sense.
        """
        definition = Definition(
            name=name,
            maximum=maximum,
            per_key=per_key,
            rate=None if rate is None else read_rate(rate),
            strategy=read_strategy(strategy),
            strict=strict,
        )
        check_definition(definition)
        self._connection.query("limit-set", msgspec.json.encode(definition).decode(), timeout)

    def delete_limit(self, name: str, timeout: float | None = QUERY_TIMEOUT_S) -> None:
        """Delete a limit. Tasks that wait for it end with LimitUnknown; those that run go on."""
        self.query("limit-delete", name, timeout)

    def release_limit(self, holder: str, timeout: float | None = QUERY_TIMEOUT_S) -> None:
        """Take back by force what a *holder* has, as `limits` names it; its task goes on."""
        self.query("limit-release", holder, timeout)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until the broker has every call that was submitted; False when the time is over.

        Durable ones are in its journal then, or their futures say why not.
        """
        return self._connection.flush(timeout)

    def pause(self, duration: float) -> None:
        """Let *duration* seconds pass, and hear meanwhile what the broker says."""
        self._connection.loop.wait(lambda: False, duration)

    def close(self, wait: bool = False) -> None:  # noqa: FBT001, FBT002 - reads well by name.
        """Leave. What has no outcome is canceled, with one line in the log; *wait* awaits it.

        Durable tasks go on: `get_future` finds them from any process.
        """
        if self._parent is None:
            self._connection.close(wait=wait)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        """Leave, without waiting."""
        self.close()

    def __repr__(self) -> str:
        """Show the endpoint."""
        return f"Client({self.endpoint!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Refuse: a connection belongs to its process."""
        raise TypeError(
            "a Client cannot be sent to an actor; inside a task use current_task().client"
        )

    def _with(self, options: Mapping[str, Any]) -> Submitter:
        """Return a submitter with *options*, the same one for the same options."""
        if "idempotency_key" in options or "idempotency_ttl" in options:
            key, rest = split_key(options)
            if key is None:
                return self._with(rest)
            base = self._with(rest | {"durable": True})
            return Submitter(self._connection, base.checked, self._parent, key)
        try:
            key = freeze(options)
            known = self._cached.get(key)
        except TypeError:
            return self._make(options)
        if known is None:
            known = self._make(options)
            if len(self._cached) >= OPTIONS_CACHED_MAX:
                self._cached.clear()
            self._cached[key] = known
        return known

    def _make(self, options: Mapping[str, Any]) -> Submitter:
        chosen = Options.of(options).over(self._inherited)
        return Submitter(self._connection, chosen, self._parent)


def freeze(value: Any) -> Any:
    """Make a key of options; True, 1 and 1.0 are different values. Raises TypeError."""
    if isinstance(value, Mapping):
        return tuple((name, freeze(part)) for name, part in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return (type(value), tuple(freeze(part) for part in value))
    if type(value) is Desired:
        return (
            Desired,
            freeze(value.value),
            value.comparator,
            value.required,
            freeze(value.weight),
        )
    hash(value)
    return (type(value), value)
