"""Named actors as facts: their addresses, where each is, and which calls are to it.

What becomes of one stands in `named`, what the journal has of it in `inscribing`.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from broker.facts.peers import Actor
from broker.facts.task import FunctionBlob, State, Task, Template
from broker.waiting.shapes import Shape
from wire.parts import Call, Environment, Named, Span, Token

if TYPE_CHECKING:
    from broker.core import Broker
    from broker.tasks.reentering import OwnClient


# Of so many that have ended is remembered why.
ENDED_KEPT: Final = 4_096
# So many calls are remembered that may have run for a client that was given up.
IN_DOUBT_KEPT: Final = 65_536
NEVER: Final[Token] = (0, 0)
Address = tuple[str, str]


class NamedActor:
    """One named actor, wherever it is."""

    __slots__ = (
        "blob",
        "call",
        "checkpoint",
        "ended",
        "entry",
        "environment",
        "failures",
        "fence",
        "generation",
        "hash",
        "home",
        "is_awaited",
        "is_unsure",
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
        # What must be entered.
        assert call.environment
        self.environment: Environment = call.environment
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
        # Calls that have ended in its process before this broker knew it, by client.
        self.ended: dict[int, list[Span]] = {}
        # Of one that the journal has: the name of its call there, what its row takes, and the
        # operation that must be on disk before it is entered; 0 for none.
        self.hash = b""
        self.octets = 0
        self.sealed = 0
        # How many of its calls wait until the journal lets them start.
        self.writing = 0
        # Whether it was read from the journal, and its process may still come back.
        self.is_awaited = False
        # Whether its process has begun a session and did not say in it that it has this one.
        self.is_unsure = False
        # Since when its client is not there.
        self.orphaned_at: float | None = None
        # The broker's own call that enters it again, the last that there was.
        self.entry: Task | None = None
        # What its calls wait under.
        self.shapes: dict[Shape, None] = {}

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
        return self.is_awaited or self.retry_at > 0.0 or self.sealed > 0 or is_full

    @property
    def calls_queued(self) -> int:
        """How many calls of others wait for their turn."""
        own = self.entry is not None and self.entry.state is State.QUEUED
        return sum(shape.count for shape in self.shapes) - own


class NamedActors:
    """All of them, by id and by address, and why those that are no more have ended."""

    __slots__ = ("by_address", "by_id", "ended", "in_doubt", "own")

    def __init__(self) -> None:
        """Begin with none."""
        self.by_id: dict[str, NamedActor] = {}
        self.by_address: dict[Address, NamedActor] = {}
        self.ended: OrderedDict[str, str] = OrderedDict()
        # Calls that nobody has any more and that may have run, as client and number.
        self.in_doubt: OrderedDict[tuple[int, int], None] = OrderedDict()
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

    def doubt(self, client: int, number: int) -> None:
        """Remember that a call was with an actor, which nobody else will know any more."""
        self.in_doubt[client, number] = None
        if len(self.in_doubt) > IN_DOUBT_KEPT:
            self.in_doubt.popitem(last=False)

    def why_not(self, identity: str) -> str:
        """Say why there is none with this id."""
        reason = self.ended.get(identity)
        return reason or "no such named actor is here: it has ended, or was lost with a broker"


def join(broker: "Broker", call: Call, blob: FunctionBlob | None) -> Template:
    """Make the template of a call to a named actor; its code is where the actor was made."""
    record = broker.named.by_id.get(call.environment.id) if call.environment else None
    if blob is None and record is not None:
        blob = record.blob
    return Template(call, broker.backlog.shape_of(call), function=None, blob=blob)


def is_entry(call: Call) -> bool:
    """Tell whether it is the call that makes a named actor: it enters and does nothing more."""
    return not (call.method or call.function)


def know(broker: "Broker", record: NamedActor, template: Template) -> None:
    """Let the record and a template of its calls know each other."""
    if template.blob is None:
        template.kind.blob = record.blob
    elif record.blob is None:
        record.blob = template.blob
    if template.shape not in record.shapes:
        record.shapes[template.shape] = None
        broker.backlog.matching.bind(template.shape, record.home, is_shut=record.is_shut)


def settle_at(broker: "Broker", record: NamedActor, home: Actor | None, generation: Token) -> None:
    """Send all calls to *home*, or where the next one finds a place."""
    record.home = home
    if home is not None:
        record.generation = generation
    for shape in record.shapes:
        broker.backlog.matching.bind(shape, home, is_shut=record.is_shut)


def calls_of(broker: "Broker", record: NamedActor) -> Iterator[Task]:
    """Yield the calls that have no outcome. Slow: it looks at every task."""
    for client in broker.clients.values():
        for task in client.tasks.values():
            if task.template and not task.is_over:
                environment = task.template.call.environment
                if environment is not None and environment.id == record.id:
                    yield task


def count_writing(broker: "Broker", task: Task) -> None:
    """Let no more calls of an actor be written as may-start than it could start.

    Of those nobody can tell later that they did not.
    """
    identity = task.template.costs.place if task.template else None
    record = broker.named.by_id.get(identity or "")
    if record is not None:
        tasks = broker.records.writing
        record.writing = sum(
            1 for one in tasks if one.template and one.template.shape.cost.place == identity
        )
        settle_at(broker, record, record.home, record.generation)
