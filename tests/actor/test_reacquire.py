"""A released task holds its slots again: who goes first, what is stated, how a wait ends."""

import pytest

from actor.holding.reacquiring import Reply
from tests.actor.broker_end import HASH, connected, environment, make_core, warm
from wire.messages import Credit, Outcome, Reacquire, Reject, Release
from wire.parts import Call, Held, Status

ONE = {"slot": 1}


def begun(end, template=None):
    """Assign a task and let it start."""
    token = end.assign(template)
    end.carry()
    assert token in end.started
    warmed(end, token)
    return token


def warmed(end, token):
    assignment = end.started[token]
    if assignment.loads:
        warm(end.core, assignment.recipe.call.environment.id, end.now)
        end.carry()


def released(end, template=None):
    token = begun(end, template)
    release(end, token)
    return token


def release(end, token, typed=None):
    assert end.core.release(token, typed, end.now)
    end.carry()


def ask(end, token, slots=ONE, timeout_s=None):
    end.core.reacquire(token, slots, end.now, timeout_s=timeout_s)
    end.carry()


def finish(end, token):
    end.finish(token)
    end.carry()


def answers(end):
    """Return what those that asked were told since the last call."""
    told, end.answers = end.answers, []
    return [(answer.token, answer.reply) for answer in told]


def held(end, token):
    return end.core.mailbox.held[token].held


def test_a_free_slot_is_had_again_at_once():
    end = connected(make_core())
    token = released(end)
    assert end.credit.free == 1

    ask(end, token)

    assert answers(end) == [(token, Reply.GRANTED)]
    assert held(end, token) is Held.RUNNING
    assert end.credit.free == 0
    assert end.released == set()


def test_reacquire_and_the_credit_it_takes_stand_in_one_frame():
    end = connected(make_core())
    token = released(end)
    end.core.reacquire(token, ONE, end.now)
    end.turn()

    ((frame, _),) = end.to_broker

    assert [type(command) for command in frame.commands] == [Credit, Reacquire]
    assert frame.commands[0].free == 0


def test_who_reacquires_goes_ahead_of_the_mailbox():
    end = connected(make_core(prefetch=2))
    first = released(end)
    second = begun(end)
    third = end.assign()
    ask(end, first)
    assert answers(end) == []

    finish(end, second)

    assert answers(end) == [(first, Reply.GRANTED)]
    assert third not in end.started
    finish(end, first)
    assert third in end.started


def test_they_get_their_slots_in_the_order_of_asking():
    end = connected(make_core())
    first, second, third = released(end), released(end), begun(end)
    ask(end, second)
    ask(end, first)

    finish(end, third)
    finish(end, second)

    assert [token for token, _ in answers(end)] == [second, first]


def test_what_is_waited_for_is_not_stated_free():
    end = connected(make_core(slots=2))
    wide = end.template(Call("wide", HASH, slots={"slot": 2}))
    first = released(end, wide)
    begun(end, end.template())
    assert end.available == 1

    ask(end, first, {"slot": 2})

    assert end.credit.free == 0
    assert answers(end) == []


def test_an_assignment_that_was_on_its_way_is_handed_back_where_nothing_may_wait():
    end = connected(make_core())
    first = released(end)
    crossing = end.assign()

    end.core.reacquire(first, ONE, end.now)
    end.carry()

    assert answers(end) == [(first, Reply.GRANTED)]
    assert end.rejected == {crossing: "no slot is left for it here"}
    assert not any(reject.bars for reject in end.everything if isinstance(reject, Reject))
    assert (end.credit.free, end.credit.ahead) == (0, 0)


def test_an_assignment_that_was_on_its_way_waits_where_one_may():
    end = connected(make_core(prefetch=1))
    first = released(end)
    crossing = end.assign()

    end.core.reacquire(first, ONE, end.now)
    end.carry()

    assert answers(end) == [(first, Reply.GRANTED)]
    assert held(end, crossing) is Held.WAITING
    finish(end, first)
    assert crossing in end.started


def test_a_wait_ends_with_its_time_and_leaves_the_task_released():
    end = connected(make_core())
    first, second = released(end), begun(end)
    ask(end, first, timeout_s=1.0)
    assert end.core.deadline() <= end.now + 1.0

    end.pass_time(1.0)
    end.carry()

    assert answers(end) == [(first, Reply.TIMEOUT)]
    assert held(end, first) is Held.RELEASED
    finish(end, second)
    assert end.credit.free == 1


def test_a_stop_ends_the_wait():
    end = connected(make_core())
    first = released(end)
    begun(end)
    ask(end, first)

    end.stop(first)
    end.carry()

    assert answers(end) == [(first, Reply.CANCELED)]
    ask(end, first)
    assert answers(end) == [(first, Reply.CANCELED)]


def test_a_run_that_returns_while_it_waits_waits_no_longer():
    end = connected(make_core())
    first, second = released(end), begun(end)
    ask(end, first)

    finish(end, first)
    finish(end, second)

    assert answers(end) == [(first, Reply.ENDED)]
    assert {first, second} == set(end.finished)
    assert end.credit.free == 1


def test_a_wait_that_is_withdrawn_takes_nothing():
    end = connected(make_core())
    first, second = released(end), begun(end)
    ask(end, first)

    end.core.withdraw(first, end.now)
    end.carry()
    finish(end, second)

    assert answers(end) == [(first, Reply.CANCELED)]
    assert end.credit.free == 1
    assert held(end, first) is Held.RELEASED


def test_a_drain_lets_it_proceed():
    end = connected(make_core())
    first, second = released(end), begun(end)
    ask(end, first)

    end.core.drain(end.now)
    finish(end, second)

    assert answers(end) == [(first, Reply.GRANTED)]
    finish(end, first)
    end.acknowledge()
    end.carry()
    assert end.left


