"""When hosts start one more actor, and when one that is not needed leaves.

Connected actors are filled first: one more is asked for only when a task waits that none of them
has room for, and that may enter its environment or needs none; or when an environment in use has
fewer copies than its minimum, and none of them a place for another. The rules that must not be
broken: no host has more actors than its maximum or is sent below its minimum, and nobody leaves who
works.
"""

from itertools import islice
from typing import TYPE_CHECKING, Final

from broker.events.patience import first_of
from broker.facts.credit import NO_CREDIT
from broker.facts.orders import Order
from broker.facts.peers import Actor, Host
from broker.facts.task import Task
from broker.placing import replicas, upkeep
from broker.waiting.shapes import Shape
from wire.labels import satisfies_all
from wire.messages import Drain, Scale

if TYPE_CHECKING:
    from broker.core import Broker

# What was asked for and is not there after so long did not come.
PATIENCE_S: Final = 10.0
# Kinds of tasks that are looked at in one turn.
LOOKS_A_TURN: Final = 256
SPARE: Final = Drain(None, True)
# More than a broker ever assigns: whoever is so much behind is used after all others.
BEHIND: Final = 1 << 48


def tick(broker: "Broker", now: float) -> None:
    """Ask hosts for more actors, and let go of those that nobody needs."""
    scalable = [
        host
        for host in broker.hosts.values()
        if host.actors_max > host.actors_min and host.session is not None
    ]
    # What an earlier broker had comes back in the window; without one there is nothing to wait for.
    if not scalable or (broker.window_ends_at is not None and broker.had_earlier):
        return
    connected: dict[int, list[Actor]] = {}
    has_come = False
    for actor in broker.actors.values():
        if actor.is_new and not (actor.assigned or actor.copies):
            # Another is asked for once it is known what this one was good for.
            has_come = True
            actor.is_new = actor.credit.stated is NO_CREDIT
            continue
        actor.is_new = False
        connected.setdefault(actor.host, []).append(actor)
    # A further process would take of the memory that a host lacks.
    coming = {
        host: count_coming(host, connected, now)
        for host in scalable
        if not any(actor.lacks_memory for actor in connected.get(host.incarnation, ()))
    }
    for shape in islice((s for s in broker.backlog.shapes() if s.count), LOOKS_A_TURN):
        task = first_of(shape)
        if task is not None:
            wanted = count_wanted(broker, shape, task, now)
            reason = f"tasks of {task.call.name!r} wait"
            ask_for(broker, shape, wanted, coming, now, reason=reason)
    if has_come:
        upkeep.look_again(broker, now)
    for shape, wanted, name in () if has_come else upkeep.unplaced(broker, now):
        reason = f"environment {name} has fewer copies than its minimum"
        ask_for(broker, shape, wanted, coming, now, reason=reason)
    for host in scalable:
        let_go(broker, host, connected.get(host.incarnation, []), now)


def count_coming(host: Host, connected: dict[int, list[Actor]], now: float) -> int:
    """Return how many actors of *host* are about to connect."""
    there = len(host.attested)
    if now < host.asked_until:
        there = max(there, host.asked)
    return max(0, there - len(connected.get(host.incarnation, ())))


def ask_for(
    broker: "Broker",
    shape: Shape,
    wanted: int,
    coming: dict[Host, int],
    now: float,
    *,
    reason: str,
) -> None:
    """Ask for as many actors as are *wanted* for tasks of *shape*, beside those that are coming."""
    if wanted <= 0:
        return
    hosts = [host for host in coming if suits(host, shape)]
    wanted -= sum(coming[host] for host in hosts)
    for host in hosts:
        asked = host.asked if now < host.asked_until else 0
        there = max(asked, len(host.attested))
        more = min(wanted, host.actors_max - there)
        if more <= 0:
            continue
        host.asked, host.asked_until = there + more, now + PATIENCE_S
        coming[host] += more
        wanted -= more
        broker.say(host.session, Scale(host.asked, reason))
        broker.note("host_scaled", host=host.name, actors=host.asked, reason=reason)


