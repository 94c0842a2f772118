"""The host: starts actor processes, notices their ends, and speaks for them to the broker.

It never runs code of a user, so nothing of theirs can hold it up. Processes are never forked from
this interpreter, which has threads of ZeroMQ, and end with it: by a signal of the system, and by
the end of a socket where there is none.
"""

import os
import secrets
import signal
import sys
import time
from math import inf
from typing import Any, Final

import structlog
import zmq

from actor.connection import connect
from actor.logs import log_notes
from actor.machine.board import Stage
from actor.machine.cgroups import MemoryKills
from actor.machine.platform import ended_child, read_processes
from actor.processes.forking import ForkServer
from actor.processes.process import ActorProcess, Starter
from actor.settings import HostSettings
from actor.supervision import HostCore, Ward
from wire.codec import decode_broker, encode
from wire.errors import RemoteProtocolError
from wire.logs import Seldom
from wire.reaching import why_not
from wire.stream import Stream
from wire.wakeup import Wakeup

POLL_MAX_S: Final = 60.0
# How long the user is left to wonder before the host says that nobody answers.
SILENCE_S: Final = 3.0
EXIT_REFUSED: Final = 3
EXIT_CUT_SHORT: Final = 4
# The first SIGTERM or SIGINT lets the actors finish, this one does not.
END_AT_ONCE: Final = 2
# One that is sent to the process and to its group, as `timeout` does, arrives twice.
TOGETHER_S: Final = 0.05

log = structlog.get_logger("host")


