"""Environments in real processes: what fails, what is given up, what it saved."""

import itertools
import os
import signal
import threading
import warnings
from collections import Counter
from pathlib import Path
from typing import ClassVar

import pytest

from sdk import (
    Environment,
    EnvironmentFailed,
    LocalCluster,
    ReusePolicy,
    current_task,
    gather,
    wait,
)
from tests.support.deployment import DEADLINE_S, HASTY_BROKER, HASTY_HOST, wait_until

pytestmark = [pytest.mark.process, pytest.mark.slow]

PATIENCE_S = DEADLINE_S


with warnings.catch_warnings():
    # Tasks of one replica never wait for one another here.
    warnings.simplefilter("ignore", UserWarning)

    class Single(Environment):
        reuse = ReusePolicy(replicas=(0, 1), idle_ttl=0.2, scaledown_ttl=0.2)


class Noted(Single):
    """Writes into a file what happens to it."""

    def enter(self, path):
        self.path = Path(path)
        self.note("enter")

    def exit(self):
        self.note("exit")

    def note(self, what):
        with self.path.open("a") as file:
            file.write(f"{what} {os.getpid()}\n")

    def work(self, seconds=0.0):
        threading.Event().wait(seconds)
        return os.getpid()


class Kept(Noted):
    reuse = ReusePolicy(replicas=(0, 2), idle_ttl=60, scaledown_ttl=60)


class Waiting(Noted):
    """Is told whether its copy was left."""

    is_left = False

    def exit(self):
        self.is_left = True
        super().exit()

    def waits(self):
        current_task().client.submit(os.getpid).result(PATIENCE_S)
        return not self.is_left


class Meeting(Waiting):
    def meets(self):
        """Return once another copy is there as well, and whether this one still is after a wait."""
        wait_until(lambda: words(self.path).count("enter") == 2, PATIENCE_S)
        return self.waits()


class Twice(Noted):
    reuse = ReusePolicy(replicas=2, idle_ttl=60, max_tasks=2)


class Minimal(Noted):
    reuse = ReusePolicy(replicas=(2, 3), idle_ttl=60, scaledown_ttl=60)


class Private(Kept):
    reuse = ReusePolicy(replicas=(0, 2), idle_ttl=60, scope="client")


class Fatal(Environment):
    def enter(self, path):
        with Path(path).open("a") as file:
            file.write("enter\n")
        os._exit(7)

    def work(self):
        """Never reached."""


class Hanging(Environment):
    enter_timeout = 0.2

    def enter(self, path):
        if not Path(path).exists():
            Path(path).touch()
            threading.Event().wait(60.0)

    def work(self):
        return "entered"


class Blocking(Hanging):
    async def enter(self, path):
        super().enter(path)

    async def work(self):
        return super().work()


class AsyncHanging(Environment):
    enter_timeout = 0.1

    async def enter(self):
        import asyncio

        await asyncio.sleep(60.0)

    async def work(self):
        """Never reached."""


class Leaking(Noted):
    reuse = ReusePolicy(replicas=2, idle_ttl=60, max_memory_mb=400)

    def leak(self, octets):
        self.kept = bytearray(octets)
        for place in range(0, octets, 4096):
            self.kept[place] = 1
        return os.getpid()


class Mixed(Environment):
    reuse = ReusePolicy(replicas=(0, 2), idle_ttl=60, concurrency=4)

    def enter(self):
        self.inside, self.most = 0, 0

    async def share(self):
        import asyncio

        self.inside += 1
        self.most = max(self.most, self.inside)
        await asyncio.sleep(0.05)
        self.inside -= 1
        return self.most

    def alone(self):
        found = self.inside
        threading.Event().wait(0.01)
        return found


class Sour(Environment):
    """Cannot be reset."""

    reuse = ReusePolicy(replicas=(0, 1), idle_ttl=60, concurrency=2)

    def enter(self):
        self.is_open = True

    def reset(self):
        raise OSError("it stays as it is")

    def exit(self):
        self.is_open = False

    async def work(self):
        """Leave it as it is."""

    async def stays(self, path):
        """Return, once the file is there, whether it has not been left."""
        import asyncio

        await asyncio.to_thread(wait_until, Path(path).exists, PATIENCE_S)
        return self.is_open


