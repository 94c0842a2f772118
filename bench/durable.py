"""What durability costs: durable submits, a restart with many of them, and what others pay.

    python -m bench.durable [--rounds 3] [--count 20000] [--queued 100000] [--kills 50]
                            [--durability power|process] [--only PART]

*pipelined* is `map(durable=True)` and `flush()`: from the first submit until the journal has all.
*one at a time* is submit and `accepted()`; in turn with it, few by few, what it has to consist of:
as many octets as its commit writes, written over in place and synchronized on the same disk, and a
round trip to a bare ROUTER that answers by itself, since no actor has a part in it. That of the
relay, which goes on to a worker and back, stands beside it.
*not durable* is a no-op's round trip to a broker with a journal over that to one without, few by
few in turn, now the one and now the other first; with the interval in which it is in 95 of 100
cases, as far as the blocks tell. *restart* is from SIGKILL to the first answer of the next broker.
*failover* is from SIGKILL of the actor's process in which a task runs to the task's first line in
another that was there and free; each of both looks at the one monotonic clock of the machine.
A round takes less than three minutes.
"""

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.floor import Relay
from bench.latency import round_trips
from bench.support import Workspace, bounded, machine, percentile, positive, spread
from sdk import Client

PATIENCE_S = 120.0
# So many calls in turn, and so often.
SINGLES_BLOCK = 10
SINGLES_BLOCKS = 50
BLOCK = 20
BLOCKS = 150
DRAWS = 1_000
WARM_UP = 200
# What a commit of one task adds to SQLite's log: a page of the table and one of its index, each
# with its head. The log is as long before, and written over.
COMMIT_BYTES = 2 * (4_096 + 24)
DISK_BYTES = 500 * COMMIT_BYTES

# What is aimed at.
SUBMITS_PER_S = 10_000
RATIO_MAX = 1.02
RESTART_S = 5.0


def echo(number: int) -> int:
    return number


def start_broker(workspace: Workspace, endpoint: str, *options: str) -> "subprocess.Popen[bytes]":
    return workspace.start("broker", "--bind", endpoint, *options)


def journal_options(workspace: Workspace, durability: str) -> list[str]:
    return ["--data-dir", str(workspace.folder / "data"), "--durability", durability]


def measure_submits(count: int, durability: str) -> tuple[float, float]:
    """Return durable submits a second by map and one by one."""
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
    return rates[0], rates[1]


@dataclass(frozen=True)
class Singles:
    """Seconds of single durable submits, and of what each should consist of."""

    submits: list[float]
    syncs: list[float]
    trips: list[float]
    # Through the relay and its worker.
    relayed: list[float]

    def over_floor(self, share: float) -> float:
        """Return a submit over a synchronizing and a round trip, each at that share."""
        floor_s = percentile(self.syncs, share) + percentile(self.trips, share)
        return percentile(self.submits, share) / floor_s


def measure_singles(durability: str) -> Singles:
    """Submit one after the other; in turn, write to the same disk and ask bare sockets."""
    found = Singles([], [], [], [])
    with (
        Workspace() as workspace,
        Relay("tcp", has_worker=False) as alone,
        Relay("tcp") as relay,
    ):
        endpoint = workspace.endpoint("tcp")
        start_broker(workspace, endpoint, *journal_options(workspace, durability))
        file = os.open(workspace.folder / "file", os.O_WRONLY | os.O_CREAT)
        # As in the journal, which is written over in place.
        os.write(file, bytes(DISK_BYTES))
        os.fsync(file)
        with Client(endpoint) as client:
            for _ in range(SINGLES_BLOCK):
                assert client.submit(echo, 0, durable=True).accepted(PATIENCE_S)
            for _ in range(SINGLES_BLOCKS):
                found.trips.extend(alone.round_trips(SINGLES_BLOCK))
                found.relayed.extend(relay.round_trips(SINGLES_BLOCK))
                for number in range(SINGLES_BLOCK):
                    began = time.perf_counter()
                    place = len(found.syncs) * COMMIT_BYTES % DISK_BYTES
                    os.pwrite(file, bytes(COMMIT_BYTES), place)
                    if durability == "power":
                        os.fdatasync(file)
                    written = time.perf_counter()
                    assert client.submit(echo, number, durable=True).accepted(PATIENCE_S)
                    found.submits.append(time.perf_counter() - written)
                    found.syncs.append(written - began)
        os.close(file)
    return found


