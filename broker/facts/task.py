"""What the broker holds of a task, and how it moves from state to state.

All state changes go through `move`; an illegal one is an absent key. A task has at most one current
assignment, so its token, actor and frame stand in the task itself.
"""

from collections.abc import Sequence
from enum import StrEnum
from sys import intern
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import force_setattr, replace

from wire.labels import WEIGHT_DEFAULT, Desire
from wire.parts import Call, Status, Token

if TYPE_CHECKING:
    from broker.disk.records import Alias, Record
    from broker.facts.peers import Actor, Client
    from broker.facts.trouble import Trouble
    from broker.waiting.costs import Cost
    from broker.waiting.shapes import Shape


class State(StrEnum):
    """Where a task stands. The unclaimed ones exist only around a broker restart."""

    QUEUED = "queued"
    HELD = "held"  # until the adopt window ends
    WRITING = "writing"  # until the journal has it that it may start
    ALONE = "alone"  # until an actor holds nothing else, since its process crashed
    DELAYED = "delayed"  # until its next try, since it failed
    ATTACHED = "attached"  # another name of a durable task
    ASSIGNED = "assigned"
    UNCLAIMED_RUN = "unclaimed-run"
    UNCLAIMED_OUTCOME = "unclaimed-outcome"
    ENDED = "ended"
    FORGOTTEN = "forgotten"


class Event(StrEnum):
    """What can happen to a task."""

    ASSIGN = "assign"
    WRITE = "write"
    WRITTEN = "written"
    REQUEUE = "requeue"
    RETRY = "retry"
    HOLD = "hold"
    ISOLATE = "isolate"
    DUE = "due"
    RELEASE_HOLD = "release-hold"
    ADOPT = "adopt"
    CLAIM = "claim"
    SETTLE = "settle"
    FORGET = "forget"


# Looked up once, for the path of each task: a member of an enum costs a search through its class.
QUEUED: Final = State.QUEUED
ASSIGNED: Final = State.ASSIGNED
ENDED: Final = State.ENDED
RESULT: Final = Status.RESULT
UNCLAIMED_RUN: Final = State.UNCLAIMED_RUN

TRANSITIONS: Final = {
    (State.QUEUED, Event.ASSIGN): State.ASSIGNED,
    (State.QUEUED, Event.ADOPT): State.ASSIGNED,
    (State.QUEUED, Event.SETTLE): State.ENDED,
    (State.QUEUED, Event.FORGET): State.FORGOTTEN,
    (State.QUEUED, Event.WRITE): State.WRITING,
    (State.QUEUED, Event.ISOLATE): State.ALONE,
    (State.WRITING, Event.WRITTEN): State.QUEUED,
    (State.WRITING, Event.SETTLE): State.ENDED,
    (State.ATTACHED, Event.SETTLE): State.ENDED,
    (State.ATTACHED, Event.FORGET): State.FORGOTTEN,
    (State.HELD, Event.RELEASE_HOLD): State.QUEUED,
    (State.HELD, Event.RETRY): State.DELAYED,
    (State.HELD, Event.ADOPT): State.ASSIGNED,
    (State.HELD, Event.SETTLE): State.ENDED,
    (State.HELD, Event.FORGET): State.FORGOTTEN,
    (State.DELAYED, Event.DUE): State.QUEUED,
    (State.DELAYED, Event.ISOLATE): State.ALONE,
    (State.HELD, Event.ISOLATE): State.ALONE,
    (State.ASSIGNED, Event.ISOLATE): State.ALONE,
    (State.ALONE, Event.ASSIGN): State.ASSIGNED,
    (State.ALONE, Event.ADOPT): State.ASSIGNED,
    (State.WRITING, Event.ADOPT): State.ASSIGNED,
    (State.ALONE, Event.DUE): State.QUEUED,
    (State.ALONE, Event.SETTLE): State.ENDED,
    (State.ALONE, Event.FORGET): State.FORGOTTEN,
    (State.DELAYED, Event.ADOPT): State.ASSIGNED,
    (State.DELAYED, Event.SETTLE): State.ENDED,
    (State.DELAYED, Event.FORGET): State.FORGOTTEN,
    (State.ASSIGNED, Event.ADOPT): State.ASSIGNED,
    (State.ASSIGNED, Event.RETRY): State.DELAYED,
    (State.ASSIGNED, Event.HOLD): State.HELD,
    (State.ASSIGNED, Event.REQUEUE): State.QUEUED,
    (State.ASSIGNED, Event.SETTLE): State.ENDED,
    (State.ASSIGNED, Event.FORGET): State.FORGOTTEN,
    (State.UNCLAIMED_RUN, Event.ADOPT): State.UNCLAIMED_RUN,
    (State.UNCLAIMED_RUN, Event.CLAIM): State.ASSIGNED,
    (State.UNCLAIMED_RUN, Event.SETTLE): State.UNCLAIMED_OUTCOME,
    (State.UNCLAIMED_RUN, Event.FORGET): State.FORGOTTEN,
    (State.UNCLAIMED_OUTCOME, Event.CLAIM): State.ENDED,
    (State.UNCLAIMED_OUTCOME, Event.RETRY): State.DELAYED,
    (State.UNCLAIMED_OUTCOME, Event.HOLD): State.HELD,
    (State.UNCLAIMED_OUTCOME, Event.ADOPT): State.UNCLAIMED_RUN,
    (State.UNCLAIMED_OUTCOME, Event.FORGET): State.FORGOTTEN,
    (State.ENDED, Event.FORGET): State.FORGOTTEN,
}

