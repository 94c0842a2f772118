"""`warmslot tasks` and `warmslot redrive`: the tasks that are there, and those that ended badly."""

import argparse
import sys
import time
from typing import Any, Final

from sdk.client import Client
from sdk.commands.table import print_json, print_maps, print_rows, say
from sdk.errors import WarmslotError
from sdk.futures.found import TASK_ID, named_task
from sdk.futures.future import TaskFuture
from wire.errors import Code
from wire.texts import cut

STATUS_FAILED: Final = 1
ALL: Final = "*"
TASK_FAILED: Final = str(Code.TASK_FAILED)
TITLES: Final = ("TASK", "NAME", "ENDED", "WHY", "RUNS", "REDRIVEN AS", "MESSAGE")


def add_task_options(command: argparse.ArgumentParser) -> None:
    """Add what `tasks` takes."""
    command.add_argument(
        "task", metavar="TASK", nargs="*", help="with --dead: show these in full, or forget them"
    )
    command.add_argument(
        "--dead",
        action="store_true",
        help="the tasks that ended badly and are kept with their calls (see `redrive`)",
    )
    command.add_argument(
        "--forget", action="store_true", help="with --dead: forget TASK..., or all with --all"
    )
    command.add_argument("--all", action="store_true", help="with --dead --forget: all of them")


def add_redrive_options(command: argparse.ArgumentParser) -> None:
    """Add what `redrive` takes."""
    command.add_argument(
        "task", metavar="TASK", nargs="*", help="ids of dead tasks, as `tasks --dead` shows them"
    )
    command.add_argument("--all", action="store_true", help="all that were not redriven yet")
    command.add_argument(
        "--wait",
        action="store_true",
        help="wait for the outcomes and print them; always so where the broker has no journal",
    )


def show_tasks(client: Client, options: argparse.Namespace) -> int:
    """Print the broker's tasks, or those that ended badly."""
    if options.dead:
        return show_dead(client, options)
    if options.task or options.forget or options.all:
        raise ValueError("TASK, --forget and --all go with --dead")
    answer = client.query("tasks", timeout=options.timeout)
    if not print_json(answer, options):
        print_maps(answer["tasks"])
        if not answer["tasks"]:
            say("no tasks")
        elif (more := answer.get("count", 0) - len(answer["tasks"])) > 0:
            say(f"and {more:,} more")
    return 0


def show_dead(client: Client, options: argparse.Namespace) -> int:
    """List dead tasks, show some in full, or forget them."""
    if options.forget:
        if bool(options.task) == options.all:
            raise ValueError("--forget needs either the ids of dead tasks or --all")
        forgotten = client.forget_dead(*(options.task or [ALL]), timeout=options.timeout)
        if not print_json({"forgotten": forgotten}, options):
            say(f"{len(forgotten)} forgotten")
        return 0
    if options.all:
        raise ValueError("--all goes with --forget")
    if options.task:
        for task in map(named_task, options.task):
            answer = client.query("dead", task, timeout=options.timeout)
            if not print_json(answer, options):
                print_one(answer["dead"][0])
        return 0
    answer = client.query("dead", timeout=options.timeout)
    if not print_json(answer, options):
        print_rows(list(TITLES), [row(one) for one in answer["dead"]])
        if len(answer["dead"]) < answer["count"]:
            say(f"... {answer['count'] - len(answer['dead'])} more")
    return 0


def row(one: dict[str, Any]) -> list[str]:
    """Write a dead task as a line of the table."""
    return [
        one["task"],
        one["name"],
        at(one["ended_ms"]),
        one["code"],
        str(one["runs"]),
        one["redriven_as"] or "-",
        " ".join(reason(one).split()),
    ]


def reason(one: dict[str, Any]) -> str:
    """Write why a dead task failed, with the type of what it raised: the text may be `'key'`."""
    is_own = one["code"] == TASK_FAILED and one["type"]
    return f"{one['type']}: {one['message']}" if is_own else str(one["message"])


def print_one(one: dict[str, Any]) -> None:
    """Print all that is known of a dead task."""
    counts = ("runs", "tries", "failures", "crashes", "losses")
    facts = {
        "task": one["task"],
        "name": one["name"],
        "client": one["client"],
        "ended": at(one["ended_ms"]),
        "why": f"{one['code']}: {reason(one)}",
        "actor": one["actor"] or "-",
        "counts": ", ".join(f"{one[name]} {name}" for name in counts),
        "call": f"{one['octets']} octets" if one["has_call"] else "is not kept",
        "options": ", ".join(f"{key}={value}" for key, value in one["options"].items()) or "-",
        "redriven": f"as {one['redriven_as']}, {at(one['redriven_ms'])}"
        if one["redriven_as"]
        else "no",
    }
    for name, value in facts.items():
        say(f"{name:9} {value}")
    for line in one["history"]:
        say(f"  {line}")
    if one["traceback"]:
        say(one["traceback"])


