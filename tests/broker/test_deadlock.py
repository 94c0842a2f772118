"""Who waits for whom, and who is told of a circle (protocol.md section 9.8)."""

import random

import pytest
from msgspec import structs

from broker.holding import deadlock
from broker.holding.deadlock import TOLD_MAX, circle_of, in_circles
from tests.broker.conversation import CODE
from tests.broker.test_durable import DURABLE, KEY
from tests.broker.test_limits import EPOCH, call, limited
from tests.support.disk import Disk
from wire.errors import Code
from wire.messages import (
    Assign,
    Await,
    Beat,
    Cancel,
    Credit,
    Occupied,
    Occupy,
    Release,
    Vacate,
)
from wire.parts import Call, Environment, Key, Named

OTHER_KEY = Key("order 18", b"d" * 16, 60.0)


class Scene:
    """One client and one actor; tasks are assigned in the order of their numbers."""

    def __init__(self, *definitions, slots=4, free=None, disk=None, **fields):
        self.talk = limited(*definitions, disk=disk)
        free = slots if free is None else free
        self.actor = self.talk.actor(free=free, slots={"slot": slots}, **fields)
        self.client = self.talk.client()
        self.templates = 0
        # What runs were told of circles.
        self.messages = []

    def submits(self, number, call=None, parent=None, key=None):
        self.templates += 1
        self.client.submits(
            number,
            call=call,
            slot=self.templates,
            parent=(EPOCH, parent) if parent else None,
            key=key,
        )
        return self

    def waits(self, token, *tasks, ask=9, enough=None, within=None):
        """Let a run that gave its slots back wait for calls."""
        calls = [(task, task) for task in tasks]
        wanted = len(tasks) if enough is None else enough
        self.actor.says(
            Credit(1),
            Release(EPOCH, token),
            Await(*self.name(token, ask), 1, calls, wanted, within),
        )
        return self

    def name(self, token, ask):
        return EPOCH, token, ask

    def told(self, beats=2):
        """Return (run, ask) of whoever is told of a circle within some heartbeats."""
        found = []
        for _ in range(4 * beats):
            self.actor.says(Beat())
            self.client.says(Beat())
            self.talk.wait(0.25)
            told = [one for one in self.actor.takes(Occupied) if one.code == Code.DEADLOCK]
            self.messages += [one.message for one in told]
            found += [(one.number, one.ask) for one in told]
        return found


def holding(*definitions, **fields):
    """Let run 1 have limit db from inside, by its ask 1."""
    scene = Scene(*(definitions or ("db=1",)), **fields).submits(1)
    scene.actor.says(Occupy(EPOCH, 1, 1, {"db": 1}, []))
    return scene


def test_who_waits_for_a_call_that_waits_for_its_limit_is_told_within_a_heartbeat():
    scene = holding().submits(2, call(), parent=1).waits(1, 2, within=[1])

    assert scene.told(beats=1) == [(1, 9)]
    # The wait is over, the run has what it had: the call goes on waiting until that is given back.
    scene.actor.takes(Assign)
    scene.actor.says(Vacate(EPOCH, 1, 1))
    assert [assign.task for assign in scene.actor.takes(Assign)] == [2]


@pytest.mark.parametrize(
    ("named", "keeps"),
    [
        (None, "; meanwhile it keeps limit db"),
        (Named("default", "clicks", "Counter", 0), " db and its turn in named actor clicks"),
    ],
)
def test_who_is_told_of_a_circle_was_not_told_what_it_keeps(named, keeps):
    """Of a wait for calls it was "with itself", whatever these needed."""
    scene = Scene("db=1")
    if named:
        scene.submits(1, Call("enter", b"", "", Environment("n", "Counter", CODE, named=named)))
    else:
        scene.submits(1)
    scene.actor.says(Occupy(EPOCH, 1, 1, {"db": 1}, []))
    scene.submits(2, call(), parent=1).waits(1, 2, within=[1])

    assert scene.told() == [(1, 9)]
    assert scene.messages[0].startswith("it waits for calls of its own in a circle, with itself")
    assert scene.messages[0].endswith(keeps)


def test_who_waits_for_a_call_that_asks_from_inside_leaves_it_to_the_younger():
    scene = holding().submits(2, parent=1)
    scene.actor.says(Occupy(EPOCH, 2, 1, {"db": 1}, []))

    assert scene.waits(1, 2, within=[1]).told() == [(2, 1)]


def test_a_wait_that_began_is_not_a_circle_as_long_as_the_call_runs():
    scene = holding().submits(2, parent=1).waits(1, 2, within=[1])

    assert scene.told() == []


def test_a_circle_over_several_levels_is_found():
    scene = holding().submits(2, parent=1).submits(3, parent=2).submits(4, call(), parent=3)
    scene.waits(1, 2, within=[1]).waits(2, 3)
    assert scene.told() == []

    scene.waits(3, 4)

    assert scene.told(beats=1) == [(3, 9)]


