"""Limits at the broker: who holds what, who waits, who is next (protocol.md section 9.5)."""

import contextlib

import pytest

from broker.events.defining import define
from broker.holding.limits import Limits
from tests.broker.conversation import CODE, Conversation
from wire import codec
from wire.codec import decode_failure
from wire.errors import Code
from wire.limits import Definition, Strategy, check_definition, read_definition, read_rate
from wire.messages import (
    Assign,
    Beat,
    Cancel,
    Credit,
    Occupied,
    Occupy,
    Outcome,
    Release,
    Result,
    Stop,
    Vacate,
)
from wire.parts import Call, Failure, Status

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


@contextlib.contextmanager
def counted_looks(talk):
    """Yield a list of the looks at who waits; those of `check` are left out."""
    looks = []
    original = Limits.blocking

    def counted(self, waiter, rank, at=None):
        looks.append(rank)
        return original(self, waiter, rank, at)

    Limits.blocking = counted
    talk.broker.check = lambda: None
    try:
        yield looks
    finally:
        Limits.blocking = original


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


def test_whoever_sets_a_limit_of_hosts_is_told_who_does():
    with pytest.raises(ValueError, match=r"python -m actor --limit gpu=N"):
        read_definition("host:gpu=1")


def test_a_rate_is_so_much_a_second():
    assert [read_rate(t) for t in ("10/s", "600/min", "5/2s", "36/h")] == [10.0, 10.0, 2.5, 0.01]


@pytest.mark.parametrize("maximum", [0, 1.5, True, "2"])
def test_a_maximum_that_is_no_amount_is_refused_with_what_may_stand_there(maximum):
    with pytest.raises(ValueError, match=r"^limit db: .* is not from 1 to 2147483647$"):
        check_definition(Definition(name="db", maximum=maximum))


def test_a_rate_without_its_time_is_refused_as_a_number_too():
    with pytest.raises(ValueError, match=r"^10 is not a rate, as in 10/s"):
        read_rate(10)


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


def test_behind_a_run_that_takes_all_there_is_nobody_is_looked_at():
    talk = limited("db=1")
    actor = talk.actor(free=3, slots={"slot": 3})
    talk.client().submits(1, 2, 3)
    actor.says(*(Occupy(EPOCH, number, 1, {"db": 1}) for number in (1, 2, 3)))

    with counted_looks(talk) as looks:
        actor.says(Vacate(EPOCH, 1, 1))

    assert actor.takes(Occupied)[-1] == Occupied(EPOCH, 2, 1)
    assert len(looks) == 1


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
