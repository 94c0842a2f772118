"""How fast a slot, a limit or a label is of use: from its change to the first line of who waited.

The rule: whoever is next waits already, so what is measured is the way of the news to the broker
and back, as a ratio to the round trip of the bare relay in the same round. The goal is at most 1.0.
Like is compared with like: hand-overs one right after another with such round trips, and hand-overs
between processes that have slept, which run with cold caches, with round trips after such a sleep.
No task waits ahead in the actor there. The last row is of a stream with `--prefetch auto`, the
default: each task gives its slot back at once and stays for a while, as one that writes something.

    python -m bench.slots [--rounds 5] [--count 200] [--transport tcp|ipc|both] [--json FILE]
"""

import itertools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from bench.floor import Relay
from bench.support import (
    TRANSPORTS,
    Workspace,
    arguments,
    bounded,
    machine,
    percentile,
    spread,
    table,
)
from sdk import Client, TaskFuture, current_task, gather

# What all others are a ratio of.
FLOOR = "relay, round trip"
STREAM = "release_slot() in a stream, prefetch auto"

first_result_timeout_s = 30.0
result_timeout_s = 20.0
# So many hand each other what they hold, one right after another; then each stays in its thread, of
# which an actor has at most a hundred for those that have released.
row_length = 50
row_waits_s = 0.4
row_takes_s = 0.4
# A stream is so long that an actor that looks at its runs every 10 ms has seen what they are like.
stream_length = 1_000
stream_takes_s = 0.004
# The one that releases does so when the next has surely reached the broker, and a guard of the
# actor has surely taken the lead (after 10 ms), as behind any run that lasts.
head_start_s = 0.02


def release_then_stay() -> float:
    """Return when the slot was given back; go on until the next task has surely begun."""
    time.sleep(head_start_s)
    released = time.monotonic()
    current_task().release_slot()
    time.sleep(head_start_s)
    return released


def leave_limit_then_stay() -> float:
    """Return when the limit was left; go on until the next holder has surely begun."""
    with current_task().limit("one"):
        time.sleep(head_start_s)
        left = time.monotonic()
    time.sleep(head_start_s)
    return left


def relabel_then_stay(version: int) -> float:
    """Return when the labels were to be changed; go on until who waits for them has begun."""
    time.sleep(head_start_s)
    changed = time.monotonic()
    current_task().actor.upsert_labels({"version": version})
    time.sleep(head_start_s)
    return changed


def hold_slot(until: float) -> None:
    sleep_until(until)


def hold_limit(until: float) -> None:
    with current_task().limit("one"):
        current_task().release_slot()
        sleep_until(until)


def offer_first(until: float, version: int) -> None:
    sleep_until(until)
    current_task().actor.upsert_labels({"version": version})


def take_then_release(ends_at: float) -> tuple[float, float]:
    """Return when this began and gave back slot and limit; stay until the row has ended."""
    began = time.monotonic()
    current_task().release_slot()
    sleep_until(ends_at)
    return began, began


def enter_then_leave(ends_at: float) -> tuple[float, float]:
    """Return when this was inside the limit and left it; stay until the row has ended."""
    with current_task().limit("one"):
        began = time.monotonic()
    sleep_until(ends_at)
    return began, began


def begin_then_relabel(ends_at: float, version: int) -> tuple[float, float]:
    """Return when this began and when it offered the next label; stay until the row has ended."""
    began = time.monotonic()
    current_task().actor.upsert_labels({"version": version})
    sleep_until(ends_at)
    return began, began


def release_in_a_stream() -> float:
    """Return when this began; give the slot back, and go on as long as some that follow."""
    began = time.monotonic()
    current_task().release_slot()
    time.sleep(stream_takes_s)
    return began


def sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def first_line() -> float:
    return time.monotonic()


def first_line_inside() -> float:
    with current_task().limit("one"):
        return time.monotonic()


Handover = Callable[[Client], tuple[TaskFuture, TaskFuture]]
Row = Callable[[Client, float, float], list[TaskFuture]]


class Kind(NamedTuple):
    """What changes hands: once, after a sleep, and in a row; with how many slots of the actor."""

    once: Handover
    slots: int
    row: Row
    row_slots: int


def when_held(client: Client, hold: Callable[..., object], *arguments: float) -> TaskFuture:
    """Return a task that was seen to hold the limit."""
    while True:
        holder = client.submit(hold, *arguments)
        while not holder.done():
            if any(key["holders"] for key in client.query("limits")["limits"][0]["keys"]):
                return holder


def slot(client: Client) -> tuple[TaskFuture, TaskFuture]:
    return client.submit(release_then_stay), client.submit(first_line)


def slots_in_a_row(client: Client, begins_at: float, ends_at: float) -> list[TaskFuture]:
    _ = client.submit(hold_slot, begins_at)
    return [client.submit(take_then_release, ends_at) for _ in range(row_length)]


def limit_at_scheduling(client: Client) -> tuple[TaskFuture, TaskFuture]:
    holder = when_held(client, leave_limit_then_stay)
    return holder, client.submit(first_line, limits={"one": 1})


def limits_in_a_row(client: Client, begins_at: float, ends_at: float) -> list[TaskFuture]:
    _ = when_held(client, hold_limit, begins_at)
    limited = client.options(limits={"one": 1})
    return [limited.submit(take_then_release, ends_at) for _ in range(row_length)]


def limit_inside(client: Client) -> tuple[TaskFuture, TaskFuture]:
    holder = when_held(client, leave_limit_then_stay)
    return holder, client.submit(first_line_inside)


