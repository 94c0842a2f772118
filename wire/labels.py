"""Labels: what an actor offers, what a task desires, and when the one satisfies the other.

The table of protocol.md section 11 is this file. Labels are compared, never consumed. A key may
hold several values (command line, upserted, one of each warm environment): a negative comparator
must then hold for all of them, any other for one.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from itertools import compress
from typing import Any, Final

import msgspec
from msgspec import Struct

from wire.texts import brief, check_text

LabelValue = str | int | float | bool
LabelValues = LabelValue | list[LabelValue]
Labels = dict[str, LabelValues]
# What is equal for values that are the same: int and float are one type, a bool is its own.
Cell = LabelValue | tuple[str, bool]

KEY_LENGTH_MAX: Final = 128
# What no key has in it, beside what cannot be printed.
NO_KEY: Final = frozenset("= ")
VALUE_LENGTH_MAX: Final = 1024
# Of all that one source offers, since each heartbeat carries it.
LABELS_BYTES_MAX: Final = 256 * 1024
WEIGHT_DEFAULT: Final = 100
# Of these an actor says itself what it is: nobody says otherwise.
BUILT_IN: Final = frozenset({"name", "host", "os", "python", "cpus", "memory_mb"})
# These it says where it can tell. Of GPUs of another make whoever starts it may say so; what runs
# there may not.
MACHINE: Final = frozenset({"gpu_count", "gpu_name"})
TRUE: Final = ("bool", True)
FALSE: Final = ("bool", False)
INFINITE: Final = (math.inf, -math.inf)
# A number as it is written; Python reads "1_000" and digits of other scripts as well.
WHOLE: Final = re.compile(r"[+-]?[0-9]+")
NUMBER: Final = re.compile(
    r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|inf(?:inity)?|nan)", re.IGNORECASE
)


class Comparator(StrEnum):
    """How a desired value is compared with an offered one: `offered COMPARATOR desired`."""

    EQUAL = "eq"
    NOT_EQUAL = "ne"
    GREATER_THAN = "gt"
    GREATER_THAN_OR_EQUAL = "ge"
    LESS_THAN = "lt"
    LESS_THAN_OR_EQUAL = "le"
    IN = "in"
    NOT_IN = "not_in"
    EXISTS = "exists"
    NOT_EXISTS = "not_exists"


EQUAL: Final = Comparator.EQUAL
NEGATIVE = frozenset({Comparator.NOT_EQUAL, Comparator.NOT_IN})
ORDER: Final[dict[Comparator, Callable[[Any, Any], bool]]] = {
    Comparator.GREATER_THAN: operator.gt,
    Comparator.GREATER_THAN_OR_EQUAL: operator.ge,
    Comparator.LESS_THAN: operator.lt,
    Comparator.LESS_THAN_OR_EQUAL: operator.le,
}
SETS = frozenset({Comparator.IN, Comparator.NOT_IN})
PRESENCE = frozenset({Comparator.EXISTS, Comparator.NOT_EXISTS})


class Desire(Struct, frozen=True, array_like=True, gc=False):
    """One desired label. *value* is None for EXISTS and NOT_EXISTS, a list for IN and NOT_IN."""

    key: str
    comparator: Comparator
    value: LabelValue | list[LabelValue] | None
    required: bool = True
    weight: float = WEIGHT_DEFAULT


def satisfies(labels: Labels, desire: Desire) -> bool:
    """Tell whether *labels* meet *desire*. Weight and required play no part."""
    comparator = desire.comparator
    offered = labels.get(desire.key)
    if offered is None:
        return comparator in NEGATIVE or comparator is Comparator.NOT_EXISTS
    if comparator is EQUAL and type(offered) is type(desire.value) is not list:
        return offered == desire.value  # What is desired most, without the rest.
    if comparator in PRESENCE:
        return comparator is Comparator.EXISTS
    values = offered if isinstance(offered, list) else [offered]
    if comparator in NEGATIVE:
        return all(compare(value, comparator, desire.value) for value in values)
    return any(compare(value, comparator, desire.value) for value in values)


def satisfies_all(labels: Labels, desires: Sequence[Desire]) -> bool:
    """Tell whether *labels* meet every required one of *desires*."""
    for desire in desires:  # noqa: SIM110 - a generator costs more, where tasks start.
        if desire.required and not satisfies(labels, desire):
            return False
    return True


def affinity(labels: Labels, desires: Sequence[Desire]) -> float:
    """Sum the weights of the desires that are not required and are met."""
    return sum(d.weight for d in desires if not d.required and satisfies(labels, d))


def compare(
    offered: LabelValue,
    comparator: Comparator,
    desired: LabelValue | list[LabelValue] | None,
) -> bool:
    """Compare one offered value with the desired one."""
    if isinstance(desired, list):
        is_among = any(is_same(offered, value) for value in desired)
        return is_among if comparator is Comparator.IN else not is_among
    if comparator is Comparator.EQUAL:
        return is_same(offered, desired)
    if comparator is Comparator.NOT_EQUAL:
        return not is_same(offered, desired)
    # Order is for numbers only; another type never meets it. NaN compares false with everything.
    if not is_number(offered) or not is_number(desired):
        return False
    return ORDER[comparator](offered, desired)


def is_number(value: object) -> bool:
    """Tell whether *value* is an int or a float; a bool is its own type."""
    return type(value) is int or type(value) is float


def is_same(offered: object, desired: object) -> bool:
    """Tell whether two values are of one type and equal. int and float are one, bool is its own."""
    if is_number(offered) and is_number(desired):
        return offered == desired
    return type(offered) is type(desired) and offered == desired


def cell(value: LabelValue) -> Cell:
    """Return what is equal for values that are the same, and for no others."""
    if value is True:
        return TRUE
    return FALSE if value is False else value


def cells(values: LabelValues) -> list[Cell]:
    """Return the cell of each value of a key."""
    return [cell(value) for value in values] if isinstance(values, list) else [cell(values)]


def is_unchanged(had: LabelValues | None, has: LabelValues | None) -> bool:
    """Tell whether a key is offered as before."""
    if type(had) is not type(has) or had is None or has is None or isinstance(had, list):
        return had is not None and has is not None and cells(had) == cells(has)
    return had == has


def differing(had: Labels, has: Labels) -> list[str]:
    """Return the keys that are offered otherwise in *has* than in *had*."""
    known = list(map(had.get, has))
    kinds = list(map(type, has.values()))
    if list in kinds or kinds != list(map(type, known)):
        return compared(had, has)
    # Each is offered in *had* as well, with one value of the same type.
    changed = list(compress(has, map(operator.ne, has.values(), known)))
    if len(had) > len(has):
        changed += [key for key in had if key not in has]
    return changed


def compared(had: Labels, has: Labels) -> list[str]:
    """Return what `differing` does, key by key."""
    changed = [key for key, values in has.items() if not is_unchanged(had.get(key), values)]
    return changed + [key for key in had if key not in has]


def validate_desire(desire: Desire) -> None:
    """Raise ValueError for a desire that could never mean what it says."""
    validate_key(desire.key)
    comparator, value = desire.comparator, desire.value
    if comparator in PRESENCE:
        if value is not None:
            raise ValueError(
                f"label {desire.key!r}: {comparator.name} takes no value, got {brief(value)}"
            )
    elif comparator in SETS:
        if not isinstance(value, list) or not value:
            raise ValueError(
                f"label {desire.key!r}: {comparator.name} takes a list of values, got"
                f" {brief(value)}",
            )
        for item in value:
            validate_value(desire.key, item)
    else:
        if value is None or isinstance(value, list):
            raise ValueError(
                f"label {desire.key!r}: {comparator.name} takes one value, got {brief(value)}"
                + (", which IN takes" if value else "")
            )
        validate_value(desire.key, value)
        if comparator in ORDER and not is_number(value):
            raise ValueError(
                f"label {desire.key!r}: {comparator.name} compares numbers only, got"
                f" {brief(value)}",
            )
    if not math.isfinite(desire.weight):
        raise ValueError(
            f"label {desire.key!r}: weight {brief(desire.weight)} is not a finite number"
        )


def validate_key(key: str) -> None:
    """Raise ValueError unless *key* is 1 to 128 printable characters without '=' or white space."""
    if not is_name(key):
        raise ValueError(
            f"label key {brief(key)} must be 1 to {KEY_LENGTH_MAX} printable characters "
            "without '=' or spaces",
        )


def is_name(text: str) -> bool:
    """Tell whether *text* can be a key, or a type of slots."""
    return 0 < len(text) <= KEY_LENGTH_MAX and text.isprintable() and NO_KEY.isdisjoint(text)


def validate_value(key: str, value: object) -> None:
    """Raise ValueError unless *value* is a str, int, float (not NaN) or bool of sane size."""
    if type(value) is str:
        if len(value) > VALUE_LENGTH_MAX:
            raise ValueError(
                f"label {key!r}: a value of {len(value)} characters is over {VALUE_LENGTH_MAX}"
            )
        check_text(f"label {key!r}:", value)
    elif type(value) is int:
        if not -(2**63) <= value < 2**63:
            raise ValueError(f"label {key!r}: {brief(value)} does not fit in 64 bits")
    elif type(value) is float:
        if math.isnan(value):
            raise ValueError(f"label {key!r}: NaN equals nothing and cannot be a label")
    elif type(value) is not bool:
        raise ValueError(f"label {key!r}: {brief(value)} is not a str, int, float or bool")


def validate_labels(labels: Mapping[Any, object]) -> Labels:
    """Return a copy of what somebody offers; raise ValueError for what cannot be offered.

    A list has at least one value: who offers nothing under a key does not offer the key.
    """
    checked: Labels = {}
    if not isinstance(labels, Mapping):
        raise TypeError(f"labels are a mapping from key to value, not {brief(labels)}")
    for key, value in labels.items():
        if not isinstance(key, str):
            raise TypeError(f"the label {brief(key)} is not a string")
        validate_key(key)
        if not isinstance(value, (list, tuple)):
            validate_value(key, value)
            checked[key] = value  # type: ignore[assignment]
            continue
        values = list(value)
        if not values:
            raise ValueError(f"label {key!r} has no value: leave it out, or delete it")
        for one in values:
            validate_value(key, one)
        checked[key] = values
    return checked


def check_own(labels: Labels, *, of_machine: bool = False) -> Labels:
    """Return what somebody would have an actor offer; raise ValueError for what nobody may.

    That is what is built in, and more than is to travel with each heartbeat. *of_machine*: it is
    said by whoever starts the actor, and knows the machine.
    """
    for key in labels:
        if key in BUILT_IN or (key in MACHINE and not of_machine):
            raise ValueError(built_in(key))
    size = len(msgspec.msgpack.encode(labels))
    if size > LABELS_BYTES_MAX:
        raise ValueError(
            f"{len(labels):,} labels take {size:,} octets, over {LABELS_BYTES_MAX:,} in all"
        )
    return labels


def built_in(key: str) -> str:
    """Say that nobody offers *key* in the actor's place."""
    return f"label {key!r} is built in and says what the actor is: choose another key"


