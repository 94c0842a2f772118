"""The thread that leads an actor process: the one with its socket, its core and its clock.

It receives until the socket is dry, takes what the slots handed back, starts what the core says,
and sends. It decides nothing. Who leads may change (see `lead`): the leader runs a task itself, in
the thread that received it, and saves two changes of threads; where a slot is left another leads on
at once. The rule that must not be broken: whoever touches the socket or the core holds the lead.
"""

import os
import select
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import Any, Final

import zmq
from zmq.backend import Socket as RawSocket
from zmq.backend import zmq_poll

from actor.connection import LINGER_MS, connect
from actor.core import ActorCore, Outgoing
from actor.events import entering, fencing
from actor.events.starting import start_next
from actor.events.stopping import exit_status
from actor.holding.mailbox import Assignment, Payloads
from actor.holding.recipe import Buffer
from actor.lead import Lead
from actor.logs import log, log_notes
from actor.machine.board import Board
from actor.machine.cgroups import MemoryGauge
from actor.machine.leaving import leave_at_once
from actor.machine.platform import measure_own_memory_mb
from actor.running.context import Run
from actor.running.giving import Give
from actor.running.slot import Slots
from actor.settings import EXIT_SPARE, EXITS_IN_ORDER, Launch
from sdk.reading.wakeup import ShortWait, spin_s
from wire.codec import BUFFER_BYTES_MIN, CARRIERS, check_payloads, decode_broker, encode
from wire.errors import RemoteProtocolError
from wire.labels import Labels
from wire.logs import Seldom
from wire.parts import Failure, Status
from wire.wakeup import Wakeup

# Outcomes wait for one more run of a function that took less than this lately, and so long at most.
BRIEF_S: Final = 0.000_1
GATHER_S: Final = 0.001
# How much of its usual time a function takes over from each run.
RUN_S_SHARE: Final = 0.2
NOBLOCK: Final = 1
POLLIN, POLLOUT = 1, 2
# How often the memory is looked at; the turn of a heartbeat comes about as often.
MEASURE_S: Final = 1.0
# Heartbeats and leases are whole seconds, so nobody sleeps longer than this for nothing.
POLL_MAX_S: Final = 60.0
# A sleep is counted from a moment after the one for which the core was asked: so much later than
# what the core wants next its end may be, and is still meant for that.
SLEEP_SLACK_S: Final = 0.001
# A leader that does not come round within this time never will.
CHANGE_TIMEOUT_S: Final = 5.0


