"""The actors of a broker in a terminal: `actors` is a table, `top` is one again and again."""

import argparse
import os
import shutil
import sys
from time import monotonic
from typing import Any, Final

from sdk.client import Client
from sdk.commands.reading import seconds, times
from sdk.commands.table import cut, free_of, holdings, labels_of, pairs, print_json, rows_of, say
from wire.labels import BUILT_IN, MACHINE
from wire.printing import flush

TITLES: Final = (
    "ACTOR",
    "STATE",
    "BEAT",
    "FREE",
    "HELD",
    "SLOTS",
    "TASKS",
    "ENVIRONMENTS",
    "LABELS",
    "RELEASE",
)
INTERVAL_DEFAULT_S: Final = 1.0
# Home, and nothing from there to the end of the screen.
CLEAR: Final = "\x1b[H\x1b[2J"


def add_actors_options(command: argparse.ArgumentParser) -> None:
    """Add what `actors` takes."""
    command.add_argument(
        "--all", action="store_true", help="show also the labels that every actor has"
    )


def add_top_options(command: argparse.ArgumentParser) -> None:
    """Add what `top` takes."""
    add_actors_options(command)
    command.add_argument(
        "--interval",
        metavar="S",
        type=seconds,
        default=INTERVAL_DEFAULT_S,
        help="how often to look, in seconds (default: 1)",
    )
    command.add_argument(
        "--count", metavar="N", type=times, help="how often in all (default: for ever)"
    )


def show_actors(client: Client, options: argparse.Namespace) -> int:
    """Print one actor a line."""
    answer = client.query("actors", timeout=options.timeout)
    if not print_json(answer, options):
        for line in actor_lines(known(answer), is_whole=options.all):
            say(line)
    return 0


def show_top(client: Client, options: argparse.Namespace) -> int:
    """Print the broker in a line and its actors in a table, until Ctrl-C."""
    is_terminal = sys.stdout is not None and sys.stdout.isatty() and not options.json
    former: tuple[dict[str, Any], float] | None = None
    shown = 0
    while True:
        status = client.query("status", timeout=options.timeout)
        answer = client.query("actors", timeout=options.timeout)
        now = monotonic()
        if not print_json({"status": status} | answer, options):
            told = rates(former[0], status, now - former[1]) if former else ""
            former = (status, now)
            lines = ["", summary(status) + told, ""]
            lines += actor_lines(known(answer), is_whole=options.all)
            show_screen(lines[1:] if is_terminal or not shown else lines, is_terminal=is_terminal)
        flush()
        shown += 1
        if shown == options.count:
            return 0
        client.pause(options.interval)


def summary(status: dict[str, Any]) -> str:
    """Say in one line how much there is."""
    return (
        f"{status['actors']} actors ({status['actors_closed']} closed), {status['clients']}"
        f" clients; {status['queued']:,} queued, {status['assigned']:,} with actors"
    )


def rates(former: dict[str, Any], status: dict[str, Any], passed_s: float) -> str:
    """Say how much went on in the *passed_s* seconds between two answers, and how much failed.

    A broker that was started again counts anew, and an earlier release counts no outcomes.
    """
    if former.get("epoch") != status.get("epoch"):
        return ""
    counts = ("assignments", "succeeded", "failed")
    grown = {key: status[key] - former[key] for key in counts if key in status}
    told = "".join(f", {rate(count / passed_s)} {key}/s" for key, count in grown.items())
    failed = grown.get("failed", 0)
    return told + (f" ({failed / (failed + grown['succeeded']):.2%})" if failed else "")


def rate(value: float) -> str:
    """Return a number a second, so exact that what is seldom is not nothing."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def known(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the actors of an *answer*, and those that were lost and are still missed."""
    lost: list[dict[str, Any]] = answer.get("lost", [])
    return [*answer["actors"], *(one | {"state": "lost"} for one in lost)]


def show_screen(lines: list[str], *, is_terminal: bool) -> None:
    """Write *lines*: on a terminal in the place of what stood there, cut to its size."""
    if not is_terminal:
        for line in lines:
            say(line)
        return
    columns, height = shutil.get_terminal_size()
    if len(lines) > height - 1:
        lines = [*lines[: height - 2], f"... {len(lines) - height + 2} more"]
    sys.stdout.write(CLEAR + os.linesep.join(cut(line, columns) for line in lines) + os.linesep)


def actor_lines(actors: list[dict[str, Any]], *, is_whole: bool) -> list[str]:
    """Return a table of *actors*, by name; *is_whole* with the labels that each has."""
    rows = []
    for actor in sorted(actors, key=lambda one: natural(one.get("name", ""))):
        labels = actor.get("labels", {})
        own = {key: labels[key] for key in labels if is_whole or key not in BUILT_IN | MACHINE}
        environments = {
            short(identity): state for identity, state in actor.get("environments", {}).items()
        } | actor.get("named", {})
        rows.append(
            [
                actor.get("name", ""),
                actor.get("state", ""),
                f"{actor['silent_s']:.1f} s" if "silent_s" in actor else "-",
                " ".join(filter(None, [free_of(actor), pairs(actor.get("typed", {}))])),
                pairs(actor.get("held", {})) or "-",
                pairs(actor.get("slots", {})),
                became(actor["tasks"]) if "tasks" in actor else holdings(actor.get("holding", [])),
                pairs(environments) or "-",
                labels_of(own) or "-",
                f"{actor.get('release') or '-'} on {actor.get('python', '-')}",
            ]
        )
    return rows_of(list(TITLES), rows)


def became(tasks: dict[str, int]) -> str:
    """Say what the tasks of a lost actor came to."""
    words = {"again": "run again", "ended": "ended", "dropped": "dropped"}
    return ", ".join(f"{n} {words.get(key, key)}" for key, n in tasks.items() if n) or "0"


def natural(name: str) -> tuple[str, int]:
    """Return a key by which h/2 stands before h/10."""
    host, _, index = name.rpartition("/")
    return (host, int(index)) if index.isdecimal() else (name, 0)


def short(identity: str) -> str:
    """Name an environment by its class, and by what tells its parameters and version apart."""
    name, _, rest = identity.partition(":")
    digests = ":".join(part for part in rest.split(":") if part)
    return name.rpartition(".")[2] + (f"@{digests}" if digests else "")
