"""The command line answers in plain lines; what a user does wrong is one line and status 2."""

import io
import json
import math
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import actor.cli
import broker.cli
from actor.cli import read_labels
from sdk import Client
from sdk import __main__ as program
from sdk.__main__ import read
from sdk.commands.dead import row
from sdk.commands.fleet import actor_lines, known, rates, show_screen
from sdk.commands.replicas import shown_names
from sdk.commands.table import cut, holdings
from tests.sdk.fakes import ScriptedBroker
from wire.printing import STATUS_READER_GONE
from wire.release import release

ANSWERS = {
    "status": {
        "epoch": 5,
        "uptime_s": 1.1766028880001613,
        "actors": 2,
        "actors_closed": 1,
        "clients": 3,
        "queued": 1500,
        "assigned": 4,
        "assignments": 10,
    },
    "actors": {
        "actors": [
            {
                "name": "h/0",
                "state": "open",
                "free": 1,
                "slots": {"slot": 2},
                "holding": [{"task": "a-1"}],
                "held": {"slot": 1},
                "silent_s": 0.42,
                "environments": {"app.models.Vision::1a2b": "warm"},
                "named": {"default/clicks": "alive"},
                "labels": {"name": "h/0", "cpus": 8, "memory": 512, "model": ["a", "b"]},
                "python": "3.11",
                "release": "1.2.3",
            },
            {"name": "h/1", "state": "paused", "free": 0, "ahead": 16, "slots": {"slot": 2}},
        ]
    },
    "tasks": {"count": 2_501, "tasks": [{"task": "a-1", "waits_s": 1.25}]},
    "clients": {"clients": [{"name": "app.py", "gone_s": None}]},
    "explain": {
        "state": "queued",
        "reason": "every actor is busy",
        "actors": {"h/10": "needs gpu eq 1, offers nothing", "h/2": "busy"},
        "actors_s": {"h/10": 61.0, "h/2": 1.25},
    },
}

ACTORS = """\
ACTOR  STATE   BEAT   FREE  HELD    SLOTS   TASKS  ENVIRONMENTS                           LABELS                      RELEASE
h/0    open    0.4 s  1     slot=1  slot=2  1      Vision@1a2b=warm default/clicks=alive  memory=512 model=a model=b  1.2.3 on 3.11
h/1    paused  -      0+16  -       slot=2  0      -                                      -                           - on -
""".splitlines()  # noqa: E501
SUMMARY = "2 actors (1 closed), 3 clients; 1,500 queued, 4 with actors"


@pytest.fixture
def endpoint():
    with ScriptedBroker() as broker:
        broker.answers.update(ANSWERS)
        yield broker.endpoint


@pytest.mark.process
@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (
            ["status"],
            [
                "epoch          5",
                "uptime_s       1.2",
                "actors         2",
                "actors_closed  1",
                "clients        3",
                "queued         1500",
                "assigned       4",
                "assignments    10",
            ],
        ),
        (["actors"], ACTORS),
        (
            ["top", "--count", "2", "--interval", "0.01"],
            [f"{SUMMARY}", "", *ACTORS, "", f"{SUMMARY}, 0 assignments/s", "", *ACTORS],
        ),
        (["tasks"], ["TASK  WAITS_S", "a-1   1.2", "and 2,500 more"]),
        (["clients"], ["NAME    GONE_S", "app.py  -"]),
        (
            ["explain", "a-1"],
            [
                "queued: every actor is busy",
                "  h/2: busy, for 1.2 s",
                "  h/10: needs gpu eq 1, offers nothing, for 61.0 s",
            ],
        ),
    ],
)
def test_an_answer_is_printed(endpoint, capsys, arguments, lines):
    status = program.main([*arguments, "--broker", endpoint])

    assert status == 0
    assert capsys.readouterr().out.splitlines() == lines


