"""The client's core: it owns its calls, and tells the broker again exactly what that misses."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdk import core as client_core
from tests.sdk.fakes import Conversation, plan_of, result_of
from wire.codec import encode
from wire.messages import (
    Answer,
    Beat,
    Bye,
    Cancel,
    Function,
    Query,
    Submit,
    Template,
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
