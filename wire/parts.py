"""What stands inside the messages: tokens, calls, inventories, outcomes (protocol.md section 7).

Fields are positional on the wire, so a field is only ever appended, with a default.
"""

from enum import StrEnum
from typing import Final

from msgspec import Struct

from wire.labels import Desire, Labels

# The number of an assignment: epoch of the broker that made it, then a count within that epoch.
Token = tuple[int, int]
# Stands between the id of a named actor and one of its concurrency groups, where turns are counted.
GROUP_MARK: Final = "\n"
# Said of an environment that takes nobody in until all inside have left.
WORN: Final = "worn"
# A run of task numbers, both ends included.
Span = tuple[int, int]


class Role(StrEnum):
    CLIENT = "client"
    ACTOR = "actor"
    HOST = "host"


class Status(StrEnum):
    """How a task ended. The body of RESULT is a payload, of every other one a `Failure`."""

    RESULT = "result"
    FAILURE = "failure"
    CANCELED = "canceled"
    EXPIRED = "expired"
    LOST = "lost"


class Held(StrEnum):
    """What an actor does with an assignment that it holds."""

    WAITING = "waiting"  # in the mailbox
    RUNNING = "running"
    RELEASED = "released"  # runs on without its slot


class Part(Struct, frozen=True, array_like=True):
    """What stands inside other messages."""


class Reuse(Part, frozen=True):
    """How many copies of an environment are kept, how long, and what one may take; None: no end."""

    replicas_min: int = 0
    replicas_max: int | None = None
    idle_ttl_s: float | None = None
    scaledown_ttl_s: float | None = None
    max_tasks: int | None = None
    max_memory_mb: float | None = None
    enter_timeout_s: float | None = None
    exit_timeout_s: float | None = None
    is_fresh: bool = False  # one copy for each call, and given up after it
    is_of_client: bool = False  # for the clients of one process, and given up with the last of them

    @property
    def is_elastic(self) -> bool:
        """Tell whether one of its copies may be given up while others stay."""
        is_bounded = self.replicas_max is not None and self.replicas_max <= self.replicas_min
        return self.scaledown_ttl_s is not None and not is_bounded


class Named(Part, frozen=True):
    """What makes an environment a named actor: its address, and what becomes of it.

    *identity* is what must be equal for one to be taken for another: class, parameters, version.
    *owner* is the client with which it ends, 0 for none. Bounds are -1 for no end, *max_pending* 0.
    *groups* has the sizes of the concurrency groups that have a name, *grouped* the group of each
    method that is not in the one without; calls of *together* may be inside beside others of their
    group, any other is alone in it.
    """

    namespace: str
    name: str
    identity: str
    owner: int = 0
    max_restarts: int = 0
    max_task_retries: int = 0
    max_pending: int = 0
    methods: list[str] = []
    groups: dict[str, int] = {}
    grouped: dict[str, str] = {}
    together: list[str] = []


class Environment(Part, frozen=True):
    """What must be resident before a call can run; *blob* is the hash of the class's FUNCTION."""

    id: str
    name: str
    blob: bytes
    labels: Labels = {}
    concurrency: int = 1
    reuse: Reuse = Reuse()
    named: Named | None = None
    turns: int = 1  # what the call takes of them; all for one that is to be alone
    group: str = ""  # the concurrency group of a named actor whose turns they are
    lineage: str = ""  # what it has in common with other versions of it; empty where there are none
    gathers: bool = False  # its calls wait for one another inside, to run as a batch
    kind: str = ""  # what it has in common with others of its class; empty where there are none

    @property
    def pool(self) -> str:
        """Return under which name the turns are counted that the call takes."""
        return f"{self.id}{GROUP_MARK}{self.group}" if self.group else self.id

    @property
    def pools(self) -> dict[str, int]:
        """Return how many turns there are of each name."""
        pools = {self.id: self.concurrency}
        for group, size in self.named.groups.items() if self.named is not None else ():
            pools[f"{self.id}{GROUP_MARK}{group}"] = size
        return pools

    @property
    def size(self) -> int:
        """Return how many turns there are where the call takes some; 0 for no such group."""
        return self.pools.get(self.pool, 0) if self.group else self.concurrency

    @property
    def is_shared(self) -> bool:
        """Tell whether calls of a named actor may be inside it together, and share its slot."""
        return self.concurrency > 1 or (self.named is not None and bool(self.named.groups))


def place_of(pool: str) -> str:
    """Return the id of the environment whose turns are counted under *pool*."""
    return pool.partition(GROUP_MARK)[0]


class Backoff(Part, frozen=True):
    """How long a failed task waits for its next try: longer each time, up to *max_s*.

    *jitter* is the share of the time that is left to chance, so that those that failed together do
    not come back together.
    """

    initial_s: float = 1.0
    factor: float = 2.0
    max_s: float = 60.0
    jitter: float = 0.5


class Sticky(Part, frozen=True):
    """The key that a call shares with others for the same actor (section 11.1)."""

    key: str
    hard: bool = False
    inherit: bool = True


class Call(Part, frozen=True, gc=False):
    """What all calls of one function with the same options share."""

    name: str
    function: bytes = b""
    method: str = ""
    environment: Environment | None = None
    desires: list[Desire] = []
    slots: dict[str, int] = {}
    priority: int = 0
    fairness_key: str = ""
    timeout_s: float | None = None
    schedule_timeout_s: float | None = None
    at_most_once: bool = False
    durable: bool = False
    retries: int = 0
    limits: dict[str, int] = {}
    metadata: dict[str, str | int | float | bool | None] = {}
    fail_infeasible: bool = False
    backoff: Backoff | None = None
    retry_on: list[str] = []
    sticky: Sticky | None = None
    affinity_wait_s: float | None = None


class Key(Part, frozen=True):
    """What makes two calls the same one: text and digest of what is called, for how long."""

    text: str
    digest: bytes
    ttl_s: float | None = None


class HeldLimits(Part, frozen=True):
    """What a run has of limits, or waits for; *ask* is 0 for those taken at scheduling."""

    ask: int
    limits: dict[str, int]
    has_it: bool
    within: list[int] | None = None
    may_give_back: bool = False


class Holding(Part, frozen=True):
    """An assignment that an actor holds, in its inventory."""

    client: int
    task: int
    token: Token
    held: Held
    limits: list[HeldLimits] = []
    # What it holds of slots, where that is only a part of what its template names.
    slots: dict[str, int] | None = None


class Kept(Part, frozen=True):
    """An outcome that an actor keeps until it is acknowledged; a failure may be retriable."""

    client: int
    task: int
    token: Token
    retriable: bool = False


class Attested(Part, frozen=True):
    """What a host sees of one of its actor processes from outside."""

    incarnation: int
    name: str
    pid: int
    cpu_s: float
    stopped: bool


class Failure(Part, frozen=True):
    """The body of an outcome that is not a result. *exception* is a pickle, or empty.

    *retriable* is the actor's word, since only there the exception can be looked at.
    """

    code: str
    type: str
    message: str
    traceback: str = ""
    exception: bytes = b""
    history: list[str] = []
    retriable: bool = False
