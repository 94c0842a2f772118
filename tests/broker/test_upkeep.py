"""Copies that are entered though no call needs them: at first, in place of lost ones, for free."""

import pytest
from msgspec import structs

from broker.placing import upkeep
from tests.broker.conversation import Conversation, attested
from tests.broker.test_environments import (
    FAILURE,
    about,
    actors,
    asked,
    call,
    ends,
    enters,
    place,
    tokens,
)
from tests.broker.test_scaling import host, scaled
from wire.labels import Comparator, Desire
from wire.messages import (
    Assign,
    Beat,
    Credit,
    Death,
    Evict,
    HostBeat,
    LabelsChanged,
    Outcome,
    Reject,
    Release,
)
from wire.messages import Template as TemplateMessage
from wire.parts import Status


@pytest.fixture
def talk():
    return Conversation(environment_retry_s=1.0)


def passes(talk, seconds, *peers):
    """Let time pass in which *peers* are heard, actors and hosts as well as clients."""
    for _ in range(round(seconds / 0.25)):
        talk.wait(0.25)
        for peer in peers:
            peer.says(HostBeat(peer.hello.actors) if hasattr(peer.hello, "actors_max") else Beat())


def has_nothing(actor, *, room=1):
    """State that every copy is gone."""
    actor.says(Credit(2, 0, room))


def used(talk, environment, count, *, with_client=False):
    """Let one call run where it is entered, and return all actors, its own the first."""
    client = talk.client().submits(1, call=call(environment))
    found = actors(talk, count)
    [token] = tokens(found[0])
    enters(found[0], environment)
    ends(found[0], token, environment)
    return [client, *found] if with_client else found


def beside_another(talk):
    """Have a second copy lacking, while the other actor has an idle copy of something else."""
    other = place(0, 1, identity="other")
    environment = place(2, 2)
    client = talk.client().submits(1, call=call(environment)).submits(2, call=call(other), slot=1)
    first, second = actors(talk, 2)
    [one], [two] = tokens(first), tokens(second)
    enters(first, environment)
    ends(first, one, environment)
    enters(second, other)
    second.ends(two)
    return other, client, first, second


def test_the_minimum_is_entered_though_no_call_waits(talk):
    environment = place(2, 3)
    first, second, third = used(talk, environment, 3)

    talk.wait(0.25)

    [ordered] = second.takes(Assign)
    assert ordered.body == b""
    [template] = second.takes(TemplateMessage)
    assert (template.call.environment, template.call.method) == (environment, "")
    assert not template.call.function
    assert not tokens(first)
    assert not tokens(third)


def test_a_new_policy_holds_for_the_copies_that_are_there(talk):
    client, first, second = used(talk, place(1, 2), 2, with_client=True)
    talk.wait(0.25)
    assert not tokens(second)

    client.submits(2, call=call(place(2, 2)), slot=2)
    talk.wait(0.25)

    assert len(tokens(first)) == 1
    [ordered] = second.takes(Assign)
    assert ordered.body == b""


def test_what_is_entered_so_is_no_hit_and_nobodys_task(talk):
    environment = place(2, 2)
    client, _, second = used(talk, environment, 2, with_client=True)
    talk.wait(0.25)
    [token] = tokens(second)

    enters(second, environment, 1.0)
    ends(second, token, environment)

    known = about(talk, client)
    assert (known["loads"], known["hits"], known["warm"]) == (2, 0, 2)
    own = talk.broker.named.own
    assert own.tasks == {}
    assert own.incarnation not in talk.broker.clients


def test_a_copy_that_died_is_replaced_at_once(talk):
    environment = place(1, 2)
    client, first, second = used(talk, environment, 2, with_client=True)
    machine = talk.host(90)

    machine.says(Death(first.incarnation, None, 9, [], "", [], []))
    talk.wait(0.25)

    assert len(tokens(second)) == 1
    assert about(talk, client)["loading"] == 1


