"""Durable tasks in the simulator: what the disk has, and what may be said because it has it.

A group is all that must end alike: a durable task, its other names, and what has the same key.
"""

import os
from pathlib import Path
from shutil import rmtree
from sqlite3 import Connection
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any
from weakref import finalize

import msgspec

from broker.core import Broker
from broker.disk.clocks import Reading
from broker.disk.opening import JournalError, lock_folder
from broker.disk.records import Progress
from broker.facts.task import State
from tests.sim.counters import named_of
from tests.sim.finality import is_made_by_broker, name_of
from tests.support.disk import Disk, summary, summary_of_rows
from wire.codec import decode_failure
from wire.errors import Code
from wire.limits import Definition
from wire.messages import Accepted, Assign, OutcomeAck, Requeued, Result, Submit
from wire.parts import Key, Status, Token

if TYPE_CHECKING:
    from tests.sim.brokers import BrokerProcess
    from tests.sim.clients import ClientProcess
    from tests.sim.records import TaskRecord
    from tests.sim.world import World

Name = tuple[int, int]
# Failures, crashes, losses, shared crashes.
Counts = tuple[int, int, int, int]
DIGESTS = (b"d" * 16, b"d" * 16, b"d" * 16, b"e" * 16)
KEYS = 5
SLOW_S = 30.0
KEY_TTL_S = 5_000.0


class Group:
    """What is known of a durable task under all its names."""

    def __init__(self) -> None:
        self.outcomes: set[tuple[Status, bytes]] = set()
        self.is_canceled = False
        # Whether somebody was told its outcome, so that it may be forgotten.
        self.is_seen = False
        # The calls that were submitted with its key, one of which runs for all.
        self.names: list[Name] = []


