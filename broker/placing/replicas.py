"""How many copies of an environment there may be: when one more is entered, when one is given up.

The rules that must not be broken: never more than the maximum, assignments on their way counted;
nobody is evicted from where somebody is inside.
"""

from itertools import islice
from math import inf
from typing import TYPE_CHECKING, Final

from broker.facts.peers import Actor
from broker.facts.task import Task, Template
from broker.placing import callers
from wire.messages import Evict

if TYPE_CHECKING:
    from broker.core import Broker
    from broker.placing.copies import Copy, Record
    from broker.waiting.shapes import Shape

# How long entering takes, as far as anybody knows, while no copy was ever entered: at least so
# long, and twice as long as the first one takes already.
LOAD_GUESS_S: Final = 0.5
# How long a task runs in it, while none has ended: a burst is not to wait for the first to end.
RUN_GUESS_S: Final = 0.05
# Calls of a burst come within so long of the first, which begins to enter their environment.
BURST_S: Final = 0.02
# How often it is looked whether a copy is idle that is where those cannot go that wait.
ASTRAY_LOOK_S: Final = 0.25
# So many copies are looked at for when one may have a turn.
COPIES_LOOKED_AT_MAX: Final = 16
# So many environments are looked at in one turn.
LOOKS_A_TURN: Final = 1_000


def called(
    broker: "Broker", record: "Record", template: Template, actor: Actor, now: float
) -> None:
    """Note how a call is made that goes to *actor*, where the environment has its place then."""
    if record.template is not template:
        record.template, record.entry = template, None
    if record.lost_place:
        record.lost_place.discard(actor.incarnation)
    if record.missing and record not in broker.environments.lacking.things:
        broker.environments.lack(record, now)


def may_enter(broker: "Broker", record: "Record", task: Task, now: float) -> bool:
    """Tell whether *task* may enter its environment where it is cold; else note when to look."""
    look_at = enter_at(record, task, now)
    if look_at <= now:
        return True
    if look_at == inf and is_full(record):
        look_at = max(moves_at(record, task, now), now + ASTRAY_LOOK_S)
    broker.environments.look_at(record, look_at)
    return False


def is_full(record: "Record") -> bool:
    """Tell whether there are as many copies as there may be."""
    most = record.environment.reuse.replicas_max
    return most is not None and len(record.copies) >= most


def is_astray(record: "Record", shape: "Shape") -> bool:
    """Tell whether tasks of *shape* may go to no actor that has a copy."""
    queue = shape.queue
    return queue is not None and queue.crew.members.keys().isdisjoint(record.copies)


def moves_at(record: "Record", task: Task, now: float) -> float:
    """Return when one of all copies that there may be is to go for *task*, if one is idle.

    At once where it may go to none of their actors. One that takes no work now may take some again
    soon: for that it waits, from then on, as long as for a turn.
    """
    assert task.template
    if is_astray(record, task.template.shape):
        return now
    copies = islice(record.copies.values(), COPIES_LOOKED_AT_MAX)
    closed = [copy.actor.closed_at for copy in copies if copy.actor.closed]
    return max(since(record, task), min(closed)) + wait_s(record, task, now) if closed else inf


def enter_at(record: "Record", task: Task, now: float) -> float:
    """Return when *task* may enter its environment where it is cold, as things stand."""
    reuse = record.environment.reuse
    if record.failures and any(record.is_awaited(copy) for copy in record.copies.values()):
        # Whether it works again, one finds out for all.
        return inf
    if reuse.is_fresh:
        wait_until = 0.0
    elif is_full(record):
        return inf
    elif record.usable < max(1, reuse.replicas_min):
        wait_until = 0.0
    else:
        wait_until = since(record, task) + wait_s(record, task, now)
    return max(wait_until, record.retry_at)


def since(record: "Record", task: Task) -> float:
    """Return from when on *task* waits for a turn in a copy that there is.

    Nobody can have waited for one before somebody began to enter it.
    """
    assert task.template
    if task.template.shape.cost.affinity_wait_s is not None:
        return task.queued_at
    copies = islice(record.copies.values(), COPIES_LOOKED_AT_MAX)
    return max([task.queued_at, *(copy.since for copy in copies if record.is_awaited(copy))])


