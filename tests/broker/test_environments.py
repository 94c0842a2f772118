"""What the broker knows of environments, how many copies it allows, and when one is given up."""

import pytest
from msgspec import structs

from broker.placing import replicas
from broker.placing.copies import Kind
from broker.placing.environments import KEPT_S
from tests.broker.conversation import CODE, Conversation, ask, explained
from wire import codec
from wire.messages import (
    ActorBeat,
    Assign,
    Beat,
    Bye,
    Cancel,
    Credit,
    Death,
    Entered,
    Evict,
    Outcome,
    Reacquire,
    Reject,
    Release,
    Result,
)
from wire.parts import Call, Environment, Failure, Named, Reuse, Status

FAILURE = Failure("environment-failed", "OSError", "no such file", "Traceback", b"")


@pytest.fixture
def talk():
    return Conversation(environment_retry_s=1.0)


def place(low=0, high=2, *, identity="e", concurrency=1, lineage="", kind="", **reuse):
    policy = Reuse(low, high, **{"idle_ttl_s": 10.0, "scaledown_ttl_s": 4.0} | reuse)
    return Environment(identity, "E", CODE, {}, concurrency, policy, lineage=lineage, kind=kind)


def call(environment, wait_s=None):
    return Call("m", b"", "m", environment, affinity_wait_s=wait_s)


def actors(talk, count):
    """Return so many actors of two slots and room for one environment."""
    found = []
    for index in range(count):
        actor = talk.actor(11 + index, name=f"host/{index}")
        actor.says(Credit(2, 0, 1))
        found.append(actor)
    return found


def tokens(actor):
    return [(actor.epoch, command.number) for command in actor.takes(Assign)]


def enters(actor, environment, load_s=2.0, *, turns=0, free=1):
    actor.says(Entered(environment, load_s), Credit(free, 0, 0, {environment.id: turns}))


def ends(actor, token, environment, *, turns=1, free=2):
    actor.ends(token)
    actor.says(Credit(free, 0, 0, {environment.id: turns}))


def inside(talk, environment):
    """Return an actor that has entered *environment*, and the token of the call in it."""
    talk.client().submits(1, call=call(environment))
    [actor] = actors(talk, 1)
    [token] = tokens(actor)
    enters(actor, environment)
    return actor, token


def asked(talk, client, name="environments"):
    return ask(client, name, "E" if "retry" in name else "")


def about(talk, client):
    [one] = asked(talk, client)["environments"]
    return one


def test_never_more_copies_are_entered_than_there_may_be(talk):
    client = talk.client().submits(1, 2, 3, call=call(place(0, 2), 0.5))
    found = actors(talk, 3)

    talk.wait(1.0, beating=())

    assert [len(actor.takes(Assign)) for actor in found] == [1, 1, 0]
    assert about(talk, client)["waiting"] == 1


def test_who_waits_behind_the_maximum_of_a_policy_is_told_so(talk):
    """As with the default of two replicas, where a third actor is idle."""
    client = talk.client().submits(1, 2, 3, call=call(place(2, 2)))
    actors(talk, 3)

    assert explained(client, 3)["actors"]["host/2"] == "environment E has its 2 replicas"


def test_who_waits_for_what_is_loading_is_told_so(talk):
    client = talk.client().submits(1, 2, call=call(place(1, 1)))
    actors(talk, 1)

    assert explained(client, 2)["actors"]["host/0"] == "environment E is being loaded there"
    assert explained(client, 1)["reason"] == (
        "it is with actor host/0, where environment E is being loaded"
    )


def test_free_actors_are_not_called_busy_where_the_environment_is_what_keeps_them_from_it(talk):
    client = talk.client().submits(1, call=call(place(1, 1)))
    one, two, three = actors(talk, 3)
    [token] = tokens(one)

    fails(one, token)

    retry = "no such file; it is tried again in 1.0 s"
    assert explained(client, 1)["reason"] == retry
    three.says(Credit(0, 0, 1))
    where = "every actor that satisfies it is one of these"
    assert explained(client, 1)["reason"] == f"{where}: busy (1 of 3); {retry} (2 of 3)"
    assert not two.takes(Assign)


def test_a_named_actor_for_which_there_is_no_room_lacks_none(talk):
    named = structs.replace(place(), named=Named("default", "clicks", "E:1"))
    entry = Call("E", environment=named, slots={"gpu": 2})
    client = talk.client().submits(1, call=entry)
    actor = talk.actor(11, slots={"slot": 2, "gpu": 2})

    actor.says(Credit(2, 0, 0, {"other": 0}, {"gpu": 1}))

    assert explained(client, 1)["actors"] == {
        "host/0": "1 slots are missing of {'gpu': 2} (0 tasks)"
    }


