"""Named actors in the simulator: each counts its calls, and nobody's result tells of a wrong count.

What a call changes is its own name, added to what the actor remembers. So a name that is there
twice is an increment that was repeated, and one that is missing is an increment that was lost.
"""

from typing import TYPE_CHECKING, Any

from msgspec import structs

from broker.facts.task import State
from sdk.calls.call import Code, Plan
from wire.messages import Call, Submit
from wire.parts import Environment, Named, Token

if TYPE_CHECKING:
    from actor.holding.mailbox import Assignment
    from broker.core import Broker
    from tests.sim.actors import ActorProcess
    from tests.sim.records import TaskRecord
    from tests.sim.world import World

# How often each may be entered again, and a call to it run again; whether the journal has it.
BOUNDS = ((-1, -1, False), (3, 0, False), (-1, -1, True), (-1, 0, True))
# Of those with a group beside the one without a name: what a call is called, its group, and how
# many turns of that it takes.
GROUPED = ((-1, -1, False), (-1, 0, True))
SIZES = {"io": 2}
METHODS = (("incr", "", 1), ("read", "io", 1), ("scan", "io", 2))


def plans(blob: Code) -> list[tuple[str, Plan]]:
    """Return for each actor the call that makes it, and one that counts."""
    made = []
    for number, (restarts, retries, is_durable) in enumerate(BOUNDS):
        named = Named("default", f"n{number}", "Counter", 0, restarts, retries)
        environment = Environment(f"named{number}", "Counter", blob.hash, named=named)
        call = Call(f"enter{number}", environment=environment, durable=is_durable)
        counts = structs.replace(call, name=f"count{number}", method="incr")
        kind = "named-durable" if is_durable else "named"
        made += [(kind, Plan(call, [blob])), (kind, Plan(counts, [blob]))]
    return made + grouped(blob)


def grouped(blob: Code) -> list[tuple[str, Plan]]:
    """Return the calls to actors inside which several may be at once."""
    made = []
    for number, (restarts, retries, is_durable) in enumerate(GROUPED):
        named = Named("default", f"g{number}", "Counter", 0, restarts, retries, groups=SIZES)
        environment = Environment(f"grouped{number}", "Counter", blob.hash, named=named)
        call = Call(f"enter-g{number}", environment=environment, durable=is_durable)
        kind = "grouped-durable" if is_durable else "grouped"
        made.append((kind, Plan(call, [blob])))
        for method, group, turns in METHODS:
            place = structs.replace(environment, group=group, turns=turns)
            name = f"{method}-g{number}"
            counts = structs.replace(call, name=name, method=method, environment=place)
            made.append((kind, Plan(counts, [blob])))
    return made


def named_of(call: Any) -> Named | None:
    """Return to which named actor a call goes, if to any."""
    return call.environment.named if call.environment is not None else None


def key_of(record: "TaskRecord") -> str:
    """Name a call as no other is named, also of a client that was started again."""
    return f"{record.client.incarnation:x}-{record.number}"


