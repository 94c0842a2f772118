"""Where the system gives no more threads."""

import asyncio
import queue
import subprocess
import sys
import threading

import pytest
import structlog

from actor.lead import CALLED_OFF, Lead
from actor.running import threads
from actor.running.threads import EventLoopThread, ThreadPool, aside, end_unused
from tests.actor.test_processes import logged, value, wait_for_file
from tests.support.deployment import DEADLINE_S, ROOT, environment, wait_until

# Becomes an actor where the system gives no thread at all.
CHILD = """
import os, socket, threading
def starts_not(_):
    raise RuntimeError("can't start new thread")
threading.Thread.start = starts_not
from actor.child import become
host, mine = socket.socketpair()
host.sendall(b"00" + bytes([10]))
become(os.getppid(), mine.fileno(), 0, 0.0)
"""


# Ends in good order where the system gives no thread, with something to be done at the end.
LEAVES = """
import atexit, threading
def starts_not(_):
    raise RuntimeError("can't start new thread")
threading.Thread.start = starts_not
from actor.machine.leaving import leave
atexit.register(print, "hung")
leave(0)
"""
# Who holds what is printed to a pipe that nobody reads would have held the process.
LEAVES_AT_ONCE = """
import atexit, sys, threading
from actor.machine.leaving import leave_at_once
atexit.register(print, "in order")
print("printed")
if sys.argv[1:]:
    sys.stderr.flush = threading.Event().wait
leave_at_once(4)
"""
FAILS_AS_GUARD = """
import threading
from actor.lead import Lead
from actor.running.threads import ThreadPool
lead = Lead(ThreadPool("slot", print, print).lend)
lead.begin()
lead.add_guard(lambda: 1 / 0)
threading.Event().wait(60)
"""


class Ended(Exception):
    """The process would have ended here."""


class System:
    """Starts as many threads as there is room for."""

    def __init__(self, monkeypatch, room):
        self.room = room
        start = threading.Thread.start

        def starts(thread):
            if not self.room:
                raise RuntimeError("can't start new thread")
            self.room -= 1
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", starts)


class Runs:
    """Runs that begin in a pool and stay until they are told to end."""

    def __init__(self):
        self.notes, self.began = [], queue.Queue()
        self.given_up = []
        note = lambda event, **fields: self.notes.append((event, fields))  # noqa: E731
        self.pool = ThreadPool("slot", note, self.given_up.append)
        self.ends = {}

    def start(self, name):
        self.ends[name] = threading.Event()
        self.pool.start(self._run, name)

    def _run(self, name):
        self.began.put(name)
        assert self.ends[name].wait(DEADLINE_S)

    def end(self, name):
        self.ends[name].set()
        self.pool.ended()

    def next(self):
        return self.began.get(timeout=DEADLINE_S)


def test_a_run_without_room_for_its_thread_waits_for_another_one_and_ends_nobody(monkeypatch):
    # The actor ended with all that ran in it: 21 runs, which counted as crashes of theirs.
    System(monkeypatch, room=2)
    runs = Runs()

    for name in "abcd":
        runs.start(name)
    assert {runs.next(), runs.next()} == {"a", "b"}
    assert runs.notes == [("no_thread", {"threads": 2, "reason": "can't start new thread"})]
    runs.end("b")

    assert runs.next() == "c"
    runs.end("a")
    assert runs.next() == "d"
    assert runs.pool.threads == 2
    for name in "cd":
        runs.end(name)


def test_a_run_that_waits_gets_a_thread_as_soon_as_there_is_room_again(monkeypatch):
    system = System(monkeypatch, room=1)
    runs = Runs()
    for name in "abc":
        runs.start(name)
    assert runs.next() == "a"
    runs.pool.grow()

    system.room = 2
    runs.pool.grow()

    assert {runs.next(), runs.next()} == {"b", "c"}
    assert len(runs.notes) == 1
    for name in "abc":
        runs.end(name)
    system.room = 0
    runs.start("d")
    runs.start("e")
    runs.start("f")
    runs.start("g")
    assert len(runs.notes) == 2, "it is said anew"
    for name in "defg":
        runs.ends[name].set()


