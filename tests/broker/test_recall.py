"""What waits in a mailbox while a slot is free elsewhere is asked back, and nothing else is."""

import pytest

from tests.broker.conversation import CODE, Conversation
from tests.broker.test_explain import ask
from wire.labels import Comparator, Desire
from wire.messages import Assign, Credit, Entered, Recall, Reject
from wire.parts import Call, Environment, Reuse

LARGE = Call("large", CODE, desires=[Desire("memory", Comparator.GREATER_THAN, 256)])
LIKED = Call("liked", CODE, desires=[Desire("memory", Comparator.GREATER_THAN, 256, False, 9.0)])
BACK = "another actor has a free slot"


@pytest.fixture
def talk():
    return Conversation()


def got(actor):
    return [assign.task for assign in actor.takes(Assign)]


def asked(actor):
    return [token for recall in actor.takes(Recall) for token in recall.tokens]


def token(talk, client, number):
    return talk.task(client, number).token


def behind(talk, *numbers, call=None, labels=None):
    """Let an actor of one slot have task 1, and *numbers* wait behind it, for a while already."""
    actor = talk.actor(11, slots={"slot": 1}, prefetch=8, labels=labels)
    actor.says(Credit(1, 8))
    client = talk.client().submits(1, *numbers, call=call)
    assert got(actor) == [1, *numbers]
    talk.wait(0.25)
    return actor, client


def another(talk, *, free=1, labels=None, **fields):
    return talk.actor(
        12, name="other/0", slots={"slot": max(1, free)}, free=free, labels=labels, **fields
    )


def test_what_waits_is_asked_back_at_once_when_another_actor_has_a_free_slot(talk):
    actor, client = behind(talk, 2, 3)
    assert asked(actor) == []

    other = another(talk)

    assert asked(actor) == [token(talk, client, 3)]
    assert got(other) == []
    assert talk.state(client, 3) == "assigned"


def test_what_is_handed_back_goes_to_the_free_slot_and_burns_no_try(talk):
    actor, client = behind(talk, 2)
    other = another(talk)
    two = token(talk, client, 2)

    actor.says(Reject(*two, "recalled", bars=False), Credit(0, 8))

    [assign] = other.takes(Assign)
    assert (assign.task, assign.attempt) == (2, 1)
    assert not talk.task(client, 2).barred


def test_a_task_that_was_handed_back_may_come_again(talk):
    actor, client = behind(talk, 2)

    actor.says(Reject(*token(talk, client, 2), "a run ahead of it is long", bars=False), Credit(0))
    assert talk.state(client, 2) == "queued"
    actor.says(Credit(1))

    assert got(actor) == [2]


def test_as_many_are_asked_back_as_there_are_free_slots(talk):
    actor, client = behind(talk, 2, 3, 4, 5)

    another(talk, free=3)

    assert asked(actor) == [token(talk, client, number) for number in (5, 4, 3)]
    assert ask(client, "status")["recalled"] == 3


def test_nothing_is_asked_back_twice(talk):
    actor, client = behind(talk, 2, 3)
    other = another(talk)
    assert asked(actor) == [token(talk, client, 3)]

    other.says(Credit(1))
    talk.wait(1.0, beating=[])

    assert asked(actor) == []


def test_what_runs_is_not_asked_back(talk):
    actor, _ = behind(talk)

    another(talk)
    talk.wait(1.0)

    assert asked(actor) == []


def test_what_had_started_is_not_asked_back_again_and_the_next_is(talk):
    actor, client = behind(talk, 2, 3)
    other = another(talk)
    assert asked(actor) == [token(talk, client, 3)]

    # Acknowledged, and not handed back: it had started, out of order.
    actor.says(Credit(0, 7))
    other.says(Credit(1))

    assert asked(actor) == [token(talk, client, 2)]


def test_what_a_mailbox_got_a_moment_ago_is_left_there_for_that_moment(talk):
    actor = talk.actor(11, slots={"slot": 1}, prefetch=8)
    actor.says(Credit(1, 8))
    client = talk.client().submits(1, 2)

    another(talk)
    assert asked(actor) == []
    assert talk.broker.deadline() < talk.now + 0.01
    talk.wait(0.01)

    assert asked(actor) == [token(talk, client, 2)]


