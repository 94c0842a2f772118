"""Which seed shows each planted bug, so that no test has to look: `python -m tests.sim.pins`.

A pin that shows nothing any more costs time, and no more: the test then looks in all seeds. A seed
that goes wrong without the bug as well is no pin: it is said, and the next one is looked for.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.sim.mutants import Caught, Mutant
    from tests.sim.profile import Profile

PATH = Path(__file__).with_name("pins.json")
# What comes of a seed without a bug, by profile, seed and steps: many bugs are looked for in one.
_whole: dict[tuple[str, int, int], "Caught | None"] = {}
# After how many turns of a seed, by profile and seed, nothing was wrong without a bug.
_turns: dict[tuple[str, int], int] = {}


def read() -> dict[str, int]:
    """Return the seed of each planted bug."""
    pins: dict[str, int] = json.loads(PATH.read_text())
    return pins


def shown(mutant: "Mutant", seeds: range, steps: int) -> tuple[int, str]:
    """Return the first of *seeds* that goes wrong with *mutant* and not without, and how, or -1."""
    from tests.sim.mutants import run

    for seed in seeds:
        found = run(mutant, mutant.profile, seed, steps)
        if found is None:
            continue
        why = unplanted(mutant.profile, seed, steps, found.turns)
        if not why:
            return seed, found.how
        print(f"{mutant.name}: seed {seed} goes wrong without it as well: {why[:100]}", flush=True)
    return -1, ""


def unplanted(profile: "Profile | None", seed: int, steps: int, turns: int | None) -> str:
    """Return what goes wrong in a seed without a bug, at least until so many *turns*; or nothing.

    What comes later than the bug was noticed says nothing of it, so it is not run.
    """
    from tests.sim.mutants import run
    from tests.sim.world import World

    whole = (repr(profile), seed, steps)
    if turns is None or whole in _whole:
        if whole not in _whole:
            _whole[whole] = run(None, profile, seed, steps)
        found = _whole[whole]
        return found.how if found else ""
    if _turns.get(whole[:2], 0) < turns:
        try:
            World(seed, profile).walk(turns)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong is no planted bug's.
            return f"{type(error).__name__}: {error}"
        _turns[whole[:2]] = turns
    return ""


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
