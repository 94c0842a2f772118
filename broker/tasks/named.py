"""Named actors: one replica of an environment that has an address (protocol.md section 9.10).

A name belongs to one actor from its entry call until it has ended: killed, gone with its client, or
lost more often than it may be. Where it is, all its calls go; where it is not, the next one enters
it, from its last checkpoint. The rule that must not be broken: one generation of a name at a time.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from broker.facts import spans
from broker.facts.peers import Actor, Client, is_owned
from broker.facts.task import Ending, Event, State, Task
from broker.tasks import families, forgetting, inscribing, lifecycle, naming, reentering
from wire import codec
from wire.errors import Code
from wire.messages import Leave, Restore
from wire.parts import Environment, Failure, Status, Token

if TYPE_CHECKING:
    from broker.core import Broker

NAMED_MAX: Final = 10_000
IN_DOUBT: Final = "its client was away for too long, and it may have run before"


# ---------------------------------------------------------------------- calls


def admit(broker: "Broker", task: Task, *, is_new: bool) -> bool:
    """Tell whether a call may wait for its turn; any other ends here, or is held."""
    template = task.template
    assert template
    # What stays of the call without its desires, which is made of no parts.
    environment = template.head.environment
    assert environment is not None
    record = broker.named.by_id.get(environment.id)
    is_known = record is not None and not record.is_awaited
    if broker.window_ends_at is not None or (not is_known and broker.limits.is_closed):
        # Whoever has it may still come, and so may calls that were made before.
        task.state = State.HELD
        broker.held[task] = None
        return False
    if (broker.named.in_doubt or (record and record.ended)) and is_in_doubt(broker, task, record):
        return False
    if record is None:
        record = make(broker, task) if naming.is_entry(task.call) else None
        if record is None:
            if task.state is not State.ENDED:
                lifecycle.end(broker, task, Code.ACTOR_LOST, broker.named.why_not(environment.id))
            return False
    most = record.named.max_pending
    if is_new and most > 0 and record.calls_queued >= most:
        message = f"{most} calls of {record.title} wait already (max_pending)"
        lifecycle.end(broker, task, Code.QUEUE_FULL, message)
        return False
    naming.know(broker, record, template)
    return task.record is None or inscribing.goes_on(broker, task, record)


def is_in_doubt(broker: "Broker", task: Task, record: naming.NamedActor | None) -> bool:
    """End a call of a client that was given up, and that may have run before; tell whether.

    Also where it may run again when its process is lost: this one lives, and has what it did.
    """
    if naming.is_entry(task.call) or task.record is not None:
        return False
    client, number = task.client.incarnation, task.number
    if (client, number) not in broker.named.in_doubt:
        # One that failed, and is to be tried again, has ended there as well.
        known = record.ended.get(client) if record is not None else None
        if not known or (task.trouble and task.trouble.failures) or not spans.holds(known, number):
            return False
    lifecycle.end(broker, task, Code.OUTCOME_UNKNOWN, IN_DOUBT)
    return True


def gave_up(broker: "Broker", tasks: Iterable[Task]) -> None:
    """Remember which of *tasks* may have run, before they are forgotten with their client."""
    for task in tasks:
        # What was offered and never claimed may be anything.
        is_call = task.template.costs.named if task.template else True
        if is_call and task.token is not None and task.record is None:
            broker.named.doubt(task.client.incarnation, task.number)


def claim(broker: "Broker", task: Task) -> None:
    """Know the call of a run that was adopted."""
    assert task.template
    assert task.call.environment
    record = broker.named.by_id.get(task.call.environment.id)
    if record is not None:
        naming.know(broker, record, task.template)


def may_offer(broker: "Broker", task: Task, actor: Actor, token: Token) -> bool:
    """Tell whether a run that *actor* offers can be of the generation that is here or comes."""
    record = broker.named.by_id.get(task.call.environment.id)  # type: ignore[union-attr]
    if record is None or record.home is actor:
        return True
    if record.home is not None:
        return token > record.generation
    return token >= record.generation if record.is_awaited else record.generation == naming.NEVER


def make(broker: "Broker", task: Task) -> naming.NamedActor | None:
    """Make the named actor that an entry call describes, or end that call and say why not."""
    named = broker.named
    assert task.template
    record = naming.NamedActor(task.call, task.template.blob)
    taken = named.by_address.get(record.address)
    if record.id in named.ended:
        return None
    if taken is not None:
        message = f"{record.title} is a named actor already: {taken.environment.name}"
    elif len(named.by_id) >= NAMED_MAX:
        message = f"there are {NAMED_MAX} named actors already"
    else:
        named.add(record)
        inscribing.begin(broker, record, task.template)
        broker.note("named_made", named=record.title, environment=record.environment.name)
        return record
    lifecycle.end(broker, task, Code.CONFLICT, message)
    return None


def release_held(broker: "Broker", held: dict[Task, None]) -> None:
    """Take out of *held* what calls nobody, or still cannot know; entry calls go first."""
    calls = [task for task in held if task.template and task.template.costs.named]
    calls.sort(key=lambda task: not naming.is_entry(task.call))
    for task in calls:
        if not admit(broker, task, is_new=False) or lifecycle.is_refused(broker, task):
            del held[task]


def release(broker: "Broker") -> None:
    """Queue or end the calls that were held until it was known who is there."""
    held = {task: None for task in broker.held if task.template and task.template.costs.named}
    for task in held:
        del broker.held[task]
    release_held(broker, held)
    for task in held:
        task.move(Event.RELEASE_HOLD)
        broker.backlog.push(task)
        lifecycle.watch(broker, task)


def assigned(broker: "Broker", task: Task, actor: Actor) -> None:
    """Note where a call went; one that enters the actor finds there what it begins from."""
    assert task.token
    assert task.template
    record = broker.named.by_id[task.template.costs.place]  # type: ignore[index]
    if record.home is not None:
        assert record.home is actor
        record.failures = 0  # There was a turn again.
        if not record.is_unsure:
            return
    else:
        if record.generation > naming.NEVER:
            broker.note("named_restarted", named=record.title, actor=actor.name)
        naming.settle_at(broker, record, actor, task.token)
        inscribing.changed(broker, record)
    record.is_unsure = False
    if record.serial:
        broker.say(actor.session, Restore(record.id, record.serial, 1), (record.checkpoint,))


# ---------------------------------------------------------------------- what becomes of it


def goes_on(
    broker: "Broker", task: Task, token: Token | None, reason: str, *, burns: str | None
) -> bool:
    """Tell whether a call whose assignment is gone is queued again; any other ends here.

    One that may have started runs again only as often as the actor's *max_task_retries* says. That
    its process ended for the sake of others is counted against nobody: it may run again at all, or
    may not.
    """
    environment = task.call.environment
    assert environment is not None
    record = broker.named.by_id.get(environment.id)
    if record is None:
        lifecycle.end(broker, task, Code.ACTOR_LOST, broker.named.why_not(environment.id))
        return False
    assert task.template
    # One that was adopted may be the first call of its kind to come into the backlog.
    naming.know(broker, record, task.template)
    if burns is None:
        if record.generation == token and record.home is not None:
            # The one that was to enter it never did.
            record.fence = record.generation
            inscribing.changed(broker, record, is_over=True)
            naming.settle_at(broker, record, None, naming.NEVER)
        return True
    most = record.named.max_task_retries
    tries, beside = task.tries, ""
    if burns == "innocent":
        tries = 0
    elif burns == "shared":
        shared = (task.trouble.shared if task.trouble else 0) + 1
        tries = most if shared >= broker.settings.shared_max else 0
        beside = f", crash number {shared} beside others" if tries > 0 else ""
    if 0 <= most <= tries:
        if task.record is None:
            # Whoever does not hear of it, and submits it again, has it run no more than this.
            broker.named.doubt(task.client.incarnation, task.number)
        message = f"{record.title}: {reason}{beside}; the call may have run"
        lifecycle.end(broker, task, Code.ACTOR_LOST, message)
        return False
    return True


def greet(broker: "Broker", actor: Actor) -> None:
    """Believe no more that *actor* has what it was to enter: the call may be lost, and canceled."""
    for record in broker.named.by_id.values():
        if record.home is actor:
            record.is_unsure = True


def calls_behind(broker: "Broker", task: Task, actor: Actor) -> list[Task]:
    """Return the calls that are on their way to *actor*, behind *task* that it was to enter.

    It hands them all back as well. Until then those that come later could overtake them elsewhere.
    """
    place = task.template.costs.place if task.template else None
    record = broker.named.by_id.get(place or "")
    if record is None or record.home is actor:
        return []
    return [
        other
        for other in actor.assigned.values()
        if other.frame and other.template and other.template.costs.place == record.id
    ]


def lost(broker: "Broker", actor: Actor, reason: str, *, leaves: bool) -> None:
    """Let the named actors of a lost process be entered elsewhere, if they may.

    One whose process leaves in peace loses nothing if it has a checkpoint, and that is no restart.
    """
    for record in [one for one in broker.named.by_id.values() if one.home is actor]:
        generation_lost(broker, record, reason, leaves=leaves)


def generation_lost(
    broker: "Broker", record: naming.NamedActor, reason: str, *, leaves: bool = False
) -> None:
    """Let one whose process is gone be entered again, or end it where it may not be."""
    record.fence = record.generation
    is_restart = not (leaves and record.serial)
    record.restarts += is_restart
    inscribing.changed(broker, record, is_over=True)
    naming.settle_at(broker, record, None, naming.NEVER)
    most = record.named.max_restarts
    if is_restart and 0 <= most < record.restarts:
        message = f"{record.title}: {reason}"
        end(broker, record, f"{message}; its max_restarts={most} are used up" if most else message)
    else:
        reentering.look(broker, record)


def failed(broker: "Broker", environment: Environment, failure: Failure, now: float) -> None:
    """Let one that could not be entered wait before that is tried again, or end it."""
    record = broker.named.by_id.get(environment.id)
    if record is None:
        return
    settings = broker.settings
    record.failures += 1
    if record.failures >= settings.environment_failures_max:
        end(broker, record, f"{record.title}: {failure.message}", failure=failure)
        return
    record.retry_at = now + settings.environment_retry_s * 2.0 ** (record.failures - 1)
    naming.settle_at(broker, record, None, naming.NEVER)
    broker.note("named_failed", named=record.title, reason=failure.message)


def end(
    broker: "Broker",
    record: naming.NamedActor,
    reason: str,
    *,
    force: bool = True,
    failure: Failure | None = None,
) -> None:
    """End a named actor and all calls to it; with *failure* it could not be entered."""
    broker.named.end(record, reason)
    inscribing.forget(broker, record)
    broker.note("named_ended", named=record.title, reason=reason)
    for task in list(naming.calls_of(broker, record)):
        if task.is_over:
            continue  # With a call that it had made.
        if is_owned(task):
            families.halt(broker, task, force=force, reason=reason)
            families.part(broker, task, families.Parting.LOST)
        elif task.state is State.QUEUED:
            forgetting.take_out(broker, task)
        else:
            broker.held.pop(task, None)
            broker.records.writing.pop(task, None)
        forgetting.detach(broker, task)
        if failure is None:
            lifecycle.end(broker, task, Code.ACTOR_LOST, reason)
        else:
            body = codec.encode_failure(failure)
            ending = Ending(Status.FAILURE, body, (), "", task.tries + 1)
            lifecycle.end_with(broker, task, ending, Code.ENVIRONMENT_FAILED, failure.message)
    if record.home is not None:
        broker.say(record.home.session, Leave(record.id, record.generation, reason))


def tick(broker: "Broker", now: float) -> None:
    """End those whose client is gone for too long; let others be entered again that failed.

    Or that were lost, and whoever was to enter them wants it no more.
    """
    for record in broker.named.by_id.values():
        if 0.0 < record.retry_at <= now:
            record.retry_at = 0.0
            naming.settle_at(broker, record, None, naming.NEVER)
        elif record.home is not None:
            continue
        reentering.look(broker, record)
    if broker.window_ends_at is not None:
        return
    for record in list(broker.named.by_id.values()):
        owner = record.named.owner
        if not owner:
            continue
        client = broker.clients.get(owner)
        if client is not None and client.session is not None:
            record.orphaned_at = None
        elif record.orphaned_at is None:
            record.orphaned_at = now
        elif now - record.orphaned_at >= broker.settings.client_timeout_s:
            end(broker, record, f"{record.title} ended with its client")


def client_left(broker: "Broker", client: Client) -> None:
    """End those that end with *client*."""
    for record in list(broker.named.by_id.values()):
        if record.named.owner == client.incarnation:
            end(broker, record, f"{record.title} ended with its client")


def check(broker: "Broker") -> None:
    """Assert that each name has one holder, and that calls go nowhere else."""
    named = broker.named
    inscribing.check(broker)
    assert len(named.by_id) == len(named.by_address)
    for identity, record in named.by_id.items():
        assert record.id == identity
        assert named.by_address[record.address] is record
        assert identity not in named.ended
        assert bool(record.serial) == (record.checkpoint is not None)
        if record.home is not None:
            assert broker.actors.get(record.home.incarnation) is record.home
            assert record.generation > record.fence
        for shape in record.shapes:
            assert shape.home is record.home
            assert shape.is_shut == record.is_shut
        assert record.home is None or not record.retry_at
    for actor in broker.actors.values():
        for task in actor.assigned.values():
            if task.template and task.template.costs.named and not task.is_finished:
                check_call(broker, task, actor)


def check_call(broker: "Broker", task: Task, actor: Actor) -> None:
    """Assert that a call that was assigned here is of an actor that is here."""
    identity = task.template.costs.place if task.template else None
    record = broker.named.by_id.get(identity or "")
    if record is not None and task.frame:
        assert record.home is actor


def give_up(broker: "Broker") -> None:
    """Let those be entered again whose process did not come back to a broker that was started."""
    for record in list(broker.named.by_id.values()):
        if record.is_awaited:
            record.is_awaited = False
            reason = "its process did not come back to the broker that was started again"
            generation_lost(broker, record, reason)
        else:
            # It was lost before; the call that was to enter it again went with the former broker.
            reentering.look(broker, record)
