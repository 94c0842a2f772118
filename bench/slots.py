"""How fast a slot, a limit or a label is of use: from its change to the first line of who waited.

The rule: whoever is next waits already, so what is measured is the way of the news to the broker
and back, as a ratio to the round trip of the bare relay in the same round. The goal is at most 1.0.
All processes have slept for a while when a slot is released, so they run with cold caches; the
relay is measured both ways: one round trip right after another, and each after as long a sleep.

    python -m bench.slots [--rounds 5] [--count 200] [--transport tcp|ipc|both] [--json FILE]
"""

import itertools
import sys
import time
from collections.abc import Callable

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
from sdk import Client, TaskFuture, current_task

first_result_timeout_s = 30.0
result_timeout_s = 20.0
# The one that releases does so when the next has surely reached the broker, and a guard of the
# actor has surely taken the lead (after 10 ms), as behind any run that lasts.
head_start_s = 0.02


def release_then_stay() -> float:
    """Return when the slot was given back; go on until the next task has surely begun."""
    time.sleep(head_start_s)
    released = time.monotonic()
    current_task().release_slot()
    time.sleep(head_start_s)
    return released


def leave_limit_then_stay() -> float:
    """Return when the limit was left; go on until the next holder has surely begun."""
    with current_task().limit("one"):
        time.sleep(head_start_s)
        left = time.monotonic()
    time.sleep(head_start_s)
    return left


def relabel_then_stay(version: int) -> float:
    """Return when the labels were to be changed; go on until who waits for them has begun."""
    time.sleep(head_start_s)
    changed = time.monotonic()
    current_task().actor.upsert_labels({"version": version})
    time.sleep(head_start_s)
    return changed


def first_line() -> float:
    return time.monotonic()


def first_line_inside() -> float:
    with current_task().limit("one"):
        return time.monotonic()


Handover = Callable[[Client], tuple[TaskFuture, TaskFuture]]


def holder_of(client: Client) -> TaskFuture:
    """Return a task that was seen to hold the limit, which it will leave a little later."""
    while True:
        holder = client.submit(leave_limit_then_stay)
        while not holder.done():
            if any(key["holders"] for key in client.query("limits")["limits"][0]["keys"]):
                return holder


def slot(client: Client) -> tuple[TaskFuture, TaskFuture]:
    return client.submit(release_then_stay), client.submit(first_line)


def limit_at_scheduling(client: Client) -> tuple[TaskFuture, TaskFuture]:
    holder = holder_of(client)
    return holder, client.submit(first_line, limits={"one": 1})


def limit_inside(client: Client) -> tuple[TaskFuture, TaskFuture]:
    holder = holder_of(client)
    return holder, client.submit(first_line_inside)


# Names in turn, as of models that come and go: none is offered when it is waited for.
versions = itertools.cycle(range(8))


def label(client: Client) -> tuple[TaskFuture, TaskFuture]:
    version = next(versions)
    waiting = client.submit(first_line, desired_labels={"version": version})
    return client.submit(relabel_then_stay, version), waiting


HANDOVERS: dict[str, tuple[Handover, str]] = {
    "release_slot() to a task that waits": (slot, "1"),
    "limit to a task that waits at scheduling": (limit_at_scheduling, "2"),
    "limit to a task that waits inside": (limit_inside, "2"),
    "upsert_labels() to a task that waits for it": (label, "2"),
}


def handovers(client: Client, count: int, hand_over: Handover) -> list[float]:
    """Return the seconds from each release to the first line of the task that waited for it."""
    samples = []
    for _ in range(count):
        releasing, waiting = hand_over(client)
        waiting.accepted(timeout=result_timeout_s)
        released = releasing.result(timeout=result_timeout_s)
        samples.append(waiting.result(timeout=result_timeout_s) - released)
    assert min(samples) > 0.0, "a task began before the slot was free"
    return samples


def measure(transport: str, count: int) -> tuple[float, float, dict[str, tuple[float, float]]]:
    """Return what one round gave, in seconds.

    The relay's round trips one after another and each after a sleep, and p50 and p99 of each
    hand-over.
    """
    with Relay(transport) as relay:
        warm_s = percentile(relay.round_trips(max(count, 500)), 0.5)
        cold_s = percentile(relay.round_trips(count, pause_s=head_start_s), 0.5)
    found = {}
    for name, (hand_over, slots) in HANDOVERS.items():
        with Workspace() as workspace:
            endpoint = workspace.endpoint(transport)
            workspace.start("broker", "--no-journal", "--bind", endpoint, "--limit", "one=1")
            options = ("--slots", slots, "--prefetch", "0")
            workspace.start("actor", "--broker", endpoint, *options)
            with Client(endpoint) as client:
                client.submit(first_line).result(timeout=first_result_timeout_s)
                handovers(client, 20, hand_over)
                samples = handovers(client, count, hand_over)
        found[name] = percentile(samples, 0.5), percentile(samples, 0.99)
    return warm_s, cold_s, found


def ratio(figures: list[float], floors: list[float]) -> str:
    """Format the ratios of each round."""
    return spread([own / floor for own, floor in zip(figures, floors, strict=True)], digits=2)


def main() -> int:
    parser = arguments("Measure how fast a slot or a limit changes hands, and a label is of use.")
    parser.set_defaults(count=200)
    options = parser.parse_args()
    print(f"{machine()}; {options.rounds} rounds, {options.count} hand-overs each", flush=True)
    rows = []
    with bounded(options.timeout_s):
        for transport in TRANSPORTS[options.transport]:
            rounds = [measure(transport, options.count) for _ in range(options.rounds)]
            warm = [1e6 * warm_s for warm_s, _, _ in rounds]
            cold = [1e6 * cold_s for _, cold_s, _ in rounds]
            slept = f"relay, round trip after {1000 * head_start_s:g} ms of sleep"
            rows += [
                [transport, "relay, round trip", spread(warm), "", "1", ratio(warm, cold)],
                [transport, slept, spread(cold), "", ratio(cold, warm), "1"],
            ]
            for name in HANDOVERS:
                middles = [1e6 * found[name][0] for _, _, found in rounds]
                tails = [1e6 * found[name][1] for _, _, found in rounds]
                ratios = [ratio(middles, warm), ratio(middles, cold)]
                rows.append([transport, name, spread(middles), spread(tails), *ratios])
    heads = ["", "hand-over", "p50 us", "p99 us", "p50 / relay", "p50 / relay that slept"]
    print(table(heads, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
