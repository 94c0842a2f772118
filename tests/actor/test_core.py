import pytest
from msgspec import structs

from actor.inventory import make_hello
from tests.actor.broker_end import CODE, BrokerEnd, connected, environment, make_core, warm
from wire.codec import decode_failure
from wire.errors import Code
from wire.labels import Comparator, Desire
from wire.messages import (
    PROTOCOL,
    ActorBeat,
    ActorHello,
    Bye,
    Credit,
    Drain,
    Error,
    Frame,
    Function,
    LabelsChanged,
    Occupied,
    Outcome,
    OutcomeAck,
    Release,
    Result,
    Template,
    Welcome,
    Who,
)
from wire.parts import Call, Held, Status
from wire.session import State

BIG = b"x" * 5000


def said(end, kind):
    return [command for command in end.everything if isinstance(command, kind)]


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


# --- what was assigned


def test_an_unknown_template_is_rejected():
    end = connected(make_core())

    token = end.assign(template=9)
    end.carry()

    assert end.rejected[token] == "template 9 did not come"
    assert end.available == 1


def test_a_template_whose_code_did_not_come_is_rejected():
    end = connected(make_core())
    end.say(Template(0, Call("f", b"other hash 16 by")))

    token = end.assign(template=0)
    end.carry()

    assert "did not come" in end.rejected[token]


def test_a_template_that_names_nothing_is_rejected():
    end = connected(make_core())
    end.say(Template(0, Call("f")))

    token = end.assign(template=0)
    end.carry()

    assert "names nothing" in end.rejected[token]


def test_what_can_never_fit_is_rejected():
    end = connected(make_core(slots=2))

    token = end.assign(end.template(slots={"gpu": 1}))
    end.carry()

    assert "gpu" in end.rejected[token]


def test_a_function_that_was_overwritten_lives_on_in_its_tasks():
    end = connected(make_core(prefetch=1))
    end.assign()
    waiting = end.assign()
    end.say(Function(0, b"z" * 16, b"new code"))
    end.carry()
    first = next(iter(end.started))

    end.finish(first)
    end.turn()

    assert end.started[waiting].recipe.code == CODE


def test_code_can_come_as_a_payload_frame():
    end = connected(make_core())
    end.say(Function(0, b"q" * 16, b"", 1), payloads=[BIG])
    end.say(Template(0, Call("f", b"q" * 16)))

    token = end.assign(template=0)
    end.carry()

    assert end.started[token].recipe.code == BIG


def test_more_than_was_granted_waits():
    end = connected(make_core())

    tokens = [end.assign() for _ in range(3)]
    end.carry()

    assert list(end.started) == tokens[:1]
    assert end.available == 0


def test_the_mailbox_is_first_in_first_out():
    end = connected(make_core(prefetch=3))
    tokens = [end.assign() for _ in range(4)]
    end.carry()
    order = []
    while end.started:
        (token,) = end.started
        order.append(token)
        end.finish(token)
        end.carry()

    assert order == tokens


def test_labels_are_checked_again_when_a_task_leaves_the_mailbox():
    end = connected(make_core(prefetch=1, labels={"model": "v1"}))
    template = end.template(desires=[Desire("model", Comparator.EQUAL, "v1")])
    first, second = end.assign(template), end.assign(template)
    end.carry()
    end.core.change_labels({"model": "v2"}, end.now)
    end.finish(first)

    end.carry()

    assert "labels" in end.rejected[second]
    assert end.available == 2


def test_labels_are_said_before_the_credit_that_holds_after_them():
    end = connected(make_core())
    token = end.assign()
    end.carry()
    end.core.change_labels({"model": "v2"}, end.now)
    end.finish(token)
    end.turn()

    ((frame, _),) = end.to_broker

    assert [type(command) for command in frame.commands] == [LabelsChanged, Credit, Outcome]
    assert frame.commands[0] == LabelsChanged(2, {"model": "v2"})


def test_labels_that_change_while_a_session_opens_are_said_after_it():
    core = make_core()
    end = BrokerEnd(core)
    end.turn()
    core.change_labels({"a": 1}, 0.0)

    end.carry()

    assert end.labels == {"a": 1}
    assert end.labels_version == 2


