"""All scenarios, as often as they are aimed at, in small clusters side by side.

    python -m tests.chaos.run [--share 1.0] [--jobs 4] [--seed 1] [--state .chaos.json] [NAME ...]

Each batch is a cluster of its own, and all scenarios advance alike. What is done stands in the
state file, by commit and scenario: a run that was broken off (Ctrl-C lets what has begun come to
its end) goes on where it was. A batch that failed is told with the command that repeats it. In the
end, and first where there is a share already, stands how long the full counts would take here.
"""

import argparse
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import traceback
from collections import Counter
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tests.chaos.scenarios import SCENARIOS, Scenario, run, tell

ROOT = Path(__file__).resolve().parents[2]
MEASURED = {"reps", "seed", "seconds", "struck_s", "cpu_s", "struck_cpu_s", "load"}
SPANS = {"recovered_s", "converged_s"}
NOT_COUNTED = frozenset({*MEASURED, *SPANS, "failure", "accepted"})
LIMIT_S = 2 * 3600

Batch = dict[str, Any]
# By scenario, then by seed and repetitions.
Done = dict[str, dict[str, Batch]]


def main() -> int:
    """Run what is not done yet, and print the table; 1 where a promise was broken."""
    options = read_options()
    commit = commit_of()
    state = State(options.state, commit)
    shares = {name: wanted(SCENARIOS[name], options.share) for name in options.names}
    todo = [
        (name, reps, seed)
        for name, reps, seed in in_turns(shares, options.seed)
        if key_of(reps, seed) not in state.done.get(name, {})
    ]
    print(f"{len(todo)} batches to go, commit {commit}", flush=True)
    if todo and state.done:
        print(estimate(state.done, options.jobs), flush=True)
    is_broken_off = work_off(todo, state, options.jobs)
    found = {
        name: [
            state.done[name][key_of(reps, seed)]
            for _, reps, seed in batches(name, count, options.seed)
            if key_of(reps, seed) in state.done.get(name, {})
        ]
        for name, count in shares.items()
    }
    print(table(found, aims=shares))
    print(estimate(state.done, options.jobs))
    if is_broken_off:
        print("broken off: the same command goes on from here")
    return int(is_broken_off or any("failure" in one for mine in found.values() for one in mine))


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("names", nargs="*", default=list(SCENARIOS), metavar="NAME")
    parser.add_argument("--share", type=float, default=1.0, help="of what is aimed at (1.0)")
    parser.add_argument("--jobs", type=int, default=4, help="clusters side by side (4)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--state", type=Path, default=ROOT / ".chaos.json")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in SCENARIOS]
    if unknown:
        parser.error(f"no such scenario: {unknown}; there are: {', '.join(SCENARIOS)}")
    return options


# --- what is to be done, and what is done


class State:
    """The file with what was done, which is whole at each moment."""

    def __init__(self, path: Path, commit: str) -> None:
        self.path = path
        self.all: dict[str, Done] = json.loads(path.read_text()) if path.exists() else {}
        self.done = self.all.setdefault(commit, {})

    def add(self, name: str, found: Batch) -> None:
        """Keep what came of one batch."""
        self.done.setdefault(name, {})[key_of(found["reps"], found["seed"])] = found
        other = self.path.with_suffix(".new")
        other.write_text(json.dumps(self.all, indent=1))
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


def work_off(todo: list[tuple[str, int, int]], state: State, jobs: int) -> bool:
    """Run batches side by side; return whether somebody wanted it to end before."""
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


# --- what is told


def table(found: dict[str, list[Batch]], *, aims: dict[str, int] | None = None) -> str:
    """Return what came out, a row a scenario; failed are batches in which a promise was broken."""
    lines = [
        "| scenario | fault | times | failed | calls | outcomes | again | recovered p50 / p99 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, results in found.items():
        counts: Counter[str] = Counter()
        for result in results:
            counts.update({k: v for k, v in result.items() if k not in NOT_COUNTED})
        _, again = counts.pop("runs", 0), counts.pop("again", 0)
        times = f"{sum(r['reps'] for r in results if 'failure' not in r)}"
        if aims is not None:
            times += f" of {aims[name]}"
        failed = sum("failure" in r for r in results)
        spans = sorted(one for r in results for one in r["recovered_s"])
        ends = ", ".join(f"{kind} {n}" for kind, n in counts.most_common())
        told = f"{quantile(spans, 0.5):.2f} / {quantile(spans, 0.99):.2f} s" if spans else ""
        what = SCENARIOS[name].what
        calls = counts.total()
        lines.append(
            f"| {name} | {what} | {times} | {failed} | {calls} | {ends} | {again} | {told} |"
        )
    return "\n".join(lines)


def quantile(spans: list[float], share: float) -> float:
    """Return the value that so many are not above."""
    return spans[min(len(spans) - 1, math.ceil(share * len(spans)) - 1)]


def estimate(done: Done, jobs: int) -> str:
    """Say what the full counts would take, by scenario, from what was measured.

    Clusters mostly wait, so that several fit side by side; what they compute has to fit as well.
    """
    cores = len(os.sched_getaffinity(0))
    lines = ["", f"the full counts, {jobs} clusters side by side on {cores} cores:"]
    wall_s = cpu_s = 0.0
    missing = []
    for name, scenario in SCENARIOS.items():
        good = [one for one in done.get(name, {}).values() if "failure" not in one]
        reps = sum(one["reps"] for one in good)
        if not reps:
            missing.append(name)
            continue
        wall = full_s(scenario, good, "seconds", "struck_s")
        cpu = full_s(scenario, good, "cpu_s", "struck_cpu_s")
        wall_s, cpu_s = wall_s + wall, cpu_s + cpu
        lines.append(
            f"  {name:12} {scenario.aim:5} times: {wall / 60:6.1f} minutes of a cluster,"
            f" {cpu / 60:5.1f} of a core (from {reps})"
        )
    longest_s = max(wall_s / jobs, cpu_s / cores)
    lines.append(
        f"  in all {wall_s / 60:.0f} minutes of a cluster and {cpu_s / 60:.0f} of a core:"
        f" at least {longest_s / 60:.0f} minutes, {'within' if longest_s < LIMIT_S else 'over'}"
        f" two hours; not measured: {', '.join(missing) or 'none'}"
    )
    return "\n".join(lines)


def full_s(scenario: Scenario, good: list[Batch], whole: str, struck: str) -> float:
    """Return the seconds for the full count: clusters that come and go, and what is done to them"""
    around_s = sum(one[whole] - one[struck] for one in good) / len(good)
    strike_s = sum(one[struck] for one in good) / sum(one["reps"] for one in good)
    return math.ceil(scenario.aim / scenario.batch) * around_s + scenario.aim * strike_s


def commit_of() -> str:
    """Return the short name of the commit that is checked out."""
    asked = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
