"""What failed at others, each with the test that shows that it does not fail here.

The list, in `tests.support.peers`, has the threads in which users and maintainers of comparable
systems describe what went wrong, each with where the same is tested; what no other test shows
stands below, and in `test_peers_processes` where it takes processes of its own.
"""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from broker.defining import define
from sdk import LocalCluster
from tests.broker.conversation import CODE, Conversation, Talker, attested
from tests.support.deployment import DEADLINE_S, Deployment
from tests.support.peers import HERE, ROWS
from wire.labels import Comparator, Desire
from wire.limits import read_definition
from wire.messages import (
    Assign,
    Beat,
    Bye,
    Credit,
    HostBeat,
    HostHello,
    LabelsChanged,
    Scale,
    Welcome,
)
from wire.parts import Call

TESTS = Path(__file__).parent
TIMEOUT_S = DEADLINE_S

# A thread, as a docstring names it: who#number; further ones of the same follow.
THREAD = re.compile(r"\b[\w-]+/[\w.-]+#\d+")


@cache
def names_in(file):
    return set(re.findall(r"(?m)^\s*def (test_\w+)\(", (TESTS / file).read_text()))


def threads_of_tests():
    """Return the threads that docstrings of tests name, with file and test."""
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for thread in THREAD.findall(ast.get_docstring(node) or ""):
                    yield thread, str(path.relative_to(TESTS)), node.name


@pytest.mark.parametrize(("thread", "what", "file", "test"), ROWS, ids=lambda row: None)
def test_each_failure_of_others_has_a_test(thread, what, file, test):
    assert test in names_in(file), f"{thread}: {what}"


def test_each_test_that_names_a_thread_is_in_the_list():
    for thread, file, test in threads_of_tests():
        listed = " ".join(row[0] for row in ROWS if row[2:] == (file, test))
        owner, _, number = thread.partition("#")
        assert owner in listed, f"{test} is about {thread}, which the list does not have"
        assert f"#{number}" in listed, f"{test} is about {thread}, which the list does not have"


@pytest.mark.parametrize("file", [HERE, "test_peers_processes.py"])
def test_each_test_of_these_files_is_in_the_list(file):
    listed = {test for _, _, where, test in ROWS if where == file}

    assert names_in(file) - listed <= ABOUT_THE_LIST


ABOUT_THE_LIST = {
    test_each_failure_of_others_has_a_test.__name__,
    test_each_test_that_names_a_thread_is_in_the_list.__name__,
    test_each_test_of_these_files_is_in_the_list.__name__,
}


# --- what no other test shows


def fail():
    raise ValueError("no")


def identity(value):
    return value


class Heavy:
    """Takes all memory where it is unpickled, or pickled."""

    def __init__(self, where):
        self.where = where

    def __reduce__(self):
        if self.where == "pickle":
            raise MemoryError("pickled")
        return grab, ()


def grab():
    raise MemoryError("unpickled")


def take_all(*_):
    return bytearray(2**60)


def make_heavy():
    return Heavy("pickle")


@pytest.fixture(scope="module")
def client():
    with LocalCluster(actors=1, slots=1) as cluster, cluster.client() as client:
        yield client


@pytest.mark.process
def test_errors_hold_up_nobody(client):
    """dask/distributed#5497."""
    failing = [client.submit(fail) for _ in range(20)]
    last = client.submit(identity, 1)

    assert last.result(TIMEOUT_S) == 1
    assert all(isinstance(one.exception(0), ValueError) for one in failing)


@pytest.mark.process
@pytest.mark.parametrize(
    ("function", "arguments"),
    [(take_all, ()), (identity, (Heavy("unpickle"),)), (make_heavy, ())],
    ids=["in the call", "in its arguments", "in its result"],
)
def test_a_memory_error_leaves_the_slot_free(client, function, arguments):
    """celery/celery#10462. There is one slot: if it is gone, nothing runs any more."""
    assert client.submit(function, *arguments).exception(TIMEOUT_S) is not None

    assert client.submit(identity, 1).result(TIMEOUT_S) == 1


@pytest.mark.process
def test_a_run_of_ten_leases_is_one_run(tmp_path):
    """celery/celery#5935 and others: a task is running for as long as it runs."""
    path = tmp_path / "runs"

    def long(path):
        from pathlib import Path
        from threading import Event

        with Path(path).open("a") as file:
            file.write("began\n")
        Event().wait(5.0)
        return "done"

    with Deployment("--heartbeat", "0.1") as deployment:
        deployment.start_broker()
        deployment.start_host("h", "--replicas", "2")
        client = deployment.client()
        deployment.actors(client, "h/0", "h/1")

        assert client.submit(long, str(path)).result(TIMEOUT_S) == "done"

    assert path.read_text() == "began\n"


def test_who_waits_for_a_limit_starts_in_the_turn_that_gives_it_back():
    """PrefectHQ/prefect#23183: no time passes here, so no poll can be what starts it."""
    talk = Conversation()
    define(talk.broker, read_definition("db=1"))
    actor = talk.actor(free=2)
    talk.client().submits(1, 2, call=Call("work", CODE, limits={"db": 1}))
    assert [assign.task for assign in actor.takes(Assign)] == [1]

    actor.ends((1000, 1), free=2)

    assert [assign.task for assign in actor.takes(Assign)] == [2]


def test_a_wish_for_an_actor_that_left_costs_no_time():
    """temporalio/temporal#2363."""
    talk = Conversation()
    liked = talk.actor(11, free=1, name="a/0", labels={"zone": "eu"})
    other = talk.actor(12, free=1, name="b/0")
    wish = Desire("zone", Comparator.EQUAL, "eu", False, 100.0)
    client = talk.client().submits(1, call=Call("work", CODE, desires=[wish]))
    assert [assign.task for assign in liked.takes(Assign)] == [1]

    liked.says(Bye("gone"))
    client.submits(2, call=Call("work", CODE, desires=[wish]))

    assert other.takes(Assign), "it waits for an actor that is not there"


def test_actors_that_hang_at_their_start_have_no_more_started_than_may_be():
    """ray-project/ray#20771: those that were started and are not heard count as coming."""
    talk = Conversation(scale_after_s=1.0)
    hanging = [attested(n, name=f"host/{n}") for n in (21, 22)]
    machine = Talker(talk, HostHello(90, "host", 1, {}, [], 0, 2, {}, {"slot": 1}))
    client = talk.client().submits(*range(1, 9))
    asked = []
    for second in range(120):
        talk.wait(1.0)
        started = hanging[: max(asked, default=0)]
        machine.says(HostBeat(started if second % 2 else started[:1]))
        client.says(Beat())
        asked += [command.actors for command in machine.takes(Scale)]

    assert set(asked) in ({1}, {2}, {1, 2})


def test_whatever_an_actor_says_keeps_its_lease():
    """ipython/ipython#3290: who talks lives, whether a heartbeat is among what it says or not."""
    talk = Conversation()
    actor = talk.actor(free=1, labels={"n": 0})
    talk.host(actors=[attested(11)])
    talk.client().submits(1)
    for number in range(1, 20):
        talk.wait(1.0)
        actor.says(Credit(0) if number % 2 else LabelsChanged(number, {"n": number}))

    assert not talk.noted("actor_lost")


def test_a_thousand_processes_under_one_name_are_all_welcome():
    """zeromq/libzmq#2892 and others: a name is no routing id here."""
    talk = Conversation()
    for number in range(1_000):
        actor = talk.actor(1_000 + number)
        assert actor.takes(Welcome), f"process {number} is not heard"

    assert len(talk.broker.actors) == 1
