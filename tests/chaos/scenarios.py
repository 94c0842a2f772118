"""What goes wrong, one function a scenario: it does it once to a cluster that is under load.

The numbers are those of the table of faults that the project measures itself by; what is not here
this machine does not allow, or another test shows (see the table in results.md).
"""

import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import zmq

from sdk import Client, PoisonTask
from tests.chaos import cluster, history
from tests.chaos.cluster import GO, LEASE_S, STOP, Cluster
from tests.chaos.crowd import Crowd
from tests.chaos.proxy import BOTH, Way
from tests.support.deployment import ROOT, environment, wait_until


@dataclass(frozen=True)
class Scenario:
    """One kind of fault."""

    name: str
    what: str
    strike: Callable[[Cluster], object]
    # How often it is aimed at, how often in one cluster, and how often in the short form.
    aim: int = 100
    batch: int = 20
    short: int = 1
    machines: int = 2
    has_journal: bool = False


# --- processes that end


def broker_kill(it: Cluster) -> None:
    """Kill the broker, and start it again a moment later."""
    it.kill("broker")
    it.load.run(it.random.uniform(0.0, 0.2))
    it.start_broker()


def actor_kill(it: Cluster) -> None:
    it.signal_actor(signal.SIGKILL)


def machine_kill(it: Cluster) -> None:
    """Kill a host; its actors end with it."""
    name = it.random.choice(it.machines)
    it.kill(name)
    it.load.run(it.random.uniform(0.0, 2 * LEASE_S))
    it.start_machine(name)


def crash(how: str) -> None:
    """Be a task that takes its process along, or tries to."""
    match how:
        case "exit":
            os._exit(3)
        case "segfault":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "sys.exit":
            sys.exit(3)
        case "memory":
            bytearray(2**50)


ENDS_THE_PROCESS: Final = ("exit", "segfault", "abort", "kill")
RAISES: Final = {"sys.exit": "TaskFailed", "memory": "MemoryError"}


def child_crash(it: Cluster) -> None:
    """Let a task end its process in one way after another: given up after exactly three times."""
    how = it.random.choice((*ENDS_THE_PROCESS, *RAISES))
    future = it.load.client.submit(crash, how)
    it.load.until(future.done, it.story)
    error = future.exception(0)
    if how in ENDS_THE_PROCESS:
        assert isinstance(error, PoisonTask), (how, error)
        assert future.attempt <= 3, f"given up after {future.attempt} attempts"
    else:
        assert type(error).__name__ == RAISES[how], (how, error)


# --- processes that stand still


def actor_freeze(it: Cluster) -> None:
    """Stop an actor for a part of its lease, or for several."""
    pid = it.signal_actor(STOP)
    it.load.run(LEASE_S * it.random.choice((0.5, 1.0, 3.0)))
    os.kill(pid, GO)


def broker_freeze(it: Cluster) -> None:
    """Stop the broker: it must blame nobody for what it did not hear."""
    process = it.processes["broker"]
    lost = it.log("broker").count("actor_lost")
    process.send_signal(STOP)
    it.load.run(it.random.uniform(2.0, 6.0) * LEASE_S)
    process.send_signal(GO)
    it.recover()
    assert it.log("broker").count("actor_lost") == lost, "it blamed others for its own pause"


# --- networks


def partition(it: Cluster) -> None:
    """Cut a machine off, one way or both, for up to eight leases."""
    proxy = it.proxies[it.random.choice(it.machines)]
    ways = it.random.choice((BOTH, (Way.UP,), (Way.DOWN,)))
    lasts_s = LEASE_S * it.random.choice((0.2, 0.5, 1.0, 2.0, 4.0, 8.0))
    before, began = proxy.connections, time.monotonic()
    match it.random.choice(("stall", "swallow", "refuse", "flap", "cut")):
        case "stall":
            proxy.stall(*ways)
        case "swallow":
            proxy.swallow(*ways)
        case "refuse":
            proxy.refuse()
        case "flap":
            for _ in range(3):
                proxy.reset()
                it.load.run(min(lasts_s, LEASE_S) / 3)
        case "cut":
            proxy.cut_after(it.random.randrange(1, 2_000), *ways)
    it.load.run(lasts_s)
    proxy.heal()
    # Two actors and their host, who connect again after 50 to 500 ms.
    most = 3 * 20 * (time.monotonic() - began + 1.0)
    assert proxy.connections - before <= most, f"{proxy.connections - before} connections"


# --- clients

CLIENT = """
import sys
from pathlib import Path
from tests.chaos.cluster import Load
from sdk import Client
endpoint, path, name, seed = sys.argv[1:]
load = Load(Client(endpoint), Path(path), int(seed), name)
while True:
    load.run(1.0)
"""


