"""Which copy gets a burst of calls, and when is another one loaded for it?"""

import pytest

from broker.placing import replicas
from broker.placing.copies import Kind
from broker.placing.environments import KEPT_S
from tests.broker.conversation import CODE, Conversation
from tests.broker.test_environments import actors, call, enters, fails, passes, place, tokens
from wire import codec
from wire.messages import (
    ActorBeat,
    Assign,
    Bye,
    Cancel,
    Credit,
    Entered,
    Outcome,
    Reject,
    Result,
)
from wire.parts import Call, Status


@pytest.fixture
def talk():
    return Conversation(environment_retry_s=1.0)


def loaded(talk, client, load_s, run_s):
    """Let an environment be known: how long entering takes, and how long its tasks run."""
    environment = place(0, 9)
    client.submits(1, call=call(environment))
    first = talk.actor(11, name="host/0").says(Credit(1, 0, 1))
    [token] = tokens(first)
    first.says(Entered(environment, load_s))
    first.says(Outcome(*token, Status.RESULT, b"", 0, run_s), Credit(1, 0, 0, {"e": 1}))
    return environment, first, talk.actor(12, name="host/1").says(Credit(4, 0, 4))


def test_one_copy_serves_a_burst_that_is_over_sooner_than_another_would_be_there(talk):
    client = talk.client()
    environment, first, second = loaded(talk, client, load_s=3.0, run_s=0.1)

    client.submits(*range(2, 12), call=call(environment))

    assert len(first.takes(Assign)) == 1
    assert second.takes(Assign) == []


def test_a_burst_that_keeps_its_copy_busy_for_longer_spreads_at_once(talk):
    client = talk.client()
    environment, first, second = loaded(talk, client, load_s=3.0, run_s=1.0)

    client.submits(*range(2, 12), call=call(environment))

    assert len(first.takes(Assign)) == 1
    assert len(second.takes(Assign)) == 1


def test_what_has_waited_for_as_long_as_entering_takes_spills(talk):
    client = talk.client()
    environment, first, second = loaded(talk, client, load_s=3.0, run_s=0.1)
    client.submits(2, 3, call=call(environment))
    [token] = tokens(first)

    for _ in range(5):
        first.says(ActorBeat(Credit(0, 0, 0, {"e": 0}), 1, {}, [token]))
        second.says(ActorBeat(Credit(4, 0, 4), 1, {}, []))
        talk.wait(0.5)
    assert second.takes(Assign) == []
    passes(talk, 1.0, second)

    assert len(second.takes(Assign)) == 1


def beside_another(talk, load_s, *, before=lambda _: None):
    """Let an actor with E, which is entered in 1 s, begin to enter F, which takes *load_s*."""
    client = talk.client()
    environment, other = place(0, 9), place(0, 9, identity="f")
    before(environment)
    first = talk.actor(11, name="host/0").says(Credit(1, 0, 2))
    for number, one, took_s in ((1, environment, 1.0), (2, other, load_s)):
        client.submits(number, call=call(one), slot=number)
        [token] = tokens(first)
        first.says(Entered(one, took_s))
        first.says(Outcome(*token, Status.RESULT, b"", 0, 0.1))
        first.says(Credit(1, 0, 2, dict.fromkeys(("e", one.id), 1)))
    first.says(Credit(1, 0, 2, {"e": 1}))
    client.submits(3, call=call(other), slot=2)
    [token] = tokens(first)
    first.says(Credit(0, 0, 1, {"e": 0, "f": 0}))
    second = talk.actor(12, name="host/1").says(Credit(1, 0, 2))
    client.submits(4, call=call(environment), slot=1)
    return first, second


def test_nobody_waits_for_a_copy_whose_actor_is_to_enter_another_one_for_longer(talk):
    _, second = beside_another(talk, load_s=30.0)

    assert len(second.takes(Assign)) == 1


def test_nobody_waits_for_a_copy_that_hangs_though_all_others_are_late(talk):
    def hang(environment):
        beside = talk.actor(13, name="host/2").says(Credit(1, 0, 1))
        client = talk.client(2).submits(1, call=call(environment))
        fails(beside, *tokens(beside), credit=Credit(0, 0, 0, {"e": 0}))
        client.says(Cancel([1], False))
        passes(talk, 1.0, beside, client)

    _, second = beside_another(talk, load_s=30.0, before=hang)

    assert len(second.takes(Assign)) == 1


