"""What hosts and actors do for environments in real processes: have them, and make place."""

import os
import threading
from typing import ClassVar

import pytest

from sdk import LocalCluster, ReusePolicy, gather
from tests.support.deployment import HASTY_BROKER, Deployment, wait_until
from tests.test_environments import PATIENCE_S, Noted, about, words

pytestmark = [pytest.mark.process, pytest.mark.slow]


class Large(Noted):
    reuse = ReusePolicy(replicas=2, idle_ttl=60)
    desired_labels: ClassVar = {"many": True}

    def enter(self, path, octets=0):
        super().enter(path)
        self.kept = b"x" * octets


class Scaled(Noted):
    reuse = ReusePolicy(replicas=(0, 3), idle_ttl=0.5, scaledown_ttl=0.5)


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(actors=2) as cluster:
        yield cluster


@pytest.fixture
def notes(tmp_path):
    path = tmp_path / "notes"
    path.touch()
    return path


PRELOADED = """
import os
from sdk import Environment

class Model(Environment):
    def enter(self):
        self.seen = [os.environ["DEVICE"], os.getcwd()]
    def look(self):
        return self.seen

class Broken(Environment):
    def enter(self):
        raise OSError("no weights")
"""


def test_an_actor_starts_with_variables_a_folder_modules_and_environments(tmp_path, monkeypatch):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "preloaded.py").write_text(PRELOADED)
    (tmp_path / "work0").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    import preloaded

    arguments = ["--env", "DEVICE=gpu{index}", "--chdir", tmp_path / "work{index}"]
    arguments += ["--python-path", tmp_path / "modules"]
    arguments += ["--environment", "preloaded:Broken", "--environment", "preloaded:Model"]
    with LocalCluster([{"arguments": arguments}]) as cluster, cluster.client() as client:
        warm = {"environment.Model": "warm"}
        looked = client.submit(preloaded.Model.look, desired_labels=warm).result(PATIENCE_S)
        known = about(client, "Model")

    assert looked == ["gpu0", str(tmp_path / "work0")]
    assert (known["loads"], known["hits"]) == (1, 1)


def test_an_actor_holds_as_many_environments_as_its_memory_bears(tmp_path):
    arguments = ["--environments-memory-mb", "300", "--label", "many=true"]
    paths = [tmp_path / name for name in "abc"]
    with LocalCluster([{"arguments": arguments}]) as cluster, cluster.client() as client:
        for path in paths[:2]:
            client.submit(Large.using(path=str(path)).work).result(PATIENCE_S)
        assert [words(path) for path in paths[:2]] == [["enter"], ["enter"]]

        large = Large.using(path=str(paths[2]), octets=400 * 2**20)
        client.submit(large.work).result(PATIENCE_S)

        wait_until(lambda: all("exit" in words(path) for path in paths[:2]), PATIENCE_S)
        assert "exit" not in words(paths[2])


def test_a_host_starts_more_actors_for_a_burst_and_ends_them_after_it(notes):
    with (
        LocalCluster([{"replicas": (1, 3)}], arguments=HASTY_BROKER) as cluster,
        cluster.client() as client,
    ):
        place = Scaled.using(path=str(notes))

        pids = gather([client.submit(place.work, 0.5) for _ in range(9)], timeout=PATIENCE_S)

        assert len(set(pids)) == 3
        wait_until(lambda: len(client.actors()) == 1, PATIENCE_S)
        assert sorted(words(notes)) == ["enter"] * 3 + ["exit"] * 3
        # The one that stays, or one that is started again, goes on.
        assert client.submit(place.work).result(PATIENCE_S)


def test_a_host_without_actors_starts_one_for_a_plain_task():
    with LocalCluster([{"replicas": (0, 1)}]) as cluster, cluster.client() as client:
        assert client.actors() == []
        assert client.submit(os.getpid).result(PATIENCE_S)


class Slowly(Noted):
    reuse = ReusePolicy(replicas=2, idle_ttl=60)

    def enter(self, path):
        super().enter(path)
        threading.Event().wait(0.5)


def test_the_minimum_is_there_again_after_the_broker_and_then_the_host_was_killed(notes):
    with Deployment("--heartbeat", "0.2", "--adopt-window", "0.5") as it:
        it.start_broker()
        it.start_host("gpu", "--replicas", "2")
        place = Slowly.using(path=str(notes))
        with it.client() as client:

            def is_kept():
                found = client.query("environments")["environments"]
                return [one["warm"] for one in found] == [2]

            it.actors(client, "gpu/0", "gpu/1")
            future = client.submit(place.work)
            it.until(lambda: len(words(notes)) == 2, PATIENCE_S)
            it.restart_broker()
            assert future.result(PATIENCE_S)
            it.until(is_kept, PATIENCE_S)
            assert words(notes) == ["enter"] * 2
            # A broker without memory learns from a call how further copies are to be made.
            assert client.submit(place.work).result(PATIENCE_S)

            it.kill("gpu")
            it.start_host("other", "--replicas", "2")

            it.until(lambda: len(words(notes)) == 4, PATIENCE_S)
            it.until(is_kept, PATIENCE_S)
            assert {name[:5] for name in about(client, "Slowly")["actors"]} == {"other"}