def at(milliseconds: int) -> str:
    """Write a time of the wall clock, as it is here."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(milliseconds / 1000.0))


def show_redrive(client: Client, options: argparse.Namespace) -> int:
    """Submit dead tasks again, and print under which ids, or how they ended."""
    if bool(options.task) == options.all:
        raise ValueError("redrive needs either the ids of dead tasks or --all")
    told: list[dict[str, Any]] = []
    status = None
    try:
        status = redrive(client, options, told)
    finally:
        # Also where one of them cannot be: those before it go on.
        if told or status is not None:
            print_json({"redriven": told}, options)
    if not told and not options.json:
        say("no dead task is left to be run again")
    return status


def redrive(client: Client, options: argparse.Namespace, told: list[dict[str, Any]]) -> int:
    """Submit dead tasks again; *told* is what became of each.

    *all* are those that are dead when this begins: what is run again may end as badly as before.
    """
    status, seen, newest = 0, dict.fromkeys(map(named_task, options.task)), None
    chosen = list(seen)
    while True:
        if options.all:
            known = client.query("dead", timeout=options.timeout)
            newest = known["newest"] if newest is None else newest
            chosen = [one["task"] for one in known["dead"] if can_redrive(one, newest)]
            chosen = [task for task in chosen if task not in seen]
        if not chosen:
            return status
        seen |= dict.fromkeys(chosen)
        status |= redrive_each(client, chosen, options, told)
        if not options.all:
            return status


def redrive_each(
    client: Client, chosen: list[str], options: argparse.Namespace, told: list[dict[str, Any]]
) -> int:
    """Submit the dead tasks *chosen* again, at once; one that cannot be does not end the others."""
    status, futures = 0, {}
    for task in chosen:
        if goes_on(client, task, options, told):
            continue
        if TASK_ID.fullmatch(task):
            futures[task] = client.redrive(task)
        else:
            status |= refuse(
                told, options, task, WarmslotError(f"no dead task {cut(task)} is kept here")
            )
    for task, future in futures.items():
        status |= show_redriven(client, task, future, options, told)
    return status


def can_redrive(one: dict[str, Any], newest: int) -> bool:
    """Tell whether a dead task has its call yet, and was dead before those after *newest*."""
    return one["has_call"] and not one["redriven_as"] and one["serial"] <= newest


def tell(
    told: list[dict[str, Any]], options: argparse.Namespace, text: str, task: str, **facts: Any
) -> None:
    """Say what became of *task*, if anything, or keep it for the end where that is JSON."""
    told.append({"task": task, "redriven_as": None, "error": None, "result": None} | facts)
    if text and not options.json:
        say(text)


def refuse(
    told: list[dict[str, Any]], options: argparse.Namespace, task: str, error: BaseException
) -> int:
    """Say why *task* is not dead (any more), and return the exit status."""
    is_ours = isinstance(error, WarmslotError)
    text = str(error) if is_ours else f"{task}: {type(error).__name__}: {error}"
    sys.stderr.write(f"warmslot: {text}\n")
    tell(told, options, "", task, error=text)
    return STATUS_FAILED


def goes_on(
    client: Client, task: str, options: argparse.Namespace, told: list[dict[str, Any]]
) -> bool:
    """Tell whether *task* was submitted again before, and say so.

    Another REDRIVE would attach to what it is now, and take along its outcome where that is there.
    """
    if options.wait:
        return False
    try:
        answer = client.query("dead", task, timeout=options.timeout)
    except WarmslotError:
        return False  # Whoever redrives it is told why it is not kept.
    successor = answer["dead"][0]["redriven_as"]
    if successor and answer["has_journal"]:
        tell(told, options, f"{task} goes on as {successor}", task, redriven_as=successor)
    return bool(successor and answer["has_journal"])


def show_redriven(
    client: Client,
    task: str,
    future: TaskFuture,
    options: argparse.Namespace,
    told: list[dict[str, Any]],
) -> int:
    """Print what became of *task*; return the exit status."""
    if not future.accepted(options.timeout) and not future.done():
        raise TimeoutError(f"the broker has not taken {task} within {options.timeout} s")
    try:
        answer = client.query("dead", task, timeout=options.timeout)
    except WarmslotError as missing:
        # Its future says why it is not kept, or how it ended if it is so no more.
        return refuse(told, options, task, future.exception(options.timeout) or missing)
    successor = answer["dead"][0]["redriven_as"]
    if not successor:
        error = future.exception(options.timeout)
        tell(told, options, f"{task} stays dead: {error}", task, error=str(error))
        return STATUS_FAILED
    if answer["has_journal"] and not options.wait:
        tell(told, options, f"{task} goes on as {successor}", task, redriven_as=successor)
        return 0
    error = future.exception()
    facts: dict[str, Any] = {"redriven_as": successor}
    if error is not None:
        text = f"{type(error).__name__}: {error}"
        tell(told, options, f"{task} as {successor}: {text}", task, **facts, error=text)
        return STATUS_FAILED
    result = future.result()
    tell(told, options, f"{task} as {successor}: {result}", task, **facts, result=result)
    return 0
