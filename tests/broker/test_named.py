"""Named actors: one generation of a name at a time, calls in order, what becomes of both."""

import json

import pytest
from msgspec import structs

from tests.broker.conversation import CODE, Conversation, explained
from wire import codec
from wire.errors import Code
from wire.messages import (
    Answer,
    Assign,
    Beat,
    Bye,
    Cancel,
    Credit,
    Death,
    Error,
    Function,
    Leave,
    Query,
    Reject,
    Resides,
    Result,
    Stop,
    Submit,
    Template,
)
from wire.parts import Call, Environment, Failure, Held, Holding, Named, Status

BLOB = b"e" * 16
ID = "Counter:1@default/clicks#1"
OLD = (500, 3)
CLIENT_TIMEOUT_S = 10.0


@pytest.fixture
def talk():
    return Conversation()


def entry(identity=ID, *, name="clicks", concurrency=1, owner=1, **bounds):
    named = Named("default", name, "Counter:1", owner, **bounds)
    environment = Environment(identity, "Counter", BLOB, {}, concurrency, named=named)
    return Call("Counter", environment=environment)


def call(method="incr", **given):
    made = entry(**given)
    return Call(f"Counter.{method}", method=method, environment=made.environment)


def makes(client, number=1, *, again=False, **given):
    """Let *client* make an actor by its task *number*."""
    client.says(
        Function(0, BLOB, b"code"),
        Template(0, entry(**given)),
        Submit(number, 0, b"", again=again),
        Template(1, call(**given)),
    )
    return client


def calls(client, *numbers, again=False):
    client.says(*(Submit(number, 1, b"", again=again) for number in numbers))
    return client


@pytest.mark.parametrize("is_old", [False, True])
def test_a_call_that_is_held_ends_with_the_run_that_made_it(is_old):
    """A new broker does not know whether the actor is there; the run is its own, or comes late."""
    talk = Conversation(recovered=False)
    client, nested = talk.client(1), talk.client(2)
    actor = talk.actor(11, free=1)
    token = (900, 1)
    if not is_old:
        client.submits(1)
        token = (talk.broker.epoch, actor.takes(Assign)[-1].number)
    nested.says(
        Function(0, BLOB, b"code"),
        Template(0, entry()),
        Submit(1, 0, b"", again=is_old, parent=token),
    )
    assert talk.state(nested, 1) == "held"

    if not is_old:
        actor = talk.actor(12)  # The next process has its name.
    else:
        actor.greets(structs.replace(actor.hello, holding=[Holding(1, 1, token, Held.RUNNING)]))
        client.submits(1, again=True)
        assert talk.state(nested, 1) == "held"
        client.says(Cancel([1]))

    assert codes(nested) == {1: Code.PARENT_GONE}


def tasks(actor):
    return [(assign.client, assign.task) for assign in actor.takes(Assign)]


def codes(client):
    return {
        result.task: codec.decode_failure(result.body).code
        for result in client.takes(Result)
        if result.status is not Status.RESULT
    }


def token(number):
    return (1000, number)


def state(talk, name="clicks"):
    return talk.broker.named.by_address["default", name]


def named_is(client, argument=""):
    client.says(Query(1, "named", argument))
    return codec.msgspec.msgpack.decode(client.takes(Answer)[-1].body)


def test_the_first_call_enters_it_and_the_others_follow_one_by_one(talk):
    actor = talk.actor(free=2)
    client = makes(talk.client())
    calls(client, 2, 3)
    assert tasks(actor) == [(1, 1)]

    actor.ends(token(1), free=2)
    assert tasks(actor) == [(1, 2)]
    actor.ends(token(2), free=2)

    assert tasks(actor) == [(1, 3)]


def test_its_code_comes_from_whoever_made_it(talk):
    actor = talk.actor(free=2)
    makes(talk.client())
    actor.ends(token(1), free=2)

    other = talk.client(2)
    other.says(Template(0, call()), Submit(7, 0, b""))

    assert tasks(actor)[-1] == (2, 7)
    assert other.takes(Error) == []


