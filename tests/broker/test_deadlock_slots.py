"""Circles over slots, parts of them, turns and places of environments (protocol.md section 9.8)."""

import pytest
from msgspec import structs

from tests.broker.conversation import CODE, attested
from tests.broker.test_deadlock import Scene, holding
from tests.broker.test_limits import EPOCH
from wire.errors import Code
from wire.messages import (
    ActorBeat,
    Assign,
    Await,
    Beat,
    Cancel,
    Credit,
    Death,
    Entered,
    Occupied,
    Occupy,
    Reacquire,
    Release,
)
from wire.parts import Call, Environment, HeldLimits, Holding, Named, Reuse

BOXED = Environment("id", "Box", CODE)
OTHER = Environment("other", "Other", CODE)
# Each of its runs has a copy of its own.
OWN = Environment("own", "Own", CODE, reuse=Reuse(is_fresh=True))
# What an actor holds that was given two tasks.
HELD = [(EPOCH, 1), (EPOCH, 2)]


def test_slots_held_by_those_that_wait_close_a_circle():
    scene = holding(slots=1).waits(1, 2, within=[1]).submits(3).submits(2, parent=1)
    scene.actor.says(Occupy(EPOCH, 2, 1, {"db": 1}, []))

    assert scene.told() == [(2, 1)]


def test_a_slot_somewhere_else_is_a_way_out():
    scene = holding(slots=1).waits(1, 2, within=[1]).submits(3)
    scene.actor.says(Occupy(EPOCH, 2, 1, {"db": 1}, []))
    other = scene.talk.actor(12, name="host/1")
    scene.submits(2, parent=1)

    for _ in range(8):
        other.says(Beat())
        assert scene.told(beats=1) == []


def drains_beside_a_full_one(call=None):
    """Let run 1 wait for call 2, on an actor that drains; other slots wait for its limit."""
    scene = holding(slots=2).waits(1, 2, within=[1])
    draining = ActorBeat(Credit(2), 0, {}, [(EPOCH, 1)], closed="draining")
    scene.actor.says(draining)
    other = scene.talk.actor(12, name="host/1", free=1, slots={"slot": 1})
    scene.submits(3)
    (held,) = other.takes(Assign)
    other.says(Occupy(EPOCH, held.number, 1, {"db": 1}, []))
    # Nothing is granted for once, so that call 2 waits.
    scene.actor.says(structs.replace(draining, credit=Credit(0)))
    scene.submits(2, call=call, parent=1)
    found = []
    for _ in range(8):
        scene.talk.wait(0.25)
        scene.actor.says(structs.replace(draining, credit=Credit(0)))
        scene.client.says(Beat())
        other.says(Beat())
        found += [(held.number, t.ask) for t in other.takes(Occupied) if t.code == Code.DEADLOCK]
    return found


def test_free_slots_of_an_actor_that_drains_are_no_way_out_for_a_call_to_a_named_actor():
    named = Environment("named", "Counter", CODE, named=Named("default", "c", "Counter", 0))

    assert drains_beside_a_full_one(Call("enter", b"", "", named)) == [(2, 1)]


@pytest.mark.parametrize(("waiting", "told"), [([2], [(2, 9)]), ([], [])])
def test_a_call_to_a_named_actor_that_drains_waits_for_all_runs_beside_it(waiting, told):
    """It goes to the next process, which is there once these have ended: not where one waits."""
    named = Environment("named", "Counter", CODE, named=Named("default", "c", "Counter", 0))
    scene = Scene(slots=4).submits(1, Call("enter", b"", "", named))
    scene.actor.ends((EPOCH, 1))
    scene.submits(2)
    for number in waiting:
        scene.waits(number, 3)
    held = [(EPOCH, 2)]
    scene.actor.says(ActorBeat(Credit(0), 0, {}, held, closed="draining"))
    scene.submits(3, Call("incr", b"", "incr", named), parent=2)
    assert scene.talk.state(scene.client, 3) == "queued"

    assert scene.told() == told


def test_an_actor_that_drains_is_a_way_out_for_a_call_of_its_own_run():
    assert drains_beside_a_full_one() == []


