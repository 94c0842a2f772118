"""Who leads an actor process, and what becomes of what the former leader left."""

import os
import pathlib
import select
import signal
import threading
from math import inf

import pytest

import actor.loop
from actor.core import ActorCore
from actor.lead import Lead
from actor.loop import Loop
from actor.machine.board import Board
from actor.settings import EXIT_FORCED, SLOT, Launch, Settings
from tests.support.deployment import DEADLINE_S, Deployment
from wire.wakeup import Wakeup


@pytest.fixture
def slots():
    return 1


@pytest.fixture
def loop(slots):
    board, fd = Board.create(records=16)
    launch = Launch(
        core=Settings(name="h/0", slots={SLOT: slots}),
        broker="tcp://127.0.0.1:1",
        incarnation=99,
        host_name="h",
    )
    core = ActorCore(launch.core, incarnation=launch.incarnation, now=0.0)
    wakeup = Wakeup()
    loop = Loop(launch, core, board, wakeup)
    yield loop
    loop._reach.close(0)
    loop._context.term()
    board.close()
    os.close(fd)
    wakeup.close()


def test_whoever_takes_the_lead_first_says_what_the_former_leader_left(loop, monkeypatch):
    looks = []
    monkeypatch.setattr(actor.loop, "zmq_poll", lambda _, wait_ms: looks.append(wait_ms))
    loop.core.session.hello_at = inf
    loop.core.exit_reason = "this test is over after one turn"
    assert loop._lead() == EXIT_FORCED
    assert looks == [0], "it must not sleep"


def lend(target, argument):
    threading.Thread(target=target, args=(argument,), daemon=True).start()
    return True


class Over(Exception):
    """As many turns as this test is about were taken."""


@pytest.mark.parametrize(("slots", "is_called"), [(1, False), (2, True)])
def test_a_leader_that_runs_a_task_lets_another_lead_at_once_where_a_slot_is_left(
    loop, is_called, monkeypatch
):
    loop.core.mailbox.holders[1, 1] = "a run"
    turns = iter(["a run"])

    def turn(**_):
        try:
            return next(turns)
        except StopIteration:
            raise Over from None

    called = []
    monkeypatch.setattr(loop, "turn", turn)
    monkeypatch.setattr(loop.slots, "run_here", lambda _: called.append(loop.lead._is_called))
    loop.lead.begin()

    with pytest.raises(Over):
        loop._lead()

    assert called == [is_called]


def test_who_lost_the_lead_says_what_its_run_has_left_before_it_stands_by(loop, monkeypatch):
    loop.core.session.hello_at = inf
    said = []
    monkeypatch.setattr(loop, "turn", lambda **_: "a run")

    def run_here(_):
        monkeypatch.undo()
        assert loop.lead.lock.acquire(timeout=DEADLINE_S)
        loop.lead._number += 1  # A guard has taken the lead; it sleeps by now.
        loop.lead.free_since = 0.0
        loop._sleeps_until = inf
        loop.lead.lock.release()
        loop.post_quietly(lambda *what: said.append(what))

    monkeypatch.setattr(loop.slots, "run_here", run_here)
    loop.lead.begin()

    assert loop._lead() is None
    assert len(said) == 1
    assert not loop._is_awake


def test_what_came_back_for_who_lost_the_lead_was_heard_when_the_run_of_another_had_lasted_10_ms(
    loop, monkeypatch
):
    # With two slots and tasks of 4 ms, each took a third longer than it has to.
    loop.core.session.hello_at = inf
    monkeypatch.setattr(loop, "turn", lambda **_: "a run")

    def run_here(_):
        monkeypatch.undo()
        assert loop.lead.lock.acquire(timeout=DEADLINE_S)
        loop.lead._number += 1  # A guard has taken the lead, and runs a task in its place by now.
        loop.lead.free_since = 1.0
        loop.lead._is_called = False
        loop.lead.lock.release()

    monkeypatch.setattr(loop.slots, "run_here", run_here)
    loop.lead.begin()

    assert loop._lead() is None
    assert loop.lead._is_called


