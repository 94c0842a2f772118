"""Dead tasks in the simulator: what ended badly is kept, and runs again once for all who ask."""

from typing import TYPE_CHECKING

from msgspec.structs import replace

from broker.disk.records import Alias
from broker.tasks.dead import text_of
from tests.sim.counters import named_of
from wire.codec import decode_failure
from wire.errors import Code
from wire.messages import Result
from wire.parts import Key, Status

if TYPE_CHECKING:
    from tests.sim.clients import ClientProcess
    from tests.sim.records import TaskRecord
    from tests.sim.world import World

Name = tuple[int, int]
TTL_S = 5_000.0
# Of those that are looked at, how many are forgotten instead.
FORGOTTEN = 0.2
IN_DOUBT = "it may have run"


class Afterlife:
    """Follows what clients were told that ended badly, and what was submitted again."""

    def __init__(self, world: "World") -> None:
        """Begin with nobody dead."""
        self.world = world
        # What must be kept, unless it was submitted again; and which call runs for which.
        self.told: dict[Name, TaskRecord] = {}
        self.runners: dict[Name, Name] = {}
        self.forgotten: set[Name] = set()
        # Redrives that ended at once, of which the next one may end in another way.
        self.refused_at_once: set[Name] = set()

    def resolved(self, record: "TaskRecord", result: Result, body: bytes) -> None:
        """Note an outcome after which the task must be kept."""
        if record.redrives is not None and result.status is not Status.RESULT and not result.actor:
            self.check_refused(record, decode_failure(body).code)
        call = record.call
        if result.status is Status.RESULT or named_of(call) or record.origin != own_name(record):
            return
        if record.key is not None or record.is_attached:
            return
        ledger = self.world.ledger
        if ledger is not None and ledger.is_of_before(record.client):
            return
        if not may_be_relied_on(self.world, call.durable):
            return
        if self.has_changed_nothing(record):
            return
        failure = decode_failure(body)
        is_own = bool(result.actor) and failure.code in (Code.TASK_FAILED, Code.TASK_TIMEOUT)
        is_doubt = failure.code == Code.OUTCOME_UNKNOWN and failure.message.endswith(IN_DOUBT)
        if (
            failure.code in (Code.POISON_TASK, Code.ENVIRONMENT_FAILED)
            or is_doubt
            or (is_own and (call.retries or call.durable))
        ) and own_name(record) not in self.forgotten:
            self.told[own_name(record)] = record

    def check_refused(self, record: "TaskRecord", code: str) -> None:
        """Check that what was not taken in has changed nothing (9.11 rule 6)."""
        broker = self.world.broker
        former = broker.core.dead_tasks.by_name.get(record.redrives or (0, 0)) if broker else None
        if code == Code.NOT_DURABLE and former is not None:
            is_other = former.facts.successor != own_name(record)
            assert is_other, f"{record.name} was refused, and what was dead is so no more"

    def has_changed_nothing(self, record: "TaskRecord") -> bool:
        """Tell whether a redrive ended at once: what was dead is so as before (9.11 rule 6).

        Perhaps it did where somebody had that forgotten meanwhile.
        """
        if record.redrives in self.forgotten:
            return True
        broker = self.world.broker
        former = broker.core.dead_tasks.by_name.get(record.redrives or (0, 0)) if broker else None
        return former is not None and former.facts.successor != own_name(record)

    def redrive_told(self, client: "ClientProcess", number: int) -> None:
        """Note whether a redrive that is told its outcome ended at once (9.11 rule 6).

        Another name of one that did not ends as that does.
        """
        name = (client.incarnation, number)
        record, broker = self.world.oracle.tasks.get(name), self.world.broker
        self.refused_at_once.discard(name)
        if record is None or record.redrives is None or broker is None:
            return
        known = broker.core.clients.get(client.incarnation)
        task = known.tasks.get(number) if known is not None else None
        is_own = task is not None and not isinstance(task.record, Alias)
        if is_own and self.has_changed_nothing(record):
            self.refused_at_once.add(name)

    def ended_at_once(self, record: "TaskRecord") -> bool:
        """Tell whether a redrive was told that nothing was submitted again."""
        return own_name(record) in self.refused_at_once

    def redrive(self, client: "ClientProcess") -> None:
        """Let *client* have some dead task submitted again, perhaps one that was already."""
        world = self.world
        broker = world.broker
        if broker is None or not broker.is_alive or not broker.core.dead_tasks.by_name:
            return
        name = world.rng.choice(list(broker.core.dead_tasks.by_name))
        dead = world.oracle.tasks[name]
        if world.rng.random() < FORGOTTEN:
            self.told.pop(name, None)
            self.forgotten.add(name)
            client.core.query("dead-forget", text_of(name), world.now)
            client.wake_at(world.now)
            return
        call = replace(dead.call, durable=True) if world.ledger is not None else dead.call
        number = client.core.attach(*name, world.now, redrive=True)
        record = world.oracle.submitted(client, number, call, has_parent=False)
        record.redrives = name
        if world.ledger is not None:
            # Whoever comes first runs for all, as with a key.
            text = f"redrive {name[0]}-{name[1]}"
            world.ledger.submitted(record, Key(text, b"d" * 16, TTL_S))
            first = next((r for r in world.oracle.tasks.values() if r.group is record.group), None)
            assert first is not None
            record.starts, record.failures = first.starts, first.failures
        world.note("REDRIVES", client, record.name, dead.name)
        client.wake_at(world.now)

    def started(self, record: "TaskRecord") -> None:
        """Check that one call alone runs for a dead task.

        A broker that is killed before the commit may have let one start that does not count.
        """
        if record.redrives is None or self.world.profile.is_forgetful:
            return
        runner = self.runners.setdefault(record.redrives, own_name(record))
        assert runner == own_name(record), f"{record.name} is submitted again a second time"

    def refused(self, record: "TaskRecord") -> bool:
        """Tell whether a redrive may end in doubt: what was dead is so no more."""
        if record.redrives is None:
            return False
        broker = self.world.broker
        dead = broker.core.dead_tasks.by_name.get(record.redrives) if broker else None
        # What a broker forgot dies anew when its last run is heard of, perhaps after the answer.
        is_known = dead is not None and not self.world.profile.is_forgetful
        assert not is_known or dead.is_redriven or record.call.at_most_once, (
            f"{record.name}: the dead task is there and was not submitted again"
        )
        return True

    def check_end(self) -> None:
        """Check that all that ended badly is kept, or was submitted again."""
        broker = self.world.broker
        assert broker is not None
        known = broker.core.dead_tasks.by_name
        for name in known:
            record = self.world.oracle.tasks.get(name)
            is_named = record is not None and named_of(record.call) is not None
            assert not is_named, "a call of a named actor is kept"
        for name, record in self.told.items():
            assert name in known, f"{record.name} ended badly and is not kept"
            dead = known[name]
            assert dead.is_redriven or dead.template is not None, f"{record.name} has no call"


def own_name(record: "TaskRecord") -> Name:
    """Return under which name a call was submitted."""
    return record.client.incarnation, record.number


def may_be_relied_on(world: "World", is_durable: bool) -> bool:
    """Tell whether what is dead outlives whatever happens in *world*."""
    if not world.profile.is_forgetful:
        return True
    # Of what is not durable the outcome is told before it is on disk.
    return is_durable and world.ledger is not None
