"""Named actors with real processes: what users write, and kill -9 of whoever has them."""

import asyncio
import os
import pickle
import signal
from pathlib import Path
from threading import Event

import pytest

from sdk import (
    ActorLost,
    ActorUnknown,
    AsyncClient,
    Conflict,
    Deadlock,
    Environment,
    EnvironmentFailed,
    LocalCluster,
    PayloadTooLarge,
    QueueFull,
    current_task,
    gather,
)
from sdk.__main__ import main
from tests.support.deployment import DEADLINE_S, HASTY_BROKER, HASTY_HOST, Deployment, wait_until
from tests.test_restarts import SHORT

pytestmark = pytest.mark.process

TIMEOUT_S = DEADLINE_S
KILLS = 10


class Counter(Environment):
    """Counts, and says how far it is."""

    def enter(self, start=0):
        self.count = start

    def incr(self, by=1):
        self.count += by
        return self.count

    def value(self):
        return self.count

    def where(self):
        return current_task().actor.name, os.getpid()

    def checkpoint(self):
        return self.count

    def restore(self, count):
        self.count = count


class Forgetful:
    """Any class; what it has is lost with its process."""

    def __init__(self, items=()):
        self.items = list(items)

    def add(self, item):
        self.items.append(item)
        return list(self.items)

    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def hold(self, path):
        Path(path).write_text("held")
        while not current_task().is_canceled:
            Event().wait(0.001)

    def huge(self):
        self.items.append(bytes(17 * 2**20))

    def bad(self, message):
        self.items.append(message)
        raise ValueError(message)


class Saved(Forgetful):
    def checkpoint(self):
        return self.items

    def restore(self, items):
        self.items = items


class Meeting:
    """Async methods meet inside where there is more than one turn."""

    def __init__(self):
        self.here = 0
        self.both = asyncio.Event()

    async def meet(self):
        self.here += 1
        if self.here == 2:
            self.both.set()
        await self.both.wait()
        return self.here


def call_from_a_task(counter, by):
    return counter.incr.submit(by).result()


def make_in_a_task(start):
    counter = current_task().client.actor(Counter, start=start)
    return counter.incr.submit().result()


@pytest.fixture(scope="module")
def cluster():
    actors = [{"replicas": 2, "slots": 2, "arguments": HASTY_HOST}]
    with LocalCluster(actors, arguments=HASTY_BROKER) as cluster:
        yield cluster


def test_calls_come_one_after_another_in_the_order_of_their_caller(client):
    counter = client.actor(Counter, start=10)

    futures = [counter.incr.submit(n) for n in (1, 2, 3)] + counter.incr.map([4, 5])

    assert gather(futures) == [11, 13, 16, 20, 25]


def test_calls_keep_their_order_behind_one_whose_argument_is_not_there_yet(client, tmp_path):
    actor = client.actor(Forgetful)
    late = client.submit(read, str(tmp_path / "late"))

    futures = [actor.add.submit(1), actor.add.submit(late), actor.add.submit(3)]
    futures += actor.add.map([4, client.submit(len, "12345"), 6])
    assert futures[0].result(TIMEOUT_S) == [1]
    (tmp_path / "late").write_text("2")

    assert gather(futures)[-1] == [1, "2", 3, 4, 5, 6]


def read(path):
    while not Path(path).exists() or not Path(path).read_text():
        Event().wait(0.001)
    return Path(path).read_text()


def test_any_class_can_be_one(client):
    actor = client.actor(Forgetful, ["a"])

    assert actor.add.submit("b").result(TIMEOUT_S) == ["a", "b"]
    assert actor.add.options(name="mine").submit(item="c").result(TIMEOUT_S) == ["a", "b", "c"]


def test_a_name_is_found_again_and_from_other_clients(cluster, client):
    first = client.actor(Counter, start=1, name="found", get_if_exists=True)
    first.incr.submit().result(TIMEOUT_S)

    with cluster.client() as other:
        second = other.actor(Counter, start=1, name="found", get_if_exists=True)
        third = other.get_actor("found")
        assert second == third == first
        assert third.incr.submit().result(TIMEOUT_S) == 3
        assert dir(third).count("incr") == 1


