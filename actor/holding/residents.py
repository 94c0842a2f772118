"""Which environments are resident in an actor, who has a turn in them, and which one leaves first.

The rules that must not be broken: nobody is evicted while somebody is inside or it is loading; and
who has released holds on to its copy, also while that had to leave.
"""

from collections.abc import Iterator
from enum import StrEnum
from math import exp, inf
from typing import TYPE_CHECKING, Final

from actor.holding.named import NamedReplicas
from wire.labels import Labels
from wire.parts import WORN, Environment, Held, Token

if TYPE_CHECKING:
    from actor.holding.mailbox import Assignment


# From how many tasks an actor tells what is used of late, for each environment that it holds. More
# of them tell better what is popular, fewer sooner that it is no longer.
MEMORY_TASKS: Final = 4


class Warmth(StrEnum):
    """The state of an environment in an actor; one that is not resident is cold."""

    LOADING = "loading"
    WARM = "warm"
    COLD = "cold"


# Looked up once, for the path of each task: a member of an enum costs a search through its class.
LOADING: Final = Warmth.LOADING
WARM: Final = Warmth.WARM


class Replica:
    """One environment that is loaded here, or being loaded."""

    __slots__ = (
        "away",
        "environment",
        "inside",
        "is_bounded",
        "is_for_one",
        "is_spoiled",
        "known",
        "load_s",
        "tasks",
        "used",
        "uses",
        "warmth",
    )

    def __init__(self, environment: Environment, known: Environment | None = None) -> None:
        """Begin loading; the broker knows it as *known*, where that is another one."""
        self.environment = environment
        self.known = known or environment
        self.warmth = Warmth.LOADING
        # Who is inside, with how many turns each.
        self.inside: dict[Token, int] = {}
        # Which runs gave their turn back and have not returned: what they hold is still this copy.
        self.away: dict[Token, None] = {}
        # After how many uses of all it was used last, and how often of late as of then.
        self.used = 0
        self.uses = 0.0
        # How long it took to enter it.
        self.load_s = 0.0
        # How many tasks it has taken, where it is replaced after some of them.
        self.tasks = 0
        # Whether it is for a single run, so that nobody else has a turn in it.
        self.is_for_one = environment.reuse.is_fresh
        self.is_bounded = self.is_for_one or environment.reuse.max_tasks is not None
        # Whether its `reset` has failed.
        self.is_spoiled = False

    @property
    def tasks_left(self) -> float:
        """Return how many more tasks it may take before it is replaced.

        While a run is to come back it is not, and those that this run waits for may be of it. One
        that is spoiled takes none, whoever comes back.
        """
        if self.is_spoiled:
            return 0
        if self.away:
            return inf
        reuse = self.environment.reuse
        tasks_max = 1 if reuse.is_fresh else reuse.max_tasks
        return inf if tasks_max is None else max(0, tasks_max - self.tasks)

    @property
    def state(self) -> str:
        """Return for the broker how it stands: worn while it takes no more until all have left."""
        is_worn = self.inside and self.warmth is Warmth.WARM and not self.tasks_left
        return WORN if is_worn else self.warmth.value

    @property
    def turns_free(self) -> int:
        """Return how many turns are free now."""
        free = self.environment.concurrency
        if self.inside:
            free -= sum(self.inside.values())
        if not self.is_bounded:
            return free
        left = self.tasks_left
        if not left:
            return 0
        # One that is to be alone may be its last.
        return int(min(free, left)) if self.inside else free


