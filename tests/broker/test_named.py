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
    Outcome,
    Query,
    Reject,
    Requeued,
    Resides,
    Restore,
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
# The first call of the broker's own client, which enters again what was lost.
OWN = (1000, 1)


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


def free(number, **turns):
    return Credit(number, 0, 1, {ID: turns["turns"]} if turns else {})


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


def test_a_call_runs_again_only_as_often_as_was_said(talk):
    host = talk.host()
    client = makes(talk.client(), max_restarts=-1, max_task_retries=1)
    talk.actor(11, free=1).ends(token(1), free=1)
    calls(client, 2)
    host.says(Death(11, None, 9, [token(2)]))
    assert [requeued.tries for requeued in client.takes(Requeued)] == [1]

    actor = talk.actor(12, name="host/1", free=1)
    assert tasks(actor) == [(1, 2)]
    host.says(Death(12, None, 9, [token(3)]))

    assert codes(client) == {2: Code.ACTOR_LOST}


def dies(talk, host, started, *, incarnation=11, finished=(), beside=()):
    """Let a process die, and give what it had to the next one."""
    host.says(Death(incarnation, 4, None, started, "", finished, [], beside))
    return talk.actor(incarnation + 1, name="host/0", free=1)


@pytest.mark.parametrize("stands", ["beside", "finished"])
def test_a_call_whose_process_ended_for_others_runs_again_and_burns_no_retry(talk, stands):
    host = talk.host()
    client = makes(talk.client(), max_restarts=-1, max_task_retries=1)
    talk.actor(11, free=1).ends(token(1), free=1)
    calls(client, 2)

    for turn in range(3):
        actor = dies(talk, host, [], incarnation=11 + turn, **{stands: [token(2 + turn)]})
        assert tasks(actor) == [(1, 2)]

    assert not client.takes(Requeued)
    assert talk.task(client, 2).tries == 0


@pytest.mark.parametrize("stands", ["beside", "finished"])
def test_a_call_that_must_not_run_twice_does_not_for_an_end_that_was_for_others_either(
    talk, stands
):
    host = talk.host()
    client = makes(talk.client(), max_restarts=-1)
    talk.actor(11, free=1).ends(token(1), free=1)
    calls(client, 2)

    dies(talk, host, [], **{stands: [token(2)]})

    assert codes(client) == {2: Code.ACTOR_LOST}


def test_a_call_among_others_that_crash_burns_no_retry_but_not_for_ever(talk):
    host = talk.host()
    client = makes(talk.client(), max_restarts=-1, max_task_retries=1)
    talk.actor(11, free=1).ends(token(1), free=1)
    calls(client, 2)

    for turn in range(talk.settings.shared_max):
        assert not codes(client)
        dies(talk, host, [token(2 + turn), token(9_000)], incarnation=11 + turn)

    assert codes(client) == {2: Code.ACTOR_LOST}


def test_a_checkpoint_comes_with_its_outcome_and_is_where_it_begins_again(talk):
    host, actor = talk.host(), talk.actor(11, free=1)
    client = makes(talk.client(), max_restarts=-1)
    actor.ends(token(1), free=1)
    calls(client, 2)

    outcome = Outcome(*token(2), Status.RESULT, b"", 2, 0.1, 1)
    actor.says(outcome, free(1), payloads=[b"result", b"state"])
    result = client.heard[-1]
    host.says(Death(11, None, 9, []))
    other = talk.actor(12, name="host/1", free=1)
    calls(client, 3)

    assert (result[1].frames, result[2]) == (1, [b"result"])
    entries = [(command, payloads) for _, command, payloads in other.heard]
    (restore, payloads), (assign, _) = entries[-2:]
    assert restore == Restore(ID, 1, 1)
    assert payloads == [b"state"]
    assert isinstance(assign, Assign)


@pytest.mark.parametrize("is_here", [False, True])
def test_a_checkpoint_that_was_lost_with_a_canceled_call_is_said_again(talk, is_here):
    host, actor = talk.host(), talk.actor(11, free=1)
    client = calls(makes(talk.client(), max_restarts=-1), 2)
    actor.says(Outcome(*token(1), Status.RESULT, b"", 1, 0.1, 1), Credit(0), payloads=[b"state"])
    host.says(Death(11, None, 9, []))
    other = talk.actor(12, name="host/1", free=1)
    assert tasks(other) == [(1, 2)]
    client.says(Cancel([2], False))

    other.greets()
    if is_here:
        other.says(Resides(entry(), token(2), 1, 2), payloads=[b"code", b"state"])
    other.says(Credit(1))
    calls(client, 3)

    assert tasks(other) == [(1, 3)]
    assert [command.serial for command in other.takes(Restore)] == ([] if is_here else [1])


def test_a_checkpoint_of_a_generation_that_is_over_does_not_count(talk):
    actor = talk.actor(11, free=2)
    client = makes(talk.client(), max_restarts=-1, concurrency=2)
    actor.ends(token(1), free=2)
    calls(client, 2, 3)
    actor.says(Outcome(*token(2), Status.RESULT, b"", 1, 0.1, 5), payloads=[b"new"])

    actor.says(Outcome(*token(3), Status.RESULT, b"", 1, 0.1, 4), payloads=[b"old"])

    assert (state(talk).serial, state(talk).checkpoint) == (5, b"new")


