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

from broker.events.defining import define
from sdk import LocalCluster
from tests.broker.conversation import CODE, Conversation, Talker, actor_hello, ask, attested
from tests.support.deployment import DEADLINE_S, Deployment
from tests.support.disk import Disk
from tests.support.peers import HERE, ROWS
from wire.codec import encode_failure
from wire.errors import Code
from wire.labels import Comparator, Desire
from wire.limits import read_definition
from wire.messages import (
    Accepted,
    ActorBeat,
    Assign,
    Beat,
    Bye,
    Cancel,
    ClientHello,
    Credit,
    Death,
    Drain,
    HostBeat,
    HostHello,
    LabelsChanged,
    OutcomeAck,
    Reject,
    Result,
    Scale,
    Welcome,
)
from wire.parts import Call, Failure, Status

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


@pytest.mark.parametrize("how", ["drains", "is suspect"])
def test_a_wish_for_an_actor_that_takes_nothing_costs_no_time(how):
    """temporalio/sdk-python#783: it is still there, and on its way out."""
    talk = Conversation()
    liked = talk.actor(11, name="a/0", labels={"zone": "eu"})
    wish = Desire("zone", Comparator.EQUAL, "eu", False, 100.0)
    other = talk.actor(12, free=1, name="b/0")
    client = talk.client()
    if how == "drains":
        ask(talk.client(2), "drain", "a/0")
        assert liked.takes(Drain)
    else:
        talk.wait(2.5, beating=[client, other])
        other.says(Credit(1))
        assert talk.broker.actors[11].is_suspect

    client.submits(1, call=Call("work", CODE, desires=[wish]))

    assert other.takes(Assign), "it waits for an actor that takes nothing"


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


# --- the same task, twice given away


def given(actor):
    """Return the tasks and the tokens that an actor was given."""
    return {assign.task: (actor.epoch, assign.number) for assign in actor.takes(Assign)}


def given_twice():
    """Return a conversation in which one task is given to another actor, its first lease over.

    With its client, both actors and both tokens.
    """
    talk = Conversation()
    first, second = talk.actor(11, name="a/0", free=1), talk.actor(12, name="b/0")
    client = talk.client().submits(7)
    old = given(first)[7]
    talk.wait(6.0, beating=[client, second])
    second.says(Credit(1))
    new = given(second)[7]
    assert new > old
    return talk, client, (first, old), (second, new)


def comes_back(actor, **said):
    """Let an actor that lost its lease say what it has, and its outcomes after it."""
    actor.connects()
    actor.greets(actor_hello(actor.incarnation, name=actor.name, **said))


def test_an_acknowledgement_of_the_first_delivery_is_none_of_the_second():
    """nats-io/nats-server#4786: the first reader says it is done when the second one has it."""
    talk, client, (first, old), (second, new) = given_twice()

    comes_back(first, kept=[(1, 7, old)])
    first.ends(old, b"late")
    talk.wait(1.25, beating=[client])

    # The first learns that nobody wants it, and the task is the second's as before.
    assert first.takes(OutcomeAck) == [OutcomeAck([], [old])]
    assert client.takes(Result) == []
    assert talk.state(client, 7) == "assigned"
    # So it is given away once more where the second is gone, and not taken for done.
    second.says(Bye("gone"))
    first.says(Credit(1))
    third = given(first)[7]
    assert third > new
    first.ends(third, b"third")
    assert [result.body for result in client.takes(Result)] == [b"third"]


@pytest.mark.parametrize("when", ["while the second runs", "after the second has ended"])
def test_a_task_that_ends_well_and_badly_has_the_outcome_of_whose_it_is(when):
    """dask/distributed#6689: it ends well where it is by now, then badly where it was before."""
    _, client, (first, old), (second, new) = given_twice()
    failed = encode_failure(Failure(Code.TASK_FAILED, "it is flaky", b""))

    if when == "after the second has ended":
        second.ends(new, b"well", free=1)
    comes_back(first, kept=[(1, 7, old)])
    first.ends(old, failed, status=Status.FAILURE, free=1)
    if when == "while the second runs":
        second.ends(new, b"well", free=1)

    assert [(r.status, r.body) for r in client.takes(Result)] == [(Status.RESULT, b"well")]
    # Nobody is stuck for it: both take what depends on it.
    client.submits(8, 9)
    assert {**given(first), **given(second)}.keys() == {8, 9}


# --- credit and limits that something has taken


@pytest.mark.parametrize("lost", ["with who had it", "on their way to it"])
def test_credit_that_is_full_of_what_nobody_acknowledges_is_there_again(lost):
    """nats-io/nats-server#6093, #7680 and nats-io/nats-streaming-server#77: what was delivered to
    who is gone fills the bound for ever, or is not delivered again since the bound is full.
    """
    talk = Conversation()
    actor = talk.actor(11, name="a/0", free=2)
    client = talk.client().submits(1, 2, 3, 4)
    assert given(actor).keys() == {1, 2}

    if lost == "with who had it":
        talk.wait(6.0, beating=[client])
        actor = talk.actor(12, name="a/0")
    else:
        comes_back(actor)
    actor.says(Credit(2))

    again = given(actor)
    assert again.keys() == {1, 2}
    for token in again.values():
        actor.ends(token)
    actor.says(Credit(2))
    assert given(actor).keys() == {3, 4}


