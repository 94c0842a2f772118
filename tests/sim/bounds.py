"""Nothing grows without end, nobody is told more than it can take, nobody says what is not its own.

What is counted here is every table of a broker that something outside can make larger.
"""

from gc import get_referents
from types import FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

from broker.events import submission
from broker.facts.task import State, Task
from broker.tasks import forgetting, naming
from wire.messages import HELLOS, IS_TOLD, MAY_SAY
from wire.parts import Role

if TYPE_CHECKING:
    from broker.core import Broker
    from tests.sim.actors import ActorProcess
    from tests.sim.oracle import Oracle
    from tests.sim.processes import Process
    from tests.sim.world import World

# A client that has received so little of this share of its window gets nothing assigned.
BEHIND_SHARE = 4
# What is over may stand in a heap until that is cleaned.
VOID_MAX = 300
ROLES = {"client": Role.CLIENT, "actor": Role.ACTOR, "host": Role.HOST}
CLOSED: tuple[type, ...] = (type, FunctionType, MethodType, ModuleType, str, bytes, int, float)


def check_said(peer: "Process", frame: Any) -> None:
    """Check that a peer says only what one of its role may (I35)."""
    role = ROLES.get(peer.kind)
    for command in frame.commands if role is not None else ():
        kind = type(command)
        may = HELLOS[kind] is role if kind in HELLOS else kind in MAY_SAY[role]
        assert may, f"{peer.name} says {kind.__name__}"


def check_told(peer: "Process", frame: Any) -> None:
    """Check that a peer is told only what one of its role is (I35)."""
    role = ROLES.get(peer.kind)
    if role is not None and frame.number:
        for command in frame.commands:
            assert type(command) in IS_TOLD[role], f"{peer.name} is told {type(command).__name__}"


def check_windows(core: "Broker", oracle: "Oracle") -> None:
    """Check that no client has more at the broker than its window, in tasks and octets (I25, I32).

    So many results can be on their way to it at most. What a client gave up does not count; nor, of
    one that has not come yet, what has ended: it may have that, or have given it up. Nor what it
    canceled and the journal was not to be written, or has the outcome of and only an older journal
    does not know that.
    """
    went_back = oracle.world.ledger is not None and oracle.world.ledger.went_back
    for client in core.clients.values():
        is_new = client.session is None and not client.name
        count = 0
        for task in client.tasks.values():
            is_over = is_new and task.state is State.ENDED
            record = oracle.tasks.get((client.incarnation, task.number)) if is_new else None
            if record is not None:
                is_over |= record.is_canceled or (went_back and record.resolution is not None)
            count += submission.counts(task) and not is_over
        is_own = client is core.named.own
        assert is_own or count <= core.settings.window_tasks, f"{client.name} has {count} tasks"


def leases(core: "Broker") -> dict[int, float]:
    """Return when each actor and host was heard."""
    return {
        peer.incarnation: peer.heard_at for peer in (*core.actors.values(), *core.hosts.values())
    }


def check_leases(core: "Broker", before: dict[int, float]) -> None:
    """Check that a stall of the broker shortens no lease (I36)."""
    shorter = [one for one, at in leases(core).items() if at < before.get(one, at)]
    assert not shorter, f"the leases of {shorter} are shorter than before"


class Lying:
    """The clients that let results lie, and the oldest of those, before a turn of the broker."""

    def __init__(self, core: "Broker") -> None:
        """Look at all of them."""
        self.oldest = {
            client.incarnation: client.unreceived[0]
            for client in core.clients.values()
            if client.unreceived_bytes * BEHIND_SHARE >= core.settings.window_bytes
            and client.unreceived
        }

    def check_assigned(self, core: "Broker", incarnation: int) -> None:
        """Check that nothing is assigned of a client that has let its results lie since (I25)."""
        oldest, client = self.oldest.get(incarnation), core.clients.get(incarnation)
        if oldest is not None and client is not None and client.unreceived:
            has_received = client.unreceived[0] is not oldest
            assert has_received, f"{client.name} does not take its results, and gets more"


def check_tables(core: "Broker") -> None:
    """Check that what a broker remembers of what is gone has its bound (I32)."""
    settings = core.settings
    assert len(core.dead) <= forgetting.DEAD_KEPT
    assert len(core.actors_by_name) <= len(core.actors) + forgetting.LOST_KEPT
    assert len(core.dead_tasks.by_name) <= settings.dead_tasks_max
    assert len(core.bindings.by_key) <= settings.sticky_keys_max
    assert len(core.named.in_doubt) <= naming.IN_DOUBT_KEPT


def check_kept(actor: "ActorProcess", before: set[Any], acknowledged: set[Any]) -> None:
    """Check that an outcome is let go of only when the broker said so (I27)."""
    gone = before - actor.core.outcomes.kept.keys() - acknowledged
    assert not gone, f"{actor.name} forgets the outcomes of {gone}"


def check_left(actor: "ActorProcess") -> None:
    """Check that who leaves by order has nothing left (I30)."""
    core = actor.core
    if core.failure is not None or actor.world.now >= core._drain_at:
        return  # It was sent away, or had its time.
    assert not core.mailbox.held, f"{actor.name} leaves with {list(core.mailbox.held)}"
    assert not core.outcomes.kept, f"{actor.name} leaves with {list(core.outcomes.kept)}"


def tasks_in(core: "Broker") -> list[Task]:
    """Return every task that a broker still has somewhere, by any path (I33)."""
    seen: set[int] = set()
    found, todo = [], [core]
    while todo:
        one: Any = todo.pop()
        if id(one) in seen or isinstance(one, CLOSED):
            continue
        seen.add(id(one))
        if type(one) is Task:
            found.append(one)
        todo += get_referents(one)
    return found


def unrest(world: "World") -> list[str]:
    """Return of what is over but still remembered: the broker's memory is that of what lives."""
    assert world.broker is not None
    found = tasks_in(world.broker.core)
    over = [task for task in found if task.state is State.FORGOTTEN]
    # Outcomes of durable tasks are kept as long as their keys hold.
    left = [task for task in found if task.state is not State.ENDED and task not in set(over)]
    left += [task for task in found if task.state is State.ENDED and task.record is None]
    if left or len(over) > VOID_MAX:
        return [f"the broker still has {len(left)} tasks, and {len(over)} that are over"]
    return []
