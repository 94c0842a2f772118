"""What the broker's core costs: no sockets, no codec, one message at a time. Once with processes.

The rule: only the processor time of the core is counted, and a task is all of submit, assign,
outcome and the client's receipt. In each turn one actor ends one task and the client submits
another, so the backlog stays as it is however many actors there are.

    python -m bench.scheduler [--rounds 5] [--count 2000] [--part NAME]... [--small]
"""

import gc
import sys
import time
import tracemalloc
from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from bench.scheduler_processes import part_processes
from bench.support import arguments, bounded, machine, spread, table
from broker.core import Broker
from broker.events.defining import define
from broker.settings import Settings
from wire.codec import decode_peer, encode
from wire.labels import Comparator, Desire
from wire.limits import read_definition
from wire.messages import (
    ActorHello,
    Assign,
    Beat,
    ClientHello,
    Credit,
    Frame,
    Function,
    LabelsChanged,
    Outcome,
    Submit,
    Template,
)
from wire.parts import Call, Status

EPOCH = 1_000
# Which template the task of a number has.
Kind = Callable[[int], int]
HASH = b"h" * 16


class Peer:
    """One end that counts frames as a real peer does."""

    def __init__(self, cluster: "Cluster", rid: bytes, hello: object) -> None:
        """Open a session."""
        self.cluster, self.rid = cluster, rid
        self.sent = self.received = 0
        cluster.broker.receive(rid, Frame(1, 0, 1, 0, 0, [hello]), (), 0.0)

    def frame(self, *commands: object) -> Frame[Any]:
        """Return the next frame."""
        self.sent += 1
        return Frame(1, EPOCH, 1, self.sent, self.received, list(commands))

    def say(self, *commands: object) -> None:
        """Send one frame."""
        self.cluster.broker.receive(self.rid, self.frame(*commands), (), 0.0)


