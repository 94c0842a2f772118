"""The named actors that are here: who is inside, what they said last of their state.

They are replicas like any other, but hold their place until they are told to leave: nothing evicts
them, they take no room from other environments, and a run keeps its turn to its end. The rule that
must not be broken: a checkpoint leaves in the frame of the outcome that it came with, or not at
all.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from actor.holding.ended import EndedCalls
from wire.labels import Labels
from wire.messages import Frame, Leave, Resides, Restore
from wire.parts import Environment, Token
from wire.session import PeerSession

if TYPE_CHECKING:
    from actor.holding.mailbox import Assignment, Payloads
    from actor.holding.recipe import Buffer


class NamedReplica:
    """One named actor that is here, or being entered."""

    __slots__ = (
        "checkpoint",
        "ended",
        "environment",
        "generation",
        "inside",
        "is_leaving",
        "is_new_to_broker",
        "is_warm",
        "recipe",
        "restores",
        "serial",
    )

    def __init__(
        self,
        assignment: "Assignment",
        environment: Environment,
        restores: "tuple[int, Buffer] | None",
    ) -> None:
        """Begin to be entered by *assignment*; its call and code are told to a broker without."""
        self.recipe = assignment.recipe
        self.environment = environment
        self.generation = assignment.token
        self.is_warm = False
        # What it begins from: serial and checkpoint.
        self.restores = restores
        # Who is inside, and with which turns.
        self.inside: dict[Token, Environment] = {}
        self.ended = EndedCalls()
        self.is_leaving = False
        # Whether the broker of this session may not know where it was assigned to be entered.
        self.is_new_to_broker = False
        self.serial = 0
        self.checkpoint: Buffer | None = None

    def turns_free(self) -> dict[str, int]:
        """Return how many turns nobody has, of each group; none while it takes nobody."""
        if not self.is_warm or self.is_leaving:
            return dict.fromkeys(self.environment.pools, 0)
        free = self.environment.pools
        for taken in self.inside.values():
            free[taken.pool] -= taken.turns
        return free


class NamedReplicas:
    """All named actors of this process."""

    __slots__ = ("_gone", "_kept", "_restoring", "_told", "busy", "by_id")

    def __init__(self, gone: list[str]) -> None:
        """Begin with none; those to be left by `exit` are added to *gone*."""
        self.by_id: dict[str, NamedReplica] = {}
        # Those of which not every turn is free.
        self.busy: dict[str, NamedReplica] = {}
        # What those begin from that were not entered yet: serial and checkpoint.
        self._restoring: dict[str, tuple[int, Buffer]] = {}
        # Those of which the call that it came with was canceled, so that it is not said again.
        self._kept: set[str] = set()
        self._gone = gone
        # Whether the broker of this session was told who is here.
        self._told = True

    def has(self, environment: Environment) -> bool:
        """Tell whether an actor is here, or is being entered."""
        replica = self.by_id.get(environment.id)
        return replica is not None and not replica.is_leaving

    # --- turns

    def can_enter(self, environment: Environment) -> bool:
        """Tell whether a turn is free, or the actor could be entered."""
        replica = self.by_id.get(environment.id)
        if replica is None:
            return True
        if replica.is_warm and not (replica.inside or replica.is_leaving or environment.group):
            return True  # Mostly all turns are free.
        return replica.turns_free().get(environment.pool, 0) >= environment.turns

    def enter(self, assignment: "Assignment", environment: Environment) -> None:
        """Give *assignment* its turn, and note in it whether it has to load."""
        replica = self.by_id.get(environment.id)
        if replica is None:
            restores = self._restoring.pop(environment.id, None)
            self._kept.discard(environment.id)
            replica = NamedReplica(assignment, environment, restores)
            self.by_id[environment.id] = replica
            assignment.loads = True
        replica.inside[assignment.token] = environment
        self.busy[environment.id] = replica
        assignment.is_inside = True

    def leave(self, assignment: "Assignment", environment: Environment) -> None:
        """Take the turn of *assignment* back, at its end."""
        assignment.is_inside = False
        replica = self.by_id.get(environment.id)
        if replica is None:
            return
        replica.inside.pop(assignment.token, None)
        recipe = assignment.recipe
        if replica.is_warm and not (recipe.is_entry or recipe.call.durable):
            replica.ended.add(assignment.client, assignment.task)
        self._settle(replica)

    def change(self, identity: str, *, is_warm: bool) -> bool:
        """Note what became of an entry; tell whether that was news."""
        replica = self.by_id.get(identity)
        if replica is None or (is_warm and replica.is_warm):
            return False
        if not is_warm:
            self._drop(replica)
            if replica.restores is not None and not replica.is_leaving:
                self._restoring[identity] = replica.restores
            return True
        replica.is_warm = True
        if replica.is_new_to_broker:
            self._told = False
        if replica.restores is not None:
            replica.serial, replica.checkpoint = replica.restores
            replica.restores = None
        self._settle(replica)
        return True

    def turns(self, waiting: Iterable["Assignment"]) -> dict[str, int]:
        """Return the free turns of those of which not all are; *waiting* may want some."""
        left: dict[str, int] = {}
        for replica in self.busy.values():
            left |= replica.turns_free()
        for assignment in waiting:
            environment = assignment.recipe.call.environment
            if environment is not None and environment.named is not None:
                if environment.id not in left:
                    left |= environment.pools
                left[environment.pool] -= environment.turns
        return {pool: max(0, turns) for pool, turns in left.items()}

    def labels(self) -> Iterator[tuple[str, Labels]]:
        """Yield name and labels of each that is warm."""
        for replica in self.by_id.values():
            if replica.is_warm:
                yield replica.environment.name, replica.environment.labels

    # --- checkpoints

    def seal(
        self, assignment: "Assignment", frames: "Payloads", checkpoint: "Buffer"
    ) -> "tuple[int, Payloads]":
        """Add the checkpoint after a run to the *frames* of its outcome, and return its serial.

        0 where nothing has changed.
        """
        environment = assignment.recipe.call.environment
        replica = self.by_id.get(environment.id) if environment else None
        if replica is None or replica.checkpoint == checkpoint:
            return 0, frames
        replica.serial += 1
        replica.checkpoint = checkpoint
        return replica.serial, (*frames, checkpoint)

    def restore(self, command: Restore, payloads: Sequence["Buffer"]) -> None:
        """Keep what the next entry begins from, unless the actor is here."""
        replica = self.by_id.get(command.environment)
        if payloads and (replica is None or replica.is_leaving):
            self._restoring[command.environment] = (command.serial, payloads[0])
            self._kept.discard(command.environment)

    # --- coming and going

    def restored(self, identity: str) -> "Buffer | None":
        """Return the checkpoint that an entry which goes on now begins from; from any thread."""
        replica = self.by_id.get(identity)
        return None if replica is None or replica.restores is None else replica.restores[1]

    def handed_back(self, environment: Environment) -> None:
        """Drop what an entry would begin from that is handed back: it is said again."""
        if environment.id not in self._kept:
            self._restoring.pop(environment.id, None)

    def canceled(self, environment: Environment) -> None:
        """Keep what an entry would begin from that nobody wants: the broker says it once."""
        if environment.id in self._restoring:
            self._kept.add(environment.id)

    def order(self, command: Leave) -> None:
        """Give up an actor once nobody is inside; one of a later generation stays."""
        self._restoring.pop(command.environment, None)
        self._kept.discard(command.environment)
        replica = self.by_id.get(command.environment)
        if replica is not None and replica.generation <= command.generation:
            replica.is_leaving = True
            self._settle(replica)

    def begin_session(self) -> None:
        """Note that the broker does not know who is here."""
        self._told = not self.by_id
        for replica in self.by_id.values():
            replica.is_new_to_broker = True

    def tell(self, session: PeerSession, now: float) -> "list[tuple[Frame[Any], Sequence[Buffer]]]":
        """Tell a session that has begun who is here.

        Behind the outcomes, so that no checkpoint is there before what it follows.
        """
        self._told = True
        told: list[tuple[Frame[Any], Sequence[Buffer]]] = []
        for replica in self.by_id.values():
            code = replica.recipe.blob
            is_here = replica.is_warm and not replica.is_leaving
            if replica.is_new_to_broker and is_here and code is not None:
                frames = [code] if replica.checkpoint is None else [code, replica.checkpoint]
                call = replica.recipe.call
                serial, ended = replica.serial, replica.ended.state()
                command = Resides(call, replica.generation, serial, len(frames), ended)
                told += session.ahead(frames)
                told.append((session.frame([command], now), frames))
                replica.is_new_to_broker = False
        return told

    @property
    def has_untold(self) -> bool:
        """Tell whether the session is to be told who is here."""
        return not self._told

    def _settle(self, replica: NamedReplica) -> None:
        """Note whether somebody is inside, and let go one that is to leave."""
        identity = replica.environment.id
        if replica.inside or not replica.is_warm:
            self.busy[identity] = replica
        elif replica.is_leaving:
            self._drop(replica)
            self._gone.append(identity)
        else:
            self.busy.pop(identity, None)

    def _drop(self, replica: NamedReplica) -> None:
        del self.by_id[replica.environment.id]
        self.busy.pop(replica.environment.id, None)

    def check(self, held: dict[Token, "Assignment"]) -> None:
        """Assert that who is inside is held, and that nobody is inside beyond the turns."""
        for identity, replica in self.by_id.items():
            assert replica.environment.id == identity
            assert replica.inside.keys() <= held.keys()
            taken: dict[str, int] = {}
            for one in replica.inside.values():
                taken[one.pool] = taken.get(one.pool, 0) + one.turns
            sizes = replica.environment.pools
            assert all(turns <= sizes[pool] for pool, turns in taken.items())
            is_busy = bool(replica.inside) or not replica.is_warm
            assert is_busy == (identity in self.busy)
            assert bool(replica.serial) == (replica.checkpoint is not None)
        assert self.busy.keys() <= self.by_id.keys()
