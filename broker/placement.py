"""Which actor gets which task.

In the order of the backlog each task goes to the best of the actors that satisfy it and have credit
for it: one where its environment is warm, then the highest sum of the weights of met affinities,
then the most available credit, then the least recently used. A task that finds nobody waits, and
lets those behind it pass.
"""

from typing import TYPE_CHECKING

from broker.backlog import Shape
from broker.peers import Actor
from broker.task import Event, Task
from wire.messages import Assign, Function
from wire.messages import Template as TemplateMessage

if TYPE_CHECKING:
    from broker.core import Broker


def place(broker: "Broker", now: float) -> None:  # noqa: ARG001 - deadlines will want it.
    """Assign until no task finds an actor."""
    backlog, actors = broker.backlog, broker.open_actors
    while backlog.ready and (found := backlog.next_ready()) is not None:
        shape, task = found
        if not actors:
            backlog.block(shape)
            continue
        actor = choose(broker, shape, task)
        if actor is not None:
            shape.pop(task)
            if not shape.count:
                del backlog.ready[shape]
            backlog.serve(task)
            assign(broker, task, actor)
            if not actor.credit.available:
                actors.pop(actor, None)
        elif task.barred:
            shape.set_aside(task)
        else:
            backlog.block(shape)


def choose(broker: "Broker", shape: Shape, task: Task) -> Actor | None:
    """Return the best actor for *task* now, or None."""
    best: Actor | None = None
    best_key: tuple[bool, float, int, int] | None = None
    environment = shape.environment
    is_alone = len(broker.open_actors) == 1
    gone: list[Actor] = []
    for actor in broker.open_actors:
        credit = actor.credit
        if actor.session is None or actor.is_suspect or not credit.available:
            gone.append(actor)
            continue
        weight = shape.fit(actor)
        if weight is None or not credit.covers(shape):
            continue
        if task.barred and is_barred(task, actor):
            continue
        if is_alone:
            return actor
        key = (
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
    task.move(Event.ASSIGN)
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