class Slow(Environment):
    reuse = ReusePolicy(replicas=(0, 2), idle_ttl=60)
    labels: ClassVar = {"slow": True}

    def enter(self):
        threading.Event().wait(0.3)

    def work(self):
        return os.getpid()


class Many(Environment):
    reuse = ReusePolicy(replicas=(0, 1), idle_ttl=60, concurrency=100)

    def enter(self):
        self.inside = Counter()
        self.met = {}

    async def meet(self, count):
        """Return when so many were inside, with the number of threads."""
        import asyncio

        met = self.met.setdefault(count, asyncio.Event())
        self.inside[count] += 1
        if self.inside[count] == count:
            met.set()
        await met.wait()
        return threading.active_count()

    async def again(self, count):
        from sdk import current_task

        async with current_task().released_slot():
            pass
        return await self.meet(count)

    async def stay(self, seconds):
        import asyncio

        await asyncio.sleep(seconds)


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(
        [{"replicas": 2, "arguments": HASTY_HOST}], arguments=HASTY_BROKER
    ) as cluster:
        yield cluster


@pytest.fixture
def notes(tmp_path):
    path = tmp_path / "notes"
    path.touch()
    return path


def words(path):
    return [line.split()[0] for line in path.read_text().splitlines()]


def about(client, name):
    [found] = [one for one in client.query("environments")["environments"] if name in one["name"]]
    return found


def test_an_idle_environment_is_given_up_by_its_exit(client, notes):
    client.submit(Noted.using(path=str(notes)).work).result(PATIENCE_S)

    wait_until(lambda: words(notes) == ["enter", "exit"], PATIENCE_S)


def test_there_are_never_more_replicas_than_the_maximum(client, notes):
    place = Noted.using(path=str(notes))

    pids = gather([client.submit(place.work, 0.05) for _ in range(6)], timeout=PATIENCE_S)

    assert len(set(pids)) == 1


def test_a_burst_is_spread_over_the_replicas_that_may_be(client, notes):
    place = Kept.using(path=str(notes))

    pids = gather([client.submit(place.work, 0.2) for _ in range(6)], timeout=PATIENCE_S)

    assert len(set(pids)) == 2
    assert words(notes) == ["enter", "enter"]


def test_a_replica_is_replaced_after_so_many_tasks(notes):
    # Actors of its own: what another test left idle gives no place to a minimum.
    with LocalCluster(actors=2) as cluster, cluster.client() as client:
        place = Twice.using(path=str(notes))

        for _ in range(4):
            client.submit(place.work).result(PATIENCE_S)

        def is_replaced():
            found = Counter(words(notes))
            return found["exit"] in {1, 2} and found["enter"] == found["exit"] + 2

        wait_until(is_replaced, PATIENCE_S)


def test_the_minimum_is_loaded_by_one_call_and_a_copy_that_is_killed_is_replaced(notes):
    with LocalCluster(actors=2) as cluster, cluster.client() as client:
        place = Minimal.using(path=str(notes))
        pid = client.submit(place.work).result(PATIENCE_S)
        wait_until(lambda: about(client, "Minimal")["warm"] == 2, PATIENCE_S)

        os.kill(pid, signal.SIGKILL)

        wait_until(lambda: words(notes) == ["enter"] * 3, PATIENCE_S)
        wait_until(lambda: about(client, "Minimal")["warm"] == 2, PATIENCE_S)
        known = about(client, "Minimal")
        assert (known["loads"], known["hits"], known["failures"]) == (3, 0, 0)


def test_a_host_starts_the_actors_that_a_minimum_needs(notes):
    with LocalCluster([{"replicas": (1, 3)}]) as cluster, cluster.client() as client:
        client.submit(Minimal.using(path=str(notes)).work).result(PATIENCE_S)

        wait_until(lambda: about(client, "Minimal")["warm"] == 2, PATIENCE_S)

        assert len(client.actors()) == 2


