"""docs/operation.md against the programs: what an operator builds upon is as it says."""

import re
import shlex
import shutil
import socket
import subprocess
import sys

import pytest

from actor import cli as host
from actor import logs as actor_logs
from actor.host import EXIT_CUT_SHORT, EXIT_REFUSED
from broker import cli as broker
from broker import log as broker_log
from broker.core import Broker
from broker.events.explain import status
from broker.settings import Settings
from sdk import __main__ as sdk
from tests.sdk.fakes import ScriptedBroker
from tests.support.deployment import DEADLINE_S, ROOT, Deployment, environment

OPERATION = (ROOT / "docs" / "operation.md").read_text(encoding="utf-8")


def rows(title):
    """Return the cells of the table that begins with *title*, below its line."""
    _, _, rest = OPERATION.partition(f"\n| {title} |")
    table, _, _ = rest.partition("\n\n")
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


def test_each_figure_of_status_is_explained_and_no_other():
    explained = [name for row in rows("field") for name in re.findall(r"`(\w+)`", row[0])]

    assert sorted(explained) == sorted(status(Broker(Settings(), epoch=1, now=0.0), 0.0))


def test_each_exit_status_stands_in_the_column_of_who_ends_with_it():
    table = {row[0]: row[1:] for row in rows("status")}

    assert table[str(sdk.STATUS_FAILED)][2]
    assert all(table[str(broker.STATUS_BAD_OPTION)])
    assert broker.STATUS_BAD_OPTION == host.EXIT_BAD_OPTION == sdk.STATUS_BAD_OPTION
    assert table[str(EXIT_REFUSED)][1]
    assert "`drain_timed_out`" in table[str(EXIT_CUT_SHORT)][1]
    assert table[str(broker.STATUS_FAILED)][0]


def test_a_unit_of_a_supervisor_starts_programs_with_options_that_they_have():
    commands = re.findall(r"^ExecStart=\S+/warmslot (\w+) (.*)$", OPERATION, re.MULTILINE)

    started = dict(commands)
    assert broker.read_options(started["broker"].split(), {}).log_format == "json"
    assert host.make_parser().parse_args(started["actor"].split()).drain_timeout < 150


def shell_with(words):
    """Return the only piece of shell in which *words* stand."""
    pieces = re.findall(r"```sh\n(.*?)```", OPERATION, re.DOTALL)
    (found,) = (piece for piece in pieces if words in piece)
    return found


def units():
    """Return the unit files by name."""
    (text,) = re.findall(r"```ini\n(.*?)```", OPERATION, re.DOTALL)
    _, *parts = re.split(r"(?m)^# (warmslot-\w+\.service)$", text)
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.parametrize("name", ["warmslot-broker.service", "warmslot-host.service"])
def test_a_unit_can_be_enabled_runs_as_no_root_and_is_started_again_without_end(name):
    unit = units()[name]

    assert {"WantedBy=multi-user.target", "User=warmslot", "Restart=always"} <= set(unit.split())
    # By default systemd gives up after five starts in ten seconds, which is a second each.
    assert "StartLimitIntervalSec=0" in unit.partition("[Service]")[0]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path):
    for name, unit in units().items():
        text = unit.replace("/opt/warmslot/bin/warmslot", sys.executable)
        (tmp_path / name).write_text(text, encoding="utf-8")

    done = subprocess.run(
        ["systemd-analyze", "verify", *(tmp_path / name for name in units())],
        capture_output=True,
        text=True,
        check=False,
    )

    said = (done.stdout + done.stderr).splitlines()
    assert [line for line in said if "warmslot" in line] == []


def test_each_event_that_is_a_warning_is_explained():
    _, _, logs = OPERATION.partition("\n## Logs\n")
    explained = set(re.findall(r"`(\w+)`", logs.partition("\n## ")[0]))

    assert explained >= broker_log.WARNINGS - {"unsatisfiable_more"}
    assert explained >= actor_logs.WARNINGS


@pytest.mark.process
def test_the_timer_writes_a_file_for_prometheus_whether_a_broker_answers_or_not(tmp_path):
    script = shell_with("status --prometheus")
    command = tmp_path / "warmslot"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m sdk "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    written = tmp_path / "warmslot.prom"

    def scrape(endpoint):
        variables = environment() | {"TEXTFILE_DIR": str(tmp_path), "WARMSLOT_BROKER": endpoint}
        variables["PATH"] = f"{tmp_path}:{variables['PATH']}"
        script_now = script.replace("--timeout 5", "--timeout 1")
        subprocess.run(["sh", "-ec", script_now], env=variables, capture_output=True, check=True)
        return written.read_text(encoding="utf-8").splitlines()

    with ScriptedBroker() as answering:
        answering.answers["status"] = status(Broker(Settings(), epoch=1, now=0.0), 0.0)
        lines = scrape(answering.endpoint)
        endpoint = answering.endpoint

    for metric in re.findall(r"`[^`]*?(warmslot_\w+_total)\b", OPERATION):
        assert any(line.startswith((f"{metric} ", f"{metric}{{")) for line in lines)
    assert "warmslot_up 1" in lines
    assert scrape(endpoint) == ["warmslot_up 0"]


@pytest.mark.process
@pytest.mark.slow
def test_the_commands_for_several_machines_do_what_is_said_of_them(tmp_path):
    shell = shell_with("warmslot keys")
    with Deployment() as world, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        told = shell.replace("0.0.0.0:5555", f"127.0.0.1:{port}")
        told = told.replace("BROKER:5555", f"127.0.0.1:{port}").replace("&", "")
        lines = [shlex.split(line, comments=True) for line in told.splitlines()]
        answers = []
        for place, (program, *words) in enumerate(lines):
            if program == "scp":
                for name in ("gpu1", "laptop"):
                    shutil.copytree(
                        world.folder / words[1].replace("gpu1", name), world.folder / name
                    )
            elif words[0] in ("broker", "actor"):
                options = ["--name", "gpu1"] if words[0] == "actor" else ["--no-journal"]
                world.start(f"{place}-{words[0]}", "-m", *words, *options)
            else:
                done = subprocess.run(
                    [sys.executable, "-m", "sdk", "--timeout", "60", *words]
                    if "actors" in words
                    else [sys.executable, "-m", "sdk", *words],
                    cwd=world.folder,
                    env=environment(),
                    capture_output=True,
                    text=True,
                    timeout=DEADLINE_S,
                    check=False,
                )
                assert done.returncode == 0, done.stderr + world.story()
                answers.append(done.stdout)

        assert "gpu1 may connect as an actor" in answers[0]
        assert "laptop may connect as a client" in answers[1]
        assert answers[2].startswith("ACTOR")
