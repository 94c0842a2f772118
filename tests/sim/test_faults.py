"""Every fault that a cluster can meet has a probability of its own, and really happens."""

import dataclasses
from collections import Counter

import pytest

from tests.sim.faults import KINDS
from tests.sim.processes import BrokerProcess
from tests.sim.profile import FAULTS, LATER_FAULTS, MORE_FAULTS, SHRINKS, Profile

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

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
    "a send says EHOSTUNREACH": ("cut", "unreachable"),
    "a send succeeds and nothing arrives": ("cut", "sent into nothing"),
    "TCP connects again, with frames in the queue": ("lost", "connects with frames"),
    "TCP connects again, with none": ("lost", "connects without frames"),
    "the broker is killed": ("broker_kill", "broker_kill"),
    **{
        f"the broker is killed: {point}": ("broker_kill_midway", f"broker ends at {point}")
        for point in BrokerProcess.POINTS
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
    "fewer actors on the word of the broker": ("spare", "scaled down"),
    "a drain": ("drain_machine", "drain_machine"),
    "two drains at once": ("drain_actor", "drain race"),
    "the capacity changes": ("resize_machine", "resize_machine"),
    "a limit changes": ("change_limit", "change_limit"),
    "labels change": ("relabel", "relabel"),
    "labels change all the time": ("churn", "flip"),
    **{f"{name} is as small as can be": ("shrunk", f"shrunk {name}") for name in SHRINKS},
    **{name: (name, name) for name in ("client_leave", "press", "pause", "resume", "cut")},
}
# What stands for more than one row, and why that is one probability.
SAME = {
    "cut": "one cut is an error at a sender who has noticed it, and silence at one who has not",
    "lost": "a frame in the queue of a connection that ends is lost or still sent: p and 1 - p",
    "spare": "nobody leaves who was not started beyond what its host begins with",
    "broker_kill_midway": "one kill; at which of the points is drawn with equal chances each time",
    "shrunk": "a set of which each member is drawn for itself",
}


def test_what_stands_for_several_faults_says_why():
    drawn = Counter(name for name, _ in TABLE.values())

    assert {name for name, count in drawn.items() if count > 1} == SAME.keys()


def test_every_fault_really_happens_in_the_fixed_seeds(fixed):
    counts = fixed.run_all().counts

    assert not [what for what, (_, counted) in TABLE.items() if not counts[counted]]


def test_every_fault_has_a_probability_of_its_own():
    fields = {field.name for field in dataclasses.fields(Profile)}
    drawn = {name for name, _ in TABLE.values()}

    assert drawn <= fields | KINDS.keys()
    # Where limits are strict, always.
    assert {*FAULTS, *MORE_FAULTS, *LATER_FAULTS, "cut_off"} == KINDS.keys()
    assert drawn >= KINDS.keys()
