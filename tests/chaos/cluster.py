"""Small clusters of real processes under load, with a proxy before each machine.

Heartbeats are a tenth of the defaults, so a lease lasts for half a second.
"""

import os
import random
import resource
import signal
import socket
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tests.chaos import costs, history
from tests.chaos.load import TIMEOUT_S, Load
from tests.chaos.proxy import Proxy
from tests.chaos.reading import Reader
from tests.support.deployment import Deployment

HEARTBEAT_S = 0.1
LEASE_S = 5 * HEARTBEAT_S
SLOTS = 2
REPLICAS = 2
BROKER = ("--heartbeat", str(HEARTBEAT_S), "--adopt-window", "0.3", "--limit", "db=2")
# Whoever is killed often should not wait ten seconds for each restart.
HOST = ("-m", "actor", "--restart-max", "0.2")
Number = TypeVar("Number", int, float)
STOP, GO = signal.SIGSTOP, signal.SIGCONT


class Cluster(Deployment):
    """A broker, and machines with two actors each behind a proxy."""

    def __init__(
        self,
        seed: int,
        *,
        machines: int = 2,
        has_journal: bool = False,
        replicas: str = str(REPLICAS),
        make_load: Callable[["Cluster"], Load] | None = None,
    ) -> None:
        super().__init__(*BROKER)
        self.random = random.Random(seed)
        self.seed = seed
        self.has_journal = has_journal
        self.port = free_port()
        self.history = self.folder / "history"
        self.reader = Reader(self.history)
        self.data_dir = self.folder / "data"
        self.data_dir.mkdir()
        self.proxies: dict[str, Proxy] = {}
        self.machines = [f"m{n}" for n in range(machines)]
        # How many actors each has: the last of what is given is for all that come after it.
        given = replicas.split(",")
        self.replicas = {
            name: given[min(place, len(given) - 1)] for place, name in enumerate(self.machines)
        }
        self.load: Load
        self.make_load = make_load or plain_load
        # What the broker and the hosts are started with.
        self.broker_program: Sequence[str] = ("-m", "broker")
        self.broker_prefix: Sequence[str] = ()
        self.host_program: Sequence[str] = HOST
        # Where the journal is when that can be filled.
        self.disk: Any = None
        # How often it was struck before, and how often a task ended its process.
        self.strikes = 0
        self.crashes = 0
        # What all processes find in their environment.
        self.variables: dict[str, str] = {}
        # Where each access to the journal is noted, and since when which durable tasks wait there.
        self.trace = self.folder / "trace"
        self.held: dict[str, float] = {}
        # Octets, descriptors and threads of the broker, as they were looked at.
        self.looks: list[tuple[int, int, int]] = []
        # Bursts so far, and the seconds until the counts were those of the policy again.
        self.bursts = 0
        self.converged_s: list[float] = []
        # Seconds from the end of each fault to the first outcome of a call made after it.
        self.recovered_s: list[float] = []
        self.killed_clients: set[str] = set()
        # Whether little of everything is enough: the short form.
        self.is_short = False
        # What was measured beside that, by its name; and when the broker was killed.
        self.measured: defaultdict[str, list[float]] = defaultdict(list)
        self.struck_at: list[float] = []
        # Processes that a fault has ended: what ran in them, and nothing else, runs again.
        self.ended: dict[int, float] = {}
        # Since when the scenario lasts, and how many leases had ended by then.
        self.since = 0.0
        self.leases_before = 0

    def __enter__(self):
        try:
            self.start_all()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start_all(self) -> None:
        """Start everything, and wait until it is there."""
        self.start_broker()
        for name in self.machines:
            self.proxies[name] = Proxy(("127.0.0.1", self.port))
            self.start_machine(name)
        self.load = self.make_load(self)
        self.until(self.are_all_there)

    def __exit__(self, *details):
        for proxy in self.proxies.values():
            proxy.heal()
        if self.disk is not None:
            self.disk.empty()
        super().__exit__(*details)
        for proxy in self.proxies.values():
            proxy.close()
        if self.disk is not None:
            self.disk.close()

    def until(self, question: Callable[[], Any], timeout_s: float = TIMEOUT_S) -> Any:
        """Wait for something, and say what the processes wrote when it does not come."""
        return super().until(question, timeout_s)

    def start_broker(self) -> None:
        """Start the broker, for the first time or again, with or without a journal."""
        self.starts += 1
        journal = ("--data-dir", str(self.data_dir)) if self.has_journal else ("--no-journal",)
        binds = ("--bind", self.endpoint, "--bind", f"tcp://127.0.0.1:{self.port}")
        process = self.start(
            "broker",
            *self.broker_program,
            *binds,
            *journal,
            *self.broker_options,
            prefix=self.broker_prefix,
            **self.variables,
        )
        self.until(lambda: self.log("broker").count("broker_ready") == self.starts)
        assert process.poll() is None, self.story()

    def start_machine(self, name: str) -> None:
        """Start a host; its actors reach the broker through its proxy."""
        options = ("--slots", str(SLOTS), "--replicas", self.replicas[name])
        where = ("--broker", self.proxies[name].endpoint, "--name", name)
        self.start(name, *self.host_program, *where, *options, **self.variables)

    def fewest(self, name: str) -> int:
        """Return how many actors a machine always has."""
        return int(self.replicas[name].partition(":")[0])

    def are_all_there(self) -> bool:
        """Tell whether each machine has as many actors as it always has."""
        return all(len(there) >= self.fewest(name) for name, there in self.open_actors().items())

    def have_all(self) -> None:
        """Go on until what an earlier fault had ended is there again: one fault at a time."""
        self.load.until(self.are_all_there, self.story)

    def open_actors(self) -> dict[str, list[dict[str, Any]]]:
        """Return the actors that can be given tasks, by their machine."""
        known = [actor for actor in self.load.client.actors() if actor["state"] == "open"]
        return {
            machine: [one for one in known if one["name"].startswith(f"{machine}/")]
            for machine in self.machines
        }

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

    def leases_ended(self) -> int:
        """Count the leases that ended, as an actor said nothing for so long."""
        return self.log("broker").count("was silent for")

    def amount(self, whole: Number, short: Number) -> Number:
        """Return how much of something a fault takes."""
        return short if self.is_short else whole

    def settle(self) -> list[history.Entry]:
        """Wait for the outcomes of all that is in flight now; return what was noted up to then."""
        keys = set(self.load.futures)
        self.load.until(lambda: keys.isdisjoint(self.load.futures), self.story)
        return costs.since(self.reader.entries(), self.since)

    def withstand(self, fault: Callable[["Cluster"], object]) -> None:
        """Let something go wrong, and go on until a call made after it has its outcome.

        How long that takes is noted, unless the fault has noted what took its time itself.
        """
        noted = len(self.recovered_s)
        fault(self)
        took_s = self.serve()
        if len(self.recovered_s) == noted:
            self.recovered_s.append(took_s)

    def recover(self) -> None:
        """Go on until a call that is made from now on has its outcome, and note how long it took"""
        self.recovered_s.append(self.serve())

    def serve(self) -> float:
        """Go on until a call that is made from now on has its outcome; return the seconds."""
        mark = self.load.number
        return self.load.until(lambda: self.load.newest >= mark, self.story)

    def check(self) -> None:
        """Wait for the end of all, and hold everything against what was written."""
        self.load.drain(self.story)
        client = self.load.client

        def is_whole() -> bool:
            return self.are_all_there() and all(
                one["free"] == SLOTS and not one["holding"]
                for there in self.open_actors().values()
                for one in there
            )

        self.until(is_whole)
        limits: list[dict[str, Any]] = client.query("limits")["limits"]
        held = [key for limit in limits for key in limit["keys"] if key["holders"]]
        if held:
            raise history.Broken(f"limits are held by nobody that runs: {held}")


def plain_load(it: Cluster) -> Load:
    """Return the load of most scenarios."""
    return Load(it.client(), it.history, it.seed, is_durable=it.has_journal)


def is_process(pid: int) -> bool:
    """Tell whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def resident_bytes(pid: int) -> int:
    """Return how much memory a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def descriptors(pid: int) -> int:
    """Return how many files a process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port
