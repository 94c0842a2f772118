"""The broker's core as its peers see it: one conversation a rule."""

import sys

import pytest

from broker.facts.peers import UNRECEIVED_MAX, Client
from tests.broker.conversation import Conversation
from wire import codec
from wire.errors import Code
from wire.messages import (
    PROTOCOL,
    ActorBeat,
    Answer,
    Assign,
    Beat,
    Bye,
    ByeAck,
    Cancel,
    Credit,
    Death,
    Frame,
    LabelsChanged,
    Outcome,
    OutcomeAck,
    Query,
    Reject,
    Release,
    Result,
    Stop,
    Welcome,
    Who,
)
from wire.parts import Status


@pytest.fixture
def talk():
    return Conversation()


def assigned(actor):
    """Return the tokens that *actor* was told since the last look."""
    return [(actor.epoch, command.number) for command in actor.takes(Assign)]


# --- the life of a task


def test_a_task_is_assigned_and_its_outcome_delivered(talk):
    actor = talk.actor(free=1)
    client = talk.client().submits(7, body=b"arguments")

    (assign,) = actor.takes(Assign)
    actor.ends((actor.epoch, assign.number), b"answer", free=1)

    assert (assign.client, assign.task, assign.attempt, assign.body) == (1, 7, 1, b"arguments")
    assert client.takes(Result) == [Result(7, Status.RESULT, b"answer", 0, "host/0", 1)]


def test_an_outcome_is_acknowledged_only_when_the_client_has_it(talk):
    actor = talk.actor(free=1)
    client = talk.client().submits(7)
    (token,) = assigned(actor)
    actor.ends(token)
    talk.wait(2.0, beating=[actor])
    assert actor.takes(OutcomeAck) == []

    client.says(Beat())
    talk.wait(1.0, beating=[actor])

    assert actor.takes(OutcomeAck) == [OutcomeAck([token])]
    assert talk.state(client, 7) is None


def test_an_actor_that_closes_is_rid_at_once_of_what_its_client_has_received_before(talk):
    actor = talk.actor(free=1)
    client = talk.client().submits(7)
    (token,) = assigned(actor)
    actor.ends(token)
    client.says(Beat())
    assert actor.takes(OutcomeAck) == []

    actor.says(ActorBeat(Credit(0), 1, {}, [], {}, "draining"))

    assert actor.takes(OutcomeAck) == [OutcomeAck([token])]


def test_a_broker_that_ends_acknowledges_first_what_its_clients_have(talk):
    actor = talk.actor(free=2)
    client = talk.client().submits(7, 8)
    first, second = assigned(actor)
    actor.ends(first)
    client.says(Beat())
    actor.ends(second)
    assert actor.takes(OutcomeAck) == []

    talk.broker.farewell()
    talk.flush()

    assert actor.takes(OutcomeAck) == [OutcomeAck([first])]


def test_a_broker_that_ends_lets_an_actor_go_that_ends_as_well(talk):
    actor = talk.actor(free=1)
    client = talk.client().submits(7)
    (token,) = assigned(actor)
    actor.ends(token)
    assert not talk.broker.is_waited_for()
    client.vanishes()
    assert talk.broker.is_waited_for()

    talk.broker.farewell()
    talk.flush()
    assert actor.takes(OutcomeAck) == []
    actor.says(ActorBeat(Credit(0), 1, {}, [], {}, "draining"))
    talk.broker.farewell()
    talk.flush()
    assert actor.takes(OutcomeAck) == [OutcomeAck([token])]
    actor.says(Bye("drained"))

    assert not talk.broker.is_waited_for()


def test_a_broker_that_ends_waits_for_clients_to_say_what_they_have(talk):
    """A host that was stopped with its broker waited half a minute for what was heard."""
    actor = talk.actor(free=1)
    client = talk.client().submits(7)
    (token,) = assigned(actor)
    actor.ends(token)
    actor.says(ActorBeat(Credit(0), 1, {}, [], {}, "draining"))
    assert talk.broker.is_waited_for()

    client.says(Beat())
    talk.broker.farewell()
    talk.flush()

    assert talk.broker.is_waited_for()
    assert actor.takes(OutcomeAck) == [OutcomeAck([token])]
    actor.says(Bye("drained"))
    assert not talk.broker.is_waited_for()


