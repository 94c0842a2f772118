"""Named actors in an actor's core: turns kept to the end, checkpoints, leaving when told to."""

import pytest
from msgspec import structs

from tests.actor.broker_end import BLOB_HASH, CODE, EPOCH, connected, environment, make_core
from wire.messages import Credit, Leave, Outcome, Resides, Restore
from wire.parts import Call, Environment, Failure, Held, Named

ID = "Counter:1@default/clicks#1"


@pytest.fixture
def end():
    return connected(make_core(slots=2))


def call(*, concurrency=1, method="incr"):
    named = Named("default", "clicks", "Counter:1")
    entered = Environment(ID, "Counter", BLOB_HASH, {}, concurrency, named=named)
    return Call("incr", method=method, environment=entered)


def entered(end, template=None):
    """Let a call enter the actor and end; return the slot of its template."""
    template = end.template(call()) if template is None else template
    token = end.assign(template)
    end.carry()
    warm(end)
    end.finish(token)
    end.carry()
    return template


def warm(end):
    replica = named(end).by_id[ID]
    end.core.entered(min(replica.inside), replica.environment, 0.1, end.now)
    end.carry()


def outcomes(end):
    return [command for command in end.everything if isinstance(command, Outcome)]


def named(end):
    return end.core.mailbox.residents.named


def test_it_takes_no_room_from_other_environments(end):
    entered(end)

    assert end.credit == Credit(2, 0, 1)
    token = end.assign(end.template(environment=environment("e")))
    end.carry()
    assert end.started[token].evicts == ()
    assert ID in named(end).by_id


def test_turns_are_stated_only_while_not_all_are_free(end):
    template = entered(end)

    token = end.assign(template)
    end.carry()
    assert end.credit.turns == {ID: 0}
    end.finish(token)
    end.carry()

    assert end.credit.turns == {}


def test_a_second_call_waits_for_its_turn_and_others_do_not(end):
    template, plain = entered(end), end.template()
    first, second, other = end.assign(template), end.assign(template), end.assign(plain)
    end.carry()

    assert set(end.started) >= {first}
    assert second not in end.started
    assert other in end.started or other in end.rejected


def test_as_many_are_inside_as_it_has_turns():
    end = connected(make_core(slots=4))
    template = entered(end, end.template(call(concurrency=2)))

    tokens = [end.assign(template) for _ in range(3)]
    end.carry()

    assert set(end.started) == set(tokens[:2])


def test_a_released_run_keeps_its_turn_to_its_end(end):
    template = entered(end)
    first = end.assign(template)
    end.carry()
    assert end.core.release(first, None, end.now)
    end.carry()
    assert end.core.mailbox.held[first].held is Held.RELEASED
    assert end.credit == Credit(2, 0, 1, {ID: 0})

    second = end.assign(template)
    end.carry()
    assert second not in end.started
    end.finish(first)
    end.carry()

    assert second in end.started or second in end.rejected


def test_a_run_that_waited_has_its_slot_again_and_never_left(end):
    template = entered(end)
    token = end.assign(template)
    end.carry()
    end.core.release(token, None, end.now)
    end.core.reacquire(token, {"slot": 1}, end.now)
    end.carry()

    assert end.core.mailbox.held[token].held is Held.RUNNING
    assert not end.started[token].loads
    end.finish(token)
    end.carry()
    assert named(end).by_id[ID].inside == {}


def test_a_checkpoint_is_the_last_frame_of_its_outcome(end):
    template = entered(end)
    token = end.assign(template)
    end.carry()

    end.finish(token, checkpoint=b"one")
    end.carry()

    assert (outcomes(end)[-1].frames, outcomes(end)[-1].checkpoint) == (1, 1)


def test_a_checkpoint_that_is_the_same_again_is_not_said(end):
    template = entered(end)
    for _ in range(2):
        token = end.assign(template)
        end.carry()
        end.finish(token, checkpoint=b"one")
        end.carry()

    assert [outcome.checkpoint for outcome in outcomes(end)] == [0, 1, 0]
    assert outcomes(end)[-1].frames == 0


def test_it_begins_from_the_checkpoint_that_was_sent_ahead(end):
    template = end.template(call())
    end.say(Restore(ID, 7, 1), payloads=[b"state"])
    token = end.assign(template)
    end.carry()
    assert named(end).restored(ID) == b"state"
    warm(end)

    end.finish(token, checkpoint=b"more")
    end.carry()

    assert outcomes(end)[-1].checkpoint == 8


def test_a_checkpoint_that_came_with_a_canceled_call_is_where_the_next_begins(end):
    template = end.template(call())
    end.say(Restore(ID, 7, 1), payloads=[b"state"])
    end.stop(end.assign(template))
    end.assign(template)

    end.carry()

    assert named(end).restored(ID) == b"state"


def test_a_checkpoint_that_came_with_a_canceled_call_outlives_a_hand_back():
    end = connected(make_core(slots=1))
    plain, template = end.template(), end.template(call())
    end.say(Restore(ID, 7, 1), payloads=[b"state"])
    end.stop(end.assign(template))
    end.assign(plain)
    behind = end.assign(template)
    end.carry()
    assert set(end.rejected) == {behind}

    end.finish(next(iter(end.started)))
    end.carry()
    end.assign(template)
    end.carry()

    assert named(end).restored(ID) == b"state"


