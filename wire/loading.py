"""What Ctrl-C does while a program still loads: it ends it, and nobody is shown a traceback.

Loads little itself: it comes before all else.
"""

import signal
import sys
from pathlib import Path
from typing import Final

SCRIPT: Final = "warmslot"


def end_at_once() -> None:
    """Let Ctrl-C end the process as it ends programs that know nothing of it, unless ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def raise_again() -> None:
    """Let Ctrl-C raise KeyboardInterrupt in a program that has loaded after `end_at_once`."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def is_program(package: str) -> bool:
    """Tell whether this process is `python -m PACKAGE`, or the script, and nobody's own program."""
    given = sys.orig_argv
    is_module = "-m" in given and given[given.index("-m") + 1 :][:1] == [package]
    return is_module or Path(*sys.argv[:1]).name == SCRIPT
