"""Strict limits of actors that are lost (protocol.md section 9.12).

Who loses the broker ends before its lease is over, or is ended by its host: both reckon from the
last frame that they know the broker has received. The rule that must not be broken: what a run has
of a strict limit is given back when its process is known to be dead, or when both it and its host
have been silent for a whole lease.
"""

from typing import TYPE_CHECKING

from broker.facts.peers import Actor, Host
from broker.holding.lines import Fenced
from wire.messages import Kill

if TYPE_CHECKING:
    from broker.core import Broker


def lost(broker: "Broker", actor: Actor, now: float) -> None:
    """Let the runs of *actor* keep strict limits: it is lost, and nobody has seen it dead."""
    limits = broker.limits
    runs = [run for run in limits.runs.values() if run.actor is actor and limits.is_strict(run)]
    for run in runs:
        for number in list(run.asks):
            limits.vacate(run.token, number)
        run.is_stopped = True
    if runs:
        heard_at = max(actor.heard_at, actor.vouched_at)
        fenced = Fenced(actor, now, heard_at + broker.settings.lease_s)
        limits.fenced[actor.incarnation] = fenced
        look_at(broker, fenced, now)


def dead(broker: "Broker", incarnation: int) -> None:
    """Give back what a process had that has ended."""
    fenced = broker.limits.fenced.pop(incarnation, None)
    if fenced is not None:
        broker.limits.forget_actor(fenced.actor)


def came_back(broker: "Broker", actor: Actor) -> None:
    """Let the runs of a lost process be those of *actor*, which it says that it is."""
    fenced = broker.limits.fenced.pop(actor.incarnation, None)
    if fenced is not None:
        for run in broker.limits.runs.values():
            if run.actor is fenced.actor:
                run.actor = actor


def look_at(broker: "Broker", fenced: Fenced, now: float) -> None:
    """Note until when a lost actor may live: its host, while we hear it, lets it."""
    host = broker.hosts.get(fenced.actor.host)
    if host is None:
        return
    # It says so with each heartbeat, and of one that has just begun with the next.
    known_at = fenced.lost_at + 2 * broker.settings.heartbeat_s
    if fenced.actor.incarnation in host.attested:
        fenced.until = max(fenced.until, host.heard_at + broker.settings.lease_s)
    elif host.heard_at >= known_at:
        fenced.until = now
    else:
        fenced.until = max(fenced.until, known_at)


def tick(broker: "Broker", now: float) -> None:
    """Give back what nobody can have any more."""
    for incarnation, fenced in list(broker.limits.fenced.items()):
        look_at(broker, fenced, now)
        if now >= fenced.until:
            broker.note("fence_over", actor=fenced.actor.name)
            dead(broker, incarnation)


def order(broker: "Broker") -> None:
    """Have the hosts end lost actors that have strict limits; with each heartbeat, until dead."""
    for incarnation, fenced in broker.limits.fenced.items():
        host = broker.hosts.get(fenced.actor.host)
        if host is not None and incarnation in host.attested:
            broker.say(host.session, Kill(incarnation, "it is lost, and holds a strict limit"))


def host_gone(broker: "Broker", host: Host) -> None:
    """Remember when a host was heard last that is forgotten: it may have let its actors go on."""
    for actor in broker.actors.values():
        if actor.host == host.incarnation:
            actor.vouched_at = max(actor.vouched_at, host.heard_at)
    for fenced in broker.limits.fenced.values():
        if fenced.actor.host == host.incarnation:
            fenced.until = max(fenced.until, host.heard_at + broker.settings.lease_s)


def forgive(broker: "Broker", stall_s: float) -> None:
    """Take no time from anybody in which the broker itself was stopped."""
    for fenced in broker.limits.fenced.values():
        fenced.until += stall_s