# What one step of priority is worth, in tasks of the own flow that it goes ahead of.
PRIORITY_STEP: Final = 1_000.0

# What a client can say that it knows of; far above every limit of tries.
TRIES_MAX: Final = 2**31


class FunctionBlob:
    """The code of a function or environment, as opaque octets."""

    __slots__ = ("body", "frames", "hash")

    def __init__(self, digest: bytes, body: bytes, frames: Sequence[bytes]) -> None:
        """Hold what FUNCTION brought."""
        self.hash = digest
        self.body = body
        self.frames = frames


NO_DESIRES: Final[list[Desire]] = []


class Kind:
    """What templates have in common whose tasks desire something else each, once for all."""

    __slots__ = (
        "blob",
        "costs",
        "function",
        "head",
        "head_start",
        "is_durable",
        "is_usual",
        "priority",
    )

    def __init__(
        self, head: Call, costs: "Cost", function: FunctionBlob | None, blob: FunctionBlob | None
    ) -> None:
        """Join what TEMPLATE names with what FUNCTION brought; *head* as `head_of` returns it."""
        # The call, or the part of it that is the same whatever its tasks desire.
        self.head = head
        # What each task is asked for, without a look through the call.
        self.is_durable = head.durable
        self.priority = head.priority
        self.head_start = head.priority * PRIORITY_STEP
        # What one of its tasks costs: that of a named actor may be alone in its group, and waits in
        # one line with those that are not.
        self.costs = costs
        self.function = function
        self.blob = blob
        # Whether its tasks are queued as they come, without a look at anything but whether their
        # environment is broken, or their named actor here.
        self.is_usual = not head.limits and head.schedule_timeout_s is None


class Template:
    """A call with the code it needs, and the shape under which its tasks wait."""

    __slots__ = ("hash", "kind", "shape")

    def __init__(
        self,
        call: Call,
        shape: "Shape",
        *,
        function: FunctionBlob | None,
        blob: FunctionBlob | None,
        kind: Kind | None = None,
    ) -> None:
        """Join what a call has in common with others, its *kind*, with where its tasks wait."""
        self.kind = kind or Kind(call, shape.cost.of(call), function, blob)
        self.shape = shape
        # Under which name the journal has it; made when it is written there.
        self.hash = b""

    @property
    def head(self) -> Call:
        """The call, or the part of it that is the same whatever its tasks desire."""
        return self.kind.head

    @property
    def costs(self) -> "Cost":
        """What one of its tasks costs."""
        return self.kind.costs

    @property
    def function(self) -> FunctionBlob | None:
        """The code of the function, if it has one."""
        return self.kind.function

    @property
    def blob(self) -> FunctionBlob | None:
        """The code of its environment, as far as it is here."""
        return self.kind.blob

    @property
    def call(self) -> Call:
        """The whole call; `head` will do for what plays no part in where its tasks go."""
        head, shape = self.head, self.shape
        sticky, desires = head.sticky, shape.desires
        if len(head.desires) == len(desires) and (sticky is None or sticky.key):
            return head
        if sticky is not None:
            sticky = replace(sticky, key=shape.sticky)
        return replace(head, desires=list(desires), sticky=sticky)


def head_of(call: Call) -> Call:
    """Return what stays of *call* without what its tasks desire, which their shape has."""
    sticky = replace(call.sticky, key="") if call.sticky is not None else None
    return replace(call, desires=NO_DESIRES, sticky=sticky)


