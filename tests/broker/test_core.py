"""The broker's core as its peers see it: one conversation a rule."""

import sys

import pytest

from broker.facts.peers import UNRECEIVED_MAX, Client
from tests.broker.conversation import CODE, Conversation, attested
from wire import codec
from wire.errors import Code, RemoteProtocolError
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
    Error,
    Frame,
    Function,
    LabelsChanged,
    Outcome,
    OutcomeAck,
    Query,
    Reject,
    Release,
    Requeued,
    Result,
    Stop,
    Submit,
    Template,
    Welcome,
    Who,
)
from wire.parts import Call, Status

ONCE = Call("work", CODE, at_most_once=True)


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


# --- actors that die


def test_a_death_requeues_and_only_what_had_started_burns_a_try(talk):
    host = talk.host(actors=[attested(11)])
    actor = talk.actor(free=2)
    client = talk.client().submits(7, 8)
    first, _ = assigned(actor)

    host.says(Death(11, None, 11, [first]))

    assert client.takes(Requeued) == [
        Requeued(7, 1, "attempt 1: actor host/0 died of signal 11", 0, 1)
    ]
    assert [talk.task(client, n).tries for n in (7, 8)] == [1, 0]
    assert [talk.state(client, n) for n in (7, 8)] == ["alone", "queued"]


def test_what_had_finished_when_its_actor_died_burns_no_try(talk):
    host = talk.host(actors=[attested(11)])
    actor = talk.actor(free=1)
    client = talk.client().submits(7)
    (token,) = assigned(actor)

    host.says(Death(11, 1, None, [], "", [token]))

    assert client.takes(Requeued) == []
    assert talk.state(client, 7) == "queued"


def test_who_ran_beside_one_for_which_its_process_ended_burns_no_try(talk):
    host = talk.host(actors=[attested(11)])
    actor = talk.actor(free=2)
    client = talk.client().submits(7, 8)
    first, second = assigned(actor)

    host.says(Death(11, 4, None, [first], "", [], [], [second]))

    assert [told.task for told in client.takes(Requeued)] == [7]
    assert [talk.task(client, n).tries for n in (7, 8)] == [1, 0]


def test_three_crashes_end_a_task_with_its_history(talk):
    host = talk.host()
    client = talk.client().submits(7)
    for incarnation in (11, 12, 13):
        actor = talk.actor(incarnation, free=2)
        (token,) = assigned(actor)
        host.says(Death(incarnation, None, 9, [token]))

    (result,) = client.takes(Result)
    failure = codec.decode_failure(result.body)

    assert (result.status, failure.code) == (Status.LOST, Code.POISON_TASK)
    assert result.attempt == 3, "there was no fourth"
    assert len(failure.history) == 3


def test_a_repeated_death_changes_nothing(talk):
    host = talk.host()
    actor = talk.actor(free=1)
    client = talk.client().submits(7)
    (token,) = assigned(actor)

    host.says(Death(11, None, 9, [token]))
    host.says(Death(11, None, 9, [token]))

    assert talk.task(client, 7).tries == 1


def test_a_dead_actor_never_comes_back(talk):
    host = talk.host()
    actor = talk.actor(free=1)
    host.says(Death(11, None, 9, []))

    actor.greets()

    assert actor.takes(Welcome) == []
    assert talk.broker.actors == {}


def test_a_new_process_under_a_name_is_the_death_of_the_former(talk):
    actor = talk.actor(free=1)
    client = talk.client().submits(7)
    assert len(assigned(actor)) == 1

    talk.actor(12)
    actor.greets()

    assert talk.task(client, 7).tries == 1
    assert [error.code for error in actor.takes(Error)] == [Code.NAME_TAKEN]


@pytest.mark.parametrize(
    ("started", "finished", "ends"),
    [([0], [], True), ([], [0], True), ([], [], False)],
    ids=["started", "finished", "neither"],
)
def test_at_most_once_is_not_queued_again_after_it_may_have_started(talk, started, finished, ends):
    host = talk.host()
    actor = talk.actor(free=1)
    client = talk.client().submits(7, call=ONCE)
    tokens = assigned(actor)

    host.says(Death(11, None, 9, [tokens[n] for n in started], "", [tokens[n] for n in finished]))

    results = client.takes(Result)
    assert [codec.decode_failure(r.body).code for r in results] == (
        [Code.OUTCOME_UNKNOWN] if ends else []
    )
    assert talk.state(client, 7) == ("ended" if ends else "queued")


