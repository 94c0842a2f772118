"""Several faults at a time, each for as long as it lasts: a generator a fault, which ends it.

What one fault alone may do others hide or need: a run that was lost comes back to a broker that was
started meanwhile, or whose disk is full. What must hold is what `ledger` and `history` say.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from tests.chaos import history, strikes, strikes_durable
from tests.chaos.cluster import GO, LEASE_S, STOP, Cluster
from tests.chaos.ledger import TICK, ExactLoad
from tests.support.deployment import ROOT, environment

Fault = Iterator[None]
# Who was told to end: without a host's own handlers, while it loads, it ends by the signal.
IN_ORDER: Final = (0, 4, -signal.SIGTERM)
CALM_S: Final = 2.0


def broker_down(it: Cluster) -> Fault:
    """Kill the broker, and start it again when all others are about to end."""
    it.kill("broker")
    yield


def broker_ends(it: Cluster) -> Fault:
    process = it.processes["broker"]
    process.send_signal(signal.SIGTERM)
    yield
    if process.poll() is None:
        # It may have been stopped as well.
        process.send_signal(GO)
        it.until(lambda: process.poll() is not None)


def broker_stops(it: Cluster) -> Fault:
    return stopped(it.processes["broker"].pid)


def host_down(it: Cluster) -> Fault:
    it.kill(some_host(it))
    yield


def host_stops(it: Cluster) -> Fault:
    return stopped(it.processes[some_host(it)].pid)


def host_drains(it: Cluster) -> Fault:
    process = it.processes[some_host(it)]
    process.send_signal(signal.SIGTERM)
    yield
    # It may have been stopped as well.
    process.send_signal(GO)
    it.load.until(lambda: process.poll() is not None, it.story)


def actor_down(it: Cluster) -> Fault:
    for pid in some_actor(it):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    yield


def actor_stops(it: Cluster) -> Fault:
    for pid in some_actor(it):
        yield from stopped(pid)


def cut_off(it: Cluster) -> Fault:
    proxy = it.proxies[it.random.choice(it.machines)]
    it.random.choice((proxy.stall, proxy.swallow, proxy.refuse, proxy.reset))()
    yield
    proxy.heal()


def disk_fills(it: Cluster) -> Fault:
    it.disk.fill()
    yield
    it.disk.empty()


def client_stops(it: Cluster) -> Fault:
    """Stop a program in the middle of its calls, and kill it; others find what it had accepted."""
    name = f"victim{len(it.killed_clients)}"
    it.killed_clients.add(name)
    seed = str(it.random.randrange(2**30))
    process = subprocess.Popen(
        [sys.executable, "-c", strikes.CLIENT, it.endpoint, str(it.history), name, seed, "durable"],
        env=environment(),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        it.load.run(1.0)
        yield from stopped(process.pid)
        it.load.run(LEASE_S)
    finally:
        process.kill()
        process.wait()


FAULTS: Final[tuple[Callable[[Cluster], Fault], ...]] = (
    broker_down,
    broker_ends,
    broker_stops,
    host_down,
    host_stops,
    host_drains,
    actor_down,
    actor_stops,
    cut_off,
    disk_fills,
    client_stops,
)


def stopped(pid: int) -> Fault:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, STOP)
    yield
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, GO)


def some_host(it: Cluster) -> str:
    return it.random.choice([name for name in it.machines if name in it.processes])


def some_actor(it: Cluster) -> list[int]:
    """Return an actor, whether the broker answers or not; none where none is there."""
    hosts = [it.processes[name].pid for name in it.machines if name in it.processes]
    found = [
        int(pid)
        for host in hosts
        for pid in Path(f"/proc/{host}/task/{host}/children").read_text().split()
        if b"actor.child" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return [it.random.choice(found)] if found else []


def can_happen(it: Cluster, fault: Callable[[Cluster], Fault]) -> bool:
    """Tell whether those are there whom *fault* befalls."""
    if fault in (broker_down, broker_ends, broker_stops):
        return "broker" in it.processes and it.processes["broker"].poll() is None
    return fault not in (host_down, host_stops, host_drains) or any(
        name in it.processes for name in it.machines
    )


def overlap(it: Cluster) -> None:
    """Let two or three things be wrong at a time, and end in another order."""
    lasting = []
    for fault in it.random.sample(FAULTS, it.random.choice((2, 2, 3))):
        if can_happen(it, fault):
            one = fault(it)
            next(one, None)
            lasting.append(one)
            it.load.run(LEASE_S * it.random.choice((0.1, 0.5, 1.0, 2.0, 4.0)))
    it.random.shuffle(lasting)
    for one in lasting:
        revive(it)
        next(one, None)
        it.load.run(LEASE_S * it.random.choice((0.0, 0.1, 1.0)))
    assert revive(it), it.story()
    for name in it.machines:
        process = it.processes.get(name)
        if process is not None and process.poll() is not None:
            assert process.returncode in IN_ORDER, it.story()
            del it.processes[name]
        if name not in it.processes:
            it.start_machine(name)


def revive(it: Cluster) -> bool:
    """Start the broker where there is none; False: its disk is full, and it says so."""
    old = it.processes.get("broker")
    if old is not None and old.poll() is None:
        return True
    it.processes.pop("broker", None)
    ready = it.log("broker").count("broker_ready")
    binds = ("--bind", it.endpoint, "--bind", f"tcp://127.0.0.1:{it.port}")
    options: tuple[Any, ...] = (*binds, "--data-dir", str(it.data_dir), *it.broker_options)
    process = it.start("broker", *it.broker_program, *options, prefix=it.broker_prefix)
    it.until(lambda: process.poll() is not None or it.log("broker").count("broker_ready") > ready)
    it.starts = it.log("broker").count("broker_ready")
    if process.poll() is None:
        return True
    assert process.returncode == 2, it.story()
    assert "make room" in it.log("broker").splitlines()[-1], it.story()
    return False


def judge(it: Cluster) -> None:
    """Hold everything that is exact against what was told of it."""
    load = it.load
    assert isinstance(load, ExactLoad)
    load.in_flight = 0
    it.until(load.is_settled)
    for book in load.books:
        load.counts += book.check(book.handle.read.submit().result())
    for name in sorted(it.killed_clients):
        find_all(it, load, name)
    now = it.reader.entries()[-1]["at"]
    load.run(CALM_S)
    late = [e for e in it.reader.entries() if e["what"] == TICK and e["at"] > now + CALM_S / 2]
    if late:
        raise history.Broken(f"canceled, and it goes on: {late[:3]}")
    for what, count in load.counts.items():
        it.measured[what].append(count)


def find_all(it: Cluster, load: ExactLoad, name: str) -> None:
    """Find what a killed client had accepted and noted no outcome of."""
    entries = it.reader.entries()
    had = {e["key"] for e in entries if e["what"] == history.OUTCOME}
    tasks = {e["key"]: e["task"] for e in entries if e["what"] == history.NAMED}
    for entry in entries:
        key = str(entry.get("key"))
        if entry["what"] == history.ACCEPTED and key.startswith(f"{name}-") and key not in had:
            strikes_durable.resolve(it, load.other, key, tasks[key], None, is_accepted=True)