class Ledger:
    """Follows the disk, and checks what the broker says against it."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.disk = Disk()
        self.is_full = False
        self.was_full = False
        # Until when commits take long; whether the next fails for good.
        self.slow_until = 0.0
        self.fails = False
        # How often the machine of the broker was started again.
        self.boots = 0
        # Locked by the broker that lives, as a real one locks its folder; only where one tries.
        self.folder: Path | None = None
        self.lock: int | None = None
        if "second_broker" in world.profile.faults:
            self.folder = Path(mkdtemp(prefix="warmslot-sim-"))
            finalize(self, rmtree, self.folder, ignore_errors=True)
        self.groups: dict[str, Group] = {}
        # What the disk ever had: tasks, outcomes; and which at_most_once tasks may start now.
        self.tasks: set[Name] = set()
        # In which epoch each was written.
        self.written_in: dict[Name, int] = {}
        self.outcomes: set[Name] = set()
        self.ended_at: dict[Name, float] = {}
        # What went wrong with each, as often as it was written.
        self.troubles: dict[Name, set[Counts]] = {}
        self.armed: set[Name] = set()
        # Calls that were given out while the run that made them might still be offered, by the
        # task of that run, and to which broker that was.
        self.before_makers: dict[Name, list[TaskRecord]] = {}
        self.before_in: Broker | None = None
        self.accepted: dict[Name, TaskRecord] = {}
        # What the broker has decided to forget while its client was away, written or not yet.
        self.let_go: set[Name] = set()
        # A copy of the disk, and what is known of it; whether it was ever put back.
        self.backup: tuple[Connection, set[Name], set[Name], set[Name]] | None = None
        self.went_back = False
        # Which epoch stood in the copy, and which the last broker had that knew more.
        self.epoch_then = 0
        self.forgotten = -1

    # --- the disk

    def back_up(self) -> None:
        """Keep a copy of what is on disk."""
        self.backup = (self.disk.copy(), set(self.tasks), set(self.outcomes), set(self.armed))
        self.epoch_then = self.world.stored_epoch

    def put_back(self) -> None:
        """Have the copy in the place of the journal: nothing that came later is known there."""
        assert self.backup is not None
        copy, self.tasks, self.outcomes, self.armed = self.backup
        self.backup = None
        self.went_back = True
        self.forgotten = self.world.stored_epoch
        self.world.stored_epoch = self.epoch_then
        self.disk.put_back(copy)
        for name in self.accepted.keys() - self.tasks:
            del self.accepted[name]
        for group in self.groups.values():
            # What ended since may run again, for those who have no outcome yet.
            group.outcomes.clear()
        self.world.oracle.dead.told.clear()
        self.world.oracle.finality.went_back()
        rows = self.disk.connection.execute("SELECT client, number, progress FROM tasks")
        self.troubles = {(client, number): {counts(octets)} for client, number, octets in rows}
        self.world.oracle.crashes.went_back(self.troubles)

    def is_of_before(self, client: "ClientProcess") -> bool:
        """Tell whether *client* reads what a broker said that knew more than the copy does."""
        return client.core.session.epoch <= self.forgotten

    def submit(self, broker: "BrokerProcess", sequence: int, operations: Any) -> None:
        """Take a batch; it is written after a while, and announced a moment later."""
        self.disk.submit(sequence, operations)
        clients = broker.core.clients
        for operation in operations:
            if operation[0] == "forget":
                known = clients.get(operation[1])
                if known is None or known.session is None:
                    self.let_go.add(operation[1:])
        world = self.world
        longest_s = world.profile.commit_s
        if self.slow_until > world.now:
            longest_s = SLOW_S
            world.count("slow commit")
        world.after(world.rng.uniform(0.0, longest_s), lambda: self.write(broker))

    def write(self, broker: "BrokerProcess") -> None:
        """Write the oldest batch of a broker that lives, unless there is no room."""
        if not broker.is_alive or not self.disk.pending:
            return
        if self.fails:
            # As `Journal` says FAILED: what was being written may be there or not.
            self.fails = False
            self.world.count("failed commit")
            self.world.kill_broker()
            return
        if self.is_full:
            self.world.count("commit without room")
            broker.core.journal_stuck("disk is full")
            self.world.after(1.0, lambda: self.write(broker))
            return
        broker.core.journal_stuck("")
        sequence = self._write(times=1 if self.world.rng.random() < 0.9 else 2)
        if not broker.reaches("written"):
            delay = self.world.rng.uniform(0.0, 0.002)
            self.world.after(delay, lambda: broker.announced(sequence))

    def _write(self, *, times: int = 1) -> int:
        _, operations = self.disk.pending[0]
        sequence = self.disk.write(times=times)
        self._note_written(operations)
        return sequence

    def _note_written(self, operations: Any) -> None:
        self.world.oracle.finality.written_now(operations)
        for operation in operations:
            match operation:
                case ("epoch", epoch):
                    self.world.stored_epoch = max(self.world.stored_epoch, epoch)
                case ("task", client, number, _, _, _, progress, *_):
                    self.tasks.add((client, number))
                    self.troubles.setdefault((client, number), set()).add(counts(progress))
                    self.written_in[client, number] = self.world.stored_epoch
                case ("progress", progress, client, number):
                    self.troubles.setdefault((client, number), set()).add(counts(progress))
                case ("outcome", _, _, _, client, number):
                    self.outcomes.add((client, number))
                    self.ended_at.setdefault((client, number), self.world.now)
                case ("forget", client, number):
                    self._forget((client, number))
                case ("armed", is_armed, client, number):
                    (self.armed.add if is_armed else self.armed.discard)((client, number))

    def _forget(self, name: Name) -> None:
        """Follow that others had an outcome, and that its own client is gone (9.6 rule 4).

        Where that comes back its call is new, unless it must not start twice; also before the
        commit.
        """
        record = self.world.oracle.tasks.get(name)
        was_away = name in self.let_go
        self.let_go.discard(name)
        if record is not None and record.is_open and was_away and not record.call.at_most_once:
            assert record.group is not None
            record.group.outcomes.clear()

    def lose(self) -> None:
        """Lose power or the process: some of what was under way is on disk, and never announced."""
        while self.disk.pending and not self.is_full and self.world.rng.random() < 0.5:
            self._write()
        if self.disk.pending:
            self.world.count("unwritten end")
        self.disk.pending.clear()
        self.let_go.clear()
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None

    def tear(self) -> None:
        """Lose power in the middle of the oldest batch: the log ends in some of its octets."""
        if not self.is_full:
            _, operations = self.disk.pending[0]
            if self.disk.tear(self.world.rng):
                self._note_written(operations)
            else:
                self.world.count("torn log")
        self.disk.pending.clear()
        self.let_go.clear()
        if not self.world.profile.clock_jumps:
            # Else nobody could tell how long the machine was off.
            self.boots += 1
            self.world.count("boot")

    def begin(self, broker: "BrokerProcess") -> None:
        """Let *broker* have the journal, as one that starts."""
        if self.folder is not None:
            self.lock = lock_folder(self.folder)
        world = self.world
        world.oracle.crashes.began(self.armed)
        # The core's clock goes on over a boot, since nothing depends on where that begins.
        reading = Reading(str(self.boots), int(world.now * 1000.0), world.wall_ms)
        self.disk.give_to(broker.core, world.now, reading)

    def check_locked(self) -> None:
        """Check that no second broker can have it."""
        assert self.folder is not None
        try:
            os.close(lock_folder(self.folder))
        except JournalError:
            return
        raise AssertionError("a second broker has the journal")

    def has_room(self) -> None:
        """Let the disk be written again."""
        self.is_full = False

    def heal(self) -> None:
        """Let nothing more be wrong with the disk."""
        self.is_full = self.fails = False
        self.slow_until = 0.0

    def limits(self) -> list[Definition]:
        """Return what the disk has of limits."""
        rows = self.disk.connection.execute("SELECT definition FROM limits ORDER BY name")
        return [msgspec.json.decode(text, type=Definition) for (text,) in rows]

    def check_replay(self, broker: "BrokerProcess") -> None:
        """Compare what the disk has with what the core believes that it has."""
        if not self.disk.pending and not broker.core.operations:
            core = broker.core
            assert summary(core) == summary_of_rows(self.disk.read())
            assert self.disk.orders() == core.orders
            for one in self.limits():
                assert core.limits.definitions[one.name] == one

    def check_restored(self, broker: "BrokerProcess") -> None:
        """Start two more from the disk, each of which must know the same (I20, I21)."""
        if self.disk.pending or broker.core.operations:
            return
        for _ in range(2):
            other = Broker(broker.core.settings, epoch=broker.core.epoch + 1, now=self.world.now)
            self.disk.give_to(other, self.world.now)
            other.check()
            assert summary(other) == summary(broker.core)

    # --- what the user does

    def key(self, name: str) -> Key | None:
        """Draw a key for a call, or none."""
        rng, profile = self.world.rng, self.world.profile
        if not profile.keyed or rng.random() >= profile.keyed:
            return None
        return Key(f"{name}-{rng.randrange(KEYS)}", rng.choice(DIGESTS), KEY_TTL_S)

    def submitted(self, record: "TaskRecord", key: Key | None) -> None:
        """Put a durable call into its group."""
        name = f"{record.origin}" if key is None else name_of(key.text, key.digest)
        record.group = self.groups.setdefault(name, Group())
        record.key = key
        record.group.names.append(record.origin)
        if key is not None:
            self.world.oracle.finality.digests.setdefault(key.text, set()).add(key.digest)
            # Whoever came first with this key runs for all.
            first = getattr(record.group, "produced", None)
            record.group.produced = record.produced = record.produced if first is None else first

    # --- what the broker says

    def told_client(self, client: Any, command: Any) -> None:
        """Check ACCEPTED, REQUEUED and RESULT."""
        match command:
            case Accepted():
                for first, last in command.tasks:
                    for number in range(first, last + 1):
                        self._told_accepted(client.incarnation, number)
            case Result():
                self.world.oracle.dead.redrive_told(client, command.task)
                record = self.world.oracle.tasks.get((client.incarnation, command.task))
                if record is None or record.group is None:
                    return
                if not (command.actor or is_made_by_broker(command)):
                    return
                is_written = not self.outcomes.isdisjoint(record.group.names)
                assert is_written, f"{record.name}: an outcome is told unwritten"
            case Requeued():
                record = self.world.oracle.tasks[client.incarnation, command.task]
                told = (command.failures, command.crashes, command.losses, command.shared)
                if record.call.durable:
                    written = self.troubles.get((client.incarnation, command.task), ())
                    assert told in written, f"{record.name}: {told} is told, {written} is written"

    def refuses(self, core: "Broker", peer: Any, frame: Any) -> list[tuple[int, int]]:
        """Return which calls of a frame may not become durable, since nothing can be written.

        What an earlier broker had may wait for room.
        """
        if not core.records.refusal or peer.kind != "client":
            return []
        client = core.clients.get(peer.incarnation)
        known = client.tasks if client is not None else {}
        return [
            (peer.incarnation, command.task)
            for command in frame.commands
            if type(command) is Submit
            and not (command.key or command.again)
            and command.task not in known
        ]

    def check_refused(self, core: "Broker", names: list[tuple[int, int]]) -> None:
        """Check that none of them is the journal's now (9.6 rule 7)."""
        for incarnation, number in names:
            client = core.clients.get(incarnation)
            task = client.tasks.get(number) if client is not None else None
            assert task is None or task.record is None, f"{task.name} is accepted, and is not kept"

    def _told_accepted(self, incarnation: int, number: int) -> None:
        record = self.world.oracle.tasks[incarnation, number]
        is_written = record.group is not None and not self.tasks.isdisjoint(record.group.names)
        assert is_written, f"{record.name} is accepted and not written"
        # What has a key may be another name of an earlier one, and then goes with its client.
        if record.key is None and record.origin == (incarnation, number):
            self.accepted[incarnation, number] = record

    def told_actor(self, command: Any) -> None:
        """Check ASSIGN and OUTCOME-ACK."""
        oracle = self.world.oracle
        match command:
            case Assign():
                record = oracle.tasks.get((command.client, command.task)) or oracle.own(command)
                self._check_made_again((command.client, command.task))
                is_named = named_of(record.call) is not None
                if record.call.durable and (record.call.at_most_once or is_named):
                    assert record.origin in self.armed, f"{record.name} may not start yet"
                if record.parent is not None and record.key is None and record.call.durable:
                    self._check_family(record, record.parent)
            case OutcomeAck():
                for token in command.accepted:
                    client, number, _ = oracle.assigned[tuple(token)]
                    record = oracle.tasks[client, number]
                    # What was never written is nobody's, when its client is gone.
                    if record.origin in self.tasks and not record.group.is_canceled:
                        # A failure that is tried again is no outcome.
                        done = record.origin in self.outcomes or tuple(token) in record.failures
                        assert done, f"{record.name} is acknowledged and not written"

    def _check_family(self, record: "TaskRecord", parent: Token) -> None:
        """Check that what is given to an actor was not made by a run that is to be made again."""
        broker = self.world.broker
        client, number, _ = self.world.oracle.assigned[parent]
        known = broker.core.clients.get(client) if broker is not None else None
        maker = known.tasks.get(number) if known is not None else None
        # A broker that takes in a call before the run is offered that made it knows no name. What
        # was put back does not know who has made what.
        is_known = self.written_in.get(record.origin) == parent[0] and not self.went_back
        if maker is None or maker.is_over or not is_known:
            return
        # What is held was not given out: its run may be offered until the window ends. Until then
        # a call that was offered goes on (9.6 rule 10), also in its next run when that is lost.
        core = broker.core
        if maker.state is State.HELD and core.window_ends_at is not None and parent[0] < core.epoch:
            if self.before_in is not core:
                self.before_in, self.before_makers = core, {}
            self.before_makers.setdefault((client, number), []).append(record)
            return
        assert maker.token == parent, f"{record.name} goes on, and its run {parent} is made again"

    def _check_made_again(self, name: Name) -> None:
        """Check that calls that were given out before a task went to another run are over."""
        broker = self.world.broker
        if broker is None or broker.core is not self.before_in:
            return
        for record in self.before_makers.pop(name, ()):
            client = broker.core.clients.get(record.client.incarnation)
            task = client.tasks.get(record.number) if client is not None else None
            assert task is None or task.is_over, (
                f"{record.name} is {task.state}, and the run that made it is made again"
            )

    def resolved(
        self, client: "ClientProcess", record: "TaskRecord", status: Status, body: bytes, actor: str
    ) -> bool:
        """Check the outcome of a durable call; True when nothing else is to be checked."""
        group = record.group
        assert group is not None
        code = None if actor else decode_failure(body).code
        match code:
            case Code.OUTCOME_UNKNOWN if self.went_back:
                return True
            case Code.NOT_DURABLE:
                assert self.was_full, record.name
                return True
            case Code.CONFLICT:
                assert record.key is not None, record.name
                assert len(self.world.oracle.finality.digests[record.key.text]) > 1, (
                    f"{record.name} is no conflict"
                )
                return True
            case Code.PARENT_GONE if record.key is not None:
                # Its key is free for the next run of its parent.
                assert record.has_parent, record.name
                return True
            case Code.CANCELED if group.is_canceled:
                group.is_seen = True
                return True
            case Code.OUTCOME_UNKNOWN if self._has_expired(record):
                return True
            case Code.OUTCOME_UNKNOWN if record.redrives and not group.is_seen:
                return record.call.at_most_once or self.world.oracle.dead.refused(record)
            case Code.OUTCOME_UNKNOWN if record.is_attached or group.is_seen:
                assert group.is_seen or record.call.at_most_once or group.is_canceled, (
                    f"{record.name}: nobody has its outcome, and it is not known"
                )
                return True
            case Code.ENVIRONMENT_FAILED if self.world.oracle.dead.ended_at_once(record):
                # Whoever asks next may get it submitted again, and have another outcome.
                return False
        group.is_seen = True
        if self.is_of_before(client):
            # The next broker does not know it: others may have another.
            return False
        group.outcomes.add((status, body))
        if record.key is not None and actor:
            self.world.oracle.finality.check_key(record, self.groups)
        if record.key is None or not group.is_canceled:
            assert len(group.outcomes) == 1, f"{record.name} ends in {group.outcomes}"
        return False

    def _has_expired(self, record: "TaskRecord") -> bool:
        """Tell whether the outcome was kept for its time, and nobody had it until then."""
        assert self.world.broker is not None
        ended_at = self.ended_at.get(record.origin)
        ttl_s = self.world.broker.core.settings.outcome_ttl_s
        return ended_at is not None and self.world.now >= ended_at + ttl_s

    # --- the end

    def unclaimed(self) -> list["TaskRecord"]:
        """Return what was accepted, and whose client is gone before anybody had the outcome."""
        return [
            record
            for record in self.accepted.values()
            if not (record.group.is_seen or record.group.is_canceled or record.is_looked_for)
            and not record.client.is_alive
        ]


def counts(octets: bytes) -> Counts:
    """Return what went wrong with a task, as its row has it."""
    found = msgspec.msgpack.decode(octets, type=Progress)
    return (found.failures, found.crashes, found.losses, found.shared)
