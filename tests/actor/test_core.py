import pytest

from actor.granting.inventory import make_hello
from tests.actor.broker_end import CODE, BrokerEnd, connected, make_core, said
from wire.codec import decode_failure, encode_failure
from wire.errors import Code
from wire.labels import Comparator, Desire
from wire.messages import (
    PROTOCOL,
    ActorBeat,
    ActorHello,
    Credit,
    Drain,
    Error,
    Frame,
    Function,
    Occupied,
    Outcome,
    OutcomeAck,
    Result,
    Welcome,
    Who,
)
from wire.parts import Failure, Held, Status
from wire.session import State

BIG = b"x" * 5000


# --- sessions


def test_hello_says_who_the_actor_is():
    core = make_core(slots=2, prefetch=3, labels={"memory": 512})

    ((frame, _),) = core.flush(0.0)

    hello = frame.commands[0]
    assert isinstance(hello, ActorHello)
    assert (hello.name, hello.slots, hello.prefetch) == ("h/0", {"slot": 2}, 3)
    assert hello.labels == {"memory": 512}
    assert (hello.labels_version, hello.holding, hello.kept) == (1, [], [])


def test_credit_is_stated_after_welcome():
    end = connected(make_core(slots=2, prefetch=3))

    assert end.credit == Credit(2, 3, 1)


def test_an_assignment_that_was_counted_is_not_stated_again():
    end = connected(make_core(slots=2))
    before = len(end.everything)

    end.assign()
    end.carry()

    assert end.available == 1
    assert len(end.everything) == before


def test_outcome_and_the_slot_it_frees_stand_in_one_frame():
    end = connected(make_core())
    token = end.assign()
    end.carry()
    end.finish(token)
    end.turn()

    ((frame, _),) = end.to_broker

    assert [type(command) for command in frame.commands] == [Credit, Outcome]
    assert frame.commands[0].free == 1


def test_several_finished_tasks_share_a_frame():
    end = connected(make_core(slots=3))
    tokens = [end.assign() for _ in range(3)]
    end.carry()
    for token in tokens:
        end.finish(token)
    end.turn()

    ((frame, _),) = end.to_broker

    assert [type(command) for command in frame.commands] == [Credit] + [Outcome] * 3


def test_a_large_result_travels_as_a_frame_of_its_own():
    end = connected(make_core())
    token = end.assign()
    end.carry()
    end.finish(token, body=BIG)
    end.turn()

    ((frame, payloads),) = end.to_broker

    outcome = frame.commands[1]
    assert (outcome.body, outcome.frames) == (b"", 1)
    assert payloads == [BIG]


def test_an_outcome_is_kept_until_it_is_acknowledged():
    end = connected(make_core())
    token = end.assign()
    end.carry()
    end.finish(token)
    end.carry()
    assert token in end.core.outcomes.kept

    end.acknowledge()
    end.carry()

    assert not end.core.outcomes.kept


def test_a_stale_outcome_is_forgotten_as_well():
    end = connected(make_core())
    token = end.assign()
    end.carry()
    end.finish(token)
    end.carry()

    end.say(OutcomeAck([], [token]))
    end.carry()

    assert not end.core.outcomes.kept


def test_kept_outcomes_are_said_again_in_a_new_session_behind_the_credit():
    end = connected(make_core())
    token = end.assign()
    end.carry()
    end.finish(token)
    end.turn()
    end.cut()
    end._outside(end.session, Who())
    end.tell()
    end.turn()
    end.hear()
    end.tell()
    end.turn()

    ((frame, _),) = end.to_broker

    assert [type(command) for command in frame.commands] == [Credit, Outcome]
    assert frame.commands[1].number == token[1]


def test_what_is_said_again_is_spread_over_frames():
    end = connected(make_core(slots=1200))
    tokens = [end.assign() for _ in range(1200)]
    end.carry()
    for token in tokens:
        end.finish(token)
    end.turn()

    sizes = [len(frame.commands) for frame, _ in end.to_broker]

    assert sizes == [513, 512, 176]
    end.carry()
    assert len(end.finished) == 1200


def test_too_much_that_is_kept_revokes_all_credit():
    end = connected(make_core(slots=2, prefetch=2, kept_bytes_max=6000))
    tokens = [end.assign(), end.assign()]
    end.carry()
    for token in tokens:
        end.finish(token, body=BIG)
    end.carry()
    assert (end.credit.free, end.credit.ahead, end.credit.room) == (0, 0, 0)

    end.acknowledge()
    end.carry()

    assert (end.credit.free, end.credit.ahead) == (2, 2)


