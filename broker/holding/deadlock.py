"""Runs that wait for one another in a circle (protocol.md section 9.8).

A run waits for limits from inside, for calls of its own, or for its slots again; what it keeps
meanwhile, limits, slots or a turn, others may need. Those whose wait could end beside what the
others keep are taken out, one after another; whoever is left waits for one of those that are left.
The rule that must not be broken: nobody is told of a circle who is not in one. So what is not known
to wait is taken to go on, and what cannot be counted to be free.
"""

from math import inf
from typing import TYPE_CHECKING, Final

from broker.facts.peers import Actor, Session, is_owned
from broker.facts.task import Task
from broker.holding.kept import Kept, Wait, actor_of, kept_by, slots_of, task_of, token_of
from broker.holding.lines import AskWaiter, RunWait, shown
from broker.waiting.reservation import Reservation, leave
from wire.errors import Code
from wire.limits import GIVE_BACK
from wire.messages import Await, Occupied

if TYPE_CHECKING:
    from broker.core import Broker

# So many are told at once, fewer where so many waits were looked at for that: each looks at all.
# Where there are more circles the next look finds them.
TOLD_MAX: Final = 64
WAITS_MAX: Final = 20_000
# So long nobody reserves an actor where that closed a circle.
LEFT_HEARTBEATS: Final = 2


def begin(broker: "Broker", session: Session, command: Await) -> None:
    """Note that a run waits."""
    actor, token = session.peer, (command.epoch, command.number)
    assert isinstance(actor, Actor)
    task = broker.tokens.get(token)
    if task is None or task.actor is not actor or not is_owned(task) or task.is_finished:
        return
    waits = broker.limits.waits
    waits.count += 1
    waits.by_run.setdefault(token, {})[command.ask] = RunWait(task, actor, command, waits.count)
    waits.is_new = True


def gave(broker: "Broker", task: Task, part: dict[str, int]) -> None:
    """Note that a run gave back a part of what it has of its slots."""
    if task.token:
        slots = slots_of(task) if task.template else {}
        broker.limits.waits.gave(task.token, slots, part)


