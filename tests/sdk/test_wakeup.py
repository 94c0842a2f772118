"""A wait that may look before it sleeps."""

import gc
import os
import select
from pathlib import Path

import pytest

from sdk import Client
from sdk.errors import BadOption
from sdk.reading.dealer import Dealer
from sdk.reading.wakeup import ShortWait, Sleep, open_sleeps, processors, spin_s


class Answers:
    """A poll that answers as told, and keeps with which timeouts it was asked."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.timeouts_ms = []

    def poll(self, timeout_ms):
        self.timeouts_ms.append(timeout_ms)
        return self.answers.pop(0) if self.answers else []


READY = [(1, select.POLLIN)]


def test_after_two_short_waits_the_next_one_looks_before_it_sleeps():
    answers = Answers(READY, READY, [], [], READY)
    wait = ShortWait(answers, spin_s=60.0)

    assert [wait.wait(30.0) for _ in range(3)] == [READY] * 3

    assert answers.timeouts_ms == [30_000, 30_000, 0, 0, 0]


def test_a_look_in_vain_is_followed_by_a_sleep_and_by_none_in_the_next_wait():
    answers = Answers(READY, READY)
    wait = ShortWait(answers, spin_s=0.001)
    wait._spin_s = 60.0  # Short, however busy the machine is.
    assert [wait.wait(30.0) for _ in range(2)] == [READY] * 2
    wait._spin_s = 0.001
    del answers.timeouts_ms[:]

    assert wait.wait(30.0) == []

    *looks, sleep_ms = answers.timeouts_ms
    assert set(looks) == {0}
    assert 0 < sleep_ms <= 30_000
    del answers.timeouts_ms[:]
    assert wait.wait(30.0) == []
    assert answers.timeouts_ms == [30_000]


def test_whoever_waited_for_long_does_not_look():
    answers = Answers(*[READY] * 5)
    wait = ShortWait(answers, spin_s=0.0)

    assert [wait.wait(0.5) for _ in range(5)] == [READY] * 5

    assert answers.timeouts_ms == [500] * 5


def test_a_short_wait_that_ends_with_nothing_is_not_short():
    answers = Answers(READY, [], READY, READY)
    wait = ShortWait(answers, spin_s=60.0)

    for _ in range(4):
        wait.wait(0.25)

    assert answers.timeouts_ms == [250] * 4


def test_a_look_that_lasted_for_long_since_others_ran_is_the_last():
    answers = Answers(READY, READY, READY, READY)
    wait = ShortWait(answers, spin_s=60.0)
    for _ in range(2):
        wait.wait(1.0)
    wait._spin_s = 1e-9

    assert [wait.wait(1.0) for _ in range(2)] == [READY, READY]

    assert answers.timeouts_ms == [1000, 1000, 0, 1000]


def test_it_sleeps_no_shorter_than_it_was_told():
    answers = Answers()

    ShortWait(answers, spin_s=0.0).wait(0.0101)
    ShortWait(answers, spin_s=0.0).wait(-1.0)

    assert answers.timeouts_ms == [11, 0]


@pytest.mark.parametrize(
    ("text", "expected"), [("0", 0.0), ("10000", 0.01), ("", 0.0), ("500", 0.0005)]
)
def test_how_long_is_looked_may_be_told(monkeypatch, text, expected):
    monkeypatch.setenv("WARMSLOT_SPIN_US", text)

    assert spin_s() == (expected if processors() > 1 else 0.0)


@pytest.mark.skipif(processors() < 2, reason="one processor never looks")
@pytest.mark.parametrize("text", ["-1", "10001", "1.5", "off", "²"])
def test_what_is_no_time_to_look_is_refused(monkeypatch, text):
    monkeypatch.setenv("WARMSLOT_SPIN_US", text)

    with pytest.raises(BadOption, match=f"WARMSLOT_SPIN_US={text}: not a number of microseconds"):
        spin_s()


def test_one_processor_has_nobody_to_wait_for(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0}, raising=False)

    assert spin_s() == 0.0


def descriptors():
    gc.collect()
    return len(list(Path("/dev/fd").iterdir()))


def test_a_client_that_is_closed_leaves_no_descriptor():
    # Each left two, and a program that has one for each request ended after some hundreds.
    Client("tcp://127.0.0.1:1").close()
    before = descriptors()

    for _ in range(3):
        Client("tcp://127.0.0.1:1").close()

    assert descriptors() == before


def test_who_is_woken_after_the_close_writes_to_nobody_elses_descriptor():
    another, end = os.pipe()
    sleep = Sleep(0)
    own = sleep._wakeup.fd
    sleep.close()
    os.dup2(end, own)

    sleep.wake()

    assert select.select([another], [], [], 0)[0] == []
    for descriptor in (another, end, own):
        os.close(descriptor)


def test_where_one_descriptor_is_left_it_is_not_kept(monkeypatch):
    before = descriptors()
    make = os.eventfd
    left = [make]
    monkeypatch.setattr(os, "eventfd", lambda *how: left.pop()(*how) if left else exhausted())

    with pytest.raises(OSError, match="Too many open files"):
        open_sleeps(0)

    assert descriptors() == before


def test_a_client_that_finds_no_thread_is_closed_and_says_so(monkeypatch):
    # Its socket was left to the collector of garbage, which waited for ever for it to be closed.
    def starts_not(_):
        raise RuntimeError("can't start new thread")

    Client("tcp://127.0.0.1:1").close()
    gc.collect()
    before = len(list(Path("/dev/fd").iterdir()))
    monkeypatch.setattr("threading.Thread.start", starts_not)

    with pytest.raises(RuntimeError, match=r"needs a thread of its own: .*can't start new thread"):
        Client("tcp://127.0.0.1:1")

    # Before anything is collected.
    assert len(list(Path("/dev/fd").iterdir())) == before


def test_a_client_that_finds_no_descriptor_to_be_woken_by_is_closed(monkeypatch):
    before, closed = descriptors(), []
    close = Dealer.close
    monkeypatch.setattr(Dealer, "close", lambda dealer: (closed.append(dealer), close(dealer)))
    monkeypatch.setattr(os, "eventfd", lambda *_: exhausted())

    with pytest.raises(OSError, match="Too many open files"):
        Client("tcp://127.0.0.1:1")

    assert len(closed) == 1
    assert descriptors() == before


def exhausted():
    raise OSError(24, os.strerror(24))
