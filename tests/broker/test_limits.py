"""Limits at the broker: who holds what, who waits, who is next (protocol.md section 9.5)."""

import json
import random

import msgspec
import pytest

from broker.events.defining import define
from broker.holding.limits import Limits
from tests.broker.conversation import CODE, Conversation
from tests.broker.test_explain import ask
from wire import codec
from wire.codec import decode_failure
from wire.errors import Code
from wire.limits import Definition, Strategy, read_definition, read_rate
from wire.messages import (
    Answer,
    Assign,
    Beat,
    Cancel,
    Credit,
    Error,
    HostHello,
    Occupied,
    Occupy,
    Outcome,
    Query,
    Release,
    Result,
    Stop,
    Vacate,
)
from wire.parts import Call, Failure, HeldLimits, Status

EPOCH = 1000


def call(priority=0, **options):
    limits = options.pop("limits", {"db": 1})
    return Call("work", CODE, limits=limits, priority=priority, **options)


def got(actor):
    return [assign.task for assign in actor.takes(Assign)]


def failures(client):
    return {r.task: decode_failure(r.body) for r in client.takes(Result) if r.status != "result"}


def limited(*definitions, recovered=True, **settings):
    """Begin a conversation with a broker that has limits."""
    talk = Conversation(recovered=False, **settings)
    for text in definitions:
        define(talk.broker, read_definition(text))
    if recovered:
        talk.wait(talk.settings.adopt_window_s)
    return talk


def ends(actor, number, free=1, *more):
    actor.says(Outcome(EPOCH, number, Status.RESULT, b""), Credit(free), *more)


def lasts(talk, seconds, *talkers):
    """Let time pass in which these stay alive."""
    for _ in range(int(seconds * 4)):
        talk.wait(0.25)
        for talker in talkers:
            talker.says(Beat())


# --- definitions


@pytest.mark.parametrize(
    ("text", "definition"),
    [
        ("db=10", Definition(name="db", maximum=10)),
        ("api=2:per-key", Definition(name="api", maximum=2, per_key=True)),
        (
            "api=2:per-key:strategy=cancel-newest",
            Definition(name="api", maximum=2, per_key=True, strategy=Strategy.CANCEL_NEWEST),
        ),
        ("web=5:rate=10/s", Definition(name="web", maximum=5, rate=10.0)),
    ],
)
def test_a_limit_is_read_from_one_word(text, definition):
    assert read_definition(text) == definition


@pytest.mark.parametrize(
    "text",
    ["", "db", "db=", "db=x", "db=0", "=3", "d b=1", "db=1:often", "db=1:rate=x", "db[k]=1",
     "host:gpu=1", "db=1:strategy=first", "db=1:rate=1/s:strategy=cancel-newest"],
)  # fmt: skip
def test_what_is_no_limit_is_refused(text):
    with pytest.raises(ValueError, match=r"limit|rate|strategy"):
        read_definition(text)


def test_a_rate_is_so_much_a_second():
    assert [read_rate(t) for t in ("10/s", "600/min", "5/2s", "36/h")] == [10.0, 10.0, 2.5, 0.01]


# --- at scheduling


def test_no_more_run_than_the_limit_has_and_the_next_comes_with_the_outcome():
    talk = limited("db=2")
    actor = talk.actor(free=9, slots={"slot": 9})
    talk.client().submits(1, 2, 3, 4, call=call())
    assert got(actor) == [1, 2]

    ends(actor, 1, 8)

    assert got(actor) == [3]


def test_who_waits_for_a_limit_holds_no_slot_and_lets_others_pass():
    talk = limited("db=1")
    actor = talk.actor(free=2)
    client = talk.client().submits(1, 2, call=call())

    client.submits(3, slot=1)

    assert got(actor) == [1, 3]


def test_all_of_several_limits_or_none():
    talk = limited("db=1", "api=1")
    actor = talk.actor(free=9, slots={"slot": 9})
    client = talk.client().submits(1, call=call(limits={"api": 1}))
    client.submits(2, call=call(limits={"db": 1, "api": 1}), slot=1)
    assert got(actor) == [1]
    assert "db" not in {n for n, k in talk.broker.limits.keys.items() if k.holders}

    ends(actor, 1, 9)

    assert got(actor) == [2]


def test_the_head_of_the_line_keeps_its_place_against_those_that_want_less():
    talk = limited("db=2")
    actor = talk.actor(free=9, slots={"slot": 9})
    client = talk.client().submits(1, call=call())
    client.submits(2, call=call(limits={"db": 2}), slot=1)
    client.submits(3, call=call(), slot=0)
    assert got(actor) == [1]

    ends(actor, 1, 9)
    assert got(actor) == [2]
    ends(actor, 2, 9)

    assert got(actor) == [3]


def test_who_lacks_one_limit_keeps_its_place_at_the_other():
    talk = limited("db=1", "api=1")
    actor = talk.actor(free=9, slots={"slot": 9})
    client = talk.client().submits(1, call=call(limits={"api": 1}))
    client.submits(2, call=call(limits={"db": 1, "api": 1}), slot=1)
    client.submits(3, call=call(limits={"db": 1}), slot=2)
    assert got(actor) == [1]

    client.says(Cancel([2]))

    assert got(actor) == [3]