def look(broker: "Broker") -> None:
    """Have slots given back that circles go over; tell the youngest of each that is left."""
    limits, waits = broker.limits, broker.limits.waits
    waits.is_new = False
    if waits.by_run or waits.parts:
        waits.sweep(broker.tokens)
    for _ in range(min(TOLD_MAX, 1 + WAITS_MAX // (1 + len(everybody(broker))))):
        found = None if limits.is_closed else find(broker)
        if found is None:
            look_at_reserved(broker)
            return
        wait, others = found
        if others:
            tell(broker, wait, others)
        else:
            assert isinstance(wait, AskWaiter)
            wait.run.giving = wait.ask
            message = f"others wait for the slots of {task_of(wait).name} in a circle"
            broker.say(
                wait.run.actor.session, Occupied(*wait.run.token, wait.ask, GIVE_BACK, message)
            )
            broker.note("give_back", task=task_of(wait).name)


def tell(broker: "Broker", wait: Wait, others: list[Task]) -> None:
    """End the wait of a run that waits in a circle with *others*."""
    limits = broker.limits
    task, token = task_of(wait), token_of(wait)
    others_shown = ", ".join(other.name for other in others if other is not task) or "itself"
    message = f"it waits for {wanted(wait)} in a circle, with {others_shown}, and is the youngest"
    if keeping := kept_of(broker, wait):
        message += f"; meanwhile it keeps {keeping}"
    if isinstance(wait, AskWaiter):
        limits.vacate(token, wait.ask)
    else:
        limits.waits.end(token, wait.ask, wait.actor)
    told = Occupied(*token, wait.ask, Code.DEADLOCK, message)
    broker.say(actor_of(wait).session, told)
    broker.note("deadlock", task=task.name, others=others_shown)


def look_at_reserved(broker: "Broker") -> None:
    """Keep no actor for a large task where whoever holds its slots waits for one behind it."""
    reserved = broker.reservation
    if reserved is None or broker.limits.is_closed or find(broker, reserved) is None:
        return
    broker.note("reservation_left", task=reserved.task.name, actor=reserved.actor.name)
    leave(broker, broker.limits.now + LEFT_HEARTBEATS * broker.settings.heartbeat_s)


def find(broker: "Broker", reserved: Reservation | None = None) -> tuple[Wait, list[Task]] | None:
    """Return the wait of the youngest run that is in a circle, and who is in it.

    But first, with nobody, that of the youngest that could give back what somebody in a circle
    lacks. With *reserved* also over the task for which an actor is kept.
    """
    waiting = everybody(broker)
    was = len(waiting) + 1
    kept = Kept(broker, waiting, reserved)
    while waiting and len(waiting) < was:
        was = len(waiting)
        waiting = [wait for wait in waiting if kept.lacks(wait)]
        kept = Kept(broker, waiting, reserved)
    blockers = {wait: list(kept.blockers(wait)) for wait in waiting}
    youngest = sorted(waiting, key=lambda one: (token_of(one), one.ask), reverse=True)
    circles = in_circles(blockers)
    givers = kept.givers(set().union(*map(kept.lacks, circles)))
    for wait in youngest:
        if wait in givers:
            return wait, []
    for wait in youngest:
        if wait in circles:
            return wait, list(dict.fromkeys(map(task_of, circle_of(wait, blockers))))
    return None


def everybody(broker: "Broker") -> list[Wait]:
    """Return the waits that may be in a circle.

    Where nobody waits for calls or slots these are asks for limits that keep some, and no others.
    """
    runs, waits = broker.limits.runs, broker.limits.waits.by_run
    asks: list[Wait] = [
        ask
        for run in runs.values()
        if run.asks and (run.rows or waits) and not run.is_stopped
        for ask in run.asks.values()
        if waits or ask.kept()
    ]
    return asks + [wait for of_run in waits.values() for wait in of_run.values()]


def in_circles(blockers: dict[Wait, list[Wait]]) -> set[Wait]:
    """Return those that wait for themselves, over others: in one walk, however many there are."""
    found: set[Wait] = set()
    # The order in which they are come to; who came first of those to whom a way leads from there.
    came: dict[Wait, int] = {}
    first: dict[Wait, float] = {}
    opened: list[Wait] = []
    for root, keepers in blockers.items():
        way = [(root, iter(keepers))] if root not in came else []
        while way:
            one, others = way[-1]
            if one not in came:
                came[one] = len(came)
                first[one] = came[one]
                opened.append(one)
            for other in others:
                if other not in came:
                    way.append((other, iter(blockers.get(other, ()))))
                    break
                first[one] = min(first[one], first[other])
            else:
                way.pop()
                if first[one] == came[one]:
                    # From all that were opened since a way leads here, and back.
                    together = [opened.pop()]
                    while together[-1] is not one:
                        together.append(opened.pop())
                    if len(together) > 1 or one in blockers.get(one, ()):
                        found.update(together)
                    first.update(dict.fromkeys(together, inf))
                if way:
                    above = way[-1][0]
                    first[above] = min(first[above], first[one])
    return found


def circle_of(wait: Wait, blockers: dict[Wait, list[Wait]]) -> list[Wait]:
    """Return those over whom *wait* waits for itself, nobody if it does not."""
    came_from: dict[Wait, Wait] = {}
    ahead = [wait]
    while ahead:
        one = ahead.pop()
        for other in blockers.get(one, ()):
            if other is wait:
                circle = [one]
                while one is not wait:
                    one = came_from[one]
                    circle.append(one)
                return circle[::-1]
            if other not in came_from:
                came_from[other] = one
                ahead.append(other)
    return []


def wanted(wait: Wait) -> str:
    """Say for people what *wait* is for."""
    if isinstance(wait, AskWaiter):
        return "limit " + ", ".join(shown(name) for name, _ in wait.wants)
    return "calls of its own" if wait.enough else "its slots"


def kept_of(broker: "Broker", wait: Wait) -> str:
    """Say for people what of limits and named actors the run of *wait* does not give back."""
    limits = {shown(name) for _, wants in kept_by(broker.limits, wait) for name, _ in wants}
    told = [f"limit {', '.join(sorted(limits))}"] if limits else []
    place = task_of(wait).call.environment if task_of(wait).template else None
    if place is not None and place.named is not None:
        told.append(f"its turn in named actor {place.named.name}")
    return " and ".join(told)
