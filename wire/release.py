"""Which release of warmslot this is, for people: nothing is decided by it."""

import sys
from functools import cache
from typing import Final

# What a pickled function asks for: code by value is not portable between these.
PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"


@cache
def release() -> str:
    """Return the installed version."""
    # Loads much of the standard library, which nothing else here needs.
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    try:
        return version("warmslot")
    except PackageNotFoundError:
        return "(not installed)"