def test_a_run_in_the_leaders_place_says_itself_what_it_posts_and_calls_a_guard(loop):
    loop.core.session.hello_at = inf
    said = []
    loop.lead.begin()
    loop.lead.leave()
    assert loop.lead._bell.acquire(blocking=False)

    loop.post(lambda *what: said.append(what), "slot is free")

    assert [what for what, _ in said] == ["slot is free"]
    assert loop.lead.lock.acquire(blocking=False), "the lead is free again"
    assert loop.lead._bell.acquire(blocking=False), "somebody must hear what comes back"


def test_what_is_posted_while_somebody_is_in_a_turn_is_left_to_him(loop):
    said = []
    loop.lead.begin()

    loop.post(lambda *what: said.append(what), "slot is free")

    assert said == []
    assert loop._is_awake


def test_who_posts_while_the_leader_sleeps_says_it_himself_and_lets_him_sleep(loop):
    loop.core.session.hello_at = inf
    loop._sleeps_until = inf
    said = []

    loop.post(lambda *what: said.append(what), "slot is free")

    assert [what for what, _ in said] == ["slot is free"]
    assert not loop._is_awake


def test_who_posts_lets_the_leader_sleep_who_sleeps_until_the_next_heartbeat(loop):
    loop.core.session.hello_at = 1e9
    loop._sleeps_until = 1e9 + 0.000_1

    loop.post(lambda _: None)

    assert not loop._is_awake


@pytest.mark.parametrize("reason", ["earlier", "over"])
def test_who_posts_while_the_leader_sleeps_wakes_him_for_what_is_his(loop, reason):
    loop.core.session.hello_at = inf
    loop._sleeps_until = inf

    def change(_):
        if reason == "earlier":
            loop.core.session.hello_at = 1e9
        else:
            loop.core.is_draining = True

    loop.post(change)

    assert loop._is_awake


def test_a_wake_that_comes_after_its_flag_has_fallen_does_not_end_every_sleep_from_then_on(loop):
    # As when a thread that raised the flag loses the interpreter before it gets to the descriptor,
    # and somebody else's turn comes in between. Then the leader had a processor to itself.
    loop.core.session.hello_at = inf
    loop.lead.begin()
    loop._wakeup.set()

    loop._wait(DEADLINE_S)
    loop.turn(can_receive=False)

    assert not select.select([loop._wakeup.fd], [], [], 0)[0]


def test_a_signal_in_the_middle_of_a_turn_is_not_left_until_the_next_heartbeat(loop, monkeypatch):
    # The turn had looked whether to drain, and then took the signal's own wake away.
    loop.core.session.hello_at = inf
    loop.lead.begin()
    monkeypatch.setattr(loop, "_receive", lambda _now: loop.ask_to_drain())

    loop.turn(can_receive=True)

    assert loop.core.is_draining or select.select([loop._wakeup.fd], [], [], 0)[0]


def test_a_leader_whose_run_ends_in_the_one_turn_of_another_leads_on(loop):
    loop.core.session.hello_at = inf
    loop.lead.begin()
    number = loop.lead.leave()
    is_inside, comes_back = threading.Event(), threading.Event()

    def stay(_):
        is_inside.set()
        assert comes_back.wait(DEADLINE_S)

    visitor = threading.Thread(target=loop.post, args=(stay,))
    visitor.start()
    assert is_inside.wait(DEADLINE_S)
    comes_back.set()

    assert loop.lead.come_back(number), "nobody else leads: the actor would be deaf and mute"
    visitor.join(DEADLINE_S)


def test_a_guard_that_was_called_leads_on_and_the_former_leader_stands_by():
    lead = Lead(lend)
    lead.begin()
    lead.joining += 1
    has_taken, is_over = threading.Event(), threading.Event()

    def guard():
        lead.join()
        assert lead.stand_by() is None
        has_taken.set()
        assert is_over.wait(DEADLINE_S)
        lead.lock.release()

    thread = threading.Thread(target=guard)
    thread.start()
    number = lead.leave()
    lead.call()
    assert has_taken.wait(DEADLINE_S)
    assert (lead.guards, lead.free_since) == (0, 0.0)
    is_over.set()

    assert not lead.come_back(number)

    assert lead.guards == 1
    lead.end(3)
    assert lead.stand_by() == 3
    thread.join(DEADLINE_S)


