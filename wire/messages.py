"""Every message of the protocol, one Struct each, in the order of protocol.md section 7.

A Struct here and its section there say the same: tests compare tag, field names and order. Fields
are positional on the wire, so one is only ever appended, with a default. No message checks more
than types: limits are checked in `wire.codec`, and what a peer may say stands in `MAY_SAY` below.
"""

from typing import Annotated, Generic, TypeVar, get_args

from msgspec import Meta, Struct

from wire.labels import Labels
from wire.parts import (
    Attested,
    Call,
    Environment,
    Failure,
    Holding,
    Kept,
    Key,
    Role,
    Span,
    Status,
    Token,
)

PROTOCOL = 1  # ZeroMQ reconnects without telling anybody, so every frame carries the version.
COMMANDS_MAX = 65_536
ARGUMENT_LENGTH_MAX = 65_536

# --- what any peer says


class Beat(Struct, frozen=True, array_like=True, tag="beat"):
    ahead: int = 0  # Outside the count: how many octets of payload come behind it.


class Bye(Struct, frozen=True, array_like=True, tag="bye"):
    reason: str = ""


class Function(Struct, frozen=True, array_like=True, tag="function"):
    slot: int
    hash: bytes
    body: bytes
    frames: int = 0


class Template(Struct, frozen=True, array_like=True, tag="template"):
    slot: int
    call: Call


# --- what a client says


class ClientHello(Struct, frozen=True, array_like=True, tag="client-hello"):
    incarnation: int
    name: str
    python: str
    unresolved: list[Span] = []
    bound: dict[str, str] = {}
    room: int = 0


class Submit(Struct, frozen=True, array_like=True, tag="submit", gc=False):
    task: int
    template: int
    body: bytes
    frames: int = 0
    again: bool = False
    tries: int = 0
    parent: Token | None = None
    waited_s: float | None = None
    key: Key | None = None


class Attach(Struct, frozen=True, array_like=True, tag="attach"):
    """Let *task* be another name of a durable task, or a new one with the call of a dead one."""

    task: int
    client: int
    number: int
    redrive: bool = False


class Tried(Struct, frozen=True, array_like=True, tag="tried"):
    """What went wrong with the task of the SUBMIT behind it, as REQUEUED told."""

    task: int
    failures: int
    crashes: int = 0
    losses: int = 0
    wait_s: float = 0.0
    failed: Token | None = None
    history: list[str] = []
    shared: int = 0


class Cancel(Struct, frozen=True, array_like=True, tag="cancel"):
    tasks: list[int]
    force: bool = False


class Query(Struct, frozen=True, array_like=True, tag="query"):
    request: int
    what: str
    argument: Annotated[str, Meta(max_length=ARGUMENT_LENGTH_MAX)] = ""


# --- what an actor says


class ActorHello(Struct, frozen=True, array_like=True, tag="actor-hello"):
    incarnation: int
    name: str
    host: int
    pid: int
    python: str
    labels_version: int
    labels: Labels
    slots: dict[str, int]
    prefetch: int = 0
    holding: list[Holding] = []
    kept: list[Kept] = []
    closed: str = ""
    release: str = ""
    stopped: list[Holding] = []  # runs that nobody wants, and that have limits until they return
    places: int = 0  # for environments; 0 where nobody says


class Credit(Struct, frozen=True, array_like=True, tag="credit", gc=False):
    free: int
    ahead: int = 0
    room: int = 0
    turns: dict[str, int] = {}
    typed: dict[str, int] = {}
    shared: tuple[str, ...] = ()  # environments whose replica holds its slot already


class Outcome(Struct, frozen=True, array_like=True, tag="outcome", gc=False):
    epoch: int
    number: int
    status: Status
    body: bytes
    frames: int = 0
    run_s: float = 0.0
    checkpoint: int = 0  # the serial of that in the last of its frames; 0 for none


class Release(Struct, frozen=True, array_like=True, tag="release"):
    epoch: int
    number: int
    typed: dict[str, int] | None = None
    keep_limits: bool = False


class Reacquire(Struct, frozen=True, array_like=True, tag="reacquire"):
    """A released task holds its slots and its turn again."""

    epoch: int
    number: int


