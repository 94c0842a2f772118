"""Adoption of what actors hold unexpectedly (protocol.md section 8.4), and all invariants.

The rules in one sentence each: in the window an unknown run or outcome becomes a task without a
client, unless this broker gave it; a task that waits takes over the run that is offered for it; of
two adopted runs the higher token wins, an outcome beats a run; what nobody can want is stopped.
"""

from typing import TYPE_CHECKING

from broker.disk import writing
from broker.events import doubts, downfalls, explain, holders, patience, restoring
from broker.facts.peers import Actor, Client, is_owned
from broker.facts.task import Event, State, Task
from broker.placing import environments, isolation, placement, requeueing
from broker.tasks import (
    attaching,
    bindings,
    dead,
    families,
    forgetting,
    lifecycle,
    named,
    retrying,
)
from wire.errors import Code
from wire.messages import ActorHello, Stop
from wire.parts import Holding, Kept, Token

if TYPE_CHECKING:
    from broker.core import Broker

# Where a task is by its state. Looked up once, since `check` asks for all tasks at each step.
HELD, DELAYED, ALONE = State.HELD, State.DELAYED, State.ALONE
UNCLAIMED = (State.UNCLAIMED_RUN, State.UNCLAIMED_OUTCOME)
WITH_NOBODY = (State.QUEUED, HELD, DELAYED, ALONE, State.WRITING, State.ATTACHED)
WITH_AN_ACTOR = (State.ASSIGNED, State.UNCLAIMED_RUN)
OVER = (State.ENDED, State.UNCLAIMED_OUTCOME)


def greet_actor(broker: "Broker", actor: Actor, hello: ActorHello, now: float) -> None:
    """Settle what the broker believed against what the actor says that it holds."""
    actor.greet(hello, now)
    broker.backlog.matching.update(actor)
    bindings.review(broker, actor)
    actor.is_suspect = False
    isolation.leaves(broker, actor)
    broker.backlog.matching.note_working(actor)
    actor.credit.void()
    doubts.came_back(broker, hello, now)
    listed = {item.token for item in hello.holding} | {item.token for item in hello.kept}
    for token, task in list(actor.assigned.items()):
        task.frame = 0
        if token not in listed and task.token == token:
            # The ASSIGN belongs to a session that ended, and since HELLO the actor is deaf: it
            # never starts.
            burns = "loss" if is_doubtful(broker, task) else None
            reason = f"actor {actor.name} {'never had it' if burns is None else 'has it no more'}"
            requeueing.requeue(broker, task, reason, now, burns=burns)
    for kept in hello.kept:
        offered(broker, actor, kept, now)
    actor.away.clear()
    for item in hello.holding:
        offered(broker, actor, item, now)
        known = broker.tokens.get(item.token)
        if known is not None and known.actor is actor:
            known.is_released = item.held == "released"
            if known.is_released:
                environments.holds_on(actor, known)
            if item.held == "waiting":
                broker.recalls.ahead[actor] = None
    if broker.records.given:
        downfalls.came_back(broker, actor)
    named.greet(broker, actor)
    holders.greet(broker, actor, hello, now)


def offered(broker: "Broker", actor: Actor, item: Holding | Kept, now: float) -> None:
    """Take over, keep or stop one assignment of an inventory; a finished one sends its outcome."""
    token = item.token
    client = broker.clients.get(item.client)
    task = client.tasks.get(item.task) if client else None
    holder = broker.tokens.get(token)
    if holder is not None and (holder is not task or not is_of(holder, actor)):
        # A token names one giving of one task to one process.
        stop(broker, actor, item)
        return
    if task is None:
        # What its client left behind with an outcome on disk is known, and is over.
        is_known = attaching.find(broker, item.client, item.task) is not None
        if is_known or not families.may_come(broker, token):
            if token[0] != broker.epoch and not is_known:
                broker.named.doubt(item.client, item.task)  # Its client may come later still.
            stop(broker, actor, item)
            return
        if client is None:
            client = broker.clients[item.client] = Client(item.client, now)
        task = client.tasks[item.task] = Task(client, item.task, State.UNCLAIMED_RUN, now)
        broker.unclaimed[task] = now + broker.settings.client_timeout_s
        adopt(broker, task, actor, item)
        broker.note("adopted", task=task.name, actor=actor.name)
        return
    if task.token == token:
        # Known here, by an earlier session of the same process.
        task.actor = actor
        if is_owned(task):
            task.is_finished = isinstance(item, Kept)
            actor.assigned[token] = task
        return
    is_run = isinstance(item, Holding) or item.retriable
    if is_over(broker, task, token, now) or (is_run and families.has_later(task, token)):
        stop(broker, actor, item)
        return
    if (
        task.template
        and task.template.costs.named
        and not named.may_offer(broker, task, actor, token)
    ):
        # Of a generation that is over: what it did is in no checkpoint that counts.
        stop(broker, actor, item)
        return
    match task.state:
        case State.QUEUED | State.HELD | State.DELAYED | State.ALONE | State.WRITING:
            take_out(broker, task)
            broker.note("adopted", task=task.name, actor=actor.name)
        case State.ENDED | State.FORGOTTEN | State.ATTACHED:
            # Or its run was never written, and somebody else has come with its key since.
            stop(broker, actor, item)
            return
        case _ if beats(task, item):
            give_up(broker, task)
        case _:
            stop(broker, actor, item)
            return
    task.move(Event.ADOPT)
    adopt(broker, task, actor, item)


