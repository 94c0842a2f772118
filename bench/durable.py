"""What durability costs: durable submits, a restart with many of them, and what others pay.

    python -m bench.durable [--rounds 3] [--count 20000] [--queued 100000] [--kills 50]
                            [--durability power|process] [--only failover]

*pipelined* is `map(durable=True)` and `flush()`: from the first submit until the journal has all.
*one at a time* is submit and `accepted()`, beside a bare write and fsync on the same disk.
*not durable* is a no-op's round trip to a broker with a journal over that to one without, block by
block in turn. *restart* is from SIGKILL to the first answer of the next broker. *failover* is from
SIGKILL of the actor's process in which a task runs to the task's first line in another that was
there and free; each of both looks at the one monotonic clock of the machine.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench.support import Workspace, bounded, machine, percentile, positive, spread
from sdk import Client

PATIENCE_S = 120.0
SINGLES = 500
BLOCK = 200
BLOCKS = 20


def echo(number: int) -> int:
    return number


def start_broker(workspace: Workspace, endpoint: str, *options: str) -> "subprocess.Popen[bytes]":
    return workspace.start("broker", "--bind", endpoint, *options)


def journal_options(workspace: Workspace, durability: str) -> list[str]:
    return ["--data-dir", str(workspace.folder / "data"), "--durability", durability]


def measure_submits(count: int, durability: str) -> tuple[float, float, list[float]]:
    """Return submits a second by map and one by one, and the seconds of single ones."""
    with Workspace() as workspace:
        endpoint = workspace.endpoint("tcp")
        start_broker(workspace, endpoint, *journal_options(workspace, durability))
        with Client(endpoint) as client:
            assert client.submit(echo, 0, durable=True).accepted(PATIENCE_S)
            rates = []
            for submit_all in (
                lambda: client.map(echo, range(count), durable=True),
                lambda: [client.submit(echo, n, durable=True) for n in range(count)],
            ):
                began = time.perf_counter()
                submit_all()
                assert client.flush(PATIENCE_S)
                rates.append(count / (time.perf_counter() - began))
            singles = []
            for number in range(SINGLES):
                began = time.perf_counter()
                assert client.submit(echo, number, durable=True).accepted(PATIENCE_S)
                singles.append(time.perf_counter() - began)
    return rates[0], rates[1], singles


def measure_fsync(durability: str) -> list[float]:
    """Return the seconds of a bare write of 4 KiB, with its fsync where commits have one."""
    with Workspace() as workspace:
        samples = []
        file = os.open(workspace.folder / "file", os.O_WRONLY | os.O_CREAT)
        for _ in range(SINGLES):
            began = time.perf_counter()
            os.write(file, bytes(4_096))
            if durability == "power":
                os.fsync(file)
            samples.append(time.perf_counter() - began)
        os.close(file)
    return samples


def measure_ratio(durability: str) -> float:
    """Return the latency of what is not durable, with a journal over without one."""
    with Workspace() as workspace:
        clients = []
        for options in (journal_options(workspace, durability), ["--no-journal"]):
            endpoint = workspace.endpoint("tcp")
            start_broker(workspace, endpoint, *options)
            workspace.start("actor", "--broker", endpoint, "--slots", "1")
            client = Client(endpoint)
            client.submit(echo, 0).result(PATIENCE_S)
            clients.append(client)
        ratios = []
        for _ in range(BLOCKS):
            medians = []
            for client in clients:
                samples = []
                for number in range(BLOCK):
                    began = time.perf_counter()
                    client.submit(echo, number).result(PATIENCE_S)
                    samples.append(time.perf_counter() - began)
                medians.append(statistics.median(samples))
            ratios.append(medians[0] / medians[1])
        for client in clients:
            client.close()
    return statistics.median(ratios)


def measure_restart(queued: int, durability: str) -> tuple[float, float]:
    """Return the seconds until a broker with *queued* tasks answers, and the MiB of its journal."""
    with Workspace() as workspace:
        endpoint = workspace.endpoint("tcp")
        options = journal_options(workspace, durability)
        broker = start_broker(workspace, endpoint, *options)
        with Client(endpoint) as client:
            client.map(echo, range(queued), durable=True)
            assert client.flush(PATIENCE_S)
        workspace.kill(broker)
        size = sum(path.stat().st_size for path in Path(options[1]).iterdir())
        began = time.perf_counter()
        start_broker(workspace, endpoint, *options)
        with Client(endpoint) as client:
            status = client.query("status", timeout=PATIENCE_S)
            elapsed_s = time.perf_counter() - began
            assert status["queued"] == queued, status
    return elapsed_s, size / 2**20


def stay(path: str, go: str) -> None:
    """Say when this line is reached and where, and wait for *go*."""
    now = time.monotonic()
    with Path(path).open("a") as file:
        file.write(f"{now} {os.getpid()}\n")
    while not Path(go).exists():
        time.sleep(0.005)


def lines_of(path: Path, count: int) -> list[tuple[float, int]]:
    """Wait until a task has said so often where it is; return when, and in which processes."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        lines = path.read_text().splitlines() if path.exists() else []
        if len(lines) == count:
            return [(float(at), int(pid)) for at, pid in (line.split() for line in lines)]
        time.sleep(0.001)
    raise RuntimeError(f"no {count} runs within {PATIENCE_S} s")


