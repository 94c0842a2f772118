"""The command `status`: the broker's figures for people, as JSON, or as Prometheus reads them."""

import argparse
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from sdk.client import Client
from sdk.commands.table import cell, print_json, say

PREFIX: Final = "warmslot_"
# Metric, type, what it is, the field, and for a map the label under which its keys stand.
METRICS: Final = (
    ("clients", "gauge", "Clients that are connected, this one included.", "clients", ""),
    ("hosts", "gauge", "Hosts that are connected.", "hosts", ""),
    ("actors", "gauge", "Actors, also those that are silent for a moment.", "actors", ""),
    ("actors_closed", "gauge", "Actors that take no new work.", "actors_closed", ""),
    ("tasks", "gauge", "Tasks by where they are.", "tasks", "state"),
    ("tasks_released", "gauge", "Assigned tasks that run without a slot.", "released", ""),
    ("tasks_dead", "gauge", "Tasks that ended badly and are kept.", "dead", ""),
    ("outcomes_kept", "gauge", "Durable outcomes that are kept.", "kept", ""),
    ("recovering", "gauge", "1 while a started broker takes over what runs.", "recovering", ""),
    ("journal_ok", "gauge", "0 while no durable task is taken.", "journal_ok", ""),
    ("journal_bytes", "gauge", "What counts towards the journal's limit.", "journal_octets", ""),
    ("start_time_seconds", "gauge", "When the broker was started.", "started_s", ""),
    ("tasks_submitted_total", "counter", "Tasks that the broker has had.", "submitted", ""),
    ("tasks_succeeded_total", "counter", "Tasks that ended with a result.", "succeeded", ""),
    ("tasks_failed_total", "counter", "Tasks that failed.", "failed_by_code", "code"),
    ("tasks_canceled_total", "counter", "Tasks that nobody wanted any more.", "canceled", ""),
    ("retries_total", "counter", "Failures after which a task was tried again.", "retried", ""),
    ("requeues_total", "counter", "Assignments that were lost.", "requeued_by_reason", "reason"),
    ("assignments_total", "counter", "Times that a task was given out.", "assignments", ""),
    ("recalls_total", "counter", "Times that one was asked back.", "recalled", ""),
    ("rejects_total", "counter", "Times that one was given back.", "rejected", ""),
)
STATES: Final = ("queued", "delayed", "alone", "assigned", "ended")


def add_status_options(command: argparse.ArgumentParser) -> None:
    """Add what `status` takes."""
    command.add_argument(
        "--prometheus",
        action="store_true",
        help="print the figures as Prometheus reads them, for a file of its textfile collector",
    )


def show_status(client: Client, options: argparse.Namespace) -> int:
    """Print one fact a line."""
    if options.prometheus and options.json:
        raise ValueError("--json and --prometheus exclude each other")
    answer = client.query("status", timeout=options.timeout)
    if options.prometheus:
        for line in exposition(answer):
            say(line)
        return 0
    if print_json(answer, options):
        return 0
    width = max(map(len, answer), default=0)
    for key, value in answer.items():
        # Of a map of counts what has occurred.
        shown = {k: v for k, v in value.items() if v} if isinstance(value, dict) else value
        say(f"{key:{width}}  {cell(shown) or '-'}")
    return 0


def exposition(answer: dict[str, Any]) -> Iterator[str]:
    """Return *answer* in the text format of Prometheus, without what a former release lacks."""
    facts = answer | {"tasks": {state: answer[state] for state in STATES if state in answer}}
    if answer.get("journal", "none") != "none":
        facts["journal_ok"] = answer["journal"] == "ok"
    if "started_at" in answer:
        facts["started_s"] = datetime.fromisoformat(answer["started_at"]).timestamp()
    yield from metric("up", "gauge", "1 where the broker answers.", {"": 1})
    who = labels(release=str(answer.get("release", "")), epoch=str(answer.get("epoch", "")))
    yield from metric("info", "gauge", "Which broker it is.", {who: 1})
    for name, kind, text, field, label in METRICS:
        value = facts.get(field)
        if value is None:
            continue
        rows = {labels(**{label: key}): n for key, n in value.items()} if label else {"": value}
        yield from metric(name, kind, text, rows)


def metric(name: str, kind: str, text: str, rows: dict[str, Any]) -> Iterator[str]:
    """Return one metric with a row for each of its labels."""
    yield f"# HELP {PREFIX}{name} {text}"
    yield f"# TYPE {PREFIX}{name} {kind}"
    for written, value in rows.items():
        yield (
            f"{PREFIX}{name}{written} {value:d}"
            if isinstance(value, int)
            else (f"{PREFIX}{name}{written} {value!r}")
        )


def labels(**values: str) -> str:
    """Write labels behind the name of a metric."""
    return "{" + ",".join(f'{name}="{escaped(value)}"' for name, value in values.items()) + "}"


def escaped(value: str) -> str:
    """Write *value* as it may stand between quotes."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