def test_a_broker_that_ends_is_unsettled_until_all_was_heard(talk):
    """What an actor had not read was lost with the connection, and it waited to hear it."""
    actor = talk.actor(free=2)
    client = talk.client().submits(7, 8)
    first, _ = assigned(actor)
    actor.says(Beat())
    assert not talk.broker.is_unsettled()

    actor.ends(first)
    actor.says(Beat())
    assert talk.broker.is_unsettled()
    client.says(Beat())
    talk.broker.farewell()
    talk.flush()

    assert talk.broker.is_unsettled()
    assert not talk.broker.is_waited_for()
    actor.takes(OutcomeAck)
    actor.says(ActorBeat(Credit(1), 1, {}, [], {}, "draining"))
    assert not talk.broker.is_unsettled()
    # It runs what may take long, and has heard all.
    assert not talk.broker.is_waited_for()


def test_who_is_closed_hears_at_once_that_its_outcome_is_there(talk):
    actor = talk.actor(free=1)
    client = talk.client().submits(7)
    (token,) = assigned(actor)
    actor.ends(token)
    actor.says(ActorBeat(Credit(0), 1, {}, [], {}, "keeping"))

    client.says(Beat())

    assert actor.takes(OutcomeAck) == [OutcomeAck([token])]


def test_a_result_is_said_again_in_each_new_session_until_it_is_received(talk):
    actor = talk.actor(free=1)
    client = talk.client().submits(7)
    (token,) = assigned(actor)
    actor.ends(token, b"answer")

    client.connects()
    client.greets(type(client.hello)(1, "client1", "3.11", [(7, 7)]))

    assert [result.body for result in client.takes(Result)] == [b"answer"]


def test_what_a_client_does_not_list_is_released(talk):
    actor = talk.actor(free=1)
    client = talk.client().submits(7, 8)
    (token,) = assigned(actor)

    client.greets(type(client.hello)(1, "client1", "3.11", [(8, 8)]))

    assert [(stop.epoch, stop.number) for stop in actor.takes(Stop)] == [token]
    assert talk.state(client, 7) is None
    assert talk.state(client, 8) == "queued"


def test_a_client_is_told_what_it_lists_and_the_broker_does_not_have(talk):
    client = talk.client(unresolved=[(3, 5), (9, 9)])

    (welcome,) = client.takes(Welcome)

    assert welcome.missing == [(3, 5), (9, 9)]


def test_a_submit_of_a_known_task_is_not_doubled(talk):
    actor = talk.actor(free=2)
    client = talk.client().submits(7)

    client.submits(7)

    assert len(assigned(actor)) == 1


def test_a_cancel_stops_a_run_and_forgets_it(talk):
    actor = talk.actor(free=1)
    client = talk.client().submits(7, 8)
    (token,) = assigned(actor)

    client.says(Cancel([7, 8, 99], force=True))

    assert actor.takes(Stop) == [Stop(*token, True, "canceled")]
    assert client.talk.task(client, 7) is None
    assert talk.broker.backlog.count == 0


def test_an_outcome_of_a_canceled_task_is_acknowledged_as_stale(talk):
    actor = talk.actor(free=1)
    client = talk.client().submits(7)
    (token,) = assigned(actor)
    client.says(Cancel([7]))

    actor.ends(token)
    talk.wait(1.0, beating=[actor])

    assert actor.takes(OutcomeAck) == [OutcomeAck([], [token])]
    assert client.takes(Result) == []


def test_an_outcome_of_another_assignment_changes_nothing(talk):
    actor = talk.actor(free=1)
    other = talk.actor(12, name="host/1")
    client = talk.client().submits(7)
    (token,) = assigned(actor)

    other.ends(token, b"not mine")
    actor.ends((token[0], token[1] + 1), b"never assigned")

    assert client.takes(Result) == []
    assert talk.state(client, 7) == "assigned"


