"""Every fault that a cluster can meet has a probability of its own, and really happens."""

import dataclasses
from collections import Counter
from itertools import permutations
from random import Random

import pytest

from tests.sim.faults import KINDS
from tests.sim.profile import (
    FAULTS,
    LAST_FAULTS,
    LATER_FAULTS,
    MORE_FAULTS,
    ORDERS,
    POINTS,
    SHRINKS,
    Profile,
    draw,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# So many profiles are looked at.
DRAWN = 2_000
# What can go wrong: by what a seed draws how likely it is, and as what it is counted.
TABLE = {
    "a frame is lost": ("lose", "lose"),
    "a frame is late": ("delay_max_s", "delay"),
    "a frame comes twice": ("repeat", "repeat"),
    "frames of two sessions change places": ("ordered", "out of order"),
    "a stream ends after so many octets": ("truncate", "cut at an octet"),
    "a connection is half open": ("half_open", "half_open"),
    "a partition": ("partition", "partition"),
    "a partition one way": ("one_way", "one_way"),
    "a machine is cut off": ("cut_off", "cut_off"),
    "a connection flaps": ("flap", "flap"),
    "a send says EAGAIN": ("refuse_send", "no room"),
    "a send says EHOSTUNREACH": ("unreachable", "unreachable: said so"),
    "a send succeeds and nothing arrives": ("silent_drop", "silent_drop: sent into nothing"),
    "TCP connects again, with frames in the queue": ("connect_full", "connect_full: with frames"),
    "TCP connects again, with none": ("connect_empty", "connect_empty: without frames"),
    "the broker is killed": ("broker_kill", "broker_kill"),
    **{
        f"the broker is killed: {point}": (f"broker_kill_{point}", f"broker ends at {point}")
        for point in POINTS
    },
    "the end of the journal is lost before fsync": ("commit_s", "unwritten end"),
    "the last page of the journal is torn": ("power_loss", "torn log"),
    "an older journal is put back": ("old_journal", "older journal"),
    "SQLITE_FULL": ("disk_full", "commit without room"),
    "SQLITE_IOERR": ("disk_error", "failed commit"),
    "fsync takes 0.1 to 30 s": ("disk_slow", "slow commit"),
    "an actor is killed": ("actor_kill", "actor_kill"),
    "a machine is killed": ("machine_kill", "machine_kill"),
    "an actor is stopped": ("freeze_actor", "freeze_actor"),
    "a process has a successor before its death is told": ("late_report", "late report"),
    "a start hangs": ("start_hangs", "start hangs"),
    "an actor holds the GIL": ("hold_gil", "hold_gil"),
    "a host is stopped": ("freeze_host", "freeze_host"),
    "the broker is stopped": ("freeze_broker", "freeze_broker"),
    "a client is stopped": ("freeze_client", "freeze_client"),
    "somebody is stopped for up to ten leases": ("long", "frozen beyond its lease"),
    "two processes have one name": ("machine_twice", "machine_twice"),
    "two brokers on one journal": ("second_broker", "second_broker"),
    "a run crashes its process": ("crash", "crash"),
    "a run hangs": ("hang", "hang"),
    "a run takes all memory": ("oom", "oom"),
    "a run exits": ("exits", "exit"),
    "the wall clock jumps": ("clock_jumps", "clock jump"),
    "the machine stands still": ("stall", "stall"),
    "an outcome comes after any delay": ("late_result", "late outcome"),
    "arguments or a result are huge": ("huge", "too large"),
    "a header is malformed": ("garble", "garbage"),
    "a stranger says what nobody may say": ("stranger", "stranger"),
    "a peer speaks another version": ("skew", "refused as newer"),
    "a client is slow": ("slow_client", "slow_client"),
    "a client is killed": ("client_kill", "client_kill"),
    "a client finds its task by its id": ("attach", "looked for by its id"),
    "more machines": ("machine_joins", "machine_joins"),
    "fewer machines": ("machine_lost", "machine_lost"),
    "more actors on the word of the broker": ("spare", "scaled up"),
    "fewer actors on the word of the broker": ("lets_go", "scaled down"),
    "a drain": ("drain_machine", "drain_machine"),
    "two drains at once": ("drain_actor", "drain race"),
    "the capacity changes": ("resize_machine", "resize_machine"),
    "a limit changes": ("change_limit", "change_limit"),
    "labels change": ("relabel", "relabel"),
    "labels change all the time": ("churn", "flip"),
    **{f"{name} is as small as can be": (name, f"shrunk {name}") for name in SHRINKS},
    **{name: (name, name) for name in ("client_leave", "press", "pause", "resume", "cut")},
}


def test_each_row_has_a_fault_of_its_own():
    drawn = Counter(name for name, _ in TABLE.values())
    counted = Counter(count for _, count in TABLE.values())

    assert not [name for name, rows in drawn.items() if rows > 1]
    assert not [count for count, rows in counted.items() if rows > 1]


def test_no_two_faults_are_drawn_together():
    """Of any two there are seeds with the one and not the other."""
    having = {name: set() for name, _ in TABLE.values()}
    for seed in range(DRAWN):
        profile = draw(Random(seed))
        for name, seeds in having.items():
            if is_drawn(profile, name):
                seeds.add(seed)

    assert not [pair for pair in permutations(having, 2) if not having[pair[0]] - having[pair[1]]]


def is_drawn(profile, name):
    if name in KINDS:
        return name in profile.faults
    if name in SHRINKS:
        return name in profile.shrunk
    usual = {"ordered": True, "delay_max_s": 0.1, "commit_s": 0.02}.get(name, False)
    value = getattr(profile, name)
    return not value if usual is True else value > usual


def test_every_fault_really_happens_in_the_fixed_seeds(fixed):
    counts = fixed.run_all().counts

    assert not [what for what, (_, counted) in TABLE.items() if not counts[counted]]


def test_every_fault_has_a_probability_of_its_own():
    fields = {field.name for field in dataclasses.fields(Profile)}
    drawn = {name for name, _ in TABLE.values()}

    # A number that is as small as can be is drawn by its own name.
    assert drawn <= fields | KINDS.keys() | {*SHRINKS}
    assert drawn >= {*SHRINKS}
    # Where limits are strict, always.
    assert KINDS.keys() == {
        *FAULTS,
        *MORE_FAULTS,
        *LATER_FAULTS,
        *LAST_FAULTS,
        *ORDERS,
        "cut_off",
    }
    assert drawn >= KINDS.keys() - {*ORDERS}
