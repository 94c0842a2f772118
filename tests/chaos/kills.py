"""Actors killed at random moments while slots and limits change hands, with real processes.

    python -m tests.chaos.kills [--kills 100] [--seed 1]

Tasks hold slots, release and reacquire them, and take limits at scheduling and from inside, of the
broker and of the host. What they do they write themselves, a line each, and that alone is believed:
what is held by more at a time than there is, is a failure, and so is a task without its one outcome
or a slot or a limit that nobody gives back. Whoever was killed holds nothing from then on.
"""

import argparse
import json
import os
import random
import signal
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

from sdk import Client, PoisonTask, TaskFuture, current_task
from tests.support.deployment import Deployment

SLOTS = 2
REPLICAS = 3
LIMITS = {"db": 2, "host:gpu": 1}
IN_FLIGHT = 40
# So many tasks end before the next kill, or nothing but restarts would be seen.
OUTCOMES_A_KILL = 20
# Times a fifth of the defaults, so that a lost actor is given up after a second.
BROKER = ("--heartbeat", "0.2", "--adopt-window", "0.5", "--limit", f"db={LIMITS['db']}")
# Whoever is killed a hundred times should not wait ten seconds for each restart.
HOST = ("-m", "actor", "--restart-max", "0.2")


# --- what the tasks do


def last(duration_s: float) -> None:
    """Be a task that takes so long, or the time until the next kill."""
    Event().wait(duration_s)


def note(path: str, what: str, sign: int) -> None:
    """Append that so much more, or less, of *what* is held by this process from now on."""
    line = json.dumps([time.monotonic(), os.getpid(), what, sign]) + "\n"
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(file, line.encode())
    os.close(file)


def stay(path: str, what: str, duration_s: float) -> None:
    note(path, what, 1)
    last(duration_s)
    note(path, what, -1)


def work(path: str, key: int, duration_s: float) -> int:
    stay(path, "slot", duration_s)
    return key


def release(path: str, key: int, duration_s: float) -> int:
    stay(path, "slot", duration_s)
    current_task().release_slot()
    last(duration_s)
    return key


def come_back(path: str, key: int, duration_s: float) -> int:
    stay(path, "slot", duration_s)
    with current_task().released_slot():
        last(duration_s)
    stay(path, "slot", duration_s)
    return key


def hold_inside(path: str, key: int, duration_s: float, limit: str) -> int:
    with current_task().limit(limit):
        stay(path, limit, duration_s)
    return key


def hold_all_along(path: str, key: int, duration_s: float, limit: str) -> int:
    stay(path, limit, duration_s)
    return key


def hold_up_to_the_release(path: str, key: int, duration_s: float, limit: str) -> int:
    stay(path, limit, duration_s)
    current_task().release_slot()
    last(duration_s)
    return key


# --- the killing