def test_deleting_an_upserted_label_brings_back_what_it_covered():
    end = connected(make_core(labels={"a": 1}))
    end.core.change_labels({"a": 2, "b": 3}, end.now)
    end.carry()
    assert end.labels == {"a": 2, "b": 3}

    end.core.change_labels({}, end.now, deleted=["a", "b", "nothing"])
    end.carry()

    assert end.labels == {"a": 1}


def test_no_labels_are_said_when_nothing_changed():
    end = connected(make_core(labels={"a": 1}))

    end.core.change_labels({"a": 1}, end.now)
    end.carry()

    assert said(end, LabelsChanged) == []


# --- release


def test_release_gives_the_slot_back_in_the_same_frame():
    end = connected(make_core())
    token = end.assign()
    end.carry()

    assert end.core.release(token, None, end.now)
    end.turn()

    ((frame, _),) = end.to_broker
    assert frame.commands == [Credit(1, 0, 1), Release(*token)]


def test_a_second_release_changes_nothing():
    end = connected(make_core())
    token = end.assign()
    end.carry()
    end.core.release(token, None, end.now)

    assert not end.core.release(token, None, end.now)
    end.carry()

    assert len(said(end, Release)) == 1
    assert end.credit.free == 1


def test_release_after_the_end_changes_nothing():
    end = connected(make_core())
    token = end.assign()
    end.carry()
    end.finish(token)

    assert not end.core.release(token, None, end.now)


def test_a_released_task_lets_the_next_one_start():
    end = connected(make_core(prefetch=1))
    first, second = end.assign(), end.assign()
    end.carry()
    assert list(end.started) == [first]

    end.core.release(first, None, end.now)
    end.carry()

    assert list(end.started) == [first, second]
    end.finish(first)
    end.carry()
    assert end.available == 1


def test_a_part_of_the_slots_can_be_given_back():
    end = connected(make_core(slots={"slot": 2, "gpu": 1}))
    token = end.assign(end.template(slots={"slot": 2, "gpu": 1}))
    end.carry()
    assert end.credit == Credit(0, 0, 1, {}, {"gpu": 0})

    assert end.core.release(token, {"gpu": 1}, end.now)
    end.carry()

    assert end.credit == Credit(0, 0, 1, {}, {"gpu": 1})
    assert said(end, Release)[0].typed == {"gpu": 1}
    assert not end.core.release(token, {"gpu": 1}, end.now)


@pytest.mark.parametrize(
    "options",
    [
        {"slots": {"slot": 2}},
        {"slots": {"slot": 1}},
        {"at_most_once": True},
        {"limits": {"db": 1}},
    ],
    ids=str,
)
def test_what_must_not_wait_ahead_is_handed_back_when_somebody_was_faster(options):
    end = connected(make_core(slots=2, prefetch=3))
    small = end.template()
    fixed = end.template(**options)
    first, second, third = end.assign(small), end.assign(small), end.assign(small)
    late = end.assign(fixed)

    end.carry()

    assert list(end.started) == [first, second]
    assert [one.token for one in end.core.mailbox.waiting] == [third]
    assert list(end.rejected) == [late]


# --- environments


def test_an_environment_is_loaded_by_the_first_and_used_by_the_next():
    end = connected(make_core(slots=2, prefetch=2))
    template = end.template(environment=environment("e", labels={"model": "v2"}))
    first, second = end.assign(template), end.assign(template)
    end.carry()
    assert list(end.started) == [first]
    assert end.started[first].loads
    assert end.credit == Credit(0, 2, 0, {"e": 0})

    warm(end.core, "e", end.now)
    end.carry()
    assert end.labels == {"model": "v2", "environment.e": "warm"}
    assert list(end.started) == [first]

    end.finish(first)
    end.carry()
    assert list(end.started) == [second]
    assert not end.started[second].loads


def test_a_head_whose_turn_is_not_free_is_passed_over():
    end = connected(make_core(slots=2, prefetch=2))
    busy = end.template(environment=environment("e"))
    plain = end.template()
    first, blocked, passing = end.assign(busy), end.assign(busy), end.assign(plain)

    end.carry()

    assert list(end.started) == [first, passing]
    assert blocked in end.core.mailbox.held


