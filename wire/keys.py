"""Who is who: pairs of CURVE keys in files, as `zmq.auth` and other tools of ZeroMQ write them.

A broker's folder has `broker.key`, `broker.key_secret`, and under `actors/` and `clients/` a
`NAME.key` of each that may connect. A peer's folder has `broker.key` and one `NAME.key_secret`.
The rule that must not be broken: a secret that others can read is not used, nor what anybody may
write, who could put a key of his own there.
"""

import hashlib
import os
import re
import stat
import struct
from pathlib import Path
from typing import Final, NamedTuple

import zmq

from wire.texts import brief

Folder = str | os.PathLike[str]

KEYS_VARIABLE: Final = "WARMSLOT_KEYS"
PUBLIC: Final = ".key"
SECRET: Final = ".key_secret"  # noqa: S105 - how such files are called.
BROKER: Final = "broker"
# The folders in the broker's, and so the roles; whoever runs tasks submits calls of them as well.
ACTORS: Final = "actors"
CLIENTS: Final = "clients"
ROLES: Final = {ACTORS: "actor", CLIENTS: "client"}

# One file name on any system; no dot, so what stands before `.key` is the whole of it.
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
# In earlier ones a stranger could hold up, or take over, whoever listens with CURVE.
ZEROMQ_MIN: Final = (4, 3, 3)
KEY_LENGTH: Final = 40
KEY_FILE_BYTES_MAX: Final = 65_536
FINGERPRINT_BYTES: Final = 8


class Pair(NamedTuple):
    """A public key and its secret, as the texts of 40 characters that ZeroMQ takes."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        """Show whose it is, and never the secret."""
        return f"Pair({fingerprint(self.public)})"


class OwnKeys(NamedTuple):
    """What a peer has: the broker's public key, and a pair of its own."""

    folder: Path
    name: str
    broker: bytes
    own: Pair

    def use(self, socket: "zmq.Socket[bytes]") -> None:
        """Let what *socket* connects to from now on be this broker only."""
        socket.setsockopt(zmq.CURVE_SERVERKEY, self.broker)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.own.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.own.secret)


def check_name(name: str) -> str:
    """Return *name* if a key can be called so. Raises ValueError."""
    if not NAME.fullmatch(name) or name.lower() == BROKER:
        raise ValueError(
            f"name {brief(name)} is not 1 to 64 letters, digits, hyphens and underscores,"
            f" beginning with a letter or digit, and not {BROKER!r}"
        )
    return name


def fingerprint(public: bytes) -> str:
    """Return what people compare of a public key."""
    return hashlib.blake2b(public, digest_size=FINGERPRINT_BYTES).hexdigest()


def own_keys(folder: Folder | None, endpoint: str) -> OwnKeys | None:
    """Return the keys in *folder* for a peer that goes to *endpoint*, None where none are used.

    Raises TypeError, or ValueError with what is wrong in the folder.
    """
    if folder is None:
        return None
    path: object = os.fspath(folder) if isinstance(folder, os.PathLike) else folder
    if not isinstance(path, str):
        raise TypeError(f"keys {brief(folder)} is not the path of a folder")
    # The file of a socket lets in whom its mode lets, and needs none.
    if not path or not endpoint.startswith("tcp://"):
        return None
    return load_own(Path(path))


def load_own(folder: Path) -> OwnKeys:
    """Return what a peer's *folder* has. Raises ValueError."""
    names = check_folder(folder)
    if f"{BROKER}{SECRET}" in names:
        raise ValueError(
            f"keys {str(folder)!r} is the broker's own folder: `warmslot keys {folder} add NAME"
            " actor|client` makes one for a peer"
        )
    secrets = [name for name in names if name.endswith(SECRET)]
    if len(secrets) != 1:
        found = ", ".join(secrets) or "none"
        raise ValueError(f"keys {str(folder)!r} must have one NAME{SECRET}, and has {found}")
    broker = read_public(folder / f"{BROKER}{PUBLIC}")
    (name,) = secrets
    return OwnKeys(folder, name.removesuffix(SECRET), broker, read_pair(folder / name))