def client_kill(it: Cluster) -> None:
    """Kill a program in the middle of its calls; nothing of it stays behind."""
    name = f"victim{len(it.killed_clients)}"
    it.killed_clients.add(name)
    seed = str(it.random.randrange(2**30))
    process = subprocess.Popen(
        [sys.executable, "-c", CLIENT, it.endpoint, str(it.history), name, seed],
        env=environment(),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def has_begun() -> bool:
        entries = history.read(it.history)
        return sum(e.get("client") == name for e in entries) > it.load.random.randrange(5, 40)

    try:
        it.load.until(has_begun, it.story)
    finally:
        process.kill()
        process.wait()


def slow_client(it: Cluster) -> None:
    """Let a client hear nothing while a hundred results of 100 kB wait for it."""
    proxy = cluster.Proxy(("127.0.0.1", it.port))
    client = Client(proxy.endpoint)
    try:
        client.submit(bytes, 1).result(cluster.TIMEOUT_S)
        before = resident_bytes(it)
        proxy.stall(Way.DOWN)
        futures = [client.submit(bytes, 100_000) for _ in range(100)]
        it.load.run(2 * LEASE_S)
        grown = resident_bytes(it) - before
        assert grown < 64 * 2**20, f"the broker grew by {grown} octets"
        proxy.heal()
        for future in futures:
            it.load.until(future.done, it.story)
            assert len(future.result(0)) == 100_000
    finally:
        proxy.heal()
        client.close()
        proxy.close()


def resident_bytes(it: Cluster) -> int:
    """Return how much memory the broker has."""
    pid = it.processes["broker"].pid
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


# --- strangers


def malformed_frames(it: Cluster) -> None:
    """Send a thousand frames that are none, or nearly some."""
    context = zmq.Context()
    stranger = context.socket(zmq.DEALER)
    stranger.linger = 0
    stranger.connect(it.endpoint)
    frame = b"\x96\x01\x00\x01\x00\x00\x91\x96\xacclient-hello\x07\xa1x\xa43.11\x90"
    for _ in range(1_000):
        octets = bytearray(frame)
        for _ in range(it.random.randrange(1, 6)):
            octets[it.random.randrange(len(octets))] = it.random.randrange(256)
        stranger.send(bytes(octets[: it.random.randrange(1, len(octets) + 1)]))
    it.recover()
    stranger.close()
    context.term()


def idle_connections(it: Cluster) -> None:
    """Connect two hundred times and say nothing, or only the beginning of a handshake."""
    idle = [socket.create_connection(("127.0.0.1", it.port)) for _ in range(200)]
    for one in idle[::2]:
        one.sendall(b"\xff\x00\x00\x00")
    it.recover()
    for one in idle:
        one.close()


def second_broker(it: Cluster) -> None:
    """Start another broker on the same journal, which must refuse."""
    began = time.monotonic()
    options = ("--bind", f"ipc://{it.folder}/second", "--data-dir", str(it.folder / "data"))
    process = subprocess.run(
        [sys.executable, "-m", "broker", *options],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        timeout=20.0,
        check=False,
    )
    assert process.returncode == 2, process.stderr
    it.recovered_s.append(time.monotonic() - began)


# --- leaving on purpose


def drain(it: Cluster) -> None:
    """Drain one machine under load and start it again: nothing may run twice for it."""
    before = again(it)
    name = it.random.choice(it.machines)
    it.processes[name].send_signal(signal.SIGTERM)
    it.load.until(lambda: it.processes[name].poll() is not None, it.story)
    del it.processes[name]
    it.start_machine(name)
    it.recover()
    assert again(it) == before, "a drain had tasks run again"


def again(it: Cluster) -> int:
    """Count the runs that were not the first of their call."""
    began = [e["key"] for e in history.read(it.history) if e["what"] == history.BEGAN]
    return len(began) - len(set(began))


# --- many at once


def restart_storm(it: Cluster) -> None:
    """Restart the broker with a hundred actors connected: all must be back within ten seconds."""
    with Crowd(it.endpoint, 100) as crowd:
        wait_until(lambda: crowd.is_welcome, cluster.TIMEOUT_S, it.story)
        it.restart_broker()
        began = time.monotonic()
        wait_until(lambda: crowd.is_welcome, 10.0, it.story)
        it.recovered_s.append(time.monotonic() - began)


SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario("L1", "broker killed under load", broker_kill, 100, short=3),
        Scenario("L2", "actor killed", actor_kill, 1_000, 50, short=5),
        Scenario("L2-machine", "host killed, its actors with it", machine_kill, 100, 10),
        Scenario("L3", "a task ends its process, each kind", child_crash, 200, short=2),
        Scenario("L4", "actor stopped for 0.5 to 3 leases", actor_freeze, 200),
        Scenario("L5", "broker stopped for 2 to 6 leases", broker_freeze, 50, 10),
        Scenario("L6", "machine cut off for 0.2 to 8 leases", partition, 300, short=2),
        Scenario("L7", "client killed", client_kill, 500, 20),
        Scenario("L8", "client that does not read, 10 MB", slow_client, 10, 5),
        Scenario("L11", "1,000 malformed frames", malformed_frames, 20, 10),
        Scenario("L12", "200 idle connections", idle_connections, 20, 10),
        Scenario("L13", "restart with 100 actors more", restart_storm, 20, 5, short=0),
        Scenario("L17", "machine drained under load", drain, 200, 10),
        Scenario("L18", "second broker on one journal", second_broker, 20, 10, has_journal=True),
    )
}


def run(scenario: Scenario, reps: int, seed: int) -> dict[str, Any]:
    """Strike so often in one new cluster; return what came of it, raise for a broken promise."""
    began = time.monotonic()
    with Cluster(seed, machines=scenario.machines, has_journal=scenario.has_journal) as it:
        it.recover()
        it.recovered_s.clear()
        for _ in range(reps):
            it.load.run(it.random.uniform(0.02, 0.2))
            scenario.strike(it)
            it.recover()
        it.check()
        found = history.check(it.history, killed_clients=frozenset(it.killed_clients))
        return {
            "reps": reps,
            "seed": seed,
            "seconds": round(time.monotonic() - began, 1),
            "recovered_s": [round(one, 3) for one in it.recovered_s],
            **found,
        }
