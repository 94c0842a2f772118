"""Tasks that run alone since a process crashed under them: one conversation a rule."""

import msgspec
import pytest

from broker.events.defining import define, undefine
from broker.tasks import lifecycle
from tests.broker.conversation import CODE, Conversation, attested, explained
from tests.support.disk import Disk
from wire.codec import decode_failure, encode_failure
from wire.errors import Code
from wire.limits import Definition, read_definition
from wire.messages import (
    Answer,
    Assign,
    Await,
    Cancel,
    Credit,
    Death,
    Function,
    Occupy,
    Query,
    Reject,
    Release,
    Requeued,
    Result,
    Submit,
    Template,
    Tried,
)
from wire.parts import Backoff, Call, Failure, Held, Holding, Status, Sticky


@pytest.fixture
def talk():
    return Conversation()


def assigned(actor):
    return [(actor.epoch, command.number) for command in actor.takes(Assign)]


def crashed_together(talk, *, call=None):
    """Return a client and a host after the crash of the process in which tasks 7 and 8 ran."""
    host = talk.host(actors=[attested(11)])
    actor = talk.actor(free=2)
    client = talk.client().submits(7, 8, call=call)
    host.says(Death(11, None, 11, assigned(actor)))
    return client, host


def test_a_crash_among_others_is_held_against_nobody_and_burns_no_try(talk):
    client, _ = crashed_together(talk)

    told = [(r.task, r.tries, r.crashes, r.shared) for r in client.takes(Requeued)]
    assert told == [(7, 0, 0, 1), (8, 0, 0, 1)]
    assert [talk.state(client, n) for n in (7, 8)] == ["alone", "alone"]


def test_each_suspect_runs_where_nothing_else_does(talk):
    client, _ = crashed_together(talk)
    other = talk.actor(12, name="host/1", free=2)

    (first,) = assigned(other)
    client.submits(9, slot=1, call=Call("other", CODE))
    other.says(Credit(1))
    assert assigned(other) == []
    other.ends(first, free=2)

    (second,) = assigned(other)
    assert [r.task for r in client.takes(Result)] == [7]
    other.ends(second, free=2)
    assert [talk.task(client, 9).token] == assigned(other)


def held_up(talk):
    """Return an actor that runs something and has one more slot, which it does not grant yet."""
    busy = talk.actor(13, name="host/2", free=1)
    talk.client(5).submits(1)
    (run,) = assigned(busy)
    busy.says(Credit(0))
    return busy, run


def test_no_suspect_goes_to_an_actor_that_holds_something(talk):
    busy, run = held_up(talk)
    client, _ = crashed_together(talk)
    busy.says(Credit(1))
    assert assigned(busy) == []

    client.submits(9, slot=1, call=Call("other", CODE))
    assert assigned(busy) == [], "it is kept free for the first that waits"
    busy.ends(run, free=2)

    assert assigned(busy) == [talk.task(client, 7).token]


def test_whoever_crashes_alone_is_to_blame_and_the_others_are_not(talk):
    client, host = crashed_together(talk)
    for incarnation in (12, 13, 14):
        actor = talk.actor(incarnation, name="host/1", free=2)
        (assign,) = actor.takes(Assign)
        token = (actor.epoch, assign.number)
        if assign.task == 7:
            host.says(Death(incarnation, None, 11, [token]))
        else:
            actor.ends(token, free=2)
            (again,) = assigned(actor)
            host.says(Death(incarnation, None, 11, [again]))

    results = {result.task: result for result in client.takes(Result)}
    failure = decode_failure(results[7].body)
    assert (failure.code, len(failure.history)) == (Code.POISON_TASK, 4)
    assert results[8].attempt == 1


def test_an_innocent_that_never_finds_an_actor_of_its_own_is_no_poison(talk):
    host = talk.host(actors=[attested(11)])
    client = talk.client().submits(7, 8)
    for crashes, incarnation in enumerate(range(11, 11 + talk.settings.shared_max)):
        # What it runs beside keeps every actor from being empty.
        actor = talk.actor(incarnation, name="host/1", slots={"slot": 3})
        doubled = max(0, min(crashes, lifecycle.DOUBLED_MAX) - 1)
        talk.wait(talk.settings.isolation_s * 2**doubled + 1.0, beating=[client, host, actor])
        actor.says(Credit(2))
        host.says(Death(incarnation, None, 11, assigned(actor)))

    failures = [decode_failure(result.body) for result in client.takes(Result)]
    assert [failure.code for failure in failures] == [Code.ACTOR_LOST] * 2
    assert "10 crashes beside other tasks" in failures[0].message
    assert failures[0].history[-1].endswith("beside others")


LIMITED = Call("limited", CODE, limits={"db": 1})


def test_a_suspect_with_limits_runs_alone_and_takes_them_there(talk):
    define(talk.broker, Definition(name="db", maximum=2))
    client, _ = crashed_together(talk, call=LIMITED)
    other = talk.actor(12, name="host/1", free=2)

    (first,) = assigned(other)

    assert talk.broker.limits.room("db") == 1
    other.ends(first, free=2)
    (second,) = assigned(other)
    other.ends(second, free=2)
    assert [result.task for result in client.takes(Result)] == [7, 8]
    assert talk.broker.limits.room("db") == 2


