"""What is ours and what is the user's, who may have a module of the same name."""

import os
import sys
from contextlib import suppress
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Final

PACKAGES: Final = frozenset({"actor", "broker", "sdk", "wire"})
ROOT: Final = Path(__file__).parents[1]


def is_ours(name: str, path: str | None) -> bool:
    """Tell whether what has this dotted *name* and stands in the file *path* is of our packages."""
    top = name.partition(".")[0]
    return top in PACKAGES and path is not None and path.startswith(f"{ROOT / top}{os.sep}")


def module_command(module: str) -> list[str]:
    """Return the command that runs *module*, one of ours, and none of that name beside the user.

    `python -m` looks in the working directory first, `python -P -m` not at all: that is left to
    where the packages are nowhere else, as in a clone that is not installed.
    """
    package = module.partition(".")[0]
    spec = PathFinder.find_spec(package, [path for path in sys.path if path not in ("", here())])
    is_found = spec is not None and is_ours(package, spec.origin)
    return [sys.executable, *(["-P"] if is_found else []), "-m", module]


def here() -> str:
    """Return the working directory, an empty text when it is gone."""
    with suppress(FileNotFoundError):
        return os.getcwd()  # noqa: PTH109 - as Python writes it into `sys.path`.
    return ""
