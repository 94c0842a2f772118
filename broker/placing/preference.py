"""Which better actor a task waits for while a lesser one is free, and until when.

A task whose call says *affinity_wait_s* and is in no environment goes to an actor of a lower weight
than another one only where that other is not expected to be free soon (protocol.md section 11). The
rule that must not be broken: who waits so stands in nobody's way, and for no longer than it said.
"""

from math import inf
from typing import TYPE_CHECKING, Final

from broker.facts.peers import Actor
from broker.facts.task import Task
from broker.waiting.costs import SLOT
from broker.waiting.shapes import Shape

if TYPE_CHECKING:
    from broker.core import Broker
    from broker.waiting.crews import Crew
    from broker.waiting.queues import Wait

# What one run counts in how long they take.
RUN_SHARE: Final = 0.125
# So many waits end in one turn.
ENDED_A_TURN: Final = 1_000
ACTORS_SHOWN_MAX: Final = 3


def prefer(broker: "Broker", shape: Shape, task: Task, actor: Actor, now: float) -> Actor | None:
    """Return who gets *task*, for which *actor* is the best now; None: it waits for a better one.

    While it waits it may do so in the mailbox of a better one.
    """
    wait, matching = shape.wait, broker.backlog.matching
    assert wait is not None
    until = task.queued_at + wait.within_s
    if until <= now or task.barred is not None:
        return actor
    while (better := matching.better(shape, actor)) and is_worth_it(broker, shape, better):
        entry = None if shape.cost.host_limits else matching.best(shape, among=better)
        if entry is None:
            matching.wait(shape, better, until)
            return None
        reserved = broker.reservation
        if reserved is not None and reserved.binds(task, entry[3]):
            break
        actor = entry[3]
    return actor


def stays_until(broker: "Broker", task: Task, target: Actor) -> float:
    """Return until when *task*, in the mailbox of an actor, stays there though *target* is free."""
    shape, actor = task.template.shape if task.template else None, task.actor
    if shape is None or shape.wait is None or actor is None:
        return -inf
    matching = broker.backlog.matching
    if shape.queue is None:
        # None of its kind has waited here: this one was adopted where it is.
        matching.attach(shape)
        matching.rest(shape)
    better = matching.better(shape, target)
    if better is None or actor not in better.members or not is_worth_it(broker, shape, better):
        return -inf
    return task.queued_at + shape.wait.within_s


def is_worth_it(broker: "Broker", shape: Shape, crew: "Crew") -> bool:
    """Tell whether tasks of *shape* wait for one of *crew*."""
    wait, offers = shape.wait, broker.backlog.matching.offers
    assert wait is not None
    working = crew.mask & offers.working
    if not offers.soon(working, wait.within_s):
        return False
    places = offers.places(shape.cost.slots or {SLOT: 1}, working)
    return shape.count * wait.run_s <= places * wait.within_s


def look(broker: "Broker", now: float) -> None:
    """Let those go to any actor that have waited for as long as they said."""
    matching = broker.backlog.matching
    for shape in matching.waits.take(now, at_most=ENDED_A_TURN):
        matching.end_wait(shape)


def ran(broker: "Broker", task: Task, actor: Actor, run_s: float) -> None:
    """Note how long a task ran, where somebody goes by that."""
    if not 0.0 <= run_s < inf:
        return
    matching = broker.backlog.matching
    if matching.offers.note_run(actor, average(actor.run_s, run_s)):
        matching.reconsider(actor)
    wait = task.template.shape.wait if task.template else None
    if wait is not None:
        assert task.template
        wait.run_s = average(wait.run_s, run_s)
        if wait.queue is not None:
            matching.end_wait(task.template.shape)


def average(former_s: float, run_s: float) -> float:
    """Return how long runs take of late, of which one more took *run_s*."""
    return former_s + (run_s - former_s) * RUN_SHARE if former_s else run_s


def passes(broker: "Broker", task: Task, actor: Actor) -> str:
    """Say that *actor*, which could have *task*, is passed for a better one; empty if it is not."""
    wait = task.template.shape.wait if task.template else None
    if wait is None or wait.queue is None or actor in wait.queue.crew.members:
        return ""
    left_s = max(0.0, ends_at(task, wait) - broker.limits.now)
    return f"has a free slot, and is passed for a better one for {left_s:.1f} s"


def waits_for(task: Task, now: float) -> tuple[float, list[Actor]]:
    """Return how long *task* waits yet for which actors, though others are free; for explain."""
    shape = task.template.shape if task.template else None
    wait = shape.wait if shape is not None else None
    if wait is None or wait.queue is None or task.barred is not None:
        return 0.0, []
    left_s = ends_at(task, wait) - now
    return left_s, [a for a in wait.queue.crew.members if a.takes_work and left_s > 0.0]


def ends_at(task: Task, wait: "Wait") -> float:
    """Return until when *task* waits, be it the first of its kind or behind it."""
    return max(wait.until, task.queued_at + wait.within_s)


def explain(task: Task, now: float) -> str:
    """Say for whom *task* waits though others are free, and how long yet; empty if it does not."""
    left_s, better = waits_for(task, now)
    if not better:
        return ""
    names = ", ".join(actor.name for actor in better[:ACTORS_SHOWN_MAX])
    more = ", ..." if len(better) > ACTORS_SHOWN_MAX else ""
    return f"it waits up to {left_s:.1f} s more for an actor that it likes better ({names}{more})"
