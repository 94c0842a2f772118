"""The loop on real sockets: arity, hostile peers, timers, announcements, its own end."""

import contextlib
import queue
import socket
import threading
import time

import pytest
import zmq

from broker import loop as loop_module
from broker.disk.journal import NullJournal
from broker.log import LINES_MAX_OF, NoteLog
from broker.loop import Loop
from wire.codec import CONTROL_BYTES_MAX, decode_broker, encode
from wire.messages import (
    PROTOCOL,
    Beat,
    Frame,
    Who,
)

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
        self.is_awaited = self.is_on_its_way = False

    def receive(self, rid, frame, payloads, now):
        if self.raises:
            raise self.raises
        self.is_awaited = self.is_on_its_way = False
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

    def is_unsettled(self):
        return self.is_on_its_way

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


def answer(dealer):
    assert dealer.poll(PATIENCE_MS), "no answer"
    control, *payloads = dealer.recv_multipart()
    return decode_broker(control), payloads


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


def test_what_the_log_left_out_was_not_told_by_a_broker_that_ended_soon(start):
    class Noisy(Recorder):
        notes = [("bad_message", {})] * (LINES_MAX_OF["bad_message"] + 2)

        def take_notes(self):
            notes, self.notes = self.notes, []
            return notes

    running = start(Noisy())
    running.peer().send(beat())
    running.core.hear()

    running.loop.stop()

    assert running.ended.get(timeout=PATIENCE_MS / 1000) == ""
    assert running.log.lines[-1] == ("notes_left_out", {"of": "bad_message", "count": 2})


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
