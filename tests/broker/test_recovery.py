"""Adoption: a broker that starts without memory, and what actors and clients bring it."""

from itertools import pairwise, permutations

import pytest

from broker.tasks import families
from tests.broker.conversation import CODE, Conversation, actor_hello
from wire import codec
from wire.errors import Code
from wire.messages import (
    Assign,
    Beat,
    Cancel,
    Credit,
    Outcome,
    OutcomeAck,
    Query,
    Requeued,
    Result,
    Stop,
    Welcome,
)
from wire.parts import Call, Failure, Status

OLD = (500, 3)
OLDER = (500, 2)
WINDOW_S = 2.0
ONCE = Call("work", CODE, at_most_once=True)
FAILED = codec.encode_failure(Failure(Code.TASK_FAILED, "OSError", "no route", retriable=True))


@pytest.fixture
def talk():
    return Conversation(recovered=False)


def stops(actor):
    return [(stop.epoch, stop.number) for stop in actor.takes(Stop)]


def codes(client):
    return [codec.decode_failure(result.body).code for result in client.takes(Result)]


def test_an_unknown_run_is_adopted_and_claimed(talk):
    actor = talk.actor(holding=[(1, 7, OLD, "running")])
    client = talk.client(unresolved=[(7, 7)])
    assert client.takes(Welcome)[0].missing == [(7, 7)]

    client.submits(7, again=True)
    talk.wait(WINDOW_S, beating=[])
    actor.ends(OLD, b"answer")

    assert [result.body for result in client.takes(Result)] == [b"answer"]
    assert actor.takes(Assign) == []


@pytest.mark.parametrize("order", list(permutations(("parent", "child", "claim", "again"))))
def test_the_calls_of_an_adopted_run_are_canceled_with_it(talk, order):
    """Neither a claimed call nor one that came before its parent's run knew whose it was."""
    found = {}

    def step(name):
        match name:
            case "parent":
                found["actor"] = talk.actor(holding=[(1, 7, OLDER, "running")])
            case "child":
                found["other"] = talk.actor(12, name="host/1", holding=[(2, 1, OLD, "running")])
            case "claim":
                found["root"] = talk.client(1, unresolved=[(7, 7)]).submits(7, again=True)
            case "again":
                found["nested"] = talk.client(2, unresolved=[(1, 1)])
                found["nested"].submits(1, again=True, parent=OLDER)

    for name in order:
        step(name)
    talk.wait(WINDOW_S, beating=[])
    found["root"].says(Cancel([7], False))

    assert stops(found["actor"]) == [OLDER]
    assert stops(found["other"]) == [OLD]
    assert codes(found["nested"]) == [Code.PARENT_GONE]


def calls_before_its_run(talk):
    """Let a call come whose run nobody has offered when the window ends; return who made it."""
    talk.client(1, unresolved=[(7, 7)]).submits(7, again=True)
    nested = talk.client(2, unresolved=[(1, 1)]).submits(1, again=True, parent=OLDER)
    talk.wait(WINDOW_S, beating=[])
    assert talk.state(nested, 1) == "queued"
    return nested


def test_the_call_of_a_run_that_was_offered_after_the_window_went_on_without_it(talk):
    nested = calls_before_its_run(talk)
    actor = talk.actor(holding=[(1, 7, OLDER, "running")])
    assert stops(actor) == []

    talk.client(3).says(Query(1, "cancel", f"{1:016x}-7"))

    assert stops(actor) == [OLDER]
    assert codes(nested) == [Code.PARENT_GONE]
    assert talk.broker.unparented == {}


@pytest.mark.parametrize("is_late", [True, False])
def test_the_call_of_a_run_that_was_offered_and_stopped_went_on_without_it(talk, is_late):
    if is_late:
        nested = calls_before_its_run(talk)
        talk.client(3).says(Query(1, "cancel", f"{1:016x}-7"))
    else:
        nested = talk.client(2, unresolved=[(1, 1)]).submits(1, again=True, parent=OLDER)
        talk.actor(12, name="host/1", holding=[(1, 7, OLD, "running")])

    actor = talk.actor(holding=[(1, 7, OLDER, "running")])

    assert stops(actor) == [OLDER]
    assert codes(nested) == [Code.PARENT_GONE]