def test_an_actor_that_keeps_too_many_outcomes_says_so_and_is_not_called_busy():
    end = connected(make_core(kept_bytes_max=6000))
    token = end.assign()
    end.carry()
    end.finish(token, body=BIG)
    end.carry()

    kept = "keeping: outcomes (1, 0 MiB) that their clients have not received"
    assert make_hello(end.core).closed == kept
    end.pass_time(1.0)
    end.carry()
    end.acknowledge()
    end.carry()
    end.pass_time(1.0)
    end.carry()
    beats = [command.closed for command in end.everything if isinstance(command, ActorBeat)]
    assert beats == [kept, ""]


def test_the_inventory_tells_waiting_running_and_released_apart():
    end = connected(make_core(slots=2, prefetch=1))
    running, released, waiting = end.assign(), end.assign(), end.assign()
    end.carry()
    end.core.release(released, None, end.now)
    extra = end.assign()
    end.tell()

    hello = end.core._hello(end.now).commands[0]

    assert {item.token: item.held for item in hello.holding} == {
        running: Held.RUNNING,
        released: Held.RELEASED,
        waiting: Held.WAITING,
        extra: Held.WAITING,
    }


def test_a_stopped_run_is_in_no_inventory_and_holds_its_slot_until_it_returns():
    end = connected(make_core())
    token = end.assign()
    end.carry()

    end.stop(token)
    (order,) = end.carry()

    assert order.assignment.token == token
    assert end.core._hello(end.now).commands[0].holding == []
    assert end.core._credit().free == 0
    end.finish(token)
    end.turn()
    assert end.core._credit().free == 1
    assert not end.core.outcomes.kept


def test_stop_drops_what_waits_at_once():
    end = connected(make_core(prefetch=1))
    end.assign()
    waiting = end.assign()
    end.carry()
    assert end.credit.ahead + end.credit.free - len(end.frames_assigned) == 0

    end.stop(waiting)
    assert end.carry() == []

    assert end.available == 1
    assert waiting not in end.core.mailbox.held


def test_an_unknown_stop_is_ignored():
    end = connected(make_core())

    end.stop((12, 3))

    assert end.carry() == []


def test_a_repeated_token_is_ignored():
    end = connected(make_core(slots=2))
    end.assign()
    end.carry()
    end.number -= 1

    end.assign()
    end.carry()

    assert len(end.core.mailbox.held) == 1


def test_a_lost_frame_opens_a_new_session():
    end = connected(make_core(slots=2))
    lost = end.assign()
    end.cut()
    end.assign()

    end.carry()

    assert end.session == 2
    assert lost in end.absent


def test_a_fatal_error_ends_the_actor():
    core = make_core()
    end = BrokerEnd(core)
    end.turn()
    error = Error("name-taken", "another one has this name", fatal=True)

    core.receive(Frame(PROTOCOL, 1, 1, 0, 0, [error]), (), 0.0)

    assert core.failure == error
    assert core.deadline() == float("inf")


def test_unknown_template_as_an_error_opens_a_new_session():
    end = connected(make_core())

    end.say(Error("unknown-template", "what is that"))
    end.carry()

    assert end.session == 2


def test_what_is_not_for_an_actor_is_ignored():
    end = connected(make_core())

    end.say(Result(1, Status.RESULT, b""))
    end.tell()

    assert end.core.take_notes()[-1][0] == "not_for_an_actor"
    assert end.core.session.is_open


def test_a_limit_that_is_taken_back_from_a_run_that_has_just_ended_leaves_nothing():
    end = connected(make_core())
    token = end.assign()
    end.carry()
    end.finish(token)

    end.say(Occupied(*token, 0, "released"))
    end.carry()

    assert not end.core.occupying.runs


def test_a_slot_outside_the_table_begins_a_new_session():
    end = connected(make_core())

    end.say(Function(100_000, b"h" * 16, CODE))
    end.carry()

    assert end.session == 2


def test_a_broken_connection_is_tried_again_soon():
    core = make_core()
    core.flush(0.0)

    core.broken(1.0)

    assert core.session.state is State.CLOSED
    assert core.deadline() == pytest.approx(1.25)
    assert core.flush(1.1) == []
    assert len(core.flush(1.3)) == 1


