"""The fork server: `python -m actor.forkserver CHANNEL HOST TELL_AT` forks the actors of a host.

It has loaded what an actor runs and nothing of a user, and has one thread. On *CHANNEL* each
message brings the two descriptors of one actor. What it forks for them becomes the actor once it is
a child of *HOST*, which adopts orphans: the host learns of each end from the system, and the end of
this process matters to no actor. Where the host is gone without a word the system ends the actors,
and this process what their tasks have started. The rule that must not be broken: whatever ends
here, at any moment, leaves the host with an actor that has said its id, or with the end of its
socket.
"""

import contextlib
import faulthandler
import gc
import importlib
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence
from typing import Final, NoReturn

from actor.child import become, tell_of_hanging
from actor.machine.platform import count_threads, end_with_parent, outlive_parent, retitle

# With each pair of descriptors: when a start that is not over says where it is. The actor's name
# follows.
REQUEST: Final = struct.Struct("<d")
REQUEST_BYTES_MAX: Final = 1024
# What an actor says first: its process.
ANSWER: Final = struct.Struct("<q")
READY: Final = b"r"
# How it ends when what loads with Python has left a thread behind.
EXIT_UNFIT: Final = 70
ALONE_WITHIN_S: Final = 1.0
# An actor that ended so long before its host did not end with it.
WITH_HOST_S: Final = 1.0
# Room in the command line for what tells the processes apart.
PADDING: Final = "-" * 160
LOOK_AGAIN_S: Final = 0.0005


def main(arguments: Sequence[str]) -> None:
    """Load, then fork for as long as there is a host; does not return."""
    channel, host = socket.socket(fileno=int(arguments[0])), int(arguments[1])
    channel.set_inheritable(False)
    end_with_parent(host)
    retitle([sys.executable, "-m", "actor.forkserver"])
    tell_of_hanging(float(arguments[2]))
    # What is loaded stays: looking through it would only cost, here and in each actor.
    gc.disable()
    from actor.processes import life  # noqa: F401, PLC0415 - may hang, so only now.

    gc.freeze()
    faulthandler.cancel_dump_traceback_later()
    if not is_alone(time.monotonic() + ALONE_WITHIN_S):
        # Its threads would be missing in each actor, and so would what they were about to give
        # back. The host says so.
        os._exit(EXIT_UNFIT)
    # From here on the end of the channel tells of the host's.
    outlive_parent()
    actors = Actors(channel)
    # A host that was killed has not read that this is ready, which is told here as an error.
    with contextlib.suppress(ConnectionError):
        channel.send(READY)
        while True:
            actors.wait_for_host()
            told, descriptors, *_ = socket.recv_fds(channel, REQUEST_BYTES_MAX, 2)
            if not told:
                break
            serve(actors, host, told, descriptors)
    actors.end()
    os._exit(0)


class Actors:
    """The actors that were forked here and run, by descriptors: an id may soon be another's."""

    def __init__(self, channel: socket.socket) -> None:
        """Begin with none."""
        self.channel = channel
        self._ids: dict[int, int] = {}
        # When those ended of which it is not known yet whether that was with the host.
        self._ended: dict[int, float] = {}
        self._poller = select.poll()
        self._poller.register(channel, select.POLLIN)

    def add(self, pid: int) -> None:
        """Note one more, where the system lets us: one that has ended by now is the host's."""
        with contextlib.suppress(AttributeError, OSError):
            descriptor = os.pidfd_open(pid)
            self._ids[descriptor] = pid
            self._poller.register(descriptor, select.POLLIN)

    def wait_for_host(self) -> None:
        """Wait until the host has said something or is gone; forget who ends before that.

        Where a host is killed its first thread is gone before the others, and with it the actors:
        only then does the channel end.
        """
        while True:
            found = self._poller.poll(WITH_HOST_S * 1000 if self._ended else None)
            ready = [descriptor for descriptor, _ in found]
            if self.channel.fileno() in ready:
                return
            now = time.monotonic()
            for descriptor, at in list(self._ended.items()):
                if now - at >= WITH_HOST_S:
                    del self._ended[descriptor], self._ids[descriptor]
                    os.close(descriptor)
            for descriptor in ready:
                self._poller.unregister(descriptor)
                self._ended[descriptor] = now

    def end(self) -> None:
        """End them, with what their tasks have started: nobody else is there to do that."""
        for pid in self._ids.values():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)

    def leave_to_parent(self) -> None:
        """Keep nothing open of all this in a process that was forked."""
        self.channel.close()
        for descriptor in self._ids:
            os.close(descriptor)


def is_alone(by: float) -> bool:
    """Tell whether this thread is the only one, *by* then (s of the monotonic clock) at the latest.

    The thread that would have told of hanging is over, and the system has it a little longer.
    """
    while count_threads() != 1:
        if time.monotonic() >= by:
            return False
        time.sleep(LOOK_AGAIN_S)
    return True


def serve(actors: Actors, host: int, told: bytes, descriptors: list[int]) -> None:
    """Fork an actor through a process that ends at once, so that it is the host's."""
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    heard, said = os.pipe()
    try:
        between = os.fork()
    except OSError:
        # The host sees the end of the socket, and meets the same trouble with a name to it.
        between = -1
    if between == 0:
        try:
            os.close(heard)
            go_between(actors, host, told, descriptors, said)
        finally:
            os._exit(1)
    for descriptor in (*descriptors, said):
        os.close(descriptor)
    if between > 0:
        os.waitpid(between, 0)
        answer = os.read(heard, ANSWER.size)
        if answer:
            actors.add(*ANSWER.unpack(answer))
    os.close(heard)


def go_between(
    actors: Actors, host: int, told: bytes, descriptors: list[int], said: int
) -> NoReturn:
    """Fork the actor, say which it is, and end; does not return in either process."""
    between = os.getpid()
    pid = os.fork()
    if pid:
        os.write(said, ANSWER.pack(pid))
        os._exit(0)
    os.close(said)
    actors.leave_to_parent()
    os.setsid()
    # Whoever is the parent then is told to end it: before, that would be the one between, which is
    # about to end. The system tells nobody that he has another parent.
    while os.getppid() == between:
        time.sleep(LOOK_AGAIN_S)
    lifeline, region = descriptors
    (tell_at,) = REQUEST.unpack_from(told)
    retitle([sys.executable, "-m", "actor.child", told[REQUEST.size :].decode()])
    gc.enable()
    # A folder of modules may be there since, or others in it.
    importlib.invalidate_caches()
    os.write(lifeline, ANSWER.pack(os.getpid()))
    become(host, lifeline, region, tell_at)


if __name__ == "__main__":
    main(sys.argv[1:])
