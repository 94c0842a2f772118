"""Types and costs of slots: all or nothing on one actor, and small tasks starve no large one."""

import pytest

from broker.events.defining import define
from broker.facts.credit import CreditAccount
from broker.waiting.costs import Cost
from tests.broker.conversation import CODE, Conversation
from tests.broker.test_explain import ask
from wire.codec import decode_failure
from wire.limits import Definition
from wire.messages import (
    Assign,
    Await,
    Beat,
    Cancel,
    Credit,
    Error,
    Occupied,
    Occupy,
    Reacquire,
    Release,
    Result,
)
from wire.parts import Call, Environment

PLAIN = Cost(Call("plain", CODE))
WIDE = Cost(Call("wide", CODE, slots={"slot": 2}))
GPU = Cost(Call("gpu", CODE, slots={"gpu": 1}))
MIXED = Cost(Call("mixed", CODE, slots={"slot": 1, "gpu": 2}))


def account(free=0, ahead=0, room=0, turns=None, **typed):
    found = CreditAccount()
    found.state(Credit(free, ahead, room, turns or {}, typed), 0)
    found.check()
    return found


def call(**slots):
    return Call("work " + repr(slots), CODE, slots=slots)


def got(actor):
    return [assign.task for assign in actor.takes(Assign)]


@pytest.fixture
def talk():
    return Conversation()


# --- credit


@pytest.mark.parametrize(
    ("credit", "cost", "is_covered"),
    [
        (account(2), WIDE, True),
        (account(1), WIDE, False),
        (account(1, 5), WIDE, False),
        (account(0, 0, gpu=1), GPU, True),
        (account(5), GPU, False),
        (account(1, gpu=2), MIXED, True),
        (account(0, gpu=2), MIXED, False),
        (account(1, gpu=1), MIXED, False),
    ],
)
def test_all_of_the_cost_is_covered_or_nothing(credit, cost, is_covered):
    assert credit.covers(cost) is is_covered


def test_what_flies_is_taken_off_each_type():
    credit = account(3, gpu=3)
    credit.spend(5, MIXED)
    credit.check()
    assert (credit.available, credit.has_more) == (2, True)
    assert not credit.covers(MIXED)
    assert credit.covers(GPU)

    credit.state(Credit(3, 0, 0, {}, {"gpu": 3}), 4)
    credit.check()
    assert not credit.covers(MIXED)

    credit.state(Credit(2, 0, 0, {}, {"gpu": 1}), 5)
    credit.check()
    assert (credit.available, credit.covers(GPU)) == (2, True)


def test_a_larger_cost_is_taken_off_as_much():
    credit = account(3)

    credit.spend(1, WIDE)
    credit.check()

    assert credit.available == 1
    assert not credit.covers(WIDE)


def test_typed_credit_dies_with_its_session():
    credit = account(1, gpu=1)
    credit.spend(1, GPU)

    credit.void()
    credit.check()

    assert not credit.has_more


def test_a_typed_task_needs_its_turn_as_well():
    cost = Cost(
        Call("m", b"", "m", Environment("a", "a", CODE), slots={"gpu": 1}),
    )

    assert account(0, 0, 1, gpu=1).covers(cost)
    assert account(0, 0, 0, {"a": 1}, gpu=1).covers(cost)
    assert not account(0, 0, 1, {"a": 0}, gpu=1).covers(cost)
    assert not account(0, 0, 0, gpu=1).covers(cost)


def test_room_that_is_kept_is_not_given_to_others():
    credit = account(2, 4, gpu=1)

    assert not credit.covers(PLAIN, WIDE)
    assert credit.covers(GPU, WIDE)
    assert account(3, 4).covers(PLAIN, WIDE)
    assert credit.lacks(MIXED) == 1


# --- placement