class Residents:
    """At most *maximum* environments; the idle one that saves the least leaves first."""

    __slots__ = ("_uses", "aside", "by_id", "left", "maximum", "named", "worn")

    def __init__(self, maximum: int) -> None:
        """Begin with nothing loaded."""
        self.maximum = maximum
        self.by_id: dict[str, Replica] = {}
        # Those for a single run that waits or has released, and which: in their places until
        # anybody needs these, and for nobody else. Each has an id of its own.
        self.aside: dict[str, tuple[Token, Replica]] = {}
        # Those that had to leave under released runs: what is entered next there is that one.
        self.left: dict[str, Replica] = {}
        self._uses = 0
        # Those given up after their last task, to be left by `exit`.
        self.worn: list[str] = []
        # Those that have an address, which count for no number here.
        self.named = NamedReplicas(self.worn)

    def can_enter(self, environment: Environment) -> bool:
        """Tell whether a turn is free now, or the environment could be loaded."""
        if environment.named is not None:
            return self.named.can_enter(environment)
        replica = self.by_id.get(environment.id)
        if replica is None:
            return len(self.by_id) < self.maximum or self.idle() is not None
        return replica.warmth is WARM and replica.turns_free >= environment.turns

    def enter(self, assignment: "Assignment") -> None:
        """Give *assignment* its turn; note in it what has to leave and whether it has to load."""
        recipe = assignment.recipe
        environment = recipe.environment
        assert environment is not None
        if recipe.is_named:
            self.named.enter(assignment, environment)
            return
        replica = self.by_id.get(environment.id)
        if replica is None and self.aside and self._is_of(assignment):
            _, replica = self.aside.pop(environment.id)
            self.by_id[environment.id] = replica
            replica.tasks -= 1
        elif replica is None:
            assignment.evicts = self._make_room()
            assignment.loads = True
            replica = self._begin(Replica(environment, recipe.known))
        if self.maximum > 1:
            self._count_use(replica)
        if replica.is_bounded and assignment.token not in replica.away:
            # A call that only enters is none of the tasks that it may take; who comes back was one.
            replica.tasks += not recipe.is_entry
        if replica.away:
            replica.away.pop(assignment.token, None)
        replica.inside[assignment.token] = environment.turns
        assignment.is_inside = True

    def _begin(self, replica: Replica) -> Replica:
        """Take *replica* in, which is being loaded: the one that released runs hold, if some do."""
        identity = replica.environment.id
        former = self.left.pop(identity, None)
        if former is not None:
            replica.away = former.away
            replica.tasks = former.tasks
        self.by_id[identity] = replica
        return replica

    def _give_up(self, identity: str) -> None:
        """Have a replica no more, but for the runs that hold on to it."""
        replica = self.by_id.pop(identity)
        if replica.away or replica.inside:
            self.left[identity] = replica

    def _is_of(self, assignment: "Assignment") -> bool:
        """Tell whether a copy was put aside for the run of *assignment*."""
        environment = assignment.recipe.environment
        found = self.aside.get(environment.id) if environment is not None else None
        return found is not None and found[0] == assignment.token

    def _make_room(self) -> tuple[str, ...]:
        """Give up what has to leave before one more is entered, and return that.

        What a run comes back to goes after all that is idle.
        """
        evicts: list[str] = []
        while len(self.by_id) + len(self.aside) >= self.maximum:
            idle = self.idle()
            if self.aside and (idle is None or idle.away):
                gone = next(iter(self.aside))
                del self.aside[gone]
            else:
                assert idle is not None
                gone = idle.environment.id
                self._give_up(gone)
            evicts.append(gone)
        return tuple(evicts)

    def leave(self, assignment: "Assignment", *, is_over: bool = True) -> None:
        """Take the turn of *assignment* back; the last one out of a worn replica gives it up.

        A run that is not over holds on to the copy. One that is for a single run is put aside.
        """
        environment = assignment.recipe.environment
        assert environment is not None
        if assignment.recipe.is_named:
            self.named.leave(assignment, environment)
            return
        assignment.is_inside = False
        replica = self.by_id.get(environment.id)
        if replica is not None:
            replica.inside.pop(assignment.token, None)
            if not is_over:
                if not environment.reuse.is_fresh:
                    replica.away[assignment.token] = None
                elif replica.warmth is WARM and not replica.is_spoiled:
                    del self.by_id[environment.id]
                    self.aside[environment.id] = (assignment.token, replica)
                    return
            if replica.is_bounded:
                self._give_up_worn(replica)
        elif environment.id in self.left:
            # It could not be entered: who came back to it may do so again.
            replica = self.left[environment.id]
            replica.inside.pop(assignment.token, None)
            if not is_over:
                replica.away[assignment.token] = None
            self._forget_left(environment.id)

    def ended(self, assignment: "Assignment") -> None:
        """Note that a run is over that had given its turn back."""
        environment = assignment.recipe.environment
        if self.aside and environment is not None and self._is_of(assignment):
            del self.aside[environment.id]
            self.worn.append(environment.id)
        if environment is None:
            return
        replica = self.by_id.get(environment.id) or self.left.get(environment.id)
        if replica is not None and assignment.token in replica.away:
            del replica.away[assignment.token]
            if environment.id in self.left:
                self._forget_left(environment.id)
            elif replica.is_bounded:
                self._give_up_worn(replica)

    def _forget_left(self, identity: str) -> None:
        replica = self.left[identity]
        if not (replica.away or replica.inside):
            del self.left[identity]

    def _give_up_worn(self, replica: Replica) -> None:
        is_worn = not (replica.inside or replica.tasks_left)
        if is_worn and replica.warmth is WARM:
            self._give_up(replica.environment.id)
            self.worn.append(replica.environment.id)

    def spoil(self, identity: str) -> bool:
        """Let nobody more into a copy whose `reset` has failed; tell whether it was one.

        Others may be inside: it is given up with the last of them.
        """
        replica = self.by_id.get(identity)
        if replica is None or replica.warmth is not WARM:
            return False
        replica.is_spoiled = replica.is_bounded = True
        self._give_up_worn(replica)
        return True

    def preload(self, environment: Environment) -> bool:
        """Begin to load an environment that nobody waits for, if there is room.

        Where released runs hold on to a copy it would be another one than they have in hand.
        """
        is_known = environment.id in self.by_id or environment.id in self.left
        if is_known or len(self.by_id) + len(self.aside) >= self.maximum:
            return False
        self.by_id[environment.id] = Replica(environment)
        return True

    def evict(self, identity: str, awaited: dict[str, int]) -> bool:
        """Give up an environment that nobody uses or waits for; tell whether it was one."""
        replica = self.by_id.get(identity)
        if (
            replica is None
            or replica.inside
            or replica.away
            or replica.warmth is not Warmth.WARM
            or identity in awaited
        ):
            return False
        del self.by_id[identity]
        return True

    def change(self, identity: str, warmth: Warmth) -> bool:
        """Note what became of an environment; tell whether that was news."""
        replica = self.by_id.get(identity)
        if replica is None:
            return self.named.change(identity, is_warm=warmth is Warmth.WARM)
        if replica.warmth is warmth:
            return False
        if warmth is Warmth.COLD:
            self._give_up(identity)
        else:
            replica.warmth = warmth
        return True

    def room(self, awaited: dict[str, int]) -> int:
        """Return how many cold environments could be entered, beside those *awaited*."""
        return max(0, self.maximum - len(self.busy() | awaited.keys()))

    def busy(self) -> set[str]:
        """Return those that can not leave for another."""
        return {
            identity
            for identity, replica in self.by_id.items()
            if replica.inside or replica.warmth is Warmth.LOADING
        }

    def turns(self, awaited: dict[str, int]) -> dict[str, int]:
        """Return the free turns of each environment that is not cold.

        Nobody can have one where a copy is for a single run.
        """
        return {
            identity: max(0, replica.turns_free - awaited.get(identity, 0))
            for identity, replica in self.by_id.items()
            if not replica.is_for_one
        }

    def turns_granted(self, awaited: dict[str, int]) -> dict[str, int]:
        """Return of these what others may have: none where it is being loaded.

        Who came then would wait for that, though a turn may be free elsewhere sooner.
        """
        turns = self.turns(awaited)
        for identity, replica in self.by_id.items():
            if replica.warmth is Warmth.LOADING and identity in turns:
                turns[identity] = 0
        return turns

    def states(self) -> dict[str, str]:
        """Return for the broker how each environment stands that is not cold."""
        states = {replica.known.id: WARM.value for _, replica in self.aside.values()}
        states |= {replica.known.id: replica.state for replica in self.by_id.values()}
        return states

    def labels(self) -> Iterator[tuple[str, Labels]]:
        """Yield name and labels of each warm environment."""
        for replica in self.by_id.values():
            if replica.warmth is Warmth.WARM and not replica.is_for_one:
                yield replica.environment.name, replica.environment.labels
        if self.named.by_id:
            yield from self.named.labels()

    def idle(self) -> Replica | None:
        """Return the one that nobody is inside and that saves the least, or None.

        One to which a run comes back is the last to go. What one saves is the time that entering
        takes, for each use of late. Of equals the one that was used the longest ago.
        """
        idle = [
            replica
            for replica in self.by_id.values()
            if not replica.inside and replica.warmth is Warmth.WARM
        ]
        return min(idle, key=self._saved) if idle else None

    def check(self, held: "dict[Token, Assignment]") -> None:
        """Assert that no more are here than may be, and aside only what a released run has."""
        assert len(self.by_id) + len(self.aside) <= self.maximum
        assert not self.aside.keys() & self.by_id.keys()
        for token, replica in self.aside.values():
            assert held[token].held is Held.RELEASED
            assert replica.is_for_one
            assert not replica.inside
            assert not replica.away
        assert not self.left.keys() & self.by_id.keys()
        for replica in self.left.values():
            assert replica.away or replica.inside
            assert all(held[token].held is Held.RELEASED for token in replica.away)

    def _count_use(self, replica: Replica) -> None:
        """Count a use of *replica*, which decides only where there may be another one."""
        self._uses = uses = self._uses + 1
        # As `_uses_of_late`.
        ago = uses - replica.used
        replica.uses = 1.0 + replica.uses * exp(-ago / (MEMORY_TASKS * len(self.by_id)))
        replica.used = uses

    def _saved(self, replica: Replica) -> tuple[bool, float, int]:
        saved_s = self._uses_of_late(replica) * replica.load_s
        return bool(replica.away), saved_s, replica.used

    def _uses_of_late(self, replica: Replica) -> float:
        """Return how often it was used; each use counts less with each later one of any."""
        ago = self._uses - replica.used
        return replica.uses * exp(-ago / (MEMORY_TASKS * len(self.by_id))) if ago else replica.uses