def test_one_that_finds_no_actor_holds_up_nobody_at_its_limit():
    talk = limited("db=1")
    actor = talk.actor(free=2, slots={"slot": 2})
    client = talk.client().submits(1, call=call(slots={"gpu": 1}))

    client.submits(2, call=call(), slot=1)

    assert got(actor) == [2]


def test_keys_of_one_limit_do_not_wait_for_one_another():
    talk = limited("api=1:per-key")
    actor = talk.actor(free=9, slots={"slot": 9})
    client = talk.client().submits(1, 2, call=call(limits={"api[a]": 1}))

    client.submits(3, call=call(limits={"api[b]": 1}), slot=1)

    assert got(actor) == [1, 3]


def test_a_key_that_nobody_needs_is_not_there():
    talk = limited("api=1:per-key", "db=5")
    actor = talk.actor(free=9, slots={"slot": 9})
    client = talk.client().submits(1, 2, call=call(limits={"api[a]": 1, "db": 1}))
    assert set(talk.broker.limits.keys) == {"api[a]", "db"}

    ends(actor, 1, 9)
    client.says(Cancel([2]))
    actor.says(Vacate(EPOCH, 2))

    assert not talk.broker.limits.keys
    assert not talk.broker.limits.runs


@pytest.mark.parametrize(
    ("limits", "code", "said"),
    [
        ({"nope": 1}, Code.LIMIT_UNKNOWN, "no limit is called 'nope'; there are: api, db"),
        ({"db": 3}, Code.BAD_OPTION, "3 can never be had, the maximum is 2"),
        ({"db[x]": 1}, Code.BAD_OPTION, "not set per key"),
        ({"api": 1}, Code.BAD_OPTION, "say api[KEY]"),
        ({"db": 1, "nope": 1}, Code.LIMIT_UNKNOWN, "nope"),
    ],
)
def test_what_can_never_be_had_ends_at_once(limits, code, said):
    talk = limited("db=2", "api=1:per-key")

    client = talk.client().submits(1, call=call(limits=limits))

    failure = failures(client)[1]
    assert failure.code == code
    assert said in failure.message


def test_priority_and_fairness_hold_in_the_line():
    talk = limited("db=1")
    actor = talk.actor(free=9, slots={"slot": 9})
    busy = talk.client().submits(*range(1, 6), call=call())
    talk.client(2).submits(1, call=call())
    busy.submits(9, call=call(priority=5), slot=1)

    order = got(actor)
    for number in range(1, 7):
        ends(actor, number, 9)
        order += got(actor)

    # The urgent one, then the other client's before the rest of the busy one's.
    assert order[:3] == [1, 9, 2] or order[:3] == [1, 9, 1]
    assert order.index(1, 1) < 4


def test_the_slots_that_are_released_take_the_limits_along():
    talk = limited("db=1")
    actor = talk.actor(free=2)
    talk.client().submits(1, 2, call=call())
    assert got(actor) == [1]

    actor.says(Release(EPOCH, 1, None), Credit(2))

    assert got(actor) == [2]


def test_limits_can_be_kept_at_a_release():
    talk = limited("db=1")
    actor = talk.actor(free=2)
    talk.client().submits(1, 2, call=call())
    got(actor)

    actor.says(Release(EPOCH, 1, None, keep_limits=True), Credit(2))
    actor.says(Release(EPOCH, 1, {"slot": 1}), Credit(2))

    assert got(actor) == []


def test_a_rejected_task_holds_nothing():
    talk = limited("db=1")
    actor = talk.actor(free=1)
    other = talk.actor(12, name="host/1")
    talk.client().submits(1, call=call())
    assert got(actor) == [1]

    from wire.messages import Reject

    actor.says(Reject(EPOCH, 1, "draining"))
    assert not talk.broker.limits.runs
    other.says(Credit(1))

    assert got(other) == [1]


def test_a_lost_actor_gives_its_limits_back_with_its_lease():
    talk = limited("db=1")
    actor = talk.actor(free=1)
    talk.client().submits(1, 2, call=call())
    assert got(actor) == [1]
    other = talk.actor(12, name="host/1", free=2)

    lasts(talk, 5.5, other)
    other.says(Credit(2))

    # The first of them ran on the lost one and comes first again.
    assert got(other) == [1]


# --- stopped runs


def test_a_canceled_run_holds_its_limits_until_it_returns():
    talk = limited("db=1")
    actor = talk.actor(free=2)
    client = talk.client().submits(1, 2, call=call())
    client.says(Cancel([1]))
    assert [stop.number for stop in actor.takes(Stop)] == [1]
    assert got(actor) == [1]

    actor.says(Vacate(EPOCH, 1))

    assert got(actor) == [2]