def test_no_limit_holder_waits_for_ever_for_a_call_while_slots_wait_for_its_limit_or_are_kept():
    """Every slot that grants is held by who waits for the limit, all others are kept for one run.

    That one runs alone, since its process crashed before, and waits for a call of its own.
    """
    scene = holding(slots=1)
    host = scene.talk.host(actors=[attested(13)])
    crashed = scene.talk.actor(13, name="host/2", free=2)
    scene.submits(7).submits(8)
    host.says(Death(13, None, 11, [(EPOCH, a.number) for a in crashed.takes(Assign)]))
    scene.client.says(Cancel([8]))
    alone = scene.talk.actor(12, name="host/1", free=1, slots={"slot": 1})
    ((suspect,),) = [(a.number,) for a in alone.takes(Assign)]
    scene.waits(1, 2, within=[1]).submits(3).submits(2, parent=1).submits(9, parent=suspect)
    (holder,) = [a.number for a in scene.actor.takes(Assign) if a.task == 3]
    scene.actor.says(Occupy(EPOCH, holder, 1, {"db": 1}, []))
    alone.says(Credit(1), Release(EPOCH, suspect))
    assert alone.takes(Assign) == [], "it runs alone"

    alone.says(Await(EPOCH, suspect, 1, 1, [(9, 9)], 1, []))

    assert [a.task for a in alone.takes(Assign)] == [2]
    assert scene.told() == []


def test_who_waits_for_its_slot_while_its_holder_waits_for_its_limit_closes_a_circle():
    scene = holding(slots=1)
    scene.actor.says(Credit(1), Release(EPOCH, 1))
    scene.submits(2)
    scene.actor.says(Occupy(EPOCH, 2, 1, {"db": 1}, []), Await(EPOCH, 1, -1, within=[1]))

    assert scene.told() == [(2, 1)]


def test_the_younger_is_told_that_it_will_not_have_its_slot():
    scene = Scene("db=1", slots=1).submits(1)
    scene.actor.says(Credit(1), Release(EPOCH, 1))
    scene.submits(2)
    scene.actor.says(Occupy(EPOCH, 2, 1, {"db": 1}, []))
    scene.actor.says(Credit(1), Release(EPOCH, 2), Credit(0), Reacquire(EPOCH, 1))
    scene.actor.says(Occupy(EPOCH, 1, 1, {"db": 1}, []), Await(EPOCH, 2, -1, within=[1]))

    assert scene.told() == [(2, -1)]


@pytest.mark.parametrize(("slots", "told"), [(4, [(3, 1)]), (5, [])])
def test_a_run_waits_for_its_slots_behind_one_that_asked_before_it(slots, told):
    """Run 1 lacks the slot of run 3, which waits for the limit of run 2."""
    scene = Scene("db=1", slots=slots, free=4)
    scene.submits(1, Call("wide", CODE, slots={"slot": 4}))
    scene.actor.says(Credit(4), Release(EPOCH, 1))
    scene.submits(2, Call("pair", CODE, slots={"slot": 2}))
    scene.actor.says(Occupy(EPOCH, 2, 1, {"db": 1}, []), Credit(4), Release(EPOCH, 2))
    scene.submits(3)
    assert [a.task for a in scene.actor.takes(Assign)] == [1, 2, 3]
    scene.actor.says(Await(EPOCH, 1, 9), Await(EPOCH, 2, 9, within=[1]))

    scene.actor.says(Credit(0), Occupy(EPOCH, 3, 1, {"db": 1}, []))

    assert scene.told() == told


def test_the_order_of_asking_is_no_circle():
    scene = Scene("db=1", slots=1)
    for number in (1, 2):
        scene.submits(number)
        scene.actor.says(Credit(1), Release(EPOCH, number))
    scene.submits(3)

    scene.actor.says(Credit(0), Await(EPOCH, 1, 9), Await(EPOCH, 2, 9))

    assert scene.told() == []


