"""What goes wrong with processes and networks: a function a fault, which happens once.

Each is done to a cluster under load. The numbers are those of the table of faults by which the
project measures itself; results.md says what this machine does not allow.
"""

import ctypes
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Final

import zmq

from sdk import ActorLost, Client, PoisonTask
from tests.chaos import history
from tests.chaos.cluster import GO, LEASE_S, STOP, TIMEOUT_S, Cluster, descriptors, resident_bytes
from tests.chaos.crowd import Crowd
from tests.chaos.proxy import BOTH, Proxy, Way
from tests.support.deployment import ROOT, environment, wait_until

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


def crash(how: str, path: str) -> None:
    """Be a task that notes its start and takes its process along, or tries to."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, b".")
    os.close(file)
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
CRASHES: Final = (*ENDS_THE_PROCESS, *RAISES)
# A task that ends its process does so three times, one that raises does it once: in so many strikes
# each kind happens three times.
CYCLE: Final = (*CRASHES, *RAISES, *RAISES)
# Of what happened to a task so many lines are kept.
HISTORY_MAX: Final = 10


def child_crash(it: Cluster) -> None:
    """Let a task end its process, each time in another way: given up after exactly three times.

    Those in which others ran as well count for nobody, up to ten.
    """
    how = CYCLE[it.strikes % len(CYCLE)]
    path = it.folder / f"crash{it.crashes}"
    it.crashes += 1
    future = it.load.client.submit(crash, how, str(path))
    it.load.until(future.done, it.story)
    starts = len(path.read_bytes()) if path.exists() else 0
    check_crashes(how, future.exception(0), future.history, starts)


def check_crashes(how: str, error: BaseException | None, told: Sequence[str], starts: int) -> None:
    """Hold how a task ended against its history and against how often it has begun.

    A report that comes later than the lease ends is a loss, and those are counted apart.
    """
    died = sum("exit status" in line or "signal" in line for line in told)
    shared = sum("beside others" in line for line in told)
    alone, lost = died - shared, len(told) - died
    is_cut = len(told) == HISTORY_MAX
    case = (how, error, told, starts)
    if how in RAISES:
        assert type(error).__name__ == RAISES[how], case
        assert died == 0, case
        assert 1 <= starts <= 1 + lost, case
        return
    assert is_cut or died <= starts <= died + lost, case
    assert alone <= 3, case
    reason = re.search(r"given up after (\d+ (?:crashes beside|crashes|losses))", str(error))
    match (type(error), reason and reason[1]):
        case (kind, "3 crashes") if kind is PoisonTask:
            assert alone == 3 or is_cut, case
        case (kind, "5 losses") if kind is PoisonTask:
            assert lost == 5 or is_cut, case
        case (kind, "10 crashes beside") if kind is ActorLost:
            assert shared == HISTORY_MAX or is_cut, case
        case _:
            raise AssertionError(case)


# --- processes that stand still


def actor_freeze(it: Cluster) -> None:
    """Stop an actor for a part of its lease, or for several."""
    pid = it.signal_actor(STOP)
    it.load.run(LEASE_S * it.random.choice((0.5, 1.0, 3.0, 10.0)))
    os.kill(pid, GO)


def broker_freeze(it: Cluster) -> None:
    """Stop the broker: it must blame nobody for what it did not hear.

    Somebody who got no turn himself may be lost at the same moment, so it has three chances.
    """
    process = it.processes["broker"]
    for _ in range(3):
        lost = it.log("broker").count("actor_lost")
        process.send_signal(STOP)
        it.load.run(it.random.uniform(2.0, 6.0) * LEASE_S)
        process.send_signal(GO)
        it.recover()
        if it.log("broker").count("actor_lost") == lost:
            return
    raise history.Broken("it blamed others for its own pause")


# --- networks


def partition(it: Cluster) -> None:
    """Cut a machine off, one way or both, for up to 24 leases."""
    proxy = it.proxies[it.random.choice(it.machines)]
    ways = it.random.choice((BOTH, (Way.UP,), (Way.DOWN,)))
    lasts_s = LEASE_S * it.random.choice((0.2, 0.5, 1.0, 1.0, 2.0, 2.0, 4.0, 8.0, 24.0))
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
from tests.chaos.load import Load
from sdk import Client
endpoint, path, name, seed, is_durable = sys.argv[1:]
load = Load(Client(endpoint), Path(path), int(seed), name, is_durable=is_durable == "durable")
while True:
    load.run(1.0)
"""


