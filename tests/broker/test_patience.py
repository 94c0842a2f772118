"""Tasks that wait for only so long, and those that no actor could take (protocol.md 8.5)."""

import msgspec
import pytest

from broker.events import patience
from tests.broker.conversation import CODE, Conversation, attested
from tests.broker.test_explain import LARGE, ask
from tests.broker.test_limits import limited
from wire.codec import decode_failure
from wire.errors import Code
from wire.labels import Comparator, Desire
from wire.messages import (
    Assign,
    Beat,
    Cancel,
    Credit,
    Function,
    LabelsChanged,
    Reject,
    Requeued,
    Result,
    Submit,
    Template,
)
from wire.parts import Call

HASTY = Call("hasty", CODE, schedule_timeout_s=3.0)
RENDER = Call("render", CODE, limits={"host:gpu": 1})
PICKY = Call("picky", CODE, schedule_timeout_s=3.0, desires=[LARGE])


@pytest.fixture
def talk():
    return Conversation()


def failure_of(client):
    """Return what the one outcome since the last look says."""
    (result,) = client.takes(Result)
    return decode_failure(result.body)


def lives(talk, seconds, *peers):
    """Let time pass, in which *peers* are heard and state nothing."""
    end = talk.now + seconds
    while talk.now < end:
        for peer in peers:
            peer.says(Beat())
        talk.wait(min(0.5, end - talk.now))


def test_a_task_that_finds_no_actor_ends_with_what_explain_says(talk):
    actor = talk.actor(labels={"memory": 64}, free=1)
    client = talk.client().submits(7, call=PICKY)
    lives(talk, 2.75, client, actor)
    assert talk.state(client, 7) == "queued"
    reason = ask(client, "explain", "7")["reason"]

    lives(talk, 0.5, client, actor)

    failure = failure_of(client)
    assert failure.code == Code.SCHEDULE_TIMEOUT
    assert failure.message == f"no actor within 3 s: {reason}"
    assert "needs memory gt 256, offers 64" in reason


def test_it_ends_at_its_time_and_not_with_the_next_heartbeat(talk):
    talk.client().submits(7, call=Call("work", CODE, schedule_timeout_s=0.1))

    assert talk.broker.deadline() == pytest.approx(talk.now + 0.1)


def test_explain_says_when_it_will_end(talk):
    client = talk.client().submits(7, call=HASTY)
    talk.now += 1.0

    assert ask(client, "explain", "7")["ends_s"] == pytest.approx(2.0)


def test_a_task_that_was_assigned_in_time_is_not_ended(talk):
    actor = talk.actor(free=1)
    client = talk.client().submits(7, call=HASTY)

    lives(talk, 4.5, client)

    assert len(actor.takes(Assign)) == 1
    assert client.takes(Result) == []


def test_at_its_last_moment_a_slot_goes_before_the_end(talk):
    actor = talk.actor()
    client = talk.client().submits(7, call=HASTY)
    lives(talk, 2.0, client, actor)

    talk.now += 1.0
    actor.says(Credit(1))

    assert len(actor.takes(Assign)) == 1
    assert client.takes(Result) == []


def test_what_comes_back_unstarted_has_what_was_left(talk):
    actor = talk.actor(free=1)
    client = talk.client().submits(7, call=HASTY)
    (assign,) = actor.takes(Assign)
    lives(talk, 2.0, client, actor)

    actor.says(Reject(actor.epoch, assign.number, "recalled", False), Credit(0))

    assert ask(client, "explain", "7")["ends_s"] == pytest.approx(1.0)
    lives(talk, 1.25, client, actor)
    assert failure_of(client).code == Code.SCHEDULE_TIMEOUT


def test_what_comes_back_late_is_placed_where_there_is_a_slot(talk):
    busy = talk.actor(11, free=1, name="h/0")
    client = talk.client().submits(7, call=HASTY)
    (assign,) = busy.takes(Assign)
    idle = talk.actor(12, name="h/1", free=1)
    lives(talk, 4.0, client, busy, idle)

    idle.says(Credit(1))
    busy.says(Reject(busy.epoch, assign.number, "recalled", False), Credit(0))

    assert len(idle.takes(Assign)) == 1
    assert client.takes(Result) == []


def test_a_run_that_was_lost_had_found_an_actor_so_its_time_begins_anew(talk):
    actor = talk.actor(free=1)
    client = talk.client().submits(7, call=HASTY)
    actor.takes(Assign)
    lives(talk, 6.0, client)
    assert client.takes(Requeued)[0].tries == 1

    lives(talk, 1.0, client)
    assert client.takes(Result) == []
    lives(talk, 3.0, client)

    assert "no actor is connected" in failure_of(client).message


