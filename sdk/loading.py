"""Whose `wire` it is, and what Ctrl-C does while `python -m sdk` loads: before all else.

Imported first, as the whole package is loaded before its command line.
"""

import sys

try:
    from wire.loading import end_at_once, is_program
except ModuleNotFoundError as error:
    if error.name != "wire.loading":
        raise
    hides = f"warmslot: {sys.modules['wire'].__file__} hides our package wire"
    if sys.orig_argv[1:3] == ["-m", "sdk"]:
        sys.stderr.write(f"{hides}: rename it, or say `warmslot` instead of `python -m sdk`\n")
        sys.exit(2)
    raise ImportError(f"{hides}: rename it", name="wire") from None

if is_program("sdk"):
    end_at_once()