def test_slots_of_which_a_part_was_given_back_are_not_counted():
    scene = holding(slots=1).waits(1, 2, within=[1]).submits(3).submits(2, parent=1)
    scene.actor.says(Release(EPOCH, 2, {"slot": 1}), Occupy(EPOCH, 2, 1, {"db": 1}, []))

    assert scene.told() == []


@pytest.mark.parametrize(("left", "told"), [(1, [(2, 1)]), (0, [])])
def test_what_is_left_of_slots_of_which_a_part_was_given_back_is_kept(left, told):
    """The call for which run 1 waits needs both slots, of which run 2 has what is *left*."""
    scene = holding(slots=2).waits(1, 2, within=[1])
    scene.actor.says(Credit(2))
    scene.submits(3, Call("pair", CODE, slots={"slot": 2}))
    part = {"slot": 2 - left}
    scene.actor.says(Credit(0), Occupy(EPOCH, 2, 1, {"db": 1}, []), Release(EPOCH, 2, part))

    scene.submits(2, Call("pair", CODE, slots={"slot": 2}), parent=1)

    assert scene.told() == told


def test_what_was_given_back_twice_over_is_not_owed():
    """Run 2 had the first part again and gave it back once more: at least nothing is left."""
    scene = holding(slots=2).waits(1, 2, within=[1])
    scene.actor.says(Credit(2))
    scene.submits(3, Call("pair", CODE, slots={"slot": 2}))
    parts = [Release(EPOCH, 2, {"slot": 2}), Release(EPOCH, 2, {"slot": 2})]
    scene.actor.says(Credit(0), Occupy(EPOCH, 2, 1, {"db": 1}, []), *parts)

    scene.submits(2, Call("pair", CODE, slots={"slot": 2}), parent=1)

    assert scene.told() == []


def test_a_named_call_that_waits_for_its_slot_is_in_no_circle_with_its_own_turn():
    named = Environment("named", "Counter", CODE, named=Named("default", "n", "Counter", 0))
    scene = Scene(slots=1).submits(1, Call("enter", b"", "", named))
    scene.actor.says(Credit(1), Release(EPOCH, 1))
    scene.submits(2)

    scene.actor.says(Credit(0), Await(EPOCH, 1, -1))

    assert scene.told() == []


def test_who_has_a_part_and_a_turn_and_waits_for_the_rest_is_in_no_circle_with_itself():
    boxed = Call("method", b"", "work", BOXED, slots={"slot": 2})
    scene = Scene(slots=2, free=0)
    scene.actor.says(Credit(2, 0, 1, {}))
    scene.submits(1, boxed)
    scene.actor.says(Credit(1, 0, 0, {"id": 0}), Release(EPOCH, 1, {"slot": 1}))
    scene.submits(2)

    scene.actor.says(Credit(0, 0, 0, {"id": 0}), Await(EPOCH, 1, -1))

    assert scene.told() == []


def beat(free, *tokens, parts=(), turns=None):
    """Say with a heartbeat what runs have that gave back a part of their slots."""
    return ActorBeat(
        Credit(free, 0, 0, turns or {}),
        1,
        {},
        [(EPOCH, token) for token in tokens],
        parts=[((EPOCH, token), slots) for token, slots in parts],
    )


WIDE = Call("wide", CODE, slots={"slot": 2})


def keeping_a_part(*, slots=2):
    """Let run 1 have the limit, give back one of two slots, and run 2 wait for the limit there."""
    scene = Scene("db=1", slots=slots).submits(1, WIDE)
    scene.actor.says(
        Occupy(EPOCH, 1, 1, {"db": 1}, []), Credit(slots - 1), Release(EPOCH, 1, {"slot": 1})
    )
    scene.submits(2)
    scene.actor.says(Occupy(EPOCH, 2, 1, {"db": 1}, []))
    return scene


@pytest.mark.parametrize(("kept", "told"), [(1, [(2, 1)]), (0, [])])
def test_what_is_left_of_a_part_that_was_given_back_is_kept(kept, told):
    """Run 1 waits for a call that needs a slot: of two the runs keep both, or one."""
    scene = keeping_a_part().submits(3, parent=1)
    scene.actor.says(beat(0, 1, 2, parts=[(1, {"slot": kept})]))
    scene.actor.says(Await(EPOCH, 1, 9, 1, [(3, 3)], 1, [1]))

    assert scene.told() == told