def wait_s(record: "Record", task: Task, now: float) -> float:
    """Return how long *task* waits for a turn in a copy that there is, before one more is entered.

    One copy serves a burst while it does so sooner than another one would be there.
    """
    assert task.template
    wanted_s = task.template.shape.cost.affinity_wait_s
    if wanted_s is not None:
        return wanted_s
    load_s = expected_s(record, now)
    turns = record.usable * record.concurrency
    run_s = record.run_s or RUN_GUESS_S
    if record.waiting * run_s > turns * load_s:
        return 0.0
    begins_at, late = since(record, task), 0
    # What was entered meanwhile is there, and seldom to the millisecond when it was expected.
    there_at = max(begins_at + load_s, now)
    for copy in islice(record.copies.values(), COPIES_LOOKED_AT_MAX):
        if not copy.is_warm and copy in record.hanging:
            continue
        busy_until = copy.actor.entering_until
        if (copy.is_warm or record.is_measured) and begins_at < busy_until <= there_at:
            # Its turn comes when that is done, which must not be a matter of milliseconds.
            return 2.0 * load_s
        late += busy_until > there_at and copy.is_warm
    # Of those that were not looked at one may have a turn sooner.
    return load_s if late < record.usable else 0.0


def expected_s(record: "Record", now: float) -> float:
    """Return how long it should take to enter an environment.

    While none was ever entered, as long as others of its class; and what takes long already is
    expected to take as long again: so one more would be there later, and is worth it only for the
    work that one copy would not get done.
    """
    if record.is_measured:
        return record.load_s
    copies = record.copies.values()
    began = min((copy.since for copy in copies if copy not in record.hanging), default=now)
    class_s = record.kind.load_s
    guess_s = LOAD_GUESS_S if class_s is None else class_s
    return max(guess_s, 2.0 * (now - began))


def enters(broker: "Broker", record: "Record", actor: Actor, now: float) -> None:
    """Note that *actor* is to enter an environment, and has no turn in others until then."""
    actor.entering_until = max(actor.entering_until, now + expected_s(record, now))
    if any(host.actors_max > host.actors_min for host in broker.hosts.values()):
        # The rest of a burst is here by then, for which hosts may have to start actors.
        broker.environments.look_at(record, now + BURST_S)


def rival(
    broker: "Broker", shape: "Shape", actor: Actor, now: float
) -> "tuple[Shape, Task] | None":
    """Return a task that is warm in *actor* and goes there before one of *shape* that is not.

    What was entered there is used for as long as entering took, so that two environments with
    many tasks do not drive each other out with each of them.
    """
    environment = shape.cost.environment
    if environment in actor.copies or not actor.copies:
        return None
    record = broker.environments.find(shape)
    load_s = LOAD_GUESS_S if record is None else expected_s(record, now)
    if now >= actor.entered_at + load_s:
        return None
    best: tuple[Shape, Task] | None = None
    for name in actor.copies:
        if not actor.credit.is_warm(name):
            continue
        for crew in actor.crews:
            queue = crew.queues.get(name) if crew.is_usual else None
            found = queue.first() if queue is not None and not queue.is_blocked else None
            if found is None or found[1].barred:
                continue
            if best is None or found[1].rank < best[1].rank:
                best = found
    return best


def is_held_back(broker: "Broker", task: Task, actor: Actor) -> bool:
    """Tell whether *task* may not enter its environment in *actor*, or perhaps not yet."""
    assert task.template
    record = broker.environments.find(task.template.shape)
    return (
        record is not None
        and record.environment.id not in actor.copies
        and not enter_at(record, task, broker.limits.now) <= min(record.retry_at, broker.limits.now)
    )


def look(broker: "Broker", now: float) -> None:
    """Give up copies that were idle for long enough, and let tasks try again whose time came."""
    environments = broker.environments
    for record in environments.due.take(now, at_most=LOOKS_A_TURN):
        record.look_at = inf
        if record.retry_at > now:
            environments.look_at(record, record.retry_at)
        elif record.waiting:
            broker.backlog.matching.wake_shapes(record.shapes)
        for copy, reason in idle_copies(broker, record, now):
            evict(broker, copy, reason)
    environments.prune(now)


