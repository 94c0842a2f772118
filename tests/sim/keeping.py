"""How long copies of environments stay, and when one more is entered, by what their policies say.

Those that are kept for clients go with the last of them, and not before; a call that says how long
it waits for a copy that there is has no further one entered earlier.
"""

from typing import TYPE_CHECKING, Any

from broker.facts.task import State
from tests.sim.kinds import KEPT_S, is_kept_for_clients
from wire.labels import satisfies_all
from wire.messages import Bye, Template

if TYPE_CHECKING:
    from broker.core import Broker
    from broker.placing.copies import Record
    from tests.sim.actors import ActorProcess
    from tests.sim.records import TaskRecord
    from tests.sim.world import World
    from wire.messages import Assign, Evict

# So late a broker has looked at what is idle.
LOOK_S = 1.0


class Keeping:
    """Who calls which environment that is kept for clients, and since when nobody does."""

    def __init__(self, world: "World") -> None:
        """Begin with nobody."""
        self.world = world
        self.callers: dict[str, set[int]] = {}
        # Those of them of whom the broker must know.
        self.known: dict[str, set[int]] = {}
        self.left_at: dict[str, float] = {}
        # When the broker that lives has given out a call of each.
        self.given_at: dict[str, float] = {}
        # What the broker that lives was sent a call of; of others it knows nobody who may call.
        self.told: set[str] = set()
        self._core: Broker | None = None

    def submitted(self, record: "TaskRecord") -> None:
        """Note who calls what is kept for clients."""
        place = record.call.environment
        if place is not None and is_kept_for_clients(place):
            self.callers.setdefault(place.id, set()).add(record.client.incarnation)

    def heard(self, core: "Broker", peer: Any, frame: Any) -> None:
        """Note of which calls the broker was told, and who said that it will make none any more."""
        if core is not self._core:
            self._core, self.told, self.known, self.left_at = core, set(), {}, {}
            self.given_at = {}
        for command in frame.commands:
            if type(command) is Template and command.call.environment is not None:
                self.told.add(command.call.environment.id)
            elif type(command) is Bye:
                # It may open one more session, until it hears that this came.
                for callers in self.known.values():
                    callers.discard(peer.incarnation)

    def told_evict(self, command: "Evict") -> None:
        """Check that nothing is given up while one is here who may call it, and did of late."""
        assert self.world.broker is not None
        core = self.world.broker.core
        record = core.environments.records[command.environment]
        most = record.environment.reuse.replicas_max
        if most is not None and len(record.copies) > most:
            return  # Actors of an earlier broker can have brought too many along (9.7 rule 2).
        is_full = most is not None and len(record.copies) == most
        if is_full and is_wanted_elsewhere(core, record, self.world.now):
            return  # It goes where one may go that waits (9.7 rule 4).
        # What actors ran that the broker had lost by then was none of its calls.
        if self.world.now < self.given_at.get(command.environment, -KEPT_S) + KEPT_S:
            here = self.here(core, self.known.get(command.environment, set()))
            assert not here, f"{command.environment} is given up, and {here} may call it"

    def here(self, core: "Broker", callers: set[int]) -> list[str]:
        """Return which of the callers of an environment are here."""
        known = (core.clients.get(one) for one in callers)
        return [client.name for client in known if client is not None and not client.is_left]

    def looked(self, core: "Broker") -> None:
        """Check after a turn that of what nobody can call any more no idle copy stays."""
        now = self.world.now
        for identity, callers in self.callers.items():
            record = core.environments.records.get(identity)
            is_told = identity in self.told and core is self._core
            if record is None or record.waiting or not is_told or self.here(core, callers):
                self.left_at.pop(identity, None)
                continue
            left_at = self.left_at.setdefault(identity, now)
            late = [
                copy.actor.name
                for copy in record.copies.values()
                if copy.idle_since is not None
                and copy.evicted_in is None
                and now > max(left_at, copy.idle_since) + LOOK_S
            ]
            assert not late, f"{identity} stays in {late}, and nobody is left who could call it"

    def assigned(self, actor: "ActorProcess", command: "Assign", call: Any) -> None:
        """Check that a call which waits for a copy that there is enters no further one earlier."""
        patience_s, place = call.affinity_wait_s, call.environment
        if place is not None and (call.method or call.function):
            self.given_at[place.id] = self.world.now
        if place is not None and place.id in self.callers:
            self.known.setdefault(place.id, set()).add(command.client)
        if patience_s is None or place is None or not call.method:
            return
        assert self.world.broker is not None
        core, now = self.world.broker.core, self.world.now
        record, task = core.environments.records[place.id], core.tokens[core.epoch, command.number]
        copy = record.copies.get(core.actors[actor.incarnation])
        others = [one for one in record.copies.values() if one is not copy and one.since < now]
        is_new = copy is not None and copy.since == now and not copy.is_warm
        # Not where a run that gave its slot back enters it again, and this one waits behind that.
        is_new &= place.id not in actor.core.mailbox.residents.by_id
        if is_new and len(others) >= max(1, place.reuse.replicas_min):
            waited_s = now - task.queued_at
            assert waited_s >= patience_s - 1e-6, f"{task.name} enters a further copy: {waited_s}"


def is_wanted_elsewhere(core: "Broker", record: "Record", now: float) -> bool:
    """Tell whether a call waits that may go to no actor which has a copy of its environment.

    Or has waited for one that takes no work for as long as it says, if it says so.
    """
    bound = core.bindings.by_key
    closed = [actor.closed_at for actor in record.copies if actor.closed]
    for client in core.clients.values():
        for task in client.tasks.values():
            place = task.call.environment if task.template else None
            if task.state is not State.QUEUED or place is None or place.id != record.environment.id:
                continue
            patience_s = task.call.affinity_wait_s or 0.0
            if closed and now >= max(task.queued_at, min(closed)) + patience_s:
                return True
            binding = bound.get(task.call.sticky.key) if task.call.sticky is not None else None
            if not any(
                satisfies_all(actor.labels, task.call.desires)
                and (binding is None or binding.actor == actor.name)
                for actor in record.copies
            ):
                return True
    return False
