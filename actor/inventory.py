"""What an actor says of all that it holds: in HELLO, and with each heartbeat."""

from collections.abc import Iterable

from actor.mailbox import Assignment, Mailbox
from actor.settings import Settings
from wire.labels import Labels
from wire.messages import ActorBeat, ActorHello, Credit, Holding, Kept


def make_hello(
    settings: Settings,
    *,
    incarnation: int,
    labels_version: int,
    labels: Labels,
    held: Iterable[Assignment],
    kept: list[Kept],
) -> ActorHello:
    """List what is held and what is kept. Runs that were stopped are nobody's any more."""
    return ActorHello(
        incarnation,
        settings.name,
        settings.host,
        settings.pid,
        settings.python,
        labels_version,
        labels,
        settings.slots,
        settings.prefetch,
        [Holding(a.client, a.task, a.token, a.held) for a in held if not a.is_stopped],
        kept,
    )


def make_beat(credit: Credit, labels_version: int, labels: Labels, mailbox: Mailbox) -> ActorBeat:
    """State everything at once."""
    return ActorBeat(
        credit,
        labels_version,
        labels,
        [a.token for a in mailbox.held.values() if not a.is_stopped],
        {identity: r.warmth.value for identity, r in mailbox.residents.by_id.items()},
    )
