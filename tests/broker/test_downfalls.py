"""Runs that went down with the broker: what the next start counts, and what it takes back."""

import pytest

from broker.disk.journal import OPERATIONS, commit
from tests.broker.conversation import CODE, Conversation
from tests.support.disk import Disk, summary, summary_of_rows
from wire.codec import decode_failure
from wire.errors import Code
from wire.messages import Assign, Credit, Requeued, Result
from wire.parts import Call, Held

DURABLE = Call("keep", CODE, durable=True)
WINDOW_S = 2.5


def talk_with_disk(*numbers):
    talk = Conversation(disk=Disk())
    client = talk.client().submits(*numbers or (1,), call=DURABLE)
    return talk, client


def falls(talk, client, *, free=1):
    """Let everything die at once, and what comes then have credit; return its new actor."""
    talk.restart()
    unresolved = [(1, max(task.number for task in talk.broker.clients[1].tasks.values()))]
    client.greets(type(client.hello)(1, "client1", "3.11", unresolved))
    talk.serial = getattr(talk, "serial", 20) + 1
    actor = talk.actor(talk.serial, name=f"host{talk.serial}/0")
    talk.wait(WINDOW_S, beating=[client, actor])
    actor.says(Credit(free))
    talk.wait(0.25, beating=[client, actor])
    return actor


def trouble(talk, client, number=1):
    known = talk.task(client, number).trouble
    return (known.crashes, known.shared) if known is not None else (0, 0)


def armed(talk, number=1):
    return bool(talk.disk.row(1, number)[0])


def test_the_first_run_of_a_durable_task_is_not_written_and_a_later_one_is():
    talk, client = talk_with_disk()
    actor = talk.actor(11, free=1)
    assert len(actor.takes(Assign)) == 1
    assert not armed(talk)

    actor = falls(talk, client)

    assert len(actor.takes(Assign)) == 1
    assert armed(talk)
    assert trouble(talk, client) == (0, 0)


def test_a_restored_task_waits_for_nothing_and_is_written_as_given():
    talk, _ = talk_with_disk()
    talk.restart()
    actor = talk.actor(12)
    talk.wait(WINDOW_S, beating=[actor])
    talk.writes = False

    actor.says(Credit(1))

    assert len(actor.takes(Assign)) == 1
    assert not armed(talk)
    talk.commits()
    assert armed(talk)


def test_a_task_that_takes_everything_along_three_times_is_poison():
    talk, client = talk_with_disk()
    actor = talk.actor(11, free=1)
    runs = len(actor.takes(Assign))

    for _ in range(4):
        runs += len(falls(talk, client, free=2).takes(Assign))

    assert runs == 4
    [result] = client.takes(Result)
    failure = decode_failure(result.body)
    assert failure.code == Code.POISON_TASK
    assert "3 crashes" in failure.message
    assert len(failure.history) == 3
    assert summary(talk.broker) == summary_of_rows(talk.disk.read())


def test_a_suspect_runs_alone_and_is_written_as_given_too():
    talk, client = talk_with_disk()
    falls(talk, client)
    talk.restart()
    actor = talk.actor(31)
    talk.wait(WINDOW_S, beating=[actor])
    assert trouble(talk, client) == (1, 0)
    assert talk.state(client, 1) == "alone"
    assert not armed(talk)

    actor.says(Credit(2))
    talk.wait(0.25, beating=[actor])

    assert len(actor.takes(Assign)) == 1
    assert armed(talk)


def test_of_several_that_went_down_each_has_a_shared_crash():
    talk, client = talk_with_disk(1, 2)
    assert len(falls(talk, client, free=2).takes(Assign)) == 2

    falls(talk, client)

    assert [trouble(talk, client, number) for number in (1, 2)] == [(0, 1), (0, 1)]
    assert [told.tries for told in client.takes(Requeued)][-2:] == [0, 0]


def test_what_runs_on_and_what_was_not_given_out_is_not_counted():
    talk, client = talk_with_disk(1, 2)
    actor = falls(talk, client)
    [assign] = actor.takes(Assign)
    token = (talk.broker.epoch, assign.number)

    talk.restart()
    talk.actor(
        actor.incarnation, name=actor.hello.name, holding=[(1, assign.task, token, Held.RUNNING)]
    )
    talk.wait(WINDOW_S)

    assert [trouble(talk, client, number) for number in (1, 2)] == [(0, 0), (0, 0)]


