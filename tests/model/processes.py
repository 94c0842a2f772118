"""The real cores as values: between two events octets, an event makes new octets of them.

Here is what all processes have, and the broker. Each process has its own clock, which stands at 0.0
between events; what is said in seconds is moved back after time has passed. So a core that waits
looks the same at any hour, and what it does next depends on its octets and the event alone. That is
why each such step is taken only once.
"""

from collections.abc import Sequence
from contextlib import suppress
from math import inf
from typing import Any, NamedTuple

from broker.core import Broker
from broker.events import doubts
from broker.events.defining import define, force
from broker.events.liveness import LOOKS_PER_HEARTBEAT
from broker.events.occupancy import make_limits
from broker.facts.tally import Tally
from broker.settings import Settings as BrokerSettings
from broker.waiting.matching import Matching
from broker.waiting.queues import Ready
from broker.waiting.shapes import Choosy
from wire.codec import decode_peer
from wire.errors import RemoteProtocolError
from wire.limits import read_definition

SLICE_S = 1.0
# What an actor offers: the first satisfies every call, the second not those that are large.
MEMORY = (512, 64)
LIMIT, OTHER_LIMIT = read_definition("a=1"), read_definition("b=1")
# What the broker notes when time has made a difference.
MILESTONES = frozenset(
    {
        "recovered",
        "actor_left",
        "actor_lost",
        "client_gone",
        "unclaimed",
        "host_lost",
        "fence_over",
    }
)
# Strict limits are reckoned from when a frame was sent: longer ago is as this.
LONG_AGO_S = -6 * SLICE_S
STRICT_LIMIT = read_definition("a=1:strict")

Event = tuple[Any, ...]
Message = tuple[bytes, tuple[bytes, ...]]
Messages = Sequence[Message]


class Process:
    """A core with what stands around it in a process."""

    def __init__(self, core: Any) -> None:
        self.core = core
        self.news: list[Event] = []
        self.sends: list[tuple[Any, Any, Any]] = []

    def pack(self) -> Any:
        """Return what there is to be remembered."""
        return self.core

    def facts(self) -> Any:
        """Return what the world may look at."""
        raise NotImplementedError

    def turn(self, now: float) -> None:
        """Do what the loop does once, after a message or when time has passed."""
        raise NotImplementedError

    def check(self) -> None:
        self.core.check()

    def read(self) -> None:
        """Look at what stands in the memory that it shares with others."""

    def shift(self, seconds: float) -> None:
        """Move the clock back to 0.0."""
        raise NotImplementedError

    def act(self, event: Event, messages: Messages) -> None:
        """Let *event* happen at 0.0, or at the end of a slice of time."""
        if event[0] == "time":
            self.read(*event[1:])
            self.turn(SLICE_S)
            self.shift(SLICE_S)
        elif event[0] == "halted":
            self.shift(SLICE_S)
        else:
            getattr(self, event[0])(messages, *event[1:])
            self.turn(0.0)


def long_ago(at: float, seconds: float) -> float:
    """Return what *at* is *seconds* later, or that it was long ago."""
    return at if at == -inf else max(at - seconds, LONG_AGO_S)


# --- the broker


class BrokerFacts(NamedTuple):
    # (routing id, number) -> how many frames were received.
    sessions: dict[tuple[bytes, int], int]
    # Incarnation -> what may be assigned.
    actors: dict[int, int]
    is_recovering: bool
    # Whether it will ask for something back once that has waited for a moment.
    is_about_to_look: bool
    # Why it is not at rest, or nothing.
    unrest: str
    # Whether nobody is let in at any limit, since not all holders are known.
    is_closed: bool


