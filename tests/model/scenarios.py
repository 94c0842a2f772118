"""What is searched: who is there, what they do of their own will, and what goes wrong how often.

Every move that is named in `moves` happens at most so often on a path; all orders are tried. Small
numbers are enough: what a rule does not stand shows with one or two faults, in the right moment.
"""

from dataclasses import dataclass, field, replace
from typing import Any

# What goes wrong, and what a user does beside submitting and letting runs end.
BUDGETS = (
    "broker_kill",
    "actor_kill",
    "client_kill",
    "cut",  # a connection is replaced by a new one
    "stall",  # a connection delivers nothing until it is healed or cut
    "mute",  # one delivers nothing to the broker
    "freeze",  # a process is stopped until it goes on
    "hang",  # a run holds the interpreter, so that its actor hears and says nothing
    "repeat",  # a frame is delivered twice
    "lose",  # a frame is lost in the middle of a connection
    "hello_again",  # HELLO is repeated while the first is on its way
    "wait",  # time passes until something comes of it
    "fail",  # a run raises, what may be tried again or what may not
    "cancel",
    "force",  # a client cancels, and the process may be ended for it
    "take_back",  # an operator takes back what a run has of a limit
    "release",
    "reacquire",
    "ask",  # a run asks for a limit from inside, and keeps it to its end
    "relabel",
    "pause",  # an actor takes no new work until it is resumed
    "drain",  # an actor lets what it runs end, and leaves; another process takes its place
    "look",  # an actor finds that what waits has waited for long
)
CONNECTION_FAULTS = ("cut", "stall", "mute", "repeat", "lose", "hello_again")
HALTS = ("freeze", "hang")
FAULTS = ("broker_kill", "actor_kill", "client_kill", *CONNECTION_FAULTS, *HALTS)
LOST, KEPT = False, True


@dataclass(frozen=True)
class Scenario:
    """One search."""

    name: str
    # Of the calls: which client submits them, in this order, and what they are.
    calls: tuple[tuple[int, str], ...] = ((0, "plain"),)
    moves: dict[str, int] = field(default_factory=dict)
    clients: int = 1
    actors: int = 1
    slots: int = 1
    prefetch: int = 0
    # Who is hit by faults; everybody if empty. Peers are C1, C2, A1, A2.
    victims: tuple[str, ...] = ()
    # Whether the frames in flight at a fault are lost or come late; both are tried.
    fates: tuple[bool, ...] = (LOST, KEPT)
    # Whether a host watches the actors and reports their deaths.
    has_host: bool = False
    # Whose frames are on their way for no time at all, so that their orders are not tried.
    prompt: tuple[str, ...] = ()
    # Whether the calls were submitted, and all was said, before anything happens.
    is_under_way: bool = False
    # Whether the limit that calls take is strict.
    is_strict: bool = False
    # What a planted bug does to the numbers of broker starts.
    epoch_step: int = 1

    def but(self, **changes: object) -> "Scenario":
        return replace(self, **changes)  # type: ignore[arg-type]


# How often those that are retried are tried again.
RETRIES = 1
RETRIED, DELAYED = (0, "retried"), (0, "delayed")
PLAIN, ONCE, LARGE, OTHER = (0, "plain"), (0, "once"), (0, "large"), (1, "plain")
A1, C1 = ("A1",), ("C1",)
TWO = (PLAIN, PLAIN)


def named(*scenarios: Scenario) -> dict[str, Scenario]:
    return {scenario.name: scenario for scenario in scenarios}


LIMITED = (0, "limited")
COUNTS = ((0, "enter"), (0, "count"), (0, "count"))
COUNTS_ONCE = ((0, "enter-once"), (0, "count-once"))
# A client whose new connection brings nothing, until it is given up.
AWAY: dict[str, Any] = {"moves": {"cut": 1, "stall": 1, "wait": 1}, "victims": C1}
AWAY |= {"fates": (LOST,), "prompt": A1, "is_under_way": True}
FOND, BOXED = (0, "fond"), (0, "boxed")
WARM, KEPT_WARM = (0, "warm"), (0, "kept")


def strict(name: str, moves: dict[str, int], **more: Any) -> Scenario:
    """Return a search with a strict limit: two calls take it, and there are two actors."""
    options: dict[str, Any] = {"calls": (LIMITED,) * 2, "victims": A1, "fates": (LOST,)}
    options |= {"prompt": ("C1", "A2", "H1"), "actors": 2, "is_strict": True}
    return Scenario(f"strict-{name}", moves=moves, **options | more)