class Loop:
    """Owns the socket, the core and the clock of one actor."""

    def __init__(self, launch: Launch, core: ActorCore, board: Board, wakeup: Wakeup) -> None:
        """Connect; nothing is sent before `run`."""
        self.core, self.launch, self.board = core, launch, board
        self._wakeup = wakeup
        self._is_awake = 0
        self._must_drain = 0
        # (method, arguments) from any thread; the time is appended.
        self._inbox: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self.slots = Slots(self, launch, board)
        self._context = zmq.Context()
        self._reach = connect(self._context, launch.broker, launch.keys)
        self._socket = self._reach.socket
        self._recv = RawSocket.recv.__get__(self._socket)
        self._send_part = RawSocket.send.__get__(self._socket)
        self._watched: list[tuple[Any, int]] = [(self._socket, POLLIN)]
        # ZeroMQ's descriptor tells of a change once, and any call may eat that.
        self._descriptor = int(self._socket.getsockopt(zmq.FD))
        descriptors = select.poll()
        descriptors.register(self._descriptor, select.POLLIN)
        descriptors.register(wakeup.fd, select.POLLIN)
        self._short_wait = ShortWait(descriptors, spin_s())
        # When outcomes that gather are due.
        self._flush_by = 0.0
        # Whether all was said after the last run; whether messages were there before we slept.
        self._is_said, self._is_queued = True, False
        self._memory, self._seldom = MemoryGauge(), Seldom()
        # When it is looked at next.
        self._measure_at = 0.0
        self.lead = Lead(self.slots.pool.lend)
        self.slots.pool.call_off = self.lead.call_off
        # Until when the leader sleeps; 0 while it does not.
        self._sleeps_until = 0.0
        # Whether somebody led for a turn since the leader began a run, and left nothing to be said.
        self._is_settled = False

    def post(self, method: Callable[..., Any], *arguments: object) -> None:
        """Have the leader call *method* with *arguments* and the time; from any thread.

        Where the leader sleeps or runs a task, the caller leads for one turn: what it has to say,
        as that a slot is free, is on its way before anybody else has woken up.
        """
        self._inbox.append((method, arguments))
        self._visit()

    def _visit(self) -> None:
        """Lead for one turn, if nobody is in one; have it heard what comes back for that."""
        lead = self.lead
        if not lead.lock.acquire(blocking=False):
            self._wake()
        else:
            try:
                _ = self.turn(can_receive=False, may_run_here=False)
                self._is_settled = True
                # What the leader looks at: a message whose sign was eaten here, an earlier time.
                if self._sleeps_until and (
                    zmq_poll(self._watched, 0)
                    or self._inbox
                    or self._may_be_over
                    or self.core.deadline() < self._sleeps_until - SLEEP_SLACK_S
                ):
                    self._wake()
            except BaseException:  # noqa: BLE001 - our bug, and not for the task that called.
                traceback.print_exc()
                os._exit(1)
            lead.lock.release()
        if lead.free_since:
            lead.call()

    def post_quietly(self, method: Callable[..., Any], *arguments: object) -> None:
        """Have the leader call *method* in its next turn, without waking anybody for it.

        From a run in the leader's own thread that is about to return to it, and for what is not
        looked at before the next heartbeat.
        """
        self._inbox.append((method, arguments))

    def ask_to_drain(self) -> None:
        """Begin to drain; from a signal handler.

        Only once: what ends a whole group of processes sends a signal of its own beside the host's.
        """
        self._must_drain = 1
        self._is_awake = 1
        self._wakeup.set()

    def change_labels(self, labels: Labels, deleted: Sequence[str]) -> None:
        """Offer *labels* and take *deleted* ones back, from any thread; return when it is so.

        From then on nothing starts that they do not satisfy, and the broker is on its way to know.
        """
        # A lock, which costs a tenth of an event, and mostly nobody has to wait for.
        is_due = threading.Lock()
        is_due.acquire()

        def change(now: float) -> None:
            self.core.change_labels(labels, now, deleted=deleted)
            is_due.release()

        self.post(change)
        # An actor that ends has no leader any more, and nothing starts there.
        is_due.acquire(timeout=CHANGE_TIMEOUT_S)

    def pause(self, *, paused: bool) -> None:
        """Have the core take no new work, or some again; from any thread."""
        self.post(partial(self.core.pause, paused=paused))

    def finish(  # noqa: PLR0917 - on the path of each task.
        self,
        assignment: Assignment,
        status: Status,
        body: Buffer,
        frames: Payloads,
        run_s: float,
        checkpoint: Buffer | None,
        now: float,
    ) -> None:
        """Take the outcome of a run from its thread, with what a named actor says of its state."""
        self.slots.ended(assignment)
        self.board.finish(assignment.token)
        recipe = assignment.recipe
        usual_s = recipe.run_s
        recipe.run_s = run_s if usual_s == inf else usual_s + (run_s - usual_s) * RUN_S_SHARE
        self.core.finished(assignment.token, status, body, frames, run_s, now, checkpoint)

    def not_entered(self, assignment: Assignment, failure: Failure, now: float) -> None:
        """Take back a run from its thread whose environment could not be entered."""
        self.slots.ended(assignment)
        # What it left of memory is looked at once this is said.
        self._measure_at = 0.0
        self.core.not_entered(assignment.token, failure, now)

    def give_back(self, assignment: Assignment, give: Give) -> None:
        """Take the slot of a run back, from its thread, which starts one for the next meanwhile."""
        self.post(self.release, assignment, give)
        self.lead.have_guard(self._guard)

    def release(self, one: Assignment, give: Give, now: float) -> None:
        """Take the slot of a run back, for good where it says for how long it had it."""
        typed, keeps, give.is_known = give.typed, give.keeps_limits, True
        if self.core.release(one.token, typed, now, keeps=keeps) and typed is None:
            self.board.release(one.token)
            if give.held_s is not None:
                self.core.prefetch.given_back(give.held_s)

    def begin(self) -> None:
        """Have a thread lead. Raises RuntimeError where the system gives none."""
        self.lead.begin_apart(self._guard)

    def run(self) -> int:
        """Wait in the main thread until the actor has left; return the exit status."""
        return self.lead.wait_for_end()

    # --- who leads

    def _lead(self) -> int | None:
        """Lead until the actor has left, or another thread has taken the lead: None."""
        core, inbox = self.core, self._inbox
        # The former leader may have left something to be said.
        is_due, is_left = inbox or not self._is_settled, False
        wait_s = 0.0 if is_due else min(core.deadline() - time.monotonic(), POLL_MAX_S)
        while True:
            # What a run has left is sent before anybody looks at the socket again.
            run = self.turn(can_receive=not is_left and self._wait(wait_s))
            if self._may_be_over and self._is_over():
                return self._end()
            was_left, is_left, self._is_said = is_left, False, True
            while run is not None:
                self._is_settled = False
                is_full = core.mailbox.is_full
                number = self.lead.leave()
                if not is_full:
                    self.lead.call()
                self.slots.run_here(run)
                if not self.lead.come_back(number):
                    # Another leads on, and what the run handed back is said by whoever is free.
                    self._visit()
                    return None
                # But not twice in a row, or a stream of short runs would never hear anything.
                run, is_left = self._follow(), not was_left and not self._is_said
            is_due = is_left or inbox or not self._is_said
            wait_s = 0.0 if is_due else min(core.deadline() - time.monotonic(), POLL_MAX_S)

    @property
    def _may_be_over(self) -> bool:
        """Tell whether it is worth to ask if the actor has left."""
        core = self.core
        return bool(core.is_draining or core.exit_reason or core.session.error is not None)

    def _is_over(self) -> bool:
        """Tell whether the process is to end, of which its host may know better."""
        core = self.core
        if core.exit_reason and fencing.vouched(core, self.board.vouched_at):
            return False
        if core.fence.is_new:
            self._tell_host()
        return bool(core.is_drained or core.failure or core.exit_reason)

    def _wait(self, wait_s: float) -> bool:
        """Sleep until something is there or the time is over; tell if the socket may be read."""
        if found := zmq_poll(self._watched, 0):
            self._is_queued = True
            if found[0][1] & POLLOUT:
                self._watched[0] = (self._socket, POLLIN)
                self.core.session.connected(time.monotonic())
            return True
        self._is_queued = False
        if wait_s <= 0.0:
            return False
        lock, descriptor, can_receive = self.lead.lock, self._descriptor, False
        self._sleeps_until = time.monotonic() + wait_s
        # Others may lead for a turn; a guard takes the lead only from one that runs a task.
        lock.release()
        for which, _ in self._short_wait.wait(wait_s):
            can_receive |= which == descriptor
            # A turn may have let the flag fall before who raised it got to the descriptor.
            self._is_awake |= which != descriptor
        lock.acquire()
        self._sleeps_until = 0.0
        return can_receive

    def _follow(self) -> Run | None:
        """Take the outcome of a run, and begin the next one or say what there is to say.

        Only where that is all there is to do; else `_is_said` tells that a turn is needed. Between
        runs that take less than a turn does, it waits until outcomes are due: after a while, or
        when there are half as many as may wait here, so that the broker sends more of them while
        the other half runs.
        """
        now = time.monotonic()
        core, inbox = self.core, self._inbox
        self._is_said = False
        if self._is_awake or len(inbox) != 1:
            return None
        method, arguments = inbox.popleft()
        method(*arguments, now)
        if core.mailbox.waiting:
            if now < self._flush_by:
                if 2 * len(core.outcomes.fresh) > core.prefetch.ahead:
                    self._say(now)
                assignment = start_next(core, BRIEF_S)
                return self.slots.prepare(assignment) if assignment is not None else None
        elif not (core.is_stale or core.is_draining or inbox):
            self._say(now)
            self._is_said = not core.has_orders
        return None

    def _guard(self) -> None:
        """Lead whenever a guard has to, until all is over or a run needs the thread."""
        self.lead.join()
        while self.lead.stand_by() is None:
            status = self._lead()
            if status is None:
                self.slots.pool.spare(self.lead.lock)
            elif status not in EXITS_IN_ORDER:
                leave_at_once(status)  # Who knows when the main thread gets the interpreter.
            else:
                self.lead.end(status)  # Nothing runs, so the end is the main thread's own.

    def _wake(self) -> None:
        if not self._is_awake:
            self._is_awake = 1
            self._wakeup.set()

    # --- a turn

    def turn(self, *, can_receive: bool, may_run_here: bool = True) -> Run | None:
        """Take what is there, start what can start, say it; return the run left for this thread."""
        core = self.core
        now = time.monotonic()
        core.tick(now)
        if now >= self._measure_at:
            self._measure(now)
        if can_receive:
            self._receive(now)
        if self._is_awake:
            # In this order: what comes after the flag has fallen wakes again, the rest is seen.
            self._wakeup.clear()
            self._is_awake = 0
        if self._must_drain and not core.is_draining:
            # A host that drains starts nobody; whoever else ends a process has no say in that.
            core.is_retiring = True
            core.drain(now, self.launch.drain_timeout_s)
        inbox = self._inbox
        while inbox:
            method, arguments = inbox.popleft()
            method(*arguments, now)
        starts = core.take_starts()
        here = self._start(starts, now, may_run_here=may_run_here) if starts else None
        if core.has_orders:
            for order in core.take_stops():
                self.slots.stop(order)
            for answer in core.take_answers():
                self.slots.answer(answer)
            if core.fence.is_new:
                self._tell_host()
            for told in core.occupying.take_answers():
                self.slots.occupied(told)
            for end, reason in core.awaiting.take_refused():
                end(reason)
            if core.entering.evictions:
                self.slots.environments.leave(core.entering.take_evictions())
        if here is not None:
            recipe = here.assignment.recipe
            if core.is_silent:
                if recipe.takes_one_slot and not here.assignment.loads:
                    # Nothing gathers yet: the first outcome is this run's.
                    self._flush_by = now + GATHER_S
                    return here
            elif now < self._flush_by and recipe.run_s < BRIEF_S:
                return here
        self._say(now)
        return here

    def _say(self, now: float) -> None:
        """Send what is to be said, and tell the board and the log."""
        core = self.core
        self._flush_by = now + GATHER_S
        outgoing = core.flush(now)
        if outgoing:
            self._send(outgoing)
        for token in core.take_settled():
            self.board.settle(token)
        notes = core.take_notes()
        if notes:
            log_notes(self._seldom.pick(notes), actor=self.launch.core.name)

    def _measure(self, now: float) -> None:
        """Look for the broker; tell the core of memory and what takes long, the host what waits."""
        core, self._measure_at = self.core, now + MEASURE_S
        self._reach.look(now, is_open=core.session.is_open)
        reserve = self.slots.environments.reserve
        reserve.take()
        if reserve.is_lost or (reserve.is_missing and not core.mailbox.holders):
            entering.retire(core, "memory was out, and what took it does not give it back")
        self.slots.look()
        self.board.keep(len(core.outcomes.kept))
        memory = self._memory.read() if self.launch.core.memory_high is not None else None
        if memory is not None:
            core.press(memory.used_share, memory.of, now)
        if entering.is_weighed(core):
            entering.weigh(core, measure_own_memory_mb())

    def _start(self, starts: list[Assignment], now: float, *, may_run_here: bool) -> Run | None:
        """Start what the core says, the last in this thread if somebody stands by to lead on."""
        here = None
        if self.core.fence.is_new:
            self._tell_host()
        if may_run_here:
            if self.lead.guards:
                here = starts.pop()
            elif not self.lead.joining:
                # These before the guard for the next time: all others run tasks that last.
                while starts:
                    self.slots.start(starts.pop(0))
                self.lead.add_guard(self._guard)
        for assignment in starts:
            self.slots.start(assignment)
        run = self.slots.prepare(here) if here is not None else None
        if self.slots.batching.fresh:
            self.slots.batching.start(now)
        return run

    def _receive(self, now: float) -> None:
        recv, core = self._recv, self.core
        while True:
            try:
                control = recv(NOBLOCK)
            except zmq.Again:
                return
            payloads: Sequence[Buffer] = ()
            try:
                frame = decode_broker(control)
                for command in frame.commands:
                    if type(command) in CARRIERS and command.frames:
                        payloads = self._receive_payloads()
                        check_payloads(frame, payloads)
                        break
            except RemoteProtocolError as error:
                _ = self._receive_payloads()
                core.bad(error, now)
                continue
            core.receive(frame, payloads, now)
            if core.fence.is_new:
                self._tell_host()
            # What comes while we sleep comes alone, and to look for more costs as much as it.
            if not self._is_queued:
                return

    def _tell_host(self) -> None:
        """Let the host see until when strict limits may be held here; before any of it begins."""
        fence = self.core.fence
        fence.is_new = False
        self.board.renew(fence.renewed_at, is_held=fence.is_held)

    def _receive_payloads(self) -> list[Buffer]:
        """Receive the frames that are left of a message."""
        payloads: list[Buffer] = []
        while self._socket.getsockopt(zmq.RCVMORE):
            part = self._recv(NOBLOCK, False)
            # Copied where that is cheaper; an array may lie in what is larger, to be written to.
            payloads.append(part.bytes if len(part) < BUFFER_BYTES_MIN else part.buffer)
        return payloads

    def _send(self, outgoing: list[Outgoing]) -> None:
        for frame, payloads in outgoing:
            try:
                if payloads:
                    self._socket.send_multipart([encode(frame), *payloads], NOBLOCK, copy=False)
                else:
                    self._send_part(encode(frame), NOBLOCK)
            except zmq.Again:
                self.core.broken(time.monotonic())
                self._watched[0] = (self._socket, POLLIN | POLLOUT)
                return

    def _end(self) -> int:
        """Let the environments leave, and tell the host whether this end was ordered."""
        core = self.core
        if core.exit_reason:
            self.board.force(core.stopping.unwanted)
            log.warning("ended_by_force", actor=self.launch.core.name, reason=core.exit_reason)
        else:
            self.slots.close()
        if core.failure is not None:
            log.error("refused", actor=self.launch.core.name, reason=core.failure.message)
        status = exit_status(core)
        if core.is_draining and not core.is_retiring and status != EXIT_SPARE:
            self.board.leave()
        self._reach.close(LINGER_MS)
        self._context.term()
        return status
