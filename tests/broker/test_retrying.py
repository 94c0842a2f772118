"""Which failures are tried again, and when: one conversation a rule."""

import msgspec
import pytest

from broker.events.defining import define
from tests.broker.conversation import CODE, Conversation, attested, explained
from wire import codec
from wire.errors import Code
from wire.limits import read_definition
from wire.messages import (
    Assign,
    Cancel,
    Credit,
    Death,
    Error,
    Function,
    Outcome,
    OutcomeAck,
    Requeued,
    Result,
    Stop,
    Submit,
    Template,
    Tried,
)
from wire.parts import Backoff, Call, Failure, Kept, Status

# Without chance: 1 s, 2 s, 4 s, 4 s.
STEADY = Backoff(1.0, 2.0, 4.0, 0.0)
CALL = Call("work", CODE, retries=2, backoff=STEADY)


@pytest.fixture
def talk():
    return Conversation()


def assigned(actor):
    return [(actor.epoch, command.number) for command in actor.takes(Assign)]


def fails(actor, token, text="no route", *, retriable=True, status=Status.FAILURE):
    failure = Failure(Code.TASK_FAILED, "OSError", text, "Traceback", b"pickle", [], retriable)
    return actor.ends(token, codec.encode_failure(failure), status=status, free=1)


def passes(talk, seconds, actor, *others):
    """Let time pass, after which *actor* grants one unit."""
    talk.wait(seconds, beating=[actor, *others])
    actor.says(Credit(1))


def failed_once(talk, call=CALL):
    """Return an actor and a client whose task 7 has failed and waits."""
    actor = talk.actor(free=1)
    client = talk.client().submits(7, call=call)
    (token,) = assigned(actor)
    fails(actor, token)
    return actor, client, token


def test_a_failure_is_tried_again_after_its_back_off(talk):
    actor, client, token = failed_once(talk)

    assert client.takes(Requeued) == [
        Requeued(7, 1, "attempt 1 on host/0: OSError: no route", 1, 0, 0, 1.0, token)
    ]
    assert talk.state(client, 7) == "delayed"
    assert assigned(actor) == []

    passes(talk, 0.5, actor)
    assert talk.state(client, 7) == "delayed"
    passes(talk, 0.75, actor)
    (again,) = actor.takes(Assign)
    assert (again.task, again.attempt) == (7, 2)


def test_each_back_off_is_longer_than_the_one_before_up_to_the_longest():
    talk = Conversation()
    actor, client, _ = failed_once(talk, Call("work", CODE, retries=9, backoff=STEADY))
    waits = [told.wait_s for told in client.takes(Requeued)]
    for _ in range(3):
        passes(talk, waits[-1] + 0.25, actor, client)
        fails(actor, *assigned(actor))
        waits += [told.wait_s for told in client.takes(Requeued)]

    assert waits == [1.0, 2.0, 4.0, 4.0]


def test_the_last_error_is_the_outcome_and_has_what_went_wrong_before(talk):
    actor, client, _ = failed_once(talk)
    for text in ("no answer", "no luck"):
        passes(talk, 4.25, actor, client)
        fails(actor, *assigned(actor), text)

    (result,) = client.takes(Result)
    failure = codec.decode_failure(result.body)
    assert (result.status, result.attempt, failure.message) == (Status.FAILURE, 3, "no luck")
    assert failure.exception == b"pickle"
    assert failure.history == [
        "attempt 1 on host/0: OSError: no route",
        "attempt 2 on host/0: OSError: no answer",
    ]


def test_a_large_error_that_travels_in_a_frame_has_what_went_wrong_before(talk):
    actor, client, _ = failed_once(talk, Call("work", CODE, retries=1, backoff=STEADY))
    passes(talk, 1.25, actor, client)
    (token,) = assigned(actor)
    failure = Failure(Code.TASK_FAILED, "OSError", "no luck", "x" * 9_000)

    actor.says(
        msgspec.structs.replace(outcome(token), frames=1),
        payloads=[codec.encode_failure(failure)],
    )

    ((_, result, payloads),) = [one for one in client.heard if isinstance(one[1], Result)]
    assert (result.body, result.frames) == (b"", 1)
    assert len(codec.decode_failure(payloads[0]).history) == 1


def outcome(token):
    return Outcome(*token, Status.FAILURE, b"")