def test_an_actor_without_a_plain_slot_gets_a_typed_task(talk):
    actor = talk.actor(slots={"slot": 1, "gpu": 1})
    actor.says(Credit(0, 0, 0, {}, {"gpu": 1}))

    talk.client().submits(1, 2, call=call(gpu=1))

    assert got(actor) == [1]


def test_a_task_goes_where_all_of_its_slots_are(talk):
    small = talk.actor(11, slots={"slot": 4, "gpu": 1})
    small.says(Credit(4, 0, 0, {}, {"gpu": 1}))
    large = talk.actor(12, name="host/1", slots={"slot": 2, "gpu": 2})
    large.says(Credit(2, 0, 0, {}, {"gpu": 2}))

    talk.client().submits(1, call=call(slot=1, gpu=2))

    assert (got(small), got(large)) == ([], [1])


def test_small_tasks_do_not_starve_a_large_one(talk):
    actor = talk.actor(free=2, slots={"slot": 2})
    client = talk.client().submits(1, 2)
    assert got(actor) == [1, 2]
    client.submits(3, call=call(slot=2), slot=1)
    client.submits(4, 5)

    actor.ends((actor.epoch, 1), free=1)
    assert got(actor) == []
    actor.ends((actor.epoch, 2), free=2)

    assert got(actor) == [3]


def test_who_is_older_than_the_large_one_goes_first(talk):
    actor = talk.actor(free=2, slots={"slot": 2})
    client = talk.client().submits(1, 2, 3)
    client.submits(4, call=call(slot=2), slot=1)
    assert got(actor) == [1, 2]

    actor.ends((actor.epoch, 1), free=1)

    assert got(actor) == [3]


def test_only_one_actor_is_reserved(talk):
    one = talk.actor(11, free=2, slots={"slot": 2})
    two = talk.actor(12, name="host/1", free=2, slots={"slot": 2})
    client = talk.client().submits(1, 2, 3, 4)
    got(one), got(two)
    client.submits(5, call=call(slot=2), slot=1)
    client.submits(6, 7)
    reserved = talk.broker.reservation.actor
    kept, other = (one, two) if reserved.incarnation == 11 else (two, one)

    kept.says(Credit(1))
    other.says(Credit(1))

    assert got(kept) == []
    assert got(other) == [6]


def test_slots_of_other_types_are_not_kept(talk):
    actor = talk.actor(slots={"slot": 2, "io": 2})
    actor.says(Credit(1, 0, 0, {}, {"io": 0}))
    client = talk.client().submits(1, call=call(io=2))
    assert talk.broker.reservation is not None

    client.submits(2, slot=1)

    assert got(actor) == [2]


def test_who_had_to_wait_for_a_limit_is_not_held_up_by_a_later_reservation(talk):
    define(talk.broker, Definition(name="b", maximum=1))
    other = talk.actor(11, free=1, slots={"slot": 1})
    actor = talk.actor(12, name="host/1", slots={"slot": 1, "gpu": 2})
    actor.says(Credit(0, 0, 0, {}, {"gpu": 1}))
    client = talk.client()
    client.submits(1, call=Call("plain", CODE, limits={"b": 1}))
    client.submits(2, call=Call("limited", CODE, slots={"gpu": 1}, limits={"b": 1}), slot=1)
    client.submits(3, call=call(gpu=2), slot=2)
    client.submits(4, call=call(gpu=1), slot=3)
    assert (got(other), got(actor)) == ([1], [])
    assert talk.broker.reservation.actor.incarnation == 12

    other.ends((1000, 1), free=1)

    assert got(actor) == [2], "its limit is free, and it stands before the reservation"


def test_nothing_goes_ahead_into_the_mailbox_of_a_reserved_actor(talk):
    actor = talk.actor(slots={"slot": 2}, prefetch=4)
    actor.says(Credit(1, 4))
    client = talk.client().submits(1, call=call(slot=2))

    client.submits(2, slot=1)

    assert got(actor) == []