@dataclass(frozen=True)
class Ratio:
    """Latency with a journal over that without one, and between what it is in 95 of 100 cases."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f}-{self.high:.3f})"


def measure_ratio(durability: str, *, is_journal_first: bool) -> Ratio:
    """Return the latency of what is not durable, with a journal over without one."""
    with Workspace() as workspace:
        clients = {}
        # Of two like clusters the one that was started first may be the faster one.
        for has_journal in (is_journal_first, not is_journal_first):
            options = journal_options(workspace, durability) if has_journal else ["--no-journal"]
            endpoint = workspace.endpoint("tcp")
            start_broker(workspace, endpoint, *options)
            workspace.start("actor", "--broker", endpoint, "--slots", "1")
            clients[has_journal] = Client(endpoint)
            clients[has_journal].submit(echo, 0).result(PATIENCE_S)
        for client in clients.values():
            round_trips(client, WARM_UP)
        blocks: list[dict[bool, float]] = []
        for number in range(BLOCKS):
            order = (True, False) if number % 2 else (False, True)
            blocks.append(
                {which: statistics.median(round_trips(clients[which], BLOCK)) for which in order}
            )
        for client in clients.values():
            client.close()
    return ratio_of([(block[True], block[False]) for block in blocks])


def ratio_of(blocks: list[tuple[float, float]]) -> Ratio:
    """Return the median of the first over that of the second, drawn again for its interval."""

    def ratio(some: list[tuple[float, float]]) -> float:
        mine, others = zip(*some, strict=True)
        return float(statistics.median(mine) / statistics.median(others))

    chance = random.Random(1)
    drawn = sorted(ratio(chance.choices(blocks, k=len(blocks))) for _ in range(DRAWS))
    return Ratio(ratio(blocks), percentile(drawn, 0.025), percentile(drawn, 0.975))


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
    parser.add_argument("--only", choices=PARTS, help="measure nothing else")
    parser.add_argument("--durability", choices=("power", "process"), default="power")
    parser.add_argument("--timeout-s", type=positive, default=900, help="default 900")
    options = parser.parse_args()
    print(f"{machine()}; {options.rounds} rounds, {options.durability}", flush=True)
    with bounded(options.timeout_s):
        for name, print_part in PARTS.items():
            if options.only in (None, name):
                print_part(options)
                sys.stdout.flush()
    return 0


def print_submits(options: argparse.Namespace) -> None:
    """Measure pipelined submits and print them."""
    rounds = [measure_submits(options.count, options.durability) for _ in range(options.rounds)]
    for place, what in enumerate(("map", "one by one")):
        rates = [rates[place] for rates in rounds]
        print(f"pipelined, {what}: {spread(rates)} a second; goal {SUBMITS_PER_S:,}")


def print_singles(options: argparse.Namespace) -> None:
    """Measure single submits and print them beside what they consist of."""
    rounds = [measure_singles(options.durability) for _ in range(options.rounds)]
    for share in (0.5, 0.99):
        submits, syncs, trips, relayed = (
            spread([percentile(samples, share) * 1e6 for samples in found])
            for found in zip(
                *((one.submits, one.syncs, one.trips, one.relayed) for one in rounds), strict=True
            )
        )
        over = spread([one.over_floor(share) for one in rounds], digits=2)
        print(
            f"one at a time, p{share * 100:.0f}: {submits} us; a bare write and fdatasync {syncs}"
            f" us, a round trip to a bare ROUTER {trips} us: {over} times both;"
            f" one of the relay with its worker {relayed} us"
        )


def print_ratio(options: argparse.Namespace) -> None:
    """Measure what a journal costs those who do not use it, and print it, round by round."""
    rounds = [
        measure_ratio(options.durability, is_journal_first=is_first)
        for _ in range(options.rounds)
        for is_first in (True, False)
    ]
    values = [one.value for one in rounds]
    print(
        f"not durable, journal on over off: {spread(values, digits=3)}; goal {RATIO_MAX};"
        f" each {', '.join(map(str, rounds))}"
    )


def print_restart(options: argparse.Namespace) -> None:
    """Measure the restart with many queued tasks and print it."""
    rounds = [measure_restart(options.queued, options.durability) for _ in range(options.rounds)]
    seconds = spread([one[0] for one in rounds], digits=2)
    print(
        f"restart with {options.queued:,} queued: {seconds} s, a journal of {rounds[0][1]:.0f} MiB;"
        f" goal {RESTART_S:g} s"
    )


def print_failover(options: argparse.Namespace) -> None:
    """Measure the failover and print it."""
    rounds = [measure_failover(options.kills, options.durability) for _ in range(options.rounds)]
    for share in (0.5, 0.99):
        taken = [percentile(samples, share) * 1e3 for samples in rounds]
        print(f"failover, p{share * 100:.0f}: {spread(taken)} ms, {options.kills} kills a round")


PARTS = {
    "submits": print_submits,
    "singles": print_singles,
    "ratio": print_ratio,
    "restart": print_restart,
    "failover": print_failover,
}


if __name__ == "__main__":
    sys.exit(main())
