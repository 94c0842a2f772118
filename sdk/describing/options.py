"""The options of a call: read, checked and merged before anything is sent.

An Options is immutable. What a function has by `@task`, what a client was given by `options`, and
what stands in the call itself are laid over one another, key by key, the later over the earlier.
"""

import difflib
import inspect
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from msgspec import Struct

from sdk.errors import NonRetryable, TaskCanceled
from wire.labels import (
    PRESENCE,
    WEIGHT_DEFAULT,
    Comparator,
    Desire,
    LabelValue,
    is_name,
    validate_desire,
)
from wire.limits import AMOUNT_MAX, check_amounts
from wire.parts import Backoff as BackoffPart
from wire.parts import Sticky as StickyPart
from wire.retries import RETRIES_MAX, check_backoff
from wire.texts import brief, check_text

PRIORITY_MAX: Final = 10
NAME_LENGTH_MAX: Final = 256
TIMEOUT_MAX_S: Final = 1e9

# What the broker and the actors of this version do; each has a reader below.
SUPPORTED: Final = (
    "desired_labels",
    "environment",
    "slots",
    "limits",
    "sticky",
    "affinity_wait",
    "priority",
    "fairness_key",
    "timeout",
    "schedule_timeout",
    "retries",
    "retry_backoff",
    "retry_on",
    "at_most_once",
    "durable",
    "idempotency_key",
    "idempotency_ttl",
    "fail_infeasible",
    "name",
    "metadata",
    "reuse",
)
NOT_YET: Final[dict[str, tuple[Any, ...]]] = {
    "allow_inplace": (None, False),
    "after": (None, (), []),
    "result_codec": (None,),
}
NAMES: Final = frozenset({*SUPPORTED, *NOT_YET})
# What a call has from the run that submits it, where neither it nor its function says so.
INHERITED_STICKY: Final = "inherited_sticky"
# These two are options wherever they stand: nobody calls a parameter so.
ALWAYS: Final = frozenset({"desired_labels", "environment"})
# Beyond this floats do not tell one weight from the next.
WEIGHT_MAX: Final = 2**53


class Desired(Struct, frozen=True):
    """What a label of the actor must be, or, with required=False, had better be.

    A weight counts for a wish only; more weight pulls harder. EXISTS and NOT_EXISTS take no value,
    IN and NOT_IN take a list. Numbers compare with numbers, another type is another value.
    """

    value: LabelValue | list[LabelValue] | None = None
    comparator: Comparator = Comparator.EQUAL
    required: bool | None = None
    weight: float | None = None

    def desire(self, key: str) -> Desire:
        """Return what the broker is told; raise ValueError when it makes no sense."""
        comparator, value = read_comparator(key, self.comparator), self.value
        said: Any = self.required
        if said is not None and not isinstance(said, bool):
            raise TypeError(
                f"label {brief(key)}: required must be True or False, got {brief(said)}"
            )
        weight: Any = WEIGHT_DEFAULT if self.weight is None else self.weight
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise TypeError(f"label {brief(key)}: the weight must be a number, got {brief(weight)}")
        if isinstance(weight, int) and abs(weight) > WEIGHT_MAX:
            raise ValueError(f"label {brief(key)}: a weight of {weight:,} is over {WEIGHT_MAX:,}")
        if self.weight is not None and said is None:
            warnings.warn(
                f"label {brief(key)}: the weight {brief(weight)} of a required label is ignored; "
                "say required=False for a wish",
                stacklevel=levels_to_caller(),
            )
        several: Any = value
        if isinstance(several, tuple | set | frozenset):
            value = list(several)
        desire = Desire(key, comparator, value, said is not False, float(weight))
        validate_desire(desire)
        return desire


def levels_to_caller() -> int:
    """Return the `stacklevel` by which a warning of the calling function names the user's line."""
    frame, levels = inspect.currentframe(), 0
    # A class is made through `abc`.
    while frame and frame.f_globals.get("__name__", "").partition(".")[0] in ("sdk", "abc"):
        frame, levels = frame.f_back, levels + 1
    return levels


def read_comparator(key: str, comparator: Any) -> Comparator:
    """Read how *key* is compared: a `Comparator`, or what it is called on the wire."""
    try:
        return Comparator(comparator)
    except ValueError:
        known = ", ".join(Comparator)
        message = f"label {brief(key)}: {brief(comparator)} is no comparator, those are {known}"
        raise ValueError(message) from None


DESIRED_KEYS: Final = frozenset({"value", "comparator", "required", "weight"})


