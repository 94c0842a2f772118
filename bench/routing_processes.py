"""Model routing with real processes: the workload of `bench.routing`, five times as fast.

The rule: every policy gets the same tasks at the same times, on actors started anew: 8 processes of
one slot that hold 2 of 50 models each. Loading and running are sleeps, so that two cores do for
all of them. The last two policies are environments; with the others a task keeps the models itself,
the one used the longest time ago is given up, and the client says where it goes.

    python -m bench.routing_processes [--rounds 2] [--rate 15] [--seconds 120] [--plot FILE.svg]

That runs all policies in about seven minutes, of which each line that it prints says the seconds.
"""

import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from random import Random
from typing import Any

from bench.routing import ACTORS, HELD, LOAD_S, MODELS, RUN_S, Figures, Tasks, show, tasks_of
from bench.support import Workspace, bounded, machine
from sdk import Client, Environment, ReusePolicy, TaskFuture, gather

FASTER = 5.0
load_s, run_s = LOAD_S / FASTER, RUN_S / FASTER
start_timeout_s = 60.0
result_timeout_s = 300.0


class Model(Environment):
    """What takes long to load."""

    reuse = ReusePolicy(replicas=(0, ACTORS), idle_ttl=3600, scaledown_ttl=3600)

    def enter(self, number: int = 0) -> None:
        """Load it."""
        self.number = number
        time.sleep(load_s)

    def run(self) -> tuple[int, float]:
        """Return when it began."""
        began = time.monotonic()
        time.sleep(run_s)
        return 0, began


def run_cached(model: int) -> tuple[int, float]:
    """Run with a model that is loaded where it is not held; return whether, and when it began."""
    held: dict[int, None] = sys.__dict__.setdefault("models_held", {})
    loads = model not in held
    if loads:
        time.sleep(load_s)
        if len(held) == HELD:
            del held[next(iter(held))]
    held.pop(model, None)
    held[model] = None
    began = time.monotonic()
    time.sleep(run_s)
    return int(loads), began


# Submits a task of a model.
Submit = Callable[[Client, int], TaskFuture]


def to(client: Client, model: int, actor: int) -> TaskFuture:
    return client.submit(run_cached, model, desired_labels={"name": f"h/{actor}"})


def at_random(seed: int) -> Submit:
    random = Random(seed)
    return lambda client, model: to(client, model, random.randrange(ACTORS))


def by_hash(seed: int) -> Submit:
    order = list(range(MODELS))
    Random(seed).shuffle(order)
    return lambda client, model: to(client, model, order[model] % ACTORS)


def most_free(_: int) -> Submit:
    return lambda client, model: client.submit(run_cached, model)


def spilling(_: int) -> Submit:
    wanted = [Model.using(number=number).run for number in range(MODELS)]
    return lambda client, model: client.submit(wanted[model], affinity_wait=0)


def warmslot(_: int) -> Submit:
    wanted = [Model.using(number=number).run for number in range(MODELS)]
    return lambda client, model: client.submit(wanted[model])


POLICIES = {
    "random": at_random,
    "most free credit": most_free,
    "hash by model": by_hash,
    "immediate spill": spilling,
    "warmslot": warmslot,
}


def actors_of(client: Client) -> list[dict[str, Any]]:
    """Return who is there; nobody while the broker starts."""
    try:
        return client.actors()
    except TimeoutError:
        return []


def measure(tasks: Tasks, submit: Submit) -> Figures:
    """Let real actors run all of *tasks*, which come when they say."""
    figures = Figures()
    with Workspace() as workspace:
        endpoint = workspace.endpoint("ipc")
        workspace.start("broker", "--no-journal", "--bind", endpoint)
        options = ("--name", "h", "--replicas", str(ACTORS), "--slots", "1", "--prefetch", "0")
        held = ("--environments-max", str(HELD))
        workspace.start("actor", "--broker", endpoint, *options, *held)
        with Client(endpoint) as client:
            until = time.monotonic() + start_timeout_s
            while len(actors_of(client)) < ACTORS:
                if time.monotonic() > until:
                    raise RuntimeError(f"the actors did not start:\n{workspace.logs()}")
                time.sleep(0.1)
            futures = []
            began = time.monotonic()
            for when, model in tasks:
                time.sleep(max(0.0, began + when / FASTER - time.monotonic()))
                futures.append(submit(client, model))
            found = gather(futures, timeout=result_timeout_s)
            known = client.query("environments")["environments"]
    for (when, _), (loads, first_line) in zip(tasks, found, strict=True):
        figures.waits.append((first_line - began) * FASTER - when)
        figures.loads += loads
    figures.loads += sum(environment["loads"] for environment in known)
    return figures


def main() -> int:
    """Print a row for each policy, and draw the waits when asked to."""
    parser = ArgumentParser(description="Compare where tasks of many models go, with processes.")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rate", type=float, default=15.0, help="tasks a second; default 15")
    parser.add_argument("--seconds", type=float, default=120.0, help="before it is made faster")
    parser.add_argument("--plot", metavar="FILE.svg", help="draw how long tasks wait")
    options = parser.parse_args()
    print(f"{machine()}; {options.rounds} rounds, {FASTER:g} times as fast", flush=True)
    found: dict[str, list[Figures]] = {name: [] for name in POLICIES}
    with bounded(3600):
        for seed in range(options.rounds):
            tasks = tasks_of(options.rate, options.seconds, seed)
            for name, policy in POLICIES.items():
                began = time.monotonic()
                found[name].append(measure(tasks, policy(seed)))
                print(f"round {seed + 1}, {name}: {time.monotonic() - began:.0f} s", flush=True)
    show(found, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
