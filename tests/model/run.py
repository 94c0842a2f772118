"""Search: `python -m tests.model.run [SCENARIO...] [--depth N] [--states N] [--seconds N]`.

Without a name all are searched, those of the tests first. Each line says how far it came; a
violation is printed with the shortest history that leads to it. `--mutant NAME` plants a bug.
"""

import argparse
import contextlib
import sys
from math import inf

from tests.model.explore import explore
from tests.model.mutants import MUTANTS
from tests.model.scenarios import DEEP, FAST


def main() -> int:
    """Search what was asked for and return the exit status."""
    known = FAST | DEEP
    parser = argparse.ArgumentParser(prog="python -m tests.model.run", description=__doc__)
    parser.add_argument("scenario", nargs="*", help=", ".join(known))
    parser.add_argument("--depth", type=int, default=10**9, help="moves of a history at most")
    parser.add_argument("--states", type=int, default=1_000_000, help="states of one search")
    parser.add_argument("--seconds", type=float, default=inf, help="for one search")
    parser.add_argument("--mutant", help=", ".join(mutant.name for mutant in MUTANTS))
    arguments = parser.parse_args()
    chosen = [known[name] for name in arguments.scenario] or list(known.values())
    planted: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    for mutant in MUTANTS:
        if mutant.name == arguments.mutant:
            planted = mutant.plant()
            chosen = [mutant.scenario]
    failed = False
    with planted:
        for scenario in chosen:
            found = explore(
                scenario,
                states_max=arguments.states,
                depth_max=arguments.depth,
                seconds=arguments.seconds,
            )
            failed |= bool(found.violation)
            print(found, flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