class Occupy(Struct, frozen=True, array_like=True, tag="occupy"):
    """A run wants limits, all of them or none; it keeps those of *within* until it has them."""

    epoch: int
    number: int
    ask: int
    limits: dict[str, int]
    within: list[int] | None = None
    may_give_back: bool = False  # its slots and its turn, when it is told so
    is_try: bool = False  # now or never


class Vacate(Struct, frozen=True, array_like=True, tag="vacate"):
    """A run gives limits back, or wants them no more; without *ask* all that it has."""

    epoch: int
    number: int
    ask: int | None = None


class Await(Struct, frozen=True, array_like=True, tag="await"):
    """A run waits for *enough* of these calls of *client*, or for its slots where none is named."""

    epoch: int
    number: int
    ask: int
    client: int = 0
    calls: list[Span] = []
    enough: int = 0
    within: list[int] | None = None
    slots: dict[str, int] | None = None


class Reject(Struct, frozen=True, array_like=True, tag="reject"):
    epoch: int
    number: int
    reason: str
    bars: bool = True
    failure: Failure | None = None  # why the environment could not be entered


class Entered(Struct, frozen=True, array_like=True, tag="entered"):
    """An environment is warm, after *load_s* seconds; *again* where it was before this session."""

    environment: Environment
    load_s: float
    again: bool = False


class Resides(Struct, frozen=True, array_like=True, tag="resides"):
    """A named actor is here, since *generation*; its frames are its code and its checkpoint."""

    call: Call
    generation: Token
    serial: int = 0
    frames: int = 0
    ended: list[tuple[int, list[Span]]] = []


class LabelsChanged(Struct, frozen=True, array_like=True, tag="labels"):
    version: int
    labels: Labels


class ActorBeat(Struct, frozen=True, array_like=True, tag="actor-beat"):
    credit: Credit
    labels_version: int
    labels: Labels
    holding: list[Token]
    environments: dict[str, str] = {}
    closed: str = ""
    parts: list[tuple[Token, dict[str, int]]] = []


# --- what a host says


class HostHello(Struct, frozen=True, array_like=True, tag="host-hello"):
    incarnation: int
    name: str
    pid: int
    limits: dict[str, int] = {}
    actors: list[Attested] = []
    actors_min: int = 0
    actors_max: int = 0
    labels: Labels = {}
    slots: dict[str, int] = {}


class HostBeat(Struct, frozen=True, array_like=True, tag="host-beat"):
    actors: list[Attested]


class Death(Struct, frozen=True, array_like=True, tag="death"):
    incarnation: int
    exit_code: int | None
    signal: int | None
    started: list[Token]
    reason: str = ""
    finished: list[Token] = []
    entering: list[Token] = []
    beside: list[Token] = []


# --- what the broker says


class Welcome(Struct, frozen=True, array_like=True, tag="welcome"):
    heartbeat_s: float
    suspect_s: float
    lease_s: float
    recovering_s: float
    missing: list[Span]
    window_tasks: int
    window_bytes: int
    payload_bytes_max: int
    functions_max: int
    templates_max: int
    strict: list[str] = []


class Who(Struct, frozen=True, array_like=True, tag="who"):
    """Say HELLO: there is no session for the frame that this answers."""


class Error(Struct, frozen=True, array_like=True, tag="error"):
    code: str
    message: str
    fatal: bool = False


class Assign(Struct, frozen=True, array_like=True, tag="assign", gc=False):
    number: int
    client: int
    task: int
    template: int
    attempt: int
    body: bytes
    frames: int = 0


class Stop(Struct, frozen=True, array_like=True, tag="stop"):
    epoch: int
    number: int
    force: bool = False
    reason: str = ""


class Occupied(Struct, frozen=True, array_like=True, tag="occupied"):
    """The run has the limits of its *ask*, or with a *code* never will."""

    epoch: int
    number: int
    ask: int
    code: str = ""
    message: str = ""


class OutcomeAck(Struct, frozen=True, array_like=True, tag="outcome-ack"):
    accepted: list[Token]
    stale: list[Token] = []


class Result(Struct, frozen=True, array_like=True, tag="result", gc=False):
    task: int
    status: Status
    body: bytes
    frames: int = 0
    actor: str = ""
    attempt: int = 1


class Accepted(Struct, frozen=True, array_like=True, tag="accepted"):
    """These durable tasks are in the journal."""

    tasks: list[Span]


