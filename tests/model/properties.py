"""What must hold after each step, and what has to be remembered to tell.

Each core's own `check` holds after each event besides, and that every path ends at rest is
demanded in `rest`.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

from tests.model.boards import FROZEN
from tests.model.processes import LIMIT, MEMORY
from tests.model.scenarios import AWAY, FAULTS, HALTS, RETRIES
from wire.codec import decode_failure
from wire.errors import Code
from wire.messages import Result
from wire.parts import Status

if TYPE_CHECKING:
    from tests.model.world import World


class Violation(Exception):
    """Something that must not happen has happened."""


class Start(NamedTuple):
    """A run that began: under which token, in which process of which place."""

    token: Any
    place: int
    process: int
    # Whether the broker gave it up since it did not hear its actor: then another may run.
    is_fenced: bool = False
    # Whether it raised, and what was not to be tried again.
    has_failed: bool = False
    is_final: bool = False


class Load(NamedTuple):
    """An environment that is loaded, or being loaded: in which process of which place."""

    place: int
    process: int
    is_fenced: bool = False


class Call(NamedTuple):
    """What is known of one call."""

    is_submitted: bool = False
    is_canceled: bool = False
    is_resolved: bool = False
    # Whether its client has a result, which the named actor must not forget.
    is_counted: bool = False
    starts: tuple[Start, ...] = ()
    # Where it loaded its environment, and how many waits were left when it was submitted.
    loads: tuple[Load, ...] = ()
    waits: int = 0

    @property
    def is_wanted(self) -> bool:
        return self.is_submitted and not self.is_canceled and not self.is_resolved

    def fenced(self, place: int, process: int) -> "Call":
        """Return the call with its runs in one process given up."""
        starts = tuple(
            start._replace(is_fenced=True)
            if (start.place, start.process) == (place, process)
            else start
            for start in self.starts
        )
        loads = tuple(
            load._replace(is_fenced=True)
            if (load.place, load.process) == (place, process)
            else load
            for load in self.loads
        )
        is_same = starts == self.starts and loads == self.loads
        return self if is_same else self._replace(starts=starts, loads=loads)

    def is_fenced_in(self, place: int, process: int) -> bool:
        """Tell whether the call was given up where it loads its environment to begin then."""
        return any(
            (one.place, one.process, True) == (place, process, one.is_fenced) for one in self.loads
        )

    def failed(self, token: Any, is_final: bool) -> "Call":
        """Return the call with one of its runs failed."""
        starts = tuple(
            start._replace(has_failed=True, is_final=is_final) if start.token == token else start
            for start in self.starts
        )
        return self if starts == self.starts else self._replace(starts=starts)

    @property
    def failures(self) -> int:
        return sum(start.has_failed for start in self.starts)


# Calls that start once, and those of the named actor; of these the ones that it counts.
ONCE = frozenset({"once", "count-once"})
COUNTED = frozenset({"count", "count-once"})
# How a call ends of which nobody can tell whether it has run.
DOUBT = {
    "once": Code.OUTCOME_UNKNOWN,
    "count-once": Code.ACTOR_LOST,
    "enter-once": Code.ACTOR_LOST,
}
NAMED = COUNTED | {"enter", "enter-once"}


def must_hold(truth: bool, else_what: str) -> None:
    if not truth:
        raise Violation(else_what)


def started(world: "World", number: int, start: Start) -> Call:
    """Return the call with one more run, if there may be one."""
    call = world.calls[number]
    kind = world.scenario.calls[number][1]
    memory = world.facts(start.place).memory
    must_hold(kind != "large" or memory == MEMORY[0], "a call starts where its labels do not hold")
    if kind in NAMED:
        named_started(world, number, start)
    for former in call.starts:
        must_hold(former.token != start.token, "an assignment is started twice")
        must_hold(kind not in ONCE, "a call is started twice that may start once")
        is_alive = world.peers[former.place].process == former.process
        is_alive = is_alive and world.peers[former.place].core >= 0
        # Who enters it once more changes nothing in it.
        is_alive = is_alive and not (kind in NAMED - COUNTED and has_been_away(world))
        # What is lost with its process nobody knows.
        must_hold(not (former.is_final and is_alive), "what must not be tried again is")
        must_hold(
            start.is_fenced or former.is_fenced or former.has_failed or not is_alive,
            "a call is run again although its actor lives and its lease is not over",
        )
    return call._replace(starts=(*call.starts, start))


def loaded(world: "World", number: int, load: Load) -> Call:
    """Return the call with one more copy loaded for it, if none is there that it had to wait for.

    What the broker has given up may be there without its knowing, as far as it knew.
    """
    call = world.calls[number]
    has_waited = world.is_resting or call.waits > world.left[world.can["wait"]]
    for other in world.calls:
        for former in other.loads:
            peer = world.peers[former.place]
            is_there = peer.process == former.process and peer.core >= 0
            must_hold(
                has_waited or not is_there or former.is_fenced or load.is_fenced,
                f"call {number + 1} loads one more copy at once",
            )
    return call._replace(loads=(*call.loads, load))


def named_started(world: "World", number: int, start: Start) -> None:
    """Assert that a call starts in its caller's order, and nowhere else than the others."""
    calls, owners = world.calls, world.scenario.calls
    client = owners[number][0]
    if not calls[number].starts:
        for ahead, call in enumerate(calls[:number]):
            is_first = owners[ahead] == (client, owners[ahead][1]) and owners[ahead][1] in NAMED
            is_over = bool(call.starts) or not call.is_wanted
            must_hold(is_over or not is_first, f"call {number + 1} overtakes call {ahead + 1}")
    for call in calls:
        for other in call.starts:
            peer = world.peers[other.place]
            is_alive = peer.process == other.process and peer.core >= 0
            if (other.place, other.process) == (start.place, start.process) or not is_alive:
                continue
            runs = other.token in world.facts(other.place).inside
            must_hold(
                not runs or other.is_fenced or start.is_fenced,
                "a named actor runs calls in two processes",
            )


