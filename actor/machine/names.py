"""The name of a host, held by a lock on a file: no two hosts of a machine share one."""

import contextlib
import fcntl
import hashlib
import os
import re
import socket
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Final

NAME_LENGTH_MAX: Final = 128
TRIES_MAX: Final = 1_000
NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
# Who cleans up has a lock for a moment: it is asked for again before the name counts as taken.
ASKS_MAX: Final = 5
ASK_AGAIN_S: Final = 0.01
# So many files that killed hosts have left are removed at a start, and none that is new.
SWEPT_MAX: Final = 1_000
SWEPT_AFTER_S: Final = 60.0


class NameTaken(Exception):
    """Another host of this machine has the name."""


class HeldName:
    """A name that is this process's until the end of the process, or `release`."""

    def __init__(self, name: str, fd: int, path: Path) -> None:
        """Hold the lock that *fd* has on the file at *path*."""
        self.name = name
        self._fd = fd
        self._path = path

    def release(self) -> None:
        """Let others have the name, and leave no file behind."""
        # In this order: without the lock the file could be another's already.
        self._path.unlink(missing_ok=True)
        os.close(self._fd)


def hold_name(wanted: str | None, endpoint: str) -> HeldName:
    """Hold *wanted*, or else the machine's name, with a number behind it when that is taken.

    Raises NameTaken when *wanted* is taken, ValueError when it cannot be a name.
    """
    if wanted is not None:
        if len(wanted) > NAME_LENGTH_MAX or not NAME.fullmatch(wanted):
            raise ValueError(
                f"name {wanted!r} is not 1 to {NAME_LENGTH_MAX} letters, digits, dots, hyphens"
                " and underscores"
            )
        held = try_lock(wanted, endpoint)
        if held is None:
            raise NameTaken(
                f"a host named {wanted!r} runs on this machine for {endpoint} already:"
                " leave --name out to get a free one"
            )
        return held
    base = re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname().partition(".")[0]) or "host"
    for number in range(1, TRIES_MAX):
        held = try_lock(base if number == 1 else f"{base}-{number}", endpoint)
        if held is not None:
            return held
    raise NameTaken(f"{TRIES_MAX} hosts run on this machine: end some")


def try_lock(name: str, endpoint: str) -> HeldName | None:
    """Lock *name* among this user's hosts of the broker at *endpoint*, or return None."""
    folder = Path(tempfile.gettempdir()) / f"warmslot-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    where = hashlib.blake2b(endpoint.encode(), digest_size=8).hexdigest()
    path = folder / f"{where}-{name}.lock"
    asks = 0
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if not has_lock(fd):
            os.close(fd)
            asks += 1
            if asks == ASKS_MAX:
                return None
            time.sleep(ASK_AGAIN_S)
            continue
        if is_at(path, fd):
            sweep(folder, path)
            return HeldName(name, fd, path)
        # Whoever had the name has removed this very file in between: its lock means nothing.
        os.close(fd)


def sweep(folder: Path, mine: Path) -> None:
    """Remove what hosts have left that were killed; another one may take it over meanwhile."""
    # The clock of the file system, which is the one that the others' times are of.
    os.utime(mine)
    now = mine.stat().st_mtime
    for path in islice(folder.glob("*.lock"), SWEPT_MAX):
        if path == mine:
            continue
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                is_new = now - os.fstat(fd).st_mtime < SWEPT_AFTER_S
                if not is_new and has_lock(fd) and is_at(path, fd):
                    path.unlink()
            finally:
                os.close(fd)


def has_lock(fd: int) -> bool:
    """Lock the file of *fd*, and tell whether nobody else had."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_at(path: Path, fd: int) -> bool:
    """Tell whether *fd* is the file that *path* names now."""
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False
