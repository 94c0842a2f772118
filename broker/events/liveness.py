"""Time: heartbeats, suspicion, leases, the adopt window, lost clients (protocol.md section 10).

Nobody is judged before the broker has made sure that it was not itself asleep: a stall is added to
every deadline first.
"""

from typing import TYPE_CHECKING

from broker.events import doubts, occupancy, patience, recovery, restoring, scaling
from broker.facts.peers import Actor, Client, Host
from broker.facts.task import State
from broker.holding import fences
from broker.placing import callers, environments, isolation, replicas, requeueing, upkeep
from broker.tasks import attaching, bindings, families, forgetting, lifecycle, named, retrying
from wire.messages import Beat, Kill
from wire.parts import Token

if TYPE_CHECKING:
    from broker.core import Broker

# How often a heartbeat interval is looked into; the judgement of a silence is late by at most this
# share.
LOOKS_PER_HEARTBEAT = 4


def deadline(broker: "Broker") -> float:
    """Return when `tick` is due, or `flush` without anything said."""
    due, recall_at = look_at(broker), broker.recalls.due_at
    if recall_at < due:  # noqa: PLR1730 - a call of min costs more.
        due = recall_at
    if broker.waits.due_at < due:  # noqa: PLR1730
        due = broker.waits.due_at
    return due if due < broker.deadlines.due_at else broker.deadlines.due_at  # noqa: FURB136


def look_at(broker: "Broker") -> float:
    """Return when the clocks are to be looked at."""
    due = broker.ticked_at + broker.settings.heartbeat_s / LOOKS_PER_HEARTBEAT
    room_at = broker.limits.deadline()
    if room_at < due:  # noqa: PLR1730
        due = room_at
    environments = broker.environments
    if environments.due.due_at < due:  # noqa: PLR1730
        due = environments.due.due_at
    if environments.lacking.due_at < due:  # noqa: PLR1730
        due = environments.lacking.due_at
    if broker.delays.due_at < due:  # noqa: PLR1730
        due = broker.delays.due_at
    if broker.window_ends_at is not None:
        due = min(due, broker.window_ends_at)
    return due


def tick(broker: "Broker", now: float) -> None:
    """Look at every clock."""
    if now < look_at(broker):
        return
    # Not from when something was due: that may have been set to a time in the past.
    stall = now - broker.ticked_at - broker.settings.heartbeat_s / LOOKS_PER_HEARTBEAT
    if stall > broker.settings.heartbeat_s:
        forgive(broker, stall, now)
    elif stall > 0.0 and broker.window_ends_at is not None:
        # Who offers something now may have said so before; without a task it would be dropped.
        broker.window_ends_at += stall
    broker.ticked_at = now
    if broker.window_ends_at is not None and now >= broker.window_ends_at:
        recovery.end_window(broker, now)
    if broker.delays.due_at <= now:
        retrying.wake(broker, now)
    occupancy.tick(broker, now)
    # In this order: what waits now was looked at, and found nobody.
    if broker.hosts:
        scaling.tick(broker, now)
    replicas.look(broker, now)
    if broker.environments.lacking.due_at <= now:
        upkeep.look(broker, now)
    if now >= broker.beat_at:
        broker.beat_at = now + broker.settings.heartbeat_s
        lifecycle.relieve(broker)
        for session in broker.sessions.values():
            broker.say(session, Beat())
        occupancy.sweep(broker)
        bindings.tick(broker, now)
        doubts.sweep(broker)
        if broker.unparented and broker.window_ends_at is None:
            families.sweep(broker)
        if broker.backlog.matching.unmet:
            patience.look(broker, now)
    for actor in list(broker.actors.values()):
        judge_actor(broker, actor, now)
    for host in list(broker.hosts.values()):
        if now - host.heard_at >= broker.settings.lease_s:
            lose_host(broker, host, now)
    for client in list(broker.clients.values()):
        if broker.window_ends_at is not None or client.gone_at is None or client.is_left:
            continue
        if now - client.gone_at >= broker.settings.client_timeout_s:
            # Of one that is known by what its actors offered nobody has said a name.
            name = client.name or f"{client.incarnation:016x}"
            broker.note("client_gone", client=name, tasks=len(client.tasks))
            if broker.named.by_id:
                named.gave_up(broker, client.tasks.values())
            forget_client(broker, client, may_return=True)
    if broker.unclaimed:
        recovery.drop_unclaimed(broker, now)
    if broker.records.has_journal:
        restoring.tick(broker, now)
    if broker.named.by_id:
        named.tick(broker, now)
    # What changes the answer without a statement of credit is seen here.
    if broker.recalls.ahead:
        broker.recalls.look_at_all(now)


def forgive(broker: "Broker", stall: float, now: float) -> None:
    """Add to every deadline the *stall* seconds that the broker was stopped for."""
    broker.note("stalled", stall_s=round(stall, 3))
    for session in broker.sessions.values():
        session.mark_at = min(now, session.mark_at + stall)
    for actor in broker.actors.values():
        # After now while a large message is on its way.
        actor.heard_at = max(actor.heard_at, min(now, actor.heard_at + stall))
        actor.vouched_at += stall
    for host in broker.hosts.values():
        host.heard_at = min(now, host.heard_at + stall)
        host.grew = {number: min(now, at + stall) for number, at in host.grew.items()}
    for client in broker.clients.values():
        if client.gone_at is not None:
            client.gone_at = min(now, client.gone_at + stall)
    if broker.window_ends_at is not None:
        broker.window_ends_at += stall
    broker.limits.started_at += stall
    for binding in broker.bindings.by_key.values():
        # One that was made in this turn lost nothing, and none ends after those that come.
        binding.until = min(binding.until + stall, now + broker.settings.sticky_ttl_s)
    patience.forgive(broker, stall)
    retrying.forgive(broker, stall)
    for record in broker.named.by_id.values():
        if record.orphaned_at is not None:
            record.orphaned_at += stall
    isolation.forgive(broker, stall)
    fences.forgive(broker, stall)
    broker.unclaimed = {task: until + stall for task, until in broker.unclaimed.items()}