BETWEEN = [
    "it is not written that it is there",
    "it is written and not said",
    "it is taken and not heard of",
    "it is handed back",
    "its actor dies",
    "it is canceled",
    "it is taken and the broker ends",
]


@pytest.mark.parametrize("where", BETWEEN)
def test_wherever_a_task_is_dropped_on_its_way_to_an_actor_it_takes_no_room_along(where):
    """hatchet-dev/hatchet#4494: gone from the queue, with nobody, and its room taken for ever.

    The limit has room for one, so that a task that took it along would hold up all others.
    """
    talk = Conversation(disk=Disk(), limits=["db=1"])
    host = talk.host(actors=[attested(11)])
    actor = talk.actor(11, free=1)
    client = talk.client()
    call = Call("work", CODE, limits={"db": 1}, durable=True)
    talk.writes = "written" not in where

    client.submits(1, 2, 3, call=call)
    left = {1, 2, 3}
    if not talk.writes:
        assert client.takes(Accepted) == []
        talk.restart(writes_first=where == "it is written and not said")
        talk.writes = True
    else:
        (token,) = given(actor).values()
        match where:
            case "it is taken and not heard of":
                comes_back(actor)
            case "it is handed back":
                actor.says(Reject(*token, "draining", False), Credit(0))
            case "its actor dies":
                host.says(Death(11, None, 9, []))
                actor = talk.actor(12)
            case "it is canceled":
                client.says(Cancel([1]))
                actor.ends(token, free=0)
                left.remove(1)
            case "it is taken and the broker ends":
                talk.restart()
    if not talk.broker.actors:
        for peer in (actor, host):
            peer.greets()
        client.greets(ClientHello(1, "client1", "3.11", [(1, 3)]))
        if where == "it is not written that it is there":
            client.submits(1, 2, 3, call=call, again=True)
    # The next broker lets nobody in before the longest lease is over.
    talk.wait(8.0, beating=[client, actor, host])

    ended = set()
    while len(ended) < len(left):
        actor.says(Credit(1))
        ((task, token),) = given(actor).items()
        assert ended.isdisjoint({task})
        ended.add(task)
        actor.ends(token)
    assert ended == left
    assert not talk.broker.limits.runs


def test_a_lease_that_is_renewed_as_those_that_ended_are_looked_for_is_kept():
    """PrefectHQ/prefect#22983 and #22935: its holder renews, and its room is taken all the same.

    Two of three renew when all three are due, neither in the way of the other.
    """
    talk = Conversation(limits=["db=3"])
    client = talk.client()
    actors = [talk.actor(n, name=f"m{n}/0", host=n, free=1) for n in (11, 12, 13)]
    client.submits(1, 2, 3, 4, call=Call("work", CODE, limits={"db": 1}))
    tokens = [given(actor) for actor in actors]
    talk.wait(4.75, beating=[client])

    # All are over, and nobody has looked yet.
    talk.now += 0.26
    for actor, mine in zip(actors[:2], tokens, strict=False):
        actor.says(ActorBeat(Credit(0), 1, {}, list(mine.values())), silently=True)
    assert talk.broker.deadline() <= talk.now
    talk.wake()

    assert [lost["actor"] for lost in talk.noted("actor_lost")] == ["m13/0"]
    assert len(talk.broker.limits.runs) == 2
    # Whoever comes too late for it has no room any more, and what it ran is another's.
    actors[2].says(ActorBeat(Credit(1), 1, {}, list(tokens[2].values())))
    assert len(talk.broker.limits.runs) == 2
    actors[0].says(Credit(1))
    assert given(actors[0]).keys() == tokens[2].keys()


# --- who is unknown by now


@pytest.mark.parametrize("first", ["bye", "death", "end of its lease"])
def test_what_is_heard_of_an_actor_that_is_gone_does_no_harm(first):
    """ipython/ipyparallel#319 and #397: a heartbeat, or its absence, after the end is a KeyError
    in the hub, which knows nothing of it any more; so is a second end.
    """
    talk = Conversation()
    host = talk.host(actors=[attested(11), attested(12, name="host/1")])
    actor, other = talk.actor(11, free=1), talk.actor(12, name="host/1")
    client = talk.client().submits(7)
    token = given(actor)[7]
    ends = {
        "bye": lambda: actor.says(Bye("stopped")),
        "death": lambda: host.says(Death(11, 1, None, [token])),
        "end of its lease": lambda: talk.wait(6.0, beating=[client, other]),
    }

    for end in (first, *ends, *ends):
        ends[end]()
        actor.beats(holding=[token])
        actor.vanishes()
        actor.ends(token, b"late")
    talk.wait(20.0, beating=[client, other, host])

    assert [one.name for one in talk.broker.actors.values()] == ["host/1"]
    other.says(Credit(1))
    other.ends(given(other)[7], b"well")
    assert [result.body for result in client.takes(Result)] == [b"well"]