def read_desires(labels: Any) -> dict[str, Desire]:
    """Read the option *desired_labels*: a mapping to values, `Desired` or their mapping form."""
    if labels is None:
        return {}
    if not isinstance(labels, Mapping):
        raise TypeError(
            f"desired_labels must be a mapping from label to value, got {brief(labels)}"
        )
    desires = {}
    for key, wish in labels.items():
        if not isinstance(key, str):
            raise TypeError(f"desired_labels: the label {brief(key)} is not a string")
        desires[key] = read_desired(key, wish).desire(key)
    return desires


def read_desired(key: str, wish: Any) -> Desired:
    """Read one entry: a `Desired`, its mapping form, a Desire of the wire, or a plain value."""
    if isinstance(wish, Desired):
        return wish
    if isinstance(wish, Desire):
        weight = None if wish.required else wish.weight
        return Desired(wish.value, wish.comparator, wish.required, weight)
    if not isinstance(wish, Mapping):
        return Desired(wish)
    unknown = set(wish) - DESIRED_KEYS
    if unknown:
        raise ValueError(
            f"label {brief(key)}: {brief(sorted(map(str, unknown)))} is not known, "
            f"a desire has {sorted(DESIRED_KEYS)}"
        )
    comparator = read_comparator(key, wish.get("comparator", Comparator.EQUAL))
    if "value" not in wish and comparator not in PRESENCE:
        raise ValueError(f"label {brief(key)}: {brief(dict(wish))} has no value")
    return Desired(wish.get("value"), comparator, wish.get("required"), wish.get("weight"))


class Backoff(BackoffPart, frozen=True):
    """How long a failed task waits for its next try: longer each time, up to *max_s*.

    *jitter* is the share of the time that is left to chance, so that those that failed together do
    not come back together.
    """

    def __post_init__(self) -> None:
        """Raise TypeError or ValueError for one that makes no sense, where it is written."""
        for name in self.__struct_fields__:
            if type(value := getattr(self, name)) not in (int, float):
                raise TypeError(f"Backoff: {name}={brief(value)} is not a number")
            if type(value) is int and abs(value) > WEIGHT_MAX:
                raise ValueError(f"Backoff: {name}={brief(value)} is too large")
        check_backoff(self)


class Sticky(Struct, frozen=True):
    """Run calls with one key on one actor: that of the first, for `--sticky-ttl` after the last.

    When that actor is gone, takes no work or does not satisfy what the call desires, another one
    is found at once and the key is bound to it; with *hard* the call waits for its actor, and ends
    in `ActorLost` when that stays away. What a call submits itself has the same key, unless it
    has one of its own or *inherit* is False.
    """

    key: str
    hard: bool = False
    inherit: bool = True


def read_sticky(sticky: Any) -> Sticky:
    """Read the option *sticky*: a `Sticky`, or its key alone."""
    if isinstance(sticky, str):
        sticky = Sticky(sticky)
    if not isinstance(sticky, Sticky):
        raise TypeError(f"sticky must be a Sticky or its key, got {brief(sticky)}")
    key: Any = sticky.key
    flags: list[Any] = [sticky.hard, sticky.inherit]
    if not isinstance(key, str) or not 0 < len(key) <= NAME_LENGTH_MAX:
        raise ValueError(f"a sticky key has 1 to {NAME_LENGTH_MAX} characters, not {given(key)}")
    check_text("a sticky key", key)
    if not all(isinstance(flag, bool) for flag in flags):
        raise TypeError(f"hard and inherit of {brief(sticky)} must be True or False")
    return sticky


def read_wait(wait: Any) -> float | None:
    """Read the option *affinity_wait*: seconds, or "auto".

    That is for as long as entering the environment takes, and not at all where there is none.
    """
    if wait == "auto":
        return None
    is_number = isinstance(wait, int | float) and not isinstance(wait, bool)
    if not is_number or not 0 <= wait <= TIMEOUT_MAX_S:
        raise ValueError(f'affinity_wait is "auto" or seconds from 0 to 1e9, not {brief(wait)}')
    return float(wait)


def read_slots(slots: Any) -> dict[str, int]:
    """Read the option *slots*: an amount of plain slots, or a mapping from type to amount."""
    amounts = {"slot": slots} if isinstance(slots, int) else slots
    if not isinstance(amounts, Mapping) or not amounts:
        raise TypeError(
            f"slots must be an int or a mapping from slot type to int, got {brief(slots)}"
        )
    for kind, amount in amounts.items():
        if not isinstance(kind, str) or not is_name(kind):
            raise ValueError(
                f"slots: {brief(kind)} is not the name of a slot type, as in --slot gpu=2"
            )
        if type(amount) is not int or not 0 < amount <= AMOUNT_MAX:
            raise ValueError(
                f"slots: {brief(kind)}: {brief(amount)} is not an amount: 1 to {AMOUNT_MAX}"
            )
    return {} if amounts == {"slot": 1} else dict(amounts)


