"""How a host starts a process: from nothing, or by word to its fork server (`forkserver.py`).

An actor's process has one end of a socket, the host the other. What is asked of the fork server
ends with the process's id on that socket, or with the socket's end: then nobody has it, and the
host starts the process itself. The rule that must not be broken: a process is a child of the host
before it does anything, so the system tells of its end as it was, whatever becomes of the server.
"""

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from collections import deque
from typing import Final, Protocol

import structlog

from actor.forkserver import ANSWER, EXIT_UNFIT
from actor.machine.board import RECORDS, Board
from actor.processes.forking import ForkServer, tell_at
from actor.processes.surroundings import for_actor
from actor.settings import EXITS_IN_ORDER, SLOT, HostSettings, Launch, Settings
from actor.supervision import Ward
from wire.codec import encode
from wire.ours import module_command
from wire.release import PYTHON, release

# So many starts are asked for at once: the system bounds how many descriptors are under way.
ASKED_MAX: Final = 64
# What fits into a socket that nobody reads yet.
TOLD_BYTES_MAX: Final = 65_536
# How long the last starts may take to be answered once the fork server has ended.
ANSWER_TIMEOUT_S: Final = 2.0
UNFIT: Final = "what loads with Python by itself has started a thread, which no fork would have"

log = structlog.get_logger("host")


class Child(Protocol):
    """A process that is our child."""

    pid: int

    def poll(self) -> int | None:
        """Return its exit code, or minus the signal; None while it runs."""

    def send_signal(self, sig: int) -> None:
        """Signal it unless it has ended."""

    def wait(self) -> int:
        """Wait for its end."""


class ForkedChild:
    """A child that somebody else has forked for us."""

    def __init__(self, pid: int) -> None:
        """Take it over; its id stays its own until it is reaped here."""
        self.pid = pid
        self._status: int | None = None

    def poll(self) -> int | None:
        """Return its exit code, or minus the signal; None while it runs."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def send_signal(self, sig: int) -> None:
        """Signal it unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, sig)

    def wait(self) -> int:
        """Wait for its end."""
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._status


def end_group(pid: int, options: int = 0) -> None:
    """End what the tasks of an actor have started, where that has ended in no good order.

    It is looked at before the process is reaped: until then nobody else can have its id. What has a
    session of its own stays, and all where the system does not let us look.
    """
    if not hasattr(os, "waitid"):
        return
    with contextlib.suppress(ChildProcessError, ProcessLookupError, PermissionError):
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | options)
        if ended is None:
            return
        if ended.si_code != os.CLD_EXITED or ended.si_status not in EXITS_IN_ORDER:
            os.killpg(pid, signal.SIGKILL)


