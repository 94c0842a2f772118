"""A peer's end of a session: every frame in every state, and what is due when."""

from itertools import product

import pytest

from wire.codec import mismatch
from wire.errors import Code, RemoteProtocolError
from wire.messages import PROTOCOL, Beat, ClientHello, Error, Frame, Requeued, Welcome, Who
from wire.session import (
    HELLO_REPEAT_FIRST_S,
    HELLO_REPEAT_MAX_S,
    TRANSFER_BYTES_PER_S_MIN,
    Due,
    PeerSession,
    State,
    Verdict,
)

HELLO = ClientHello(1, "test", "3.11")
WELCOME = Welcome(1.0, 2.0, 5.0, 0.0, [], 100, 100, 100, 8, 8)
EPOCH = 1_000


def frame(command, *, session, number=0, epoch=EPOCH, received=0):
    return Frame(PROTOCOL, epoch, session, number, received, [command])


def ahead(octets, *, session=3, epoch=EPOCH):
    """Return what tells of a message with so many octets of payload."""
    return frame(Beat(octets), session=session, epoch=epoch)


def opening(now=0.0):
    """Return a session whose third HELLO is on its way, so that there are older numbers."""
    session = PeerSession(now, seed=1)
    for _ in range(3):
        session.hello(HELLO, now)
    return session


def opened(now=0.0):
    """Return an open session that has received two frames."""
    session = opening(now)
    assert session.accept(frame(WELCOME, session=3), now) is Verdict.WELCOME
    for number in (1, 2):
        assert session.accept(frame(Beat(), session=3, number=number), now) is Verdict.COMMANDS
    return session


def closed(now=0.0):
    session = opened(now)
    session.close(now)
    return session


def ended(now=0.0):
    session = opened(now)
    session.end()
    return session


def fresh(now=0.0):
    return PeerSession(now, seed=1)


# --- every frame in every state

MAKERS = {
    "fresh": fresh,
    State.OPENING: opening,
    State.OPEN: opened,
    State.CLOSED: closed,
    State.ENDED: ended,
}
COMMANDS = {
    "welcome": WELCOME,
    "who": Who(),
    "error": Error("bad-frame", "x"),
    "fatal": Error("protocol-mismatch", "x", fatal=True),
    "other": Requeued(1, 1, "x"),
}
SESSIONS = [0, 1, 2, 3, 4]
NUMBERS = [0, 1, 2, 3, 4, 9]
EPOCHS = [EPOCH - 1, EPOCH, EPOCH + 1]


def expected(state, what, *, session, number, epoch):
    """Say what protocol.md section 8 says, in its order."""
    mine = 0 if state == "fresh" else 3
    if state is State.ENDED:
        return Verdict.DROP
    if number == 0:
        is_about_us = session == mine or (session == 0 and what in ("error", "fatal"))
        if not is_about_us:
            return Verdict.DROP
        match what, state:
            case "welcome", State.OPENING:
                return Verdict.WELCOME
            case "who", State.OPEN:
                return Verdict.CLOSED
            case "fatal", _:
                return Verdict.FATAL
            case "error", _:
                return Verdict.COMMANDS
        return Verdict.DROP
    # From a HELLO to the WELCOME with its number, and outside a session, nothing else counts.
    if state is not State.OPEN or session != mine or epoch != EPOCH:
        return Verdict.DROP
    if number <= 2:
        return Verdict.DROP
    return Verdict.COMMANDS if number == 3 else Verdict.CLOSED


@pytest.mark.parametrize("what", COMMANDS)
@pytest.mark.parametrize("state", MAKERS)
def test_what_counts_of_a_frame(state, what):
    for session, number, epoch in product(SESSIONS, NUMBERS, EPOCHS):
        peer = MAKERS[state]()
        before = peer.state, peer.received, peer.epoch
        told = frame(COMMANDS[what], session=session, number=number, epoch=epoch)

        verdict = peer.accept(told, 1.0)

        wanted = expected(state, what, session=session, number=number, epoch=epoch)
        assert verdict is wanted, (session, number, epoch)
        if verdict is Verdict.DROP:
            assert (peer.state, peer.received, peer.epoch) == before
        elif verdict is Verdict.CLOSED:
            assert peer.state is State.CLOSED
            assert peer.due(1.0) is Due.HELLO
        elif verdict is Verdict.FATAL:
            assert peer.state is State.ENDED
            assert peer.error is COMMANDS[what]