def test_an_end_that_was_asked_for_is_held_against_nobody():
    talk, client = talk_with_disk()
    falls(talk, client)
    commit(talk.disk.connection, OPERATIONS, [("ended",)])
    talk.restart()
    talk.broker.records.ended_well = True
    talk.wait(WINDOW_S)

    assert trouble(talk, client) == (0, 0)
    assert not armed(talk)
    [(left,)] = talk.disk.connection.execute("SELECT count(*) FROM meta WHERE key = 'ended'")
    assert left == 0


def test_an_end_counts_once():
    talk, client = talk_with_disk()
    falls(talk, client)
    for _ in range(3):  # Nobody comes to run it.
        talk.restart()
        talk.wait(WINDOW_S)

    assert trouble(talk, client) == (1, 0)


def test_a_run_that_comes_late_is_held_against_nobody():
    talk, client = talk_with_disk()
    actor = falls(talk, client)
    [assign] = actor.takes(Assign)
    token = (talk.broker.epoch, assign.number)
    talk.restart()
    talk.wait(WINDOW_S)
    assert trouble(talk, client) == (1, 0)

    talk.actor(actor.incarnation, name=actor.hello.name, holding=[(1, 1, token, Held.RUNNING)])

    assert trouble(talk, client) == (0, 0)
    assert talk.task(client, 1).tries == 0
    assert talk.state(client, 1) == "assigned"
    assert armed(talk)


@pytest.mark.parametrize("number", [1, 2])
def test_a_crash_that_is_reported_is_counted_once(number):
    talk, client = talk_with_disk()
    actor = falls(talk, client)
    [_] = actor.takes(Assign)
    talk.actor(40 + number, name=actor.hello.name)  # The next process of that name: a loss.
    assert not armed(talk)

    talk.restart()
    talk.wait(WINDOW_S)

    assert trouble(talk, client) == (0, 0)
    assert talk.task(client, 1).trouble.losses == 1


def test_what_a_process_that_lives_never_began_is_held_against_nobody():
    # Seed 892619909138220436: it was handed back while no broker was there to hear it.
    talk, client = talk_with_disk()
    actor = falls(talk, client)
    assert len(actor.takes(Assign)) == 1

    talk.restart()
    talk.actor(actor.incarnation, name=actor.hello.name)
    talk.wait(WINDOW_S)

    assert trouble(talk, client) == (0, 0)
    assert not armed(talk)


def test_a_process_that_comes_late_without_it_takes_back_what_was_counted():
    talk, client = talk_with_disk()
    actor = falls(talk, client)
    talk.restart()
    talk.wait(WINDOW_S)
    assert trouble(talk, client) == (1, 0)

    talk.actor(actor.incarnation, name=actor.hello.name)

    assert trouble(talk, client) == (0, 0)
    assert talk.task(client, 1).tries == 0


def test_of_two_that_were_given_out_the_one_whose_process_is_gone_has_a_crash_of_its_own():
    talk, client = talk_with_disk(1, 2)
    first = falls(talk, client)
    second = talk.actor(15, name="host15/0", free=1)
    gone, there = first.takes(Assign)[0].task, second.takes(Assign)[0].task

    talk.restart()
    talk.actor(15, name="host15/0")
    talk.wait(WINDOW_S)

    assert [trouble(talk, client, number) for number in (gone, there)] == [(1, 0), (0, 0)]


def test_a_row_that_names_no_process_is_counted_whoever_comes():
    # As a journal has it that was written before, or an actor whose number no row can have.
    talk, client = talk_with_disk()
    actor = falls(talk, client)
    talk.disk.connection.execute("UPDATE tasks SET is_armed = 1")

    talk.restart()
    talk.actor(actor.incarnation, name=actor.hello.name)
    talk.wait(WINDOW_S)

    assert trouble(talk, client) == (1, 0)


def test_a_process_with_a_number_that_no_row_can_have_is_not_named():
    talk, _ = talk_with_disk()
    talk.restart()
    talk.wait(WINDOW_S)

    talk.actor(2**64 - 1, name="stranger/0", free=1)

    assert talk.disk.row(1, 1)[0] == 1