def test_a_run_that_had_its_time_holds_its_limits_until_it_returns():
    talk = limited("db=1")
    actor = talk.actor(free=9, slots={"slot": 9})
    client = talk.client().submits(1, 2, call=call())
    assert got(actor) == [1]

    failure = codec.encode_failure(Failure(Code.TASK_TIMEOUT, "", "its time is over"))
    actor.says(Outcome(EPOCH, 1, Status.EXPIRED, failure), Credit(8))
    assert list(failures(client)) == [1]
    assert got(actor) == [], "the first may still be at work"
    actor.says(Vacate(EPOCH, 1), Credit(9))

    assert got(actor) == [2]


def test_a_release_that_crossed_a_cancel_gives_the_limits_back():
    talk = limited("db=1")
    actor = talk.actor(free=2)
    client = talk.client().submits(1, 2, call=call(limits={"db": 1}))
    assert got(actor) == [1]
    client.says(Cancel([1]))
    assert got(actor) == []

    actor.says(Release(EPOCH, 1, None), Credit(2))

    assert got(actor) == [2]


def test_an_outcome_that_crossed_a_cancel_gives_the_limits_back():
    talk = limited("db=1")
    actor = talk.actor(free=2)
    client = talk.client().submits(1, 2, call=call())
    client.says(Cancel([1]))
    got(actor)

    ends(actor, 1, 2)

    assert got(actor) == [2]


# --- from inside


def test_a_run_asks_waits_in_line_and_is_told():
    talk = limited("db=1")
    actor = talk.actor(free=3, slots={"slot": 3})
    client = talk.client().submits(1, 2)
    client.submits(3, call=call(), slot=1)
    assert got(actor) == [1, 2, 3]
    actor.says(Occupy(EPOCH, 1, 1, {"db": 1}), Occupy(EPOCH, 2, 1, {"db": 1}))
    client.submits(4, call=call(), slot=1)
    actor.says(Credit(1))
    assert actor.takes(Occupied) == []

    ends(actor, 3)
    assert actor.takes(Occupied) == [Occupied(EPOCH, 1, 1)]
    actor.says(Vacate(EPOCH, 1, 1))
    assert actor.takes(Occupied) == [Occupied(EPOCH, 2, 1)]
    assert got(actor) == []
    ends(actor, 2)

    assert got(actor) == [4]


def test_all_who_have_room_at_once_are_told_at_once():
    talk = limited("db=2")
    actor = talk.actor(free=3, slots={"slot": 3})
    talk.client().submits(1, 2, 3)
    actor.says(Occupy(EPOCH, 1, 1, {"db": 2}))
    actor.says(Occupy(EPOCH, 2, 1, {"db": 1}), Occupy(EPOCH, 3, 1, {"db": 1}))
    assert actor.takes(Occupied) == [Occupied(EPOCH, 1, 1)]

    actor.says(Vacate(EPOCH, 1, 1))

    assert actor.takes(Occupied) == [Occupied(EPOCH, 2, 1), Occupied(EPOCH, 3, 1)]


def test_a_run_that_has_what_it_asked_for_is_looked_for_once_more_behind_it():
    talk = limited("db=1")
    actor = talk.actor(free=3, slots={"slot": 3})
    talk.client().submits(1, 2, 3)
    actor.says(*(Occupy(EPOCH, number, 1, {"db": 1}) for number in (1, 2, 3)))
    looks = []
    original = Limits.blocking

    def counted(self, waiter, rank, at=None):
        looks.append(rank)
        return original(self, waiter, rank, at)

    Limits.blocking = counted
    talk.broker.check = lambda: None
    try:
        actor.says(Vacate(EPOCH, 1, 1))
    finally:
        Limits.blocking = original

    assert actor.takes(Occupied)[-1] == Occupied(EPOCH, 2, 1)
    assert len(looks) == 2


def test_who_waits_no_more_is_not_let_in():
    talk = limited("db=1")
    actor = talk.actor(free=2)
    talk.client().submits(1, 2)
    actor.says(Occupy(EPOCH, 1, 1, {"db": 1}), Occupy(EPOCH, 2, 1, {"db": 1}))
    assert actor.takes(Occupied) == [Occupied(EPOCH, 1, 1)]

    actor.says(Vacate(EPOCH, 2, 1))
    actor.says(Vacate(EPOCH, 1, 1))

    assert actor.takes(Occupied) == []
    assert not talk.broker.limits.keys


def test_an_ask_for_what_is_not_there_is_refused_at_once():
    talk = limited("db=1")
    actor = talk.actor(free=1)
    talk.client().submits(1)

    actor.says(Occupy(EPOCH, 1, 1, {"nope": 1}), Occupy(EPOCH, 1, 2, {"db": 2}))

    assert [told.code for told in actor.takes(Occupied)] == [Code.LIMIT_UNKNOWN, Code.BAD_OPTION]


def test_a_holder_that_waits_for_its_own_child_lets_the_child_pass():
    talk = limited("db=2", "api=1")
    actor = talk.actor(free=9, slots={"slot": 9})
    client = talk.client().submits(1)
    actor.says(Occupy(EPOCH, 1, 1, {"api": 1}))
    client.submits(2, call=call(limits={"db": 2, "api": 1}), slot=1)
    got(actor)

    client.submits(3, call=call(limits={"db": 1}), slot=2, parent=(EPOCH, 1))

    assert got(actor) == [3]


