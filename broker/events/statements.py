"""What peers state of themselves: credit, labels, what is held, who is seen at work, what failed.

Each statement replaces the earlier one, so a repeated one changes nothing.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from broker.events.sessions import check_offered
from broker.facts import orders
from broker.facts.peers import Actor, Client, Host, Session
from broker.placing import environments, isolation
from broker.tasks import bindings
from wire.labels import Labels, differing
from wire.messages import ActorBeat, Credit, Entered, HostBeat, LabelsChanged, Tried
from wire.parts import Token

if TYPE_CHECKING:
    from broker.core import Broker


def credit(
    broker: "Broker", session: Session, command: Credit, own: Sequence[Any], now: float
) -> None:
    """Take over what an actor grants now."""
    actor = session.peer
    assert isinstance(actor, Actor)
    actor.credit.state(command, session.acked)
    if command.turns or actor.copies:
        environments.follow(broker, actor, now)
    if actor.credit.available or actor.credit.has_more:
        broker.open_actors[actor] = None
        broker.backlog.matching.improve(actor)
        if command.free and broker.recalls.ahead:
            broker.recalls.look_at(actor, now)


def actor_beat(
    broker: "Broker", session: Session, command: ActorBeat, own: Sequence[Any], now: float
) -> None:
    """Take over all that an actor states once a heartbeat."""
    actor = session.peer
    assert isinstance(actor, Actor)
    actor.environments = command.environments
    if actor.closed != command.closed:
        actor.close(command.closed, now)
        isolation.leaves(broker, actor)
        broker.backlog.matching.note_working(actor)
        bindings.review(broker, actor)
        for copy in actor.copies.values():
            broker.environments.look_at(copy.record, now)  # Its tasks may want it elsewhere.
        if command.closed and (session.outcome_acks or session.outcome_acks_stale):
            broker.outbox.hurry(session)  # It may wait for nothing else before it leaves.
    if broker.orders:
        orders.stated(broker, actor)
    changed = offers(actor, command.labels_version, command.labels, now)
    if changed:
        broker.backlog.matching.update(actor, changed)
    credit(broker, session, command.credit, own, now)
    session.beat_holding = command.holding
    if command.parts or broker.limits.waits.parts:
        broker.limits.waits.state(actor.assigned, command.parts)


def compare(broker: "Broker", session: Session, holding: Sequence[Token], now: float) -> None:
    """End a session whose actor has received an assignment and neither holds nor ended it.

    A heartbeat speaks of the state after its frame, in which outcomes may stand behind it.
    """
    actor = session.peer
    assert isinstance(actor, Actor)
    held = set(holding)
    for token, task in actor.assigned.items():
        if task.frame <= session.acked and token not in held and not task.is_finished:
            broker.note("divergence", actor=actor.name, task=task.name)
            broker.close(session, now)
            broker.who(session.rid, session.number)
            return


def labels(
    broker: "Broker", session: Session, command: LabelsChanged, own: Sequence[Any], now: float
) -> None:
    """Take over what an actor offers now."""
    actor = session.peer
    assert isinstance(actor, Actor)
    is_newer = command.version > actor.labels_version
    matching = broker.backlog.matching
    changed = offers(actor, command.version, command.labels, now)
    if changed:
        matching.update(actor, changed)
    # A newer statement of the same lifts bars as well: in between it may have been another.
    if is_newer and (actor.credit.available or actor.credit.has_more):
        matching.improve(actor)


def offers(actor: Actor, version: int, labels: Labels, now: float) -> list[str]:
    """Take over what *actor* offers, and return the keys for which that is new. Raises."""
    if version <= actor.labels_version:
        return []
    changed = differing(actor.labels, labels)
    if changed:
        # All else was checked before.
        check_offered({key: labels[key] for key in changed if key in labels})
    actor.labels_version = version
    if changed:
        actor.offer(labels, now)
    return changed


def entered(
    broker: "Broker", session: Session, command: Entered, own: Sequence[Any], now: float
) -> None:
    """Take over that an environment is warm in an actor."""
    actor = session.peer
    assert isinstance(actor, Actor)
    environments.entered(broker, actor, command, now)


def tried(
    broker: "Broker", session: Session, command: Tried, own: Sequence[Any], now: float
) -> None:
    """Keep what a client knows that went wrong with the task of the SUBMIT behind this."""
    client = session.peer
    assert isinstance(client, Client)
    client.tried = command


def host_beat(
    broker: "Broker", session: Session, command: HostBeat, own: Sequence[Any], now: float
) -> None:
    """Take over what a host sees of its actors."""
    host = session.peer
    assert isinstance(host, Host)
    host.attest(command.actors, now)
