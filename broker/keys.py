"""Who may connect, and as what: the keys in the broker's folder, asked at each handshake and HELLO.

ZeroMQ asks for each handshake, as ZAP (RFC 27) says, at an address inside this process to which the
loop's own socket is bound: so there is no other thread that could end, and one view of the folder.
The rule that must not be broken: whatever is not known for sure is refused.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import zmq
from zmq.utils import z85

from broker.facts.peers import Session
from wire.errors import Code, RemoteProtocolError
from wire.keys import (
    ACTORS,
    BROKER,
    CLIENTS,
    PUBLIC,
    ROLES,
    SECRET,
    check_closed,
    check_folder,
    fingerprint,
    read_pair,
    read_public,
)
from wire.messages import HELLOS, Frame
from wire.parts import Role
from wire.texts import sendable

# Of our endpoints with keys. Where others are asked about, nobody may pass.
DOMAIN: Final = b"warmslot"
VERSION: Final = b"1.0"
MECHANISM: Final = b"CURVE"
REQUEST_FRAMES: Final = 7
USER_ID: Final = "User-Id"
PEER_ADDRESS: Final = "Peer-Address"
# An actor submits calls of its runs as a client.
MAY_BE: Final = {
    ACTORS: frozenset({Role.ACTOR, Role.HOST, Role.CLIENT}),
    CLIENTS: frozenset({Role.CLIENT}),
}

Note = tuple[str, dict[str, Any]]


class KeysError(Exception):
    """A folder with keys cannot be used; the message says which, why and what to do."""


class Core(Protocol):
    """What is needed of the core to end sessions."""

    @property
    def sessions(self) -> Mapping[bytes, Session]: ...
    def bad(self, rid: bytes, error: RemoteProtocolError, now: float) -> None: ...


class Known(NamedTuple):
    """Whose key it is, and the folder that says what he may be."""

    name: str
    folder: str


class KeyFile(NamedTuple):
    """What a file had when it was read, what tells whether it is still the same, what is wrong."""

    mark: tuple[int, ...]
    public: bytes | None
    problem: str


class Keys:
    """Says who may open which session. Raises ValueError for a folder that cannot be used."""

    def __init__(self, folder: Path, *, heartbeat_s: float = 1.0) -> None:
        """Read *folder*, and look at it again that often."""
        if f"{BROKER}{SECRET}" not in check_folder(folder):
            raise ValueError(
                f"keys {str(folder)!r} has no {BROKER}{SECRET}: `warmslot keys {folder}` makes one"
            )
        pair = read_pair(folder / f"{BROKER}{SECRET}")
        if read_public(folder / f"{BROKER}{PUBLIC}") != pair.public:
            raise ValueError(f"keys {str(folder)!r}: {BROKER}{PUBLIC} is not of {BROKER}{SECRET}")
        self.secret: bytes = pair.secret
        self._folder = folder
        self._heartbeat_s = heartbeat_s
        self._look_at = 0.0
        self._files: dict[Path, KeyFile] = {}
        self._known: dict[bytes, Known] = {}
        self._marks: list[tuple[int, ...]] = []
        self._problems: list[str] = []
        # Under which key a connection has said HELLO.
        self._admitted: dict[bytes, bytes] = {}
        self._notes: list[Note] = []
        self._read()
        if self._problems:
            raise ValueError(self._problems[0])

    def check(self, rid: bytes, frame: Frame[Any], control: zmq.Frame) -> None:
        """Raise RemoteProtocolError when the connection's key does not allow what *frame* opens."""
        role = HELLOS.get(type(frame.commands[0])) if frame.commands else None
        if role is None:
            return
        key = metadata(control, USER_ID)
        if key is None:
            return  # It came by a file, whose mode says who may connect.
        self._refresh()
        if reason := self._reason(key, role):
            self._admitted.pop(rid, None)
            raise RemoteProtocolError(Code.NOT_AUTHORIZED, reason, fatal=True)
        self._admitted[rid] = key

    def answer(self, control: zmq.Frame, request: Sequence[Any]) -> list[bytes] | None:
        """Return the answer to a handshake that ZeroMQ asks about, None where nobody asks."""
        # What comes from outside has the address of whoever sent it.
        if len(control) or len(request) < REQUEST_FRAMES - 1:
            return None
        if metadata(control, PEER_ADDRESS) is not None:
            return None
        version, number, domain, address, _, mechanism, *credentials = (
            bytes(part) for part in request
        )
        user = b""
        # Without an answer of that version it would wait, and so would whoever connects.
        if (version, domain, mechanism) == (VERSION, DOMAIN, MECHANISM) and len(credentials) == 1:
            public = z85.encode(credentials[0])
            self._refresh()
            if public in self._known:
                user = public
            else:
                fields = {"address": address.decode(errors="replace"), "key": fingerprint(public)}
                self._notes.append(("key_refused", fields))
        status, text = (b"200", b"OK") if user else (b"400", b"unknown key")
        return [b"", VERSION, number, status, text, user, b""]

    def look(self, core: Core, now: float) -> None:
        """End the sessions of keys that are gone, once a heartbeat."""
        if now < self._look_at:
            return
        self._look_at = now + self._heartbeat_s
        self._read()
        sessions = core.sessions
        for rid, key in list(self._admitted.items()):
            session = sessions.get(rid)
            if session is None:
                del self._admitted[rid]
            elif reason := self._reason(key, session.role):
                del self._admitted[rid]
                core.bad(rid, RemoteProtocolError(Code.NOT_AUTHORIZED, reason, fatal=True), now)

    def take_notes(self) -> list[Note]:
        """Return what happened since the last call, for the log."""
        notes, self._notes = self._notes, []
        return notes

    def _reason(self, key: bytes, role: Role) -> str:
        """Say why whoever has *key* may not be in *role*; empty where he may."""
        known = self._known.get(key)
        if known is None:
            return f"the key {fingerprint(key)} is none that this broker knows now"
        if role in MAY_BE[known.folder]:
            return ""
        wanted = f"an {role}" if role is Role.ACTOR else f"a {role}"
        return f"the key {known.name!r} is that of a {ROLES[known.folder]}, and not of {wanted}"

    def _refresh(self) -> None:
        """Read the folder where a key was added or removed."""
        if self._marks != self._folder_marks():
            self._read()

    def _folder_marks(self) -> list[tuple[int, ...]]:
        return [mark_of(self._folder / role) for role in ROLES]

    def _read(self) -> None:
        """Read what has changed, and note what is newly wrong with it."""
        # Before the files: what changes meanwhile is seen the next time.
        self._marks = self._folder_marks()
        former, self._files, problems = self._files, {}, []
        self._known = {}
        # Clients last: a key that stands in both folders may do no more than a client.
        for role in (ACTORS, CLIENTS):
            paths, problem = list_keys(self._folder / role, former)
            problems.append(problem)
            for path in paths:
                one = self._files[path] = read_again(path, former.get(path))
                problems.append(one.problem)
                if one.public is None:
                    continue
                twin = self._known.get(one.public)
                if twin is not None and twin.folder != role:
                    problems.append(f"key file {str(path)!r} has the key of {twin.name!r} as well")
                self._known[one.public] = Known(sendable(path.stem), role)
        found = list(dict.fromkeys(filter(None, problems)))
        for problem in found:
            if problem not in self._problems:
                self._notes.append(("keys_unusable", {"reason": problem}))
        self._problems = found


