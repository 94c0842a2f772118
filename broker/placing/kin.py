"""Calls of the runs of an actor that leaves, for which these wait (protocol.md section 9.4).

Such a run can end only when its calls have, and perhaps they can run nowhere else. So they are
placed there as well, and nothing else is. The rule that must not be broken: an actor that leaves is
given nothing but the calls of its own runs, or for which they wait, and those only while it grants
credit for them.
"""

from collections.abc import Iterable, Iterator
from math import inf
from typing import TYPE_CHECKING, Final

from broker.disk import writing
from broker.facts.peers import Actor
from broker.facts.task import State, Task
from broker.holding import kept
from broker.placing import placement
from broker.tasks import durable

if TYPE_CHECKING:
    from broker.core import Broker
    from broker.waiting.shapes import Shape

# So many calls may be looked at in each turn; after more nobody looks for a while.
CALLS_A_TURN: Final = 256
CALLS_PER_S: Final = 100_000


def look(broker: "Broker", now: float) -> None:
    """Give those that leave the calls of their runs that found no other actor."""
    isolation = broker.isolation
    if now < isolation.kin_at:
        return
    broker.limits.now = now
    looks = 0
    for actor in isolation.leaving:
        if actor.session is None or actor.is_suspect or actor.is_alone:
            continue
        # From which rank on calls of a shape are refused: a run may wait for any number of them.
        refused: dict[Shape, float] = {}
        if actor.credit.available or actor.credit.has_more:
            for task in dict.fromkeys(calls_of(broker, actor)):
                looks += 1
                offer(broker, task, actor, refused, now)
    if looks > CALLS_A_TURN:
        isolation.kin_at = now + looks / CALLS_PER_S


def calls_of(broker: "Broker", actor: Actor) -> Iterator[Task]:
    """Return the calls that wait for an actor, of the runs of this one or for which these wait.

    One that no run here has made is known by the wait alone, a heartbeat later.
    """
    waits, clients = broker.limits.waits.by_run, broker.clients
    for token, parent in actor.assigned.items():
        found: Iterable[Task] = parent.children or ()
        for wait in waits.get(token, {}).values() if waits else ():
            if wait.client in clients:
                tasks = clients[wait.client].tasks
                found = (*found, *(tasks[n] for n in kept.numbers(wait.calls, tasks)))
        for task in found:
            if task.state is State.QUEUED and not task.client.is_paused:
                yield task


def offer(
    broker: "Broker", task: Task, actor: Actor, refused: dict["Shape", float], now: float
) -> None:
    """Let *actor* run *task*, if it can start there now and none like it was *refused*.

    A call to a named actor goes where that is. What the journal must let start comes again then.
    """
    assert task.template
    shape = task.template.shape
    if task.rank >= refused.get(shape, inf):
        return
    if shape.cost.named or not placement.suits(broker, task, actor, now):
        if not task.barred:
            refused[shape] = -inf
    elif placement.covers(broker, task, actor):
        broker.backlog.remove(task)
        broker.deadlines.discard(task)
        if shape.cost.is_armed_first and writing.must_arm(task):
            durable.arm(broker, task)
        else:
            placement.give(broker, task, actor, now)
    else:
        refused[shape] = task.rank
