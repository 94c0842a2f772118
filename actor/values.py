"""What the text of an option means: an endpoint, a number within its bounds, a word of a few."""

import argparse
import os
from collections.abc import Sequence
from typing import Final

from wire.endpoint import check_endpoint
from wire.texts import brief

SLOTS_MAX: Final = 10_000
AUTO: Final = "auto"
OFF: Final = "off"


def endpoint(text: str) -> str:
    """Check an endpoint."""
    try:
        return check_endpoint(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class OneOf:
    """Checks that a text is one of a few: argparse compares only what is typed with `choices`."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Remember them."""
        self.texts = texts

    def __call__(self, text: str) -> str:
        """Check *text*."""
        if text not in self.texts:
            raise argparse.ArgumentTypeError(f"{brief(text)} is not {' or '.join(self.texts)}")
        return text


class Whole:
    """Reads a whole number within bounds."""

    def __init__(self, lowest: int, highest: int) -> None:
        """Remember the bounds."""
        self.lowest = lowest
        self.highest = highest

    def __call__(self, text: str) -> int:
        """Read *text*."""
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{brief(text)} is not a whole number") from None
        if not self.lowest <= value <= self.highest:
            raise argparse.ArgumentTypeError(
                f"{brief(value)} is not in {self.lowest} to {self.highest}"
            )
        return value


class Amount:
    """Reads a number above 0 and up to a highest one; "off", where that may be said, is None."""

    def __init__(self, what: str, highest: float, *, may_be_off: bool = False) -> None:
        """Remember the bound, and *what* the number is for people."""
        self.what = f"{what}, or {OFF}" if may_be_off else what
        self.highest = highest
        self.may_be_off = may_be_off

    def __call__(self, text: str) -> float | None:
        """Read *text*."""
        if self.may_be_off and text == OFF:
            return None
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0.0 < value <= self.highest:
            raise argparse.ArgumentTypeError(f"{brief(text)} is not {self.what}")
        return value


def ahead(text: str) -> int | None:
    """Read how many tasks may wait ahead; None for auto."""
    try:
        return None if text == AUTO else Whole(0, SLOTS_MAX)(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, nor auto") from None


def replicas(text: str) -> tuple[int, int]:
    """Read how many actors there are, and may be."""
    low, separator, high = text.partition(":")
    if not separator:
        count = Whole(1, SLOTS_MAX)(text)
        return count, count
    least, most = Whole(0, SLOTS_MAX)(low), Whole(1, SLOTS_MAX)(high)
    if least > most:
        raise argparse.ArgumentTypeError(f"{brief(text)}: the minimum is above the maximum")
    return least, most


def seconds(text: str) -> float:
    """Read a number of seconds."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{brief(text)} is not a number of seconds") from None
    if not 0.0 <= value <= 1e9:
        raise argparse.ArgumentTypeError(f"{value:g} is not a number of seconds from 0 on")
    return value


def read(name: str, default: object) -> object:
    """Return the environment variable of an option, or *default*; argparse checks either."""
    return os.environ.get(f"WARMSLOT_{name}") or default
