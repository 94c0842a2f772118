"""What a no-op costs in processor time and in sleeps, beside the bare relay: these repeat well.

The rule: wall-clock times lie on a machine that others use too, what the kernel counts for each
thread hardly does. Linux only: it is read from /proc.

    python -m bench.cost [--rounds 5] [--count 1000] [--transport tcp|ipc|both] [--by-thread]

For each path microseconds of processor time and voluntary changes of threads, for one round trip
and for one of many tasks that are submitted one by one and then all gathered.
"""

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from bench.floor import Relay
from bench.latency import echo, first_result_timeout_s, round_trips, throughput
from bench.support import TRANSPORTS, Workspace, arguments, bounded, machine, table
from sdk import Client

warm_up_count = 300
ROLES = {
    "bench.relay broker": "broker",
    "bench.relay worker": "actor",
    "-m broker": "broker",
    "actor.child": "actor",
    "-m actor": "host",
}

# Of each thread, by process and thread: (microseconds, voluntary switches).
Use = dict[tuple[int, int], tuple[float, int]]
# Of each role: (microseconds, voluntary switches) for one task.
Cost = dict[str, tuple[float, float]]


def processes() -> list[int]:
    """List this process and all that it has started, directly or not."""
    found, todo = [], [os.getpid()]
    while todo:
        pid = todo.pop()
        found.append(pid)
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            todo += map(int, children.read_text().split())
    return found


def use_of(pids: list[int]) -> Use:
    """Read what each thread of *pids* has used until now."""
    use: Use = {}
    for pid in pids:
        for folder in Path(f"/proc/{pid}/task").iterdir():
            try:
                run_ns = int((folder / "schedstat").read_text().split()[0])
                status = (folder / "status").read_text()
            except FileNotFoundError:  # It has just ended.
                continue
            switches = status.partition("\nvoluntary_ctxt_switches:")[2].split()[0]
            use[pid, int(folder.name)] = run_ns / 1e3, int(switches)
    return use


def role_of(pid: int, thread: int, *, by_thread: bool) -> str:
    """Name a process by its part, and with *by_thread* also its thread."""
    command = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    role = next((role for part, role in ROLES.items() if part in command), "client")
    if not by_thread:
        return role
    name = "main" if pid == thread else Path(f"/proc/{pid}/task/{thread}/comm").read_text().strip()
    return f"{role} {name}"


def cost_of(work: Callable[[], object], count: int, *, by_thread: bool) -> Cost:
    """Do *work*, and return what each role used for one of its *count* parts."""
    pids = processes()
    before = use_of(pids)
    work()
    cost: Cost = {}
    for (pid, thread), (now_us, now_switches) in use_of(pids).items():
        was_us, was_switches = before.get((pid, thread), (0.0, 0))
        role = role_of(pid, thread, by_thread=by_thread)
        used_us, switches = cost.get(role, (0.0, 0.0))
        used_us += (now_us - was_us) / count
        cost[role] = used_us, switches + (now_switches - was_switches) / count
    return cost


def measure_relay(transport: str, count: int, *, by_thread: bool) -> tuple[Cost, Cost]:
    with Relay(transport) as relay:
        trip = cost_of(lambda: relay.round_trips(count), count, by_thread=by_thread)
        many = cost_of(lambda: relay.throughput(count * 5), count * 5, by_thread=by_thread)
    return trip, many


def measure_warmslot(
    transport: str, count: int, prefetch: str, *, by_thread: bool
) -> tuple[Cost, Cost]:
    with ExitStack() as ending:
        workspace = ending.enter_context(Workspace())
        endpoint = workspace.endpoint(transport)
        workspace.start("broker", "--no-journal", "--bind", endpoint)
        workspace.start("actor", "--broker", endpoint, "--slots", "1", "--prefetch", prefetch)
        client = ending.enter_context(Client(endpoint))
        client.submit(echo, 0).result(timeout=first_result_timeout_s)
        round_trips(client, warm_up_count)
        trip = cost_of(lambda: round_trips(client, count), count, by_thread=by_thread)
        many = cost_of(lambda: throughput(client, count * 5), count * 5, by_thread=by_thread)
    return trip, many


def rows_of(path: str, what: str, costs: list[Cost]) -> list[list[str]]:
    """Format the medians of all rounds, the sum of all roles first."""
    totals = [tuple(map(sum, zip(*cost.values(), strict=True))) for cost in costs]
    rows = [[path, what, "all", *cells([(us, switches) for us, switches in totals])]]
    for role in sorted({role for cost in costs for role in cost}):
        used = [cost.get(role, (0.0, 0.0)) for cost in costs]
        if median(us for us, _ in used) >= 0.05:
            rows.append(["", "", role, *cells(used)])
    return rows


def cells(used: list[tuple[float, float]]) -> list[str]:
    return [f"{median(us for us, _ in used):,.1f}", f"{median(n for _, n in used):.2f}"]


def main() -> int:
    parser = arguments("Measure the processor time of a no-op beside the bare relay.")
    parser.set_defaults(count=1000, transport="tcp")
    parser.add_argument("--by-thread", action="store_true", help="tell the threads apart, too")
    options = parser.parse_args()
    if not Path("/proc/self/schedstat").exists():
        print("bench: this system does not tell what each thread uses", file=sys.stderr)
        return 1
    print(f"{machine()}; {options.rounds} rounds, {options.count} round trips each", flush=True)
    by_thread, rows = options.by_thread, []
    with bounded(options.timeout_s):
        for transport in TRANSPORTS[options.transport]:
            found: dict[str, list[tuple[Cost, Cost]]] = {}
            for _ in range(options.rounds):
                costs = measure_relay(transport, options.count, by_thread=by_thread)
                found.setdefault("relay, naive", []).append(costs)
                for prefetch in ("0", "16", "auto"):
                    costs = measure_warmslot(
                        transport, options.count, prefetch, by_thread=by_thread
                    )
                    found.setdefault(f"warmslot, prefetch {prefetch}", []).append(costs)
            for path, both in found.items():
                rows += rows_of(f"{transport} {path}", "round trip", [trip for trip, _ in both])
                rows += rows_of("", "one of many", [many for _, many in both])
    print(table(["path", "", "process", "CPU us", "sleeps"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
