"""What a session is told in which state, at both of its ends, as tests want to have seen it.

Each name is who it is, how its session stands, and what comes.
"""

from typing import TYPE_CHECKING, Any

from wire.messages import HELLOS, Beat, Error, Frame, Welcome, Who
from wire.session import PeerSession, State

if TYPE_CHECKING:
    from broker.core import Broker
    from tests.sim.brokers import BrokerProcess
    from tests.sim.processes import Process

# At a peer, and at the broker.
PEERS = ("client", "actor", "host")
PEER_STATES = tuple(State)
PEER_EVENTS = (
    "WELCOME",
    "WHO",
    "ERROR",
    "fatal ERROR",
    "the next frame",
    "a frame again",
    "that a large one comes",
    "a gap",
    "a frame of another epoch",
    "an answer to an earlier HELLO",
    "a frame of an earlier session",
    "no connection",
    "silence",
)
BROKER_STATES = ("unknown", "dead", "away", "open", "elsewhere")
BROKER_EVENTS = (
    "HELLO",
    "an older HELLO",
    "the next frame",
    "a frame again",
    "that a large one comes",
    "a gap",
    "a frame of an earlier session",
    "a frame of a later session",
    "a frame of another epoch",
    "garbage",
    "no connection",
)


def at_peer(peer: "Process", session: PeerSession, frame: Frame[Any]) -> str:
    """Count what *peer* is told, before it hears it, and return what that is."""
    event = of_broker(session, frame)
    peer.world.count(f"{peer.kind} {session.state}: {event}")
    return event


def of_broker(session: PeerSession, frame: Frame[Any]) -> str:
    """Name what a frame of the broker is to a session."""
    is_outside = frame.number == 0
    first = frame.commands[0]
    if is_outside and type(first) is Error and frame.session in (0, session.number):
        return "fatal ERROR" if first.fatal else "ERROR"
    if frame.session != session.number:
        return "an answer to an earlier HELLO" if is_outside else "a frame of an earlier session"
    if is_outside:
        told = {Welcome: "WELCOME", Who: "WHO", Beat: "that a large one comes"}
        return told[type(first)]
    return order_of(frame, session.epoch, session.received)


def order_of(frame: Frame[Any], epoch: int, received: int) -> str:
    """Name where a frame stands in the count of its session."""
    if frame.epoch != epoch:
        return "a frame of another epoch"
    if frame.number == received + 1:
        return "the next frame"
    return "a frame again" if frame.number <= received else "a gap"


def no_connection(peer: "Process", session: PeerSession) -> None:
    """Count that *peer* could not send."""
    peer.world.count(f"{peer.kind} {session.state}: no connection")


def watched(peer: "Process", act: Any) -> Any:
    """Let time pass for *peer*, and count when its session ends since nothing came."""
    session = peer.core.session
    was_open = session.is_open
    result = act(peer.world.now)
    if was_open and not session.is_open:
        peer.world.count(f"{peer.kind} {State.OPEN}: silence")
    return result


def unreachable(broker: "BrokerProcess", rid: bytes) -> None:
    """Count that the broker could not send."""
    session = broker.core.sessions.get(rid)
    if session is not None:
        broker.world.count(f"broker, {session.role} open: no connection")


def at_broker(broker: "BrokerProcess", peer: "Process", rid: bytes, frame: Any) -> None:
    """Count what the broker hears of *peer*, before it acts on it; None is garbage."""
    core = broker.core
    state = state_of(core, peer, rid)
    event = "garbage" if frame is None else of_peer(core, peer, frame)
    broker.world.count(f"broker, {peer.kind} {state}: {event}")


def record_of(core: "Broker", peer: "Process") -> Any:
    """Return what the broker has of a peer."""
    known: dict[int, Any] = {
        "client": core.clients,
        "actor": core.actors,
        "host": core.hosts,
        "stranger": {},
    }[peer.kind]
    return known.get(peer.incarnation)


def state_of(core: "Broker", peer: "Process", rid: bytes) -> str:
    """Name how a peer stands with the broker."""
    record = record_of(core, peer)
    if record is None:
        return "dead" if peer.incarnation in core.dead else "unknown"
    if record.session is None:
        return "away"
    return "open" if record.session.rid == rid else "elsewhere"


def of_peer(core: "Broker", peer: "Process", frame: Frame[Any]) -> str:
    """Name what a frame of a peer is to the broker."""
    record = record_of(core, peer)
    if frame.commands and type(frame.commands[0]) in HELLOS:
        is_newer = record is None or frame.session > record.session_highest
        return "HELLO" if is_newer else "an older HELLO"
    if frame.epoch != core.epoch:
        return "a frame of another epoch"
    newest = record.session_highest if record is not None else 0
    if frame.session != newest:
        is_later = frame.session > newest
        return "a frame of a later session" if is_later else "a frame of an earlier session"
    if frame.number == 0:
        return "that a large one comes"
    received = record.session.received if record.session is not None else 0
    return order_of(frame, core.epoch, received)