def forget_matches(core: Broker) -> None:
    """Take out of the state what follows from the rest of it: who waits for whom."""
    core.backlog._ready = core.backlog.ready = core.backlog.matching = None
    core.patient = core.waits = core.leftovers = core.tidy = None
    for shape in core.backlog._shapes.values():
        shape.queue = shape.entry = None
        if isinstance(shape, Choosy):
            shape.tiers = None
        shape.is_told = bool(shape.is_told)
        if shape.wait is not None:
            shape.wait.queue = None
    fenced = [one.actor for one in core.limits.fenced.values()]
    for actor in (*core.actors_by_name.values(), *fenced):
        actor.lost = {}  # Only told of.
    for actor in (*core.actors.values(), *fenced):
        actor.number, actor.crews, actor.resident = 0, {}, {}
        actor.ranked_as, actor.ranked_at = None, 0


def match_anew(core: Broker) -> None:
    """Work it out again, with everything to be looked at."""
    backlog = core.backlog
    backlog._ready = Ready()
    backlog.ready = backlog._ready.heap
    matching = backlog.matching = Matching(backlog._ready)
    matching.narrow = core.bindings.narrow
    core.patient, core.waits = matching.patient, matching.waits
    core.leftovers, core.tidy = matching.leaving, matching.tidy
    for actor in core.actors.values():
        matching.update(actor)
        matching.improve(actor)
    for shape in backlog._shapes.values():
        if shape.count:
            matching.attach(shape)
            matching.look(shape)
            if shape.aside:
                shape.queue.crew.aside[shape] = None