def test_lanes_that_find_no_actor_hold_up_no_run_that_asks():
    talk = limited("db=1", "api=1:per-key")
    actor = talk.actor(free=2)
    client = talk.client().submits(1, 2)
    actor.says(Occupy(EPOCH, 1, 1, {"db": 1}))
    client.submits(3, call=call(limits={"db": 1}), slot=1)
    client.submits(4, call=call(limits={"db": 1, "api[a]": 1}), slot=2)
    actor.says(Occupy(EPOCH, 2, 1, {"db": 1}))
    assert actor.takes(Occupied) == [Occupied(EPOCH, 1, 1)]

    # Both slots are held: the tasks that come before it in line find none.
    actor.says(Vacate(EPOCH, 1, 1))

    assert actor.takes(Occupied) == [Occupied(EPOCH, 2, 1)]


def test_who_was_let_go_and_lost_its_room_does_not_hold_up_its_equal():
    """Found by a seed: both lanes have one rank, and the first lines up behind the second."""
    talk = limited("db=2", "k=1:per-key")
    actor = talk.actor(free=1, slots={"slot": 1})
    talk.client().submits(1)
    actor.says(Occupy(EPOCH, 1, 1, {"db": 2}, []))
    talk.client(2).submits(1, call=call(limits={"db": 2}))
    talk.client(3).submits(2, call=call(limits={"db": 1, "k[x]": 1}))
    # The first is let go, and finds no slot; the run takes a part of its room again.
    actor.says(Vacate(EPOCH, 1, 1))
    actor.says(Occupy(EPOCH, 1, 2, {"db": 1}, []))
    got(actor)

    actor.says(Credit(1), Release(EPOCH, 1))

    assert got(actor) == [2]


# --- circles


def test_of_runs_that_wait_in_a_circle_the_youngest_is_told():
    talk = limited("db=1", "api=1")
    actor = talk.actor(free=3, slots={"slot": 3})
    talk.client().submits(1, 2, 3)
    actor.says(Occupy(EPOCH, 1, 1, {"db": 1}), Occupy(EPOCH, 2, 1, {"api": 1}))
    actor.says(Occupy(EPOCH, 1, 2, {"api": 1}), Occupy(EPOCH, 2, 2, {"db": 1}))
    actor.says(Occupy(EPOCH, 3, 1, {"db": 1}))
    actor.takes(Occupied)

    lasts(talk, 1.5, actor)

    (told,) = actor.takes(Occupied)
    assert (told.number, told.ask, told.code) == (2, 2, Code.DEADLOCK)
    assert "limit db in a circle" in told.message
    # It still has what it had; when it gives that back the other goes on.
    actor.says(Vacate(EPOCH, 2, 1))
    assert actor.takes(Occupied) == [Occupied(EPOCH, 1, 2)]


def test_a_run_that_waits_for_what_it_has_itself_is_told():
    talk = limited("db=1")
    actor = talk.actor(free=1)
    talk.client().submits(1, call=call())
    actor.says(Occupy(EPOCH, 1, 1, {"db": 1}))

    lasts(talk, 1.5, actor)

    assert [told.code for told in actor.takes(Occupied)] == [Code.DEADLOCK]


def test_what_another_coroutine_of_a_run_holds_closes_no_circle():
    talk = limited("db=1")
    actor = talk.actor(free=1)
    talk.client().submits(1)
    actor.says(Occupy(EPOCH, 1, 1, {"db": 1}, []), Occupy(EPOCH, 1, 2, {"db": 1}, []))
    actor.takes(Occupied)

    lasts(talk, 2.5, actor)
    assert actor.takes(Occupied) == []
    actor.says(Vacate(EPOCH, 1, 1))

    assert actor.takes(Occupied) == [Occupied(EPOCH, 1, 2)]


def test_a_run_that_asked_for_what_comes_back_with_time_leaves_nothing():
    talk = limited("web=2:rate=10/s")
    actor = talk.actor(free=1)
    talk.client().submits(1)
    lasts(talk, 1.0, actor)

    actor.says(Occupy(EPOCH, 1, 1, {"web": 1}))

    assert actor.takes(Occupied) == [Occupied(EPOCH, 1, 1)]
    assert not talk.broker.limits.runs


def test_whoever_waits_for_one_that_can_go_on_is_in_no_circle():
    talk = limited("db=2", "api=1")
    actor = talk.actor(free=3, slots={"slot": 3})
    talk.client().submits(1, 2, 3)
    for number, name in ((1, "db"), (2, "db"), (3, "api")):
        actor.says(Occupy(EPOCH, number, 1, {name: 1}))
    actor.says(Occupy(EPOCH, 1, 2, {"api": 1}), Occupy(EPOCH, 3, 2, {"db": 1}))
    actor.takes(Occupied)

    # The second run holds db and waits for nothing.
    lasts(talk, 2.5, actor)

    assert actor.takes(Occupied) == []


