"""The loop on real sockets: arity, hostile peers, timers, announcements, its own end."""

import contextlib
import itertools
import queue
import socket
import threading
import time
from functools import partial

import pytest
import zmq

from broker import loop as loop_module
from broker.core import Broker
from broker.disk.journal import Announcement, JournalState, NullJournal, _encode
from broker.log import NoteLog
from broker.loop import Loop
from broker.settings import Settings
from wire.codec import CONTROL_BYTES_MAX, decode_broker, encode
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

PATIENCE_MS = 60_000
# A socket that takes nothing for so long is full, or the machine is busy: then it is half full.
FULL_MS = 300
GARBAGE = [
    [b""],
    [b"", b""],
    [b"\xc1"],
    [b"hello", b"world"],
    [b"\x00AAAA", b"\x96\x01\x00\x01\x00\x00\x91\x91\xa3who", b"more", b"and", b"more"],
    [encode([1, 2, 3])],
    [encode([2, 0, 1, 0, 0, [["beat"]]])],
    [encode([1, 0, 1, 0, 0, []]), b"payload"],
    [b"\xdd\xff\xff\xff\xff"],
    [encode(Frame(PROTOCOL, 0, 1, 1, 0, [Beat()]))[:-1]],
    [b"\x91" * 100_000],
]


class Recorder:
    """A core that keeps what it is told and says what the test puts into `outgoing`."""

    def __init__(self):
        self.heard = queue.SimpleQueue()
        self.outgoing = []
        self.operations = []
        self.sequence = 0
        self.due = float("inf")
        self.raises = None
        self.echoes = True
        self.since_flush = 0
        self.batches = []
        self.last_words = []
        self.is_awaited = False

    def receive(self, rid, frame, payloads, now):
        if self.raises:
            raise self.raises
        self.is_awaited = False
        self.since_flush += 1
        self.heard.put(("frame", rid, frame, list(payloads)))
        if self.echoes:
            self.outgoing.append((rid, Frame(PROTOCOL, 1, 1, 0, 0, [Who()]), payloads))

    def bad(self, rid, error, now):
        self.heard.put(("bad", rid, error.code, error.message))

    def unreachable(self, rid, now):
        self.heard.put(("unreachable", rid))

    def committed(self, sequence, now):
        self.heard.put(("committed", sequence))

    def journal_stuck(self, reason):
        self.heard.put(("stuck", reason))

    def tick(self, now):
        self.heard.put(("tick", now))
        self.due = now + 0.05

    def deadline(self):
        return self.due

    def flush(self, now, *, may_pause):
        self.batches.append(self.since_flush)
        self.since_flush = 0
        outgoing, self.outgoing = self.outgoing, []
        return outgoing

    def take_operations(self):
        operations, self.operations = self.operations, []
        return self.sequence, operations

    def take_notes(self):
        return []

    def farewell(self):
        self.outgoing += self.last_words

    def is_waited_for(self):
        if self.is_awaited:
            self.heard.put(("awaits",))
        return self.is_awaited

    leftovers = ready = ()

    def hear(self):
        return self.heard.get(timeout=PATIENCE_MS / 1000)


class Quiet:
    """A log that keeps its lines."""

    def __init__(self):
        self.lines = []

    def info(self, event, **fields):
        self.lines.append((event, fields))

    warning = info


class Running:
    """A loop in a thread of the test."""

    def __init__(self, core, journal=None, **settings):
        self.context = zmq.Context()
        self.log = Quiet()
        self.core = core
        self.loop = Loop(
            self.context,
            journal or NullJournal(),
            NoteLog(self.log),
            payload_bytes_max=settings.get("payload_bytes_max", 2**20),
            clock=settings.get("clock", time.monotonic),
        )
        self.loop.start_journal()
        self.endpoint = self.loop.bind("tcp://127.0.0.1:*")
        self.port = int(self.endpoint.rpartition(":")[2])
        self.ended = queue.SimpleQueue()
        self.peers = []
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self):
        try:
            self.ended.put(self.loop.run(self.core))
        except AssertionError as error:
            self.ended.put(error)

    def peer(self, **options):
        dealer = self.context.socket(zmq.DEALER)
        dealer.linger = 0
        for name, value in options.items():
            setattr(dealer, name, value)
        dealer.connect(self.endpoint)
        self.peers.append(dealer)
        return dealer

    def close(self):
        self.loop.stop()
        self.thread.join()
        self.loop.close()
        self.context.destroy(linger=0)