def test_callers_that_cross_are_a_circle_of_both():
    scene = Scene("db=1", "api=1").submits(1).submits(2)
    scene.actor.says(Occupy(EPOCH, 1, 1, {"db": 1}, []), Occupy(EPOCH, 2, 1, {"api": 1}, []))
    scene.submits(3, call(limits={"api": 1}), parent=1).submits(4, call(), parent=2)
    scene.waits(1, 3, within=[1])
    assert scene.told() == []

    assert scene.waits(2, 4, within=[1]).told() == [(2, 9)]


def test_a_run_that_waits_for_a_call_with_its_own_key_is_told():
    scene = Scene(disk=Disk())
    scene.submits(1, DURABLE, key=KEY).submits(2, DURABLE, parent=1, key=KEY)

    assert scene.waits(1, 2).told() == [(1, 9)]


def test_runs_that_wait_for_calls_with_the_key_of_the_other_are_a_circle():
    scene = Scene(disk=Disk())
    scene.submits(1, DURABLE, key=KEY).submits(2, DURABLE, key=OTHER_KEY)
    scene.submits(3, DURABLE, parent=1, key=OTHER_KEY).submits(4, DURABLE, parent=2, key=KEY)

    assert scene.waits(1, 3).waits(2, 4).told() == [(2, 9)]


def test_a_call_with_the_key_of_a_run_that_goes_on_closes_no_circle():
    scene = Scene(disk=Disk())
    scene.submits(1, DURABLE, key=KEY).submits(2, DURABLE, key=OTHER_KEY)
    scene.submits(3, DURABLE, parent=1, key=OTHER_KEY)

    assert scene.waits(1, 3).told() == []


def test_what_is_not_kept_during_the_wait_closes_no_circle():
    """Another coroutine of the run has the limit, and ends without it."""
    scene = holding().submits(2, call(), parent=1)

    assert scene.waits(1, 2, within=[]).told() == []


def test_limits_kept_at_a_release_close_a_circle():
    scene = Scene("db=1").submits(1, call()).submits(2, call(), parent=1)
    scene.actor.says(
        Release(EPOCH, 1, None, keep_limits=True), Await(EPOCH, 1, 9, 1, [(2, 2)], 1, [])
    )

    assert scene.told() == [(1, 9)]


def test_limits_given_back_at_a_release_close_none():
    scene = Scene("db=1").submits(1, call()).submits(2, call(), parent=1).waits(1, 2)

    assert scene.told() == []
    assert [assign.task for assign in scene.actor.takes(Assign)][-1] == 2


@pytest.mark.parametrize(("enough", "told"), [(1, []), (2, [(1, 9)])])
def test_only_so_many_calls_must_end_as_are_enough(enough, told):
    scene = holding().submits(2, parent=1).submits(3, call(), parent=1)

    assert scene.waits(1, 2, 3, enough=enough, within=[1]).told() == told


def test_a_call_that_is_not_here_is_no_reason():
    scene = holding()

    assert scene.waits(1, 2, within=[1]).told() == []


def test_who_stands_behind_a_circle_is_not_told():
    scene = holding("db=1", "api=1").submits(2, call(), parent=1).submits(3)
    scene.actor.says(Occupy(EPOCH, 2, 1, {"api": 1}, []), Occupy(EPOCH, 2, 2, {"db": 1}, [1]))

    # Run 2 has something that nobody needs, and is the youngest.
    assert scene.waits(1, 2, within=[1]).told() == [(1, 9)]


def test_room_for_one_more_is_no_circle():
    scene = holding("db=2").submits(2, call(), parent=1).waits(1, 2, within=[1])

    assert scene.told() == []


def test_a_limit_that_comes_back_with_time_closes_none():
    scene = holding("db=1:rate=0.01/s").submits(2, call(), parent=1).waits(1, 2, within=[1])

    assert scene.told() == []


def test_a_wait_that_is_over_is_forgotten():
    scene = holding().submits(2, call(), parent=1)
    scene.waits(1, 2, within=[1])
    scene.actor.says(Vacate(EPOCH, 1, 9))

    assert not scene.talk.broker.limits.waits.by_run
    assert scene.told() == []


def test_the_waits_of_a_run_that_ended_are_forgotten():
    scene = holding().submits(2, parent=1).waits(1, 2, within=[1])
    scene.actor.ends((EPOCH, 1))

    scene.told()

    assert not scene.talk.broker.limits.waits.by_run


def test_a_new_session_says_its_waits_again():
    scene = holding().submits(2, call(), parent=1).waits(1, 2, within=[1])

    scene.actor.greets()

    assert not scene.talk.broker.limits.waits.by_run


def test_a_wait_of_a_run_that_is_not_its_own_is_ignored():
    scene = holding().submits(2, call(), parent=1)
    other = scene.talk.actor(12, name="host/1")

    other.says(Await(EPOCH, 1, 9, 1, [(2, 2)], 1), Vacate(EPOCH, 1, 9))
    scene.waits(1, 2, within=[1])
    other.says(Vacate(EPOCH, 1, 9))

    assert scene.told() == [(1, 9)]


