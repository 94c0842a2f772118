"""Machines that start more actors on the broker's word, and what goes wrong meanwhile.

After each fault the counts must come back to the policy: no host above its maximum, none of its
processes left when it was killed, and all that is not needed gone when nobody wants it any more.
"""

import contextlib
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from sdk import Environment, ReusePolicy, TaskFuture, current_task
from tests.chaos import history, strikes
from tests.chaos.cluster import Cluster
from tests.chaos.load import last, outcome_of
from tests.support.deployment import is_alive

# From one actor to sixteen, on two machines.
ACTORS_MAX: Final = 8
REPLICAS: Final = f"1:{ACTORS_MAX},0:{ACTORS_MAX}"
REPLICAS_MAX: Final = 16
CALLS: Final = 48
# Actors that are enough for the short form.
FEW: Final = 5
# Whoever is not needed should not stay for five seconds here.
SCALE_DOWN: Final = ("--scale-down", "0.5")

with warnings.catch_warnings():
    # No call of it waits for another.
    warnings.simplefilter("ignore", UserWarning)

    class Model(Environment):
        """Takes a moment to load."""

        reuse = ReusePolicy(replicas=(0, REPLICAS_MAX), idle_ttl=0.4, scaledown_ttl=0.4)

        def enter(self) -> None:
            last(0.2)

        def work(self, path: str, key: str) -> list[int]:
            token = list(current_task().token)
            history.note(path, what=history.BEGAN, key=key, token=token)
            last(0.2)
            history.note(path, what=history.ENDED, key=key, token=token)
            return token


def with_quick_scaling(it: Cluster) -> None:
    """Let the broker have let go after half a second of who is not needed."""
    it.broker_options = (*it.broker_options, *SCALE_DOWN)


def burst(it: Cluster) -> dict[str, TaskFuture]:
    """Submit many calls at once, for which there are too few actors."""
    # What always waits would keep every actor busy.
    it.load.in_flight = 1
    it.bursts += 1
    futures = {}
    for number in range(it.amount(CALLS, CALLS // 2)):
        key = f"burst{it.bursts}-{number}"
        note = {"client": "main", "once": False}
        history.note(str(it.history), what=history.CALLED, key=key, **note)
        futures[key] = it.load.client.submit(Model.work, str(it.history), key)
    return futures


def burst_until(it: Cluster, question: Callable[[], bool]) -> dict[str, TaskFuture]:
    """Submit a burst, and further ones until *question* is true; return all calls.

    Where we get few turns one may be over, with all that it brought, before we look.
    """
    futures = burst(it)

    def look() -> bool:
        if all(one.done() for one in futures.values()):
            futures.update(burst(it))
        watch(it)
        return question()

    it.load.until(look, it.story)
    return futures


def settle(it: Cluster, futures: dict[str, TaskFuture]) -> None:
    """Take the outcomes of a burst, and wait until nothing is left of what it needed."""
    for key, future in futures.items():
        it.load.until(future.done, it.story)
        kind, token = outcome_of(future)
        history.note(str(it.history), what=history.OUTCOME, key=key, kind=kind, token=token)
    began = time.monotonic()
    it.load.until(lambda: is_at_rest(it), it.story)
    it.converged_s.append(time.monotonic() - began)


def is_at_rest(it: Cluster) -> bool:
    """Tell whether each host has the actors that it always has, and their processes alone."""
    return all(
        len(there) == it.fewest(name) == len(children(it.processes[name].pid))
        for name, there in it.open_actors().items()
    )


def children(pid: int) -> list[int]:
    """Return the actors' processes that a host has started and that run, not what forks them."""
    found = []
    with contextlib.suppress(OSError):
        for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                if b"actor.forkserver" not in Path(f"/proc/{one}/cmdline").read_bytes():
                    found.append(int(one))
    return found


def watch(it: Cluster) -> None:
    """Raise Broken where there is more than the policy allows."""
    for name in it.machines:
        count = len(children(it.processes[name].pid)) if name in it.processes else 0
        # One that has ended and is not reaped yet may stand beside its successor.
        if count > 2 * ACTORS_MAX:
            raise history.Broken(f"{name} has {count} processes, and may have {ACTORS_MAX}")
    environments: list[dict[str, Any]] = it.load.client.query("environments")["environments"]
    for one in environments:
        if one["warm"] + one["loading"] > REPLICAS_MAX:
            raise history.Broken(f"more copies than {REPLICAS_MAX}: {one}")


def is_growing(it: Cluster) -> bool:
    """Tell whether some host has begun to start actors; they are there a moment later."""
    return any(len(children(it.processes[name].pid)) > it.fewest(name) for name in it.machines)


def scale(it: Cluster) -> None:
    """Let a burst bring all actors that may be, and go: nothing runs twice since one was let go."""
    before = strikes.again(it)
    most = it.amount(ACTORS_MAX * len(it.machines), FEW)
    futures = burst_until(it, lambda: sum(map(len, it.open_actors().values())) >= most)
    settle(it, futures)
    strikes.check_again(it, before, "scaling down")


def machine_kill_while_it_scales(it: Cluster) -> None:
    """Kill a host while it starts actors: none of its processes stays, and all is done."""
    futures = burst_until(it, lambda: is_growing(it))
    it.load.run(it.random.uniform(0.0, 0.3))
    growing = [
        name for name in it.machines if len(children(it.processes[name].pid)) > it.fewest(name)
    ]
    name = it.random.choice(growing or it.machines)
    mine = children(it.processes[name].pid)
    it.kill(name)
    it.load.until(lambda: not any(map(is_alive, mine)), it.story)
    it.start_machine(name)
    settle(it, futures)


def broker_kill_while_they_start(it: Cluster) -> None:
    """Kill the broker while replicas start: all is done, and nothing stays that nobody needs."""
    futures = burst_until(it, lambda: is_growing(it))
    it.load.run(it.random.uniform(0.0, 0.3))
    it.restart_broker()
    settle(it, futures)
