"""What a process of a host starts with: its variables, its folder, its modules, its environments.

`{index}` in any of them is the actor's number, so that each can have a device of its own. What is
wrong is said before anything is started.
"""

import os
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Final

from wire.texts import brief

INDEX: Final = "{index}"


def for_actor(text: str, index: int) -> str:
    """Return *text* for the actor with the number *index*."""
    return text.replace(INDEX, str(index))


def read_variables(texts: Sequence[str]) -> dict[str, str]:
    """Read KEY=VALUE, environment variables of the actors, a later one over an earlier one."""
    variables: dict[str, str] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key or key != key.strip():
            raise ValueError(f"env {brief(text)} is not KEY=VALUE")
        variables[key] = value
    return variables


def check_folder(option: str, text: str, *, replicas: int) -> None:
    """Raise ValueError unless *text* is a folder, for each actor."""
    for index in range(replicas):
        folder = for_actor(text, index)
        try:
            is_there = Path(folder).is_dir()
        except OSError as error:
            told = f"{option} {brief(folder)} cannot be looked at: {error.strerror}"
            raise ValueError(told) from None
        if not is_there:
            raise ValueError(f"{option} {brief(folder)} is not a folder")


def read_paths(texts: Sequence[str], *, replicas: int) -> list[str]:
    """Read folders of modules, several in one text as in PYTHONPATH."""
    paths = [path for text in texts for path in text.split(os.pathsep) if path]
    for path in paths:
        check_folder("python-path", path, replicas=replicas)
    return [os.path.abspath(path) for path in paths]  # noqa: PTH100 - {index} stays a text.


def check_environments(texts: Sequence[str], *, paths: Sequence[str]) -> None:
    """Raise ValueError for what is not MODULE:CLASS of a module that there is."""
    for text in texts:
        module, separator, name = text.partition(":")
        words = [*module.split("."), *name.split(".")]
        if not separator or not all(word.isidentifier() for word in words):
            raise ValueError(f"environment {brief(text)} is not MODULE:CLASS")
        top = module.partition(".")[0]
        # Found without running any of it: a host never runs code of a user.
        places = None if not paths else [for_actor(path, 0) for path in paths]
        if not (PathFinder.find_spec(top, places) or PathFinder.find_spec(top)):
            raise ValueError(
                f"environment {brief(text)}: no module {top!r} is found (--python-path)"
            )