class ActorProcess:
    """One actor process with all that leads to it; its id is 0 until it is known."""

    def __init__(self, settings: HostSettings, ward: Ward, host: int, incarnation: int) -> None:
        """Make what is its own, and start nothing. Raises OSError without room for that."""
        self.ward = ward
        self._settings = settings
        self._told = encode(launch_of(settings, ward, host, incarnation)).hex().encode() + b"\n"
        self._child: Child | None = None
        self._order = 0
        self.board, self._region = Board.create(records=records_for(settings))
        try:
            self.lifeline, self._theirs = socket.socketpair()
        except OSError:
            # It is tried again and again, and what is left of each would stay.
            self.board.close()
            os.close(self._region)
            raise

    @property
    def pid(self) -> int:
        """Return the id of the process, 0 while nobody knows it."""
        return 0 if self._child is None else self._child.pid

    def spawn(self) -> None:
        """Start it from nothing. Raises OSError when the system does not let us.

        So it does when it is to end: it was signaled before it was there.
        """
        if self._order:
            raise OSError("the fork server did not answer")
        if self._theirs.fileno() < 0:
            # The fork server was given that end.
            self.lifeline.close()
            self.lifeline, self._theirs = socket.socketpair()
        with self._theirs:
            reading = self._theirs.fileno()
            told = (reading, self._region, os.getpid(), tell_at(self._settings.start_timeout_s))
            variables = self._settings.variables.items()
            self._child = subprocess.Popen(
                [*module_command("actor.child"), *map(str, told)],
                stdin=subprocess.DEVNULL,
                pass_fds=(reading, self._region),
                env=os.environ | {k: for_actor(v, self.ward.index) for k, v in variables},
                # Ctrl-C in the terminal reaches the host alone, which lets its actors finish.
                start_new_session=True,
            )
        self._tell()

    def ask(self, server: ForkServer) -> bool:
        """Ask *server* for it, which answers later; False: it cannot be asked."""
        if len(self._told) > TOLD_BYTES_MAX:
            return False
        with self._theirs:
            descriptors = (self._theirs.fileno(), self._region)
            if not server.ask(self.ward.name, tell_at(self._settings.start_timeout_s), descriptors):
                return False
        self._tell()
        return True

    def is_answered(self) -> bool:
        """Tell whether the fork server has answered; without an id then, nobody has the process."""
        try:
            answer = self.lifeline.recv(ANSWER.size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True
        if answer:
            self._child = ForkedChild(*ANSWER.unpack(answer))
            if self._order:
                self._child.send_signal(self._order)
        return True

    def send(self, number: signal.Signals) -> None:
        """Signal the process, as soon as it is there; never who has the id of one that ended."""
        if self._child is not None:
            self._child.send_signal(number)
        elif self._order != signal.SIGKILL:
            self._order = number

    def poll(self) -> int | None:
        """Return its exit code, or minus the signal; None while it runs or is not there."""
        if self._child is None:
            return None
        end_group(self._child.pid, os.WNOHANG)
        return self._child.poll()

    def wait(self) -> None:
        """Wait for its end; one that was never made has none."""
        if self._child is not None:
            end_group(self._child.pid)
            self._child.wait()

    def close(self) -> None:
        """Give everything back once the process has ended."""
        self.board.close()
        os.close(self._region)
        self.lifeline.close()
        self._theirs.close()

    def _tell(self) -> None:
        with contextlib.suppress(OSError):
            self.lifeline.sendall(self._told)


class Starter:
    """Starts the processes of a host, and keeps a fork server as long as one works."""

    def __init__(self, server: ForkServer | None) -> None:
        """Take over *server*, which need not be ready; None: each process starts from nothing."""
        self._server = server
        self.may_adopt = server is not None
        self._asked: list[ActorProcess] = []
        # Beyond what may be asked at once; and what is to be started from nothing after all.
        self._waiting: deque[ActorProcess] = deque()
        self._refused: list[ActorProcess] = []
        # Why it was ended here.
        self._reason = ""

    @property
    def pid(self) -> int:
        """Return the id of the fork server, 0 without one."""
        return 0 if self._server is None else self._server.process.pid

    def start(self, process: ActorProcess) -> None:
        """Start *process*, or have it started. Raises OSError when the system does not let us."""
        if self._server is None:
            process.spawn()
        else:
            self._waiting.append(process)
            self._ask()

    def take_answered(self) -> list[ActorProcess]:
        """Return whose starts the fork server has answered; those without an id it has not made."""
        if not (self._asked or self._refused):
            return []
        answered = [process for process in self._asked if process.is_answered()]
        self._asked = [process for process in self._asked if process not in answered]
        answered += self._refused
        self._refused = []
        self._ask()
        return answered

    @property
    def awaited(self) -> list[int]:
        """Return the id of the fork server where it owes an answer."""
        return [self.pid] if self._asked and self._server is not None else []

    def give_up(self, reason: str) -> None:
        """End a fork server that does not answer."""
        if self._server is not None:
            self._server.process.kill()
            self._reason = reason

    def look(self) -> None:
        """Note the end of the fork server; one that had worked is followed by another."""
        if self._server is None or self._server.process.poll() is None:
            return
        had_worked = self._server.was_ready()
        status = self._server.process.returncode
        timeout_s = self._server.start_timeout_s
        self._server.end()
        self._server = None
        if had_worked:
            with contextlib.suppress(OSError):
                self._server = ForkServer(timeout_s)
        reason, self._reason = UNFIT if status == EXIT_UNFIT else self._reason, ""
        log.warning(
            "forkserver_ended",
            status=status,
            hint="started again" if self._server else "each actor starts from nothing now",
            **({"reason": reason} if reason else {}),
        )
        if self._server is None:
            self._refused += self._waiting
            self._waiting.clear()

    def end(self) -> None:
        """End the fork server, so that each start is answered, and wait for that."""
        if self._server is None:
            return
        self._server.end()
        self._server = None
        by = time.monotonic() + ANSWER_TIMEOUT_S
        for process in self._asked:
            select.select([process.lifeline], [], [], max(0.0, by - time.monotonic()))
            process.is_answered()
        # Nobody starts them after all.
        self._asked.clear()
        self._waiting.clear()
        self._refused.clear()

    def _ask(self) -> None:
        while self._waiting and self._server is not None and len(self._asked) < ASKED_MAX:
            process = self._waiting.popleft()
            (self._asked if process.ask(self._server) else self._refused).append(process)


def records_for(settings: HostSettings) -> int:
    """Return how many runs of an actor can be unsettled at once."""
    holding = settings.slots + sum(settings.typed.values()) + settings.released_max
    return RECORDS + 2 * holding


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
            force_grace_s=settings.force_grace_s,
        ),
        broker=settings.broker,
        keys=settings.keys,
        incarnation=incarnation,
        host_name=settings.name,
        drain_timeout_s=settings.drain_timeout_s,
        log_format=settings.log_format,
        log_level=settings.log_level,
        variables={k: for_actor(v, ward.index) for k, v in settings.variables.items()},
        folder=for_actor(settings.folder, ward.index),
        python_path=[for_actor(path, ward.index) for path in settings.python_path],
        environments=settings.environments,
    )
