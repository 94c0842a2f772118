"""Who is let go of: tasks whose outcome was received, clients without tasks, what is dead for good.

The rule that must not be broken: an outcome that the journal has stays until whoever is to have it
has it, or its time is over; and an actor that keeps one is told when nobody needs it any more.
"""

from typing import TYPE_CHECKING, Final

from broker.disk import records, writing
from broker.disk.records import Alias, Record
from broker.facts.peers import Actor, Client, Session
from broker.facts.task import TRANSITIONS, Event, State, Task
from broker.tasks import naming
from broker.waiting import reservation

if TYPE_CHECKING:
    from broker.core import Broker


# Acknowledgements to an actor wait for its next frame or heartbeat, unless so many have gathered,
# or it is closed: it may keep too much to take anything, or leave once it is rid of it.
OUTCOME_ACKS_WAITING_MAX: Final = 256
# Above this size an actor should not have to keep an outcome until the next heartbeat.
OUTCOME_ACK_AT_ONCE_BYTES: Final = 2**20
FORGET: Final = Event.FORGET
DEAD_KEPT: Final = 4_096
LOST_KEPT: Final = 1_024


def received_durable(broker: "Broker", task: Task) -> None:
    """Somebody has the outcome: forget it when nobody else wants it."""
    record = task.record
    if isinstance(record, Alias):
        target = record.target
        assert isinstance(target.record, Record)
        target.record.is_taken = True
        erase(broker, task)
        put_away(broker, target)
        return
    assert isinstance(record, Record)
    record.is_taken = True
    record.is_wanted = record.may_return = False
    put_away(broker, task)


def put_away(broker: "Broker", task: Task) -> None:
    """Forget an ended task that nobody wants, or let it leave the window of its client."""
    record = task.record
    assert isinstance(record, Record)
    if task.state is not State.ENDED or record.is_wanted or not writing.has_outcome(broker, record):
        return
    is_unneeded = record.is_taken and not (record.attached or record.may_return)
    if is_unneeded and record.key is None:
        erase(broker, task)
        return
    client = task.client
    kept = broker.records.kept.setdefault(client.incarnation, {})
    if task.number not in kept:
        kept[task.number] = task
        del client.tasks[task.number]
        forget_client(broker, client)


def erased(broker: "Broker", task: Task) -> None:
    """Take out of the journal what is forgotten."""
    record, known = task.record, broker.records
    if isinstance(record, Alias):
        assert isinstance(record.target.record, Record)
        record.target.record.attached.pop(task, None)
        put_away(broker, record.target)
        return
    assert isinstance(record, Record)
    incarnation, number = records.name_of(task)
    kept = known.kept.get(incarnation)
    if kept is not None and kept.get(number) is task:
        del kept[number]
        if not kept:
            del known.kept[incarnation]
    known.writing.pop(task, None)
    if known.orphans:
        forget_orphan(broker, task)
    if record.key is not None and known.keys.get(record.key[0]) is task:
        del known.keys[record.key[0]]
    known.octets -= record.octets
    assert task.template
    writing.let_go_of_code(broker, task.template.hash)
    first, count = known.calls[task.template.hash]
    known.calls[task.template.hash] = (first, count - 1)
    writing.write(broker, "forget", incarnation, number)


def forget_orphan(broker: "Broker", task: Task) -> None:
    """Look for the task whose run made *task* no more."""
    record, orphans = task.record, broker.records.orphans
    if not isinstance(record, Record) or record.maker is None:
        return
    calls = orphans.get(record.maker.client, {})
    if calls.pop(task, ...) is None and not calls:
        del orphans[record.maker.client]


def forget(broker: "Broker", task: Task) -> None:
    """Let go of *task*, acknowledging its outcome to the actor that keeps it."""
    state = task.state
    if state is State.ENDED or state is State.UNCLAIMED_OUTCOME:
        actor, token = task.actor, task.token
        if token is not None and actor is not None and actor.session is not None:
            actor.session.outcome_acks.append(token)
            hurry(broker, actor.session, task.ending.size if task.ending else 0)
    elif state is State.QUEUED:
        take_out(broker, task)
    elif state is State.HELD:
        del broker.held[task]
    elif state is State.DELAYED:
        broker.delays.discard(task)
    elif state is State.ALONE:
        del broker.isolation.waiting[task]
    if state is State.UNCLAIMED_OUTCOME or state is State.UNCLAIMED_RUN:
        del broker.unclaimed[task]
    detach(broker, task)
    erase(broker, task)