def is_over(broker: "Broker", task: Task, token: Token, now: float) -> bool:
    """Tell whether what this run of *task* says is known, or counts no more: it is tried again."""
    if token in broker.doubts.refused:
        retrying.count_no_more(broker, task, token, now)
        return True
    return task.trouble is not None and token <= task.trouble.failed


def take_out(broker: "Broker", task: Task) -> None:
    """Take *task* from where it waits."""
    match task.state:
        case State.QUEUED:
            broker.backlog.remove(task)
            broker.deadlines.discard(task)
        case State.WRITING:
            # The journal is an older one: it did not know that this had started.
            forgetting.written(broker, task)
        case State.HELD:
            del broker.held[task]
        case State.DELAYED:
            broker.delays.discard(task)
        case _:
            del broker.isolation.waiting[task]


def is_doubtful(broker: "Broker", task: Task) -> bool:
    """Tell whether an at_most_once task may have run although nobody has its assignment.

    It is of an earlier epoch, so there was another broker since, which may have had its outcome.
    """
    if task.token is None or task.token[0] == broker.epoch or not task.template:
        return False
    return task.call.at_most_once


def is_of(task: Task, actor: Actor) -> bool:
    """Tell whether the current assignment of *task* went to this process."""
    return task.actor is not None and task.actor.incarnation == actor.incarnation


def beats(task: Task, item: Holding | Kept) -> bool:
    """Tell whether an offered assignment goes before the one that *task* has.

    A failure that may be tried again decides nothing: what came later is the next try.
    """
    assert task.token
    has_outcome = task.is_finished or task.state is State.UNCLAIMED_OUTCOME
    is_decided = has_outcome and not task.is_retriable
    decides = isinstance(item, Kept) and not item.retriable
    if decides != is_decided and task.state is not State.ASSIGNED:
        return decides
    return not is_decided and item.token > task.token


def give_up(broker: "Broker", task: Task) -> None:
    """Take from *task* the assignment that another one goes before."""
    actor, token = task.actor, task.token
    assert actor
    assert token
    if task.state is State.UNCLAIMED_OUTCOME:
        task.ending = None
        if actor.session is not None:
            actor.session.outcome_acks_stale.append(token)
    elif not task.is_finished:
        broker.say(actor.session, Stop(*token, reason="it belongs to another actor now"))
    forgetting.detach(broker, task)
    families.ended(broker, token)
    if task.children and families.part(broker, task, families.Parting.LOST):
        retrying.count_no_more(broker, task, token, broker.ticked_at)


def adopt(broker: "Broker", task: Task, actor: Actor, item: Holding | Kept) -> None:
    """Make what *item* names the current assignment of *task*."""
    task.token, task.actor, task.frame = item.token, actor, 0
    task.is_finished = isinstance(item, Kept)
    task.is_retriable = isinstance(item, Kept) and item.retriable
    broker.tokens[item.token] = task
    actor.assigned[item.token] = task
    if broker.unparented:
        families.join(broker, task)
    is_armed_first = bool(task.template and task.template.shape.cost.is_armed_first)
    if (is_armed_first or writing.is_counted(task)) and writing.must_arm(task):
        writing.arm_row(broker, task)
    if broker.records.charged:
        downfalls.take_back(broker, task)
    isolation.adopted(broker, actor, item.token)