def test_a_call_that_came_in_the_window_once_its_run_was_stopped_went_on_without_it(talk):
    talk.actor(12, name="host/1", holding=[(1, 7, OLD, "running")])
    actor = talk.actor(holding=[(1, 7, OLDER, "running")])
    assert stops(actor) == [OLDER]

    nested = talk.client(2, unresolved=[(1, 1)]).submits(1, again=True, parent=OLDER)

    assert codes(nested) == [Code.PARENT_GONE]


@pytest.mark.parametrize("why", ["beaten", "unwanted", "canceled", "tried again"])
def test_a_call_that_came_in_the_window_once_its_adopted_run_was_over_went_on(talk, why):
    actor = talk.actor(holding=[(1, 7, OLDER, "running")])
    match why:
        case "beaten":
            talk.actor(12, name="host/1", holding=[(1, 7, OLD, "running")])
        case "unwanted":
            talk.client(1, unresolved=[])
        case "canceled":
            talk.client(1, unresolved=[(7, 7)]).submits(7, again=True).says(Cancel([7], False))
        case _:
            root = talk.client(1, unresolved=[(7, 7)])
            root.submits(7, again=True, call=Call("work", CODE, retries=1))
            actor.says(Outcome(*OLDER, Status.FAILURE, FAILED))
    assert stops(actor) == ([] if why == "tried again" else [OLDER])

    nested = talk.client(2, unresolved=[(1, 1)]).submits(1, again=True, parent=OLDER)

    assert codes(nested) == [Code.PARENT_GONE]


def test_calls_whose_run_nobody_offers_are_remembered_no_longer_than_they_last(talk):
    nested = calls_before_its_run(talk)
    assert list(talk.broker.unparented) == [OLDER]

    nested.says(Cancel([1], False))
    talk.wait(1.0)

    assert talk.broker.unparented == {}


@pytest.mark.parametrize("runs", [1, 3, 9])
def test_a_broker_that_looked_whether_many_calls_had_ended_did_nothing_else_meanwhile(
    talk, runs, monkeypatch
):
    monkeypatch.setattr(families.sweep, "__defaults__", (4,))
    talk.client(1, unresolved=[(1, runs)])
    nested = talk.client(2, unresolved=[(1, 9)])
    for number in range(1, 10):
        nested.submits(number, again=True, parent=(OLDER[0], OLDER[1] + number % runs))
    talk.wait(WINDOW_S, beating=[])
    nested.says(Cancel([1, 2, 3, 4, 5, 6, 7, 9], False))

    def left():
        return sorted(task.number for calls in talk.broker.unparented.values() for task in calls)

    counts = [len(left())]
    for _ in range(4):
        talk.wait(1.0)
        counts.append(len(left()))

    assert max(before - after for before, after in pairwise(counts)) <= 4
    assert left() == [8]


def test_an_unknown_outcome_is_adopted_and_claimed(talk):
    actor = talk.actor(kept=[(1, 7, OLD)])
    actor.says(Outcome(*OLD, Status.RESULT, b"answer"))

    client = talk.client(unresolved=[(7, 7)]).submits(7, again=True)

    assert [result.body for result in client.takes(Result)] == [b"answer"]


@pytest.mark.parametrize("order", list(permutations(["hello", "submit", "inventory", "outcome"])))
def test_the_order_in_which_peers_come_back_does_not_matter(order):
    """Whoever is first, the run that goes on is the one whose outcome the client gets."""
    talk = Conversation(recovered=False)
    client = actor = None
    ended = submitted = False
    for event in order:
        match event:
            case "hello":
                client = client or talk.client(unresolved=[(7, 7)])
            case "submit":
                client = client or talk.client(unresolved=[(7, 7)])
                client.submits(7, again=True)
                submitted = True
            case "inventory":
                actor = actor or talk.actor(holding=[(1, 7, OLD, "running")])
            case "outcome":
                actor = actor or talk.actor(holding=[(1, 7, OLD, "running")])
                actor.ends(OLD, b"answer")
                ended = True
    assert submitted
    assert ended

    talk.wait(WINDOW_S)

    assert [result.body for result in client.takes(Result)] == [b"answer"]
    assert actor.takes(Assign) == []


def test_a_submit_that_was_sent_before_waits_out_the_window(talk):
    actor = talk.actor(free=2)
    client = talk.client().submits(7, again=True)
    assert talk.state(client, 7) == "held"
    assert actor.takes(Assign) == []

    talk.wait(WINDOW_S, beating=[actor])

    assert len(actor.takes(Assign)) == 0
    actor.says(Credit(2))
    assert len(actor.takes(Assign)) == 1