def test_the_time_that_the_broker_was_stopped_does_not_count(talk):
    client = talk.client().submits(7, call=HASTY)
    talk.sleep(60.0)
    talk.wake()
    assert talk.state(client, 7) == "queued"

    lives(talk, 3.5, client)

    assert failure_of(client).code == Code.SCHEDULE_TIMEOUT


def test_after_a_stall_it_ends_at_the_very_time_that_explain_says(talk):
    # With these the sum is another one where the stall is added last.
    timeout_s, stopped_s = 0.7, 30.9
    client = talk.client().submits(7, call=Call("hasty", CODE, schedule_timeout_s=timeout_s))
    talk.sleep(stopped_s)
    talk.wake()

    talk.now = talk.task(client, 7).queued_at + timeout_s
    talk.flush()

    assert failure_of(client).code == Code.SCHEDULE_TIMEOUT


def test_what_the_client_waited_before_counts():
    talk = Conversation()
    client = talk.client()
    client.says(Function(0, CODE, b"code"), Template(0, HASTY), Submit(7, 0, b"", waited_s=2.5))

    lives(talk, 0.75, client)

    assert failure_of(client).code == Code.SCHEDULE_TIMEOUT


@pytest.mark.parametrize("waited_s", [-5.0, float("nan"), float("inf"), float("-inf"), 1e300])
def test_a_client_that_talks_nonsense_of_its_clock_harms_only_itself(talk, waited_s):
    client = talk.client()
    client.says(
        Function(0, CODE, b"code"), Template(0, HASTY), Submit(7, 0, b"", waited_s=waited_s)
    )

    lives(talk, 3.5, client)

    assert failure_of(client).code == Code.SCHEDULE_TIMEOUT


def test_a_held_task_does_not_end_before_it_is_queued():
    talk = Conversation(recovered=False)
    client = talk.client()
    client.says(
        Function(0, CODE, b"code"),
        Template(0, HASTY),
        Submit(7, 0, b"", again=True, waited_s=60.0),
    )
    talk.wait(1.5)
    assert talk.state(client, 7) == "held"
    actor = talk.actor(free=1)

    talk.wait(1.0)

    assert len(actor.takes(Assign)) == 1, "who can be placed is placed, however late"
    assert client.takes(Result) == []


def test_what_an_actor_offered_first_has_waited_since_its_client_submitted_it():
    """It counted from the offer, less what the client had waited until it said so itself."""
    talk = Conversation(recovered=False)
    client = talk.client()
    talk.actor(holding=[(1, 7, (999, 4), "running")])
    talk.wait(1.0, beating=[client])
    client.says(
        Function(0, CODE, b"code"),
        Template(0, HASTY),
        Submit(7, 0, b"", again=True, waited_s=60.0),
    )

    assert talk.task(client, 7).queued_at == talk.now - 60.0


def test_a_task_that_is_adopted_is_not_ended():
    talk = Conversation(recovered=False)
    client = talk.client()
    client.submits(7, call=HASTY)
    actor = talk.actor(holding=[(1, 7, (999, 4), "running")])

    talk.wait(4.5, beating=[client])

    assert talk.state(client, 7) == "assigned"
    assert actor.takes(Assign) == []


def test_a_task_that_waits_for_a_limit_ends_with_the_limit_in_its_reason():
    talk = limited("db=1")
    actor = talk.actor(free=9, slots={"slot": 9})
    client = talk.client().submits(1, call=Call("work", CODE, limits={"db": 1}))
    (first,) = actor.takes(Assign)
    client.submits(2, 3, call=Call("hasty", CODE, limits={"db": 1}, schedule_timeout_s=3.0))
    client.says(Submit(4, 0, b""))
    client.submits(5, call=Call("work", CODE, limits={"db": 1}))

    lives(talk, 3.5, client, actor)

    results = client.takes(Result)
    assert [result.task for result in results] == [2, 3, 4]
    assert "limit db is full: 1 of 1" in decode_failure(results[0].body).message
    actor.ends((actor.epoch, first.number), free=9)
    assert [assign.task for assign in actor.takes(Assign)] == [5], "it is nobody's turn but its own"


def test_a_canceled_task_is_not_watched_any_more(talk):
    client = talk.client().submits(7, call=HASTY)
    client.says(Cancel([7]))

    assert not talk.broker.deadlines.things
    lives(talk, 4.0, client)
    assert client.takes(Result) == []


def test_a_task_without_a_timeout_is_never_watched(talk):
    talk.client().submits(*range(1, 50))

    assert not talk.broker.deadlines.things


