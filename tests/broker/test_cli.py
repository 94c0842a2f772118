"""The broker's command line: a mistake is one line and status 2, a start says where it is."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import zmq

from broker import cli
from broker.cli import (
    Usage,
    end_on_signals,
    read_options,
    read_size,
    set_limits,
    state_folder,
)
from broker.core import Broker
from broker.disk.journal import Stored
from broker.disk.opening import JournalError
from broker.endpoint import EndpointError
from broker.settings import Settings
from tests.support.deployment import DEADLINE_S
from wire.codec import decode_broker, encode
from wire.messages import PROTOCOL, Beat, Frame, Who

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = DEADLINE_S


def options(*arguments, **environment):
    return read_options(arguments, environment)


# --- options and environment


def test_defaults_are_those_of_the_protocol():
    read = options()

    assert read.bind == ["tcp://127.0.0.1:5555"]
    assert read.settings == Settings()
    assert (read.durability, read.log_format, read.no_journal) == ("power", "console", False)


def test_every_option_of_time_and_size_reaches_the_settings():
    read = options(
        *("--heartbeat", "0.1", "--suspect", "0.3", "--lease", "0.7", "--gil-grace", "9"),
        *("--adopt-window", "0.5", "--client-timeout", "3", "--payload-bytes-max", "64K"),
        *("--window-tasks", "7", "--window-bytes", "1M", "--scale-after", "0.2"),
        *("--scale-down", "60", "--environment-retry", "0.3"),
    )

    assert read.settings == Settings(
        heartbeat_s=0.1,
        suspect_s=0.3,
        lease_s=0.7,
        gil_grace_s=9.0,
        adopt_window_s=0.5,
        client_timeout_s=3.0,
        payload_bytes_max=65_536,
        window_tasks=7,
        window_bytes=2**20,
        scale_after_s=0.2,
        scale_down_s=60.0,
        environment_retry_s=0.3,
    )


def test_what_is_not_said_follows_the_heartbeat():
    settings = options("--heartbeat", "20").settings

    assert (settings.suspect_s, settings.lease_s, settings.gil_grace_s) == (40.0, 100.0, 100.0)


def test_the_environment_speaks_when_the_command_line_does_not():
    said = {
        "WARMSLOT_BIND": "tcp://127.0.0.1:1, ipc://x",
        "WARMSLOT_HEARTBEAT": "0.5",
        "WARMSLOT_DATA_DIR": "there",
        "WARMSLOT_LOG_FORMAT": "json",
        "WARMSLOT_WINDOW_TASKS": "3",
    }

    by_environment = options(**said)
    by_line = options("--bind", "ipc://y", "--heartbeat", "0.6", "--data-dir", "here", **said)

    assert by_environment.bind == ["tcp://127.0.0.1:1", "ipc://x"]
    assert by_environment.settings.heartbeat_s == 0.5
    assert by_environment.data_dir == Path("there")
    assert (by_environment.log_format, by_environment.log_level) == ("json", "info")
    assert options("--log-level", "Debug").log_level == "debug"
    assert by_environment.settings.window_tasks == 3
    assert by_line.bind == ["ipc://y"]
    assert by_line.settings.heartbeat_s == 0.6
    assert by_line.data_dir == Path("here")


@pytest.mark.parametrize(
    ("arguments", "environment", "no_journal"),
    [
        ((), {"WARMSLOT_NO_JOURNAL": "1"}, True),
        ((), {"WARMSLOT_NO_JOURNAL": "no"}, False),
        (("--data-dir", "x"), {"WARMSLOT_NO_JOURNAL": "1"}, False),
        (("--no-journal",), {"WARMSLOT_DATA_DIR": "x"}, True),
    ],
)
def test_the_command_line_decides_over_the_environment(arguments, environment, no_journal):
    assert options(*arguments, **environment).no_journal is no_journal


@pytest.mark.parametrize(
    ("environment", "folder"),
    [({"XDG_STATE_HOME": "/state"}, "/state/warmslot"), ({}, "~/.local/state/warmslot")],
)
def test_the_journal_is_kept_in_the_users_state_folder(environment, folder):
    assert state_folder(environment) == Path(folder).expanduser()


def test_a_user_without_a_home_got_a_traceback(monkeypatch):
    """As one that a container makes up, which no file knows."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 2**31)

    with pytest.raises(Usage, match="no home folder for the journal"):
        options()
    assert options("--no-journal").no_journal


@pytest.mark.parametrize("text", ["db=2 api=3", "db=2,api=3", "db=2, api=3"])
def test_limits_from_the_environment_may_stand_between_blanks_as_those_of_a_host(text):
    found = options(WARMSLOT_LIMIT=text).limit

    assert [(limit.name, limit.maximum) for limit in found] == [("db", 2), ("api", 3)]


