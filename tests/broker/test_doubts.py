"""Losses that may be none: what is told of them later, one conversation a rule."""

import msgspec
import pytest

from broker.events import doubts
from tests.broker.conversation import CODE, Conversation, attested
from tests.support.disk import Disk, summary, summary_of_rows
from wire.messages import Assign, Credit, Death, Requeued, Result
from wire.parts import Call, Held, Holding, Kept

DURABLE = Call("keep", CODE, durable=True)


def replaced(talk, *numbers, call=None):
    """Return a client, a host and tokens by task, after a process was replaced unreported."""
    host = talk.host(actors=[attested(11)])
    actor = talk.actor(free=len(numbers))
    client = talk.client().submits(*numbers, call=call)
    tokens = {one.task: (actor.epoch, one.number) for one in actor.takes(Assign)}
    talk.actor(12)
    assert {one.task: one.losses for one in client.takes(Requeued)} == dict.fromkeys(numbers, 1)
    return client, host, tokens


def counts(client):
    return {r.task: (r.tries, r.crashes, r.losses, r.shared) for r in client.takes(Requeued)}


def test_a_hello_that_overtakes_the_death_burns_no_try_of_who_had_not_started():
    talk = Conversation()
    client, host, tokens = replaced(talk, 7, 8, 9)

    host.says(Death(11, None, 11, [tokens[7]]))

    assert counts(client) == {7: (1, 1, 0, 0), 8: (0, 0, 0, 0), 9: (0, 0, 0, 0)}
    assert talk.task(client, 7).trouble.history == ["attempt 1: its actor died of signal 11"]
    assert talk.task(client, 8).trouble.history == []


def test_a_crash_beside_others_that_is_told_late_is_held_against_nobody():
    talk = Conversation()
    client, host, tokens = replaced(talk, 7, 8)

    host.says(Death(11, 3, None, [tokens[7], tokens[8]]))

    assert counts(client) == {7: (0, 0, 0, 1), 8: (0, 0, 0, 1)}
    assert [talk.state(client, n) for n in (7, 8)] == ["alone", "alone"]


@pytest.mark.parametrize("field", ["finished", "beside"])
def test_who_is_not_to_blame_has_its_try_back(field):
    talk = Conversation()
    client, host, tokens = replaced(talk, 7)

    host.says(Death(11, None, 9, [], **{field: [tokens[7]]}))

    assert counts(client) == {7: (0, 0, 0, 0)}


def test_an_innocent_neighbour_of_overtaken_deaths_is_no_poison():
    talk = Conversation()
    host = talk.host(actors=[])
    client = talk.client().submits(7)
    for incarnation in range(11, 11 + 3 * talk.settings.losses_max):
        actor = talk.actor(incarnation, free=1)
        if incarnation > 11:
            host.says(Death(incarnation - 1, None, 11, []))
        if talk.state(client, 7) == "queued":
            actor.says(Credit(2))
        assert len(actor.takes(Assign)) == 1

    assert client.takes(Result) == []


def test_a_death_that_comes_after_the_lease_corrects_the_loss():
    talk = Conversation()
    host = talk.host(actors=[attested(11, stopped=True)])
    talk.actor(free=2)
    client = talk.client().submits(7, 8)
    talk.wait(talk.settings.lease_s + 0.5, beating=[host, client])
    assert counts(client) == {7: (1, 0, 1, 0), 8: (1, 0, 1, 0)}

    host.says(Death(11, None, 9, []))
    host.says(Death(11, None, 9, []))

    assert counts(client) == {7: (0, 0, 0, 0), 8: (0, 0, 0, 0)}


def test_a_lost_actor_that_comes_back_says_what_had_not_started():
    talk = Conversation()
    actor = talk.actor(free=4)
    client = talk.client().submits(1, 2, 3, 4)
    tokens = [(actor.epoch, one.number) for one in actor.takes(Assign)]
    talk.wait(talk.settings.lease_s + 0.5, beating=[client])
    assert len(counts(client)) == 4

    runs = [Holding(1, 1, tokens[0], Held.RUNNING), Holding(1, 2, tokens[1], Held.WAITING)]
    kept = [Kept(1, 3, tokens[2])]
    actor.greets(msgspec.structs.replace(actor.hello, holding=runs, kept=kept))

    assert {n: told[0] for n, told in counts(client).items()} == {2: 0, 4: 0}
    assert talk.broker.doubts.by_incarnation == {}


def test_what_has_ended_meanwhile_is_left_alone():
    talk = Conversation()
    client, host, tokens = replaced(talk, 7)
    other = talk.actor(13, name="host/1", free=1)
    (assign,) = other.takes(Assign)
    other.ends((other.epoch, assign.number), b"value")

    host.says(Death(11, None, 11, [tokens[7]]))

    assert [(r.body, r.attempt) for r in client.takes(Result)] == [(b"value", 2)]
    assert counts(client) == {}


def test_the_journal_has_what_was_corrected():
    talk = Conversation(disk=Disk())
    client, host, _ = replaced(talk, 7, call=DURABLE)

    host.says(Death(11, None, 11, []))

    assert summary(talk.broker) == summary_of_rows(talk.disk.read())
    talk.restart()
    assert talk.task(client, 7).tries == 0


def test_what_is_known_of_losses_is_bounded():
    talk = Conversation()
    talk.client().submits(1)
    for incarnation in range(11, 11 + doubts.PROCESSES_MAX + 20):
        talk.actor(incarnation, free=1)
        talk.broker.tick(talk.now)
        if not talk.broker.doubts.by_incarnation:
            continue
        (task,) = talk.broker.clients[1].tasks.values()
        if task.trouble:
            task.trouble.losses = 0

    assert len(talk.broker.doubts.by_incarnation) == doubts.PROCESSES_MAX
