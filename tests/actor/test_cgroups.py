"""What a process may use of its machine: a container, a pod or a service is given a part of it."""

import os

import pytest

from actor.machine.cgroups import (
    MemoryGauge,
    MemoryKills,
    count_cpus,
    measure_memory_mb,
    read_machine_memory,
)

MEMINFO = "MemTotal:  1000 kB\nMemFree:  100 kB\nMemAvailable:  250 kB\nBuffers: 1 kB\n"
STAT = "anon 500\ninactive_file 100\nactive_file 200\nslab_reclaimable 50\n"
STAT_1 = "total_inactive_file 100\ntotal_active_file 0\ninactive_file 999\n"


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


def in_cgroup(tree, path, limit, *, used):
    """Be in the cgroup of version 2 at *path*, which has a limit of memory; return the root."""
    folder = "sys__fs__cgroup" + path.replace("/", "__")
    files = {"max": f"{limit}\n", "current": f"{used}\n", "stat": STAT}
    written = {f"{folder}__memory_dot_{name}": text for name, text in files.items()}
    return tree(proc__self__cgroup=f"0::{path or '/'}\n", **written)


def test_without_a_limit_the_machine_counts(tree):
    root = tree(
        proc__self__cgroup="0::/a\n",
        sys__fs__cgroup__a__memory_dot_max="max\n",
    )

    assert MemoryGauge(root).read() == (0.75, "machine")


def test_a_cgroup_counts_apart_from_its_caches(tree):
    root = in_cgroup(tree, "/a/b", "1000", used="1200")

    assert MemoryGauge(root).read() == (0.85, "cgroup")


def test_the_limit_of_a_cgroup_further_up_counts_as_well(tree):
    in_cgroup(tree, "/a", "1000", used="1150")
    root = in_cgroup(tree, "/a/b", "max", used="0")

    assert MemoryGauge(root).read() == (0.8, "cgroup")


def test_a_limit_that_is_set_anew_while_actors_run_counts_from_then_on(tree):
    root = in_cgroup(tree, "/a", "max", used="1150")
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
    in_cgroup(tree, "", "1000", used="1300")
    root = tree(proc__self__cgroup="0::/docker/unseen\n")

    assert MemoryGauge(root).read() == (0.95, "cgroup")


def test_the_fuller_one_counts(tree):
    root = in_cgroup(tree, "/a", "10000", used="1000")

    assert MemoryGauge(root).read() == (0.75, "machine")


@pytest.mark.parametrize(
    ("percent", "found"), [(None, None), (30, (pytest.approx(0.7), "machine"))]
)
def test_where_there_is_no_proc_the_system_is_asked(tmp_path, monkeypatch, percent, found):
    monkeypatch.setattr("actor.machine.cgroups.read_memory_level", lambda: percent)

    assert read_machine_memory(tmp_path / "none") == found
    assert MemoryGauge(tmp_path).read() == found


def test_this_machine_uses_some_memory_and_not_all():
    memory = MemoryGauge().read()

    assert memory is not None
    assert 0.0 < memory.used_share < 1.0


# --- what is offered


def test_in_a_container_the_memory_of_its_machine_was_offered(tree):
    """A task that desired 100 GiB went where 1 was to be had, and was killed there."""
    root = tree(
        proc__self__cgroup="0::/pod/a\n",
        sys__fs__cgroup__pod__memory_dot_max=f"{64 * 2**20}\n",
        sys__fs__cgroup__pod__a__memory_dot_max="max\n",
    )
    assert measure_memory_mb(root) == 64

    tree(sys__fs__cgroup__pod__memory_dot_max="max\n")
    assert measure_memory_mb(root) == measure_memory_mb(root / "none") > 64


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [("50000 100000", 1), ("100000 100000", 1), ("150000 100000", 2), ("max 100000", 8)],
)
def test_in_a_container_all_processors_of_its_machine_were_offered(tree, monkeypatch, quota, cpus):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    root = tree(proc__self__cgroup="0::/pod/a\n", sys__fs__cgroup__pod__cpu_dot_max=f"{quota}\n")
    tree(sys__fs__cgroup__pod__a__cpu_dot_max="max 100000\n")

    assert count_cpus(root) == cpus


def test_the_quota_of_version_1_counts_as_well(tree, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    root = tree(
        proc__self__cgroup="5:cpuacct,cpu:/pod\n3:memory:/\n",
        sys__fs__cgroup__cpu__cpu_dot_cfs_quota_us="-1\n",
        sys__fs__cgroup__cpu__pod__cpu_dot_cfs_quota_us="300000\n",
        sys__fs__cgroup__cpu__pod__cpu_dot_cfs_period_us="100000\n",
    )

    assert count_cpus(root) == 3


# --- who was killed


@pytest.mark.parametrize(
    ("cgroup", "file"),
    [
        ("0::/pod", "sys__fs__cgroup__pod__memory_dot_events"),
        ("4:memory:/pod", "sys__fs__cgroup__memory__pod__memory_dot_oom_control"),
        ("0::/", "proc__vmstat"),
    ],
)
def test_who_is_found_killed_is_taken_for_one_that_the_kernel_killed(tree, cgroup, file):
    text = "oom 9\noom_kill {}\noom_kill_disable 5\n".format
    kills = MemoryKills(tree(proc__self__cgroup=f"{cgroup}\n", **{file: text(3)}))

    assert not kills.take()
    tree(**{file: text(5)})
    kills.look()
    assert [kills.take(), kills.take(), kills.take()] == [True, True, False]


def test_a_kill_of_long_ago_is_nobodys_death(tree):
    kills = MemoryKills(tree(proc__self__cgroup="0::/\n", proc__vmstat="oom_kill 0\n"))
    tree(proc__vmstat="oom_kill 1\n")
    kills.look()
    kills.look()

    assert not kills.take()


def test_where_nothing_is_counted_nobody_was_killed_for_memory(tmp_path):
    kills = MemoryKills(tmp_path)
    kills.look()

    assert not kills.take()