def make_room(used, load_s):
    """Use environments in the order of *used* in an actor that holds two; return what leaves."""
    end = connected(make_core(slots=3, environments_max=2))
    templates = {name: end.template(environment=environment(name)) for name in "abc"}
    for name in used:
        token = end.assign(templates[name])
        end.carry()
        warm(end.core, name, end.now, load_s[name])
        end.finish(token)
        end.carry()

    token = end.assign(templates["c"])
    end.carry()

    [left] = end.started[token].evicts
    [stays] = {"a", "b"} - {left}
    assert end.labels == {f"environment.{stays}": "warm"}
    assert end.credit.turns == {stays: 1, "c": 0}
    return left


def test_of_equal_idle_environments_the_least_recently_used_leaves():
    assert make_room("aba", {"a": 0.0, "b": 0.0}) == "b"
    assert make_room("ab", {"a": 0.0, "b": 0.0}) == "a"


def test_an_idle_environment_leaves_that_is_used_less_often():
    assert make_room("aaab", {"a": 1.0, "b": 1.0}) == "b"


def test_an_idle_environment_leaves_that_is_entered_in_less_time():
    assert make_room("ab", {"a": 30.0, "b": 1.0}) == "b"


def test_what_was_used_often_leaves_once_it_is_used_no_more():
    assert make_room("a" * 300 + "b" * 2, {"a": 1.0, "b": 1.0}) == "b"
    assert make_room("a" * 300 + "b" * 8, {"a": 1.0, "b": 1.0}) == "a"


def test_an_environment_in_use_is_never_evicted():
    end = connected(make_core(slots=2, environments_max=1, prefetch=1))
    first = end.assign(end.template(environment=environment("a")))
    end.carry()
    warm(end.core, "a", end.now)

    second = end.assign(end.template(environment=environment("b")))
    end.carry()

    assert list(end.started) == [first]
    end.finish(first)
    end.carry()
    assert end.started[second].evicts == ("a",)


def test_an_environment_that_cannot_be_loaded_is_cold_again():
    end = connected(make_core(slots=1, prefetch=1))
    template = end.template(environment=environment("a"))
    first, second = end.assign(template), end.assign(template)
    end.carry()

    end.core.environment_lost("a", end.now)
    end.finish(first, Status.FAILURE)
    end.carry()

    assert end.started[second].loads


def test_release_gives_back_the_turn():
    end = connected(make_core(slots=1, prefetch=1))
    template = end.template(environment=environment("a"))
    first, second = end.assign(template), end.assign(template)
    end.carry()
    warm(end.core, "a", end.now)

    end.core.release(first, None, end.now)
    end.carry()

    assert list(end.started) == [first, second]


def test_concurrency_is_the_number_of_turns():
    end = connected(make_core(slots=4, prefetch=1))
    template = end.template(environment=environment("a", concurrency=2))
    tokens = [end.assign(template) for _ in range(3)]
    end.carry()
    warm(end.core, "a", end.now)

    end.carry()

    assert list(end.started) == tokens[:2]
    assert end.credit.turns == {"a": 0}


def test_who_must_be_alone_takes_all_turns():
    end = connected(make_core(slots=4, prefetch=1))
    shared = environment("a", concurrency=3)
    alone = end.template(environment=structs.replace(shared, turns=3))
    first = end.assign(end.template(environment=shared))
    end.carry()
    warm(end.core, "a", end.now)
    end.carry()
    assert end.credit.turns == {"a": 2}

    second = end.assign(alone)
    end.carry()
    assert list(end.started) == [first]
    end.finish(first)
    end.carry()

    assert list(end.started) == [second]
    assert end.credit.turns == {"a": 0}


# --- leaving


def test_a_drain_hands_back_what_waits_and_leaves_when_the_rest_is_done():
    end = connected(make_core(prefetch=1))
    running, waiting = end.assign(), end.assign()
    end.carry()

    end.core.drain(end.now)
    end.carry()
    assert end.rejected == {waiting: "draining"}
    assert (end.credit.free, end.credit.ahead) == (0, 0)
    assert not end.left

    end.finish(running)
    end.carry()
    assert not end.left
    end.acknowledge()
    end.carry()
    assert end.left
    assert end.core.is_drained


