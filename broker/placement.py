"""Which actor gets which task.

In the order of the backlog each task goes to the best of the actors that satisfy it and have credit
for it: one where it starts at once, then one where its environment is warm, then the highest sum of
the weights of met affinities, then the most available credit, then the least recently used. A task
that finds nobody waits, and lets those behind it pass. So that small ones never starve a large one,
the oldest that no actor has enough slots for now reserves one actor, where those behind it leave it
what it needs.
"""

from typing import TYPE_CHECKING

from broker import lifecycle, occupancy
from broker.backlog import Shape
from broker.peers import Actor
from broker.task import TRANSITIONS, Event, State, Task
from wire.errors import Code
from wire.messages import Assign, Function
from wire.messages import Template as TemplateMessage

if TYPE_CHECKING:
    from broker.core import Broker


class Reservation:
    """The oldest task that fits nowhere for its size, and the actor that is kept free for it."""

    __slots__ = ("actor", "shape", "task")

    def __init__(self, task: Task, shape: Shape, actor: Actor) -> None:
        """Keep what *task* needs on *actor*."""
        self.task = task
        self.shape = shape
        self.actor = actor

    @property
    def holds(self) -> bool:
        """Tell whether the task still waits and the actor may still be given it."""
        task, actor = self.task, self.actor
        is_waiting = task.state is State.QUEUED and not task.client.is_paused
        return is_waiting and actor.is_open and self.shape.fit(actor) is not None

    def binds(self, task: Task, actor: Actor) -> bool:
        """Tell whether *task* has to leave room on *actor*: it stands behind."""
        return actor is self.actor and task is not self.task and self.task.rank <= task.rank


def place(broker: "Broker", now: float) -> None:
    """Assign until no task finds an actor."""
    backlog, actors, deadlines = broker.backlog, broker.open_actors, broker.deadlines
    broker.limits.now = now
    if broker.reservation is not None and not broker.reservation.holds:
        broker.reservation = None
        backlog.wake()
    while backlog.ready:
        if not actors:
            block_all(broker)
        found = backlog.next_ready()
        if found is None:
            return
        shape, task = found
        actor = choose(broker, shape, task) if actors else None
        if actor is not None:
            shape.pop(task)
            if deadlines.things:
                deadlines.discard(task)
            if not shape.count:
                del backlog.ready[shape]
            backlog.serve(task)
            assign(broker, task, actor)
            if shape.limits is not None:
                occupancy.take(broker, task)
            if not (actor.credit.available or actor.credit.has_typed):
                actors.pop(actor, None)
            if broker.reservation is not None and broker.reservation.task is task:
                # What was kept for it may be of use to those that were passed.
                broker.reservation = None
                backlog.wake()
        elif shape.fail_infeasible and is_infeasible(broker, shape):
            shape.pop(task)
            deadlines.discard(task)
            message = f"no connected actor has the slots that it needs: {shape.slots or 1}"
            lifecycle.end(broker, task, Code.INFEASIBLE, message)
        elif task.barred and actors:
            shape.set_aside(task)
        else:
            if shape.is_large:
                reserve(broker, shape, task)
            backlog.block(shape)


def block_all(broker: "Broker") -> None:
    """Let all wait, since nobody has credit; what more is to be done for is looked at alone."""
    backlog = broker.backlog
    for shape in tuple(backlog.ready):
        if not (shape.is_large or shape.fail_infeasible):
            backlog.block(shape)


def is_infeasible(broker: "Broker", shape: Shape) -> bool:
    """Tell whether no actor has the capacity; not before all had the time to come back."""
    if broker.window_ends_at is not None:
        return False
    return not any(shape.could_hold(actor) for actor in broker.actors.values())


def reserve(broker: "Broker", shape: Shape, task: Task) -> None:
    """Keep the actor that lacks least for *task*, unless an older one has a reservation."""
    former = broker.reservation
    if former is not None and former.task is not task and former.task.rank <= task.rank:
        return
    best: Actor | None = None
    best_key = (0, True)
    for actor in broker.actors.values():
        if not actor.is_open or shape.fit(actor) is None or is_barred(task, actor):
            continue
        key = (actor.credit.lacks(shape), former is None or actor is not former.actor)
        # What lacks nothing lacks a turn, for which there is no need to keep slots.
        if key[0] and (best is None or key < best_key):
            best, best_key = actor, key
    if best is not None:
        broker.reservation = Reservation(task, shape, best)
    elif former is not None and former.task is task:
        broker.reservation = None


def choose(broker: "Broker", shape: Shape, task: Task) -> Actor | None:
    """Return the best actor for *task* now, or None."""
    best: Actor | None = None
    best_key: tuple[bool, bool, float, int, int] | None = None
    environment = shape.environment
    is_alone = len(broker.open_actors) == 1
    reserved = broker.reservation
    fits = shape.fits
    gone: list[Actor] = []
    for actor in broker.open_actors:
        credit = actor.credit
        is_spent = not (credit.available or credit.has_typed)
        if actor.session is None or actor.is_suspect or is_spent:
            gone.append(actor)
            continue
        known = fits.get(actor)
        if known is not None and known[0] == actor.labels_stamp:
            weight = known[1]
        else:
            weight = shape.fit(actor)
        kept = reserved.shape if reserved and reserved.binds(task, actor) else None
        if weight is None or not credit.covers(shape, kept):
            continue
        if task.barred and is_barred(task, actor):
            continue
        if shape.host_limits and not broker.limits.has_host_room(shape, task, actor.host):
            continue
        if is_alone:
            return actor
        key = (
            credit.available > credit.stated.ahead
            if environment is None
            else credit.has_place(shape, kept),
            environment is not None and credit.is_warm(environment),
            weight,
            credit.available,
            -actor.used_at,
        )
        if best_key is None or key > best_key:
            best, best_key = actor, key
    for actor in gone:
        del broker.open_actors[actor]
    return best


def is_barred(task: Task, actor: Actor) -> bool:
    """Tell whether *actor* rejected *task* with the labels and session that it has now."""
    if not task.barred or actor not in task.barred:
        return False
    assert actor.session
    if task.barred[actor] == (actor.labels_version, actor.session.number):
        return True
    del task.barred[actor]
    return False


def assign(broker: "Broker", task: Task, actor: Actor) -> None:
    """Give *task* to *actor* under a new token, and spend the credit."""
    session, template = actor.session, task.template
    assert session
    assert template
    slot = session.templates_told.find(template)
    if slot is None:
        for blob in (template.function, template.blob):
            if blob is not None and session.functions_told.find(blob.hash) is None:
                place_in = session.functions_told.add(blob.hash)
                message = Function(place_in, blob.hash, blob.body, len(blob.frames))
                broker.say(session, message, blob.frames)
        slot = session.templates_told.add(template)
        broker.say(session, TemplateMessage(slot, template.call))
    broker.assignments += 1
    number = broker.assignments
    token = (broker.epoch, number)
    task.state = TRANSITIONS[task.state, Event.ASSIGN]
    task.token, task.actor = token, actor
    broker.tokens[token] = actor.assigned[token] = task
    actor.used_at = number
    broker.say(
        session,
        Assign(
            number,
            task.client.incarnation,
            task.number,
            slot,
            task.tries + 1,
            task.body,
            len(task.frames),
        ),
        task.frames,
    )
    # After say: a frame that was full is sealed by it.
    task.frame = session.sent + len(session.sealed) + 1
    actor.credit.spend(task.frame, template.shape)
    if actor.credit.available < actor.credit.stated.ahead:
        broker.recalls.ahead[actor] = None