class Cluster:
    """A broker with a client and actors, and what they are about to say."""

    def __init__(
        self, actors: int, *, slots: int = 1, offers: Callable[[int], dict[str, Any]]
    ) -> None:
        """Let *actors* grant *slots* each and offer what *offers* says of their number."""
        settings = Settings(window_tasks=10**8, templates_max=10**7, adopt_window_s=0.0)
        self.broker = Broker(settings, epoch=EPOCH, now=0.0)
        self.broker.tick(0.0)
        self.clients = [Peer(self, b"c%d" % n, ClientHello(n + 1, "bench", "3.11")) for n in (0, 1)]
        self.client = self.clients[0]
        self.peers = {peer.rid: peer for peer in self.clients}
        self.slots = slots
        self.actors = []
        for n in range(actors):
            hello = ActorHello(100 + n, f"h/{n}", 1, 1, "3.11", 1, offers(n), {"slot": slots})
            actor = Peer(self, b"a%d" % n, hello)
            self.actors.append(actor)
            self.peers[actor.rid] = actor
        # (actor, number of its assignment), oldest first; which tasks were placed, in order.
        self.running: deque[tuple[Peer, int]] = deque()
        self.placed: list[tuple[int, int]] = []
        self.number = 0
        self.spent_s = 0.0

    def learn(self, calls: Sequence[Call], client: Peer | None = None) -> None:
        """Let a client name its *calls*: template N is the one at N."""
        peer = client or self.client
        peer.say(Function(0, HASH, b"code"))
        for n, call in enumerate(calls):
            peer.say(Template(n, call))

    def submit(self, count: int, template: Kind) -> None:
        """Queue *count* tasks."""
        for _ in range(count):
            self.number += 1
            self.client.say(Submit(self.number, template(self.number), b""))

    def grant(self) -> None:
        """Let every actor state its slots."""
        for actor in self.actors:
            actor.say(Credit(self.slots))
        self.hear(self.broker.flush(0.0))

    def hear(self, sends: Sequence[Any]) -> None:
        """Let the peers receive what the broker says."""
        for rid, frame, _ in sends:
            peer = self.peers[rid]
            peer.received = frame.number or peer.received
            for command in frame.commands:
                if type(command) is Assign:
                    self.running.append((peer, command.number))
                    self.placed.append((command.client, command.task))

    def turn(self, template: Kind | None, batch: int = 1) -> None:
        """End *batch* tasks of one actor and submit as many; count what the broker takes.

        Without *template* nothing is submitted, and the client's receipt is not counted.
        """
        told: list[tuple[bytes, Frame[Any]]] = []
        outcomes: dict[Peer, list[object]] = {}
        for _ in range(min(batch, len(self.running))):
            actor, number = self.running.popleft()
            outcomes.setdefault(actor, []).append(Outcome(EPOCH, number, Status.RESULT, b""))
        for actor, ended in outcomes.items():
            told.append((actor.rid, actor.frame(*ended, Credit(len(ended)))))
        if template is not None:
            submits = []
            for _ in range(batch):
                self.number += 1
                submits.append(Submit(self.number, template(self.number), b""))
            told.append((b"c0", self.client.frame(*submits)))
        receive, broker = self.broker.receive, self.broker
        began = time.process_time_ns()
        for rid, frame in told:
            receive(rid, frame, (), 0.0)
        sends = broker.flush(0.0)
        self.spent_s += (time.process_time_ns() - began) / 1e9
        self.hear(sends)
        if template is None:
            self.client.say(Beat())

    def cost_us(self, count: int, template: Kind | None, batch: int = 1) -> float:
        """Return the microseconds that one task takes, over *count* tasks."""
        gc.collect()
        gc.freeze()
        self.spent_s = 0.0
        for _ in range(count // batch):
            self.turn(template, batch)
        gc.unfreeze()
        return self.spent_s * 1e6 / count


def same(_: int) -> int:
    return 0


def everybody(_: int) -> dict[str, Any]:
    return {"memory": 512}


def eq(key: str, value: object, *, required: bool = True) -> Desire:
    return Desire(key, Comparator.EQUAL, value, required)  # type: ignore[arg-type]


def plain(desires: Sequence[Desire] = ()) -> Call:
    return Call("noop", HASH, desires=list(desires))


# --- parts: each returns rows of (axis, value, figures a round)

Row = tuple[str, str, list[float]]


def rounds_of(cluster: Cluster, options: Any, template: Kind | None, batch: int = 1) -> list[float]:
    """Return the cost of a task in each round, after one that does not count."""
    cluster.cost_us(max(batch, options.count // 4), template, batch)
    return [cluster.cost_us(options.count, template, batch) for _ in range(options.rounds)]


def part_rate(options: Any) -> list[Row]:
    """One desire and one actor, by tasks a frame: all of a task, and assign plus outcome alone."""
    rows: list[Row] = []
    for what, submits in (("submit to receipt", True), ("assign plus outcome", False)):
        for batch in (1, 16, 64):
            cluster = Cluster(1, slots=batch, offers=everybody)
            cluster.learn([plain([Desire("memory", Comparator.GREATER_THAN, 256)])])
            cluster.submit(1_000 if submits else options.count * (options.rounds + 2), same)
            cluster.grant()
            template = same if submits else None
            cost = rounds_of(cluster, options, template, batch)
            assert len(cluster.placed) >= options.count * options.rounds, "tasks were refused"
            rows.append((f"{what}, tasks a frame", f"{batch}", cost))
    return rows


def part_actors(options: Any) -> list[Row]:
    """How many actors: all busy with 1,000 tasks queued, and half of them idle."""
    rows: list[Row] = []
    for actors in (1, 10, 100, 1_000):
        cluster = Cluster(actors, offers=everybody)
        cluster.learn([plain()])
        cluster.submit(actors + 1_000, same)
        cluster.grant()
        rows.append(("actors, busy", f"{actors:,}", rounds_of(cluster, options, same)))
    for actors in (2, 10, 100, 1_000):
        cluster = Cluster(actors, offers=everybody)
        cluster.learn([plain()])
        cluster.grant()
        cluster.submit(actors // 2, same)
        cluster.hear(cluster.broker.flush(0.0))
        rows.append(("actors, half idle", f"{actors:,}", rounds_of(cluster, options, same)))
    for actors in (1, 10, 100, 1_000):
        cluster = Cluster(actors, offers=lambda n: {"name": f"h/{n}", "zone": f"z{n % 3}"})
        names = [plain([eq("name", f"h/{n}")]) for n in range(actors)]
        zones = [plain([eq("zone", f"z{n}", required=False)]) for n in range(3)]
        cluster.learn([plain(), *zones, *names])
        kinds = 4 + actors
        cluster.submit(actors + 1_000, lambda n, kinds=kinds: n % kinds)
        cluster.grant()
        cost = rounds_of(cluster, options, lambda n, kinds=kinds: n % kinds)
        rows.append(("actors, a desire for each", f"{actors:,}", cost))
    return rows


def part_queued(options: Any) -> list[Row]:
    """How many tasks wait."""
    rows: list[Row] = []
    for queued in (1_000, 10_000, 100_000, 1_000_000)[: 3 if options.small else 4]:
        cluster = Cluster(10, offers=everybody)
        cluster.learn([plain()])
        cluster.submit(queued, same)
        cluster.grant()
        rows.append(("queued", f"{queued:,}", rounds_of(cluster, options, same)))
    return rows


def part_limits(options: Any) -> list[Row]:
    """How many tasks wait for one limit, of which each turn hands one over."""
    rows: list[Row] = []
    for waiting in (10, 1_000, 10_000, 100_000)[: 3 if options.small else 4]:
        cluster = Cluster(2, slots=4, offers=everybody)
        define(cluster.broker, read_definition("db=1"))
        # Nobody is let in before the holders of an earlier broker were known.
        cluster.broker.tick(1.0)
        cluster.learn([Call("noop", HASH, limits={"db": 1})])
        cluster.grant()
        cluster.submit(1 + waiting, same)
        cluster.hear(cluster.broker.flush(0.0))
        rows.append(("waiting for one limit", f"{waiting:,}", rounds_of(cluster, options, same)))
        assert len(cluster.running) == 1, "more than one has it"
    return rows


def part_desires(options: Any) -> list[Row]:
    """How many distinct desires: met by all of 10 actors, by one of them, by nobody."""
    rows: list[Row] = []
    most = 10_000 if options.small else 100_000
    for desires in (1, 100, 10_000, 100_000):
        if desires > most:
            continue
        kinds = {
            "met by all": [Desire(f"k{n % 100}", Comparator.NOT_EQUAL, n) for n in range(desires)],
            "met by one": [eq("customer", n) for n in range(desires)],
        }
        for how, wanted in kinds.items():
            cluster = Cluster(
                10, offers=lambda n, desires=desires: {"customer": list(range(n, desires, 10))}
            )
            cluster.learn([plain([desire]) for desire in wanted])
            cluster.submit(max(1_000, desires), lambda n, desires=desires: n % desires)
            cluster.grant()
            cost = rounds_of(cluster, options, lambda n, desires=desires: n % desires)
            rows.append((f"desires {how}", f"{desires:,}", cost))
        cluster = Cluster(10, offers=everybody)
        cluster.learn([plain(), *(plain([eq("customer", n)]) for n in range(desires))])
        cluster.submit(max(1_000, desires), lambda n, desires=desires: 1 + n % desires)
        cluster.submit(1_000, same)
        cluster.grant()
        rows.append(("desires met by nobody", f"{desires:,}", rounds_of(cluster, options, same)))
    return rows


def part_labels(options: Any) -> list[Row]:
    """Change a label that ten waiting tasks look at; all others look elsewhere."""
    rows: list[Row] = []
    for actors, desires in ((10, 10), (1_000, 10), (10, 10_000), (1_000, 10_000)):
        cluster = Cluster(actors, offers=lambda _: {"zone": "eu"})
        others = [plain([eq("customer", n)]) for n in range(desires)]
        cluster.learn([plain([eq("model", "v2")]), *others, plain([eq("zone", "eu")])])
        cluster.submit(10, same)
        cluster.submit(10 * desires, lambda n, desires=desires: 1 + n % (desires + 1))
        cluster.broker.flush(0.0)
        costs = []
        version = 1
        for _ in range(options.rounds):
            frames = []
            for _ in range(options.count // 4):
                version += 1
                actor = cluster.actors[version // 2 % actors]
                labels: dict[str, Any] = {"zone": "eu"}
                if version % 2 == 0:
                    labels["model"] = "v2"
                frames.append((actor.rid, actor.frame(LabelsChanged(version, labels))))
            began = time.process_time_ns()
            for rid, frame in frames:
                cluster.broker.receive(rid, frame, (), 0.0)
                cluster.broker.flush(0.0)
            costs.append((time.process_time_ns() - began) / 1e3 / len(frames))
        rows.append(("label change: actors, desires", f"{actors:,}, {desires:,}", costs))
    return rows


def part_memory(options: Any) -> list[Row]:
    """Octets a queued task, without its call and what it travels in."""
    rows: list[Row] = []
    count = 50_000 if options.small else 200_000
    for desires in (1, 100, count):
        cluster = Cluster(1, offers=everybody)
        calls = [plain([eq("customer", n)]) for n in range(desires)]
        cluster.learn(calls)
        frames = [cluster.client.frame(Submit(n + 1, n % desires, b"")) for n in range(count)]
        gc.collect()
        tracemalloc.start()
        for frame in frames:
            cluster.broker.receive(b"c0", frame, (), 0.0)
        cluster.broker.flush(0.0)
        gc.collect()
        octets = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        rows.append(("octets a task: desires", f"{desires:,}", [octets / count]))
    count //= 2
    rows.append(("octets a task and its template: desires", f"{count:,}", [of_its_own(count)]))
    return rows


def of_its_own(count: int) -> float:
    """Return the octets of a queued task that shares its template with no other, all as it came."""
    cluster = Cluster(1, offers=everybody)
    cluster.client.say(Function(0, HASH, b"code"))
    told = []
    slots = Settings().templates_max
    for n in range(count):
        # As a client does: its table has so many places, and each is used again.
        kind = Template(n % slots, plain([eq("customer", n)]))
        told.append(encode(cluster.client.frame(kind, Submit(n + 1, n % slots, b""))))
    gc.collect()
    tracemalloc.start()
    for octets in told:
        cluster.broker.receive(b"c0", decode_peer(octets), (), 0.0)
    cluster.broker.flush(0.0)
    gc.collect()
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return taken / count


def part_fairness(options: Any) -> list[Row]:
    """How many tasks go ahead of a single one of another client, and of any in a random mix."""
    rows: list[Row] = []
    cluster = Cluster(1, offers=everybody)
    for client in cluster.clients:
        cluster.learn([plain()], client)
    cluster.submit(20_000 if options.small else 100_000, same)
    cluster.grant()
    waits = []
    for single in range(1, options.rounds * 20 + 1):
        cluster.clients[1].say(Submit(single, 0, b""))
        at = len(cluster.placed)
        while (2, single) not in cluster.placed[at:]:
            cluster.turn(same)
        waits.append(float(len(cluster.placed) - at))
    rows.append(("tasks ahead of a single one", "100,000 queued", waits))
    rows.append(starvation(options))
    return rows


def starvation(options: Any) -> Row:
    """Submit at random to actors that keep up; how many were placed while the unluckiest waited."""
    random = Random(4)
    count = 200_000 if options.small else 1_000_000
    cluster = Cluster(8, offers=lambda n: {"zone": f"z{n % 4}", "memory": 2**n})
    desires = [
        [],
        *([eq("zone", f"z{n}")] for n in range(4)),
        *([Desire("memory", Comparator.GREATER_THAN, 2**n)] for n in range(7)),
        *([eq("zone", f"z{n}", required=False)] for n in range(4)),
    ]
    calls = [
        Call("noop", HASH, desires=wanted, priority=priority)
        for wanted in desires
        for priority in (-10, -1, 0, 0, 0, 1, 10)
    ]
    cluster.learn(calls)
    cluster.grant()
    kinds = len(calls)
    cluster.submit(2_000, lambda _: random.randrange(kinds))
    for _ in range(count):
        cluster.turn(lambda _: random.randrange(kinds))
    waited = {}
    for at, (_, task) in enumerate(cluster.placed):
        waited[task] = at - task
    first_left = min(set(range(1, cluster.number + 1)) - waited.keys(), default=cluster.number)
    assert cluster.number - first_left < count / 4, "a task starved"
    figures = [float(max(waited.values())), float(cluster.number - first_left)]
    return ("placed while one waited, longest", f"{count:,} at random", figures)


PARTS = {
    "rate": part_rate,
    "actors": part_actors,
    "queued": part_queued,
    "limits": part_limits,
    "desires": part_desires,
    "labels": part_labels,
    "memory": part_memory,
    "fairness": part_fairness,
    "processes": part_processes,
}


def main() -> int:
    """Print one row for each point of each axis."""
    parser = arguments("Measure what the broker's core costs.")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this; repeatable")
    parser.add_argument("--small", action="store_true", help="leave out what takes minutes")
    options = parser.parse_args()
    print(
        f"{machine()}; {options.rounds} rounds of {options.count} tasks, processor time", flush=True
    )
    with bounded(options.timeout_s):
        for name in options.part or PARTS:
            rows, first = [], {}
            for axis, value, figures in PARTS[name](options):
                base = first.setdefault(axis, figures)
                ratios = [b / a for a, b in zip(base, figures, strict=True)]
                rows.append([axis, value, spread(figures, digits=1), spread(ratios, digits=2)])
            unit = {"memory": "octets", "fairness": "tasks"}.get(name, "us")
            print(table([name, "", unit, "to the first"], rows), flush=True)
            print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
