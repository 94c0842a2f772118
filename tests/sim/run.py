"""Run many fresh seeds: `python -m tests.sim.run --seeds 10000 [--steps 500] [--jobs 2]`.

What is done stands in a state file, so that a run that was broken off goes on where it was; at
another commit it starts anew. A failure is told with its history and the command that repeats it.
"""

import argparse
import gc
import hashlib
import json
import multiprocessing
import os
import secrets
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from tests.sim.world import World

ROOT = Path(__file__).resolve().parents[2]
HISTORY_SHOWN = 80
# Seeds that one process takes at once, and after which they are noted as done.
CHUNK = 10
# A seed takes a fraction of a second; one that takes so long spins.
SEED_S_MAX = 120
# How often something is said: on a terminal, and into a file.
SAY_S = (0.5, 30.0)
INTERRUPTED = 130

Failure = tuple[int, str]


def run_seed(seed: int, steps: int, *, shown: int = HISTORY_SHOWN) -> str:
    """Run one seed; return an empty text, or what went wrong with its history."""
    return run_world(World(seed), seed, steps, shown=shown)


def run_world(world: World, seed: int, steps: int, *, shown: int = HISTORY_SHOWN) -> str:
    """Run the world of a seed, as `run_seed` does."""
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


# ---------------------------------------------------------------------- what is done


class Work:
    """Which seeds are to be run, which of them are done, and which failed."""

    def __init__(self, path: Path | None, commit: str, *, first: int, seeds: int, steps: int):
        """Begin with nothing done; *path* None: keep no state."""
        self.path = path
        self.commit = commit
        self.first, self.seeds, self.steps = first, seeds, steps
        self.done: set[int] = set()
        self.failures: list[Failure] = []

    @classmethod
    def resume(cls, path: Path, commit: str, *, seeds: int, steps: int) -> "Work | None":
        """Return what was broken off at this commit with these numbers, if anything was."""
        try:
            state = json.loads(path.read_text())
        except (OSError, ValueError):
            return None
        if [state["commit"], state["seeds"], state["steps"]] != [commit, seeds, steps]:
            return None
        work = cls(path, commit, first=state["first"], seeds=seeds, steps=steps)
        work.done = set(state["done"])
        work.failures = [(seed, story) for seed, story in state["failures"]]
        return work if work.chunks() else None

    def chunks(self) -> list[range]:
        """Return what is not done yet."""
        last = self.first + self.seeds
        starts = range(self.first, last, CHUNK)
        return [range(at, min(at + CHUNK, last)) for at in starts if at not in self.done]

    def note(self, chunk: range, failures: list[Failure]) -> None:
        """Note that *chunk* is done, so that it is also after a kill."""
        self.done.add(chunk.start)
        self.failures += failures
        if self.path is None:
            return
        state = {
            "commit": self.commit,
            "first": self.first,
            "seeds": self.seeds,
            "steps": self.steps,
            "done": sorted(self.done),
            "failures": self.failures,
        }
        beside = self.path.with_suffix(".new")
        beside.write_text(json.dumps(state))
        beside.replace(self.path)

    @property
    def count(self) -> int:
        """Return how many seeds are done."""
        return self.seeds - sum(map(len, self.chunks()))


def commit_of(root: Path = ROOT) -> str:
    """Name the commit that the tree stands on, and what was changed since."""
    described = git(root, "describe", "--always", "--dirty").strip()
    if described.endswith("-dirty"):
        changes = git(root, "diff", "HEAD") + git(root, "status", "--porcelain")
        described += f"-{hashlib.sha256(changes.encode()).hexdigest()[:8]}"
    return described or "unknown"


def git(root: Path, *arguments: str) -> str:
    """Return what git says."""
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


# ---------------------------------------------------------------------- running


def run_chunk(chunk: range, steps: int) -> tuple[range, list[Failure]]:
    """Run some seeds and return what went wrong in which."""
    failures = []
    for seed in chunk:
        with bounded(), little_garbage():
            story = run_seed(seed, steps)
        if story:
            failures.append((seed, story))
    return chunk, failures


@contextmanager
def bounded() -> Iterator[None]:
    """Raise in what takes far too long."""

    def spins(*_: Any) -> None:
        raise TimeoutError(f"a seed takes more than {SEED_S_MAX} s")

    # Of this process's own time, which a busy machine does not use up.
    former = signal.signal(signal.SIGPROF, spins)
    signal.setitimer(signal.ITIMER_PROF, SEED_S_MAX)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, former)


