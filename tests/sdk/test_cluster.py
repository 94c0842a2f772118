"""A LocalCluster runs real processes, and leaves none behind, however it ends."""

import logging
import os
import pathlib
from itertools import pairwise

import pytest

import sdk
from sdk import (
    Comparator,
    Desired,
    Environment,
    LocalCluster,
    PayloadTooLarge,
    TaskCanceled,
    current_task,
    gather,
)
from sdk.cluster import ADOPT_WINDOW_S, ClusterFailed, options_of, read_actors
from tests.support.deployment import DEADLINE_S

TIMEOUT_S = DEADLINE_S
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(pathlib.Path(sdk.__file__).parents[1])}


class Counter(Environment):
    def enter(self, start=0):
        self.count = start

    def add(self, amount):
        self.count += amount
        return self.count


class Offset(Counter):
    def enter(self, start=100):
        self.count = start


def where():
    return current_task().actor.name


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster([{"slots": 2, "labels": {"memory": 512, "zone": "7"}}, {}]) as cluster:
        yield cluster


@pytest.mark.process
@pytest.mark.slow
class TestRealProcesses:
    def test_labels_choose_the_actor(self, cluster):
        with cluster.client() as client:
            large = {"memory": Desired(256, Comparator.GREATER_THAN), "zone": "7"}
            futures = [client.submit(where, desired_labels=large) for _ in range(4)]
            other = client.submit(
                where, desired_labels={"memory": Desired(1, Comparator.NOT_EQUAL)}
            )

            assert set(gather(futures, timeout=TIMEOUT_S)) == {"local0/0"}
            assert other.result(TIMEOUT_S) in {"local0/0", "local1/0"}
            assert futures[0].actor == "local0/0"

    def test_an_environment_stays_and_a_subclass_is_another(self, cluster):
        with cluster.client() as client:
            where_it_is = {"zone": "7"}
            submitter = client.options(desired_labels=where_it_is)

            counts = [submitter.submit(Counter.add, 2).result(TIMEOUT_S) for _ in range(3)]
            other = submitter.submit(Offset.add, 1).result(TIMEOUT_S)

            assert counts == [2, 4, 6]
            assert other == 101

    def test_nested_calls_and_release(self, cluster):
        def outer(count):
            task = current_task()
            task.release_slot()
            return sum(gather([task.client.submit(abs, -n) for n in range(count)]))

        with cluster.client() as client:
            assert client.submit(outer, 4).result(TIMEOUT_S) == 6

    def test_an_exception_of_the_scripts_own_is_caught_by_its_class(self, cluster):
        class Mine(Exception):
            pass

        def fail():
            raise Mine("here")

        with cluster.client() as client, pytest.raises(Mine, match="here") as caught:
            client.submit(fail).result(TIMEOUT_S)
        assert "in fail" in str(caught.value.__cause__)

    def test_a_task_that_fits_nowhere_can_be_explained_and_canceled(self, cluster):
        with cluster.client() as client:
            future = client.submit(where, desired_labels={"zone": "nowhere"})
            assert future.accepted(TIMEOUT_S)

            told = client.explain(future)

            assert told["state"] == "queued"
            assert set(told["actors"]) == {"local0/0", "local1/0"}
            assert future.cancel()
            with pytest.raises(TaskCanceled):
                future.result(0)

    def test_nobody_else_reads_its_files(self, cluster):
        folder = pathlib.Path(cluster.endpoint.removeprefix("ipc://")).parent

        assert folder.stat().st_mode & 0o777 == 0o700

    def test_what_tasks_print_is_seen_when_asked_for(self, capfd):
        def work():
            print("printed by a task", flush=True)
            logging.getLogger().warning("logged by a task")

        with LocalCluster(1, show_output=True) as cluster, cluster.client() as client:
            client.submit(work).result(TIMEOUT_S)

        out, err = capfd.readouterr()
        assert "printed by a task" in out
        assert "logged by a task" in err

    def test_a_closed_cluster_has_no_clients_that_wait_for_ever(self):
        cluster = LocalCluster(1)
        cluster.close()

        with pytest.raises(ClusterFailed, match="is closed"):
            cluster.client()

    def test_its_broker_has_further_options_when_asked_for(self):
        with LocalCluster(1, arguments=["--payload-bytes-max", 1_000]) as cluster:
            error = cluster.client().submit(bytes, 2_000).exception(TIMEOUT_S)

        assert isinstance(error, PayloadTooLarge)
        with pytest.raises(ClusterFailed, match=r"broker ended with 2[\s\S]*wibble"):
            LocalCluster(1, arguments=["--wibble"])

    def test_a_cluster_that_does_not_come_up_says_why(self, monkeypatch):
        monkeypatch.setattr("sdk.cluster.options_of", lambda host: ["--wibble"])

        with pytest.raises(ClusterFailed, match=r"local ended with 2[\s\S]*wibble"):
            LocalCluster(1)