# What most calls say nothing of, once for all of them.
EMPTY: Final[dict[str, Any]] = {"slots": {}, "limits": {}, "metadata": {}, "retry_on": []}
WEIGHT: Final = float(WEIGHT_DEFAULT)


def share(call: Call, function: FunctionBlob | None) -> None:
    """Let *call* have together with others what it says alike: a quarter of what a kind takes."""
    for name, empty in EMPTY.items():
        if not getattr(call, name):
            force_setattr(call, name, empty)
    force_setattr(call, "name", intern(call.name))
    if function is not None:
        force_setattr(call, "function", function.hash)
    for desire in call.desires:
        force_setattr(desire, "key", intern(desire.key))
        if desire.weight == WEIGHT:
            force_setattr(desire, "weight", WEIGHT)


class Ending:
    """The outcome of a task, kept until its client has it."""

    __slots__ = ("actor", "attempt", "body", "frames", "size", "status")

    def __init__(
        self, status: Status, body: bytes, frames: Sequence[bytes], actor: str, attempt: int
    ) -> None:
        """Hold what OUTCOME brought, or what the broker decided."""
        self.status = status
        self.body = body
        self.frames = frames
        self.actor = actor
        self.attempt = attempt
        self.size = len(body) + (sum(map(len, frames)) if frames else 0)


class Task(Struct, eq=False):
    """One submitted call; a Struct, since it is made once for each and mostly with defaults."""

    client: "Client"
    number: int
    # It begins in one; SUBMIT or an inventory fills in the rest.
    state: State
    queued_at: float
    template: Template | UnsetType = UNSET
    body: bytes = b""
    frames: Sequence[bytes] = ()
    size: int = 0
    tries: int = 0
    # What went wrong before, if anything did.
    trouble: "Trouble | None" = None
    rank: float = 0.0
    # The current assignment: None, or its token, its actor, and the frame that carried it (0:
    # adopted).
    token: Token | None = None
    actor: "Actor | None" = None
    frame: int = 0
    is_released: bool = False
    # An adopted assignment whose outcome the actor has, and will send.
    is_finished: bool = False
    # Whether that outcome is a failure that may be tried again.
    is_retriable: bool = False
    # (actor, its labels version, its session) that REJECTed: not there again while both stand.
    barred: "dict[Actor, tuple[int, int]] | None" = None
    # What its run submitted and is not forgotten; the task in whose run it was submitted.
    children: "dict[Task, None] | None" = None
    parent: "Task | None" = None
    ending: Ending | None = None
    # What the journal has of a durable task, or whose other name this is.
    record: "Record | Alias | None" = None

    # What it leads to leads back to it.
    __repr__ = object.__repr__

    @property
    def must_be_alone(self) -> bool:
        """Tell whether it may not run beside others now.

        One that calls a named actor goes there, in its order. Of one that is at_most_once no run
        can have been lost, whatever its client says.
        """
        trouble = self.trouble
        if trouble is None or trouble.is_patient or self.call.at_most_once:
            return False
        assert self.template
        is_suspect = trouble.crashes or trouble.shared or trouble.losses > 1
        return bool(is_suspect) and not self.template.shape.cost.named

    def unload(self) -> None:
        """Let go of the call itself, which is not needed any more."""
        self.client.task_bytes -= self.size
        self.size = 0
        self.body, self.frames = b"", ()

    def move(self, event: Event) -> None:
        """Take the transition for *event*; an illegal one is our bug."""
        self.state = TRANSITIONS[self.state, event]

    @property
    def name(self) -> str:
        """Name the task for people and logs."""
        return f"{self.client.incarnation:016x}-{self.number}"

    @property
    def copy_held(self) -> str | None:
        """Return the environment of which its run holds the copy after it gave back its turn."""
        assert self.template
        return None if self.is_for_one else self.template.costs.environment

    @property
    def is_for_one(self) -> bool:
        """Tell whether a copy of its environment is entered for it alone, as far as is known."""
        environment = self.call.environment if self.template else None
        return environment is not None and environment.reuse.is_fresh

    @property
    def call(self) -> Call:
        """Return the call; only a claimed task has one."""
        assert self.template is not UNSET
        return self.template.call

    @property
    def is_over(self) -> bool:
        """Tell whether it needs nothing any more."""
        return self.state is State.ENDED or self.state is State.FORGOTTEN