def take_out(broker: "Broker", task: Task) -> None:
    """Take a queued task from where it waits; it is skipped when its turn comes."""
    broker.backlog.forget(task)
    broker.deadlines.discard(task)
    if broker.reservation is not None and broker.reservation.task is task:
        reservation.let_go(broker)


def written(broker: "Broker", task: Task) -> None:
    """Take *task* from among those that wait until they may start."""
    del broker.records.writing[task]
    if task.template and task.template.costs.named:
        naming.count_writing(broker, task)


def received(broker: "Broker", task: Task, size: int) -> None:
    """Forget *task*, whose client has its outcome of *size* octets: `forget` where all is known."""
    if task.record is not None:
        received_durable(broker, task)
        return
    token, actor, client = task.token, task.actor, task.client
    if token is not None:
        del broker.tokens[token]
        if actor is not None and (session := actor.session) is not None:
            acks = session.outcome_acks
            acks.append(token)
            if (
                size >= OUTCOME_ACK_AT_ONCE_BYTES
                or actor.closed
                or len(acks) >= OUTCOME_ACKS_WAITING_MAX
            ):
                broker.outbox.hurry(session)
    task.token = task.actor = task.ending = None
    task.state = TRANSITIONS[task.state, FORGET]
    del client.tasks[task.number]
    if task.size:  # Its client submitted it again, and the outcome was here already.
        task.unload()
    parent = task.parent
    if parent is not None:
        task.parent = None
        if parent.children:
            parent.children.pop(task, None)


def detach(broker: "Broker", task: Task) -> None:
    """Take the current assignment from *task*, if it has one."""
    token = task.token
    if token is not None:
        if broker.limited:
            broker.limits.end(token)
        del broker.tokens[token]
        actor = task.actor
        if actor is not None and actor.assigned.pop(token, None) is not None and task.is_released:
            # The copy that its run held on to is perhaps idle now, where the actor is not gone.
            actor.ranked_as = None
            if actor.crews:
                broker.backlog.matching.improve(actor)
    task.token = task.actor = None
    task.is_released = task.is_finished = task.is_retriable = False


def bury(broker: "Broker", incarnation: int, *, replaced: bool = False) -> None:
    """Remember a process that can never come back."""
    broker.dead[incarnation] = replaced
    if len(broker.dead) > DEAD_KEPT:
        broker.dead.popitem(last=False)


def forget_names(broker: "Broker") -> None:
    """Let go of the names of lost actors that stayed away the longest, beyond a number of them."""
    names, actors = broker.actors_by_name, broker.actors
    if len(names) > len(actors) + LOST_KEPT:
        lost = next(name for name, one in names.items() if one.incarnation not in actors)
        del names[lost]


def erase(broker: "Broker", task: Task) -> None:
    broker.tally.drop(task.state)
    task.move(Event.FORGET)
    client = task.client
    if client.tasks.pop(task.number, None) is not None and task.size:
        task.unload()
    parent, task.parent = task.parent, None
    if parent is not None and parent.children:
        parent.children.pop(task, None)
    task.ending = None
    if task.record is not None:
        erased(broker, task)
    forget_client(broker, client)


def forget_client(broker: "Broker", client: Client) -> None:
    """Forget a client that has no tasks and is not away for a while: it left, or never came.

    Of what was put away the client is the former one: its process may have come back since.
    """
    incarnation = client.incarnation
    # One that is cut off has its time, and what it alone may call goes at the end of that.
    is_away = client.session_highest > 0 and not client.is_left
    if not is_away and not client.tasks and broker.clients.get(incarnation) is client:
        del broker.clients[incarnation]


def hurry(broker: "Broker", session: Session, size: int) -> None:
    """Acknowledge now what is large, has gathered or is waited for; the rest rides on a frame."""
    waiting = len(session.outcome_acks) + len(session.outcome_acks_stale)
    is_waited_for = isinstance(session.peer, Actor) and session.peer.closed
    if waiting >= OUTCOME_ACKS_WAITING_MAX or size >= OUTCOME_ACK_AT_ONCE_BYTES or is_waited_for:
        broker.outbox.hurry(session)