def read_limits(limits: Any) -> dict[str, int]:
    """Read the option *limits*: a mapping from the name of a limit, also with a key, to amount."""
    if not isinstance(limits, Mapping) or not all(isinstance(name, str) for name in limits):
        raise TypeError(f"limits must be a mapping from name to int, got {brief(limits)}")
    check_amounts(limits)
    return dict(limits)


def read_metadata(metadata: Any) -> dict[str, str | int | float | bool | None]:
    """Read the option *metadata*: a mapping from string to plain values."""
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a mapping, got {brief(metadata)}")
    for key, value in metadata.items():
        plain = value is None or isinstance(value, str | int | float | bool)
        if not isinstance(key, str) or not plain:
            raise ValueError(
                f"metadata: {brief(key)}: {brief(value)} is not a text and its str, int, float,"
                " bool or None"
            )
        check_text("metadata:", key)
        check_text(f"metadata: {key!r}:", value if isinstance(value, str) else "")
    return dict(metadata)


def read_environment(environment: Any) -> Any:
    """Read the option *environment*: an Environment class, or one with parameters."""
    from sdk.environment import specification_of  # noqa: PLC0415 - it imports this module.

    return specification_of(environment)


def read_priority(priority: Any) -> int:
    """Read the option *priority*."""
    if type(priority) is not int or not -PRIORITY_MAX <= priority <= PRIORITY_MAX:
        raise ValueError(f"priority {brief(priority)} is not an int from -10 to 10")
    return priority


def read_timeout(option: str, timeout: Any) -> float:
    """Read a time in seconds: *timeout* (of execution) or *schedule_timeout* (of waiting)."""
    if (
        isinstance(timeout, bool)
        or not isinstance(timeout, int | float)
        or not 0 < timeout <= TIMEOUT_MAX_S
    ):
        raise ValueError(f"{option} is seconds above 0, and at most 1e9, not {brief(timeout)}")
    return float(timeout)


def read_retries(retries: Any) -> int:
    """Read the option *retries*: how often a task that failed is tried again."""
    if type(retries) is not int or not 0 <= retries <= RETRIES_MAX:
        raise ValueError(f"retries {brief(retries)} is not an int from 0 to {RETRIES_MAX}")
    return retries


def read_backoff(backoff: Any) -> Backoff:
    """Read the option *retry_backoff*: the first wait in seconds, or a `Backoff`."""
    if type(backoff) in (int, float):
        checked = Backoff(backoff, max_s=max(backoff, Backoff().max_s))
        # An int is written otherwise, and the same call would have another template.
        backoff = Backoff(float(checked.initial_s), max_s=float(checked.max_s))
    if not isinstance(backoff, Backoff):
        raise TypeError(
            f"retry_backoff must be a number of seconds or a Backoff, got {brief(backoff)}"
        )
    return backoff


def read_retry_on(kinds: Any) -> list[str]:
    """Read the option *retry_on*: a type of exception, or several; actors know them by name."""
    kinds = kinds if isinstance(kinds, list | tuple | set | frozenset) else [kinds]
    for kind in kinds:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise TypeError(f"retry_on must be types of exceptions, got {brief(kind)}")
        if issubclass(kind, (NonRetryable, TaskCanceled)):
            raise TypeError(f"retry_on: what ends with {kind.__name__} is never tried again")
    return sorted(name_of_type(kind) for kind in kinds)


def name_of_type(kind: type) -> str:
    """Name a type as `retry_on` names it on the wire."""
    return f"{kind.__module__}.{kind.__qualname__}"


def given(text: Any) -> str:
    """Write what was given; of a text that is too long how long it is."""
    is_long = isinstance(text, str) and len(text) > NAME_LENGTH_MAX
    return f"{len(text):,}" if is_long else brief(text)


def read_name(option: str, name: Any) -> str:
    """Read a name: *name* or *fairness_key*."""
    if not isinstance(name, str) or len(name) > NAME_LENGTH_MAX:
        raise ValueError(
            f"{option} is a string of up to {NAME_LENGTH_MAX} characters, not {given(name)}"
        )
    check_text(option, name)
    return name


def read_flag(option: str, flag: Any) -> bool:
    """Read True or False: *at_most_once*, *durable*, *fail_infeasible* or *reuse*."""
    if not isinstance(flag, bool):
        raise TypeError(f"{option} must be True or False, got {brief(flag)}")
    return flag


def refuse_key(value: Any) -> None:
    """Refuse *idempotency_key* and *idempotency_ttl* where they would be for many calls."""
    raise ValueError(
        f"an idempotency_key belongs to one call, {brief(value)} cannot be for all calls of a"
        " function: say it in submit(), or in client.options()"
    )


