"""What an operator orders actors to do: drain, pause, resume (protocol.md section 9.4).

The actor owns its state and says it; the broker only passes the order on. The rule that must not be
broken: an order that was lost with a session is said again in the next one.
"""

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from broker.peers import Actor, Session
from wire.messages import Drain, Pause

if TYPE_CHECKING:
    from broker.core import Broker

COMMANDS: Final[dict[str, Drain | Pause]] = {
    "drain": Drain(),
    "pause": Pause(True),
    "resume": Pause(False),
}
NAMES_SHOWN_MAX: Final = 5


class Order:
    """The last order to an actor, and the frame that brings it."""

    __slots__ = ("_frame", "_session", "command")

    def __init__(self, command: Drain | Pause) -> None:
        """Begin as one that nobody was told."""
        self.command = command
        self._session: Session | None = None
        self._frame = 0

    @property
    def is_heard(self) -> bool:
        """Tell whether the actor has received it."""
        return self._session is not None and self._session.acked >= self._frame

    def say(self, broker: "Broker", session: Session) -> None:
        """Say it in *session*."""
        broker.say(session, self.command)
        # After say: a frame that was full is sealed by it.
        self._session, self._frame = session, session.sent + len(session.sealed) + 1


def order(broker: "Broker", what: str, pattern: str) -> dict[str, Any]:
    """Tell the actors whose names match *pattern*; return who was told, and who is away."""
    named = [a for name, a in broker.actors_by_name.items() if fnmatchcase(name, pattern)]
    found = [actor for actor in named if broker.actors.get(actor.incarnation) is actor]
    if not found:
        return {"error": unknown(broker, pattern)}
    for actor in found:
        actor.order = Order(COMMANDS[what])
        if actor.session is not None:
            actor.order.say(broker, actor.session)
        broker.note("actor_ordered", actor=actor.name, what=what)
    return {
        "actors": [actor.name for actor in found if actor.session is not None],
        "away": [actor.name for actor in found if actor.session is None],
    }


def repeat(broker: "Broker", actor: Actor) -> None:
    """Say an order again that may not have come, in a session that has begun."""
    if actor.order is not None and actor.session is not None and not actor.order.is_heard:
        actor.order.say(broker, actor.session)


def unknown(broker: "Broker", pattern: str) -> str:
    """Say that nobody is called so, and who there is."""
    names = sorted(actor.name for actor in broker.actors.values())
    if any(fnmatchcase(name, f"{pattern}/*") for name in names):
        return f"no actor is called {pattern!r}, but its actors are: say '{pattern}/*'"
    shown = ", ".join(names[:NAMES_SHOWN_MAX]) + (", ..." if len(names) > NAMES_SHOWN_MAX else "")
    return f"no actor is called {pattern!r}; connected: {shown or 'none'}"