@pytest.mark.parametrize(
    ("actors", "options", "error"),
    [
        (0, {}, "actors=0"),
        (True, {}, "actors=True"),
        ([], {}, "empty"),
        ([{"slot": 1}], {}, "'slot'"),
        ([{"slots": 0}], {}, "slots=0"),
        (1, {"slots": 1.5}, r"slots=1\.5"),
        (1, {"slots": {"g u": 1}}, "'g u' is not the name of a slot type"),
        (1, {"slots": {"a=b": 1}}, "'a=b' is not the name of a slot type"),
        (1, {"slots": {"gpu": "ab"}}, "'gpu': 'ab' is neither an int of at least 1 nor a list"),
        (1, {"slots": {"gpu": ["a", ""]}}, "is neither"),
        (1, {"slots": {"gpu": ["a,b"]}}, "is neither"),
        (1, {"slots": {"gpu": True}}, "is neither"),
        (1, {"slots": {"gpu": []}}, "is neither"),
        (1, {"prefetch": -1}, "prefetch=-1"),
        (1, {"labels": {"a b": 1}}, "'a b'"),
        ([{"labels": {"a": [object()]}}], {}, "object"),
        ([{"name": "x"}, {"name": "x"}], {}, "same name"),
        ([{"name": "broker"}], {}, "called 'broker'"),
        ([{"name": "a/b"}], {}, "name='a/b'"),
        ([{"replicas": (3, 1)}], {}, r"replicas=\(3, 1\)"),
        ([{"replicas": ("a", 1)}], {}, r"replicas=\('a', 1\)"),
    ],
)
def test_a_cluster_that_makes_no_sense_is_refused(actors, options, error):
    given = {"slots": 1, "labels": None, "prefetch": 0} | options

    with pytest.raises(ValueError, match=error):
        read_actors(actors, **given)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"labels": ["gpu"]}, r"labels=\['gpu'\]"),
        ({"limits": "db=10"}, r"as \['db=10'\]"),
        ({"limits": {"db": 10}}, r"limits=\{'db': 10\} must be a list"),
        ({"limits": 10}, "limits=10 must be a list"),
        ({"arguments": "--lease 9"}, r"arguments='--lease 9' must be a list"),
        ({"timeout": None}, "timeout=None is not a number"),
        ({"actors": "2"}, "actors='2'"),
        ({"actors": 2.0}, r"actors=2\.0 must be a number, or a list"),
        ({"actors": None}, "actors=None must be a number"),
        ({"actors": [{"limits": ["gpu=1"]}]}, r"limits=\['gpu=1'\] must be a mapping"),
        ({"actors": [{"arguments": "--keys x"}]}, "arguments='--keys x' must be a list"),
        ({"actors": [{"name": 5}]}, "name=5"),
    ],
)
def test_what_is_no_mapping_or_no_list_is_named(options, error):
    with pytest.raises(TypeError, match=error):
        LocalCluster(**{"actors": 1} | options)


def test_its_broker_waited_two_seconds_for_what_an_earlier_one_had_let_start(monkeypatch):
    """There was none, and nobody had a limit or a named actor in that time."""
    spawned = []

    def spawn(cluster, name, module, *arguments):
        spawned.append(arguments)
        raise ClusterFailed(name)

    monkeypatch.setattr(LocalCluster, "_spawn", spawn)
    with pytest.raises(ClusterFailed, match="broker"):
        LocalCluster(1, arguments=["--adopt-window", "7"])

    (arguments,) = spawned
    windows = [after for one, after in pairwise(arguments) if one == "--adopt-window"]
    assert windows == [ADOPT_WINDOW_S, "7"]
    assert float(ADOPT_WINDOW_S) < 0.1


def test_labels_keep_their_types_on_the_command_line():
    labels = {"a": 1, "b": "1", "c": True, "d": 0.5, "e": ["x", 2]}
    [host] = read_actors(1, slots=2, labels=labels, prefetch=3)

    options = options_of(host)

    said = [value for option, value in pairwise(options) if option == "--label"]
    assert said == ["a=1", "b=str:1", "c=True", "d=0.5", "e=str:x", "e=2"]
    assert {"--slots=2", "--prefetch=3"} < set(options)
