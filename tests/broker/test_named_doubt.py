"""Calls of a client that was given up and comes back: what may have run does not run again."""

import pytest
from msgspec import structs

from tests.broker.conversation import Conversation
from tests.broker.test_named import OLD, call, calls, codes, entry, makes, state, tasks, token
from tests.broker.test_named_crashes import free
from wire.errors import Code
from wire.messages import Cancel, Credit, Death, Resides, Submit, Template, Tried
from wire.parts import Held

# Of an actor that outlives its client.
DETACHED = {"owner": 0, "max_restarts": -1}
RUN = (500, 4)
GONE_S = 11.0


@pytest.fixture
def talk():
    return Conversation()


def comes_back(talk, client, actor, *, seconds=GONE_S, holding=(), **given):
    """Let *client* be away, and make its actor again; it submits the calls itself."""
    client.vanishes()
    for _ in range(int(seconds)):
        talk.wait(1.0)
        actor.beats(holding=holding, credit=free(1, turns=0) if holding else Credit(2))
    client.connects()
    client.greets()
    return makes(client, 1, again=True, **DETACHED | given)


@pytest.mark.parametrize("retries", [0, -1])
@pytest.mark.parametrize("is_over", [False, True])
def test_a_call_that_had_begun_when_its_client_was_given_up_does_not_run_again(
    talk, retries, is_over
):
    """It lives on in the process where it ran, so no max_task_retries is asked."""
    actor = talk.actor(free=2)
    client = makes(talk.client(), **DETACHED, max_task_retries=retries)
    actor.ends(token(1), free=2)
    calls(client, 2)
    assert tasks(actor) == [(1, 1), (1, 2)]
    client.vanishes()
    if is_over:
        actor.ends(token(2), free=2)

    holding = [] if is_over else [token(2)]
    comes_back(talk, client, actor, holding=holding, max_task_retries=retries)
    calls(client, 2)

    assert codes(client) == {2: Code.OUTCOME_UNKNOWN}
    assert (1, 2) not in tasks(actor)


def test_a_call_that_only_waited_when_its_client_was_given_up_is_as_a_new_one(talk):
    actor = talk.actor(free=2)
    client = makes(talk.client(), **DETACHED)
    actor.ends(token(1), free=2)
    calls(client, 2, 3)

    comes_back(talk, client, actor, holding=[token(2)])
    calls(client, 2, 3)
    actor.ends(token(2), free=2)
    actor.ends(token(3), free=2)

    assert codes(client) == {2: Code.OUTCOME_UNKNOWN}
    assert tasks(actor) == [(1, 1), (1, 2), (1, 1), (1, 3)]


def test_a_call_whose_client_is_back_in_time_goes_on(talk):
    actor = talk.actor(free=2)
    client = makes(talk.client(), **DETACHED)
    actor.ends(token(1), free=2)
    calls(client, 2)
    tasks(actor)

    client.hello = structs.replace(client.hello, unresolved=[(1, 2)])
    comes_back(talk, client, actor, seconds=5.0, holding=[token(2)])
    calls(client, 2)
    actor.ends(token(2), b"value", free=2)

    assert not codes(client)
    assert (1, 2) not in tasks(actor)


def test_who_did_not_hear_that_its_call_was_lost_has_it_run_no_more_than_others(talk):
    host, actor = talk.host(), talk.actor(free=2)
    client = makes(talk.client(), **DETACHED)
    actor.ends(token(1), free=2)
    calls(client, 2)
    client.vanishes()

    host.says(Death(11, None, 9, [token(2)]))
    other = talk.actor(12, free=2)
    comes_back(talk, client, other)
    calls(client, 2)

    assert codes(client) == {2: Code.OUTCOME_UNKNOWN}


@pytest.mark.parametrize("is_over", [False, True])
def test_a_call_that_nobody_claimed_from_a_started_broker_does_not_run_again(is_over):
    talk = Conversation(recovered=False)
    actor = talk.actor(
        kept=[(7, 3, RUN)] * is_over,
        holding=[(7, 3, RUN, Held.RUNNING)] * (not is_over),
    )
    actor.says(Resides(entry(**DETACHED), OLD, 0, 1), Credit(1), payloads=[b"code"])
    if is_over:
        actor.ends(RUN)
    for _ in range(14):
        talk.wait(1.0)
        actor.beats(holding=[RUN] * (not is_over))

    client = makes(talk.client(7, unresolved=[(1, 3)]), **DETACHED)
    calls(client, 3, again=True)

    assert codes(client) == {3: Code.OUTCOME_UNKNOWN}


def test_what_its_client_canceled_is_in_no_doubt(talk):
    actor = talk.actor(free=2)
    client = makes(talk.client(), **DETACHED)
    actor.ends(token(1), free=2)
    calls(client, 2)

    client.says(Cancel([2]))
    comes_back(talk, client, actor)

    assert not talk.broker.named.in_doubt
    assert state(talk).home is not None


@pytest.mark.parametrize("retries", [0, -1])
def test_a_call_that_has_ended_in_a_process_that_a_started_broker_finds_does_not_run_again(retries):
    """A former broker gave its client up, and nobody but the process knows of the call."""
    talk = Conversation(recovered=False)
    bounds = DETACHED | {"max_task_retries": retries}
    client = makes(talk.client(7, unresolved=[(1, 9)]), again=True, **bounds)
    calls(client, 3, 9, again=True)
    actor = talk.actor()

    ended = [(7, [(5, 6), (2, 4)])]
    actor.says(Resides(entry(**bounds), OLD, 0, 1, ended), Credit(2), payloads=[b"code"])
    talk.wait(3.0, beating=[actor, client])

    assert codes(client) == {3: Code.OUTCOME_UNKNOWN}
    assert (7, 3) not in tasks(actor)
    assert talk.state(client, 9) == "queued"


def test_a_call_that_has_failed_and_is_to_be_tried_again_is_in_no_doubt():
    talk = Conversation(recovered=False)
    client = talk.client(7, unresolved=[(3, 3)])
    client.greets(epoch=900)
    tried = Tried(3, failures=1, failed=(500, 5))
    client.says(Template(1, call(**DETACHED)), tried, Submit(3, 1, b"", again=True))
    actor = talk.actor()

    ended = [(7, [(3, 3)])]
    actor.says(Resides(entry(**DETACHED), OLD, 0, 1, ended), Credit(2), payloads=[b"code"])
    talk.wait(6.0, beating=[actor, client])
    actor.says(Credit(2))

    assert not codes(client)
    assert (7, 3) in tasks(actor)


@pytest.mark.parametrize("held", ["kept", "holding"])
def test_a_call_that_is_offered_late_and_whose_client_comes_later_does_not_run_again(held):
    talk = Conversation()
    state = () if held == "kept" else (Held.RUNNING,)
    actor = talk.actor(**{held: [(7, 3, RUN, *state)]})
    actor.says(Resides(entry(**DETACHED), OLD, 0, 1), Credit(1), payloads=[b"code"])

    client = makes(talk.client(7, unresolved=[(1, 3)]), **DETACHED)
    calls(client, 3, again=True)
    talk.wait(3.0)  # Until limits are granted: until then it waits for a later process.

    assert codes(client) == {3: Code.OUTCOME_UNKNOWN}