def test_a_name_that_is_taken_is_a_conflict(client):
    client.actor(Counter, start=1, name="taken")

    with pytest.raises(Conflict, match=r"'default/taken' already, a Counter\.using\(start=1\)"):
        client.actor(Counter, start=1, name="taken")
    with pytest.raises(Conflict, match="was made with other parameters: kill"):
        client.actor(Counter, start=2, name="taken", get_if_exists=True)
    with pytest.raises(Conflict, match="Forgetful"):
        client.actor(Forgetful, name="taken", get_if_exists=True)
    assert client.actor(Counter, start=2, name="taken", namespace="other").address == "other/taken"


def test_a_name_that_nobody_has_is_unknown(client):
    with pytest.raises(ActorUnknown, match="no actor 'default/nobody'"):
        client.get_actor("nobody")


def test_a_handle_goes_into_tasks_and_a_task_makes_its_own(client):
    counter = client.actor(Counter)

    assert client.submit(call_from_a_task, counter, 5).result(TIMEOUT_S) == 5
    assert counter.value.submit().result(TIMEOUT_S) == 5
    assert client.submit(make_in_a_task, 7).result(TIMEOUT_S) == 8


def test_a_handle_without_a_client_says_how_to_get_one(client):
    counter = pickle.loads(pickle.dumps(client.actor(Counter, name="lonely")))

    with pytest.raises(RuntimeError, match=r"client\.get_actor\('lonely'"):
        counter.incr.submit()


def test_a_call_that_was_running_ends_with_its_process_and_the_next_goes_on(client):
    actor = client.actor(Saved, max_restarts=1)
    actor.add.submit("a").result(TIMEOUT_S)

    died, after = actor.die.submit(), actor.add.submit("b")

    with pytest.raises(ActorLost, match="signal 9; the call may have run"):
        died.result(TIMEOUT_S)
    assert after.result(TIMEOUT_S) == ["a", "b"]
    actor.die.submit()
    with pytest.raises(ActorLost, match="max_restarts=1 are used up"):
        actor.add.submit("c").result(TIMEOUT_S)


def test_what_a_failed_call_changed_is_in_the_checkpoint(client):
    actor = client.actor(Saved, max_restarts=-1)
    with pytest.raises(ValueError, match="oops"):
        actor.bad.submit("oops").result(TIMEOUT_S)

    actor.die.submit()

    assert actor.add.submit("b").result(TIMEOUT_S) == ["oops", "b"]


def test_a_checkpoint_that_is_too_large_fails_the_call_that_made_it_so(client):
    actor = client.actor(Saved, max_restarts=-1)
    actor.add.submit("a").result(TIMEOUT_S)

    with pytest.raises(
        PayloadTooLarge, match="the call has run, but the checkpoint of Saved takes"
    ):
        actor.huge.submit().result(TIMEOUT_S)


class Hopeless:
    def __init__(self):
        raise LookupError("no licence")

    def work(self): ...


def test_one_that_cannot_be_entered_says_why(client):
    actor = client.actor(Hopeless)

    with pytest.raises(EnvironmentFailed, match="no licence"):
        actor.work.submit().result(TIMEOUT_S)
    with pytest.raises(ActorLost, match="no licence"):
        actor.work.submit().result(TIMEOUT_S)


class Fatal:
    """Its constructor ends the process, as often as the file has octets."""

    def __init__(self, path):
        left = Path(path).read_bytes()
        if left:
            Path(path).write_bytes(left[1:])
            os._exit(7)

    def work(self):
        return "well"


@pytest.mark.parametrize("times", [1, 1_000])
def test_one_whose_constructor_ends_the_process_is_tried_again_and_then_says_so(
    client, tmp_path, times
):
    """ray-project/ray#2635: whoever called it waited for ever."""
    path = tmp_path / "left"
    path.write_bytes(bytes(times))
    outcome = client.actor(Fatal, str(path)).work.submit()

    if times == 1:
        assert outcome.result(TIMEOUT_S) == "well"
    else:
        with pytest.raises(EnvironmentFailed, match="exit status 7 while it entered"):
            outcome.result(TIMEOUT_S)


