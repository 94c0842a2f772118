"""What must not harm the broker: frames that come twice, too late, too large, or from nobody."""

import pytest

from tests.broker.conversation import CODE, Conversation
from tests.broker.test_core import assigned
from wire import codec
from wire.errors import Code, RemoteProtocolError
from wire.messages import (
    PROTOCOL,
    ActorBeat,
    Assign,
    Beat,
    Bye,
    ByeAck,
    Cancel,
    Credit,
    Error,
    Frame,
    Function,
    Outcome,
    Result,
    Submit,
    Template,
    Welcome,
    Who,
)
from wire.parts import Call, Status


@pytest.fixture
def talk():
    return Conversation()


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
