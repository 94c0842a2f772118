"""Runs that give their slots back while they wait for a limit (protocol.md section 9.8, rule 7)."""

import pytest
from msgspec import structs

from tests.broker.conversation import CODE
from tests.broker.test_deadlock import Scene, holding
from tests.broker.test_limits import EPOCH, limited
from wire.errors import Code
from wire.limits import FULL, GIVE_BACK
from wire.messages import (
    Assign,
    Await,
    Beat,
    Credit,
    Entered,
    Occupied,
    Occupy,
    Reacquire,
    Release,
    Vacate,
)
from wire.parts import Call, Environment, HeldLimits, Holding, Named

BOXED = Environment("id", "Box", CODE)


def asks(token, ask=1, limits=None, within=(), *, may_give_back=True):
    return Occupy(EPOCH, token, ask, limits or {"db": 1}, list(within), may_give_back)


def told(scene, beats=2):
    """Return (code, run, ask) of what is said of waits within some heartbeats."""
    found = []
    for _ in range(4 * beats):
        scene.actor.says(Beat())
        scene.client.says(Beat())
        scene.talk.wait(0.25)
        found += [(t.code, t.number, t.ask) for t in scene.actor.takes(Occupied) if t.code]
    return found


def crowded(call=None, *, slots=1, others=(2,)):
    """Let run 1 have the limit and wait for call 9, and *others* ask for it in all the slots."""
    scene = holding("db=1", "api=1", slots=slots).waits(1, 9, within=[1])
    for number in others:
        scene.actor.says(Credit(1)).takes(Assign)
        scene.submits(number)
        scene.actor.says(Credit(0), asks(number))
    assert scene.talk.state(scene.client, others[-1]) == "assigned"
    return scene.submits(9, call, parent=1)


def test_who_waits_for_a_limit_gives_its_slot_back_to_the_call_that_its_holder_waits_for():
    """Three tasks that take the limit and wait for a call, on one slot: one was told deadlock."""
    scene = crowded()

    assert told(scene, beats=1) == [(GIVE_BACK, 2, 1)]
    scene.actor.takes(Assign)
    scene.actor.says(Credit(1), Release(EPOCH, 2, None, keep_limits=True))

    assert [assign.task for assign in scene.actor.takes(Assign)] == [9]
    scene.actor.says(Credit(0))
    assert told(scene) == []


def test_who_may_not_give_anything_back_is_told_of_the_circle():
    scene = holding(slots=1).waits(1, 9, within=[1]).submits(2)
    scene.actor.says(asks(2, may_give_back=False))

    assert told(scene.submits(9, parent=1)) == [(Code.DEADLOCK, 2, 1)]


def test_the_youngest_gives_back_and_the_next_only_where_that_is_not_enough():
    # Once each: what is on its way counts as given.
    assert told(crowded(slots=2, others=(2, 3))) == [(GIVE_BACK, 3, 1)]

    large = Call("work", CODE, slots={"slot": 2})
    assert told(crowded(large, slots=2, others=(2, 3))) == [(GIVE_BACK, 3, 1), (GIVE_BACK, 2, 1)]


def test_a_circle_of_limits_alone_is_one_where_slots_are_no_help():
    scene = Scene("db=1", "api=1").submits(1).submits(2)
    scene.actor.says(asks(1), asks(2, limits={"api": 1}))
    scene.actor.says(asks(1, 2, {"api": 1}, [1]), asks(2, 2, {"db": 1}, [1]))

    assert told(scene) == [(Code.DEADLOCK, 2, 2)]


def test_the_youngest_that_cannot_make_way_leaves_it_to_the_next():
    scene = holding(slots=2).waits(1, 9, within=[1]).submits(2).submits(3)
    scene.actor.says(Credit(2), asks(2)).says(Credit(0), asks(3, may_give_back=False))

    assert told(scene.submits(9, parent=1)) == [(GIVE_BACK, 2, 1)]


def test_who_has_the_limit_and_no_slot_has_it_from_the_next_that_waits():
    """Run 2 gave its slot back and has the limit since: run 3 has the slot, and waits for that."""
    scene = crowded()
    told(scene)
    scene.actor.takes(Assign)
    scene.actor.says(Credit(1), Release(EPOCH, 2, None, keep_limits=True))
    scene.actor.ends((EPOCH, 3)).ends((EPOCH, 1))
    assert Occupied(EPOCH, 2, 1) in scene.actor.takes(Occupied)
    scene.submits(4)
    scene.actor.says(Credit(1))
    assert [assign.task for assign in scene.actor.takes(Assign)][-1:] == [4]
    scene.actor.says(Credit(0), asks(4), Await(EPOCH, 2, -1, within=[1]))

    assert told(scene) == [(GIVE_BACK, 4, 1)]


@pytest.mark.parametrize(
    "said",
    [
        # It gave up in that moment, and asks anew.
        [Vacate(EPOCH, 2, 1)],
        # Another wait of it was over, for which it had given back.
        [Release(EPOCH, 2, None, keep_limits=True), Reacquire(EPOCH, 2)],
    ],
)
def test_who_has_its_slot_again_is_told_again(said):
    scene = crowded()
    scene.actor.says(asks(2, 7, {"api": 1}))  # It has something by which the broker knows it.
    assert told(scene) == [(GIVE_BACK, 2, 1)]
    scene.actor.says(*said, asks(2, 2 if isinstance(said[0], Vacate) else 1))

    (again,) = told(scene)
    assert again[:2] == (GIVE_BACK, 2)


