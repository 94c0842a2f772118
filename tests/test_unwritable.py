"""Where nothing can be written: a full disk, a reader that went away, streams that were closed.

Found by hand: a host whose log could not be written ended, and all that its actors ran with it.
"""

import fcntl
import os
import select
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress

import pytest

from sdk import Client, current_task
from tests.support.deployment import DEADLINE_S, ROOT, Deployment, ended_at_once, environment
from wire.printing import STATUS_READER_GONE

pytestmark = [pytest.mark.process, pytest.mark.slow]

# Each starts what follows in its place, with a standard error of that kind.
FULL = ("sh", "-c", 'exec "$@" 2>/dev/full', "sh")
CLOSED = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh")
LOST = (
    "import os, sys; r, w = os.pipe(); os.close(r), os.dup2(w, {});"
    " os.execv(sys.argv[1], sys.argv[1:])"
)
GONE = (sys.executable, "-c", LOST.format(2))
# The same of standard output.
FULL_OUTPUT = ("sh", "-c", 'exec "$@" >/dev/full', "sh")
GONE_OUTPUT = (sys.executable, "-c", LOST.format(1))
# Python gathers what it prints into a pipe, unless told otherwise.
GATHERS = {"PYTHONUNBUFFERED": ""}
KINDS = {"full": FULL, "closed": CLOSED, "gone": GONE}
NO_FILE = ("sh", "-c", 'ulimit -f 0; exec "$@"', "sh")


def logs_and_prints(value):
    current_task().log.warning("seen", value=value)
    print(end="")
    return current_task().actor.name


def test_who_cannot_write_a_log_works_on_and_leaves_cleanly():
    with Deployment() as world:
        client = world.client()
        world.start("broker", "-m", "broker", "--bind", world.endpoint, "--no-journal", prefix=FULL)
        hosts = {
            kind: world.start(
                kind, "-m", "actor", "--broker", world.endpoint, "--name", kind, prefix=prefix
            )
            for kind, prefix in KINDS.items()
        }
        world.actors(client, *(f"{kind}/0" for kind in KINDS))

        for kind in KINDS:
            name = {"name": f"{kind}/0"}
            future = client.submit(logs_and_prints, 1, desired_labels=name)
            assert future.result(DEADLINE_S) == f"{kind}/0"
        for host in hosts.values():
            host.send_signal(signal.SIGTERM)

        world.until(lambda: not client.actors())
        assert [host.wait(DEADLINE_S) for host in hosts.values()] == [0, 0, 0]


@pytest.mark.skipif(sys.platform != "linux", reason="the size of a pipe cannot be set")
def test_a_broker_whose_log_nobody_reads_works_on_and_says_how_many_lines_were_lost():
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4_096)
    os.set_blocking(reading, False)
    with Deployment() as world:
        command = [sys.executable, "-m", "broker", "--bind", world.endpoint, "--no-journal"]
        command += ["--log-level", "debug"]
        with os.fdopen(writing):
            world.processes["broker"] = subprocess.Popen(command, stderr=writing, cwd=ROOT)

        def come_and_go():
            with Client(world.endpoint, connect_timeout=DEADLINE_S) as client:
                return client.query("status", timeout=DEADLINE_S)["clients"]

        # Each writes two lines of about a hundred octets.
        assert all(come_and_go() for _ in range(30))
        said = []

        def read_again():
            with suppress(BlockingIOError):
                said.append(os.read(reading, 65_536))
            come_and_go()
            return b"lines_lost=" in b"".join(said)

        world.until(read_again)
    os.close(reading)
    assert b"broker_ready" in said[0]


def test_a_disk_without_room_for_a_journal_is_one_line(tmp_path):
    command = (*NO_FILE, sys.executable, "-m", "broker", "--data-dir", str(tmp_path / "data"))
    ran = ended_at_once(*command, WARMSLOT_BIND=f"ipc://{tmp_path}/broker")

    assert ran.returncode == 2
    assert ran.stderr.startswith("broker: ")
    assert ran.stderr.count("\n") == 1, ran.stderr
    assert str(tmp_path / "data") in ran.stderr


def test_a_disk_without_room_for_a_key_was_not_named(tmp_path):
    command = (*NO_FILE, sys.executable, "-m", "sdk", "keys", str(tmp_path / "keys"))
    ran = ended_at_once(*command)

    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1)
    assert str(tmp_path / "keys") in ran.stderr


@pytest.mark.parametrize("command", ["actors", "top --count 1"])
def test_a_command_whose_output_was_closed_says_nothing_and_is_fine(command):
    with Deployment() as world:
        world.start_broker()
        closed = [*CLOSED, sys.executable, "-m", "sdk", *command.split()]
        closed += ["--broker", world.endpoint]
        assert subprocess.run(closed, cwd=ROOT, check=False, timeout=DEADLINE_S).returncode == 0


@pytest.mark.parametrize("program", ["broker", "actor", "sdk"])
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_a_text_that_nobody_reads_any_more_was_followed_by_words_of_pythons_own(program, option):
    ran = ended_at_once(*GONE_OUTPUT, sys.executable, "-m", program, option, **GATHERS)

    assert (ran.returncode, ran.stderr) == (STATUS_READER_GONE, "")


@pytest.mark.parametrize("program", ["broker", "actor", "sdk"])
def test_a_text_for_which_there_is_no_room_was_followed_by_words_of_pythons_own(program):
    ran = ended_at_once(*FULL_OUTPUT, sys.executable, "-m", program, "--version", **GATHERS)

    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1)
    assert ran.stderr.endswith(": [Errno 28] No space left on device\n")


@contextmanager
def shown_top(world, *options):
    """Run `top` for a reader at the other end of a pipe."""
    top = [sys.executable, "-m", "sdk", "top", "--broker", world.endpoint, *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(top, env=environment(**GATHERS), cwd=ROOT, **pipes) as shown:
        try:
            yield shown
        finally:
            shown.kill()


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_reader_of_top_saw_nothing_until_a_buffer_was_full(form):
    with Deployment() as world:
        world.start_broker()
        with shown_top(world, "--interval", "3600", *form) as shown:
            world.until(lambda: select.select([shown.stdout], [], [], 0)[0])

            assert shown.stdout.readline().strip()


def test_a_top_whose_reader_has_enough_ends_without_a_word():
    with Deployment() as world:
        world.start_broker()
        with shown_top(world, "--interval", "0.1") as shown:
            shown.stdout.close()

            assert shown.wait(DEADLINE_S) == STATUS_READER_GONE
            assert shown.stderr.read() == b""