def stop(broker: "Broker", actor: Actor, item: Holding | Kept) -> None:
    """Tell *actor* that nobody wants this run; the outcome of a finished one will be stale."""
    if isinstance(item, Holding):
        broker.say(actor.session, Stop(*item.token, reason="it belongs to another actor now"))
        if broker.unparented or broker.window_ends_at is not None:
            families.stopped(broker, item.token)


def end_window(broker: "Broker", now: float) -> None:
    """Queue what was held: nobody offered a run of it."""
    broker.window_ends_at = None
    if broker.unparented:
        for task, token in families.end_window(broker).items():
            retrying.count_no_more(broker, task, token, now)
    bindings.end_window(broker)
    broker.backlog.wake()
    held, broker.held = broker.held, {}
    named.release_held(broker, held)
    broker.note(
        "recovered", tasks=sum(len(c.tasks) for c in broker.clients.values()), held=len(held)
    )
    downfalls.count(broker, held)
    for task in held:
        if task.state is not HELD:
            continue  # It took too many brokers along.
        if task.call.at_most_once and writing.may_have_run(task):
            lifecycle.end(
                broker,
                task,
                Code.OUTCOME_UNKNOWN,
                "it was sent before the broker was started again",
            )
        elif task.trouble is not None and task.trouble.due_at > now:
            task.move(Event.RETRY)
            broker.delays.set(task, task.trouble.due_at)
        elif task.must_be_alone:
            lifecycle.isolate(broker, task, now)
        elif not lifecycle.is_refused(broker, task):
            task.move(Event.RELEASE_HOLD)
            broker.backlog.push(task)
            lifecycle.watch(broker, task)


def drop_unclaimed(broker: "Broker", now: float) -> None:
    """Stop adopted tasks that no client wanted in time."""
    if broker.window_ends_at is not None:
        return
    late = [task for task, until in broker.unclaimed.items() if until <= now]
    if late and broker.named.by_id:
        named.gave_up(broker, late)
    for task in late:
        broker.note("unclaimed", task=task.name)
        families.drop(broker, task, reason="no client claims it")


def check(broker: "Broker") -> None:
    """Assert every invariant of the broker's state."""
    broker.backlog.check()
    placement.check(broker)
    patience.check(broker)
    broker.delays.check()
    broker.bindings.check()
    isolation.check(broker)
    holders.check(broker)
    restoring.check(broker)
    dead.check(broker)
    broker.environments.check(broker.actors)
    broker.callers.check()
    named.check(broker)
    for token, task in broker.tokens.items():
        assert task.token == token
        assert task.state is not State.QUEUED
        assert task.state is not State.FORGOTTEN
    for rid, session in broker.sessions.items():
        assert session.rid == rid
        assert session.peer.session is session
        assert session.acked <= session.sent
    for actor in broker.actors.values():
        assert broker.actors_by_name[actor.name] is actor
        assert actor.incarnation not in broker.dead
        actor.credit.check()
        if actor.session is None:
            assert actor.credit.available == 0
            assert not actor.credit.has_more
        for token, task in actor.assigned.items():
            assert broker.tokens[token] is task
            assert task.actor is actor
            assert is_owned(task)
    for client in broker.clients.values():
        check_client(broker, client)
    explain.check(broker)


def check_client(broker: "Broker", client: Client) -> None:
    """Assert that each task of *client* is in exactly the one place that its state names."""
    assert client.task_bytes == sum(task.size for task in client.tasks.values())
    assert client.unreceived_bytes == sum(size for _, _, size in client.unreceived)
    assert (client.session is None) == (client.gone_at is not None)
    if client.session is not None:
        on_their_way = client.session.answers
        assert client.session.answers_bytes == sum(size for _, size in on_their_way)
    held, delayed, alone = broker.held, broker.delays.things, broker.isolation.waiting
    for number, task in client.tasks.items():
        state = task.state
        assert task.number == number
        assert task.client is client
        if task.children or task.record is not None:
            families.check(broker, task)
        assert (task in held) == (state is HELD)
        assert (task in delayed) == (state is DELAYED)
        assert (task in alone) == (state is ALONE)
        assert (task in broker.unclaimed) == (state in UNCLAIMED)
        if state in WITH_NOBODY:
            assert task.token is None
            assert task.actor is None
        elif state in WITH_AN_ACTOR:
            assert task.actor is not None
            assert task.token is not None
            assert task.actor.assigned[task.token] is task
            assert broker.actors.get(task.actor.incarnation) is task.actor
        else:
            assert state in OVER, state
            assert task.ending is not None
            if task.actor is not None and task.token is not None:
                assert task.token not in task.actor.assigned
