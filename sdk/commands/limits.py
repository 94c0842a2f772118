"""`warmslot limits`: look at limits, set and delete them, take back what somebody holds."""

import argparse
from collections.abc import Callable
from typing import Any

from sdk.client import Client
from sdk.commands.reading import whole
from sdk.commands.table import print_json, print_rows, say
from sdk.errors import LimitUnknown
from wire.limits import Strategy


def add_limit_actions(
    command: argparse.ArgumentParser, add_common: Callable[[argparse.ArgumentParser], None]
) -> None:
    """Add what can be done with limits; without a word they are listed."""
    actions = command.add_subparsers(dest="action", metavar="ACTION", required=False)
    shown = actions.add_parser("list", aliases=["get"], help="all limits and who holds them")
    shown.add_argument(
        "name", metavar="NAME", nargs="?", default="", help="only this one, with all its holders"
    )
    added = actions.add_parser("set", help="set a limit, or change one")
    added.add_argument("name", metavar="NAME")
    added.add_argument("maximum", metavar="N", type=whole, help="how much there is at once")
    added.add_argument(
        "--per-key", action="store_true", help='so much of each key, as in limits={"api[k]": 1}'
    )
    added.add_argument(
        "--rate", metavar="N/s", help="what was taken comes back with time: 10/s, 600/min, 100/h"
    )
    added.add_argument(
        "--strict", action="store_true", help="never exceeded: who loses the broker is ended"
    )
    added.add_argument(
        "--strategy", default=Strategy.QUEUE, metavar="|".join(Strategy), help="when it is full"
    )
    deleted = actions.add_parser("delete", aliases=["rm"], help="delete a limit")
    deleted.add_argument("name", metavar="NAME")
    released = actions.add_parser("release", help="take back by force what a holder has")
    released.add_argument("holder", metavar="HOLDER", help="as `limits list` shows it")
    for action in (shown, added, deleted, released):
        add_common(action)


def show_limits(client: Client, options: argparse.Namespace) -> int:
    """Do what was asked, and say it or list all."""
    match options.action:
        case "set":
            client.set_limit(
                options.name,
                options.maximum,
                per_key=options.per_key,
                rate=options.rate,
                strategy=options.strategy,
                strict=options.strict,
                timeout=options.timeout,
            )
            done = {"limit": options.name, "maximum": options.maximum}
            if not print_json(done, options):
                say(f"limit {options.name} is {options.maximum}")
        case "delete" | "rm":
            client.delete_limit(options.name, options.timeout)
            if not print_json({"deleted": options.name}, options):
                say(f"limit {options.name} is deleted")
        case "release":
            client.release_limit(options.holder, options.timeout)
            if not print_json({"released": options.holder}, options):
                say(f"{options.holder} holds it no more")
        case _:
            list_limits(client, options)
    return 0


def list_limits(client: Client, options: argparse.Namespace) -> None:
    """Print each limit, and below it who holds it."""
    wanted = getattr(options, "name", "")
    answer = client.query("limits", wanted, timeout=options.timeout)
    if wanted and not answer["limits"]:
        raise LimitUnknown(f"no limit is called {wanted!r}")
    if print_json(answer, options):
        return
    if not answer["is_open"]:
        say("the broker was just started and lets nobody in until it knows who holds limits")
    rows: list[list[str]] = []
    for limit in answer["limits"]:
        kind = "per key" if limit.get("per_key") else limit.get("host", "")
        keys = limit["keys"]
        if not keys or limit.get("per_key"):
            rows.append([limit["name"], str(limit["maximum"]), "-", "-", options_of(limit, kind)])
        rows += [row for key in keys for row in rows_of(key, options_of(limit, kind))]
        if limit.get("keys_more"):
            rows.append([f"{limit['name']}[...]", "", "", "", f"{limit['keys_more']} more keys"])
    print_rows(["LIMIT", "MAXIMUM", "USED", "WAITING", "HOLDER"], rows)


def rows_of(key: dict[str, Any], shown: str) -> list[list[str]]:
    """Return a line for a key, and one for each holder."""
    used = f"{key['used']:g}"
    first = [key["name"], str(key["maximum"]), used, str(key["waiting"]), shown]
    holders = [
        ["", "", str(one["amount"]), "", f"{one['holder']}  task {one['task']} on {one['actor']}"]
        for one in key["holders"]
    ]
    if key.get("holders_more"):
        holders.append(["", "", "", "", f"{key['holders_more']} more: limits get {key['name']}"])
    return [first, *holders]


def options_of(limit: dict[str, Any], kind: str) -> str:
    """Say in a word what is special about a limit."""
    rate = f"{limit['rate']:g}/s" if limit.get("rate") else ""
    strategy = limit.get("strategy", Strategy.QUEUE)
    strict = "strict" if limit.get("strict") else ""
    return " ".join(
        filter(None, [kind, strict, rate, "" if strategy == Strategy.QUEUE else strategy])
    )