def test_a_copy_that_is_worn_is_entered_again_where_it_was(talk):
    environment = place(1, 1, max_tasks=1)
    client = talk.client().submits(1, call=call(environment))
    [actor] = actors(talk, 1)
    [token] = tokens(actor)
    enters(actor, environment)

    actor.ends(token)
    has_nothing(actor)
    talk.wait(0.25)

    assert len(tokens(actor)) == 1
    assert about(talk, client)["loading"] == 1


def test_an_environment_that_nobody_uses_gets_no_copy_again(talk):
    environment = place(1, 2)
    client, first, second = used(talk, environment, 2, with_client=True)
    passes(talk, 10.25, client, first, second)
    assert first.takes(Evict)

    has_nothing(first)
    talk.wait(1.0)

    assert not tokens(first)
    assert not tokens(second)
    assert talk.broker.environments.records["e"].template is None


def test_what_is_entered_so_keeps_no_environment_in_use(talk):
    environment = place(2, 2)
    client, first, second = used(talk, environment, 2, with_client=True)
    passes(talk, 8.0, client, first, second)
    [token] = tokens(second)
    enters(second, environment)
    ends(second, token, environment)

    passes(talk, 3.0, client, first, second)

    assert len(first.takes(Evict)) == len(second.takes(Evict)) == 1


def test_a_copy_that_is_given_up_as_its_last_run_ends_was_in_use_until_then(talk):
    """The idle time of its environment counted from when that run was given out."""
    environment = place(1, 2)
    client = talk.client().submits(1, call=call(environment))
    first, second = actors(talk, 2)
    [token] = tokens(first)
    enters(first, environment)
    passes(talk, 8.0, client, first, second)

    first.says(Outcome(*token, Status.RESULT, b""), Credit(2, 0, 1))
    talk.wait(0.25)
    [ordered] = tokens(second)
    enters(second, environment)
    ends(second, ordered, environment)
    passes(talk, 4.0, client, first, second)

    assert not second.takes(Evict)


def test_no_copy_of_another_environment_has_to_give_way(talk):
    _, client, first, second = beside_another(talk)
    # A place for it is where the other one is idle.
    second.says(Credit(2, 0, 1, {"other": 1}))

    passes(talk, 1.0, client, first, second)
    assert not tokens(second)

    second.says(Credit(2, 0, 2, {"other": 1}))
    talk.wait(0.5)
    assert len(tokens(second)) == 1


def test_a_call_on_its_way_to_an_idle_copy_takes_no_empty_place(talk):
    other, client, _, second = beside_another(talk)
    second.says(Credit(2, 0, 2, {"other": 1}))

    client.submits(3, call=call(other), slot=1)
    assert len(tokens(second)) == 1
    talk.wait(0.5)

    assert len(tokens(second)) == 1


def test_an_actor_that_gave_an_idle_copy_up_for_others_gets_it_again_when_it_is_empty(talk):
    other = place(0, 1, identity="other")
    environment = place(1, 1)
    client = talk.client().submits(1, call=call(environment)).submits(2, call=call(other), slot=1)
    actor = talk.actor(11).says(Credit(2, 0, 2))
    one, two = tokens(actor)
    enters(actor, environment)
    enters(actor, other)
    actor.ends(one)
    actor.ends(two)
    actor.says(Credit(2, 0, 2, {"e": 1, "other": 1}))

    # As one does that may use only so much memory.
    actor.says(Credit(2, 0, 2, {"other": 1}))
    passes(talk, 1.0, client, actor)
    assert not tokens(actor)

    has_nothing(actor, room=2)
    talk.wait(0.5)
    assert len(tokens(actor)) == 1


