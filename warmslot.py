"""The command `warmslot`, which starts ours whatever else is called `sdk` or `wire` on PYTHONPATH.

The rule that must not be broken: nothing of ours is imported before it is said where that is.
"""

import sys
from pathlib import Path


def main() -> None:
    """Run `python -m sdk`, with our packages from beside this file."""
    sys.path.insert(0, str(Path(__file__).parent))
    from wire.ours import run  # noqa: PLC0415

    run("sdk")
