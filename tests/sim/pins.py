"""Which seed shows each planted bug, so that no test has to look: `python -m tests.sim.pins`.

A pin that shows nothing any more costs time, and no more: the test then looks in all seeds. A seed
that goes wrong without the bug as well is no pin: it is said, and the next one is looked for.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.sim.mutants import Mutant

PATH = Path(__file__).with_name("pins.json")
# What comes of a seed without a bug, by profile, seed and steps: many bugs are looked for in one.
_unplanted: dict[tuple[str, int, int], tuple[int, str]] = {}


def read() -> dict[str, int]:
    """Return the seed of each planted bug."""
    pins: dict[str, int] = json.loads(PATH.read_text())
    return pins


def shown(mutant: "Mutant", seeds: range, steps: int) -> tuple[int, str]:
    """Return the first of *seeds* that goes wrong with *mutant* and not without, and how, or -1."""
    from tests.sim.mutants import caught

    while seeds:
        seed, how = caught(mutant, mutant.profile, seeds, steps)
        if seed < 0:
            break
        key = (repr(mutant.profile), seed, steps)
        if key not in _unplanted:
            _unplanted[key] = caught(None, mutant.profile, range(seed, seed + 1), steps)
        clean, why = _unplanted[key]
        if clean < 0:
            return seed, how
        print(f"{mutant.name}: seed {seed} goes wrong without it as well: {why[:100]}", flush=True)
        seeds = range(seed + 1, seeds.stop)
    return -1, ""


def main() -> None:
    """Look for each planted bug whose pin shows nothing, and write the pins."""
    from tests.sim.test_mutants import PLANTED, SEEDS, STEPS

    former = read() if PATH.exists() else {}
    pins = {}
    for mutant in PLANTED:
        pin = former.get(mutant.name, SEEDS.start)
        seed, how = shown(mutant, range(pin, pin + 1), STEPS)
        if seed < 0:
            seed, how = shown(mutant, SEEDS, STEPS)
        print(mutant.name, seed, how[:100], flush=True)
        pins[mutant.name] = seed
    PATH.write_text(json.dumps(pins, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
