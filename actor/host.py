"""The host: starts actor processes, notices their ends, and speaks for them to the broker.

It never runs code of a user, so nothing of theirs can hold it up. Processes are spawned and never
forked from the interpreter, and end with the host: by a signal of the system, and by the end of a
pipe where there is none.
"""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from math import inf
from typing import Any, Final

import structlog
import zmq

from actor.board import RECORDS, Board, Stage
from actor.connection import connect
from actor.platform import make_waker, read_processes
from actor.settings import SLOT, HostSettings, Launch, Settings
from actor.supervision import HostCore, Ward
from actor.surroundings import for_actor
from wire.codec import decode_broker, encode
from wire.errors import RemoteProtocolError
from wire.payload import PYTHON
from wire.release import release

POLL_MAX_S: Final = 60.0
# How long the user is left to wonder before the host says that nobody answers.
SILENCE_S: Final = 3.0
EXIT_REFUSED: Final = 3
# After this share of what a start may take the process says where it is, before it is ended.
TELL_SHARE: Final = 0.8
# The first SIGTERM or SIGINT lets the actors finish, this one does not.
END_AT_ONCE: Final = 2

log = structlog.get_logger("host")


class ActorProcess:
    """One actor process with all that leads to it."""

    def __init__(self, settings: HostSettings, ward: Ward, host: int, incarnation: int) -> None:
        """Start it. Raises OSError when the system does not let us."""
        self.ward = ward
        self.incarnation = incarnation
        self.board, self._region = Board.create(records=records_for(settings))
        reading, self._lifeline = os.pipe()
        try:
            self.process = subprocess.Popen(
                child_command(settings, reading, self._region),
                stdin=subprocess.DEVNULL,
                pass_fds=(reading, self._region),
                env=os.environ
                | {k: for_actor(v, ward.index) for k, v in settings.variables.items()},
                # Ctrl-C in the terminal reaches the host alone, which lets its actors finish.
                start_new_session=True,
            )
        except OSError:
            self._close()
            raise
        finally:
            os.close(reading)
        launch = launch_of(settings, ward, host, incarnation)
        with contextlib.suppress(BrokenPipeError):
            os.write(self._lifeline, encode(launch).hex().encode() + b"\n")

    def send(self, number: signal.Signals) -> None:
        """Signal the process; one that has ended is not signaled, whoever has its id now."""
        self.process.send_signal(number)

    def close(self) -> None:
        """Give everything back once the process has ended."""
        self._close()

    def _close(self) -> None:
        self.board.close()
        os.close(self._region)
        os.close(self._lifeline)


