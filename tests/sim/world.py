"""A whole cluster in one thread: real cores, a virtual clock, and one source of randomness.

The same seed gives the same history, on any machine. Steps are turns of processes; after each the
core that took it is checked, and the oracle checks each start, token and outcome as it happens.
"""

import heapq
from collections import deque
from collections.abc import Callable
from itertools import chain
from random import Random
from typing import Any
from zlib import crc32

from broker.facts import epochs
from tests.sim import (
    bounds,
    counters,
    ends,
    faults,
    faults_disk,
    faults_network,
    healing,
    kinds,
    labels,
    large,
    plans,
)
from tests.sim.actors import ActorProcess
from tests.sim.brokers import HUGE, BrokerProcess
from tests.sim.clients import ClientProcess, can_work
from tests.sim.durability import Ledger
from tests.sim.hosts import HostProcess
from tests.sim.network import Network
from tests.sim.oracle import Oracle
from tests.sim.processes import Process
from tests.sim.profile import Profile, draw
from tests.sim.records import TaskRecord
from wire.limits import Definition
from wire.messages import ActorBeat, ActorHello, Assign, Death, Evict, Recall, Reject
from wire.parts import Token

EPOCH_MS = 1_790_000_000_000
HISTORY_LENGTH = 400
# What was said for a minute behind a partition comes in one moment: hundreds of frames.
AT_ONCE_MAX = 10_000
TEN_YEARS_MS = 315_360_000_000
assert faults_disk, faults_network  # They add to what can happen.


