"""Faults of connections: what is on its way is lost, late, repeated, cut off or spoiled."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tests.sim.faults import LONG_S, down_s, fault, long_s, some, some_peer
from tests.sim.network import Pipe, Wire
from tests.sim.strangers import Stranger
from wire.codec import decode_peer
from wire.errors import RemoteProtocolError
from wire.messages import Death, Outcome

if TYPE_CHECKING:
    from tests.sim.processes import Process
    from tests.sim.world import World

# TCP gives up what nobody acknowledges after this.
HALF_OPEN_S = 30.0
# How late a report of a death is at worst: within a lease, so that it is no loss of the host.
REPORT_S = 4.0


def some_wire(world: "World") -> Wire | None:
    """Draw a connection of those that live."""
    peer = some_peer(world)
    return peer.wire if peer is not None else None


def strike_pipe(world: "World", act: Callable[[Pipe], None]) -> bool:
    """Do something to a message of a connection, which is on its way or comes next."""
    wire = some_wire(world)
    if wire is None or wire.is_cut:
        return False
    world.rng.choice((wire.up, wire.down)).strike(act)
    return True


@fault
def lose(world: "World") -> bool:
    """Lose one frame in the middle of a connection."""

    def act(pipe: Pipe) -> None:
        world.note("LOST", pipe.wire.peer, "a frame")
        del pipe.messages[world.rng.randrange(len(pipe.messages))]

    return strike_pipe(world, act)


@fault
def repeat(world: "World") -> bool:
    """Let a frame that is on its way arrive once more, now or later."""

    def act(pipe: Pipe) -> None:
        _, message = world.rng.choice(pipe.messages)
        if message[0] == pipe.wire.garbled:
            return  # As often as that can be said it would end its connection for good.
        world.note("REPEATED", pipe.wire.peer)
        if world.rng.random() < 0.5:
            pipe.send(message)
        else:
            world.after(down_s(world), lambda: pipe.is_dead or pipe.send(message))

    return strike_pipe(world, act)


@fault
def garble(world: "World") -> bool:
    """Spoil a frame of a peer, once a connection: the third time would end it for good."""
    wire = some_wire(world)
    if wire is None or wire.is_cut or wire.is_garbled:
        return False
    wire.is_garbled = True
    wire.up.strike(lambda pipe: spoil(world, pipe))
    return True


def spoil(world: "World", pipe: Pipe) -> None:
    """Spoil a frame in such a way that it cannot be read, and is none of another version."""
    place = world.rng.randrange(len(pipe.messages))
    when, (control, payloads) = pipe.messages[place]
    spoiled = bytearray(control[: world.rng.randint(0, len(control))])
    for _ in range(world.rng.randint(0, 3)):
        if spoiled:
            spoiled[world.rng.randrange(len(spoiled))] ^= 1 << world.rng.randrange(8)
    try:
        decode_peer(bytes(spoiled))
    except RemoteProtocolError as error:
        if error.fatal:
            spoiled.clear()
    else:
        spoiled.clear()
    world.note("GARBLED", pipe.wire.peer)
    world.count("garbage")
    pipe.wire.garbled = bytes(spoiled)
    pipe.messages[place] = (when, (pipe.wire.garbled, payloads))


@fault
def cut(world: "World") -> bool:
    wire = some_wire(world)
    if wire is None or wire.is_cut:
        return False
    keeps = [world.rng.random() >= world.profile.lost for _ in range(2)]
    world.network.cut(wire, keeps_up=keeps[0], keeps_down=keeps[1])
    return True


def end_apart(world: "World", ending: str, notices: tuple[float, float]) -> Wire | None:
    """Cut a connection, nothing of it kept, and remember by which fault."""
    wire = some_wire(world)
    if wire is None or wire.is_cut:
        return None
    wire.ending = ending
    world.network.cut(wire, keeps_up=False, keeps_down=False, notices=notices)
    return wire


@fault
def unreachable(world: "World") -> bool:
    """Cut a connection, which the broker's socket knows at once: the next send says so."""
    return end_apart(world, "unreachable", (world.rng.uniform(0.0, 4.0), 0.0)) is not None


@fault
def silent_drop(world: "World") -> bool:
    """Cut a connection so that for a while sends succeed at both ends, and nothing arrives."""
    notices = (world.rng.uniform(0.1, 4.0), world.rng.uniform(0.1, 4.0))
    return end_apart(world, "silent_drop", notices) is not None


@fault
def connect_empty(world: "World") -> bool:
    """Let a peer connect again; what its socket had not sent is lost."""
    wire = end_apart(world, "connect_empty", (0.0, 0.0))
    if wire is not None:
        wire.peer.ending = wire.ending
    return wire is not None


@fault
def connect_full(world: "World") -> bool:
    """Let a peer connect again; what its socket had not sent is sent in the new connection."""
    wire = some_wire(world)
    if wire is None or wire.is_cut:
        return False

    def act(pipe: Pipe) -> None:
        if not wire.is_cut and wire.peer.is_alive:
            wire.peer.kept_up += pipe.take()
            wire.peer.ending = wire.ending = "connect_full"
            world.network.cut(wire, keeps_up=False, keeps_down=False, notices=(0.0, 0.0))

    wire.up.strike(act)
    return True


