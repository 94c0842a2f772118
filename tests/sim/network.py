"""Connections between peers and the broker: first in first out, slow, cut, frames lost or kept.

A cut makes a new connection with a new routing id, as a TCP reconnect does. Either end may notice
late, and what it sends until then goes nowhere. Kept frames are still read, by default before
anything of the new connection.
"""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.sim import large

if TYPE_CHECKING:
    from tests.sim.processes import Process
    from tests.sim.world import World

Message = tuple[bytes, tuple[bytes, ...]]


class Pipe:
    """One direction of a connection."""

    __slots__ = (
        "awaits",
        "is_dead",
        "last",
        "messages",
        "receiver",
        "stalled_until",
        "wire",
        "world",
    )

    def __init__(self, world: "World", wire: "Wire", floor: float) -> None:
        """Deliver nothing before *floor*."""
        self.world = world
        self.wire = wire
        self.messages: deque[tuple[float, Message]] = deque()
        self.last = floor
        self.stalled_until = 0.0
        self.is_dead = False
        self.receiver: Process | None = None
        # What is to happen to the next message.
        self.awaits: Callable[[Pipe], None] | None = None

    def send(self, message: Message) -> None:
        """Let *message* arrive after a while, behind all others."""
        world, profile = self.world, self.world.profile
        rng = world.rng
        delay = rng.uniform(0.0, profile.delay_s)
        if rng.random() < 0.02:
            delay = rng.uniform(0.0, profile.delay_max_s)
            if delay > 1.0:
                world.count("delay")
        if profile.is_heavy and not world.is_healing:
            delay += large.takes_s(world, message)
        self.last = max(self.last, world.now + delay)
        self.messages.append((self.last, message))
        world.at(self.last, self.arrive)
        if self.awaits is not None:
            act, self.awaits = self.awaits, None
            act(self)

    def strike(self, act: "Callable[[Pipe], None]") -> None:
        """Do something to what is on its way, or else to what comes next."""
        if self.messages:
            act(self)
        else:
            self.awaits = act

    def arrive(self) -> None:
        """Hand over what has arrived by now."""
        if self.is_dead or self.receiver is None:
            return
        if self.stalled_until > self.world.now:
            self.world.at(self.stalled_until, self.arrive)
            return
        while self.messages and self.messages[0][0] <= self.world.now:
            _, message = self.messages.popleft()
            if self.wire.is_cut and self.wire.peer.wire not in (None, self.wire):
                self.world.count("out of order")
            self.receiver.hear(self.wire, message)

    @property
    def octets(self) -> int:
        """Return how much is on its way."""
        return sum(map(size_of, (message for _, message in self.messages)))

    def stall(self, until: float) -> None:
        """Let nothing arrive before *until*."""
        self.stalled_until = max(self.stalled_until, until)
        self.last = max(self.last, until)

    def truncate(self, octets: int) -> None:
        """Lose all but the messages that lie wholly within the next *octets*."""
        whole = 0
        for _, message in self.messages:
            octets -= size_of(message)
            if octets < 0:
                break
            whole += 1
        while len(self.messages) > whole:
            self.messages.pop()

    def take(self) -> list[Message]:
        """Return what did not arrive, and deliver nothing more."""
        self.is_dead = True
        messages = [message for _, message in self.messages]
        self.messages.clear()
        return messages


class Wire:
    """One connection of one peer."""

    __slots__ = (
        "down",
        "ending",
        "garbled",
        "is_cut",
        "is_garbled",
        "is_known_to_broker",
        "peer",
        "rid",
        "up",
    )

    def __init__(self, world: "World", peer: "Process", rid: bytes) -> None:
        """Connect *peer* to the broker that runs now."""
        self.rid = rid
        self.peer = peer
        self.is_cut = False
        self.is_garbled = False
        # The frame that was spoiled.
        self.garbled: bytes | None = None
        # The fault that ended it, where one did that is told apart.
        self.ending = ""
        self.is_known_to_broker = True
        self.up = Pipe(world, self, peer.up_floor)
        self.down = Pipe(world, self, peer.down_floor)
        self.up.receiver = world.broker
        self.down.receiver = peer


