"""What keys cost: the same broker, host and client on loopback with CURVE and without.

The rule: only ratios of the same round count. Between runs the same figure moves by a factor of
two.

    python -m bench.keys [--rounds 5] [--count 1000] [--json FILE]

First no-ops, one at a time and many at once, then calls that bring a MiB and return it.
"""

import subprocess
import sys
import time

from bench.latency import first_result_timeout_s, result_timeout_s, round_trips, throughput
from bench.support import PROJECT, Figures, Workspace, arguments, run_rounds
from sdk import Client, gather

MIB = 2**20
# Of large ones fewer: each takes as long as dozens of no-ops.
LARGE_SHARE = 10


def give_back(octets: bytes) -> bytes:
    return octets


def large(client: Client, count: int) -> Figures:
    """Return the figures of calls with a MiB each, one at a time and eight at once."""
    octets = b"\x5a" * MIB
    samples = []
    for _ in range(count):
        started = time.perf_counter()
        result = client.submit(give_back, octets).result(timeout=result_timeout_s)
        samples.append(time.perf_counter() - started)
        assert result == octets, "it came back changed"
    started = time.perf_counter()
    for _ in range(count // 8):
        gather([client.submit(give_back, octets) for _ in range(8)])
    return Figures.of(samples, per_s=count // 8 * 8 / (time.perf_counter() - started))


def small(client: Client, count: int) -> Figures:
    """Return the figures of no-ops."""
    round_trips(client, count // 10)
    return Figures.of(round_trips(client, count), per_s=throughput(client, count * 5))


def measure(transport: str, count: int, *, has_keys: bool, is_large: bool) -> Figures:
    """Return the figures of one round on a broker, a host and an actor of its own with one slot."""
    with Workspace() as workspace:
        endpoint = workspace.endpoint(transport)
        folder = workspace.folder / "keys"
        options: list[list[str]] = [[], [], [""]]
        if has_keys:
            for change in (["gpu", "actor"], ["me", "client"]):
                command = [sys.executable, "-m", "sdk", "keys", str(folder), "add", *change]
                subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
            places = (folder, folder / "carry" / "gpu")
            options = [["--keys", str(place)] for place in places]
            options.append([str(folder / "carry" / "me")])
        workspace.start("broker", "--no-journal", "--bind", endpoint, *options[0])
        workspace.start("actor", "--broker", endpoint, "--prefetch", "0", *options[1])
        with Client(endpoint, keys=options[2][0]) as client:
            try:
                client.submit(give_back, b"").result(timeout=first_result_timeout_s)
            except TimeoutError:
                raise RuntimeError(f"no actor on {endpoint}: {workspace.logs()}") from None
            return large(client, count // LARGE_SHARE) if is_large else small(client, count)


def main() -> int:
    parser = arguments("Measure what keys cost.")
    parser.set_defaults(count=1000, transport="tcp")
    options = parser.parse_args()
    for is_large in (False, True):
        status = run_rounds(
            {
                f"{'a MiB' if is_large else 'no-op'}, {named} keys": (
                    lambda transport, count, has_keys=has_keys, is_large=is_large: measure(
                        transport, count, has_keys=has_keys, is_large=is_large
                    )
                )
                for named, has_keys in (("without", False), ("with", True))
            },
            options,
        )
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
