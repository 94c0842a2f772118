"""How long actors take to start: forked from a process that has loaded what they run, or not.

The rule: both ways are measured in turn, round by round, with one broker that is there before.

    python -m bench.starts [--rounds 5] [--actors 1 --actors 10] [--json FILE]

started: from the start of `python -m actor --replicas N` until the broker would give a task to each
of the N. again: from SIGKILL to one of them until the broker would give a task to the next process
in its place, the tenth of a second included that the host waits before it starts one again.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from bench.support import Workspace, arguments, bounded, machine, spread, table
from sdk import Client

METHODS = ("forkserver", "spawn")
LOOK_S = 0.005
ready_timeout_s = 120.0

# Name -> milliseconds, of one round.
Figures = dict[str, float]


def main() -> int:
    parser = arguments("Measure how long actors take to start.")
    parser.add_argument(
        "--actors", type=int, action="append", metavar="N", help="default: 1, then 10"
    )
    options = parser.parse_args()
    counts = options.actors or [1, 10]
    print(f"{machine()}; {options.rounds} rounds", flush=True)
    rounds: list[Figures] = []
    try:
        with bounded(options.timeout_s), Workspace() as workspace:
            endpoint = workspace.endpoint("ipc")
            workspace.start("broker", "--bind", endpoint, "--no-journal")
            with Client(endpoint) as client:
                client.actors(timeout=ready_timeout_s)
                for _ in range(options.rounds):
                    figures: Figures = {}
                    for count in counts:
                        for method in METHODS:
                            figures |= start(client, endpoint, count, method)
                    rounds.append(figures)
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    rows = [[name, spread([each[name] for each in rounds])] for name in rounds[0]]
    print(table(["", "ms, median (lowest-highest)"], rows))
    if options.json:
        Path(options.json).write_text(json.dumps(rounds, indent=2), encoding="utf-8")
    return 0


def start(client: Client, endpoint: str, count: int, method: str) -> Figures:
    """Return how long *count* actors take to start, and one of them again."""
    with Workspace() as workspace:
        began = time.perf_counter()
        workspace.start(
            "actor",
            f"--broker={endpoint}",
            f"--name={method}-{count}",
            f"--replicas={count}",
            f"--start-method={method}",
            "--memory-high=off",
        )
        pids = until_ready(client, count, set())
        started_ms = 1e3 * (time.perf_counter() - began)
        began = time.perf_counter()
        os.kill(min(pids), signal.SIGKILL)
        until_ready(client, count, {min(pids)})
        again_ms = 1e3 * (time.perf_counter() - began)
    # The next ones begin without them.
    until_ready(client, 0, set())
    return {
        f"{count} started, {method}": started_ms,
        f"one of {count} again, {method}": again_ms,
    }


def until_ready(client: Client, count: int, gone: set[int]) -> set[int]:
    """Wait until *count* actors are open, none of them *gone*; return their processes."""
    by = time.perf_counter() + ready_timeout_s
    while time.perf_counter() < by:
        pids = {actor["pid"] for actor in client.actors() if actor["state"] == "open"}
        if len(pids) == count and not pids & gone:
            return pids
        # Asking takes work from the broker that is measured, so not more often than is needed.
        time.sleep(LOOK_S)
    raise RuntimeError(f"no {count} actors within {ready_timeout_s} s")


if __name__ == "__main__":
    sys.exit(main())
