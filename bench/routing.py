"""Model routing: 50 models, 8 actors that hold 2 each, popularity by Zipf, in virtual time.

The rule: every policy gets the same tasks at the same times, and an actor runs one at a time.
`warmslot` and `immediate spill` are the broker's real core, the latter without waiting, and an
actor chooses as real ones do what it gives up for a model that it does not hold. The others are
what one would write instead: there it is the model used the longest time ago. `hash, evicting
alike` is what the hash would come to with the actors of warmslot.

    python -m bench.routing [--rounds 5] [--rate 15] [--seconds 120] [--plot FILE.svg]
"""

import argparse
import sys
from collections import deque
from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush
from itertools import accumulate, count
from math import log10
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

from actor.holding.mailbox import Assignment
from actor.holding.recipe import Recipe
from actor.holding.residents import Residents, Warmth
from bench.support import machine, percentile, spread, table
from broker.core import Broker
from broker.placing import replicas
from broker.settings import Settings
from wire.messages import (
    ActorHello,
    Assign,
    Beat,
    ClientHello,
    Credit,
    Entered,
    Frame,
    Function,
    Outcome,
    Submit,
    Template,
    Welcome,
)
from wire.parts import Call, Environment, Reuse, Status

MODELS, ACTORS, HELD = 50, 8, 2
LOAD_S, RUN_S = 1.0, 0.02
EPOCH = 1_000
HASH = b"h" * 16


def environment(model: int) -> Environment:
    reuse = Reuse(0, None, None, None)
    return Environment(f"m{model}", f"m{model}", HASH, {}, 1, reuse, kind="Model")


# When each comes, and for which model.
Tasks = list[tuple[float, int]]


def tasks_of(rate: float, seconds: float, seed: int) -> Tasks:
    """Draw when tasks come, and for which model."""
    random = Random(seed)
    weights = list(accumulate(1 / (rank + 1) for rank in range(MODELS)))
    now, found = 0.0, []
    while (now := now + random.expovariate(rate)) < seconds:
        found.append((now, random.choices(range(MODELS), cum_weights=weights)[0]))
    return found


class Clock:
    """What happens when; in the order of time."""

    def __init__(self) -> None:
        """Begin at 0."""
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = count()

    def after(self, delay_s: float, act: Callable[[], None]) -> None:
        heappush(self._events, (self.now + delay_s, next(self._serial), act))

    def run(self) -> None:
        while self._events:
            self.now, _, act = heappop(self._events)
            act()


