"""What came out of the chaos, as a table, in a few sentences, and what failed."""

import math
import os
import statistics
from collections import Counter, defaultdict
from typing import Any

from tests.chaos.scenarios import SCENARIOS, Scenario

MEASURED = {"reps", "seed", "seconds", "struck_s", "cpu_s", "struck_cpu_s", "load", "commit"}
SPANS = {"recovered_s", "converged_s", "measured"}
NOT_COUNTED = frozenset({*MEASURED, *SPANS, "failure", "accepted"})
LIMIT_S = 2 * 3600

Batch = dict[str, Any]
# By scenario, then by seed and repetitions.
Done = dict[str, dict[str, Batch]]


def summary(found: dict[str, list[Batch]]) -> str:
    """Say over all scenarios what was done, where, and how soon it was over."""
    good = [one for mine in found.values() for one in mine if "failure" not in one]
    failed = sum("failure" in one for mine in found.values() for one in mine)
    counts: Counter[str] = Counter()
    for one in good:
        counts.update({k: v for k, v in one.items() if k not in NOT_COUNTED})
    _, again = counts.pop("runs", 0), counts.pop("again", 0)
    accepted = sum(one.get("accepted", 0) for one in good)
    commits = Counter(one["commit"] for one in good if "commit" in one)
    loads = sorted(one["load"] for one in good if "load" in one)
    done = (
        f"{sum(one['reps'] for one in good)} faults in {len(good)} clusters,"
        f" {failed} clusters in which a promise was broken."
    )
    kept = (
        f"Of {counts.total()} calls, {accepted} of them durable and accepted, none was lost and"
        f" none had a second outcome; {again} runs were not the first of their call."
    )
    lines = [
        f"{done} {kept}",
        told_spans("From a fault to the outcome of a call made after it", good, "recovered_s"),
        told_spans("From a burst to the counts of the policy", good, "converged_s"),
        *told_measured(found),
        *missed(found),
    ]
    if loads:
        cores = len(os.sched_getaffinity(0))
        lines.append(
            f"Load {loads[0]} to {loads[-1]}, median {statistics.median(loads)}, on {cores} cores."
        )
    if commits:
        told = ", ".join(f"{name} ({n} clusters)" for name, n in commits.most_common())
        lines.append(f"Commits: {told}.")
    return "\n".join(line for line in lines if line)


def told_spans(what: str, results: list[Batch], key: str) -> str:
    """Say how long something took, if it ever did."""
    spans = sorted(one for result in results for one in result.get(key, ()))
    if not spans:
        return ""
    told = f"p50 {quantile(spans, 0.5):.2f} s, p99 {quantile(spans, 0.99):.2f} s"
    return f"{what}: {told}, at most {spans[-1]:.2f} s ({len(spans)} times)."


def told_measured(found: dict[str, list[Batch]]) -> list[str]:
    """Return a line for each thing that was measured beside that: numbers that count add up."""
    lines = []
    for name, results in found.items():
        for what, values in measured_of(results).items():
            values.sort()
            if all(value == int(value) for value in values):
                told = f"{sum(values):.0f}"
            else:
                told = f"p50 {quantile(values, 0.5):.2f}, p99 {quantile(values, 0.99):.2f}"
                told += f", at most {values[-1]:.2f} ({len(values)} times)"
            lines.append(f"{name}, {what}: {told}.")
    return lines


def measured_of(results: list[Batch]) -> dict[str, list[float]]:
    """Return what was measured beside recoveries, in all batches that withstood."""
    found: dict[str, list[float]] = defaultdict(list)
    for result in results:
        for what, values in result.get("measured", {}).items():
            found[what] += values
    return found


def missed(found: dict[str, list[Batch]]) -> list[str]:
    """Return a line for each goal that a scenario misses."""
    lines = []
    for name, results in found.items():
        spans = sorted(one for r in results if "failure" not in r for one in r["recovered_s"])
        most_s = SCENARIOS[name].p99_s
        if spans and quantile(spans, 0.99) > most_s:
            lines.append(f"{name} misses its goal: p99 {quantile(spans, 0.99):.2f} of {most_s} s.")
        values = measured_of(results)
        for goal in SCENARIOS[name].goals:
            mine, others = sorted(values.get(goal.what, [])), values.get(goal.of, [])
            if others and sum(mine) < goal.least * sum(others):
                told = f"{sum(mine):.0f} of {sum(others):.0f}, at least {goal.least:.0%}"
            elif mine and not others and quantile(mine, goal.share) > goal.most:
                told = (
                    f"{quantile(mine, goal.share):.2f} in {goal.share:.0%}, at most {goal.most:.2f}"
                )
            else:
                continue
            lines.append(f"{name} misses its goal: {goal.what}, {told}.")
    return lines


def failures(found: dict[str, list[Batch]]) -> str:
    """Return what failed in full."""
    return "\n\n".join(
        f"{name}, seed {one['seed']}, commit {one.get('commit', '')}:\n\n{one['failure']}"
        for name, mine in found.items()
        for one in mine
        if "failure" in one
    )


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
