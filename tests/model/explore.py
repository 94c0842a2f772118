"""Breadth first through all states, so that what is wrong is found with a shortest history."""

import gc
import json
from collections import Counter
from dataclasses import dataclass, field
from math import inf
from time import process_time
from typing import Any

import msgspec

from tests.model.moves import is_progress, possible
from tests.model.properties import Violation
from tests.model.rest import come_to_rest
from tests.model.scenarios import Scenario
from tests.model.store import Store
from tests.model.world import Move, State, World
from wire.codec import decode_broker, decode_failure, decode_peer, encode
from wire.messages import Beat

REST: Move = ("come_to_rest",)


@dataclass
class Found:
    """What a search found."""

    scenario: str
    states: int = 0
    ends: int = 0
    steps: int = 0
    # How often each move was taken.
    kinds: Counter[str] = field(default_factory=Counter)
    depth: int = 0
    is_complete: bool = False
    seconds: float = 0.0
    violation: str = ""
    history: str = ""

    def __str__(self) -> str:
        what = "all" if self.is_complete else "the first"
        text = (
            f"{self.scenario}: {what} {self.states} states to depth {self.depth}, "
            f"{self.kinds.total()} moves, {self.ends} ends, {self.steps} new steps of cores, "
            f"{self.seconds:.1f} s of one core"
        )
        return f"{text}\n{self.violation}\n{self.history}" if self.violation else text


def explore(
    scenario: Scenario,
    *,
    states_max: int = 10**9,
    depth_max: int = 10**9,
    seconds: float = inf,
    store: Store | None = None,
) -> Found:
    """Search *scenario*; stop at the first violation, or at a bound.

    With a *store* that other searches had, the steps that they took are not taken again.
    """
    search = Search(scenario, states_max, process_time() + seconds, store or Store())
    # Thawed cores are garbage in circles, states are not: look at the young only.
    thresholds = gc.get_threshold()
    gc.set_threshold(20_000, 20, 1_000_000)
    try:
        while search.frontier and search.found.depth < depth_max and not search.is_over:
            search.go_deeper()
    finally:
        gc.set_threshold(*thresholds)
    return search.conclude()


class Search:
    """All states that were seen, and those whose moves were not tried yet."""

    def __init__(self, scenario: Scenario, states_max: int, until: float, store: Store) -> None:
        self.world = World(scenario, store)
        self.taken = store.taken
        self.found = Found(scenario.name)
        self.states_max = states_max
        self.until = until
        self.began = process_time()
        first = self.world.first()
        # State -> (the state before it, the move).
        self.parents: dict[State, tuple[State, Move] | None] = {first: None}
        self.frontier = [first]

    @property
    def is_over(self) -> bool:
        is_full = len(self.parents) >= self.states_max
        # To ask for the time of a process takes as long as a move: only where there is a bound.
        is_late = self.until < inf and process_time() > self.until
        return bool(is_full or is_late or self.found.violation)

    def go_deeper(self) -> None:
        """Take every move of every state of one depth."""
        world, parents, found = self.world, self.parents, self.found
        later: list[State] = []
        for state in self.frontier:
            if self.is_over:
                break
            world.load(state)
            moves = possible(world)
            if not any(is_progress(world, move) for move in moves):
                found.ends += 1
                self.take(state, REST)
            for move in moves:
                found.kinds[move[0]] += 1
                if not self.take(state, move):
                    break
                state_next = world.freeze_state()
                if state_next not in parents:
                    parents[state_next] = (state, move)
                    later.append(state_next)
        else:
            found.depth += 1
            found.is_complete = not later
        self.frontier = later

    def take(self, state: State, move: Move) -> bool:
        """Make *move*; where something is wrong write down the history."""
        self.world.load(state)
        self.world.log.clear()
        try:
            perform(self.world, move)
        except Violation as violation:
            path = [move]
            while (before := self.parents[state]) is not None:
                state, step = before
                path.append(step)
            self.found.violation = str(violation)
            self.found.history = tell(self.world, state, path[::-1])
            return False
        return True

    def conclude(self) -> Found:
        found = self.found
        found.is_complete = found.is_complete and not found.violation
        found.states, found.steps = len(self.parents), self.world.store.taken - self.taken
        found.seconds = process_time() - self.began
        return found


def perform(world: World, move: Move) -> None:
    """Let *move* happen, or at the end of a history all come to rest."""
    if move == REST:
        come_to_rest(world)
    else:
        world.do(move)


# --- histories


def tell(world: World, state: State, path: list[Move]) -> str:
    """Write a history as protocol.md does: moves with what was said, each after its sender."""
    lines = []
    world.load(state)
    for move in path:
        world.log.clear()
        try:
            perform(world, move)
        except Violation as violation:
            ending = [f"  ! {violation}"]
        else:
            ending = []
        lines.append(_name(world, move))
        lines += [f"    {line}" for entry in world.log for line in _said(world, *entry)] + ending
    return "\n".join(lines)


def _name(world: World, move: Move) -> str:
    name, *arguments = move
    shown = []
    for place, argument in enumerate(arguments):
        if place == 0 and name in {"submit", "cancel", "force"}:
            shown.append(f"call {argument + 1}")
        elif place == 0 and isinstance(argument, int) and not isinstance(argument, bool):
            shown.append(world.names[argument])
        elif name == "finish" and isinstance(argument, bool):
            shown += ["the next starts at once"] if argument else []
        elif isinstance(argument, bool):
            shown.append("frames in flight come late" if argument else "frames in flight lost")
        else:
            shown.append(str(argument))
    return f"{name.replace('_', ' ')} {', '.join(shown)}".rstrip()


def _said(world: World, sender: str, receiver: str, number: int) -> list[str]:
    control = world.store.messages[number][0]
    frame: Any = decode_broker(control) if sender == "B" else decode_peer(control)
    whom = f"B to {receiver}" if sender == "B" else sender
    shown = []
    for command in frame.commands:
        if type(command) is Beat:
            shown.append('["beat"]')
        else:
            shown.append(json.dumps(msgspec.msgpack.decode(encode(command)), default=_octets))
    where = f"epoch {frame.epoch}, session {frame.session}, frame {frame.number}"
    return [f"{whom}: {' '.join(shown)}   {where}, received {frame.received}"]


def _octets(value: bytes) -> str:
    if value.isascii() and value.decode().isprintable():
        return f"<{value.decode()}>"
    return f"<{decode_failure(value).code}>"
