"""A hundred actors in one thread: the real core of each on a socket of its own, and no slots.

They take no work; what they show is that all are heard again after a restart.
"""

import threading
import time

import zmq

from actor.core import ActorCore
from actor.settings import Settings
from wire.codec import decode_broker, encode
from wire.handshakes import open_reach

TURN_S = 0.02


class Crowd:
    """So many actors, which beat and open sessions as actors do."""

    def __init__(self, endpoint: str, number: int) -> None:
        self._context = zmq.Context()
        self._is_stopped = False
        now = time.monotonic()
        self.members = [
            (
                open_reach(self._context, endpoint, linger_ms=0),
                ActorCore(
                    Settings(name=f"crowd{n}/0", host=n, pid=n, slots={"slot": 0}),
                    incarnation=10_000 + n,
                    now=now,
                ),
            )
            for n in range(number)
        ]
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._is_stopped = True
        self._thread.join()
        for reach, _ in self.members:
            reach.close(0)
        self._context.term()

    @property
    def is_welcome(self) -> bool:
        """Tell whether each has a session of the broker that runs now."""
        epochs = {core.session.epoch for _, core in self.members}
        return len(epochs) == 1 and all(core.session.is_open for _, core in self.members)

    def _run(self) -> None:
        while not self._is_stopped:
            for reach, core in self.members:
                dealer, now = reach.socket, time.monotonic()
                while dealer.poll(0):
                    control, *payloads = dealer.recv_multipart()
                    core.receive(decode_broker(control), payloads, now)
                core.tick(now)
                core.take_starts()
                for frame, _ in core.flush(now):
                    try:
                        dealer.send(encode(frame), zmq.NOBLOCK)
                    except zmq.Again:
                        core.broken(now)
                        break
                core.take_notes()
            threading.Event().wait(TURN_S)