def split_key(
    options: Mapping[str, Any],
) -> tuple[tuple[str, float | None] | None, dict[str, Any]]:
    """Take the key and its time to live out of *options*. Raises TypeError and ValueError."""
    rest = dict(options)
    key, ttl = rest.pop("idempotency_key", None), rest.pop("idempotency_ttl", None)
    if key is None:
        if ttl is not None:
            raise ValueError(f"idempotency_ttl={brief(ttl)} without an idempotency_key")
        return None, rest
    if not isinstance(key, str):
        raise TypeError(f"idempotency_key must be a string, got {brief(key)}")
    if not 0 < len(key) <= NAME_LENGTH_MAX:
        raise ValueError(
            f"an idempotency_key has 1 to {NAME_LENGTH_MAX} characters, not {given(key)}"
        )
    check_text("idempotency_key", key)
    if rest.get("durable") is False:
        raise ValueError(
            f"idempotency_key={brief(key)} needs a durable task, and durable=False was said"
        )
    return (key, None if ttl is None else read_ttl(ttl)), rest


def read_ttl(ttl: Any) -> float:
    """Read the option *idempotency_ttl*, in seconds."""
    if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 < ttl < TIMEOUT_MAX_S:
        raise ValueError(f"idempotency_ttl {brief(ttl)} is not a number of seconds above 0")
    return float(ttl)


READERS: Final[dict[str, Callable[[Any], Any]]] = {
    "desired_labels": read_desires,
    "environment": read_environment,
    "slots": read_slots,
    "limits": read_limits,
    "sticky": read_sticky,
    "affinity_wait": read_wait,
    "priority": read_priority,
    "fairness_key": partial(read_name, "fairness_key"),
    "timeout": partial(read_timeout, "timeout"),
    "schedule_timeout": partial(read_timeout, "schedule_timeout"),
    "retries": read_retries,
    "retry_backoff": read_backoff,
    "retry_on": read_retry_on,
    "at_most_once": partial(read_flag, "at_most_once"),
    "durable": partial(read_flag, "durable"),
    "idempotency_key": refuse_key,
    "idempotency_ttl": refuse_key,
    "fail_infeasible": partial(read_flag, "fail_infeasible"),
    "name": partial(read_name, "name"),
    "metadata": read_metadata,
    "reuse": partial(read_flag, "reuse"),
}


class Options:
    """Options that were checked. `chosen` has only what was given."""

    __slots__ = ("chosen", "plans")

    def __init__(self, chosen: dict[str, Any]) -> None:
        """Take what was checked already; users call `of`."""
        self.chosen = chosen
        # Plans made with these options, by the id of the function: see `sdk.plan`.
        self.plans: dict[int, Any] = {}

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Options":
        """Check *given*; raise TypeError for an unknown option, ValueError for a bad value."""
        chosen: dict[str, Any] = {}
        for name, value in given.items():
            reader = READERS.get(name)
            if reader is not None:
                if value is not None:
                    chosen[name] = reader(value)
            elif name not in NOT_YET:
                raise TypeError(f"{brief(name)} is no option; {likely(name) or all_names()}")
            elif not any(value is plain or value == plain for plain in NOT_YET[name]):
                raise ValueError(f"the option {name}={brief(value)} is not supported yet")
        return cls(chosen)

    def over(self, base: "Options") -> "Options":
        """Lay these options over *base*; labels and limits are laid over one another key by key."""
        if not base.chosen:
            return self
        chosen = base.chosen | self.chosen
        for name in ("desired_labels", "limits"):
            if name in base.chosen and name in self.chosen:
                chosen[name] = base.chosen[name] | self.chosen[name]
        return Options(chosen)

    def __eq__(self, other: object) -> bool:
        """Tell whether the same was chosen."""
        return isinstance(other, Options) and self.chosen == other.chosen

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Show what was chosen."""
        return f"Options({self.chosen!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel with a function that has options by `@task`, without the plans of this client."""
        return Options, (self.chosen,)


NO_OPTIONS: Final = Options({})


def likely(name: str) -> str:
    """Ask whether the option was meant that *name* looks like; nothing where it is like none."""
    found = difflib.get_close_matches(name, NAMES, n=1)
    return f"did you mean {found[0]!r}?" if found else ""


def all_names() -> str:
    """List the options."""
    return f"options are {', '.join(sorted(NAMES))}"


def inheriting(sticky: StickyPart | None) -> Options:
    """Return what calls have from the run that submits them, whose call has *sticky*."""
    if sticky is None or not sticky.inherit:
        return NO_OPTIONS
    return Options({INHERITED_STICKY: Sticky(sticky.key, sticky.hard)})
