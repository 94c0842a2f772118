"""What environments cost and gain, one figure a function.

The rule: each figure is measured beside what it is compared with, in the same round and on the same
actors, and says how many rounds it is of.

    python -m bench.environments [--only NAME]... [--rounds 5] [--json FILE]

batching: a model of 10 ms a call and 1 ms an item gets 200 items a second for some seconds, one by
one, from a client that does not wait for answers. Items a second are those answered by the end of
the last answer; the latency of an item is from when it was due to its answer, so a queue that grows
shows; where the client itself got to it late, the machine was too busy to tell anything. Without
batching such a model answers 91 items a second at best.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.support import arguments, bounded, machine, percentile, spread, table
from sdk import Client, Environment, LocalCluster, ReusePolicy, TaskFuture, batch

result_timeout_s = 60.0

CALL_S = 0.010
ITEM_S = 0.001
ITEMS_PER_S = 200
BATCHING_S = 5.0

# Name -> value, of one round.
Figures = dict[str, float]


# ---- batching


class Model(Environment):
    """10 ms a call and 1 ms an item."""

    reuse = ReusePolicy(replicas=(1, 2))

    def enter(self) -> None:
        self.calls = 0

    def single(self, item: int) -> int:
        return self.work([item])[0]

    @batch(max_size=32, max_wait_ms=5)
    def batched(self, items: list[int]) -> list[int]:
        return self.work(items)

    def work(self, items: list[int]) -> list[int]:
        self.calls += 1
        time.sleep(CALL_S + ITEM_S * len(items))
        return items

    def count(self) -> int:
        calls, self.calls = self.calls, 0
        return calls


def offer(client: Client, method: Any, name: str) -> Figures:
    """Offer items at a steady rate, and return what came of it."""
    count = int(BATCHING_S * ITEMS_PER_S)
    answered: dict[int, float] = {}
    futures: list[TaskFuture] = []

    def note(number: int) -> Callable[[Any], None]:
        return lambda _: answered.setdefault(number, time.perf_counter())

    client.submit(Model.count).result(timeout=result_timeout_s)
    late: list[float] = []
    began = time.perf_counter()
    for number in range(count):
        due_at = began + number / ITEMS_PER_S
        wait_s = due_at - time.perf_counter()
        if wait_s > 0:
            time.sleep(wait_s)
        late.append(time.perf_counter() - due_at)
        future = client.submit(method, number)
        future.add_done_callback(note(number))
        futures.append(future)
    for number, future in enumerate(futures):
        assert future.result(timeout=result_timeout_s) == number
    calls = client.submit(Model.count).result(timeout=result_timeout_s)
    latencies = [answered[number] - began - number / ITEMS_PER_S for number in range(count)]
    return {
        f"{name}, items/s": count / (max(answered.values()) - began),
        f"{name}, p50 ms": 1e3 * percentile(latencies, 0.5),
        f"{name}, p99 ms": 1e3 * percentile(latencies, 0.99),
        f"{name}, items a call": count / calls,
        f"{name}, client late by, p99 ms": 1e3 * percentile(late, 0.99),
    }


def batching() -> Figures:
    """Return what a model answers with and without `@batch`."""
    figures: Figures = {}
    with LocalCluster(actors=1, slots=1) as cluster, cluster.client() as client:
        for name, method in (("single", Model.single), ("batched", Model.batched)):
            client.submit(method, 0).result(timeout=result_timeout_s)
            figures |= offer(client, method, name)
    figures["batched / single, items/s"] = figures["batched, items/s"] / figures["single, items/s"]
    figures["batched / single, p99"] = figures["batched, p99 ms"] / figures["single, p99 ms"]
    return figures


FIGURES: dict[str, Callable[[], Figures]] = {"batching": batching}


def main() -> int:
    parser = arguments("Measure what environments cost and gain.")
    parser.add_argument(
        "--only", action="append", choices=FIGURES, metavar="NAME", help=f"of {', '.join(FIGURES)}"
    )
    options = parser.parse_args()
    chosen = options.only or list(FIGURES)
    print(f"{machine()}; {options.rounds} rounds of {', '.join(chosen)}", flush=True)
    rows, kept = [], {}
    with bounded(options.timeout_s):
        for name in chosen:
            rounds = [FIGURES[name]() for _ in range(options.rounds)]
            kept[name] = rounds
            for key in rounds[0]:
                values = [figures[key] for figures in rounds]
                digits = 2 if statistics.median(values) < 20 else 0
                rows.append([name, key, spread(values, digits=digits)])
    print(table(["", "figure", "median (lowest - highest)"], rows))
    if options.json:
        Path(options.json).write_text(json.dumps(kept, indent=2), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