@pytest.fixture
def start():
    with contextlib.ExitStack() as stack:

        def begin(core, **more):
            running = Running(core, **more)
            stack.callback(running.close)
            return running

        yield begin


def beat(number=1):
    return encode(Frame(PROTOCOL, 0, 1, number, 0, [Beat()]))


def hello(incarnation, session=1):
    return encode(Frame(PROTOCOL, 0, session, 0, 0, [ClientHello(incarnation, "test", "3.11")]))


def answer(dealer):
    assert dealer.poll(PATIENCE_MS), "no answer"
    control, *payloads = dealer.recv_multipart()
    return decode_broker(control), payloads


def welcome_of(dealer):
    while True:
        frame, _ = answer(dealer)
        if isinstance(frame.commands[0], Welcome):
            return frame


# --- what comes in


def test_payload_frames_reach_the_core_and_go_on_unchanged(start):
    core = Recorder()
    peer = start(core).peer()

    peer.send_multipart([beat(), b"one", b"", b"x" * 200_000])

    _, _, frame, payloads = core.hear()
    assert frame.number == 1
    assert all(isinstance(payload, zmq.Frame) for payload in payloads)
    _, returned = answer(peer)
    assert returned == [b"one", b"", b"x" * 200_000]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_one_bad_message_and_the_next_one_is_read(start, garbage):
    core = Recorder()
    peer = start(core).peer()

    peer.send_multipart(garbage)
    peer.send(beat(7))

    kind, sender, *_ = core.hear()
    assert kind == "bad"
    kind, second, frame, payloads = core.hear()
    assert (kind, second, frame.number, payloads) == ("frame", sender, 7, [])


def test_a_message_with_too_many_frames_is_read_to_its_end(start, monkeypatch):
    monkeypatch.setattr(loop_module, "PAYLOAD_FRAMES_MAX", 3)
    core = Recorder()
    peer = start(core).peer()

    peer.send_multipart([beat(), b"1", b"2", b"3", beat(9)])
    peer.send(beat(2))

    assert core.hear()[0] == "bad"
    assert core.hear()[2].number == 2


def test_a_control_frame_over_the_limit_is_bad(start):
    core = Recorder()
    peer = start(core, payload_bytes_max=CONTROL_BYTES_MAX).peer()

    peer.send(b"\x00" * (CONTROL_BYTES_MAX + 1))

    kind, _, code, message = core.hear()
    assert (kind, code) == ("bad", "bad-frame")
    assert str(CONTROL_BYTES_MAX + 1) in message


def test_a_frame_over_every_limit_ends_its_connection_only(start):
    core = Recorder()
    running = start(core, payload_bytes_max=1_000)
    greedy, other = running.peer(), running.peer()

    greedy.send_multipart([beat(1), b"x" * (CONTROL_BYTES_MAX + 1_001)])
    other.send(beat(2))

    assert core.hear()[2].number == 2


def test_bytes_that_are_not_zeromq_do_no_harm(start):
    core = Recorder()
    running = start(core)
    scans = [b"GET / HTTP/1.1\r\n\r\n", b"", b"\xff" * 4096, b"\x16\x03\x01\x00\xa5\x01", b"\xff\0"]

    for scan in scans:
        raw = socket.create_connection(("127.0.0.1", running.port))
        with raw, contextlib.suppress(OSError):
            raw.sendall(scan)
    peer = running.peer()
    peer.send(beat(3))

    assert core.hear()[2].number == 3


def test_a_flood_is_worked_off_in_turns(start):
    core = Recorder()
    core.echoes = False
    peer = start(core).peer(sndhwm=0)

    for number in range(1, 5_001):
        peer.send(beat(number))

    numbers = [core.hear()[2].number for _ in range(5_000)]
    assert numbers == list(range(1, 5_001))
    assert max(core.batches) <= loop_module.TURN_MESSAGES_MAX


