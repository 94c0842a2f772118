"""What environments cost, save and gain: calls in warm ones, more copies, batches.

The rule: each figure is measured beside what it is compared with, in the same round, and says how
many rounds it is of; only ratios of one round count.

    python -m bench.environments [--only NAME]... [--rounds 5] [--count 1000] [--json FILE]

calls: a method of a warm environment and a call of a named actor, both doing nothing, beside a
plain no-op and the bare relay. copies: a model that takes a second to load gets a burst of calls of
a fifth of a second each, and there may be four copies; counted is the time until all are there,
with actors that are connected and with those that the host has to start first. demo: a call that
finds the model of `make demo` warm, and one with reuse=False, which loads it (needs magika).

batching: a model of 10 ms a call and 1 ms an item gets 200 items a second for some seconds, one by
one, from a client that does not wait for answers. Items a second are those answered by the end of
the last answer; the latency of an item is from when it was due to its answer, so a queue that grows
shows; where the client itself got to it late, the machine was too busy to tell anything. Without
batching such a model answers 91 items a second at best.
"""

import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.floor import measure_relay, warm_up_count
from bench.support import arguments, bounded, machine, percentile, spread, table
from sdk import Client, Environment, LocalCluster, ReusePolicy, TaskFuture, batch, gather

result_timeout_s = 60.0

COPIES = 4
LOAD_S = 1.0
SLOW_CALL_S = 0.2
LOOK_S = 0.005

CALL_S = 0.010
ITEM_S = 0.001
ITEMS_PER_S = 200
BATCHING_S = 5.0

# Name -> value, of one round.
Figures = dict[str, float]


# ---- calls


class Nothing(Environment):
    """Loaded at once, and does nothing."""

    def work(self, number: int) -> int:
        return number


def plain(number: int) -> int:
    return number


def calls(count: int) -> Figures:
    """Return how long calls take that do nothing, in turns."""
    with LocalCluster(actors=[{"slots": 1}, {"slots": 1}]) as cluster, cluster.client() as client:
        actor = client.actor(Nothing, name="nothing")
        ways: dict[str, Callable[[int], Any]] = {
            "plain": lambda number: client.submit(plain, number),
            "warm method": lambda number: client.submit(Nothing.work, number),
            "named actor": actor.work.submit,
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(warm_up_count + count):
            for name, submit in ways.items():
                began = time.perf_counter()
                assert submit(number).result(timeout=result_timeout_s) == number
                taken[name].append(time.perf_counter() - began)
    relay_us = measure_relay("ipc", count).rtt_p50_us
    p50 = {name: 1e6 * percentile(each[warm_up_count:], 0.5) for name, each in taken.items()}
    return (
        {"relay, p50 us": relay_us}
        | {f"{name}, p50 us": value for name, value in p50.items()}
        | {f"{name} / relay": value / relay_us for name, value in p50.items()}
        | {f"{name} / plain": p50[name] / p50["plain"] for name in list(ways)[1:]}
    )


# ---- copies


class Slow(Environment):
    """Takes a second to load."""

    reuse = ReusePolicy(replicas=(1, COPIES))

    def enter(self) -> None:
        time.sleep(LOAD_S)

    def work(self) -> None:
        time.sleep(SLOW_CALL_S)


def warm_copies(client: Client) -> int:
    """Return how many copies of anything are loaded."""
    found = client.query("environments", timeout=result_timeout_s)["environments"]
    return sum(one["warm"] for one in found)


def seconds_to_all(client: Client) -> float:
    """Return how long after a burst of calls every copy is loaded."""
    began = time.perf_counter()
    futures = [client.submit(Slow.work) for _ in range(20 * COPIES)]
    while warm_copies(client) < COPIES:
        if time.perf_counter() - began > result_timeout_s:
            raise RuntimeError(f"no {COPIES} copies within {result_timeout_s} s")
        # Asking takes work from the broker that is measured, so not more often than is needed.
        time.sleep(LOOK_S)
    elapsed_s = time.perf_counter() - began
    gather(futures, timeout=result_timeout_s)
    return elapsed_s


def copies(_: int) -> Figures:
    """Return how soon there are as many copies as there may be, over the time to load one."""
    figures: Figures = {}
    for name, replicas in (("connected", COPIES), ("started for it", (1, COPIES))):
        with LocalCluster([{"replicas": replicas}]) as cluster, cluster.client() as client:
            figures[f"{name}: all copies / load"] = seconds_to_all(client) / LOAD_S
    return figures


# ---- the demo's model


class Magika(Environment):
    """The model of the demo."""

    def enter(self) -> None:
        from magika import Magika as Model  # noqa: PLC0415 - only who loads it needs it.

        self.model = Model()

    def identify(self, content: bytes) -> str:
        return str(self.model.identify_bytes(content).output.label)


def demo(_: int) -> Figures:
    """Return what a warm model saves."""
    content = Path(__file__).read_bytes()
    taken: dict[str, list[float]] = {"warm": [], "cold": []}
    with LocalCluster(actors=1, slots=1) as cluster, cluster.client() as client:
        client.submit(Magika.identify, content).result(timeout=result_timeout_s)
        for reuse in (True, False) * 5:
            began = time.perf_counter()
            future = client.submit(Magika.identify, content, reuse=reuse)
            assert future.result(timeout=result_timeout_s) == "python"
            taken["warm" if reuse else "cold"].append(time.perf_counter() - began)
            if not reuse:
                client.submit(Magika.identify, content).result(timeout=result_timeout_s)
    warm_ms, cold_ms = (1e3 * statistics.median(each) for each in taken.values())
    return {"warm, ms": warm_ms, "cold, ms": cold_ms, "cold / warm": cold_ms / warm_ms}


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


def batching(_: int) -> Figures:
    """Return what a model answers with and without `@batch`."""
    figures: Figures = {}
    with LocalCluster(actors=1, slots=1) as cluster, cluster.client() as client:
        for name, method in (("single", Model.single), ("batched", Model.batched)):
            client.submit(method, 0).result(timeout=result_timeout_s)
            figures |= offer(client, method, name)
    figures["batched / single, items/s"] = figures["batched, items/s"] / figures["single, items/s"]
    figures["batched / single, p99"] = figures["batched, p99 ms"] / figures["single, p99 ms"]
    return figures


FIGURES: dict[str, Callable[[int], Figures]] = {
    "calls": calls,
    "copies": copies,
    "batching": batching,
}
if importlib.util.find_spec("magika") is not None:
    FIGURES["demo"] = demo


def told(values: list[float]) -> str:
    """Return what one figure came to, in as many digits as it is worth."""
    return spread(values, digits=2 if statistics.median(values) < 20 else 0)


def main() -> int:
    parser = arguments("Measure what environments cost, save and gain.")
    parser.add_argument(
        "--only", action="append", choices=FIGURES, metavar="NAME", help=f"of {', '.join(FIGURES)}"
    )
    options = parser.parse_args()
    chosen = options.only or list(FIGURES)
    print(f"{machine()}; {options.rounds} rounds of {', '.join(chosen)}", flush=True)
    rounds: dict[str, list[Figures]] = {name: [] for name in chosen}
    try:
        with bounded(options.timeout_s):
            # In turn, so that a busy moment of the machine meets all.
            for _ in range(options.rounds):
                for name in chosen:
                    rounds[name].append(FIGURES[name](options.count))
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    rows = [
        [name, key, told([figures[key] for figures in each])]
        for name, each in rounds.items()
        for key in each[0]
    ]
    print(table(["", "figure", "median (lowest-highest)"], rows))
    if options.json:
        Path(options.json).write_text(json.dumps(rounds, indent=2), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