@pytest.mark.parametrize("call", [Call("work", CODE), CALL])
def test_what_the_actor_does_not_call_retriable_is_not_tried_again(talk, call):
    actor = talk.actor(free=1)
    client = talk.client().submits(7, call=call)

    fails(actor, *assigned(actor), retriable=False)

    (result,) = client.takes(Result)
    assert (result.status, result.attempt) == (Status.FAILURE, 1)


def test_without_retries_nothing_is_tried_again_whatever_an_actor_says(talk):
    actor = talk.actor(free=1)
    client = talk.client().submits(7)

    fails(actor, *assigned(actor))

    assert [result.status for result in client.takes(Result)] == [Status.FAILURE]


@pytest.mark.parametrize("status", [Status.CANCELED, Status.LOST])
def test_only_failures_and_what_had_its_time_are_tried_again(talk, status):
    actor = talk.actor(free=1)
    client = talk.client().submits(7, call=CALL)

    fails(actor, *assigned(actor), status=status)

    assert [result.status for result in client.takes(Result)] == [status]


def test_a_run_that_had_its_time_is_tried_again(talk):
    actor = talk.actor(free=1)
    client = talk.client().submits(7, call=CALL)

    fails(actor, *assigned(actor), status=Status.EXPIRED)

    assert talk.state(client, 7) == "delayed"


def test_crashes_and_failures_are_counted_apart(talk):
    host = talk.host(actors=[attested(11)])
    actor, client, _ = failed_once(talk, Call("work", CODE, retries=1, backoff=STEADY))
    passes(talk, 1.25, actor, client, host)
    host.says(Death(11, None, 11, assigned(actor)))

    second = talk.actor(12, free=2)
    (told,) = [one for one in client.takes(Requeued) if one.crashes]
    assert (told.tries, told.failures, told.crashes) == (2, 1, 1)
    fails(second, *assigned(second))
    (result,) = client.takes(Result)
    assert (result.status, result.attempt) == (Status.FAILURE, 3)
    assert len(codec.decode_failure(result.body).history) == 2


def test_nothing_is_held_during_a_back_off(talk):
    define(talk.broker, read_definition("db=1"), is_stored=True)
    call = Call("work", CODE, retries=1, backoff=STEADY, limits={"db": 1})
    talk.wait(talk.settings.lease_s)
    actor = talk.actor(free=1)
    client = talk.client().submits(7, call=call)
    (token,) = assigned(actor)

    fails(actor, token)
    client.submits(8, call=Call("other", CODE, limits={"db": 1}), slot=1)

    assert [command.task for command in actor.takes(Assign)] == [8]


def test_a_cancel_ends_a_back_off(talk):
    _, client, _ = failed_once(talk)

    client.says(Cancel([7]))

    assert talk.state(client, 7) is None
    assert talk.broker.deadline() < talk.now + 1.0


def test_a_client_that_goes_away_ends_its_back_offs(talk):
    _, client, _ = failed_once(
        talk, Call("work", CODE, retries=1, backoff=Backoff(60.0, 1.0, 60.0))
    )
    client.vanishes()

    talk.wait(talk.settings.client_timeout_s + 1.0)

    assert client.incarnation not in talk.broker.clients


def test_children_of_a_failed_run_end_with_it(talk):
    actor = talk.actor(free=2)
    client = talk.client().submits(7, call=CALL)
    (token,) = assigned(actor)
    nested = talk.client(2).submits(1, parent=token)
    (child,) = assigned(actor)

    fails(actor, token)

    assert [(stop.epoch, stop.number) for stop in actor.takes(Stop)] == [child]
    (result,) = nested.takes(Result)
    assert codec.decode_failure(result.body).code == Code.PARENT_GONE
    assert talk.state(client, 7) == "delayed"


def test_the_actor_forgets_the_failure_when_the_client_knows_of_it(talk):
    actor, client, token = failed_once(talk)
    talk.wait(1.0)
    assert actor.takes(OutcomeAck) == []

    client.beats()
    talk.wait(1.0)

    assert [ack.accepted for ack in actor.takes(OutcomeAck)] == [[token]]


def test_a_client_that_was_away_is_told_of_failures_again(talk):
    _, client, token = failed_once(talk)
    client.vanishes()
    client.connects()

    client.greets(msgspec.structs.replace(client.hello, unresolved=[(7, 7)]))

    (told,) = client.takes(Requeued)
    assert (told.tries, told.failures, told.failed) == (1, 1, token)
    assert 0.0 < told.wait_s <= 1.0