@pytest.mark.parametrize("main", [program.main, actor.cli.main, broker.cli.main])
def test_each_program_says_which_release_it_is(main, capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--version"])

    assert capsys.readouterr().out == f"warmslot {release()}\n"


@pytest.mark.process
def test_an_order_that_an_actor_does_not_obey_in_time_is_status_1(capsys):
    with ScriptedBroker() as broker:
        broker.answers.update(ANSWERS | {"pause": {"actors": ["h/0"], "away": ["h/1"]}})

        status = program.main(
            ["pause", "h/*", "--broker", broker.endpoint, "--timeout", "0.3"],
        )

    said = capsys.readouterr()
    assert status == 1
    assert said.out.splitlines()[1:] == ["h/0    open", "h/1    away, is told when it is back"]
    assert "h/0 did not answer within 0.3 s" in said.err


def test_a_lost_actor_stands_among_the_others_with_what_its_tasks_came_to():
    tasks = {"again": 1_200, "ended": 1, "dropped": 0}
    lost = [{"name": "h/1", "silent_s": 65.0, "tasks": tasks}, {"name": "h/0", "tasks": {}}]

    lines = actor_lines(known({"actors": [{"name": "h/2"}], "lost": lost}), is_whole=False)

    assert [line.split()[:2] for line in lines[1:3]] == [["h/0", "lost"], ["h/1", "lost"]]
    assert lines[2][lines[0].index("BEAT") :].startswith("65.0 s  ")
    assert lines[2][lines[0].index("TASKS") :].startswith("1200 run again, 1 ended  ")


@pytest.mark.parametrize(
    ("given", "succeeded", "failed", "passed_s", "said"),
    [
        (0, 0, 0, 1.0, ", 0 assignments/s, 0 succeeded/s, 0 failed/s"),
        (2_500, 2_400, 100, 2.0, ", 1,250 assignments/s, 1,200 succeeded/s, 50 failed/s (4.00%)"),
        (1, 0, 1, 60.0, ", 0.017 assignments/s, 0 succeeded/s, 0.017 failed/s (100.00%)"),
    ],
)
def test_top_tells_how_many_tasks_end_well_and_how_many_fail(
    given, succeeded, failed, passed_s, said
):
    former = {"epoch": 5, "assignments": 7, "succeeded": 5, "failed": 2}
    now = former | {"assignments": 7 + given, "succeeded": 5 + succeeded, "failed": 2 + failed}

    assert rates(former, now, passed_s) == said


def test_top_compares_nothing_with_what_another_broker_counted():
    assert rates({"epoch": 5, "assignments": 7}, {"epoch": 6, "assignments": 1}, 1.0) == ""


def test_all_labels_are_shown_on_request_and_h_10_stands_behind_h_2():
    actors = [{"name": f"h/{n}", "labels": {"name": f"h/{n}", "cpus": 8}} for n in (10, 2)]

    lines = actor_lines(actors, is_whole=True)

    assert [line.split()[0] for line in lines[1:]] == ["h/2", "h/10"]
    assert "name=h/2 cpus=8" in lines[1]


def test_labels_are_shown_as_the_option_reads_them():
    labels = {"a": 0.75, "b": True, "c": "512", "d": 512, "e": "eu", "f": ["x", 1], "g": "true"}
    labels |= {"h": "two words, and 'more'", "i": "", "j": "1_000", "k": "ü", "l": math.inf}

    lines = actor_lines([{"name": "h/0", "labels": labels}], is_whole=False)

    words = shlex.split(lines[1][lines[0].index("LABELS") : lines[0].index("RELEASE")])
    assert " ".join(words).startswith("a=0.75 b=true c=str:512 d=512 e=eu f=x f=1 g=str:true h=")
    (read,) = read_labels(words, [], replicas=1)
    assert list(map(repr, read.items())) == list(map(repr, labels.items()))


def test_a_label_with_a_new_line_or_an_escape_in_it_keeps_the_table_in_one_line_each():
    lines = actor_lines([{"name": "h/0", "labels": {"k": "a\n\x1b[31m'b'"}}], is_whole=False)

    assert len(lines) == 2
    assert r"$'k=a\n\x1b[31m\'b\''" in lines[1]


def test_columns_stand_below_each_other_though_letters_are_wide_or_a_label_is_long():
    labels = ({"模型": "大きい猫"}, {"e": "ﾈｺ"}, {"a": "a\u0301"}, {"long": "x" * 1024})
    actors = [{"name": f"h/{n}", "labels": own, "release": "1.0"} for n, own in enumerate(labels)]

    lines = actor_lines(actors, is_whole=False)

    at = lines[0].index("RELEASE")
    assert at < 200
    # Two columns for each of these, one for half-width ones, none for an accent.
    assert lines[1].index("1.0") == at - len("模型大きい猫")
    assert lines[2].index("1.0") == at
    assert lines[3].index("1.0") == at + 1
    assert "x...  1.0" in lines[4]


@pytest.mark.process
def test_what_a_terminal_has_no_letter_for_is_told_by_its_number(monkeypatch):
    screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", screen)
    with ScriptedBroker() as broker:
        broker.answers["explain"] = {"state": "queued", "reason": "needs 模型"}
        assert program.main(["explain", "1-1", "--broker", broker.endpoint]) == 0

    assert b"needs \\u6a21" in screen.buffer.getvalue()


def test_what_a_terminal_has_no_room_for_is_cut(capsys, monkeypatch):
    monkeypatch.setattr("shutil.get_terminal_size", lambda: (10, 5))

    show_screen([f"line {n} is long" for n in range(9)], is_terminal=True)

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("line 0 is ")
    assert lines[-1] == "... 6 more"
    assert len(lines) == 4
    assert (cut("線" * 9, 10), cut("a" + "線" * 9, 10)) == ("線" * 5, "a" + "線" * 4)


def test_environments_of_one_name_are_told_apart_by_their_ids():
    ids = [("Vision", "app.Vision::1"), ("Vision", "app.Vision::2"), ("Small", "app.Small::1")]

    names = shown_names([{"name": name, "id": identity} for name, identity in ids])

    assert names == ["app.Vision::1", "app.Vision::2", "Small"]


@pytest.mark.process
@pytest.mark.parametrize(
    "given",
    [
        "--broker tcp://b:1 --json status",
        "status --broker tcp://b:1 --json",
        "--broker tcp://b:1 limits --json set db 3",
        "--broker tcp://a:1 limits set --broker tcp://b:1 --json db 3",
    ],
)
def test_what_every_command_takes_stands_before_its_name_or_behind_it(given):
    options = read(given.split())

    assert (options.broker, options.timeout, options.json) == ("tcp://b:1", 5.0, True)


def test_an_answer_can_be_json(endpoint, capsys):
    assert program.main(["actors", "--json", "--broker", endpoint]) == 0

    assert json.loads(capsys.readouterr().out) == ANSWERS["actors"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "required: COMMAND"),
        (["wibble"], "'wibble'"),
        (["logs", "1-1"], "logs does not exist yet"),
        (["--timeout", "1", "logs", "1-1"], "logs does not exist yet"),
        (["status", "--wibble"], "--wibble"),
        (["status", "--timeout", "soon"], "--timeout: 'soon' is not a number of seconds above 0"),
        (["status", "--timeout", "-1"], "--timeout: '-1' is not a number of seconds above 0"),
        (["top", "--count", "x"], "--count: 'x' is not a whole number"),
        (["limits", "set", "db", "x"], "N: 'x' is not a whole number"),
        (["explain"], "TASK"),
        (["status", "--broker", "nonsense"], "'nonsense'"),
        (["top", "--interval", "nan"], "--interval: 'nan' is not a number of seconds above 0"),
        # It looked for ever.
        (["top", "--count", "0", "--broker", "ipc:///none", "--timeout", "0.01"], "--count: 0 is"),
    ],
)
def test_a_bad_option_is_one_line_and_status_2(capsys, arguments, text):
    status = program.main(arguments)

    error = capsys.readouterr().err
    assert status == 2
    assert text in error
    assert len(error.splitlines()) == 1