def test_killed_it_is_gone_and_its_name_free(client, tmp_path):
    actor = client.actor(Forgetful, name="mortal")
    held, waiting = actor.hold.submit(str(tmp_path / "held")), actor.add.submit(1)
    wait_until((tmp_path / "held").exists)

    assert actor.kill()

    for future in (held, waiting, actor.add.submit(2)):
        with pytest.raises(ActorLost, match="default/mortal was killed"):
            future.result(TIMEOUT_S)
    assert not actor.kill()
    assert client.actor(Forgetful, name="mortal").add.submit(3).result(TIMEOUT_S) == [3]


def test_it_ends_with_its_client_unless_it_is_detached(cluster, client):
    with cluster.client() as other:
        other.actor(Counter, name="short")
        other.actor(Counter, name="long", lifetime="detached").incr.submit().result(TIMEOUT_S)

    with pytest.raises(ActorUnknown):
        client.get_actor("short")
    counter = client.get_actor("long")
    assert counter.incr.submit().result(TIMEOUT_S) == 2
    counter.kill()


def test_more_calls_than_may_wait_are_refused(client, tmp_path):
    actor = client.actor(Forgetful, max_pending=1)
    held = actor.hold.submit(str(tmp_path / "held"))
    wait_until((tmp_path / "held").exists)

    first, second = actor.add.submit(1), actor.add.submit(2)

    with pytest.raises(QueueFull, match=r"1 calls of default/.* wait already"):
        second.result(TIMEOUT_S)
    held.cancel()
    assert first.result(TIMEOUT_S) == [1]


class Selfish:
    def __init__(self):
        self.me = None

    def meet(self, me):
        self.me = me

    def one(self):
        return 1

    def wait_for_myself(self):
        return self.me.one.submit().result()

    def wait_for(self, other):
        return other.wait_for_myself.submit().result()


def test_a_call_that_waits_for_itself_is_told_so(client):
    actor, other = client.actor(Selfish), client.actor(Selfish)
    actor.meet.submit(actor)
    other.meet.submit(actor)

    with pytest.raises(Deadlock):
        actor.wait_for_myself.submit().result(TIMEOUT_S)
    assert actor.one.submit().result(TIMEOUT_S) == 1
    assert other.wait_for_myself.submit().result(TIMEOUT_S) == 1
    with pytest.raises(Deadlock):
        actor.wait_for.submit(make_circle(client, actor)).result(TIMEOUT_S)


def make_circle(client, actor):
    """Return an actor that waits for *actor*."""
    other = client.actor(Selfish)
    other.meet.submit(actor).result(TIMEOUT_S)
    return other


def test_async_calls_are_inside_together(client):
    actor = client.actor(Meeting, concurrency=2)

    assert gather([actor.meet.submit(), actor.meet.submit()]) == [2, 2]


def test_an_actor_that_has_ended_was_ready(client):
    made = client.actor(Counter, name="ended")
    found = client.get_actor("ended")
    made.ready(TIMEOUT_S)
    found.ready(TIMEOUT_S)

    assert made.kill()
    later = client.actor(Counter, name="ended")

    later.ready(TIMEOUT_S)
    for handle in (made, found):
        with pytest.raises(ActorLost, match="has ended"):
            handle.ready(TIMEOUT_S)


def test_an_async_client_has_them_too(cluster):
    async def count():
        async with AsyncClient(cluster.endpoint) as client:
            counter = await client.actor(Counter, name="asynchronous")
            await counter.incr.submit()
            return await (await client.get_actor("asynchronous")).incr.submit()

    assert asyncio.run(count()) == 2


