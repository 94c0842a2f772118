"""The actor process, as its host starts it: `python -m actor.child LIFELINE BOARD`.

*LIFELINE* is the reading end of a pipe that begins with what the host has to say and ends with the host; *BOARD* is the
descriptor of the shared memory.
"""

import os
import signal
import sys
import time

import msgspec

from actor.board import Board
from actor.core import ActorCore
from actor.logs import configure_logs
from actor.loop import Loop
from actor.platform import die_with_parent, make_waker
from actor.settings import Launch


def main(arguments: list[str]) -> int:
    """Run one actor until it has left."""
    lifeline, region = map(int, arguments)
    launch = msgspec.json.decode(read_line(lifeline), type=Launch)
    # Before anything that takes time or could be held up: nobody else would end this process.
    die_with_parent(launch.host_pid, lifeline)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    configure_logs(launch.log_format)
    core = ActorCore(
        msgspec.structs.replace(launch.core, pid=os.getpid()),
        incarnation=launch.incarnation,
        now=time.monotonic(),
    )
    loop = Loop(launch, core, Board(region), make_waker())
    signal.signal(signal.SIGTERM, lambda *_: loop.ask_to_drain())
    return loop.run()


def read_line(fd: int) -> bytes:
    """Read what the host has to say, up to the end of the line."""
    line = bytearray()
    while (octet := os.read(fd, 1)) not in (b"\n", b""):
        line += octet
    return bytes(line)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