def test_a_checkpoint_is_where_the_next_begins_when_a_canceled_call_fails_to_enter(end):
    template = end.template(call())
    end.say(Restore(ID, 7, 1), payloads=[b"state"])
    token = end.assign(template)
    end.carry()
    end.stop(token)
    end.carry()
    end.started.pop(token)
    end.core.not_entered(token, Failure("environment-failed", "", "no licence"), end.now)
    end.carry()

    end.assign(template)
    end.carry()

    assert named(end).restored(ID) == b"state"


def test_a_checkpoint_that_is_said_again_to_one_that_is_here_is_ignored(end):
    template = entered(end)
    end.say(Restore(ID, 7, 1), payloads=[b"state"])
    end.assign(template)
    end.carry()
    end.finish(next(iter(end.started)))
    end.core.environment_lost(ID, end.now)

    end.assign(template)
    end.carry()

    assert named(end).restored(ID) is None


def test_a_checkpoint_is_void_when_its_call_is_handed_back(end):
    template = end.template(call())
    end.say(Restore(ID, 7, 1), payloads=[b"state"])
    token = end.assign(template)
    end.carry()
    end.started.pop(token)
    end.core.not_entered(token, Failure("environment-failed", "", "no licence"), end.now)
    end.carry()

    end.assign(template)
    end.carry()

    assert named(end).restored(ID) is None


def test_an_entry_that_failed_is_handed_back(end):
    template = end.template(call())
    token = end.assign(template)
    end.carry()
    end.started.pop(token)

    end.core.not_entered(token, Failure("environment-failed", "", "no licence"), end.now)
    end.carry()

    assert end.rejected == {token: "no licence"}
    assert named(end).by_id == {}


def test_a_new_session_is_told_who_is_here_behind_the_outcomes(end):
    template = entered(end)
    token = end.assign(template)
    end.carry()
    end.finish(token, checkpoint=b"one")
    end.turn()
    end.cut()
    end.everything.clear()

    end.core.broken(end.now)
    end.pass_time(1.0)
    end.carry()

    kinds = [type(command).__name__ for command in end.everything]
    assert kinds.index("Outcome") < kinds.index("Resides")
    ((told, frames),) = end.residents
    assert (told.generation, told.serial) == ((EPOCH, 1), 1)
    assert frames == [CODE, b"one"]


def test_nothing_is_granted_in_a_new_session_before_it_is_told_who_is_here(end):
    # A new generation was entered where the lost one still was, and ran in what that had become.
    entered(end)
    end.cut()
    end.everything.clear()

    end.core.broken(end.now)
    end.pass_time(1.0)
    end.carry()

    told, then = [one for one in end.everything if isinstance(one, Resides | Credit)]
    assert isinstance(told, Resides)
    assert then == Credit(2, 0, 1)


def test_a_new_session_is_told_which_calls_have_ended_and_not_which_only_entered(end):
    entry = Call("Counter", environment=call().environment)
    entered(end, end.template(entry))
    durable = structs.replace(call(), durable=True)
    for template in (end.template(call()), end.template(durable), end.template(call())):
        token = end.assign(template)
        end.carry()
        end.finish(token)
        end.carry()
    end.assign(end.template(call()))
    end.carry()
    end.cut()

    end.core.broken(end.now)
    end.pass_time(1.0)
    end.carry()

    ((told, _),) = end.residents
    assert told.ended == [(5, [(2, 2), (4, 4)])], "of the last one the inventory tells"


def test_one_that_was_being_entered_is_told_of_once_it_is(end):
    template = end.template(call())
    token = end.assign(template)
    end.carry()
    end.cut()
    end.core.broken(end.now)
    end.pass_time(1.0)
    end.carry()
    assert end.residents == []

    warm(end)
    end.finish(token)
    end.carry()

    assert [told.generation for told, _ in end.residents] == [(EPOCH, 1)]
    assert not named(end).has_untold


def test_it_leaves_when_nobody_is_inside_any_more(end):
    template = entered(end)
    token = end.assign(template)
    end.carry()

    end.say(Leave(ID, (EPOCH, 99), "it was killed"))
    end.carry()
    assert end.core.entering.take_evictions() == []
    end.finish(token)
    end.carry()

    assert end.core.entering.take_evictions() == [ID]
    assert named(end).by_id == {}


def test_an_order_to_leave_does_not_reach_a_later_generation(end):
    entered(end)

    end.say(Leave(ID, (EPOCH - 1, 99), "a newer one is elsewhere"))
    end.carry()

    assert not named(end).by_id[ID].is_leaving


def test_one_that_leaves_takes_no_more_calls(end):
    template = entered(end)
    token = end.assign(template)
    end.carry()
    end.say(Leave(ID, (EPOCH, 99)))
    late = end.assign(template)
    end.carry()

    assert late not in end.started
    end.finish(token)
    end.carry()