# --- sessions and restarts


def test_an_inventory_says_what_a_run_has():
    talk = limited("db=1")
    actor = talk.actor(free=1)
    talk.client().submits(1, 2, call=call())
    got(actor)
    held = [HeldLimits(0, {"db": 1}, has_it=True)]
    other = talk.actor(12, name="host/1", free=1)

    hello = actor.hello
    from tests.broker.conversation import actor_hello

    actor.greets(actor_hello(holding=[(1, 1, (EPOCH, 1), "running", held)]))
    assert got(other) == []
    actor.greets(actor_hello(holding=[(1, 1, (EPOCH, 1), "released", [])]))

    assert hello.name == "host/0"
    assert got(other) == [2]


@pytest.mark.parametrize("limits", [{}, {"db": 0}, {"db": -5}, {"d b": 1}])
@pytest.mark.parametrize("has_it", [False, True])
def test_an_inventory_of_amounts_that_are_none_is_refused(limits, has_it):
    from tests.broker.conversation import actor_hello

    talk = limited("db=1")
    actor = talk.actor(free=1)
    talk.client().submits(1)
    asked = [HeldLimits(1, limits, has_it=has_it)]

    actor.greets(actor_hello(holding=[(1, 1, (EPOCH, 1), "running", asked)]))

    assert [error.code for error in actor.takes(Error)] == [Code.BAD_FRAME]
    assert not talk.broker.limits.keys


def test_a_grant_that_was_lost_is_said_again():
    from tests.broker.conversation import actor_hello

    talk = limited("db=1")
    actor = talk.actor(free=1)
    talk.client().submits(1)
    actor.is_deaf = True
    actor.says(Occupy(EPOCH, 1, 1, {"db": 1}))
    actor.is_deaf = False

    asked = [HeldLimits(1, {"db": 1}, has_it=False)]
    actor.greets(actor_hello(holding=[(1, 1, (EPOCH, 1), "running", asked)]))

    assert actor.takes(Occupied) == [Occupied(EPOCH, 1, 1)]


def test_after_a_restart_nobody_is_let_in_before_the_lease_is_over():
    from tests.broker.conversation import actor_hello

    talk = limited("db=1", recovered=False)
    talk.broker.had_earlier = True
    actor = talk.actor(free=1)
    talk.client().submits(1, call=call())
    lasts(talk, 4.0, actor)
    actor.says(Credit(1))
    assert got(actor) == []

    held = [HeldLimits(0, {"db": 1}, has_it=True)]
    late = talk.actor(12, name="host/1")
    late.greets(actor_hello(12, name="host/1", holding=[(7, 1, (900, 4), "running", held)]))
    lasts(talk, 3.0, actor, late)
    actor.says(Credit(1))

    # The late run was stopped by the broker, which knows no task of it, and has not returned yet.
    assert got(actor) == []
    late.says(Vacate(900, 4))
    assert got(actor) == [1]


def test_an_adopted_run_holds_what_it_says_also_above_the_maximum():
    from tests.broker.conversation import actor_hello

    talk = limited("db=1", recovered=False)
    held = [HeldLimits(0, {"db": 1}, has_it=True), HeldLimits(1, {"db": 1}, has_it=True)]
    actor = talk.actor()
    actor.greets(actor_hello(holding=[(1, 7, (900, 4), "running", held)]))
    client = talk.client(unresolved=[(7, 7)])
    client.submits(7, call=call(), again=True)
    client.submits(8, call=call())
    other = talk.actor(12, name="host/1")
    lasts(talk, 7.0, actor, other, client)
    other.says(Credit(1))
    assert got(other) == []

    actor.says(Outcome(900, 4, Status.RESULT, b""), Credit(0))

    assert got(other) == [8]


# --- hosts


def machine(talk, number, **limits):
    from tests.broker.conversation import Talker

    return Talker(talk, HostHello(90 + number, f"gpu{number}", 4700, limits, []))


def test_a_limit_of_a_host_is_shared_by_its_actors_alone():
    talk = limited()
    hosts = [machine(talk, 0, gpu=1), machine(talk, 1, gpu=1)]
    actors = [
        talk.actor(11, name="gpu0/0", host=90, free=2),
        talk.actor(12, name="gpu0/1", host=90, free=2),
        talk.actor(13, name="gpu1/0", host=91, free=2),
    ]

    talk.client().submits(1, 2, 3, call=call(limits={"host:gpu": 1}))

    assert len(hosts) == 2
    placed = [got(actor) for actor in actors]
    assert len(placed[0]) + len(placed[1]) == 1
    assert len(placed[2]) == 1


def test_a_run_asks_for_a_limit_of_its_host():
    talk = limited()
    machine(talk, 0, gpu=1)
    actor = talk.actor(11, name="gpu0/0", host=90, free=2)
    client = talk.client().submits(1)
    actor.says(Occupy(EPOCH, 1, 1, {"host:gpu": 1}))
    assert actor.takes(Occupied) == [Occupied(EPOCH, 1, 1)]
    client.submits(2, call=call(limits={"host:gpu": 1}), slot=1)
    assert got(actor) == [1]

    actor.says(Vacate(EPOCH, 1, 1))

    assert got(actor) == [2]


