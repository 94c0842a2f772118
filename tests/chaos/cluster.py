"""Small clusters of real processes under load, with a proxy before each machine.

Heartbeats are a tenth of the defaults, so a lease lasts for half a second.
"""

import os
import random
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import sdk
from sdk import Client, TaskFuture, current_task
from tests.chaos import history
from tests.chaos.proxy import Proxy
from tests.support.deployment import Deployment, wait_until

HEARTBEAT_S = 0.1
LEASE_S = 5 * HEARTBEAT_S
SLOTS = 2
REPLICAS = 2
IN_FLIGHT = 16
LOOK_S = 0.005
TIMEOUT_S = 60.0
BROKER = ("--heartbeat", str(HEARTBEAT_S), "--adopt-window", "0.3", "--limit", "db=2")
# Whoever is killed often should not wait ten seconds for each restart.
HOST = """
import sys
from functools import partial
import actor.cli
actor.cli.HostSettings = partial(actor.cli.HostSettings, restart_max_s=0.2)
sys.exit(actor.cli.main())
"""


# --- what the tasks do


def last(duration_s: float) -> None:
    """Be a task that takes so long."""
    Event().wait(duration_s)


def work(path: str, key: str, duration_s: float, how: str) -> list[int]:
    """Note the beginning and the end; return the token, which no other run has."""
    task = current_task()
    token = list(task.token)
    history.note(path, what=history.BEGAN, key=key, token=token)
    last(duration_s)
    match how:
        case "release":
            task.release_slot()
            last(duration_s)
        case "reacquire":
            with task.released_slot():
                last(duration_s)
        case "limit":
            with task.limit("db"):
                last(duration_s)
    history.note(path, what=history.ENDED, key=key, token=token)
    return token


