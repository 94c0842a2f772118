"""Tasks that need memory, and would like the actor that has their model already.

    python examples/worker_affinity.py [--tasks N]

The program of the worker-affinity page of Hatchet's documentation: an actor must have more than 256
of memory, and of those that have, the one that offers the model is preferred by its weight. Where
that one is busy another takes the task; the one with too little memory never does.
"""

import argparse
import sys
import time
from collections import Counter

from sdk import Comparator, Desired, LocalCluster, current_task

MODEL = "fancy-ai-model-v2"
ACTORS = [
    {"name": "warm", "labels": {"model": MODEL, "memory": 512}},
    {"name": "cold", "labels": {"model": "unset", "memory": 512}},
    {"name": "small", "labels": {"model": MODEL, "memory": 64}},
]
WANTED = {
    "model": Desired(MODEL, required=False, weight=10),
    "memory": Desired(256, Comparator.GREATER_THAN),
}


def step(seconds):
    time.sleep(seconds)
    return current_task().actor.name.partition("/")[0]


def main() -> int:
    parser = argparse.ArgumentParser(description="Run tasks where there is memory, and the model.")
    parser.add_argument("--tasks", type=int, default=20, help="of each kind (default: 20)")
    tasks = parser.parse_args().tasks

    with LocalCluster(actors=ACTORS) as cluster, cluster.client() as client:
        submitter = client.options(desired_labels=WANTED)
        alone = Counter(submitter.submit(step, 0.0).result() for _ in range(tasks))
        burst = submitter.map(step, [0.05] * tasks)
        together = Counter(future.result() for future in burst)
    print(f"one at a time: {show(alone)}")
    print(f"all at once: {show(together)}")
    return 0


def show(counts):
    return ", ".join(f"{name} {counts[name]}" for name in ("warm", "cold", "small"))


if __name__ == "__main__":
    sys.exit(main())
