"""Whom the broker does not hear, or who does not hear it, is given nothing (protocol.md 10).

Both are told from the frames alone, each as if the broker had looked as late as it may. A time for
which the broker was stopped itself counts for nobody.
"""

from math import inf
from typing import TYPE_CHECKING, Any

from tests.sim.turns import session_of
from wire.messages import ActorHello, Beat, ClientHello, HostHello
from wire.session import transfer_s

if TYPE_CHECKING:
    from tests.sim.actors import ActorProcess
    from tests.sim.processes import Process
    from tests.sim.records import TaskRecord
    from tests.sim.world import World

SUSPECT_S = 2.0
# How late the broker looks at its clocks.
LATE_S = 0.25
SLACK_S = 1e-6
HELLOS = (ActorHello, ClientHello, HostHello)


class Unheard:
    """The frames of one session that its actor has not received."""

    def __init__(self) -> None:
        """Begin with none."""
        self.sent = self.received = 0
        # Since when the next one that it does not have can be missed.
        self.since = inf


class Silence:
    """What the broker has heard of each actor, and each actor of the broker."""

    def __init__(self, world: "World") -> None:
        """Begin with nobody heard."""
        self.world = world
        self.heard_at: dict[int, float] = {}
        self.sessions: dict[Any, Unheard] = {}

    def heard(self, peer: "Process", frame: Any) -> None:
        """Note that the broker hears *peer*, whatever it thinks of that."""
        first = frame.commands[0] if frame is not None and frame.commands else None
        self.check_undisturbed(peer, frame, first)
        if peer.kind != "actor":
            return
        # What tells of a large message is heard until that may be here.
        ahead_s = transfer_s(first.ahead) if isinstance(first, Beat) else 0.0
        self.heard_at[peer.incarnation] = self.world.now + ahead_s
        known = self.sessions.get(session_of(peer, frame)) if frame is not None else None
        if known is not None and frame.received > known.received:
            known.received = frame.received
            known.since = self.world.now if known.sent > known.received else inf

    @property
    def is_undisturbed(self) -> bool:
        """Tell whether nothing goes wrong but that large messages are on their way."""
        profile = self.world.profile
        return profile.is_heavy and not (profile.faults or profile.along)

    def check_undisturbed(self, peer: "Process", frame: Any, first: Any) -> None:
        """Check that nobody gives a session up where nothing goes wrong."""
        is_anew = type(first) in HELLOS and frame.session > 1
        assert not (is_anew and self.is_undisturbed), f"{peer.name} opens a session anew"

    def lost(self, fields: "dict[str, Any]") -> None:
        """Check that the broker takes no large message for silence where nothing goes wrong."""
        is_silent = "was silent for" in fields["reason"]
        assert not (is_silent and self.is_undisturbed), f"{fields['reason']}, and is there"

    def told(self, actor: "ActorProcess", frame: Any) -> None:
        """Note that a frame is on its way to *actor*."""
        known = self.sessions.setdefault(session_of(actor, frame), Unheard())
        known.sent = frame.number
        known.since = min(known.since, self.world.now)

    def check_assign(self, actor: "ActorProcess", frame: Any, records: "list[TaskRecord]") -> None:
        """Check that what is given to *actor* may be (I29)."""
        world = self.world
        assert world.broker is not None
        started_at, core = world.broker.frozen_until, world.broker.core
        silent_s = world.now - max(self.heard_at[actor.incarnation], started_at)
        assert silent_s < SUSPECT_S + LATE_S + SLACK_S, (
            f"{actor.name} was silent for {silent_s} s and is assigned a task"
        )
        known = self.sessions[session_of(actor, frame)]
        deaf_s = world.now - max(known.since, started_at)
        assert deaf_s < SUSPECT_S + 2 * LATE_S + SLACK_S, (
            f"{actor.name} has received nothing for {deaf_s} s and is assigned a task"
        )
        assert actor.incarnation not in core.dead, f"{actor.name} is dead and is assigned a task"
        there = core.actors.get(actor.incarnation)
        if there is None or not there.is_leaving:
            return
        # Of the calls for which its runs wait each is some run's; whose, the actor checks.
        waited = core.limits.waits.by_run
        for record in records:
            has_run = record.parent in there.assigned or any(t in waited for t in there.assigned)
            assert has_run, f"{record.name} is assigned to {actor.name}, which leaves"