class Load:
    """One client's calls: always so many in flight, each noted in its history."""

    def __init__(self, client: Client, path: Path, seed: int, name: str = "main") -> None:
        self.client = client
        self.path = str(path)
        self.name = name
        self.random = random.Random(seed)
        self.futures: dict[str, TaskFuture] = {}
        self.number = 0
        self.ended = 0
        # Numbers of calls with an outcome, above all that are waited for.
        self.newest = -1
        # So many are in flight; payloads of so many octets.
        self.in_flight = IN_FLIGHT

    def pump(self) -> None:
        """Take the outcomes that are there, and submit as many."""
        for key, future in list(self.futures.items()):
            if future.done():
                del self.futures[key]
                self._settle(key, future)
        while len(self.futures) < self.in_flight:
            self.submit()

    def submit(self) -> None:
        """Submit a call of a random kind."""
        key = f"{self.name}-{self.number}"
        self.number += 1
        how = self.random.choice(("", "", "", "release", "reacquire", "limit"))
        once = self.random.random() < 0.1
        limits = {"db": 1} if self.random.random() < 0.1 and how != "limit" else {}
        options = self.client.options(at_most_once=once, limits=limits)
        history.note(self.path, what=history.CALLED, key=key, client=self.name, once=once)
        duration_s = self.random.choice((0.0, 0.002, 0.02, 0.1))
        self.futures[key] = options.submit(work, self.path, key, duration_s, how)

    def _settle(self, key: str, future: TaskFuture) -> None:
        try:
            token, kind = future.result(0), "result"
        except sdk.WarmslotError as error:
            token, kind = [], type(error).__name__
        self.ended += 1
        self.newest = max(self.newest, int(key.rpartition("-")[2]))
        history.note(self.path, what=history.OUTCOME, key=key, kind=kind, token=token)

    def run(self, seconds: float) -> None:
        """Go on for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.pump()
            last(LOOK_S)

    def until(self, question: Callable[[], Any], story: Callable[[], str]) -> float:
        """Go on until *question* is true; return how many seconds that took."""
        began = time.monotonic()

        def look() -> Any:
            self.pump()
            return question()

        wait_until(look, TIMEOUT_S, story)
        return time.monotonic() - began

    def drain(self, story: Callable[[], str]) -> None:
        """Take the outcomes of all that is in flight, and submit no more."""
        self.in_flight = 0

        def is_empty() -> bool:
            self.pump()
            return not self.futures

        wait_until(is_empty, TIMEOUT_S, story)


class Cluster(Deployment):
    """A broker, and machines with two actors each behind a proxy."""

    def __init__(self, seed: int, *, machines: int = 2, has_journal: bool = False) -> None:
        super().__init__(*BROKER)
        self.random = random.Random(seed)
        self.seed = seed
        self.has_journal = has_journal
        self.port = free_port()
        self.history = self.folder / "history"
        self.proxies: dict[str, Proxy] = {}
        self.machines = [f"m{n}" for n in range(machines)]
        self.load: Load
        # Seconds from the end of each fault to the first outcome of a call made after it.
        self.recovered_s: list[float] = []
        self.killed_clients: set[str] = set()

    def __enter__(self):
        self.start_broker()
        for name in self.machines:
            self.proxies[name] = Proxy(("127.0.0.1", self.port))
            self.start_machine(name)
        self.load = Load(self.client(), self.history, self.seed)
        self.actors(self.load.client, *self.names())
        return self

    def __exit__(self, *details):
        for proxy in self.proxies.values():
            proxy.heal()
        super().__exit__(*details)
        for proxy in self.proxies.values():
            proxy.close()

    def start_broker(self) -> None:
        """Start the broker, for the first time or again, with or without a journal."""
        self.starts += 1
        journal = (
            ("--data-dir", str(self.folder / "data")) if self.has_journal else ("--no-journal",)
        )
        binds = ("--bind", self.endpoint, "--bind", f"tcp://127.0.0.1:{self.port}")
        process = self.start("broker", "-m", "broker", *binds, *journal, *self.broker_options)
        self.until(lambda: self.log("broker").count("broker_ready") == self.starts)
        assert process.poll() is None, self.story()

    def start_machine(self, name: str) -> None:
        """Start a host; its actors reach the broker through its proxy."""
        options = ("--slots", str(SLOTS), "--replicas", str(REPLICAS))
        where = ("--broker", self.proxies[name].endpoint, "--name", name)
        self.start(name, "-c", HOST, *where, *options)

    def names(self) -> list[str]:
        """Return the names of all actors."""
        return [f"{machine}/{n}" for machine in self.machines for n in range(REPLICAS)]

    def pids(self) -> list[int]:
        """Return the process of each actor that the broker knows."""
        return [actor["pid"] for actor in self.load.client.actors()]

    def signal_actor(self, number: int) -> int:
        """Send a signal to the process of one actor, once one is there; return its pid."""
        pids: list[int] = []

        def is_known() -> bool:
            pids[:] = [pid for pid in self.pids() if is_process(pid)]
            return bool(pids)

        self.load.until(is_known, self.story)
        pid = self.random.choice(pids)
        os.kill(pid, number)
        return pid

    def recover(self) -> None:
        """Go on until a call that is made from now on has its outcome."""
        mark = self.load.number
        self.recovered_s.append(self.load.until(lambda: self.load.newest >= mark, self.story))

    def check(self) -> None:
        """Wait for the end of all, and hold everything against what was written."""
        self.load.drain(self.story)
        client = self.load.client

        def is_whole() -> bool:
            known = self.actors(client, *self.names())
            return all(
                known[name]["free"] == SLOTS and not known[name]["holding"] for name in self.names()
            )

        self.until(is_whole)
        limits: list[dict[str, Any]] = client.query("limits")["limits"]
        held = [key for limit in limits for key in limit["keys"] if key["holders"]]
        if held:
            raise history.Broken(f"limits are held by nobody that runs: {held}")


def is_process(pid: int) -> bool:
    """Tell whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


STOP, GO = signal.SIGSTOP, signal.SIGCONT
