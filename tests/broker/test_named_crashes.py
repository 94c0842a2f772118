"""Named actors whose process ended: which calls run again, and what a checkpoint is worth."""

import pytest

from tests.broker.conversation import Conversation
from tests.broker.test_named import ID, calls, codes, entry, makes, state, tasks, token
from wire.errors import Code
from wire.messages import (
    Assign,
    Bye,
    Cancel,
    Credit,
    Death,
    Outcome,
    Reject,
    Requeued,
    Resides,
    Restore,
)
from wire.parts import Status

# The first call of the broker's own client, which enters again what was lost.
OWN = (1000, 1)


@pytest.fixture
def talk():
    return Conversation()


def free(number, **turns):
    return Credit(number, 0, 1, {ID: turns["turns"]} if turns else {})


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
