"""The fork server, and what becomes of a start when it ends at any moment."""

import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from actor.machine.board import Stage
from actor.machine.platform import count_threads
from actor.processes.forking import SPAWN, ForkServer, read_early, start_fork_server
from actor.processes.process import ASKED_MAX, ActorProcess, Starter
from actor.settings import EXIT_RETIRED, HostSettings
from actor.supervision import Ward
from tests.support.deployment import (
    HASTY_BROKER,
    HASTY_HOST,
    ROOT,
    Deployment,
    is_alive,
    wait_until,
)

linux = [
    pytest.mark.process,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="has no fork server"),
]


@pytest.mark.parametrize("name", ["PYTHONHASHSEED", "LD_PRELOAD", "MALLOC_ARENA_MAX", "LC_ALL"])
def test_a_variable_that_would_come_too_late_lets_actors_start_from_nothing(name):
    assert read_early([name]) == [name]
    assert start_fork_server(None, {name: "1"}, None, []) is None


@pytest.mark.parametrize("name", ["CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "TZ", "LANGSMITH"])
def test_a_variable_that_is_read_later_does_not(name):
    assert read_early([name]) == []


def test_a_start_without_descriptors_left_some_open_each_time():
    settings, ward = HostSettings(name="h", broker="ipc:///nowhere"), Ward(0, "h/0", 0.0, 1.0)
    before = open_ones()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    failures = 0
    for room in range(1, 6):
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free() + room, hard))
        try:
            ActorProcess(settings, ward, 1, 2).close()
        except OSError:
            failures += 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert failures >= 2
    assert open_ones() == before


def open_ones():
    return sorted(path.name for path in Path("/dev/fd").iterdir())


def lowest_free():
    descriptor = os.dup(0)
    os.close(descriptor)
    return descriptor


def test_without_a_fork_server_none_is_started():
    assert start_fork_server(SPAWN, {}, None, []) is None


@pytest.mark.skipif(sys.platform != "linux", reason="has no fork server")
def test_a_fork_server_that_cannot_be_started_is_told_in_the_log(monkeypatch):
    missed = []
    with monkeypatch.context() as here:
        here.setattr(sys, "executable", "/no/python")
        server = start_fork_server(None, {}, None, missed)

    assert server is None
    assert "/no/python" in missed[0]


def test_what_an_actor_loads_has_no_threads_and_leaves_to_it_what_variables_say():
    text = (
        "import actor.machine.platform, actor.processes.life, sys, tempfile;"
        " sys.exit(actor.machine.platform.count_threads() != 1 or tempfile.tempdir is not None"
        " or 'gomp' in open('/proc/self/maps').read())"
    )
    assert count_threads() >= 1
    if sys.platform == "linux":
        assert subprocess.run([sys.executable, "-c", text], check=False).returncode == 0