def test_a_limit_that_no_host_states_is_unknown():
    talk = limited()
    machine(talk, 0, gpu=1)

    client = talk.client().submits(1, call=call(limits={"host:tpu": 1}))
    client.submits(2, call=call(limits={"host:gpu": 2}), slot=1)

    found = failures(client)
    assert [found[1].code, found[2].code] == [Code.LIMIT_UNKNOWN, Code.BAD_OPTION]
    assert "--limit tpu=N" in found[1].message


def test_a_run_does_not_wait_for_a_limit_behind_a_task_that_waits_for_its_slot():
    talk = limited("b=1", "k=1")
    actor = talk.actor(free=2, slots={"slot": 2})
    client = talk.client().submits(1, call=call(limits={"b": 1}))
    client.submits(2, call=call(limits={"b": 1, "k": 1}), slot=1)
    talk.client(2).submits(1, call=call(limits={"b": 1, "k": 1}))
    client.submits(3, call=call(limits={}), slot=2)
    assert got(actor) == [1, 3]
    ends(actor, 1, 0)

    actor.says(Occupy(EPOCH, 2, 1, {"k": 1}))

    assert [said.ask for said in actor.takes(Occupied)] == [1]


# --- rates


def test_a_rate_gives_back_with_time_and_not_with_the_end():
    talk = limited("web=2:rate=1/s", recovered=False)
    talk.wait(4.0)
    actor = talk.actor(free=9, slots={"slot": 9})
    client = talk.client().submits(1, 2, 3, 4, call=call(limits={"web": 1}))
    assert got(actor) == [1, 2]
    ends(actor, 1, 9)
    ends(actor, 2, 9)
    assert got(actor) == []

    lasts(talk, 1.25, actor, client)
    actor.says(Credit(9))
    assert got(actor) == [3]
    lasts(talk, 5.0, actor, client)
    actor.says(Credit(9))
    assert got(actor) == [4]
    lasts(talk, 5.0, actor, client)

    assert not talk.broker.limits.keys


def test_a_broker_does_not_spin_where_a_rate_has_room_and_no_actor_is_free():
    talk = limited("web=2:rate=1/s", recovered=False)
    actor = talk.actor(free=1)
    for incarnation in (1, 2, 3):
        talk.client(incarnation).submits(1, 2, call=call(limits={"web": 1}))

    talk.wait(talk.settings.adopt_window_s, beating=[actor])

    assert talk.broker.limits.room("web") >= 1
    assert talk.broker.limits.deadline() > talk.now + 0.01


def test_what_a_rate_has_taken_is_back_when_the_limit_has_no_rate_any_more():
    talk = limited("web=2:rate=1/s", recovered=False)
    talk.wait(4.0)
    actor = talk.actor(free=9, slots={"slot": 9})
    client = talk.client().submits(1, 2, 3, call=call(limits={"web": 1}))
    assert got(actor) == [1, 2]
    ends(actor, 1, 9)
    ends(actor, 2, 9)

    orders(client, "limit-set", setting(name="web", maximum=2))

    assert got(actor) == [3]


# --- strategies


def test_nobody_is_canceled_for_a_task_that_another_limit_turns_away():
    talk = limited("old=1:strategy=cancel-newest", "new=1:strategy=cancel-in-progress")
    actor = talk.actor(free=9, slots={"slot": 9})
    client = talk.client().submits(1, call=call(limits={"new": 1}))
    client.submits(2, call=call(limits={"old": 1}), slot=1)
    assert got(actor) == [1, 2]

    client.submits(3, call=call(limits={"new": 1, "old": 1}), slot=2)

    assert list(failures(client)) == [3]
    assert actor.takes(Stop) == []


def test_the_newest_is_canceled_where_that_is_the_strategy():
    talk = limited("api=1:per-key:strategy=cancel-newest")
    actor = talk.actor(free=9, slots={"slot": 9})
    client = talk.client().submits(1, 2, call=call(limits={"api[a]": 1}))
    client.submits(3, call=call(limits={"api[b]": 1}), slot=1)

    assert got(actor) == [1, 3]
    assert failures(client)[2].code == Code.CANCELED
    ends(actor, 1, 9)
    client.submits(4, call=call(limits={"api[a]": 1}))
    assert got(actor) == [4]


def test_what_runs_is_canceled_by_what_comes_where_that_is_the_strategy():
    talk = limited("api=1:per-key:strategy=cancel-in-progress")
    actor = talk.actor(free=9, slots={"slot": 9})
    client = talk.client().submits(1, call=call(limits={"api[a]": 1}))
    got(actor)

    client.submits(2, call=call(limits={"api[a]": 1}))
    client.submits(3, call=call(limits={"api[a]": 1}))

    assert {n: f.code for n, f in failures(client).items()} == dict.fromkeys((1, 2), Code.CANCELED)
    assert [stop.number for stop in actor.takes(Stop)] == [1]
    assert got(actor) == []
    actor.says(Vacate(EPOCH, 1))
    assert got(actor) == [3]


