"""Which actor gets which task.

In the order of the backlog each task goes to the best of the actors that satisfy it and have credit
for it: one where it starts at once, then one where its environment is warm, then the highest sum of
the weights of met affinities, then, where it is cold, one where no other environment has to give
way, or none that a run uses, then the most free slots (the most credit, where it would wait ahead),
then, of warm copies of which some may be given up, the one with the lowest number, then the least
recently used, those that may be let go last. Calls that run beside one another in a copy look at
its number before the slots. A task that finds nobody waits, and lets those behind it pass.
"""

from typing import TYPE_CHECKING, Final

from broker.facts.peers import COMMANDS_PER_FRAME, Actor, is_barred
from broker.facts.task import QUEUED, TRANSITIONS, Event, State, Task
from broker.facts.unmet import infeasible
from broker.holding import wants
from broker.placing import environments, preference, replicas, yielding
from broker.tasks import bindings, durable, inscribing, lifecycle, named
from broker.waiting import reservation
from broker.waiting.rankings import PLACE
from broker.waiting.shapes import Lane, Shape
from wire.errors import Code
from wire.labels import affinity, satisfies_all
from wire.messages import Assign, Function
from wire.messages import Template as TemplateMessage

if TYPE_CHECKING:
    from broker.core import Broker
    from broker.placing.copies import Record


# Looked up once, for the path of each task.
ASSIGN: Final = Event.ASSIGN
# How an actor ranks in which an environment is warm, with a free turn.
WARM_HERE: Final = 2


def place(broker: "Broker", now: float) -> None:
    """Assign until no task finds an actor, or what was assigned is to be sent first."""
    backlog, deadlines = broker.backlog, broker.deadlines
    broker.limits.now = now
    if broker.reservation is not None:
        yielding.review(broker, now)
    elif backlog.newcomer is not None and place_newcomer(broker, backlog.newcomer):
        return
    while (found := backlog.next_ready()) is not None:
        shape, task = found
        if shape.cost.is_simple and not task.barred and broker.reservation is None:
            if place_simple(broker, shape, task):
                return
            continue
        if shape.wait is not None:
            backlog.matching.end_wait(shape)
        actor = choose(broker, shape, task)
        if actor is not None and shape.cost.is_sharing:
            actor = choose_unless_yielding(broker, shape, task, actor, now)
        if actor is not None and shape.wait is not None:
            actor = preference.prefer(broker, shape, task, actor, now)
            if actor is None:
                continue
        elif actor is not None and shape.cost.environment is not None:
            rival = replicas.rival(broker, shape, actor, now)
            if rival is not None:
                # It is found in the queue that stands first for its environment.
                shape, task = rival
                actor = choose(broker, shape, task)
        if actor is not None:
            backlog.take(shape, task)
            if deadlines.things:
                deadlines.discard(task)
            if shape.cost.is_armed_first and inscribing.must_arm(broker, task):
                durable.arm(broker, task)
                continue
            give(broker, task, actor, now)
            if broker.reservation is not None and broker.reservation.task is task:
                yielding.found(actor)
                reservation.let_go(broker)
            elif broker.may_pause and shape.limits is not None and len(backlog.ready) == 1:
                broker.may_pause = False
                return
        elif shape.cost.fail_infeasible and is_infeasible(broker, shape):
            shape.pop(task)
            deadlines.discard(task)
            if not shape.count:
                backlog.matching.rest(shape)
            message = infeasible(shape.cost.slots, backlog.matching.offers)
            lifecycle.end(broker, task, Code.INFEASIBLE, message)
        elif task.barred and broker.open_actors:
            backlog.set_aside(shape, task)
        else:
            if shape.cost.is_large:
                reservation.reserve(broker, shape, task)
            assert shape.queue
            backlog.block(shape.queue)


def place_newcomer(broker: "Broker", shape: Shape) -> bool:
    """Assign the only task that is to be looked at, and tell whether; as if it stood in line.

    One with an environment only where that is warm and free, so that nothing else is to be decided.
    """
    backlog, task, queue = broker.backlog, shape.only, shape.queue
    if (
        backlog.ready
        or task is None
        or queue is None
        or queue.is_blocked
        or task.barred
        or task.client.is_paused
    ):
        return False
    environment, record = shape.cost.environment, None
    if environment is None:
        actor = (queue.crew.ranking or queue.crew.rank()).best_from(1)
    else:
        record = broker.environments.records.get(environment)
        if record is None or record.failed_on:
            return False
        ranking = queue.crew.warm.get(environment)
        if ranking is None:
            ranking = queue.crew.rank_warm(environment, backlog.matching.resident)
        actor = ranking.best_from(PLACE)
    if actor is None:
        return False
    backlog.newcomer = None
    backlog.take(shape, task)
    if broker.deadlines.things:
        broker.deadlines.discard(task)
    assign(broker, task, actor)
    if record is not None:
        environments.goes_in(broker, record, task, actor, broker.limits.now)
    return True