class BrokerProcess(Process):
    """The broker and its loop."""

    @classmethod
    def start(cls, epoch: int, *, is_strict: bool = False) -> "BrokerProcess":
        core = Broker(BrokerSettings(), epoch=epoch, now=0.0)
        for limit in (STRICT_LIMIT if is_strict else LIMIT, OTHER_LIMIT):
            define(core, limit, is_stored=True)
        return cls(core)

    @classmethod
    def unpack(cls, state: Any) -> "BrokerProcess":
        core = Broker.__new__(Broker)
        vars(core).update(state)
        core.tally = Tally()
        core._handlers = core._make_handlers()
        core.say = core.outbox.say
        core.limits._grant = make_limits(core, 0.0)._grant
        match_anew(core)
        return cls(core)

    def pack(self) -> Any:
        for shape in self.core.backlog._shapes.values():
            # Void entries are skipped.
            if (lanes := shape._lanes) is not None:
                lanes.heap = sorted(entry for entry in lanes.heap if entry[0] == entry[1].entry)
        forget_matches(self.core)
        doubts.sweep(self.core)
        self.core.limits._grant = None
        # Functions are made anew: a planted bug may stand in their place. And what is only counted
        # makes no other state.
        left_out = {"_handlers", "say", "tally"}
        return {k: v for k, v in vars(self.core).items() if k not in left_out}

    def facts(self) -> BrokerFacts:
        core = self.core
        unrest = [n for n in ("tokens", "unclaimed", "held") if getattr(core, n)]
        unrest += ["tasks"] if any(c.tasks for c in core.clients.values()) else []
        unrest += ["backlog"] if core.backlog.count else []
        unrest += ["delays"] if core.delays.things else []
        lost = [one for one in core.named.by_id.values() if one.home is None]
        unrest += ["lost"] if any(one.generation > (0, 0) for one in lost) else []
        unrest += ["limits"] if core.limits.keys or core.limits.runs else []
        return BrokerFacts(
            {(rid, one.number): one.received for rid, one in core.sessions.items()},
            {n: actor.credit.available for n, actor in core.actors.items()},
            core.window_ends_at is not None,
            core.recalls.due_at < inf,
            " ".join(unrest),
            core.limits.is_closed,
        )

    def hear(self, messages: Messages, rid: bytes, number: int) -> None:
        control, payloads = messages[number]
        try:
            frame = decode_peer(control)
        except RemoteProtocolError as error:
            self.core.bad(rid, error, 0.0)
        else:
            self.core.receive(rid, frame, list(payloads), 0.0)

    def unreachable(self, messages: Messages, rid: bytes) -> None:
        self.core.unreachable(rid, 0.0)

    def look(self, messages: Messages) -> None:
        """Let whatever was submitted be older than what is left where it is."""
        self._age(SLICE_S)
        self.core.recalls.look_at_all(0.0)

    def take_back(self, messages: Messages, token: tuple[int, int]) -> None:
        """Let an operator take back what a run took at scheduling, if that is allowed."""
        with suppress(ValueError):
            force(self.core, f"{token[0]}.{token[1]}.0")

    def turn(self, now: float) -> None:
        core = self.core
        was_closed = core.limits.is_closed
        look_s = core.settings.heartbeat_s / LOOKS_PER_HEARTBEAT
        if now > 0.0 and core.ticked_at >= -look_s:
            # It has looked at its clocks all the time: to wait is no stall.
            core.ticked_at = max(core.ticked_at, now - look_s)
        if now >= core.deadline():
            core.tick(now)
        self.sends += core.flush(now, may_pause=True)
        while core.ready:
            self.sends += core.flush(now)
        sequence, operations = core.take_operations()
        if operations:
            core.committed(sequence, now)
            self.sends += core.flush(now)
        notes = [name for name, _ in core.take_notes() if name in MILESTONES]
        if core.limits.strict:
            # What matters is when it lets somebody in.
            is_opened = was_closed and not core.limits.is_closed
            idle = {"recovered", "host_lost"}
            idle |= {"actor_left", "actor_lost"} if core.limits.fenced else set()
            notes = [name for name in notes if name not in idle] + ["opened"] * is_opened
        self.news += [("milestone", name) for name in notes]
        core.tidy()

    def shift(self, seconds: float) -> None:
        core = self.core
        core.started_at = 0.0
        core.ticked_at -= seconds
        core.beat_at -= seconds
        if core.window_ends_at is not None:
            core.window_ends_at -= seconds
        core.recalls.due_at -= seconds
        core.limits.now = 0.0
        core.limits.started_at = core.limits.is_closed * (core.limits.started_at - seconds)
        isolation = core.isolation
        isolation.waiting = {task: until - seconds for task, until in isolation.waiting.items()}
        core.delays.postpone(-seconds)
        self._shift_environments(seconds)
        for client in core.clients.values():
            for task in client.tasks.values():
                if task.trouble is not None:
                    task.trouble.due_at = max(0.0, task.trouble.due_at - seconds)
        core.unclaimed = {task: until - seconds for task, until in core.unclaimed.items()}
        self._age(seconds)
        for session in core.sessions.values():
            session.mark_at -= seconds
        for peer in (*core.actors.values(), *core.hosts.values(), *core.clients.values()):
            peer.heard_at -= seconds
        for actor in core.actors.values():
            actor.vouched_at = long_ago(actor.vouched_at, seconds)
        for fenced in core.limits.fenced.values():
            fenced.actor.heard_at = fenced.actor.vouched_at = 0.0
            fenced.lost_at = long_ago(fenced.lost_at, seconds)
            fenced.until -= seconds
        for host in core.hosts.values():
            host.grew = {number: at - seconds for number, at in host.grew.items()}
        for client in core.clients.values():
            if client.gone_at is not None:
                client.gone_at -= seconds

    def _shift_environments(self, seconds: float) -> None:
        environments = self.core.environments
        environments.due.postpone(-seconds)
        environments.prune_at = max(0.0, environments.prune_at - seconds)
        for record in environments.records.values():
            record.look_at -= seconds
            record.used_at = record.called_at = 0.0
            for actor, copy in record.copies.items():
                # How long entering takes plays no part here.
                actor.entered_at = actor.entering_until = -inf
                copy.since = 0.0
                if copy.idle_since is not None:
                    copy.idle_since = 0.0

    def _age(self, seconds: float) -> None:
        for client in self.core.clients.values():
            for task in client.tasks.values():
                # All that matters is whether it came just now.
                task.queued_at = max(-SLICE_S, task.queued_at - seconds)
