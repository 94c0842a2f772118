"""A process or a thread that a test leaves behind is found."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support import leftovers

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="processes are found by /proc"
)
needs_subreaper = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux gives orphans to an ancestor"
)

UNTIL_END_OF_INPUT = "import sys; sys.stdin.read()"
START_ONE_AND_LEAVE = (
    "import subprocess, sys;"
    f"print(subprocess.Popen([sys.executable, '-c', {UNTIL_END_OF_INPUT!r}],"
    " stdout=subprocess.DEVNULL).pid)"
)


@pytest.fixture
def no_grace(monkeypatch):
    monkeypatch.setattr(leftovers, "GRACE_S", 0.0)


@needs_proc
@pytest.mark.process
def test_a_child_that_runs_is_found_and_killed(no_grace):
    before = leftovers.child_processes()
    command = [sys.executable, "-c", UNTIL_END_OF_INPUT]

    with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
        left = leftovers.left_processes(before)

    assert list(left) == [child.pid]
    assert child.returncode < 0


@needs_proc
@pytest.mark.process
def test_a_child_that_was_there_before_does_not_count(no_grace):
    command = [sys.executable, "-c", UNTIL_END_OF_INPUT]

    with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
        left = leftovers.left_processes(leftovers.child_processes())
        child.communicate()

    assert left == {}
    assert child.returncode == 0


@needs_proc
@pytest.mark.process
def test_a_child_that_is_about_to_end_does_not_count():
    before = leftovers.child_processes()
    command = [sys.executable, "-c", "pass"]

    with subprocess.Popen(command, stdin=subprocess.PIPE):
        left = leftovers.left_processes(before)

    assert left == {}


@needs_subreaper
@pytest.mark.process
def test_an_orphan_is_found(no_grace):
    before = leftovers.child_processes()
    command = [sys.executable, "-c", START_ONE_AND_LEAVE]

    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        orphan = int(parent.stdout.readline())
        parent.stdout.read()
        parent.wait()
        left = leftovers.left_processes(before)

    assert list(left) == [orphan]


def test_a_thread_that_does_not_end_is_found(no_grace):
    before = leftovers.lasting_threads()
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()

    left = leftovers.left_threads(before)
    ended.set()
    thread.join()

    assert left == {thread}


def test_a_daemon_thread_does_not_count(no_grace):
    before = leftovers.lasting_threads()
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait, daemon=True)
    thread.start()

    left = leftovers.left_threads(before)
    ended.set()
    thread.join()

    assert left == set()
