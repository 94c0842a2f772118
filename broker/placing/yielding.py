"""When calls that share a slot leave it to a task that waits for that slot.

Calls of a replica that is never empty cost no slot, so by the order of the backlog alone they could
put off for ever whoever waits for the slot that they share, or to be alone inside. The rule that
must not be broken: calls are held up for a moment only, and less often each time that this was in
vain, since one that is inside may stay there for as long as it likes.
"""

from typing import TYPE_CHECKING, Final

from broker.facts.peers import YIELDS_AFTER_S, Actor, is_barred
from broker.facts.task import Task
from broker.placing import replicas
from broker.waiting.reservation import Reservation, let_go
from broker.waiting.shapes import Shape

if TYPE_CHECKING:
    from broker.core import Broker

# Who has waited for so long is put off; looked for so often.
PATIENCE_S: Final = 1.0
LOOK_S: Final = 0.25
# So long nobody follows those that are inside; how much later at most it is tried again in vain.
HOLD_S: Final = 1.0
PAUSE_MAX_S: Final = 640.0


def must_yield(broker: "Broker", shape: Shape, task: Task, actor: Actor, now: float) -> bool:
    """Tell whether a call that would share a slot of *actor* has to leave it to an older task.

    From then on that one has a reservation there, which binds all that stand behind it.
    """
    if now < actor.yields_at or broker.reservation is not None:
        return False
    if not actor.credit.is_shared(shape.cost.place):
        return False
    actor.yields_at = now + LOOK_S
    found = put_off(broker, shape, task, actor, now)
    if found is None:
        return False
    older_shape, older = found
    broker.reservation = Reservation(older, older_shape, actor, until=now + HOLD_S)
    broker.backlog.matching.reserved_rank = older.rank
    broker.note("slot_is_left", actor=actor.name, task=older.name, waited_s=now - older.queued_at)
    return True


def put_off(
    broker: "Broker", shape: Shape, task: Task, actor: Actor, now: float
) -> tuple[Shape, Task] | None:
    """Return the oldest task ahead of *task* that could be here if nobody shared the slot."""
    best: tuple[Shape, Task] | None = None
    for crew in actor.crews:
        for queue in (crew.plain, *crew.queues.values()):
            if queue is None or not queue.is_blocked:
                continue
            rank = queue.rank
            if rank is None or rank >= (best[1] if best else task).rank:
                continue
            found = queue.first()
            if found is None or found[1].rank >= task.rank or now - found[1].queued_at < PATIENCE_S:
                continue
            if waits_for(broker, *found, shape, actor):
                best = found
    return best


def waits_for(broker: "Broker", own: Shape, older: Task, shape: Shape, actor: Actor) -> bool:
    """Tell whether *older* waits for the slot, or for all the turns, that calls of *shape* use."""
    cost = own.cost
    is_alone = cost.place == shape.cost.place and cost.turns_taken > shape.cost.turns_taken
    return (
        (is_alone or actor.credit.lacks(cost) > 0)
        and own.suits(actor)
        and not is_barred(older, actor)
        and not replicas.is_held_back(broker, older, actor)
        and (not cost.host_limits or broker.limits.has_host_room(own, older, actor.host))
    )


def review(broker: "Broker", now: float) -> None:
    """End a reservation that was in vain, or whose task waits no more."""
    reserved = broker.reservation
    if reserved is None or reserved.holds(now):
        return
    if now >= reserved.until:
        actor = reserved.actor
        actor.yields_at = now + actor.yields_after_s
        actor.yields_after_s = min(PAUSE_MAX_S, 2.0 * actor.yields_after_s)
    let_go(broker)


def found(actor: Actor) -> None:
    """Note that one that was put off has its slot: here it need not be in vain."""
    actor.yields_after_s = YIELDS_AFTER_S