def open_keys(folder: str | None, *, heartbeat_s: float) -> Keys | None:
    """Return who may connect, None where there are no keys. Raises KeysError."""
    if not folder:
        return None
    try:
        return Keys(Path(folder), heartbeat_s=heartbeat_s)
    except ValueError as error:
        raise KeysError(str(error)) from None


def list_keys(folder: Path, former: Iterable[Path]) -> tuple[list[Path], str]:
    """Return the files of keys in *folder*, and what is wrong with it.

    One that cannot be looked at, as with no descriptor left, or in which anybody may write by now,
    has what it had in *former* and what is still there: that needs none.
    """
    try:
        for one in (folder.parent, folder):
            check_closed(one)
        found = [path for path in folder.iterdir() if path.suffix == PUBLIC]
    except FileNotFoundError:
        return [], ""
    except OSError as error:
        problem = f"folder {str(folder)!r} cannot be read: {error.strerror}"
    except ValueError as error:
        problem = str(error)
    else:
        # What begins with a dot is not there yet.
        return sorted(path for path in found if not path.name.startswith(".")), ""
    return [path for path in former if path.parent == folder and not is_gone(path)], problem


def is_gone(path: Path) -> bool:
    """Tell whether there is surely no file."""
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def read_again(path: Path, former: KeyFile | None) -> KeyFile:
    """Return what is in the file of a key. One that cannot be read any more keeps what it had.

    It may be in the middle of being written; where its key is to be gone, it is removed.
    """
    mark = mark_of(path)
    # What was wrong may have passed, though the file is the same: no descriptor was left.
    if former is not None and former.mark == mark and not former.problem:
        return former
    try:
        return KeyFile(mark, read_public(path), "")
    except ValueError as error:
        return KeyFile(mark, former.public if former is not None else None, str(error))


def mark_of(path: Path) -> tuple[int, ...]:
    """Return what changes with what is at *path*; empty for nothing."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size)


def metadata(control: zmq.Frame, name: str) -> bytes | None:
    """Return what ZeroMQ knows of who sent a frame, None for nothing."""
    try:
        return str(control.get(name)).encode()
    except zmq.ZMQError:
        return None
    except UnicodeDecodeError:
        return b""  # Who came by a file can say of himself what he likes, and it is no key.
