"""Whatever was given on a command line, what is wrong with it is one short line."""

import pytest

import actor.cli
import broker.cli
from sdk import __main__ as program
from sdk.calls.asking import asked
from tests.sdk.fakes import ScriptedBroker
from wire.texts import LINE_MAX

LONG = "x" * 10_000


def refused(main, given, capsys):
    """Return with which status *main* ends, and what it says."""
    try:
        status = main(given)
    except SystemExit as ended:
        status = ended.code
    return status, capsys.readouterr().err


@pytest.mark.parametrize(
    ("main", "before"),
    [(program.main, ["status"]), (actor.cli.main, []), (broker.cli.main, [])],
)
@pytest.mark.parametrize("given", [[LONG], [f"--{LONG}"], ["x\n"] * 9_000, [f"--{LONG}=1"]])
def test_what_is_no_option_was_repeated_in_all_its_length(main, before, given, capsys):
    status, said = refused(main, [*before, *given], capsys)

    assert status == 2
    assert (said.count("\n"), len(said) < LINE_MAX + 100) == (1, True)
    assert " characters)" in said


@pytest.mark.parametrize(
    "given",
    [
        [LONG],
        ["limits", LONG],
        ["submit", LONG],
        ["submit", "math:sqrt", LONG],
        ["keys", "folder", LONG],
        ["--timeout", LONG, "status"],
    ],
)
def test_what_a_command_does_not_take_was_repeated_in_all_its_length(given, capsys, monkeypatch):
    class Nobody:
        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(program, "Client", Nobody)

    status, said = refused(program.main, given, capsys)

    assert (status, said.count("\n"), len(said) < LINE_MAX + 100) == (2, 1, True)
    assert " characters)" in said


def test_a_question_that_was_refused_was_repeated_in_all_its_length():
    assert asked("cancel", LONG) == f"cancel {'x' * 200}... (10,000 characters): "
    assert asked("pause", "gpu1/*") == "pause gpu1/*: "


@pytest.mark.process
def test_a_named_actor_that_is_not_there_was_named_in_all_its_length(capsys):
    with ScriptedBroker() as answering:
        answering.answers["named-kill"] = {"killed": False}

        status, said = refused(
            program.main, ["named", "--kill", "x" * 999, "--broker", answering.endpoint], capsys
        )

    assert (status, len(said) < LINE_MAX) == (1, True)