def test_of_more_copies_than_are_looked_at_nobody_says_that_all_are_late(talk):
    environment, count = place(0, 40), replicas.COPIES_LOOKED_AT_MAX
    for index in range(count + 1):
        actor = talk.actor(11 + index, name=f"host/{index}")
        enters(actor, environment, 1.0, free=0)
    client = talk.client().submits(1, call=call(environment))
    task = talk.task(client, 1)
    record = talk.broker.environments.find(task.template.shape)
    copies = list(record.copies.values())
    assert len(copies) == count + 1

    for copy in copies[:count]:
        copy.actor.entering_until = talk.now + 60.0

    assert replicas.wait_s(record, task, talk.now) == 1.0, "the last one may be free in a moment"


def test_who_waits_for_an_actor_that_enters_another_one_has_a_turn_before_it_spills(talk):
    first, second = beside_another(talk, load_s=0.8)

    passes(talk, 1.2, first, second)
    assert second.takes(Assign) == []
    passes(talk, 1.0, first, second)

    assert len(second.takes(Assign)) == 1


def test_what_waits_for_no_copy_spills_at_once(talk):
    client = talk.client()
    environment, first, second = loaded(talk, client, load_s=3.0, run_s=0.1)

    client.submits(2, 3, call=call(environment, 0.0))

    assert len(first.takes(Assign)) == 1
    assert len(second.takes(Assign)) == 1


def test_a_large_burst_for_an_environment_that_nobody_has_spreads_at_once(talk):
    found = actors(talk, 3)

    talk.client().submits(*range(1, 41), call=call(place(0, 3)))

    assert [len(actor.takes(Assign)) for actor in found] == [1, 1, 1]


@pytest.mark.parametrize("load_s", [1.0, 30.0])
def test_a_burst_for_an_environment_that_nobody_has_is_entered_once(talk, load_s):
    first, second = actors(talk, 2)

    talk.client().submits(1, 2, 3, call=call(place(0, 9)))
    passes(talk, load_s, first, second)

    assert sorted(len(actor.takes(Assign)) for actor in (first, second)) == [0, 1]


@pytest.mark.parametrize("late_s", [0.0, 0.02, 1.0])
def test_who_waited_for_a_load_does_not_load_as_well_when_that_is_done(talk, late_s):
    """A load that took a moment longer than the last one was followed by another, each time."""
    client = talk.client()
    environment, first, second = loaded(talk, client, load_s=3.0, run_s=0.1)
    first.says(Credit(1, 0, 1))
    client.submits(2, 3, call=call(environment), slot=0)
    assert (len(first.takes(Assign)), len(second.takes(Assign))) == (0, 1)
    passes(talk, 3.0, first, second)
    talk.wait(late_s)

    enters(second, environment, load_s=3.0, free=0)
    passes(talk, 2.5 - late_s, first, second)
    assert first.takes(Assign) == []
    passes(talk, 1.0, first, second)

    assert len(first.takes(Assign)) == 1


def test_more_than_a_first_load_takes_spreads_while_it_goes_on(talk):
    client = talk.client()
    first, second = actors(talk, 2)
    client.submits(1, 2, call=call(place(0, 9)))
    passes(talk, 2.0, first, second)
    found = len(first.takes(Assign)) + len(second.takes(Assign))

    # The load, 2 s old, is expected to take 4 s: that is 80 tasks of 50 ms.
    for number in range(3, 66):
        client.submits(number, call=call(place(0, 9)))
    assert (found, len(first.takes(Assign)), len(second.takes(Assign))) == (1, 0, 0)
    for number in range(66, 130):
        client.submits(number, call=call(place(0, 9)))

    assert sorted(len(actor.takes(Assign)) for actor in (first, second)) == [0, 1]


def beside_a_sibling(talk, load_s, *, kind="__main__.E", count=2):
    """Let another environment of the class be entered elsewhere, which took so long."""
    there = talk.actor(99, name="host/99")
    there.says(Entered(place(identity="sibling", kind=kind), load_s), Credit(0, 0, 0))
    return actors(talk, count), place(0, 9, identity="own", kind="__main__.E")