def test_a_suspect_with_limits_waits_for_room(talk):
    define(talk.broker, Definition(name="db", maximum=3))
    holder = talk.actor(13, name="host/2", free=1)
    talk.client(5).submits(1, call=LIMITED)
    (run,) = assigned(holder)
    client, host = crashed_together(talk, call=LIMITED)
    define(talk.broker, Definition(name="db", maximum=1))
    other = talk.actor(12, name="host/1", free=2)
    assert assigned(other) == []

    holder.ends(run)
    talk.wait(0.25, beating=[client, host])

    assert assigned(other) == [talk.task(client, 7).token]


def test_a_suspect_whose_limit_was_deleted_is_told(talk):
    define(talk.broker, Definition(name="db", maximum=2))
    client, host = crashed_together(talk, call=LIMITED)

    undefine(talk.broker, "db")
    talk.wait(talk.settings.isolation_s + 1.0, beating=[client, host])

    codes = {decode_failure(result.body).code for result in client.takes(Result)}
    assert codes == {Code.LIMIT_UNKNOWN}


@pytest.mark.parametrize("is_hard", [True, False])
def test_a_sticky_suspect_waits_for_the_actor_of_its_key(talk, is_hard):
    call = Call("chat", CODE, sticky=Sticky("k", is_hard))
    client, _ = crashed_together(talk, call=call)
    elsewhere = talk.actor(13, name="host/7", free=2)
    # The key is bound to host/0, which is gone: a soft one does not wait for it.
    assert len(assigned(elsewhere)) == (not is_hard)
    if is_hard:
        back = talk.actor(12, name="host/0", free=2)
        assert assigned(back) == [talk.task(client, 7).token]
        assert talk.broker.bindings.by_key["k"].actor == "host/0"
    else:
        assert talk.broker.bindings.by_key["k"].actor == "host/7"


def test_a_suspect_of_an_earlier_broker_waits_for_an_actor_of_its_own():
    talk = Conversation(recovered=False)
    client = talk.client(5, unresolved=[(7, 7)])
    client.says(
        Function(0, CODE, b"code"),
        Template(0, Call("work", CODE)),
        Tried(7, 0, 1, 0, 0.0, None, ["it crashed"]),
        Submit(7, 0, b"", 0, True, 1),
    )
    assert talk.state(client, 7) == "held"

    talk.wait(talk.settings.adopt_window_s + 0.25, beating=[client])

    assert talk.state(client, 7) == "alone"
    assert len(assigned(talk.actor(12, free=2))) == 1


def test_a_suspect_is_adopted_where_it_runs(talk):
    client, _ = crashed_together(talk)
    assert talk.state(client, 7) == "alone"

    talk.actor(12, name="host/1", holding=[(1, 7, (900, 5), Held.RUNNING)])

    assert talk.task(client, 7).token == (900, 5)


def test_a_durable_suspect_is_canceled_for_everybody():
    talk = Conversation(disk=Disk())
    client, _ = crashed_together(talk, call=Call("keep", CODE, durable=True))
    assert talk.state(client, 7) == "alone"

    client.says(Cancel([7]))

    assert [decode_failure(r.body).code for r in client.takes(Result)] == [Code.CANCELED]


WAITS = {
    "calls": [Await(1000, 3, 1, 1, [(9, 9)], 1, [])],
    "slots": [Await(1000, 3, -1)],
    "limit": [Occupy(1000, 3, 1, {"db": 1}), Occupy(1000, 3, 2, {"db": 1})],
}


@pytest.mark.parametrize("how", WAITS)
def test_a_suspect_that_waits_is_alone_no_more(talk, how):
    """What it waits for may need the very actor that is kept for it."""
    define(talk.broker, read_definition("db=1"))
    client, _ = crashed_together(talk)
    client.says(Cancel([8]))
    alone = talk.actor(12, name="host/1", free=2)
    assert assigned(alone) == [(1000, 3)]
    client.submits(9, parent=(1000, 3), slot=1, call=Call("child", CODE))
    alone.says(Credit(2), Release(1000, 3))
    assert assigned(alone) == []

    alone.says(*WAITS[how])

    assert talk.task(client, 9).token in assigned(alone)


def test_a_suspect_that_is_handed_back_still_runs_alone(talk):
    client, _ = crashed_together(talk)
    other = talk.actor(12, name="host/1", free=2)
    (token,) = assigned(other)

    other.says(Reject(*token, "draining", False), Credit(0))

    assert talk.state(client, 7) == "alone"


def test_a_cancel_ends_the_wait_and_opens_the_actor_that_was_kept(talk):
    busy, _ = held_up(talk)
    client, _ = crashed_together(talk)
    busy.says(Credit(1))
    client.submits(9, slot=1, call=Call("other", CODE))
    assert assigned(busy) == []

    client.says(Cancel([7, 8]))

    assert assigned(busy) == [talk.task(client, 9).token]


