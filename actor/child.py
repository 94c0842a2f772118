"""The actor process, as its host starts it: `python -m actor.child LIFELINE BOARD`.

*LIFELINE* is the reading end of a pipe that begins with what the host has to say and ends with the
host; *BOARD* is the descriptor of the shared memory.
"""

import faulthandler
import os
import signal
import sys
import threading
import time
from typing import Final

import msgspec

from actor.board import Board
from actor.core import ActorCore
from actor.logs import configure_logs
from actor.loop import Loop
from actor.platform import die_with_parent, make_waker
from actor.settings import Launch

EXIT_GRACE_S: Final = 2.0


def main(arguments: list[str]) -> int:
    """Run one actor until it has left."""
    lifeline, region = map(int, arguments)
    launch = msgspec.json.decode(read_line(lifeline), type=Launch)
    # Before anything that takes time or could be held up: nobody else would end this process.
    die_with_parent(launch.host_pid, lifeline)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A crash in native code says where, on stderr.
    faulthandler.enable()
    configure_logs(launch.log_format)
    core = ActorCore(
        msgspec.structs.replace(launch.core, pid=os.getpid()),
        incarnation=launch.incarnation,
        now=time.monotonic(),
    )
    loop = Loop(launch, core, Board(region), make_waker())
    signal.signal(signal.SIGTERM, lambda *_: loop.ask_to_drain())
    status = loop.run()
    # A thread that a task left behind must not keep the process from ending.
    end_by = threading.Timer(EXIT_GRACE_S, os._exit, (status,))
    end_by.daemon = True
    end_by.start()
    return status


def read_line(fd: int) -> bytes:
    """Read what the host has to say, up to the end of the line."""
    line = bytearray()
    while (octet := os.read(fd, 1)) not in (b"\n", b""):
        line += octet
    return bytes(line)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
