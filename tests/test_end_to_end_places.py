"""Where tasks run, and beside what: labels, slots, environments, against the same two actors."""

import asyncio
import os
import textwrap
import threading
from pathlib import Path
from typing import ClassVar

import pytest

import sdk.calls.reasons
import sdk.connection
from sdk import (
    Client,
    Comparator,
    Desired,
    Environment,
    EnvironmentFailed,
    LocalCluster,
    PoisonTask,
    ReusePolicy,
    ScheduleTimeout,
    SlotReleased,
    current_task,
    gather,
)
from tests.support.deployment import HASTY_BROKER, wait_until
from tests.test_end_to_end import (
    ACTORS,
    LARGE,
    ON_LARGE,
    ON_SMALL,
    PATIENCE_S,
    SMALL,
    double,
    is_at_rest,
    wait_for,
    where,
)
from tests.test_end_to_end_code import run_script

pytestmark = [pytest.mark.process, pytest.mark.slow]


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(ACTORS, arguments=HASTY_BROKER) as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    with cluster.client() as client:
        yield client
    # Nothing that a test began goes on: the next one finds the slots free.
    with Client(cluster.endpoint) as client:
        wait_until(lambda: is_at_rest(client))


@pytest.fixture
def flag(tmp_path):
    return tmp_path / "flag"


# --- labels

CHOICES = [
    ({"memory": 512}, LARGE),
    ({"memory": 512.0}, LARGE),
    ({"memory": Desired(512, Comparator.NOT_EQUAL)}, SMALL),
    ({"memory": Desired(256, Comparator.GREATER_THAN)}, LARGE),
    ({"memory": Desired(512, Comparator.GREATER_THAN_OR_EQUAL)}, LARGE),
    ({"memory": Desired(512, Comparator.LESS_THAN)}, SMALL),
    ({"memory": Desired(16, Comparator.LESS_THAN_OR_EQUAL)}, SMALL),
    ({"ratio": Desired(0.4, Comparator.GREATER_THAN)}, LARGE),
    ({"zone": Desired(["us", "ap"], Comparator.IN)}, SMALL),
    ({"zone": Desired(["us", "ap"], Comparator.NOT_IN)}, LARGE),
    ({"gpu": Desired(comparator=Comparator.EXISTS)}, LARGE),
    ({"gpu": Desired(comparator=Comparator.NOT_EXISTS)}, SMALL),
    ({"gpu": True}, LARGE),
    ({"model": "v2"}, LARGE),
    ({"model": Desired("v2", Comparator.NOT_EQUAL)}, SMALL),
    ({"model": {"value": "v1", "comparator": Comparator.EQUAL, "required": True}}, LARGE),
    ({"zone": "us", "memory": Desired(100, Comparator.LESS_THAN)}, SMALL),
]


@pytest.mark.parametrize(("labels", "actor"), CHOICES, ids=str)
def test_desired_labels_choose_the_actor(client, labels, actor):
    assert client.submit(where, desired_labels=labels).result(PATIENCE_S) == actor


def test_a_wish_pulls_and_a_heavier_one_pulls_harder(client):
    wishes = {
        "zone": Desired("us", required=False, weight=1),
        "memory": Desired(256, Comparator.GREATER_THAN, required=False, weight=10),
    }
    light = {"zone": Desired("us", required=False), "nowhere": Desired("x", required=False)}

    assert client.submit(where, desired_labels=wishes).result(PATIENCE_S) == LARGE
    assert client.submit(where, desired_labels=light).result(PATIENCE_S) == SMALL


def relabel(upserted, deleted):
    actor = current_task().actor
    actor.upsert_labels(upserted)
    actor.delete_labels(*deleted)


def test_labels_that_change_at_run_time_move_what_waits(client):
    waiting = client.submit(where, desired_labels={"loaded": "v7"})
    assert "loaded" in client.explain(waiting)["reason"]

    client.submit(relabel, {"loaded": "v7"}, [], desired_labels=ON_SMALL).result(PATIENCE_S)

    assert waiting.result(PATIENCE_S) == SMALL
    client.submit(relabel, {}, ["loaded"], desired_labels=ON_SMALL).result(PATIENCE_S)
    gone = client.submit(where, desired_labels={"loaded": "v7"})
    assert "offers nothing" in client.explain(gone)["reason"]
    assert gone.cancel()


def change_and_read(labels):
    actor = current_task().actor
    actor.upsert_labels(labels)
    first = actor.labels
    actor.delete_labels(*labels)
    return first, actor.labels


async def change_and_read_async(labels):
    return change_and_read(labels)


