"""What a host starts: `python -m actor.child LIFELINE BOARD HOST TELL_AT`, which becomes an actor.

*LIFELINE* is the reading end of a pipe that begins with what the host has to say and ends with the
host, *BOARD* the descriptor of the shared memory, *HOST* the host's process. A start that is not
over at *TELL_AT*, seconds of the monotonic clock, says where it is; 0: it never does. The rule that
must not be broken: a process whose host is gone ends, so it sees to that before it loads anything.
"""

import faulthandler
import os
import sys
import time
from collections.abc import Sequence
from typing import Final

from actor.platform import die_with_parent

# What is overdue is said as soon as can be.
AT_ONCE_S: Final = 0.001


def main(arguments: Sequence[str]) -> None:
    """Live and leave; does not return."""
    lifeline, region, host = map(int, arguments[:3])
    line = read_line(lifeline)
    die_with_parent(host, lifeline)
    # A crash in native code says where, on stderr, and so does a start that hangs.
    faulthandler.enable()
    if tell_at := float(arguments[3]):
        faulthandler.dump_traceback_later(max(AT_ONCE_S, tell_at - time.monotonic()))
    # Takes a while where the machine is busy, and may hang in what the user's folders shadow.
    from actor.life import live_and_leave  # noqa: PLC0415

    live_and_leave(bytes.fromhex(line.decode()), region)


def read_line(fd: int) -> bytes:
    """Read what the host has to say, up to the end of the line."""
    line = bytearray()
    while (octet := os.read(fd, 1)) not in (b"\n", b""):
        line += octet
    return bytes(line)


if __name__ == "__main__":
    main(sys.argv[1:])
