"""The client's sessions: what a broker is told again of the calls, and what it is not."""

from tests.sdk.fakes import Conversation, plan_of, result_of
from tests.sdk.test_core import kinds
from wire.codec import decode_failure
from wire.errors import Code
from wire.messages import (
    Beat,
    Error,
    Frame,
    Requeued,
    Submit,
    Tried,
    Who,
)

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
    assert not talk.core.queued

    codes = [decode_failure(r.body).code for _, r, _ in talk.core.take_outcomes()]
    assert codes == ["protocol-mismatch", "protocol-mismatch"]
    assert talk.core.deadline() == float("inf")