def test_what_comes_faster_than_it_is_handled_waits_at_its_sender_and_is_lost_nowhere(start):
    class Stuck(Recorder):
        goes_on = threading.Event()

        def receive(self, rid, frame, payloads, now):
            self.goes_on.wait(PATIENCE_MS / 1000)
            super().receive(rid, frame, payloads, now)

    core = Stuck()
    core.echoes = False
    running = start(core)
    peer, other = running.peer(sndhwm=1), running.peer()
    most = 4 * loop_module.RECEIVES_WAITING_MAX
    sent = 0
    # Where it takes no more for a while, or would take all.
    while sent < most and peer.poll(FULL_MS, zmq.POLLOUT):
        sent += 1
        peer.send_multipart([beat(sent), b"x" * 50_000])
    other.send(beat(1_000_000))
    core.goes_on.set()

    numbers = [core.hear()[2].number for _ in range(sent + 1)]
    assert sent < most
    assert sorted(numbers) == [*range(1, sent + 1), 1_000_000]


def beside_deaf(start, megabytes):
    """Start a loop that has so much to say to a peer that never reads; return that one's id too."""
    core = Recorder()
    core.echoes = False
    running = start(core, payload_bytes_max=2**22)
    running.peer(rcvhwm=1, rcvbuf=4096).send(beat(1))
    deaf_rid = core.hear()[1]
    frame = Frame(PROTOCOL, 1, 1, 0, 0, [Who()])
    core.outgoing += [(deaf_rid, frame, [b"x" * 2**20]) for _ in range(megabytes)]
    return core, running, deaf_rid


def test_a_peer_that_reads_nothing_at_all_is_gone_before_it_fills_the_memory(start, monkeypatch):
    monkeypatch.setattr(loop_module, "SENDS_WAITING_MAX", 100)
    core, running, deaf_rid = beside_deaf(start, 200)

    running.peer().send(beat(2))

    heard = [core.hear() for _ in range(2)]
    assert ("unreachable", deaf_rid) in heard


def test_a_turn_ends_after_its_time_however_many_frames_wait(start):
    class Slow(Recorder):
        clock_s = 0.0

        def receive(self, rid, frame, payloads, now):
            self.clock_s += loop_module.TURN_S_MAX / 10
            super().receive(rid, frame, payloads, now)

    core = Slow()
    core.echoes = False
    peer = start(core, clock=lambda: core.clock_s).peer(sndhwm=0)

    for number in range(1, 1_001):
        peer.send(beat(number))

    numbers = [core.hear()[2].number for _ in range(1_000)]
    assert numbers == list(range(1, 1_001))
    assert max(core.batches) <= 12


# --- what goes out


def test_a_sender_that_is_gone_is_unreachable_and_the_others_are_served(start):
    core = Recorder()
    core.echoes = False
    running = start(core)
    gone, there = running.peer(), running.peer()
    gone.send(beat(1))
    gone_rid = core.hear()[1]
    gone.close()
    there.send(beat(2))
    there_rid = core.hear()[1]
    frame = Frame(PROTOCOL, 1, 1, 0, 0, [Who()])

    # The connection's end and the next message race; one of the tries comes after it.
    deadline = time.monotonic() + PATIENCE_MS / 1000
    heard = None
    while heard != ("unreachable", gone_rid) and time.monotonic() < deadline:
        core.outgoing += [(gone_rid, frame, [b"lost"]), (there_rid, frame, [b"kept"])]
        there.send(beat(3))
        heard = core.hear()
        if heard[0] == "frame":
            with contextlib.suppress(queue.Empty):
                heard = core.heard.get(timeout=0.05)

    assert heard == ("unreachable", gone_rid)
    assert answer(there)[1] == [b"kept"]


def test_a_client_that_never_reads_holds_up_nobody(start):
    core, running, _ = beside_deaf(start, 64)
    other = running.peer()

    other.send(beat(2))
    assert core.hear()[2].number == 2
    # A broker that waited for the other one to read would never hear this.
    other.send(beat(3))

    assert core.hear()[2].number == 3


# --- time


def test_a_tick_comes_when_it_is_due_and_then_again(start):
    core = Recorder()
    core.due = time.monotonic() + 0.02

    start(core)

    ticks = [core.hear() for _ in range(3)]
    assert [kind for kind, _ in ticks] == ["tick"] * 3
    first, second, third = (at for _, at in ticks)
    assert second - first >= 0.05
    assert third - second >= 0.05


def test_traffic_does_not_starve_the_ticks(start):
    core = Recorder()
    core.due = time.monotonic() + 0.01
    peer = start(core).peer()

    ticks = 0
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while ticks < 3 and time.monotonic() < deadline:
        peer.send(beat())
        ticks += core.hear()[0] == "tick"

    assert ticks == 3


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
    assert [event for event, _ in running.log.lines] == ["journal_stuck", "journal_recovered"]


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