class Host:
    """Owns the socket, the processes and the clock of a host."""

    def __init__(self, settings: HostSettings) -> None:
        """Connect; nothing is started before `run`."""
        self.settings = settings
        self.core = HostCore(
            settings,
            incarnation=secrets.randbits(63),
            pid=os.getpid(),
            now=time.monotonic(),
        )
        self._processes: dict[Ward, ActorProcess] = {}
        self._waker = make_waker()
        self._orders = 0
        self._context = zmq.Context()
        self._socket = connect(self._context, settings.broker)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._waker.fd, zmq.POLLIN)
        self._silent_at = time.monotonic() + SILENCE_S
        self._said_silent = False

    def run(self) -> int:
        """Work until every actor has left; return the exit status."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ordered)
        signal.signal(signal.SIGCHLD, lambda *_: self._waker.wake())
        core = self.core
        try:
            while self._orders < END_AT_ONCE:
                self._turn()
                # Looked at before it sleeps: nobody will wake a host that has left.
                if core.is_over:
                    break
                wait_s = min(core.deadline(), self._warn_at()) - time.monotonic()
                self._poller.poll(int(max(0.0, min(wait_s, POLL_MAX_S)) * 1000) + 1)
                self._waker.clear()
        finally:
            self._end_all()
        if core.failure is not None:
            print_line(f"the broker at {self.settings.broker} refuses: {core.failure.message}")
            return EXIT_REFUSED
        return 0

    def _turn(self) -> None:
        core = self.core
        now = time.monotonic()
        for ward, process in self._processes.items():
            ward.renewed_at = process.board.vouch(core.renewed_at)
            if ward.start_by < inf:
                ward.stage = process.board.stage.name.lower()
                if process.board.stage is Stage.UP:
                    ward.start_by = inf
        core.tick(now)
        if self._orders and not core.is_draining:
            core.drain(now, self.settings.drain_timeout_s)
        self._receive(now)
        self._reap(now)
        for ward in core.take_spawns():
            self._spawn(ward, now)
        for ward in core.take_drains():
            self._processes[ward].send(signal.SIGTERM)
        for ward in core.take_kills():
            self._processes[ward].send(signal.SIGKILL)
        if core.wants_readings:
            self._observe()
        self._send(now)
        self._warn(now)
        for event, fields in core.take_notes():
            log.info(event, host=self.settings.name, **fields)

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
            self.core.receive(frame, now)

    def _send(self, now: float) -> None:
        for frame in self.core.flush(now):
            try:
                self._socket.send(encode(frame), zmq.NOBLOCK)
            except zmq.Again:
                self.core.broken(now)
                return

    def _spawn(self, ward: Ward, now: float) -> None:
        incarnation = secrets.randbits(63)
        try:
            process = ActorProcess(self.settings, ward, self.core.incarnation, incarnation)
        except OSError as error:
            self.core.failed(ward, str(error), now)
            return
        self._processes[ward] = process
        self.core.spawned(ward, incarnation=incarnation, pid=process.process.pid, now=now)

    def _reap(self, now: float) -> None:
        """Take the ends of processes; a board is read after the end, so nothing is added to it."""
        for ward, process in list(self._processes.items()):
            status = process.process.poll()
            if status is None:
                continue
            del self._processes[ward]
            self.core.died(
                ward,
                exit_code=status if status >= 0 else None,
                signal=-status if status < 0 else None,
                runs=process.board.read(is_ended=ward.is_ended),
                overflow=process.board.overflow,
                has_left=process.board.has_left,
                now=now,
            )
            process.close()

    def _observe(self) -> None:
        wards = {ward.pid: ward for ward in self.core.running()}
        for pid, reading in read_processes(wards).items():
            self.core.observed(wards[pid], cpu_s=reading.cpu_s, is_stopped=reading.is_stopped)

    def _ordered(self, *_: Any) -> None:
        self._orders += 1
        self._waker.wake()

    def _warn_at(self) -> float:
        return float("inf") if self._said_silent else self._silent_at

    def _warn(self, now: float) -> None:
        """Say once that no broker answers; the host goes on trying."""
        if self.core.session.is_open:
            self._said_silent, self._silent_at = False, now + SILENCE_S
        elif not self._said_silent and now >= self._silent_at:
            self._said_silent = True
            log.warning("broker_unreachable", broker=self.settings.broker, hint="still trying")

    def _end_all(self) -> None:
        """Leave no process behind, whatever ended the loop."""
        for process in self._processes.values():
            process.send(signal.SIGKILL)
        for process in self._processes.values():
            process.process.wait()
        # The broker need not wait for a lease to know what was lost.
        now = time.monotonic()
        self._reap(now)
        self._send(now)
        self._socket.close()
        self._context.term()


def records_for(settings: HostSettings) -> int:
    """Return how many runs of an actor can be unsettled at once."""
    holding = settings.slots + sum(settings.typed.values()) + settings.released_max
    return RECORDS + 2 * holding


def child_command(settings: HostSettings, reading: int, region: int) -> list[str]:
    """Return what starts an actor process."""
    timeout_s = settings.start_timeout_s
    tell_at = 0.0 if timeout_s is None else time.monotonic() + TELL_SHARE * timeout_s
    told = (reading, region, os.getpid(), tell_at)
    return [sys.executable, "-m", "actor.child", *map(str, told)]


def launch_of(settings: HostSettings, ward: Ward, host: int, incarnation: int) -> Launch:
    """Return what the process of *ward* is told."""
    return Launch(
        core=Settings(
            name=ward.name,
            host=host,
            python=PYTHON,
            release=release(),
            labels={
                **settings.labels,
                **settings.labels_of.get(ward.index, {}),
                "name": ward.name,
            },
            slots={SLOT: settings.slots, **settings.typed},
            units=settings.units,
            released_max=settings.released_max,
            prefetch=settings.prefetch,
            environments_max=settings.environments_max,
            environments_memory_mb=settings.environments_memory_mb,
            memory_high=settings.memory_high,
        ),
        broker=settings.broker,
        incarnation=incarnation,
        host_name=settings.name,
        drain_timeout_s=settings.drain_timeout_s,
        log_format=settings.log_format,
        folder=for_actor(settings.folder, ward.index),
        python_path=[for_actor(path, ward.index) for path in settings.python_path],
        environments=settings.environments,
    )


def print_line(text: str) -> None:
    """Say one line on stderr."""
    sys.stderr.write(f"actor: {text}\n")
