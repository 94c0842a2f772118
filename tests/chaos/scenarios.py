"""The scenarios: which fault, how often, in which cluster; and how one is run."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.chaos import (
    clock,
    history,
    strikes,
    strikes_durable,
    strikes_network,
    strikes_overlap,
    strikes_scaling,
    strikes_soak,
)
from tests.chaos.cluster import Cluster, plain_load
from tests.chaos.ledger import ExactLoad
from tests.chaos.load import Load
from tests.support import leftovers


def as_it_is(it: Cluster) -> None:
    """Prepare nothing."""


@dataclass(frozen=True)
class Goal:
    """What must be true of something that was measured, over all that was done to all clusters."""

    what: str
    # So large a share of it is at most so much,
    share: float = 0.99
    most: float = math.inf
    # or all of it together is at least that part of something else.
    of: str = ""
    least: float = 0.0


@dataclass(frozen=True)
class Scenario:
    """One kind of fault."""

    name: str
    what: str
    strike: Callable[[Cluster], object]
    # How often it is aimed at, how often in one cluster, and how often in the short form.
    aim: int = 100
    batch: int = 20
    short: int = 1
    machines: int = 2
    has_journal: bool = False
    replicas: str = "2"
    # What its clients call.
    make_load: Callable[[Cluster], Load] = plain_load
    # Before anything is started, and when it has happened so often.
    prepare: Callable[[Cluster], object] = as_it_is
    judge: Callable[[Cluster], object] = as_it_is
    # From the end of the fault to the outcome of a call made after it, in 99 of 100 cases.
    p99_s: float = 3.0
    goals: tuple[Goal, ...] = ()


ADOPTION: Final = Goal(strikes.ADOPTED, of=strikes.RUNNING, least=0.99)
SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "L1",
            "broker killed under load",
            strikes.broker_kill,
            100,
            short=2,
            judge=strikes.judge_adoption,
            goals=(ADOPTION,),
        ),
        Scenario(
            "L1-durable",
            "broker with a journal killed",
            strikes.broker_kill,
            100,
            short=2,
            has_journal=True,
            judge=strikes.judge_adoption,
            goals=(ADOPTION,),
        ),
        Scenario(
            "L2",
            "actor killed",
            strikes.actor_kill,
            1_000,
            50,
            short=3,
            judge=strikes.judge_take_over,
            goals=(Goal(strikes.TAKEN_OVER, most=6.0),),
        ),
        Scenario("L2-machine", "host killed, its actors with it", strikes.machine_kill, 100, 10),
        Scenario(
            "L3",
            f"a task ends its process three times or tries to, {len(strikes.CRASHES)} kinds",
            strikes.child_crash,
            # 201 crashes of each kind.
            67 * len(strikes.CYCLE),
            30,
            short=len(strikes.CRASHES),
            judge=strikes.judge_crashes,
            goals=(Goal(strikes.REPORTED, most=1.0),),
        ),
        Scenario(
            "L4",
            "actor stopped for 0.5 to 10 leases",
            strikes.actor_freeze,
            200,
            prepare=strikes_network.with_strict_limit,
            judge=strikes_network.judge_leases,
        ),
        Scenario(
            "L5",
            "broker stopped for 0.4 to 12 leases",
            strikes.broker_freeze,
            50,
            10,
            prepare=strikes.with_longer_lease,
        ),
        Scenario(
            "L6",
            "machine cut off for 0.2 to 24 leases",
            strikes_network.partition,
            300,
            prepare=strikes_network.with_strict_limit,
            judge=strikes_network.judge_leases,
        ),
        Scenario("L7", "client killed", strikes.client_kill, 500),
        Scenario(
            "L7-durable",
            "client killed, another finds its durable calls",
            strikes_durable.client_resumes,
            500,
            has_journal=True,
        ),
        Scenario(
            "L8",
            "client that does not read, 1 GB",
            strikes_network.slow_client,
            10,
            5,
            prepare=strikes_network.with_small_window,
            # The middle of ten: on shared cores the 99th of 100 calls is often somebody's turn.
            goals=(Goal(strikes_network.SLOWER, share=0.5, most=1.5),),
        ),
        Scenario(
            "L9",
            "disk full, then room again",
            strikes_durable.disk_full,
            50,
            10,
            has_journal=True,
            prepare=strikes_durable.on_small_disk,
        ),
        Scenario(
            "L10",
            "64 descriptors or 5 left, 500 connections",
            strikes_network.descriptors_run_out,
            20,
            10,
        ),
        Scenario(
            "L11",
            "50,000 malformed frames",
            strikes_network.malformed_frames,
            20,
            10,
            judge=strikes_network.judge_growth,
        ),
        Scenario(
            "L12",
            "1,000 idle connections",
            strikes_network.idle_connections,
            20,
            10,
            # 90 % of the calls, the middle of 20; a handshake may take 5 s, all of them a bit more.
            goals=(
                Goal(strikes_network.FEWER, share=0.5, most=1 / 0.9),
                Goal(strikes_network.CLOSED, most=8.0),
            ),
        ),
        Scenario("L13", "restart with 100 actors more", strikes.restart_storm, 20, 5, p99_s=10.0),
        Scenario(
            "L14",
            "power cut at some access to the journal",
            strikes_durable.power_cut,
            1_000,
            50,
            short=5,
            machines=1,
            has_journal=True,
            prepare=strikes_durable.with_trace,
        ),
        Scenario(
            "L15",
            "wall clock stepped by up to 10 years",
            clock.clock_step,
            50,
            25,
            short=2,
            machines=1,
            prepare=clock.with_stepping_clock,
            # After a restart nobody is given a limit before the lease is over, of 5 s in this one.
            p99_s=8.0,
        ),
        Scenario(
            "L16",
            "soak: one fault after another",
            strikes_soak.soak,
            200,
            100,
            prepare=strikes_soak.with_limit_and_longer_lease,
        ),
        Scenario("L17", "machine drained under load", strikes.drain, 200, 10),
        Scenario(
            "L17-scale",
            "1 to 16 actors started for a burst and let go",
            strikes_scaling.scale,
            200,
            20,
            replicas=strikes_scaling.REPLICAS,
            prepare=strikes_scaling.with_quick_scaling,
        ),
        Scenario(
            "scale-host",
            "host killed while it starts actors",
            strikes_scaling.machine_kill_while_it_scales,
            50,
            10,
            replicas=strikes_scaling.REPLICAS,
            prepare=strikes_scaling.with_quick_scaling,
        ),
        Scenario(
            "scale-broker",
            "broker killed while actors start",
            strikes_scaling.broker_kill_while_they_start,
            50,
            10,
            replicas=strikes_scaling.REPLICAS,
            prepare=strikes_scaling.with_quick_scaling,
        ),
        Scenario(
            "L18",
            "second broker on one journal",
            strikes_durable.second_broker,
            20,
            10,
            has_journal=True,
            goals=(Goal(strikes_durable.REFUSED, most=1.0),),
        ),
        Scenario(
            "overlap",
            "two or three faults at a time",
            strikes_overlap.overlap,
            100,
            10,
            has_journal=True,
            make_load=ExactLoad,
            prepare=strikes_durable.on_small_disk,
            judge=strikes_overlap.judge,
            p99_s=8.0,
        ),
    )
}


def run(scenario: Scenario, reps: int, seed: int) -> dict[str, Any]:
    """Strike so often in one new cluster; return what came of it, raise for a broken promise."""
    return run_all([(scenario, reps)], seed)


def run_all(
    parts: Sequence[tuple[Scenario, int]],
    seed: int,
    done: Callable[[Scenario], object] = bool,
    *,
    is_short: bool = False,
) -> dict[str, Any]:
    """Do the same with scenarios for like clusters, and tell *done* of each that was withstood.

    Meant for a process of its own: whatever is left of its children in the end is an orphan.
    """
    leftovers.adopt_orphans()
    began = time.monotonic()
    first, _ = parts[0]
    cluster = Cluster(
        seed,
        machines=first.machines,
        has_journal=first.has_journal,
        replicas=first.replicas,
        make_load=first.make_load,
    )
    cluster.is_short = is_short
    for prepare in {scenario.prepare for scenario, _ in parts}:
        prepare(cluster)
    with cluster as it:
        it.recover()
        it.recovered_s.clear()
        ready, cpu_ready_s = time.monotonic(), leftovers.family_cpu_s()
        for scenario, reps in parts:
            it.since, it.leases_before = time.monotonic(), it.leases_ended()
            for it.strikes in range(reps):
                it.load.run(it.random.uniform(0.02, 0.2))
                it.withstand(scenario.strike)
            scenario.judge(it)
            done(scenario)
        struck_s, struck_cpu_s = time.monotonic() - ready, leftovers.family_cpu_s() - cpu_ready_s
        it.check()
        if it.has_journal:
            strikes_durable.check_file(it)
        found = history.check(it.history, killed_clients=frozenset(it.killed_clients))
    left = leftovers.left_processes({})
    if left:
        raise history.Broken(f"processes outlived their cluster: {left}")
    return {
        "reps": sum(reps for _, reps in parts),
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
        # Of these, what the strikes took, and what it computed.
        "struck_s": round(struck_s, 1),
        "cpu_s": round(leftovers.family_cpu_s(), 1),
        "struck_cpu_s": round(struck_cpu_s, 1),
        "recovered_s": [round(one, 3) for one in it.recovered_s],
        "converged_s": [round(one, 3) for one in it.converged_s],
        "measured": {
            what: [round(one, 4) for one in values] for what, values in it.measured.items()
        },
        **found,
    }


def tell(failure: str) -> str:
    """Shorten what went wrong: where it was stands first, and what the processes wrote last."""
    return failure if len(failure) <= 6_000 else f"{failure[:2_000]}\n...\n{failure[-4_000:]}"
