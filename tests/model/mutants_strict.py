"""Planted bugs in strict limits: for each rule of protocol.md section 9.12 one at least."""

from collections.abc import Callable
from functools import partial
from typing import Any

from actor.events import fencing
from broker.events import sessions
from tests.planted import BUGS
from tests.sim import mutants_strict as sim
from tests.sim.mutants import swap
from tests.support.planting import planted

LINES = {bug.name: partial(planted, bug) for bug in BUGS}


def welcome_names_no_strict_limits() -> Any:
    """Do not tell actors which limits are strict."""

    def make(original: Any) -> Any:
        return lambda broker, missing, now, strict: original(broker, missing, now, [])

    return swap(sessions, "welcome", make)


def what_is_granted_late_is_had() -> Any:
    """Let a run have what it asked for from inside, however late that comes."""
    return swap(fencing, "may_have", lambda _: lambda core, command: True)


# With the name of the search that finds each.
STRICT: list[tuple[str, Callable[[], Any], str]] = [
    *(
        (plant.__name__, plant, f"strict-{scenario}")
        for plant, scenario in (
            (welcome_names_no_strict_limits, "stall"),
            (sim.a_fence_is_reckoned_from_what_is_heard, "mute"),
            (sim.nobody_ends_for_a_limit, "stall"),
            (sim.who_is_stopped_is_not_ended, "machine"),
            (sim.a_lost_actor_has_no_limits, "frozen"),
            (what_is_granted_late_is_had, "late-grant"),
            (sim.a_new_broker_waits_for_no_lease, "restart"),
        )
    ),
    *(
        (name, LINES[name], f"strict-{scenario}")
        for name, scenario in (
            ("a_host_speaks_for_whom_a_new_broker_never_heard", "host"),
            ("a_strict_limit_is_taken_late", "late"),
            ("an_operator_takes_a_strict_limit_back", "order"),
            ("a_stopped_run_holds_nothing_strict", "cancel"),
        )
    ),
]