def count_wanted(broker: "Broker", shape: Shape, task: Task, now: float) -> int:
    """Return how many more actors the tasks of *shape*, of which *task* is first, could use now."""
    if task.client.is_paused or not is_blocked(shape):
        return 0
    if shape.home is not None or shape.is_shut:
        return 0  # Calls to a named actor go where it is.
    record = broker.environments.find(shape)
    if record is None:
        # One after the other: how long they run is not known.
        return int(now - task.queued_at >= broker.settings.scale_after_s)
    if replicas.enter_at(record, task, now) > now:
        idle = [copy for copy in record.copies.values() if copy.idle_since is not None]
        return int(replicas.gives_way(record, task, idle, now) is not None)
    reuse = record.environment.reuse
    if record.failures:
        return 1
    if reuse.replicas_max is None or record.is_for_one:
        return shape.count
    return min(shape.count, reuse.replicas_max - len(record.copies))


def is_blocked(shape: Shape) -> bool:
    """Tell whether no connected actor can take a task of *shape* now."""
    queue = shape.queue
    if queue is None or not queue.is_blocked:
        return False
    return queue.environment is None or queue.is_skipped or queue.crew.cold.is_blocked


def suits(host: Host, shape: Shape) -> bool:
    """Tell whether a further actor of *host* would satisfy tasks of *shape*."""
    return satisfies_all(host.labels, shape.desires) and all(
        host.slots.get(kind, 0) >= amount for kind, amount in shape.cost.slots.items()
    )


def let_go(broker: "Broker", host: Host, actors: list[Actor], now: float) -> None:
    """Drain the actors above the minimum that had nothing and held nothing for long enough."""
    staying = [actor for actor in actors if not is_leaving(actor)]
    rank(broker, staying, host.actors_min)
    homes = {record.home for record in broker.named.by_id.values()}
    for actor in staying:
        is_idle = not (actor.assigned or actor.copies) and actor.is_open and actor not in homes
        is_idle &= not actor.closed or actor.lacks_memory
        if not is_idle:
            actor.idle_since = None
        elif actor.idle_since is None or actor.used_at != actor.used_before:
            # What began and ended between two looks counts as well.
            actor.idle_since, actor.used_before = now, actor.used_at
    surplus = len(staying) - host.actors_min
    if any(actor.lacks_memory for actor in staying):
        # One stays to tell when there is enough: without it others would be started in vain.
        surplus = len(staying) - max(1, host.actors_min)
    for actor in sorted(staying, key=lambda one: one.behind, reverse=True):
        if surplus <= 0:
            return
        since = actor.idle_since
        if since is not None and now - since >= broker.settings.scale_down_s:
            surplus -= 1
            # Who comes no more is not waited for: the next burst has one started again.
            host.asked = max(host.actors_min, host.asked - 1)
            actor.order = Order(SPARE)
            assert actor.session is not None
            actor.order.say(broker, actor.session)
            broker.note("actor_let_go", actor=actor.name, idle_s=round(now - since, 3))


def rank(broker: "Broker", actors: list[Actor], actors_min: int) -> None:
    """Let those of *actors* above the minimum come after all that are as good, in one order.

    In turns a light load would keep all of them from being idle.
    """
    within = [actor for actor in actors if not actor.behind]
    last = max((actor.behind for actor in broker.actors.values()), default=0)
    for place, actor in enumerate(within[actors_min:], 1):
        actor.behind = last + place * BEHIND
    above = sorted((actor for actor in actors if actor.behind), key=lambda one: one.behind)
    for actor in above[: max(0, actors_min - len(within))]:
        # It takes the place of one that has left.
        actor.used_at %= BEHIND
        actor.behind = 0
        for crew in actor.crews:
            crew.renew(actor)


def is_leaving(actor: Actor) -> bool:
    """Tell whether *actor* leaves, or was told to."""
    is_told = actor.order is not None and isinstance(actor.order.command, Drain)
    return is_told or actor.is_leaving
