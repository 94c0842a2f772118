"""Slots and turns in the simulator: what the calls in a replica cost together, who is inside.

All is counted from the calls themselves, never from what the cores have counted.
"""

from typing import TYPE_CHECKING, Any

from tests.sim import typed
from tests.sim.typed import is_sharing
from wire.messages import ActorBeat, Credit

if TYPE_CHECKING:
    from tests.sim.actors import ActorProcess

Session = tuple[int, int, int]


def check_actor(actor: "ActorProcess") -> None:
    """Check that what runs has its slots and its turns."""
    typed.check_actor(actor)
    actor.world.oracle.copies.check_inside(actor)
    holding = [run.assignment.recipe.call for run in actor.runs.values() if not run.is_released]
    turns: dict[str, int] = {}
    for call in holding:
        if call.environment is not None:
            place = call.environment
            turns[place.pool] = turns.get(place.pool, 0) + place.turns
            inside = f"{turns[place.pool]} turns are taken in {place.name}"
            assert turns[place.pool] <= place.size, inside


class Grants:
    """What each session of an actor has stated, and what it was given."""

    def __init__(self) -> None:
        """Begin with no session."""
        # (number, received, credit) of each frame that states some; (frame, calls) of what is on
        # its way or came.
        self.statements: dict[Session, list[tuple[int, int, Credit]]] = {}
        self.flights: dict[Session, list[tuple[int, list[Any]]]] = {}

    def stated(self, actor: "ActorProcess", frame: Any) -> None:
        """Follow what an actor grants."""
        for command in frame.commands if frame.number else ():
            credit = command.credit if type(command) is ActorBeat else command
            if type(credit) is Credit:
                typed.check_statement(actor, credit)
                known = self.statements.setdefault(session_of(actor, frame), [])
                known.append((frame.number, frame.received, credit))

    def spent(self, actor: "ActorProcess", frame: Any, calls: list[Any]) -> None:
        """Check that the *calls* in a frame are covered by what the broker has heard."""
        key = session_of(actor, frame)
        self.flights.setdefault(key, []).append((frame.number, calls))
        heard = [known for known in self.statements.get(key, ()) if known[0] <= frame.received]
        assert heard, f"{actor.name} is assigned a task before it has granted anything"
        _, received, credit = heard[-1]
        flying = [call for at, those in self.flights[key] if at > received for call in those]
        costing, earlier = (
            [c for c in those if not (is_sharing(c) and c.environment.id in credit.shared)]
            for those in (flying, flying[: len(flying) - len(calls)])
        )
        typed.check_spent(actor.name, credit, costing, earlier)
        taken: dict[str, int] = {}
        for call in filter(is_sharing, flying):
            pool = call.environment.pool
            taken[pool] = taken.get(pool, 0) + call.environment.turns
        # What crossed a revoke is handed back: it took no more than was granted when it was sent.
        for call in filter(is_sharing, calls):
            pool = call.environment.pool
            whole = call.environment.size if call.environment.named else taken[pool]
            turns = credit.turns.get(pool, whole)
            assert taken[pool] <= turns, f"calls take {taken[pool]} of {turns} turns of {pool}"


def session_of(actor: "ActorProcess", frame: Any) -> Session:
    """Tell one session of an actor from all others."""
    return (actor.incarnation, frame.session, frame.epoch)
