import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from actor.machine import cgroups, platform
from tests.support.deployment import DEADLINE_S

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0:00.50", 0.5), ("01:02", 62.0), ("1:02:03", 3723.0), ("2-01:00:00", 176_400.0)],
)
def test_the_times_of_ps_are_read(text, seconds):
    assert platform.parse_ps_time(text) == seconds


@pytest.mark.process
@pytest.mark.parametrize("use_proc", [True, False])
def test_a_stopped_process_is_told_from_one_that_runs(use_proc):
    if use_proc and not platform.IS_LINUX:
        pytest.skip("no /proc")
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    before = platform.read_processes([process.pid], use_proc=use_proc)
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    after = platform.read_processes([process.pid], use_proc=use_proc)
    process.kill()
    process.communicate()
    if not before:
        pytest.skip("no ps")

    assert not before[process.pid].is_stopped
    assert before[process.pid].cpu_s >= 0
    assert after[process.pid].is_stopped


@pytest.mark.skipif(not platform.IS_LINUX, reason="no /proc")
def test_a_process_that_hardly_moves_is_seen_to_move():
    child = "import sys\nfor line in sys.stdin: print(flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        seen = []
        for _ in range(4):
            # Far less work than a hundredth of a second.
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"\n"
            seen.append(platform.read_processes([process.pid])[process.pid].cpu_s)

    assert all(before < after for before, after in itertools.pairwise(seen))


@pytest.mark.parametrize("use_proc", [True, False])
def test_a_process_that_is_gone_is_left_out(use_proc):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()

    assert platform.read_processes([process.pid], use_proc=use_proc) == {}


def test_no_process_needs_no_ps():
    assert platform.read_ps([]) == {}


CHILD = """
import os, sys
from actor.machine.platform import die_with_parent
die_with_parent(int(sys.argv[1]), int(sys.argv[2]), use_signal=sys.argv[3] == "True")
print("ready", flush=True)
while True:
    os.read(0, 1) or os.kill(os.getpid(), 19)
"""


@pytest.mark.process
def test_the_end_of_the_lifeline_ends_the_process():
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(os.getpid()), str(reading), "False"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[reading],
        cwd=ROOT,
    )
    os.close(reading)
    assert process.stdout.readline() == b"ready\n"

    os.close(writing)

    assert process.wait(DEADLINE_S) == platform.EXIT_PARENT_DIED
    process.communicate()


@pytest.mark.process
@pytest.mark.parametrize("use_signal", [True, False])
def test_a_process_whose_parent_died_before_it_looked_ends(use_signal):
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, "1", str(reading), str(use_signal and platform.IS_LINUX)],
        stdin=subprocess.DEVNULL,
        pass_fds=[reading],
        cwd=ROOT,
    )

    assert process.wait(DEADLINE_S) == platform.EXIT_PARENT_DIED
    os.close(reading)
    os.close(writing)


def test_gpus_are_read_from_the_driver(tmp_path):
    for number, text in enumerate(["Model: \t NVIDIA A100  \nIRQ: 3\n", "IRQ: 4\n"]):
        folder = tmp_path / f"0000:0{number}:00.0"
        folder.mkdir()
        (folder / "information").write_text(text)

    assert platform.list_gpus(tmp_path) == ["NVIDIA A100", "unknown"]
    assert platform.list_gpus(tmp_path / "none", "no such tool") == []


@pytest.mark.parametrize(
    ("script", "gpus"),
    [
        ("printf 'NVIDIA A100\\n\\nTesla T4\\n'", ["NVIDIA A100", "Tesla T4"]),
        ("exit 9", []),
        ("printf 'half a\\n'; exit 1", []),
    ],
)
def test_where_the_driver_has_no_files_its_tool_is_asked(tmp_path, script, gpus):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)

    assert platform.list_gpus(tmp_path / "none", str(tool)) == gpus


def test_this_machine_has_processors_and_memory():
    assert cgroups.count_cpus() >= 1
    assert cgroups.measure_memory_mb() > 0
    assert platform.name_system()