def test_a_fresh_environment_takes_one_call(client, notes):
    place = Kept.using(path=str(notes))

    for _ in range(2):
        client.submit(place.work, reuse=False).result(PATIENCE_S)

    wait_until(lambda: sorted(words(notes)) == ["enter"] * 2 + ["exit"] * 2, PATIENCE_S)


def test_a_fresh_copy_is_there_to_the_end_of_a_method_that_waits(client, notes):
    """It was left when the method began to wait, and another one was entered after that."""
    waits = Waiting.using(path=str(notes)).waits

    assert client.submit(waits, reuse=False).result(PATIENCE_S)

    wait_until(lambda: words(notes) == ["enter", "exit"], PATIENCE_S)


def test_calls_with_fresh_copies_run_beside_one_another_in_one_actor(notes):
    """The second waited for the first, or had its copy given up while that waited."""
    with (
        LocalCluster([{"slots": 2, "environments_max": 2}]) as cluster,
        cluster.client() as client,
    ):
        meets = Meeting.using(path=str(notes)).meets
        found = [client.submit(meets, reuse=False) for _ in range(2)]

        assert [future.result(2 * PATIENCE_S) for future in found] == [True, True]
        wait_until(lambda: words(notes).count("exit") == 2, PATIENCE_S)


def test_reuse_is_of_use_only_in_an_environment(client):
    with pytest.raises(ValueError, match="reuse=False for getpid"):
        client.submit(os.getpid, reuse=False)


def test_an_environment_that_ends_its_process_breaks_after_three_and_burns_no_try(client, notes):
    futures = [client.submit(Fatal.using(path=str(notes)).work) for _ in range(3)]

    for future in futures:
        with pytest.raises(EnvironmentFailed, match=r"exit status 7 while it entered"):
            future.result(PATIENCE_S)

    assert words(notes) == ["enter"] * 3
    with pytest.raises(EnvironmentFailed, match="3 failures in a row"):
        client.submit(Fatal.using(path=str(notes)).work).result(PATIENCE_S)
    assert words(notes) == ["enter"] * 3
    assert about(client, "Fatal")["state"] == "broken"


def test_an_enter_that_hangs_is_given_up_and_tried_elsewhere(client, tmp_path):
    place = Hanging.using(path=str(tmp_path / "tried"))

    assert client.submit(place.work).result(PATIENCE_S) == "entered"
    assert about(client, "Hanging")["failures"] == 0


def test_an_async_enter_that_hangs_is_canceled(client):
    # A former test may have ended one, or be about to.
    wait_until(lambda: [actor["state"] for actor in client.actors()] == ["open"] * 2, PATIENCE_S)
    pids = {actor["name"]: actor["pid"] for actor in client.actors()}
    with pytest.raises(EnvironmentFailed, match=r"enter_timeout of 0\.1 s") as failed:
        client.submit(AsyncHanging.work).result(PATIENCE_S)
    # Nobody could tell why it took too long.
    assert "await asyncio.sleep(60.0)" in str(failed.value.__cause__)
    assert {actor["name"]: actor["pid"] for actor in client.actors()} == pids


def test_an_async_enter_that_holds_up_the_event_loop_ends_with_its_process(tmp_path):
    """It was believed to have ended: nothing that is async ever ran in that process again."""
    place = Blocking.using(path=str(tmp_path / "tried"))
    with (
        LocalCluster([{"replicas": 1, "arguments": HASTY_HOST}], arguments=HASTY_BROKER) as cluster,
        cluster.client() as client,
    ):
        assert client.submit(place.work).result(PATIENCE_S) == "entered"


def test_what_reuse_saved_is_counted(client):
    for _ in range(3):
        client.submit(Slow.work).result(PATIENCE_S)

    known = about(client, "Slow")
    assert (known["loads"], known["hits"], known["warm"]) == (1, 2, 1)
    assert 0.6 <= known["saved_s"] < 6.0


