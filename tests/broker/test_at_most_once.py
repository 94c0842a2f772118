"""Each path on which an at_most_once task could start twice (protocol.md section 10.3)."""

import msgspec
import pytest

from tests.broker.conversation import CODE, Conversation, attested
from tests.support.disk import Disk
from wire.codec import decode_failure, encode_failure
from wire.errors import Code
from wire.messages import (
    Accepted,
    Assign,
    Bye,
    Cancel,
    Credit,
    Death,
    Function,
    Recall,
    Reject,
    Release,
    Result,
    Stop,
    Submit,
    Template,
    Tried,
)
from wire.parts import Call, Failure, Held, Status

ONCE = Call("pay", CODE, at_most_once=True)
DURABLE = Call("pay", CODE, at_most_once=True, durable=True)
FAILS = encode_failure(Failure(Code.TASK_FAILED, "OSError", "no route", retriable=True))


@pytest.fixture
def talk():
    return Conversation()


def assigned(actor):
    return [(actor.epoch, command.number) for command in actor.takes(Assign)]


def codes(client):
    return [decode_failure(result.body).code for result in client.takes(Result)]


def runs(talk, call=ONCE):
    """Return a client, a host, an actor, and the token of the call that runs there."""
    host = talk.host(actors=[attested(11)])
    actor = talk.actor(free=1)
    client = talk.client().submits(1, call=call)
    (token,) = assigned(actor)
    return client, host, actor, token


def holding(actor, *items):
    held = msgspec.convert(list(items), type(actor.hello).__annotations__["holding"])
    return msgspec.structs.replace(actor.hello, holding=held)


def is_queued_again(talk, client):
    """Let another actor have it, for the first time as far as anybody knows."""
    assert talk.state(client, 1) == "queued"
    other = talk.actor(12, name="host/1", free=1)
    return [assign.attempt for assign in other.takes(Assign)] == [1]


# --- an assignment is over


def test_a_lost_lease_is_doubt(talk):
    client, _, _, _ = runs(talk)

    talk.wait(talk.settings.lease_s + 1.0, beating=[client])

    assert codes(client) == [Code.OUTCOME_UNKNOWN]


@pytest.mark.parametrize("where", ["started", "finished", "beside"])
def test_a_death_that_names_it_is_doubt(talk, where):
    client, host, _, token = runs(talk)
    lists = {"started": [], "finished": [], "beside": []} | {where: [token]}

    host.says(Death(11, None, 9, **lists))

    assert codes(client) == [Code.OUTCOME_UNKNOWN]


@pytest.mark.parametrize("is_entering", [False, True])
def test_a_death_before_it_started_queues_it_again(talk, is_entering):
    client, host, _, token = runs(talk)

    host.says(Death(11, None, 9, [], entering=[token] if is_entering else []))

    assert is_queued_again(talk, client)


def test_a_new_incarnation_under_the_name_is_doubt(talk):
    client, _, _, _ = runs(talk)

    talk.actor(12, free=1)

    assert codes(client) == [Code.OUTCOME_UNKNOWN]


def test_absence_from_the_inventory_of_the_same_incarnation_queues_it_again(talk):
    client, _, actor, _ = runs(talk)

    actor.greets()

    assert is_queued_again(talk, client)


def test_in_the_inventory_of_the_same_incarnation_it_goes_on(talk):
    client, _, actor, token = runs(talk)

    actor.greets(holding(actor, (1, 1, token, Held.RUNNING)))
    actor.ends(token, b"paid")

    assert [result.body for result in client.takes(Result)] == [b"paid"]


@pytest.mark.parametrize("reason", ["draining", "paused", "the labels of this actor changed"])
def test_what_is_handed_back_is_queued_again(talk, reason):
    client, _, actor, token = runs(talk)

    actor.says(Reject(*token, reason, bars=False), Credit(0))

    assert is_queued_again(talk, client)


def test_who_leaves_holds_nothing(talk):
    client, _, actor, _ = runs(talk)

    actor.says(Bye("drained"))

    assert is_queued_again(talk, client)


def test_a_released_run_is_lost_like_any_other(talk):
    client, host, actor, token = runs(talk)
    actor.says(Release(*token), Credit(1))

    host.says(Death(11, None, 9, [token]))

    assert codes(client) == [Code.OUTCOME_UNKNOWN]


@pytest.mark.parametrize("status", [Status.FAILURE, Status.EXPIRED])
def test_a_failure_is_its_outcome(talk, status):
    client, _, actor, token = runs(talk)

    actor.ends(token, FAILS, status=status, free=1)

    assert codes(client) == [Code.TASK_FAILED]
    assert assigned(actor) == []


def test_a_cancel_stops_it_and_nothing_starts_again(talk):
    client, _, actor, token = runs(talk)

    client.says(Cancel([1]))
    assert [stop.number for stop in actor.takes(Stop)] == [token[1]]
    actor.greets()

    assert talk.task(client, 1) is None
    assert assigned(talk.actor(12, name="host/1", free=1)) == []