def test_a_reservation_is_left_where_its_slots_are_held_by_who_waits_for_a_call_behind_it(talk):
    """Run 2 holds a slot and waits for the limit of run 1, which waits for a call."""
    define(talk.broker, Definition(name="db", maximum=1))
    actor = talk.actor(slots={"slot": 2}, free=2)
    client = talk.client().submits(1, 2)
    actor.says(Occupy(1000, 1, 1, {"db": 1}, []), Occupy(1000, 2, 1, {"db": 1}, []))
    actor.says(Credit(1), Release(1000, 1), Await(1000, 1, 9, 1, [(4, 4)], 1, [1]))
    client.submits(3, call=call(slot=2), slot=1)
    client.submits(4, parent=(1000, 1))
    assert got(actor) == [1, 2]
    assert talk.broker.reservation is not None

    told = []
    for _ in range(8):
        actor.says(Beat())
        client.says(Beat())
        talk.wait(0.25)
        told += [one for one in actor.takes(Occupied) if one.code]

    assert got(actor) == [4]
    assert told == [], "no run is to blame"


def test_a_reservation_ends_with_its_task(talk):
    actor = talk.actor(free=1, slots={"slot": 2})
    client = talk.client().submits(1, call=call(slot=2))
    client.submits(2, slot=1)
    assert got(actor) == []

    client.says(Cancel([1]))

    assert got(actor) == [2]
    assert talk.broker.reservation is None


def test_a_reservation_moves_on_when_its_actor_is_gone(talk):
    one = talk.actor(11, free=1, slots={"slot": 2})
    client = talk.client().submits(1, call=call(slot=2))
    two = talk.actor(12, name="host/1", slots={"slot": 2})
    one.vanishes()

    two.says(Credit(1))
    client.submits(2, slot=1)
    assert got(two) == []
    two.says(Credit(2))

    assert got(two) == [1]


# --- what nobody can hold


def test_what_no_actor_can_hold_ends_at_once_where_that_is_wanted(talk):
    talk.actor(free=2)
    client = talk.client()

    client.submits(1, 2, call=Call("big", CODE, slots={"slot": 3}, fail_infeasible=True))

    results = client.takes(Result)
    assert [result.task for result in results] == [1, 2]
    failure = decode_failure(results[0].body)
    assert failure.code == "infeasible"
    assert "{'slot': 3}" in failure.message
    assert failure.message.endswith("the most that one has is {'slot': 2}")


@pytest.mark.parametrize(
    ("actors", "slots", "told"),
    [
        ([], {}, "no actor is connected"),
        ([], {"gpu": 1}, "no actor is connected, and it needs the slots {'gpu': 1}"),
        ([{"slot": 1}], {"gpu": 1}, "the most that one has is {'gpu': 0}"),
        ([{"slot": 3}, {"slot": 1, "gpu": 1}], {"slot": 2, "gpu": 1}, "too little of one of these"),
    ],
)
def test_that_nobody_has_such_slots_was_told_without_what_there_is(talk, actors, slots, told):
    """Of a plain call it was "the slots that it needs: 1", also where no actor was connected."""
    for number, has in enumerate(actors):
        talk.actor(20 + number, name=f"h/{number}", slots=has)
    client = talk.client()

    client.submits(1, call=Call("big", CODE, slots=slots, fail_infeasible=True))

    (result,) = client.takes(Result)
    assert told in decode_failure(result.body).message


def test_what_an_actor_can_hold_later_waits(talk):
    actor = talk.actor(slots={"slot": 3})
    client = talk.client()

    client.submits(1, call=Call("big", CODE, slots={"slot": 3}, fail_infeasible=True))

    assert client.takes(Result) == []
    actor.says(Credit(3))
    assert got(actor) == [1]


def test_it_ends_when_the_last_that_could_is_lost(talk):
    talk.actor(slots={"slot": 3})
    client = talk.client()
    client.submits(1, call=Call("big", CODE, slots={"slot": 3}, fail_infeasible=True))

    talk.wait(talk.settings.lease_s + 1.0, beating=[client])

    assert [result.task for result in client.takes(Result)] == [1]