def test_a_run_that_has_again_what_it_gave_back_keeps_it():
    scene = holding(slots=1).waits(1, 3, within=[1]).submits(2)
    scene.actor.says(Release(EPOCH, 2, {"slot": 1}), Occupy(EPOCH, 2, 1, {"db": 1}, []))
    scene.submits(3, parent=1)
    assert scene.told() == []

    scene.actor.says(beat(0, 1, 2))

    assert scene.told() == [(2, 1)]


@pytest.mark.parametrize(("slots", "told"), [({"slot": 0}, []), (None, [(2, 1)])])
def test_a_started_broker_hears_what_is_left_of_a_part(slots, told):
    """Found by thought: it took each run for one that has all, and told of a circle of none."""
    scene = Scene("db=1", slots=1, free=0).submits(1).submits(2)
    scene.actor.greets(
        structs.replace(
            scene.actor.hello,
            holding=[
                Holding(1, 1, (EPOCH - 1, 1), "released", [HeldLimits(1, {"db": 1}, True)]),
                Holding(1, 2, (EPOCH - 1, 2), "running", [HeldLimits(1, {"db": 1}, False)], slots),
            ],
        )
    )
    scene.submits(3)
    scene.actor.says(Await(EPOCH - 1, 1, 9, 1, [(3, 3)], 1, [1]))

    assert scene.told() == told


@pytest.mark.parametrize(
    ("lacking", "told"), [({"slot": 1}, []), ({"slot": 2}, [(2, 1)]), (None, [])]
)
def test_a_run_that_waits_for_a_part_lacks_no_more_than_that(lacking, told):
    """Run 1 kept one of three slots, run 2 waits for its limit, and run 3 will end."""
    scene = Scene("db=1", slots=3).submits(1, Call("wide", CODE, slots={"slot": 3}))
    scene.actor.says(Occupy(EPOCH, 1, 1, {"db": 1}, []), Credit(2), Release(EPOCH, 1, {"slot": 2}))
    scene.submits(2).submits(3)
    scene.actor.says(Occupy(EPOCH, 2, 1, {"db": 1}, []), beat(0, 1, 2, 3, parts=[(1, {"slot": 1})]))

    scene.actor.says(Await(EPOCH, 1, -1, within=[1], slots=lacking))

    assert scene.told() == told


def test_a_run_that_waits_for_less_than_it_had_lacks_no_more_than_that():
    """It gave back one of two slots for good, and then all for a while."""
    scene = keeping_a_part()
    scene.actor.says(Credit(1), Release(EPOCH, 1))

    scene.actor.says(Credit(0), Await(EPOCH, 1, -1, within=[1], slots={"slot": 1}))

    assert scene.told() == []


def inside(*given_back):
    """Let run 1 be in a box that takes one, and wait for a call that is to be in the same one."""
    boxed = Call("method", b"", "work", BOXED)
    scene = Scene(slots=2, free=0)
    scene.actor.says(Credit(2, 0, 1, {}))
    scene.submits(1, boxed)
    scene.actor.says(Credit(1, 0, 0, {"id": 0}))
    scene.submits(2, boxed, parent=1)
    scene.actor.says(*given_back, Await(EPOCH, 1, 9, 1, [(2, 2)], 1, []))
    return scene


def test_a_run_that_gave_back_a_part_of_its_slots_keeps_its_turn():
    assert inside(Release(EPOCH, 1, {"slot": 1})).told() == [(1, 9)]


def test_a_run_that_released_nothing_keeps_its_turn():
    assert inside().told() == [(1, 9)]


def holding_the_room(*, room=0, boxed=BOXED, other=OTHER):
    """Let run 1 keep a limit and wait for a call, and run 2 wait for it in an environment."""
    scene = holding(slots=2).waits(1, 2, within=[1])
    scene.actor.says(Credit(2, 0, 1))
    scene.submits(3, Call("method", b"", "work", boxed))
    scene.actor.says(Credit(1, 0, room, {"id": 0}), Occupy(EPOCH, 2, 1, {"db": 1}, []))
    return scene.submits(2, Call("method", b"", "work", other), parent=1)


