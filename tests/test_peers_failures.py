"""What failed at others, each with the test that shows that it does not fail here.

The rows are the threads in which users and maintainers of comparable systems describe what went
wrong. A row names where the same is tested; what no other test shows stands below.
"""

import re
from functools import cache
from pathlib import Path

import pytest

from broker.defining import define
from sdk import LocalCluster
from tests.broker.conversation import CODE, Conversation, attested
from tests.support.deployment import Deployment
from wire.labels import Comparator, Desire
from wire.limits import read_definition
from wire.messages import Assign, Bye, Credit, LabelsChanged, Welcome
from wire.parts import Call

TESTS = Path(__file__).parent
TIMEOUT_S = 60.0
HERE = "test_peers_failures.py"

# (thread, what failed there, file, test).
ROWS = [
    (
        "hatchet docs, Manual Slot Release",
        "a released task whose worker dies stays running for ever",
        "test_end_to_end.py",
        "test_a_released_task_dies_with_its_process",
    ),
    (
        "hatchet-dev/hatchet#4494, #4329; PrefectHQ/prefect#21794",
        "slots leak where counters and assignments are written apart",
        "chaos/test_kills.py",
        "test_killed_actors_take_no_slot_and_no_limit_with_them",
    ),
    (
        "hatchet-dev/hatchet#2432",
        "a task is given to a worker whose listener is dead",
        "broker/test_liveness.py",
        "test_a_deaf_actor_is_suspect_although_it_beats",
    ),
    (
        "hatchet-dev/hatchet#1022",
        "a retry runs beside the run that timed out, and both submit",
        "broker/test_core.py",
        "test_a_child_of_a_stale_parent_is_refused",
    ),
    (
        "PrefectHQ/prefect#17415, #9895",
        "limits stay held after a crash",
        "test_limits.py",
        "test_a_killed_actor_gives_back_at_once_what_it_held",
    ),
    (
        "PrefectHQ/prefect#22935, #22983, #19840",
        "a lease that was renewed is taken away, or one that expired is used",
        "broker/test_liveness.py",
        "test_an_actor_that_beats_keeps_its_lease",
    ),
    (
        "PrefectHQ/prefect#18942",
        "a task that ended is marked crashed by what comes late",
        "broker/test_core.py",
        "test_an_outcome_of_a_canceled_task_is_acknowledged_as_stale",
    ),
    (
        "PrefectHQ/prefect#21925, #19068; dask/distributed#6324",
        "a task that holds the interpreter is taken for dead",
        "test_restarts.py",
        "test_holding_the_interpreter_longer_than_the_lease_is_no_death",
    ),
    (
        "PrefectHQ/prefect#23183",
        "who waits for a limit learns of room by a poll",
        HERE,
        "test_who_waits_for_a_limit_starts_in_the_turn_that_gives_it_back",
    ),
    (
        "dask/distributed#5480, #6350, #6228, #6356",
        "a task is given to what is left of a worker that connected again",
        "broker/test_sessions.py",
        "test_a_hello_on_a_new_connection_ends_the_session_on_the_old",
    ),
    (
        "dask/distributed#6263, #6198, #3761",
        "a task runs on a worker that does not know of it",
        "broker/test_liveness.py",
        "test_a_divergent_beat_ends_the_session",
    ),
    (
        "dask/distributed#7223, #5975",
        "a seceded task's slot is not used, or counted below zero",
        "test_end_to_end.py",
        "test_a_released_slot_is_the_next_tasks_and_the_first_goes_on",
    ),
    (
        "dask/distributed#6689",
        "a task ends twice, with two outcomes",
        "broker/test_core.py",
        "test_a_repeated_outcome_is_delivered_once",
    ),
    (
        "dask/distributed#8787",
        "an event in a state for which it was not meant stops the scheduler",
        "sim/test_coverage.py",
        "test_every_transition_happens_in_the_fixed_seeds",
    ),
    (
        "dask/distributed#5497",
        "an error in one task holds up those after it",
        HERE,
        "test_errors_hold_up_nobody",
    ),
    (
        "dask/distributed#6148, #8537",
        "a lost worker stays in the books, since its time never ends",
        "broker/test_liveness.py",
        "test_a_silent_actor_loses_its_lease_after_five_seconds",
    ),
    (
        "celery/celery#5935, #5306, #3270, #2599, #9663",
        "a task that runs for longer than a timeout is given away again",
        HERE,
        "test_a_run_of_ten_leases_is_one_run",
    ),
    (
        "celery/celery#14, #1628, #3053; contribsys/faktory#99; vectorize-io/hindsight#2675",
        "a task that brings down its worker is lost, or run for ever",
        "test_restarts.py",
        "test_a_task_that_always_brings_down_its_process_is_poison",
    ),
    (
        "celery/celery#6465, #4354, #7950; celery/kombu#533",
        "a shutdown loses what was fetched and had not begun",
        "test_restarts.py",
        "test_a_drained_host_finishes_what_runs_and_leaves_the_rest_to_others",
    ),
    (
        "celery/celery#8030, #8091, #8384, #9054, #10205",
        "workers take nothing any more after a broker restart",
        "test_restarts.py",
        "test_a_hundred_tasks_outlive_three_brokers_and_an_actor",
    ),
    (
        "celery/celery#10462",
        "a MemoryError takes a slot of the pool for good",
        HERE,
        "test_a_memory_error_leaves_the_slot_free",
    ),
    (
        "contribsys/faktory#268, #416, #453",
        "what a gone worker had stays busy; a submit that is repeated doubles",
        "broker/test_core.py",
        "test_a_repeated_death_changes_nothing",
    ),
    (
        "nats-io/nats-server#4786",
        "the acknowledgement of an earlier delivery counts for a later one",
        "broker/test_liveness.py",
        "test_a_lost_actor_that_comes_back_is_told_to_stop",
    ),
    (
        "nats-io/nats-server#7564, Jepsen NATS 2.12.1",
        "what was acknowledged was not on disk",
        "broker/test_durable.py",
        "test_accepted_is_said_after_the_commit",
    ),
    (
        "nats-io/nats-server#6093, #7680",
        "all credit is held by what nobody acknowledges",
        "broker/test_sessions.py",
        "test_a_session_begins_without_credit",
    ),
    (
        "ray-project/ray#34019, #19350, PR#49581",
        "a node is ended that has just been given work",
        "actor/test_core.py",
        "test_an_assignment_that_crosses_a_drain_is_rejected",
    ),
    (
        "ray-project/ray#64349, #63763, #33854, #9379",
        "after a restart workers live on that nobody knows",
        "broker/test_recovery.py",
        "test_an_adopted_run_that_nobody_claims_is_stopped",
    ),
    (
        "ray-project/ray#1049, #397, #6612, #2635",
        "a caller waits for ever for a task that ended its process",
        "test_bad_input.py",
        "test_what_would_end_a_program_ends_only_the_task",
    ),
    (
        "temporalio/temporal#2363, sdk-python#783",
        "a task waits for the worker that it prefers, which is gone",
        HERE,
        "test_a_wish_for_an_actor_that_left_costs_no_time",
    ),
    (
        "ipython/ipyparallel#306, #319, #397 and the comment in hub.py",
        "an error is made up, then the result comes",
        "test_restarts.py",
        "test_a_stopped_actor_loses_its_task_and_its_late_outcome_is_not_visible",
    ),
    (
        "ipython/ipython#3290; zeromq/libzmq#2709",
        "missed pings kill what is busy talking",
        HERE,
        "test_whatever_an_actor_says_keeps_its_lease",
    ),
    (
        "zeromq/libzmq#2892, #2019, #4503, #1575, #778",
        "who comes back under its name is not heard",
        HERE,
        "test_a_thousand_processes_under_one_name_are_all_welcome",
    ),
    (
        "zeromq/libzmq#4665, #2831; zeromq/netmq#485",
        "a send to a peer that stands still holds up everybody",
        "chaos/test_scenarios.py",
        "test_what_was_called_has_one_outcome_whatever_happens",
    ),
    (
        "zeromq/libzmq#2224",
        "nothing is heard after a long silence of the network",
        "chaos/test_scenarios.py",
        "test_what_was_called_has_one_outcome_whatever_happens",
    ),
    (
        "jcrist/msgspec#366",
        "a small message takes all memory",
        "broker/test_core.py",
        "test_a_hello_that_lists_everything_costs_no_memory",
    ),
    (
        "gadget-inc/silo#399, #406",
        "one task is started twice in one worker",
        "actor/test_core.py",
        "test_a_repeated_token_is_ignored",
    ),
    (
        "SQLite, the WAL-reset bug before 3.51.3",
        "two connections of one file damage it",
        "broker/test_journal.py",
        "test_nobody_else_can_open_the_file_while_a_broker_has_it",
    ),
]


@cache
def names_in(file):
    return set(re.findall(r"(?m)^\s*def (test_\w+)\(", (TESTS / file).read_text()))


@pytest.mark.parametrize(("thread", "what", "file", "test"), ROWS, ids=lambda row: None)
def test_each_failure_of_others_has_a_test(thread, what, file, test):
    assert test in names_in(file), f"{thread}: {what}"


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
