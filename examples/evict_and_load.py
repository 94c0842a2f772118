"""Swap the model of an actor from inside a task, and let the labels say so.

    python examples/evict_and_load.py [--requests N]

The second program of the worker-affinity page of Hatchet's documentation: a request would like an
actor that has its model. Where it runs on another, it takes the old one out of the labels, evicts
it, loads its own and offers that.

Beside it runs what that page leaves out: tasks that *require* a model, and must never start where
another one is, although the labels change all the time. `upsert_labels` returns when nothing starts
there any more that wants the old model; what waited there goes elsewhere.
"""

import argparse
import random
import sys
import time
from collections import Counter

from sdk import Desired, LocalCluster, current_task, gather

MODELS = ("small", "medium", "large")
LOAD_S, RUN_S = 0.02, 0.002
LOADED = {}  # Of the actor's process: what is in its memory.


def infer(model):
    """Answer with the model, loading it where it is not; tell whether it had to be."""
    actor = current_task().actor
    is_cold = LOADED.get("model") != model
    if is_cold:
        actor.upsert_labels({"model": "unset"})
        LOADED.clear()  # Nobody who wants the old one starts here from now on.
        time.sleep(LOAD_S)
        LOADED["model"] = model
        actor.upsert_labels({"model": model})
    time.sleep(RUN_S)
    return model, actor.name, is_cold


def main() -> int:
    parser = argparse.ArgumentParser(description="Swap models from inside tasks.")
    parser.add_argument("--requests", type=int, default=300, help="how many (default: 300)")
    requests = parser.parse_args().requests
    rng = random.Random(4)

    with LocalCluster(actors=2) as cluster, cluster.client() as client:
        requested, required = [], []
        for _ in range(requests):
            model = rng.choices(MODELS, (6, 3, 1))[0]
            wish = {"model": Desired(model, required=False, weight=10)}
            requested.append(client.submit(infer, model, desired_labels=wish))
            needed = rng.choice(MODELS)
            required.append(client.submit(infer, needed, desired_labels={"model": needed}))
        answers = gather(requested)
        # Some still wait for a model that is nowhere now; it has to be loaded once more.
        waiting = sum(not future.done() for future in required)
        for model in MODELS:
            client.submit(infer, model).result()
        checked = gather(required)

    loads = Counter(model for model, _, is_cold in answers if is_cold)
    stale = sum(is_cold for _, _, is_cold in checked)
    shown = ", ".join(f"{model} {loads[model]}" for model in MODELS)
    print(f"{len(answers)} requests loaded a model {sum(loads.values())} times: {shown}")
    print(f"{len(checked)} tasks required one, {waiting} of them until it was loaded again")
    print(f"{stale} tasks started where another model was")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
