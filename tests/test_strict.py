"""Strict limits with real processes: whoever loses the broker ends before others are let in."""

import ctypes
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from sdk import current_task
from tests.support.deployment import Deployment, is_alive

pytestmark = pytest.mark.process

TIMEOUT_S = 90.0
LEASE_S = 2.5
SHORT = ("--heartbeat", "0.5", "--lease", str(LEASE_S))


def note(journal, what):
    with Path(journal).open("a") as file:
        file.write(f"{what} {os.getpid()} {time.monotonic()}\n")


def entries(journal, what):
    lines = Path(journal).read_text().splitlines() if Path(journal).exists() else []
    return [line.split() for line in lines if line.startswith(what)]


def hold(journal, flag, how):
    """Hold the limit until somebody says so; the first time perhaps with the interpreter's lock."""
    note(journal, "begin")
    if how == "cannot look" and len(entries(journal, "begin")) == 1:
        ctypes.PyDLL(None).sleep(600)
    while not Path(flag).exists():
        threading.Event().wait(0.05)
    note(journal, "end")
    return current_task().attempt


@pytest.mark.parametrize("how", ["looks", "cannot look"])
def test_who_holds_a_strict_limit_ends_before_its_lease(tmp_path, how):
    journal, flag = tmp_path / "journal", tmp_path / "flag"
    with Deployment(*SHORT, "--limit", "db=1:strict") as world:
        world.start_broker()
        world.start_host("a")
        client = world.client()
        world.actors(client, "a/0")
        future = client.options(limits={"db": 1}).submit(hold, str(journal), str(flag), how)
        ((_, pid, _),) = world.until(lambda: entries(journal, "begin"))
        # Held for a while, and heard all along: a run with the lock is seen at work by its host.
        time_to_hear = time.monotonic() + 1.0
        world.until(lambda: time.monotonic() > time_to_hear)

        world.processes["broker"].send_signal(signal.SIGSTOP)
        world.until(lambda: not is_alive(int(pid)))
        world.processes["broker"].send_signal(signal.SIGCONT)
        world.until(lambda: len(entries(journal, "begin")) == 2)
        flag.touch()

        # Nobody is to blame, so no try was burned.
        assert future.result(TIMEOUT_S) == 1
        assert entries(journal, "begin")[1][1] != pid
        assert ("fenced" in world.log("a")) or ("strict limit" in world.log("a")), world.story()


def test_who_holds_a_limit_that_is_not_strict_goes_on(tmp_path):
    journal, flag = tmp_path / "journal", tmp_path / "flag"
    with Deployment(*SHORT, "--limit", "db=1") as world:
        world.start_broker()
        world.start_host("a")
        client = world.client()
        world.actors(client, "a/0")
        future = client.options(limits={"db": 1}).submit(hold, str(journal), str(flag), "looks")
        ((_, pid, _),) = world.until(lambda: entries(journal, "begin"))

        world.processes["broker"].send_signal(signal.SIGSTOP)
        over = time.monotonic() + LEASE_S + 1.0
        world.until(lambda: time.monotonic() > over)
        assert is_alive(int(pid))
        world.processes["broker"].send_signal(signal.SIGCONT)
        flag.touch()

        assert future.result(TIMEOUT_S) == 1
        assert len(entries(journal, "begin")) == 1
