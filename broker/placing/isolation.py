"""Tasks that run alone, since a process crashed under them (protocol.md section 10.2).

Where several tasks ran in a process that crashed, nobody can tell whose fault it was: each runs
next in an actor that holds nothing else, and nothing is put beside it. The rule that must not be
broken: at most one actor is kept free for those that wait, and nobody waits here for ever.
"""

from typing import TYPE_CHECKING, Final

from broker.facts.peers import Actor
from broker.facts.task import Event, Task
from broker.placing import kin, placement
from broker.tasks import lifecycle
from broker.waiting import reservation
from broker.waiting.costs import SLOT
from wire.parts import Token

if TYPE_CHECKING:
    from broker.core import Broker

# With more actors than this they are not looked at in every turn.
ACTORS_MANY: Final = 64
LOOK_AGAIN_S: Final = 0.02


class Isolation:
    """Who waits for an actor of its own, and which actors are shut for whom."""

    __slots__ = ("is_needed", "kept", "kin_at", "leaving", "look_at", "running", "waiting")

    def __init__(self) -> None:
        """Begin with nobody."""
        # Each with the time until which it waits, in the order of their crashes.
        self.waiting: dict[Task, float] = {}
        # The actor that is kept free for the first of these.
        self.kept: Actor | None = None
        # The actors that run a task alone.
        self.running: dict[Actor, Token] = {}
        # Those that leave when their runs have ended.
        self.leaving: dict[Actor, None] = {}
        # When is looked again at all that waits here, and at the calls of those that leave.
        self.look_at = self.kin_at = 0.0
        # Whether anybody waits, runs alone or leaves.
        self.is_needed = False


def take(broker: "Broker", task: Task, now: float) -> None:
    """Let a queued *task* wait so, of which it is only known now what befell it."""
    if broker.reservation is not None and broker.reservation.task is task:
        reservation.let_go(broker)
    broker.backlog.remove(task)
    broker.deadlines.discard(task)
    lifecycle.isolate(broker, task, now)


def look(broker: "Broker", now: float) -> None:
    """Give actors of their own to those that wait, and open those that are alone no more."""
    isolation = broker.isolation
    for actor, token in list(isolation.running.items()):
        is_over = token not in actor.assigned and has_all_slots(actor)
        # Somebody may wait for this very actor for whom it waits in turn.
        if is_over or broker.limits.is_waiting(token):
            del isolation.running[actor]
            shut(broker, actor, is_alone=False)
    if isolation.leaving:
        kin.look(broker, now)
    kept = isolation.kept
    if kept is not None and (kept.closed or kept.session is None or kept.is_suspect):
        keep_no_more(broker)
    if not isolation.waiting:
        keep_no_more(broker)
        isolation.is_needed = bool(isolation.running or isolation.leaving)
        return
    if now < isolation.look_at:
        return
    broker.limits.now = now
    if len(broker.actors) > ACTORS_MANY:
        isolation.look_at = now + LOOK_AGAIN_S
    for task, until in list(isolation.waiting.items()):
        if task.client.is_paused:
            continue
        able = [actor for actor in broker.actors.values() if is_able(broker, task, actor, now)]
        empty = [
            actor for actor in able if is_empty(actor) and placement.covers(broker, task, actor)
        ]
        if empty:
            start(broker, task, min(empty, key=lambda actor: actor.used_at), now)
        elif now >= until:
            give_up(broker, task)
        elif isolation.kept is None and able:
            isolation.kept = min(able, key=lambda actor: (len(actor.assigned), actor.used_at))
            shut(broker, isolation.kept, is_alone=True)


def start(broker: "Broker", task: Task, actor: Actor, now: float) -> None:
    """Give *task* to *actor*, which is shut for all others until it is over."""
    isolation = broker.isolation
    del isolation.waiting[task]
    if actor is isolation.kept:
        isolation.kept = None
    placement.give(broker, task, actor, now)
    assert task.token
    isolation.running[actor] = task.token
    shut(broker, actor, is_alone=True)
    keep_no_more(broker)