def test_an_assignment_that_crosses_a_drain_is_rejected():
    end = connected(make_core())
    first = end.assign()
    end.carry()
    end.core.drain(end.now)
    token = end.assign()

    end.carry()

    assert end.rejected == {token: "draining"}
    end.finish(first)
    end.carry()


def test_the_broker_can_ask_for_a_drain():
    end = connected(make_core())

    end.say(Drain(None))
    end.carry()

    assert end.left
    assert end.core.is_drained
    assert said(end, Bye) == [Bye("drained")]


def test_a_drain_ends_at_its_deadline_whatever_runs():
    end = connected(make_core())
    end.assign()
    end.carry()
    end.core.drain(end.now, 5.0)
    assert not end.core.is_drained

    end.pass_time(5.0)
    end.core.tick(end.now)

    assert end.core.is_drained


def test_without_a_broker_an_idle_actor_is_drained_at_once():
    core = make_core()
    core.flush(0.0)

    core.drain(0.0)

    assert core.is_drained


def test_without_a_broker_outcomes_are_not_thrown_away():
    end = connected(make_core())
    token = end.assign()
    end.carry()
    end.core.broken(end.now)
    end.finish(token)
    end.core.drain(end.now)
    assert not end.core.is_drained

    end.pass_time(1.0)
    end.carry()

    assert token in end.finished
    end.acknowledge()
    end.carry()
    assert end.core.is_drained


def test_force_hands_back_the_mailbox_and_ends_the_process_after_a_grace():
    end = connected(make_core(slots=2, prefetch=1))
    stuck, _, waiting = end.assign(), end.assign(), end.assign()
    end.carry()

    end.stop(stuck, force=True)
    end.carry()
    assert waiting in end.rejected
    assert end.credit.free == 0
    assert end.core.deadline() <= end.now + 5.0
    end.pass_time(5.0)
    end.core.tick(end.now)

    assert end.core.exit_reason


def test_a_forced_run_that_returns_in_time_spares_the_process():
    end = connected(make_core())
    token = end.assign()
    end.carry()
    end.stop(token, force=True)
    end.carry()

    end.finish(token)
    end.carry()
    end.pass_time(60.0)
    end.carry()

    assert not end.core.exit_reason
    assert end.credit.free == 1


def test_a_run_that_has_had_its_time_fails_before_it_returns():
    end = connected(make_core())
    token = end.assign(end.template(timeout_s=2.0))
    end.carry()
    end.pass_time(2.0)

    (order,) = end.carry()

    assert order.force
    assert decode_failure(end.finished[token].body).code == Code.TASK_TIMEOUT
    assert end.finished[token].status is Status.EXPIRED
    assert end.credit.free == 0
    end.finish(token)
    end.carry()
    assert end.credit.free == 1
    assert len(said(end, Outcome)) == 1


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


def test_a_run_gets_more_time_when_it_asks_for_it():
    end = connected(make_core())
    token = end.assign(end.template(timeout_s=2.0))
    end.carry()
    end.pass_time(1.5)
    end.core.refresh_timeout(token, 2.0, end.now)

    end.pass_time(1.5)
    assert end.carry() == []
    end.pass_time(0.5)
    (order,) = end.carry()

    assert order.force
    assert "the 2.0 s that it got" in decode_failure(end.finished[token].body).message


@pytest.mark.parametrize("timeout_s", [None, 60.0])
def test_a_run_can_give_itself_less_time_also_when_it_had_all(timeout_s):
    end = connected(make_core())
    token = end.assign(end.template(timeout_s=timeout_s))
    end.carry()

    end.core.refresh_timeout(token, 1.0, end.now)
    assert end.core.deadline() <= end.now + 1.0
    end.pass_time(1.0)

    assert [order.assignment.token for order in end.carry()] == [token]


def test_a_run_that_had_its_time_gets_none_again():
    end = connected(make_core())
    token = end.assign(end.template(timeout_s=1.0))
    end.carry()
    end.pass_time(1.0)
    end.carry()

    end.core.refresh_timeout(token, 60.0, end.now)
    end.core.refresh_timeout((9, 9), 60.0, end.now)
    end.pass_time(end.core.settings.force_grace_s)
    end.carry()

    assert end.core.exit_reason
