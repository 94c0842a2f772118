"""When is a copy given up, which one is in use, and which of several serves a light load?"""

import pytest
from msgspec import structs

from tests.broker.conversation import Conversation, explained
from tests.broker.test_environments import about, actors, call, ends, enters, idle, place, tokens
from tests.broker.test_limits import limited
from wire.labels import Comparator, Desire
from wire.messages import (
    ActorBeat,
    Assign,
    Beat,
    Bye,
    Cancel,
    Credit,
    Entered,
    Evict,
    Outcome,
    Reacquire,
    Release,
)
from wire.parts import Status


@pytest.fixture
def talk():
    return Conversation(environment_retry_s=1.0)


def inside(talk, environment):
    """Return an actor that has entered *environment*, and the token of the call in it."""
    talk.client().submits(1, call=call(environment))
    [actor] = actors(talk, 1)
    [token] = tokens(actor)
    enters(actor, environment)
    return actor, token


def test_an_environment_that_is_idle_as_a_whole_is_given_up(talk):
    environment = place(2, 2)
    client = talk.client().submits(1, 2, call=call(environment))
    found = actors(talk, 2)
    for actor in found:
        [token] = tokens(actor)
        enters(actor, environment)
        ends(actor, token, environment)
    assert about(talk, client)["warm"] == 2

    idle(talk, found, 9.5)
    assert not [actor for actor in found if actor.takes(Evict)]
    idle(talk, found, 1.0)

    assert [len(actor.takes(Evict)) for actor in found] == [1, 1]


def test_who_waits_for_the_memory_that_an_idle_copy_takes_does_not_keep_it_there(talk):
    actor, token = inside(talk, place(1, 2))
    ends(actor, token, place(1, 2), free=0)
    talk.client(2).submits(2, call=call(place(1, 2)))
    for _ in range(22):
        talk.wait(0.5)
        actor.says(ActorBeat(Credit(0, 0, 0, {"e": 1}), 1, {}, [], {}, "memory: 97% is used"))

    assert len(actor.takes(Evict)) == 1


def holds(talk, actor, token, credit, seconds):
    """Let time pass while *actor* beats and has a run, which may have given its turn back."""
    for _ in range(int(seconds / 0.5)):
        talk.wait(0.5)
        actor.says(ActorBeat(credit, 1, {}, [token]))


def test_an_idle_copy_is_given_up_also_when_the_busy_one_beside_it_was_lost(talk):
    environment = place(2, 2)
    once = structs.replace(call(environment), at_most_once=True)
    talk.client().submits(1, 2, call=once)
    found = idler, worker = actors(talk, 2)
    [first], [token] = map(tokens, found)
    enters(idler, environment)
    enters(worker, environment)
    ends(idler, first, environment)
    for _ in range(30):
        talk.wait(0.5)
        idler.says(ActorBeat(Credit(2, 0, 0, {"e": 1}), 1, {}, []))
        worker.says(ActorBeat(Credit(1, 0, 0, {"e": 0}), 1, {}, [token]))
    assert not idler.takes(Evict)

    idle(talk, [idler], 40.0)

    assert not idler.takes(Assign)
    assert idler.takes(Evict)


@pytest.mark.parametrize("policy", [{"low": 1}, {"scaledown_ttl_s": 1.0, "idle_ttl_s": None}])
def test_a_copy_is_not_given_up_in_the_middle_of_a_method_that_waits_for_its_own_call(talk, policy):
    """It gives its turn back meanwhile, so nobody was inside, and `exit` ran on its `self`."""
    environment = place(**policy)
    actor, token = inside(talk, environment)
    # As the actor says it: the credit first.
    actor.says(Credit(2, 0, 0, {"e": 1}), Release(*token, None))

    holds(talk, actor, token, Credit(2, 0, 0, {"e": 1}), 25.0)
    assert not actor.takes(Evict)

    # Nothing more is free with its end, so no credit says so.
    actor.ends(token)
    idle(talk, [actor], 9.5 if "low" in policy else 0.5)
    assert not actor.takes(Evict)
    idle(talk, [actor], 1.0)
    assert actor.takes(Evict)


def test_a_run_that_is_back_from_its_wait_is_inside_as_before(talk):
    environment = place(1)
    actor, token = inside(talk, environment)
    actor.says(Credit(2, 0, 0, {"e": 1}), Release(*token, None))
    actor.says(Credit(1, 0, 0, {"e": 0}), Reacquire(*token))

    holds(talk, actor, token, Credit(1, 0, 0, {"e": 0}), 25.0)

    assert not actor.takes(Evict)
    ends(actor, token, environment)
    idle(talk, [actor], 10.5)
    assert actor.takes(Evict)