class Kills:
    """One deployment under load, and what became of it."""

    def __init__(self, deployment: Deployment, path: Path, seed: int) -> None:
        self.deployment = deployment
        self.path = str(path)
        self.random = random.Random(seed)
        self.client: Client = deployment.client()
        # When each process was killed, just before.
        self.killed: dict[int, float] = {}
        self.futures: dict[int, TaskFuture] = {}
        self.outcomes: Counter[str] = Counter()

    def submit(self, key: int) -> TaskFuture:
        """Submit one task of a random kind."""
        duration_s = self.random.uniform(0.0, 0.05)
        limit = self.random.choice(list(LIMITS))
        plain: list[Callable[..., Any]] = [work, release, come_back]
        kind = self.random.choice([*plain, hold_inside, hold_all_along, hold_up_to_the_release])
        if kind in plain:
            return self.client.submit(kind, self.path, key, duration_s)
        options = {} if kind is hold_inside else {"limits": {limit: 1}}
        return self.client.options(**options).submit(kind, self.path, key, duration_s, limit)

    def load(self) -> None:
        """Take the outcomes that are there, and keep so many tasks in flight."""
        for key, future in list(self.futures.items()):
            if future.done():
                del self.futures[key]
                try:
                    assert future.result() == key, f"task {key} got the result of another"
                    self.outcomes["result"] += 1
                except PoisonTask:
                    # Killed three times in a row: given up, and said.
                    self.outcomes["poison"] += 1
        while len(self.futures) < IN_FLIGHT:
            key = self.outcomes.total() + len(self.futures)
            while key in self.futures:
                key += 1
            self.futures[key] = self.submit(key)

    def kill(self) -> None:
        """Kill one actor that runs something, and go on with the load for a random while."""

        def busy() -> list[int]:
            self.load()
            if self.outcomes.total() < len(self.killed) * OUTCOMES_A_KILL:
                return []
            actors = self.client.actors()
            return [a["pid"] for a in actors if a["holding"] and a["pid"] not in self.killed]

        pid = self.random.choice(self.deployment.until(busy))
        last(self.random.uniform(0.0, 0.1))  # So that each moment has its chance.
        self.killed[pid] = time.monotonic()
        os.kill(pid, signal.SIGKILL)

    def end(self) -> None:
        """Wait for what is left, and hold everything against what the tasks have written."""
        for key, future in self.futures.items():
            try:
                assert future.result(60.0) == key
                self.outcomes["result"] += 1
            except PoisonTask:
                self.outcomes["poison"] += 1
        names = [f"h/{n}" for n in range(REPLICAS)]

        def is_whole() -> bool:
            actors = self.deployment.actors(self.client, *names)
            return all(
                actors[name]["free"] == SLOTS and not actors[name]["holding"] for name in names
            )

        self.deployment.until(is_whole)
        held = [key for limit in self.limits() for key in limit["keys"] if key["holders"]]
        assert not held, f"limits are held by nobody that runs: {held}"
        self.check_overlaps()

    def limits(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.query("limits")["limits"]
        return found

    def check_overlaps(self) -> None:
        """Count who held what at each moment."""
        entries = sorted(json.loads(line) for line in Path(self.path).read_text().splitlines())
        held: dict[str, Counter[int]] = defaultdict(Counter)
        dead = sorted((at, pid) for pid, at in self.killed.items())
        for at, pid, what, sign in entries:
            while dead and dead[0][0] <= at:
                for holders in held.values():
                    holders.pop(dead[0][1], None)
                dead.pop(0)
            if self.killed.get(pid, at) < at:
                continue  # It went on for the moment between our look at the clock and the signal.
            held[what][pid] += sign
            if what == "slot":
                assert held[what][pid] <= SLOTS, f"more than {SLOTS} slots in process {pid} at {at}"
            else:
                total = held[what].total()
                assert total <= LIMITS[what], f"{total} of {what} at {at}: {held[what]}"


def run(folder: Path, *, kills: int, seed: int) -> Kills:
    """Kill so many actors; raise AssertionError for the first rule that was broken."""
    path = folder / "journal"
    path.touch()
    with Deployment(*BROKER) as deployment:
        deployment.start_broker()
        options = ("--slots", str(SLOTS), "--replicas", str(REPLICAS), "--limit", "gpu=1")
        where = ("--broker", deployment.endpoint, "--name", "h")
        deployment.start("h", *HOST, *where, *options)
        run = Kills(deployment, path, seed)
        deployment.actors(run.client, *(f"h/{n}" for n in range(REPLICAS)))
        for _ in range(kills):
            run.kill()
        run.end()
    return run


def main() -> None:
    """Kill as often as asked, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        done = run(Path(folder), kills=options.kills, seed=options.seed)
    print(
        f"{len(done.killed)} actors killed in {time.monotonic() - began:.0f} s, "
        f"seed {options.seed}: {done.outcomes.total()} tasks, {dict(done.outcomes)}; "
        "slots whole, no limit held, nothing held twice"
    )


if __name__ == "__main__":
    main()