def test_a_repeated_outcome_is_delivered_once(talk):
    actor = talk.actor(free=1)
    client = talk.client().submits(7)
    (token,) = assigned(actor)

    actor.ends(token, b"first")
    actor.ends(token, b"second")

    assert [result.body for result in client.takes(Result)] == [b"first"]


def test_a_rejected_task_is_queued_again_and_burns_no_try(talk):
    actor = talk.actor(free=1)
    client = talk.client().submits(7)
    (token,) = assigned(actor)

    actor.says(Reject(*token, "paused"), Credit(1))

    assert talk.state(client, 7) == "queued"
    assert talk.task(client, 7).tries == 0
    assert assigned(actor) == []


def test_a_rejected_task_comes_back_when_the_labels_change(talk):
    actor = talk.actor(free=1)
    talk.client().submits(7)
    (token,) = assigned(actor)
    actor.says(Reject(*token, "paused"), Credit(1))

    actor.says(LabelsChanged(2, {"memory": 1}))

    assert len(assigned(actor)) == 1


def test_a_rejected_task_does_not_block_those_behind_it(talk):
    actor = talk.actor(free=1)
    talk.client().submits(7, 8)
    (token,) = assigned(actor)

    actor.says(Reject(*token, "paused"), Credit(1))

    assert [assign.task for assign in actor.takes(Assign)] == [8]


def test_a_released_task_stays_owned(talk):
    actor = talk.actor(free=1)
    client = talk.client().submits(7, 8)
    (token,) = assigned(actor)

    actor.says(Release(*token), Credit(1))

    assert len(assigned(actor)) == 1
    assert talk.state(client, 7) == "assigned"
    assert talk.task(client, 7).is_released


# --- a client that does not receive


def test_a_client_with_too_many_results_on_their_way_waits():
    talk = Conversation(window_bytes=100)
    actor = talk.actor(free=1)
    client = talk.client().submits(1, 2)
    (token,) = assigned(actor)
    actor.ends(token, b"x" * 100, free=1)
    assert actor.takes(Assign) == []

    client.says(Beat())

    assert len(actor.takes(Assign)) == 1


def test_a_stopped_client_with_unread_results_leaves_the_actors_to_others():
    talk = Conversation(window_bytes=1_000)
    actor = talk.actor(free=1)
    talk.client().submits(1, 2, 3, 4)
    for octets in (100, 100, 50):
        (token,) = assigned(actor)
        actor.ends(token, b"x" * octets, free=1)
    assert actor.takes(Assign) == []

    talk.client(2).submits(9)

    assert [assign.task for assign in actor.takes(Assign)] == [9]


def test_results_without_octets_count_as_well():
    client = Client(7, 0.0)
    client.unreceived.extend((1, run, 0) for run in [None] * (UNRECEIVED_MAX - 1))
    assert not client.is_behind(2**28)

    client.unreceived.append((1, None, 0))

    assert client.is_behind(2**28)


def test_a_client_that_leaves_takes_its_tasks_along(talk):
    actor = talk.actor(free=1)
    client = talk.client().submits(1, 2)
    (token,) = assigned(actor)

    client.says(Bye("done"))

    assert client.takes(ByeAck) == [ByeAck()]
    assert [(stop.epoch, stop.number) for stop in actor.takes(Stop)] == [token]
    assert talk.broker.clients == {}


# --- children


def test_a_child_of_a_stale_parent_is_refused(talk):
    client = talk.client()

    client.submits(7, parent=(1000, 99))

    (result,) = client.takes(Result)
    assert codec.decode_failure(result.body).code == Code.PARENT_GONE


def test_a_child_of_a_run_that_this_broker_knows_to_be_over_is_refused_in_its_window_too():
    talk = Conversation(recovered=False)
    client, actor = talk.client().submits(1), talk.actor(free=1)
    (parent,) = assigned(actor)
    client.says(Cancel([1], False))

    client.submits(2, parent=parent)

    (result,) = client.takes(Result)
    assert codec.decode_failure(result.body).code == Code.PARENT_GONE