def test_a_copy_that_a_run_is_to_come_back_to_is_in_use_after_a_new_session_as_well(talk):
    environment = place(1)
    actor, token = inside(talk, environment)
    actor.says(Credit(2, 0, 0, {"e": 1}), Release(*token, None))

    again = talk.actor(11, name="host/0", holding=[(1, 1, token, "released")])
    again.says(Entered(environment, 2.0, True), Credit(2, 0, 0, {"e": 1}))
    holds(talk, again, token, Credit(2, 0, 0, {"e": 1}), 25.0)

    assert not again.takes(Evict)


def test_a_copy_that_a_run_gave_its_turn_back_in_is_in_use_before_its_client_claims_the_run():
    """Of a run that was just adopted nobody knows yet which environment it is in."""
    talk = Conversation(recovered=False)
    environment = place(1)
    token = (talk.broker.epoch - 1, 3)
    actor = talk.actor(11, holding=[(1, 1, token, "running")])
    actor.says(Entered(environment, 2.0, True), Credit(1, 0, 0, {"e": 0}))
    actor.says(Credit(2, 0, 0, {"e": 1}), Release(*token, None))

    talk.client(1, unresolved=[(1, 1)]).submits(1, call=call(environment), again=True)

    assert talk.broker.actors[actor.hello.incarnation].copies["e"].idle_since is None


def test_a_copy_above_the_minimum_is_given_up_earlier(talk):
    environment = place(1, 3)
    talk.client().submits(1, 2, 3, call=call(environment, 0.0))
    found = actors(talk, 3)
    for actor in found:
        [token] = tokens(actor)
        enters(actor, environment)
        ends(actor, token, environment)

    idle(talk, found, 4.5)

    assert sum(len(actor.takes(Evict)) for actor in found) == 2


def in_two(talk, environment):
    """Let two copies be entered, and return the client and both actors."""
    client = talk.client().submits(1, 2, call=call(environment, 0.0))
    found = actors(talk, 2)
    for actor in found:
        [token] = tokens(actor)
        enters(actor, environment)
        ends(actor, token, environment)
    return client, *found


def serves(talk, environment):
    """Let two copies serve one call a second, and return what each served and whether it went."""
    client, *found = in_two(talk, environment)
    served = [0, 0]
    for number in range(3, 11):
        client.submits(number, call=call(environment, 0.0))
        for at, actor in enumerate(found):
            for token in tokens(actor):
                served[at] += 1
                ends(actor, token, environment)
        for _ in range(4):
            talk.wait(0.25)
            for peer in (client, *found):
                peer.says(Beat())
    return served, [len(actor.takes(Evict)) for actor in found]


def test_a_light_load_uses_the_lowest_copy_and_the_others_are_given_up(talk):
    served, evicted = serves(talk, place(1, 2))

    assert served == [8, 0]
    assert evicted == [0, 1]


def test_where_no_copy_may_be_given_up_alone_they_take_turns(talk):
    served, evicted = serves(talk, place(2, 2))

    assert served == [4, 4]
    assert evicted == [0, 0]


def test_a_copy_that_is_not_free_is_passed_over(talk):
    client, first, second = in_two(talk, place(1, 2))

    client.submits(3, 4, call=call(place(1, 2), 0.0))

    assert [len(tokens(actor)) for actor in (first, second)] == [1, 1]


def test_a_copy_in_use_is_not_given_up(talk):
    environment = place(0, 1)
    actor, token = inside(talk, environment)

    holds(talk, actor, token, Credit(1, 0, 0, {"e": 0}), 15.0)

    assert not actor.takes(Evict)


def test_an_order_that_was_lost_with_its_session_is_given_again(talk):
    environment = place(0, 1)
    actor, token = inside(talk, environment)
    ends(actor, token, environment)
    idle(talk, [actor], 4.5)
    assert actor.takes(Evict)

    actor.greets()
    actor.says(Entered(environment, 2.0, True), Credit(2, 0, 0, {"e": 1}))
    idle(talk, [actor], 4.5)

    assert actor.takes(Evict)


def test_the_only_copy_that_there_may_be_moves_to_where_those_may_go_that_wait(talk):
    environment = place(1, 1, idle_ttl_s=None)
    one = talk.actor(11, name="host/0", labels={"zone": "eu"})
    other = talk.actor(12, name="host/1", labels={"zone": "us"})
    for actor in (one, other):
        actor.says(Credit(2, 0, 1))

    def wanted(zone):
        desire = Desire("zone", Comparator.EQUAL, zone)
        return structs.replace(call(environment), desires=[desire])

    talk.client(1).submits(1, call=wanted("eu"))
    [token] = tokens(one)
    enters(one, environment)
    client = talk.client(2).submits(1, call=wanted("us"))

    # As long as somebody is inside it stays.
    for _ in range(4):
        holds(talk, one, token, Credit(1, 0, 0, {"e": 0}), 0.5)
        other.says(ActorBeat(Credit(2, 0, 1), 1, {}, []))
    assert explained(client, 1)["actors"]["host/1"] == "environment E has its 1 replica"
    assert not one.takes(Evict)
    ends(one, token, environment)
    idle(talk, [one], 0.5)

    assert [evict.environment for evict in one.takes(Evict)] == [environment.id]
    one.says(Credit(2, 0, 1, {}))
    assert len(tokens(other)) == 1


