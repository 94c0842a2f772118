"""Named actors: one replica of an environment that has an address (protocol.md section 9.10).

A name belongs to one actor from its entry call until it has ended: killed, gone with its client, or
lost more often than it may be. Where it is, all its calls go; where it is not, the next one enters
it, from its last checkpoint. The rule that must not be broken: one generation of a name at a time.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from broker import inscribing, lifecycle, patience, reentering
from broker.peers import Actor, Client, is_owned
from broker.shapes import Shape
from broker.task import Ending, Event, FunctionBlob, State, Task, Template
from wire import codec
from wire.errors import Code
from wire.messages import Leave, Restore
from wire.parts import Call, Environment, Failure, Named, Status, Token

if TYPE_CHECKING:
    from broker.core import Broker
    from broker.reentering import OwnClient

NAMED_MAX: Final = 10_000
# Of so many that have ended is remembered why.
ENDED_KEPT: Final = 4_096
NEVER: Final[Token] = (0, 0)

Address = tuple[str, str]


class NamedActor:
    """One named actor, wherever it is."""

    __slots__ = (
        "blob",
        "call",
        "checkpoint",
        "entry",
        "failures",
        "fence",
        "generation",
        "hash",
        "home",
        "is_awaited",
        "octets",
        "orphaned_at",
        "restarts",
        "retry_at",
        "sealed",
        "serial",
        "shapes",
        "writing",
    )

    def __init__(self, call: Call, blob: FunctionBlob | None) -> None:
        """Begin nowhere; *call* is the one that enters it."""
        self.call = call
        self.blob = blob
        # Where it is, or is being entered, and the assignment that entered it.
        self.home: Actor | None = None
        self.generation = NEVER
        # Generations up to this one are over.
        self.fence = NEVER
        self.restarts = 0
        # How often in a row it could not be entered, and when that is tried again.
        self.failures = 0
        self.retry_at = 0.0
        # What it said last of its state, from which it is entered again.
        self.serial = 0
        self.checkpoint: Any = None
        # Of one that the journal has: the name of its call there, what its row takes, and the
        # operation that must be on disk before it is entered; 0 for none.
        self.hash = b""
        self.octets = 0
        self.sealed = 0
        # How many of its calls wait until the journal lets them start.
        self.writing = 0
        # Whether it was read from the journal, and its process may still come back.
        self.is_awaited = False
        # Since when its client is not there.
        self.orphaned_at: float | None = None
        # The broker's own call that enters it again, the last that there was.
        self.entry: Task | None = None
        # What its calls wait under.
        self.shapes: dict[Shape, None] = {}

    @property
    def environment(self) -> Environment:
        """Return what must be entered."""
        assert self.call.environment
        return self.call.environment

    @property
    def named(self) -> Named:
        """Return its address and its bounds."""
        assert self.environment.named
        return self.environment.named

    @property
    def id(self) -> str:
        """Return what only this one is called."""
        return self.environment.id

    @property
    def address(self) -> Address:
        """Return the name that it has."""
        return self.named.namespace, self.named.name

    @property
    def title(self) -> str:
        """Name it for people."""
        return "/".join(self.address)

    @property
    def state(self) -> str:
        """Return in a word how it stands."""
        if self.home is None:
            return "restarting" if self.generation > NEVER else "waiting"
        return "alive" if self.home.session is not None else "away"

    @property
    def is_shut(self) -> bool:
        """Tell whether none of its calls may go anywhere now."""
        is_full = self.writing >= sum(self.environment.pools.values())
        return self.retry_at > 0.0 or self.sealed > 0 or is_full

    @property
    def calls_queued(self) -> int:
        """How many calls of others wait for their turn."""
        own = self.entry is not None and self.entry.state is State.QUEUED
        return sum(shape.count for shape in self.shapes) - own


class NamedActors:
    """All of them, by id and by address, and why those that are no more have ended."""

    __slots__ = ("by_address", "by_id", "ended", "own")

    def __init__(self) -> None:
        """Begin with none."""
        self.by_id: dict[str, NamedActor] = {}
        self.by_address: dict[Address, NamedActor] = {}
        self.ended: OrderedDict[str, str] = OrderedDict()
        # Who has those entered again that were lost, once there was one.
        self.own: OwnClient | None = None

    def add(self, record: NamedActor) -> None:
        """Take one in, whose id and address nobody has."""
        assert record.id not in self.by_id
        assert record.address not in self.by_address
        self.by_id[record.id] = self.by_address[record.address] = record

    def end(self, record: NamedActor, reason: str) -> None:
        """Give its name back, and remember why."""
        del self.by_id[record.id]
        del self.by_address[record.address]
        self.ended[record.id] = reason
        if len(self.ended) > ENDED_KEPT:
            self.ended.popitem(last=False)

    def why_not(self, identity: str) -> str:
        """Say why there is none with this id."""
        reason = self.ended.get(identity)
        return reason or "no such named actor is here: it has ended, or was lost with a broker"


# ---------------------------------------------------------------------- calls


def join(broker: "Broker", call: Call, blob: FunctionBlob | None) -> Template:
    """Make the template of a call to a named actor; its code is where the actor was made."""
    record = broker.named.by_id.get(call.environment.id) if call.environment else None
    if blob is None and record is not None:
        blob = record.blob
    return Template(call, broker.backlog.shape_of(call), function=None, blob=blob)


def admit(broker: "Broker", task: Task, *, is_new: bool) -> bool:
    """Tell whether a call may wait for its turn; any other ends here, or is held."""
    environment, template = task.call.environment, task.template
    assert template
    assert environment is not None
    record = broker.named.by_id.get(environment.id)
    is_known = record is not None and not record.is_awaited
    if broker.window_ends_at is not None or (not is_known and broker.limits.is_closed):
        # Whoever has it may still come, and so may calls that were made before.
        task.state = State.HELD
        broker.held[task] = None
        return False
    if record is None:
        record = make(broker, task) if is_entry(task.call) else None
        if record is None:
            if task.state is not State.ENDED:
                lifecycle.end(broker, task, Code.ACTOR_LOST, broker.named.why_not(environment.id))
            return False
    most = record.named.max_pending
    if is_new and most > 0 and record.calls_queued >= most:
        message = f"{most} calls of {record.title} wait already (max_pending)"
        lifecycle.end(broker, task, Code.QUEUE_FULL, message)
        return False
    know(broker, record, template)
    return task.record is None or inscribing.goes_on(broker, task, record)


def claim(broker: "Broker", task: Task) -> None:
    """Know the call of a run that was adopted."""
    assert task.template
    assert task.call.environment
    record = broker.named.by_id.get(task.call.environment.id)
    if record is not None:
        know(broker, record, task.template)


def may_offer(broker: "Broker", task: Task, actor: Actor, token: Token) -> bool:
    """Tell whether a run that *actor* offers can be of the generation that is here or comes."""
    record = broker.named.by_id.get(task.call.environment.id)  # type: ignore[union-attr]
    if record is None or record.home is actor:
        return True
    if record.home is not None:
        return token > record.generation
    return token >= record.generation if record.is_awaited else record.generation == NEVER


def is_entry(call: Call) -> bool:
    """Tell whether it is the call that makes a named actor: it enters and does nothing more."""
    return not (call.method or call.function)


def know(broker: "Broker", record: NamedActor, template: Template) -> None:
    """Let the record and a template of its calls know each other."""
    if template.blob is None:
        template.blob = record.blob
    elif record.blob is None:
        record.blob = template.blob
    if template.shape not in record.shapes:
        record.shapes[template.shape] = None
        broker.backlog.matching.bind(template.shape, record.home, is_shut=record.is_shut)


def make(broker: "Broker", task: Task) -> NamedActor | None:
    """Make the named actor that an entry call describes, or end that call and say why not."""
    named = broker.named
    assert task.template
    record = NamedActor(task.call, task.template.blob)
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
    calls = [task for task in held if task.template and task.template.shape.named]
    calls.sort(key=lambda task: not is_entry(task.call))
    for task in calls:
        if not admit(broker, task, is_new=False):
            del held[task]


def release(broker: "Broker") -> None:
    """Queue or end the calls that were held until it was known who is there."""
    held = {task: None for task in broker.held if task.template and task.template.shape.named}
    for task in held:
        del broker.held[task]
    release_held(broker, held)
    for task in held:
        task.move(Event.RELEASE_HOLD)
        broker.backlog.push(task)
        patience.watch(broker, task)


def assigned(broker: "Broker", task: Task, actor: Actor) -> None:
    """Note where a call went; one that enters the actor finds there what it begins from."""
    assert task.token
    record = broker.named.by_id[task.call.environment.id]  # type: ignore[union-attr]
    if record.home is not None:
        assert record.home is actor
        record.failures = 0  # There was a turn again.
        return
    if record.generation > NEVER:
        broker.note("named_restarted", named=record.title, actor=actor.name)
    settle_at(broker, record, actor, task.token)
    inscribing.changed(broker, record)
    if record.serial:
        broker.say(actor.session, Restore(record.id, record.serial, 1), (record.checkpoint,))


def settle_at(broker: "Broker", record: NamedActor, home: Actor | None, generation: Token) -> None:
    """Send all calls to *home*, or where the next one finds a place."""
    record.home = home
    if home is not None:
        record.generation = generation
    for shape in record.shapes:
        broker.backlog.matching.bind(shape, home, is_shut=record.is_shut)


# ---------------------------------------------------------------------- what becomes of it


def goes_on(
    broker: "Broker", task: Task, token: Token | None, reason: str, *, burns: str | None
) -> bool:
    """Tell whether a call whose assignment is gone is queued again; any other ends here.

    One that may have started runs again only as often as the actor's *max_task_retries* says.
    """
    environment = task.call.environment
    assert environment is not None
    record = broker.named.by_id.get(environment.id)
    if record is None:
        lifecycle.end(broker, task, Code.ACTOR_LOST, broker.named.why_not(environment.id))
        return False
    if burns is None:
        if record.generation == token and record.home is not None:
            # The one that was to enter it never did.
            record.fence = record.generation
            inscribing.changed(broker, record, is_over=True)
            settle_at(broker, record, None, NEVER)
        return True
    most = record.named.max_task_retries
    if 0 <= most <= task.tries:
        message = f"{record.title}: {reason}; the call may have run"
        lifecycle.end(broker, task, Code.ACTOR_LOST, message)
        return False
    return True


def lost(broker: "Broker", actor: Actor, reason: str, *, leaves: bool) -> None:
    """Let the named actors of a lost process be entered elsewhere, if they may.

    One whose process leaves in peace loses nothing if it has a checkpoint, and that is no restart.
    """
    for record in [one for one in broker.named.by_id.values() if one.home is actor]:
        generation_lost(broker, record, reason, leaves=leaves)


def generation_lost(
    broker: "Broker", record: NamedActor, reason: str, *, leaves: bool = False
) -> None:
    """Let one whose process is gone be entered again, or end it where it may not be."""
    record.fence = record.generation
    is_restart = not (leaves and record.serial)
    record.restarts += is_restart
    inscribing.changed(broker, record, is_over=True)
    settle_at(broker, record, None, NEVER)
    most = record.named.max_restarts
    if is_restart and 0 <= most < record.restarts:
        message = f"{record.title}: {reason}"
        end(broker, record, f"{message}, and had {most} restarts" if most else message)
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
    settle_at(broker, record, None, NEVER)
    broker.note("named_failed", named=record.title, reason=failure.message)


def end(
    broker: "Broker",
    record: NamedActor,
    reason: str,
    *,
    force: bool = True,
    failure: Failure | None = None,
) -> None:
    """End a named actor and all calls to it; with *failure* it could not be entered."""
    broker.named.end(record, reason)
    inscribing.forget(broker, record)
    broker.note("named_ended", named=record.title, reason=reason)
    for task in list(calls_of(broker, record)):
        if task.is_over:
            continue  # With a call that it had made.
        if is_owned(task):
            lifecycle.stop(broker, task, force=force, reason=reason)
            lifecycle.cancel_children(broker, task)
        elif task.state is State.QUEUED:
            lifecycle.take_out(broker, task)
        else:
            broker.held.pop(task, None)
            broker.records.writing.pop(task, None)
        lifecycle.detach(broker, task)
        if failure is None:
            lifecycle.end(broker, task, Code.ACTOR_LOST, reason)
        else:
            body = codec.encode_failure(failure)
            ending = Ending(Status.FAILURE, body, (), "", task.tries + 1)
            lifecycle.end_with(broker, task, ending, Code.ENVIRONMENT_FAILED, failure.message)
    if record.home is not None:
        broker.say(record.home.session, Leave(record.id, record.generation, reason))


def calls_of(broker: "Broker", record: NamedActor) -> Iterator[Task]:
    """Yield the calls that have no outcome. Slow: it looks at every task."""
    for client in broker.clients.values():
        for task in client.tasks.values():
            if task.template and not task.is_over:
                environment = task.template.call.environment
                if environment is not None and environment.id == record.id:
                    yield task


def tick(broker: "Broker", now: float) -> None:
    """End those whose client is gone for too long; let others be entered again that failed.

    Or that were lost, and whoever was to enter them wants it no more.
    """
    for record in broker.named.by_id.values():
        if 0.0 < record.retry_at <= now:
            record.retry_at = 0.0
            settle_at(broker, record, None, NEVER)
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
            if task.template and task.template.shape.named and not task.is_finished:
                check_call(broker, task, actor)


def check_call(broker: "Broker", task: Task, actor: Actor) -> None:
    """Assert that a call that was assigned here is of an actor that is here."""
    identity = task.template.shape.place if task.template else None
    record = broker.named.by_id.get(identity or "")
    if record is not None and task.frame:
        assert record.home is actor
