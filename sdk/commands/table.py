"""How the command line prints what the broker answers."""

import argparse
import json
import shlex
import sys
from typing import Any, Final
from unicodedata import combining, east_asian_width

from wire.labels import parse_value

LABEL_SHOWN_MAX: Final = 64


def say(text: str) -> None:
    """Write a line to standard output, if there is one."""
    if sys.stdout is not None:
        sys.stdout.write(text + "\n")


def print_json(answer: dict[str, Any], options: argparse.Namespace) -> bool:
    """Print *answer* as it came when that was asked for, and tell whether it was."""
    if options.json:
        say(json.dumps(answer, indent=2, default=str))
    return bool(options.json)


def print_rows(titles: list[str], rows: list[list[str]]) -> None:
    """Print a table with columns as wide as they must be."""
    for line in rows_of(titles, rows):
        say(line)


def print_maps(maps: list[dict[str, Any]]) -> None:
    """Print maps as a table with the columns of the first; nothing for none."""
    if maps:
        columns = list(maps[0])
        print_rows(
            [column.upper() for column in columns],
            [[cell(one.get(column, "")) for column in columns] for one in maps],
        )


def rows_of(titles: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a table with columns as wide as they must be."""
    widths = [max(map(width_of, column)) for column in zip(titles, *rows, strict=True)]
    return [
        "  ".join(
            text + " " * (width - width_of(text)) for text, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in [titles, *rows]
    ]


def width_of(text: str) -> int:
    """Return how many columns of a terminal *text* takes: letters of some scripts take two."""
    if text.isascii():
        return len(text)
    return sum(
        0 if combining(letter) else 2 if east_asian_width(letter) in "WF" else 1 for letter in text
    )


def cut(text: str, columns: int) -> str:
    """Return as much of *text* as fits in so many columns."""
    shown = text[:columns]
    while width_of(shown) > columns:
        shown = shown[:-1]
    return shown


def free_of(actor: dict[str, Any]) -> str:
    """Write how many slots are free, and how many short tasks may wait beside: 2+16."""
    ahead = actor.get("ahead")
    return str(actor.get("free", "")) + (f"+{ahead}" if ahead else "")


def holdings(holding: list[dict[str, Any]]) -> str:
    """Count what an actor holds, and what of it runs without its slot."""
    released = sum(item.get("state") == "released" for item in holding)
    return f"{len(holding)} ({released} released)" if released else str(len(holding))


def pairs(mapping: dict[str, Any]) -> str:
    """Write a mapping as key=value pairs."""
    return " ".join(f"{key}={cell(value)}" for key, value in mapping.items())


def labels_of(labels: dict[str, Any]) -> str:
    """Write labels as `--label` reads them in a shell, so that 512 and "512" are told apart.

    Of a long one only the beginning, which would make the table as wide for all others.
    """
    return " ".join(
        quoted(shortened(f"{key}={label_of(one)}"))
        for key, value in labels.items()
        for one in (value if isinstance(value, list) else [value])
    )


def label_of(value: Any) -> str:
    """Write one value of a label."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and parse_value(value) != value:
        return f"str:{value}"
    return str(value)


def shortened(text: str) -> str:
    """Return *text*, or some of it where that is long."""
    return text if len(text) <= LABEL_SHOWN_MAX else f"{text[:LABEL_SHOWN_MAX]}..."


def quoted(text: str) -> str:
    """Write *text* as one word for a shell, in one line whatever stands in it."""
    if not text.isprintable():
        escaped = text.encode("unicode_escape").decode("ascii").replace("'", "\\'")
        return f"$'{escaped}'"
    return text if text.replace("=", "").isalnum() else shlex.quote(text)


def cell(value: Any) -> str:
    """Write one value for a table."""
    if isinstance(value, dict):
        return pairs(value)
    if isinstance(value, list):
        return ",".join(map(str, value))
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
