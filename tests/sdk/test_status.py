"""`status` for people and for Prometheus: what a scraper reads is well-formed and lacks nothing."""

import re

import pytest

from broker.core import Broker
from broker.events.explain import status
from broker.settings import Settings
from sdk import __main__ as program
from sdk.commands.status import METRICS, STATES, escaped, exposition
from tests.sdk.fakes import ScriptedBroker

# As the text format is specified: a line of help, of the type, or of one value.
HELP = re.compile(r"# HELP ([a-z_]+) [^\\\n]+")
TYPE = re.compile(r"# TYPE ([a-z_]+) (gauge|counter)")
LABEL = r'[a-z]+="(?:[^"\\\n]|\\["\\n])*"'
VALUE = re.compile(rf"([a-z_]+)(?:\{{({LABEL}(?:,{LABEL})*)\}})? (\d+(?:\.\d+)?)")
# What others say, or tell of the same.
ELSEWHERE = {"release", "epoch", "started_at", "uptime_s", "journal", "failed", "requeued"}


def figures(**more):
    return status(Broker(Settings(), epoch=5, now=0.0), 0.0) | more


def read(lines):
    """Return the values by metric and labels, and the type of each metric."""
    types, values = {}, {}
    lines = list(lines)
    for at, line in enumerate(lines):
        if help_line := HELP.fullmatch(line):
            assert TYPE.fullmatch(lines[at + 1])[1] == help_line[1]
        elif type_line := TYPE.fullmatch(line):
            assert type_line[1] not in types
            types[type_line[1]] = type_line[2]
        else:
            name, labels, value = VALUE.fullmatch(line).groups()
            assert name == list(types)[-1]
            assert (name, labels) not in values
            values[name, labels] = float(value)
    return types, values


def test_each_figure_is_a_metric_named_as_prometheus_wants_it():
    types, values = read(exposition(figures(started_at="2026-09-21T14:15:00.000Z")))

    assert all(name.startswith("warmslot_") for name in types)
    assert all((kind == "counter") == name.endswith("_total") for name, kind in types.items())
    assert values["warmslot_up", None] == 1
    assert values["warmslot_start_time_seconds", None] == 1_790_000_100.0
    assert values["warmslot_tasks_failed_total", 'code="poison-task"'] == 0
    assert values["warmslot_requeues_total", 'reason="crash"'] == 0
    assert values["warmslot_tasks", 'state="queued"'] == 0
    told = {field for *_, field, _ in METRICS} | {*STATES, *ELSEWHERE}
    assert figures().keys() <= told


@pytest.mark.parametrize(("journal", "value"), [("ok", 1), ("cannot be written: full", 0)])
def test_a_journal_that_cannot_be_written_is_a_0(journal, value):
    _, values = read(exposition(figures(journal=journal)))

    assert values["warmslot_journal_ok", None] == value


def test_without_a_journal_there_is_no_word_of_it():
    assert "warmslot_journal_ok" not in read(exposition(figures(journal="none")))[0]


def test_a_release_that_counts_less_is_read_as_well():
    _, values = read(exposition({"release": 'a "quoted" \\ one\n', "epoch": 5, "queued": 3}))

    assert values == {
        ("warmslot_up", None): 1,
        ("warmslot_info", r'release="a \"quoted\" \\ one\n",epoch="5"'): 1,
        ("warmslot_tasks", 'state="queued"'): 3,
    }
    assert escaped("plain") == "plain"


@pytest.mark.process
def test_the_command_prints_it_and_nothing_where_no_broker_answers(capsys):
    with ScriptedBroker() as broker:
        broker.answers["status"] = figures()
        assert program.main(["--broker", broker.endpoint, "status", "--prometheus"]) == 0
        endpoint = broker.endpoint
    types, _ = read(capsys.readouterr().out.splitlines())
    assert "warmslot_tasks_failed_total" in types

    given = ["--broker", endpoint, "--timeout", "0.2", "status", "--prometheus"]
    assert program.main(given) == program.STATUS_FAILED
    assert capsys.readouterr().out == ""


@pytest.mark.process
def test_of_counts_by_reason_people_are_told_what_has_occurred(capsys):
    with ScriptedBroker() as broker:
        broker.answers["status"] = {"failed_by_code": {"a": 2, "b": 0}, "requeued_by_reason": {}}
        assert program.main(["--broker", broker.endpoint, "status"]) == 0

    assert capsys.readouterr().out.splitlines() == [
        "failed_by_code      a=2",
        "requeued_by_reason  -",
    ]


@pytest.mark.process
def test_json_and_prometheus_exclude_each_other(capsys):
    with ScriptedBroker() as broker:
        given = ["--broker", broker.endpoint, "status", "--json", "--prometheus"]
        assert program.main(given) == program.STATUS_BAD_OPTION

    assert capsys.readouterr().err.splitlines() == [
        "warmslot: --json and --prometheus exclude each other"
    ]
