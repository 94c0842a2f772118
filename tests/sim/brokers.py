"""The broker's process: what its loop does around its core, and where it ends in the middle."""

from typing import TYPE_CHECKING, Any

from broker.core import Broker
from broker.events.defining import define
from broker.settings import Settings
from tests.sim import bounds, ends, kinds, labels, sessions, tallies
from tests.sim.network import Wire, packed
from tests.sim.oracle import STICKY_TTL_S
from tests.sim.processes import Process
from wire.codec import decode_peer, encode
from wire.errors import RemoteProtocolError
from wire.limits import read_definition

if TYPE_CHECKING:
    from tests.sim.world import World

# More than is allowed, where a seed has something huge.
HUGE = 40_000
# The smallest that works.
SMALLEST = {
    "functions_max": 1,
    "templates_max": 1,
    "sticky_keys_max": 1,
    "adopt_window_s": 0.1,
    "client_timeout_s": 1.0,
    "outcome_ttl_s": 60.0,
    "gil_grace_s": 6.0,
    "isolation_s": 1.0,
    "environment_failures_max": 1,
    "environment_retry_s": 0.1,
    "scale_after_s": 0.1,
    "scale_down_s": 0.5,
}
# When nobody leaves who is not needed.
NEVER_S = 3_600.0
# From how late on a broker takes it that it was stopped.
STALL_S = 1.0
# What every broker is told of limits.
LIMITS = ("a=1", "b=2", "k=1:per-key", "c=1:per-key:strategy=cancel-in-progress")
STRICT = "s=1:strict"