def test_explain_says_until_when_a_task_waits_and_why(talk):
    _, client, _ = failed_once(talk)

    reply = explained(client, 7)

    assert (reply["state"], reply["tries"]) == ("delayed", 1)
    assert reply["reason"] == (
        "it waits for its retry in 1.0 s (attempt 1 on host/0: OSError: no route)"
    )


def test_a_stall_of_the_broker_is_added_to_a_back_off(talk):
    _, client, _ = failed_once(talk)
    talk.sleep(30.0)

    talk.wake()

    assert talk.state(client, 7) == "delayed"


# --- a broker without memory


def restarted(talk, client, actor=None, *, kept=(), tried=None, tries=1, call=CALL):
    """Let a new broker hear an actor, and a client that sends task 7 again."""
    new = Conversation(epoch=2000, recovered=False)
    new.now = talk.now
    if actor is not None:
        actor = new.actor(actor.incarnation, kept=kept)
    again = new.client(client.incarnation, unresolved=[(7, 7)])
    says = [Function(0, CODE, b"code"), Template(0, call)]
    says += [tried] if tried else []
    again.says(*says, Submit(7, 0, b"", 0, True, tries))
    return new, actor, again


def test_a_back_off_goes_on_where_it_was_after_a_restart(talk):
    _, client, token = failed_once(talk)
    told = Tried(7, 1, 0, 0, 5.0, token, ["attempt 1 on host/0: OSError: no route"])

    new, _, client = restarted(talk, client, tried=told)
    assert new.state(client, 7) == "held"
    new.wait(2.5, beating=[client])
    assert new.state(client, 7) == "delayed"
    actor = new.actor(12, free=1)
    passes(new, 2.75, actor, client)

    (assign,) = actor.takes(Assign)
    assert assign.attempt == 2
    fails(actor, (actor.epoch, assign.number))
    assert client.takes(Requeued)[-1].failures == 2


def test_a_failure_that_only_the_actor_knows_counts_after_a_restart(talk):
    actor, client, token = failed_once(talk)
    once = Call("work", CODE, retries=1, backoff=STEADY)

    new, actor, client = restarted(
        talk, client, actor, kept=[(client.incarnation, 7, token)], tries=0, call=once
    )
    fails(actor, token)

    (told,) = client.takes(Requeued)
    assert (told.tries, told.failures, told.failed) == (1, 1, token)
    assert new.state(client, 7) == "held"


@pytest.mark.parametrize("outcome_first", [False, True])
def test_a_failure_that_both_know_counts_once_after_a_restart(talk, outcome_first):
    actor, client, token = failed_once(talk)
    once = Call("work", CODE, retries=1, backoff=STEADY)
    told = Tried(7, 1, 0, 0, 1.0, token, ["attempt 1 on host/0: OSError: no route"])
    kept = [(client.incarnation, 7, token)]

    if outcome_first:
        new = Conversation(epoch=2000, recovered=False)
        actor = new.actor(actor.incarnation, kept=kept)
        fails(actor, token)
        again = new.client(client.incarnation, unresolved=[(7, 7)])
        again.says(
            Function(0, CODE, b"code"),
            Template(0, once),
            told,
            Submit(7, 0, b"", 0, True, 1),
        )
    else:
        new, actor, again = restarted(talk, client, actor, kept=kept, tried=told, call=once)
        fails(actor, token)

    assert new.state(again, 7) == "held"
    assert again.takes(Result) == []
    said = [(one.tries, one.failures) for one in again.takes(Requeued)]
    assert said == ([(1, 1)] if outcome_first else []), "it has said so itself"


def test_a_next_try_that_runs_goes_before_the_failure_after_a_restart(talk):
    _, client, token = failed_once(talk)
    told = Tried(7, 1, 0, 0, 0.0, token, [])
    new, _, client = restarted(
        talk, client, talk.actor(11), kept=[(client.incarnation, 7, token, True)], tried=told
    )

    later = (token[0], token[1] + 5)
    other = new.actor(12, name="host/1", holding=[(client.incarnation, 7, later, "running")])

    assert new.state(client, 7) == "assigned"
    assert other.takes(Stop) == []
    other.ends(later, b"done")
    assert [result.body for result in client.takes(Result)] == [b"done"]


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("has_come", [False, True])
def test_of_a_failure_and_its_next_try_that_nobody_claims_yet_the_later_one_counts(order, has_come):
    failed, later = (1000, 3), (1000, 5)
    new = Conversation(epoch=2000, recovered=False)

    def offers_failure():
        actor = new.actor(11, kept=[(1, 7, failed, True)])
        if has_come:
            fails(actor, failed)

    def offers_run():
        new.actor(12, name="host/1", holding=[(1, 7, later, "running")])

    for offers in (offers_failure, offers_run)[::order]:
        offers()

    (task,) = new.broker.clients[1].tasks.values()
    assert (task.token, str(task.state)) == (later, "unclaimed-run")


