"""Which release of warmslot this is, for people: nothing is decided by it."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def release() -> str:
    """Return the installed version."""
    try:
        return version("warmslot")
    except PackageNotFoundError:
        return "(not installed)"
