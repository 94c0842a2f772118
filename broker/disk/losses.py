"""What is missing of the journal's files since the broker before, of which SQLite says nothing.

A log of writes that was cut, or a file of no octets, is read as if there had never been more. So
each broker leaves in the lock how long the log is at least, and which epoch it has stored. The rule
that must not be broken: nothing is missed that SQLite itself may take away. What was promised is
taken back, on disk, before anybody opens the file and before it is closed.
"""

import contextlib
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

# The lock begins with the process, in so many octets; the mark stands behind them, rewritten in its
# place: where the disk is full that still works.
OWNER_OCTETS: Final = 32
MARK_OCTETS: Final = 64

# The log of writes is cut to this where it is longer and begins anew.
LOG_BYTES_MAX: Final = 64 * 2**20

# A log of SQLite: its header, and what stands ahead of each page in it.
HEADER: Final = struct.Struct(">8I")
FRAME: Final = struct.Struct(">4I")
FRAME_OCTETS: Final = 24
MAGIC_LITTLE: Final = 0x377F0682
MAGIC_BIG: Final = 0x377F0683
WORD: Final = 2**32 - 1


class Mark(NamedTuple):
    """What a broker left: the epoch that it stored, and how many octets the log has at least."""

    epoch: int = 0
    log_octets: int = 0


class Log(NamedTuple):
    """What is in a log of writes, before anybody has read it."""

    octets: int = 0
    is_readable: bool = True
    # The last frame of this generation, counted from 1, and those that end a transaction.
    last: int = 0
    ends: Sequence[int] = ()


class Watch:
    """What is missing of one file, and what the next broker will be able to tell of it."""

    def __init__(self, path: Path, lock: int) -> None:
        """Look at what is there, before anybody opens it, and promise nothing any more.

        The *lock* is held until `close`, also when whoever has taken it lets go before.
        """
        self._path = path
        self._log = log_of(path)
        self._lock = os.dup(lock)
        self._mark = before = read_mark(lock)
        self.before = before
        # Whether the file has nothing in it, though a broker has had one here.
        self.is_emptied = before.epoch > 0 and path.exists() and not path.stat().st_size
        self.lost: list[str] = []
        if before.epoch and not path.exists():
            self.lost.append(f"{path} is not there any more: this one begins with nothing")
        elif what := of_length(self._log, before, read_log(self._log)):
            self.lost.append(what)
        self.take_back()

    def begin(self, stored: int, epoch: int) -> None:
        """Leave the *epoch* of this start for the next; the file had the one that was *stored*."""
        if 0 < stored < self.before.epoch:
            self.lost.append(
                f"{self._path} is older than the journal of the last start here: it has epoch"
                f" {stored}, not {self.before.epoch}, and nothing that was written after that copy"
            )
        self._leave(Mark(epoch))
        self.note_growth()

    def note_growth(self) -> None:
        """Promise what the log of writes has by now, as far as SQLite leaves it so long."""
        try:
            octets = min(self._log.stat().st_size, LOG_BYTES_MAX)
        except OSError:
            return
        if octets > self._mark.log_octets:
            self._leave(self._mark._replace(log_octets=octets))

    def take_back(self) -> None:
        """Promise nothing of the log: SQLite may take it away from here on."""
        if self._mark.log_octets:
            self._leave(self._mark._replace(log_octets=0), is_certain=True)

    def close(self) -> None:
        """Let go of the lock."""
        os.close(self._lock)

    def _leave(self, mark: Mark, *, is_certain: bool = False) -> None:
        # Who cannot write here can write no journal either, and says so.
        with contextlib.suppress(OSError):
            write_mark(self._lock, mark, is_certain=is_certain)
            self._mark = mark


def read_mark(lock: int) -> Mark:
    """Return what the broker before has left, or an empty one."""
    found = os.pread(lock, MARK_OCTETS, OWNER_OCTETS).split()
    if len(found) == len(Mark._fields) and all(number.isdigit() for number in found):
        return Mark(*map(int, found))
    return Mark()


def write_mark(lock: int, mark: Mark, *, is_certain: bool) -> None:
    """Leave *mark* in the lock; one that *is_certain* is on disk when this returns."""
    text = f"{mark.epoch:020d} {mark.log_octets:020d}".ljust(MARK_OCTETS - 1) + "\n"
    os.pwrite(lock, text.encode(), OWNER_OCTETS)
    if is_certain:
        os.fsync(lock)


def log_of(path: Path) -> Path:
    """Return where SQLite keeps the log of writes to *path*."""
    return path.with_name(path.name + "-wal")


def read_log(log: Path) -> Log:
    """Look at a *log* of writes without reading its pages."""
    try:
        file = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # Whoever opens the journal says what is wrong.
        return Log()
    try:
        octets = os.fstat(file).st_size
        header = os.pread(file, HEADER.size, 0)
        if not any(header):  # Of its length alone, or not even that.
            return Log(octets)
        if len(header) < HEADER.size or not is_whole(header):
            return Log(octets, is_readable=False)
        _, _, page, _, *salts, _, _ = HEADER.unpack(header)
        last, ends = 0, []
        for number in range(1, (octets - HEADER.size) // (FRAME_OCTETS + page) + 1):
            at = HEADER.size + (number - 1) * (FRAME_OCTETS + page)
            _, pages, *found = FRAME.unpack(os.pread(file, FRAME.size, at))
            if found == salts:  # Else it is of a generation that is in the file by now, or nothing.
                last = number
                if pages:
                    ends.append(number)
        return Log(octets, last=last, ends=ends)
    finally:
        os.close(file)


def is_whole(header: bytes) -> bool:
    """Tell whether a log's header is as it was written."""
    magic, *_, first, second = HEADER.unpack(header)
    if magic not in (MAGIC_LITTLE, MAGIC_BIG):
        return False
    words = struct.unpack("<6I" if magic == MAGIC_LITTLE else ">6I", header[:FRAME_OCTETS])
    one = two = 0
    for even, odd in zip(words[::2], words[1::2], strict=True):
        one = one + even + two & WORD
        two = two + odd + one & WORD
    return (one, two) == (first, second)


def of_log(path: Path, log: Log, read: int) -> str:
    """Say what is lost of the *log* at *path*, or an empty text; SQLite has *read* so many frames.

    A transaction that was not over when the power was lost may stand behind them, and nothing else.
    """
    lost = [end for end in log.ends if end > read]
    if len(lost) > 1 or (lost and lost[0] < log.last):
        return (
            f"{path} is damaged behind its first {read} pages: {len(lost)} commits or more are lost"
        )
    return ""


def of_length(path: Path, mark: Mark, log: Log) -> str:
    """Say what is missing of the log at *path*, before anybody opens it, or an empty text."""
    if log.octets < mark.log_octets:
        return (
            f"{path} had {mark.log_octets} octets when its broker ended, and has {log.octets}:"
            " what was written last is lost, unless another program has opened the journal"
        )
    if not log.is_readable:
        return f"{path} is damaged at its beginning: what was written last is lost"
    return ""