def test_what_an_actor_offers_of_a_run_that_failed_is_stale(talk):
    actor, client, token = failed_once(talk)
    actor.connects()

    actor.greets(msgspec.structs.replace(actor.hello, kept=[holding(client, token)]))
    fails(actor, token)

    assert client.takes(Result) == []
    assert talk.task(client, 7).trouble.failures == 1
    talk.wait(1.0, beating=[client, actor])
    assert [ack.stale for ack in actor.takes(OutcomeAck) if ack.stale] == [[token]]


def holding(client, token):
    return Kept(client.incarnation, 7, token)


@pytest.mark.parametrize(
    "call",
    [
        Call("work", CODE, retries=-1),
        Call("work", CODE, retries=1_000_001),
        Call("work", CODE, retries=1, at_most_once=True),
        Call("work", CODE, retries=1, backoff=Backoff(float("nan"))),
        Call("work", CODE, retries=1, backoff=Backoff(-1.0)),
        Call("work", CODE, retries=1, backoff=Backoff(1.0, 0.5)),
        Call("work", CODE, retries=1, backoff=Backoff(2.0, 1.0, 1.0)),
        Call("work", CODE, retries=1, backoff=Backoff(1.0, 2.0, 9.0, 1.5)),
    ],
)
def test_a_template_whose_retries_make_no_sense_is_refused(talk, call):
    client = talk.client().submits(7, call=call)

    assert [error.code for error in client.takes(Error)] == [Code.BAD_FRAME]


def test_a_template_that_is_too_large_is_refused(talk):
    client = talk.client().submits(7, call=Call("work", CODE, metadata={"a": "x" * 2**20}))

    assert [error.code for error in client.takes(Error)] == [Code.BAD_FRAME]


def test_what_a_client_says_of_waits_and_counts_is_bounded(talk):
    for wait_s in (float("nan"), float("inf"), -1.0, 1e300):
        talk.client(5).says(Tried(7, 2**62, 2**62, 2**62, wait_s, None, ["x" * 9_999] * 99))
        new, _, client = restarted(
            talk,
            talk.client(5),
            tried=Tried(7, 2**62, 2**62, 2**62, wait_s, None, ["x" * 9_999] * 99),
        )
        trouble = new.task(client, 7).trouble

        assert trouble.failures < 2**32
        assert trouble.due_at <= new.now + 31 * 86_400.0
        assert [len(line) for line in trouble.history] == [500] * 10


@pytest.mark.parametrize("body", [b"", b"no msgpack", b"\x90"])
def test_a_failure_that_cannot_be_read_is_passed_on_as_it_is(talk, body):
    actor, client, _ = failed_once(talk)
    passes(talk, 1.25, actor, client)

    actor.ends(*assigned(actor), body, status=Status.FAILURE)

    assert [result.body for result in client.takes(Result)] == [body]


def test_a_run_that_is_offered_late_goes_before_the_wait_for_the_next_try(talk):
    _, client, token = failed_once(talk)
    told = Tried(7, 1, 0, 0, 9.0, token, [])
    new, _, client = restarted(talk, client, tried=told)
    new.wait(2.5, beating=[client])
    assert new.state(client, 7) == "delayed"

    later = (token[0], token[1] + 5)
    actor = new.actor(12, holding=[(client.incarnation, 7, later, "running")])

    assert new.state(client, 7) == "assigned"
    actor.ends(later, b"done")
    assert [result.body for result in client.takes(Result)] == [b"done"]


def test_a_failure_that_is_claimed_after_the_window_is_tried_again():
    token = (1000, 3)
    new = Conversation(epoch=2000, recovered=False)
    actor = new.actor(11, kept=[(1, 7, token, True)])
    fails(actor, token)
    new.wait(2.5, beating=[actor])

    client = new.client(1, unresolved=[(7, 7)]).submits(7, call=CALL, again=True)

    assert new.state(client, 7) == "delayed"
    assert [one.failed for one in client.takes(Requeued)] == [token]
