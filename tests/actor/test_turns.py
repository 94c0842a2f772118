"""Calls that share the slot of their replica, as the actor grants and starts them."""

from msgspec import structs

from actor.holding.reacquiring import Reply
from tests.actor.broker_end import HASH, connected, environment, make_core, warm
from tests.actor.test_reacquire import answers, ask, begun, finish, release
from wire.parts import Call, Named

SHARED = environment("e", 4)
ALONE = structs.replace(SHARED, turns=4)
METHOD = Call("m", HASH, environment=SHARED)


def inside(**settings):
    """Return an actor with one call inside, its template, and the token."""
    end = connected(make_core(**settings))
    shared = end.template(METHOD)
    return end, shared, begun(end, shared)


def counted(end):
    """Return free slots, turns, and who has a slot already, as the broker counts them."""
    said = end.core.said
    return said.free, said.turns, said.shared


def test_calls_of_one_replica_run_at_once_in_one_slot():
    end, shared, _ = inside()
    assert counted(end) == (0, {"e": 3}, ("e",))

    for _ in range(3):
        end.assign(shared)
    end.carry()

    assert len(end.started) == 4
    assert counted(end)[:2] == (0, {"e": 0})


def test_the_slot_is_free_when_the_last_one_leaves():
    end, shared, first = inside()
    second = begun(end, shared)

    finish(end, first)
    assert counted(end) == (0, {"e": 3}, ("e",))
    finish(end, second)

    assert counted(end) == (1, {"e": 4}, ())


def test_while_it_is_entered_no_turn_is_granted_and_who_comes_waits_for_that_alone():
    end = connected(make_core())
    shared = end.template(METHOD)
    end.assign(shared)
    end.carry()

    end.assign(shared)
    end.carry()
    assert len(end.started) == 1
    assert counted(end)[1:] == ({"e": 0}, ("e",))
    warm(end.core, "e", end.now)
    end.carry()

    assert len(end.started) == 2
    assert counted(end)[1:] == ({"e": 2}, ("e",))


def test_one_that_must_be_alone_waits_for_all_turns_and_has_a_slot_of_its_own():
    end, _, first = inside(slots=2, prefetch=1)
    alone = end.template(Call("a", HASH, environment=ALONE))
    end.assign(alone)
    end.carry()
    assert len(end.started) == 1

    finish(end, first)

    assert len(end.started) == 1
    assert counted(end) == (1, {"e": 0}, ())


def test_a_release_gives_back_the_turn_and_the_slot_only_as_the_last():
    end, shared, first = inside()
    second = begun(end, shared)

    release(end, first)
    assert counted(end)[:2] == (0, {"e": 3})
    release(end, second)

    assert counted(end) == (1, {"e": 4}, ())


def test_who_reacquires_inside_a_busy_replica_needs_a_turn_alone():
    end, shared, first = inside()
    begun(end, shared)
    release(end, first)

    ask(end, first)

    assert answers(end) == [(first, Reply.GRANTED)]
    assert counted(end) == (0, {"e": 2}, ("e",))


def test_nobody_shares_a_slot_for_which_a_run_waits():
    end, shared, first = inside()
    finish(end, first)
    plain = end.template(Call("f", HASH))
    waiting = begun(end, plain)
    release(end, waiting)
    begun(end, shared)

    ask(end, waiting)
    assert counted(end) == (0, {"e": 3}, ())
    token = end.assign(shared)
    end.carry()

    assert end.rejected == {token: "no slot is left for it here"}


def test_who_waits_for_a_turn_takes_no_slot_and_one_of_those_that_may_wait_ahead():
    end = connected(make_core(slots=2, prefetch=1))
    busy = end.template(Call("a", HASH, environment=environment("e")))
    begun(end, busy)

    waiting = end.assign(busy)
    end.carry()
    assert (end.credit.free, end.credit.ahead) == (1, 0)
    plain = end.assign(end.template(Call("f", HASH)))
    end.carry()

    # It was assigned and handed back at once, over and over, while the other one was counted as
    # one that has its slot.
    assert not end.rejected
    assert plain in end.started
    assert waiting not in end.started
    assert (end.core.said.free, end.core.said.ahead) == (0, 0)


def test_nobody_shares_a_slot_for_which_a_task_waits_in_the_mailbox():
    end, shared, first = inside(prefetch=1)
    plain = end.template(Call("f", HASH))
    end.assign(plain)
    end.carry()
    assert end.core.said.shared == ()

    token = end.assign(shared)
    end.carry()
    assert token in end.rejected
    finish(end, first)

    assert len(end.started) == 1


def test_a_call_that_comes_when_the_last_has_left_takes_the_slot_anew():
    end, shared, first = inside()
    end.assign(shared)
    end.assign(shared)

    end.finish(first)
    end.carry()

    assert len(end.started) == 2
    assert counted(end) == (0, {"e": 2}, ("e",))


def test_a_part_given_back_is_the_slot_and_not_the_turn():
    end, _, first = inside()

    release(end, first, {"slot": 1})

    assert counted(end) == (1, {"e": 3}, ())


def test_calls_of_a_named_actor_share_a_slot_as_well():
    named = structs.replace(SHARED, named=Named("d", "n", "i"))
    end = connected(make_core())
    shared = end.template(Call("m", HASH, environment=named))
    first = end.assign(shared)
    end.carry()
    end.core.entered(first, named, 0.1, end.now)
    end.carry()

    end.assign(shared)
    end.carry()

    assert len(end.started) == 2
    assert counted(end) == (0, {"e": 2}, ("e",))


def test_a_worn_replica_takes_no_more_than_it_may():
    worn = structs.replace(SHARED, reuse=structs.replace(SHARED.reuse, max_tasks=2))
    end = connected(make_core())
    shared = end.template(Call("m", HASH, environment=worn))

    begun(end, shared)

    assert end.core.said.turns == {"e": 1}
