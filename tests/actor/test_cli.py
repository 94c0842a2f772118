import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import zmq

from actor import cli, host, logs
from actor.connection import connect
from actor.machine.names import NameTaken, hold_name
from actor.processes.process import launch_of
from actor.settings import HostSettings
from actor.supervision import Ward

HERE = str(Path(__file__).resolve().parents[2])

BAD = [
    (["--keys", "/no/such/folder"], "keys '/no/such/folder' is not a folder"),
    (["--slots", "0"], "--slots: 0 is not in 1 to"),
    (["--slots", "two"], "'two' is not a whole number"),
    (["--slots", "1.5"], "'1.5' is not a whole number"),
    (["--prefetch", "-1"], "--prefetch: -1 is not in 0 to"),
    (["--replicas", "0"], "--replicas"),
    (["--replicas", "3:1"], "'3:1': the minimum is above the maximum"),
    (["--replicas", "1:"], "--replicas: '' is not a whole number"),
    (["--replicas", "0:0"], "--replicas: 0 is not in 1 to"),
    (["--environments-max", "0"], "--environments-max"),
    (["--label", "memory"], "label 'memory' has no '='"),
    (["--label", "a b=1"], "a b"),
    (["--label", "x=nan"], "NaN"),
    (["--label", "host=me"], "label 'host' is built in"),
    (["--label", "0:name=me"], "label 'name' is built in"),
    (["--label", "1:gpu=a"], "'1:gpu=a' is for actor 1, but with --replicas 1"),
    (["--replicas", "2", "--label", "1:gpu"], "label 'gpu' has no '='"),
    (["--label", "name=me"], "label 'name' is built in"),
    (["--broker", "localhost:5555"], "tcp://"),
    (["--broker", "tcp://"], "tcp://"),
    (["--broker", "tcp://127.0.0.1"], "'tcp://127.0.0.1' is not tcp://HOST:PORT"),
    (["--broker", "tcp://127.0.0.1:99999"], "99999 is not a port from 1 to"),
    (["--name", "a/b"], "'a/b'"),
    (["--name", ""], "''"),
    (["--drain-timeout", "soon"], "'soon' is not a number of seconds"),
    (["--drain-timeout", "-1"], "-1 is not a number of seconds"),
    (["--drain-timeout", "nan"], "nan is not a number of seconds"),
    (["--force-grace", "-1"], "-1 is not a number of seconds"),
    (["--restart-max", "0"], "'0' is not a number of seconds above 0"),
    (["--log-format", "xml"], "xml"),
    (["--log-level", "loud"], "'loud' is not debug or info or warning or error or critical"),
    (["--prefetch", "some"], "'some' is not a whole number, nor auto"),
    (["--memory-high", "90"], "'90' is not a share above 0 and up to 1, or off"),
    (["--memory-high", "no"], "'no' is not a share"),
    (["--slot", "2"], "slot '2' is not TYPE=N"),
    (["--slot", "slot=2"], "is --slots"),
    (["--slot", "gpu=0"], "one that is called 0 is gpu=0,"),
    (["--slot", "gpu="], "has a name that is empty"),
    (["--slot", "gpu=-3"], "-3 is no whole number; one that is called -3 is gpu=-3,"),
    (["--slot", "gpu=2.5"], "2.5 is no whole number"),
    (["--slot", "gpu=1e3"], "1e3 is no whole number"),
    (["--slot", f"gpu={'9' * 5_000}"], "9... (5,000 characters) is too much (see --help)"),
    (["--slot", f"gpu=.{'9' * 5_000}"], "9... (5,001 characters) is no whole number (see --help)"),
    (["--slot", "gpu=a,a"], "has a name twice"),
    (["--slot", "gpu=a,,b"], "has a name that is empty"),
    (["--slot", "gpu=,"], "has a name that is empty"),
    (["--slot", "g u=1"], "slot 'g u=1' is not TYPE=N"),
    (["--slot", "gpu=1", "--slot", "gpu=2"], "each type once"),
    (["--slot", "gpu=a,b", "--replicas", "2"], "only one actor can own"),
    (["--limit", "gpu"], "limit 'gpu' is not NAME=N"),
    (["--limit", "gpu=0"], "0 is not an amount"),
    (["--limit", f"gpu={'9' * 5_000}"], "9... (5,006 characters) is not NAME=N"),
    (["--limit", "gpu=1", "--limit", "gpu=2"], "each name once"),
    (["--limit", "a b=1"], "not the name of a limit"),
    # It was "not the name of a limit", and "is not NAME=N".
    (["--limit", "host:gpu=1"], "limit 'host:gpu=1': say it without host:, as in gpu=2"),
    (["--limit", "gpu=1:strict"], "strict, rate= and strategy= are for limits of the broker"),
    (["--released-max", "-1"], "--released-max"),
    (["--env", "CUDA"], "env 'CUDA' is not KEY=VALUE"),
    (["--env", "=1"], "env '=1' is not KEY=VALUE"),
    (["--chdir", "/not/there"], "chdir '/not/there' is not a folder"),
    (["--python-path", "/not/there"], "python-path '/not/there' is not a folder"),
    (["--environment", "models"], "environment 'models' is not MODULE:CLASS"),
    (["--environment", "no_such_module:Model"], "no module 'no_such_module' is found"),
    (["--environment", "json:A", "--environment", "json:B", "--environments-max", "1"], "is 1"),
    (["--environments-memory-mb", "0"], "'0' is not a number of MiB above 0"),
    (["--unheard-of"], "--unheard-of"),
    (["extra"], "extra"),
]


