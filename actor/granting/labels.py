"""The labels that an actor offers, merged from all their sources."""

import re
from collections.abc import Iterable
from typing import Final

from wire.labels import KEY_LENGTH_MAX, Labels, LabelValue, is_same

ENVIRONMENT_PREFIX: Final = "environment."
PREFIX_LENGTH: Final = len(ENVIRONMENT_PREFIX)
NAME: Final = re.compile(r"[^\s=()]+")


def merge_labels(
    base: Labels, upserted: Labels, environments: Iterable[tuple[str, Labels]]
) -> Labels:
    """Return what is offered: *upserted* override the *base*, warm environments add values."""
    labels = {**base, **upserted}
    for name, offered in environments:
        for key, value in (*offered.items(), (environment_key(name), "warm")):
            labels[key] = add_value(labels.get(key), value)
    return labels


def environment_key(name: str) -> str:
    """Return the label of a warm environment: its name, without what no key could hold."""
    match = NAME.match(name)
    short = match[0] if match else "unnamed"
    return ENVIRONMENT_PREFIX + short.removesuffix(".using")[: KEY_LENGTH_MAX - PREFIX_LENGTH]


def add_value(
    old: LabelValue | list[LabelValue] | None, new: LabelValue | list[LabelValue]
) -> LabelValue | list[LabelValue]:
    """Join two values of a key, each once."""
    if old is None:
        return new
    values = list(old) if isinstance(old, list) else [old]
    for value in new if isinstance(new, list) else [new]:
        if not any(is_same(value, known) for known in values):
            values.append(value)
    return values if len(values) > 1 else values[0]
