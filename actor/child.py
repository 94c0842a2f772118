"""The actor process, as its host starts it: `python -m actor.child LIFELINE BOARD`.

*LIFELINE* is the reading end of a pipe that begins with what the host has to say and ends with the
host; *BOARD* is the descriptor of the shared memory.
"""

import atexit
import contextlib
import faulthandler
import gc
import os
import signal
import sys
import threading
import time
import traceback
from typing import Final, NoReturn

import msgspec

from actor.board import Board
from actor.core import ActorCore
from actor.logs import configure_logs
from actor.loop import Loop
from actor.platform import die_with_parent, make_waker
from actor.preloading import preload
from actor.settings import EXIT_RETIRED, EXIT_SPARE, Launch

EXIT_GRACE_S: Final = 2.0


def main(arguments: list[str]) -> int:
    """Run one actor until it has left."""
    lifeline, region = map(int, arguments)
    launch = msgspec.msgpack.decode(bytes.fromhex(read_line(lifeline).decode()), type=Launch)
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
    if launch.folder:
        os.chdir(launch.folder)
    sys.path[:0] = launch.python_path
    loop = Loop(launch, core, Board(region), make_waker())
    signal.signal(signal.SIGTERM, lambda *_: loop.ask_to_drain())
    # What is here stays, other than what is the user's: no collection need look at it.
    gc.collect()
    gc.freeze()
    preload(loop, launch.environments)
    return loop.run()


def leave(status: int) -> NoReturn:
    """End the process, whatever threads the tasks have left behind.

    The interpreter's own way out waits for some of them, and hangs where others hold a lock.
    """
    if status in (0, EXIT_RETIRED, EXIT_SPARE):
        end_by = threading.Timer(EXIT_GRACE_S, os._exit, (status,))
        end_by.daemon = True
        end_by.start()
        # Libraries of the user's may have something to say at the end.
        atexit._run_exitfuncs()  # noqa: SLF001 - there is no public way.
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def read_line(fd: int) -> bytes:
    """Read what the host has to say, up to the end of the line."""
    line = bytearray()
    while (octet := os.read(fd, 1)) not in (b"\n", b""):
        line += octet
    return bytes(line)


if __name__ == "__main__":
    try:
        end = main(sys.argv[1:])
    except BaseException:  # noqa: BLE001 - a bug of ours: the host reports the death.
        traceback.print_exc()
        end = 1
    leave(end)
