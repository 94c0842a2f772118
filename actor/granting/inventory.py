"""What an actor says of all that it holds: in HELLO, and with each heartbeat."""

from typing import TYPE_CHECKING

from actor.holding.mailbox import Assignment
from wire.messages import ActorBeat, ActorHello, Credit
from wire.parts import Held, Holding

if TYPE_CHECKING:
    from actor.core import ActorCore


def closed(core: "ActorCore") -> str:
    """Say why nothing new may start, or why nothing is granted though it may."""
    outcomes = core.outcomes
    if core.standing.closed or outcomes.octets <= core.settings.kept_bytes_max:
        return core.standing.closed
    count, mib = len(outcomes.kept), outcomes.octets // 2**20
    return f"keeping: outcomes ({count}, {mib} MiB) that their clients have not received"


def make_hello(core: "ActorCore") -> ActorHello:
    """List what is held and what is kept. Runs that were stopped are nobody's any more."""
    settings = core.settings
    held = core.mailbox.held.values()
    return ActorHello(
        core.incarnation,
        settings.name,
        settings.host,
        settings.pid,
        settings.python,
        core.labels_version,
        core.labels,
        settings.slots,
        core.prefetch.maximum,
        [
            Holding(a.client, a.task, a.token, a.held, core.occupying.inventory(a), part_of(a))
            for a in held
            if not a.is_stopped
        ],
        core.outcomes.inventory(),
        closed(core),
        settings.release,
        [
            Holding(a.client, a.task, a.token, a.held, limits)
            for a in held
            if a.is_stopped and (limits := core.occupying.inventory(a))
        ],
        settings.environments_max,
    )


def make_beat(core: "ActorCore", credit: Credit) -> ActorBeat:
    """State everything at once."""
    mailbox = core.mailbox
    return ActorBeat(
        credit,
        core.labels_version,
        core.labels,
        [a.token for a in mailbox.held.values() if not a.is_stopped],
        mailbox.residents.states(),
        closed(core),
        [
            (token, part)
            for token in mailbox.unusual
            if (part := part_of(mailbox.held[token])) is not None
        ],
    )


def part_of(assignment: Assignment) -> dict[str, int] | None:
    """Return what slots a run holds that gave back some of its own, None for all or none."""
    if assignment.held is not Held.RUNNING or assignment.slots == assignment.recipe.slots:
        return None
    return assignment.slots
