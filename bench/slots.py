"""How fast a slot changes hands: from `release_slot()` in one task to the first line of the next.

The rule: the next task waits at the broker already, so what is measured is the way of the credit
there and of the assignment back. It is a ratio to the round trip of the bare relay in the same
round; the goal is at most 1.0.

    python -m bench.slots [--rounds 5] [--count 200] [--transport tcp|ipc|both] [--json FILE]
"""

import sys
import time

from bench.floor import Relay
from bench.support import (
    TRANSPORTS,
    Workspace,
    arguments,
    bounded,
    machine,
    percentile,
    spread,
    table,
)
from sdk import Client, current_task

first_result_timeout_s = 30.0
result_timeout_s = 20.0
# The one that releases does so when the next has surely reached the broker.
head_start_s = 0.003


def release_then_stay() -> float:
    """Return when the slot was given back; go on until the next task has surely begun."""
    time.sleep(head_start_s)
    released = time.monotonic()
    current_task().release_slot()
    time.sleep(head_start_s)
    return released


def first_line() -> float:
    return time.monotonic()


def handovers(client: Client, count: int) -> list[float]:
    """Return the seconds from each release to the first line of the task that waited for it."""
    samples = []
    for _ in range(count):
        releasing = client.submit(release_then_stay)
        waiting = client.submit(first_line)
        waiting.accepted(timeout=result_timeout_s)
        released = releasing.result(timeout=result_timeout_s)
        samples.append(waiting.result(timeout=result_timeout_s) - released)
    assert min(samples) > 0.0, "a task began before the slot was free"
    return samples


def measure(transport: str, count: int) -> tuple[float, float, float]:
    """Return the relay's round trip, p50 and p99 of the hand-over, of one round, in seconds."""
    with Relay(transport) as relay:
        floor_s = percentile(relay.round_trips(max(count, 500)), 0.5)
    with Workspace() as workspace:
        endpoint = workspace.endpoint(transport)
        workspace.start("broker", "--no-journal", "--bind", endpoint)
        workspace.start("actor", "--broker", endpoint, "--slots", "1", "--prefetch", "0")
        with Client(endpoint) as client:
            client.submit(first_line).result(timeout=first_result_timeout_s)
            handovers(client, 20)
            samples = handovers(client, count)
    return floor_s, percentile(samples, 0.5), percentile(samples, 0.99)


def main() -> int:
    parser = arguments("Measure how fast a slot changes hands.")
    parser.set_defaults(count=200)
    options = parser.parse_args()
    print(f"{machine()}; {options.rounds} rounds, {options.count} hand-overs each", flush=True)
    rows = []
    with bounded(options.timeout_s):
        for transport in TRANSPORTS[options.transport]:
            rounds = [measure(transport, options.count) for _ in range(options.rounds)]
            floors, middles, tails = zip(*rounds, strict=True)
            ratios = [middle / floor for floor, middle, _ in rounds]
            micro = [[1e6 * value for value in values] for values in (floors, middles, tails)]
            rows.append([transport, *map(spread, micro), spread(ratios, digits=2)])
    titles = ["", "relay rtt p50 us", "hand-over p50 us", "p99 us", "p50 / relay"]
    print(table(titles, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