def test_a_process_that_leaves_costs_no_restart_where_there_is_a_checkpoint(talk):
    actor = talk.actor(11, free=1)
    client = makes(talk.client())
    actor.says(Outcome(*token(1), Status.RESULT, b"", 1, 0.1, 1), Credit(1), payloads=[b"state"])

    actor.says(Bye("drained"))
    calls(client, 2)
    other = talk.actor(12, name="host/1", free=2)

    assert tasks(other) == [OWN]
    assert tasks(other.ends(token(2), free=2)) == [(1, 2)]
    assert state(talk).restarts == 0


def test_a_process_that_leaves_takes_along_what_has_none(talk):
    actor = talk.actor(11, free=1)
    client = makes(talk.client())
    actor.ends(token(1), free=1)
    calls(client, 2)

    actor.says(Bye("drained"))

    assert codes(client) == {2: Code.ACTOR_LOST}


def test_an_entry_that_never_began_is_no_restart(talk):
    actor = talk.actor(11, free=1)
    client = makes(talk.client())

    actor.says(Reject(*token(1), "paused", False), Credit(0))
    other = talk.actor(12, name="host/1", free=1)

    assert tasks(other) == [(1, 1)]
    assert state(talk).restarts == 0
    assert codes(client) == {}


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


# --- entered again before anybody calls


def lost(talk, **bounds):
    """Return a client and a host of whose actor the process is lost, with nothing that waits."""
    host, actor = talk.host(), talk.actor(11, free=1)
    client = makes(talk.client(), **bounds)
    actor.says(Outcome(*token(1), Status.RESULT, b"", 1, 0.1, 1), Credit(1), payloads=[b"state"])
    host.says(Death(11, None, 9, []))
    return client, host


def test_one_that_was_lost_is_entered_again_at_once(talk):
    client, _ = lost(talk, max_restarts=1)

    other = talk.actor(12, name="host/1", free=1)

    assert [command.serial for command in other.takes(Restore)] == [1]
    assert tasks(other) == [OWN]
    assert state(talk).home.name == "host/1"
    other.ends(token(2), free=1)
    assert talk.broker.named.own.tasks == {}
    assert codes(client) == {}


def test_it_is_entered_again_also_when_the_call_that_was_to_enter_it_is_canceled(talk):
    host, actor = talk.host(), talk.actor(11, free=1)
    client = calls(makes(talk.client(), max_restarts=1), 2)
    actor.says(Outcome(*token(1), Status.RESULT, b"", 1, 0.1, 1), Credit(0), payloads=[b"state"])
    host.says(Death(11, None, 9, []))
    client.says(Cancel([2], False))

    talk.wait(1.0, beating=[client, host])

    assert tasks(talk.actor(12, name="host/1", free=1)) == [OWN]


def test_a_call_that_comes_meanwhile_finds_it_entered_and_is_the_only_one_that_counts(talk):
    client, _ = lost(talk, max_restarts=1, max_pending=1)

    calls(client, 2, 3)

    assert codes(client) == {3: Code.QUEUE_FULL}
    other = talk.actor(12, name="host/1", free=1)
    assert tasks(other) == [OWN]
    assert tasks(other.ends(token(2), free=1)) == [(1, 2)]


def test_an_entry_that_ends_its_process_again_uses_up_the_restarts(talk):
    client, host = lost(talk, max_restarts=1)
    other = talk.actor(12, name="host/1", free=1)
    assert tasks(other) == [OWN]

    host.says(Death(12, None, 9, [token(2)]))

    assert state_of(talk) == {}
    assert talk.broker.named.own.tasks == {}
    assert tasks(talk.actor(13, name="host/2", free=1)) == []
    calls(client, 2)
    assert codes(client) == {2: Code.ACTOR_LOST}


def test_one_that_is_killed_is_not_entered_again(talk):
    client, _ = lost(talk, max_restarts=1)

    client.says(Query(1, "named-kill", json.dumps({"actor": ID})))

    assert tasks(talk.actor(12, name="host/1", free=1)) == []
    assert talk.broker.named.own.tasks == {}


def test_what_was_taken_over_from_a_process_is_entered_by_its_entry_and_no_method():
    talk = Conversation(recovered=False)
    host, actor = talk.host(), talk.actor(11)
    actor.says(Resides(call(max_restarts=1), OLD, 4, 2), payloads=[b"code", b"state"])
    talk.wait(2.0, beating=[actor, host])

    host.says(Death(11, None, 9, []))
    other = talk.actor(12, name="host/1", free=1)

    entered = [template.call for template in other.takes(Template)]
    assert [(call.method, call.function) for call in entered] == [("", b"")]


# --- around a restart of the broker