@pytest.mark.process
def test_a_task_is_canceled_or_it_is_said_why_not(capsys):
    with ScriptedBroker() as broker:
        broker.answers["cancel"] = {"done": "cancel"}
        broker.answers["cancel-force"] = {"error": "task a-2 is not known here"}
        common = ["--broker", broker.endpoint]
        assert program.main(["cancel", "a-1", *common]) == 0
        assert program.main(["cancel", "a-2", "--force", *common]) == 1

    printed = capsys.readouterr()
    assert printed.out == "a-1 is canceled\n"
    assert "task a-2 is not known here" in printed.err


@pytest.mark.process
def test_a_broker_that_does_not_answer_is_status_1(capsys, tmp_path):
    status = program.main(["status", "--broker", f"ipc://{tmp_path}/none", "--timeout", "0.05"])

    assert status == 1
    assert "no broker answered" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], *([name] for name in program.COMMANDS)])
def test_help_is_there(capsys, command):
    with pytest.raises(SystemExit) as ended:
        program.main([*command, "--help"])

    assert ended.value.code == 0
    assert "usage: warmslot" in capsys.readouterr().out


def test_the_other_programs_are_started_in_its_place(monkeypatch):
    class Replaced(BaseException):
        pass

    def replace(path, arguments):
        raise Replaced(arguments[1:])

    monkeypatch.setattr("os.execv", replace)

    with pytest.raises(Replaced, match="'-m', 'broker', '--bind', 'x'"):
        program.main(["broker", "--bind", "x"])


@pytest.mark.parametrize(
    ("holding", "text"),
    [
        ([], "0"),
        ([{"state": "assigned"}], "1"),
        ([{"state": "released"}, {"state": "assigned"}], "2 (1 released)"),
    ],
)
def test_a_released_task_is_shown_as_released(holding, text):
    assert holdings(holding) == text


