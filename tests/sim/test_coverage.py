"""Each transition of a task happens in the fixed seeds, or in a test that is named here.

A pair of state and event that is not in the table raises KeyError, in a broker as in the simulator:
that the many seeds run without one shows that it does not occur.
"""

from itertools import product

import pytest
from msgspec.structs import replace

from broker.facts.task import TRANSITIONS, Event, State
from tests.broker import (
    test_doubts,
    test_durable,
    test_durable_keys,
    test_durable_restart,
    test_isolation,
    test_recovery,
    test_retrying,
)
from tests.broker.conversation import CODE, Conversation
from tests.sim.fixed import named, recorded
from tests.support.disk import Disk
from wire.codec import decode_failure, encode_failure
from wire.errors import Code
from wire.messages import Cancel, Result
from wire.parts import Backoff, Call, Failure, Held, Status

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def of_two_runs_that_nobody_claims_the_later_counts():
    talk = Conversation(recovered=False)
    talk.actor(11, name="a/0", holding=[(1, 1, (900, 1), Held.RUNNING)])
    talk.actor(12, name="b/0", holding=[(1, 1, (900, 2), Held.RUNNING)])


def of_two_runs_that_are_claimed_the_later_counts():
    talk = Conversation(recovered=False)
    talk.client(unresolved=[(1, 1)]).submits(1, again=True)
    talk.actor(11, name="a/0", holding=[(1, 1, (900, 1), Held.RUNNING)])
    talk.actor(12, name="b/0", holding=[(1, 1, (900, 2), Held.RUNNING)])


def a_cancel_ends_the_wait_of_a_suspect():
    test_isolation.test_a_cancel_ends_the_wait_and_opens_the_actor_that_was_kept(Conversation())


def a_suspect_that_fails_waits_for_an_actor_of_its_own_again():
    test_isolation.test_a_suspect_that_fails_alone_runs_alone_again_after_its_back_off(
        Conversation()
    )


def a_report_that_comes_late_makes_a_suspect_of_who_waits():
    test_doubts.test_a_crash_beside_others_that_is_told_late_is_held_against_nobody()


def a_failure_is_known_before_the_run_is_claimed():
    test_retrying.test_a_failure_that_both_know_counts_once_after_a_restart(Conversation(), False)


def a_failure_is_known_before_the_outcome_is_claimed():
    test_retrying.test_a_failure_that_both_know_counts_once_after_a_restart(Conversation(), True)


def a_suspect_is_adopted_where_it_runs():
    test_isolation.test_a_suspect_is_adopted_where_it_runs(Conversation())


def a_cancel_comes_before_the_journal_lets_it_start():
    talk = Conversation(disk=Disk())
    talk.actor(11, free=1)
    talk.writes = False
    client = talk.client().submits(1, call=Call("once", CODE, durable=True, at_most_once=True))
    assert talk.state(client, 1) == "writing"
    client.says(Cancel([1]))
    talk.commits()
    assert [decode_failure(r.body).code for r in client.takes(Result)] == [Code.CANCELED]


RETRIED = Call("work", CODE, durable=True, retries=2, backoff=Backoff(60.0, 1.0, 60.0, 0.0))
FAILURE = encode_failure(Failure(Code.TASK_FAILED, "OSError", "no route", retriable=True))


def a_run_is_offered_that_an_older_journal_does_not_know():
    test_durable_keys.test_a_run_of_which_an_older_journal_does_not_know_is_adopted_and_never_again(
        "writing"
    )


def a_next_try_is_offered_while_its_task_waits_for_it():
    talk = Conversation(disk=Disk())
    client, actor = talk.client(), talk.actor(11, free=1)
    client.submits(1, call=RETRIED)
    actor.ends((1000, 1), FAILURE, status=Status.FAILURE)
    talk.restart()
    talk.wait(talk.settings.adopt_window_s + 0.25)
    assert talk.state(client, 1) == "delayed"
    talk.actor(12, name="host/1", holding=[(1, 1, (1000, 5), Held.RUNNING)])
    assert talk.state(client, 1) == "assigned"


def offered_a_failure():
    talk = Conversation(recovered=False)
    actor = talk.actor(11, kept=[(1, 1, (900, 1), True)])
    actor.ends((900, 1), FAILURE, status=Status.FAILURE)
    return talk, actor


def a_failure_is_claimed_after_the_window():
    talk, actor = offered_a_failure()
    talk.wait(talk.settings.adopt_window_s + 0.25, beating=[actor])
    client = talk.client(1, unresolved=[(1, 1)])
    client.submits(1, call=replace(RETRIED, durable=False), again=True)
    assert talk.state(client, 1) == "delayed"


def a_next_try_runs_of_a_failure_that_nobody_claims():
    talk, _ = offered_a_failure()
    talk.actor(12, name="host/1", holding=[(1, 1, (900, 2), Held.RUNNING)])
    (task,) = talk.broker.unclaimed
    assert task.token == (900, 2)


