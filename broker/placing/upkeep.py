"""Which copies are entered though no call needs them: those that an environment in use lacks.

The broker enters them by calls of its own, which do nothing more. So they are placed, counted and
failed like any other. The rules that must not be broken: none takes the place of another copy, a
slot that somebody waits for, or the room above the maximum; and nothing that they do keeps an
environment in use.
"""

from collections.abc import Iterator
from heapq import nlargest
from typing import TYPE_CHECKING, Final

from broker.facts.peers import Actor
from broker.facts.task import State, Task, Template
from broker.placing import callers, placement, replicas
from broker.tasks import reentering
from broker.waiting.shapes import Shape
from wire.labels import affinity, satisfies_all
from wire.parts import Call

if TYPE_CHECKING:
    from broker.core import Broker
    from broker.placing.copies import Record

# For whom no place was found one is looked for again so much later; later still where many look
# over many actors, so that no more of these are looked at in a second.
AGAIN_S: Final = 0.25
ACTORS_PER_S: Final = 50_000
# So many environments are looked at in one turn.
LOOKS_A_TURN: Final = 256


def look(broker: "Broker", now: float) -> None:
    """Have copies entered that are lacking; what waits for a slot goes first."""
    known = broker.environments
    if broker.backlog.ready or broker.backlog.newcomer is not None:
        placement.place(broker, now)
    for record in known.lacking.take(now, at_most=LOOKS_A_TURN):
        known.unplaced.pop(record, None)
        is_given_up = known.successor(record) is not None or callers.is_abandoned(broker, record)
        if is_given_up or not is_in_use(record, now):
            record.template = record.entry = None
            record.lost_place.clear()
        elif broker.window_ends_at is not None and broker.had_earlier:
            known.lack(record, broker.window_ends_at)
        elif record.missing:
            fill(broker, record, now)


def is_in_use(record: "Record", now: float) -> bool:
    """Tell whether a call waits, is inside or was inside of late."""
    ttl_s = record.environment.reuse.idle_ttl_s
    if ttl_s is None or now < record.called_at + ttl_s or record.waiting:
        return True
    return any(copy.idle_since is None and not copy.is_ordered for copy in record.copies.values())


def fill(broker: "Broker", record: "Record", now: float) -> None:
    """Order as many copies as are lacking; after a failure one at a time finds out."""
    known = broker.environments
    allowed_at = max(record.retry_at, record.broken_until)
    if now < allowed_at:
        known.lack(record, allowed_at)
        return
    wanted = record.missing
    if record.failures:
        wanted = int(not any(record.is_awaited(copy) for copy in record.copies.values()))
    found = find(broker, record, wanted)
    for actor in found:
        order(broker, record, actor, now)
    if len(found) < wanted:
        known.unplaced[record] = wanted - len(found)
        replace_older(broker, record, wanted - len(found))
    if record.missing:
        known.lack(record, now + again_s(len(known.lacking.things) + 1, len(broker.open_actors)))


def again_s(environments: int, actors: int) -> float:
    """Return after how long one of so many *environments* is to look at all *actors* again."""
    return max(AGAIN_S, environments * actors / ACTORS_PER_S)


def find(broker: "Broker", record: "Record", wanted: int) -> list[Actor]:
    """Return the best actors that could enter a further copy now, at nobody's cost.

    All in one look: one for each copy would take seconds where hundreds of actors are to have one.
    """
    shape = entry_of(broker, record).shape

    def rank(actor: Actor) -> tuple[bool, float, int, int]:
        return (
            actor.incarnation not in record.failed_on,
            affinity(actor.labels, shape.desires) if shape.has_affinity else 0.0,
            actor.credit.slots_available,
            -actor.used_at,
        )

    places = (actor for actor in broker.open_actors if is_place(broker, record, shape, actor))
    return nlargest(wanted, places, key=rank)


def is_place(broker: "Broker", record: "Record", shape: Shape, actor: Actor) -> bool:
    """Tell whether *actor* could enter a copy now without giving up another one for it."""
    if actor.copies and actor.incarnation in record.lost_place:
        return False
    return could_enter(broker, record, shape, actor) and actor.has_place_for_nobody


def could_enter(broker: "Broker", record: "Record", shape: Shape, actor: Actor) -> bool:
    """Tell whether *actor* could enter a copy now if it gave up all that are idle."""
    if not actor.is_open or record.environment.id in actor.copies:
        return False
    reserved = broker.reservation
    return (
        actor.credit.has_place(shape.cost, None)
        and not (reserved is not None and reserved.actor is actor)
        and shape.cost.fits(actor)
        and satisfies_all(actor.labels, shape.desires)
    )


def replace_older(broker: "Broker", record: "Record", wanted: int) -> None:
    """Have so many idle copies of older versions given up, in whose places *record* could be."""
    if not (record.environment.lineage and record.is_warm):
        return  # One that cannot be entered takes no place.
    shape = entry_of(broker, record).shape
    for actor in broker.open_actors:
        for copy in actor.copies.values():
            if wanted <= 0:
                return
            if copy.idle_since is None or broker.environments.successor(copy.record) is not record:
                continue
            # One that was told so already is as good as gone.
            if copy.evicted_in is None:
                if not could_enter(broker, record, shape, actor):
                    continue
                replicas.evict(broker, copy, "a newer version of it has no place")
            wanted -= 1


def order(broker: "Broker", record: "Record", actor: Actor, now: float) -> None:
    """Have *actor* enter a copy."""
    client = reentering.own_client(broker)
    client.number += 1
    task = Task(client, client.number, State.QUEUED, now)
    client.tasks[task.number] = task
    task.template = entry_of(broker, record)
    placement.give(broker, task, actor, now)
    broker.note("environment_ordered", environment=record.environment.name, actor=actor.name)


def entry_of(broker: "Broker", record: "Record") -> Template:
    """Return the call that enters an environment where its calls may go, and nothing more."""
    template = record.template
    assert template is not None
    if record.entry is None:
        environment = template.call.environment
        assert environment is not None
        call = Call(
            environment.name,
            environment=environment,
            desires=template.call.desires,
            slots=template.call.slots,
        )
        shape = broker.backlog.shape_of(call)
        record.entry = Template(call, shape, function=None, blob=template.blob)
    return record.entry


def look_again(broker: "Broker", now: float) -> None:
    """Look again for places that nobody had: an actor has come."""
    for record in broker.environments.unplaced:
        broker.environments.lack(record, now)


def unplaced(broker: "Broker", now: float) -> Iterator[tuple[Shape, int, str]]:
    """Yield what further actors could enter now, how often, and its name."""
    for record, count in broker.environments.unplaced.items():
        if now >= max(record.retry_at, record.broken_until) and record.template is not None:
            yield entry_of(broker, record).shape, count, record.environment.name