@pytest.mark.process
def test_a_reader_that_has_enough_gets_no_traceback(endpoint):
    """`python -m sdk status | head -1` ended with one."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        ended = subprocess.run(
            [sys.executable, "-m", "sdk", "status", "--broker", endpoint],
            stdout=pipe,
            stderr=subprocess.PIPE,
            check=False,
        )

    assert (ended.returncode, ended.stderr) == (STATUS_READER_GONE, b"")


@pytest.mark.process
def test_an_answer_that_finds_no_room_is_one_line_and_status_1(endpoint):
    """`python -m sdk status > FILE` on a full disk ended with a traceback."""
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "sdk", "status", "--broker", endpoint],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )

    assert ended.returncode == program.STATUS_FAILED
    assert ended.stderr == b"warmslot: [Errno 28] No space left on device\n"


@pytest.mark.process
def test_what_the_broker_refuses_is_said_without_its_json(capsys):
    with ScriptedBroker() as broker:
        broker.answers["limit-set"] = {"error": "the journal cannot be written now"}

        status = program.main(["limits", "set", "db", "3", "--broker", broker.endpoint])

    assert status == 1
    assert capsys.readouterr().err == "warmslot: the journal cannot be written now\n"


@pytest.mark.process
def test_a_task_that_is_not_dead_is_said_once(capsys):
    with ScriptedBroker() as broker:
        broker.answers["dead-forget"] = {"error": "no dead task 1-1 is kept here"}

        forget = ["tasks", "--dead", "--forget", "1-1"]
        status = program.main([*forget, "--broker", broker.endpoint])

    assert status == 1
    assert capsys.readouterr().err == "warmslot: no dead task 1-1 is kept here\n"


@pytest.mark.process
@pytest.mark.parametrize("command", ["tasks --dead nope", "redrive nope", "redrive nope --json"])
def test_what_is_not_dead_is_status_1_however_its_id_looks(capsys, command):
    with ScriptedBroker() as broker:
        broker.answers["dead"] = {"error": "no dead task nope is kept here"}

        status = program.main([*command.split(), "--broker", broker.endpoint])

    assert (status, capsys.readouterr().err) == (1, "warmslot: no dead task nope is kept here\n")


@pytest.mark.process
def test_redrive_repeated_what_is_no_id_in_full(capsys):
    with ScriptedBroker() as broker:
        broker.answers["dead"] = {"error": "none"}
        assert program.main(["redrive", "x" * 9_999, "--broker", broker.endpoint]) == 1

    assert "... (9,999 characters) is kept here" in capsys.readouterr().err[:400]


@pytest.mark.process
@pytest.mark.parametrize("command", ["explain", "cancel", "redrive", "tasks --dead"])
def test_no_id_at_all_is_status_2(capsys, command):
    with ScriptedBroker() as broker:
        broker.answers["dead"] = {"dead": [], "count": 0}

        status = program.main([*command.split(), "", "--broker", broker.endpoint])

    assert status == 2
    assert "'' is not the id of a task" in capsys.readouterr().err


@pytest.mark.process
@pytest.mark.parametrize(
    ("command", "answer", "printed", "status"),
    [
        ("limits set db 3", {}, {"limit": "db", "maximum": 3}, 0),
        ("limits rm db", {}, {"deleted": "db"}, 0),
        ("limits release h", {}, {"released": "h"}, 0),
        ("explain a-9", {"state": "unknown"}, {"state": "unknown"}, 1),
        ("redrive --all", {"dead": [], "newest": 0}, {"redriven": []}, 0),
    ],
)
def test_with_json_whatever_is_said_is_json_and_the_status_is_the_same(
    capsys, command, answer, printed, status
):
    with ScriptedBroker() as broker:
        for what in ("limit-set", "limit-delete", "limit-release", "explain", "dead"):
            broker.answers[what] = answer

        ended = program.main([*command.split(), "--json", "--broker", broker.endpoint])

    assert (ended, json.loads(capsys.readouterr().out)) == (status, printed)


def test_arguments_of_a_call_may_stand_on_both_sides_of_an_option():
    options = program.read(["submit", "mod:fn", "a=1", "--no-wait", "b=2", "c=3"])

    assert options.arguments == ["a=1", "b=2", "c=3"]
    assert options.no_wait
    for wrong in (["submit", "mod:fn", "--nowait", "b=2"], ["status", "x"]):
        with pytest.raises(program.Usage, match="unrecognized"):
            program.read(wrong)


@pytest.mark.process
def test_a_task_is_explained_by_its_id_too(endpoint):
    with Client(endpoint) as client:
        assert client.explain("a-1")["reason"] == "every actor is busy"


@pytest.mark.parametrize(
    ("code", "kind", "shown"),
    [
        ("task-failed", "KeyError", "KeyError: 'a b'"),
        ("poison-task", "PoisonTask", "'a b'"),
    ],
)
def test_a_dead_task_is_listed_with_the_type_of_what_it_raised(code, kind, shown):
    dead = {"task": "a-1", "name": "f", "ended_ms": 0, "code": code, "runs": 1, "redriven_as": ""}

    *_, message = row(dead | {"type": kind, "message": "'a\n b'"})

    assert message == shown
