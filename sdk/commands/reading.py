"""What stands behind options of the command line, read so that argparse says what is wrong."""

import argparse
from math import inf, nan

from wire.texts import brief


def seconds(text: str) -> float:
    """Read a time above 0."""
    try:
        value = float(text)
    except ValueError:
        value = nan
    if not 0 < value < inf:
        raise argparse.ArgumentTypeError(f"{brief(text)} is not a number of seconds above 0")
    return value


def times(text: str) -> int:
    """Read how often."""
    if (value := whole(text)) < 1:
        raise argparse.ArgumentTypeError(f"{value} is not above 0")
    return value


def whole(text: str) -> int:
    """Read a whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{brief(text)} is not a whole number") from None
