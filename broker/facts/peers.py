"""Who the broker talks to: clients, actors, hosts, and their sessions, which they outlive.

A session is one numbered conversation on one routing id; a HELLO makes a new one. A peer is a
process, known by its incarnation. Nothing keeps a reference to a session longer than its peer does.
"""

from collections import Counter, deque
from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING, Final

from broker.facts.credit import CreditAccount
from broker.facts.task import FunctionBlob, State, Task, Template
from wire.labels import Labels, differing
from wire.messages import ActorHello, ClientHello, Credit, HostHello, Tried
from wire.parts import Attested, Role, Token
from wire.tables import ReceiverTable, SenderTable

if TYPE_CHECKING:
    from broker.facts.orders import Order
    from broker.facts.trouble import FailedRun
    from broker.placing.copies import Copy
    from broker.waiting.crews import Crew
    from broker.waiting.shapes import Lane, Shape

# 1,024 commands with bodies of at most 4 KiB stay far below the limit of a control frame.
COMMANDS_PER_FRAME: Final = 1_024
# Results that one client may have on their way before its tasks wait: a share of its window, and so
# many. Both are a quarter of what an actor keeps before it takes no task of anybody.
UNRECEIVED_SHARE: Final = 4
UNRECEIVED_MAX: Final = 16_384
# How much later, at first, calls leave a slot again where that was in vain.
YIELDS_AFTER_S: Final = 10.0


class Session:
    """The broker's end of one session: counters, and what is to be said next."""

    __slots__ = (
        "acked",
        "answers",
        "answers_bytes",
        "beat_holding",
        "commands",
        "functions_known",
        "functions_told",
        "is_closing",
        "is_dirty",
        "mark_at",
        "mark_sent",
        "number",
        "outcome_acks",
        "outcome_acks_stale",
        "payloads",
        "peer",
        "received",
        "rid",
        "role",
        "sealed",
        "sent",
        "templates_known",
        "templates_told",
    )

    def __init__(self, rid: bytes, number: int, peer: "Client | Actor | Host", now: float) -> None:
        """Begin with counters at 0 and empty tables."""
        self.rid = rid
        self.number = number
        self.peer = peer
        self.role: Role = peer.role
        self.received = 0
        self.sent = 0
        # How many of our frames the peer has received, by its own word.
        self.acked = 0
        # A number of ours, and since when we wait for the peer to receive it (a deaf peer never
        # does).
        self.mark_sent = 0
        self.mark_at = now
        # What the heartbeat in the frame that is being read says that the actor holds.
        self.beat_holding: Sequence[Token] | None = None
        self.commands: list[object] = []
        self.payloads: list[bytes] = []
        self.sealed: list[tuple[list[object], list[bytes]]] = []
        self.is_dirty = False
        self.is_closing = False
        # An actor's: outcomes to acknowledge with the next frame.
        self.outcome_acks: list[Token] = []
        self.outcome_acks_stale: list[Token] = []
        # A client's: answers on their way, (frame, octets), oldest first.
        self.answers: deque[tuple[int, int]] = deque()
        self.answers_bytes = 0
        self.functions_known: ReceiverTable[FunctionBlob]
        self.templates_known: ReceiverTable[Template]
        self.functions_told: SenderTable[bytes]
        self.templates_told: SenderTable[Template]

    def seal(self) -> list[object]:
        """Close the next frame, which is full, and return the commands of the one behind it."""
        self.sealed.append((self.commands, self.payloads))
        self.commands, self.payloads = [], []
        return self.commands


class Client:
    """A process that submits."""

    __slots__ = (
        "gone_at",
        "heard_at",
        "incarnation",
        "is_left",
        "is_paused",
        "name",
        "parked",
        "python",
        "role",
        "session",
        "session_highest",
        "task_bytes",
        "tasks",
        "tried",
        "unreceived",
        "unreceived_bytes",
    )

    def __init__(self, incarnation: int, now: float) -> None:
        """Begin as somebody of whom only the incarnation is known, as an inventory names it."""
        self.role = Role.CLIENT
        self.incarnation = incarnation
        self.name = ""
        self.python = ""
        self.session: Session | None = None
        self.session_highest = 0
        self.heard_at = now
        # Since when there is no connection; None while there is one.
        self.gone_at: float | None = now
        self.tasks: dict[int, Task] = {}
        self.task_bytes = 0
        # What it said of the SUBMIT that stands behind it.
        self.tried: Tried | None = None
        # Results on their way: (frame, task, octets), oldest first; and failures that it is told.
        self.unreceived: deque[tuple[int, Task | FailedRun, int]] = deque()
        self.unreceived_bytes = 0
        # It took leave, or was away for too long: only its durable tasks are kept.
        self.is_left = False
        self.is_paused = False
        self.parked: list[tuple[Shape, Lane]] = []

    def greet(self, hello: ClientHello) -> None:
        """Take over what HELLO says."""
        self.name = hello.name
        self.python = hello.python
        self.is_left = False

    def is_behind(self, window_bytes: int) -> bool:
        """Tell whether so many results are on their way that no more of its tasks are to run.

        Actors keep all of them, and take no task of anybody when they keep too many.
        """
        return (
            self.unreceived_bytes * UNRECEIVED_SHARE >= window_bytes
            or len(self.unreceived) >= UNRECEIVED_MAX
        )