@pytest.mark.parametrize("function", [change_and_read, change_and_read_async])
def test_a_change_of_labels_holds_when_the_call_returns(client, function):
    future = client.submit(function, {"loaded": ["v1", 2, 0.5, True]}, desired_labels=ON_LARGE)
    first, second = future.result(PATIENCE_S)

    assert first["loaded"] == ["v1", 2, 0.5, True]
    assert "loaded" not in second
    assert second["memory"] == 512


def test_two_actors_of_one_host_have_labels_of_their_own():
    labels = {"gpu": "{index}", "1:big": True, "limit": float("inf")}
    with LocalCluster(actors=[{"replicas": 2, "labels": labels}]) as cluster:
        client = cluster.client()
        wish = {"gpu": "1", "big": True, "limit": Desired(1e9, Comparator.GREATER_THAN)}

        assert client.submit(where, desired_labels=wish).result(PATIENCE_S) == "local0/1"
        assert client.submit(where, desired_labels={"gpu": "0"}).result(PATIENCE_S) == "local0/0"
        offered = {actor["name"]: actor["labels"] for actor in client.actors()}
        assert "big" not in offered["local0/0"]


def test_a_task_that_wants_no_long_wait_ends_with_the_reason(client):
    wish = {"zone": "moon"}
    # That without a limit is there as long as it is asked about.
    like_it = client.submit(double, 1, desired_labels=wish)
    reason = client.explain(like_it)["reason"]
    like_it.cancel()

    future = client.submit(double, 1, desired_labels=wish, schedule_timeout=0.5)
    with pytest.raises(ScheduleTimeout) as caught:
        future.result(PATIENCE_S)

    assert str(caught.value) == f"no actor within 0.5 s: {reason}"
    assert "zone eq 'moon', offers 'eu'" in reason
    assert client.submit(double, 1, schedule_timeout=PATIENCE_S).result(PATIENCE_S) == 2


def test_why_a_task_waits_can_be_asked_and_is_logged_after_three_seconds(client, capfd):
    future = client.submit(double, 1, desired_labels={"memory": 4096, "zone": "moon"})

    answer = client.explain(future)

    assert answer["state"] == "queued"
    assert future.status() == "unsatisfiable"
    assert "memory eq 4096, offers 512" in answer["actors"][LARGE]
    assert "zone eq 'moon', offers 'us'" in answer["actors"][SMALL]
    said = []
    wait_until(lambda: said.append(capfd.readouterr().err) or "task_waits" in "".join(said))
    (line,) = [line for line in "".join(said).splitlines() if "task_waits" in line]
    assert future.task_id in line
    assert "4096" in line
    assert future.cancel()


def test_of_many_reasons_the_first_are_logged_and_the_others_counted(client, capfd, monkeypatch):
    monkeypatch.setattr(sdk.calls.reasons, "WINDOW_S", 1.0)
    monkeypatch.setattr(sdk.connection, "PATIENCE_S", 0.1)

    futures = [client.submit(double, 1, desired_labels={"customer": n}) for n in range(40)]

    said = []
    wait_until(lambda: said.append(capfd.readouterr().err) or "task_waits_more" in "".join(said))
    lines = "".join(said).splitlines()
    assert sum("task_waits " in line for line in lines) == sdk.calls.reasons.SAID_MAX
    [more] = [line for line in lines if "task_waits_more" in line]
    assert "waiting_tasks=40" in more
    assert all(future.cancel() for future in futures)


# --- the slot


def release_and_wait(begun, path):
    task = current_task()
    first, second = task.release_slot(), task.release_slot()
    Path(begun).touch()
    return first, second, wait_for(path)


def test_a_released_slot_is_the_next_tasks_and_the_first_goes_on(client, flag, tmp_path):
    small = client.options(desired_labels=ON_SMALL)
    releasing = [small.submit(release_and_wait, tmp_path / f"begun{n}", flag) for n in range(3)]

    # All three hold no slot at the same time on the one that has a single one.
    for n in range(3):
        wait_until((tmp_path / f"begun{n}").exists)
    assert small.submit(where).result(PATIENCE_S) == SMALL
    assert not any(future.done() for future in releasing)
    (actor,) = [actor for actor in client.actors() if actor["name"] == SMALL]
    assert sorted(run["state"] for run in actor["holding"]) == ["released"] * 3

    flag.touch()
    assert gather(releasing, timeout=PATIENCE_S) == [(True, False, "flag")] * 3


def test_a_released_task_can_be_canceled(client, flag, tmp_path):
    begun = tmp_path / "begun"
    future = client.submit(release_and_wait, begun, flag)
    wait_until(begun.exists)

    assert future.cancel()

    wait_until(lambda: client.query("status")["assigned"] == 0)


def release_and_die():
    current_task().release_slot()
    os._exit(9)


