"""What a power cut leaves of the journal: each write of SQLite is noted, and each synchronizing.

The broker runs with SQLite's own access to files, in which three functions are led through here
(`trace`). Whatever was written to a file and not synchronized after it may be there, or not, or a
part of it, each write on its own: `leave` makes such a disk, at any point between two writes. That
a file exists, and the order within one sector, is believed of the system.
"""

import ctypes
import os
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

HEAD: Final = struct.Struct("<dBBqI")
SECTOR: Final = 512
WRITE, TRUNCATE, SYNC = range(3)
NAMES: Final = ("journal.db", "journal.db-wal")
# What of a broker leads through here before it starts.
PROGRAM: Final = """
import sys
from tests.chaos.power import trace
trace({path!r})
from broker.cli import main
sys.exit(main())
"""


class Access(NamedTuple):
    """One access to a file: when it began, what it did, to which file, and where."""

    at: float
    kind: int
    name: str
    offset: int
    octets: bytes


# --- in the broker

# Places in SQLite's tables of functions, behind the numbers they begin with.
OPEN_AT: Final = 40
METHODS: Final = 18
FIRST_METHOD_AT: Final = 8
WRITE_AT, TRUNCATE_AT, SYNC_AT = 2, 3, 4
POINTER: Final = ctypes.sizeof(ctypes.c_void_p)

Opener = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_char_p,
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.c_void_p,
)
Writer = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
)
Truncater = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int64)
Syncer = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
# What C holds a pointer to must live as long as the process.
_kept: list[Any] = []


def trace(path: str) -> None:
    """Append each access of this process to files named as the journal's to *path*."""
    import _sqlite3

    library = ctypes.CDLL(_sqlite3.__file__)
    library.sqlite3_vfs_find.restype = ctypes.c_void_p
    vfs = library.sqlite3_vfs_find(None)
    place = ctypes.c_void_p.from_address(vfs + OPEN_AT)
    real = Opener(place.value)
    note = make_note(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
    names: dict[int, int] = {}

    def opened(vfs: int, name: bytes | None, file: int, flags: int, out: int) -> int:
        status: int = real(vfs, name, file, flags, out)
        base = os.path.basename(name or b"").decode()  # noqa: PTH119 - as C gave it.
        if status == 0 and base in NAMES:
            names[file] = NAMES.index(base)
            lead(file, names, note)
        return status

    opener = Opener(opened)
    _kept.extend((library, real, opener))
    place.value = ctypes.cast(opener, ctypes.c_void_p).value


def make_note(file: int) -> Callable[..., None]:
    """Return what appends one access to the open *file*."""

    def note(began: float, kind: int, name: int, offset: int, octets: bytes = b"") -> None:
        os.write(file, HEAD.pack(began, kind, name, offset, len(octets)) + octets)

    return note


def lead(file: int, names: dict[int, int], note: Callable[..., None]) -> None:
    """Give an open file a table of functions of its own, which note what they do."""
    table = ctypes.c_void_p.from_address(file)
    assert table.value
    size = FIRST_METHOD_AT + METHODS * POINTER
    own = ctypes.create_string_buffer(ctypes.string_at(table.value, size), size)
    first = ctypes.addressof(own) + FIRST_METHOD_AT

    def method(index: int) -> ctypes.c_void_p:
        return ctypes.c_void_p.from_address(first + index * POINTER)

    real_write = Writer(method(WRITE_AT).value)
    real_truncate = Truncater(method(TRUNCATE_AT).value)
    real_sync = Syncer(method(SYNC_AT).value)

    def write(file: int, octets: int, length: int, offset: int) -> int:
        began = time.monotonic()
        status: int = real_write(file, octets, length, offset)
        if status == 0:
            note(began, WRITE, names[file], offset, ctypes.string_at(octets, length))
        return status

    def truncate(file: int, size: int) -> int:
        began = time.monotonic()
        status: int = real_truncate(file, size)
        if status == 0:
            note(began, TRUNCATE, names[file], size)
        return status

    def sync(file: int, flags: int) -> int:
        began = time.monotonic()
        status: int = real_sync(file, flags)
        if status == 0:
            note(began, SYNC, names[file], 0)
        return status

    ours = Writer(write), Truncater(truncate), Syncer(sync)
    for index, function in zip((WRITE_AT, TRUNCATE_AT, SYNC_AT), ours, strict=True):
        method(index).value = ctypes.cast(function, ctypes.c_void_p).value
    _kept.extend((own, real_write, real_truncate, real_sync, ours))
    table.value = ctypes.addressof(own)


# --- beside it


def read(path: Path) -> list[Access]:
    """Return the accesses so far; the last one may be on its way."""
    octets = path.read_bytes()
    found = []
    place = 0
    while place + HEAD.size <= len(octets):
        at, kind, name, offset, length = HEAD.unpack_from(octets, place)
        place += HEAD.size + length
        if place > len(octets):
            break
        found.append(Access(at, kind, NAMES[name], offset, octets[place - length : place]))
    return found


def leave(accesses: list[Access], folder: Path, chance: random.Random) -> None:
    """Make the files in *folder* that a power cut after *accesses* may have left."""
    safe = {name: bytearray() for name in NAMES}
    unsafe: dict[str, list[Access]] = {name: [] for name in NAMES}
    for access in accesses:
        if access.kind == SYNC:
            for one in unsafe[access.name]:
                apply(one, safe[access.name])
            unsafe[access.name].clear()
        else:
            unsafe[access.name].append(access)
    for name in NAMES:
        kept = safe[name]
        for access in unsafe[name]:
            match chance.choice(("there", "gone", "torn")):
                case "there":
                    apply(access, kept)
                case "torn" if access.kind == WRITE:
                    sectors = len(access.octets) // SECTOR
                    part = access.octets[: SECTOR * chance.randint(0, sectors)]
                    apply(access._replace(octets=part), kept)
        if kept:
            (folder / name).write_bytes(kept)


def apply(access: Access, octets: bytearray) -> None:
    """Do to *octets* what an access did to its file."""
    if access.kind == TRUNCATE:
        del octets[access.offset :]
        octets.extend(bytes(access.offset - len(octets)))
        return
    end = access.offset + len(access.octets)
    octets.extend(bytes(max(0, access.offset - len(octets))))
    octets[access.offset : end] = access.octets