class BrokerProcess(Process):
    """The broker."""

    kind = "broker"

    def __init__(self, world: "World", epoch: int) -> None:
        """Start with nothing remembered but *epoch*."""
        super().__init__(world, "broker")
        # At which of POINTS it ends, and at the how manyth time that it comes there.
        self.dies_at: tuple[str, int] | None = None
        self.lying: bounds.Lying
        self.core = Broker(broker_settings(world.profile), epoch=epoch, now=world.now)
        self.core.had_earlier = world.has_journal and world.had_broker
        texts = (*LIMITS, *kinds.limits(world.profile))
        texts += (STRICT,) if world.profile.strict else ()
        for definition in (*map(read_definition, texts), *world.stored_limits()):
            define(self.core, definition, is_stored=True)
        if world.ledger is not None:
            world.ledger.begin(self)
        self.tallies = tallies.Tallies(self.core)

    def turn(self, now: float) -> None:
        """As broker.loop: receive, tick when it is time, send until nobody is unreachable."""
        core = self.core
        self.lying = bounds.Lying(core)
        deadline = core.deadline()
        for wire, (control, payloads) in self.batch():
            try:
                frame = decode_peer(control)
            except RemoteProtocolError as error:
                sessions.at_broker(self, wire.peer, wire.rid, None)
                self.world.oracle.silence.heard(wire.peer, None)
                ends.broker_finds_bad(self, wire.rid, error, now)
            else:
                sessions.at_broker(self, wire.peer, wire.rid, frame)
                self.world.oracle.silence.heard(wire.peer, frame)
                self.receive(wire, frame, list(payloads), now)
        if now >= deadline:
            heard = bounds.leases(core) if now > deadline + STALL_S else {}
            core.tick(now)
            bounds.check_leases(core, heard)
        if self.reaches("received"):
            return
        is_settled, may_pause = False, True
        while not is_settled:
            outgoing = core.flush(now, may_pause=may_pause)
            may_pause, is_settled = False, not core.ready
            for rid, frame, payloads in outgoing:
                control = encode(frame)
                if self.reaches("send"):
                    return
                is_refused = self.finds_no_room()
                message = packed(control, payloads)
                wire_down = None if is_refused else self.world.network.send_down(rid, message)
                if wire_down is None:
                    session = core.sessions.get(rid)
                    if session is not None:
                        self.world.oracle.crashes.unsent(session.peer.incarnation, frame)
                    sessions.unreachable(self, rid)
                    core.unreachable(rid, now)
                    is_settled = False
                    continue
                self.world.told(wire_down.peer, control, frame)
            if self.reaches("flushed"):
                return
            sequence, operations = core.take_operations()
            if operations and self.world.ledger is not None:
                self.world.ledger.submit(self, sequence, operations)
                if self.reaches("submitted"):
                    return
            elif operations:
                self.world.stored_epoch = max(self.world.stored_epoch, core.epoch)
                self.world.after(
                    self.world.rng.choice((0.0, 0.02)),
                    lambda sequence=sequence: self._commit(sequence),
                )
        for event, fields in core.take_notes():
            self.world.broker_noted(event, fields)
        core.tidy()

    def receive(self, wire: Wire, frame: Any, payloads: list[Any], now: float) -> None:
        """Hear a frame, and look whether more was promised than the disk can keep."""
        ledger = self.world.ledger
        refused = ledger.refuses(self.core, wire.peer, frame) if ledger is not None else []
        crashes = self.world.oracle.crashes
        former = crashes.overtaking(self.core, frame) if frame.number == 0 else None
        self.tallies.heard(frame)
        ends.broker_hears(self, wire.peer, wire.rid, frame, payloads, now)
        self.world.oracle.families.heard(self.core, frame)
        self.world.oracle.circles.heard(frame)
        self.world.oracle.keeping.heard(self.core, wire.peer, frame)
        self.world.oracle.counters.heard(wire.peer, frame)
        if former is not None:
            crashes.greeted(self.core, former)
        if ledger is not None and refused:
            ledger.check_refused(self.core, refused)

    def reaches(self, point: str) -> bool:
        """Tell whether it ended at *point*, in the middle of what it does."""
        if self.dies_at is None or self.dies_at[0] != point or not self.is_alive:
            return False
        self.dies_at = (point, self.dies_at[1] - 1)
        if self.dies_at[1] > 0 or self.world.is_healing:
            return False
        self.world.count(f"broker ends at {point}")
        return self.world.kill_broker()

    def _commit(self, sequence: int) -> None:
        if self.is_alive and not self.reaches("announced"):
            self.core.committed(sequence, self.world.now)
            if not self.reaches("committed"):
                self.wake_at(self.world.now)

    def announced(self, sequence: int) -> None:
        """Hear from the journal what is on disk."""
        self._commit(sequence)
        if self.is_alive and self.world.ledger is not None:
            self.world.ledger.check_replay(self)

    def deadline(self) -> float:
        return self.core.deadline()

    def check(self) -> None:
        self.core.check()
        for peer in self.world.peers():
            ends.check_counts(self.core, peer)
        bounds.check_windows(self.core, self.world.oracle)
        bounds.check_tables(self.core)
        self.tallies.looked(self.core)
        labels.check_waiting(self.world)
        self.world.oracle.families.looked(self.core)
        self.world.oracle.crashes.looked(self.core)
        self.world.oracle.keeping.looked(self.core)
        self.world.oracle.rates.looked(self.core)
        self.world.oracle.counters.looked(self.core)

    def end(self) -> None:
        self.is_alive = False
        unread = list(self.inbox)
        self.inbox.clear()
        self.asleep.clear()
        if self.world.ledger is not None:
            self.world.ledger.lose()
        self.world.network.broker_dies(unread)


def broker_settings(profile: Any) -> Settings:
    """Return what a broker is told: some numbers as small as can be, where the seed wants that."""
    shrunk = {name: SMALLEST[name] for name in profile.shrunk if name in SMALLEST}
    if not profile.lets_go:
        shrunk["scale_down_s"] = NEVER_S
    return Settings(
        sticky_ttl_s=STICKY_TTL_S,
        window_tasks=profile.window_tasks,
        window_bytes=profile.window_bytes,
        payload_bytes_max=HUGE // 2 if profile.huge else 2**28,
        **shrunk,
    )
