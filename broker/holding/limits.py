"""Limits: what is held of which, who waits for it, and who is next (protocol.md section 9.5).

Queued tasks with the same limits wait as one lane of the backlog, in the order of their ranks; runs
that ask from inside wait beside them under a rank of the same clocks. Whoever lacks room is parked
at the key that lacks it and costs nothing until room appears there. The rules that must not be
broken: all of what is wanted is taken at once or nothing, and the sum of the holders of a key never
grows above its maximum. A key that nobody holds or waits for is not there at all.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Final

from broker.holding.lines import (
    AskWaiter,
    Fenced,
    Key,
    LaneWaiter,
    LimitedRun,
    Member,
    Waiter,
    Waits,
    Wants,
    host_key,
)
from wire.limits import HOST_PREFIX, Definition, Strategy, base_of
from wire.messages import Answer
from wire.parts import Token

if TYPE_CHECKING:
    from broker.facts.peers import Actor, Host, Session
    from broker.facts.task import Task
    from broker.waiting.shapes import Lane, Shape

# How many are looked at behind one that cannot go, where those before it wait themselves.
PASSED_MAX: Final = 1_000


class Limits:
    """Every limit of a broker and of its hosts."""

    __slots__ = (
        "_decaying",
        "_grant",
        "_hosts",
        "_is_closed",
        "_numbers",
        "_timers",
        "_wake_hosts",
        "_wake_lane",
        "answers",
        "definitions",
        "fenced",
        "keys",
        "now",
        "promised",
        "runs",
        "started_at",
        "stirred",
        "strict",
        "waits",
        "watched",
    )

    def __init__(
        self,
        hosts: "dict[int, Host]",
        *,
        now: float,
        wake_lane: "Callable[[Shape, Lane], None]",
        wake_hosts: Callable[[], None],
        grant: Callable[[AskWaiter], None],
    ) -> None:
        """Begin closed: nobody is let in before the holders are known."""
        self.definitions: dict[str, Definition] = {}
        # The names of those that are strict, and the lost actors that may still hold some.
        self.strict: frozenset[str] = frozenset()
        self.fenced: dict[int, Fenced] = {}
        self.keys: dict[str, Key] = {}
        self.runs: dict[Token, LimitedRun] = {}
        self.waits = Waits()
        self.stirred: dict[str, None] = {}  # Keys at which somebody may go now.
        # Answers to orders that wait until their change is on disk.
        self.answers: list[tuple[int, Session, Answer, bool]] = []
        self.now = now
        self.started_at = now
        self._is_closed = True
        self._hosts = hosts
        self._wake_lane = wake_lane
        self._wake_hosts = wake_hosts
        self._grant = grant
        self._numbers = count(1)
        self.promised: dict[str, int] = {}  # Room for lanes which are not placed yet.
        self._timers: list[tuple[float, str]] = []  # (When, key): room comes with time.
        # Keys whose use ends with time; keys with members.
        self._decaying: dict[str, None] = {}
        self.watched: dict[str, None] = {}

    # --- what there is

    @property
    def is_closed(self) -> bool:
        """Tell whether nobody is let in, since not all holders are known."""
        return self._is_closed

    def open(self) -> None:
        """Let in who waits."""
        self._is_closed = False
        self.stirred |= {name: None for name, key in self.keys.items() if key.line.members}

    def close(self) -> None:
        """Let nobody in until all holders are known."""
        self._is_closed = True

    def is_strict(self, run: LimitedRun) -> bool:
        """Tell whether a run has something of a limit that must never be exceeded."""
        names = (name for wants in run.rows.values() for name, _ in wants)
        return bool(self.strict) and any(base_of(name)[0] in self.strict for name in names)

    def definition(self, name: str) -> Definition | None:
        """Return what a key is a key of; None for one of a host, or that nobody set."""
        return self.definitions.get(name) or self.definitions.get(base_of(name)[0])

    def maximum(self, name: str) -> int:
        """Return how much of a key there is; 0 when nobody says so any more."""
        definition = self.definition(name)
        if definition is not None or not name.startswith(HOST_PREFIX):
            return definition.maximum if definition is not None else 0
        own, _, number = name.removeprefix(HOST_PREFIX).rpartition("@")
        host = self._hosts.get(int(number, 16))
        return host.limits.get(own, 0) if host is not None else 0

    def room(self, name: str) -> float:
        """Return how much of a key is free."""
        if self._is_closed:
            return 0
        key, definition = self.keys.get(name), self.definition(name)
        if definition is not None and definition.rate is None:
            used = key.used if key is not None else 0
            return definition.maximum - used - self.promised.get(name, 0)
        used = self._level(key) if key is not None else self._level_first(name)
        return self.maximum(name) - used - self.promised.get(name, 0)

    def key(self, name: str) -> Key:
        """Return a key, made when it is not there."""
        key = self.keys.get(name)
        if key is None:
            key = self.keys[name] = Key(name, self._level_first(name), self.now)
            if key.used:
                self._decaying[name] = None
        return key

    def _rate(self, name: str) -> float | None:
        definition = self.definition(name)
        return definition.rate if definition is not None else None

    def is_decaying(self, name: str) -> bool:
        """Tell whether what is taken of a key comes back with time."""
        return self._rate(name) is not None

    def _level(self, key: Key) -> float:
        """Return what is used of a key, less what time has given back."""
        rate = self._rate(key.name)
        if rate is not None:
            key.used = max(0.0, key.used - rate * (self.now - key.level_at))
            key.level_at = self.now
        return key.used

    def _level_first(self, name: str) -> float:
        """Return what may be used of a key of which nothing is known."""
        rate = self._rate(name)
        if rate is None:
            return 0
        # An earlier broker may have given all of it away just before this one began.
        return max(0.0, self.maximum(name) - rate * (self.now - self.started_at))

    def waiter_of(self, shape: "Shape", lane: "Lane", limits: dict[str, int]) -> LaneWaiter:
        """Return who waits for *limits* in the name of a lane; a host's are looked at elsewhere."""
        shared = ((n, a) for n, a in limits.items() if not n.startswith(HOST_PREFIX))
        return LaneWaiter(self, shape, lane, tuple(sorted(shared)))

    def turns(self, limits: dict[str, int]) -> str | None:
        """Return the key among *limits* that takes turns with the other keys of its limit."""
        for name in limits:
            definition = self.definition(name)
            if definition is not None and definition.strategy is Strategy.ROUND_ROBIN:
                return name
        return None

    def has_host_room(self, shape: "Shape", task: "Task", host: int) -> bool:
        """Tell whether a host has room for *task*, and no run there that asked before it."""
        for own, amount in shape.cost.host_limits:
            name = host_key(own, host)
            if self.room(name) < amount:
                return False
            first = self.keys[name].line.first() if name in self.keys else None
            if first is not None and first.rank < task.rank:
                return False
        return True

    # --- who may go

    def blocking(self, waiter: Waiter, rank: float, at: Key | None = None) -> str | None:
        """Return the key for which *waiter* has to wait, None when it can have all it wants.

        It waits for room, and behind those before it, if it is not the first *at* a key; not where
        whoever holds the key waits itself, perhaps for somebody behind.
        """
        for name, amount in waiter.wants:
            room = self.room(name)
            if room < amount:
                return name
            key = self.keys.get(name)
            if key is None:
                continue
            first = None if key is at else key.first()
            is_behind = first is not None and first is not waiter and first.rank < rank
            if is_behind and not self._is_waiting(name):
                return name
            claim = self._first_claim(key) if key.claims.members else None
            # A run may hold the very slot for which the other task waits.
            is_inside = isinstance(waiter, AskWaiter) and isinstance(claim, LaneWaiter)
            if (
                claim is not None
                and not is_inside
                and claim is not waiter
                and claim.rank < rank
                and room - claim.amount(name) < amount
                and not self._is_waiting(claim.blocked)
            ):
                return name
        return None

    def lets_go(self, limits: dict[str, int], rank: float) -> bool:
        """Tell whether who has *rank* and stands in no line can have all of these now.

        A host's are looked at elsewhere.
        """
        shared = ((n, a) for n, a in limits.items() if not n.startswith(HOST_PREFIX))
        return self.blocking(Waiter(tuple(sorted(shared))), rank) is None

    def _first_claim(self, key: Key) -> Waiter | None:
        """Return who keeps its place at *key*, and lacks room elsewhere, not an actor."""
        skipped: set[Shape | None] = set()
        while True:
            claim = key.claims.first(skipped)
            if not isinstance(claim, LaneWaiter) or not claim.is_behind(self.keys[claim.blocked]):
                return claim
            skipped.add(claim.shape)

    def _is_waiting(self, name: str) -> bool:
        """Tell whether somebody who holds a key waits: for a limit, or for calls of its own."""
        key = self.keys.get(name)
        runs = (self.runs[token] for token, _ in key.holders) if key is not None else ()
        return any(r.task.children or self.is_waiting(r.token) for r in runs)

    def is_waiting(self, token: Token) -> bool:
        """Tell whether a run waits by its own word, for a limit, for calls or for its slots."""
        run = self.runs.get(token)
        return bool(run is not None and run.asks) or token in self.waits.by_run

    def park(self, waiter: Waiter, rank: float, blocked: str) -> None:
        """Let *waiter* wait until there is room at *blocked*; at others it keeps its place."""
        self._leave(waiter)
        waiter.number = next(self._numbers)
        waiter.rank = rank
        waiter.blocked = blocked
        for name, _ in waiter.wants:
            key = self.key(name)
            (key.line if name == blocked else key.claims).push(waiter)
        self._set_timer(waiter)

    def unpark(self, waiter: Waiter) -> None:
        """Let *waiter* wait no longer; others may go in its place."""
        if waiter.number:
            self._leave(waiter)
            for name, _ in waiter.wants:
                self.touch(name)

    def leave(self, waiter: Waiter) -> None:
        """Note that nothing is left of a lane; those behind it are the first of their shape now."""
        self.unpark(waiter)
        for name, _ in waiter.wants:
            if isinstance(waiter, LaneWaiter) and name in self.keys:
                self.keys[name].awake.pop(waiter.shape, None)
            self.touch(name)

    def _leave(self, waiter: Waiter) -> None:
        if waiter.number:
            waiter.number = 0
            for name, _ in waiter.wants:
                key = self.keys.get(name)
                if key is not None:
                    key.line.remove(waiter)
                    key.claims.remove(waiter)

    def touch(self, name: str) -> None:
        """Note that there may be room at a key, and forget it when nobody needs it."""
        key = self.keys.get(name)
        if key is None:
            return
        if key.line.members or name.startswith(HOST_PREFIX):
            self.stirred[name] = None
        is_idle = not (key.holders or key.line.members or key.claims.members or key.members)
        if is_idle and (self._rate(name) is None or not self._level(key)):
            del self.keys[name]

    def stir(self) -> bool:
        """Let go all who can; tell whether a lane has to be placed."""
        has_woken = False
        names, self.stirred = self.stirred, {}
        for name in names:
            if name.startswith(HOST_PREFIX):
                self._wake_hosts()
                has_woken = True
            if name in self.keys:
                has_woken |= self._stir(self.keys[name])
        for name in self.promised:
            # Whoever waits for what was promised looks again once it is taken, or is not.
            if name in self.keys and self.keys[name].line.members:
                self.stirred[name] = None
        self.promised.clear()
        return has_woken

    def _stir(self, key: Key) -> bool:
        has_woken = False
        passed: list[Waiter] = []
        while (waiter := key.first()) is not None:
            blocked = self.blocking(waiter, waiter.rank, key)
            if blocked == key.name:
                if len(passed) >= PASSED_MAX or not self._is_waiting(blocked):
                    break
                key.line.remove(waiter)
                passed.append(waiter)
            elif blocked is not None:
                self.park(waiter, waiter.rank, blocked)
            else:
                self.unpark(waiter)
                if isinstance(waiter, LaneWaiter):
                    key.awake[waiter.shape] = waiter
                has_woken |= self.let_go(waiter)
                if not has_woken and self.room(key.name) < 1:
                    break  # Nobody wants less.
        for waiter in passed:
            key.line.push(waiter)
        self.stirred.pop(key.name, None)  # What was done here was looked at here.
        if self._rate(key.name) is not None and (first := key.line.first()) is not None:
            self._set_timer(first)
        return has_woken

    def let_go(self, waiter: Waiter) -> bool:
        """Give a run what it wants, or let a lane be placed; tell whether it is a lane."""
        if isinstance(waiter, LaneWaiter):
            for name, amount in waiter.wants:
                self.promised[name] = self.promised.get(name, 0) + amount
            self._wake_lane(waiter.shape, waiter.lane)
            return True
        assert isinstance(waiter, AskWaiter)
        run = waiter.run
        del run.asks[waiter.ask]
        self.take(run.token, run.task, run.actor, waiter.ask, waiter.wants)
        if not (run.rows or run.asks):  # What comes back with time nobody holds.
            del self.runs[run.token]
        self._grant(waiter)
        return False

    # --- holding

    def take(
        self,
        token: Token,
        task: "Task",
        actor: "Actor",
        ask: int,
        wants: Wants,
        *,
        is_adopted: bool = False,
    ) -> None:
        """Let a run hold *wants*; whether there is room was looked at before, or it had it."""
        lasting = []
        for name, amount in wants:
            key, definition = self.key(name), self.definition(name)
            if definition is not None and definition.rate is not None:
                key.used = self._level(key) + (0 if is_adopted else amount)
                self._decaying[name] = None
            else:
                key.used += amount
                assert is_adopted or key.used <= self.maximum(name), f"{name}: more than there is"
                if key.line.members:
                    self.stirred[name] = None
                key.holders[token, ask] = amount
                lasting.append((name, amount))
        if lasting:
            self.run(token, task, actor).rows[ask] = tuple(lasting)

    def run(self, token: Token, task: "Task", actor: "Actor") -> LimitedRun:
        """Return what an assignment has, made when it is not there."""
        run = self.runs.get(token)
        if run is None:
            run = self.runs[token] = LimitedRun(token, task, actor)
        return run

    def vacate(self, token: Token, ask: int) -> bool:
        """Take back what a run holds or waits for by *ask*; tell whether that was something."""
        run = self.runs.get(token)
        if run is None:
            return False
        run.giving = None if run.giving == ask else run.giving
        waiter = run.asks.pop(ask, None)
        if waiter is not None:
            self.unpark(waiter)
        wants = run.rows.pop(ask, ())
        for name, amount in wants:
            key = self.keys[name]
            key.used -= amount
            del key.holders[token, ask]
            self.touch(name)
        if not (run.rows or run.asks):
            self.runs.pop(token, None)
        return bool(waiter or wants)

    def end(self, token: Token) -> None:
        """Take back all that a run has, unless it was stopped and has not returned yet."""
        run = self.runs.get(token)
        if run is not None and not run.is_stopped:
            self.drop(run)

    def drop(self, run: LimitedRun) -> None:
        """Take back all that a run has."""
        for ask in {**run.rows, **run.asks}:
            self.vacate(run.token, ask)

    def stopped(self, token: Token) -> None:
        """Note that nobody wants a run, which holds what it has until it returns."""
        run = self.runs.get(token)
        if run is not None:
            for ask in list(run.asks):
                self.vacate(token, ask)
            run.is_stopped = bool(run.rows)

    def forget_actor(self, actor: "Actor") -> None:
        """Take back what all runs of an actor have that is lost, what is still fenced apart."""
        is_fenced = actor.incarnation in self.fenced
        for run in [run for run in self.runs.values() if run.actor is actor]:
            if not (is_fenced and self.is_strict(run)):
                self.drop(run)

    def wait(self, waiter: AskWaiter, rank: float) -> None:
        """Let the ask of a run wait in line; `stir` grants it."""
        waiter.run.asks[waiter.ask] = waiter
        self.park(waiter, rank, waiter.wants[0][0])
        self.stirred[waiter.blocked] = None

    # --- time

    def deadline(self) -> float:
        """Return when time gives somebody room."""
        return self._timers[0][0] if self._timers else inf

    def tick(self, now: float) -> None:
        """Look at the keys at which there is room by now."""
        self.now = now
        while self._timers and self._timers[0][0] <= now:
            self.stirred[heappop(self._timers)[1]] = None

    def _set_timer(self, waiter: Waiter) -> None:
        name = waiter.blocked
        rate = self._rate(name)
        if rate is not None and not self._is_closed and self.keys[name].line.first() is waiter:
            lacking = waiter.amount(name) - self.room(name)
            # Where there is room it waits for an actor, and not for time.
            if lacking > 0 and waiter.amount(name) <= self.maximum(name):
                heappush(self._timers, (self.now + max(lacking / rate, 1e-6), name))

    def sweep(self) -> None:
        """Look at what no event tells of: levels that fell, members that ended, who waits."""
        for name in list(self._decaying):
            self.touch(name)
            if name not in self.keys:
                del self._decaying[name]
        for name in list(self.watched):
            if not self.members(name):
                self.touch(name)
                del self.watched[name]
        # A holder that began to wait holds up nobody who stands behind another.
        for name, key in self.keys.items():
            if key.line.members and self.room(name) > 0:
                self.stirred[name] = None

    def join(self, name: str, who: Member, amount: int) -> None:
        """Count *who* among those that there are at a key, for a strategy that cancels."""
        self.key(name).members[who] = amount
        self.watched[name] = None

    def members(self, name: str) -> dict[Member, int]:
        """Return those at a key that are not over, oldest first."""
        key = self.keys.get(name)
        return key.current(self.runs) if key is not None else {}
