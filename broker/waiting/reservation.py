"""For whom an actor is kept free, so that small tasks never starve a large one.

Nor calls that share a slot whoever waits for that (`yielding`). The oldest task that no actor has
enough slots for now reserves one actor, where those behind it leave it what it needs. At most one
task does: with two, each could hold what the other needs.
"""

from math import inf
from typing import TYPE_CHECKING

from broker.facts.peers import Actor, is_barred
from broker.facts.task import State, Task
from broker.waiting.shapes import Shape

if TYPE_CHECKING:
    from broker.core import Broker


class Reservation:
    """The oldest task that fits nowhere for its size, and the actor that is kept free for it."""

    __slots__ = ("actor", "shape", "task", "until")

    def __init__(self, task: Task, shape: Shape, actor: Actor, until: float = inf) -> None:
        """Keep what *task* needs on *actor*, for no longer than *until*."""
        self.until = until
        self.task = task
        self.shape = shape
        self.actor = actor

    def holds(self, now: float) -> bool:
        """Tell whether the task still waits and the actor may still be given it."""
        task, actor = self.task, self.actor
        is_waiting = task.state is State.QUEUED and not task.client.is_paused
        return now < self.until and is_waiting and actor.is_open and self.shape.suits(actor)

    def binds(self, task: Task, actor: Actor) -> bool:
        """Tell whether *task* has to leave room on *actor*: it stands behind.

        One of the same rank does not: in a queue it may be looked at first, and hold this one up.
        """
        return actor is self.actor and self.task.rank < task.rank


def reserve(broker: "Broker", shape: Shape, task: Task) -> None:
    """Keep the actor that lacks least for *task*, unless an older one has a reservation."""
    former = broker.reservation
    if former is not None and former.task is not task and former.task.rank <= task.rank:
        return
    best: Actor | None = None
    best_key = (0, True)
    assert shape.queue
    for actor in shape.queue.crew.members:
        if not actor.is_open or is_barred(task, actor):
            continue
        if broker.limits.now < actor.unreserved_until:
            continue
        key = (actor.credit.lacks(shape.cost), former is None or actor is not former.actor)
        # What lacks nothing lacks a turn, for which there is no need to keep slots.
        if key[0] and (best is None or key < best_key):
            best, best_key = actor, key
    if best is not None:
        if former is None or former.task is not task or former.actor is not best:
            if former is not None:
                let_go(broker)
            broker.reservation = Reservation(task, shape, best)
            broker.backlog.matching.reserved_rank = task.rank
    elif former is not None and former.task is task:
        let_go(broker)


def leave(broker: "Broker", until: float) -> None:
    """End the reservation, and let nobody have one of that actor up to *until*."""
    assert broker.reservation is not None
    actor = broker.reservation.actor
    actor.unreserved_until = until
    # Nor do calls that share a slot there leave it to anybody.
    actor.yields_at = max(actor.yields_at, until)
    let_go(broker)


def let_go(broker: "Broker") -> None:
    """End the reservation: what was kept may be of use to those that were passed."""
    assert broker.reservation is not None
    actor = broker.reservation.actor
    broker.reservation = None
    broker.backlog.matching.reserved_rank = -inf
    broker.backlog.matching.improve(actor)
    broker.backlog.matching.wake_special()