def results(work: Work, jobs: int) -> Iterator[tuple[range, list[Failure]]]:
    """Yield each chunk as it is done."""
    chunks = iter(work.chunks())
    if jobs <= 1:
        yield from (run_chunk(chunk, work.steps) for chunk in chunks)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=begin_process) as pool:
        running: set[Future[Any]] = set()
        is_over = False
        while running or not is_over:
            while not is_over and len(running) < 2 * jobs:
                chunk = next(chunks, None)
                is_over = chunk is None
                if chunk is not None:
                    running.add(pool.submit(run_chunk, chunk, work.steps))
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in ended)


def begin_process() -> None:
    """Leave Ctrl-C to the parent, which lets this process end what it has begun; end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=follow_parent, daemon=True).start()


def follow_parent() -> None:
    """Wait for the parent's end, whatever ended it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def replay(seed: int, steps: int) -> str:
    """Return the command that repeats a failure."""
    python = Path(sys.executable)
    if python.is_relative_to(ROOT):
        python = python.relative_to(ROOT)
    return f"{python} -m tests.sim.run --seed {seed} --steps {steps}"


@contextmanager
def little_garbage() -> Iterator[None]:
    """Collect garbage seldom: a world is full of circles, and thrown away as a whole."""
    former = gc.get_threshold()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*former)


class Progress:
    """Says how far it is and how fast, on one line of a terminal or now and then."""

    def __init__(self, work: Work) -> None:
        """Begin now."""
        self.work = work
        self.began, self.said_at = monotonic(), 0.0
        self.done_before = work.count
        self.is_terminal = sys.stderr.isatty()

    def say(self, *, is_last: bool = False) -> None:
        """Say it, when it is time."""
        now = monotonic()
        if not is_last and now - self.said_at < SAY_S[not self.is_terminal]:
            return
        self.said_at = now
        done = self.work.count
        rate = (done - self.done_before) / max(now - self.began, 1e-9)
        left_s = (self.work.seeds - done) / rate if rate else 0.0
        end = "\n" if is_last or not self.is_terminal else "\r"
        sys.stderr.write(
            f"{done}/{self.work.seeds} seeds, {len(self.work.failures)} failures, "
            f"{rate:.1f} seeds/s, {left_s:.0f} s to go  {end}"
        )
        sys.stderr.flush()


def run(work: Work, jobs: int, *, keep_going: bool) -> int:
    """Run what is not done yet and return the exit status."""
    progress = Progress(work)
    for seed, story in work.failures:
        print(f"FAILED before: seed {seed}, {story.splitlines()[-1]}")
    try:
        for chunk, failures in results(work, jobs):
            work.note(chunk, failures)
            for seed, story in failures:
                print(
                    f"FAILED at commit {work.commit}\n{story}\nreplay: {replay(seed, work.steps)}"
                )
            progress.say()
            if failures and not keep_going:
                break
    except KeyboardInterrupt:
        progress.say(is_last=True)
        print("interrupted; the same command goes on from here", flush=True)
        return INTERRUPTED
    progress.say(is_last=True)
    print(
        f"{work.count} seeds from {work.first} x {work.steps} steps, {len(work.failures)} failures,"
        f" {monotonic() - progress.began:.0f} s, commit {work.commit}"
    )
    for seed, _ in work.failures:
        print(f"replay: {replay(seed, work.steps)}")
    return int(bool(work.failures))


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.run", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds")
    parser.add_argument("--first", type=int, help="the first seed; without it fresh ones")
    parser.add_argument("--steps", type=int, default=500, help="steps before everything heals")
    parser.add_argument("--seed", type=int, help="run this seed alone, with a longer history")
    parser.add_argument("--jobs", type=int, default=cores(), help="processes; as many as cores")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at a failure")
    parser.add_argument("--state", type=Path, default=ROOT / ".sim.json", help="what is done")
    options = parser.parse_args(arguments)
    seeds, steps, commit = options.seeds, options.steps, commit_of()
    if options.seed is not None:
        story = run_seed(options.seed, steps, shown=400)
        print(story or f"seed {options.seed}: ok", f"commit {commit}", sep="\n")
        return bool(story)
    found = Work.resume(options.state, commit, seeds=seeds, steps=steps)
    if found is not None and options.first in {None, found.first}:
        work = found
    else:
        first = secrets.randbelow(2**40) * 2**20 if options.first is None else options.first
        work = Work(options.state, commit, first=first, seeds=seeds, steps=steps)
    if work.done:
        print(f"going on after {work.count} seeds from {work.first}, commit {commit}", flush=True)
    return run(work, options.jobs, keep_going=options.keep_going)


def cores() -> int:
    """Return how many processes can run at once."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
