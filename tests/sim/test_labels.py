"""Ten thousand label flips under load, in real cores: no task goes by labels that are not there."""

import pytest

from tests.sim.profile import Profile
from tests.sim.world import World

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FLIPS = 10_000
# Frames take as long as a run, so that changes and assignments cross all the time.
CROSSING = Profile(
    machines=2,
    prefetch=3,
    clients=2,
    tasks=2_000,
    pause_s=0.05,
    run_s=0.1,
    delay_s=0.02,
    delay_max_s=0.06,
    hang=0.0,
    cancel=0.0,
    environment=0.0,
    label=0.1,
    at_most_once=0.0,
    model=0.6,
    churn=8.0,
    fault=0.01,
    faults={"relabel": 1.0, "cut": 0.3, "broker_kill": 0.2, "freeze_actor": 0.3},
    down_s=0.5,
)


def test_nobody_is_assigned_or_started_by_stale_labels_in_ten_thousand_flips():
    flips = rejected = starts = seed = 0
    while flips < FLIPS:
        world = World(seed, CROSSING)
        # The oracle looks at the labels with each assignment and each start.
        world.run(3_000)
        flips += world.flips
        starts += world.oracle.executions
        rejected += world.rejected
        seed += 1

    assert starts > 1_000
    assert rejected > 100, "assignments that crossed a flip were handed back"