def counts(world: "World", number: int, body: bytes) -> None:
    """Assert that a result tells of its own call, and of all that its client knew to be counted."""
    client = world.scenario.calls[number][0]
    counted = body.partition(b" ")[0].split(b",")
    for other, call in enumerate(world.calls[: number + 1]):
        owner, kind = world.scenario.calls[other]
        if owner == client and kind in COUNTED and (other == number or call.is_counted):
            incarnation = world.incarnation(client, world.peers[client].process)
            name = b"%d-%d" % (incarnation, world._own_number(other))
            must_hold(name in counted, f"call {number + 1} does not know of call {other + 1}")


def resolved(world: "World", number: int, result: Result, body: bytes) -> Call:
    """Return the call with its one outcome, if that may be."""
    call = world.calls[number]
    must_hold(not call.is_resolved, "a second outcome reaches the client")
    must_hold(not call.is_canceled, "an outcome reaches a client that canceled")
    if result.actor and result.status in {Status.RESULT, Status.CANCELED}:
        tokens = [b"%d.%d" % start.token for start in call.starts]
        must_hold(body.rpartition(b" ")[2] in tokens, f"no run made the outcome {body!r}")
        must_hold(result.status is Status.RESULT, "a run that was wanted ends as canceled")
        is_counted = world.scenario.calls[number][1] in COUNTED
        if is_counted:
            counts(world, number, body)
        call = call._replace(is_counted=is_counted)
    elif result.actor and result.status is Status.FAILURE:
        failure = decode_failure(body)
        of = [b"%d.%d" % start.token for start in call.starts if start.has_failed]
        must_hold(failure.message.rpartition(" ")[2].encode() in of, f"no run made {failure}")
        is_enough = not failure.retriable or call.failures > RETRIES
        must_hold(is_enough, f"it is given up after {call.failures} failures")
    else:
        code = decode_failure(body).code
        kind = world.scenario.calls[number][1]
        # What was begun for a client that is away for long its actor has, and nobody else.
        is_in_doubt = kind in COUNTED and has_been_away(world)
        doubts = {DOUBT.get(kind), Code.OUTCOME_UNKNOWN if is_in_doubt else None}
        must_hold(code in doubts, f"the outcome is {code}")
        must_hold(has_struck(world), "nothing went wrong, and the outcome is unknown")
    must_hold(
        result.attempt <= 1 + losses(world) + call.failures,
        "a try is burned although nobody was lost and nothing failed",
    )
    return call._replace(is_resolved=True)


def happened(world: "World", name: str) -> int:
    return world.scenario.moves.get(name, 0) - world.left[world.can[name]]


def has_been_away(world: "World") -> bool:
    """Tell whether a broker may have given up a client that came back."""
    return all(happened(world, name) for name in AWAY["moves"])


def has_struck(world: "World") -> bool:
    """Tell whether there was any fault."""
    return any(happened(world, name) for name in FAULTS)


def losses(world: "World") -> int:
    """Count how often an actor may have been lost with what it ran."""
    deaths = sum(
        peer.process - 1 for place, peer in enumerate(world.peers) if world.is_actor[place]
    )
    # One that leaves, then or later, has nothing left.
    unheard = sum(happened(world, name) for name in ("stall", "mute", *HALTS))
    return max(0, deaths - happened(world, "drain")) + unheard


def limits_hold(world: "World") -> None:
    """Assert that no more has the limit at once than there is, of those that have their lease."""
    held = [
        name
        for place, peer in enumerate(world.peers)
        if world.is_actor[place] and peer.core >= 0 and not peer.is_given_up
        for _, name in world.facts(place).limited
    ]
    must_hold(all(held.count(name) <= LIMIT.maximum for name in held), f"{held} are held at once")


def strict_limits_hold(world: "World") -> None:
    """Assert that no more runs have a strict limit than may, wherever they run, whoever knows it.

    A process that is stopped does nothing, and looks at the clock before it does.
    """
    inside = [
        world.names[place]
        for place, peer in enumerate(world.peers)
        if world.is_actor[place] and peer.core >= 0 and peer.halted != FROZEN
        for name in world.facts(place).occupied
        if name == LIMIT.name
    ]
    must_hold(len(inside) <= LIMIT.maximum, f"{inside} have a strict limit at once")


def copies_hold(world: "World") -> None:
    """Assert that an environment has no more copies than it may have, where nobody is lost."""
    copies = sum(
        world.facts(place).has_copy
        for place, peer in enumerate(world.peers)
        if world.is_actor[place] and peer.core >= 0 and not peer.is_given_up
    )
    must_hold(copies <= 1, "an environment of one copy has two")