def test_the_place_of_an_environment_in_which_somebody_waits_closes_a_circle():
    assert holding_the_room().told() == [(2, 1)]


def test_room_for_one_more_environment_is_a_way_out():
    scene = holding_the_room(room=1)

    assert [a.task for a in scene.actor.takes(Assign)] == [1, 3, 2]
    assert scene.told() == []


def test_a_place_that_somebody_is_about_to_have_again_closes_none():
    """Who released its slots and waits for its environment will go on."""
    scene = holding(slots=3).waits(1, 2, within=[1])
    scene.actor.says(Credit(3, 0, 1))
    scene.submits(3, Call("method", b"", "work", BOXED))
    scene.actor.says(Credit(2, 0, 1), Release(EPOCH, 2))
    scene.submits(4, Call("method", b"", "work", Environment("third", "Third", CODE)))
    scene.actor.says(Credit(1, 0, 0, {"third": 0}), Occupy(EPOCH, 3, 1, {"db": 1}, []))
    scene.submits(2, Call("method", b"", "work", OTHER), parent=1)

    assert scene.told() == []


def out_of_its_box(places, *beside, turns=0):
    """Let run 1 wait to be in its box again, and have the limit for which run 2 waits elsewhere."""
    scene = Scene("db=1", slots=2, free=0, places=places)
    scene.actor.says(Credit(2, 0, 1))
    scene.submits(1, Call("method", b"", "work", BOXED))
    scene.actor.says(Occupy(EPOCH, 1, 1, {"db": 1}, []), Release(EPOCH, 1), Credit(2, 0, 1))
    scene.submits(2, Call("method", b"", "work", OTHER))
    assert [a.task for a in scene.actor.takes(Assign)] == [1, 2]
    waits = Await(EPOCH, 1, 9, 0, [], 0, None), Occupy(EPOCH, 2, 1, {"db": 1}, [])
    scene.actor.says(Credit(0, 0, 0, {"other": turns}), *beside, *waits)
    return scene


@pytest.mark.parametrize(("places", "told"), [(0, []), (1, [(2, 1)]), (2, [])])
def test_a_run_whose_environment_had_to_leave_lacks_a_place_where_others_keep_all(places, told):
    assert out_of_its_box(places).told() == told


@pytest.mark.parametrize(("waiting", "told"), [(1, []), (2, [(3, 1)])])
def test_places_of_runs_that_have_copies_of_their_own_close_a_circle(waiting, told):
    """Each of them keeps one: where some go on, the call has a place once they end."""
    scene = holding(slots=3).waits(1, 2, within=[1])
    scene.actor.says(Credit(3, 0, 2))
    for number in (3, 4):
        scene.submits(number, Call("method", b"", "work", OWN))
    assert [a.task for a in scene.actor.takes(Assign)] == [1, 3, 4]
    asks = [Occupy(EPOCH, token, 1, {"db": 1}, []) for token in (2, 3)][:waiting]
    scene.actor.says(Credit(1, 0, 0), *asks)

    assert scene.submits(2, Call("method", b"", "work", OTHER), parent=1).told() == told


@pytest.mark.parametrize(("places", "told"), [(1, [(2, 1)]), (2, [])])
def test_a_run_lacks_no_turn_in_a_copy_of_its_own(places, told):
    """Another run of that environment is beside it; only its place may be gone."""
    scene = Scene("db=1", slots=2, free=0, places=places)
    scene.actor.says(Credit(2, 0, 1))
    scene.submits(1, Call("method", b"", "work", OWN))
    scene.actor.says(Occupy(EPOCH, 1, 1, {"db": 1}, []), Release(EPOCH, 1), Credit(2, 0, 1))
    scene.submits(2, Call("method", b"", "work", OWN))
    assert [a.task for a in scene.actor.takes(Assign)] == [1, 2]
    scene.actor.says(Credit(0, 0, places - 1), Await(EPOCH, 1, 9, 0, [], 0, None))
    scene.actor.says(Occupy(EPOCH, 2, 1, {"db": 1}, []))

    assert scene.told() == told


