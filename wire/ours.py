"""What is ours and what is the user's, who may have a module of the same name."""

import os
import runpy
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Final

PACKAGES: Final = frozenset({"actor", "broker", "sdk", "wire"})
ROOT: Final = Path(__file__).parents[1]


def is_ours(name: str, path: str | None) -> bool:
    """Tell whether what has this dotted *name* and stands in the file *path* is of our packages."""
    top = name.partition(".")[0]
    return top in PACKAGES and path is not None and path.startswith(f"{ROOT / top}{os.sep}")


def module_command(module: str) -> list[str]:
    """Return the command that runs *module*, one of ours, and none of that name of the user's.

    `python -m` looks in the working directory first, `python -P -m` not at all: that is left to
    where the packages are nowhere else, as in a clone that is not installed. Where one of ours is
    hidden either way, as on PYTHONPATH, the interpreter is told where they are before it looks.
    """
    paths = [path for path in sys.path if path not in ("", here())]
    if are_found(paths):
        return [*interpreter(), "-P", "-m", module]
    if are_found([here(), *paths]) and not sys.flags.safe_path:
        return [*interpreter(), "-m", module]
    begin = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from wire.ours import run"
    return [*interpreter(), "-P", "-c", f"{begin}; run({module!r})"]


def interpreter(*without: str) -> list[str]:
    """Return how to start this interpreter with its own options, as -O or -X dev, but *without*.

    There is no public way; `multiprocessing` starts its processes so.
    """
    import subprocess  # noqa: PLC0415 - most that import this start nothing.

    options: list[str] = getattr(subprocess, "_args_from_interpreter_flags", list)()
    return [sys.executable, *(option for option in options if option not in without)]


def are_found(paths: Sequence[str]) -> bool:
    """Tell whether each of our packages is what is found first on *paths*."""
    specs = ((package, PathFinder.find_spec(package, paths)) for package in PACKAGES)
    return all(spec is not None and is_ours(package, spec.origin) for package, spec in specs)


class OursFirst:
    """Finds our packages where they are, whatever of these names stands on the path of modules."""

    @staticmethod
    def find_spec(
        name: str,
        path: Sequence[str] | None = None,  # noqa: ARG004 - as Python wants it.
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Return where one of our packages is, and nothing of anything else."""
        return PathFinder.find_spec(name, [str(ROOT)], target) if name in PACKAGES else None


def run(module: str) -> None:
    """Run *module* as `python -m` does, once `module_command` has said where ours are."""
    sys.path.remove(str(ROOT))
    sys.meta_path.insert(0, OursFirst)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def here() -> str:
    """Return the working directory, an empty text when it is gone."""
    with suppress(FileNotFoundError):
        return os.getcwd()  # noqa: PTH109 - as Python writes it into `sys.path`.
    return ""
