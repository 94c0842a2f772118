"""What a host starts: `python -m actor.child LIFELINE BOARD HOST TELL_AT`, which becomes an actor.

*LIFELINE* is one end of a socket that begins with what the host has to say and ends with the host,
*BOARD* the descriptor of the shared memory, *HOST* the host's process. A start that is not over at
*TELL_AT*, seconds of the monotonic clock, says where it is; 0: it never does. The rule that must
not be broken: a process whose host is gone ends, so it sees to that before it loads anything.
"""

import contextlib
import faulthandler
import os
import sys
import time
from collections.abc import Sequence
from typing import Final, NoReturn

from actor.machine.platform import STDERR, die_with_parent

# What is overdue is said as soon as can be.
AT_ONCE_S: Final = 0.001
READ_BYTES: Final = 65_536


def main(arguments: Sequence[str]) -> None:
    """Live and leave; does not return."""
    lifeline, region, host = map(int, arguments[:3])
    become(host, lifeline, region, float(arguments[3]))


def become(host: int, lifeline: int, region: int, tell_at: float) -> NoReturn:
    """Be the actor that the host says, and end the process with it."""
    line = read_line(lifeline)
    try:
        die_with_parent(host, lifeline)
    except (RuntimeError, MemoryError) as error:
        # There is no log yet.
        with contextlib.suppress(OSError):
            os.write(STDERR, f"actor: it cannot start: {error}\n".encode())
        os._exit(1)
    tell_of_hanging(tell_at)
    # Takes a while where the machine is busy, and may hang in what the user's folders shadow.
    from actor.processes.life import live_and_leave  # noqa: PLC0415

    live_and_leave(bytes.fromhex(line.decode()), region)


def tell_of_hanging(tell_at: float) -> None:
    """Let a crash in native code say on stderr where it was, and a start that hangs where it is."""
    faulthandler.enable()
    if tell_at:
        faulthandler.dump_traceback_later(max(AT_ONCE_S, tell_at - time.monotonic()))


def read_line(fd: int) -> bytes:
    """Read what the host has to say, a line with nothing behind it; less when the host is gone."""
    line = bytearray()
    while not line.endswith(b"\n"):
        try:
            octets = os.read(fd, READ_BYTES)
        except ConnectionResetError:
            break
        if not octets:
            break
        line += octets
    return bytes(line)


if __name__ == "__main__":
    main(sys.argv[1:])
