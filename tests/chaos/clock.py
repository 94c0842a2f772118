"""A wall clock that steps, for whole clusters: each Python process of them asks a file.

The monotonic clock is not touched, since no system steps it.
"""

import mmap
import struct
import time
from pathlib import Path
from typing import Final

from tests.chaos.cluster import LEASE_S, Cluster
from tests.support.deployment import ROOT

STEP: Final = struct.Struct("<q")
HOUR_S: Final = 3_600
YEAR_S: Final = 365 * 24 * HOUR_S
STEPS_S: Final = (-10 * YEAR_S, -HOUR_S, -1, 0, 1, HOUR_S, 10 * YEAR_S)
# Python runs a module of this name before anything else.
SITE: Final = "from tests.chaos.clock import bend\nbend({path!r})\n"


def bend(path: str) -> None:
    """Let the wall clock of this process be as far off as the file says, at any time."""
    with Path(path).open("rb") as file:
        view = mmap.mmap(file.fileno(), STEP.size, access=mmap.ACCESS_READ)
    real, real_ns = time.time, time.time_ns

    def step_s() -> int:
        found: int = STEP.unpack(view[: STEP.size])[0]
        return found

    time.time = lambda: real() + step_s()
    time.time_ns = lambda: real_ns() + step_s() * 10**9


def with_stepping_clock(it: Cluster) -> None:
    """Have all processes of a cluster, this one too, go by a wall clock that can be stepped."""
    clock = it.folder / "clock"
    clock.write_bytes(STEP.pack(0))
    site = it.folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE.format(path=str(clock)))
    it.variables = {"PYTHONPATH": f"{site}:{ROOT}"}
    # A machine that is busy with other things must not look like a lease that is over.
    it.broker_options = (*it.broker_options, "--lease", "5", "--suspect", "3")
    bend(str(clock))


def clock_step(it: Cluster) -> None:
    """Step the clock under load, now and then with a restart of the broker: nothing expires."""
    lost = it.log("broker").count("actor_lost")
    with (it.folder / "clock").open("r+b") as file:
        file.write(STEP.pack(it.random.choice(STEPS_S)))
    if it.random.random() < 0.3:
        it.restart_broker()
    it.load.run(it.random.uniform(0.5, 1.0) * LEASE_S)
    it.recover()
    assert it.log("broker").count("actor_lost") == lost, "a step of the clock ended a lease"
