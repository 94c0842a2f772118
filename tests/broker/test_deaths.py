"""Actors that die: what is queued again, and which try was burned."""

import pytest

from tests.broker.conversation import CODE, Conversation, attested
from tests.broker.test_core import assigned
from wire import codec
from wire.errors import Code
from wire.messages import (
    Credit,
    Death,
    Error,
    Reacquire,
    Release,
    Requeued,
    Result,
    Welcome,
)
from wire.parts import Call, Status

ONCE = Call("work", CODE, at_most_once=True)


@pytest.fixture
def talk():
    return Conversation()


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


def test_what_the_host_knows_of_a_death_is_told_with_it(talk):
    host = talk.host(actors=[attested(11)])
    actor = talk.actor(free=1)
    client = talk.client().submits(7)

    host.says(Death(11, 4, None, assigned(actor), "a run did not return" + "." * 500))

    (lost,) = talk.noted("actor_lost")
    how = "actor host/0 ended with exit status 4 (a run did not return..."
    assert lost["reason"].startswith(how)
    assert len(lost["reason"]) < 300
    assert client.takes(Requeued)[0].reason == f"attempt 1: {lost['reason']}"


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


# --- a task that holds no slot any more


@pytest.mark.parametrize("said", ["heard", "lost on its way", "said and taken back"])
@pytest.mark.parametrize(
    "how", ["its process died", "its lease is over", "it came back without it"]
)
def test_a_released_task_of_who_is_gone_is_given_to_another(said, how):
    """hatchet docs, Manual Slot Release: it stays running until somebody ends it by hand."""
    talk = Conversation()
    host = talk.host(actors=[])
    actor, other = talk.actor(11, free=1), talk.actor(12, name="b/0", host=91)
    client = talk.client().submits(7)
    token = assigned(actor)[0]
    if said != "lost on its way":
        actor.says(Release(*token), Credit(1))
        assert talk.task(client, 7).is_released
    if said == "said and taken back":
        actor.says(Reacquire(*token), Credit(0))

    match how:
        case "its process died":
            host.says(Death(11, None, 9, [token]))
        case "its lease is over":
            talk.wait(6.0, beating=[client, other])
        case "it came back without it":
            actor.connects()
            actor.greets()
    # After a crash it waits a little.
    talk.wait(2.0, beating=[client, other])
    other.says(Credit(1))

    again = assigned(other)[0]
    assert again > token
    actor.ends(token, b"late")
    other.ends(again, b"well")
    assert [result.body for result in client.takes(Result)] == [b"well"]
