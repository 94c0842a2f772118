"""The host's end of its fork server, and when there is one. Loads little: it comes before the rest.

The rule that must not be broken: what an actor is told does the same whether it is forked or
started from nothing. What would come too late for one that is forked is told to no fork server.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping
from typing import Final

from actor.forkserver import PADDING, READY, REQUEST
from actor.machine.platform import IS_LINUX, adopt_orphans
from wire.ours import module_command

# The standard library's words for these.
FORKSERVER: Final = "forkserver"
SPAWN: Final = "spawn"
START_METHODS: Final = (FORKSERVER, SPAWN)
# After this share of what a start may take the process says where it is, before it is ended.
TELL_SHARE: Final = 0.8
# What is read when a process starts, or when what an actor loads is loaded: by Python and what it
# loads by itself, by the system's loader, its memory and its locale, by libraries of ours.
READ_EARLY: Final = re.compile(
    r"(PYTHON|LD_|DYLD_|MALLOC_|GLIBC_|LC_|OPENSSL_|COVERAGE_|PYZMQ_|MSGSPEC_).*"
    r"|LANG|LANGUAGE|GCONV_PATH|LOCPATH|.*SAN_OPTIONS|NO_COLOR|FORCE_COLOR"
)


class ForkServer:
    """One fork server as its host sees it."""

    def __init__(self, start_timeout_s: float | None = None) -> None:
        """Start it. Raises OSError when the system does not let us."""
        self.start_timeout_s = start_timeout_s
        if not adopt_orphans():
            raise OSError("this system has no parents for orphans but the first process")
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # A host never waits for it.
        self._channel.setblocking(False)
        with theirs:
            number = theirs.fileno()
            try:
                told = (*map(str, (number, os.getpid(), tell_at(start_timeout_s))), PADDING)
                self.process = subprocess.Popen(
                    [*module_command("actor.forkserver"), *told],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(number,),
                    # As for an actor: Ctrl-C in the terminal reaches the host alone.
                    start_new_session=True,
                )
            except OSError:
                self._channel.close()
                raise

    def ask(self, name: str, tell_at: float, descriptors: tuple[int, int]) -> bool:
        """Ask for an actor; False: it cannot be asked."""
        try:
            socket.send_fds(self._channel, [REQUEST.pack(tell_at) + name.encode()], descriptors)
        except OSError:
            return False
        return True

    def was_ready(self) -> bool:
        """Tell whether it had loaded everything; asked once, after its end."""
        # What it had not read yet is told first, as an error, and then what it has said.
        for _ in range(2):
            with contextlib.suppress(OSError):
                return self._channel.recv(len(READY)) == READY
        return False

    def end(self) -> None:
        """End it; what it has forked goes on."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self._channel.close()


def tell_at(start_timeout_s: float | None) -> float:
    """Return when a start that begins now says where it is, 0.0 for never."""
    return 0.0 if start_timeout_s is None else time.monotonic() + TELL_SHARE * start_timeout_s


def read_early(variables: Iterable[str]) -> list[str]:
    """Return those of *variables* that would come too late for a process that is forked."""
    return [name for name in variables if READ_EARLY.fullmatch(name)]


def start_fork_server(
    method: str | None,
    variables: Mapping[str, str],
    start_timeout_s: float | None,
    missed: list[str],
) -> ForkServer | None:
    """Start the fork server where one is of use; None: each actor starts from nothing.

    Where it cannot be started *missed* gets the reason: the log is not there yet.
    """
    is_of_use = method == FORKSERVER or (method is None and IS_LINUX)
    if not is_of_use or read_early(variables):
        return None
    try:
        return ForkServer(start_timeout_s)
    except OSError as error:
        missed.append(str(error))
        return None
