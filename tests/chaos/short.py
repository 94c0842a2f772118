"""The short form: scenarios one after the other in the same few clusters.

    python -m tests.chaos.short NAME ...

runs those named in one cluster and prints, as JSON, what came of each: an empty text where it was
withstood. The process must be one of its own, since whatever is left of its children is an orphan.
"""

import json
import subprocess
import sys
import traceback
from pathlib import Path

from tests.chaos.scenarios import SCENARIOS, Scenario, run_all, tell

ROOT = Path(__file__).resolve().parents[2]
SEED = 3
# Scenarios without a journal are many: they share so many clusters.
PLAIN_CLUSTERS = 2
NOT_REACHED = "not reached: a scenario before it in the same cluster failed"


def main() -> int:
    """Run the scenarios that are named."""
    found = run_group(sys.argv[1:])
    print(json.dumps(found))
    return 0


def run_apart(names: list[str]) -> dict[str, str]:
    """Do the same in a process of its own, and return what it says."""
    command = [sys.executable, "-m", "tests.chaos.short", *names]
    child = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    found: dict[str, str] = json.loads(child.stdout)
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
    return scenario.machines, scenario.has_journal, scenario.replicas, scenario.make_load


def run_group(names: list[str]) -> dict[str, str]:
    """Run scenarios in one cluster; what fails at the end is said of all of them."""
    withstood: list[str] = []
    parts = [(SCENARIOS[name], SCENARIOS[name].short) for name in names]
    try:
        run_all(parts, SEED, lambda scenario: withstood.append(scenario.name), is_short=True)
    except Exception:  # noqa: BLE001 - whatever it is, it is told.
        told = tell(traceback.format_exc())
        if len(withstood) == len(names):
            return dict.fromkeys(names, told)
        rest = names[len(withstood) :]
        return dict.fromkeys(withstood, "") | dict.fromkeys(rest, NOT_REACHED) | {rest[0]: told}
    return dict.fromkeys(names, "")


if __name__ == "__main__":
    sys.exit(main())
