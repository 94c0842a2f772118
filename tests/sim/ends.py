"""Both ends of a session, looked at together: neither has received more than the other has said,
what does not count changes nothing, and an inventory names all that runs.
"""

from typing import TYPE_CHECKING, Any

from tests.sim import sessions
from wire.messages import HELLOS
from wire.parts import Held
from wire.session import State

if TYPE_CHECKING:
    from broker.core import Broker
    from tests.sim.actors import ActorProcess
    from tests.sim.brokers import BrokerProcess
    from tests.sim.processes import Process
    from wire.messages import ActorBeat, ActorHello, Frame

# What changes nothing at the broker, and what does at a peer whose session is open.
VOID_AT_BROKER = {
    "an older HELLO",
    "a frame again",
    "a frame of an earlier session",
    "a frame of a later session",
    "a frame of another epoch",
}
VOID_AT_PEER = {
    "WELCOME",
    "a frame again",
    "a frame of another epoch",
    "an answer to an earlier HELLO",
    "a frame of an earlier session",
}


def broker_hears(  # noqa: PLR0917
    broker: "BrokerProcess", peer: "Process", rid: bytes, frame: "Frame[Any]", own: Any, now: float
) -> None:
    """Let the broker hear *frame*, and see that one that does not count changes nothing (I11)."""
    core = broker.core
    event = sessions.of_peer(core, peer, frame)
    # Of a higher epoch even a HELLO that is late tells.
    is_news = frame.epoch > core.epoch and type(frame.commands[0]) in HELLOS
    session = core.sessions.get(rid)
    # Whoever takes leave is forgotten before the session has ended.
    is_leaving = session is not None and session.is_closing
    is_void = event in VOID_AT_BROKER and not (is_news or is_leaving)
    before = facts_of_broker(core) if is_void else None
    core.receive(rid, frame, own, now)
    assert before is None or before == facts_of_broker(core), f"{event} of {peer.name} counts"


def broker_finds_bad(broker: "BrokerProcess", rid: bytes, error: Any, now: float) -> None:
    """Let the broker find that it cannot read a frame, which affects its sender alone (I34)."""
    core = broker.core
    session = core.sessions.get(rid)
    sender = session.peer.incarnation if session is not None else None
    before = facts_of_broker(core, without=sender)
    core.bad(rid, error, now)
    assert before == facts_of_broker(core, without=sender), f"what {rid!r} sent affects others"


def facts_of_broker(core: "Broker", *, without: int | None = None) -> tuple[Any, ...]:
    """Return what frames change in a broker, but for the sessions of *without*."""
    return (
        (core.epoch, core.sequence, core.assignments, len(core.operations), core.backlog.count),
        [
            (s.rid, s.number, s.received, s.sent, s.acked, len(s.commands))
            for s in core.sessions.values()
            if s.peer.incarnation != without
        ],
        [(c.incarnation, c.is_left, len(c.unreceived)) for c in core.clients.values()],
        [
            (c.incarnation, number, task.state, task.token)
            for c in core.clients.values()
            for number, task in c.tasks.items()
        ],
        [
            (a.incarnation, a.labels_version, a.is_suspect, list(a.assigned))
            for a in core.actors.values()
        ],
        [
            (a.heard_at, id(a.credit.stated), a.credit.available)
            for a in core.actors.values()
            if a.incarnation != without
        ],
        [(name, dict(key.holders)) for name, key in core.limits.keys.items()],
        [(one.id, one.home and one.home.incarnation) for one in core.named.by_id.values()],
        list(core.dead),
        dict(core.orders),
    )


def peer_hears(peer: "Process", frame: "Frame[Any]", *rest: Any) -> None:
    """Let *peer* hear *frame*, and see that one that does not count changes nothing (I11).

    From a HELLO to the WELCOME with its number that is every other one.
    """
    session = peer.core.session
    event = sessions.at_peer(peer, session, frame)
    if session.state is State.OPEN:
        is_void = event in VOID_AT_PEER
    else:
        is_void = "ERROR" not in event and (
            event != "WELCOME" or session.state is not State.OPENING
        )
    before = facts_of_peer(peer) if is_void else None
    peer.core.receive(frame, *rest)
    assert before is None or before == facts_of_peer(peer), f"{peer.name} takes {event}"


def facts_of_peer(peer: "Process") -> tuple[Any, ...]:
    """Return what frames change in a peer."""
    core, session = peer.core, peer.core.session
    shared = (
        (session.number, session.state, session.epoch, session.received, session.sent),
        (session.heard_at, session.hello_at),
    )
    if peer.kind == "client":
        return *shared, [(number, one.is_there) for number, one in core.calls.items()]
    if peer.kind == "actor":
        held = [(token, one.held, one.is_stopped) for token, one in core.mailbox.held.items()]
        return *shared, held, list(core.outcomes.kept), core.labels_version
    return *shared, [(ward.incarnation, ward.phase) for ward in core.wards]


def check_counts(core: "Broker", peer: "Process") -> None:
    """Check that neither end of a session has received more than the other has said (I10)."""
    known = sessions.record_of(core, peer)
    ours = known.session if known is not None else None
    theirs = peer.core.session
    if ours is None or ours.number != theirs.number:
        return
    assert ours.received <= theirs.sent, f"{ours.received} of {theirs.sent} of {peer.name} are here"
    if theirs.epoch == core.epoch and theirs.is_open:
        assert ours.acked <= theirs.received <= ours.sent, (
            f"{peer.name} has {theirs.received} of {ours.sent}, and said {ours.acked}"
        )


def look(peer: "Process") -> None:
    """Check what a peer and the broker have received, where both are there."""
    broker = peer.world.broker
    if broker is not None and broker.is_alive:
        check_counts(broker.core, peer)


def check_hello(actor: "ActorProcess", hello: "ActorHello") -> None:
    """Check that an inventory names each run that is wanted, and how it stands (I13)."""
    listed = {tuple(one.token): one.held for one in hello.holding}
    for token, run in actor.runs.items():
        held = Held.RELEASED if run.is_released else Held.RUNNING
        is_right = listed.get(token) is held or (run.is_told_to_stop and token not in listed)
        assert is_right, f"{token} is {held}, and {actor.name} says {listed.get(token)}"


def check_beat(actor: "ActorProcess", beat: "ActorBeat") -> None:
    """Check that a heartbeat names each run that is wanted, released or not (I13)."""
    missing = {token for token, run in actor.runs.items() if not run.is_told_to_stop}
    missing -= set(map(tuple, beat.holding))
    assert not missing, f"{actor.name} does not say that it runs {missing}"