class Actor:
    """A process that runs tasks."""

    __slots__ = (
        "assigned",
        "away",
        "behind",
        "closed",
        "closed_at",
        "copies",
        "credit",
        "crews",
        "entered_at",
        "entering_until",
        "environments",
        "former",
        "heard_at",
        "host",
        "idle_since",
        "incarnation",
        "is_alone",
        "is_new",
        "is_shut",
        "is_suspect",
        "labels",
        "labels_at",
        "labels_version",
        "lost",
        "name",
        "number",
        "order",
        "pace",
        "pid",
        "places",
        "prefetch",
        "python",
        "ranked_as",
        "ranked_at",
        "release",
        "resident",
        "role",
        "run_s",
        "session",
        "session_highest",
        "slots",
        "unreceived",
        "unreserved_until",
        "used_at",
        "used_before",
        "vouched_at",
        "yields_after_s",
        "yields_at",
    )

    def __init__(self, hello: ActorHello, now: float) -> None:
        """Begin as HELLO says."""
        self.role = Role.ACTOR
        self.unreceived = ()
        self.incarnation = hello.incarnation
        self.session: Session | None = None
        self.session_highest = 0
        self.heard_at = now
        self.is_suspect = False
        # Whether it is kept for a task that must run alone, or runs one; whether it is given no
        # work for either reason.
        self.is_alone = self.is_shut = False
        # Whether what it can take was not looked at yet where more actors are asked for.
        self.is_new = True
        self.credit = CreditAccount()
        # What an operator ordered last.
        self.order: Order | None = None
        # Its current assignments, not ended.
        self.assigned: dict[Token, Task] = {}
        # Those that gave back a turn here, perhaps with some that have returned or ended since.
        self.away: dict[Token, None] = {}
        self.environments: dict[str, str] = {}
        # Since when it has had nothing to do, where somebody wants to know, and `used_at` of then.
        self.idle_since: float | None = None
        self.used_before = 0
        # The environments that are not cold here, by id; those that were here, the newest last.
        self.copies: dict[str, Copy] = {}
        self.former: dict[str, None] = {}
        # When it was last given a task, in assignments; what is added where others go first.
        self.used_at = self.behind = 0
        # When it is looked next whether calls that share a slot here put somebody off, and how much
        # later after a time in which they left it in vain.
        self.yields_at = 0.0
        self.yields_after_s = YIELDS_AFTER_S
        # Until when it is kept for no large task, since runs here waited for those behind that.
        self.unreserved_until = 0.0
        # For the choice: its bit in sets of actors, the crews that it is in, its environments.
        self.number = 0
        self.crews: dict[Crew, None] = {}
        self.resident: dict[str, None] = {}
        # The statement, with nothing on its way, as which it stands no lower in any ranking, and
        # the state of `Matching.blocks` since which it is so; None where something lowered it.
        self.ranked_as: Credit | None = None
        self.ranked_at = 0
        self.labels: Labels = {}
        self.labels_at = self.closed_at = now
        # How long its runs take of late, and the power of two of which that is at least the half;
        # None while nobody knows.
        self.run_s = 0.0
        self.pace: int | None = None
        # When its host was heard last, of one that is gone.
        self.vouched_at = -inf
        # When an environment was entered there last, and when one should be that is being entered.
        self.entered_at = -inf
        self.entering_until = 0.0
        # What became of its tasks, in counts, once it was silent for too long; it may come back.
        self.lost: dict[str, int] = {}
        self.closed = hello.closed
        self.greet(hello, now)

    @property
    def ease(self) -> int:
        """Tell who gives way to one more environment: 2 nobody, 1 one that is idle, 0 one in use.

        In use by a run that waits, or has released: its turn is free, but not what it holds.
        """
        room = self.credit.room
        if room > self._count_idle():
            return 2
        return int(not self.away or room > self._count_away())

    def _count_away(self) -> int:
        """Return how many copies are room by its word that runs hold on to."""
        tasks = map(self.assigned.get, self.away)
        used = {
            task.copy_held
            for task in tasks
            if task is not None and task.is_released and task.template
        }
        return sum(self._is_idle(name) for name in used if name is not None)

    @property
    def has_place_for_nobody(self) -> bool:
        """Tell whether one could that nobody calls, for which no released run loses its own."""
        aside = sum(task.is_released and task.is_for_one for task in self.assigned.values())
        return self.credit.room > self._count_idle() + aside

    def count_inside(self) -> Counter[str]:
        """Return of which environments it has copies, and how many that are for a single run."""
        inside = Counter(dict.fromkeys(self.copies, 1))
        for task in self.assigned.values():
            if task.is_for_one and not task.is_released:
                assert task.template
                inside[str(task.template.costs.environment)] += 1
        return inside

    def _count_idle(self) -> int:
        """Return how many copies are room by its word, with nobody inside or on his way."""
        return sum(map(self._is_idle, self.copies))

    def _is_idle(self, identity: str) -> bool:
        copy, free = self.copies.get(identity), self.credit.stated.turns.get(identity)
        return (
            copy is not None
            and free is not None
            and free >= copy.record.environment.concurrency
            and not self.credit.flies_to(identity)
        )

    def greet(self, hello: ActorHello, now: float) -> None:
        """Take over what HELLO says."""
        self.name = hello.name
        self.host = hello.host
        self.pid = hello.pid
        self.python = hello.python
        self.release = hello.release
        self.slots = hello.slots
        self.prefetch = hello.prefetch
        # How many environments can be here at once; 0 when it does not say.
        self.places = hello.places
        self.close(hello.closed, now)
        self.labels_version = 0
        if hello.labels_version > self.labels_version:
            self.labels_version = hello.labels_version
            if differing(self.labels, hello.labels):
                self.offer(hello.labels, now)

    def close(self, closed: str, now: float) -> None:
        """Take over why it takes no new work, as it says; empty when it does."""
        if closed != self.closed:
            self.closed, self.closed_at = closed, now

    def offer(self, labels: Labels, now: float) -> None:
        """Offer *labels*, which differ from those before."""
        self.labels = labels
        self.labels_at = now

    @property
    def is_leaving(self) -> bool:
        """Tell whether it ends when its runs have, and takes calls of these alone."""
        return self.closed.startswith("draining")

    @property
    def lacks_memory(self) -> bool:
        """Tell whether it is closed as its machine has too little memory left."""
        return self.closed.startswith("memory")

    def shut(self) -> None:
        """Take no work from the backlog while there is a reason for that."""
        self.is_shut = self.is_suspect or self.is_alone or self.is_leaving

    @property
    def is_open(self) -> bool:
        """Tell whether it may be given work, credit aside."""
        return self.session is not None and not self.is_shut

    @property
    def takes_work(self) -> bool:
        """Tell whether it will be given work again, as far as one can see."""
        return self.session is not None and not self.is_shut and not self.closed


