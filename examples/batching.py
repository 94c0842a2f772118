"""Send single items to a model that reads many at once, with and without `@batch`.

    python examples/batching.py [--items N] [--rounds N] [--quick]

The model takes 10 ms for each call and 1 ms more for each item, as many do: what is paid once a
call is paid for all items of it. Whoever submits knows nothing of batches: each item is one task
with a future of its own.

Exit status 0: every item had its own answer, also the one that cannot be read, and batching was at
least twice as fast.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from typing import Any

from sdk import Client, Environment, LocalCluster, ReusePolicy, batch

CALL_S = 0.010
ITEM_S = 0.001
UNREADABLE = ""


class Model(Environment):
    """Counts letters, slowly."""

    reuse = ReusePolicy(replicas=(1, 2))

    def enter(self) -> None:
        self.sizes: list[int] = []

    def single(self, text: str) -> int:
        """Take one item at a time."""
        return self.answer([text])[0]

    @batch(max_size=32, max_wait_ms=5)
    def batched(self, texts: list[str]) -> list[int | Exception]:
        """Take as many as have come; what is wrong with one is the answer to that one."""
        self.sizes.append(len(texts))
        found = self.answer([text for text in texts if text != UNREADABLE])
        answers = iter(found)
        return [
            ValueError("nothing to read") if text == UNREADABLE else next(answers) for text in texts
        ]

    def answer(self, texts: list[str]) -> list[int]:
        time.sleep(CALL_S + ITEM_S * len(texts))
        return [len(text) for text in texts]

    def seen(self) -> list[int]:
        sizes, self.sizes = self.sizes, []
        return sizes


@dataclass
class Run:
    wall_s: float
    items: int
    sizes: list[int]

    @property
    def per_s(self) -> float:
        return self.items / self.wall_s


def go(client: Client, method: Any, texts: list[str]) -> Run:
    """Send all items, and check each answer."""
    began = time.perf_counter()
    futures = client.map(method, texts)
    for text, future in zip(texts, futures, strict=True):
        if text != UNREADABLE:
            assert future.result(timeout=60) == len(text), "an answer of somebody else"
        else:
            assert isinstance(future.exception(timeout=60), ValueError)
    wall_s = time.perf_counter() - began
    return Run(wall_s, len(texts), client.submit(Model.seen).result(timeout=60))


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare single calls with batches of them.")
    parser.add_argument("--items", metavar="N", type=int, default=400)
    parser.add_argument("--rounds", metavar="N", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="100 items in one round")
    options = parser.parse_args()
    if options.quick:
        options.items, options.rounds = 100, 1
    if min(options.items, options.rounds) < 1:
        parser.exit(2, "batching: --items and --rounds must be above 0\n")
    readable = [f"item {number}" for number in range(options.items)]

    print(f"{options.items} items, a model of 10 ms a call and 1 ms an item, one slot", flush=True)
    singles, batches = [], []
    with LocalCluster(actors=1, slots=1) as cluster, cluster.client() as client:
        client.submit(Model.single, "warm").result(timeout=60)
        for _ in range(options.rounds):
            singles.append(go(client, Model.single, readable))
            batches.append(go(client, Model.batched, [*readable, UNREADABLE]))
    return show(singles, batches)


def show(singles: list[Run], batches: list[Run]) -> int:
    """Print the best round of each; return the exit status."""
    rows = [("", "wall s", "items/s", "calls of the model", "items a call")]
    for name, runs in (("one at a time", singles), ("@batch", batches)):
        best = min(runs, key=lambda run: run.wall_s)
        calls = len(best.sizes) or best.items
        mean = best.items / calls
        wall, per_s = f"{best.wall_s:.2f}", f"{best.per_s:.0f}"
        rows.append((name, wall, per_s, str(calls), f"{mean:.1f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(f"| {' | '.join(cells)} |")
    gain = max(run.per_s for run in batches) / max(run.per_s for run in singles)
    print(f"\nbatching is {gain:.1f} times as fast")
    return 0 if gain >= 2.0 else 1


if __name__ == "__main__":
    sys.exit(main())