@fault
def truncate(world: "World") -> bool:
    """Cut a connection after so many octets of what is on its way."""
    wire = some_wire(world)
    if wire is None or wire.is_cut:
        return False

    def act(struck: Pipe) -> None:
        for pipe in (wire.up, wire.down):
            pipe.truncate(world.rng.randint(0, pipe.octets))
        world.count("cut at an octet")
        world.network.cut(wire, keeps_up=True, keeps_down=True)

    world.rng.choice((wire.up, wire.down)).strike(act)
    return True


@fault
def half_open(world: "World") -> bool:
    """Cut a connection of which one end does not hear for long."""
    wire = some_wire(world)
    if wire is None or wire.is_cut:
        return False
    late_s = world.rng.uniform(0.0, HALF_OPEN_S)
    notices = world.rng.choice(((0.0, late_s), (late_s, 0.0)))
    world.network.cut(wire, keeps_up=False, keeps_down=False, notices=notices)
    return True


@fault
def flap(world: "World") -> bool:
    """Cut what a peer has for a connection again and again."""
    peer = some_peer(world)
    if peer is None or peer.wire is None:
        return False
    at = world.now
    for _ in range(world.rng.randint(3, 6)):
        world.at(at, lambda: cut_again(world, peer))
        at += world.rng.uniform(0.05, 1.0)
    return True


def cut_again(world: "World", peer: "Process") -> None:
    """Cut, when there is something to cut, so that both ends know at once."""
    if peer.wire is not None and not world.is_healing:
        keeps = world.rng.random() >= world.profile.lost
        world.network.cut(peer.wire, keeps_up=keeps, keeps_down=keeps, notices=(0.0, 0.0))


@fault
def partition(world: "World") -> bool:
    """Let nothing through for a while, both ways."""
    wire = some_wire(world)
    if wire is None:
        return False
    until = world.now + long_s(world)
    world.note("PARTITIONED", wire.peer, f"until {until:.3f}")
    for pipe in (wire.up, wire.down):
        pipe.stall(until)
    if world.rng.random() < 0.3:
        wire.peer.partitioned_until = until
        world.network.cut(wire, keeps_up=False, keeps_down=False)
    return True


@fault
def one_way(world: "World") -> bool:
    """Let nothing through for a while, one way."""
    wire = some_wire(world)
    if wire is None:
        return False
    until = world.now + long_s(world)
    pipe = world.rng.choice((wire.up, wire.down))
    way = "up" if pipe is wire.up else "down"
    world.note("PARTITIONED", wire.peer, f"{way} until {until:.3f}")
    pipe.stall(until)
    return True


@fault
def late_result(world: "World") -> bool:
    """Let an outcome come later than any lease."""
    return holds_up(world, some(world, world.actors), Outcome, "outcome", LONG_S)


@fault
def late_report(world: "World") -> bool:
    """Let the report of a death come later than the HELLO of the process that follows."""
    host = some(world, world.hosts.values())
    if host is None or not holds_up(world, host, Death, "report", REPORT_S):
        return False
    victim = some(world, host.actors.values())
    if victim is not None:
        victim.die(signal=9)
    return True


def holds_up(world: "World", peer: Any, kind: type, what: str, at_most_s: float) -> bool:
    """Let the next of *kind* that *peer* says, and what stands behind it, come later."""
    if peer is None or peer.wire is None or peer.wire.is_cut:
        return False

    def act(pipe: Pipe) -> None:
        if not has(pipe, kind):
            pipe.awaits = act
            return
        until = world.now + world.rng.uniform(0.0, at_most_s)
        world.note("LATE", peer, f"{what}, until {until:.3f}")
        world.count(f"late {what}")
        pipe.stall(until)

    peer.wire.up.strike(act)
    return True


def has(pipe: Pipe, kind: type) -> bool:
    """Tell whether something of *kind* is on its way."""
    said = (command for _, (control, _) in pipe.messages for command in commands_in(control))
    return any(type(command) is kind for command in said)


def commands_in(control: bytes) -> Sequence[object]:
    """Return what a message says; nothing when it is spoiled."""
    try:
        return decode_peer(control).commands
    except RemoteProtocolError:
        return ()


@fault
def refuse_send(world: "World") -> bool:
    """Let the next sends of somebody find no room, as EAGAIN says."""
    peer = world.rng.choice((world.broker, some_peer(world)))
    if peer is None or not peer.is_alive:
        return False
    peer.refused += world.rng.randint(1, 2)
    return True


@fault
def stranger(world: "World") -> bool:
    """Let somebody connect who says what nobody may say."""
    world.add(Stranger(world, "stranger", speaks_newer=False))
    return True


@fault
def skew(world: "World") -> bool:
    """Let a peer of another version of the protocol come, which must be told so."""
    world.add(Stranger(world, "newer", speaks_newer=True))
    return True


@fault
def cut_off(world: "World") -> bool:
    """Cut a whole machine off: what its host and its actors say is late, and what they hear."""
    host = some(world, world.hosts.values())
    if host is None:
        return False
    until = world.now + down_s(world)
    world.note("CUT OFF", host, f"until {until:.3f}")
    for peer in (host, *host.actors.values()):
        for pipe in (peer.wire.up, peer.wire.down) if peer.wire is not None else ():
            pipe.stall(until)
    return True
