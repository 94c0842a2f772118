"""What an actor holds: the mailbox of what waits, who has a slot, which environments are resident.

Everything that is stated to the broker is computed from what stands here, never counted up and
down. The rule that must not be broken: whoever holds a slot is in `holders`, and their slots never
exceed the capacity.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from enum import StrEnum
from math import inf
from typing import Final

from actor.settings import SLOT
from wire.labels import Labels
from wire.messages import Call, Environment, Held, Token

Buffer = bytes | bytearray | memoryview
Payloads = Sequence[Buffer]
NO_SLOTS: Final[dict[str, int]] = {}
ONE_SLOT: Final[dict[str, int]] = {SLOT: 1}


class Recipe:
    """What a TEMPLATE says, with the code that it names; what the calls of one function share."""

    __slots__ = (
        "blob",
        "call",
        "code",
        "is_plain",
        "missing",
        "run_s",
        "satisfied_version",
        "slots",
        "takes_one_slot",
    )

    def __init__(self, call: Call, *, code: Buffer | None, blob: Buffer | None) -> None:
        """Remember the code, also when the table forgets it; *missing* says what did not come."""
        self.call = call
        self.code = code
        self.blob = blob
        self.slots = call.slots or ONE_SLOT
        self.takes_one_slot = self.slots == ONE_SLOT
        self.is_plain = self.takes_one_slot and call.environment is None
        # How long it usually runs; unknown at first.
        self.run_s = inf
        # The version of the labels that were last found to satisfy it.
        self.satisfied_version = 0
        self.missing = ""
        if call.function and code is None:
            self.missing = f"the code of {call.name!r} did not come"
        elif call.environment is not None and blob is None:
            self.missing = f"the code of environment {call.environment.name!r} did not come"
        elif not call.function and not (call.method and call.environment):
            self.missing = f"template {call.name!r} names nothing to run"

    @classmethod
    def of(cls, call: Call, code: dict[bytes, Buffer]) -> "Recipe":
        """Join *call* with what the receiver has of the *code* that it names."""
        environment = call.environment
        blob = code.get(environment.blob) if environment is not None else None
        return cls(call, code=code.get(call.function), blob=blob)


class Assignment:
    """One giving of a task to this actor."""

    __slots__ = (
        "attempt",
        "body",
        "client",
        "evicts",
        "held",
        "is_inside",
        "is_stopped",
        "loads",
        "must_end",
        "payloads",
        "recipe",
        "slots",
        "task",
        "token",
    )

    def __init__(
        self,
        token: Token,
        *,
        client: int,
        task: int,
        attempt: int,
        recipe: Recipe,
        body: Buffer,
        payloads: Payloads,
    ) -> None:
        """Begin in the mailbox."""
        self.token = token
        self.client = client
        self.task = task
        self.attempt = attempt
        self.recipe = recipe
        self.body = body
        self.payloads = payloads
        self.held = Held.WAITING
        self.slots = recipe.slots
        self.is_stopped = False
        # Whether the process is to end unless this run returns.
        self.must_end = False
        # Whether it has a turn in its environment; whether it must load it, after which others are
        # gone.
        self.is_inside = False
        self.loads = False
        self.evicts: tuple[str, ...] = ()


class StopOrder:
    """Whom to tell that nobody wants it any more."""

    __slots__ = ("assignment", "force", "reason")

    def __init__(self, assignment: Assignment, *, force: bool, reason: str) -> None:
        """Name the run and why."""
        self.assignment = assignment
        self.force = force
        self.reason = reason


class Warmth(StrEnum):
    """The state of an environment in an actor; one that is not resident is cold."""

    LOADING = "loading"
    WARM = "warm"
    COLD = "cold"


class Replica:
    """One environment that is loaded here, or being loaded."""

    __slots__ = ("environment", "inside", "used", "warmth")

    def __init__(self, environment: Environment) -> None:
        """Begin loading."""
        self.environment = environment
        self.warmth = Warmth.LOADING
        # The tokens that have a turn.
        self.inside: set[Token] = set()
        self.used = 0


class Residents:
    """At most *maximum* environments; the least recently used idle one leaves first."""

    __slots__ = ("_uses", "by_id", "maximum")

    def __init__(self, maximum: int) -> None:
        """Begin with nothing loaded."""
        self.maximum = maximum
        self.by_id: dict[str, Replica] = {}
        self._uses = 0

    def can_enter(self, environment: Environment) -> bool:
        """Tell whether a turn is free now, or the environment could be loaded."""
        replica = self.by_id.get(environment.id)
        if replica is None:
            return len(self.by_id) < self.maximum or self._idle() is not None
        return replica.warmth is Warmth.WARM and len(replica.inside) < environment.concurrency

    def enter(self, assignment: Assignment) -> None:
        """Give *assignment* its turn; note in it what has to leave and whether it has to load."""
        environment = assignment.recipe.call.environment
        assert environment is not None
        replica = self.by_id.get(environment.id)
        if replica is None:
            evicts = []
            while len(self.by_id) >= self.maximum:
                idle = self._idle()
                assert idle is not None
                del self.by_id[idle.environment.id]
                evicts.append(idle.environment.id)
            replica = self.by_id[environment.id] = Replica(environment)
            assignment.loads = True
            assignment.evicts = tuple(evicts)
        self._uses += 1
        replica.used = self._uses
        replica.inside.add(assignment.token)
        assignment.is_inside = True

    def leave(self, assignment: Assignment) -> None:
        """Take the turn of *assignment* back."""
        environment = assignment.recipe.call.environment
        assert environment is not None
        assignment.is_inside = False
        replica = self.by_id.get(environment.id)
        if replica is not None:
            replica.inside.discard(assignment.token)

    def change(self, identity: str, warmth: Warmth) -> bool:
        """Note what became of an environment; tell whether that was news."""
        replica = self.by_id.get(identity)
        if replica is None or replica.warmth is warmth:
            return False
        if warmth is Warmth.COLD:
            del self.by_id[identity]
        else:
            replica.warmth = warmth
        return True

    def room(self, awaited: dict[str, int]) -> int:
        """Return how many cold environments could be entered, beside those *awaited*."""
        busy = {
            identity
            for identity, replica in self.by_id.items()
            if replica.inside or replica.warmth is Warmth.LOADING
        }
        return max(0, self.maximum - len(busy | awaited.keys()))

    def turns(self, awaited: dict[str, int]) -> dict[str, int]:
        """Return the free turns of each environment that is not cold."""
        return {
            identity: max(
                0,
                replica.environment.concurrency - len(replica.inside) - awaited.get(identity, 0),
            )
            for identity, replica in self.by_id.items()
        }

    def labels(self) -> Iterator[tuple[str, Labels]]:
        """Yield name and labels of each warm environment."""
        for replica in self.by_id.values():
            if replica.warmth is Warmth.WARM:
                yield replica.environment.name, replica.environment.labels

    def _idle(self) -> Replica | None:
        """Return the least recently used one that nobody is inside, or None."""
        idle = [
            replica
            for replica in self.by_id.values()
            if not replica.inside and replica.warmth is Warmth.WARM
        ]
        return min(idle, key=lambda replica: replica.used) if idle else None


class Mailbox:
    """Every assignment that the actor holds: waiting, holding slots, or released."""

    __slots__ = ("capacity", "has_types", "held", "holders", "residents", "unusual", "waiting")

    def __init__(self, capacity: dict[str, int], environments_max: int) -> None:
        """Begin empty."""
        self.capacity = {SLOT: 0, **capacity}
        self.has_types = any(kind != SLOT for kind in capacity)
        self.held: dict[Token, Assignment] = {}
        self.waiting: deque[Assignment] = deque()
        self.holders: dict[Token, Assignment] = {}
        self.residents = Residents(environments_max)
        # Those held that need more than one plain slot, or an environment.
        self.unusual: set[Token] = set()

    @property
    def is_plain(self) -> bool:
        """Tell whether there are only plain slots here, and only tasks of one."""
        return not (self.unusual or self.residents.by_id or self.has_types)

    @property
    def is_full(self) -> bool:
        """Tell whether every plain slot is held."""
        return len(self.holders) >= self.capacity[SLOT]

    def put(self, assignment: Assignment) -> None:
        """Let *assignment* wait behind the others."""
        self.held[assignment.token] = assignment
        self.waiting.append(assignment)
        if not assignment.recipe.is_plain:
            self.unusual.add(assignment.token)

    def drop(self, assignment: Assignment) -> None:
        """Forget one that waits."""
        self.waiting.remove(assignment)
        self._forget(assignment)

    def fits(self, slots: dict[str, int]) -> bool:
        """Tell whether so much could ever be free here."""
        return all(amount <= self.capacity.get(kind, 0) for kind, amount in slots.items())

    def next_start(self) -> Assignment | None:
        """Return the first that can start now, or None.

        One whose environment has no turn is passed over. For one whose slots are not free what it
        needs is kept, so that small ones never starve a large one.
        """
        if self.is_plain:
            has_slot = self.waiting and len(self.holders) < self.capacity[SLOT]
            return self.waiting[0] if has_slot else None
        free = self.slots_free()
        for assignment in self.waiting:
            environment = assignment.recipe.call.environment
            if environment is not None and not self.residents.can_enter(environment):
                continue
            if all(free.get(kind, 0) >= amount for kind, amount in assignment.slots.items()):
                return assignment
            for kind, amount in assignment.slots.items():
                free[kind] = free.get(kind, 0) - amount
            if free.get(SLOT, 0) <= 0 and not self.has_types:
                return None
        return None

    def start(self, assignment: Assignment) -> None:
        """Give one that waits its slots and its turn."""
        if self.waiting[0] is assignment:
            self.waiting.popleft()
        else:
            self.waiting.remove(assignment)
        assignment.held = Held.RUNNING
        self.holders[assignment.token] = assignment
        if assignment.recipe.call.environment is not None:
            self.residents.enter(assignment)

    def release(self, assignment: Assignment, typed: dict[str, int] | None) -> bool:
        """Take back all that a running one holds, or the part of its slots that *typed* names."""
        if assignment.token not in self.holders:
            return False
        if typed is not None:
            left = {
                kind: max(0, amount - typed.get(kind, 0))
                for kind, amount in assignment.slots.items()
            }
            if left == assignment.slots:
                return False
            # From here on its slots are not those of its recipe.
            self.unusual.add(assignment.token)
            assignment.slots = left
            return True
        del self.holders[assignment.token]
        assignment.slots = NO_SLOTS
        assignment.held = Held.RELEASED
        if assignment.is_inside:
            self.residents.leave(assignment)
        return True

    def end(self, assignment: Assignment) -> None:
        """Forget one that returned."""
        self.release(assignment, None)
        self._forget(assignment)

    def slots_free(self) -> dict[str, int]:
        """Return what nobody holds, of each type."""
        free = dict(self.capacity)
        for holder in self.holders.values():
            for kind, amount in holder.slots.items():
                free[kind] = free.get(kind, 0) - amount
        return free

    def slots_unclaimed(self) -> dict[str, int]:
        """Return what nobody holds or waits for, of each type; below 0 where more waits."""
        free = self.slots_free()
        for assignment in self.waiting:
            for kind, amount in assignment.slots.items():
                free[kind] = free.get(kind, 0) - amount
        return free

    def awaited(self) -> dict[str, int]:
        """Count those that wait for each environment."""
        counts: dict[str, int] = {}
        for assignment in self.waiting:
            environment = assignment.recipe.call.environment
            if environment is not None:
                counts[environment.id] = counts.get(environment.id, 0) + 1
        return counts

    def _forget(self, assignment: Assignment) -> None:
        del self.held[assignment.token]
        if self.unusual:
            self.unusual.discard(assignment.token)

    def check(self) -> None:
        """Assert that each assignment is in one place and nothing is given twice."""
        assert self.unusual <= self.held.keys()
        assert {t for t, a in self.held.items() if not a.recipe.is_plain} <= self.unusual
        waiting = {assignment.token for assignment in self.waiting}
        assert len(waiting) == len(self.waiting)
        assert not waiting & self.holders.keys()
        assert waiting | self.holders.keys() <= self.held.keys()
        assert all(amount >= 0 for amount in self.slots_free().values())
        assert len(self.residents.by_id) <= self.residents.maximum
        for token, assignment in self.held.items():
            assert assignment.token == token
            match assignment.held:
                case Held.WAITING:
                    assert token in waiting
                    assert not assignment.is_stopped
                    assert not assignment.is_inside
                case Held.RUNNING:
                    assert token in self.holders
                case Held.RELEASED:
                    assert token not in self.holders
                    assert token not in waiting
                    assert not assignment.is_inside
        inside = {token for replica in self.residents.by_id.values() for token in replica.inside}
        assert inside <= self.holders.keys()
        for replica in self.residents.by_id.values():
            assert len(replica.inside) <= replica.environment.concurrency
            assert replica.warmth is not Warmth.COLD
