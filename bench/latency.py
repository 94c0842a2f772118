"""What warmslot adds to the bare relay: a no-op through client, broker and actor beside it.

The rule: only ratios of the same round count. Between runs the same figure moves by a factor of
two.

    python -m bench.latency [--rounds 5] [--count 2000] [--transport tcp|ipc|both] [--json FILE]

A round trip is one no-op from submit to its result, with nothing else under way. The rate is that
of five times as many no-ops, submitted one by one and then all gathered.
"""

import os
import sys
import time
from unittest.mock import patch

from bench.floor import measure_relay, warm_up_count
from bench.support import Figures, Workspace, arguments, run_rounds
from sdk import Client, gather
from sdk.reading.wakeup import SPIN_VARIABLE

first_result_timeout_s = 30.0
result_timeout_s = 20.0


def echo(number: int) -> int:
    return number


def round_trips(client: Client, count: int) -> list[float]:
    """Return the seconds that each of *count* no-ops took from submit to result, one at a time."""
    samples = []
    for number in range(count):
        started = time.perf_counter()
        result = client.submit(echo, number).result(timeout=result_timeout_s)
        samples.append(time.perf_counter() - started)
        assert result == number, f"{result!r} is not {number}"
    return samples


def throughput(client: Client, count: int) -> float:
    """Return the no-ops per second when *count* are submitted one by one and then all gathered."""
    started = time.perf_counter()
    results = gather([client.submit(echo, number) for number in range(count)])
    elapsed_s = time.perf_counter() - started
    assert results == list(range(count)), "a result is missing or not in order"
    return count / elapsed_s


def measure_looking(transport: str, count: int) -> Figures:
    """Return the figures where client and actor look for half a millisecond before a sleep."""
    with patch.dict(os.environ, {SPIN_VARIABLE: "500"}):
        return measure_warmslot(transport, count, "0")


def measure_warmslot(transport: str, count: int, prefetch: str, slots: int = 1) -> Figures:
    """Return the figures of one round on a broker, a host and an actor of its own."""
    with Workspace() as workspace:
        endpoint = workspace.endpoint(transport)
        workspace.start("broker", "--no-journal", "--bind", endpoint)
        options = ("--slots", str(slots), "--prefetch", prefetch)
        workspace.start("actor", "--broker", endpoint, *options)
        with Client(endpoint) as client:
            try:
                client.submit(echo, 0).result(timeout=first_result_timeout_s)
            except TimeoutError:
                raise RuntimeError(f"no actor on {endpoint}: {workspace.logs()}") from None
            round_trips(client, warm_up_count)
            return Figures.of(round_trips(client, count), per_s=throughput(client, count * 5))


def main() -> int:
    options = arguments(
        "Measure a no-op through warmslot beside the bare ZeroMQ relay."
    ).parse_args()
    return run_rounds(
        {
            "relay, naive": measure_relay,
            "warmslot, prefetch 0": lambda transport, count: measure_warmslot(
                transport, count, "0"
            ),
            "warmslot, that looks": measure_looking,
            "warmslot, prefetch 16": lambda transport, count: measure_warmslot(
                transport, count, "16"
            ),
            "warmslot, prefetch auto": lambda transport, count: measure_warmslot(
                transport, count, "auto"
            ),
            "the same, four slots": lambda transport, count: measure_warmslot(
                transport, count, "auto", 4
            ),
        },
        options,
    )


if __name__ == "__main__":
    sys.exit(main())