def place_simple(broker: "Broker", shape: Shape, task: Task) -> bool:
    """Assign tasks of one queue, of which this is the first, to its best actors, one by one.

    The rule is that of `place`; nothing but credit decides here, so it is looked at once a task.
    Return whether what was assigned is to be sent first.
    """
    backlog, deadlines = broker.backlog, broker.deadlines
    queue, ready = shape.queue, backlog.ready
    assert queue
    ranking = queue.crew.ranking or queue.crew.rank()
    best = ranking.best()
    is_last = best is not None and best.credit.available == 1 and ranking.is_alone
    if best is not None and not is_last and len(ready) == 1 and queue.is_alone:
        lane = shape.lone_lane()
        if lane is not None:
            best = place_lane(broker, shape, lane, best)
            task = lane.tasks[0]
            if task.barred or task.state is not QUEUED:
                return False
    while best is not None:
        backlog.take(shape, task)
        if deadlines.things:
            deadlines.discard(task)
        assign(broker, task, best)
        if len(ready) > 1:
            return False  # Another queue may be first now.
        if broker.may_pause and not best.credit.available:
            broker.may_pause = False
            return True
        # Where there are more of them one looks first whether anybody is left, else what is.
        found = None if shape.count else queue.first()
        if found is None and not shape.count:
            backlog.leave(queue)
            return False
        best = ranking.best()
        if best is None:
            break
        found = found or queue.first()
        if found is None:
            return False
        shape, task = found
        if task.barred or not shape.cost.is_simple:
            return False
    backlog.block(queue)
    return False


def place_lane(broker: "Broker", shape: Shape, lane: Lane, best: Actor | None) -> Actor | None:
    """Assign all of *lane* but its last, the first to *best*; return who is the best then.

    Nobody else waits for these actors, so nothing but the lane is looked at; the end of a lane is
    as that of any other.
    """
    deadlines, tasks = broker.deadlines, lane.tasks
    assert shape.queue
    crew, ranking = shape.queue.crew, shape.queue.crew.ranking
    assert ranking
    left = most = lane.queued - 1
    task = None
    while best is not None and left:
        # One actor is not compared with itself.
        for _ in range(min(left, crew.takes(best)) if ranking.is_alone else 1):
            if tasks[0].barred or tasks[0].state is not QUEUED:
                break
            task = tasks[0]
            del tasks[0]
            left -= 1
            if deadlines.things:
                deadlines.discard(task)
            assign(broker, task, best)
        else:
            best = ranking.best()
            continue
        break
    if task is not None:
        # Ranks grow in a lane, so the last is the one that counts.
        broker.backlog.serve(task)
        shape.advance(lane, most - left)
    return best


def is_infeasible(broker: "Broker", shape: Shape) -> bool:
    """Tell whether no actor has the capacity; not before all had the time to come back."""
    if broker.window_ends_at is not None:
        return False
    return not broker.backlog.matching.offers.able(shape.cost.slots)


def choose(broker: "Broker", shape: Shape, task: Task) -> Actor | None:
    """Return the best actor for *task* now, or None."""
    if shape.cost.named:
        return choose_named(broker, shape, task)
    return choose_any(broker, shape, task)


def choose_unless_yielding(
    broker: "Broker", shape: Shape, task: Task, actor: Actor, now: float
) -> Actor | None:
    """Return *actor*, or another one where *task* must leave its slot to who waits for that."""
    is_yielding = yielding.must_yield(broker, shape, task, actor, now)
    return choose(broker, shape, task) if is_yielding else actor


def choose_named(broker: "Broker", shape: Shape, task: Task) -> Actor | None:
    """Return where a call of a named actor may go now: one that is to be alone finds nobody there.

    Until then it holds up those behind it in its group.
    """
    actor = choose_any(broker, shape, task)
    costs = task.template.costs if task.template else shape.cost
    if actor is None or costs is shape.cost or actor.credit.has_slots(costs):
        return actor
    return None