def test_a_heartbeat_says_everything_also_while_other_frames_go():
    end = connected(make_core(slots=2, labels={"zone": "eu"}))
    token = end.assign()
    end.carry()
    for _ in range(11):
        end.pass_time(0.1)
        end.core.change_labels({"n": end.now}, end.now)
        end.carry()

    (beat,) = said(end, ActorBeat)

    assert beat.holding == [token]
    assert beat.credit.free == 1
    assert beat.labels["zone"] == "eu"


# --- what changes meanwhile, and what follows at once


def test_a_result_over_the_limit_of_the_broker_is_a_failure():
    core = make_core()
    end = BrokerEnd(core)
    end.turn()
    end.hear()
    end.to_actor.clear()
    end._outside(1, Welcome(1.0, 2.0, 5.0, 0.0, [], 1, 1, 100, 512, 4096))
    token = end.assign()
    end.carry()

    end.finish(token, body=b"x" * 101)
    end.carry()

    failure = decode_failure(end.finished[token].body)
    assert failure.code == Code.PAYLOAD_TOO_LARGE
    assert "101 octets" in failure.message


def test_a_failure_over_the_limit_of_the_broker_still_says_what_it_was():
    core = make_core()
    end = BrokerEnd(core)
    end.turn()
    end.hear()
    end.to_actor.clear()
    end._outside(1, Welcome(1.0, 2.0, 5.0, 0.0, [], 1, 1, 1_000, 512, 4096))
    token = end.assign()
    end.carry()
    failure = Failure(Code.TASK_FAILED, "OSError", "no route", "", b"x" * 1_001, [], True)

    end.finish(token, status=Status.FAILURE, body=encode_failure(failure))
    end.carry()

    told = decode_failure(end.finished[token].body)
    assert (told.code, told.type, told.message) == (Code.TASK_FAILED, "OSError", "no route")
    assert (told.exception, told.retriable) == (b"", True)


def test_what_changes_while_a_session_opens_is_said_after_it():
    end = connected(make_core(slots=2, prefetch=1))
    done, released, waiting = end.assign(), end.assign(), end.assign()
    end.carry()
    end._outside(end.session, Who())
    end.tell()
    end.turn()
    assert end.core.session.state is State.OPENING

    end.core.release(released, None, end.now)
    end.finish(done)
    end.core.drain(end.now)
    end.carry()

    assert released in end.released
    assert done in end.finished
    assert waiting in end.finished or waiting in end.started or waiting in end.rejected


def test_runs_are_settled_once_the_broker_has_their_outcome():
    end = connected(make_core())
    token = end.assign()
    end.carry()
    end.finish(token)
    end.core.take_starts()
    end.to_broker += end.core.flush(end.now)
    assert end.core.take_settled() == []

    end.hear()
    end.say(Drain(None))
    end.tell()

    assert end.core.take_settled() == [token]


def brief(end, run_s=0.0):
    """Let an assignment that waits be one of a function that is known to take *run_s*."""
    [assignment, *_] = end.core.mailbox.waiting
    assignment.recipe.run_s = run_s
    return assignment.token


def test_a_brief_run_follows_another_without_a_turn():
    end = connected(make_core(prefetch=2))
    first, second = end.assign(), end.assign()
    end.carry()
    assert set(end.started) == {first}
    assert brief(end) == second

    end.finish(first)

    assert end.follow(0.1).token == second
    assert end.core.take_starts() == []
    end.finish(second)
    assert end.follow(0.1) is None
    end.carry()
    assert set(end.finished) == {first, second}


@pytest.mark.parametrize("reason", ["long", "timeout", "labels", "busy", "released"])
def test_what_is_not_all_there_is_to_do_waits_for_the_turn(reason):
    options = {"timeout_s": 9.0} if reason == "timeout" else {}
    if reason == "labels":
        options["desires"] = [Desire("gpu", Comparator.EQUAL, "yes")]
    end = connected(make_core(prefetch=3, slots=2, labels={"gpu": "yes"}))
    first, other = end.assign(), end.assign()
    third = end.assign(end.template(**options))
    end.carry()
    assert set(end.started) == {first, other}
    brief(end, 5.0 if reason == "long" else 0.0)
    if reason == "busy":
        end.finish(other)
    if reason == "released":
        end.core.release(first, None, end.now)
        end.core.reacquire(first, {"slot": 1}, end.now)
    else:
        end.finish(first)

    assert end.follow(0.1) is None

    end.carry()
    assert third in end.started or reason == "released"