def test_without_room_for_a_single_thread_the_pool_gives_up_each_time_that_it_looks(monkeypatch):
    system = System(monkeypatch, room=0)
    runs = Runs()
    runs.start("a")
    runs.pool.grow()
    assert [str(error) for error in runs.given_up] == ["can't start new thread"] * 2
    assert len(runs.notes) == 1

    system.room = 1
    runs.pool.grow()

    assert runs.next() == "a"
    runs.end("a")


@pytest.fixture
def ends(monkeypatch):
    """Let the end of the process be an exception; return with which status."""
    statuses = []

    def end(status):
        statuses.append(status)
        raise Ended

    monkeypatch.setattr("actor.running.threads.os._exit", end)
    return statuses


def test_an_actor_without_a_thread_for_its_first_task_ended_with_a_traceback(
    stage, refuse_threads, ends
):
    refuse_threads("slot-", times=1)
    it = stage()

    with structlog.testing.capture_logs() as said, pytest.raises(Ended):
        it.begin(it.template(lambda: "done"))

    assert ends == [1]
    reason = "can't start new thread"
    event = {"event": "cannot_run", "actor": "h/0", "reason": reason, "log_level": "error"}
    assert said == [event]


def test_what_is_loaded_or_has_begun_does_not_end_for_lack_of_a_first_thread(stage, ends):
    board, token, error = stage().board, (5, 1), MemoryError()
    end_unused("h/0", board, ["Vision"], error)
    board.start(board.reserve(token), token)
    end_unused("h/0", board, [], error)
    assert ends == []

    board.settle(token)

    with pytest.raises(Ended):
        end_unused("h/0", board, [], error)


def test_without_room_for_a_guard_the_leader_leads_on(monkeypatch):
    system = System(monkeypatch, room=0)
    lead = Lead(Runs().pool.lend)
    lead.begin()

    lead.add_guard(lead.join)
    assert (lead.guards, lead.joining) == (0, 0)

    system.room = 1
    lead.add_guard(lead.join)
    lead.lock.release()
    lead.have_guard(lead.join)
    with lead.lock:
        assert lead.guards + lead.joining == 1


@pytest.fixture
def led():
    """Give runs beside a lead that the test has."""
    runs = Runs()
    runs.lead = Lead(runs.pool.lend)
    runs.pool.call_off = runs.lead.call_off
    runs.lead.begin()

    def guard():
        runs.lead.join()
        assert runs.lead.stand_by() == CALLED_OFF

    runs.guard = guard
    return runs


def stand_by(led, count):
    """Let those join who are about to."""

    def has_joined():
        led.lead.lock.release()
        led.lead.lock.acquire()
        return led.lead.guards == count

    wait_until(has_joined)


def test_a_run_waited_for_a_thread_beside_one_that_stood_by(led, monkeypatch):
    System(monkeypatch, room=2)
    led.lead.add_guard(led.guard)
    stand_by(led, 1)
    led.start("a")
    led.start("b")
    assert led.next() == "a"
    assert led.lead.guards == 1, "a run that begins in the leader's place may count on it"

    led.pool.grow(least=0)
    assert led.lead.guards == 0
    led.lead.lock.release()

    assert led.next() == "b"
    for name in "ab":
        led.end(name)


def test_a_run_had_a_thread_of_its_own_started_beside_those_that_stood_by(led):
    led.lead.add_guard(led.guard)
    led.lead.add_guard(led.guard)
    stand_by(led, 2)

    led.start("a")
    led.lead.lock.release()

    assert led.next() == "a"
    assert (led.pool.threads, led.lead.guards) == (2, 1)
    led.end("a")


def test_who_stands_by_had_a_thread_of_its_own_started_beside_idle_ones(led):
    led.start("a")
    assert led.next() == "a"
    led.end("a")

    led.lead.add_guard(led.guard)
    stand_by(led, 1)

    assert led.pool.threads == 1


def test_nobody_is_called_off_whom_a_leader_that_runs_a_task_counts_on(led):
    led.lead.add_guard(led.guard)
    stand_by(led, 1)
    led.lead.free_since = 1.0

    assert not led.lead.call_off(0)


