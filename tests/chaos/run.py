"""All scenarios, as often as they are aimed at, in small clusters side by side.

    python -m tests.chaos.run [--share 1.0] [--jobs 2] [--seed 1] [--state .chaos.json] [NAME ...]

Each batch is a cluster of its own. What is done stands in the state file, so that a run that was
broken off goes on where it was; a batch that failed is told with the command that repeats it.
"""

import argparse
import json
import math
import multiprocessing
import subprocess
import sys
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tests.chaos.scenarios import SCENARIOS, run

ROOT = Path(__file__).resolve().parents[2]
NOT_COUNTED = frozenset({"reps", "seed", "seconds", "recovered_s", "failure"})


def main() -> int:
    """Run what is not done yet, and print the table; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("names", nargs="*", default=list(SCENARIOS), metavar="NAME")
    parser.add_argument("--share", type=float, default=1.0, help="of what is aimed at (1.0)")
    parser.add_argument("--jobs", type=int, default=2, help="clusters side by side (2)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--state", type=Path, default=ROOT / ".chaos.json")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in SCENARIOS]
    if unknown:
        parser.error(f"no such scenario: {unknown}; there are: {', '.join(SCENARIOS)}")
    done: dict[str, Any] = json.loads(options.state.read_text()) if options.state.exists() else {}
    commit = commit_of()
    todo = [
        (key, name, reps, seed)
        for name in options.names
        for key, reps, seed in batches(name, options.share, options.seed, commit)
        if key not in done
    ]
    print(f"{len(todo)} batches to go, commit {commit}", flush=True)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=spawn, max_tasks_per_child=1) as pool:
        waiting = {
            pool.submit(attempt, name, reps, seed): (key, name) for key, name, reps, seed in todo
        }
        for future in as_completed(waiting):
            key, name = waiting[future]
            found = future.result()
            done[key] = found
            options.state.write_text(json.dumps(done, indent=1))
            said = found.get("failure") or f"{found['reps']} in {found['seconds']} s"
            print(f"{name} seed {found['seed']}: {said}", flush=True)
    keys = {
        name: [key for key, _, _ in batches(name, options.share, options.seed, commit)]
        for name in options.names
    }
    print(table({name: [done[key] for key in mine] for name, mine in keys.items()}))
    return int(any("failure" in done[key] for mine in keys.values() for key in mine))


def batches(name: str, share: float, seed: int, commit: str) -> list[tuple[str, int, int]]:
    """Return (key, repetitions, seed) of each cluster that a scenario gets."""
    scenario = SCENARIOS[name]
    left = max(1, math.ceil(scenario.aim * share))
    found = []
    while left > 0:
        reps = min(left, scenario.batch)
        number = seed * 10_000 + len(found)
        found.append((f"{commit} {name} {number} {reps}", reps, number))
        left -= reps
    return found


def attempt(name: str, reps: int, seed: int) -> dict[str, Any]:
    """Run one batch; a failure is a result as well."""
    try:
        return run(SCENARIOS[name], reps, seed)
    except Exception:  # noqa: BLE001 - whatever it is, the others go on.
        again = (
            f"python -c 'from tests.chaos.run import *; print(attempt({name!r}, {reps}, {seed}))'"
        )
        told = f"{traceback.format_exc()[-3_000:]}\nrepeat with: {again}"
        return {"reps": reps, "seed": seed, "seconds": 0.0, "recovered_s": [], "failure": told}


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Return what came out, a row a scenario."""
    lines = [
        "| scenario | fault | times | failed | calls | outcomes | again | recovered p50 / p99 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, results in found.items():
        counts: Counter[str] = Counter()
        for result in results:
            counts.update({k: v for k, v in result.items() if k not in NOT_COUNTED})
        runs, again = counts.pop("runs", 0), counts.pop("again", 0)
        times = sum(r["reps"] for r in results if "failure" not in r)
        failed = sum("failure" in r for r in results)
        spans = sorted(one for r in results for one in r["recovered_s"])
        ends = ", ".join(f"{kind} {n}" for kind, n in counts.most_common())
        calls = counts.total()
        assert runs >= 0
        told = f"{quantile(spans, 0.5):.2f} / {quantile(spans, 0.99):.2f} s" if spans else ""
        what = SCENARIOS[name].what
        lines.append(
            f"| {name} | {what} | {times} | {failed} | {calls} | {ends} | {again} | {told} |"
        )
    return "\n".join(lines)


def quantile(spans: list[float], share: float) -> float:
    """Return the value that so many are not above."""
    return spans[min(len(spans) - 1, math.ceil(share * len(spans)) - 1)]


def commit_of() -> str:
    """Return the short name of the commit that is checked out."""
    asked = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