# --- what must not harm the broker


def test_a_frame_without_commands_is_answered_and_changes_nothing(talk):
    client = talk.client()

    frame = Frame(PROTOCOL, client.epoch, client.session, 1, client.received, [])
    talk.broker.receive(client.rid, frame, [], talk.now)
    talk.flush()

    assert [error.code for error in client.takes(Error)] == [Code.BAD_FRAME]


def test_a_frame_of_no_session_gets_who(talk):
    client = talk.client()

    client.connects()
    client.says(Beat())

    assert client.takes(Who) == [Who()]


def test_a_repeated_frame_is_ignored(talk):
    client = talk.client().submits(7)
    actor = talk.actor(free=2)
    frame = Frame(PROTOCOL, client.epoch, client.session, 1, client.received, [Cancel([7])])

    client.sends(frame)

    assert len(assigned(actor)) == 1
    assert talk.state(client, 7) == "assigned"


def test_a_gap_ends_the_session(talk):
    client = talk.client()

    client.sent += 1
    client.says(Beat())

    assert client.takes(Who) == [Who()]
    assert talk.broker.clients[1].session is None


def test_a_frame_that_acknowledges_what_was_never_sent_ends_the_session(talk):
    client = talk.client()

    client.received += 5
    client.says(Beat())

    assert client.takes(Who) == [Who()]


def test_an_older_hello_does_not_open_a_session(talk):
    client = talk.client()
    client.greets()

    client.sends(Frame(PROTOCOL, client.epoch, 1, 0, 0, [client.hello]))

    assert client.takes(Welcome)[0].heartbeat_s == 1.0
    assert client.takes(Welcome) == []
    assert talk.broker.clients[1].session.number == 2


def test_what_is_not_allowed_here_is_answered(talk):
    client = talk.client()

    client.says(Credit(5))

    assert [error.code for error in client.takes(Error)] == [Code.NOT_ALLOWED]


def test_a_hello_of_another_role_is_not_allowed(talk):
    client = talk.client()
    actor = talk.actor()

    client.sends(Frame(PROTOCOL, 0, 9, 0, 0, [actor.hello]))

    assert [error.code for error in client.takes(Error)] == [Code.NOT_ALLOWED]


def test_the_third_strike_is_fatal(talk):
    client = talk.client()
    for _ in range(5):
        talk.broker.bad(client.rid, RemoteProtocolError(Code.BAD_FRAME, "garbage"), talk.now)
    talk.flush()

    assert [error.fatal for error in client.takes(Error)] == [False, False, True]


def test_strikes_of_an_earlier_session_do_not_count(talk):
    client = talk.client()
    for _ in range(3):
        client.says(Credit(5))
        assert [error.fatal for error in client.takes(Error)] == [False]

        client.greets()

        assert len(client.takes(Welcome)) == 1


def test_what_an_actor_says_behind_bye_counts_no_more(talk):
    actor = talk.actor()
    client = talk.client().submits(7)

    actor.says(Bye("drained"), Credit(1), silently=True)
    actor.says(Credit(1))
    talk.flush()

    assert actor.takes(ByeAck) == [ByeAck()]
    assert actor.takes(Assign) == []
    assert talk.state(client, 7) == "queued"


def test_a_heartbeat_speaks_of_the_state_after_its_frame(talk):
    """Section 7.14: an outcome may stand behind the beat that does not hold it any more."""
    actor, client = talk.actor(free=1), talk.client()
    client.submits(1)
    (assign,) = actor.takes(Assign)
    actor.says(
        ActorBeat(Credit(1), 1, {}, []), Outcome(1000, assign.number, Status.RESULT, b"done")
    )
    assert not talk.noted("divergence")
    assert [result.body for result in client.takes(Result)] == [b"done"]
    assert not actor.takes(Who)


