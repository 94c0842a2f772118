"""A client's process: what its loop does around its core."""

from typing import TYPE_CHECKING

from sdk.calls.call import Settings
from sdk.core import ClientCore
from tests.sim import ends, sessions
from tests.sim.processes import Process
from wire.codec import check_payloads, decode_broker

if TYPE_CHECKING:
    from tests.sim.world import World


class ClientProcess(Process):
    """A program that submits."""

    kind = "client"

    def __init__(self, world: "World", name: str) -> None:
        """Start with nothing submitted."""
        super().__init__(world, name)
        self.incarnation = world.rng.getrandbits(62)
        settings = Settings(name=name, python="3.11")
        self.core = ClientCore(settings, incarnation=self.incarnation, now=world.now)

    def connected(self) -> None:
        self.core.connected(self.world.now)
        self.wake_at(self.world.now)

    def turn(self, now: float) -> None:
        """As sdk.loop: receive, tick, send, settle."""
        core = self.core
        for _, (control, payloads) in self.batch():
            frame = decode_broker(control)
            check_payloads(frame, payloads)
            before = core.session.received
            ends.peer_hears(self, frame, payloads, now)
            if frame.number and core.session.received > before:
                self.world.oracle.crashes.client_heard(self, frame)
        if now >= core.deadline():
            sessions.watched(self, core.tick)
        outgoing = core.flush(now)
        for at, (frame, payloads) in enumerate(outgoing):
            if not self.send(frame, payloads):
                core.broken(now, [unsent for unsent, _ in outgoing[at:]])
                break
        for number, result, payloads in core.take_outcomes():
            self.world.oracle.resolved(self, number, result, payloads)
        for event, fields in core.take_notes():
            self.world.note(event, self, *fields.values())
        if core.has_left:
            assert core.is_leaving, core.session.error
            self.end()

    def deadline(self) -> float:
        return self.core.deadline()

    def check(self) -> None:
        self.core.check()
        ends.look(self)


def can_work(client: ClientProcess) -> bool:
    """Tell whether the program goes on submitting."""
    return client.is_alive and not client.is_frozen and not client.core.is_leaving