def limits_inside_in_a_row(client: Client, begins_at: float, ends_at: float) -> list[TaskFuture]:
    _ = when_held(client, hold_limit, begins_at)
    return [client.submit(enter_then_leave, ends_at) for _ in range(row_length)]


# Names of models that come and go: none is offered when it is waited for.
versions = itertools.count()


def label(client: Client) -> tuple[TaskFuture, TaskFuture]:
    version = next(versions)
    waiting = client.submit(first_line, desired_labels={"version": version})
    return client.submit(relabel_then_stay, version), waiting


def labels_in_a_row(client: Client, begins_at: float, ends_at: float) -> list[TaskFuture]:
    first = next(versions)
    names = [first, *(next(versions) for _ in range(row_length))]
    row = []
    for version, following in itertools.pairwise(names):
        wanting = client.options(desired_labels={"version": version})
        row.append(wanting.submit(begin_then_relabel, ends_at, following))
    _ = client.submit(offer_first, begins_at, first)
    return row


HANDOVERS = {
    "release_slot() to a task that waits": Kind(slot, 1, slots_in_a_row, 1),
    "limit to a task that waits at scheduling": Kind(limit_at_scheduling, 2, limits_in_a_row, 1),
    "limit to a task that waits inside": Kind(limit_inside, 2, limits_inside_in_a_row, 60),
    "upsert_labels() to a task that waits for it": Kind(label, 2, labels_in_a_row, 60),
}


def once_each(client: Client, count: int, hand_over: Handover) -> list[float]:
    """Return the seconds from each release to the first line of the task that waited for it."""
    samples = []
    for _ in range(count):
        releasing, waiting = hand_over(client)
        waiting.accepted(timeout=result_timeout_s)
        released = releasing.result(timeout=result_timeout_s)
        samples.append(waiting.result(timeout=result_timeout_s) - released)
    assert min(samples) > 0.0, "a task began before the slot was free"
    return samples


def in_rows(client: Client, count: int, row: Row) -> list[float]:
    """Return the seconds from each release to the first line of the next, in rows of tasks."""
    samples: list[float] = []
    while len(samples) < count:
        begins_at = time.monotonic() + row_waits_s
        ends_at = begins_at + row_takes_s
        waiting = row(client, begins_at, ends_at)
        times = sorted(gather(waiting, timeout=result_timeout_s))
        assert times[0][0] > begins_at, "a task began before it was its turn"
        assert times[-1][0] < ends_at, "the row did not end in time: some stood in the others' way"
        samples += [began - gave for (_, gave), (began, _) in itertools.pairwise(times)]
    return samples


def in_a_stream(client: Client) -> list[float]:
    """Return the seconds from the first line of each task to that of the next."""
    stream = [client.submit(release_in_a_stream) for _ in range(stream_length)]
    times = sorted(gather(stream, timeout=result_timeout_s))
    return [after - before for before, after in itertools.pairwise(times)]


@contextmanager
def deployed(transport: str, slots: int, prefetch: str = "0") -> Iterator[Client]:
    """Start a broker with a limit of one, which is open, and an actor; give a client of them."""
    with Workspace() as workspace:
        endpoint = workspace.endpoint(transport)
        workspace.start("broker", "--no-journal", "--bind", endpoint, "--limit", "one=1")
        options = ("--slots", str(slots), "--prefetch", prefetch)
        workspace.start("actor", "--broker", endpoint, *options)
        with Client(endpoint) as client:
            client.submit(first_line_inside).result(timeout=first_result_timeout_s)
            yield client


def measure(transport: str, count: int) -> dict[str, tuple[list[float], list[float]]]:
    """Return what one round gave: samples in a row, and samples after a sleep each, in seconds."""
    found = {}
    with Relay(transport) as relay:
        warm = relay.round_trips(max(count, 500))
        found[FLOOR] = warm, relay.round_trips(count, pause_s=head_start_s)
    for name, kind in HANDOVERS.items():
        with deployed(transport, kind.row_slots) as client:
            in_rows(client, row_length, kind.row)
            rows = in_rows(client, count, kind.row)
        with deployed(transport, kind.slots) as client:
            once_each(client, 20, kind.once)
            found[name] = rows, once_each(client, count, kind.once)
    with deployed(transport, 1, "auto") as client:
        in_a_stream(client)
        found[STREAM] = in_a_stream(client), []
    return found


def main() -> int:
    parser = arguments("Measure how fast a slot or a limit changes hands, and a label is of use.")
    parser.set_defaults(count=200)
    options = parser.parse_args()
    print(f"{machine()}; {options.rounds} rounds, {options.count} hand-overs each", flush=True)
    lines = []
    with bounded(options.timeout_s):
        for transport in TRANSPORTS[options.transport]:
            rounds = [measure(transport, options.count) for _ in range(options.rounds)]
            for name in rounds[0]:
                line = [transport, name]
                for way in (0,) if name == STREAM else (0, 1):
                    middles = [1e6 * percentile(found[name][way], 0.5) for found in rounds]
                    floors = [1e6 * percentile(found[FLOOR][way], 0.5) for found in rounds]
                    tails = [1e6 * percentile(found[name][way], 0.99) for found in rounds]
                    ratios = [own / floor for own, floor in zip(middles, floors, strict=True)]
                    line += [spread(middles), spread(tails), spread(ratios, digits=2)]
                lines.append([*line, *[""] * (8 - len(line))])
    in_row, slept = "one after another", f"after {1000 * head_start_s:g} ms of sleep"
    heads = ["", "hand-over", f"{in_row}: p50 us", "p99 us", "p50 / relay"]
    print(table([*heads, f"{slept}: p50 us", "p99 us", "p50 / relay"], lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