def test_a_new_session_knows_of_nothing_that_was_told():
    scene = crowded()
    told(scene)
    limits = [HeldLimits(1, {"db": 1}, True, [])], [HeldLimits(1, {"db": 1}, False, [], True)]
    holds = [
        Holding(1, 1, (EPOCH, 1), "released", limits[0]),
        Holding(1, 2, (EPOCH, 2), "running", limits[1]),
    ]
    scene.actor.greets(structs.replace(scene.actor.hello, holding=holds))
    scene.actor.says(Credit(0), Await(EPOCH, 1, 9, 1, [(9, 9)], 1, [1]))

    assert told(scene) == [(GIVE_BACK, 2, 1)]


def test_a_started_broker_hears_who_may_give_back():
    scene = Scene("db=1", slots=1, free=0).submits(1).submits(2)
    limits = [HeldLimits(1, {"db": 1}, True, [])], [HeldLimits(1, {"db": 1}, False, [], True)]
    holds = [
        Holding(1, 1, (EPOCH - 1, 1), "released", limits[0]),
        Holding(1, 2, (EPOCH - 1, 2), "running", limits[1]),
    ]
    scene.actor.greets(structs.replace(scene.actor.hello, holding=holds))
    scene.submits(3)
    scene.actor.says(Await(EPOCH - 1, 1, 9, 1, [(3, 3)], 1, [1]))

    assert told(scene) == [(GIVE_BACK, 2, 1)]


def test_a_turn_is_given_back():
    scene = holding(slots=3).waits(1, 9, within=[1])
    scene.actor.says(Credit(2, 0, 1))
    scene.submits(2, Call("work", b"", "work", BOXED))
    scene.actor.says(Entered(BOXED, 0.1), Credit(1, 0, 0, {"id": 0}), asks(2))

    assert told(scene.submits(9, Call("work", b"", "work", BOXED), parent=1)) == [(GIVE_BACK, 2, 1)]


def test_the_turn_in_a_named_actor_is_not():
    """It is kept to the end of the run, also while that is released."""
    named = Environment("named", "Counter", CODE, named=Named("default", "c", "Counter", 0))
    scene = Scene("db=1", slots=3).submits(1, Call("enter", b"", "", named))
    scene.actor.ends((EPOCH, 1))
    scene.submits(2).submits(3, Call("incr", b"", "incr", named))
    scene.actor.says(Credit(2), asks(2)).says(asks(3)).says(
        Credit(2, 0, 0, {"named": 0}), Release(EPOCH, 2)
    )
    scene.submits(9, Call("incr", b"", "incr", named), parent=2)
    scene.actor.says(Await(EPOCH, 2, 9, 1, [(9, 9)], 1, [1]))

    assert told(scene) == [(Code.DEADLOCK, 3, 1)]


# ---------------------------------------------------------------------- at once or not at all


def test_a_try_has_what_is_free_and_waits_for_nothing():
    talk = limited("db=1")
    actor = talk.actor(free=3)
    talk.client().submits(1).submits(2).submits(3)

    actor.says(Occupy(EPOCH, 1, 1, {"db": 1}, [], False, True))
    actor.says(Occupy(EPOCH, 2, 1, {"db": 1}, [], False, True))
    assert [(t.number, t.code) for t in actor.takes(Occupied)] == [(1, ""), (2, FULL)]

    actor.says(Occupy(EPOCH, 3, 1, {"db": 1}, []), Vacate(EPOCH, 1, 1))
    assert [(t.number, t.code) for t in actor.takes(Occupied)] == [(3, "")]


def test_a_try_overtakes_nobody_who_waits():
    talk = limited("db=2")
    actor = talk.actor(free=3)
    talk.client().submits(1).submits(2).submits(3)
    actor.says(Occupy(EPOCH, 1, 1, {"db": 1}, []), Occupy(EPOCH, 2, 1, {"db": 2}, []))

    actor.says(Occupy(EPOCH, 3, 1, {"db": 1}, [], False, True))

    assert [(t.number, t.code) for t in actor.takes(Occupied)] == [(1, ""), (3, FULL)]


def test_nobody_is_canceled_for_a_try_in_vain():
    talk = limited("db=1:strategy=cancel-in-progress", "api=1:strategy=cancel-newest")
    actor = talk.actor(free=2)
    client = talk.client().submits(1).submits(2)
    for name in ("db", "api"):
        actor.says(Occupy(EPOCH, 1, 1 + len(name), {name: 1}, []))
        actor.says(Occupy(EPOCH, 2, 1 + len(name), {name: 1}, [], False, True))

    codes = [(t.number, t.code) for t in actor.takes(Occupied)]
    assert codes == [(1, ""), (2, FULL)] * 2
    assert [talk.state(client, number) for number in (1, 2)] == ["assigned", "assigned"]