def test_a_frame_without_commands_is_dropped():
    peer = opened()

    assert peer.accept(Frame(PROTOCOL, EPOCH, 3, 3, 0, []), 0.0) is Verdict.DROP
    assert peer.received == 2


# --- opening


def test_a_new_session_says_hello_at_once():
    peer = fresh(5.0)

    assert not peer.is_open
    assert peer.deadline() <= 5.0
    assert peer.due(5.0) is Due.HELLO


def test_every_hello_has_a_new_number_and_begins_counting_again():
    peer = opened()
    peer.frame([Beat()], 0.0)

    first = peer.hello(HELLO, 1.0)
    second = peer.hello(HELLO, 2.0)

    assert (first.session, second.session) == (4, 5)
    assert (second.number, second.received, second.commands) == (0, 0, [HELLO])
    assert peer.accept(frame(WELCOME, session=5), 2.0) is Verdict.WELCOME
    assert peer.frame([Beat()], 2.0).number == 1


def test_hello_is_repeated_more_and_more_seldom():
    peer, now, waits = fresh(), 0.0, []
    for _ in range(8):
        assert peer.due(now) is Due.HELLO
        peer.hello(HELLO, now)
        assert peer.due(now) is Due.NOTHING
        waits.append(peer.deadline() - now)
        now = peer.deadline()

    wanted = HELLO_REPEAT_FIRST_S
    for wait in waits:
        assert wanted <= wait <= wanted * 1.5
        wanted = min(wanted * 2, HELLO_REPEAT_MAX_S)


def test_peers_with_other_seeds_repeat_at_other_times():
    peers = [PeerSession(0.0, seed=seed) for seed in range(50)]

    for peer in peers:
        peer.hello(HELLO, 0.0)

    assert len({peer.deadline() for peer in peers}) > 40


def test_after_a_session_repeats_begin_short_again():
    peer = opening()
    peer.accept(frame(WELCOME, session=3), 0.0)
    peer.close(0.0)

    peer.hello(HELLO, 0.0)

    assert peer.deadline() <= HELLO_REPEAT_FIRST_S * 1.5


def test_hello_tells_the_highest_epoch_ever_heard():
    peer = fresh()
    assert peer.hello(HELLO, 0.0).epoch == 0
    peer.accept(frame(WELCOME, session=1, epoch=9_000), 0.0)
    peer.close(0.0)
    peer.hello(HELLO, 0.0)
    peer.accept(frame(WELCOME, session=2, epoch=7_000), 0.0)
    assert peer.frame([Beat()], 0.0).epoch == 7_000

    peer.close(0.0)

    assert peer.hello(HELLO, 0.0).epoch == 9_000


def test_a_late_welcome_of_a_repeated_hello_does_not_open():
    peer = opening()

    assert peer.accept(frame(WELCOME, session=2), 0.0) is Verdict.DROP
    assert not peer.is_open


def test_a_second_welcome_changes_nothing():
    peer = opened()

    assert peer.accept(frame(WELCOME, session=3), 0.0) is Verdict.DROP
    assert peer.received == 2


# --- counting


def test_frames_are_numbered_and_tell_what_was_received():
    peer = opened()

    first, second = peer.frame([Beat()], 0.0), peer.frame([Beat()], 0.0)

    assert (first.session, first.epoch, first.received) == (3, EPOCH, 2)
    assert (first.number, second.number) == (1, 2)


def test_a_repetition_is_no_sign_of_life_that_counts_twice():
    peer = opened(0.0)

    assert peer.accept(frame(Beat(), session=3, number=2), 4.0) is Verdict.DROP

    assert peer.received == 2