def test_they_are_listed_and_ended_from_the_command_line(cluster, client, capsys):
    client.actor(Counter, name="listed").ready(TIMEOUT_S)

    assert main(["named", "--broker", cluster.endpoint]) == 0
    assert "default/listed" in capsys.readouterr().out
    assert main(["named", "--broker", cluster.endpoint, "--kill", "default/listed"]) == 0
    assert main(["named", "--broker", cluster.endpoint, "--kill", "default/listed"]) == 1


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"max_restarts": -2}, "max_restarts=-2"),
        ({"lifetime": "for ever"}, "lifetime='for ever'"),
        ({"name": ""}, "name=''"),
        ({"name": "two\nlines"}, "cannot be printed in one line"),
        ({"namespace": "a/b"}, "must not have a '/'"),
        ({"concurrency": 0}, "concurrency=0"),
    ],
)
def test_bad_options_are_refused_before_anything_is_sent(client, given, error):
    with pytest.raises(ValueError, match=error):
        client.actor(Counter, **given)


def test_what_makes_no_sense_is_refused_in_the_users_own_process(client):
    class Half:
        def checkpoint(self): ...

    class Named:
        def __init__(self, name): ...

    with pytest.raises(TypeError, match=r"needs both"):
        client.actor(Half)
    with pytest.raises(TypeError, match=r"is an option of client\.actor"):
        client.actor(Named, name="x")
    with pytest.raises(TypeError, match="unexpected keyword argument 'begin'"):
        client.actor(Counter, begin=1)
    with pytest.raises(TypeError, match="made of a class"):
        client.actor(call_from_a_task)
    counter = client.actor(Counter)
    with pytest.raises(AttributeError, match="has no method 'decr'"):
        _ = counter.decr
    with pytest.raises(TypeError, match=r"say \.incr\.submit"):
        counter.incr(1)
    with pytest.raises(TypeError, match="no option of a call"):
        counter.incr.options(slots=2)


@pytest.mark.slow
def test_a_counter_survives_kill_9_ten_times(client):
    counter = client.actor(Counter, name="clicks", max_restarts=-1)
    expected = 0
    for _ in range(KILLS):
        for _ in range(5):
            expected += 1
            assert counter.incr.submit().result(TIMEOUT_S) == expected
        _, pid = counter.where.submit().result(TIMEOUT_S)
        os.kill(pid, signal.SIGKILL)

    assert counter.value.submit().result(TIMEOUT_S) == KILLS * 5
    assert client.named()[0]["restarts"] == KILLS


@pytest.mark.slow
def test_with_retries_no_increment_is_lost_or_repeated_whenever_it_is_killed(client):
    counter = client.actor(Counter, max_restarts=-1, max_task_retries=-1)
    _, pid = counter.where.submit().result(TIMEOUT_S)
    futures = counter.incr.map([1] * 400)
    for n in range(1, 5):
        futures[n * 60].result(TIMEOUT_S)
        os.kill(pid, signal.SIGKILL)
        _, pid = counter.where.submit().result(TIMEOUT_S) if n == 4 else (None, find(client, pid))

    assert [future.result(TIMEOUT_S) for future in futures] == list(range(1, 401))


def find(client, former):
    """Return the process that has the actor now, which is not *former*."""

    def look():
        homes = {row["actor"] for row in client.named() if row["state"] == "alive"}
        pids = [actor["pid"] for actor in client.actors() if actor["name"] in homes]
        return [pid for pid in pids if pid != former]

    return wait_until(look)[0]


@pytest.mark.slow
def test_it_goes_on_when_the_broker_is_killed():
    with Deployment(*SHORT) as deployment:
        deployment.start_broker()
        deployment.start_host("host", "--replicas", "2")
        client = deployment.client()
        counter = client.actor(Counter, start=5, name="clicks", max_restarts=-1)
        assert counter.incr.submit().result(TIMEOUT_S) == 6

        deployment.restart_broker()

        assert counter.incr.submit().result(TIMEOUT_S) == 7
        with pytest.raises(Conflict):
            client.actor(Counter, start=6, name="clicks")
        _, pid = counter.where.submit().result(TIMEOUT_S)
        os.kill(pid, signal.SIGKILL)
        assert client.get_actor("clicks").incr.submit().result(TIMEOUT_S) == 8
