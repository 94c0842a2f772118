"""What stands behind options of the command line, read so that argparse says what is wrong."""

import argparse


def seconds(text: str) -> float:
    """Read a time above 0."""
    if not 0 < (value := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")
    return value


def times(text: str) -> int:
    """Read how often."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value