def test_many_that_end_at_once_end_over_several_turns(talk, monkeypatch):
    monkeypatch.setattr(patience, "LOOKS_A_TURN", 20)
    client = talk.client().submits(*range(1, 101), call=HASTY)
    lives(talk, 2.75, client)
    talk.now += 0.25

    talk.flush()

    assert len(client.takes(Result)) == 20
    assert talk.broker.deadline() <= talk.now
    for _ in range(4):
        talk.flush()
    assert len(client.takes(Result)) == 80


# --- kinds of tasks that nobody can take


def test_a_kind_that_no_actor_could_take_is_told_once(talk):
    actor = talk.actor(labels={"memory": 64}, free=1)
    client = talk.client().submits(7, 8, call=Call("picky", CODE, desires=[LARGE]))

    lives(talk, 5.0, client, actor)
    client.says(Submit(9, 0, b""))
    lives(talk, 5.0, client, actor)

    (told,) = talk.noted("unsatisfiable")
    assert told["name"] == "picky"
    assert told["waiting"] == 2
    assert "offers 64" in told["reason"]


def test_a_kind_whose_limit_no_host_has_is_told_once():
    """It came before any host, which would have had it refused, and the log had no word of it."""
    talk = Conversation()
    client = talk.client().submits(7, call=RENDER)
    host = talk.host(70, limits={"io": 1})
    actor = talk.actor(host=70)

    lives(talk, 5.0, client, actor, host)

    (told,) = talk.noted("unsatisfiable")
    assert "no host states one of that name" in told["reason"]
    assert ask(client, "explain", "7")["satisfiable"] is False


def test_a_kind_whose_limit_only_a_host_has_that_cannot_take_it_is_told_once(talk):
    with_limit = talk.host(70, limits={"gpu": 1}), talk.actor(host=70)
    without = talk.host(71, name="g"), talk.actor(2, host=71, labels={"memory": 512})
    call = msgspec.structs.replace(RENDER, desires=[LARGE])
    client = talk.client().submits(7, call=call)

    lives(talk, 5.0, client, *with_limit, *without)

    (told,) = talk.noted("unsatisfiable")
    assert "its host has 0" in told["reason"]
    assert ask(client, "explain", "7")["satisfiable"] is False


def test_a_kind_whose_limit_others_hold_is_not_told(talk):
    host, actor = talk.host(70, limits={"gpu": 1}), talk.actor(host=70, free=2)
    client = talk.client().submits(7, 8, call=RENDER)
    actor.says(Credit(1))

    lives(talk, 5.0, client, actor, host)

    assert talk.noted("unsatisfiable") == []
    assert ask(client, "explain", "8")["satisfiable"] is True


def test_a_kind_whose_limit_a_host_may_have_that_is_not_there_yet_is_not_told(talk):
    actor = talk.actor(host=70)
    client = talk.client().submits(7, call=RENDER)

    lives(talk, 4.0, client, actor)

    assert talk.noted("unsatisfiable") == []


def test_one_that_some_actor_could_take_later_is_not_told(talk):
    actor = talk.actor()
    client = talk.client().submits(7)

    lives(talk, 5.0, client, actor)

    assert talk.noted("unsatisfiable") == []


def test_a_host_whose_first_actor_took_a_while_to_start_was_said_to_have_none(talk):
    host = talk.host(70, actors=[attested(11)])
    client = talk.client().submits(7)

    lives(talk, patience.START_S - 1.0, client, host)
    assert talk.noted("unsatisfiable") == []

    lives(talk, 3.0, client, host)
    (told,) = talk.noted("unsatisfiable")
    assert told["reason"] == "no actor is connected: host host has one that starts"


def test_a_broker_that_was_just_started_waits_for_its_actors():
    talk = Conversation(recovered=False)
    client = talk.client().submits(7)
    talk.wait(1.75)
    actor = talk.actor()

    lives(talk, 3.0, client, actor)

    assert talk.noted("unsatisfiable") == []


def test_very_many_kinds_are_counted_after_the_first(talk):
    actor = talk.actor()
    client = talk.client()
    for number in range(1, 21):
        wish = Desire("model", Comparator.EQUAL, f"m{number}")
        client.submits(number, call=Call("work", CODE, desires=[wish]))

    lives(talk, 3.0, client, actor)

    assert len(talk.noted("unsatisfiable")) == patience.TOLD_A_BEAT_MAX
    assert talk.noted("unsatisfiable_more") == [{"kinds": 20 - patience.TOLD_A_BEAT_MAX}]


def test_explain_says_whether_anybody_could_ever_take_it(talk):
    actor = talk.actor(labels={"memory": 64})
    client = talk.client().submits(7, call=Call("picky", CODE, desires=[LARGE]))
    assert ask(client, "explain", "7")["satisfiable"] is False

    actor.says(LabelsChanged(2, {"memory": 512}))

    assert ask(client, "explain", "7")["satisfiable"] is True
