"""What this process may use of its machine, and what is used: of the machine and of cgroups.

A cgroup is what a container, a pod or a service is given; how much the machine has beside that is
nothing to those in it. Version 1 and 2 are read, and elsewhere than on Linux there is none.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from math import ceil, inf
from pathlib import Path
from typing import Final, NamedTuple

from actor.machine.platform import read_memory_level

ROOT: Final = Path("/")
# The limit, what is used, and what stands before the names in memory.stat.
MEMORY_1: Final = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
MEMORY_2: Final = ("memory.max", "memory.current", "")
UNLIMITED: Final = 2**60
# What the kernel gives back before it refuses memory to anybody.
CACHES: Final = ("inactive_file", "active_file", "slab_reclaimable")
MEM_TOTAL: Final = re.compile(rb"MemTotal:\s*(\d+)")
MEM_AVAILABLE: Final = re.compile(rb"MemAvailable:\s*(\d+)")
# How many processes were ended for lack of memory: of a cgroup of version 2, of 1, of the machine.
KILLS_FILES: Final = ("memory.events", "memory.oom_control")
KILLS: Final = re.compile(rb"^oom_kill (\d+)$", re.MULTILINE)


def count_cpus(root: Path = ROOT) -> int:
    """Return how many processors this process may use at once, a part of one counted as one."""
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    quotas = [read_quota(folder) for folder in find_folders("cpu", root)]
    return max(1, ceil(min([allowed, *quotas])))


def read_quota(folder: Path) -> float:
    """Return how much processor time a second a cgroup may take, in seconds; inf: any."""
    with contextlib.suppress(OSError, ValueError):
        try:
            quota, period = read_start(folder / "cpu.max").split()
        except OSError:
            quota = read_start(folder / "cpu.cfs_quota_us").strip()
            period = read_start(folder / "cpu.cfs_period_us")
        # Without a bound it says "max", or -1.
        if quota not in (b"max", b"-1"):
            return int(quota) / max(1, int(period))
    return inf


def measure_memory_mb(root: Path = ROOT) -> int:
    """Return the memory of the machine or of the smallest cgroup, or 0 when it cannot be told."""
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0
    limits = [cgroup.read_limit() for cgroup in find_cgroups(root)]
    return int(min([machine, *limits])) // 2**20


class Memory(NamedTuple):
    """How much of which memory is used, apart from what could be given back at once."""

    used_share: float
    of: str


class MemoryGauge:
    """Tells how much memory is used. Which cgroups it is in is found out once, when it is made."""

    def __init__(self, root: Path = ROOT) -> None:
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


class Cgroup:
    """A cgroup that may have a limit of memory, which may be set anew while it is used."""

    def __init__(self, folder: Path, names: tuple[str, str, str]) -> None:
        """Remember where to look; raise OSError where nothing says of a limit."""
        limit_name, used_name, self._prefix = names
        self._limit = folder / limit_name
        self._used = folder / used_name
        self._stat = folder / "memory.stat"
        read_start(self._limit)

    def read_limit(self) -> float:
        """Return how many octets its processes may have; inf where there is no limit."""
        with contextlib.suppress(OSError, ValueError):
            # Without a limit it says "max", or a number near 2**63.
            limit = int(read_start(self._limit))
            return limit if 0 < limit < UNLIMITED else inf
        return inf

    def read(self) -> Memory | None:
        """Return how much of the limit is used, caches apart; None where there is no limit."""
        limit = self.read_limit()
        if limit == inf:
            return None
        with contextlib.suppress(OSError, ValueError):
            used = int(read_start(self._used))
            stat = dict(line.split() for line in read_start(self._stat).decode().splitlines())
            caches = (int(stat.get(self._prefix + name, 0)) for name in CACHES)
            return Memory(max(0, used - sum(caches)) / limit, "cgroup")
        return None


def find_cgroups(root: Path = ROOT) -> Iterator[Cgroup]:
    """Find each cgroup that can have a limit of memory, on the way from ours up."""
    for folder in find_folders("memory", root):
        for names in (MEMORY_2, MEMORY_1):
            with contextlib.suppress(OSError):
                yield Cgroup(folder, names)


def find_folders(controller: str, root: Path = ROOT) -> Iterator[Path]:
    """Find the folder of each cgroup that may bound us by *controller*, on the way from ours up.

    Inside a container our own path may not be there; its top is what we see then.
    """
    lines = []
    with contextlib.suppress(OSError):
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        base = root / "sys/fs/cgroup"
        if controllers:
            base /= controller
            if controller not in controllers.split(","):
                continue
        place = base / path.lstrip("/")
        for folder in (place, *place.parents):
            if folder.is_dir():
                yield folder
            if folder == base:
                break


class MemoryKills:
    """Tells of a process that was killed whether the kernel did it for lack of memory.

    It says how many it has ended, and not which. So what was counted since the last look but one is
    taken for those that are found killed, one for one.
    """

    def __init__(self, root: Path = ROOT) -> None:
        """Begin to count."""
        folders = find_folders("memory", root)
        files = [folder / name for folder in folders for name in KILLS_FILES]
        self._path = next((path for path in files if path.exists()), root / "proc/vmstat")
        self._before = self._last = self._read()

    def look(self) -> None:
        """Forget what was counted before the last look: who was killed then was found since."""
        self._before, self._last = self._last, self._read()

    def take(self) -> bool:
        """Tell whether one was ended that nobody has taken yet."""
        if self._read() <= self._before:
            return False
        self._before += 1
        return True

    def _read(self) -> int:
        found = None
        with contextlib.suppress(OSError):
            found = KILLS.search(self._path.read_bytes())
        return int(found[1]) if found else 0
