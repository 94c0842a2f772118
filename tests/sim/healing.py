"""The end of every seed: nothing is wrong any more, and everything must come to rest."""

from typing import TYPE_CHECKING

from tests.sim import bounds, labels
from tests.sim.clients import can_work

if TYPE_CHECKING:
    from tests.sim.world import World
    from wire.parts import Token

# All is at rest so long after the last fault: three leases, five back-offs of at most 6 s, what a
# machine that left takes to come back; and the work that was left, one task after another.
HEAL_S_MAX = 3 * 5.0 + 5 * 6.0 + 30.0
HEAL_TASK_S = 2.0
# Where an actor may keep one outcome only, its next run waits for what lets go of that: a heartbeat
# of the client, and one of the broker.
HEAL_KEPT_S = 2.0
HEAL_LOOK_S = 0.5
# What waits while another actor is idle must be on its way after so many looks.
STRANDED_LOOKS = 2


def heal(world: "World") -> None:
    """Stop all faults and all new load, and demand that everything comes to rest."""
    world.is_healing = True
    if world.ledger is not None:
        world.ledger.heal()
    world.history.append((world.now, "world", "HEALS"))
    world.start_broker()
    hosts = (*world.hosts.values(), *world.former)
    everybody = [world.broker, *world.actors, *hosts, *world.clients.values()]
    for process in everybody:
        if process is not None and process.is_alive:
            process.heal()
    for wire in list(world.network.wires.values()):
        for pipe in (wire.up, wire.down):
            pipe.stalled_until = 0.0
            # Nor does what was to happen to a message that has not been said.
            pipe.awaits = None
    task_s = HEAL_TASK_S + HEAL_KEPT_S * ("kept_bytes_max" in world.profile.shrunk)
    # What a client has left behind is to end as well.
    known = [
        task for client in world.broker.core.clients.values() for task in client.tasks.values()
    ]
    left = max(len(world.oracle.open_tasks()), sum(not task.is_over for task in known))
    end = world.now + HEAL_S_MAX + task_s * left
    look_at = world.now
    stranded: dict[Token, int] = {}
    lacking: dict[str, int] = {}
    while world.now < look_at or unrest(world):
        if world.now >= look_at:
            look_at = world.now + HEAL_LOOK_S
            tend(world)
            stranded = {t: stranded.get(t, 0) + 1 for t in world.oracle.stranded()}
            lacking = {e: lacking.get(e, 0) + 1 for e in world.oracle.copies.lacking()}
            if not world.profile.is_slow:
                bare = [one for one, looks in lacking.items() if looks > STRANDED_LOOKS]
                assert not bare, f"{bare} lack a copy for which an actor has a place"
                late = [token for token, looks in stranded.items() if looks > STRANDED_LOOKS]
                assert not late, f"{late} wait in a mailbox while another actor is idle"
        assert world.now < end, "does not come to rest: " + "; ".join(unrest(world))
        world.proceed()
    world.oracle.check_end()
    if world.ledger is not None:
        world.ledger.check_restored(world.broker)


def tend(world: "World") -> None:
    """Keep what a cluster has: its machines, and labels that let every task run."""
    living = [client for client in world.clients.values() if can_work(client)]
    if world.ledger is not None and living:
        for record in world.ledger.unclaimed():
            record.is_looked_for = True
            world.attach(living[0], record)
    for name, host in list(world.hosts.items()):
        if not host.is_alive or (host.is_empty and not host.actors) or host.has_left_some:
            if host.is_alive:
                host.end()
            world.start_machine(name)
    for actor in world.actors:
        if actor.is_alive and actor.core.standing.is_paused:
            actor.pause(paused=False)
        if actor.is_alive and actor.core.standing.pressure.is_high:
            actor.press(0.1)
        if actor.is_alive and (world.profile.model or world.profile.hasty):
            labels.offer_all(actor)
        if actor.is_alive and actor.core.labels.get("memory") != 512:
            actor.core.change_labels({"memory": 512}, world.now)
            actor.wake_at(world.now)


def unrest(world: "World") -> list[str]:
    """Return what is not yet as it must be in the end."""
    found = [f"{record.name} is open" for record in world.oracle.open_tasks()]
    if found:
        return found
    broker = world.broker
    if broker is None or not broker.is_alive:
        return ["the broker is away"]
    core = broker.core
    kept = {name: len(getattr(core, name)) for name in ("tokens", "unclaimed", "held")}
    kept["records.waiting"] = len(core.records.waiting)
    found += [f"broker.{name}: {count}" for name, count in kept.items() if count]
    if core.delays.things:
        found.append("somebody waits for a next try")
    if core.limits.keys or core.limits.runs:
        found.append(f"limits are held or waited for: {list(core.limits.keys)}")
    if core.backlog.count or any(client.tasks for client in core.clients.values()):
        found.append("the broker has tasks")
    for actor in world.actors:
        known = core.actors.get(actor.incarnation)
        residents = set(actor.core.mailbox.residents.by_id)
        if known is not None and (residents or known.copies):
            found.append(f"{actor.name} has {residents}, the broker knows {list(known.copies)}")
    found += world.oracle.counters.strays(core)
    found += [
        f"{one.title} is not entered again"
        for one in core.named.by_id.values()
        if one.home is None and one.generation > (0, 0)
    ]
    living = {actor.incarnation for actor in world.actors if actor.is_alive}
    # One beyond what its host starts with stays where a named actor lives in it.
    homes = {one.home.incarnation for one in core.named.by_id.values() if one.home is not None}
    by_host = {
        host: {a.incarnation for a in world.actors if a.is_alive and a.host is host}
        for host in world.hosts.values()
    }
    is_right = all(
        len(mine) == host.core.settings.replicas
        or mine <= homes
        or (not world.profile.lets_go and len(mine) > host.core.settings.replicas)
        for host, mine in by_host.items()
    )
    if set(core.actors) != living or not is_right:
        found.append("the broker does not have exactly the actors that live")
    found += [f"{host.name} has a former host" for host in world.former if host.is_alive]
    found += [
        f"{actor.name} is not idle"
        for actor in world.actors
        if actor.is_alive and not actor.is_idle()
    ]
    found += [
        f"{client.name} has calls"
        for client in world.clients.values()
        if client.is_alive and client.core.calls
    ]
    return found or bounds.unrest(world)