class Host:
    """Owns the socket, the processes and the clock of a host."""

    def __init__(self, settings: HostSettings, server: ForkServer | None = None) -> None:
        """Connect; no actor is started before `run`. *server* forks them, and ends with it."""
        self.settings = settings
        self.core = HostCore(
            settings,
            incarnation=secrets.randbits(63),
            pid=os.getpid(),
            now=time.monotonic(),
        )
        self._processes: dict[Ward, ActorProcess] = {}
        self._starter = Starter(server)
        self._memory_kills = MemoryKills()
        self._wakeup = Wakeup()
        self._orders = 0
        self._ordered_at = -inf
        # When to say what a drain waits for; inf: not yet, or it was said.
        self._tell_at = inf
        self._context = zmq.Context()
        self._reach = connect(self._context, settings.broker, settings.keys)
        self._socket = self._reach.socket
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._is_broken = False
        self._seldom = Seldom()
        self._poller.register(self._wakeup.fd, zmq.POLLIN)
        self._silent_at = time.monotonic() + SILENCE_S
        self._said_silent = False
        self._obstacle_said = ""

    def run(self) -> int:
        """Work until every actor has left; return the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ordered)
        # As a terminal says that is closed; whoever started us with nohup wants us to outlive it.
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._ordered)
        signal.signal(signal.SIGCHLD, lambda *_: self._wakeup.set())
        core = self.core
        is_at_once = False
        try:
            while self._orders < END_AT_ONCE:
                self._turn()
                # Looked at before it sleeps: nobody will wake a host that has left.
                if core.is_over:
                    break
                wait_s = min(core.deadline(), self._warn_at()) - time.monotonic()
                self._wait(min(wait_s, POLL_MAX_S))
            is_at_once = not core.is_over
        finally:
            self._end_all()
        if core.failure is not None:
            said = f"the broker at {self.settings.broker} refuses: {core.failure.message}"
            if self.settings.log_format == "json":
                log.error("refused", host=self.settings.name, reason=said)
            else:
                print_line(said)
            return EXIT_REFUSED
        return EXIT_CUT_SHORT if is_at_once or core.has_timed_out else 0

    def _wait(self, wait_s: float) -> None:
        """Sleep until something is there, a connection that is missing included."""
        found = dict(self._poller.poll(int(max(0.0, wait_s) * 1000) + 1))
        self._wakeup.clear()
        if self._is_broken and found.get(self._socket, 0) & zmq.POLLOUT:
            self._is_broken = False
            self._poller.register(self._socket, zmq.POLLIN)
            self.core.session.connected(time.monotonic())

    def _turn(self) -> None:
        core = self.core
        now = time.monotonic()
        for ward, process in self._processes.items():
            ward.renewed_at = process.board.vouch(core.vouches(ward))
            if ward.start_by < inf:
                ward.stage = process.board.stage.name.lower()
                if process.board.stage is Stage.UP:
                    ward.start_by = inf
        self._hear(now)
        core.tick(now)
        if self._orders and not core.is_draining:
            core.drain(now, self.settings.drain_timeout_s)
            self._tell_at = now + SILENCE_S
        self._receive(now)
        self._reap(now)
        for ward in core.take_spawns():
            self._spawn(ward, now)
        # What the fork server does not take starts now, and not when something wakes us up.
        self._hear(now)
        for ward in core.take_drains():
            self._processes[ward].send(signal.SIGTERM)
        for ward in core.take_kills():
            self._processes[ward].send(signal.SIGKILL)
            if not ward.pid:
                self._starter.give_up("it did not answer")
        if core.wants_readings:
            self._observe()
        self._send(now)
        self._reach.look(now, is_open=core.session.is_open)
        self._warn(now)
        log_notes(self._seldom.pick(core.take_notes()), host=self.settings.name)

    def _receive(self, now: float) -> None:
        while True:
            try:
                parts = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                frame = decode_broker(parts[0])
            except RemoteProtocolError as error:
                self.core.bad(error, now)
                continue
            # Whoever the broker knows has said its id to us before.
            self._hear(now)
            self.core.receive(frame, now)

    def _send(self, now: float) -> None:
        for frame in self.core.flush(now):
            try:
                self._socket.send(encode(frame), zmq.NOBLOCK)
            except zmq.Again:
                self.core.broken(now)
                self._is_broken = True
                self._poller.register(self._socket, zmq.POLLIN | zmq.POLLOUT)
                return

    def _spawn(self, ward: Ward, now: float) -> None:
        incarnation = secrets.randbits(63)
        try:
            process = ActorProcess(self.settings, ward, self.core.incarnation, incarnation)
        except OSError as error:
            self.core.failed(ward, str(error), now)
            return
        try:
            self._starter.start(process)
        except OSError as error:
            process.close()
            self.core.failed(ward, str(error), now)
            return
        self._processes[ward] = process
        if not process.pid:
            self._poller.register(process.lifeline.fileno(), zmq.POLLIN)
        self.core.spawned(ward, incarnation=incarnation, pid=process.pid, now=now)

    def _hear(self, now: float) -> None:
        """Hear which starts are over; what the fork server has not made starts from nothing."""
        for process in self._starter.take_answered():
            self._poller.unregister(process.lifeline.fileno())
            ward = process.ward
            try:
                if not process.pid:
                    process.spawn()
            except OSError as error:
                del self._processes[ward]
                process.close()
                self.core.failed(ward, str(error), now)
                continue
            self.core.placed(ward, process.pid)

    def _reap(self, now: float) -> None:
        """Take the ends of processes; a board is read after the end, so nothing is added to it."""
        for ward, process in list(self._processes.items()):
            status = process.poll()
            if status is None:
                continue
            del self._processes[ward]
            # What we have killed ourselves was not killed for its memory.
            may_be_starved = status == -signal.SIGKILL and not ward.is_ended
            self.core.died(
                ward,
                exit_code=status if status >= 0 else None,
                signal=-status if status < 0 else None,
                runs=process.board.read(is_ended=ward.is_ended),
                overflow=process.board.overflow,
                is_starved=may_be_starved and self._memory_kills.take(),
                has_left=process.board.has_left,
                now=now,
            )
            process.close()
        self._starter.look()
        if self._starter.may_adopt:
            self._reap_orphans(now)

    def _reap_orphans(self, now: float) -> None:
        """Reap what became ours when its own parent ended, as what a killed actor had started."""
        while pid := ended_child():
            self._hear(now)
            if pid == self._starter.pid or pid in (p.pid for p in self._processes.values()):
                # One that has ended just now, perhaps before we knew it.
                self._wakeup.set()
                return
            os.waitpid(pid, 0)

    def _observe(self) -> None:
        self._memory_kills.look()
        wards = {ward.pid: ward for ward in self.core.running()}
        server = self._starter.awaited
        for pid, reading in read_processes([*wards, *server]).items():
            if pid in wards:
                self.core.observed(wards[pid], cpu_s=reading.cpu_s, is_stopped=reading.is_stopped)
            elif reading.is_stopped:
                # Nobody would hear why no actor starts.
                self._starter.give_up("it was stopped")

    def _ordered(self, *_: Any) -> None:
        now = time.monotonic()
        if now >= self._ordered_at + TOGETHER_S:
            self._orders += 1
            self._ordered_at = now
        self._wakeup.set()

    def _warn_at(self) -> float:
        silent_at = inf if self._said_silent else self._silent_at
        return min(self._tell_at, silent_at, self._reach.deadline())

    def _warn(self, now: float) -> None:
        """Say once that no broker answers, and the host goes on trying; and why it has not left."""
        if now >= self._tell_at:
            self._tell_at = inf
            boards = [process.board for process in self._processes.values()]
            runs = [board.read() for board in boards]
            # The broker may have some whose clients it waits for, as the actors do.
            kept = (
                max(board.kept, len(one.finished)) for board, one in zip(boards, runs, strict=True)
            )
            log.warning(
                "drain_waits",
                host=self.settings.name,
                running=sum(len(one.started) + len(one.entering) for one in runs),
                outcomes_untold=sum(kept),
                broker="there" if self.core.session.is_open else "away",
                hint="another SIGTERM or Ctrl-C ends these now",
            )
        if self.core.session.is_open:
            self._said_silent, self._silent_at = False, now + SILENCE_S
            self._obstacle_said = ""
            return
        obstacle = self._reach.obstacle
        is_new = not self._said_silent or obstacle not in ("", self._obstacle_said)
        if is_new and now >= self._silent_at:
            self._said_silent, self._obstacle_said = True, obstacle
            broker = self.settings.broker
            hint = obstacle or why_not(broker) or "still trying"
            log.warning("broker_unreachable", broker=broker, hint=hint)

    def _end_all(self) -> None:
        """Leave no process behind, whatever ended the loop."""
        for process in self._processes.values():
            process.send(signal.SIGKILL)
        self._starter.end()
        for process in self._processes.values():
            process.wait()
        # The broker need not wait for a lease to know what was lost.
        now = time.monotonic()
        self._reap(now)
        self._send(now)
        self._reach.close()
        self._context.term()


def print_line(text: str) -> None:
    """Say one line on stderr."""
    Stream(sys.stderr).write(f"actor: {text}\n")
