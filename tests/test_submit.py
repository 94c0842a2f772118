"""`python -m sdk submit`: a call from a terminal, in real processes."""

import json
import subprocess
import sys
import textwrap

import pytest

from sdk.commands.submitting import add_labels, find, read_pairs
from tests.support.deployment import DEADLINE_S as PATIENCE_S
from tests.support.deployment import Deployment, environment
from tests.test_durable import Journaled

MODULE = textwrap.dedent(
    """
    from sdk import Environment, current_task

    def add(a, b=1):
        return a + b

    def where():
        return current_task().actor.name

    def fail():
        raise KeyError("no such thing")

    class Greeter(Environment):
        def enter(self):
            self.word = "hello"
        def greet(self, name):
            return f"{self.word} {name}"

    number = 5
    """
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with Deployment() as world:
        world.folder_of_user = user_at(tmp_path_factory.mktemp("user"))
        world.start_broker()
        world.start_host("one")
        world.start_host("two", "--label", "zone=eu")
        _ = world.actors(world.client(), "one/0", "two/0")
        yield world


@pytest.fixture
def journaling(tmp_path):
    with Journaled() as world:
        world.folder_of_user = user_at(tmp_path)
        world.start_broker()
        yield world


def user_at(folder):
    """Return *folder*, in which a user has a module."""
    (folder / "users_module.py").write_text(MODULE)
    return folder


def submit(world, *arguments):
    """Run the command beside the user's module; return status, output and complaint."""
    ran = subprocess.run(
        [sys.executable, "-m", "sdk", "submit", "--broker", world.endpoint, *arguments],
        env=environment(),
        cwd=world.folder_of_user,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return ran.returncode, ran.stdout.strip(), ran.stderr.strip()


@pytest.mark.process
@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["users_module:add", "a=2"], "3"),
        (["users_module:add", "a=2", "b=0.5", "--json"], "2.5"),
        (["users_module:add", 'a="2"', "b=x"], "2x"),
        (["users_module:Greeter.greet", "name=you"], "hello you"),
        (["users_module:where", "--label", "zone=eu"], "two/0"),
        (["users_module:add", "a=[1]", "b=[2]", "--option", "priority=5"], "[1, 2]"),
    ],
)
def test_the_result_is_printed(world, arguments, printed):
    assert submit(world, *arguments) == (0, printed, "")


@pytest.mark.parametrize(
    ("said", "labels", "wanted"),
    [
        ({}, [], None),
        ({}, ["zone=eu", "memory=512"], {"zone": "eu", "memory": 512}),
        ({"zone": "us", "os": "linux"}, ["zone=eu"], {"zone": "eu", "os": "linux"}),
        ({"os": "linux"}, [], {"os": "linux"}),
    ],
)
def test_a_label_joins_the_desires_that_an_option_has(said, labels, wanted):
    """They took the place of all of them."""
    chosen = {"desired_labels": said} if said else {}

    add_labels(chosen, labels)

    assert chosen.get("desired_labels") == wanted


@pytest.mark.process
def test_what_the_function_raises_is_status_1(world):
    status, printed, complaint = submit(world, "users_module:fail")

    assert (status, printed) == (1, "")
    assert "raise KeyError" in complaint
    assert complaint.splitlines()[-1] == "warmslot: KeyError: 'no such thing'"


@pytest.mark.process
def test_a_task_that_finds_no_actor_says_why(world):
    status, _, complaint = submit(
        world, "users_module:where", "--label", "zone=moon", "--option", "schedule_timeout=0.2"
    )

    assert status == 1
    assert "needs zone eq 'moon', offers 'eu'" in complaint


@pytest.mark.process
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "arguments are required: MODULE:FUNCTION"),
        (["users_module"], "'users_module' is not MODULE:FUNCTION"),
        (["no_such_module:f"], "'no_such_module' cannot be imported"),
        (["users_module:nothing"], "has no 'nothing'"),
        (["users_module:number"], "is no function"),
        (["users_module:Greeter"], "is no function"),
        (["users_module:add", "2"], "'2' is not NAME=VALUE"),
        (["users_module:add", "a=1", "a=2"], "each name once"),
        (["users_module:add", "a=1", "--option", "frob=1"], "'frob' is no option"),
        (["users_module:add", "a=1", "--label", "zone"], "has no '='"),
        # The last one alone counted.
        (
            ["users_module:where", "--label", "zone=eu", "--label", "zone=us"],
            "zone stands there twice",
        ),
        (["users_module:where", "--label", "zone=eu", "--option", "desired_labels=x"], "a mapping"),
    ],
)
def test_what_the_user_does_wrong_is_one_line_and_status_2(world, arguments, named):
    status, printed, complaint = submit(world, *arguments)

    assert (status, printed) == (2, "")
    assert named in complaint
    assert "KEY=VALUE" not in complaint
    assert len(complaint.splitlines()) == 1


@pytest.mark.process
def test_a_broker_without_a_journal_takes_no_call_that_nobody_waits_for(world):
    status, printed, complaint = submit(world, "users_module:add", "a=40", "--no-wait")

    assert (status, printed) == (1, "")
    assert "durable" in complaint


@pytest.mark.process
def test_a_call_that_nobody_waits_for_is_there_for_whoever_asks(journaling):
    status, printed, complaint = submit(journaling, "users_module:add", "a=40", "b=2", "--no-wait")

    assert status == 0
    assert "durable_tasks_go_on" in complaint
    # Only now: what has ended by the time that its client leaves does not go on.
    journaling.start_host("one")
    client = journaling.client()
    assert client.get_future(printed).result(PATIENCE_S) == 42
    client.close()


def test_values_are_json_or_text():
    assert read_pairs(["a=1", "b=true", "c=null", 'd="1"', "e=a=b", "f="], "argument") == {
        "a": 1,
        "b": True,
        "c": None,
        "d": "1",
        "e": "a=b",
        "f": "",
    }


def test_a_function_of_the_standard_library_is_found():
    assert find("json:dumps") is json.dumps