def test_no_copy_is_entered_where_a_run_has_its_own_put_aside(talk):
    """It was: a call of the broker's own drove the copy of a method out that waits."""
    fresh, environment = place(is_fresh=True, identity="fresh"), place(2, 2)
    client, first, second = used(talk, environment, 2, with_client=True)
    client.submits(2, call=call(fresh), slot=1)
    [token] = tokens(second)
    enters(second, fresh)
    first.says(Credit(0, 0, 0, {"e": 1}))
    # As the actor says it: nobody else has a turn in that copy, and its place can be had.
    second.says(Credit(2, 0, 1), Release(*token, None))

    passes(talk, 1.0, client, first, second)
    assert not second.takes(Assign)

    second.ends(token)
    passes(talk, 1.0, client, first, second)
    assert len(second.takes(Assign)) == 1


def test_a_failure_counts_as_any_other_and_burns_nothing(talk):
    environment = place(2, 2)
    client, first, second = used(talk, environment, 2, with_client=True)
    talk.wait(0.25)
    waits_s = []
    for _ in range(3):
        [(epoch, number)] = tokens(second)
        second.says(Reject(epoch, number, FAILURE.message, False, FAILURE), Credit(2, 0, 1))
        assert about(talk, client)["failures"] == len(waits_s) + 1
        began = talk.now
        # Somebody goes on using it, in the copy that there is.
        client.submits(len(waits_s) + 2, call=call(environment))
        [token] = tokens(first)
        ends(first, token, environment)
        while not [one for _, one, _ in second.heard if isinstance(one, Assign)]:
            passes(talk, 0.25, client, first, second)
            assert talk.now < began + 10.0
        waits_s.append(talk.now - began)

    assert waits_s == [1.0, 2.0, 4.0]
    assert about(talk, client)["state"] == "warm"


def test_the_third_failure_breaks_an_environment_that_is_nowhere_warm(talk):
    environment = place(1, 2)
    client, first, second = used(talk, environment, 2, with_client=True)
    machine = talk.host(90)
    machine.says(Death(first.incarnation, None, 9, [], "", [], []))
    for index in range(3):
        passes(talk, 4.25, client, second, machine) if index else talk.wait(0.25)
        [(epoch, number)] = tokens(second)
        second.says(Reject(epoch, number, FAILURE.message, False, FAILURE), Credit(2, 0, 1))

    assert about(talk, client)["state"] == "broken"
    passes(talk, 5.0, client, second, machine)
    assert not tokens(second)
    assert asked(talk, client, "environment-retry") == {"environments": ["e"]}
    talk.wait(0.25)
    # Nobody called for as long as it stays when it is idle.
    assert not tokens(second)


def test_a_death_while_one_is_entered_so_is_a_failure(talk):
    environment = place(2, 2)
    client, _, second = used(talk, environment, 2, with_client=True)
    talk.wait(0.25)
    [token] = tokens(second)

    talk.host(90).says(Death(second.incarnation, None, 11, [], "", [], [token]))

    assert about(talk, client)["failures"] == 1
    assert talk.broker.named.own.tasks == {}


def test_what_an_actor_hands_back_is_ordered_anew(talk):
    environment = place(2, 2)
    _, second = used(talk, environment, 2)
    talk.wait(0.25)
    [(epoch, number)] = tokens(second)

    second.says(Reject(epoch, number, "paused", False), Credit(2, 0, 1))
    talk.wait(0.5)

    assert len(tokens(second)) == 1


def test_where_its_calls_may_not_go_no_copy_is_entered(talk):
    environment = place(2, 2)
    wish = structs.replace(
        call(environment), desires=[Desire("memory", Comparator.GREATER_THAN, 256)]
    )
    first = talk.actor(11, name="host/0", labels={"memory": 512}).says(Credit(2, 0, 1))
    second = talk.actor(12, name="host/1", labels={"memory": 64}).says(Credit(2, 0, 1))
    client = talk.client().submits(1, call=wish)
    [token] = tokens(first)
    enters(first, environment)
    ends(first, token, environment)

    passes(talk, 1.0, client, first, second)
    assert not tokens(second)

    second.says(LabelsChanged(2, {"memory": 512}))
    talk.wait(0.5)
    assert len(tokens(second)) == 1