def test_a_broker_that_recovers_judges_nobody(talk):
    talk = Conversation(recovered=False)
    client = talk.client()

    client.submits(1, call=Call("big", CODE, fail_infeasible=True))
    assert client.takes(Result) == []
    talk.wait(talk.settings.adopt_window_s, beating=[client])

    assert [result.task for result in client.takes(Result)] == [1]


def test_without_the_wish_it_waits_and_explain_says_why(talk):
    talk.actor(free=2)
    client = talk.client().submits(7, call=call(slot=3))

    assert "needs 3 slots, has 2" in ask(client, "explain", "7")["reason"]


def test_explain_tells_of_a_reservation_and_of_what_is_missing(talk):
    talk.actor(free=1, slots={"slot": 2})
    client = talk.client().submits(7, call=call(slot=2))
    client.submits(8, slot=1)

    assert ask(client, "explain", "7")["actors"]["host/0"] == "needs 2 slots, 1 free (0 tasks)"
    assert "older task" in ask(client, "explain", "8")["actors"]["host/0"]


def test_amounts_that_are_none_are_refused(talk):
    client = talk.client()

    client.submits(1, call=Call("odd", CODE, slots={"slot": -1}))

    assert client.takes(Error)[0].code == "bad-frame"


# --- parts


def test_more_slots_were_shown_as_held_than_there_are_where_tasks_wait_ahead(talk):
    actor = talk.actor(free=1, slots={"slot": 1})
    actor.says(Credit(1, 2))
    client = talk.client().submits(7).submits(8).submits(9)

    assert len(got(actor)) == 3
    assert ask(client, "actors")["actors"][0]["held"] == {"slot": 1}


def test_a_part_that_was_given_back_is_not_shown_as_held(talk):
    actor = talk.actor(free=1, slots={"slot": 1, "gpu": 3})
    actor.says(Credit(1, typed={"gpu": 3}))
    client = talk.client().submits(7, call=call(gpu=3)).submits(8, call=call(gpu=2))
    token = (actor.epoch, actor.takes(Assign)[0].number)

    actor.says(Release(*token, {"gpu": 2}), Credit(1, typed={"gpu": 2}))

    assert got(actor) == [8]
    assert ask(client, "actors")["actors"][0]["held"] == {"slot": 0, "gpu": 3}


def test_a_part_that_a_run_has_again_is_not_taken_for_that_of_a_canceled_run(talk):
    actor = talk.actor(free=2, slots={"slot": 2})
    client = talk.client().submits(7, call=call(slot=2)).submits(8, 9)
    token = (actor.epoch, actor.takes(Assign)[0].number)
    actor.says(Release(*token, {"slot": 1}), Credit(0))

    assert ask(client, "explain", "9")["actors"] == {"host/0": "no free slot (1 task)"}


# --- reacquire


def test_a_task_that_has_its_slot_again_is_shown_as_before(talk):
    actor = talk.actor(free=1)
    client = talk.client().submits(7)
    token = (actor.epoch, actor.takes(Assign)[0].number)
    actor.says(Credit(1), Release(*token))
    assert ask(client, "tasks")["tasks"][0]["state"] == "released"

    actor.says(Credit(0), Reacquire(*token))

    assert ask(client, "tasks")["tasks"][0]["state"] == "assigned"
    assert ask(client, "actors")["actors"][0]["holding"][0]["state"] == "assigned"


def test_reacquire_of_somebody_else_changes_nothing(talk):
    actor = talk.actor(free=1)
    client = talk.client().submits(7)
    token = (actor.epoch, actor.takes(Assign)[0].number)
    actor.says(Credit(1), Release(*token))

    talk.actor(12, name="host/1").says(Reacquire(*token))
    actor.says(Reacquire(1, 1))

    assert ask(client, "tasks")["tasks"][0]["state"] == "released"