def claimed(slots, boxed=BOXED):
    """Let run 1 wait to be in its box again, run 2 elsewhere for the limit that run 3 has.

    Run 2 keeps the only place, and run 3 waits for a call.
    """
    scene = Scene("db=1", slots=slots, free=0, places=1)
    scene.actor.says(Credit(3, 0, 1))
    scene.submits(1, Call("method", b"", "work", boxed))
    scene.actor.says(Credit(2, 0, 1), Release(EPOCH, 1))
    scene.submits(2, Call("method", b"", "work", OTHER)).submits(3).submits(4, parent=3)
    assert [a.task for a in scene.actor.takes(Assign)] == [1, 2, 3]
    scene.actor.says(Credit(0, 0, 0, {"other": 0}), Occupy(EPOCH, 3, 1, {"db": 1}, []))
    scene.actor.says(Occupy(EPOCH, 2, 1, {"db": 1}, []), Await(EPOCH, 1, 9, 0, [], 0, None))
    scene.actor.says(Release(EPOCH, 3), Await(EPOCH, 3, 9, 1, [(4, 4)], 1, [1]))
    return scene


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize(("slots", "told"), [(2, [(3, 9)]), (3, [])])
def test_a_slot_that_a_run_is_to_have_again_is_no_way_out_for_a_call(slots, told, concurrency):
    assert claimed(slots, structs.replace(BOXED, concurrency=concurrency)).told() == told


def test_a_run_whose_environment_had_to_leave_may_have_the_place_of_an_idle_one():
    assert out_of_its_box(1, Release(EPOCH, 2), turns=1).told() == []


def test_a_copy_elsewhere_beside_which_there_may_be_none_is_no_way_out():
    single = Environment("id", "Box", CODE, reuse=Reuse(replicas_max=1))
    scene = holding_the_room(boxed=single, other=single)
    other = scene.talk.actor(12, name="host/1")
    other.says(Credit(1, 0, 1))

    assert scene.told() == [(2, 1)]


@pytest.mark.parametrize(("state", "told"), [("worn", [(2, 1)]), ("warm", [])])
def test_a_copy_that_takes_no_more_calls_until_it_is_left_closes_a_circle(state, told):
    """Turns are free in it, but it has taken `max_tasks`, and there may be no other copy."""
    place = Environment("id", "Box", CODE, concurrency=2, reuse=Reuse(replicas_max=1, max_tasks=1))
    scene = holding_the_room(boxed=place, other=place)

    scene.actor.says(ActorBeat(Credit(1, 0, 0, {"id": 0}), 1, {}, HELD, {"id": state}))

    assert scene.told() == told


def test_what_was_said_of_an_earlier_copy_closes_no_circle():
    place = Environment("id", "Box", CODE, concurrency=2, reuse=Reuse(replicas_max=1, max_tasks=1))
    scene = holding_the_room(boxed=place, other=place)
    scene.actor.says(ActorBeat(Credit(1, 0, 0, {"id": 0}), 1, {}, HELD, {"id": "worn"}))

    scene.actor.says(Entered(place, 0.1))

    assert scene.told() == []


@pytest.mark.parametrize(
    ("own", "of_call", "told"), [(1, 1, []), (2, 1, [(1, 9)]), (1, 2, [(1, 9)])]
)
def test_as_many_turns_are_kept_as_a_call_takes(own, of_call, told):
    """A sync method is alone in its environment, by taking all of its turns."""
    place = Environment("id", "Box", CODE, concurrency=2)
    scene = Scene(slots=2, free=0)
    scene.actor.says(Credit(2, 0, 1, {}))
    scene.submits(1, Call("method", b"", "work", structs.replace(place, turns=own)))
    scene.actor.says(Credit(1, 0, 0, {"id": 2 - own}))
    scene.submits(2, Call("method", b"", "work", structs.replace(place, turns=of_call)), parent=1)
    scene.actor.says(Await(EPOCH, 1, 9, 1, [(2, 2)], 1, []))

    assert scene.told() == told