def test_what_waits_for_a_slot_goes_first(talk):
    environment = place(2, 2)
    client, first, second = used(talk, environment, 2, with_client=True)
    second.says(Credit(0, 0, 1))
    talk.wait(0.25)
    client.submits(2, 3, 4, slot=1)
    first.takes(Assign)

    second.says(Credit(1, 0, 1))
    talk.wait(0.5)

    [given] = second.takes(Assign)
    assert given.client == client.incarnation


def test_hosts_are_asked_for_actors_that_the_minimum_needs(talk):
    environment = place(2, 3)
    client, first = used(talk, environment, 1, with_client=True)
    machine = host(talk, high=3, actors=[attested(first.incarnation)])

    passes(talk, 1.0, client, first, machine)

    assert scaled(machine) == [2]


def test_an_actor_that_has_just_come_is_used_before_another_is_asked_for(talk):
    """A tick between its HELLO and the next look for places had one more started."""
    environment = place(2, 3)
    client, first = used(talk, environment, 1, with_client=True)
    machine = host(talk, high=3, actors=[attested(first.incarnation)])
    passes(talk, 1.0, client, first, machine)
    assert scaled(machine) == [2]

    second = talk.actor(21, name="host/21", host=machine.hello.incarnation)
    machine.says(HostBeat([attested(first.incarnation), attested(21)]))
    passes(talk, 0.25, client, first, machine)
    second.says(Credit(2, 0, 1))
    passes(talk, 0.75, client, first, machine)

    assert scaled(machine) == []
    assert len(tokens(second)) == 1


def test_a_started_broker_orders_what_is_lacking_once_it_knows_who_is_there():
    talk = Conversation(recovered=False, environment_retry_s=1.0)
    talk.broker.had_earlier = True
    environment = place(2, 2)
    client, first, second = used(talk, environment, 2, with_client=True)
    talk.wait(1.0)
    assert not tokens(second)

    passes(talk, 1.5, client, first, second)

    assert len(tokens(second)) == 1


def test_many_that_lack_a_place_look_at_many_actors_less_often():
    assert upkeep.again_s(10, 10) == 0.25
    assert upkeep.again_s(1_000, 1_000) == 20.0


def test_a_fresh_environment_has_no_minimum(talk):
    environment = place(2, 2, is_fresh=True)
    client, first, second = used(talk, environment, 2, with_client=True)

    passes(talk, 1.0, client, first, second)

    assert not tokens(first)
    assert not tokens(second)


def test_copies_for_many_actors_are_placed_in_one_look_at_these(talk):
    class Looked(dict):
        count = 0

        def __iter__(self):
            self.count += 1
            return super().__iter__()

    found = actors(talk, 20)
    talk.client().submits(1, call=call(place(20, 20)))
    looked = talk.broker.open_actors = Looked(talk.broker.open_actors)

    talk.wait(0.25)

    assert sum(len(actor.takes(Assign)) for actor in found) == 20
    assert looked.count <= 2, "else hundreds of actors stop the broker for seconds"


def test_a_copy_that_comes_long_after_the_last_call_is_no_stall_of_the_broker(talk):
    environment = place(2, 2, idle_ttl_s=3.0)
    client, first, second = used(talk, environment, 2, with_client=True)
    talk.wait(0.25)
    [ordered] = tokens(second)

    passes(talk, 10.0, client, first, second)
    enters(second, environment)
    ends(second, ordered, environment)
    passes(talk, 1.0, client, first, second)

    assert talk.noted("environment_entered")
    assert not talk.noted("stalled")


@pytest.mark.parametrize(("had_earlier", "entered"), [(False, 1), (True, 0)])
def test_the_minimum_is_entered_at_once_by_a_broker_that_was_just_started(had_earlier, entered):
    """Unless an earlier one may have had copies, which come back in the adopt window."""
    talk = Conversation(adopt_window_s=100.0, recovered=False)
    talk.broker.had_earlier = had_earlier

    _, second = used(talk, place(2, 3), 2)
    talk.wait(0.25)

    assert talk.broker.window_ends_at is not None
    assert len(second.takes(Assign)) == entered