def test_a_new_submit_is_queued_at_once(talk):
    actor = talk.actor(free=1)

    talk.client().submits(7)

    assert len(actor.takes(Assign)) == 1


@pytest.mark.parametrize("again", [True, False])
def test_at_most_once_sent_before_ends_in_doubt(talk, again):
    actor = talk.actor(free=1)
    client = talk.client().submits(7, call=ONCE, again=again)

    talk.wait(WINDOW_S)

    assert codes(client) == ([Code.OUTCOME_UNKNOWN] if again else [])
    assert len(actor.takes(Assign)) == (0 if again else 1)


def test_at_most_once_sent_again_after_the_window_ends_in_doubt():
    talk = Conversation()

    client = talk.client().submits(7, call=ONCE, again=True)

    assert codes(client) == [Code.OUTCOME_UNKNOWN]


@pytest.mark.parametrize("first", [OLD, OLDER])
def test_of_two_adopted_runs_the_higher_token_wins(talk, first):
    second = OLDER if first == OLD else OLD
    actors = {
        first: talk.actor(11, holding=[(1, 7, first, "running")]),
        second: talk.actor(12, name="host/1", holding=[(1, 7, second, "running")]),
    }

    assert stops(actors[OLDER]) == [OLDER]
    assert stops(actors[OLD]) == []


@pytest.mark.parametrize("finished_first", [True, False])
def test_an_outcome_beats_a_run(talk, finished_first):
    def finished():
        return talk.actor(11, kept=[(1, 7, OLDER)])

    def running():
        return talk.actor(12, name="host/1", holding=[(1, 7, OLD, "running")])

    if finished_first:
        finished()
        runs = running()
    else:
        runs = running()
        finished()

    assert stops(runs) == [OLD]


def test_a_run_offered_after_the_window_is_adopted_while_its_task_waits():
    talk = Conversation()
    client = talk.client().submits(7)

    actor = talk.actor(holding=[(1, 7, OLD, "running")])
    actor.ends(OLD, b"answer", free=1)

    assert [result.body for result in client.takes(Result)] == [b"answer"]
    assert actor.takes(Assign) == []
    assert talk.broker.backlog.count == 0


def test_a_run_without_a_task_is_stopped_after_the_window():
    talk = Conversation()

    actor = talk.actor(holding=[(1, 7, OLD, "running")])

    assert stops(actor) == [OLD]


def test_an_outcome_without_a_task_is_stale_after_the_window():
    talk = Conversation()
    actor = talk.actor(kept=[(1, 7, OLD)])

    actor.ends(OLD)
    talk.wait(1.0, beating=[actor])

    assert actor.takes(OutcomeAck) == [OutcomeAck([], [OLD])]


@pytest.mark.parametrize("stall_s", [0.6, 0.9, 5.0])
def test_a_stall_in_the_window_drops_no_outcome(talk, stall_s):
    """What was said meanwhile was heard only after it; it was stale, and its task ran again."""
    talk.wait(WINDOW_S - 0.5)
    talk.sleep(stall_s)
    talk.wake()

    actor = talk.actor(free=1, kept=[(1, 7, OLD)])
    actor.says(Outcome(*OLD, Status.RESULT, b"answer"))
    client = talk.client(unresolved=[(7, 7)]).submits(7, again=True)

    assert [result.body for result in client.takes(Result)] == [b"answer"]
    assert not actor.takes(Assign)
    talk.wait(1.0)
    assert talk.broker.window_ends_at is None


def test_of_a_client_that_never_came_its_number_is_said_when_it_is_given_up(talk):
    actor = talk.actor(holding=[(1, 7, OLD, "running")])

    for _ in range(14):
        actor.beats(holding=[OLD])
        talk.wait(1.0)

    assert [gone["client"] for gone in talk.noted("client_gone")] == ["0000000000000001"]


def test_an_adopted_run_that_nobody_claims_is_stopped(talk):
    """ray-project/ray#33854: it lives on where nobody knows of it any more."""
    actor = talk.actor(holding=[(1, 7, OLD, "running")])

    def beats(seconds):
        for _ in range(seconds):
            actor.beats(holding=[OLD])
            talk.wait(1.0)

    beats(8)
    assert stops(actor) == []
    beats(6)

    assert stops(actor) == [OLD]
    assert not talk.noted("actor_lost")
    assert talk.broker.tokens == {}
    assert talk.broker.clients == {}