class Requeued(Struct, frozen=True, array_like=True, tag="requeued"):
    task: int
    tries: int
    reason: str
    failures: int = 0
    crashes: int = 0
    losses: int = 0
    wait_s: float = 0.0
    failed: Token | None = None
    shared: int = 0


class Answer(Struct, frozen=True, array_like=True, tag="answer"):
    request: int
    body: bytes


class Kill(Struct, frozen=True, array_like=True, tag="kill"):
    incarnation: int
    reason: str


class Drain(Struct, frozen=True, array_like=True, tag="drain"):
    """Leave; one that *is_spare* may be started again when it is needed."""

    deadline_s: float | None = None
    is_spare: bool = False


class Scale(Struct, frozen=True, array_like=True, tag="scale"):
    """Have so many actors, as far as there may be; nobody is ended for it."""

    actors: int
    reason: str = ""


class Recall(Struct, frozen=True, array_like=True, tag="recall"):
    """Hand back what of these has not started."""

    tokens: list[Token]
    reason: str = ""


class Pause(Struct, frozen=True, array_like=True, tag="pause"):
    """Take no new work until told otherwise; False takes the order back."""

    paused: bool = True


class Evict(Struct, frozen=True, array_like=True, tag="evict"):
    """Give up the copy of an environment, unless somebody is inside or waits for it."""

    environment: str
    reason: str = ""


class Restore(Struct, frozen=True, array_like=True, tag="restore"):
    """The next entry of a named actor begins from this checkpoint, which is its frame."""

    environment: str
    serial: int
    frames: int = 0


class Leave(Struct, frozen=True, array_like=True, tag="leave"):
    """Give up a named actor, of this generation or an earlier one, once nobody is inside."""

    environment: str
    generation: Token
    reason: str = ""


class ByeAck(Struct, frozen=True, array_like=True, tag="bye-ack"):
    """The broker holds nothing of the peer any more."""


ClientCommand = (
    ClientHello | Function | Template | Tried | Submit | Attach | Cancel | Query | Beat | Bye
)
ActorCommand = (
    ActorHello
    | Credit
    | Outcome
    | Release
    | Reacquire
    | Occupy
    | Vacate
    | Await
    | Reject
    | Entered
    | Resides
    | LabelsChanged
    | ActorBeat
    | Beat
    | Bye
)
HostCommand = HostHello | HostBeat | Death | Beat | Bye
PeerCommand = ClientCommand | ActorCommand | HostCommand
BrokerCommand = (
    Welcome
    | Who
    | Error
    | Function
    | Template
    | Assign
    | Stop
    | Occupied
    | OutcomeAck
    | Result
    | Accepted
    | Requeued
    | Answer
    | Kill
    | Drain
    | Scale
    | Recall
    | Pause
    | Evict
    | Restore
    | Leave
    | Beat
    | ByeAck
)

# Section 13: which role may say what in an open session, and what it is told.
MAY_SAY: dict[Role, frozenset[type]] = {
    Role.CLIENT: frozenset(get_args(ClientCommand)) - {ClientHello},
    Role.ACTOR: frozenset(get_args(ActorCommand)) - {ActorHello},
    Role.HOST: frozenset(get_args(HostCommand)) - {HostHello},
}
IS_TOLD = {
    Role.CLIENT: frozenset({Result, Accepted, Requeued, Answer, Error, Beat, ByeAck}),
    Role.ACTOR: frozenset(get_args(BrokerCommand))
    - {Welcome, Who, Result, Accepted, Requeued, Answer, Kill, Scale},
    Role.HOST: frozenset({Kill, Drain, Scale, Error, Beat, ByeAck}),
}
HELLOS: dict[type, Role] = {ClientHello: Role.CLIENT, ActorHello: Role.ACTOR, HostHello: Role.HOST}

C = TypeVar("C")


class Frame(Struct, Generic[C], frozen=True, array_like=True):
    """The control frame of one ZeroMQ message: its place in the session, and its commands.

    *number* counts the frames of this direction in this session from 1, 0 is one outside the count
    (HELLO, WELCOME, WHO, ERROR without a session). *received* is how many the sender has received.
    """

    protocol: int
    epoch: int
    session: int
    number: int
    received: int
    commands: Annotated[list[C], Meta(min_length=1, max_length=COMMANDS_MAX)]


PeerFrame = Frame[PeerCommand]
BrokerFrame = Frame[BrokerCommand]