def check_folder(folder: Path) -> list[str]:
    """Return the names in *folder*. Raises ValueError where there are no keys to be had."""
    if not zmq.has("curve") or zmq.zmq_version_info() < ZEROMQ_MIN:
        raise ValueError(
            f"keys {str(folder)!r}: ZeroMQ {zmq.zmq_version()} of this pyzmq is older than 4.3.3,"
            " or has no CURVE"
        )
    try:
        if not folder.is_dir():
            raise ValueError(f"keys {str(folder)!r} is not a folder")
        check_closed(folder)
        return sorted(os.listdir(folder))  # noqa: PTH208 - names are what is asked for.
    except OSError as error:
        raise ValueError(f"keys {str(folder)!r} cannot be read: {error.strerror}") from None


def check_closed(folder: Path) -> None:
    """Raise ValueError where anybody may put a key into *folder*, and OSError where it is none.

    What is mounted to be read only, as Kubernetes mounts a secret, may have any mode.
    """
    if is_open(folder, folder.stat()):
        raise ValueError(
            f"keys {str(folder)!r}: anybody may write there, and let himself in: chmod o-w"
        )


def is_open(path: Path, status: os.stat_result) -> bool:
    """Tell whether anybody may change what is at *path*, which has that *status*."""
    return bool(status.st_mode & stat.S_IWOTH) and not os.statvfs(path).f_flag & os.ST_RDONLY


def read_public(path: Path) -> bytes:
    """Return the public key in a file. Raises ValueError."""
    public, _ = read_certificate(path)
    return public


def read_pair(path: Path) -> Pair:
    """Return the pair in a file that nobody else can read. Raises ValueError."""
    public, secret = read_certificate(path, is_secret=True)
    if secret is None:
        raise unusable(path, "it has no secret key")
    try:
        is_pair = len(secret) == KEY_LENGTH and zmq.curve_public(secret) == public
    except (ValueError, zmq.ZMQError):
        is_pair = False
    if not is_pair:
        raise unusable(path, "its secret key is not that of its public one")
    return Pair(public, secret)


def read_certificate(path: Path, *, is_secret: bool = False) -> tuple[bytes, bytes | None]:
    """Return the public key in a file, and the secret one if there is one. Raises ValueError."""
    from zmq.auth import load_certificate  # noqa: PLC0415 - most peers need none of it.

    try:
        status = path.stat()
        is_anybodys = is_open(path, status)
    except OSError as error:
        raise unusable(path, str(error.strerror)) from None
    if not stat.S_ISREG(status.st_mode) or status.st_size > KEY_FILE_BYTES_MAX:
        raise unusable(path, "it is no file of a key")
    if is_secret and status.st_mode & 0o077:
        raise unusable(path, "others can read it: chmod 600, or make a new one if they did")
    if is_anybodys:
        raise unusable(path, "anybody may write it: chmod o-w, once it has the right key")
    try:
        public, secret = load_certificate(path)
    except OSError as error:
        raise unusable(path, error.strerror or "it is gone") from None
    except (ValueError, IndexError):
        raise unusable(path, "it has no public key") from None
    if not is_key(public):
        raise unusable(path, "its public key is none of CURVE")
    return public, secret


def unusable(path: Path, reason: str) -> ValueError:
    """Say what is wrong with the file of a key."""
    return ValueError(f"key file {str(path)!r} cannot be used: {reason}")


def is_key(text: bytes) -> bool:
    """Tell whether *text* is a key in Z85, as it stands in files."""
    from zmq.utils import z85  # noqa: PLC0415 - as above.

    try:
        return len(text) == KEY_LENGTH and bool(z85.decode(text))
    except (KeyError, struct.error):
        return False
