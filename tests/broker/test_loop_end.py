"""How the loop ends, what it writes into the journal, and how it goes with the real core."""

import contextlib
import itertools
import queue
import time
from functools import partial

import pytest

from broker import loop as loop_module
from broker.core import Broker
from broker.disk.journal import Announcement, JournalState, NullJournal, _encode
from broker.settings import Settings
from tests.broker.test_loop import GARBAGE, PATIENCE_MS, Recorder, Running, answer, beat
from wire.codec import encode
from wire.messages import (
    PROTOCOL,
    Beat,
    Bye,
    ByeAck,
    ClientHello,
    Error,
    Frame,
    Query,
    Submit,
    Template,
    Welcome,
    Who,
)
from wire.parts import Call

pytestmark = pytest.mark.process


@pytest.fixture
def start():
    with contextlib.ExitStack() as stack:

        def begin(core, **more):
            running = Running(core, **more)
            stack.callback(running.close)
            return running

        yield begin


def hello(incarnation, session=1):
    return encode(Frame(PROTOCOL, 0, session, 0, 0, [ClientHello(incarnation, "test", "3.11")]))


def welcome_of(dealer):
    while True:
        frame, _ = answer(dealer)
        if isinstance(frame.commands[0], Welcome):
            return frame


# --- the journal, and the end


class Puppet(NullJournal):
    """A journal that announces what the test says."""

    def start(self, announcer):
        self.announcer = announcer
        self.submitted = queue.SimpleQueue()
        return 1

    def submit(self, sequence, operations):
        self.submitted.put((sequence, operations))
        return False

    def say(self, state, sequence=0, reason=""):
        self.announcer.send(_encode(Announcement(state, sequence, reason)))


def test_operations_go_to_the_journal_and_its_commits_to_the_core(start):
    core, journal = Recorder(), Puppet()
    peer = start(core, journal=journal).peer()
    core.sequence, core.operations = 4, [("epoch", 9)]

    peer.send(beat())

    assert core.hear()[0] == "frame"
    assert journal.submitted.get(timeout=PATIENCE_MS / 1000) == (4, [("epoch", 9)])
    journal.say(JournalState.COMMITTED, 4)
    assert core.hear() == ("committed", 4)


def test_without_a_journal_a_commit_is_at_once_and_its_effects_are_sent(start):
    core = Recorder()
    peer = start(core).peer()
    core.sequence, core.operations = 1, [("epoch", 9)]

    peer.send(beat())

    assert core.hear()[0] == "frame"
    assert core.hear() == ("committed", 1)
    answer(peer)


def test_a_journal_without_room_is_told_and_goes_on(start):
    journal = Puppet()
    running = start(core := Recorder(), journal=journal)

    journal.say(JournalState.STUCK, reason="database or disk is full")
    journal.say(JournalState.RECOVERED)
    journal.say(JournalState.COMMITTED, 1)

    assert core.hear() == ("stuck", "database or disk is full")
    assert core.hear() == ("stuck", "")
    assert core.hear() == ("committed", 1)
    assert running.log.lines == [
        ("journal_stuck", {"reason": "database or disk is full"}),
        ("journal_recovered", {}),
    ]


def test_a_journal_that_failed_ends_the_loop(start):
    journal = Puppet()
    running = start(Recorder(), journal=journal)

    journal.say(JournalState.FAILED, reason="disk I/O error (SQLITE_IOERR_FSYNC)")

    assert "FSYNC" in running.ended.get(timeout=PATIENCE_MS / 1000)


def test_an_exception_of_the_core_ends_the_loop(start):
    core = Recorder()
    core.raises = AssertionError("our bug")
    running = start(core)

    running.peer().send(beat())

    assert running.ended.get(timeout=PATIENCE_MS / 1000) is core.raises


def test_what_a_broker_says_last_leaves_before_it_ends(start):
    core = Recorder()
    running = start(core)
    peer = running.peer()
    peer.send(beat())
    _, rid, *_ = core.hear()
    answer(peer)
    core.last_words = [(rid, Frame(PROTOCOL, 1, 1, 0, 0, [Who()]), [b"last"])]

    running.loop.stop()
    running.thread.join()
    running.loop.close()

    assert answer(peer)[1] == [b"last"]


def test_a_broker_that_ends_hears_first_who_ends_as_well(start, monkeypatch):
    monkeypatch.setattr(loop_module, "LINGER_S", 3600.0)
    core = Recorder()
    running = start(core)
    peer = running.peer()
    core.is_awaited = True

    running.loop.stop()
    assert core.hear() == ("awaits",)
    peer.send(beat())

    assert core.hear()[0] == "frame"
    assert running.ended.get(timeout=PATIENCE_MS / 1000) == ""


