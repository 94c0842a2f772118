"""Run many seeds: `python -m tests.sim.run --seeds 1000 --steps 500 [--seed N] [--jobs 2]`.

A failing seed is printed with the commit and the last events; `--seed N` runs it alone.
"""

import argparse
import subprocess
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor
from time import monotonic

from tests.sim.world import World

HISTORY_SHOWN = 80


def run_seed(seed: int, steps: int, *, shown: int = HISTORY_SHOWN) -> str:
    """Run one seed; return an empty text, or what went wrong with its history."""
    world = World(seed)
    try:
        world.run(steps)
    except Exception:  # noqa: BLE001 - whatever goes wrong is the finding.
        return (
            f"seed {seed}: {world.profile}\n{world.story(shown)}\n"
            f"at {world.now:.3f}, step {world.steps}:\n{traceback.format_exc()}"
        )
    return ""


def digest_of(seed: int, steps: int) -> tuple[int, int, int]:
    """Run one seed and return what tells its history from any other."""
    world = World(seed)
    world.run(steps)
    return world.digest, world.steps, round(world.now * 1000)


def commit() -> str:
    """Name the commit that the tree stands on."""
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def main() -> int:
    """Run what was asked for and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.run", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--steps", type=int, default=500, help="steps before everything heals")
    parser.add_argument("--seed", type=int, help="run this seed alone, with a longer history")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at a failure")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        story = run_seed(arguments.seed, arguments.steps, shown=400)
        print(story or f"seed {arguments.seed}: ok")
        return bool(story)
    began = monotonic()
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    failed = 0
    for seed, story in stories(seeds, arguments.steps, arguments.jobs):
        if story:
            failed += 1
            print(f"FAILED at commit {commit()}\n{story}", flush=True)
            if not arguments.keep_going:
                print(f"replay: python -m tests.sim.run --seed {seed} --steps {arguments.steps}")
                return 1
    print(
        f"{arguments.seeds} seeds x {arguments.steps} steps, {failed} failures, "
        f"{monotonic() - began:.0f} s, commit {commit()}"
    )
    return bool(failed)


def stories(seeds: range, steps: int, jobs: int):
    """Yield each seed with what went wrong in it."""
    if jobs <= 1:
        for seed in seeds:
            yield seed, run_seed(seed, steps)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from zip(
            seeds, pool.map(run_seed, seeds, [steps] * len(seeds), chunksize=8), strict=True
        )


if __name__ == "__main__":
    sys.exit(main())
