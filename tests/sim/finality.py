"""What has been said or written of an outcome stays so, and who keeps it does until it is had.

All is told from the frames and from what reaches the disk, never from what the cores have noted.
"""

from typing import TYPE_CHECKING, Any

from wire.codec import decode_failure
from wire.errors import Code
from wire.messages import OutcomeAck, Result

if TYPE_CHECKING:
    from broker.core import Broker
    from tests.sim.actors import ActorProcess
    from tests.sim.clients import ClientProcess
    from tests.sim.durability import Group
    from tests.sim.oracle import Oracle
    from tests.sim.records import TaskRecord

Name = tuple[int, int]
# What the broker makes of a durable task that it has.
MADE_BY_BROKER = {
    Code.ACTOR_LOST,
    Code.BAD_OPTION,
    Code.ENVIRONMENT_FAILED,
    Code.LIMIT_UNKNOWN,
    Code.POISON_TASK,
    Code.SCHEDULE_TIMEOUT,
    Code.TASK_TIMEOUT,
}
# Before any token.
NONE = (0, 0)


class Finality:
    """What each broker has told of a task, and what the disk has of it."""

    def __init__(self, oracle: "Oracle") -> None:
        """Begin with nothing told."""
        self.oracle = oracle
        # Each client is told by one broker at a time: which, and what of each of its tasks.
        self.told: dict[int, tuple[int, dict[int, tuple[Any, ...]]]] = {}
        self.written: dict[Name, tuple[Any, ...]] = {}
        # What brokers that had started have adopted and given up: no client claimed it in time.
        self.unclaimed: set[Name] = set()
        # With which digests each key was submitted.
        self.digests: dict[str, set[bytes]] = {}

    def told_client(self, client: "ClientProcess", frame: Any) -> None:
        """Check that what is told once more is what was told before (I2)."""
        epoch, known = self.told.get(client.incarnation, (0, {}))
        if epoch != frame.epoch:
            known = {}
            self.told[client.incarnation] = frame.epoch, known
        for one in frame.commands:
            if type(one) is Result:
                said = (one.status, one.actor, one.frames, bytes(one.body))
                former = known.setdefault(one.task, said)
                assert former == said, f"{client.name}-{one.task} ended as {former}, now {said}"

    def gave_client_up(self, incarnation: int) -> None:
        """Expect of a client that what it submits again is new."""
        self.told.pop(incarnation, None)

    def written_now(self, operations: Any) -> None:
        """Check that an outcome on disk is never another one (I2)."""
        for operation in operations:
            match operation:
                case ("outcome", body, frames, _, client, number):
                    said = (bytes(body), frames and frames.packed())
                    former = self.written.setdefault((client, number), said)
                    assert former == said, f"{client}-{number} is written as {former} and {said}"
                case ("task" | "forget", client, number, *_):
                    self.written.pop((client, number), None)

    def went_back(self) -> None:
        """Know nothing of a disk on which an older copy stands now."""
        self.written.clear()

    def check_key(self, record: "TaskRecord", groups: "dict[str, Group]") -> None:
        """Check that nobody with the same key and another digest has an outcome as well (I26)."""
        key = record.key
        assert key is not None
        assert record.group is not None
        for digest in self.digests[key.text] - {key.digest}:
            other = groups[name_of(key.text, digest)]
            is_alone = other.is_canceled or not other.outcomes or record.group.is_canceled
            assert is_alone, f"{record.name} has run, and so has another digest of {key.text}"

    def told_actor(self, core: "Broker", actor: "ActorProcess", frame: Any) -> None:
        """Check that an actor may forget an outcome only when its client has it (I24).

        What is durable the journal keeps, a failure that is tried again nobody, and of an actor
        that leaves the broker takes it over.
        """
        oracle = self.oracle
        for ack in frame.commands:
            for token in ack.accepted if type(ack) is OutcomeAck else ():
                client, number, _ = oracle.assigned[tuple(token)]
                record = oracle.tasks[client, number]
                is_over = tuple(token) in record.failures or not record.is_open
                is_over |= tuple(token) <= oracle.given_up.get(client, NONE)
                is_over |= (client, number) in self.unclaimed or record.call.durable
                if is_over or is_being_given_up(core, record.client, number):
                    continue
                known = core.clients.get(client)
                task = known.tasks.get(number) if known is not None else None
                is_taken = task is not None and task.ending is not None and task.token == token
                is_taken &= actor.core.is_draining
                assert is_taken, f"{record.name} is acknowledged, and its client has nothing"


def is_made_by_broker(result: Result) -> bool:
    """Tell whether a failure is the broker's own, of a task that it had taken in."""
    return decode_failure(result.body).code in MADE_BY_BROKER


def name_of(key: str, digest: bytes) -> str:
    """Name the group of all that is submitted with a key and a digest."""
    return f"key {key} {digest.decode()}"


def is_being_given_up(core: "Broker", client: "ClientProcess", number: int) -> bool:
    """Tell whether this turn gives a task or its client up, which is noted behind what it says."""
    names = {client.name, f"{client.incarnation:016x}"}
    unclaimed = f"{client.incarnation:016x}-{number}"
    return any(
        told["client"] in names if event == "client_gone" else told["task"] == unclaimed
        for event, told in core._notes
        if event in ("client_gone", "unclaimed")
    )
