"""The broker's core alone: assign plus outcome, no sockets, no codec.

    python bench/scheduler.py [--tasks 20000] [--actors 1] [--backlog 1000] [--shapes 1]

Each task is submitted, assigned, ended by its actor and received by its client. The backlog stays
at --backlog tasks, spread over --shapes distinct desires that every actor satisfies.
"""

import argparse
import time
from collections import deque
from collections.abc import Sequence

from broker.core import Broker
from broker.settings import Settings
from wire.labels import Comparator, Desire
from wire.messages import (
    ActorHello,
    Assign,
    Beat,
    ClientHello,
    Credit,
    Frame,
    Function,
    Outcome,
    Result,
    Submit,
    Template,
)
from wire.parts import Call, Status

EPOCH = 1_000
HASH = b"h" * 16


class Peer:
    """One end that counts frames as a real peer does."""

    def __init__(self, broker: Broker, rid: bytes, hello: object) -> None:
        """Open a session."""
        self.broker, self.rid = broker, rid
        self.sent = self.received = 0
        broker.receive(rid, Frame(1, 0, 1, 0, 0, [hello]), (), 0.0)

    def say(self, commands: Sequence[object]) -> None:
        """Send one frame."""
        self.sent += 1
        frame = Frame(1, EPOCH, 1, self.sent, self.received, commands)  # type: ignore[arg-type]
        self.broker.receive(self.rid, frame, (), 0.0)


def run(*, tasks: int, actors: int, backlog: int, shapes: int) -> float:
    """Return tasks per second."""
    broker = Broker(
        Settings(window_tasks=10**8, templates_max=10**7, adopt_window_s=0.0), epoch=EPOCH, now=0.0
    )
    broker.tick(0.0)
    client = Peer(broker, b"c", ClientHello(1, "bench", "3.11"))
    labels = {f"k{n}": n for n in range(min(shapes, 1_000))}
    peers = {}
    for n in range(actors):
        rid = b"a%d" % n
        hello = ActorHello(100 + n, f"h/{n}", 1, 1, "3.11", 1, labels, {"slot": 1})  # type: ignore[arg-type]
        peers[rid] = Peer(broker, rid, hello)
    commands: list[object] = [Function(0, HASH, b"code")]
    for n in range(shapes):
        desires = (
            [Desire(f"k{n % 1_000}", Comparator.GREATER_THAN_OR_EQUAL, -n)] if shapes > 1 else []
        )
        commands.append(Template(n, Call("noop", HASH, desires=desires)))
    client.say(commands)
    broker.flush(0.0)
    number = 0
    for number in range(1, backlog + 1):
        client.say([Submit(number, number % shapes, b"body")])
    for peer in peers.values():
        peer.say([Credit(1)])
    done = 0
    running: deque[tuple[bytes, int]] = deque()
    began = time.perf_counter()
    while done < tasks:
        for rid, frame, _ in broker.flush(0.0):
            if rid == b"c":
                client.received = frame.number or client.received
                done += sum(type(c) is Result for c in frame.commands)
            else:
                peers[rid].received = frame.number or peers[rid].received
                running.extend((rid, c.number) for c in frame.commands if type(c) is Assign)
        ended = 0
        for _ in range(len(running)):
            rid, assignment = running.popleft()
            peers[rid].say([Outcome(EPOCH, assignment, Status.RESULT, b"result"), Credit(1)])
            ended += 1
        fresh = [Submit(number + n, (number + n) % shapes, b"body") for n in range(1, ended + 1)]
        number += ended
        for submit in fresh:
            client.say([submit])
        if not ended:
            client.say([Beat()])
    return done / (time.perf_counter() - began)


def main() -> None:
    """Print one row for each combination asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--actors", type=int, nargs="*", default=[1, 100, 1_000])
    parser.add_argument("--backlog", type=int, nargs="*", default=[1_000, 100_000])
    parser.add_argument("--shapes", type=int, nargs="*", default=[1, 1_000])
    options = parser.parse_args()
    print("actors  backlog  shapes  tasks/s")
    for actors in options.actors:
        for backlog in options.backlog:
            for shapes in options.shapes:
                rate = run(tasks=options.tasks, actors=actors, backlog=backlog, shapes=shapes)
                print(f"{actors:6}  {backlog:7}  {shapes:6}  {rate:9,.0f}", flush=True)


if __name__ == "__main__":
    main()