def test_a_broker_that_ends_hears_who_is_about_to_say_that_it_ends(start, monkeypatch):
    monkeypatch.setattr(loop_module, "LINGER_S", 3600.0)
    monkeypatch.setattr(loop_module, "LAST_WORDS_MS", 3600_000)
    core = Recorder()
    running = start(core)
    peer = running.peer()
    core.is_on_its_way = True

    running.loop.stop()
    peer.send(beat())

    assert core.hear()[0] == "frame"
    assert running.ended.get(timeout=PATIENCE_MS / 1000) == ""


def test_a_broker_that_ends_waits_but_a_moment_for_who_may_say_that_it_ends(start, monkeypatch):
    monkeypatch.setattr(loop_module, "LINGER_S", 3600.0)
    core = Recorder()
    running = start(core)
    core.is_on_its_way = True

    running.loop.stop()

    assert running.ended.get(timeout=PATIENCE_MS / 1000) == ""


def test_a_broker_that_ends_waits_for_nobody_for_long(start, monkeypatch):
    monkeypatch.setattr(loop_module, "LINGER_S", 0.01)
    core = Recorder()
    running = start(core)
    core.is_awaited = True

    running.loop.stop()

    assert running.ended.get(timeout=PATIENCE_MS / 1000) == ""


def test_a_broker_that_ends_hears_nobody_more_once_its_moment_is_over(start):
    """Who went on to talk could hold it up for as long as an actor kept outcomes."""
    core = Recorder()
    # Each look at the clock finds it later by more than the moment takes.
    running = start(core, clock=partial(next, itertools.count(0.0, 10.0)))
    core.is_awaited = True

    running.loop.stop()

    assert running.ended.get(timeout=PATIENCE_MS / 1000) == ""
    heard = [core.heard.get()[0] for _ in range(core.heard.qsize())]
    assert "awaits" not in heard


def test_stop_ends_a_loop_that_waits_for_ever(start):
    running = start(Recorder())

    running.loop.stop()
    running.loop.stop()

    assert running.ended.get(timeout=PATIENCE_MS / 1000) == ""


# --- with the real core


@pytest.fixture
def served(start):
    return start(Broker(Settings(), epoch=1, now=time.monotonic()))


def test_a_client_opens_a_session_submits_asks_and_leaves(served):
    client = served.peer()
    client.send(hello(11))
    epoch = welcome_of(client).epoch

    commands = [Template(0, Call("f", b"\0" * 16)), Query(5, "status", "1")]
    client.send(encode(Frame(PROTOCOL, epoch, 1, 1, 0, [Beat(), commands[1]])))
    client.send(encode(Frame(PROTOCOL, epoch, 1, 2, 0, [Bye("done")])))

    said = []
    while not any(isinstance(command, ByeAck) for command in said):
        said += answer(client)[0].commands
    assert any(getattr(command, "request", None) == 5 for command in said)


def test_a_frame_without_a_session_is_asked_who(served):
    stranger = served.peer()

    stranger.send(encode(Frame(PROTOCOL, 1, 77, 1, 0, [Beat()])))

    frame, _ = answer(stranger)
    assert (frame.session, frame.number, frame.commands) == (77, 0, [Who()])


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_harms_only_its_sender(served, garbage):
    honest, rogue = served.peer(), served.peer()
    honest.send(hello(1))
    epoch = welcome_of(honest).epoch

    for _ in range(5):
        rogue.send_multipart(garbage)
    frame, _ = answer(rogue)
    assert isinstance(frame.commands[0], Error | Who)
    honest.send(encode(Frame(PROTOCOL, epoch, 1, 1, 0, [Query(5, "clients")])))

    said = []
    while not any(getattr(command, "request", None) == 5 for command in said):
        said += answer(honest)[0].commands
    assert not any(isinstance(command, Error) for command in said)


def test_payloads_that_the_commands_do_not_speak_of_are_an_error(served):
    client = served.peer()
    client.send(hello(1))
    epoch = welcome_of(client).epoch

    submit = Submit(1, 0, b"", frames=3)
    client.send_multipart([encode(Frame(PROTOCOL, epoch, 1, 1, 0, [submit])), b"only one"])

    said = []
    while not any(isinstance(command, Error) for command in said):
        said += answer(client)[0].commands
    assert said[-1].code == "bad-frame"


def test_a_peer_that_names_itself_is_served_like_any_other(served):
    first, second = served.peer(routing_id=b"me"), served.peer(routing_id=b"me")

    first.send(hello(1))
    welcome_of(first)
    second.send(hello(2))

    # A taken name is not handed over: whoever had it keeps it.
    first.send(hello(1, session=2))
    assert welcome_of(first).session == 2
    assert not second.poll(50)
