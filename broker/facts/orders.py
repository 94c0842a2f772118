"""What an operator orders actors to do: drain, pause, resume (protocol.md section 9.4).

The actor owns its state and says it; the broker passes the order on, and keeps it for the next
process that has the name. The rule that must not be broken: an order that was lost with a session,
a process or a broker that has a journal is said again to whoever has the name next.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from broker.facts.outbox import say_when_written
from broker.facts.peers import Actor, Session
from wire import codec
from wire.messages import Answer, Drain, Pause, Query
from wire.texts import brief

if TYPE_CHECKING:
    from broker.core import Broker

COMMANDS: Final[dict[str, Drain | Pause]] = {
    "drain": Drain(),
    "pause": Pause(True),
    "resume": Pause(False),
}
DRAIN: Final = "drain"
# What stands until it is taken back, with what an actor says of itself that does it already.
CLOSED: Final = {DRAIN: "draining", "pause": "paused"}
STANDING_MAX: Final = 4_096
NAMES_SHOWN_MAX: Final = 5
# Names are shorter, and to read a pattern takes the square of its length.
PATTERN_LENGTH_MAX: Final = 1_024


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


def query(broker: "Broker", session: Session, command: Query) -> None:
    """Give an order at once; answer when it is on disk, where there is one that can be written."""
    body = order(broker, command.what, command.argument)
    answer = Answer(command.request, codec.encode(body))
    if broker.records.has_journal and not broker.records.refusal:
        say_when_written(broker, session, answer)
    else:
        broker.say(session, answer)


def order(broker: "Broker", what: str, pattern: str) -> dict[str, Any]:
    """Tell the actors whose names match *pattern*; return who was told, and who is away."""
    if len(pattern) > PATTERN_LENGTH_MAX:
        most = f"{PATTERN_LENGTH_MAX:,} characters"
        return {"error": f"a pattern has at most {most}, not {len(pattern):,}"}
    named = [a for name, a in broker.actors_by_name.items() if fnmatchcase(name, pattern)]
    found = [actor for actor in named if broker.actors.get(actor.incarnation) is actor]
    if not found:
        return {"error": unknown(broker, pattern)}
    for actor in found:
        actor.order = Order(COMMANDS[what])
        stand(broker, actor, what)
        if actor.session is not None:
            actor.order.say(broker, actor.session)
        broker.note("actor_ordered", actor=actor.name, what=what)
    return {
        "actors": [actor.name for actor in found if actor.session is not None],
        "away": [actor.name for actor in found if actor.session is None],
    }


def stand(broker: "Broker", actor: Actor, what: str) -> None:
    """Keep an order for *actor*, or forget the one where *what* takes it back.

    A pause is for whoever has the name, a drain for this process alone: the next one may be what it
    was drained for.
    """
    known, name = broker.orders, actor.name
    text = f"{DRAIN} {actor.incarnation}" if what == DRAIN else what
    if what not in CLOSED:
        forget(broker, name)
    elif known.get(name) != text:
        known[name] = text
        write(broker, "order", name, text)
        if len(known) > STANDING_MAX:
            # The oldest of somebody who is not there; all are connected only where there are more.
            gone = (one for one in known if one not in broker.actors_by_name)
            forget(broker, next(gone, next(iter(known))))


def forget(broker: "Broker", name: str) -> None:
    """Let nobody who is called *name* be ordered anything any more."""
    if broker.orders.pop(name, None) is not None:
        write(broker, "forget-order", name)


def write(broker: "Broker", *operation: str) -> None:
    """Let the journal, if there is one, have it."""
    broker.sequence += 1
    broker.operations.append(operation)


def restore(broker: "Broker", stored: Mapping[str, str]) -> None:
    """Take over what was ordered of an earlier broker."""
    broker.orders.update(stored)


def repeat(broker: "Broker", actor: Actor) -> None:
    """Say an order again that may not have come, in a session that has begun."""
    if actor.order is None and actor.name in broker.orders:
        # To another process of this name, or by another broker.
        what, _, incarnation = broker.orders[actor.name].partition(" ")
        if what == DRAIN and incarnation != str(actor.incarnation):
            forget(broker, actor.name)
        elif not actor.closed.startswith(CLOSED[what]):
            actor.order = Order(COMMANDS[what])
    if actor.order is not None and actor.session is not None and not actor.order.is_heard:
        actor.order.say(broker, actor.session)


def left(broker: "Broker", actor: Actor) -> None:
    """Forget that a process was to drain, which has left."""
    if broker.orders.get(actor.name, "").startswith(DRAIN):
        forget(broker, actor.name)


def stated(broker: "Broker", actor: Actor) -> None:
    """Forget an order that the actor has heard and does not keep: a task of its own resumed it."""
    order = actor.order
    if order is None or not order.is_heard or broker.orders.get(actor.name) != "pause":
        return
    if not actor.closed or actor.closed.startswith(("memory", "keeping")):
        forget(broker, actor.name)


def unknown(broker: "Broker", pattern: str) -> str:
    """Say that nobody is called so, and who there is."""
    names = sorted(actor.name for actor in broker.actors.values())
    if any(fnmatchcase(name, f"{pattern}/*") for name in names):
        return f"no actor is called {brief(pattern)}, but its actors are: say '{pattern}/*'"
    shown = ", ".join(names[:NAMES_SHOWN_MAX]) + (", ..." if len(names) > NAMES_SHOWN_MAX else "")
    return f"no actor is called {brief(pattern)}; connected: {shown or 'none'}"
