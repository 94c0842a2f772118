"""Planted bugs in strict limits: somebody holds one who must have ended, or is let in too early.

They show only where a run lasts longer than a lease while its whole machine is not heard, so these
seeds have little else: few tasks, long ones, nearly all of them with a strict limit.
"""

from math import inf
from typing import Any

from actor.events import fencing
from actor.supervision import HostCore
from broker.events import occupancy
from broker.holding import fences
from tests.sim.mutants import BUSY, Mutant, both, swap


def nobody_ends_for_a_limit() -> Any:
    """Let who holds a strict limit go on, however long the broker does not hear of it."""

    def make(original: Any) -> Any:
        def mutated(core: Any) -> None:
            original(core)
            core.exit_reason = ""

        return mutated

    host = swap(HostCore, "_fence_of", lambda _: lambda self, ward: inf)
    return both(host, swap(fencing, "expire", make))


def who_is_stopped_is_not_ended() -> Any:
    """Let an actor that cannot look at the clock go on, as its host does."""
    return swap(HostCore, "_fence_of", lambda _: lambda self, ward: inf)


def a_lost_actor_has_no_limits() -> Any:
    """Let others in as soon as an actor is lost, though it may live."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, actor: Any, now: float) -> None:
            original(broker, actor, now)
            fences.dead(broker, actor.incarnation)

        return mutated

    return swap(fences, "lost", make)


def a_fence_is_reckoned_from_what_is_heard() -> Any:
    """Take it that the broker hears us when we hear the broker."""

    def make(original: Any) -> Any:
        def mutated(core: Any, received: int) -> None:
            core.fence.renewed_at = core.now
            original(core, received)

        return mutated

    return swap(fencing, "heard", make)


def a_new_broker_waits_for_no_lease() -> Any:
    """Let tasks have strict limits as soon as the adopt window is over."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, now: float) -> None:
            original(broker, now)
            if broker.limits.is_closed and broker.window_ends_at is None:
                broker.limits.open()
                broker.backlog.wake()

        return mutated

    return swap(occupancy, "tick", make)


FENCED = BUSY.but(
    machines=2,
    replicas=1,
    clients=1,
    strict=0.9,
    tasks=20,
    pause_s=0.6,
    run_s=12.0,
    at_most_once=0.0,
    release=0.0,
    cancel=0.0,
    force=0.0,
    fail=0.0,
    child=0.0,
    payload=0.0,
    fault=0.03,
    faults={"cut_off": 1.0},
    down_s=16.0,
)
UNHEARD = FENCED.but(faults={"one_way": 1.0}, fault=0.1)
# Few faults, or both machines are away most of the time.
HELD = FENCED.but(faults={"hold_gil": 1.0, "cut_off": 2.0}, fault=0.02, long=0.8, down_s=12.0)
THAWED = FENCED.but(faults={"freeze_actor": 1.0}, down_s=8.0)
STARTED = FENCED.but(faults={"hold_gil": 1.0, "broker_kill": 1.0}, fault=0.02, long=0.4, down_s=1.0)
STRICT = [
    Mutant(f.__name__, profile, f)
    for f, profile in (
        (nobody_ends_for_a_limit, FENCED),
        (who_is_stopped_is_not_ended, HELD),
        (a_lost_actor_has_no_limits, THAWED),
        (a_fence_is_reckoned_from_what_is_heard, UNHEARD),
        (a_new_broker_waits_for_no_lease, STARTED),
    )
]