def parse_label(text: str) -> tuple[str, LabelValue]:
    """Read `key=value` as bool, int, float, then string; `key=str:512` forces a string.

    Raises ValueError for a text without '=', a bad key, NaN, or more than a number holds.
    """
    key, separator, raw = text.partition("=")
    if not separator:
        raise ValueError(f"label {brief(text)} has no '='")
    validate_key(key)
    if WHOLE.fullmatch(raw) and len(raw) > VALUE_LENGTH_MAX:
        raise ValueError(f"label {key!r}: a number of {len(raw)} digits does not fit in 64 bits")
    value = parse_value(raw)
    if isinstance(value, float):
        is_said = "inf" in raw.lower()
        if math.isnan(value) or (value in INFINITE and not is_said):
            why = (
                f"{raw} is beyond what a float holds" if value in INFINITE else "NaN equals nothing"
            )
            raise ValueError(f"label {brief(text)}: {why}; {key}=str:{raw} is the text")
    validate_value(key, value)
    return key, value


def parse_value(raw: str) -> LabelValue:
    """Read the value of a label from the command line."""
    if raw.startswith("str:"):
        return raw[4:]
    if raw in ("true", "True", "false", "False"):
        return raw in ("true", "True")
    if WHOLE.fullmatch(raw):
        return int(raw)
    return float(raw) if NUMBER.fullmatch(raw) else raw
