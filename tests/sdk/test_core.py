"""The client's core: it owns its calls, and tells the broker again exactly what that misses."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdk import core as client_core
from tests.sdk.fakes import Conversation, plan_of, result_of
from wire.codec import decode_failure, encode
from wire.errors import Code
from wire.messages import (
    Answer,
    Beat,
    Bye,
    Cancel,
    Error,
    Frame,
    Function,
    Query,
    Requeued,
    Submit,
    Template,
    Tried,
    Who,
)


def kinds(frames):
    return [[type(command).__name__ for command in frame.commands] for frame in frames]


def test_a_new_client_says_hello_and_then_what_waits():
    talk = Conversation()
    task = talk.submit()

    talk.turn()

    assert kinds(talk.frames) == [["ClientHello"], ["Function", "Template", "Submit"]]
    assert talk.broker.submits[0].task == task
    assert not talk.broker.submits[0].again


def test_the_second_call_of_a_function_sends_neither_code_nor_template():
    talk = Conversation().turn()
    talk.submit()
    talk.turn()
    talk.submit()

    talk.turn()

    assert kinds(talk.frames)[-1] == ["Submit"]


def test_another_plan_of_the_same_code_sends_a_template_only():
    talk = Conversation().turn()
    talk.submit(plan_of(priority=1))
    talk.turn()
    talk.submit(plan_of(priority=2))

    talk.turn()

    assert kinds(talk.frames)[-1] == ["Template", "Submit"]


def test_many_calls_between_two_flushes_share_a_frame():
    talk = Conversation().turn()
    for _ in range(100):
        talk.submit()

    talk.turn()

    assert kinds(talk.frames)[1:] == [["Function", "Template", *["Submit"] * 100]]


def test_a_frame_is_cut_at_its_limits():
    talk = Conversation().turn()
    for _ in range(3_000):
        talk.submit()
    for _ in range(5):
        talk.submit(body=b"x" * 2**19)

    talk.turn()

    frames = talk.frames[1:]
    assert all(len(f.commands) <= client_core.COMMANDS_A_FRAME_MAX + 2 for f in frames)
    assert all(len(encode(frame)) < 2**21 for frame in frames)
    assert len(talk.broker.submits) == 3_005


def test_payload_frames_follow_their_calls():
    talk = Conversation().turn()
    first = talk.submit(frames=[b"a" * 20_000, b"b"])
    second = talk.submit(frames=[b"c"])

    talk.turn()

    assert [bytes(p) for p in talk.broker.payloads[first]] == [b"a" * 20_000, b"b"]
    assert [bytes(p) for p in talk.broker.payloads[second]] == [b"c"]


def test_large_code_travels_as_a_frame_of_its_own():
    talk = Conversation().turn()
    talk.submit(plan_of(code=b"x" * 10_000))

    talk.turn()

    function = next(c for c in talk.broker.heard if isinstance(c, Function))
    assert (function.body, function.frames) == (b"", 1)


def test_a_result_is_an_outcome_once():
    talk = Conversation()
    task = talk.submit()
    talk.turn()

    talk.say(result_of(task), result_of(task))
    talk.say(result_of(task))

    assert [(number, r.body) for number, r, _ in talk.core.take_outcomes()] == [(task, b"done")]
    assert not talk.core.calls


def test_results_take_their_own_payload_frames():
    talk = Conversation()
    first, second, third = talk.submit(), talk.submit(), talk.submit()
    talk.turn()

    talk.say(
        result_of(first, frames=1),
        result_of(second),
        result_of(third, b"", frames=2),
        payloads=[b"1", b"2", b"3"],
    )

    outcomes = talk.core.take_outcomes()
    assert [list(payloads) for _, _, payloads in outcomes] == [[b"1"], [], [b"2", b"3"]]


def test_an_unknown_outcome_is_ignored():
    talk = Conversation().turn()

    talk.say(result_of(99))

    assert talk.core.take_outcomes() == []


# --- sessions


def test_a_broker_that_has_the_call_does_not_get_it_again():
    talk = Conversation()
    talk.submit()
    talk.turn()

    talk.reopen()

    assert len(talk.broker.submits) == 1
    assert talk.broker.hellos[-1].unresolved == [(1, 1)]


def test_exactly_what_is_missing_is_sent_again():
    talk = Conversation()
    for _ in range(5):
        talk.submit()
    talk.turn()
    for lost in (2, 4):
        del talk.broker.tasks[lost]
    talk.broker.submits.clear()

    talk.reopen()

    assert [(s.task, s.again) for s in talk.broker.submits] == [(2, False), (4, False)]


def test_a_call_that_an_earlier_epoch_had_says_so():
    talk = Conversation()
    talk.submit()
    talk.turn()
    talk.reopen(epoch=2_000)
    talk.submit()
    talk.turn()

    submits = [(s.task, s.again) for s in talk.broker.submits]

    assert submits == [(1, False), (1, True), (2, False)]


def test_a_call_that_was_never_sent_is_new_to_every_epoch():
    talk = Conversation().turn()
    talk.broker.is_deaf = True
    talk.core.broken(talk.now)
    talk.submit()
    talk.broker.is_deaf = False

    talk.reopen(epoch=2_000)

    assert [s.again for s in talk.broker.submits] == [False]


def test_an_at_most_once_call_says_again_within_one_epoch_too():
    talk = Conversation()
    talk.submit(plan_of(at_most_once=True))
    talk.turn()
    talk.broker.tasks.clear()

    talk.reopen()

    assert [s.again for s in talk.broker.submits] == [False, True]


def test_a_frame_that_found_no_connection_was_not_sent():
    talk = Conversation().turn()
    talk.submit(plan_of(at_most_once=True))
    unsent = talk.core.flush(talk.now)
    talk.core.broken(talk.now, [frame for frame, _ in unsent])

    talk.turn(talk.now + 1.0)

    assert [s.again for s in talk.broker.submits] == [False]


def test_tries_are_repeated():
    talk = Conversation()
    task = talk.submit()
    talk.turn()
    talk.say(Requeued(task, 2, "actor died"))

    talk.reopen(epoch=2_000)

    assert talk.broker.submits[-1].tries == 2


def test_what_went_wrong_is_said_before_the_call_with_what_is_left_of_its_back_off():
    talk = Conversation()
    task = talk.submit()
    other = talk.submit()
    talk.turn()
    talk.say(Requeued(task, 1, "it died", 0, 1, 0))
    talk.say(Requeued(task, 2, "it failed", 1, 1, 0, 5.0, (1_000, 4)))
    talk.say(Requeued(task, 2, "it failed", 1, 1, 0, 4.0, (1_000, 4)))
    talk.now += 1.5
    talk.frames.clear()

    talk.reopen(epoch=2_000)

    commands = [c for frame in talk.frames for c in frame.commands]
    told = [c for c in commands if type(c) in (Submit, Tried)]
    assert [type(c) for c in told] == [Tried, Submit, Submit]
    assert [c.task for c in told] == [task, task, other]
    assert told[0] == Tried(task, 1, 1, 0, 1.5, (1_000, 4), ["it died", "it failed"])
    assert [c.again for c in told[1:]] == [True, True]


def test_a_crash_beside_others_burns_no_try_and_is_said_again_nevertheless():
    talk = Conversation()
    task = talk.submit()
    talk.turn()
    talk.say(Requeued(task, 0, "it died, beside others", 0, 0, 0, shared=1))
    talk.frames.clear()

    talk.reopen(epoch=2_000)

    commands = [c for frame in talk.frames for c in frame.commands]
    (told,) = [c for c in commands if type(c) is Tried]
    assert (told.task, told.shared, told.history) == (task, 1, ["it died, beside others"])


def test_a_crash_beside_others_counts_where_the_same_broker_has_given_its_client_up():
    """It was told behind a call that was not marked, so the broker took it for a new one."""
    talk = Conversation()
    task = talk.submit()
    talk.turn()
    talk.say(Requeued(task, 0, "it died, beside others", 0, 0, 0, shared=1))

    talk.broker.tasks.clear()  # It has given its client up.
    talk.reopen()

    assert [(s.task, s.again) for s in talk.broker.submits[1:]] == [(task, True)]


def test_a_loss_that_was_none_is_not_said_again():
    talk = Conversation()
    task = talk.submit()
    talk.turn()
    talk.say(Requeued(task, 1, "it was lost", 0, 0, 1))
    talk.say(Requeued(task, 0, "", 0, 0, 0))
    talk.frames.clear()

    talk.reopen(epoch=2_000)

    commands = [c for frame in talk.frames for c in frame.commands]
    (told,) = [c for c in commands if type(c) is Tried]
    assert (told.losses, told.history) == (0, [])
    assert talk.broker.submits[-1].tries == 0


def test_a_call_that_has_its_outcome_leaves_nothing_of_what_went_wrong():
    talk = Conversation()
    task = talk.submit()
    talk.turn()
    talk.say(Requeued(task, 1, "it failed", 1))

    talk.say(result_of(task))

    assert not talk.core._trials.told


def test_code_and_templates_are_said_again_in_a_new_session():
    talk = Conversation()
    talk.submit()
    talk.turn()
    talk.frames.clear()

    talk.reopen(epoch=2_000)

    assert kinds(talk.frames) == [["ClientHello"], ["Function", "Template", "Submit"]]


def test_who_opens_a_new_session():
    talk = Conversation().turn()

    talk.receive(Frame(1, 2_000, talk.broker.session, 0, 0, [Who()]))
    talk.turn()

    assert len(talk.broker.hellos) == 2
    assert talk.core.session.is_open


def test_an_unknown_template_opens_a_new_session():
    talk = Conversation()
    talk.submit()
    talk.turn()

    talk.say(Error(Code.UNKNOWN_TEMPLATE, "which?"))
    talk.turn()

    assert len(talk.broker.hellos) == 2


def test_frames_between_hello_and_welcome_do_not_count():
    talk = Conversation()
    task = talk.submit()
    talk.turn()
    late = talk.broker.frame(result_of(task))
    talk.core.broken(0.0)
    talk.broker.is_deaf = True
    talk.turn(1.0)

    talk.receive(late)

    assert talk.core.take_outcomes() == []


def test_a_silent_broker_is_left_after_the_lease():
    talk = Conversation().turn()

    for second in range(1, 7):
        talk.turn(float(second))

    assert len(talk.broker.hellos) == 2


def test_a_heartbeat_is_sent_every_second():
    talk = Conversation().turn()

    for tenth in range(1, 30):
        talk.turn(tenth / 10)
        talk.say(Beat())

    assert kinds(talk.frames)[1:] == [["Beat"], ["Beat"]]


def test_a_fatal_error_ends_every_call_and_every_later_one():
    talk = Conversation()
    talk.submit()
    talk.turn()

    talk.say(Error(Code.PROTOCOL_MISMATCH, "speaks 2", fatal=True))
    frame = Frame(1, talk.broker.epoch, talk.broker.session, 0, 0, [])
    talk.receive(
        Frame(1, frame.epoch, frame.session, 0, 0, [Error("protocol-mismatch", "no", fatal=True)])
    )
    talk.submit()

    codes = [decode_failure(r.body).code for _, r, _ in talk.core.take_outcomes()]
    assert codes == ["protocol-mismatch", "protocol-mismatch"]
    assert talk.core.deadline() == float("inf")


# --- windows and limits


def test_no_more_calls_than_the_window_are_at_the_broker():
    talk = Conversation(window_tasks=3)
    tasks = [talk.submit() for _ in range(5)]
    talk.turn()
    assert sorted(talk.broker.tasks) == tasks[:3]

    del talk.broker.tasks[tasks[0]]
    talk.say(result_of(tasks[0]))
    talk.turn()

    assert sorted(talk.broker.tasks) == tasks[1:4]
    assert talk.core.queued


def test_no_more_octets_than_the_window_are_at_the_broker():
    talk = Conversation(window_bytes=1_000)
    tasks = [talk.submit(body=b"x" * 400) for _ in range(3)]

    talk.turn()

    assert sorted(talk.broker.tasks) == tasks[:2]
    assert talk.core.queued_bytes == 400


def test_one_call_as_large_as_the_window_goes_alone():
    talk = Conversation(window_bytes=1_000)
    talk.submit(body=b"x" * 2_000)
    talk.submit(body=b"x" * 2_000)

    talk.turn()

    assert sorted(talk.broker.tasks) == [1]


def test_a_canceled_call_makes_room_in_the_window():
    talk = Conversation(window_tasks=1)
    talk.submit()
    talk.submit()
    talk.turn()

    talk.core.cancel(1, False, talk.now)
    talk.turn()

    assert sorted(talk.broker.tasks) == [2]


def test_a_call_over_the_limit_fails_here_and_lets_the_next_pass():
    talk = Conversation(payload_bytes_max=100)
    large = talk.submit(body=b"x" * 101)
    talk.submit()

    talk.turn()

    [(task, result, _)] = talk.core.take_outcomes()
    failure = decode_failure(result.body)
    assert (task, failure.code) == (large, Code.PAYLOAD_TOO_LARGE)
    assert "101 octets" in failure.message
    assert sorted(talk.broker.tasks) == [2]


def test_code_over_the_limit_fails_as_well():
    talk = Conversation(payload_bytes_max=100)
    talk.submit(plan_of(code=b"x" * 101))

    talk.turn()

    [(_, result, _)] = talk.core.take_outcomes()
    assert "the code of 'work'" in decode_failure(result.body).message


@pytest.mark.parametrize("table", ["functions_max", "templates_max"])
def test_what_was_overwritten_in_a_table_is_sent_again(table):
    talk = Conversation(**{table: 2})
    plans = [plan_of(name=str(n), code=bytes([n])) for n in range(4)]

    for _ in range(3):
        for plan in plans:
            talk.submit(plan)
        talk.turn()

    # The broker's end has asserted that it knows template and function of each.
    assert len(talk.broker.submits) == 12


def test_few_small_results_wait_for_the_heartbeat():
    talk = Conversation()
    task = talk.submit()
    talk.turn()
    talk.frames.clear()

    talk.say(result_of(task))
    talk.turn()

    assert talk.frames == []


@pytest.mark.parametrize(
    ("count", "size", "welcome"),
    [
        (300, 1, {}),
        (2, 600_000, {}),
        (4, 1, {"window_tasks": 12}),
        (2, 200, {"window_bytes": 1_000}),
    ],
)
def test_many_or_large_results_are_acknowledged_at_once(count, size, welcome):
    talk = Conversation(**welcome)
    tasks = [talk.submit(body=b"") for _ in range(count)]
    talk.turn()
    talk.frames.clear()

    for task in tasks:
        talk.say(result_of(task, b"x" * size))
    talk.turn()

    assert kinds(talk.frames) == [["Beat"]]
    assert talk.frames[0].received == count


# --- cancel, queries, leaving


def test_a_call_that_was_never_sent_is_canceled_without_a_word():
    talk = Conversation()
    talk.submit()
    talk.core.cancel(1, False, 0.0)

    talk.turn()

    assert talk.broker.hellos[0].unresolved == []
    assert talk.broker.cancels == []


def test_cancels_between_two_flushes_share_a_command():
    talk = Conversation()
    for _ in range(4):
        talk.submit()
    talk.turn()

    for task in (1, 2, 3):
        talk.core.cancel(task, task == 3, talk.now)
    talk.turn()

    assert talk.broker.cancels == [Cancel([1, 2], False), Cancel([3], True)]
    assert sorted(talk.broker.tasks) == [4]


def test_a_canceled_call_has_no_outcome():
    talk = Conversation()
    task = talk.submit()
    talk.turn()
    talk.core.cancel(task, False, talk.now)

    talk.say(result_of(task))

    assert talk.core.take_outcomes() == []


def test_a_cancel_between_hello_and_welcome_is_said_after_it():
    talk = Conversation()
    talk.submit()
    talk.turn()
    talk.core.broken(0.0)
    talk.core.tick(1.0)
    [(hello, _)] = talk.core.flush(1.0)

    talk.core.cancel(1, False, 1.0)
    for reply in talk.broker.hear(hello, ()):
        talk.receive(reply)
    talk.turn(1.0)

    assert talk.broker.cancels == [Cancel([1], False)]
    assert talk.broker.tasks == {}


def test_a_forced_cancel_that_was_lost_is_said_again():
    talk = Conversation()
    talk.submit()
    talk.turn()
    talk.broker.is_deaf = True
    talk.core.cancel(1, True, talk.now)
    talk.turn()
    talk.broker.is_deaf = False

    talk.reopen()

    assert talk.broker.hellos[-1].unresolved == [(1, 1)]
    assert talk.broker.cancels == [Cancel([1], True)]


def test_a_confirmed_cancel_is_forgotten():
    talk = Conversation()
    talk.submit()
    talk.turn()
    talk.core.cancel(1, True, talk.now)
    talk.turn()
    talk.say(Beat())

    talk.reopen()

    assert talk.broker.hellos[-1].unresolved == []
    assert len(talk.broker.cancels) == 1


def test_a_query_is_answered():
    talk = Conversation()
    request = talk.core.query("status", "", 0.0)

    talk.turn()

    assert talk.core.take_answers() == [(request, encode({"what": "status"}))]


def test_a_question_about_a_call_does_not_overtake_it():
    talk = Conversation()
    task = talk.submit()
    talk.core.query("explain", str(task), 0.0)

    talk.turn()

    assert kinds(talk.frames)[-1] == ["Function", "Template", "Submit", "Query"]


def test_a_query_without_an_answer_is_asked_again():
    talk = Conversation().turn()
    talk.broker.is_deaf = True
    request = talk.core.query("status", "", 0.0)
    talk.turn()
    talk.broker.is_deaf = False

    talk.reopen()
    talk.say(Answer(request, b""))

    assert [number for number, _ in talk.core.take_answers()] == [request]
    assert [c for c in talk.broker.heard if isinstance(c, Query)] == [Query(1, "status", "")]


def test_the_broker_confirms_a_call_with_its_next_frame():
    talk = Conversation()
    task = talk.submit()
    talk.turn()
    assert talk.core.is_sent(task)
    assert not talk.core.is_accepted(task)

    talk.say(Beat())

    assert talk.core.is_accepted(task)


def test_leaving_says_bye_and_ends():
    talk = Conversation()
    talk.submit()
    talk.turn()

    talk.core.leave(talk.now)
    talk.turn()

    assert isinstance(talk.broker.heard[-1], Bye)
    assert talk.core.has_left
    assert talk.core.deadline() == float("inf")


def test_leaving_without_a_session_ends_at_once():
    talk = Conversation()
    talk.submit()

    talk.core.leave(0.0)

    assert talk.core.has_left
    assert talk.core.flush(0.0) == []


def test_a_connection_that_comes_back_is_greeted_at_once():
    talk = Conversation().turn()
    talk.core.broken(talk.now)
    assert talk.core.deadline() > talk.now

    talk.core.connected(talk.now)

    assert talk.core.deadline() == talk.now


def test_the_parent_travels_with_the_call():
    talk = Conversation()
    talk.submit(parent=(9, 3))

    talk.turn()

    assert talk.broker.submits[0].parent == (9, 3)


# --- everything together

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.integers(0, 3)),
        st.tuples(st.just("cancel"), st.integers(1, 30)),
        st.tuples(st.just("result"), st.integers(1, 30)),
        st.tuples(st.just("twice"), st.integers(1, 30)),
        st.tuples(st.just("reopen"), st.just(0)),
        st.tuples(st.just("restart"), st.just(0)),
        st.tuples(st.just("lose"), st.integers(1, 30)),
        st.tuples(st.just("deaf"), st.integers(0, 1)),
        st.tuples(st.just("time"), st.integers(0, 30)),
    ),
    max_size=60,
)


def step(talk, epoch, what, number, settled):
    """Do one step and return the epoch after it."""
    broker = talk.broker
    match what:
        case "submit":
            talk.submit(plan_of(name=str(number)))
        case "cancel":
            if number in talk.core.calls:
                settled[number] = "canceled"
            talk.core.cancel(number, number % 2 == 0, talk.now)
        case "result" | "twice" if number in broker.tasks and not broker.is_deaf:
            del broker.tasks[number]
            for _ in range(1 if what == "result" else 2):
                talk.say(result_of(number))
        case "reopen":
            broker.is_deaf = False
            talk.reopen()
        case "restart":
            broker.is_deaf = False
            talk.reopen(epoch + 1)
            return epoch + 1
        case "lose" if not broker.is_deaf:
            # A broker without memory of it opens a new session.
            broker.tasks.pop(number, None)
            talk.reopen()
        case "deaf":
            broker.is_deaf = bool(number)
        case "time":
            talk.turn(talk.now + number / 10)
    return epoch


@given(STEPS)
@settings(max_examples=200, deadline=None)
def test_every_call_has_one_outcome_whatever_happens(steps):
    talk = Conversation(window_tasks=4, functions_max=2, templates_max=2)
    settled: dict[int, str] = {}
    epoch = talk.broker.epoch
    outcomes: list[int] = []

    def take():
        for number, _, _ in talk.core.take_outcomes():
            assert number not in outcomes
            assert number not in settled
            outcomes.append(number)

    for what, number in steps:
        take()
        epoch = step(talk, epoch, what, number, settled)
        talk.turn()
    talk.broker.is_deaf = False
    talk.reopen()
    # At most four fit at a time.
    for _ in range(len(steps) + 1):
        for number in list(talk.broker.tasks):
            del talk.broker.tasks[number]
            talk.say(result_of(number))
        talk.turn()
    take()

    submitted = set(range(1, talk.core.number_last + 1))
    assert set(outcomes) | (settled.keys() & submitted) == submitted
    assert not talk.core.calls


def test_the_conversation_checks_what_it_hears():
    talk = Conversation().turn()
    frame = talk.core.session.frame([Submit(1, 0, b"")], 0.0)

    with pytest.raises(AssertionError):
        talk.broker.hear(frame, ())


def test_a_template_names_what_it_is_for():
    talk = Conversation()
    talk.submit(plan_of(name="resize", priority=3))

    talk.turn()

    template = next(c for c in talk.broker.heard if isinstance(c, Template))
    assert (template.call.name, template.call.priority) == ("resize", 3)


def test_a_later_frame_that_does_not_leave_takes_nothing_back():
    talk = Conversation()
    talk.submit()
    talk.turn()
    talk.broker.restart(2_000)
    talk.core.broken(talk.now)
    talk.core.tick(1.0)
    [(hello, _)] = talk.core.flush(1.0)
    for reply in talk.broker.hear(hello, ()):
        talk.receive(reply)
    unsent = [frame for frame, _ in talk.core.flush(1.0)]
    assert any(isinstance(c, Submit) for frame in unsent for c in frame.commands)
    talk.core.broken(1.0, unsent)

    talk.now = 1.0
    talk.reopen(epoch=3_000)

    assert [s.again for s in talk.broker.submits] == [False, True]
