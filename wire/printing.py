"""What becomes of a program that has printed something, or would, where nobody reads it.

The rule that must not be broken: of a reader that went away, as `head` does, nothing is said.
"""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NoReturn

# As of whoever knows nothing of that signal, which Python ignores.
STATUS_READER_GONE: Final = 128 + signal.SIGPIPE
STATUS_UNWRITTEN: Final = 1


def flush() -> None:
    """Let what was printed be read now, if there is anything to print to. Raises OSError."""
    if sys.stdout is not None:
        sys.stdout.flush()


def refused(program: str, error: OSError) -> int:
    """Say that nothing can be printed, unless it is the reader that left; return the status."""
    is_gone = isinstance(error, BrokenPipeError)
    if not is_gone:
        sys.stderr.write(f"{program}: {error}\n")
    # What is left must not fail once more at the end.
    if sys.stdout is not None:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return STATUS_READER_GONE if is_gone else STATUS_UNWRITTEN


def run_to_end(program: str, main: Callable[[], int]) -> NoReturn:
    """Exit with the status of *main*, or with that of what it has printed and nobody can read."""
    status: object
    try:
        status = main()
    except SystemExit as ended:  # argparse has printed a help text.
        status = ended.code
    try:
        flush()
    except OSError as error:
        status = refused(program, error)
    raise SystemExit(status)
