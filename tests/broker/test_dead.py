"""Dead tasks: which are kept, how many, what is told of them, and how they are submitted again."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.tasks.dead import ENTRY_BYTES, octets_of
from sdk.commands.dead import row
from tests.broker.conversation import CODE, Conversation, ask, attested
from tests.support.disk import Disk
from wire.codec import decode_failure, encode_failure
from wire.errors import Code
from wire.messages import (
    Accepted,
    Assign,
    Attach,
    Bye,
    Cancel,
    Death,
    Function,
    Result,
)
from wire.parts import Call, Failure, Status

ONCE = Call("once", CODE, at_most_once=True)
DURABLE = Call("keep", CODE, durable=True)
FAILS = encode_failure(Failure(Code.TASK_FAILED, "ValueError", "no", "the traceback"))


@pytest.fixture
def talk():
    return Conversation()


def assigned(actor):
    return [(actor.epoch, command.number) for command in actor.takes(Assign)]


# The octets of the code that each client here has sent.
SENT = len(b"code")


def dies(talk, client, number=1, *, call=ONCE, body=b"arguments", actor=11):
    """Let a call end with outcome-unknown: it was with a process that died."""
    host = talk.host(80 + actor, name=f"host{actor}", actors=[attested(actor)])
    process = talk.actor(actor, name=f"host{actor}/0", free=1)
    client.submits(number, call=call, body=body)
    host.says(Death(actor, None, 9, assigned(process)))


def fails(client, actor, number=1):
    """Let a durable call end with an error."""
    client.submits(number, call=DURABLE)
    (token,) = assigned(actor)
    actor.ends(token, FAILS, status=Status.FAILURE)


def asked(client, what="dead", argument=""):
    return ask(client, what, argument)


def test_the_command_that_lists_dead_tasks_failed_for_what_the_broker_does_not_list():
    talk = Conversation(disk=Disk())
    client = talk.client()
    fails(client, talk.actor(11, free=1))

    (dead,) = asked(client)["dead"]

    assert row(dead)[-1] == "ValueError: no"


def name(client, number):
    return f"{client.incarnation:016x}-{number}"


def redrives(client, number, *dead):
    return client.says(*(Attach(number + n, 1, one, True) for n, one in enumerate(dead)))


def end(client, number):
    return {result.task: result for result in client.takes(Result)}[number]


def code(result):
    return decode_failure(result.body).code


# --- which ones


def test_what_the_system_ended_is_kept_with_its_call_and_its_history(talk):
    client = talk.client()
    dies(talk, client)

    (dead,) = asked(client)["dead"]
    assert dead["task"] == name(client, 1)
    assert (dead["name"], dead["code"], dead["octets"]) == ("once", Code.OUTCOME_UNKNOWN, 9)
    assert "died of signal 9" in dead["message"]
    assert dead["has_call"]
    assert dead["redriven_as"] == ""


def test_poison_is_kept_with_its_history(talk):
    client = talk.client().submits(1)
    host = talk.host()
    for incarnation in (11, 12, 13):
        actor = talk.actor(incarnation, free=1, slots={"slot": 1})
        host.says(Death(incarnation, None, 11, assigned(actor)))

    (dead,) = asked(client)["dead"]
    assert (dead["code"], dead["crashes"], dead["tries"]) == (Code.POISON_TASK, 3, 3)
    assert dead["runs"] == 3
    assert len(dead["history"]) == 3


@pytest.mark.parametrize("is_kept", [False, True])
def test_a_failure_is_kept_of_a_call_that_was_to_be_tried_again(talk, is_kept):
    client, actor = talk.client(), talk.actor(free=1)
    client.submits(1, call=Call("work", CODE, retries=2 if is_kept else 0))
    (token,) = assigned(actor)
    actor.ends(token, FAILS, status=Status.FAILURE)

    dead = asked(client)["dead"]
    assert [(one["code"], one["runs"]) for one in dead] == [(Code.TASK_FAILED, 1)] * is_kept
    assert code(end(client, 1)) == Code.TASK_FAILED


@pytest.mark.parametrize("why", [Code.CANCELED, Code.PARENT_GONE])
@pytest.mark.parametrize("is_durable", [False, True])
def test_a_run_that_ends_as_canceled_by_its_own_doing_was_kept_as_dead(why, is_durable):
    talk = Conversation(disk=Disk())
    client, actor = talk.client(), talk.actor(free=1)
    client.submits(1, call=Call("work", CODE, retries=2, durable=is_durable))
    (token,) = assigned(actor)
    failure = encode_failure(Failure(why, "TaskCanceled", "one of its calls was canceled"))
    actor.ends(token, failure, status=Status.FAILURE)

    assert asked(client)["dead"] == []
    assert code(end(client, 1)) == why
    told = asked(client, "status")
    assert (told["canceled"], told["failed"], told["dead"]) == (1, 0, 0)


def test_a_failure_of_a_durable_task_is_kept_for_who_comes_later():
    talk = Conversation(disk=Disk())
    client = talk.client()
    fails(client, talk.actor(free=1))

    (dead,) = asked(client, argument=name(client, 1))["dead"]
    assert dead["traceback"] == "the traceback"
    assert dead["options"] == {"durable": True}


def test_a_run_that_may_have_begun_counts_among_those_that_did(talk):
    actor, client = talk.actor(free=1), talk.client()
    client.submits(1, call=Call("work", CODE, at_most_once=True))
    talk.host().says(Death(11, None, 11, assigned(actor)))

    (dead,) = asked(client)["dead"]
    assert (dead["code"], dead["runs"], dead["tries"]) == (Code.OUTCOME_UNKNOWN, 1, 0)


def test_what_never_began_has_had_no_run():
    talk = Conversation(disk=Disk())
    talk.actor(free=1)
    client = talk.client()
    client.submits(1, call=Call("work", CODE, durable=True, slots={"gpu": 1}, fail_infeasible=True))
    talk.wait(2.25)

    (dead,) = asked(client)["dead"]
    assert (dead["code"], dead["runs"]) == (Code.INFEASIBLE, 0)


@pytest.mark.parametrize("status", [Status.RESULT, Status.CANCELED])
def test_a_result_and_a_cancel_are_no_death(talk, status):
    client, actor = talk.client(), talk.actor(free=1)
    client.submits(1, call=Call("work", CODE, retries=2))
    (token,) = assigned(actor)
    actor.ends(token, FAILS, status=status)

    assert asked(client)["dead"] == []


def test_what_its_client_takes_back_or_gives_up_is_no_death(talk):
    client = talk.client().submits(1, 2)
    client.says(Cancel([1]))
    client.says(Bye())

    assert asked(talk.client(2))["dead"] == []


def test_an_outcome_that_is_claimed_late_is_kept_as_well():
    talk = Conversation(recovered=False)
    actor = talk.actor(kept=[(1, 1, (900, 1))])
    actor.ends((900, 1), FAILS, status=Status.FAILURE)
    client = talk.client(unresolved=[(1, 1)])
    client.submits(1, call=Call("work", CODE, retries=1), body=b"arguments", again=True)

    (dead,) = asked(client)["dead"]
    assert (dead["code"], dead["octets"]) == (Code.TASK_FAILED, 9)


def test_a_call_that_runs_again_after_a_restart_is_dead_no_more():
    talk = Conversation(disk=Disk())
    client = talk.client()
    dies(talk, client)
    talk.restart()
    client.greets(msgspec.structs.replace(client.hello, unresolved=[(1, 1)]))

    client.submits(1, call=ONCE, again=True)

    assert asked(client)["count"] == 0


def test_a_dead_task_can_be_explained(talk):
    client = talk.client()
    dies(talk, client)
    client.beats()

    reply = asked(client, "explain", name(client, 1))

    assert reply["state"] == "dead"
    assert reply["reason"].startswith("outcome-unknown: ")


# --- how many


def test_the_oldest_go_first():
    talk = Conversation(dead_tasks_max=2)
    client = talk.client()
    for number in (1, 2, 3):
        dies(talk, client, number, actor=10 + number)

    assert [dead["task"] for dead in asked(client)["dead"]] == [name(client, 2), name(client, 3)]


def test_octets_are_bounded_as_well():
    talk = Conversation(dead_bytes_max=3_000)
    client = talk.client()
    for number in (1, 2, 3):
        dies(talk, client, number, actor=10 + number, body=b"a" * 1_000)

    assert asked(client)["count"] == 1


def test_code_that_only_dead_tasks_need_is_bounded_as_well():
    talk = Conversation(disk=Disk(), dead_bytes_max=5_000)
    client = talk.client()
    for number in (1, 2, 3):
        code = b"%d" % number * 2_000
        client.says(Function(number, b"%d" % number * 16, code))
        call = Call(f"once{number}", b"%d" % number * 16, at_most_once=True)
        dies(talk, client, number, call=call, actor=10 + number)

    dead = talk.broker.dead_tasks
    assert [number for _, number in dead.by_name] == [3]
    assert 2_000 < dead.octets < 5_000
    talk.wait(130.0)
    assert [len(code) for code in talk.disk.read().codes.values()] == [2_000]


def test_code_that_is_too_large_is_not_kept_with_a_dead_task():
    talk = Conversation(dead_bytes_max=3_000)
    client = talk.client()
    client.says(Function(1, b"1" * 16, b"a" * 4_000))
    dies(talk, client, call=Call("once", b"1" * 16, at_most_once=True))

    (dead,) = asked(client)["dead"]
    assert not dead["has_call"]


def test_of_a_call_that_is_too_large_the_history_alone_is_kept():
    talk = Conversation(dead_bytes_max=3_000)
    client = talk.client()
    dies(talk, client, body=b"a" * 4_000)

    (dead,) = asked(client)["dead"]
    assert not dead["has_call"]
    redrives(client, 2, 1)
    result = end(client, 2)
    assert code(result) == Code.PAYLOAD_TOO_LARGE
    assert "--dead-bytes-max" in decode_failure(result.body).message


def test_none_are_kept_where_none_may_be():
    talk = Conversation(dead_tasks_max=0)
    client = talk.client()
    dies(talk, client)

    assert asked(client)["count"] == 0


@settings(deadline=None, max_examples=50)
@given(
    most=st.integers(0, 4),
    octets=st.integers(0, 4) | st.just(1_000),
    sizes=st.lists(st.integers(0, 4), max_size=8),
)
def test_what_is_kept_is_what_a_list_would_have(most, octets, sizes):
    room = octets * (ENTRY_BYTES + 2_000)
    talk = Conversation(dead_tasks_max=most, dead_bytes_max=room)
    client = talk.client()
    kept = []
    for number, size in enumerate(sizes, 1):
        dies(talk, client, number, actor=10 + number, body=b"a" * 1_000 * size)
        dead = talk.broker.dead_tasks.by_name.get((1, number))
        taken = octets_of(dead.facts, dead.body, dead.frames) if dead else room + 1
        if taken + SENT <= room and most:
            kept.append((number, taken))
        # All have the same code.
        while len(kept) > most or sum(taken for _, taken in kept) + SENT * bool(kept) > room:
            kept.pop(0)

        told = [one["task"] for one in asked(client)["dead"]]
        assert told == [name(client, number) for number, _ in kept]


# --- what becomes of them


def test_a_redriven_task_is_a_new_one_with_the_same_call(talk):
    client = talk.client()
    dies(talk, client, body=b"arguments")
    client.beats()
    redrives(client, 2, 1)

    actor = talk.actor(12, name="host/1", free=1)
    (assign,) = actor.takes(Assign)
    assert (assign.task, assign.attempt, assign.body) == (2, 1, b"arguments")
    actor.ends((actor.epoch, assign.number), b"value")
    assert end(client, 2).body == b"value"
    assert [dead["redriven_as"] for dead in asked(client)["dead"]] == [name(client, 2)]


def test_it_is_its_clients_where_there_is_no_journal(talk):
    client, other = talk.client(), talk.client(2)
    dies(talk, client)
    redrives(other, 1, 1)
    assert other.takes(Accepted) == [Accepted([(1, 1)])]

    other.says(Bye())

    assert talk.task(other, 1) is None


def test_it_is_the_journals_where_there_is_one():
    talk = Conversation(disk=Disk())
    client, other = talk.client(), talk.client(2)
    dies(talk, client)
    talk.writes = False
    redrives(other, 1, 1)
    assert other.takes(Accepted) == []
    talk.writes = True
    talk.commits()
    assert other.takes(Accepted) == [Accepted([(1, 1)])]

    other.says(Bye())
    talk.wait(talk.settings.client_timeout_s + 1, beating=[client])

    assert talk.state(other, 1) == "queued"


def test_it_is_submitted_again_once_whoever_asks():
    talk = Conversation(disk=Disk())
    client, other = talk.client(), talk.client(2)
    dies(talk, client)
    redrives(client, 2, 1)
    redrives(client, 3, 1)
    redrives(other, 1, 1)

    actor = talk.actor(12, name="host/1", free=3)
    (assign,) = actor.takes(Assign)
    actor.ends((actor.epoch, assign.number), b"value")

    assert [end(client, 2).body, end(other, 1).body] == [b"value", b"value"]


def test_what_was_submitted_again_is_so_once_though_its_client_says_the_call_once_more(talk):
    """Its own client was away and has no outcome of it: the dead task was a new one, and again."""
    client, other = talk.client(), talk.client(2)
    dies(talk, client)
    redrives(other, 1, 1)
    actor = talk.actor(21, name="next", free=2)
    assert [(a.client, a.task) for a in actor.takes(Assign)] == [(2, 1)]
    client.vanishes()
    talk.wait(talk.settings.client_timeout_s + 1, beating=[other, actor])

    back = talk.client(unresolved=[(1, 1)])
    back.submits(1, call=ONCE, again=True)
    redrives(back, 5, 1)

    assert code(end(back, 1)) == Code.OUTCOME_UNKNOWN
    assert actor.takes(Assign) == []
    dead = {one["task"]: one["redriven_as"] for one in asked(back)["dead"]}
    assert dead[name(back, 1)] == name(other, 1)


def test_without_a_journal_a_second_redrive_says_what_became_of_the_first(talk):
    client, other = talk.client(), talk.client(2)
    dies(talk, client)
    redrives(client, 2, 1)

    redrives(other, 1, 1)

    result = end(other, 1)
    assert code(result) == Code.OUTCOME_UNKNOWN
    assert name(client, 2) in decode_failure(result.body).message


def test_a_redrive_that_is_said_again_changes_nothing(talk):
    client = talk.client()
    dies(talk, client)
    redrives(client, 2, 1)

    redrives(client, 2, 1)

    assert talk.state(client, 2) == "queued"
    assert client.takes(Accepted) == [Accepted([(2, 2)])] * 2


def test_who_is_not_dead_cannot_be_redriven(talk):
    client = talk.client().submits(1)

    redrives(client, 2, 1)

    assert code(end(client, 2)) == Code.OUTCOME_UNKNOWN


def test_what_is_refused_at_once_stays_as_dead_as_it_was():
    talk = Conversation(disk=Disk(), journal_bytes_max=10)
    client = talk.client()
    dies(talk, client, body=b"too many octets")

    redrives(client, 2, 1)

    assert code(end(client, 2)) == Code.NOT_DURABLE
    (dead,) = asked(client)["dead"]
    assert dead["has_call"]
    assert dead["redriven_as"] == ""


def test_it_can_die_again_under_its_new_name(talk):
    client = talk.client()
    dies(talk, client)
    host = talk.host()
    redrives(client, 2, 1)
    actor = talk.actor(12, name="host/1", free=1)
    host.says(Death(12, None, 9, assigned(actor)))

    redrives(client, 3, 2)

    assert talk.state(client, 3) == "queued"
    first, second = sorted(asked(client)["dead"], key=lambda dead: dead["task"])
    assert first["redriven_as"] == second["task"]
    assert second["redriven_as"] == name(client, 3)


def test_dead_tasks_are_forgotten_by_name_or_all(talk):
    client = talk.client()
    for number in (1, 2, 3):
        dies(talk, client, number, actor=10 + number)

    assert asked(client, "dead-forget", name(client, 2)) == {"forgotten": [name(client, 2)]}
    assert "error" in asked(client, "dead-forget", name(client, 2))
    assert "error" in asked(client, "dead-forget", "")
    assert len(asked(client, "dead-forget", "*")["forgotten"]) == 2
    assert asked(client)["count"] == asked(client)["octets"] == 0