def judge_actor(broker: "Broker", actor: Actor, now: float) -> None:
    """Suspect an actor that is silent or deaf, and end the lease of one that stays silent."""
    settings = broker.settings
    silent_s = now - actor.heard_at
    is_suspect = silent_s >= settings.suspect_s or is_deaf(actor, now, settings.suspect_s)
    if is_suspect != actor.is_suspect:
        actor.is_suspect = is_suspect
        actor.shut()
        broker.backlog.matching.note_working(actor)
        broker.note("actor_suspect" if is_suspect else "actor_trusted", actor=actor.name)
        if not actor.is_shut and (actor.credit.available or actor.credit.has_more):
            broker.open_actors[actor] = None
            broker.backlog.matching.improve(actor)
    if silent_s < settings.lease_s:
        return
    host = broker.hosts.get(actor.host)
    if host is not None and host.session is None:
        host = None
    if (
        host is not None
        and silent_s < settings.gil_grace_s
        and host.vouches_for(actor.incarnation, now, fresh_s=settings.suspect_s)
    ):
        return
    reason = f"actor {actor.name} was silent for {silent_s:.1f} s"
    if host is not None:
        seen = host.attested.get(actor.incarnation)
        # A stopped process is somebody's decision; it is fenced, not killed.
        if seen is not None and not seen.stopped:
            broker.say(host.session, Kill(actor.incarnation, reason))
    lose(broker, actor, reason, now, started=None)


def is_deaf(actor: Actor, now: float, patience_s: float) -> bool:
    """Tell whether frames stay unreceived while the actor's own keep coming."""
    session = actor.session
    if session is None:
        return False
    if session.acked >= session.mark_sent:
        session.mark_sent = session.sent
        session.mark_at = now
        return False
    return now - session.mark_at >= patience_s


def lose(
    broker: "Broker",
    actor: Actor,
    reason: str,
    now: float,
    *,
    started: dict[Token, str] | None,
    leaves: bool = False,
) -> None:
    """Take an actor out and queue again what it had.

    *started* says how each run stood that had started, as `Broker.requeue` calls it; None when
    nobody knows. One that *leaves* has said so, and its session is there for the answer.
    """
    if not leaves:
        broker.note("actor_lost", actor=actor.name, reason=reason, tasks=len(actor.assigned))
    if actor.session is not None and not leaves:
        broker.close(actor.session, now)
    broker.actors.pop(actor.incarnation, None)
    broker.departed_at = now
    if broker.limited and started is None:
        fences.lost(broker, actor, now)
    # One that is not known to be dead may come back, unless another has its name by then.
    if actor.incarnation in broker.dead and broker.actors_by_name.get(actor.name) is actor:
        del broker.actors_by_name[actor.name]
    else:
        forgetting.forget_names(broker)
    broker.open_actors.pop(actor, None)
    broker.recalls.ahead.pop(actor, None)
    broker.backlog.matching.remove(actor)
    isolation.forget_actor(broker, actor)
    environments.forget_actor(broker, actor, now)
    bindings.lost(broker, actor, now)
    # Somebody may have to learn that nobody is left who could hold it.
    broker.backlog.matching.wake_special()
    assigned = dict(actor.assigned)
    for token, task in assigned.items():
        # A child of a task that was queued again is not there any more.
        if task.token == token:
            burns = "loss" if started is None else started.get(token)
            if burns is None and recovery.is_doubtful(broker, task):
                burns = "loss"
            requeueing.requeue(broker, task, reason, now, burns=burns)
    if started is None:
        doubts.note(broker, actor, assigned)
        states = [task.state for task in assigned.values()]
        ended, dropped = states.count(State.ENDED), states.count(State.FORGOTTEN)
        again = len(states) - ended - dropped
        actor.lost = {"again": again, "ended": ended, "dropped": dropped}
    if broker.named.by_id:
        named.lost(broker, actor, reason, leaves=leaves)
    if broker.limited:
        broker.limits.forget_actor(actor)


def lose_host(broker: "Broker", host: Host, now: float) -> None:
    """Drop a silent host; its actors are judged by their own silence."""
    if host.session is not None:
        broker.close(host.session, now)
    broker.hosts.pop(host.incarnation, None)
    fences.host_gone(broker, host)
    broker.note("host_lost", host=host.name)


def forget_client(broker: "Broker", client: Client, *, may_return: bool) -> None:
    """Drop a client that is gone, with all its tasks that are not durable."""
    for task in list(client.tasks.values()):
        if task.record is not None:
            attaching.left(broker, task, may_return=may_return)
        else:
            families.drop(broker, task, reason="its client is gone")
    named.client_left(broker, client)
    callers.left(broker, client)
    retrying.let_go(broker, client)
    client.is_left = True
    if not client.tasks:
        broker.clients.pop(client.incarnation, None)