def test_nobody_waits_for_an_actor_of_its_own_for_ever(talk):
    client, host = crashed_together(talk)
    busy = talk.actor(12, name="host/1", slots={"slot": 4})
    busy.says(Credit(1))

    talk.wait(talk.settings.isolation_s - 1.0, beating=[client, host, busy])
    busy.says(Credit(1))
    assert assigned(busy) == []
    talk.wait(2.0, beating=[client, host, busy])
    busy.says(Credit(1))

    assert len(assigned(busy)) == 1


def test_each_further_crash_doubles_the_wait(talk):
    client, host = crashed_together(talk)
    busy = talk.actor(12, name="host/1", slots={"slot": 3})
    talk.wait(talk.settings.isolation_s + 0.5, beating=[host, busy, client])
    busy.says(Credit(2))
    host.says(Death(12, None, 11, assigned(busy)))

    other = talk.actor(13, name="host/2", slots={"slot": 3})
    talk.wait(talk.settings.isolation_s * 2 - 0.5, beating=[host, other, client])
    assert [talk.state(client, n) for n in (7, 8)] == ["alone", "alone"]
    talk.wait(1.0, beating=[host, other, client])
    assert [talk.state(client, n) for n in (7, 8)] == ["queued", "queued"]


def test_shared_crashes_that_its_client_tells_of_outlive_the_broker():
    talk = Conversation()
    client = talk.client()

    client.says(
        Function(0, CODE, b"code"),
        Template(0, Call("work", CODE)),
        Tried(7, 0, 0, 0, 0.0, None, ["it crashed, beside others"], 4),
        Submit(7, 0, b"", 0, True, 0),
    )

    assert talk.state(client, 7) == "alone"
    assert talk.task(client, 7).trouble.shared == 4


def test_explain_says_for_what_it_waits(talk):
    client, _ = crashed_together(talk)

    reply = explained(client, 7)

    assert reply["state"] == "alone"
    assert "an actor that holds nothing else" in reply["reason"]


def test_an_actor_that_ran_a_suspect_and_died_keeps_nothing(talk):
    client, host = crashed_together(talk)
    other = talk.actor(12, name="host/1", free=2)
    host.says(Death(12, None, 9, assigned(other)))

    assert not talk.broker.isolation.running
    assert talk.state(client, 7) == "alone"


def test_who_has_waited_in_vain_is_alone_again_after_the_next_crash(talk):
    client, host = crashed_together(talk)
    busy = talk.actor(12, name="host/1", slots={"slot": 4})
    talk.wait(talk.settings.isolation_s + 1.0, beating=[client, host, busy])
    busy.says(Credit(1))
    (token,) = assigned(busy)

    host.says(Death(12, None, 9, [token]))

    assert talk.state(client, 7) == "alone"


def test_a_suspect_that_fails_alone_runs_alone_again_after_its_back_off(talk):
    retried = Call("work", CODE, retries=2, backoff=Backoff(1.0, 2.0, 4.0, 0.0))
    client, _ = crashed_together(talk, call=retried)
    other = talk.actor(12, name="host/1", free=2)
    (first,) = assigned(other)
    failure = Failure(Code.TASK_FAILED, "OSError", "no route", "Traceback", b"", [], True)
    other.ends(first, encode_failure(failure), status=Status.FAILURE, free=2)
    assert talk.state(client, 7) == "delayed"

    talk.wait(1.5, beating=[other, client])

    assert talk.state(client, 7) == "alone"


def test_a_run_that_is_offered_late_goes_before_the_wait_to_be_alone():
    new = Conversation(epoch=2000, recovered=False)
    client = new.client(1, unresolved=[(7, 7)])
    client.says(
        Function(0, CODE, b"code"),
        Template(0, Call("work", CODE)),
        Tried(7, 0, 1),
        Submit(7, 0, b"", 0, True, 1),
    )
    new.wait(2.5, beating=[client])
    assert new.state(client, 7) == "alone"

    new.actor(12, holding=[(1, 7, (1000, 3), "running")])

    assert new.state(client, 7) == "assigned"


def test_a_durable_suspect_that_waits_can_be_canceled():
    talk = Conversation(disk=Disk())
    client, _ = crashed_together(talk, call=Call("work", CODE, durable=True))
    assert talk.state(client, 7) == "alone"

    client.says(Query(1, "cancel", "7"))

    assert len(client.takes(Answer)) == 1
    assert talk.task(client, 7) is None


def test_a_run_that_is_adopted_beside_a_suspect_opens_its_actor(talk):
    client, _ = crashed_together(talk)
    actor = talk.actor(12, name="host/1", free=2)
    (token,) = assigned(actor)
    other = talk.client(5).submits(3)
    assert talk.state(other, 3) == "queued"

    held = [Holding(client.incarnation, 7, token, "running"), Holding(5, 3, (900, 1), "running")]
    actor.connects()
    actor.greets(msgspec.structs.replace(actor.hello, holding=held))

    assert talk.state(other, 3) == "assigned"
    assert not talk.broker.isolation.running