WITH_HOST: dict[str, Any] = {"has_host": True, "is_under_way": True}
# The first lease without a word ends in one wait; what was said comes late, or never.
STRICT = named(
    strict("stall", {"stall": 1, "wait": 1}),
    strict("mute", {"mute": 1, "wait": 1}),
    strict("late", {"freeze": 1, "wait": 1}),
    strict("cut", {"cut": 1}, fates=(LOST, KEPT)),
    strict("death", {"actor_kill": 1}, fates=(LOST, KEPT)),
    strict("release", {"release": 1, "reacquire": 1}),
    strict("release-and-stall", {"release": 1, "stall": 1, "wait": 1}, is_under_way=True),
    strict("cancel", {"cancel": 1, "stall": 1, "wait": 1}, is_under_way=True),
    strict("force", {"force": 1, "wait": 1}),
    strict("order", {"take_back": 1, "cut": 1}),
    strict("restart", {"broker_kill": 1, "stall": 1, "wait": 1}, is_under_way=True),
    strict("frozen", {"freeze": 1, "wait": 1}, has_host=True),
    strict("machine", {"hang": 1, "stall": 2, "wait": 1}, victims=("A1", "H1"), **WITH_HOST),
    strict("host", {"broker_kill": 1, "stall": 1, "wait": 1}, **WITH_HOST),
)
# Searched to the end in each run of the tests.
FAST = STRICT | named(
    Scenario("one-restart", moves={"broker_kill": 1}),
    Scenario("one-connection", moves={"cut": 1}),
    Scenario("restart", actors=2, moves={"broker_kill": 1}),
    Scenario("restart-of-two-calls", TWO, {"broker_kill": 1}),
    Scenario("restart-and-death", moves={"broker_kill": 1, "actor_kill": 1}),
    Scenario("restart-and-cancel", moves={"broker_kill": 1, "cancel": 1}),
    Scenario("restart-and-client-death", moves={"broker_kill": 1, "client_kill": 1}),
    Scenario("restart-of-once", (ONCE,), {"broker_kill": 1, "wait": 1}),
    Scenario("restart-and-release", moves={"broker_kill": 1, "release": 1, "reacquire": 1}),
    Scenario("restart-and-stall", moves={"broker_kill": 1, "stall": 1}, victims=A1, fates=(LOST,)),
    Scenario("connections", moves={"cut": 2}),
    Scenario("connections-and-cancel", moves={"cut": 1, "cancel": 1}),
    Scenario("connections-of-once", (ONCE,), {"cut": 2, "hello_again": 1}, victims=A1),
    Scenario("frames", moves={"repeat": 1, "lose": 1, "wait": 1}),
    Scenario("hellos", moves={"cut": 1, "hello_again": 1, "stall": 1}, victims=A1),
    Scenario("lease", actors=2, moves={"stall": 1, "wait": 2}, victims=A1),
    Scenario("lease-of-once", (ONCE,), {"stall": 1, "wait": 2}, actors=2, victims=A1),
    Scenario("attested", actors=2, moves={"stall": 1, "wait": 1}, victims=A1, has_host=True),
    Scenario("death", (PLAIN, ONCE), {"actor_kill": 1}),
    Scenario("reported-death", (PLAIN, ONCE), {"actor_kill": 1}, has_host=True),
    Scenario("release", TWO, {"release": 1, "reacquire": 1, "cut": 1}, victims=A1),
    Scenario("reject", (PLAIN, LARGE), {"relabel": 2}, prefetch=1),
    Scenario("waiting", TWO, {"cut": 1}, prefetch=1, victims=A1),
    Scenario("pause", (ONCE,), {"pause": 1, "cut": 1}, victims=A1, fates=(LOST,)),
    Scenario("pause-of-waiting", TWO, {"pause": 1}, actors=2, prefetch=1),
    Scenario("drain", (PLAIN, ONCE), {"drain": 1}),
    Scenario("drain-of-waiting", TWO, {"drain": 1}, actors=2, prefetch=1),
    Scenario("recall", (PLAIN, *TWO), {"look": 1}, actors=2, prefetch=1),
    Scenario("limit", (LIMITED, LIMITED), {"cut": 1}, actors=2, victims=A1),
    Scenario("limit-and-cancel", (LIMITED, LIMITED), {"cancel": 1}, actors=2),
    Scenario("limit-and-release", (LIMITED, LIMITED), {"release": 1, "reacquire": 1}, actors=2),
    # The first call asks for one limit and then the other, the second the other way round.
    Scenario("circle", TWO, {"ask": 4}, slots=2),
    Scenario("retried", (RETRIED,), {"fail": 2, "cancel": 1}, actors=2),
    Scenario("retried-and-restart", (RETRIED,), {"fail": 2, "broker_kill": 1}),
    Scenario("retried-and-cut", (RETRIED,), {"fail": 2, "cut": 1}),
    Scenario("retried-and-lost", (RETRIED,), {"fail": 2, "actor_kill": 1}),
    Scenario("delayed", (DELAYED,), {"fail": 1, "wait": 1, "broker_kill": 1}, fates=(LOST,)),
    Scenario("fond", (PLAIN, FOND), {"relabel": 1, "wait": 1}, actors=2),
    Scenario("two-fond", (FOND, FOND), {"relabel": 1, "cancel": 1}, actors=2),
    Scenario("warm", (WARM, WARM), {"wait": 1}, actors=2),
    Scenario("warm-and-death", (WARM, WARM), {"actor_kill": 1}, actors=2, fates=(LOST,)),
    Scenario("warm-and-cut", (WARM, WARM), {"cut": 1}, actors=2, victims=A1, fates=(LOST,)),
    Scenario("warm-and-lease", (WARM,), {"stall": 1, "wait": 1}, actors=2, victims=A1),
    Scenario("warm-ahead", (KEPT_WARM,) * 3, {}, actors=2, prefetch=1),
    Scenario("copies", (BOXED, BOXED), {"cancel": 1}, actors=2),
    Scenario("named", COUNTS, actors=2),
    Scenario("named-death", COUNTS[:2], {"actor_kill": 1}, actors=2),
    Scenario("named-deaths", COUNTS[:2], {"actor_kill": 2}, fates=(LOST,)),
    Scenario("named-memory", COUNTS, {"actor_kill": 1}, fates=(LOST,)),
    Scenario("named-death-of-once", COUNTS_ONCE, {"actor_kill": 1}),
    Scenario("named-restart", COUNTS[:2], {"broker_kill": 1}, fates=(LOST,)),
    Scenario("named-cut", COUNTS, {"cut": 1}, victims=A1),
    Scenario("named-lease", COUNTS[:2], {"stall": 1, "wait": 1}, actors=2, victims=A1),
    Scenario("named-given-up", COUNTS[:2], **AWAY),
    Scenario("named-given-up-of-once", COUNTS_ONCE, **AWAY),
    Scenario("two-clients", (PLAIN, OTHER), {"client_kill": 1, "wait": 1}, 2, victims=C1),
    Scenario("two-clients-cut", (PLAIN, OTHER), {"cut": 1, "cancel": 1}, 2, victims=C1),
)
# More at once: minutes, or hours.
DEEP = named(
    strict("late-grant", {"ask": 1, "freeze": 1, "wait": 1}, calls=(PLAIN, LIMITED)),
    strict("restarts", {"broker_kill": 2, "stall": 1, "wait": 2}, is_under_way=True),
    strict("late-frames", {"broker_kill": 1, "stall": 1, "wait": 2}, fates=(LOST, KEPT)),
    strict("wishes", {"release": 1, "reacquire": 1, "cancel": 1, "stall": 1, "wait": 2}),
    Scenario("warm-and-leases", (WARM, WARM), {"stall": 1, "wait": 1}, actors=2, victims=A1),
    Scenario("named-leases", COUNTS[:2], {"stall": 1, "wait": 2}, actors=2, victims=A1),
    Scenario("named-death-and-cut", COUNTS[:2], {"actor_kill": 1, "cut": 1}, actors=2),
    Scenario("circle-and-cut", TWO, {"ask": 4, "cut": 1}, slots=2, victims=A1, fates=(LOST,)),
    Scenario("limit-and-restart", (LIMITED, LIMITED), {"broker_kill": 1}, actors=2, fates=(LOST,)),
    Scenario("reject-and-cut", (PLAIN, LARGE), {"relabel": 1, "cut": 1}, prefetch=1, victims=A1),
    Scenario("two-cuts-and-two-calls", TWO, {"cut": 2}, victims=A1),
    Scenario("cut-and-restart-of-once", (ONCE,), {"cut": 1, "broker_kill": 1}, victims=A1),
    Scenario("two-clients-and-restart", (PLAIN, OTHER), {"broker_kill": 1}, 2),
    Scenario("reject-and-restart", (PLAIN, LARGE), {"broker_kill": 1, "relabel": 1}, prefetch=1),
    Scenario("recall-and-cut", (PLAIN, *TWO), {"cut": 1}, actors=2, prefetch=1, victims=A1),
    Scenario("two-restarts", moves={"broker_kill": 2}),
    Scenario(
        "late-adoption",
        actors=2,
        moves={"stall": 1, "broker_kill": 1, "wait": 1},
        victims=A1,
        fates=(LOST,),
    ),
    Scenario("release-and-restart", TWO, {"release": 1, "reacquire": 1, "broker_kill": 1}),
    Scenario("restart-of-two", TWO, {"broker_kill": 1}, actors=2),
    Scenario("report-and-restart", moves={"actor_kill": 1, "broker_kill": 1}, has_host=True),
    Scenario(
        "death-and-restart-of-once",
        (ONCE,),
        {"broker_kill": 1, "actor_kill": 1},
        actors=2,
        victims=A1,
    ),
    Scenario("recall-and-restart", (PLAIN, *TWO), {"broker_kill": 1}, actors=2, prefetch=1),
    Scenario("everything-once", TWO, dict.fromkeys(BUDGETS, 1), actors=2, prefetch=1),
)