def test_all_calls_go_where_it_is(talk):
    actor, other = talk.actor(11, free=1), talk.actor(12, name="host/1")
    client = makes(talk.client())
    actor.ends(token(1), free=1)
    other.says(Credit(5))
    actor.says(Credit(0))

    calls(client, 2, 3)

    assert tasks(other) == []
    assert explained(client, 2)["actors"]["host/1"] == "its named actor is on host/0"
    actor.says(Credit(1))
    assert tasks(actor)[-1] == (1, 2)


def test_the_same_name_again_is_a_conflict(talk):
    talk.actor(free=1)
    makes(talk.client())

    other = makes(talk.client(2), 5, identity="Counter:1@default/clicks#2", owner=2)

    assert codes(other) == {5: Code.CONFLICT}
    assert named_is(other, "default/clicks")["named"][0]["call"][3][0] == ID


def test_two_that_make_one_name_at_once_get_the_same_one(talk):
    first, second = talk.client(1), talk.client(2)

    makes(first, 1)
    makes(second, 1, identity="Counter:1@default/clicks#2", owner=2)

    found = [
        named_is(client, "default/clicks")["named"][0]["call"][3][0] for client in (first, second)
    ]
    assert found == [ID, ID]


def test_a_call_that_may_have_run_ends_with_its_process(talk):
    host, actor = talk.host(), talk.actor(free=2)
    client = makes(talk.client(), max_restarts=1)
    actor.ends(token(1), free=2)
    calls(client, 2, 3)

    host.says(Death(11, None, 9, [token(2)]))

    assert codes(client) == {2: Code.ACTOR_LOST}
    assert talk.state(client, 3) == "queued"


def test_what_had_not_started_goes_on_where_it_is_entered_again(talk):
    host, actor = talk.host(), talk.actor(11, free=1)
    client = makes(talk.client(), max_restarts=1)
    actor.ends(token(1), free=1)
    calls(client, 2, 3)
    other = talk.actor(12, name="host/1", free=1)

    host.says(Death(11, None, 9, []))

    assert tasks(other) == [(1, 2)]
    assert state(talk).restarts == 1
    assert state(talk).generation == token(3)


def test_without_a_restart_left_it_ends_with_its_process_and_its_name_is_free(talk):
    host, actor = talk.host(), talk.actor(free=1)
    client = makes(talk.client())
    actor.ends(token(1), free=1)
    calls(client, 2, 3)

    host.says(Death(11, None, 9, [token(2)]))
    calls(client, 4)

    assert codes(client) == dict.fromkeys((2, 3, 4), Code.ACTOR_LOST)
    assert "signal 9" in talk.broker.named.ended[ID]
    makes(client, 5, identity="Counter:1@default/clicks#2")
    assert state(talk).id.endswith("#2")


def test_one_that_cannot_be_entered_is_tried_again_later_and_not_for_ever(talk):
    actor = talk.actor(free=1)
    client = makes(talk.client())
    calls(client, 2)
    failure = Failure(Code.ENVIRONMENT_FAILED, "ValueError", "no licence")
    for number in (1, 2, 3):
        assert tasks(actor) == [(1, 1)]
        actor.says(Reject(*token(number), "no licence", False, failure), Credit(1))
        assert tasks(actor) == []
        talk.wait(2.5, beating=[actor, client])
        actor.says(Credit(1))

    assert codes(client) == dict.fromkeys((1, 2), Code.ENVIRONMENT_FAILED)
    assert state_of(talk) == {}


def test_nobody_is_warned_of_calls_that_wait_for_it_to_be_entered_again(talk):
    actor = talk.actor(free=1)
    client = calls(makes(talk.client()), 2)
    failure = Failure(Code.ENVIRONMENT_FAILED, "ValueError", "no licence")
    actor.says(Reject(*token(1), "no licence", False, failure), Credit(1))
    actor.takes(Assign)

    talk.wait(0.9, beating=[actor, client])
    talk.wait(1.4, beating=[actor, client])

    assert talk.noted("unsatisfiable") == []