def test_an_actor_is_shown_with_what_it_loads_before_it_says_so_in_a_heartbeat(talk):
    e = place(1, 1)
    client = talk.client().submits(1, call=call(e))
    [actor] = actors(talk, 1)

    [while_loading] = asked(talk, client, "actors")["actors"]
    enters(actor, e)
    [after] = asked(talk, client, "actors")["actors"]

    assert while_loading["environments"] == {"e": "loading"}
    assert after["environments"] == {"e": "warm"}


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


def test_an_actor_is_shown_with_what_is_cold_there(talk):
    """What it had, and what a task waits for that it could enter; of a copy for one run nothing."""
    e, wanted, fresh = place(1, 1), place(identity="wanted"), place(identity="x", is_fresh=True)
    client = talk.client().submits(1, call=call(e)).submits(2, call=call(fresh), slot=1)
    [actor] = actors(talk, 1)
    for environment in (e, fresh):
        [token] = tokens(actor)
        enters(actor, environment)
        ends(actor, token, environment)
        [shown] = asked(talk, client, "actors")["actors"]
        assert shown["environments"][environment.id] == "warm"
        actor.says(Credit(1, 0, 1))

    actor.says(Credit(0, 0, 1))
    client.submits(3, call=call(wanted), slot=2)
    needy = structs.replace(call(place(identity="n")), slots={"gpu": 1})
    client.submits(4, call=needy, slot=3)

    [shown] = asked(talk, client, "actors")["actors"]
    assert shown["environments"] == {"wanted": "cold", "e": "cold"}


def test_an_actor_tells_of_few_that_are_cold_there(talk):
    client = talk.client()
    actor = talk.actor(11).says(Credit(1, 0, 1))
    for number in range(70):
        environment = place(identity=f"e{number}")
        client.submits(number + 1, call=call(environment), slot=number)
        [token] = tokens(actor)
        ends(actor, token, environment)
        actor.says(Credit(1, 0, 1))

    [shown] = asked(talk, client, "actors")["actors"]
    assert [*shown["environments"]] == [f"e{number}" for number in range(69, 5, -1)]


def test_a_call_that_must_be_alone_waits_until_nobody_is_inside(talk):
    shared = place(0, 1, concurrency=3)
    alone = structs.replace(shared, turns=3)
    client = talk.client().submits(1, call=call(shared))
    actor = talk.actor(11).says(Credit(4, 0, 1))
    [token] = tokens(actor)
    enters(actor, shared, turns=2, free=3)

    client.submits(2, call=call(alone), slot=1)
    assert not actor.takes(Assign)
    client.submits(3, call=call(shared), slot=2)
    [other] = tokens(actor)
    actor.ends(token)
    ends(actor, other, shared, turns=3, free=4)

    assert len(actor.takes(Assign)) == 1


def test_a_copy_that_is_gone_makes_room_for_another(talk):
    talk.client().submits(1, 2, call=call(place(0, 1)))
    first, second = actors(talk, 2)
    [token] = tokens(first)
    enters(first, place(0, 1))
    first.ends(token)

    first.says(Credit(0, 0, 1))

    assert len(second.takes(Assign)) == 1


def test_above_the_minimum_a_copy_is_entered_only_after_as_long_as_that_takes(talk):
    environment = place(1, 2)
    talk.client().submits(1, 2, call=call(environment))
    first = talk.actor(11, name="host/0").says(Credit(1, 0, 1))
    [token] = tokens(first)
    enters(first, environment, load_s=2.0, free=0)
    second = talk.actor(12, name="host/1").says(Credit(1, 0, 1))
    passes(talk, 1.5, first, second)
    assert not second.takes(Assign)

    passes(talk, 1.0, first, second)

    assert len(second.takes(Assign)) == 1
    assert token


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


def idle(talk, found, seconds):
    """Let time pass while actors beat and state an idle copy."""
    for _ in range(int(seconds / 0.5)):
        talk.wait(0.5)
        for actor in found:
            actor.says(ActorBeat(Credit(2, 0, 0, {"e": 1}), 1, {}, []))


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


def test_the_next_copy_for_a_single_call_is_not_that_of_one_that_waits(talk):
    environment = place(is_fresh=True)
    client = talk.client().submits(1, call=call(environment))
    [actor] = actors(talk, 1)
    [first] = tokens(actor)
    enters(actor, environment)
    actor.says(Credit(2, 0, 1, {}), Release(*first, None))
    client.submits(2, call=call(environment))
    assert tokens(actor)

    enters(actor, environment)
    client.says(Cancel([2], False))
    actor.says(ActorBeat(Credit(1, 0, 0, {"e": 1}), 1, {}, [first]))

    assert talk.broker.actors[actor.hello.incarnation].copies["e"].idle_since is not None


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


def fails(actor, token, *, credit=None):
    actor.says(Reject(*token, "no such file", False, FAILURE), credit or Credit(2, 0, 1))


def test_an_environment_that_failed_is_tried_elsewhere_after_a_while(talk):
    talk.client().submits(1, call=call(place()))
    first, second = actors(talk, 2)
    [token] = tokens(first)

    fails(first, token)
    assert not first.takes(Assign)
    assert not second.takes(Assign)
    talk.wait(1.0)

    assert not first.takes(Assign)
    [again] = second.takes(Assign)
    assert again.attempt == 1