class Counters:
    """What is remembered where, and what each result has to tell of."""

    def __init__(self, world: "World") -> None:
        """Begin with nothing counted."""
        self.world = world
        # By process and actor; what an outcome followed, by the token of its run.
        self.states: dict[tuple[int, str], list[str]] = {}
        self.followed: dict[Token, tuple[str, ...]] = {}
        # Whose results somebody has, by actor; whose results were known when a call was made.
        self.known: dict[str, list[str]] = {}
        self.must_have: dict[str, tuple[str, ...]] = {}
        self.last_started: dict[tuple[int, int, str], int] = {}
        self.begun: dict[str, int] = {}
        # Those that had been with an actor when a broker gave their client up; of calls that enter,
        # how often.
        self.in_doubt: set[str] = set()
        self.given_back: dict[str, int] = {}
        # How often each could not be entered, since it last was.
        self.failures: dict[str, int] = {}
        # Calls that were held until it was known who is there: these are let in whatever waits.
        self.held: set[tuple[int, int]] = set()
        # Whether limits were closed after the turn before, and with them named actors.
        self.was_closed = True

    def may_lose(self, call: Any) -> bool:
        """Tell whether a broker took its memory along, and perhaps the only checkpoint."""
        return self.world.profile.is_forgetful and not call.durable

    def submitted(self, record: "TaskRecord") -> None:
        """Note what is known before a call is made."""
        if named_of(record.call) is not None and record.call.method:
            known = self.known.get(record.call.environment.id, ())
            self.must_have[key_of(record)] = tuple(known)

    def started(
        self, actor: "ActorProcess", record: "TaskRecord", assignment: "Assignment"
    ) -> None:
        """Check that calls of one client start in its order, and again only if they may."""
        named = named_of(record.call)
        if named is None:
            return
        place = record.call.environment
        inside = [
            run.task
            for run in actor.runs.values()
            if run.task.call.environment is not None
            and run.task.call.environment.pool == place.pool
        ]
        taken = place.turns + sum(task.call.environment.turns for task in inside)
        assert taken <= place.size, (
            f"{record.name} starts in {place.pool!r} beside {[task.name for task in inside]}"
        )
        if not record.call.method:
            return
        key = (actor.incarnation, assignment.client, place.pool)
        if len(record.starts) == 1:
            # Again is not overtaken: its environment could not be entered, or its process died.
            assert assignment.task >= self.last_started.get(key, 0), f"{record.name} is overtaken"
        self.last_started[key] = max(assignment.task, self.last_started.get(key, 0))
        if not assignment.loads:
            self.begins(record)

    def given_up(self, record: "TaskRecord") -> None:
        """Expect of a call that its client still wants that nobody may know what became of it.

        Also where it never came to the actor to which it was assigned. One that enters does nothing
        more, and enters again.
        """
        key = key_of(record)
        if named_of(record.call) is None or not record.is_open:
            return
        if record.call.method:
            self.in_doubt.add(key)
        else:
            self.given_back[key] = self.given_back.get(key, 0) + 1

    def is_in_doubt(self, record: "TaskRecord") -> bool:
        """Tell whether a call that had been with an actor may be known to nobody any more.

        A broker gave its client up, or another one began since: that may have heard of it late.
        """
        if named_of(record.call) is None or record.call.durable:
            return False
        assert self.world.broker is not None
        name, epoch = (record.client.incarnation, record.number), self.world.broker.core.epoch
        return key_of(record) in self.in_doubt or any(
            (client, task) == name and token[0] != epoch
            for token, (client, task, _) in self.world.oracle.assigned.items()
        )

    def begins(self, record: "TaskRecord") -> None:
        """Check that a call that has begun before may begin again; entering was not begun."""
        key, named = key_of(record), named_of(record.call)
        self.begun[key] = self.begun.get(key, 0) + 1
        if named is not None and not named.max_task_retries and not self.may_lose(record.call):
            most = 1 + self.given_back.get(key, 0)
            assert self.begun[key] <= most, f"{record.name} runs again and must not"

    def entered(self, actor: "ActorProcess", environment: Environment) -> None:
        """Begin from what the broker has sent along."""
        if environment.named is None:
            return
        checkpoint = actor.core.mailbox.residents.named.restored(environment.id)
        text = bytes(checkpoint).decode() if checkpoint is not None else ""
        self.states[actor.incarnation, environment.id] = text.split(",") if text else []
        others = [
            other
            for other in self.world.actors
            if other.is_alive and environment.id in other.core.mailbox.residents.named.by_id
        ]
        self.failures.pop(environment.id, None)
        if self.world.profile.is_steady:
            assert others == [actor], f"{environment.id} is in {len(others)} processes"
            alike = self.namesakes(environment)
            assert not alike, f"{environment.id} and {alike} have one name"

    def namesakes(self, environment: Environment) -> list[str]:
        """Return what else some process has under the name of a named actor."""
        named = environment.named
        assert named is not None
        return [
            replica.environment.id
            for actor in self.world.actors
            for replica in actor.core.mailbox.residents.named.by_id.values()
            if actor.is_alive and replica.environment.id != environment.id
            for other in (replica.environment.named,)
            if other and (other.namespace, other.name) == (named.namespace, named.name)
        ]

    def failed(self, environment: Environment) -> None:
        """Check that one which cannot be entered is not tried for ever."""
        if environment.named is None:
            return
        count = self.failures[environment.id] = self.failures.get(environment.id, 0) + 1
        if self.world.profile.is_steady and self.world.broker is not None:
            most = self.world.broker.core.settings.environment_failures_max
            assert count <= most, f"{environment.id} is tried again after {count - 1} failures"

    def heard(self, client: Any, frame: Any) -> None:
        """Note which calls are said again: those are not new, and may wait beyond the bound."""
        for command in frame.commands:
            if type(command) is Submit and command.again:
                self.held.add((client.incarnation, command.task))

    def looked(self, core: "Broker") -> None:
        """Check after a turn that no more calls wait for the first time than may."""
        counts: dict[str, int] = {}
        was_closed, self.was_closed = self.was_closed, core.limits.is_closed
        is_let_in = was_closed and not self.was_closed
        for client in core.clients.values() if "bounded" in self.world.profile.kinds else ():
            for task in client.tasks.values():
                name = client.incarnation, task.number
                if task.state is State.HELD or is_let_in:
                    self.held.add(name)  # It may have come in this turn, in which all are let in.
                named = named_of(task.call) if task.state is State.QUEUED else None
                is_new = name not in self.held and name not in self.world.oracle.crashes.given
                is_new &= client is not core.named.own
                if named is not None and named.max_pending and is_new:
                    counts[named.name] = counts.get(named.name, 0) + 1
                    assert counts[named.name] <= named.max_pending, f"{counts} calls wait"

    def strays(self, core: "Broker") -> list[str]:
        """Return what processes have of named actors that are elsewhere, or have ended."""
        homes = {one.id: one.home for one in core.named.by_id.values()}
        return [
            f"{actor.name} has {identity}"
            for actor in self.world.actors
            for identity in actor.core.mailbox.residents.named.by_id
            if actor.is_alive and homes.get(identity) is not core.actors.get(actor.incarnation)
        ]

    def finished(self, actor: "ActorProcess", record: "TaskRecord", token: Token) -> bytes | None:
        """Let a call count, and return what the actor says of its state then."""
        if named_of(record.call) is None:
            return None
        state = self.states[actor.incarnation, record.call.environment.id]
        if record.call.method:
            assert key_of(record) not in state, f"{record.name} is counted twice"
            state.append(key_of(record))
        self.followed[token] = tuple(state)
        return ",".join(state).encode()

    def resolved(self, record: "TaskRecord", body: bytes) -> None:
        """Check that a result follows all those that were known when its call was made."""
        if key_of(record) not in self.must_have:
            return
        epoch, _, number = body.rpartition(b" by ")[2].partition(b".")
        followed = self.followed[int(epoch), int(number)]
        missing = set(self.must_have[key_of(record)]) - set(followed)
        if not self.may_lose(record.call):
            lost = [name for name in missing if self._is_kept(record)]
            assert not lost, f"{record.name} does not know of {lost}"
        self.known.setdefault(record.call.environment.id, []).append(key_of(record))

    def _is_kept(self, record: "TaskRecord") -> bool:
        """Tell whether an actor can not have ended, and another been made under its name."""
        named = named_of(record.call)
        return named is not None and named.max_restarts < 0