def test_an_unclaimed_outcome_is_forgotten_and_acknowledged(talk):
    client = talk.client()
    actor = talk.actor(kept=[(1, 7, OLD)])
    actor.ends(OLD)

    talk.wait(13.0, beating=[actor, client])

    assert actor.takes(OutcomeAck) == [OutcomeAck([OLD])]
    assert talk.broker.unclaimed == {}


def test_what_a_client_cancels_before_it_claims_is_stopped(talk):
    actor = talk.actor(holding=[(1, 7, OLD, "running")])
    client = talk.client(unresolved=[(7, 7)])

    client.says(Cancel([7]))

    assert stops(actor) == [OLD]


def test_what_was_canceled_while_its_actor_was_away_is_not_adopted_in_the_window(talk):
    """The STOP went with the session: it was taken for a run of an earlier broker, and went on."""
    actor, client = talk.actor(free=2), talk.client()
    client.submits(1).submits(2)
    run, over = [(1000, one.number) for one in actor.takes(Assign)]
    actor.vanishes()
    client.says(Cancel([1, 2]))

    hello = actor_hello(11, holding=[(1, 1, run, "running")], kept=[(1, 2, over)])
    actor.connects()
    actor.greets(hello).ends(over)
    talk.wait(1.0, beating=[actor])

    assert stops(actor) == [run]
    assert actor.takes(OutcomeAck) == [OutcomeAck([], [over])]


def test_what_was_canceled_before_the_epoch_rose_is_not_adopted_in_the_window(talk):
    """Its token had another epoch than the broker by then: it was taken for an earlier broker's."""
    actor, client = talk.actor(free=1), talk.client()
    client.submits(1)
    run = (talk.broker.epoch, actor.takes(Assign)[0].number)
    actor.vanishes()
    client.says(Cancel([1]))

    client.connects()
    client.greets(epoch=talk.broker.epoch + 1)
    actor.connects()
    actor.greets(actor_hello(11, holding=[(1, 1, run, "running")]))

    assert run[0] < talk.broker.epoch
    assert stops(actor) == [run]


def test_a_client_that_does_not_list_an_adopted_run_has_it_stopped(talk):
    actor = talk.actor(holding=[(1, 7, OLD, "running")])

    talk.client()

    assert stops(actor) == [OLD]


def test_an_unclaimed_run_whose_actor_dies_is_forgotten(talk):
    host = talk.host()
    talk.actor(holding=[(1, 7, OLD, "running")])
    from wire.messages import Death

    host.says(Death(11, None, 9, [OLD]))

    assert talk.broker.clients == {}
    assert talk.broker.unclaimed == {}


def test_a_claimed_task_keeps_the_tries_that_its_client_knows_of(talk):
    from wire.messages import Death

    host = talk.host()
    talk.actor(holding=[(1, 7, OLD, "running")])
    client = talk.client(unresolved=[(7, 7)]).submits(7, again=True, tries=4)

    host.says(Death(11, None, 9, [OLD]))

    assert [requeued.tries for requeued in client.takes(Requeued)] == [5]


def test_a_released_run_is_adopted_as_released(talk):
    talk.actor(holding=[(1, 7, OLD, "released")])
    client = talk.client(unresolved=[(7, 7)]).submits(7, again=True)

    assert talk.task(client, 7).is_released


def test_what_nobody_wants_does_not_fill_the_window_of_a_client():
    talk = Conversation(recovered=False, window_tasks=2)
    client = talk.client()
    talk.actor(kept=[(1, n, (500, n)) for n in (1, 2, 3)])

    client.submits(4, 5)

    assert [talk.state(client, n) for n in (4, 5)] == ["queued", "queued"]


def test_a_stall_of_the_broker_lengthens_its_window(talk):
    talk.wait(1.0)
    talk.sleep(60.0)
    talk.wake()

    actor = talk.actor(holding=[(1, 7, OLD, "running")])

    assert stops(actor) == []
    assert talk.broker.window_ends_at is not None


def test_the_window_does_not_end_early(talk):
    talk.wait(WINDOW_S - 0.1)
    assert talk.broker.window_ends_at is not None

    talk.wait(0.2)

    assert talk.broker.window_ends_at is None
    assert talk.noted("recovered")


def test_beats_of_an_unclaimed_client_do_no_harm(talk):
    talk.actor(holding=[(1, 7, OLD, "running")])
    client = talk.client(unresolved=[(7, 7)])

    client.says(Beat())

    assert talk.state(client, 7) == "unclaimed-run"
