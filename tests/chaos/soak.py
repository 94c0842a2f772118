"""Copies of an environment under a load that comes and goes, while their processes are killed.

    python -m tests.chaos.soak [--minutes 5] [--seed N]

Two machines may have two actors each, and the policy wants one to three copies. Actors and one of
the machines are killed at random, the broker once, after a third of the time. What must hold: each
call has its result, there are never more copies than three, in the end it is one copy and no
process more than the broker knows; and from the broker's second start to the end the memory, the
descriptors and the threads of the broker, of the other machine's host and of the client are flat.
"""

import argparse
import contextlib
import os
import random
import signal
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from sdk import Client, Environment, ReusePolicy, TaskFuture, gather
from tests.chaos.cluster import HOST
from tests.support.deployment import Deployment

BROKER = ("--heartbeat", "0.2", "--adopt-window", "0.5")
COPIES = (1, 3)
KILL_EVERY_S = (0.5, 3.0)
WAVE_S = 4.0
AHEAD = 12
LOOK_EVERY_S = 0.25
TIMEOUT_S = 60.0
# Of the looks since the broker's second start: so many settle, and so many are compared.
SETTLING, COMPARED = 0.3, 0.2
MEMORY_MORE_MB, DESCRIPTORS_MORE, THREADS_MORE = 8.0, 4, 0


class Model(Environment):
    """Takes a moment to load, and a moment for each call."""

    reuse = ReusePolicy(replicas=COPIES, scaledown_ttl=1.0, idle_ttl=600.0)

    def enter(self):
        Event().wait(0.1)

    def double(self, number):
        Event().wait(0.02)
        return 2 * number