ENDING = """
import sys, threading, time
from actor.forkserver import is_alone
last = threading.Thread(target=sys.stdin.readline)
last.start()
assert not is_alone(time.monotonic())
print("looked", flush=True)
sys.exit(not is_alone(time.monotonic() + 600))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="has no fork server")
def test_a_thread_that_is_just_ending_makes_no_fork_server_unfit():
    with subprocess.Popen(
        [sys.executable, "-c", ENDING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "looked\n"
        process.stdin.write("\n")
    assert process.returncode == 0


# --- the host's end, without a broker: an actor does not need one to be up


class Shell:
    """What a host does with its processes."""

    def __init__(self, server):
        self.server = server
        self.starter = Starter(server)
        self.settings = HostSettings(
            name="h", broker="ipc:///nobody", variables={"NUMBER": "{index}"}
        )
        self.processes = []

    def start(self):
        index = len(self.processes)
        ward = Ward(index, f"h/{index}", 0.0, 0.1)
        process = ActorProcess(self.settings, ward, host=1, incarnation=index + 1)
        self.processes.append(process)
        self.starter.start(process)
        return process

    def answered(self):
        self.starter.look()
        return self.starter.take_answered()

    def close(self):
        for process in self.processes:
            process.send(signal.SIGKILL)
        self.starter.end()
        for process in self.processes:
            process.wait()
            process.close()


@pytest.fixture
def shell():
    shell = Shell(ForkServer())
    yield shell
    shell.close()


def is_up(process):
    return process.board.stage is Stage.UP


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


class TestForkServer:
    pytestmark = linux

    def test_an_actor_is_a_child_of_the_host_in_a_session_of_its_own(self, shell):
        process = shell.start()
        assert process.pid == 0

        assert wait_until(shell.answered) == [process]

        assert parent_of(process.pid) == os.getpid()
        assert os.getsid(process.pid) == process.pid
        wait_until(lambda: is_up(process))
        words = Path(f"/proc/{process.pid}/cmdline").read_text().rstrip("\0").split("\0")
        assert words == [sys.executable, "-m", "actor.child", "h/0"]
        files = [str(entry.readlink()) for entry in Path(f"/proc/{process.pid}/fd").iterdir()]
        assert sum(name.startswith("socket:") for name in files) == 1

    def test_it_outlives_the_fork_server_and_its_end_is_told_as_it_was(self, shell):
        process = shell.start()
        wait_until(shell.answered)
        first = shell.starter.pid
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: shell.answered() or shell.starter.pid != first)
        assert process.poll() is None

        process.send(signal.SIGUSR1)

        assert wait_until(process.poll) == -signal.SIGUSR1
        again = shell.start()
        assert wait_until(shell.answered) == [again]
        assert parent_of(again.pid) == os.getpid()

    def test_what_a_killed_fork_server_had_not_forked_starts_from_nothing(self, shell):
        shell.start()
        wait_until(shell.answered)
        first = shell.starter.pid
        os.kill(first, signal.SIGSTOP)
        process = shell.start()

        os.kill(first, signal.SIGKILL)

        assert wait_until(shell.answered) == [process]
        assert process.pid == 0
        # The next one is forked again, by another fork server.
        wait_until(lambda: shell.answered() or shell.starter.pid not in (0, first))
        process.spawn()
        assert parent_of(process.pid) == os.getpid()
        wait_until(lambda: is_up(process))

    def test_a_fork_server_that_ends_before_it_is_ready_is_not_started_again(self, shell):
        os.kill(shell.server.process.pid, signal.SIGSTOP)
        processes = [shell.start() for _ in range(ASKED_MAX + 2)]
        shell.server.process.kill()

        refused = []
        wait_until(lambda: refused.extend(shell.answered()) or len(refused) == len(processes))

        assert {process.pid for process in refused} == {0}
        assert shell.starter.pid == 0

    def test_a_signal_for_an_actor_that_is_not_there_yet_finds_it(self, shell):
        process = shell.start()

        process.send(signal.SIGTERM)

        wait_until(shell.answered)
        wait_until(lambda: process.poll() is not None)
        # By the signal itself, or by its own handler where that stood already: then it drains, and
        # leaves for another to follow, since no host told it to.
        assert process.poll() in {-signal.SIGTERM, EXIT_RETIRED}

    def test_a_start_that_is_not_answered_at_the_end_of_the_host_is_not_asked_for_later(
        self, shell
    ):
        """The host looked for its socket when it then met an orphan, and ended with a KeyError."""
        processes = [shell.start() for _ in range(ASKED_MAX + 1)]

        shell.starter.end()

        for process in processes:
            process.close()
        assert shell.starter.take_answered() == []
        shell.processes.clear()

    def test_the_fork_server_ends_with_its_host(self):
        text = (
            "import os; from actor.processes.forking import ForkServer;"
            "print(ForkServer().process.pid, flush=True); os.read(0, 1)"
        )
        host = subprocess.Popen(
            [sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        server = int(host.stdout.readline())

        host.kill()

        host.communicate()
        wait_until(lambda: not is_alive(server))

    def test_the_fork_server_ends_without_a_word_where_its_host_has_not_read_its_first(self):
        """A host that was killed left a traceback in the log, or the beginning of one."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        told = map(str, (theirs.fileno(), os.getpid(), 0.0))
        server = subprocess.Popen(
            [sys.executable, "-m", "actor.forkserver", *told],
            pass_fds=(theirs.fileno(),),
            stderr=subprocess.PIPE,
        )
        theirs.close()
        select.select([ours], [], [])

        ours.close()

        assert server.communicate() == (None, b"")
        assert server.returncode == 0


# --- a whole host


def test_a_fork_server_that_was_stopped_is_followed_by_another():
    """The host waited for it as long as a start may take, ten minutes, and said nothing."""
    with Deployment(*HASTY_BROKER) as world:
        world.start_broker()
        host = world.start_host("h", *HASTY_HOST)
        client = world.client()
        actor = world.actors(client, "h/0")["h/0"]["pid"]
        children = Path(f"/proc/{host.pid}/task/{host.pid}/children").read_text().split()
        (server,) = {*map(int, children)} - {actor}
        os.kill(server, signal.SIGSTOP)

        os.kill(actor, signal.SIGKILL)

        assert client.submit(os.getppid).result(60) == host.pid
        world.until(lambda: "reason='it was stopped'" in world.log("h"))


test_a_fork_server_that_was_stopped_is_followed_by_another.pytestmark = linux


def left_behind():
    """Start a process that outlives the actor, and tell its id."""
    process = subprocess.Popen(["sleep", "0.2"])
    return os.getpid(), process.pid, os.environ["NUMBER"], time.tzname


def see_parent():
    """Return the parent's id, by a module that was not there when the host was started."""
    import came_later

    return came_later.parent()


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_an_actor_is_the_same_however_it_was_started(method, tmp_path):
    with Deployment() as world:
        world.start_broker()
        later = tmp_path / "later"
        options = ("--start-method", method, "--env", "NUMBER={index}", "--env", "TZ=XYZ-3")
        host = world.start_host("h", *options, PYTHONPATH=f"{ROOT}:{later}")
        client = world.client()

        actor, orphan, number, zone = client.submit(left_behind).result(60)

        assert number == "0"
        assert zone[0] == "XYZ"
        later.mkdir()
        (later / "came_later.py").write_text("from os import getppid as parent")
        os.kill(actor, signal.SIGKILL)
        world.until(lambda: "signal=9" in world.log("h"))
        # Whoever its parent is then, nobody leaves it unreaped.
        world.until(lambda: not is_alive(orphan))
        assert client.submit(see_parent).result(60) == host.pid


test_an_actor_is_the_same_however_it_was_started.pytestmark += linux