class Figures:
    """What a policy came to."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.waits: list[float] = []
        self.loads = 0
        self.ended_at = 0.0

    def row(self) -> tuple[float, float, float, float]:
        """Return cold loads, p50 and p99 of the wait in ms, the share of time that actors ran."""
        ran_s = len(self.waits) * RUN_S
        return (
            self.loads,
            percentile(self.waits, 0.5) * 1e3,
            percentile(self.waits, 0.99) * 1e3,
            100 * ran_s / (ran_s + self.loads * LOAD_S),
        )


class Actor:
    """Holds models, the one used last at the end, and runs one task at a time."""

    def __init__(self, clock: Clock, figures: Figures) -> None:
        """Hold nothing."""
        self.clock, self.figures = clock, figures
        self.held: dict[int, None] = {}
        self.is_busy = False

    def use(self, model: int) -> None:
        """Note that *model* is used, and make room when it is not held."""
        if model not in self.held and len(self.held) == HELD:
            del self.held[next(iter(self.held))]
        self.held.pop(model, None)
        self.held[model] = None

    def run(self, model: int, came_at: float, ended: Callable[[], None]) -> None:
        """Load the model when it is not held, then run; the wait is that for the first line."""
        self.is_busy = True
        delay_s = 0.0
        if model not in self.held:
            self.figures.loads += 1
            delay_s = LOAD_S
        self.use(model)
        self.figures.waits.append(self.clock.now + delay_s - came_at)

        def end() -> None:
            self.is_busy = False
            self.figures.ended_at = self.clock.now
            ended()

        self.clock.after(delay_s + RUN_S, end)


class RealActor(Actor):
    """Makes room as a real actor does."""

    def __init__(self, clock: Clock, figures: Figures) -> None:
        """Hold nothing."""
        super().__init__(clock, figures)
        self.residents = Residents(HELD)

    def use(self, model: int) -> None:
        """Note that *model* is used, and make room when it is not held."""
        residents = self.residents
        call = Call("m", b"", "m", environment(model))
        assignment = Assignment(
            (EPOCH, 1), Assign(1, 1, 1, 0, 1, b""), Recipe(call, code=None, blob=None), ()
        )
        residents.enter(assignment)
        residents.by_id[f"m{model}"].load_s = LOAD_S
        residents.change(f"m{model}", Warmth.WARM)
        residents.leave(assignment)
        self.held = {int(identity[1:]): None for identity in residents.by_id}


def queues(
    tasks: Tasks, choose: Callable[[int, list[deque[Any]]], int], kind: type[Actor] = Actor
) -> Figures:
    """Put each task at once into the queue of the actor that *choose* names."""
    clock, figures = Clock(), Figures()
    actors = [kind(clock, figures) for _ in range(ACTORS)]
    waiting: list[deque[tuple[int, float]]] = [deque() for _ in actors]

    def next_of(at: int) -> None:
        if waiting[at] and not actors[at].is_busy:
            model, came_at = waiting[at].popleft()
            actors[at].run(model, came_at, lambda: next_of(at))

    def comes(model: int) -> None:
        at = choose(model, waiting)
        waiting[at].append((model, clock.now))
        next_of(at)

    for when, model in tasks:
        clock.after(when, lambda model=model: comes(model))  # type: ignore[misc]
    clock.run()
    return figures


def at_random(tasks: Tasks, seed: int) -> Figures:
    random = Random(seed)
    return queues(tasks, lambda _, waiting: random.randrange(len(waiting)))


def by_hash(tasks: Tasks, seed: int, kind: type[Actor] = Actor) -> Figures:
    order = list(range(MODELS))
    Random(seed).shuffle(order)
    return queues(tasks, lambda model, waiting: order[model] % len(waiting), kind)


def most_free(tasks: Tasks, seed: int) -> Figures:  # noqa: ARG001
    """One queue; whoever is free takes what came first, whatever it holds."""
    clock, figures = Clock(), Figures()
    actors = [Actor(clock, figures) for _ in range(ACTORS)]
    waiting: deque[tuple[int, float]] = deque()
    free: deque[Actor] = deque(actors)

    def look() -> None:
        while waiting and free:
            model, came_at = waiting.popleft()
            actor = free.popleft()
            actor.run(model, came_at, lambda actor=actor: ended(actor))  # type: ignore[misc]

    def ended(actor: Actor) -> None:
        free.append(actor)
        look()

    def comes(model: int) -> None:
        waiting.append((model, clock.now))
        look()

    for when, model in tasks:
        clock.after(when, lambda model=model: comes(model))  # type: ignore[misc]
    clock.run()
    return figures


class Routed:
    """The real core, with actors that speak as real ones do."""

    def __init__(self, tasks: Tasks, wait_s: float | None) -> None:
        """Run all of *tasks*, each with *wait_s* as its affinity_wait."""
        self.clock, self.figures = Clock(), Figures()
        settings = Settings(adopt_window_s=0.0, suspect_s=1e9, lease_s=2e9, gil_grace_s=2e9)
        self.broker = Broker(settings, epoch=EPOCH, now=0.0)
        self.broker.tick(0.0)
        self.sent: dict[bytes, int] = {}
        self.received: dict[bytes, int] = {}
        self.came_at: list[float] = []
        self.models: list[int] = []
        self.environments = [environment(n) for n in range(MODELS)]
        self.hello(b"c", ClientHello(1, "bench", "3.11"))
        self.actors = {}
        for n in range(ACTORS):
            rid = b"a%d" % n
            hello = ActorHello(100 + n, f"h/{n}", 1, 1, "3.11", 1, {}, {"slot": 1})
            self.hello(rid, hello)
            self.actors[rid] = RealActor(self.clock, self.figures)
            self.say(rid, self.credit(rid))
        calls = [Call("m", b"", "m", one, affinity_wait_s=wait_s) for one in self.environments]
        self.say(b"c", Function(0, HASH, b"code"), *(Template(n, c) for n, c in enumerate(calls)))
        self.left = len(tasks)
        for when, model in tasks:
            self.clock.after(when, lambda model=model: self.comes(model))  # type: ignore[misc]
        self.look_at = 0.0
        self.wake()
        self.clock.run()

    def hello(self, rid: bytes, hello: Any) -> None:
        self.sent[rid] = self.received[rid] = 0
        self.broker.receive(rid, Frame(1, 0, 1, 0, 0, [hello]), (), self.clock.now)

    def say(self, rid: bytes, *commands: Any) -> None:
        self.sent[rid] += 1
        frame: Frame[Any] = Frame(1, EPOCH, 1, self.sent[rid], self.received[rid], list(commands))
        self.broker.receive(rid, frame, (), self.clock.now)

    def credit(self, rid: bytes, *, turns_taken: int | None = None) -> Credit:
        """State a slot unless one is taken, and every model that is held as warm."""
        actor = self.actors[rid]
        free = 0 if actor.is_busy else 1
        turns = {f"m{n}": 0 if n == turns_taken else 1 for n in actor.held}
        # What is held and not in use makes room when it must.
        return Credit(free, 0, HELD - (turns_taken is not None), turns)

    def comes(self, model: int) -> None:
        self.came_at.append(self.clock.now)
        self.models.append(model)
        self.say(b"c", Submit(len(self.models), model, b""))
        self.flush()

    def flush(self) -> None:
        for rid, frame, _ in self.broker.flush(self.clock.now):
            if frame.number:
                self.received[rid] = frame.number
            for command in frame.commands:
                if type(command) is Assign:
                    self.assigned(rid, command)
                else:
                    assert type(command) is not Welcome or frame.number == 0

    def assigned(self, rid: bytes, command: Assign) -> None:
        actor, model = self.actors[rid], self.models[command.task - 1]
        is_cold = model not in actor.held
        came_at = self.came_at[command.task - 1]
        actor.run(model, came_at, lambda: self.ended(rid, command, is_cold=is_cold, model=model))
        self.say(rid, self.credit(rid, turns_taken=model))

    def ended(self, rid: bytes, command: Assign, *, is_cold: bool, model: int) -> None:
        said: list[Any] = [Entered(self.environments[model], LOAD_S)] if is_cold else []
        said.append(Outcome(EPOCH, command.number, Status.RESULT, b"", 0, RUN_S))
        self.say(rid, *said, self.credit(rid))
        self.left -= 1
        self.flush()

    def wake(self) -> None:
        """Let the broker look at its clocks as its loop does."""
        if self.broker.deadline() <= self.clock.now:
            self.broker.tick(self.clock.now)
        self.say(b"c", Beat())
        self.flush()
        if self.left:
            self.clock.after(0.01, self.wake)


def warmslot(tasks: Tasks, seed: int) -> Figures:  # noqa: ARG001
    return Routed(tasks, None).figures


def spilling(tasks: Tasks, seed: int) -> Figures:  # noqa: ARG001
    """Enter a model wherever there is a slot, in the order in which the tasks came."""
    with patch.object(replicas, "rival", lambda *_: None):
        return Routed(tasks, 0.0).figures


POLICIES: dict[str, Callable[[Tasks, int], Figures]] = {
    "random": at_random,
    "most free credit": most_free,
    "hash by model": by_hash,
    "hash, evicting alike": partial(by_hash, kind=RealActor),
    "immediate spill": spilling,
    "warmslot": warmslot,
}


def main() -> int:
    """Print a row for each policy, and draw the waits when asked to."""
    parser = argparse.ArgumentParser(description="Compare where tasks of many models go.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=15.0, help="tasks a second; default 15")
    parser.add_argument("--seconds", type=float, default=120.0, help="virtual; default 120")
    parser.add_argument("--plot", metavar="FILE.svg", help="draw how long tasks wait")
    options = parser.parse_args()
    print(
        f"{machine()}; {options.rounds} rounds of {options.seconds:g} s, {options.rate:g} tasks/s"
    )
    found: dict[str, list[Figures]] = {name: [] for name in POLICIES}
    for seed in range(options.rounds):
        tasks = tasks_of(options.rate, options.seconds, seed)
        for name, policy in POLICIES.items():
            found[name].append(policy(tasks, seed))
    show(found, options.plot)
    return 0


def show(found: dict[str, list[Figures]], plot: str | None) -> None:
    """Print a row for each policy, and draw the waits into *plot* when there is one."""
    rows = []
    for name, figures in found.items():
        columns = zip(*(one.row() for one in figures), strict=True)
        rows.append([name, *(spread(list(column)) for column in columns)])
    titles = ["policy", "cold loads", "wait p50 ms", "wait p99 ms", "running, % of busy time"]
    print(table(titles, rows))
    if plot:
        draw(found, plot)


def draw(found: dict[str, list[Figures]], path: str) -> None:
    """Draw which share of the tasks waited for how long, the time on a scale of tens."""
    width, height, left, bottom = 760, 320, 60, 40
    low, high = 1e-3, 1e3
    colors = ["#999999", "#c58b00", "#0072b2", "#56b4e9", "#cc3311", "#009e73"]

    def x(seconds: float) -> float:
        share = (log10(max(low, seconds)) - log10(low)) / (log10(high) - log10(low))
        return left + share * (width - left - 10)

    def y(share: float) -> float:
        return height - bottom - share * (height - bottom - 10)

    size = f'width="{width}" height="{height + 20}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height + 20}" fill="white"/>',
    ]
    for power in range(-3, 4):
        at = x(10.0**power)
        lines.append(f'<path d="M{at:.0f} 10V{y(0):.0f}" stroke="#ddd"/>')
        label = f"{10.0**power:g} s"
        lines.append(f'<text x="{at:.0f}" y="{y(0) + 16:.0f}" text-anchor="middle">{label}</text>')
    for tenth in range(0, 11, 2):
        at = y(tenth / 10)
        lines.append(f'<path d="M{left} {at:.0f}H{width - 10}" stroke="#ddd"/>')
        lines.append(
            f'<text x="{left - 6}" y="{at + 4:.0f}" text-anchor="end">{tenth * 10} %</text>'
        )
    for place, (name, rounds) in enumerate(found.items()):
        waits = sorted(wait for one in rounds for wait in one.waits)
        shares = [n / 200 for n in range(201)]
        points = " ".join(
            f"{x(waits[min(len(waits) - 1, int(share * len(waits)))]):.1f},{y(share):.1f}"
            for share in shares
        )
        color = colors[place]
        lines.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        lines.append(
            f'<text x="{left + place * 118}" y="{height + 12}" fill="{color}">{name}</text>'
        )
    lines.append("</svg>")
    Path(path).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
