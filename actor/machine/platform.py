"""What only some systems have, each with its fallback: the one file that asks which system this is.

Linux has memfd, a signal at the death of the parent, and /proc. Elsewhere an unlinked file, the end
of a pipe and `ps` do the same, a little slower. Tests run both on Linux.
"""

import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

IS_LINUX: Final = sys.platform == "linux"
STDIN, STDOUT, STDERR = range(3)
PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36
# Where /proc/self/stat has the bounds of the command line, counted from behind the name.
ARGUMENTS_AT: Final = slice(45, 47)
EXIT_PARENT_DIED: Final = 75
# With the id of a process, as the kernel and clock_getcpuclockid() put them together.
CPUCLOCK_SCHED: Final = 2
# A tool that says nothing for so long says nothing of use.
GPU_TOOL_TIMEOUT_S: Final = 10.0


def open_shared(size: int) -> int:
    """Return a descriptor of *size* zero octets to map, to which no name leads."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("warmslot-board", os.MFD_CLOEXEC)
    else:
        fd = open_unlinked()
    os.ftruncate(fd, size)
    return fd


def open_unlinked() -> int:
    """Return a descriptor of an empty file without a name."""
    fd, path = tempfile.mkstemp(prefix="warmslot-board-")
    Path(path).unlink()
    return fd


def die_with_parent(parent: int, lifeline: int, *, use_signal: bool = IS_LINUX) -> None:
    """End this process as soon as *parent* ends, which holds the other end of *lifeline*.

    The signal reaches a process whose interpreter is held by a task; the socket works everywhere.
    """
    end_with_parent(parent, use_signal=use_signal)
    threading.Thread(target=_watch, args=(lifeline,), name="lifeline", daemon=True).start()


def end_with_parent(parent: int, *, use_signal: bool = IS_LINUX) -> None:
    """End this process now if *parent* has ended, and with a signal as soon as it does.

    The signal comes with the end of the thread that is the parent: of a host its only one.
    """
    if use_signal:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # The parent may have died before the call above.
    if os.getppid() != parent:
        os._exit(EXIT_PARENT_DIED)


def outlive_parent() -> None:
    """Take back that the end of the parent ends this process."""
    if IS_LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0)


def adopt_orphans() -> bool:
    """Become the parent of what is left by our descendants when they end; False: it cannot be."""
    if not IS_LINUX:
        return False
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    return bool(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def ended_child() -> int:
    """Return a child that has ended and is not reaped, and leave it so; 0 without one."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    return 0 if found is None else found.si_pid


def count_threads() -> int:
    """Return how many threads this process has, native ones as well where that can be told."""
    try:
        return len([*Path("/proc/self/task").iterdir()])
    except OSError:
        return threading.active_count()


def retitle(arguments: Iterable[str]) -> None:
    """Let `ps` show another command, as far as the room of the first one goes."""
    with contextlib.suppress(OSError, ValueError):
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        start, end = map(int, fields[ARGUMENTS_AT])
        if 0 < start < end:
            text = b"".join(os.fsencode(argument) + b"\0" for argument in arguments)
            # The last octet stays a zero: the system reads on where it is not.
            ctypes.memmove(start, text[: end - start - 1].ljust(end - start, b"\0"), end - start)


def _watch(lifeline: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(lifeline, 1):
            pass
    os._exit(EXIT_PARENT_DIED)


class Reading(NamedTuple):
    """What a process looks like from outside."""

    cpu_s: float
    is_stopped: bool


def read_processes(pids: Iterable[int], *, use_proc: bool = IS_LINUX) -> dict[int, Reading]:
    """Return CPU seconds and state of each of *pids* that lives."""
    return read_proc(pids) if use_proc else read_ps(pids)


def read_proc(pids: Iterable[int]) -> dict[int, Reading]:
    """Read the state from /proc and the CPU time from the kernel's clock of the process.

    /proc counts in hundredths of a second: a process that sleeps in C with the interpreter's lock,
    in which only the thread of ZeroMQ wakes up for the broker's beats, would seem not to move.
    """
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            # The name before the parenthesis may hold blanks, and parentheses of its own.
            state, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            found[pid] = Reading(time.clock_gettime((~pid << 3) | CPUCLOCK_SCHED), state in "Tt")
    return found


def read_ps(pids: Iterable[int]) -> dict[int, Reading]:
    """Ask `ps`."""
    listed = ",".join(map(str, pids))
    if not listed:
        return {}
    command = ["ps", "-o", "pid=,stat=,time=", "-p", listed]
    try:
        text = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=5
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return {}
    found = {}
    for line in text.splitlines():
        pid, state, time_used = line.split()
        found[int(pid)] = Reading(parse_ps_time(time_used), state[0] in "Tt")
    return found


def parse_ps_time(text: str) -> float:
    """Read `[days-][hours:]minutes:seconds[.hundredths]`."""
    days, _, clock = text.rpartition("-")
    total = 0.0
    for part in clock.split(":"):
        total = total * 60 + float(part)
    return total + 86_400 * int(days or 0)


def measure_own_memory_mb(*, use_proc: bool = IS_LINUX) -> float:
    """Return how much memory this process has resident, or 0.0 when nobody can tell."""
    try:
        if use_proc:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
        command = ["ps", "-o", "rss=", "-p", str(os.getpid())]
        text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout
        return int(text) / 1024
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0.0


def read_memory_level() -> int | None:
    """Ask macOS how many percent of the memory are free; None elsewhere."""
    level, size = ctypes.c_int(), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
    try:
        ask = ctypes.CDLL(None).sysctlbyname
        status = ask(b"kern.memorystatus_level", ctypes.byref(level), ctypes.byref(size), None, 0)
    except (AttributeError, OSError):
        return None
    return None if status else level.value


def stand_in_for_closed() -> None:
    """Open nothing in the place of each standard stream that was closed before the start.

    The next file that is opened would have its number, and what a task prints would go there.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdin = sys.stdin or open(STDIN, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(STDOUT, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(STDERR, "w", closefd=False)  # noqa: SIM115


def name_system() -> str:
    """Return "linux", "macos" or what Python calls it."""
    return {"darwin": "macos", "win32": "windows"}.get(sys.platform, sys.platform)


def list_gpus(root: Path = Path("/proc/driver/nvidia/gpus"), tool: str = "nvidia-smi") -> list[str]:
    """Return the model of each NVIDIA GPU that can be told of; empty where none can be.

    The driver's own files are asked first: the tool takes seconds, and is all there is on WSL.
    """
    found = []
    for path in sorted(root.glob("*/information")):
        with contextlib.suppress(OSError):
            match = re.search(r"^Model:\s*(.+?)\s*$", path.read_text(), re.MULTILINE)
            found.append(match[1] if match else "unknown")
    command = None if found else shutil.which(tool)
    if command is None:
        return found
    try:
        told = subprocess.run(
            [command, "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=GPU_TOOL_TIMEOUT_S,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in told.stdout.splitlines() if line.strip()]