@pytest.fixture
def started(monkeypatch):
    """Take the settings that a host would be started with."""
    found = []

    class FakeHost:
        def __init__(self, settings, server):
            assert server is None
            found.append(settings)

        def run(self):
            return 0

    monkeypatch.setattr(host, "Host", FakeHost)
    monkeypatch.setattr(cli, "start_fork_server", lambda *_: None)
    monkeypatch.setattr(logs, "configure_logs", lambda *_: None)
    return found


@pytest.mark.parametrize(("arguments", "complaint"), BAD)
def test_what_is_wrong_is_said_in_one_line(started, capsys, arguments, complaint):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)

    said = capsys.readouterr().err
    assert end.value.code == 2
    assert complaint in said
    assert said.count("\n") == 1
    assert not started


@pytest.mark.parametrize("text", ["k" * 10_000, "9" * 5_000])
@pytest.mark.parametrize(
    "option",
    [
        *("slots", "slot", "replicas", "prefetch", "limit", "environments-max", "memory-high"),
        *("drain-timeout", "start-timeout", "environment", "env", "chdir", "python-path"),
        *("broker", "label", "start-method"),
    ],
)
def test_what_is_wrong_was_said_however_long_it_is_or_with_a_traceback(
    started, capsys, option, text
):
    with pytest.raises(SystemExit) as end:
        cli.main([f"--{option}", text])

    said = capsys.readouterr().err
    assert end.value.code == 2
    assert len(said) < 600
    assert said.count("\n") == 1
    assert not started


def test_a_log_format_from_the_environment_is_checked_like_one_that_is_typed(
    started, capsys, monkeypatch
):
    monkeypatch.setenv("WARMSLOT_LOG_FORMAT", "xml")

    with pytest.raises(SystemExit):
        cli.main([])

    assert "'xml' is not console or json" in capsys.readouterr().err
    assert not started


@pytest.mark.parametrize("text", ["gpu=2 io=3", "gpu=2,io=3", "gpu=2, io=3"])
def test_limits_from_the_environment_may_stand_between_commas_as_those_of_the_broker(
    started, monkeypatch, text
):
    monkeypatch.setenv("WARMSLOT_LIMIT", text)

    cli.main([])

    assert started[0].limits == {"gpu": 2, "io": 3}


def test_options_reach_the_host(started):
    cli.main(
        [
            *("--broker", "ipc:///tmp/b", "--name", "gpu1", "--slots", "2", "--replicas", "3"),
            *("--label", "memory=512", "--label", "zone=str:7", "--prefetch", "4"),
            *("--environments-max", "5", "--drain-timeout", "6.5", "--log-format", "json"),
            *("--log-level", "ERROR"),
        ]
    )

    (settings,) = started
    assert isinstance(settings, HostSettings)
    assert (settings.broker, settings.name) == ("ipc:///tmp/b", "gpu1")
    assert (settings.slots, settings.replicas, settings.prefetch) == (2, 3, 4)
    assert (settings.environments_max, settings.drain_timeout_s) == (5, 6.5)
    assert (settings.log_format, settings.log_level) == ("json", "error")
    assert settings.labels["memory"] == 512
    assert settings.labels["zone"] == "7"
    assert settings.labels["host"] == "gpu1"