def test_the_backlog_goes_first(talk):
    actor = talk.actor(11, slots={"slot": 1}, prefetch=1)
    actor.says(Credit(1, 1))
    talk.client().submits(1, 2, 3)
    talk.wait(0.25)

    other = another(talk)

    assert got(other) == [3]
    assert asked(actor) == []


def test_an_actor_that_does_not_satisfy_it_gets_nothing(talk):
    actor, _ = behind(talk, 2, call=LARGE, labels={"memory": 512})

    another(talk, labels={"memory": 64})
    talk.wait(1.0)

    assert asked(actor) == []


def test_an_actor_that_rejected_it_gets_nothing(talk):
    other = another(talk)
    client = talk.client().submits(2)
    assert got(other) == [2]
    actor = talk.actor(11, slots={"slot": 1}, prefetch=8)
    actor.says(Credit(1, 8))
    client.submits(1)
    assert got(actor) == [1]
    other.says(Reject(*token(talk, client, 2), "it cannot"), Credit(0))
    assert got(actor) == [2]

    other.says(Credit(1))
    talk.wait(1.0)

    assert asked(actor) == []


def test_a_free_slot_goes_before_a_mailbox_that_the_task_likes_better(talk):
    liked = talk.actor(11, slots={"slot": 1}, prefetch=8, labels={"memory": 512})
    liked.says(Credit(0, 8))
    other = another(talk)

    talk.client().submits(1, call=LIKED)

    assert got(liked) == []
    assert got(other) == [1]


def test_what_an_actor_has_kept_over_a_restart_is_asked_back_as_well():
    talk = Conversation(recovered=False)
    talk.client(1).submits(7, 8, again=True)
    items = [(1, 7, (900, 1), "running"), (1, 8, (900, 2), "waiting")]
    actor = talk.actor(11, slots={"slot": 1}, prefetch=8, holding=items)
    talk.wait(1.0)
    actor.beats(holding=[(900, 1), (900, 2)], credit=Credit(0, 7))
    talk.wait(1.0)

    another(talk)

    assert asked(actor) == [(900, 2)]


def test_what_is_kept_free_for_a_large_task_is_not_filled_by_a_recall(talk):
    actor, client = behind(talk, 2)
    large = Call("wide", CODE, slots={"slot": 2}, priority=9)
    busy = another(talk, free=0)
    busy.hello.slots["slot"] = 2
    busy.greets()
    client.submits(9, call=large)
    assert talk.broker.reservation is not None

    busy.says(Credit(1))
    talk.wait(1.0)

    assert asked(actor) == []


def test_a_lost_actor_is_asked_for_nothing(talk):
    actor, _ = behind(talk, 2)
    actor.vanishes()

    another(talk)

    assert asked(actor) == []
    talk.wait(6.0)
    assert not talk.broker.recalls.ahead


def test_what_waits_behind_its_warm_environment_is_not_asked_back_to_have_it_loaded_elsewhere(talk):
    environment = Environment("e", "E", CODE, {}, 1, Reuse(0, 2, 60.0, 60.0))
    method = Call("m", b"", "m", environment, affinity_wait_s=1.0)
    actor = talk.actor(11, slots={"slot": 1}, prefetch=8)
    actor.says(Entered(environment, 2.0), Credit(1, 8, 1, {"e": 1}))
    client = talk.client().submits(1, 2, call=method)
    assert got(actor) == [1, 2]
    actor.says(Credit(0, 8, 1, {"e": 0}))
    other = another(talk)
    other.says(Credit(1, 0, 1))

    talk.wait(0.75)
    early = asked(actor)
    talk.wait(0.5)

    assert early == []
    assert asked(actor) == [token(talk, client, 2)]


def test_what_waits_for_a_turn_is_asked_back_where_another_copy_has_one(talk):
    """There were slots enough, so it did not seem to wait, and it did for as long as runs took."""
    environment = Environment("e", "E", CODE, {}, 1, Reuse(0, 2, 60.0, 60.0))
    method = Call("m", b"", "m", environment)
    actor = talk.actor(11, slots={"slot": 3}, prefetch=8)
    actor.says(Entered(environment, 2.0), Credit(3, 8, 0, {"e": 1}))
    client = talk.client().submits(1, 2, 3, call=method)
    assert got(actor) == [1, 2, 3]
    talk.wait(0.25)

    other = talk.actor(12, name="other/0", slots={"slot": 1})
    other.says(Entered(environment, 2.0), Credit(1, 0, 0, {"e": 1}))

    assert asked(actor) == [token(talk, client, 3)]