class Network:
    """Every connection, and what was kept of those that are gone."""

    def __init__(self, world: "World") -> None:
        """Begin with nobody connected."""
        self.world = world
        self.wires: dict[bytes, Wire] = {}
        # Of which the broker knows that they are gone, and the fault that ended each.
        self.gone: dict[bytes, str] = {}
        self._serial = 0

    def connect(self, peer: "Process") -> None:
        """Connect *peer*, now or as soon as there is a broker."""
        world = self.world
        if peer.wire is not None or not peer.is_alive:
            return
        broker = world.broker
        if broker is None or not broker.is_alive or peer.partitioned_until > world.now:
            world.after(world.rng.uniform(0.05, 0.5), lambda: self.connect(peer))
            return
        self._serial += 1
        wire = peer.wire = Wire(world, peer, b"rid%d" % self._serial)
        self.wires[wire.rid] = wire
        world.note("connects", peer, wire.rid)
        kept, peer.kept_up = peer.kept_up, []
        if peer.ending:
            world.count(f"{peer.ending}: {'with' if kept else 'without'} frames")
            peer.ending = ""
        for message in kept:
            wire.up.send(message)
        peer.connected()

    def send_up(self, peer: "Process", message: Message) -> bool:
        """Send for *peer*; False when it knows of no connection."""
        wire = peer.wire
        if wire is None:
            return False
        if wire.is_cut:
            self.world.count(f"{wire.ending}: sent into nothing")
        else:
            wire.up.send(message)
        return True

    def send_down(self, rid: bytes, message: Message) -> Wire | None:
        """Send for the broker; None when it knows that the connection is gone."""
        wire = self.wires.get(rid)
        if wire is None or not wire.is_known_to_broker:
            self.world.count(f"{self.gone.get(rid, '')}: said so")
            return None
        if wire.is_cut:
            self.world.count(f"{wire.ending}: sent into nothing")
        else:
            wire.down.send(message)
        return wire

    def cut(
        self,
        wire: Wire,
        *,
        keeps_up: bool,
        keeps_down: bool,
        notices: tuple[float, float] | None = None,
    ) -> None:
        """Cut *wire*. Each end notices after a while of its own, the peer and the broker."""
        if wire.is_cut:
            return
        world, peer = self.world, wire.peer
        wire.is_cut = True
        world.note("CUT", peer, wire.rid, f"up kept {keeps_up}", f"down kept {keeps_down}")
        for pipe, keeps in ((wire.up, keeps_up), (wire.down, keeps_down)):
            if not keeps:
                pipe.take()
        if world.profile.ordered:
            peer.up_floor = max(peer.up_floor, wire.up.last, wire.up.stalled_until)
            peer.down_floor = max(peer.down_floor, wire.down.last, wire.down.stalled_until)
        peer_s, broker_s = notices or (self._notice(), self._notice())
        world.after(peer_s, lambda: self.peer_notices(wire))
        world.after(broker_s, lambda: self.broker_notices(wire))

    def peer_notices(self, wire: Wire) -> None:
        """Let the peer's socket find out, and connect again after a while."""
        peer = wire.peer
        if peer.wire is wire:
            peer.wire = None
            self.world.after(self.world.rng.uniform(0.05, 0.5), lambda: self.connect(peer))

    def broker_notices(self, wire: Wire) -> None:
        """Let the broker's socket find out; the core hears of it when it sends."""
        wire.is_known_to_broker = False
        self.wires.pop(wire.rid, None)
        if wire.ending:
            self.gone[wire.rid] = wire.ending

    def broker_dies(self, unread: list[tuple[Wire, Message]]) -> None:
        """End every connection. What was on its way to the broker may reach the next one."""
        for wire in list(self.wires.values()):
            peer = wire.peer
            keeps = self.world.rng.random() >= self.world.profile.lost
            if keeps and not wire.is_cut and peer.is_alive:
                peer.kept_up = [m for w, m in unread if w is wire] + wire.up.take()
                peer.down_floor = max(peer.down_floor, wire.down.last)
            else:
                wire.up.take()
                wire.down.take()
            wire.is_cut = True
            self.world.after(
                self.world.rng.uniform(0.0, 0.2), lambda wire=wire: self.peer_notices(wire)
            )
        self.wires.clear()

    def _notice(self) -> float:
        rng = self.world.rng
        return rng.choice((0.0, 0.0, rng.uniform(0.0, 4.0)))


def size_of(message: Message) -> int:
    """Return how many octets a message has on the wire."""
    control, payloads = message
    return len(control) + sum(map(len, payloads))


def packed(control: bytes, payloads: Any) -> Message:
    """Make a message as it stands on the wire."""
    return control, tuple(bytes(part) for part in payloads)