@pytest.mark.parametrize("where", ["queued", "assigned"])
def test_a_child_whose_parent_is_lost_ends_for_its_client(talk, where):
    host = talk.host()
    actor = talk.actor(free=1)
    talk.client(1).submits(7)
    (parent,) = assigned(actor)
    other = talk.actor(12, name="host/1", free=int(where == "assigned"))
    nested = talk.client(2).submits(1, parent=parent)
    assert talk.state(nested, 1) == where

    host.says(Death(11, None, 9, [parent]))

    (result,) = nested.takes(Result)
    assert codec.decode_failure(result.body).code == Code.PARENT_GONE
    assert len(other.takes(Stop)) == (where == "assigned")
    assert list(talk.broker.clients[1].tasks) == [7]


def test_calls_may_be_nested_deeper_than_the_broker_could_recurse(talk, monkeypatch):
    actor, client = talk.actor(free=1), talk.client().submits(1)
    (token,) = assigned(actor)
    with monkeypatch.context() as patch:
        patch.setattr(talk.broker, "check", lambda: None)  # It would look at all of them each time.
        for number in range(2, sys.getrecursionlimit() + 2):
            actor.says(Release(*token, None), Credit(1))
            client.submits(number, parent=token)
            (token,) = assigned(actor)
    client.says(Cancel([1], False))
    assert len(actor.takes(Stop)) == sys.getrecursionlimit() + 1
    assert {result.status for result in client.takes(Result)} == {Status.LOST}


def test_a_parent_does_not_remember_the_children_that_are_forgotten(talk):
    actor = talk.actor(free=1)
    talk.client().submits(1)
    (parent,) = assigned(actor)
    actor.says(Release(*parent, None), Credit(1))
    nested = talk.client(2)
    for number in range(1, 20):
        nested.submits(number, parent=parent)
        actor.ends(*assigned(actor), free=1)
        nested.says(Beat())
    assert not talk.broker.tokens[parent].children


def test_a_child_of_a_finished_parent_goes_on(talk):
    actor = talk.actor(free=1)
    talk.client(1).submits(7)
    (parent,) = assigned(actor)
    nested = talk.client(2).submits(1, parent=parent)

    actor.ends(parent, free=1)

    assert talk.state(nested, 1) == "assigned"


# --- the rest of the conversation


def test_a_query_is_answered(talk):
    client = talk.client()

    client.says(Query(3, "status"))

    (reply,) = client.takes(Answer)
    assert reply.request == 3


def test_an_epoch_that_a_peer_heard_is_surpassed(talk):
    actor = talk.actor(free=1)
    client = talk.client().submits(7)
    (token,) = assigned(actor)

    other = talk.actor(12, name="host/1")
    other.connects()
    other.greets(epoch=5000)
    client.says(Beat())

    assert talk.broker.epoch == 6001
    assert other.epoch == 6001
    assert client.takes(Who) == [Who()]
    assert talk.task(client, 7).token == token


def test_nothing_of_a_new_epoch_is_sent_before_it_is_stored(talk):
    client = talk.client()
    client.connects()
    client.session += 1
    frame = Frame(PROTOCOL, 5000, client.session, 0, 0, [client.hello])
    talk.broker.receive(client.rid, frame, [], talk.now)

    held_back = talk.broker.flush(talk.now)
    sequence, operations = talk.broker.take_operations()
    talk.broker.committed(sequence, talk.now)
    sent = talk.broker.flush(talk.now)

    assert held_back == []
    assert operations == [("epoch", 6001)]
    assert [frame.epoch for _, frame, _ in sent] == [6001]


def test_outcomes_travel_with_the_status_that_the_actor_said(talk):
    actor = talk.actor(free=1)
    client = talk.client().submits(7)
    (token,) = assigned(actor)

    actor.says(Outcome(*token, Status.FAILURE, b"why"))

    assert [(r.status, r.body) for r in client.takes(Result)] == [(Status.FAILURE, b"why")]