@pytest.mark.parametrize(
    ("strategy", "canceled"),
    [(Strategy.CANCEL_NEWEST, [4]), (Strategy.CANCEL_IN_PROGRESS, [1, 2, 3])],
)
def test_a_strategy_that_comes_later_counts_those_that_were_there(strategy, canceled):
    talk = limited("db=1")
    actor = talk.actor(free=9, slots={"slot": 9})
    client = talk.client().submits(1, 2, 3, call=call())
    assert got(actor) == [1]

    define(talk.broker, Definition(name="db", maximum=1, strategy=strategy))
    client.submits(4, call=call())

    assert sorted(failures(client)) == canceled


def test_keys_take_turns_where_that_is_the_strategy():
    talk = limited("api=5:per-key:strategy=round-robin")
    actor = talk.actor(slots={"slot": 9})
    client = talk.client().submits(1, 2, 3, 4, call=call(limits={"api[a]": 1}))
    client.submits(5, 6, call=call(limits={"api[b]": 1}), slot=1)

    actor.says(Credit(4))

    assert sorted(got(actor)) == [1, 2, 5, 6]


# --- orders and answers


def orders(client, what, argument):
    client.says(Query(1, what, argument))
    import msgspec

    (answer,) = client.takes(Answer)
    return msgspec.msgpack.decode(answer.body)


def setting(**fields):
    return json.dumps(fields)


def test_a_limit_can_be_set_raised_lowered_and_deleted():
    talk = limited()
    actor = talk.actor(free=9, slots={"slot": 9})
    client = talk.client()
    assert orders(client, "limit-set", setting(name="db", maximum=1)) == {"done": "limit-set"}
    client.submits(1, 2, 3, 4, call=call())
    assert got(actor) == [1]

    orders(client, "limit-set", setting(name="db", maximum=3))
    assert got(actor) == [2, 3]
    orders(client, "limit-set", setting(name="db", maximum=1))
    ends(actor, 1, 9)
    ends(actor, 2, 9)
    assert got(actor) == []
    orders(client, "limit-delete", "db")

    assert failures(client)[4].code == Code.LIMIT_UNKNOWN
    ends(actor, 3, 9)
    assert not talk.broker.limits.keys


def test_a_holder_can_be_released_by_force():
    talk = limited("db=1")
    actor = talk.actor(free=9, slots={"slot": 9})
    client = talk.client().submits(1, 2, call=call())
    got(actor)
    assert "holds nothing" in orders(client, "limit-release", "1000.2.0")["error"]

    assert orders(client, "limit-release", "1000.1.0") == {"done": "limit-release"}

    assert [told.code for told in actor.takes(Occupied)] == ["released"]
    assert got(actor) == [2]


@pytest.mark.parametrize(
    ("what", "argument"),
    [
        ("limit-set", "{}"),
        ("limit-set", "x"),
        ("limit-set", setting(name="db", maximum=0)),
        ("limit-set", setting(name="d b", maximum=1)),
        ("limit-delete", "nope"),
        ("limit-release", "x.y.z"),
        ("frob", ""),
    ],
)
def test_an_order_that_makes_no_sense_is_answered(what, argument):
    talk = limited()

    assert "error" in orders(talk.client(), what, argument)


def test_explain_names_the_limit_and_its_holders():
    talk = limited("db=1")
    actor = talk.actor(free=9, name="gpu1/0", slots={"slot": 9})
    client = talk.client().submits(1, 2, call=call())
    got(actor)

    told = ask(client, "explain", "2")

    assert "limit db is full: 1 of 1" in told["reason"]
    assert "on gpu1/0" in told["reason"]
    assert told["limits"][0]["holders"][0]["holder"] == "1000.1.0"
    (listed,) = ask(client, "limits")["limits"]
    assert listed["keys"][0]["waiting"] == 1


# --- cost


def test_a_hand_over_looks_at_as_many_as_wait_alone_or_among_ten_thousand():
    def work(waiting):
        talk = limited("db=1")
        actor = talk.actor(free=9, slots={"slot": 9})
        talk.client().submits(*range(1, waiting + 2), call=call())
        looks = []
        original = Limits.blocking

        def counted(self, waiter, rank, at=None):
            looks.append(rank)
            return original(self, waiter, rank, at)

        Limits.blocking = counted
        talk.broker.check = lambda: None
        try:
            ends(actor, 1, 9)
        finally:
            Limits.blocking = original
        return len(looks)

    assert work(10_000) == work(2) < 10