def test_after_three_failures_its_tasks_end_at_once(talk):
    client = talk.client().submits(1, 2, call=call(place(0, 1)))
    [actor] = actors(talk, 1)
    fails_three_times(talk, actor)

    results = client.takes(Result)
    assert {result.task for result in results} == {1, 2}
    failure = codec.decode_failure(results[0].body)
    assert failure.code == "environment-failed"
    assert failure.message.startswith("no such file (3 failures in a row")
    assert failure.traceback == "Traceback"
    client.submits(3, call=call(place(0, 1)))
    assert [result.task for result in client.takes(Result)] == [3]
    assert about(talk, client)["state"] == "broken"


def passes(talk, seconds, *peers):
    """Let time pass while peers show that they live."""
    for _ in range(int(seconds / 0.5)):
        talk.wait(0.5)
        for peer in peers:
            peer.says(Beat())


def fails_three_times(talk, actor):
    for pause_s in (1.0, 2.0, 0.0):
        [token] = tokens(actor)
        fails(actor, token)
        passes(talk, pause_s, actor)


def broken(talk):
    client = talk.client().submits(1, call=call(place(0, 1)))
    [actor] = actors(talk, 1)
    fails_three_times(talk, actor)
    client.takes(Result)
    return client, actor


def test_after_a_failure_one_at_a_time_finds_out_whether_it_works_again(talk):
    talk.client().submits(1, 2, call=call(place(2, 2)))
    first, second = actors(talk, 2)
    for actor in (first, second):
        fails(actor, *tokens(actor))

    passes(talk, 2.5, first, second)

    assert len(first.takes(Assign)) + len(second.takes(Assign)) == 1


def test_an_operator_may_let_it_try_again(talk):
    client, actor = broken(talk)

    assert asked(talk, client, "environment-retry") == {"environments": ["e"]}
    client.submits(2, call=call(place(0, 1)))

    assert len(actor.takes(Assign)) == 1


def test_a_broken_environment_is_let_try_once_after_a_minute(talk):
    client, actor = broken(talk)
    passes(talk, 61.0, actor, client)

    client.submits(2, 3, call=call(place(0, 1)))
    [token] = tokens(actor)
    fails(actor, token)

    assert {result.task for result in client.takes(Result)} == {2, 3}


def test_an_environment_that_was_entered_has_no_failures(talk):
    environment = place(0, 1)
    client = talk.client().submits(1, call=call(environment))
    [actor] = actors(talk, 1)
    fails(actor, *tokens(actor))
    talk.wait(1.0)
    tokens(actor)

    enters(actor, environment)

    known = about(talk, client)
    assert (known["failures"], known["reason"], known["state"]) == (0, "", "warm")


def test_a_death_while_entering_is_a_failure_of_the_environment_and_burns_no_try(talk):
    client = talk.client().submits(1, call=call(place()))
    first, second = actors(talk, 2)
    host = talk.host(90)
    [token] = tokens(first)

    host.says(Death(first.incarnation, None, 11, [], "", [], [token]))
    talk.wait(1.0)

    assert about(talk, client)["failures"] == 1
    [again] = second.takes(Assign)
    assert again.attempt == 1


def test_what_reuse_saves_is_hits_times_the_time_of_entering(talk):
    environment = place(0, 1)
    client = talk.client().submits(1, 2, 3, call=call(environment))
    [actor] = actors(talk, 1)
    for number in range(3):
        [token] = tokens(actor)
        if number == 0:
            enters(actor, environment, 2.0)
        ends(actor, token, environment)

    known = about(talk, client)
    assert (known["loads"], known["hits"], known["saved_s"]) == (1, 2, 4.0)


def test_a_started_broker_learns_what_is_loaded_from_the_actors(talk):
    environment = place(0, 1)
    actor = talk.actor(11)
    actor.says(Entered(environment, 2.0, True), Credit(2, 0, 0, {"e": 1}))
    other = talk.actor(12, name="host/1")
    other.says(Credit(2, 0, 1))

    client = talk.client().submits(1, 2, call=call(environment))

    assert len(actor.takes(Assign)) == 1
    assert not other.takes(Assign)
    known = about(talk, client)
    assert (known["loads"], known["warm"]) == (0, 1)


def test_explain_says_why_a_task_does_not_enter_its_environment(talk):
    client = talk.client().submits(1, 2, call=call(place(0, 1)))
    _, other = actors(talk, 2)

    assert explained(client, 2)["actors"][other.name] == "environment E has its 1 replicas"


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


def beside_another(talk, load_s):
    """Let an actor with E, which is entered in 1 s, begin to enter F, which takes *load_s*."""
    client = talk.client()
    environment, other = place(0, 9), place(0, 9, identity="f")
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