class Host:
    """A supervisor process."""

    __slots__ = (
        "actors_max",
        "actors_min",
        "asked",
        "asked_until",
        "attested",
        "grew",
        "heard_at",
        "incarnation",
        "labels",
        "limits",
        "name",
        "pid",
        "role",
        "session",
        "session_highest",
        "slots",
        "unreceived",
    )

    def __init__(self, hello: HostHello, now: float) -> None:
        """Begin as HELLO says."""
        self.role = Role.HOST
        self.unreceived = ()
        self.incarnation = hello.incarnation
        self.session: Session | None = None
        self.session_highest = 0
        self.heard_at = now
        self.attested: dict[int, Attested] = {}
        # Actor -> when its CPU time last grew.
        self.grew: dict[int, float] = {}
        # For how many actors it was asked last, and until when they may come.
        self.asked = 0
        self.asked_until = 0.0
        self.greet(hello, now)

    def greet(self, hello: HostHello, now: float) -> None:
        """Take over what HELLO says."""
        self.name = hello.name
        self.pid = hello.pid
        self.limits = hello.limits
        # How many actors there may be, and what a further one would offer.
        self.actors_min = hello.actors_min
        self.actors_max = hello.actors_max
        self.labels = hello.labels
        self.slots = hello.slots
        self.attest(hello.actors, now)

    def attest(self, actors: list[Attested], now: float) -> None:
        """Take over what the host sees of its actors, and note whose CPU time grew."""
        self.heard_at = now
        former, self.attested = self.attested, {actor.incarnation: actor for actor in actors}
        self.grew = {
            number: now
            if number not in former or former[number].cpu_s < actor.cpu_s
            else self.grew.get(number, now)
            for number, actor in self.attested.items()
        }

    def vouches_for(self, incarnation: int, now: float, *, fresh_s: float) -> bool:
        """Tell whether the process of an actor was seen at work within *fresh_s*."""
        seen = self.attested.get(incarnation)
        return (
            seen is not None
            and not seen.stopped
            and now - self.heard_at <= fresh_s
            and now - self.grew[incarnation] <= fresh_s
        )


def is_owned(task: Task) -> bool:
    """Tell whether an actor holds the current assignment of *task* and it has not ended."""
    return task.state is State.ASSIGNED or task.state is State.UNCLAIMED_RUN


def is_barred(task: Task, actor: Actor) -> bool:
    """Tell whether *actor* rejected *task* with the labels and session that it has now."""
    if not task.barred or actor not in task.barred:
        return False
    assert actor.session
    if task.barred[actor] == (actor.labels_version, actor.session.number):
        return True
    del task.barred[actor]
    return False
