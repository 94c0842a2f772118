"""`warmslot environments`: what is loaded where, what reuse has saved, what is broken and why."""

import argparse
from collections import Counter
from collections.abc import Callable
from typing import Any

from sdk.client import Client
from sdk.commands.table import print_json, print_rows, say


def add_environment_actions(
    command: argparse.ArgumentParser, add_common: Callable[[argparse.ArgumentParser], None]
) -> None:
    """Add what can be done with environments; without a word they are listed."""
    actions = command.add_subparsers(dest="action", metavar="ACTION", required=False)
    shown = actions.add_parser("list", help="all environments, their replicas, what they saved")
    retried = actions.add_parser("retry", help="let one that is broken be entered again now")
    retried.add_argument("name", metavar="NAME", help="its name or id, as `environments` shows it")
    for action in (shown, retried):
        add_common(action)


def show_environments(client: Client, options: argparse.Namespace) -> int:
    """Do what was asked, and say it or list all."""
    if options.action == "retry":
        answer = client.query("environment-retry", options.name, timeout=options.timeout)
        if not print_json(answer, options):
            say(f"{', '.join(answer['environments'])} may be entered again")
        return 0
    answer = client.query("environments", timeout=options.timeout)
    if print_json(answer, options):
        return 0
    titles = ["ENVIRONMENT", "STATE", "REPLICAS", "WAITING", "LOADS", "LOAD_S", "HITS", "SAVED_S"]
    names = shown_names(answer["environments"])
    print_rows(
        [*titles, "ACTORS"],
        [row(name, one) for name, one in zip(names, answer["environments"], strict=True)],
    )
    for name, one in zip(names, answer["environments"], strict=True):
        if one["reason"]:
            failures = one["failures"]
            times = f"{failures} failures in a row" if failures > 1 else "1 failure"
            say(f"{name}: {times}: {one['reason']}")
    return 0


def shown_names(environments: list[dict[str, Any]]) -> list[str]:
    """Return each name; the id where several have it, as versions of one class do."""
    count = Counter(one["name"] for one in environments)
    return [one["id"] if count[one["name"]] > 1 else one["name"] for one in environments]


def row(name: str, one: dict[str, Any]) -> list[str]:
    """Write an environment as a line of the table."""
    most = "" if one["replicas_max"] is None else one["replicas_max"]
    loading = f"+{one['loading']}" if one["loading"] else ""
    return [
        name,
        one["state"],
        f"{one['warm']}{loading} of {one['replicas_min']}-{most}",
        str(one["waiting"]),
        str(one["loads"]),
        f"{one['load_s']:.3f}",
        str(one["hits"]),
        f"{one['saved_s']:.1f}",
        ",".join(one["actors"]) or "-",
    ]
