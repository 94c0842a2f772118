"""Finds what a test left running: child processes, orphans among them, and non-daemon threads."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

PROC = Path("/proc")
PR_SET_CHILD_SUBREAPER = 36

# How long something that is about to end may take for it: a process that was just started has to
# load our modules before it hears that nobody wants it, and others may run beside it.
GRACE_S = 10.0
POLL_INTERVAL_S = 0.01

# The standard library keeps one of each for as long as the interpreter runs.
KEPT_BY_MULTIPROCESSING = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


def adopt_orphans() -> None:
    """Become the parent of processes whose own parent dies, so that they are found as well."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def child_processes() -> dict[int, str]:
    """Return the command of each running child by its id; nothing on a system without /proc.

    A child that has ended and waits to be reaped does not count.
    """
    found = {}
    for entry in PROC.glob("[0-9]*"):
        # A process may end while it is looked at.
        with contextlib.suppress(OSError):
            # The name before the parenthesis may hold blanks, and parentheses of its own.
            state, parent, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(parent) != os.getpid() or state in "ZX":
                continue
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            if not any(kept in command for kept in KEPT_BY_MULTIPROCESSING):
                found[int(entry.name)] = command
    return found


def family_cpu_s() -> float:
    """Return what this process, all below it and all that these have reaped computed so far."""
    parents: dict[int, tuple[int, int]] = {}
    for entry in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            # Own time in user and system, and that of those reaped.
            parents[int(entry.name)] = int(fields[1]), sum(map(int, fields[11:15]))

    def is_mine(pid: int) -> bool:
        while pid in parents and pid != os.getpid():
            pid = parents[pid][0]
        return pid == os.getpid()

    ticks = sum(used for pid, (_, used) in parents.items() if is_mine(pid))
    return ticks / os.sysconf("SC_CLK_TCK")


def lasting_threads() -> set[threading.Thread]:
    """Return the threads that would keep the interpreter from ending."""
    return {thread for thread in threading.enumerate() if not thread.daemon}


def left_processes(before: dict[int, str]) -> dict[int, str]:
    """Return the children not in *before* that do not end within the grace, and kill them."""
    deadline = time.monotonic() + GRACE_S
    while True:
        left = {pid: name for pid, name in child_processes().items() if pid not in before}
        if not left or time.monotonic() > deadline:
            break
        threading.Event().wait(POLL_INTERVAL_S)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return left


def left_threads(before: set[threading.Thread]) -> set[threading.Thread]:
    """Return the threads not in *before* that do not end within the grace."""
    deadline = time.monotonic() + GRACE_S
    for thread in lasting_threads() - before:
        thread.join(max(0.0, deadline - time.monotonic()))
    return lasting_threads() - before
