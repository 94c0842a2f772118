"""Which queued task has waited for too long, and which kind waits for an actor that is not there.

A task with a schedule timeout is watched while it is queued, and while nothing else: it ends only
where no actor could be found in the same turn. So what comes back from a mailbox late is placed
where there is a slot, and ends where there is none. Its clock runs from its submission, and anew
from the loss of a run that had started.
"""

from typing import TYPE_CHECKING, Any, Final

from broker.events import occupancy, reasons
from broker.facts.task import State, Task
from broker.holding import wants
from broker.tasks import forgetting, lifecycle
from broker.waiting.shapes import Shape
from wire.errors import Code

if TYPE_CHECKING:
    from broker.core import Broker

# What is looked at in one turn, in tasks times actors: a reason is found by a look at every actor.
LOOKS_A_TURN: Final = 20_000
EXPIRED_A_TURN_MIN: Final = 16
# So long who has no actor at all waits untold for one that starts.
START_S: Final = 10.0
# So many kinds of tasks are told of one by one with a heartbeat, more of them only counted.
TOLD_A_BEAT_MAX: Final = 5


def expire(broker: "Broker", now: float) -> None:
    """End what has found no actor in time, with the reason that `explain` would give."""
    at_most = max(EXPIRED_A_TURN_MIN, LOOKS_A_TURN // (1 + len(broker.actors)))
    known: dict[Any, str] = {}
    for task in broker.deadlines.take(now, at_most=at_most):
        assert task.state is State.QUEUED
        assert task.template
        call = task.call
        kind = (task.template.shape, task.client, tuple(call.limits.items()))
        reason = "" if task.barred else known.get(kind, "")
        if not reason:
            reason = reasons.reason_of(broker, task, now).text
        if not task.barred:
            known[kind] = reason
        message = f"no actor within {call.schedule_timeout_s:g} s: {reason}"
        forgetting.take_out(broker, task)
        lifecycle.end(broker, task, Code.SCHEDULE_TIMEOUT, message)
    if broker.limits.stirred:
        occupancy.settle(broker, now)


def look(broker: "Broker", now: float) -> None:
    """Tell of each kind of task for which no connected actor could do, once."""
    if broker.window_ends_at is not None:
        return  # Not everybody had the time to come back.
    told, more = 0, 0
    is_soon = not broker.actors and reasons.starting_on(broker)
    untold_s = START_S if is_soon else broker.settings.heartbeat_s
    unmet = broker.backlog.matching.unmet
    for _ in range(min(len(unmet), LOOKS_A_TURN)):
        shape = unmet.popleft()
        is_met = wants.are_stated(broker, shape, shape.queue.crew.members) if shape.queue else True
        if is_met:
            shape.is_told = False  # It is listed again when it is so again.
            continue
        task = first_of(shape)
        # A named actor is where it is, or is entered again in a moment; and a host may be about to
        # come.
        is_open = is_met is None or shape.is_shut or shape.home is not None
        if is_open or task is None or now - task.queued_at < untold_s:
            unmet.append(shape)
            continue
        shape.is_told = True
        told += 1
        if told <= TOLD_A_BEAT_MAX:
            reason = reasons.reason_of(broker, task, now).text
            name, waiting = task.call.name, shape.count
            broker.note("unsatisfiable", task=task.name, name=name, waiting=waiting, reason=reason)
        else:
            more += 1
    if more:
        broker.note("unsatisfiable_more", kinds=more)


def first_of(shape: Shape) -> Task | None:
    """Return a task that waits under *shape*, one of the oldest."""
    if shape.only is not None:
        return shape.only
    for lane in shape.lanes.values():
        for task in lane.tasks:
            if task.state is State.QUEUED:
                return task
    return shape.aside[0] if shape.aside else None


def forgive(broker: "Broker", stall_s: float) -> None:
    """Take no time from anybody in which the broker itself was stopped."""
    for task in broker.deadlines.things:
        task.queued_at += stall_s
    # Not postponed: a sum in another order may be another one, and who asks is told this one.
    broker.deadlines.renew(ends_at)


def ends_at(task: Task) -> float:
    """Return when *task*, which has a schedule timeout, has waited for too long."""
    timeout_s = task.call.schedule_timeout_s
    assert timeout_s is not None
    return task.queued_at + timeout_s


def check(broker: "Broker") -> None:
    """Assert that exactly the queued tasks with a schedule timeout are watched."""
    broker.deadlines.check()
    watched, timed = broker.deadlines.things, 0
    for client in broker.clients.values():
        for task in client.tasks.values():
            if (
                task.state is State.QUEUED
                and task.template
                and task.call.schedule_timeout_s is not None
            ):
                assert task in watched, task.name
                timed += 1
    # So nobody else is.
    assert timed == len(watched)
