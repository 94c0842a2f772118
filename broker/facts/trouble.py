"""What went wrong with a task before, and how long it waits for its next try.

Most tasks have no Trouble at all. Chance is not drawn here but computed from what names the task,
so that the same history gives the same delays.
"""

from typing import TYPE_CHECKING, Final

from wire.parts import Backoff, Call, Token

if TYPE_CHECKING:
    from broker.facts.peers import Actor
    from broker.settings import Settings

# So many errors of a task are remembered, the last ones; each is cut.
HISTORY_MAX: Final = 10
HISTORY_LINE_MAX: Final = 500
# No task waits longer than this for its next try, whatever its call or its client says.
WAIT_S_MAX: Final = 30 * 86_400.0
BACKOFF_DEFAULT: Final = Backoff()
NO_TOKEN: Final[Token] = (0, 0)

WORD: Final = 2**64 - 1


class Trouble:
    """The failures, crashes and losses of one task, counted apart, and what is told of them."""

    __slots__ = (
        "crashes",
        "due_at",
        "failed",
        "failures",
        "history",
        "is_patient",
        "losses",
        "sequence",
        "shared",
    )

    def __init__(self) -> None:
        """Begin with nothing that went wrong."""
        # Runs that raised, or took too long, and were tried again.
        self.failures = 0
        # Runs whose process died in them, alone or beside others, of which any may be to blame;
        # assignments that may have started and were lost.
        self.crashes = 0
        self.shared = 0
        self.losses = 0
        self.history: list[str] = []
        # The last run that failed, or was lost and its calls ended with it: what is offered of it,
        # or of an earlier one, counts no more.
        self.failed = NO_TOKEN
        # When the task is tried again.
        self.due_at = 0.0
        # The operation that writes all of this; 0 where none has to.
        self.sequence = 0
        # Whether it has waited long enough for an actor of its own.
        self.is_patient = False

    def is_poison(self, settings: "Settings") -> str:
        """Say what its own runs did too often, or nothing."""
        if self.crashes >= settings.crashes_max:
            return f"{self.crashes} crashes"
        return f"{self.losses} losses" if self.losses >= settings.losses_max else ""

    def remember(self, what: str) -> None:
        """Note *what* went wrong."""
        self.history.append(what[:HISTORY_LINE_MAX])
        del self.history[:-HISTORY_MAX]

    def correct(self, line: str, what: str | None) -> None:
        """Put *what* in the place of a *line* of the history, or nothing."""
        if line in self.history:
            at = len(self.history) - 1 - self.history[::-1].index(line)
            self.history[at : at + 1] = [] if what is None else [what[:HISTORY_LINE_MAX]]


class FailedRun:
    """A run whose failure is acknowledged to its actor once the client knows of it.

    It stands between the results that the client has not received, and is none.
    """

    __slots__ = ("actor", "token")

    state = None

    def __init__(self, actor: "Actor", token: Token) -> None:
        """Name the outcome that *actor* keeps."""
        self.actor = actor
        self.token = token


def delay_s(call: Call, failures: int, *names: int) -> float:
    """Return how long a task waits after it failed for the time number *failures*.

    *names* tell the task from all others: they stand in for chance.
    """
    backoff = call.backoff or BACKOFF_DEFAULT
    try:
        grown_s = backoff.initial_s * backoff.factor ** (failures - 1)
    except OverflowError:
        grown_s = backoff.max_s
    share = 1.0 - backoff.jitter * chance(*names, failures)
    return min(grown_s, backoff.max_s, WAIT_S_MAX) * share


def chance(*numbers: int) -> float:
    """Return a number from 0 to 1 that looks drawn, and is always the same for *numbers*."""
    mixed = 0
    for number in numbers:
        # The finalizer of splitmix64.
        mixed = (mixed + number + 0x9E3779B97F4A7C15) & WORD
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & WORD
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & WORD
        mixed ^= mixed >> 31
    return mixed / (WORD + 1)
