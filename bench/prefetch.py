"""What waiting ahead is worth: tasks a second with `--prefetch auto` against none, by run time.

The rule: both run in the same round, one after the other, with the same tasks. Short ones should
gain, long ones lose nothing. A task keeps its processor busy for its run time.

    python -m bench.prefetch [--rounds 5] [--count 2000] [--transport tcp|ipc|both]
"""

import sys
import time

from bench.support import TRANSPORTS, Workspace, arguments, bounded, machine, spread, table
from sdk import Client, gather

RUNS_S = (0.0, 0.000_1, 0.001, 0.1)
# The longer the runs the fewer, so that all together take about so long.
tasks_min = 20
result_timeout_s = 60.0


def busy(run_s: float) -> None:
    """Run for *run_s* seconds."""
    end = time.perf_counter() + run_s
    while time.perf_counter() < end:
        pass


def rates(transport: str, prefetch: str, count: int) -> list[float]:
    """Return the tasks a second for each of the run times, of one actor with one slot."""
    found = []
    with Workspace() as workspace:
        endpoint = workspace.endpoint(transport)
        workspace.start("broker", "--no-journal", "--bind", endpoint)
        workspace.start("actor", "--broker", endpoint, "--slots", "1", "--prefetch", prefetch)
        with Client(endpoint) as client:
            for run_s in RUNS_S:
                tasks = max(tasks_min, min(count, int(count * 0.000_5 / max(run_s, 0.000_5))))
                # What the actor has learned from these is what counts.
                gather(client.map(busy, [run_s] * tasks_min, batch=1), timeout=result_timeout_s)
                began = time.monotonic()
                futures = [client.submit(busy, run_s) for _ in range(tasks)]
                gather(futures, timeout=result_timeout_s)
                found.append(tasks / (time.monotonic() - began))
    return found


def main() -> int:
    parser = arguments("Measure what waiting ahead is worth.")
    parser.set_defaults(count=2000)
    options = parser.parse_args()
    print(f"{machine()}; {options.rounds} rounds of up to {options.count} tasks", flush=True)
    rows = []
    with bounded(options.timeout_s):
        for transport in TRANSPORTS[options.transport]:
            rounds = [
                (rates(transport, "0", options.count), rates(transport, "auto", options.count))
                for _ in range(options.rounds)
            ]
            for place, run_s in enumerate(RUNS_S):
                none = [without[place] for without, _ in rounds]
                auto = [with_it[place] for _, with_it in rounds]
                ratios = [b / a for a, b in zip(none, auto, strict=True)]
                row = [f"{transport} {1000 * run_s:g} ms", spread(none), spread(auto)]
                rows.append([*row, spread(ratios, digits=2)])
    print(table(["run", "none, tasks/s", "auto, tasks/s", "auto / none"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
