"""The scheduler with real processes: what a task takes, and what of it is the broker's work.

The rule: the same tasks as where the core is measured alone, with kinds of tasks beside them that
nobody satisfies. All processes share the cores of the machine, so only the broker's processor time
is to be compared with the core's.
"""

import os
import time
from pathlib import Path
from typing import Any

from bench.support import Workspace
from sdk import Client, Comparator, Desired, gather

LARGE = {"memory": Desired(256, Comparator.GREATER_THAN)}
result_timeout_s = 300.0

Row = tuple[str, str, list[float]]


def noop() -> None:
    pass


def busy_s(pid: int) -> float:
    """Return how long the process *pid* was on a processor."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def part_processes(options: Any) -> list[Row]:
    """Submit one by one to actors of one slot, with so many kinds queued that nobody satisfies."""
    rows: list[Row] = []
    count = 5 * options.count
    for actors, kinds in ((1, 0), (4, 0), (1, 10_000)):
        takes, works = [], []
        with Workspace() as workspace:
            endpoint = workspace.endpoint("tcp")
            broker = workspace.start("broker", "--no-journal", "--bind", endpoint)
            started = ("--replicas", str(actors), "--slots", "1", "--label", "memory=512")
            workspace.start("actor", "--broker", endpoint, *started)
            with Client(endpoint) as client:
                for kind in range(kinds):
                    client.submit(noop, desired_labels={"customer": kind})
                for _ in range(1 + options.rounds):
                    before_s, began = busy_s(broker.pid), time.monotonic()
                    futures = [client.submit(noop, desired_labels=LARGE) for _ in range(count)]
                    gather(futures, timeout=result_timeout_s)
                    takes.append((time.monotonic() - began) / count * 1e6)
                    works.append((busy_s(broker.pid) - before_s) / count * 1e6)
        what = f"{actors}, {kinds:,}"
        rows.append(("a task: actors, kinds beside", what, takes[1:]))
        rows.append(("of it the broker: actors, kinds", what, works[1:]))
    return rows