# What the simulator does not do (it has no durable tasks), or too seldom for so many seeds.
ELSEWHERE = {
    (
        State.QUEUED,
        Event.ADOPT,
    ): test_recovery.test_a_run_offered_after_the_window_is_adopted_while_its_task_waits,
    (
        State.QUEUED,
        Event.WRITE,
    ): test_durable.test_an_at_most_once_task_starts_when_the_journal_lets_it,
    (
        State.WRITING,
        Event.WRITTEN,
    ): test_durable.test_an_at_most_once_task_starts_when_the_journal_lets_it,
    (
        State.ATTACHED,
        Event.SETTLE,
    ): test_durable.test_whoever_attaches_gets_the_outcome_and_then_it_is_forgotten,
    (
        State.ATTACHED,
        Event.FORGET,
    ): test_durable_keys.test_the_cancel_of_another_name_lets_go_of_the_name_alone,
    (
        State.DELAYED,
        Event.SETTLE,
    ): test_durable_restart.test_a_durable_task_that_waits_for_its_next_try_can_be_canceled,
    (State.ALONE, Event.FORGET): a_cancel_ends_the_wait_of_a_suspect,
    (
        State.HELD,
        Event.ISOLATE,
    ): test_isolation.test_a_suspect_of_an_earlier_broker_waits_for_an_actor_of_its_own,
    (State.QUEUED, Event.ISOLATE): a_report_that_comes_late_makes_a_suspect_of_who_waits,
    (State.DELAYED, Event.ISOLATE): a_suspect_that_fails_waits_for_an_actor_of_its_own_again,
    (State.ASSIGNED, Event.HOLD): a_failure_is_known_before_the_run_is_claimed,
    (State.UNCLAIMED_OUTCOME, Event.HOLD): a_failure_is_known_before_the_outcome_is_claimed,
    (State.UNCLAIMED_RUN, Event.ADOPT): of_two_runs_that_nobody_claims_the_later_counts,
    (State.ASSIGNED, Event.ADOPT): of_two_runs_that_are_claimed_the_later_counts,
    (State.ALONE, Event.ADOPT): a_suspect_is_adopted_where_it_runs,
    (
        State.ALONE,
        Event.SETTLE,
    ): test_isolation.test_a_durable_suspect_is_canceled_for_everybody,
    (State.WRITING, Event.SETTLE): a_cancel_comes_before_the_journal_lets_it_start,
    (
        State.WRITING,
        Event.ADOPT,
    ): a_run_is_offered_that_an_older_journal_does_not_know,
    (State.DELAYED, Event.ADOPT): a_next_try_is_offered_while_its_task_waits_for_it,
    (State.UNCLAIMED_OUTCOME, Event.RETRY): a_failure_is_claimed_after_the_window,
    (State.UNCLAIMED_OUTCOME, Event.ADOPT): a_next_try_runs_of_a_failure_that_nobody_claims,
}

# Why a pair that is not in the table cannot be, by the event.
IMPOSSIBLE = {
    Event.ASSIGN: "only what waits for an actor is assigned, in the backlog or alone",
    Event.WRITE: "that it may start is written of what found an actor in the backlog",
    Event.WRITTEN: "only for what is written a commit can tell",
    Event.REQUEUE: "only from its actor a task comes back",
    Event.RETRY: "only a run fails; a held task waits on when the window ends",
    Event.HOLD: "only of what was offered or adopted a next try may be offered too",
    Event.ISOLATE: "a task becomes a suspect with its actor, or waits as one for its next try"
    " or, since that is told late, in the backlog",
    Event.DUE: "only who waits for a time is queued when it comes",
    Event.RELEASE_HOLD: "only what is held is let go",
    Event.ADOPT: "what is over has had its run, and that of another name is stopped",
    Event.CLAIM: "only what nobody claims is claimed",
    Event.SETTLE: "what is over has its outcome, and what nobody claims keeps that of its run",
    Event.FORGET: "what is forgotten is so, and what is written is durable and ends by a cancel",
}


def test_every_transition_happens_in_the_fixed_seeds(fixed):
    wanted = {named(pair) for pair in TRANSITIONS.keys() - ELSEWHERE.keys()}

    assert not wanted - fixed.run_all().counts.keys()


@pytest.mark.parametrize("pair", ELSEWHERE, ids=lambda pair: f"{pair[0]} {pair[1]}")
def test_what_seeds_do_not_reach_another_test_does(pair):
    with recorded() as seen:
        ELSEWHERE[pair]()

    assert pair in seen


def test_each_pair_is_reached_or_declared_impossible():
    assert ELSEWHERE.keys() <= TRANSITIONS.keys()
    absent = set(product(State, Event)) - TRANSITIONS.keys()
    assert {event for _, event in absent} == IMPOSSIBLE.keys()
