"""What the broker knows of environments, how many copies it allows, and when one is given up."""

import pytest
from msgspec import structs

from tests.broker.conversation import CODE, Conversation, ask, explained
from wire import codec
from wire.messages import (
    ActorBeat,
    Assign,
    Beat,
    Credit,
    Death,
    Entered,
    Reject,
    Result,
)
from wire.parts import Call, Environment, Failure, Named, Reuse

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


def test_in_one_line_nobody_is_told_that_it_is_loaded_there_without_saying_where(talk):
    """A ScheduleTimeout said "environment E is being loaded there" and named no actor."""
    client = talk.client().submits(1, 2, call=call(place(1, 1)))
    actors(talk, 1)

    assert explained(client, 2)["reason"] == "environment E is being loaded"


def test_who_waits_for_what_is_loading_is_told_so(talk):
    client = talk.client().submits(1, 2, call=call(place(1, 1)))
    actors(talk, 1)

    assert explained(client, 2)["actors"]["host/0"] == "environment E is being loaded"
    assert explained(client, 1)["reason"] == (
        "it is with actor host/0, where environment E is being loaded"
    )


def test_who_loads_a_copy_of_its_own_is_said_to(talk):
    """It was said to run."""
    own = place(is_fresh=True)
    client = talk.client().submits(1, 2, call=call(own))
    [actor] = actors(talk, 1)
    actor.says(Credit(2, 0, 2))
    held = tokens(actor)
    assert explained(client, 1)["reason"] == "it is with actor host/0"

    def says(state, room):
        credit = Credit(0, 0, room)
        actor.says(ActorBeat(credit, 1, {}, held, {own.id: state}))
        return explained(client, 1)["reason"]

    where = "it is with actor host/0, where environment E is being loaded"
    assert says("loading", 0) == f"{where} for one of 2 calls"
    assert says("warm", 0) == "it is with actor host/0"


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

    assert explained(client, 1)["actors"] == {"host/0": "needs 2 of slot gpu, 1 free (0 tasks)"}


def test_an_actor_is_shown_with_what_it_loads_before_it_says_so_in_a_heartbeat(talk):
    e = place(1, 1)
    client = talk.client().submits(1, call=call(e))
    [actor] = actors(talk, 1)

    [while_loading] = asked(talk, client, "actors")["actors"]
    enters(actor, e)
    [after] = asked(talk, client, "actors")["actors"]

    assert while_loading["environments"] == {"e": "loading"}
    assert after["environments"] == {"e": "warm"}


def test_an_actor_is_shown_with_what_is_cold_there(talk):
    """What it had, and what a task waits for that it could enter; of a copy for one run nothing."""
    e, wanted, fresh = place(1, 1), place(identity="wanted"), place(identity="x", is_fresh=True)
    client = talk.client().submits(1, call=call(e)).submits(2, call=call(fresh), slot=1)
    [actor] = actors(talk, 1)
    for environment in (e, fresh):
        [token] = tokens(actor)
        enters(actor, environment)
        actor.says(ActorBeat(Credit(0, 0, 0), 1, {}, [token], {environment.id: "warm"}))
        [shown] = asked(talk, client, "actors")["actors"]
        assert shown["environments"][environment.id] == "warm"
        actor.ends(token)
        actor.says(ActorBeat(Credit(1, 0, 1), 1, {}, []))

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


def idle(talk, found, seconds):
    """Let time pass while actors beat and state an idle copy."""
    for _ in range(int(seconds / 0.5)):
        talk.wait(0.5)
        for actor in found:
            actor.says(ActorBeat(Credit(2, 0, 0, {"e": 1}), 1, {}, []))


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


def test_one_that_goes_on_hanging_keeps_nobody_from_trying_it_elsewhere(talk):
    """The next try waited until the process had ended in which the first one hung."""
    client = talk.client().submits(1, call=call(place(0, 2)))
    first, second = actors(talk, 2)
    [token] = tokens(first)

    fails(first, token, credit=Credit(0, 0, 0, {"e": 0}))
    assert about(talk, client)["state"] == "loading"
    talk.wait(1.0)

    assert first.takes(Assign) == []
    [token] = tokens(second)
    fails(second, token)
    passes(talk, 2.0, second)
    [token] = tokens(second)
    fails(second, token)
    assert about(talk, client)["state"] == "broken"


def test_one_that_hangs_was_waited_for_though_an_operator_let_it_be_tried_again(talk):
    """For twice as long as it had hung, whenever that was asked."""
    client = talk.client().submits(1, call=call(place()))
    first, second = actors(talk, 2)
    fails(first, *tokens(first), credit=Credit(0, 0, 0, {"e": 0}))
    assert second.takes(Assign) == []

    assert asked(talk, client, "environment-retry") == {"environments": ["e"]}

    assert len(second.takes(Assign)) == 1


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

    assert explained(client, 2)["actors"][other.name] == "environment E has its 1 replica"


def test_each_call_with_a_copy_of_its_own_takes_a_place(talk):
    """The second waited for the first, though a place was free beside it."""
    environment = place(is_fresh=True)
    client = talk.client().submits(1, 2, 3, call=call(environment))
    actor = talk.actor(11).says(Credit(3, 0, 2))
    found = tokens(actor)
    assert len(found) == 2
    for _ in found:
        enters(actor, environment)
    assert not talk.broker.actors[11].copies
    [shown] = asked(talk, client, "environments")["environments"]
    assert (shown["state"], shown["actors"]) == ("warm", ["host/0"])
    assert (shown["replicas_min"], shown["replicas_max"]) == (0, None)
    [shown] = asked(talk, client, "actors")["actors"]
    assert shown["environments"] == {environment.id: "warm"}

    actor.ends(found[0])
    actor.says(Credit(2, 0, 1))

    assert len(tokens(actor)) == 1
    [shown] = asked(talk, client, "environments")["environments"]
    assert (shown["loads"], shown["hits"]) == (2, 0)