def test_a_copy_stays_while_those_that_may_not_go_there_may_go_nowhere_else_either(talk):
    environment = place(1, 1, idle_ttl_s=None)
    actor, token = inside(talk, environment)
    ends(actor, token, environment)
    desire = Desire("zone", Comparator.EQUAL, "us")
    talk.client(2).submits(1, call=structs.replace(call(environment), desires=[desire]))

    idle(talk, [actor], 5.0)

    assert not actor.takes(Evict)


def paused(talk, load_s=2.0, high=1, **reuse):
    """Let the only copy be idle in an actor that is paused then; return client and both actors."""
    environment = place(1, high, idle_ttl_s=None, **reuse)
    client = talk.client().submits(1, call=call(environment))
    found = one, _ = actors(talk, 2)
    [token] = tokens(one)
    enters(one, environment, load_s)
    ends(one, token, environment)
    closed(found, "paused")
    return client, environment, *found


def closed(found, word, turns=0):
    """Let the first beat with its copy, and why it takes no work; the other has room."""
    one, other = found
    one.says(ActorBeat(Credit(2 * (not word), 0, 0, {"e": turns}), 1, {}, [], {}, word))
    other.says(ActorBeat(Credit(2, 0, 1), 1, {}, []))


def waits(talk, found, seconds, word="paused"):
    for _ in range(int(seconds / 0.25)):
        talk.wait(0.25)
        closed(found, word)


def test_the_only_copy_leaves_a_paused_actor_once_waiting_cost_as_much_as_to_enter_it(talk):
    """Its tasks waited for as long as the pause lasted, though others were free."""
    client, environment, one, other = paused(talk)
    client.submits(2, call=call(environment))

    waits(talk, (one, other), 1.75)
    assert not one.takes(Evict)
    told = "environment E has its 1 replica; one ends for it in 0.2 s"
    assert explained(client, 2)["actors"][other.hello.name] == told
    waits(talk, (one, other), 0.5)

    assert one.takes(Evict)
    one.says(ActorBeat(Credit(0, 0, 0, {}), 1, {}, [], {}, "paused"))
    assert len(tokens(other)) == 1


def test_a_copy_stays_in_an_actor_whose_pause_is_shorter_than_entering_it_takes(talk):
    client, environment, one, other = paused(talk)
    client.submits(2, call=call(environment))
    waits(talk, (one, other), 1.5)

    closed((one, other), "", turns=1)

    assert len(tokens(one)) == 1
    waits(talk, (one, other), 3.0, "")
    assert not one.takes(Evict)


def test_what_waited_long_before_its_actor_was_paused_waits_for_it_from_then_on(talk):
    environment = place(1, 1, idle_ttl_s=None)
    client = talk.client().submits(1, call=call(environment))
    found = one, other = actors(talk, 2)
    [token] = tokens(one)
    enters(one, environment)
    client.submits(2, call=call(environment))
    for _ in range(20):
        holds(talk, one, token, Credit(1, 0, 0, {"e": 0}), 0.5)
        other.says(ActorBeat(Credit(2, 0, 1), 1, {}, []))

    one.says(ActorBeat(Credit(0, 0, 0, {"e": 0}), 1, {}, [token], {}, "paused"))
    one.ends(token)
    waits(talk, found, 1.75)
    assert not one.takes(Evict)
    waits(talk, found, 0.5)

    assert one.takes(Evict)


def test_nobody_gives_up_a_copy_in_a_paused_actor_that_nobody_waits_for(talk):
    _, _, one, other = paused(talk)

    waits(talk, (one, other), 10.0)

    assert not one.takes(Evict)


