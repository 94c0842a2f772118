"""The command that makes keys: the broker's own, and those of whom it lets in.

It works on files alone, beside the broker, which sees by itself what has changed. The rule that
must not be broken: no key is ever written over, and no secret is readable for others at any moment.
"""

import argparse
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sdk.commands.table import print_json, print_rows, say
from sdk.errors import WarmslotError
from wire.keys import (
    BROKER,
    PUBLIC,
    ROLES,
    SECRET,
    check_folder,
    check_name,
    fingerprint,
    read_pair,
    read_public,
)
from wire.texts import brief

# What is made for others lies here until it is carried there.
CARRY: Final = "carry"
FOLDERS: Final = {role: folder for folder, role in ROLES.items()}
FORMS: Final = "`keys DIR`, `keys DIR add NAME actor|client` or `keys DIR remove NAME`"


def add_keys_options(command: argparse.ArgumentParser) -> None:
    """Add what `keys` takes."""
    command.add_argument("folder", metavar="DIR", help="the broker's, for its --keys")
    command.add_argument(
        "change",
        nargs="*",
        metavar="add NAME actor|client | remove NAME",
        help="let somebody in, or no more; without it list who may connect",
    )
    command.add_argument(
        "--json", action="store_true", default=argparse.SUPPRESS, help="list them as JSON"
    )


def show_keys(options: argparse.Namespace) -> int:
    """Make, list, add or remove keys.

    Raises ValueError for what cannot be, and WarmslotError for a key that is not there.
    """
    folder = Path(options.folder)
    match options.change:
        case []:
            begin(folder, is_told=not options.json)
            show_known(folder, options)
        case ["add", name, ("actor" | "client") as role]:
            check_name(name)
            begin(folder)
            add(folder, name, role)
        case ["remove", name]:
            remove(folder, name)
        case _:
            raise ValueError(f"keys {' '.join(options.change)}: say {FORMS}")
    return 0


def begin(folder: Path, *, is_told: bool = True) -> None:
    """Make what a broker's folder has, where it is not there yet."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_folder(folder)
    public, secret = folder / f"{BROKER}{PUBLIC}", folder / f"{BROKER}{SECRET}"
    if secret.exists():
        if read_pair(secret).public != read_public(public):
            raise ValueError(f"keys {str(folder)!r}: {public.name} is not of {secret.name}")
    elif public.exists():
        raise ValueError(
            f"keys {str(folder)!r} has a {public.name} and no {secret.name}: it is a peer's, or"
            " the secret is lost; name another folder"
        )
    else:
        with new_pair(folder, BROKER) as made:
            os.link(made / public.name, public)
            try:
                os.link(made / secret.name, secret)
            except OSError:
                # Alone it would be that of a peer, and no secret was ever made for it.
                public.unlink()
                raise
        if is_told:
            say(f"made {secret}, which never leaves this machine")
    for name in ROLES:
        (folder / name).mkdir(mode=0o700, exist_ok=True)


def add(folder: Path, name: str, role: str) -> None:
    """Let *name* in as *role*, and leave what is for that machine."""
    if known := known_in(folder, name):
        raise ValueError(f"there is a key {name!r} already, {known[0]}: remove it first")
    carried = folder / CARRY / name
    carried.parent.mkdir(mode=0o700, exist_ok=True)
    if carried.exists():
        raise ValueError(f"{carried} is still there from a former key: remove it first")
    with new_pair(folder, name) as made:
        shutil.copy(folder / f"{BROKER}{PUBLIC}", made)
        public = made / f"{name}{PUBLIC}"
        told = fingerprint(read_public(public))
        # Whole when the broker sees it, and whoever was faster keeps what he made.
        os.link(public, folder / FOLDERS[role] / public.name)
        public.unlink()
        made.rename(carried)
    say(f"{name} may connect as {article(role)}, with the key {told}")
    say(f"{carried} is for that machine: carry it there (scp -rp), name it with --keys, and")
    say("remove it here; whoever has it may connect")


def remove(folder: Path, name: str) -> None:
    """Let *name* in no more, and end what it has."""
    check_folder(folder)
    paths = known_in(folder, name)
    if not paths:
        raise WarmslotError(
            f"there is no key {brief(name)} in {folder}: `keys {folder}` lists them"
        )
    removed = {read(path)[0] for path in paths} - {None}
    for path in paths:
        path.unlink()
    if (carried := folder / CARRY / name).is_dir():
        shutil.rmtree(carried)
    if twins := [path for path in known_in(folder) if read(path)[0] in removed]:
        raise ValueError(f"{name} is removed, but may connect: {twins[0]} has the same key")
    say(f"{name} may not connect any more; a broker that runs ends its sessions within a heartbeat")


def show_known(folder: Path, options: argparse.Namespace) -> None:
    """Print who may connect, and the broker's own key."""
    rows = [[BROKER, BROKER, fingerprint(read_public(folder / f"{BROKER}{PUBLIC}"))]]
    for path in known_in(folder):
        public, problem = read(path)
        told = problem if public is None else fingerprint(public)
        rows.append([name_of(path), ROLES[path.parent.name], told])
    titles = ["name", "role", "key"]
    if not print_json({"keys": [dict(zip(titles, row, strict=True)) for row in rows]}, options):
        print_rows([title.upper() for title in titles], rows)


def known_in(folder: Path, wanted: str = "") -> list[Path]:
    """Return the files of who may connect, in the order of their names; or those of one name.

    There may be two: others than this command can write them as well.
    """
    paths = [
        folder / role / name
        for role in ROLES
        if (folder / role).is_dir()
        for name in check_folder(folder / role)
        if name.endswith(PUBLIC) and not name.startswith(".")
    ]
    found = [path for path in paths if not wanted or name_of(path) == wanted]
    return sorted(found, key=name_of)


def name_of(path: Path) -> str:
    """Return whose key is in a file."""
    return path.name.removesuffix(PUBLIC)


def read(path: Path) -> tuple[bytes | None, str]:
    """Return the public key in a file, and what is wrong where there is none."""
    try:
        return read_public(path), ""
    except ValueError as error:
        return None, str(error)


@contextmanager
def new_pair(folder: Path, name: str) -> Iterator[Path]:
    """Make a folder in *folder* with a new pair, both of which are for nobody else to see."""
    from zmq.auth import create_certificates  # noqa: PLC0415 - no other command needs it.

    # Its mode is 0700, so nobody sees the files before they have theirs.
    made = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
    try:
        try:
            public, secret = create_certificates(made, name)
        except OSError as error:
            # A file that is open already tells no path when there is no room for what it has.
            raise OSError(error.errno, error.strerror, str(folder)) from error
        Path(secret).chmod(0o600)
        Path(public).chmod(0o644)
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def article(role: str) -> str:
    """Return "a client", "an actor"."""
    return f"{'an' if role[0] in 'aeiou' else 'a'} {role}"