class World:
    """Everything of one seed."""

    def __init__(self, seed: int, profile: Profile | None = None) -> None:
        """Build the cluster; nothing has happened yet."""
        self.rng, self.lateness = Random(seed), Random(f"late {seed}")
        self.profile = profile or draw(self.rng)
        self.now = 0.0
        self.steps = 0
        self.digest = 0
        self.is_healing = False
        self.history: deque[tuple[Any, ...]] = deque(maxlen=HISTORY_LENGTH)
        self.stored_epoch = self.wall_ms = 0
        self.had_broker = False
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0
        self._at_once = 0
        self._pid = 100
        self.network = Network(self)
        self.oracle = Oracle(self)
        self.broker: BrokerProcess | None = None
        self.hosts: dict[str, HostProcess] = {}
        self.clients: dict[str, ClientProcess] = {}
        self.actors: list[ActorProcess] = []
        self.plans = plans.make_plans(self.profile)
        self.submits_left = self.profile.tasks
        self.has_journal = self.rng.random() < 0.5 or self.profile.durable > 0.0
        self.ledger = Ledger(self) if self.profile.durable else None
        # What really happened, how often.
        self.faults: dict[str, int] = {}
        # Whom the broker was told to pause or open.
        self.ordered: set[str] = set()
        # Hosts whose name another one took; what each machine starts with; what limits there are.
        self.former: list[HostProcess] = []
        self.sizes: dict[str, tuple[int, int]] = {}
        self.limit_highest = {"a": 1, "b": 2}
        # How often labels changed in a run, and assignments came back for their labels.
        self.flips = self.rejected = 0
        self.start_broker()
        for number in range(self.profile.machines):
            self.start_machine(f"machine{number}")
        for number in range(self.profile.clients):
            self.start_client(f"client{number}")
        self._work()

    # --- time

    def at(self, when: float, act: Callable[[], None]) -> None:
        """Call *act* at *when*."""
        self._serial += 1
        heapq.heappush(self._events, (max(when, self.now), self._serial, act))

    def after(self, delay: float, act: Callable[[], None]) -> None:
        """Call *act* after *delay*."""
        self.at(self.now + delay, act)

    def run(self, steps: int) -> None:
        """Let *steps* turns happen, with faults between them; then heal and demand the end."""
        with large.messages(are_large=self.profile.is_heavy):
            self._walk(steps)
            healing.heal(self)

    def walk(self, steps: int) -> None:
        """Let *steps* turns happen, with faults between them, and leave it at that."""
        with large.messages(are_large=self.profile.is_heavy):
            self._walk(steps)

    def _walk(self, steps: int) -> None:
        rng, profile = self.rng, self.profile
        kinds = sorted(profile.faults)
        weights = [profile.faults[kind] for kind in kinds]
        while self.steps < steps:
            before = self.steps
            self.proceed()
            if kinds and self.steps != before and rng.random() < profile.fault:
                (kind,) = rng.choices(kinds, weights)
                self.strike(kind)

    def proceed(self) -> None:
        """Let the next thing happen."""
        when, _, act = heapq.heappop(self._events)
        self._at_once = self._at_once + 1 if when == self.now else 0
        assert self._at_once < AT_ONCE_MAX, "somebody spins: time stands still"
        self.now = when
        act()

    # --- what others ask and tell

    def add(self, process: Process) -> None:
        """Let *process* begin."""
        if isinstance(process, ActorProcess):
            self.actors = [actor for actor in self.actors if actor.is_alive]
            self.actors.append(process)
        if isinstance(process, ActorProcess) and process.hangs:
            return
        self.network.connect(process)
        process.wake_at(self.now)

    def peers(self) -> "chain[Process]":
        """Return those that talk to the broker, dead ones among them."""
        return chain(self.actors, self.clients.values(), self.hosts.values(), self.former)

    def next_pid(self) -> int:
        """Return a number that no process had."""
        self._pid += 1
        return self._pid

    def labels_of(self, name: str) -> dict[str, Any]:
        """Return what an actor offers when it starts."""
        return {"memory": 512} if name.endswith("0") else {"memory": 64}

    def broker_credit(self, incarnation: int) -> int:
        """Return what the broker may assign to an actor; -1 for one that it does not know."""
        actor = self.broker.core.actors.get(incarnation) if self.broker else None
        return actor.credit.available if actor is not None else -1

    def broker_typed(self, incarnation: int) -> dict[str, int]:
        """Return what the broker knows to be free of an actor's slots of other types."""
        actor = self.broker.core.actors.get(incarnation) if self.broker else None
        return actor.credit.stated.typed if actor is not None else {}

    def heard(self, peer: Process, control: bytes, frame: Any) -> None:
        """Note what a peer says."""
        self.digest = crc32(control, self.digest)
        self.history.append((self.now, peer.name, "says", frame))
        bounds.check_said(peer, frame)
        if isinstance(peer, ActorProcess):
            self.oracle.grants.stated(peer, frame)
            for command in frame.commands:
                if type(command) is ActorHello:
                    ends.check_hello(peer, command)
                elif type(command) is ActorBeat:
                    ends.check_beat(peer, command)
            rejects = [one for one in frame.commands if type(one) is Reject]
            self.rejected += sum(one.bars for one in rejects)
        for command in frame.commands:
            if type(command) is Death:
                self.oracle.crashes.died(command)

    def told(self, peer: Process, control: bytes, frame: Any) -> None:
        """Note what a peer is told, and check each new token."""
        self.digest = crc32(control, self.digest)
        self.history.append((self.now, peer.name, "is told", frame))
        bounds.check_told(peer, frame)
        if isinstance(peer, ClientProcess) and frame.number:
            self.oracle.told_results(peer, frame)
            self.oracle.finality.told_client(peer, frame)
        if self.ledger is not None and frame.number:
            for command in frame.commands:
                if isinstance(peer, ClientProcess):
                    self.ledger.told_client(peer, command)
                elif isinstance(peer, ActorProcess):
                    self.ledger.told_actor(command)
        if isinstance(peer, ActorProcess) and frame.number:
            given = assigns(frame)
            self.oracle.finality.told_actor(self.broker.core, peer, frame)
            for command in given:
                self.broker.lying.check_assigned(self.broker.core, command.client)
                self.oracle.told_assign(peer, frame.epoch, command)
            self.oracle.silence.told(peer, frame)
            for command in frame.commands:
                self.oracle.families.told_actor(frame.epoch, command)
                self.oracle.circles.told(peer, command)
                if type(command) is Recall:
                    labels.check_recall(self, command)
                elif type(command) is Evict and command.environment in self.oracle.keeping.callers:
                    self.oracle.keeping.told_evict(command)
            if given:
                records = [self.oracle.tasks[one.client, one.task] for one in given]
                self.oracle.grants.spent(peer, frame, [record.call for record in records])
                self.oracle.silence.check_assign(peer, frame, records)

    def broker_noted(self, event: str, fields: dict[str, Any]) -> None:
        """Note what the broker notes."""
        self.history.append((self.now, "broker", event, fields))
        if event == "client_gone":
            self.oracle.gave_client_up(fields["client"])
        elif event == "actor_lost":
            self.oracle.silence.lost(fields)
        elif event in ("unclaimed", "adopted"):
            incarnation, _, number = fields["task"].rpartition("-")
            name = int(incarnation, 16), int(number)
            if event == "adopted":
                self.oracle.crashes.adopted(name)
            else:
                self.oracle.counters.given_up(self.oracle.tasks[name])
                self.oracle.finality.unclaimed.add(name)

    def note(self, event: str, process: Process, *details: Any) -> None:
        """Note what happens to a process."""
        self.history.append((self.now, process.name, event, *details))

    def story(self, last: int = 120) -> str:
        """Return the last events, one a line."""
        return "\n".join(tell(*entry) for entry in list(self.history)[-last:])

    # --- the load

    def _work(self) -> None:
        """Submit, or cancel, and come back after a pause."""
        if self.is_healing:
            return
        living = [client for client in self.clients.values() if can_work(client)]
        if living:
            client = self.rng.choice(living)
            if self.rng.random() < self.profile.cancel:
                self._cancel(client)
            elif self.submits_left:
                self.submits_left -= 1
                for _ in range(self.rng.choice((1, 1, 4))):
                    if self.ledger is not None and self.rng.random() < self.profile.attach:
                        self._attach(client)
                    if self.profile.redrive and self.rng.random() < self.profile.redrive:
                        self.oracle.dead.redrive(client)
                    self.submit(client)
        self.after(self.rng.uniform(0.0, self.profile.pause_s * 2), self._work)

    def submit(self, client: ClientProcess, parent: Token | None = None) -> TaskRecord:
        """Let *client* submit one call."""
        plan = kinds.of(client, plans.choose(self))
        chance = self.rng.random()
        frames = (b"part one", b"two") if chance < self.profile.payload else ()
        key = None
        if plan.is_durable and self.ledger is not None and not counters.named_of(plan.call):
            key = self.ledger.key(plan.call.name)
        is_huge = not plan.is_durable and self.is_huge(client.core.number_last)
        if is_huge:
            frames = (*frames, bytes(HUGE))
        number = client.core.submit(plan, b"arguments", frames, self.now, parent, key)
        record = self.oracle.submitted(client, number, plan.call, has_parent=parent is not None)
        record.is_huge = is_huge
        record.parent = parent
        if plan.is_durable and self.ledger is not None:
            self.ledger.submitted(record, key)
        self.oracle.families.submitted(record, parent)
        self.note("SUBMITS", client, record.name, plan.call.name, parent)
        client.wake_at(self.now)
        return record

    def is_huge(self, number: int) -> bool:
        """Tell whether what has *number* is more than is allowed.

        Told by the number, so that nothing else of the seed's history depends on it.
        """
        return self.profile.huge > 0 and number % 8 == 7

    def attach(self, client: ClientProcess, target: TaskRecord) -> None:
        """Let *client* look for a durable task, whoever submitted it."""
        self.count("looked for by its id")
        number = client.core.attach(*target.origin, self.now)
        record = self.oracle.attached(client, number, target)
        self.note("ATTACHES", client, record.name, target.name)
        client.wake_at(self.now)

    def _attach(self, client: ClientProcess) -> None:
        assert self.ledger is not None
        found = [record for record in self.ledger.accepted.values() if not record.is_canceled]
        if found:
            self.attach(client, self.rng.choice(found))

    def submit_child(self, parent: Token) -> TaskRecord | None:
        """Let some client submit a call from inside a run."""
        living = [client for client in self.clients.values() if can_work(client)]
        return self.submit(self.rng.choice(living), parent) if living else None

    def _cancel(self, client: ClientProcess) -> None:
        mine = [record for record in self.oracle.open_tasks() if record.client is client]
        if mine:
            record = self.rng.choice(mine)
            force = self.rng.random() < self.profile.force
            self.note("CANCELS", client, record.name, force)
            record.is_canceled = True
            if record.group is not None:
                record.group.is_canceled = True
            client.core.cancel(record.number, force, self.now)
            client.wake_at(self.now)

    # --- starts

    def start_broker(self) -> None:
        """Start a broker where none lives, with an epoch above all that the journal knows."""
        if self.broker is not None and self.broker.is_alive:
            return
        clock = EPOCH_MS + int(self.now * 1000)
        if self.profile.clock_jumps:
            self.count("clock jump")
            clock -= self.rng.choice((0, 10_000, 10_000_000, TEN_YEARS_MS, -TEN_YEARS_MS))
        self.wall_ms = clock
        stored = self.stored_epoch if self.has_journal else 0
        # Nobody draws here, so that nothing else of the seed's history depends on it.
        epoch = epochs.begin(stored, clock, own=int(self.now * 1000))
        assert epoch > stored, f"epoch {epoch} after {stored}"
        self.stored_epoch = epoch
        self.broker = BrokerProcess(self, self.next_epoch(epoch))
        self.had_broker = True
        self.note("STARTS", self.broker, f"epoch {epoch}")
        self.broker.wake_at(self.now)

    def stored_limits(self) -> list[Definition]:
        """Return the limits that an operator set and a journal kept."""
        return self.ledger.limits() if self.ledger is not None else []

    def kill_broker(self) -> bool:
        """End the broker; another one starts after a while."""
        if self.broker is None or not self.broker.is_alive:
            return False
        self.note("KILLED", self.broker)
        self.broker.end()
        down_s = faults.down_s(self)
        if self.profile.is_gentle or self.profile.is_deadly:
            down_s = min(down_s, 3.0)
        self.after(down_s, self.start_broker)
        return True

    def end_all(self, host: HostProcess) -> None:
        """End a machine, and the broker with it: nobody is left who could tell."""
        self.note("KILLED", host)
        host.end()
        self.after(faults.down_s(self), lambda: self.start_again(host.name))
        self.kill_broker()

    def next_epoch(self, epoch: int) -> int:
        """Return the epoch of a broker that starts now; planted bugs change this."""
        return epoch

    def start_machine(self, name: str) -> None:
        host = self.hosts.get(name)
        if host is None or not host.is_alive:
            host = self.hosts[name] = HostProcess(self, name)
            self.add(host)

    def start_again(self, name: str) -> None:
        if name in self.hosts:
            self.start_machine(name)

    def start_client(self, name: str) -> None:
        client = self.clients.get(name)
        if client is None or not client.is_alive:
            self.clients[name] = ClientProcess(self, name)
            self.add(self.clients[name])

    # --- faults

    def strike(self, kind: str) -> None:
        """Let one fault of *kind* happen, if there is somebody to hit."""
        if faults.KINDS[kind](self):
            self.count(kind)

    def count(self, kind: str) -> None:
        """Count what really happened."""
        self.faults[kind] = self.faults.get(kind, 0) + 1


def tell(when: float, name: str, event: str, *details: Any) -> str:
    """Format an event; a frame as what it carries."""
    shown = []
    for detail in details:
        if hasattr(detail, "commands"):
            frame = detail
            shown.append(
                f"e{frame.epoch % 10**7} s{frame.session} #{frame.number} r{frame.received} "
                + " ".join(str(command)[:160] for command in frame.commands)
            )
        else:
            shown.append(str(detail))
    return f"{when:9.3f} {name:12} {event:10} {' '.join(shown)}"


def assigns(frame: Any) -> list[Assign]:
    """Return the assignments in a frame."""
    return [command for command in frame.commands if type(command) is Assign]