def test_options_of_time_reach_the_host_and_its_actors(started):
    cli.main(["--force-grace", "0.5", "--restart-max", "0.05"])

    (settings,) = started
    ward = Ward(0, "h/0", 0.0, settings.restart_first_s)
    assert launch_of(settings, ward, 1, 2).core.force_grace_s == 0.5
    # The first wait is no longer than the longest.
    assert (settings.restart_first_s, settings.restart_max_s) == (0.05, 0.05)


@pytest.mark.parametrize(
    ("arguments", "prefetch", "memory_high"),
    [
        ([], None, 0.95),
        (["--prefetch", "auto", "--memory-high", "0.8"], None, 0.8),
        (["--prefetch", "0", "--memory-high", "off"], 0, None),
    ],
)
def test_what_can_be_switched_off_has_a_default(started, arguments, prefetch, memory_high):
    cli.main(arguments)

    (settings,) = started
    assert (settings.prefetch, settings.memory_high) == (prefetch, memory_high)


def test_each_actor_of_a_host_can_have_labels_of_its_own(started, monkeypatch):
    monkeypatch.setenv("WARMSLOT_LABEL", "zone=eu 1:zone=us")

    options = ["gpu={index}", "disk=str:nvme{index}", "model=a", "2:model=b", "2:model=c"]
    cli.main(["--replicas", "3", *(word for text in options for word in ("--label", text))])

    (settings,) = started
    assert [settings.labels_of[index] for index in range(3)] == [
        {"zone": "eu", "gpu": 0, "disk": "nvme0", "model": "a"},
        {"zone": "us", "gpu": 1, "disk": "nvme1", "model": "a"},
        {"zone": "eu", "gpu": 2, "disk": "nvme2", "model": ["b", "c"]},
    ]


def test_a_label_that_is_said_twice_has_both_values(started, monkeypatch):
    monkeypatch.setenv("WARMSLOT_LABEL", "model=v1,zone=eu,zone=us")

    cli.main(["--label", "model=v2", "--label", "model=v3", "--label", "model=v2"])

    (settings,) = started
    assert settings.labels["model"] == ["v2", "v3"]
    assert settings.labels["zone"] == ["eu", "us"]


def test_each_option_is_an_environment_variable_that_the_command_line_overrides(
    started, monkeypatch
):
    for name, value in {
        "BROKER": "tcp://10.0.0.1:7",
        "NAME": "env",
        "SLOTS": "3",
        "REPLICAS": "2",
        "PREFETCH": "9",
        "ENVIRONMENTS_MAX": "4",
        "DRAIN_TIMEOUT": "1",
        "LOG_FORMAT": "json",
        "LOG_LEVEL": "debug",
        "LABEL": "memory=512, zone=eu",
    }.items():
        monkeypatch.setenv(f"WARMSLOT_{name}", value)

    cli.main(["--slots", "5", "--label", "zone=us"])

    (settings,) = started
    assert (settings.broker, settings.name, settings.slots) == ("tcp://10.0.0.1:7", "env", 5)
    assert (settings.replicas, settings.prefetch, settings.environments_max) == (2, 9, 4)
    assert (settings.drain_timeout_s, settings.log_format) == (1.0, "json")
    assert settings.log_level == "debug"
    assert (settings.labels["memory"], settings.labels["zone"]) == (512, "us")


def test_a_bad_environment_variable_is_named_by_its_option(started, monkeypatch, capsys):
    monkeypatch.setenv("WARMSLOT_SLOTS", "many")

    with pytest.raises(SystemExit):
        cli.main([])

    assert "--slots" in capsys.readouterr().err


def test_keys_from_the_environment_are_read_as_those_that_are_typed(started, monkeypatch, capsys):
    monkeypatch.setenv("WARMSLOT_KEYS", "/no/such/folder")

    with pytest.raises(SystemExit):
        cli.main([])

    assert "keys '/no/such/folder' is not a folder" in capsys.readouterr().err
    assert not started


