"""Names of limits, and what a limit is: shared by all who set, ask for or grant them.

`db` is a limit of the broker, `api[customer-7]` the key `customer-7` of one that is set per key,
`host:gpu` one that each machine states for its own actors.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from math import isfinite
from typing import Any, Final

from msgspec import Struct

from wire.texts import brief, is_whole

NAME_LENGTH_MAX: Final = 64
KEY_LENGTH_MAX: Final = 256
AMOUNT_MAX: Final = 2**31 - 1
HOST_PREFIX: Final = "host:"
# What OCCUPIED says beside "released" that is no error: the run is to give its slots and its turn
# back and waits on; there was no room for an ask that was not to wait.
GIVE_BACK: Final = "give-back"
FULL: Final = "full"

_BASE: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.\-/]*[A-Za-z0-9_])?")
_RATE: Final = re.compile(r"(\d+(?:\.\d+)?)/(?:(\d+(?:\.\d+)?))?(s|min|h)")
_UNIT_S: Final = {"s": 1.0, "min": 60.0, "h": 3600.0}


class Strategy(StrEnum):
    """What happens when a limit is full."""

    QUEUE = "queue"  # wait, in the order of the backlog
    ROUND_ROBIN = "round-robin"  # wait; the keys take turns
    CANCEL_IN_PROGRESS = "cancel-in-progress"  # the newest cancels the oldest
    CANCEL_NEWEST = "cancel-newest"  # the newest is canceled


class Definition(Struct, frozen=True, kw_only=True):
    """What somebody set: at most *maximum* at once, of each key where it is *per_key*.

    With a *rate*, what was taken comes back with time, so much a second, and not with the end of
    its holder. Who holds a *strict* one ends before its lease does, so that one is never exceeded.
    """

    name: str
    maximum: int
    per_key: bool = False
    rate: float | None = None
    strategy: Strategy = Strategy.QUEUE
    strict: bool = False


def base_of(name: str) -> tuple[str, str | None]:
    """Return the limit's own name, and the key in brackets or None."""
    if name.endswith("]") and "[" in name:
        base, _, key = name[:-1].partition("[")
        return base, key
    return name, None


def check_base(name: str) -> None:
    """Raise ValueError for what cannot be the name of a limit."""
    if not _BASE.fullmatch(name) or len(name) > NAME_LENGTH_MAX:
        raise ValueError(
            f"{brief(name)} is not the name of a limit: letters, digits and _ . - / between them,"
            f" at most {NAME_LENGTH_MAX}"
        )


def check_definition(definition: Definition) -> None:
    """Raise ValueError for a limit that makes no sense."""
    name: Any = definition.name
    if not isinstance(name, str):
        raise TypeError(f"the name of a limit is a text, not {brief(name)}")
    if name.startswith(HOST_PREFIX):
        own = definition.name.removeprefix(HOST_PREFIX)
        raise ValueError(
            f"limit {definition.name}: each host states its own: python -m actor --limit {own}=N"
        )
    check_base(definition.name)
    if not is_amount(definition.maximum):
        raise ValueError(
            f"limit {definition.name}: {brief(definition.maximum)} is not from 1 to {AMOUNT_MAX}"
        )
    if definition.strategy is Strategy.ROUND_ROBIN and not definition.per_key:
        raise ValueError(
            f"limit {definition.name}: with round-robin the keys take turns, so it must be per key"
        )
    rate = definition.rate
    if rate is not None and definition.strict:
        raise ValueError(
            f"limit {definition.name}: what has a rate is held by nobody, so strict makes no sense"
        )
    if rate is not None and not (rate > 0 and isfinite(rate)):
        raise ValueError(f"limit {definition.name}: the rate {rate} is not above 0")
    if rate is not None and definition.strategy not in (Strategy.QUEUE, Strategy.ROUND_ROBIN):
        raise ValueError(
            f"limit {definition.name}: with a rate nothing is given back by canceling,"
            f" so the strategy {definition.strategy} makes no sense"
        )


def is_amount(value: object, *, least: int = 1) -> bool:
    """Tell whether *value* is an int of at least *least*, of which peers can be told."""
    return type(value) is int and least <= value <= AMOUNT_MAX


def check_amounts(limits: Mapping[str, int]) -> None:
    """Raise ValueError unless *limits* maps names, also with a key or of a host, to amounts."""
    for name, amount in limits.items():
        base, key = base_of(name)
        check_base(base.removeprefix(HOST_PREFIX))
        if key is not None and (not 0 < len(key) <= KEY_LENGTH_MAX or not key.isprintable()):
            raise ValueError(
                f"limit {brief(name)}: a key has 1 to {KEY_LENGTH_MAX} printable letters"
            )
        if key is not None and base.startswith(HOST_PREFIX):
            raise ValueError(f"limit {brief(name)}: a limit of a host has no keys")
        if not is_amount(amount):
            raise ValueError(
                f"limit {brief(name)}: {brief(amount)} is not an amount: 1 to {AMOUNT_MAX}"
            )


def read_rate(text: str) -> float:
    """Read `10/s`, `600/min`, `5/2s` or `100/h` as so much a second."""
    found = _RATE.fullmatch(str(text).replace(" ", ""))
    if not found or not float(found[1]) or (found[2] is not None and not float(found[2])):
        raise ValueError(f"{brief(text)} is not a rate, as in 10/s, 600/min or 100/h")
    return float(found[1]) / (float(found[2] or 1) * _UNIT_S[found[3]])


def read_definition(text: str) -> Definition:
    """Read `db=10`, `gpu=1:strict` or `api=2:per-key:rate=10/s:strategy=cancel-newest`.

    Raises ValueError.
    """
    name, separator, rest = text.partition("=")
    number, *options = rest.split(":")
    if not separator or not is_whole(number):
        raise ValueError(f"limit {brief(text)} is not NAME=N, as in db=10 or api=2:per-key")
    per_key, rate, strategy, strict = False, None, Strategy.QUEUE, False
    for option in options:
        what, _, value = option.partition("=")
        if option == "per-key":
            per_key = True
        elif option == "strict":
            strict = True
        elif what == "rate":
            rate = read_rate(value)
        elif what == "strategy":
            strategy = read_strategy(value)
        else:
            raise ValueError(
                f"limit {brief(text)}: {brief(option)} is not per-key, strict, rate=10/s or"
                " strategy=NAME"
            )
    definition = Definition(
        name=name,
        maximum=int(number),
        per_key=per_key,
        rate=rate,
        strategy=strategy,
        strict=strict,
    )
    check_definition(definition)
    return definition


def read_strategy(text: str) -> Strategy:
    """Read the name of a strategy. Raises ValueError."""
    try:
        return Strategy(text)
    except ValueError:
        raise ValueError(f"{brief(text)} is no strategy; there are {', '.join(Strategy)}") from None