def client_kill(it: Cluster) -> str:
    """Kill a program in the middle of its calls, and return its name; nothing stays behind."""
    name = f"victim{len(it.killed_clients)}"
    it.killed_clients.add(name)
    seed = str(it.random.randrange(2**30))
    is_durable = "durable" if it.has_journal else ""
    process = subprocess.Popen(
        [sys.executable, "-c", CLIENT, it.endpoint, str(it.history), name, seed, is_durable],
        env=environment(),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    enough = it.random.randrange(5, 40)
    try:
        it.load.until(lambda: len(calls_of(it, name)) > enough, it.story)
    finally:
        process.kill()
        process.wait()
    return name


def calls_of(it: Cluster, name: str) -> list[history.Entry]:
    """Return what a client noted of the calls that it made."""
    entries = history.read(it.history)
    return [e for e in entries if e["what"] == history.CALLED and e["client"] == name]


# Results of 100 kB: far more than the broker may keep for a client that does not take them.
SLOW_RESULTS: Final = 600
WINDOW_BYTES: Final = 16 * 2**20
GROWN_BYTES_MAX: Final = 40 * 2**20
# The load's own calls are among those that wait.
SETTLED: Final = 20


def with_small_window(it: Cluster) -> None:
    """Let the broker keep few octets of results for a client that has not taken them."""
    it.broker_options = (*it.broker_options, "--window-bytes", str(WINDOW_BYTES))


def slow_client(it: Cluster) -> None:
    """Let a client hear nothing while it has more results than the broker keeps for it."""
    proxy = Proxy(("127.0.0.1", it.port))
    client = Client(proxy.endpoint)
    pid = it.processes["broker"].pid
    try:
        client.submit(bytes, 1).result(TIMEOUT_S)
        before = resident_bytes(pid)
        proxy.stall(Way.DOWN)
        futures = [client.submit(bytes, 100_000) for _ in range(SLOW_RESULTS)]
        waiting = [0, SLOW_RESULTS]
        while waiting[-2] - waiting[-1] not in range(-SETTLED, SETTLED):
            # Until no more of its calls are begun.
            it.load.run(2 * LEASE_S)
            waiting.append(it.load.client.query("status")["queued"])
        grown = resident_bytes(pid) - before
        assert grown < GROWN_BYTES_MAX, f"the broker grew by {grown} octets"
        it.recover()
        proxy.heal()
        for future in futures:
            it.load.until(future.done, it.story)
            assert len(future.result(0)) == 100_000
    finally:
        proxy.heal()
        client.close()
        proxy.close()


# --- strangers


def malformed_frames(it: Cluster) -> None:
    """Send frames that are none, or nearly some."""
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
    """Connect a thousand times and say nothing, or only the beginning of a handshake."""
    idle = [socket.create_connection(("127.0.0.1", it.port)) for _ in range(1_000)]
    for one in idle[::2]:
        one.sendall(b"\xff\x00\x00\x00")
    it.recover()
    for one in idle:
        one.close()


def descriptors_run_out(it: Cluster) -> None:
    """Leave the broker five descriptors, and connect five hundred times."""
    pid = it.processes["broker"].pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors(pid) + 5, hard))
    idle = [socket.create_connection(("127.0.0.1", it.port)) for _ in range(500)]
    try:
        # Those who are connected are served, and whoever comes must wait.
        it.recover()
        for _ in range(3):
            it.load.run(0.1)
            it.recover()
    finally:
        for one in idle:
            one.close()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    assert it.processes["broker"].poll() is None, it.story()
    with Client(it.endpoint) as late:
        future = late.submit(int, "7")
        it.load.until(future.done, it.story)
        assert future.result(0) == 7


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
    check_again(it, before, "a drain")


def again(it: Cluster) -> tuple[int, int]:
    """Count the runs that were not the first of their call, and the leases that ended."""
    began = [e["key"] for e in history.read(it.history) if e["what"] == history.BEGAN]
    return len(began) - len(set(began)), it.log("broker").count("was silent for")


def check_again(it: Cluster, before: tuple[int, int], what: str) -> None:
    """Check that nothing ran again since, unless an actor got no turn for as long as its lease."""
    (runs, leases), (runs_then, leases_then) = again(it), before
    if leases == leases_then:
        assert runs == runs_then, f"{what} had tasks run again"


# --- many at once


def restart_storm(it: Cluster) -> None:
    """Restart the broker with a hundred actors connected: all must be back within ten seconds."""
    with Crowd(it.endpoint, 100) as crowd:
        wait_until(lambda: crowd.is_welcome, TIMEOUT_S, it.story)
        it.restart_broker()
        began = time.monotonic()
        wait_until(lambda: crowd.is_welcome, 10.0, it.story)
        it.recovered_s.append(time.monotonic() - began)