# --- time


def test_a_heartbeat_is_due_when_nothing_was_said_for_its_interval():
    peer = opened(0.0)

    assert peer.due(0.9) is Due.NOTHING
    assert peer.deadline() == 1.0 if peer.said_at == 0.0 else peer.deadline() > 0.9
    assert peer.due(1.0) is Due.BEAT


def test_any_frame_is_a_heartbeat():
    peer = opened(0.0)

    peer.frame([Requeued(1, 1, "x")], 0.5)

    assert peer.due(1.0) is Due.NOTHING
    assert peer.due(1.5) is Due.BEAT


def wait(peer, start, end, step=0.5):
    """Let time pass as a loop does that is never stopped, and return what was due at the end."""
    due, now = Due.NOTHING, start
    while now < end:
        now = min(now + step, end)
        due = peer.due(now)
        if due is Due.BEAT:
            peer.frame([Beat()], now)
    return due


def test_a_broker_that_is_silent_for_a_lease_is_greeted_anew():
    peer = opened(0.0)

    assert wait(peer, 0.0, 4.9) is not Due.HELLO
    assert peer.is_open

    assert wait(peer, 4.9, 5.0) is Due.HELLO
    assert not peer.is_open


def test_a_frame_of_the_broker_renews_its_lease():
    peer = opened(0.0)
    wait(peer, 0.0, 4.0)

    peer.accept(frame(Beat(), session=3, number=3), 4.0)

    assert wait(peer, 4.0, 8.9) is not Due.HELLO
    assert wait(peer, 8.9, 9.0) is Due.HELLO


def test_a_peer_that_was_stopped_hears_first_and_then_judges():
    peer = opened(0.0)
    peer.due(0.5)

    # Stopped for a minute: what the broker sent meanwhile waits in the socket.
    assert peer.due(60.0) is Due.BEAT
    assert peer.is_open
    peer.accept(frame(Beat(), session=3, number=3), 60.1)

    assert wait(peer, 60.1, 65.0) is not Due.HELLO


def test_a_peer_that_was_stopped_and_hears_nothing_gives_up_after_a_heartbeat():
    peer = opened(0.0)
    peer.due(60.0)

    assert wait(peer, 60.0, 61.0) is Due.HELLO


@pytest.mark.parametrize("late_s", [0.001, 0.5, 0.9])
def test_a_peer_with_nothing_to_do_notices_a_broker_that_is_silent(late_s):
    """Its loop sleeps to each deadline and wakes up a little late, which is no stop."""
    peer, now = opened(0.0), 0.0
    due = Due.NOTHING

    while due is not Due.HELLO and now < 20.0:
        now = peer.deadline() + late_s
        due = peer.due(now)
        if due is Due.BEAT:
            peer.frame([Beat()], now)

    assert due is Due.HELLO
    assert now <= 5.0 + 2 * late_s + 1.0


# --- what is large


@pytest.mark.parametrize("busy_s", [0.1, 1.001])
def test_a_large_message_that_takes_several_leases_ends_no_session(busy_s):
    """Heartbeats wait behind it: the session ended again and again, and it was lost each time."""
    peer = opened(0.0)
    large = 30 * TRANSFER_BYTES_PER_S_MIN

    assert peer.accept(ahead(large), 0.0) is Verdict.DROP
    assert wait(peer, 0.0, 30.0, busy_s) is not Due.HELLO
    assert peer.accept(frame(Beat(), session=3, number=3), 30.0) is Verdict.COMMANDS

    assert wait(peer, 30.0, 34.0, busy_s) is not Due.HELLO
    assert wait(peer, 34.0, 36.0, busy_s) is Due.HELLO


def test_a_large_message_that_does_not_come_is_waited_for_no_longer_than_it_may_take():
    peer = opened(0.0)
    peer.accept(ahead(10 * TRANSFER_BYTES_PER_S_MIN), 0.0)

    assert wait(peer, 0.0, 14.0) is not Due.HELLO
    assert wait(peer, 14.0, 15.0) is Due.HELLO


