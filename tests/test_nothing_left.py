"""Whoever is killed, and however a program ends: no process, file, socket or memory stays behind.

All processes find a folder for temporary files and a word in their environment, by which they are
found wherever they are.
"""

import contextlib
import itertools
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.deployment import DEADLINE_S, ROOT, Deployment, environment, wait_until

pytestmark = [
    pytest.mark.process,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]
PATIENCE_S = DEADLINE_S


class Trace:
    """What the processes of a test leave behind."""

    def __init__(self, folder):
        self.word = f"left={secrets.token_hex(8)}"
        self.folder = folder / "tmp"
        self.folder.mkdir()
        # An ipc path may have about 100 octets.
        self.variables = {"TMPDIR": str(self.folder), "LEFT_BEHIND": self.word}

    def processes(self):
        """Return the command of each process that runs."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self.word.encode() in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" "))
        return found

    def files(self):
        return sorted(
            str(path.relative_to(self.folder))
            for path in self.folder.rglob("*")
            if path != self.locks
        )

    @property
    def locks(self):
        """Return the folder of the names of hosts, which stays and is empty."""
        return self.folder / f"warmslot-{os.getuid()}"

    def must_be_gone(self):
        wait_until(lambda: not self.processes(), PATIENCE_S, lambda: f": {self.processes()}")
        assert self.files() == []
        assert list(Path("/dev/shm").glob("*warmslot*")) == []


@pytest.fixture
def trace(tmp_path):
    return Trace(tmp_path)


# --- processes that are killed, in each order

CALLS = """
import sys, threading
from sdk import Client

def wait(seconds):
    threading.Event().wait(seconds)

with Client(sys.argv[1]) as client:
    while True:
        futures = client.map(wait, [0.01] * 8)
        [future.result() for future in futures]
        print("some", flush=True)
"""


@pytest.mark.parametrize(
    "order", list(itertools.permutations(["broker", "h", "client"])), ids="-".join
)
def test_nothing_is_left_in_whatever_order_all_are_killed(trace, order):
    with Deployment() as world:
        journal = ("-m", "broker", "--bind", world.endpoint, "--data-dir", str(world.folder / "d"))
        world.start("broker", *journal, **trace.variables)
        world.start_host("h", "--replicas", "2", "--slots", "2", **trace.variables)
        world.start("client", "-c", CALLS, world.endpoint, **trace.variables)
        world.until(lambda: "some" in world.log("client"), PATIENCE_S)
        with world.client() as looking:
            pid = looking.actors()[0]["pid"]

        for name in order:
            if name == "client":
                # Before or after its host, which takes the others along.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            world.kill(name)

        wait_until(lambda: not trace.processes(), PATIENCE_S, world.story)
        # Who comes next under their names takes over the files, and leaves none.
        world.start("broker", *journal, **trace.variables)
        host = world.start_host("h", **trace.variables)
        with world.client() as client:
            client.submit(os.getpid).result(PATIENCE_S)
        host.send_signal(signal.SIGTERM)
        assert host.wait(PATIENCE_S) == 0
        world.kill("broker", signal.SIGTERM)
        trace.must_be_gone()
        assert not Path(world.endpoint.removeprefix("ipc://")).exists()


# --- programs with a cluster of their own

PROGRAM = """
import os, signal, sys, threading
from sdk import LocalCluster
# Whoever runs the tests in the background has it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

def wait(_=0):
    threading.Event().wait()

def ready(cluster):
    client = cluster.client()
    futures = [client.submit(wait) for _ in range(3)]
    while not any(future.status() == "assigned" for future in futures):
        threading.Event().wait(0.01)
    print(cluster.processes["broker"], flush=True)
    return futures
"""
WAITS = "with LocalCluster(2) as cluster: ready(cluster)[0].result()"
# A task waits for a program that it has started.
STARTS = "def wait(_=0):\n    __import__('subprocess').run(['sleep', '600'])\n"
OPEN = "cluster = LocalCluster(2); ready(cluster); sys.stdin.readline()"
WITH = "with LocalCluster([{'slots': 2}, {}]) as cluster: ready(cluster); sys.stdin.readline()"
# What it does until it ends, and the exit status that it has then.
ENDS = {
    "ctrl-c": (WAITS, -signal.SIGINT),
    "ctrl-c in programs of tasks": (STARTS + WAITS, -signal.SIGINT),
    "an exception": (f"{WITH}; 1 / 0", 1),
    "an exit": (f"{WITH}; sys.exit(3)", 3),
    "its end": (OPEN, 0),
    "os._exit": (f"{OPEN}; os._exit(4)", 4),
    "SIGTERM": (WAITS, -signal.SIGTERM),
    "SIGKILL": (WAITS, -signal.SIGKILL),
    "SIGKILL of both": (WAITS, -signal.SIGKILL),
}


@pytest.mark.parametrize("how", ENDS)
def test_nothing_is_left_of_a_program_with_a_cluster_however_it_ends(trace, how, tmp_path):
    code, status = ENDS[how]
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM + code],
        env=environment(**trace.variables),
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # A terminal sends Ctrl-C to the whole group.
        start_new_session=True,
    )
    try:
        broker = int(program.stdout.readline())
        match how:
            case "ctrl-c" | "ctrl-c in programs of tasks":
                os.killpg(program.pid, signal.SIGINT)
            case "SIGTERM" | "SIGKILL":
                program.send_signal(signal.Signals[how])
            case "SIGKILL of both":
                os.kill(broker, signal.SIGKILL)
                program.kill()
            case _:
                program.stdin.write("\n")
                program.stdin.flush()

        assert program.wait(PATIENCE_S) == status
        wait_until(lambda: not trace.processes(), PATIENCE_S, lambda: f": {trace.processes()}")
    finally:
        program.kill()
        program.communicate()
    trace.must_be_gone()


# --- a disk without room

FULL = """
mount -t tmpfs -o size=256k none {folder} || exit 77
head -c 1M /dev/zero > {folder}/balloon 2>/dev/null
{python} -c '{program}'
status=$?
rm {folder}/balloon
find {folder} -mindepth 1 -not -name "warmslot-{uid}"
exit $status
"""
ON_FULL = """
from sdk import LocalCluster
with LocalCluster(1) as cluster, cluster.client() as client:
    assert client.submit(divmod, 7, 2).result(60) == (3, 1)
"""


def test_a_cluster_works_where_there_is_no_room_for_files_and_leaves_none(trace):
    script = FULL.format(
        folder=trace.folder, python=sys.executable, program=ON_FULL, uid=os.getuid()
    )
    ran = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script],
        env=environment(**trace.variables),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    if ran.returncode in (1, 77) and "unshare" in ran.stderr:
        pytest.skip("no file system of our own here")

    assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr
    trace.must_be_gone()