@pytest.mark.parametrize(
    "calls", [[(5, 2)], [(-3, -1)], [(0, 2**62)], [(1, 1), (1, 2**60)], [(2, 2)] * 1000]
)
def test_strange_calls_do_no_harm(calls):
    scene = holding().submits(2, call(), parent=1)

    scene.actor.says(Await(EPOCH, 1, 9, 1, calls, 10**9, [1]), Await(EPOCH, 1, 8, 77, calls, -4))

    scene.told()


def test_a_canceled_call_ends_the_wait():
    scene = holding().submits(2, call(), parent=1)
    scene.client.says(Cancel([2]))

    assert scene.waits(1, 2, within=[1]).told() == []


@pytest.mark.parametrize(("ahead", "told"), [("scan", [(3, 1)]), (None, [])])
def test_a_call_behind_one_that_is_to_be_alone_in_its_group_closes_a_circle(ahead, told):
    """Call 5 could start beside run 3, but not ahead of call 4, which waits until that leaves."""
    groups = Named("default", "c", "Counter", 0, groups={"io": 2})
    io = Environment("named", "Counter", CODE, named=groups, group="io")
    scene = Scene("db=1", slots=4)
    scene.submits(1, Call("enter", b"", "", structs.replace(io, group="")))
    inside = Credit(2, 0, 0, {"named": 1, "named\nio": 2}, {}, ["named", "named\nio"])
    scene.actor.ends((EPOCH, 1))
    scene.submits(2)
    scene.actor.says(Occupy(EPOCH, 2, 1, {"db": 1}, []))
    scene.actor.says(inside)
    scene.submits(3, Call("read", b"", "read", io))
    one_left = structs.replace(inside, turns={"named": 1, "named\nio": 1})
    scene.actor.says(Occupy(EPOCH, 3, 1, {"db": 1}, []), one_left)
    if ahead:
        scene.submits(4, Call(ahead, b"", ahead, structs.replace(io, turns=2)))
    scene.submits(5, Call("read", b"", "read", io), parent=2)
    scene.actor.says(Release(EPOCH, 2), Await(EPOCH, 2, 9, 1, [(5, 5)], 1, [1]))

    assert scene.told() == told


class Counted(list):
    """Those who keep what somebody lacks; counts how many were looked at."""

    looks = 0

    def __iter__(self):
        for one in list.__iter__(self):
            Counted.looks += 1
            yield one


def test_all_who_are_in_circles_are_found_in_one_walk():
    """Runs that all wait for one that waits for any of them had a walk each."""
    runs = 2_000
    blockers = {0: Counted(range(1, runs)), **{one: Counted([0]) for one in range(1, runs)}}
    blockers |= {runs: Counted([0]), runs + 1: Counted([runs + 1])}

    assert in_circles(blockers) == {*range(runs), runs + 1}
    assert Counted.looks <= 2 * runs


@pytest.mark.parametrize("seed", range(100))
def test_those_are_in_circles_that_wait_for_themselves(seed):
    draw = random.Random(seed)
    blockers = {
        one: [other for other in range(12) if draw.random() < draw.choice([0.02, 0.1, 0.2])]
        for one in range(12)
    }

    assert in_circles(blockers) == {one for one in blockers if circle_of(one, blockers)}


def test_many_circles_end_one_after_another():
    pairs = TOLD_MAX + 5
    scene = Scene(f"db={1}", "k=1:per-key", slots=3 * pairs)
    for n in range(1, pairs + 1):
        scene.submits(n)
    for n in range(1, pairs + 1):
        scene.actor.says(Occupy(EPOCH, n, 1, {f"k[{n}]": 1}, []))
        scene.actor.says(Occupy(EPOCH, n, 2, {f"k[{n}]": 1}, [1]))

    assert sorted(scene.told(beats=4)) == [(n, 2) for n in range(1, pairs + 1)]


def test_where_many_wait_fewer_are_told_at_once(monkeypatch):
    """The broker did nothing else for seconds: each that is told takes a look at all who wait."""
    monkeypatch.setattr(deadlock, "WAITS_MAX", 8)
    scene = Scene("k=1:per-key", slots=7)
    for n in range(1, 8):
        scene.submits(n)
    for n in range(1, 8):
        scene.actor.says(Occupy(EPOCH, n, 1, {f"k[{n}]": 1}, []))
        scene.actor.says(Occupy(EPOCH, n, 2, {f"k[{n}]": 1}, [1]))
    broker = scene.talk.broker

    deadlock.look(broker)

    waiting = [number for (_, number), run in broker.limits.runs.items() if run.asks]
    assert waiting == [1, 2, 3, 4, 5]
    assert sorted(scene.told(beats=4)) == [(n, 2) for n in range(1, 8)]
