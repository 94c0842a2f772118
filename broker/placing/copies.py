"""One environment as the broker knows it, its class, and a copy of it in an actor.

Plain structures, which `broker.placing.environments` changes. The rule that must not be broken: a
copy is there from the assignment on that is to enter it.
"""

from math import inf
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from broker.waiting.rankings import PREFERENCE_MAX
from wire.parts import Environment, Failure

if TYPE_CHECKING:
    from broker.facts.peers import Actor, Session
    from broker.facts.task import Template
    from broker.waiting.shapes import Shape

# What one load counts in how long those of a class take.
LOAD_SHARE: Final = 0.125


class Kind:
    """What is known of all environments of one class, whatever their parameters and version."""

    __slots__ = ("load_s",)

    def __init__(self) -> None:
        """Begin with none that was entered."""
        # How long entering one takes, of late; None while nobody knows.
        self.load_s: float | None = None

    def entered(self, load_s: float) -> None:
        """Note how long entering one of them took."""
        known_s = load_s if self.load_s is None else self.load_s
        self.load_s = known_s + (load_s - known_s) * LOAD_SHARE


class Copy:
    """One environment in one actor."""

    __slots__ = (
        "actor",
        "evicted_in",
        "idle_since",
        "is_ordered",
        "is_warm",
        "number",
        "preference",
        "record",
        "since",
    )

    def __init__(self, record: "Record", actor: "Actor", number: int, since: float) -> None:
        """Begin in use, and not yet entered; *number* is the lowest that no other copy has."""
        # When the assignment was made that enters it, or the broker heard that it is there.
        self.since = since
        self.record = record
        self.actor = actor
        self.number = number
        # What of equal copies goes first: where some may be given up, the lowest, so that those
        # that are not needed become idle; elsewhere it is 0 for all.
        is_elastic = record.environment.reuse.is_elastic
        self.preference = max(0, PREFERENCE_MAX - number) if is_elastic else 0
        self.is_warm = False
        # Whether it was entered though nobody called, and no call was inside since.
        self.is_ordered = False
        # Since when nobody is inside; None while somebody is.
        self.idle_since: float | None = None
        # The session and frame in which the actor was told to give it up.
        self.evicted_in: tuple[Session, int] | None = None

    def used_until(self, now: float) -> None:
        """Note that a call was inside until now, if one was."""
        if self.idle_since is None and not self.is_ordered:
            self.record.called_at = now


class Record:
    """One environment."""

    __slots__ = (
        "asked_at",
        "broken_until",
        "called_at",
        "concurrency",
        "copies",
        "copies_min",
        "entry",
        "environment",
        "failed_on",
        "failure",
        "failures",
        "hanging",
        "hits",
        "is_for_one",
        "kind",
        "load_s",
        "loads",
        "look_at",
        "lost_place",
        "rests_s",
        "retry_at",
        "run_s",
        "shapes",
        "since",
        "template",
        "used_at",
    )

    def __init__(self, environment: Environment, now: float, kind: Kind) -> None:
        """Begin without a copy."""
        self.take(environment)
        self.kind = kind
        self.copies: dict[Actor, Copy] = {}
        # Those of them that could not be entered, and are being entered all the same until their
        # process ends. Nobody gets a turn in one of them.
        self.hanging: dict[Copy, None] = {}
        # The shapes under which its tasks wait, as long as somebody has a template of them, in the
        # order in which they came: the same history has the same choices.
        self.shapes: WeakKeyDictionary[Shape, None] = WeakKeyDictionary()
        self.used_at = now
        # Since when it is known; when the last of its calls that went anywhere was submitted.
        self.since = now
        self.asked_at = -inf
        # When a call was inside last.
        self.called_at = now
        # How the calls are made that come here, and one that only enters it; None while nobody
        # would order that.
        self.template: Template | None = None
        self.entry: Template | None = None
        # The processes in which a copy that nobody used had to give way to others.
        self.lost_place: set[int] = set()
        # How often it was entered, how long that takes, how many tasks found it warm.
        self.loads = 0
        self.load_s = 0.0
        self.hits = 0
        # How long a task runs in it, of late.
        self.run_s = 0.0
        # How often in a row it could not be entered, where, when it is tried again, and why.
        self.failures = 0
        self.failed_on: set[int] = set()
        self.retry_at = 0.0
        self.broken_until = 0.0
        self.failure: Failure | None = None
        self.look_at = inf  # When there may be something to do.

    def take(self, environment: Environment) -> None:
        """Let its policy be as *environment* says."""
        reuse = environment.reuse
        self.environment = environment
        # What each call looks at: how many copies there are to be, how many are inside at most.
        self.copies_min = 0 if reuse.is_fresh else reuse.replicas_min
        # Whether each of its calls has a copy of its own, which is none of those that are counted.
        self.is_for_one = reuse.is_fresh
        self.concurrency = environment.concurrency
        # How long at least nothing is to be done about a copy that is idle from now on.
        self.rests_s = min(reuse.idle_ttl_s or inf, reuse.scaledown_ttl_s or inf)

    def entered(self, copy: Copy) -> None:
        """Note that a copy is warm."""
        copy.is_warm = True
        self.hanging.pop(copy, None)

    def lost(self, copy: Copy) -> None:
        """Forget a copy that is not there any more."""
        del self.copies[copy.actor]
        self.hanging.pop(copy, None)

    def is_awaited(self, copy: Copy) -> bool:
        """Tell whether a copy is being entered, and may be warm some day."""
        return not copy.is_warm and copy not in self.hanging

    @property
    def usable(self) -> int:
        """Return how many copies there are in which somebody may get a turn."""
        return len(self.copies) - len(self.hanging)

    @property
    def waiting(self) -> int:
        """Return how many of its tasks are queued."""
        return sum(shape.count for shape in self.shapes)

    @property
    def is_measured(self) -> bool:
        """Tell whether anybody knows how long entering it takes."""
        return self.loads > 0 or self.load_s > 0.0

    @property
    def is_warm(self) -> bool:
        """Tell whether some copy of it was entered."""
        return any(copy.is_warm for copy in self.copies.values())

    @property
    def missing(self) -> int:
        """Return how many copies it has less than it is to have while it is in use."""
        return max(0, self.copies_min - len(self.copies))

    def is_broken(self, now: float) -> bool:
        """Tell whether its tasks are to end at once."""
        return now < self.broken_until and not self.is_warm