@pytest.mark.parametrize("wrong", [{"session": 2}, {"epoch": EPOCH - 1}])
def test_what_another_session_tells_of_a_large_message_counts_no_more(wrong):
    peer = opened(0.0)

    assert peer.accept(ahead(10**9, **wrong), 0.0) is Verdict.DROP

    assert wait(peer, 0.0, 5.0) is Due.HELLO


def test_what_tells_of_a_large_message_opens_no_session():
    peer = opening()

    assert peer.accept(ahead(10**9), 0.0) is Verdict.DROP

    assert not peer.is_open
    assert peer.accept(frame(WELCOME, session=3), 0.0) is Verdict.WELCOME
    assert wait(peer, 0.0, 5.0) is Due.HELLO


@pytest.mark.parametrize(
    ("sizes", "told"),
    [([], 0), ([2**20], 0), ([2**20 + 1], 2**20 + 1), ([2**19, 2**19, 1], 2**20 + 1)],
)
def test_what_is_told_of_is_what_all_payload_frames_of_a_message_come_to(sizes, told):
    peer = opened(0.0)

    frames = peer.ahead([bytes(size) for size in sizes])

    assert frames == ([(ahead(told), ())] if told else [])
    assert peer.sent == 0


def test_the_intervals_are_those_of_welcome():
    peer = opening()
    assert (peer.heartbeat_s, peer.lease_s) == (1.0, 5.0)

    peer.accept(frame(Welcome(0.1, 0.2, 0.5, 0.0, [], 1, 1, 1, 1, 1), session=3), 0.0)

    assert (peer.heartbeat_s, peer.lease_s) == (0.1, 0.5)
    assert peer.due(0.1) is Due.BEAT


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_nothing_is_due_before_the_deadline_and_something_at_it(make):
    peer = make()
    deadline = peer.deadline()
    if deadline == float("inf"):
        assert peer.due(1e9) is Due.NOTHING
        return

    assert deadline <= 0.0 or peer.due(deadline - 0.001) is Due.NOTHING
    assert peer.due(deadline) is not Due.NOTHING


# --- the end


def test_a_closed_session_greets_after_the_wait():
    peer = opened(0.0)

    peer.close(1.0, wait_s=0.5)

    assert peer.due(1.4) is Due.NOTHING
    assert peer.due(1.5) is Due.HELLO


def test_a_session_that_ended_stays_ended():
    peer = opened()
    peer.end()

    peer.close(0.0)

    assert peer.state is State.ENDED
    assert peer.deadline() == float("inf")
    assert peer.due(100.0) is Due.NOTHING


@pytest.mark.parametrize("make", [fresh, opening, closed, ended])
def test_only_an_open_session_numbers_frames(make):
    with pytest.raises(AssertionError):
        make().frame([Beat()], 0.0)


def test_a_session_that_ended_says_no_hello():
    with pytest.raises(AssertionError):
        ended().hello(HELLO, 0.0)


def test_a_frame_of_another_protocol_ends_the_session_for_good():
    session = opened()

    session.misread(mismatch(PROTOCOL + 1), 1.0)

    assert session.state is State.ENDED
    assert session.error.fatal
    assert session.due(9.0) is Due.NOTHING


def test_a_frame_that_cannot_be_read_begins_a_new_session():
    session = opened()

    session.misread(RemoteProtocolError(Code.BAD_FRAME, "x"), 1.0)

    assert session.due(1.0) is Due.HELLO


def test_a_connection_makes_a_hello_that_waits_due_at_once_and_no_other():
    session = PeerSession(0.0, seed=1)
    session.close(1.0, wait_s=0.25)
    assert session.due(1.1) is Due.NOTHING

    session.connected(1.1)

    assert session.due(1.1) is Due.HELLO
    _ = session.hello(object(), 1.1)
    session.connected(1.2)
    assert session.due(1.2) is Due.NOTHING