def test_a_divergent_frame_ends_the_session_and_its_credit(talk):
    actor, client = talk.actor(free=1), talk.client()
    client.submits(1)
    actor.takes(Assign)
    actor.says(ActorBeat(Credit(1), 1, {}, []), Outcome(1000, 99, Status.RESULT, b""), Credit(1))
    assert talk.noted("divergence")
    assert actor.takes(Who)
    assert not actor.takes(Assign)


@pytest.mark.parametrize("epoch", [2**64 - 1, 2**63 - 1, 2**62, 2**42 + 2**38 + 1])
def test_one_hello_does_not_raise_the_epoch_to_where_no_other_is_heard(talk, epoch):
    client = talk.client()

    client.connects()
    client.greets(epoch=epoch)

    assert [error.code for error in client.takes(Error)] == [Code.BAD_FRAME]
    assert talk.broker.epoch == 1000


def test_a_broker_whose_clock_is_at_its_beginning_takes_over_the_epoch_of_its_peers(talk):
    client = talk.client()

    client.connects()
    client.greets(epoch=2**42)

    assert talk.broker.epoch > 2**42


def test_brokers_without_memory_that_hear_the_same_epoch_do_not_take_the_same():
    raised = set()
    for epoch in (1000, 1001, 6000):  # Milliseconds of a clock that was set back.
        talk = Conversation(epoch=epoch)
        client = talk.client()
        client.connects()
        client.greets(epoch=2**42)
        raised.add(talk.broker.epoch)

    assert len(raised) == 3
    assert min(raised) > 2**42


@pytest.mark.parametrize("tries", [2**64 - 1, -5])
def test_tries_that_nobody_can_have_do_no_harm(talk, tries):
    actor = talk.actor(free=1)

    talk.client().submits(7, tries=tries)

    assert len(actor.takes(Assign)) == 1


def test_a_hello_that_lists_everything_costs_no_memory(talk):
    client = talk.client(unresolved=[(n * 10**6, 2**62) for n in range(10_000)])

    assert len(client.takes(Welcome)) == 1


def test_a_template_without_its_function_is_answered(talk):
    client = talk.client()

    client.says(Template(0, Call("work", CODE)))

    assert [error.code for error in client.takes(Error)] == [Code.UNKNOWN_TEMPLATE]


def test_a_submit_without_its_template_is_answered(talk):
    client = talk.client()

    client.says(Submit(7, 3, b""))

    assert [error.code for error in client.takes(Error)] == [Code.UNKNOWN_TEMPLATE]


def test_a_slot_outside_the_table_is_fatal(talk):
    client = talk.client()

    client.says(Function(512, CODE, b""))

    assert [(e.code, e.fatal) for e in client.takes(Error)] == [(Code.TABLE_OVERFLOW, True)]


def test_more_tasks_than_the_window_are_fatal():
    talk = Conversation(window_tasks=2)
    client = talk.client()

    client.submits(1, 2, 3)

    assert [(e.code, e.fatal) for e in client.takes(Error)] == [(Code.WINDOW_EXCEEDED, True)]


def test_a_payload_over_the_limit_is_an_outcome():
    talk = Conversation(payload_bytes_max=10)
    actor = talk.actor(free=1)
    client = talk.client().submits(1, body=b"x" * 11).submits(2)
    (token,) = assigned(actor)
    actor.ends(token, b"y" * 11)

    failures = [codec.decode_failure(result.body).code for result in client.takes(Result)]

    assert failures == [Code.PAYLOAD_TOO_LARGE, Code.PAYLOAD_TOO_LARGE]


def test_payload_frames_are_forwarded_unchanged(talk):
    actor = talk.actor(free=2)
    client = talk.client()
    client.says(
        Function(0, CODE, b"", 1),
        Template(0, Call("work", CODE)),
        Submit(1, 0, b"", 2),
        Submit(2, 0, b"inline"),
        payloads=[b"code", b"one", b"two"],
    )

    told = [type(command).__name__ for _, command, _ in actor.heard]
    payloads = actor.heard[-1][2]

    assert told[-4:] == ["Function", "Template", "Assign", "Assign"]
    assert payloads == [b"code", b"one", b"two"]


def test_payload_frames_that_nobody_speaks_of_are_answered(talk):
    client = talk.client()

    client.says(Beat(), payloads=[b"left over"])

    assert [error.code for error in client.takes(Error)] == [Code.BAD_FRAME]


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
