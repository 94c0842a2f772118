"""All scenarios, as often as they are aimed at, in small clusters side by side.

    python -m tests.chaos.run [--share 1.0] [--jobs 4] [--minutes M] [--seed 1]
                              [--state .chaos.json] [--report FILE] [--again] [NAME ...]

Each batch is a cluster of its own, and all scenarios advance alike. What is done stands in the
state file, each batch with its commit: a run that was broken off (Ctrl-C, or its minutes are over;
what has begun comes to its end) goes on where it was, also with another commit. A batch that failed
is told with the command that repeats it, and stays in the table; --again runs it once more. In the
end, and first where there is a share already, stands how long the full counts would take here.
"""

import argparse
import json
import math
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tests.chaos.report import Batch, Done, estimate, failures, missed, summary, table
from tests.chaos.scenarios import SCENARIOS, Scenario, run, tell

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is not done yet, and print the table; 1 where a promise or a goal was missed."""
    options = read_options(arguments)
    commit = commit_of()
    state = State(options.state, commit)
    shares = {name: wanted(SCENARIOS[name], options.share) for name in options.names}
    if options.again:
        state.set_failures_aside()
    todo = [
        (name, reps, seed)
        for name, reps, seed in in_turns(shares, options.seed)
        if key_of(reps, seed) not in state.done.get(name, {})
    ]
    print(f"{len(todo)} batches to go, commit {commit}", flush=True)
    if todo and state.done:
        print(estimate(state.done, options.jobs), flush=True)
    end_at = math.inf if options.minutes is None else time.monotonic() + 60 * options.minutes
    is_broken_off = bool(todo) and work_off(todo, state, options.jobs, end_at)
    found = {name: list(state.done.get(name, {}).values()) for name in options.names}
    command = shlex.join(["python", "-m", "tests.chaos.run", *(arguments or sys.argv[1:])])
    told = "\n\n".join(
        (f"`{command}`", summary(found), table(found, aims=shares), failures(found))
    ).strip()
    print(told)
    if options.report:
        options.report.write_text(told + "\n")
    print(estimate(state.done, options.jobs))
    if is_broken_off:
        print("broken off: the same command goes on from here")
    has_failed = any("failure" in one for mine in found.values() for one in mine)
    return int(is_broken_off or has_failed or bool(missed(found)))


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("names", nargs="*", default=list(SCENARIOS), metavar="NAME")
    parser.add_argument("--share", type=float, default=1.0, help="of what is aimed at (1.0)")
    parser.add_argument("--jobs", type=int, default=4, help="clusters side by side (4)")
    parser.add_argument("--minutes", type=float, help="begin no batch after so long")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--state", type=Path, default=ROOT / ".chaos.json", help="what is done (.chaos.json)"
    )
    parser.add_argument("--report", type=Path, help="where the table is written as well")
    parser.add_argument("--again", action="store_true", help="run what failed once more")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in SCENARIOS]
    if unknown:
        parser.error(f"no such scenario: {unknown}; there are: {', '.join(SCENARIOS)}")
    return options


# --- what is to be done, and what is done


class State:
    """The file with what was done, which is whole at each moment."""

    def __init__(self, path: Path, commit: str) -> None:
        self.path = path
        self.commit = commit
        self.done: Done = json.loads(path.read_text()) if path.exists() else {}

    def add(self, name: str, found: Batch) -> None:
        """Keep what came of one batch."""
        mine = self.done.setdefault(name, {})
        mine[key_of(found["reps"], found["seed"])] = found | {"commit": self.commit}
        self._write()

    def set_failures_aside(self) -> None:
        """Keep the failures under other names, so that their batches are to be done again."""
        for mine in self.done.values():
            for key in [key for key, one in mine.items() if "failure" in one]:
                mine[f"{key}, failed, {len(mine)}"] = mine.pop(key)
        self._write()

    def _write(self) -> None:
        other = self.path.with_suffix(".new")
        other.write_text(json.dumps(self.done, indent=1))
        other.replace(self.path)


def wanted(scenario: Scenario, share: float) -> int:
    """Return how often a scenario is to happen."""
    return max(1, math.ceil(scenario.aim * share))


def key_of(reps: int, seed: int) -> str:
    """Name a batch."""
    return f"{reps} with seed {seed}"


def batches(name: str, count: int, seed: int) -> list[tuple[str, int, int]]:
    """Return (name, repetitions, seed) of each cluster that a scenario gets."""
    found: list[tuple[str, int, int]] = []
    while count > 0:
        reps = min(count, SCENARIOS[name].batch)
        found.append((name, reps, seed * 10_000 + len(found)))
        count -= reps
    return found


def in_turns(counts: dict[str, int], seed: int) -> list[tuple[str, int, int]]:
    """Return all batches: the first of each scenario, then so that all have had their share."""
    ordered = []
    for place, (name, count) in enumerate(counts.items()):
        mine = batches(name, count, seed)
        ordered += [(n / len(mine), place, batch) for n, batch in enumerate(mine)]
    return [batch for _, _, batch in sorted(ordered)]


def work_off(todo: list[tuple[str, int, int]], state: State, jobs: int, end_at: float) -> bool:
    """Run batches side by side; return whether it was to end before all were done."""
    is_broken_off = False
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        jobs, mp_context=spawn, initializer=stand_alone, max_tasks_per_child=1
    ) as pool:
        waiting: dict[Future[Batch], str] = {
            pool.submit(attempt, name, reps, seed): name for name, reps, seed in todo
        }

        def break_off(*_: Any) -> None:
            nonlocal is_broken_off
            is_broken_off = True
            for future in waiting:
                future.cancel()

        before = {number: signal.signal(number, break_off) for number in ENDS}
        for future in as_completed(waiting):
            if time.monotonic() >= end_at and not is_broken_off:
                break_off()
            try:
                found = future.result()
            except CancelledError:
                continue
            name = waiting[future]
            state.add(name, found)
            said = found.get("failure") or f"{found['reps']} in {found['seconds']} s"
            print(f"{name} seed {found['seed']}: {said}", flush=True)
        for number, handler in before.items():
            signal.signal(number, handler)
    return is_broken_off


ENDS = (signal.SIGINT, signal.SIGTERM)


def stand_alone() -> None:
    """Keep the terminal's signals away from a cluster: a batch that has begun comes to its end."""
    os.setsid()


def attempt(name: str, reps: int, seed: int) -> Batch:
    """Run one batch; a failure is a result as well."""
    try:
        found = run(SCENARIOS[name], reps, seed)
    except Exception:  # noqa: BLE001 - whatever it is, the others go on.
        again = (
            f"python -c 'from tests.chaos.run import *; print(attempt({name!r}, {reps}, {seed}))'"
        )
        told = f"{tell(traceback.format_exc())}\nrepeat with: {again}"
        found = {"reps": reps, "seed": seed, "seconds": 0.0, "recovered_s": [], "failure": told}
    # What else the machine had to do.
    return found | {"load": round(os.getloadavg()[0], 1)}


def commit_of() -> str:
    """Return the short name of the commit here, with a plus where there is more than that."""
    asked = ["git", "-C", str(ROOT), "describe", "--always", "--exclude=*", "--dirty=+"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