def test_who_is_called_off_leaves_the_call_that_came_with_it_to_the_next(led):
    led.lead.guards = 2
    assert led.lead.call_off(1)
    led.lead.leave()
    led.lead.call()

    assert led.lead.stand_by() == CALLED_OFF
    assert led.lead._bell.acquire(blocking=False)


def give_no_more_threads():
    def starts_not(_):
        raise RuntimeError("can't start new thread")

    threading.Thread.start = starts_not


@pytest.mark.process
@pytest.mark.slow
def test_runs_waited_for_ever_for_threads_beside_those_that_had_run_others(broker, tmp_path):
    process = broker.start_host("--slots", "12", "--log-format", "json")
    actor = broker.actor()
    assert value(broker, actor, broker.run(actor, give_no_more_threads)) is None
    tokens = {n: broker.run(actor, wait_for_file, str(tmp_path / str(n))) for n in range(12)}
    broker.until(lambda: list(tmp_path.glob("*.begun")))
    assert any(line["event"] == "no_thread" for line in logged(process))
    first = sorted(tmp_path.glob("*.begun"))

    # Whichever thread ran one of them runs another then.
    for ended, path in enumerate(first, start=1):
        path.with_suffix("").touch()
        broker.until(lambda: len(list(tmp_path.glob("*.begun"))) >= len(first) + ended)  # noqa: B023

    for n in tokens:
        (tmp_path / str(n)).touch()
    assert [value(broker, actor, token) for token in tokens.values()] == ["done"] * 12


def test_an_event_loop_that_found_no_thread_is_tried_again(monkeypatch):
    # The loop was there without its thread, and whatever came next waited for ever.
    system = System(monkeypatch, room=0)
    events = EventLoopThread("slot-async")
    with pytest.raises(RuntimeError, match="can't start"):
        _ = events.loop
    system.room = 1

    assert events.answers(DEADLINE_S)


def test_what_an_event_loop_needs_a_thread_for_waits_for_one_and_is_done_once(monkeypatch):
    monkeypatch.setattr(threads, "LOOK_S", 0.01)
    system = System(monkeypatch, room=0)
    done = []

    async def main():
        loop = asyncio.get_running_loop()
        loop.call_later(0.05, setattr, system, "room", 10)
        first = await aside(lambda: done.append(threading.current_thread()) or "first")
        # Others wait for their own threads behind it, which find its former tries.
        return first, await asyncio.gather(*(aside(done.append, n) for n in range(3)))

    assert asyncio.run(main()) == ("first", [None] * 3)
    assert done[0] is not threading.current_thread()
    assert sorted(done[1:]) == [0, 1, 2]


def test_what_goes_wrong_aside_is_raised():
    async def main():
        with pytest.raises(ZeroDivisionError):
            await aside(divmod, 1, 0)

    asyncio.run(main())


def test_an_actor_that_finds_not_even_its_first_thread_says_so_in_a_line():
    child = run(CHILD)

    assert (child.returncode, child.stdout) == (1, "")
    assert child.stderr == "actor: it cannot start: can't start new thread\n"


def run(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def test_an_actor_that_leaves_without_a_thread_to_bound_that_hung_or_failed():
    child = run(LEAVES)

    assert child.returncode == 0
    assert "exit_functions_skipped" in child.stdout
    assert "hung" not in child.stdout
    assert child.stderr == ""


@pytest.mark.parametrize("hangs", [[], ["hangs"]])
def test_an_actor_that_leaves_at_once_says_what_was_printed_and_waits_for_nobody(hangs):
    child = run(LEAVES_AT_ONCE, *hangs)

    assert (child.returncode, child.stdout, child.stderr) == (4, "printed\n", "")


def test_a_guard_that_fails_left_an_actor_that_nobody_leads():
    child = run(FAILS_AS_GUARD)

    assert child.returncode == 1
    assert child.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_a_coroutine_waits_for_the_thread_of_its_event_loop(stage, refuse_threads):
    # It failed, and the next call of its function ended the actor with all that ran there.
    refused = refuse_threads("slot-async", times=3)

    async def ask():
        return "done"

    it = stage()
    function = it.template(ask)
    first = it.begin(function)

    assert it.value(first) == "done"
    assert len(refused) == 3
    assert it.value(it.begin(function)) == "done"