def choose_any(broker: "Broker", shape: Shape, task: Task) -> Actor | None:
    """Return the best actor for *task* now, or None, as if it took the least of its shape."""
    if task.barred or shape.cost.host_limits:
        return choose_among(broker, shape, task)
    if shape.cost.environment is None:
        entry = broker.backlog.matching.best(shape)
    else:
        record = broker.environments.find(shape)
        if record is not None and record.failed_on:
            return choose_among(broker, shape, task)
        entry = broker.backlog.matching.best(shape, may_enter=record is None)
        # Where it is warm and free it goes in any case.
        if (
            record is not None
            and (entry is None or -entry[0] < PLACE)
            and replicas.may_enter(broker, record, task, broker.limits.now)
        ):
            entry = broker.backlog.matching.best(shape)
    if entry is None:
        return None
    actor = entry[3]
    reserved = broker.reservation
    if reserved is not None and reserved.binds(task, actor):
        return choose_among(broker, shape, task)
    return actor


def choose_among(broker: "Broker", shape: Shape, task: Task) -> Actor | None:
    """Return the best actor for a task that not every actor of its crew may have; slowly."""
    best: Actor | None = None
    best_key: tuple[bool, int, float, int, int, int, int, int] | None = None
    environment = shape.cost.environment
    reserved = broker.reservation
    record = broker.environments.find(shape)
    may_enter = record is None or replicas.may_enter(broker, record, task, broker.limits.now)
    assert shape.queue
    for actor in shape.queue.crew.members:
        credit = actor.credit
        kept = reserved.shape.cost if reserved and reserved.binds(task, actor) else None
        if not actor.is_open or not credit.covers(shape.cost, kept):
            continue
        if not may_enter and environment not in actor.copies:
            continue
        if task.barred and is_barred(task, actor):
            continue
        if shape.cost.host_limits and not broker.limits.has_host_room(shape, task, actor.host):
            continue
        has_place = credit.has_place(shape.cost, kept)
        warm = 0 if environment is None else warmth(record, actor, shape)
        copy = actor.copies.get(environment) if environment is not None else None
        preference = copy.preference if copy is not None and has_place and warm == WARM_HERE else 0
        key = (
            has_place,
            warm,
            affinity(actor.labels, shape.desires) if shape.has_affinity else 0.0,
            actor.ease if environment is not None and warm != WARM_HERE else 0,
            preference if shape.cost.packs else 0,
            credit.slots_available if has_place else credit.available,
            preference,
            -actor.used_at,
        )
        if best_key is None or key > best_key:
            best, best_key = actor, key
    return best


def warmth(record: "Record | None", actor: Actor, shape: Shape) -> int:
    """Rank an actor for tasks of an environment: warm, then where entering it has not failed."""
    assert shape.cost.environment
    if actor.credit.is_warm(shape.cost.environment, shape.cost.turns_taken):
        return WARM_HERE
    return record is None or actor.incarnation not in record.failed_on


def assign(broker: "Broker", task: Task, actor: Actor) -> None:
    """Give *task* to *actor* under a new token, and spend the credit."""
    session, template = actor.session, task.template
    assert session
    assert template
    slot = session.templates_told.find(template)
    if slot is None:
        for blob in (template.kind.function, template.kind.blob):
            if blob is not None and session.functions_told.find(blob.hash) is None:
                place_in = session.functions_told.add(blob.hash)
                message = Function(place_in, blob.hash, blob.body, len(blob.frames))
                broker.say(session, message, blob.frames)
        slot = session.templates_told.add(template)
        broker.say(session, TemplateMessage(slot, template.call))
    broker.assignments = number = broker.assignments + 1
    token = (broker.epoch, number)
    task.state = TRANSITIONS[task.state, ASSIGN]
    task.token, task.actor = token, actor
    broker.tokens[token] = actor.assigned[token] = task
    actor.used_at = number + actor.behind
    costs, frames = template.kind.costs, task.frames
    if costs.named:
        named.assigned(broker, task, actor)
    client, tries = task.client.incarnation, task.tries + 1
    command = Assign(number, client, task.number, slot, tries, task.body, len(frames))
    if frames or not session.is_dirty or len(session.commands) >= COMMANDS_PER_FRAME:
        broker.say(session, command, frames)
    else:
        session.commands.append(command)
    # After say: a frame that was full is sealed by it.
    task.frame = frame = session.sent + len(session.sealed) + 1
    credit = actor.credit
    credit.spend(frame, costs)
    available = credit.available
    if not (available or credit.has_more):
        broker.open_actors.pop(actor, None)
    if available < credit.stated.ahead:
        broker.recalls.ahead[actor] = None