def test_it_never_waits_ahead_and_so_is_never_recalled(talk):
    actor = talk.actor(prefetch=4)
    actor.says(Credit(0, ahead=4))
    client = talk.client().submits(1, call=ONCE)

    talk.actor(12, name="host/1", free=1)

    assert assigned(actor) == []
    assert actor.takes(Recall) == []
    assert talk.task(client, 1).actor.name == "host/1"


@pytest.mark.parametrize("call", [ONCE, DURABLE])
def test_who_says_that_it_crashed_before_does_not_have_it_run_alone(call):
    talk = Conversation(disk=Disk())
    client = talk.client()
    client.says(
        Function(0, CODE, b"code"),
        Template(0, call),
        Tried(1, 0, 3, 0, 0.0, None, ["it crashed"]),
        Submit(1, 0, b"", 0, False, 3),
    )

    assert talk.state(client, 1) == "queued"
    assert len(assigned(talk.actor(free=1))) == 1


# --- the broker is started again


def test_a_durable_one_is_accepted_after_the_commit():
    talk = Conversation(disk=Disk())
    client = talk.client()
    talk.writes = False
    client.submits(1, call=DURABLE)
    assert client.takes(Accepted) == []

    talk.commits()

    assert client.takes(Accepted) == [Accepted([(1, 1)])]


def test_a_durable_one_starts_when_the_journal_has_it_that_it_may():
    talk = Conversation(disk=Disk())
    actor = talk.actor(free=1)
    client = talk.client()
    talk.writes = False
    client.submits(1, call=DURABLE)
    assert assigned(actor) == []

    talk.commits()
    talk.commits()

    assert len(assigned(actor)) == 1
    assert talk.disk.row(1, 1) == (1, None)


@pytest.mark.parametrize("may_have_started", [False, True])
def test_what_the_journal_let_start_is_in_doubt_where_nobody_offers_it(may_have_started):
    talk = Conversation(disk=Disk())
    client = talk.client()
    if may_have_started:
        talk.actor(free=1)
    client.submits(1, call=DURABLE)

    talk.restart()
    client.greets(msgspec.structs.replace(client.hello, unresolved=[(1, 1)]))
    talk.wait(talk.settings.adopt_window_s + 1.0, beating=[client])

    if may_have_started:
        assert codes(client) == [Code.OUTCOME_UNKNOWN]
    else:
        assert is_queued_again(talk, client)


@pytest.mark.parametrize("call", [ONCE, DURABLE])
def test_what_an_actor_offers_to_a_new_broker_is_adopted(call):
    talk = Conversation(disk=Disk())
    client, _, actor, token = runs(talk, call)

    talk.restart()
    actor.greets(holding(actor, (1, 1, token, Held.RUNNING)))
    client.greets(msgspec.structs.replace(client.hello, unresolved=[(1, 1)]))
    client.submits(1, call=call, again=True)
    actor.ends(token, b"paid")

    assert [result.body for result in client.takes(Result)] == [b"paid"]


@pytest.mark.parametrize("in_the_window", [False, True])
def test_without_a_journal_one_that_was_sent_is_in_doubt_where_nobody_offers_it(in_the_window):
    talk = Conversation(recovered=not in_the_window)
    client = talk.client(unresolved=[(1, 1)]).submits(1, call=ONCE, again=True)
    assert talk.state(client, 1) == ("held" if in_the_window else "ended")

    talk.wait(talk.settings.adopt_window_s + 0.5, beating=[client])

    assert codes(client) == [Code.OUTCOME_UNKNOWN]


def test_one_that_was_never_sent_is_new_also_in_the_window():
    talk = Conversation(recovered=False)
    actor = talk.actor(free=1)

    talk.client().submits(1, call=ONCE)

    assert len(assigned(actor)) == 1


def of_an_earlier_epoch():
    """Return a broker that gave an actor an at_most_once task before there was another one."""
    talk = Conversation()
    host = talk.host(actors=[attested(11)])
    actor = talk.actor(free=1)
    client = talk.client().submits(1, call=ONCE)
    assert len(actor.takes(Assign)) == 1
    client.greets(
        msgspec.structs.replace(client.hello, unresolved=[(1, 1)]), epoch=talk.broker.epoch + 5
    )
    host.greets()
    return talk, host, actor, client


@pytest.mark.parametrize("way", ["hello", "death"])
def test_what_another_broker_may_have_had_the_outcome_of_starts_no_more(way):
    _, host, actor, client = of_an_earlier_epoch()

    if way == "hello":
        actor.greets()
    else:
        host.says(Death(11, None, 9, []))

    assert [decode_failure(r.body).code for r in client.takes(Result)] == [Code.OUTCOME_UNKNOWN]


def test_tokens_go_on_where_the_epoch_is_raised():
    talk = Conversation()
    actor = talk.actor(free=1)
    talk.client().submits(1)
    (first,) = actor.takes(Assign)
    talk.client(2, unresolved=[]).greets(epoch=talk.broker.epoch + 5)

    actor.greets(epoch=0)
    actor.says(Credit(1))

    assert [one.number for one in actor.takes(Assign)] == [first.number + 1]