def test_room_that_no_actor_can_use_wakes_one_of_a_thousand_keys():
    def work(keys):
        talk = limited("db=4", "api=1:per-key")
        talk.broker.check = lambda: None
        actor = talk.actor(free=4, slots={"slot": 4})
        client = talk.client()
        for key in range(keys):
            wanted = {"db": 1, f"api[{key}]": 1}
            client.submits(2 * key + 1, 2 * key + 2, call=call(limits=wanted), slot=key)
        running = [assign.number for assign in actor.takes(Assign)]
        looks = []
        original = Limits.blocking

        def counted(self, waiter, rank, at=None):
            looks.append(rank)
            return original(self, waiter, rank, at)

        Limits.blocking = counted
        try:
            for _ in range(20):
                # The limit comes back, and then the slot.
                actor.says(Outcome(EPOCH, running.pop(0), Status.RESULT, b""), Credit(0))
                actor.says(Credit(1))
                running += [assign.number for assign in actor.takes(Assign)]
        finally:
            Limits.blocking = original
        return len(looks)

    assert work(1_000) <= 2 * work(20)


# --- against a slow model


def test_random_histories_keep_every_rule():
    for seed in range(60):
        wander(seed)


def wander(seed):
    """Let clients and runs do anything; `check` of the core looks on after every step."""
    rng = random.Random(seed)
    talk = limited("a=2", "b=3", "k=1:per-key")
    host = machine(talk, 0, gpu=2)
    actor = talk.actor(free=5, slots={"slot": 5}, host=90)
    client = talk.client()
    names = ["a", "b", "k[x]", "k[y]", "host:gpu"]
    running, asks, serial = {}, {}, 0
    for _ in range(120):
        for assign in actor.takes(Assign):
            running[assign.number] = assign.task
        for told in actor.takes(Occupied):
            assert (told.number, told.ask) in asks
        deed = rng.random()
        if deed < 0.35:
            serial += 1
            wanted = {n: rng.choice((1, 1, 2)) for n in rng.sample(names, rng.choice((1, 1, 2)))}
            wanted = {n: 1 if n.startswith("k") else amount for n, amount in wanted.items()}
            client.submits(serial, call=call(limits=wanted, priority=rng.choice((0, 0, 3))))
        elif deed < 0.6 and running:
            number = rng.choice(sorted(running))
            del running[number]
            asks = {key: value for key, value in asks.items() if key[0] != number}
            actor.says(Outcome(EPOCH, number, Status.RESULT, b""), Credit(5 - min(5, len(running))))
        elif deed < 0.75 and running:
            number = rng.choice(sorted(running))
            asks[number, serial + 1000] = None
            serial += 1
            actor.says(Occupy(EPOCH, number, serial + 999, {rng.choice(names): 1}))
        elif deed < 0.85 and asks:
            number, asked = rng.choice(sorted(asks))
            actor.says(Vacate(EPOCH, number, asked))
        elif deed < 0.95 and serial:
            client.says(Cancel([rng.randint(1, serial)]))
            for stop in actor.takes(Stop):
                if running.pop(stop.number, None):
                    actor.says(Vacate(EPOCH, stop.number), Credit(5 - min(5, len(running))))
        else:
            talk.wait(0.25)
            host.says(Beat())
            actor.says(Credit(5 - min(5, len(running))))
    for _ in range(serial + 5):
        for assign in actor.takes(Assign):
            running[assign.number] = assign.task
        for number in sorted(running):
            actor.says(Outcome(EPOCH, number, Status.RESULT, b""))
        running.clear()
        actor.says(Credit(5))
    assert not talk.broker.limits.keys
    assert not talk.broker.backlog.count


def test_a_call_that_has_its_own_caller_canceled_ends_with_it():
    """Found by a seed: the broker looked for the new call in the backlog before it stood there."""
    talk = limited("api=1:per-key:strategy=cancel-in-progress")
    actor = talk.actor(free=1)
    client = talk.client().submits(1, call=call(limits={"api[a]": 1}))
    assert got(actor) == [1]

    client.submits(2, call=call(limits={"api[a]": 1}), slot=1, parent=(EPOCH, 1))

    assert {n: failure.code for n, failure in failures(client).items()} == {
        1: Code.CANCELED,
        2: Code.PARENT_GONE,
    }


def test_while_nothing_can_be_written_an_operator_is_told_why():
    talk = limited("db=1")
    client = talk.client()
    talk.broker.journal_stuck("database or disk is full")

    says = ask(client, "limit-set", json.dumps({"name": "db", "maximum": 2}))

    assert "database or disk is full" in says["error"]
    assert talk.broker.limits.definitions["db"].maximum == 1
    talk.broker.journal_stuck("")
    assert ask(client, "limit-set", json.dumps({"name": "db", "maximum": 2})) == {
        "done": "limit-set"
    }


def test_who_waits_for_a_disk_that_is_full_is_told_why():
    talk = limited("db=1")
    client = talk.client()
    definition = json.dumps({"name": "db", "maximum": 2})
    client.says(Query(1, "limit-set", definition), silently=True)
    talk.broker.take_operations()

    talk.broker.journal_stuck("database or disk is full")
    talk.flush()

    [answer] = client.takes(Answer)
    assert "it is done, and will be written" in msgspec.msgpack.decode(answer.body)["error"]
