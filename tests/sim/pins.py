"""Which seed shows each planted bug, so that no test has to look: `python -m tests.sim.pins`.

A pin that shows nothing any more costs time, and no more: the test then looks in all seeds.
"""

import json
from pathlib import Path

PATH = Path(__file__).with_name("pins.json")


def read() -> dict[str, int]:
    """Return the seed of each planted bug."""
    pins: dict[str, int] = json.loads(PATH.read_text())
    return pins


def main() -> None:
    """Look for each planted bug whose pin shows nothing, and write the pins."""
    from tests.sim.mutants import caught
    from tests.sim.test_mutants import PLANTED, SEEDS, STEPS

    former = read() if PATH.exists() else {}
    pins = {}
    for mutant in PLANTED:
        pin = former.get(mutant.name, SEEDS.start)
        seed, how = caught(mutant, mutant.profile, range(pin, pin + 1), STEPS)
        if seed < 0:
            seed, how = caught(mutant, mutant.profile, SEEDS, STEPS)
        print(mutant.name, seed, how[:100], flush=True)
        pins[mutant.name] = seed
    PATH.write_text(json.dumps(pins, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