def idle_at(broker: "Broker", record: "Record", now: float) -> float:
    """Return when a copy that is idle since *now* may have to be given up."""
    if callers.is_abandoned(broker, record):
        return now
    reuse = record.environment.reuse
    surplus_at = now + (reuse.scaledown_ttl_s or inf)
    return min(record.called_at + (reuse.idle_ttl_s or inf), surplus_at)


def idle_copies(broker: "Broker", record: "Record", now: float) -> "list[tuple[Copy, str]]":
    """Return which copies to give up now, and why; note when the next may be due."""
    reuse = record.environment.reuse
    idle = sorted(
        (copy.idle_since, place, copy)
        for place, copy in enumerate(record.copies.values())
        if copy.idle_since is not None
    )
    if not idle:
        return []
    if callers.is_abandoned(broker, record):
        return [(copy, "its client is gone") for *_, copy in idle]
    if (moving := moving_copy(record, [copy for *_, copy in idle], now)) is not None:
        return [(moving, "a task waits that cannot go there")]
    given_up: list[tuple[Copy, str]] = []
    if len(idle) == len(record.copies) and reuse.idle_ttl_s is not None:
        due_at = record.called_at + reuse.idle_ttl_s
        if record.waiting and not all(copy.actor.lacks_memory for *_, copy in idle):
            # What waits may go away without a word of the actors. For the memory that these take
            # it would wait for ever.
            due_at = max(due_at, now + reuse.idle_ttl_s)
        if now >= due_at:
            reason = f"the environment is idle for {reuse.idle_ttl_s:g} s"
            return [(copy, reason) for *_, copy in idle]
        broker.environments.look_at(record, due_at)
    surplus = len(record.copies) - reuse.replicas_min
    excess = len(record.copies) - (inf if reuse.replicas_max is None else reuse.replicas_max)
    for since, _, copy in idle:
        if surplus <= 0:
            break
        due_at = since + (inf if reuse.scaledown_ttl_s is None else reuse.scaledown_ttl_s)
        if excess > 0:
            given_up.append((copy, f"there are more than {reuse.replicas_max}"))
        elif now >= due_at:
            given_up.append((copy, f"this copy is idle for {reuse.scaledown_ttl_s:g} s"))
        else:
            broker.environments.look_at(record, due_at)
            break
        surplus -= 1
        excess -= 1
    return given_up


def moving_copy(record: "Record", idle: "list[Copy]", now: float) -> "Copy | None":
    """Return which *idle* copy goes for a task that waits; None where that would help nobody."""
    for shape in record.shapes if is_full(record) else ():
        # One that waits for a limit could not enter a copy anywhere.
        task = shape.peek() if shape.count else None
        copy = gives_way(record, task, idle, now) if task is not None else None
        if copy is not None and shape.queue is not None and shape.queue.crew.has_room():
            return copy
    return None


def gives_way(record: "Record", task: Task, idle: "list[Copy]", now: float) -> "Copy | None":
    """Return which *idle* copy is to go for *task* if that can enter one elsewhere, or None."""
    assert task.template
    queue = task.template.shape.queue
    if queue is None or not is_full(record) or now < moves_at(record, task, now):
        return None
    members = queue.crew.members
    return next((c for c in idle if c.actor.closed or c.actor not in members), None)


def evict(broker: "Broker", copy: "Copy", reason: str) -> None:
    """Tell the actor of *copy* to give it up, unless that is on its way; it may be in use again."""
    session = copy.actor.session
    if session is None:
        copy.idle_since = None  # Its time begins anew with the next statement of the actor.
        return
    if copy.evicted_in is not None:
        return
    environment = copy.record.environment
    broker.say(session, Evict(environment.id, reason))
    # After say: a frame that was full is sealed by it.
    copy.evicted_in = (session, session.sent + len(session.sealed) + 1)
    broker.note(
        "environment_evicted", environment=environment.name, actor=copy.actor.name, reason=reason
    )
