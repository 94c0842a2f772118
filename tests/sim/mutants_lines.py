"""Planted bugs that are one line of a function: who is heard no more, and what runs leave behind.

Beside them those of `tests/planted.py` that show in a cluster as well as in the test of one core.
"""

from functools import partial
from typing import Any

from broker import lifecycle, liveness, retrying
from tests.planted import BUGS
from tests.sim.mutants import BUSY, IDLE, Mutant, swap
from tests.support.planting import Bug, planted

SILENT = IDLE.but(slots=3, faults={"freeze_actor": 1.0, "hold_gil": 1.0}, fault=0.1, down_s=5.0)
DEAF = IDLE.but(slots=3, run_s=0.1, faults={"one_way": 1.0}, fault=0.1, down_s=6.0)
FAMILIES = BUSY.but(child=0.8, run_s=1.0, at_most_once=0.0, pause_s=0.3, slots=2)


def line(name: str, function: Any, old: str, new: str) -> Any:
    """Make a bug of one line."""
    return partial(planted, Bug(name, function, old, new, ""))


def nobody_is_deaf() -> Any:
    """Take it that what was sent is received."""
    return swap(liveness, "is_deaf", lambda _: lambda actor, now, patience_s: False)


def the_calls_of_a_lost_run_go_on() -> Any:
    """Leave alone what was submitted in a run that counts no more."""
    return swap(lifecycle, "cancel_children", lambda _: lambda broker, task: None)


OF_LINES = (
    (
        "nobody_is_suspected",
        SILENT,
        liveness.judge_actor,
        "is_suspect = silent_s >=",
        "is_suspect = False and silent_s >=",
    ),
    (
        "the_calls_of_a_failed_run_go_on",
        FAMILIES.but(retry=1.0),
        retrying.again,
        "lifecycle.cancel_children(broker, task)",
        "pass",
    ),
    (
        "the_calls_of_a_canceled_run_go_on",
        FAMILIES.but(cancel=0.3),
        lifecycle.drop,
        "cancel_children(broker, task)",
        "pass",
    ),
)
# Those of a single core, each in the swarm in which it shows.
SHOWN: dict[str, Any] = {}
LINES = [
    Mutant("nobody_is_deaf", DEAF, nobody_is_deaf),
    Mutant(
        "the_calls_of_a_lost_run_go_on",
        FAMILIES.but(faults={"actor_kill": 1.0}),
        the_calls_of_a_lost_run_go_on,
    ),
    *(
        Mutant(name, profile, line(name, function, old, new))
        for name, profile, function, old, new in OF_LINES
    ),
    *(
        Mutant(bug.name, SHOWN[bug.name], partial(planted, bug))
        for bug in BUGS
        if bug.name in SHOWN
    ),
]