@dataclass
class Story:
    """What was done and seen."""

    calls: int = 0
    kills: dict[str, int] = field(default_factory=dict)
    copies_most: int = 0
    copies_last: int = 0
    # Who -> looks at its memory in MiB, descriptors and threads.
    looks: dict[str, list[tuple[float, int, int]]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def grown(self) -> list[str]:
        """Return one line for each process: what it had when it had settled, and in the end."""
        lines = []
        for who, looks in self.looks.items():
            settled = looks[int(len(looks) * SETTLING) :]
            some = max(1, int(len(looks) * COMPARED))
            parts = []
            bounds = (MEMORY_MORE_MB, DESCRIPTORS_MORE, THREADS_MORE)
            for what, place, more in zip(("MiB", "descriptors", "threads"), range(3), bounds):  # noqa: B905
                was = statistics.median(look[place] for look in settled[:some])
                now = statistics.median(look[place] for look in settled[-some:])
                parts.append(f"{was:.0f} to {now:.0f} {what}")
                if now > was + more:
                    self.wrong.append(f"{who} grew from {was:.0f} to {now:.0f} {what}")
            lines.append(f"{who}: {', '.join(parts)}")
        return lines


def look_at(pid: int) -> tuple[float, int, int]:
    """Return the memory in MiB, the descriptors and the threads of a process."""
    proc = Path(f"/proc/{pid}")
    pages = int((proc / "statm").read_text().split()[1])
    counts = [sum(1 for _ in (proc / name).iterdir()) for name in ("fd", "task")]
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, counts[0], counts[1]


class Soak:
    """The cluster, the load and the kills, in one thread."""

    def __init__(self, world: Deployment, seconds: float, seed: int) -> None:
        self.world = world
        self.random = random.Random(seed)
        self.story = Story()
        self.seconds = seconds
        world.start_broker()
        for name in ("m0", "m1"):
            self.start_machine(name)
        self.client: Client = world.client()
        self.futures: list[tuple[int, TaskFuture]] = []
        assert self.client.submit(Model.double, 0).result(TIMEOUT_S) == 0

    def start_machine(self, name: str) -> None:
        options = ("--broker", self.world.endpoint, "--name", name, "--replicas", "0:2")
        self.world.start(name, *HOST, *options)

    def run(self) -> Story:
        """Load and kill for as long as wanted, then see what is left."""
        began = now = time.monotonic()
        kill_at, look_at_s, is_restarted = now + 1.0, now, False
        while now < began + self.seconds:
            if int((now - began) / WAVE_S) % 3 < 2:
                self.load()
            if now >= kill_at:
                self.kill_one()
                kill_at = now + self.random.uniform(*KILL_EVERY_S)
            if not is_restarted and now >= began + self.seconds / 3:
                self.world.restart_broker()
                self.count("broker")
                is_restarted = True
            if now >= look_at_s:
                self.look(is_counted=is_restarted)
                look_at_s = now + LOOK_EVERY_S
            Event().wait(0.005)
            self.settle(is_last=False)
            now = time.monotonic()
        self.settle(is_last=True)
        # Whoever was killed while nobody called is there again with the next call, not before.
        self.load()
        self.settle(is_last=True)
        self.rest()
        return self.story

    def load(self) -> None:
        """Have some calls wait or run."""
        while len(self.futures) < AHEAD:
            number = self.story.calls = self.story.calls + 1
            self.futures.append((number, self.client.submit(Model.double, number)))

    def settle(self, *, is_last: bool) -> None:
        """Look at the results that are there."""
        if is_last:
            gather(
                [future for _, future in self.futures], return_exceptions=True, timeout=TIMEOUT_S
            )
        done = [one for one in self.futures if one[1].done()]
        self.futures = [one for one in self.futures if not one[1].done()]
        for number, future in done:
            error = future.exception()
            if error is not None or future.result() != 2 * number:
                self.story.wrong.append(f"call {number} ended with {error!r}")

    def kill_one(self) -> None:
        """Kill an actor, or now and then the second machine's host, which begins again."""
        if self.random.random() < 0.2:
            self.world.kill("m1")
            self.start_machine("m1")
            self.count("host")
            return
        pids = [actor["pid"] for actor in self.ask("actors") if actor["state"] == "open"]
        if pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.random.choice(pids), signal.SIGKILL)
                self.count("actor")

    def count(self, what: str) -> None:
        self.story.kills[what] = self.story.kills.get(what, 0) + 1

    def ask(self, what: str) -> list[dict[str, Any]]:
        return self.client.query(what, timeout=TIMEOUT_S)[what]

    def look(self, *, is_counted: bool) -> None:
        """Count copies, and what the processes have that live until the end."""
        story = self.story
        story.copies_last = sum(len(one["actors"]) for one in self.ask("environments"))
        story.copies_most = max(story.copies_most, story.copies_last)
        if story.copies_last > COPIES[1]:
            story.wrong.append(f"{story.copies_last} copies")
        if is_counted:
            processes = {name: self.world.processes[name].pid for name in ("broker", "m0")}
            for who, pid in (processes | {"client": os.getpid()}).items():
                story.looks.setdefault(who, []).append(look_at(pid))

    def rest(self) -> None:
        """Wait until there is no more than the policy wants, and no process that nobody knows."""

        def is_at_rest() -> bool:
            self.look(is_counted=False)
            known = {actor["pid"] for actor in self.ask("actors")}
            return self.story.copies_last == COPIES[0] and known == self.children()

        self.world.until(is_at_rest, TIMEOUT_S)

    def children(self) -> set[int]:
        """Return the actor processes of both machines."""
        hosts = {self.world.processes[name].pid for name in ("m0", "m1")}
        found = set()
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                state, parent, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
                is_actor = b"actor.child" in (entry / "cmdline").read_bytes()
                if int(parent) in hosts and state != "Z" and is_actor:
                    found.add(int(entry.name))
        return found


def soak(seconds: float, seed: int) -> Story:
    """Run it, and say in *wrong* what did not hold."""
    with Deployment(*BROKER) as world:
        return Soak(world, seconds, seed).run()


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill what has copies, and see what is left.")
    parser.add_argument("--minutes", type=float, default=5.0, metavar="N", help="default: 5")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    options = parser.parse_args()
    story = soak(60.0 * options.minutes, options.seed)
    killed = ", ".join(f"{count} of {what}" for what, count in sorted(story.kills.items()))
    print(f"{story.calls} calls; kills: {killed}")
    print(f"copies: {story.copies_most} at most, {story.copies_last} in the end")
    print(*story.grown(), sep="\n")
    for line in story.wrong:
        print(f"wrong: {line}")
    return int(bool(story.wrong))


if __name__ == "__main__":
    sys.exit(main())
