"""The short form: scenarios one after the other in the same few clusters.

    python -m tests.chaos.short NAME ...

It starts a process for each kind of cluster and prints, as JSON, what came of each scenario: an
empty text where it was withstood.
"""

import json
import subprocess
import sys
import traceback
from pathlib import Path

from tests.chaos.scenarios import SCENARIOS, Scenario, run_all, tell

ROOT = Path(__file__).resolve().parents[2]
SEED = 3
# Scenarios without a journal are many: in so many clusters side by side.
PLAIN_CLUSTERS = 2
NOT_REACHED = "not reached: a scenario before it in the same cluster failed"


def main() -> int:
    """Run the scenarios that are named, or with --group those that stand for one cluster."""
    if sys.argv[1] == "--group":
        print(json.dumps(run_group(sys.argv[2:])))
        return 0
    found = run_short(sys.argv[1:])
    print(json.dumps(found, indent=1))
    return int(any(found.values()))


def run_short(names: list[str]) -> dict[str, str]:
    """Return what came of each of *names*; clusters are side by side."""
    children = []
    for group in groups(names):
        command = [sys.executable, "-m", "tests.chaos.short", "--group", *group]
        children.append((group, subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)))
    found: dict[str, str] = {}
    for group, child in children:
        said, _ = child.communicate()
        told = f"its process ended with status {child.returncode}"
        found |= json.loads(said) if child.returncode == 0 else dict.fromkeys(group, told)
    return found


def groups(names: list[str]) -> list[list[str]]:
    """Return which scenarios share a cluster."""
    plain = [name for name in names if kind_of(SCENARIOS[name]) == kind_of(SCENARIOS["L1"])]
    found = [plain[n::PLAIN_CLUSTERS] for n in range(PLAIN_CLUSTERS)]
    others: dict[tuple[object, ...], list[str]] = {}
    for name in names:
        if name not in plain:
            others.setdefault(kind_of(SCENARIOS[name]), []).append(name)
    return [group for group in (*found, *others.values()) if group]


def kind_of(scenario: Scenario) -> tuple[object, ...]:
    """Return what clusters have in common that several scenarios can share."""
    return scenario.machines, scenario.has_journal, scenario.replicas


def run_group(names: list[str]) -> dict[str, str]:
    """Run scenarios in one cluster; what fails at the end is said of all of them."""
    withstood: list[str] = []
    parts = [(SCENARIOS[name], SCENARIOS[name].short) for name in names]
    try:
        run_all(parts, SEED, lambda scenario: withstood.append(scenario.name))
    except Exception:  # noqa: BLE001 - whatever it is, it is told.
        told = tell(traceback.format_exc())
        if len(withstood) == len(names):
            return dict.fromkeys(names, told)
        rest = names[len(withstood) :]
        return dict.fromkeys(withstood, "") | dict.fromkeys(rest, NOT_REACHED) | {rest[0]: told}
    return dict.fromkeys(names, "")


if __name__ == "__main__":
    sys.exit(main())