@pytest.mark.parametrize(
    ("load_s", "kind", "copies"),
    [
        (5.0, "__main__.E", [0, 1]),
        (0.01, "__main__.E", [1, 1]),
        (5.0, "other.E", [1, 1]),
        (5.0, "", [1, 1]),
    ],
)
def test_what_was_never_entered_is_expected_to_take_as_long_as_others_of_its_class(
    talk, load_s, kind, copies
):
    """40 tasks of 50 ms, which is more than the half second that it takes otherwise."""
    found, own = beside_a_sibling(talk, load_s, kind=kind)

    talk.client().submits(*range(1, 41), call=call(own))

    assert sorted(len(actor.takes(Assign)) for actor in found) == copies


def test_what_takes_longer_than_others_of_its_class_is_expected_to_take_as_long_again(talk):
    found, own = beside_a_sibling(talk, 1.0)
    talk.client().submits(1, 2, 3, call=call(own))

    passes(talk, 30.0, *found)

    assert sorted(len(actor.takes(Assign)) for actor in found) == [0, 1]


def test_what_was_entered_is_expected_to_take_as_long_as_it_did(talk):
    found, own = beside_a_sibling(talk, 5.0)
    enters(found[0], own, 0.5, free=0)

    talk.client().submits(*range(1, 41), call=call(own))

    assert len(found[1].takes(Assign)) == 1


def test_of_the_loads_of_a_class_each_counts_an_eighth():
    kind = Kind()

    for load_s in (8.0, 16.0):
        kind.entered(load_s)

    assert kind.load_s == 9.0


def test_a_class_is_forgotten_with_its_last_environment(talk):
    actor = talk.actor()
    actor.says(Entered(place(identity="a", kind="K"), 1.0), Credit(1, 0, 0, {"a": 1}))
    assert list(talk.broker.environments.kinds) == ["K"]

    actor.says(Bye("it leaves"))
    talk.broker.environments.prune(talk.now + 2 * KEPT_S)

    assert not talk.broker.environments.kinds


def test_a_burst_that_has_waited_for_actors_is_entered_once(talk):
    client = talk.client()
    client.submits(1, 2, 3, call=call(place(0, 9)))
    passes(talk, 30.0, client)

    first, second = actors(talk, 2)
    passes(talk, 2.0, first, second)

    assert sorted(len(actor.takes(Assign)) for actor in (first, second)) == [0, 1]


def test_what_waits_no_longer_than_it_says_waits_for_no_first_load(talk):
    first, second = actors(talk, 2)

    talk.client().submits(1, 2, call=call(place(0, 9), wait_s=1.0))
    passes(talk, 0.5, first, second)
    assert sorted(len(actor.takes(Assign)) for actor in (first, second)) == [0, 1]
    passes(talk, 1.0, first, second)

    assert sorted(len(actor.takes(Assign)) for actor in (first, second)) == [0, 1]


def test_an_environment_is_entered_where_no_other_has_to_give_way(talk):
    client = talk.client()
    full, empty = actors(talk, 2)
    other = place(identity="f")
    client.submits(1, call=call(other))
    [token] = tokens(full)
    enters(full, other)
    # That one is used last that has nothing loaded, and its credit is less.
    client.submits(2, call=Call("work", CODE), slot=1)
    tokens(empty)
    full.ends(token)
    full.says(Credit(2, 0, 1, {"f": 1}))
    empty.says(Credit(1, 0, 1))

    client.submits(3, call=call(place()), slot=2)

    assert (len(tokens(full)), len(tokens(empty))) == (0, 1)


def test_what_is_handed_back_once_its_environment_is_broken_ends_at_once():
    """It was queued, and tried again alone as often as the time between the tries allowed."""
    talk = Conversation(environment_failures_max=1)
    client = talk.client().submits(1, 2, call=call(place(is_fresh=True)))
    [actor] = actors(talk, 1)
    actor.says(Credit(2, 0, 2))
    failed, behind = tokens(actor)

    fails(actor, failed)
    actor.says(Reject(*behind, "one ahead of it was handed back", False))

    told = [codec.decode_failure(result.body) for result in client.takes(Result)]
    assert [failure.code for failure in told] == ["environment-failed"] * 2
    assert not tokens(actor)
