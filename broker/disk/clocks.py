"""The time of the journal, which no step of the clock on the wall moves (section 9.6, rule 8).

While a machine is up its clock since boot says what passed between two starts of a broker. Over a
boot only the wall can tell, and is believed up to a bound. The rule that must not be broken: what
is to be kept for some time is kept for it, whatever the clock on the wall says.
"""

import time
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

# Made anew by the kernel with each boot; other systems have no such file.
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Reading(Struct, frozen=True, array_like=True):
    """What the clocks of a machine say at one moment."""

    # Names the boot; empty where nobody can tell.
    boot: str
    # Since some moment of that boot, by the clock that the core lives by.
    since_boot_ms: int
    # Since 1970.
    wall_ms: int


class Point(Struct, frozen=True, array_like=True):
    """What time it was in the journal when the clocks were read. Fields are only ever appended."""

    reading: Reading
    journal_ms: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Point).decode


def read(wall_ms: int, *, boot_id: Path = BOOT_ID) -> Reading:
    """Look at the clocks of this machine, of which that on the wall says *wall_ms*."""
    try:
        boot = boot_id.read_text().strip()
    except OSError:
        boot = ""
    return Reading(boot, int(time.monotonic() * 1000.0), wall_ms)


def wall_clock_ms() -> int:
    """Return milliseconds since 1970, for people and for what is compared between machines."""
    return time.time_ns() // 1_000_000


def journal_ms(last: Point | None, now: Reading, *, believed_ms: int) -> int:
    """Return what time it is in the journal, whose *last* point an earlier broker left.

    Of what the clock on the wall says that passed over a boot, *believed_ms* at most is believed.
    """
    if last is None:
        return now.wall_ms
    then = last.reading
    if now.boot and now.boot == then.boot and now.since_boot_ms >= then.since_boot_ms:
        return last.journal_ms + now.since_boot_ms - then.since_boot_ms
    return last.journal_ms + min(max(0, now.wall_ms - then.wall_ms), believed_ms)


def encode(reading: Reading, clock_ms: int) -> bytes:
    """Return the point of a *reading*, where *clock_ms* is added to the time since boot."""
    return _encode(Point(reading, reading.since_boot_ms + clock_ms))


def decode(octets: bytes | None) -> Point | None:
    """Return the point that an earlier broker left, if it left one."""
    return _decode(octets) if octets is not None else None
