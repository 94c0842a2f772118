"""Whoever connects and does not belong here: garbage, no session, another version."""

from typing import TYPE_CHECKING

from tests.sim.processes import Process
from wire.codec import decode_broker, encode
from wire.errors import Code
from wire.messages import PROTOCOL, Beat, ClientHello, Error, Frame, Who

if TYPE_CHECKING:
    from tests.sim.world import World

STAYS_S = 5.0
HELLO = ClientHello(7, "stranger", "3.11")
GARBAGE = (
    b"",
    b"\x00",
    b"GET / HTTP/1.1\r\n\r\n",
    b"\xff" * 64,
    encode([PROTOCOL, 0, -1, 1, 0, [["beat"]]]),
    encode([PROTOCOL, 2**63, 1, 1, 0, [["beat"]]]),
    encode([PROTOCOL, 0, 1, 1, 0, [["frob"]]]),
    encode([PROTOCOL, 0, 1, 0, 0, [["client-hello", "x", 1, 2, 3]]]),
    encode(Frame(PROTOCOL, 0, 1, 0, 0, [HELLO]))[:-1],
    encode(Frame(PROTOCOL, 0, 1, 1, 0, [Beat()])),
    encode(Frame(PROTOCOL, 1, 3, 9, 9, [])),
)


class Stranger(Process):
    """Says what it has to say, and expects to be told that it is wrong."""

    kind = "stranger"

    def __init__(self, world: "World", name: str, *, speaks_newer: bool) -> None:
        """Begin with what is to be said."""
        super().__init__(world, name)
        self.speaks_newer = speaks_newer
        self.incarnation = world.rng.getrandbits(62)
        version = PROTOCOL + world.rng.choice((1, 1, 7))
        newer = Frame(version, 0, 1, 0, 0, [HELLO])
        # As a newer version would say it: with a field that this one does not know.
        told = encode(newer) if world.rng.random() < 0.5 else encode([version, 0, 1, 0, 0, [], 1])
        self.says = (
            [told] if speaks_newer else world.rng.choices(GARBAGE, k=world.rng.randint(1, 5))
        )

    def connected(self) -> None:
        """Say it all."""
        for control in self.says:
            self.world.network.send_up(self, (control, ()))
        self.says = []
        self.world.after(STAYS_S, self.leave)

    def leave(self) -> None:
        """Go, whatever was answered."""
        if self.is_alive:
            self.end()

    def turn(self, now: float) -> None:
        """Hear ERROR or WHO, and never anything else."""
        for _, (control, _payloads) in self.batch():
            frame = decode_broker(control)
            assert frame.number == 0, "a stranger has a session"
            (command,) = frame.commands
            assert isinstance(command, Error | Who), command
            if self.speaks_newer:
                assert isinstance(command, Error), command
                assert command.fatal, command
                assert command.code == Code.PROTOCOL_MISMATCH, command
                self.world.count("refused as newer")

    def deadline(self) -> float:
        """Want nothing."""
        return float("inf")

    def check(self) -> None:
        """There is nothing to check."""
