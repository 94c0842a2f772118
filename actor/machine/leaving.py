"""How an actor process ends itself, from whichever thread knows that it is over."""

import atexit
import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Final, NoReturn

from actor.logs import log
from actor.settings import EXITS_IN_ORDER

# So long what libraries of the user's do at the end may take.
EXIT_GRACE_S: Final = 2.0
# So long executors may take of that to end what they have started.
POOLS_GRACE_S: Final = 1.0
# So long what was printed may take where the process ends by force: it may have to be gone soon.
FLUSH_GRACE_S: Final = 0.1


def leave(status: int) -> NoReturn:
    """End the process, whatever threads the tasks have left behind.

    The interpreter's own way out waits for some of them, and hangs where others hold a lock.
    """
    if status in EXITS_IN_ORDER:
        try:
            end_after(EXIT_GRACE_S, status)
        except (RuntimeError, MemoryError) as error:
            # Whoever hangs there would do so for ever.
            log.warning("exit_functions_skipped", reason=str(error) or type(error).__name__)
        else:
            end_pools()
            # Libraries of the user's may have something to say at the end.
            atexit._run_exitfuncs()  # noqa: SLF001 - there is no public way.
    flush()
    os._exit(status)


def end_pools() -> None:
    """Let executors of processes end theirs, as the interpreter does before it waits for threads.

    Those of threads wait for whatever runs in one: that is not waited for.
    """
    ends = threading.Thread(target=run_thread_exits, name="pools", daemon=True)
    with contextlib.suppress(RuntimeError, MemoryError):
        ends.start()
        ends.join(POOLS_GRACE_S)


def run_thread_exits() -> None:
    """Call what is to be called before threads are waited for, the last one first."""
    calls: list[Callable[[], object]] = getattr(threading, "_threading_atexits", [])
    for call in reversed(calls):
        try:
            call()
        except Exception:  # noqa: BLE001 - a library's, and the others are to end theirs, too.
            traceback.print_exc()


def leave_at_once(status: int) -> NoReturn:
    """End the process, with what was printed if that can be written at once."""
    with contextlib.suppress(RuntimeError, MemoryError):
        end_after(FLUSH_GRACE_S, status)
        flush()
    os._exit(status)


def end_after(seconds: float, status: int) -> None:
    """End the process in so many *seconds*, whatever hangs."""
    timer = threading.Timer(seconds, os._exit, (status,))
    timer.daemon = True
    timer.start()


def flush() -> None:
    """Write what was printed and is not written."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
