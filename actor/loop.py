"""The I/O thread of an actor process: the one place with its socket and its clock.

It receives until the socket is dry, takes what the slots handed back, starts what the core says,
and sends. It decides nothing. One thread owns it at a time, today always the main one; `turn` keeps
no state of a thread, so that the thread that received a task may run it later and a standby thread
take over.
"""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import structlog
import zmq

from actor.board import Board
from actor.connection import LINGER_MS, connect
from actor.core import ActorCore, Note, Outgoing
from actor.mailbox import Assignment, Buffer, Payloads
from actor.platform import Waker
from actor.settings import Launch
from actor.slot import Slots
from wire.codec import check_payloads, decode_broker, encode
from wire.errors import RemoteProtocolError
from wire.labels import Labels
from wire.messages import Status

# A payload frame below this is received by copying it, which is cheaper.
COPY_BYTES_MAX: Final = 65_536
EXIT_REFUSED: Final = 3
EXIT_FORCED: Final = 4
# Heartbeats and leases are whole seconds, so nobody sleeps longer than this for nothing.
POLL_MAX_S: Final = 60.0
QUIET: Final = frozenset({"welcome", "rejected"})

log = structlog.get_logger("actor")


class Loop:
    """Owns the socket, the core and the clock of one actor."""

    def __init__(self, launch: Launch, core: ActorCore, board: Board, waker: Waker) -> None:
        """Connect; nothing is sent before `run`."""
        self.core = core
        self.launch = launch
        self.board = board
        self._waker = waker
        self._is_awake = 0
        self._must_drain = 0
        # (method, arguments) from any thread; the time is appended.
        self._inbox: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self.slots = Slots(self, launch, board)
        self._context = zmq.Context()
        self._socket = connect(self._context, launch.broker)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(waker.fd, zmq.POLLIN)

    def post(self, method: Callable[..., Any], *arguments: object) -> None:
        """Have the I/O thread call *method* with *arguments* and the time; from any thread."""
        self._inbox.append((method, arguments))
        if not self._is_awake:
            self._is_awake = 1
            self._waker.wake()

    def ask_to_drain(self) -> None:
        """Begin to drain, or end at once when asked again; from a signal handler."""
        if self._must_drain:
            os._exit(EXIT_FORCED)
        self._must_drain = 1
        self._is_awake = 1
        self._waker.wake()

    def change_labels(self, labels: Labels, deleted: Sequence[str]) -> None:
        """Have the core offer *labels* and take *deleted* ones back; from any thread."""
        self.post(partial(self.core.change_labels, deleted=deleted), labels)

    def finish(  # noqa: PLR0917 - on the path of each task.
        self,
        assignment: Assignment,
        status: Status,
        body: Buffer,
        frames: Payloads,
        run_s: float,
        now: float,
    ) -> None:
        """Take the outcome of a run from its thread."""
        self.slots.ended(assignment)
        self.board.finish(assignment.token)
        self.core.finished(assignment.token, status, body, frames, run_s, now)

    def release(self, assignment: Assignment, typed: dict[str, int] | None, now: float) -> None:
        """Take the slot of a run back."""
        if self.core.release(assignment.token, typed, now) and typed is None:
            self.board.release(assignment.token)

    def run(self) -> int:
        """Work until the actor has left; return the exit status."""
        core = self.core
        clock = time.monotonic
        while True:
            wait_s = min(core.deadline() - clock(), POLL_MAX_S)
            ready = dict(self._poller.poll(max(0, int(wait_s * 1000) + 1)))
            self.turn(can_receive=self._socket in ready)
            if core.is_drained or core.failure or core.exit_reason:
                return self._end()

    def turn(self, *, can_receive: bool) -> None:
        """Take all that is there, start all that can start, send all that is to be said."""
        core = self.core
        now = time.monotonic()
        core.tick(now)
        if self._must_drain and not core.is_draining:
            core.drain(now, self.launch.drain_timeout_s)
        if can_receive:
            self._receive(now)
        if self._is_awake or self._inbox:
            # In this order: what is posted after the flag has fallen wakes again, the rest is seen.
            self._waker.clear()
            self._is_awake = 0
            inbox = self._inbox
            while inbox:
                method, arguments = inbox.popleft()
                method(*arguments, now)
        for assignment in core.take_starts():
            self.slots.start(assignment)
        for order in core.take_stops():
            self.slots.stop(order)
        outgoing = core.flush(now)
        if outgoing:
            self._send(outgoing)
        for token in core.take_settled():
            self.board.settle(token)
        notes = core.take_notes()
        if notes:
            self._log(notes)

    def _receive(self, now: float) -> None:
        socket, core = self._socket, self.core
        receive, option, more = socket.recv, socket.getsockopt, zmq.RCVMORE
        while True:
            try:
                control = receive(zmq.NOBLOCK)
            except zmq.Again:
                return
            payloads: list[Buffer] = []
            while option(more):
                part = receive(zmq.NOBLOCK, copy=False)
                payloads.append(part.bytes if len(part) <= COPY_BYTES_MAX else part.buffer)
            try:
                frame = decode_broker(control)
                check_payloads(frame, payloads)
            except RemoteProtocolError as error:
                core.bad(error, now)
                continue
            core.receive(frame, payloads, now)

    def _send(self, outgoing: list[Outgoing]) -> None:
        socket = self._socket
        for frame, payloads in outgoing:
            try:
                if payloads:
                    socket.send_multipart([encode(frame), *payloads], zmq.NOBLOCK, copy=False)
                else:
                    socket.send(encode(frame), zmq.NOBLOCK)
            except zmq.Again:
                self.core.broken(time.monotonic())
                return

    def _log(self, notes: list[Note]) -> None:
        for event, fields in notes:
            if event in QUIET:
                log.debug(event, actor=self.launch.core.name, **fields)
            else:
                log.info(event, actor=self.launch.core.name, **fields)

    def _end(self) -> int:
        """Let the environments leave, and tell the host whether this end was ordered."""
        core = self.core
        if core.exit_reason:
            log.warning("ended_by_force", actor=self.launch.core.name, reason=core.exit_reason)
        else:
            self.slots.close()
        if core.failure is not None:
            log.error("refused", actor=self.launch.core.name, reason=core.failure.message)
            status = EXIT_REFUSED
        elif core.exit_reason or core.mailbox.held:
            # What still runs is reported by the host as lost.
            status = EXIT_FORCED
        else:
            status = 0
        if core.is_draining:
            self.board.leave()
        self._socket.close(LINGER_MS)
        self._context.term()
        sys.stdout.flush()
        sys.stderr.flush()
        return status