MISTAKES = [
    (["--frob"], {}, "--frob"),
    (["--bin", "ipc://x"], {}, "--bin"),
    (["extra"], {}, "extra"),
    (["--heartbeat", "soon"], {}, "'soon'"),
    (["--heartbeat", "0"], {}, "'0'"),
    (["--dead-tasks-max", "-1"], {}, "'-1' is not a number of at least 0"),
    (["--heartbeat", "nan"], {}, "'nan'"),
    (["--lease", "inf"], {}, "'inf'"),
    (["--lease", "1"], {}, "--lease (1 s)"),
    (["--gil-grace", "1"], {}, "--gil-grace (1 s)"),
    (["--window-tasks", "-1"], {}, "'-1'"),
    (["--payload-bytes-max", "12Q"], {}, "'12Q'"),
    (["--durability", "none"], {}, "'none' is not power or process"),
    (["--log-format", "xml"], {}, "'xml' is not console or json"),
    (["--log-level", "loud"], {}, "'loud' is not debug or info or warning or error or critical"),
    ([], {"WARMSLOT_LOG_LEVEL": "30"}, "'30' is not debug or info"),
    (["--data-dir", "x", "--no-journal"], {}, "exclude each other"),
    (["--http", "127.0.0.1:8080"], {}, "--http is not available yet"),
    (["--limit", "db"], {}, "limit 'db' is not NAME=N"),
    (["--limit", "db=1", "--limit", "db=2"], {}, "names a limit twice"),
    (["--limit", "db=1:strategy=first"], {}, "'first' is no strategy"),
    ([], {"WARMSLOT_LIMIT": "db=0"}, "0 is not from 1 to"),
    ([], {"WARMSLOT_LEASE": "long"}, "'long'"),
    ([], {"WARMSLOT_NO_JOURNAL": "perhaps"}, "'perhaps'"),
]


@pytest.mark.parametrize(("arguments", "environment", "named"), MISTAKES)
def test_a_mistake_is_named(arguments, environment, named):
    with pytest.raises(Usage) as raised:
        options(*arguments, **environment)

    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["k" * 10_000, "9" * 5_000])
@pytest.mark.parametrize(
    "option",
    ["heartbeat", "dead-tasks-max", "dead-bytes-max", "limit", "bind", "durability", "log-format"],
)
def test_a_mistake_was_told_however_long_it_is(option, text):
    with pytest.raises((Usage, EndpointError)) as raised:
        options(f"--{option}", text)

    assert len(str(raised.value)) < 500
    assert "invalid read_" not in str(raised.value)


def test_a_port_of_thousands_of_digits_ended_with_a_traceback():
    with pytest.raises(EndpointError, match="is not a port; 0 to 65535"):
        options("--bind", f"tcp://127.0.0.1:{'9' * 5_000}")


@pytest.mark.parametrize(
    ("text", "octets"),
    [("1", 1), ("2k", 2048), ("3M", 3 * 2**20), ("1GiB", 2**30), ("1gb", 2**30), ("5B", 5)],
)
def test_sizes_are_octets_or_have_a_unit(text, octets):
    assert read_size(text) == octets


# --- processes


@contextlib.contextmanager
def broker(*arguments, **environment):
    """Start one with a log that can be read, and kill it at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "broker", *arguments],
        cwd=ROOT,
        env=os.environ | {"WARMSLOT_LOG_FORMAT": "json"} | environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def ready(process):
    line = process.stderr.readline()
    said = json.loads(line) if line.startswith("{") else {}
    assert said.get("event") == "broker_ready", line
    return said


def refused(*arguments, **environment):
    """Return the only line that a broker says which does not start."""
    with broker(*arguments, **environment) as process:
        said = process.stderr.read()
        assert process.wait(PATIENCE_S) == 2
    assert said.count("\n") == 1, said
    assert said.startswith("broker: ")
    return said


def who(endpoint):
    """Ask for the epoch of whoever listens at *endpoint*."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(endpoint)
        dealer.send(encode(Frame(PROTOCOL, 1, 1, 1, 0, [Beat()])))
        assert dealer.poll(PATIENCE_S * 1000)
        frame = decode_broker(dealer.recv())
        assert frame.commands == [Who()]
        return frame.epoch


@pytest.mark.process
@pytest.mark.slow
def test_a_broker_says_where_it_is_and_answers_there(tmp_path):
    ipc = f"ipc://{tmp_path / 'b'}"

    with broker(
        "--bind", "tcp://127.0.0.1:*", "--bind", ipc, "--data-dir", str(tmp_path)
    ) as process:
        said = ready(process)

        assert said["endpoints"][1] == ipc
        assert said["endpoints"][0].rpartition(":")[2] not in ("0", "*")
        assert [who(endpoint) for endpoint in said["endpoints"]] == [said["epoch"]] * 2
        assert (tmp_path / "b").stat().st_mode & 0o077 == 0
        assert (tmp_path / "journal.db").stat().st_mode & 0o077 == 0


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(tmp_path, number):
    with broker("--bind", f"ipc://{tmp_path / 'b'}", "--data-dir", str(tmp_path)) as process:
        ready(process)
        process.send_signal(number)
        said = process.stderr.read()
        assert process.wait(PATIENCE_S) == 0

    assert json.loads(said.splitlines()[-1])["event"] == "broker_stopped"
    assert not (tmp_path / "b").exists()