def test_guards_lead_from_the_start_and_who_began_waits_for_the_end():
    lead = Lead(lend)
    led = []

    def guard():
        lead.join()
        if lead.stand_by() is None:
            led.append(threading.current_thread())
            lead.end(3)
            lead.lock.release()

    lead.begin_apart(guard)

    assert lead.wait_for_end() == 3
    assert len(led) == 1
    assert led[0] is not threading.current_thread()
    signal.set_wakeup_fd(-1)


def test_a_lead_that_finds_no_thread_begins_not():
    with pytest.raises(RuntimeError, match="no thread"):
        Lead(lambda *_: False).begin_apart(lambda: None)


def test_a_signal_that_comes_while_the_main_thread_waits_is_handled_at_once(monkeypatch):
    lead = Lead(lend)
    monkeypatch.setattr(lead, "_ring", lambda: None)
    was = signal.signal(signal.SIGUSR1, lambda *_: lead.end(4))
    try:
        killer = threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGUSR1))
        killer.start()
        assert lead.wait_for_end() == 4
        killer.join(DEADLINE_S)
    finally:
        signal.signal(signal.SIGUSR1, was)
        signal.set_wakeup_fd(-1)


def test_a_call_that_came_while_the_guard_looked_at_a_leader_who_was_back_was_forgotten():
    # It took the lead after its 10 ms only, in which nobody heard what was for the other slots.
    class Looked(Lead):
        looks = 0

        @property
        def free_since(self):
            self.looks += 1
            since = self.since
            if self.looks == 1:  # The first look is over when the leader runs a task and calls.
                self.leave()
                self.call()
            return since

        @free_since.setter
        def free_since(self, since):
            self.since = since

    lead = Looked(lend)
    lead.begin()
    lead.guards = 1
    lead._ring()
    lead.looks = 0
    waits = []
    lead._bell = Bell(lead._bell, waits)

    assert lead.stand_by() is None

    assert len(waits) == 2


class Bell:
    """Counts who waits for it."""

    def __init__(self, bell, waits):
        self.bell, self.waits = bell, waits

    def acquire(self, timeout):
        self.waits.append(timeout)
        return self.bell.acquire(timeout=min(timeout, DEADLINE_S) if timeout > 0 else DEADLINE_S)

    def release(self):
        self.bell.release()


def standing_by(lead):
    with lead.lock:
        return lead.guards + lead.joining


def test_who_gives_its_slot_back_leaves_one_who_stands_by():
    lead = Lead(lend)
    lead.begin()
    lead.have_guard(lead.join)
    assert lead.guards + lead.joining == 0, "somebody is in a turn"
    lead.lock.release()

    lead.have_guard(lead.join)
    assert standing_by(lead) == 1
    lead.have_guard(lead.join)

    assert standing_by(lead) == 1


def test_where_the_only_guard_takes_the_lead_from_this_run_there_is_one_more():
    lead = Lead(lend)
    lead.guards = 1
    # A leader runs a task itself.
    lead.free_since = 1.0

    lead.have_guard(lead.join)

    assert standing_by(lead) == 2


@pytest.mark.process
def test_what_libraries_want_to_say_at_the_end_is_said_whoever_leads_then(tmp_path):
    written = tmp_path / "written"

    def write_at_the_end(path):
        import atexit
        import select

        atexit.register(pathlib.Path(path).touch)
        # Long enough for the guard to take the lead.
        select.select([], [], [], 0.1)

    with Deployment() as deployment:
        deployment.start_broker()
        host = deployment.start_host("h")
        client = deployment.client()
        deployment.actors(client, "h/0")
        client.submit(write_at_the_end, str(written)).result(DEADLINE_S)
        host.send_signal(signal.SIGTERM)
        assert host.wait(DEADLINE_S) == 0
        assert written.exists()