def give_up(broker: "Broker", task: Task) -> None:
    """Queue a task that has waited for too long as any other."""
    del broker.isolation.waiting[task]
    keep_no_more(broker)
    assert task.trouble
    task.trouble.is_patient = True
    task.move(Event.DUE)
    lifecycle.queue_again(broker, task)


def keep_no_more(broker: "Broker") -> None:
    """Open the actor that was kept free."""
    kept, broker.isolation.kept = broker.isolation.kept, None
    if kept is not None:
        shut(broker, kept, is_alone=False)


def shut(broker: "Broker", actor: Actor, *, is_alone: bool) -> None:
    """Give *actor* no more work, or some again."""
    actor.is_alone = is_alone
    actor.shut()
    broker.backlog.matching.note_working(actor)
    is_known = broker.actors.get(actor.incarnation) is actor
    if is_known and not actor.is_shut and (actor.credit.available or actor.credit.has_more):
        broker.open_actors[actor] = None
        broker.backlog.matching.improve(actor)


def leaves(broker: "Broker", actor: Actor) -> None:
    """Shut *actor* for the backlog if it says that it leaves."""
    actor.shut()
    if actor.is_leaving:
        broker.isolation.leaving[actor] = None
        broker.isolation.is_needed = True
    else:
        broker.isolation.leaving.pop(actor, None)


def adopted(broker: "Broker", actor: Actor, token: Token) -> None:
    """Open an actor that brings another run along: what runs there is alone no more."""
    if broker.isolation.running.get(actor, token) != token:
        del broker.isolation.running[actor]
        shut(broker, actor, is_alone=False)


def forget_actor(broker: "Broker", actor: Actor) -> None:
    """Keep nothing for an actor that is gone."""
    broker.isolation.running.pop(actor, None)
    broker.isolation.leaving.pop(actor, None)
    if broker.isolation.kept is actor:
        broker.isolation.kept = None


def forgive(broker: "Broker", stall_s: float) -> None:
    """Take no time from anybody in which the broker itself was stopped."""
    waiting = broker.isolation.waiting
    for task in waiting:
        waiting[task] += stall_s


def is_able(broker: "Broker", task: Task, actor: Actor, now: float) -> bool:
    """Tell whether *actor* could run *task* if it held nothing."""
    is_taken = actor in broker.isolation.running
    if actor.session is None or actor.is_suspect or actor.closed or is_taken:
        return False
    return placement.suits(broker, task, actor, now)


def is_empty(actor: Actor) -> bool:
    """Tell whether *actor* holds nothing, also nothing that was told to stop."""
    return not actor.assigned and has_all_slots(actor)


def has_all_slots(actor: Actor) -> bool:
    """Tell whether *actor* states all of its plain slots, or can state none."""
    return actor.session is None or actor.credit.slots_available >= actor.slots.get(SLOT, 0)


def explain(broker: "Broker") -> str:
    """Say for what a task waits that must run alone."""
    kept = broker.isolation.kept
    shown = f"; {kept.name} is kept free" if kept is not None else ""
    return f"its process crashed, so it waits for an actor that holds nothing else{shown}"


def check(broker: "Broker") -> None:
    """Assert that exactly those actors are shut that are kept or run a task alone."""
    isolation = broker.isolation
    alone = {actor for actor in broker.actors.values() if actor.is_alone}
    kept = {isolation.kept} if isolation.kept is not None else set()
    assert alone == isolation.running.keys() | kept
    for actor in broker.actors.values():
        assert actor.is_shut == (actor.is_suspect or actor.is_alone or actor.is_leaving)
        assert actor.is_leaving == (actor in isolation.leaving)
    assert isolation.is_needed or not isolation.leaving
    for actor, token in isolation.running.items():
        assert actor.assigned.keys() <= {token}, "something is put beside a task that runs alone"