def wait_for_actors(client: Client, count: int) -> None:
    """Wait until so many actors are there and free."""
    deadline = time.monotonic() + PATIENCE_S
    while sum(actor["free"] == 1 for actor in client.actors()) < count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"no {count} free actors within {PATIENCE_S} s")
        time.sleep(0.02)


def measure_failover(kills: int, durability: str) -> list[float]:
    """Return the seconds from each SIGKILL to the first line of the task in the other actor."""
    with Workspace() as workspace:
        endpoint = workspace.endpoint("tcp")
        start_broker(workspace, endpoint, *journal_options(workspace, durability))
        for name in ("a", "b"):
            workspace.start("actor", "--broker", endpoint, "--slots", "1", "--name", name)
        samples = []
        with Client(endpoint) as client:
            for number in range(kills):
                wait_for_actors(client, 2)
                path, go = (workspace.folder / f"{what}{number}" for what in ("lines", "go"))
                future = client.submit(stay, str(path), str(go))
                [(_, pid)] = lines_of(path, 1)
                killed_at = time.monotonic()
                os.kill(pid, signal.SIGKILL)
                samples.append(lines_of(path, 2)[1][0] - killed_at)
                go.touch()
                future.result(PATIENCE_S)
    return samples


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what durability costs.")
    parser.add_argument("--rounds", type=positive, default=3, help="default 3")
    parser.add_argument("--count", type=positive, default=20_000, help="submits; default 20000")
    parser.add_argument("--queued", type=positive, default=100_000, help="default 100000")
    parser.add_argument("--kills", type=positive, default=50, help="of actors; default 50")
    parser.add_argument("--only", choices=("failover",), help="measure nothing else")
    parser.add_argument("--durability", choices=("power", "process"), default="power")
    parser.add_argument("--timeout-s", type=positive, default=900, help="default 900")
    options = parser.parse_args()
    rounds = range(options.rounds)
    print(machine())
    with bounded(options.timeout_s):
        if options.only:
            print_failover(options)
            return 0
        measured = [measure_submits(options.count, options.durability) for _ in rounds]
        print(f"pipelined, map:        {spread([m[0] for m in measured])} a second")
        print(f"pipelined, one by one: {spread([m[1] for m in measured])} a second")
        for share in (0.5, 0.99):
            singles = [percentile(m[2], share) * 1e6 for m in measured]
            bare = [percentile(measure_fsync(options.durability), share) * 1e6 for _ in rounds]
            print(
                f"one at a time, p{share * 100:.0f}:   {spread(singles)} us,"
                f" a bare write and fsync {spread(bare)} us"
            )
        ratios = [measure_ratio(options.durability) for _ in rounds]
        print(f"not durable, journal on over off: {spread(ratios, digits=3)}")
        restarts = [measure_restart(options.queued, options.durability) for _ in rounds]
        seconds = spread([restart[0] for restart in restarts], digits=2)
        size = restarts[0][1]
        print(f"restart with {options.queued:,} queued: {seconds} s, a journal of {size:.0f} MiB")
        print_failover(options)
    return 0


def print_failover(options: argparse.Namespace) -> None:
    """Measure the failover and print it."""
    rounds = [measure_failover(options.kills, options.durability) for _ in range(options.rounds)]
    for share in (0.5, 0.99):
        taken = [percentile(samples, share) * 1e3 for samples in rounds]
        print(f"failover, p{share * 100:.0f}: {spread(taken)} ms, {options.kills} kills a round")


if __name__ == "__main__":
    sys.exit(main())
