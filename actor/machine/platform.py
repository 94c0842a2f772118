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
from collections.abc import Iterable, Iterator
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
# The limit, what is used, and what stands before the names in memory.stat.
CGROUP_1: Final = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
CGROUP_2: Final = ("memory.max", "memory.current", "")
# A tool that says nothing for so long says nothing of use.
GPU_TOOL_TIMEOUT_S: Final = 10.0
CGROUP_UNLIMITED: Final = 2**60
MEM_TOTAL: Final = re.compile(rb"MemTotal:\s*(\d+)")
MEM_AVAILABLE: Final = re.compile(rb"MemAvailable:\s*(\d+)")
# What the kernel gives back before it refuses memory to anybody.
CGROUP_CACHES: Final = ("inactive_file", "active_file", "slab_reclaimable")


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


def count_cpus() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def measure_memory_mb() -> int:
    """Return the memory of the machine, or 0 when it cannot be told."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    except (ValueError, OSError):
        return 0


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


class Memory(NamedTuple):
    """How much of which memory is used, apart from what could be given back at once."""

    used_share: float
    of: str


class MemoryGauge:
    """Tells how much memory is used. Which cgroups it is in is found out once, when it is made."""

    def __init__(self, root: Path = Path("/")) -> None:
        """Find the cgroups that this process is in, of version 1 or 2."""
        self._machine = root / "proc/meminfo"
        self._cgroups = list(find_cgroups(root))

    def read(self) -> Memory | None:
        """Return what is nearest to its limit, the machine or a cgroup; None if nobody can tell."""
        found = [cgroup.read() for cgroup in self._cgroups]
        found.append(read_machine_memory(self._machine))
        return max((memory for memory in found if memory is not None), default=None)


def read_machine_memory(path: Path = Path("/proc/meminfo")) -> Memory | None:
    """Read the first lines of /proc/meminfo; macOS has a level of its own, in percent free."""
    with contextlib.suppress(OSError):
        text = read_start(path)
        total, available = MEM_TOTAL.search(text), MEM_AVAILABLE.search(text)
        if total and available:
            return Memory(1 - int(available[1]) / int(total[1]), "machine")
    free_percent = read_memory_level()
    return None if free_percent is None else Memory(1 - free_percent / 100, "machine")


def read_start(path: Path) -> bytes:
    """Read what stands first in a small file; a text file would cost ten times as much."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def read_memory_level() -> int | None:
    """Ask macOS how many percent of the memory are free; None elsewhere."""
    level, size = ctypes.c_int(), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
    try:
        ask = ctypes.CDLL(None).sysctlbyname
        status = ask(b"kern.memorystatus_level", ctypes.byref(level), ctypes.byref(size), None, 0)
    except (AttributeError, OSError):
        return None
    return None if status else level.value


class Cgroup:
    """A cgroup that may have a limit of memory, which may be set anew while it is used."""

    def __init__(self, folder: Path, names: tuple[str, str, str]) -> None:
        """Remember where to look; raise OSError where nothing says of a limit."""
        limit_name, used_name, self._prefix = names
        self._limit = folder / limit_name
        self._used = folder / used_name
        self._stat = folder / "memory.stat"
        read_start(self._limit)

    def read(self) -> Memory | None:
        """Return how much of the limit is used, caches apart; None where there is no limit."""
        with contextlib.suppress(OSError, ValueError):
            # Without a limit it says "max", or a number near 2**63.
            limit = int(read_start(self._limit))
            if not 0 < limit < CGROUP_UNLIMITED:
                return None
            used = int(read_start(self._used))
            stat = dict(line.split() for line in read_start(self._stat).decode().splitlines())
            caches = (int(stat.get(self._prefix + name, 0)) for name in CGROUP_CACHES)
            return Memory(max(0, used - sum(caches)) / limit, "cgroup")
        return None


def find_cgroups(root: Path = Path("/")) -> Iterator[Cgroup]:
    """Find each cgroup that can have a limit, on the way from ours up.

    Inside a container our own path may not be there; its top is what we see then.
    """
    lines = []
    with contextlib.suppress(OSError):
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        base, names = root / "sys/fs/cgroup", CGROUP_2
        if controllers:
            base, names = base / "memory", CGROUP_1
            if "memory" not in controllers.split(","):
                continue
        place = base / path.lstrip("/")
        for folder in (place, *place.parents):
            with contextlib.suppress(OSError):
                yield Cgroup(folder, names)
            if folder == base:
                break


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