def test_a_host_at_the_file_of_a_socket_needs_no_keys_and_looks_for_none(started, monkeypatch):
    monkeypatch.setenv("WARMSLOT_KEYS", "/no/such/folder")

    cli.main(["--broker", "ipc:///tmp/b"])

    assert [settings.keys for settings in started] == [""]


@pytest.mark.parametrize("endpoint", ["tcp://*:5555", f"ipc:///tmp/{'a' * 200}"])
def test_an_endpoint_that_nobody_can_connect_to_is_said_in_one_line(
    started, monkeypatch, capsys, endpoint
):
    class LateHost:
        def __init__(self, settings, server):
            with zmq.Context() as context:
                connect(context, settings.broker)

    monkeypatch.setattr(host, "Host", LateHost)
    with pytest.raises(SystemExit) as end:
        cli.main(["--broker", endpoint])

    said = capsys.readouterr().err
    assert end.value.code == 2
    assert f"endpoint {endpoint!r} cannot be used: " in said
    assert said.count("\n") == 1


def test_where_a_name_cannot_be_locked_that_is_said_in_one_line(started, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", "/no/such/folder")

    with pytest.raises(SystemExit) as end:
        cli.main([])

    said = capsys.readouterr().err
    assert end.value.code == 2
    assert "TMPDIR names another folder" in said
    assert said.count("\n") == 1


def test_a_host_started_more_actors_than_it_could_hold(capsys):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1_000, limits[1]))
    try:
        with pytest.raises(SystemExit, match="2"):
            cli.main(["--replicas", "1:400"])
        cli.check_descriptors(300)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "takes 1240 file descriptors, and there may be 1000: raise `ulimit -n`" in said


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--help"])

    said = capsys.readouterr().out
    assert end.value.code == 0
    for option in ("broker", "name", "slots", "label", "replicas", "prefetch", "drain-timeout"):
        assert f"--{option}" in said


def test_a_default_name_is_counted_on_and_an_explicit_one_is_refused(tmp_path):
    # Names are held for a whole machine, on which these tests may run more than once.
    here, there = f"ipc://{tmp_path}/1", f"ipc://{tmp_path}/2"
    one = hold_name(None, here)
    two = hold_name(None, here)
    elsewhere = hold_name(None, there)

    assert two.name == f"{one.name}-2"
    assert elsewhere.name == one.name
    with pytest.raises(NameTaken, match=one.name):
        hold_name(one.name, here)
    for held in (one, two, elsewhere):
        held.release()
    again = hold_name(one.name, here)
    again.release()


def test_a_bad_variable_left_the_file_of_the_name(started, monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("WARMSLOT_SPIN_US", "long")

    with pytest.raises(SystemExit, match="2"):
        cli.main([])

    assert list(tmp_path.rglob("*.lock")) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.process
def test_a_signal_while_a_host_loads_left_the_file_of_its_name(tmp_path, number):
    code = f"""
import os, signal
from actor import cli
from wire.loading import end_at_once

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
end_at_once()
cli.start_fork_server = lambda *_: os.kill(os.getpid(), {number})
cli.main(["--name", "h"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": HERE, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == -number, done.stderr
    assert done.stderr == ""
    assert (tmp_path / f"warmslot-{os.getuid()}").is_dir()
    assert list(tmp_path.rglob("*.lock")) == []


@pytest.mark.process
def test_the_command_runs_from_any_folder(tmp_path):
    environment = {**os.environ, "PYTHONPATH": HERE}

    done = subprocess.run(
        [sys.executable, "-m", "actor", "--slots", "none"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert done.stderr == "actor: argument --slots: 'none' is not a whole number (see --help)\n"


def test_slot_types_are_read_with_the_names_of_their_units(started):
    cli.main(["--slot", "io=16", "--slot", "gpu=0,1", "--slot", "fpga=7,", "--released-max", "5"])

    (settings,) = started
    assert settings.typed == {"io": 16, "gpu": 2, "fpga": 1}
    assert settings.units == {"gpu": ["0", "1"], "fpga": ["7"]}
    assert settings.released_max == 5