class Turns:
    """What is left of the turns and of the room, while it is counted who is about to have them."""

    __slots__ = ("_busy", "_closed", "_free", "_maximum", "_residents")

    def __init__(self, residents: Residents) -> None:
        """Begin with all that nobody has."""
        self._residents = residents
        self._free = residents.turns({})
        self._busy, self._maximum = residents.busy(), residents.maximum
        # Named actors of which a call waits: those behind it do as well.
        self._closed: set[str] = set()

    def covers(self, environment: Environment) -> bool:
        """Tell whether its turns are free, or room where it would be."""
        if environment.named is not None:
            return environment.id not in self._closed and self._residents.can_enter(environment)
        free = self._free.get(environment.id)
        if free is None:
            return len(self._busy) < self._maximum
        return free >= environment.turns

    def take(self, environment: Environment) -> None:
        """Count them off."""
        if environment.named is None:
            free = self._free.get(environment.id, environment.concurrency)
            self._free[environment.id] = free - environment.turns
            self._busy.add(environment.id)

    def keep(self, environment: Environment) -> None:
        """Count off what is for one that reacquires: nobody loads anything before it did."""
        if environment.named is None and environment.id not in self._free:
            self._maximum = 0
        self.take(environment)

    def close(self, environment: Environment) -> None:
        """Let nobody enter a named actor before the one that waits for it."""
        self._closed.add(environment.id)
