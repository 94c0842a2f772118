"""Over a share of the memory an actor takes nothing new, until clearly less is used."""

import pytest

from actor.granting.pressure import Pressure
from actor.machine.platform import MemoryGauge, read_machine_memory
from tests.actor.broker_end import connected, make_core
from wire.messages import ActorBeat, Reject

MEMINFO = "MemTotal:  1000 kB\nMemFree:  100 kB\nMemAvailable:  250 kB\nBuffers: 1 kB\n"
STAT = "anon 500\ninactive_file 100\nactive_file 200\nslab_reclaimable 50\n"
STAT_1 = "total_inactive_file 100\ntotal_active_file 0\ninactive_file 999\n"


def test_it_is_high_from_the_bound_on_and_over_when_it_is_clearly_below():
    pressure = Pressure(0.8)
    shares = (0.5, 0.79, 0.8, 0.79, 0.77, 0.75, 0.79, 0.9)

    seen = [(pressure.look(share, "machine"), pressure.is_high) for share in shares]

    assert [is_high for _, is_high in seen] == [False, False, True, True, True, False, False, True]
    assert [share for share, (news, _) in zip(shares, seen, strict=True) if news] == [
        0.8,
        0.75,
        0.9,
    ]


def test_the_reason_says_what_is_full_and_how_full():
    pressure = Pressure(0.8)

    pressure.look(0.934, "cgroup")
    assert pressure.reason == "memory: 93% of the cgroup is used, over --memory-high 80%"
    pressure.look(0.1, "cgroup")
    assert pressure.reason == ""


def test_the_bound_is_told_as_it_was_set():
    """Of one in between it was told that 10% is over 10%."""
    pressure = Pressure(0.0973)

    pressure.look(0.1, "machine")

    assert pressure.reason == "memory: 10% of the machine is used, over --memory-high 9.73%"


def test_switched_off_it_is_never_high():
    pressure = Pressure(None)

    assert not pressure.look(1.0, "machine")
    assert not pressure.is_high


def test_an_actor_under_pressure_hands_back_and_grants_nothing_until_it_is_over():
    end = connected(make_core(slots=1, prefetch=2, memory_high=0.9))
    running, waiting = end.assign(), end.assign()
    end.carry()

    end.core.press(0.95, "machine", end.now)
    end.carry()

    reason = "memory: 95% of the machine is used, over --memory-high 90%"
    assert list(end.started) == [running]
    assert end.rejected == {waiting: reason}
    assert not any(reject.bars for reject in end.everything if isinstance(reject, Reject))
    assert [c.closed for c in end.everything if isinstance(c, ActorBeat)] == [reason]
    end.finish(running)
    end.carry()
    assert end.available == 0

    end.core.press(0.88, "machine", end.now)
    end.carry()
    assert end.available == 0
    end.core.press(0.5, "machine", end.now)
    end.carry()
    assert (end.credit.free, end.credit.ahead) == (1, 2)


def test_a_change_is_noted_once():
    core = make_core(memory_high=0.9)

    for share in (0.5, 0.95, 0.96, 0.97, 0.5, 0.4):
        core.press(share, "machine", 0.0)

    notes = [fields["high"] for event, fields in core.take_notes() if event == "memory"]
    assert notes == [True, False]


# --- what is read


@pytest.fixture
def tree(tmp_path):
    """Write files as they stand in /proc and /sys; return their root."""

    def write(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    write(proc__meminfo=MEMINFO)
    return write


def test_without_a_limit_the_machine_counts(tree):
    root = tree(
        proc__self__cgroup="0::/a\n",
        sys__fs__cgroup__a__memory_dot_max="max\n",
    )

    assert MemoryGauge(root).read() == (0.75, "machine")


def test_a_cgroup_counts_apart_from_its_caches(tree):
    root = tree(
        proc__self__cgroup="0::/a/b\n",
        sys__fs__cgroup__a__b__memory_dot_max="1000\n",
        sys__fs__cgroup__a__b__memory_dot_current="1200\n",
        sys__fs__cgroup__a__b__memory_dot_stat=STAT,
    )

    assert MemoryGauge(root).read() == (0.85, "cgroup")


def test_the_limit_of_a_cgroup_further_up_counts_as_well(tree):
    root = tree(
        proc__self__cgroup="0::/a/b\n",
        sys__fs__cgroup__a__b__memory_dot_max="max\n",
        sys__fs__cgroup__a__memory_dot_max="1000\n",
        sys__fs__cgroup__a__memory_dot_current="1150\n",
        sys__fs__cgroup__a__memory_dot_stat=STAT,
    )

    assert MemoryGauge(root).read() == (0.8, "cgroup")


def test_a_limit_that_is_set_anew_while_actors_run_counts_from_then_on(tree):
    root = tree(
        proc__self__cgroup="0::/a\n",
        sys__fs__cgroup__a__memory_dot_max="max\n",
        sys__fs__cgroup__a__memory_dot_current="1150\n",
        sys__fs__cgroup__a__memory_dot_stat=STAT,
    )
    gauge = MemoryGauge(root)

    seen = [gauge.read()]
    for limit in ("1000\n", "2000\n", "max\n"):
        tree(sys__fs__cgroup__a__memory_dot_max=limit)
        seen.append(gauge.read())

    assert seen == [(0.75, "machine"), (0.8, "cgroup"), (0.75, "machine"), (0.75, "machine")]


def test_a_cgroup_of_version_1_is_read_as_well(tree):
    root = tree(
        proc__self__cgroup="3:cpu:/x\n2:memory:/job\n0::/\n",
        sys__fs__cgroup__memory__job__memory_dot_limit_in_bytes="1000\n",
        sys__fs__cgroup__memory__job__memory_dot_usage_in_bytes="1000\n",
        sys__fs__cgroup__memory__job__memory_dot_stat=STAT_1,
        sys__fs__cgroup__memory__memory_dot_limit_in_bytes="9223372036854771712\n",
    )

    assert MemoryGauge(root).read() == (0.9, "cgroup")


def test_inside_a_container_the_top_is_what_limits(tree):
    root = tree(
        proc__self__cgroup="0::/docker/unseen\n",
        sys__fs__cgroup__memory_dot_max="1000\n",
        sys__fs__cgroup__memory_dot_current="1300\n",
        sys__fs__cgroup__memory_dot_stat=STAT,
    )

    assert MemoryGauge(root).read() == (0.95, "cgroup")


def test_the_fuller_one_counts(tree):
    root = tree(
        proc__self__cgroup="0::/a\n",
        sys__fs__cgroup__a__memory_dot_max="10000\n",
        sys__fs__cgroup__a__memory_dot_current="1000\n",
        sys__fs__cgroup__a__memory_dot_stat=STAT,
    )

    assert MemoryGauge(root).read() == (0.75, "machine")


@pytest.mark.parametrize(
    ("percent", "found"), [(None, None), (30, (pytest.approx(0.7), "machine"))]
)
def test_where_there_is_no_proc_the_system_is_asked(tmp_path, monkeypatch, percent, found):
    monkeypatch.setattr("actor.machine.platform.read_memory_level", lambda: percent)

    assert read_machine_memory(tmp_path / "none") == found
    assert MemoryGauge(tmp_path).read() == found


def test_this_machine_uses_some_memory_and_not_all():
    memory = MemoryGauge().read()

    assert memory is not None
    assert 0.0 < memory.used_share < 1.0
