"""Which states meet which events, beside those of tasks and sessions, so that tests can see it.

Four machines: an assignment in its actor, a call in its client, an actor in the care of its host,
and a named actor in the broker. Each pair is written down as it happens, with the state before.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch

from actor.core import ActorCore
from actor.events import hearing
from actor.settings import EXIT_SPARE
from actor.supervision import HostCore, Phase
from broker.events import residing
from broker.tasks import named as named_actors
from broker.tasks import naming
from sdk.core import ClientCore
from wire.messages import Kill, Recall
from wire.parts import Held

ASSIGNMENT_STATES = (
    "unknown",
    "waiting",
    "entering",
    "running",
    "released",
    "asking",
    "stopped",
    "kept",
)
CALL_STATES = ("unknown", "here", "there")
WARD_STATES = tuple(Phase)
NAMED_STATES = ("unknown", "new", "here", "lost")

Pair = tuple[str, str, str]
# What meets whom when *function* is called with some arguments.
Reading = Callable[..., Iterator[tuple[str, str]]]


def of_assignment(core: ActorCore, token: Any) -> str:
    """Name how an assignment stands in its actor."""
    mailbox = core.mailbox
    held = mailbox.held.get(token)
    if held is None:
        return "kept" if token in core.outcomes.kept else "unknown"
    if held.held is Held.WAITING:
        return "waiting"
    if held.is_stopped:
        return "stopped"
    if token in mailbox.reacquiring:
        return "asking"
    if held.held is Held.RELEASED:
        return "released"
    return "entering" if token in core.entering.until else "running"


def of_call(core: ClientCore, number: int) -> str:
    """Name how a call stands in its client."""
    owned = core.calls.get(number)
    if owned is None:
        return "unknown"
    return "there" if owned.is_there else "here"


def of_named(broker: Any, identity: str) -> str:
    """Name how a named actor stands with the broker."""
    record = broker.named.by_id.get(identity)
    if record is None:
        return "unknown"
    if record.home is not None:
        return "here"
    return "lost" if max(record.generation, record.fence) > naming.NEVER else "new"


# --- an assignment in its actor


def assigned(core: Any, frame: Any, command: Any, payloads: Any) -> Iterator[tuple[str, str]]:
    yield of_assignment(core, (frame.epoch, command.number)), "ASSIGN"


def stopped(core: Any, command: Any) -> Iterator[tuple[str, str]]:
    yield of_assignment(core, (command.epoch, command.number)), "STOP"


def recalled(core: Any, frame: Any, command: Any, *rest: Any) -> Iterator[tuple[str, str]]:
    for token in command.tokens if type(command) is Recall else ():
        yield of_assignment(core, token), "RECALL"


def acknowledged(core: Any, frame: Any, payloads: Any) -> Iterator[tuple[str, str]]:
    for command in frame.commands:
        if hasattr(command, "accepted") and hasattr(command, "stale"):
            for token in (*command.accepted, *command.stale):
                yield of_assignment(core, tuple(token)), "OUTCOME-ACK"


def by_token(event: str) -> Reading:
    def read(core: Any, token: Any, *rest: Any, **more: Any) -> Iterator[tuple[str, str]]:
        yield of_assignment(core, token), event

    return read


def session_begins(core: Any, *rest: Any) -> Iterator[tuple[str, str]]:
    for token in (*core.mailbox.held, *core.outcomes.kept):
        yield of_assignment(core, token), "a new session"


# --- a call in its client


def ended(core: Any, result: Any, *rest: Any) -> Iterator[tuple[str, str]]:
    yield of_call(core, result.task), "RESULT"


def told(core: Any, command: Any, now: float) -> Iterator[tuple[str, str]]:
    match type(command).__name__:
        case "Requeued":
            yield of_call(core, command.task), "REQUEUED"
        case "Accepted":
            for first, last in command.tasks:
                for number in range(first, last + 1):
                    yield of_call(core, number), "ACCEPTED"


def canceled(core: Any, task: int, *rest: Any) -> Iterator[tuple[str, str]]:
    yield of_call(core, task), "cancel"


def failed_here(core: Any, owned: Any, failure: Any) -> Iterator[tuple[str, str]]:
    yield of_call(core, owned.number), "an end of its own"


def welcomed(core: Any, now: float) -> Iterator[tuple[str, str]]:
    missing = core.session.welcome.missing
    for number in core.calls:
        is_missing = any(first <= number <= last for first, last in missing)
        is_known = number <= core._listed and not is_missing
        yield of_call(core, number), "WELCOME that has it" if is_known else "WELCOME without it"


def disconnected(core: Any, now: float, unsent: Any = ()) -> Iterator[tuple[str, str]]:
    for number in core.calls:
        yield of_call(core, number), "no connection"


# --- an actor in the care of its host


def of_ward(event: str) -> Reading:
    def read(core: Any, ward: Any, *rest: Any, **more: Any) -> Iterator[tuple[str, str]]:
        yield ward.phase, event

    return read


def ward_died(core: Any, ward: Any, **more: Any) -> Iterator[tuple[str, str]]:
    event = "an end" if more["exit_code"] != EXIT_SPARE else "an end as one too many"
    yield ward.phase, "an end by order" if more["has_left"] else event


def host_told(core: Any, command: Any) -> Iterator[tuple[str, str]]:
    for ward in core.wards:
        if type(command) is Kill and ward.incarnation == command.incarnation:
            yield ward.phase, "KILL"


def of_wards(event: str) -> Reading:
    def read(core: Any, *rest: Any) -> Iterator[tuple[str, str]]:
        for ward in core.wards:
            yield ward.phase, event

    return read


# --- a named actor in the broker


def of_environment(event: str) -> Reading:
    def read(broker: Any, environment: Any, *rest: Any) -> Iterator[tuple[str, str]]:
        yield of_named(broker, environment.id), event

    return read


def of_task(event: str) -> Reading:
    def read(broker: Any, task: Any, *rest: Any, **more: Any) -> Iterator[tuple[str, str]]:
        yield of_named(broker, task.call.environment.id), event

    return read


def of_record(event: str) -> Reading:
    def read(broker: Any, record: Any, *rest: Any, **more: Any) -> Iterator[tuple[str, str]]:
        yield of_named(broker, record.id), event

    return read


def named_lost(broker: Any, actor: Any, *rest: Any, **more: Any) -> Iterator[tuple[str, str]]:
    for record in broker.named.by_id.values():
        if record.home is actor:
            yield of_named(broker, record.id), "the end of its process"


def named_resides(broker: Any, session: Any, command: Any, *r: Any) -> Iterator[tuple[str, str]]:
    yield of_named(broker, command.call.environment.id), "RESIDES"


WATCHED: tuple[tuple[str, Any, str, Reading], ...] = (
    ("assignment", hearing, "assign", assigned),
    ("assignment", hearing, "stop", stopped),
    ("assignment", hearing, "hear_other", recalled),
    ("assignment", hearing, "hear", acknowledged),
    ("assignment", ActorCore, "finished", by_token("its end")),
    ("assignment", ActorCore, "release", by_token("release")),
    ("assignment", ActorCore, "reacquire", by_token("reacquire")),
    ("assignment", ActorCore, "entered", by_token("entered")),
    ("assignment", ActorCore, "not_entered", by_token("not entered")),
    ("assignment", ActorCore, "_open", session_begins),
    ("call", ClientCore, "_ended", ended),
    ("call", ClientCore, "_act", told),
    ("call", ClientCore, "cancel", canceled),
    ("call", ClientCore, "_fail", failed_here),
    ("call", ClientCore, "_open", welcomed),
    ("call", ClientCore, "broken", disconnected),
    ("ward", HostCore, "spawned", of_ward("a process")),
    ("ward", HostCore, "failed", of_ward("no process")),
    ("ward", HostCore, "died", ward_died),
    ("ward", HostCore, "_give_up_start", of_ward("a start that hangs")),
    ("ward", HostCore, "_act", host_told),
    ("ward", HostCore, "_scale", of_wards("SCALE")),
    ("ward", HostCore, "drain", of_wards("drain")),
    ("named", named_actors, "admit", of_task("a call")),
    ("named", named_actors, "assigned", of_task("an assignment")),
    ("named", named_actors, "failed", of_environment("a failure to enter")),
    ("named", named_actors, "lost", named_lost),
    ("named", named_actors, "end", of_record("an end for good")),
    ("named", residing, "resides", named_resides),
)


@contextmanager
def watched() -> Iterator[Counter[Pair]]:
    """Let what meets what be counted in what is yielded."""
    met: Counter[Pair] = Counter()

    def watch(machine: str, original: Any, read: Reading) -> Any:
        @wraps(original)
        def watching(*arguments: Any, **more: Any) -> Any:
            for state, event in read(*arguments, **more):
                met[machine, str(state), event] += 1
            return original(*arguments, **more)

        return watching

    with ExitStack() as stack:
        for machine, owner, name, read in WATCHED:
            watching = watch(machine, getattr(owner, name), read)
            stack.enter_context(patch.object(owner, name, watching))
        yield met