def test_the_inventory_lists_it_as_released_until_it_has_its_slot():
    end = connected(make_core())
    first, second = released(end), begun(end)
    ask(end, first)
    assert held(end, first) is Held.RELEASED

    end.cut()
    end.restart()
    end.pass_time(1.0)
    end.carry()
    finish(end, second)

    assert held(end, first) is Held.RUNNING
    assert end.is_open
    assert end.credit.free == 0


def test_slots_and_turn_come_together():
    end = connected(make_core(slots=2))
    a = end.template(Call("a", HASH, environment=environment("a")))
    first = released(end, a)
    second = begun(end, a)

    ask(end, first)
    assert answers(end) == []
    assert end.credit.turns == {"a": 0}

    finish(end, second)
    assert answers(end) == [(first, Reply.GRANTED)]
    assert end.core.mailbox.held[first].is_inside
    assert not end.core.mailbox.held[first].loads


def test_an_environment_that_was_evicted_meanwhile_is_loaded_again():
    end = connected(make_core())
    a = end.template(Call("a", HASH, environment=environment("a")))
    b = end.template(Call("b", HASH, environment=environment("b")))
    first = released(end, a)
    second = begun(end, b)
    assert set(end.core.mailbox.residents.by_id) == {"b"}
    ask(end, first)

    finish(end, second)

    (answer,) = end.answers
    assert (answer.reply, answer.loads, answer.evicts) == (Reply.GRANTED, True, ("b",))
    assert set(end.core.mailbox.residents.by_id) == {"a"}


def test_nobody_of_the_mailbox_takes_the_turn_that_is_waited_for():
    end = connected(make_core(slots={"slot": 1, "io": 1}, prefetch=2))
    plain = end.template()
    a = end.template(Call("a", HASH, environment=environment("a")))
    other = end.template(Call("io", HASH, environment=environment("a"), slots={"io": 1}))
    first = released(end, a)
    second = begun(end, plain)
    ask(end, first)

    taker = end.assign(other)
    end.carry()
    assert taker not in end.started

    finish(end, second)
    assert answers(end) == [(first, Reply.GRANTED)]


# --- parts


def test_a_part_that_was_given_back_is_had_again():
    end = connected(make_core(slots={"slot": 1, "gpu": 2}))
    template = end.template(Call("g", HASH, slots={"slot": 1, "gpu": 2}))
    token = begun(end, template)
    release(end, token, {"gpu": 1})
    assert end.credit.typed == {"gpu": 1}
    assert end.released == {token}  # A release of a part is said as well.

    ask(end, token, {"slot": 1, "gpu": 2})

    assert answers(end) == [(token, Reply.GRANTED)]
    assert end.credit.typed == {"gpu": 0}
    assert not [command for command in end.everything if isinstance(command, Reacquire)]


def test_those_that_kept_a_part_wait_in_no_circle():
    end = connected(make_core(slots={"slot": 0, "a": 2, "b": 2}))
    one = begun(end, end.template(Call("one", HASH, slots={"a": 2, "b": 1})))
    release(end, one, {"a": 1, "b": 1})
    two = begun(end, end.template(Call("two", HASH, slots={"a": 1, "b": 2})))
    release(end, two, {"a": 1})

    ask(end, one, {"a": 2, "b": 1})
    assert answers(end) == []
    ask(end, two, {"a": 1, "b": 2})

    # The one that fits goes, although the other asked first and needs the same.
    assert answers(end) == [(two, Reply.GRANTED)]
    finish(end, two)
    assert answers(end) == [(one, Reply.GRANTED)]


def test_who_kept_a_part_goes_ahead_of_who_holds_nothing():
    end = connected(make_core(slots={"slot": 1, "io": 1}))
    both = end.template(Call("both", HASH, slots={"slot": 1, "io": 1}))
    nothing = released(end, both)
    part = begun(end, both)
    release(end, part, {"io": 1})
    ask(end, nothing, {"slot": 1, "io": 1})
    assert answers(end) == []

    ask(end, part, {"slot": 1, "io": 1})

    assert answers(end) == [(part, Reply.GRANTED)]


def test_units_have_names_and_nobody_shares_one():
    core = make_core(slots={"slot": 2, "gpu": 2}, units={"gpu": ["0", "1"]})
    end = connected(core)
    template = end.template(Call("g", HASH, slots={"gpu": 1}))
    first, second = begun(end, template), begun(end, template)
    assert end.started[first].units == {"gpu": ("0",)}
    assert end.started[second].units == {"gpu": ("1",)}

    release(end, first)
    third = begun(end, template)
    ask(end, first, {"gpu": 1})
    finish(end, second)

    assert end.started[third].units == {"gpu": ("0",)}
    assert end.started[first].units == {"gpu": ("1",)}
    assert end.answers[-1].units == {"gpu": ("1",)}


def test_fifty_tasks_that_wait_for_one_another_end_on_one_slot():
    end = connected(make_core())
    chain = []
    for _ in range(50):
        chain.append(begun(end))
        release(end, chain[-1])

    for token in reversed(chain):
        ask(end, token)
        assert answers(end) == [(token, Reply.GRANTED)]
        finish(end, token)

    assert len(end.finished) == 50
    assert end.credit.free == 1
    assert len([c for c in end.everything if isinstance(c, Release)]) == 50
    assert len([c for c in end.everything if isinstance(c, Outcome)]) == 50


@pytest.mark.parametrize("status", [Status.RESULT, Status.FAILURE])
def test_who_is_not_here_is_told_so(status):
    end = connected(make_core())
    token = begun(end)
    end.finish(token, status)
    end.carry()

    ask(end, token)

    assert answers(end) == [(token, Reply.ENDED)]