@pytest.mark.process
@pytest.mark.slow
def test_a_file_that_zeromq_had_named_left_its_folder_behind(tmp_path):
    with broker("--bind", "ipc://*", "--no-journal", TMPDIR=str(tmp_path)) as process:
        (endpoint,) = ready(process)["endpoints"]
        assert endpoint.startswith(f"ipc://{tmp_path}/")
        process.terminate()
        assert process.wait(PATIENCE_S) == 0

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN])
def test_a_terminal_that_is_closed_ends_it_unless_it_was_started_to_outlive_that(before):
    class Rung:
        count = 0

        def stop(self):
            self.count += 1

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in numbers}
    rung = Rung()
    try:
        signal.signal(signal.SIGHUP, before)
        end_on_signals(rung)
        signal.raise_signal(signal.SIGHUP)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    assert rung.count == (before == signal.SIG_DFL)


@pytest.mark.process
@pytest.mark.slow
def test_the_epoch_rises_with_each_start_also_after_a_kill(tmp_path):
    epochs = []
    for _ in range(3):
        with broker("--bind", "tcp://127.0.0.1:*", "--data-dir", str(tmp_path)) as process:
            epochs.append(ready(process)["epoch"])
            process.kill()

    assert epochs == sorted(set(epochs))


@pytest.mark.process
@pytest.mark.slow
def test_a_second_broker_is_refused(tmp_path):
    with broker("--bind", "tcp://127.0.0.1:*", "--data-dir", str(tmp_path)) as first:
        tcp = ready(first)["endpoints"][0]

        said = refused("--bind", "tcp://127.0.0.1:*", "--data-dir", str(tmp_path))
        assert f"in use by the broker of process {first.pid}" in said
        assert f"{tcp!r} is in use" in refused("--bind", tcp, "--no-journal")


@pytest.mark.process
@pytest.mark.slow
def test_a_broker_on_the_same_ipc_endpoint_is_refused(tmp_path):
    ipc = f"ipc://{tmp_path / 'b'}"
    with broker("--bind", ipc, "--no-journal") as first:
        epoch = ready(first)["epoch"]

        assert "is in use" in refused("--bind", ipc, "--no-journal")
        assert who(ipc) == epoch


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--frob"], "--frob"),
        (["--bind", "tcp://0.0.0.0:5555"], "--keys"),
        (["--keys", "/no/such/folder"], "keys '/no/such/folder' is not a folder"),
        (["--bind", "ipc:///no/such/folder/b", "--no-journal"], "No such file"),
        (["--bind", "tcp://127.0.0.1:*", "--data-dir", "/proc/nowhere/x"], "--data-dir"),
    ],
)
def test_a_broker_that_cannot_start_says_so_in_one_line(arguments, named):
    assert named in refused(*arguments)


@pytest.mark.process
@pytest.mark.slow
def test_a_bug_of_the_core_ends_the_broker_with_its_traceback(tmp_path):
    code = (
        "import sys; from broker import cli\n"
        "def receive(*arguments): raise KeyError('planted')\n"
        "cli.Broker.receive = receive\n"
        "sys.exit(cli.main())"
    )
    command = [sys.executable, "-c", code, "--bind", f"ipc://{tmp_path / 'b'}", "--no-journal"]
    with subprocess.Popen(
        [*command, "--log-format", "json"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        endpoint = ready(process)["endpoints"][0]
        with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
            dealer.connect(endpoint)
            dealer.send(encode(Frame(PROTOCOL, 1, 1, 1, 0, [Beat()])))
            said = process.stderr.read()
            dealer.linger = 0
        assert process.wait(PATIENCE_S) == 70

    failed = json.loads(said.splitlines()[-1])
    assert failed["event"] == "broker_failed"
    assert "KeyError: 'planted'" in failed["exception"]


def test_a_fault_of_the_broker_itself_is_no_damage_of_the_journal(monkeypatch):
    def fails(*_):
        raise ValueError("this is ours")

    monkeypatch.setattr(cli, "restore", fails)

    with pytest.raises(ValueError, match="this is ours"):
        cli.begin(options(), 1, Stored())


def test_a_limit_of_the_command_line_that_cannot_be_is_no_damage_of_the_journal(monkeypatch):
    def fails(*_):
        raise ValueError("cannot be")

    monkeypatch.setattr(cli, "define", fails)

    with pytest.raises(cli.Usage, match="--limit db: cannot be"):
        cli.begin(options("--limit", "db=2"), 1, Stored())


def test_a_stored_limit_that_a_short_lease_does_not_allow_is_no_damage_of_the_journal():
    stored = {"gpu": json.dumps({"name": "gpu", "maximum": 1, "strict": True})}
    broker = Broker(Settings(heartbeat_s=1.0, suspect_s=1.5, lease_s=2.0), epoch=1, now=0.0)

    with pytest.raises(JournalError, match="start with a longer --lease") as told:
        set_limits(broker, stored, [])

    assert "damaged" not in str(told.value)
