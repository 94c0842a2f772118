"""A TCP proxy that does to a connection what networks do: in one thread, no privileges needed.

Each direction has its own faults: octets are delayed, held back, swallowed, or end in the middle of
a frame; connections are reset, refused, or accepted and reset. What was held back is delivered when
all is healed, as TCP does.
"""

import contextlib
import math
import select
import socket
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

CHUNK: Final = 65_536
LOOK_S: Final = 0.005
# Closing a socket with this sends RST.
LINGER_NOT: Final = struct.pack("ii", 1, 0)


def ready_of(sockets: list[socket.socket]) -> set[int]:
    """Wait a moment for something to read; return the descriptors, which may be above 1,024."""
    poll = select.poll()
    for one in sockets:
        poll.register(one, select.POLLIN)
    return {descriptor for descriptor, _ in poll.poll(LOOK_S * 1000)}


class Way(StrEnum):
    """From whoever connected to the target, and back."""

    UP = "up"
    DOWN = "down"


BOTH: Final = (Way.UP, Way.DOWN)


@dataclass
class Faults:
    """What is done to the octets of one way."""

    delay_s: float = 0.0
    # What a connection carries.
    octets_per_s: float = math.inf
    is_stalled: bool = False
    is_swallowed: bool = False
    # After so many octets more both ends are closed.
    octets_left: int | None = None


class Link:
    """One connection: two sockets, and what is on its way between them."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.sockets = {Way.UP: (near, far), Way.DOWN: (far, near)}
        self.waiting: dict[Way, deque[tuple[float, bytes]]] = {way: deque() for way in BOTH}
        # When the last of them will be there.
        self.busy_until = dict.fromkeys(BOTH, 0.0)
        self.is_over = False

    def close(self, *, resets: bool) -> None:
        self.is_over = True
        for one in self.sockets[Way.UP]:
            with contextlib.suppress(OSError):
                if resets:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
                one.close()


class Proxy:
    """Listens on a port of its own and connects each caller to the target."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.faults = {way: Faults() for way in BOTH}
        self.is_refusing = self.is_rejecting = False
        self.octets = dict.fromkeys(BOTH, 0)
        # Those that came, and those of them that led to the target.
        self.attempts = self.connections = 0
        self._links: list[Link] = []
        self._must_reset = False
        self._is_stopped = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        """Return what peers connect to."""
        return f"tcp://127.0.0.1:{self.port}"

    def stall(self, *ways: Way) -> None:
        """Hold back what comes, until `heal`."""
        for way in ways or BOTH:
            self.faults[way].is_stalled = True

    def swallow(self, *ways: Way) -> None:
        """Lose what comes: whoever heals this must reset, since a stream with a hole is none."""
        for way in ways or BOTH:
            self.faults[way].is_swallowed = True

    def delay(self, seconds: float, *ways: Way) -> None:
        """Let everything take so long."""
        for way in ways or BOTH:
            self.faults[way].delay_s = seconds

    def slow(self, octets_per_s: float, *ways: Way) -> None:
        """Let each connection carry no more than that."""
        for way in ways or BOTH:
            self.faults[way].octets_per_s = octets_per_s

    def cut_after(self, octets: int, *ways: Way) -> None:
        """Close all connections after so many octets more, most likely within a frame."""
        for way in ways or BOTH:
            self.faults[way].octets_left = octets

    def reset(self) -> None:
        """Reset all connections; new ones are accepted."""
        self._must_reset = True

    def refuse(self) -> None:
        """Reset all connections, and let nobody connect: as where no broker runs."""
        self.is_refusing = True
        self.reset()

    def reject(self) -> None:
        """Reset all connections, and those that come: as where a tunnel listens for a broker."""
        self.is_rejecting = True
        self.reset()

    def heal(self) -> None:
        """Do nothing any more."""
        if any(fault.is_swallowed for fault in self.faults.values()):
            self.reset()
        self.faults = {way: Faults() for way in BOTH}
        self.is_refusing = self.is_rejecting = False

    def close(self) -> None:
        """End all connections."""
        self._is_stopped = True
        self._thread.join()

    # --- the thread

    def _run(self) -> None:
        while not self._is_stopped:
            readable = [self._listener] if self._is_listening() else []
            readable += [s for link in self._links for s in link.sockets[Way.UP]]
            ready = ready_of(readable)
            if self._listener.fileno() in ready:
                self._accept()
            if self._must_reset:
                self._must_reset = False
                for link in self._links:
                    link.close(resets=True)
            now = time.monotonic()
            for link in self._links:
                for way in BOTH:
                    self._carry(link, way, now, can_read=link.sockets[way][0].fileno() in ready)
            self._links = [link for link in self._links if not link.is_over]
        for link in self._links:
            link.close(resets=False)
        self._listener.close()

    def _is_listening(self) -> bool:
        """Close or open the listener as is wanted now; return whether it is open."""
        is_open = self._listener.fileno() >= 0
        if is_open and self.is_refusing:
            self._listener.close()
        elif not is_open and not self.is_refusing:
            # Somebody may have the port at this moment: then in the next turn.
            with contextlib.suppress(OSError):
                self._listener = socket.create_server(("127.0.0.1", self.port))
        return self._listener.fileno() >= 0

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        self.attempts += 1
        far = None
        if not self.is_rejecting:
            with contextlib.suppress(OSError):
                far = socket.create_connection(self.target, timeout=1.0)
        if far is None:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
            near.close()
            return
        self.connections += 1
        for one in (near, far):
            one.setblocking(True)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._links.append(Link(near, far))

    def _carry(self, link: Link, way: Way, now: float, *, can_read: bool) -> None:
        source, target = link.sockets[way]
        faults, waiting = self.faults[way], link.waiting[way]
        try:
            if can_read and not link.is_over:
                octets = source.recv(CHUNK)
                if not octets:
                    link.close(resets=False)
                    return
                if not faults.is_swallowed:
                    due = max(now, link.busy_until[way]) + len(octets) / faults.octets_per_s
                    link.busy_until[way] = due
                    waiting.append((due + faults.delay_s, octets))
            while waiting and waiting[0][0] <= now and not (faults.is_stalled or link.is_over):
                _, octets = waiting.popleft()
                left = faults.octets_left
                if left is not None:
                    octets = octets[:left]
                    faults.octets_left = left - len(octets)
                target.sendall(octets)
                self.octets[way] += len(octets)
                if faults.octets_left == 0:
                    faults.octets_left = None
                    link.close(resets=False)
        except OSError:
            link.close(resets=True)