def test_a_started_broker_adopts_what_a_process_has():
    talk = Conversation(recovered=False)
    client = talk.client(unresolved=[(7, 7)])
    client.says(Template(1, call()))
    calls(client, 7, again=True)
    actor = talk.actor(free=1)

    actor.says(Resides(entry(), OLD, 4, 2), payloads=[b"code", b"state"])
    talk.wait(2.0, beating=[actor, client])
    actor.says(Credit(1))

    assert tasks(actor) == [(1, 7)]
    assert (state(talk).generation, state(talk).checkpoint) == (OLD, b"state")


def test_of_two_holders_the_higher_generation_stays():
    talk = Conversation(recovered=False)
    first, second = talk.actor(11), talk.actor(12, name="host/1")

    first.says(Resides(entry(), (500, 3), 0, 1), payloads=[b"code"])
    second.says(Resides(entry(), (500, 9), 0, 1), payloads=[b"code"])
    third = talk.actor(13, name="host/2")
    third.says(Resides(entry(), (500, 5), 0, 1), payloads=[b"code"])

    assert [leave.generation for leave in first.takes(Leave)] == [(500, 3)]
    assert second.takes(Leave) == []
    assert [leave.generation for leave in third.takes(Leave)] == [(500, 5)]


def test_calls_of_a_generation_that_was_replaced_end_there():
    talk = Conversation(recovered=False)
    first = talk.actor(11, slots={"slot": 1})
    client = talk.client()
    client.says(Template(1, call()))
    first.says(Resides(entry(), (500, 3), 0, 1), Credit(1), payloads=[b"code"])
    calls(client, 7, 8)
    talk.wait(2.0, beating=[first, client])
    first.says(Credit(1))
    assert tasks(first) == [(1, 7)]

    second = talk.actor(12, name="host/1")
    second.says(Resides(entry(), (500, 9), 0, 1), Credit(1), payloads=[b"code"])

    assert [stop.number for stop in first.takes(Stop)] == [1]
    assert codes(client) == {7: Code.ACTOR_LOST}
    assert tasks(second) == [(1, 8)]


def test_a_process_where_a_later_call_entered_it_has_not_replaced_itself(talk):
    actor = talk.actor(11, free=1)
    client = calls(makes(talk.client()), 2)
    client.says(Cancel([1], False))
    actor.says(Credit(1))
    assert tasks(actor) == [(1, 1), (1, 2)]
    runs = Holding(1, 2, token(2), Held.RUNNING)

    actor.greets(structs.replace(actor.hello, holding=[runs]))
    actor.says(Resides(entry(), token(2), 0, 1), payloads=[b"code"])

    assert talk.state(client, 2) == "assigned"
    assert (actor.takes(Leave), actor.takes(Stop)) == ([], [])
    assert state(talk).generation == token(2)


def test_of_two_actors_of_one_name_the_higher_generation_stays():
    talk = Conversation(recovered=False)
    first, second = talk.actor(11), talk.actor(12, name="host/1")
    other = "Counter:1@default/clicks#2"

    first.says(Resides(entry(), (500, 3), 0, 1), payloads=[b"code"])
    second.says(Resides(entry(other), (500, 9), 0, 1), payloads=[b"code"])

    assert [leave.environment for leave in first.takes(Leave)] == [ID]
    assert state(talk).id == other


def test_what_is_made_while_nobody_knows_who_is_there_waits_for_the_window():
    talk = Conversation(recovered=False)
    client = makes(talk.client(2), 5, identity="Counter:1@default/clicks#2", owner=2)
    assert talk.state(client, 5) == "held"
    assert named_is(client, "default/clicks") == {"named": [], "recovering": True}

    actor = talk.actor()
    actor.says(Resides(entry(), OLD, 0, 1), payloads=[b"code"])
    talk.wait(2.0, beating=[actor, client])

    assert codes(client) == {5: Code.CONFLICT}


def test_a_call_waits_for_a_process_that_is_late_after_a_restart():
    talk = Conversation(recovered=False)
    client = talk.client(unresolved=[(7, 7)])
    client.greets(epoch=900)
    client.says(Template(1, call()))
    calls(client, 7, 8, again=True)
    talk.wait(3.0, beating=[client])
    assert talk.state(client, 7) == "held"

    actor = talk.actor()
    actor.says(Resides(entry(), OLD, 0, 1), Credit(1), payloads=[b"code"])

    assert tasks(actor) == [(1, 7)]


def test_a_call_to_one_that_was_lost_with_a_broker_says_so():
    talk = Conversation(recovered=False)
    client = talk.client(unresolved=[(7, 7)])
    client.says(Template(1, call()))
    calls(client, 7, again=True)

    talk.wait(2.0, beating=[client])

    assert codes(client) == {7: Code.ACTOR_LOST}


def test_a_process_that_was_lost_and_comes_back_has_to_give_it_up(talk):
    actor = talk.actor(11, free=1)
    client = makes(talk.client(), max_restarts=-1)
    actor.ends(token(1), free=1)
    talk.wait(6.0, beating=[client])

    actor.greets()
    actor.says(Resides(entry(max_restarts=-1), token(1), 0, 1), payloads=[b"code"])

    assert [leave.generation for leave in actor.takes(Leave)] == [token(1)]
    assert state(talk).home is None


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