def test_no_copy_moves_for_a_task_that_waits_for_a_limit():
    """It moved there and back with each task where it was, and nobody got on by that."""
    talk = limited("db=1")
    environment = place(1, 1, idle_ttl_s=None, scaledown_ttl_s=1.0)
    one = talk.actor(11, name="host/0", labels={"zone": "eu"})
    other = talk.actor(12, name="host/1", labels={"zone": "us"})
    for actor in (one, other):
        actor.says(Credit(2, 0, 1))

    def wanted(zone, environment=environment, **fields):
        desire = Desire("zone", Comparator.EQUAL, zone)
        return structs.replace(call(environment), desires=[desire], **fields)

    talk.client(1).submits(1, call=wanted("us", environment=None, limits={"db": 1}))
    [holder] = tokens(other)
    talk.client(2).submits(1, call=wanted("us", limits={"db": 1}))
    talk.client(3).submits(1, call=wanted("eu"))
    [token] = tokens(one)
    enters(one, environment)
    ends(one, token, environment)
    idle(talk, [one], 1.5)
    assert not one.takes(Evict)

    other.ends(holder)
    other.says(Credit(2, 0, 1))
    idle(talk, [one], 1.5)
    assert one.takes(Evict)


# --- which copy gives way, and under a run that waits


def held_and_idle(talk):
    """Let a run wait in the copy of one actor, and that of another be idle; return both."""
    held, idle = place(identity="held"), place(identity="idle")
    client = talk.client().submits(1, call=call(held)).submits(2, call=call(idle), slot=1)
    first, second = actors(talk, 2)
    [run], [ended] = tokens(first), tokens(second)
    enters(first, held)
    enters(second, idle)
    ends(second, ended, idle)
    # As the actor says it: the credit first.
    first.says(Credit(2, 0, 1, {"held": 1}), Release(*run, None))
    second.says(Credit(2, 0, 1, {"idle": 1}))
    return client, first, run, second


def test_an_idle_copy_gives_way_before_one_of_a_run_that_waits(talk):
    """It was left to which actor was used last, and `exit` ran in the middle of a method."""
    client, first, _, second = held_and_idle(talk)

    client.submits(3, call=call(place(identity="new")), slot=2)

    assert not first.takes(Assign)
    assert len(second.takes(Assign)) == 1


def test_a_copy_of_a_run_that_waits_gives_way_where_there_is_no_other(talk):
    client, first, _, second = held_and_idle(talk)
    second.says(Credit(0, 0, 0, {"idle": 0}))

    client.submits(3, call=call(place(identity="new")), slot=2)

    assert len(first.takes(Assign)) == 1


def test_a_copy_is_idle_as_others_once_the_run_has_ended_that_held_on_to_it(talk):
    client, first, run, second = held_and_idle(talk)
    client.submits(3, call=call(place(identity="new")), slot=2)
    [token] = tokens(second)
    second.says(Credit(2, 0, 1, {"new": 1}))
    second.ends(token)

    # No credit with it: the turn was free before.
    first.ends(run)
    client.submits(4, call=call(place(identity="newer")), slot=3)

    assert len(first.takes(Assign)) == 1


def test_a_copy_is_idle_as_others_once_the_run_has_come_back_that_held_on_to_it(talk):
    """The actor states what it had stated before, and was taken to be ranked as that."""
    client, first, run, second = held_and_idle(talk)
    client.submits(3, call=call(place(identity="new")), slot=2)
    [token] = tokens(second)
    second.says(Credit(2, 0, 1, {"new": 1}))
    second.ends(token)

    stated = Credit(2, 0, 1, {"held": 1})
    first.says(stated)
    first.says(Credit(0, 0, 0, {"held": 0}), Reacquire(*run))
    first.says(stated, Outcome(*run, Status.RESULT, b""))
    client.submits(4, call=call(place(identity="newer")), slot=3)

    assert len(first.takes(Assign)) == 1


def test_a_copy_is_idle_as_others_once_the_run_was_dropped_that_held_on_to_it(talk):
    client, first, _, second = held_and_idle(talk)
    client.submits(3, call=call(place(identity="new")), slot=2)
    [token] = tokens(second)
    second.says(Credit(2, 0, 1, {"new": 1}))
    second.ends(token)

    client.says(Cancel([1]))
    client.submits(4, call=call(place(identity="newer")), slot=3)

    assert len(first.takes(Assign)) == 1


def test_of_an_actor_that_is_gone_with_a_run_that_waits_no_copy_is_known(talk):
    _, first, *_ = held_and_idle(talk)
    matching = talk.broker.backlog.matching
    assert matching.resident.keys() == {"held", "idle"}

    first.says(Bye())

    assert matching.resident.keys() == {"idle"}


def test_what_is_entered_under_a_run_that_could_not_enter_it_again_is_in_use(talk):
    e = place(1, 1)
    actor, token = inside(talk, e)
    actor.says(Credit(1, 0, 1, {"e": 1}), Release(*token))
    actor.says(Credit(0, 0, 0, {"e": 0}), Reacquire(*token))

    actor.says(Credit(1, 0, 1, {}), Release(*token))
    actor.says(Entered(e, 0.1), Credit(1, 0, 1, {"e": 1}))

    [copy] = talk.broker.environments.records["e"].copies.values()
    assert copy.idle_since is None