def give(broker: "Broker", task: Task, actor: Actor, now: float) -> None:
    """Assign *task*, which stands in no queue any more, to *actor*, with all that it takes."""
    assign(broker, task, actor)
    assert task.template
    shape = task.template.shape
    if shape.cost.environment is not None:
        environments.assigned(broker, task, actor, now)
    if shape.limits is not None:
        wants.take(broker, task)
    if shape.sticky:
        bindings.bind(broker, shape.sticky, actor.name, now)


# ---------------------------------------------------------------------- beside the backlog


def suits(broker: "Broker", task: Task, actor: Actor, now: float) -> bool:
    """Tell whether *actor* could run *task* if it held nothing, whether it takes work or not."""
    assert task.template
    shape = task.template.shape
    if not (shape.cost.fits(actor) and satisfies_all(actor.labels, shape.desires)):
        return False
    if is_barred(task, actor) or (shape.sticky and bindings.forbids(broker, shape, actor)):
        return False
    record = broker.environments.find(shape)
    if record is None or shape.cost.environment is None:
        return True
    may_enter = actor.credit.has_resident(shape.cost.environment) or (
        replicas.may_enter(broker, record, task, now)
    )
    return may_enter and not replicas.is_held_back(broker, task, actor)


def covers(broker: "Broker", task: Task, actor: Actor) -> bool:
    """Tell whether *actor* has granted what *task* needs, and there is room at its limits.

    As if it stood in their lines with its rank: what was kept for those before it is not its.
    """
    assert task.template
    shape, limits = task.template.shape, broker.limits
    if not actor.credit.has_place(shape.cost, None):
        return False
    if shape.limits is None:
        return True
    if not limits.lets_go(task.call.limits, task.rank):
        return False
    return not shape.cost.host_limits or limits.has_host_room(shape, task, actor.host)


# ---------------------------------------------------------------------- what must hold


def check(broker: "Broker") -> None:
    """Assert that no queue is blocked from which an actor could take a task, by looking at all."""
    # Who satisfies a shape is the same for all tasks under it.
    satisfying: dict[Shape, list[Actor]] = {}
    for client in broker.clients.values():
        for task in client.tasks.values():
            if task.state is State.QUEUED and not client.is_paused:
                check_task(broker, task, satisfying)


def check_task(broker: "Broker", task: Task, satisfying: dict[Shape, list[Actor]]) -> None:
    """Assert that *task* is looked at again, or that nobody can take it now."""
    assert task.template
    shape = task.template.shape
    queue = shape.queue
    assert queue
    lane = shape.lanes.get(shape.lane_key(task))
    is_aside = task in shape.aside
    if shape.wait is not None and shape.wait.queue is not None:
        check_wait(broker, shape)
        return
    if not queue.is_blocked and not is_aside:
        return
    if not is_aside and task is not shape.only and (lane is None or lane.entry is None):
        return  # It waits for limits.
    if queue.environment is not None and not queue.crew.cold.is_blocked:
        return
    if shape.cost.named and is_behind_one_alone(shape, task):
        return
    if shape not in satisfying:
        satisfying[shape] = [
            actor
            for actor in broker.actors.values()
            if actor.is_open
            and shape.may_go_to(actor)
            and shape.cost.fits(actor)
            and satisfies_all(actor.labels, shape.desires)
            and (not shape.sticky or actor in queue.crew.members)
        ]
    for actor in satisfying[shape]:
        reserved = broker.reservation
        kept = reserved.shape.cost if reserved and reserved.binds(task, actor) else None
        if (
            actor.credit.covers(task.template.costs, kept)
            and not is_barred(task, actor)
            and not replicas.is_held_back(broker, task, actor)
        ):
            assert shape.cost.host_limits, f"{task.name} is overlooked, {actor.name} could take it"


def is_behind_one_alone(shape: Shape, task: Task) -> bool:
    """Tell whether a call waits behind one that is to be alone in its group."""
    return any(
        one.template and one.template.costs is not shape.cost and one.rank <= task.rank
        for one in shape.tasks()
        if one is not task and one.state is State.QUEUED
    )


def check_wait(broker: "Broker", shape: Shape) -> None:
    """Assert that tasks of *shape* will be looked at, and that nobody better could have one."""
    wait = shape.wait
    assert wait is not None
    assert wait.queue is not None
    assert shape in broker.backlog.matching.waits.things
    assert wait.queue.count > 0
    if not wait.queue.is_blocked:
        return
    for actor in wait.queue.crew.members:
        reserved = broker.reservation
        kept = reserved.shape.cost if reserved and reserved.actor is actor else None
        is_able = actor.is_open and actor.credit.covers(shape.cost, kept)
        assert not is_able or shape.cost.host_limits, actor.name