def state_of(talk):
    return talk.broker.named.by_id


def test_an_entry_that_ends_its_process_is_tried_elsewhere(talk):
    host, actor = talk.host(), talk.actor(11, free=1)
    client = makes(talk.client())
    assert tasks(actor) == [(1, 1)]
    other = talk.actor(12, name="host/1", free=1)

    host.says(Death(11, None, 11, [], entering=[token(1)]))
    talk.wait(1.5, beating=[other, client])
    other.says(Credit(1))

    assert tasks(other) == [(1, 1)]
    assert state(talk).restarts == 0


def test_more_calls_than_may_wait_are_refused(talk):
    client = makes(talk.client(), max_pending=2)

    calls(client, 2, 3)

    assert codes(client) == {3: Code.QUEUE_FULL}


def test_a_call_that_ended_badly_is_not_kept_as_dead(talk):
    host, actor = talk.host(), talk.actor(free=2)
    client = makes(talk.client())
    actor.ends(token(1), free=2)
    calls(client, 2)

    host.says(Death(11, None, 9, [token(2)]))

    assert codes(client) == {2: Code.ACTOR_LOST}
    assert talk.broker.dead_tasks.by_name == {}


def test_killed_it_leaves_its_process_and_its_calls_end(talk):
    actor = talk.actor(free=2)
    client = makes(talk.client())
    actor.ends(token(1), free=2)
    calls(client, 2, 3)

    client.says(Query(1, "named-kill", json.dumps({"actor": ID})))

    assert codes(client) == dict.fromkeys((2, 3), Code.ACTOR_LOST)
    assert [(stop.number, stop.force) for stop in actor.takes(Stop)] == [(2, True)]
    assert [(leave.environment, leave.generation) for leave in actor.takes(Leave)] == [
        (ID, token(1))
    ]
    assert named_is(client)["named"] == []


def test_a_kill_of_nobody_and_one_that_makes_no_sense_are_answered(talk):
    client = talk.client()

    client.says(
        Query(1, "named-kill", json.dumps({"actor": "default/none"})), Query(2, "named-kill", "{")
    )

    bodies = [codec.msgspec.msgpack.decode(answer.body) for answer in client.takes(Answer)]
    assert bodies[0] == {"killed": []}
    assert "error" in bodies[1]


def test_it_ends_with_the_client_that_made_it(talk):
    actor = talk.actor(free=1)
    client = makes(talk.client())
    actor.ends(token(1), free=1)

    client.says(Bye("closed"))

    assert [leave.environment for leave in actor.takes(Leave)] == [ID]


def test_it_ends_when_its_client_is_gone_for_long(talk):
    actor, client = talk.actor(free=1), talk.client()
    makes(client)
    actor.ends(token(1), free=1)
    client.says(Beat())

    client.vanishes()
    talk.wait(CLIENT_TIMEOUT_S - 1.0, beating=[actor])
    assert actor.takes(Leave) == []
    talk.wait(2.0, beating=[actor])

    assert [leave.environment for leave in actor.takes(Leave)] == [ID]


def test_a_detached_one_stays(talk):
    actor = talk.actor(free=1)
    client = makes(talk.client(), owner=0)
    actor.ends(token(1), free=1)

    client.says(Bye("closed"))
    other = talk.client(2)
    other.says(Template(0, call(owner=0)), Submit(1, 0, b""))

    assert tasks(actor)[-1] == (2, 1)


def test_what_an_actor_says_of_it_is_checked(talk):
    actor = talk.actor()

    actor.says(Resides(Call("work", CODE), OLD, 0, 1), payloads=[b"code"])

    assert [error.code for error in actor.takes(Error)] == [Code.BAD_FRAME]


def test_why_a_call_waits_is_explained(talk):
    actor = talk.actor(free=2)
    client = makes(talk.client())
    actor.ends(token(1), free=2)
    calls(client, 2, 3)

    assert explained(client, 3)["reason"] == "default/clicks on host/0 runs 1 of its calls"