def test_scope_client_keeps_a_copy_for_this_process_alone(cluster, notes):
    place = Private.using(path=str(notes))
    with cluster.client() as own:
        own.submit(place.work).result(PATIENCE_S)
        own.submit(place.work).result(PATIENCE_S)
        assert words(notes) == ["enter"]
    wait_until(lambda: words(notes) == ["enter", "exit"], PATIENCE_S)

    assert place.identity.split(":")[:2] == Private.using(path=str(notes)).identity.split(":")[:2]
    assert place.identity.count(":") == Kept.using(path=str(notes)).identity.count(":") + 1


def test_an_actor_that_takes_too_much_memory_is_replaced_and_no_task_is_lost(client, notes):
    place = Leaking.using(path=str(notes))
    pid = client.submit(place.leak, 500 * 2**20).result(PATIENCE_S)

    futures = [client.submit(place.work) for _ in range(20)]
    wait_until(lambda: pid not in {actor["pid"] for actor in client.actors()}, PATIENCE_S)

    assert len(gather(futures, timeout=PATIENCE_S)) == 20
    wait_until(lambda: f"exit {pid}" in notes.read_text().splitlines(), PATIENCE_S)
    wait_until(lambda: len(client.actors()) == 2, PATIENCE_S)


def test_async_calls_share_a_copy_and_a_sync_one_is_alone_in_it():
    with LocalCluster(actors=1, slots=6) as cluster, cluster.client() as client:
        client.submit(Mixed.alone).result(PATIENCE_S)
        shared = [client.submit(Mixed.share) for _ in range(8)]
        alone = [client.submit(Mixed.alone) for _ in range(4)]

        assert gather(alone, timeout=PATIENCE_S) == [0] * 4
        assert max(gather(shared, timeout=PATIENCE_S)) in range(2, 5)


def test_a_copy_whose_reset_failed_is_not_left_under_a_call_that_is_inside(tmp_path):
    path = tmp_path / "told"
    with LocalCluster(actors=1, slots=1) as cluster, cluster.client() as client:
        staying = client.submit(Sour.stays, str(path))
        client.submit(Sour.work).result(PATIENCE_S)
        path.touch()

        assert staying.result(PATIENCE_S)
        # What comes next has another one.
        assert client.submit(Sour.stays, str(path)).result(PATIENCE_S)


def test_a_hundred_async_calls_run_at_once_in_one_slot_and_few_threads():
    with LocalCluster(actors=1, slots=1) as cluster, cluster.client() as client:
        threads = gather([client.submit(Many.meet, 100) for _ in range(100)], timeout=PATIENCE_S)
        assert max(threads) < 30
        # The slot is there again for whoever needs one, and is shared anew behind it.
        assert client.submit(os.getpid).result(PATIENCE_S)
        gather([client.submit(Many.again, 20) for _ in range(20)], timeout=PATIENCE_S)


def test_calls_that_keep_coming_leave_their_slot_to_a_task_that_waits_for_it():
    with LocalCluster(actors=1, slots=1) as cluster, cluster.client() as client:
        # They end one after another, so that somebody is always inside, and the slot never free.
        stays = itertools.cycle(0.3 + 0.07 * n for n in range(8))
        inside = [client.submit(Many.stay, next(stays)) for _ in range(8)]
        waiting = client.submit(os.getpid)
        while not waiting.done():
            done, inside = wait(inside, num_returns=1, timeout=PATIENCE_S)
            assert done
            inside += [client.submit(Many.stay, next(stays)) for _ in done]

        assert waiting.result()
        gather(inside, timeout=PATIENCE_S)


def test_calls_of_a_named_actor_run_at_once_in_one_slot():
    with LocalCluster(actors=1, slots=1) as cluster, cluster.client() as client:
        many = client.actor(Many, name="many")

        gather([many.meet.submit(50) for _ in range(50)], timeout=PATIENCE_S)
