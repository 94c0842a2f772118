"""Hosts: their real core, and what they read of their actors."""

from math import inf
from typing import Any

from actor.machine.board import Runs
from actor.settings import HostSettings
from actor.supervision import HostCore, Phase
from tests.model.peers import PeerFacts, PeerProcess
from tests.model.processes import Messages, long_ago
from wire.codec import decode_broker


class HostProcess(PeerProcess):
    """A host; the world kills its actors and fills their places again."""

    def __init__(self, state: Any) -> None:
        core, self.is_strict = state
        super().__init__(core)
        self.stopped: set[int] = set()

    @classmethod
    def start(
        cls, name: str, incarnation: int, actors: tuple[int, ...], *, is_strict: bool = False
    ) -> "HostProcess":
        settings = HostSettings(name=name, replicas=len(actors))
        core = HostCore(settings, incarnation=incarnation, pid=1, now=0.0)
        for ward, actor in zip(core.take_spawns(), actors, strict=True):
            core.spawned(ward, incarnation=actor, pid=actor, now=0.0)
        return cls((core, is_strict))

    unpack = classmethod(lambda cls, state: cls(state))

    def pack(self) -> Any:
        return self.core, self.is_strict

    def facts(self) -> PeerFacts:
        core, session = self.core, self.core.session
        unrest = "deaths" if core._deaths else ""
        vouches = tuple((ward.incarnation, core.vouches(ward)) for ward in core.running())
        return PeerFacts(
            session.state, session.number, session.sent, unrest=unrest, vouches=vouches
        )

    def settle(self) -> None:
        super().settle()
        if not self.is_strict:
            # Then it does not matter when the host was heard.
            self.core.renewed_at, self.core._probe = -inf, (0, 0.0)

    def broken(self, messages: Messages, numbers: tuple[int, ...]) -> None:
        self.core.broken(0.0)

    def hear(self, messages: Messages, number: int) -> None:
        self.core.receive(decode_broker(messages[number][0]), 0.0)

    def died(
        self, messages: Messages, incarnation: int, started: tuple[Any, ...], doomed: Any = None
    ) -> None:
        """Reap an actor, which has ended by its own will for the sake of those that are doomed."""
        (ward,) = (one for one in self.core.running() if one.incarnation == incarnation)
        if ward.is_ended:
            doomed = ()
        beside = [] if doomed is None else [token for token in started if token not in doomed]
        runs = Runs([token for token in started if token not in beside], [], [], beside)
        self.core.died(
            ward,
            exit_code=None,
            signal=9,
            runs=runs,
            overflow=0,
            is_starved=False,
            has_left=False,
            now=0.0,
        )

    def spawned(self, messages: Messages, incarnation: int) -> None:
        """Fill the place that is empty."""
        ward = next(one for one in self.core.wards if one.phase is Phase.DUE)
        self.core.spawned(ward, incarnation=incarnation, pid=incarnation, now=0.0)

    def read(self, seen: tuple[Any, ...] = ()) -> None:
        """Read of each actor when it was sure to be heard, and whether it is stopped."""
        for incarnation, renewed_at, _ in seen:
            for ward in self.core.running():
                if ward.incarnation == incarnation:
                    ward.renewed_at = renewed_at
        self.stopped = {incarnation for incarnation, _, is_stopped in seen if is_stopped}

    def turn(self, now: float) -> None:
        core = self.core
        core.tick(now)
        self.news += [("kill", ward.incarnation) for ward in core.take_kills()]
        for ward in core.running():
            # All are at work that are not stopped; that more time was used is all that matters.
            is_stopped = ward.incarnation in self.stopped
            core.observed(ward, cpu_s=ward.cpu_s + now * (not is_stopped), is_stopped=is_stopped)
        self.sends += [(None, frame, ()) for frame in core.flush(now)]
        core.take_notes()

    def shift(self, seconds: float) -> None:
        super().shift(seconds)
        core = self.core
        core._now -= seconds
        core._beat_at -= seconds
        for ward in core.wards:
            ward.start_at = 0.0
            ward.started_at = 0.0
            ward.vouched_at = long_ago(ward.vouched_at, seconds)
            if ward.renewed_at is not None:
                ward.renewed_at = long_ago(ward.renewed_at, seconds)
        core.renewed_at = long_ago(core.renewed_at, seconds)
        if core._probe[0]:
            core._probe = (core._probe[0], long_ago(core._probe[1], seconds))
        if self.is_strict:
            core._epoch_at = long_ago(core._epoch_at, seconds)