def test_a_released_task_dies_with_its_process(client):
    with pytest.raises(PoisonTask, match="9"):
        client.submit(release_and_die, desired_labels=ON_SMALL).result(PATIENCE_S)


# --- environments


class Counter(Environment):
    reuse = ReusePolicy(replicas=(1, 2))
    labels: ClassVar = {"counter": "here"}

    def enter(self, start=0):
        self.count = start

    def add(self, amount):
        self.count += amount
        return self.count, os.getpid()

    async def add_later(self, amount):
        await asyncio.sleep(0.01)
        return self.add(amount)


class Picky(Environment):
    def enter(self, path):
        if not Path(path).exists():
            raise FileNotFoundError(f"{path} is not there yet")

    def ask(self):
        return "entered"


class Clean(Environment):
    def enter(self):
        self.resets = 0

    def reset(self):
        self.resets += 1

    def look(self):
        return self.resets


def count_with(amount):
    return current_task().environment.add(amount)


def test_an_environment_stays_and_is_shared_by_functions_and_methods(client):
    small = client.options(desired_labels=ON_SMALL)
    first, pid = small.submit(Counter.add, 1).result(PATIENCE_S)
    using = client.options(desired_labels=ON_SMALL, environment=Counter)

    assert using.submit(count_with, 1).result(PATIENCE_S) == (first + 1, pid)
    assert small.submit(Counter.add_later, 1).result(PATIENCE_S) == (first + 2, pid)
    # Its labels are offered while it is warm.
    assert client.submit(where, desired_labels={"counter": "here"}).result(PATIENCE_S) == SMALL


def test_parameters_make_another_environment(client):
    small = client.options(desired_labels=ON_SMALL)
    hundred = Counter.using(start=100)

    small.submit(Counter.add, 0).result(PATIENCE_S)
    assert small.submit(hundred.add, 1).result(PATIENCE_S)[0] == 101
    assert small.submit(hundred.add, 1).result(PATIENCE_S)[0] == 102
    assert small.submit(Counter.add, 0).result(PATIENCE_S)[0] < 100


def test_only_one_task_at_a_time_is_in_an_environment(client):
    class Turnstile(Environment):
        def enter(self):
            self.inside = 0

        def go(self):
            self.inside += 1
            seen = self.inside
            threading.Event().wait(0.005)
            self.inside -= 1
            return seen

    large = client.options(desired_labels=ON_LARGE)
    futures = [large.submit(Turnstile.go) for _ in range(20)]
    assert gather(futures, timeout=PATIENCE_S) == [1] * 20


def test_reset_runs_between_tasks(client):
    small = client.options(desired_labels=ON_SMALL)

    looks = [small.submit(Clean.look).result(PATIENCE_S) for _ in range(3)]

    assert looks == [0, 1, 2]


def test_an_environment_that_cannot_be_entered_fails_the_task_and_may_be_tried_again(client, flag):
    picky = Picky.using(path=str(flag))
    with pytest.raises(EnvironmentFailed) as caught:
        client.submit(picky.ask).result(PATIENCE_S)
    assert "is not there yet" in str(caught.value)
    assert "in enter" in str(caught.value.__cause__)

    flag.touch()
    client.query("environment-retry", repr(picky))

    assert client.submit(picky.ask).result(PATIENCE_S) == "entered"


def release_and_ask():
    task = current_task()
    resident = task.environment
    task.release_slot()
    try:
        return task.environment
    except SlotReleased as error:
        return resident.add(0)[0] >= 0, str(error)


def test_after_release_slot_the_environment_is_somebody_elses(client):
    kept, text = client.submit(release_and_ask, environment=Counter).result(PATIENCE_S)

    assert kept
    assert "before release_slot()" in text


WARM_SCRIPT = """
    import os, sys
    from sdk import Client, Environment

    class Model(Environment):
        def enter(self):
            self.count = 0

        def step(self):
            self.count += 1
            return self.count, os.getpid()

    with Client(sys.argv[1], connect_timeout=60) as client:
        small = client.options(desired_labels={"name": "small/0"})
        print(*small.submit(Model.step).result(60))
"""


def test_a_second_run_of_the_same_script_finds_its_environment_warm(cluster, tmp_path):
    script = tmp_path / "warm.py"
    script.write_text(textwrap.dedent(WARM_SCRIPT))
    first = run_script(script, cluster.endpoint)
    second = run_script(script, cluster.endpoint)
    # Another line of code is another model.
    script.write_text(textwrap.dedent(WARM_SCRIPT).replace("count += 1", "count += 5"))
    changed = run_script(script, cluster.endpoint)

    assert first[0] == "1"
    assert second == ["2", first[1]]
    assert changed == ["5", first[1]]
