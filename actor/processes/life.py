"""The life of an actor process, from what its host told it to its end."""

import faulthandler
import gc
import os
import signal
import sys
import threading
import time
import traceback
from typing import Final, NoReturn

import msgspec

from actor.core import ActorCore
from actor.logs import configure_logs, keep_logs, log
from actor.loop import Loop
from actor.machine.board import Board, Stage
from actor.machine.leaving import leave
from actor.running.context import Run
from actor.running.preloading import preload
from actor.settings import Launch
from sdk.errors import NotInTask
from wire.stream import Stream
from wire.wakeup import Wakeup

# Of a child that a task has forked.
EXIT_RETURNED: Final = 71
# Which signals each thread that forks has blocked.
masks = threading.local()


def live_and_leave(told: bytes, region: int) -> NoReturn:
    """Run the actor that the host told this process to be, and end the process with it."""
    try:
        end = live(told, region)
    except BaseException:  # noqa: BLE001 - a bug of ours: the host reports the death.
        traceback.print_exc()
        end = 1
    leave(end)


def live(told: bytes, region: int) -> int:
    """Run one actor until it has left."""
    launch = msgspec.msgpack.decode(told, type=Launch)
    have_no_main_module()
    # A process that was forked has them only from here.
    os.environ.update(launch.variables)
    time.tzset()
    # Not SIG_IGN, which would go on into what tasks start.
    signal.signal(signal.SIGINT, lambda *_: None)
    configure_logs(launch.log_format, launch.log_level)
    keep_logs()
    core = ActorCore(
        msgspec.structs.replace(launch.core, pid=os.getpid()),
        incarnation=launch.incarnation,
        now=time.monotonic(),
    )
    if launch.folder:
        os.chdir(launch.folder)
    sys.path[:0] = launch.python_path
    board = Board(region)
    try:
        loop = Loop(launch, core, board, Wakeup())
    except (ValueError, OSError) as error:
        # What the host has checked and somebody has changed since, as the file of a key; or there
        # are no descriptors left.
        return refuse(launch, error)
    signal.signal(signal.SIGTERM, lambda *_: loop.ask_to_drain())
    os.register_at_fork(before=hold_signals, after_in_parent=let_signals, after_in_child=be_a_child)
    # What is here stays, other than what is the user's: no collection need look at it.
    gc.collect()
    gc.freeze()
    board.reach(Stage.ENTERING)
    try:
        preload(loop, launch.environments, then=lambda: come_up(board))
        loop.begin()
    except (RuntimeError, MemoryError) as error:
        # There is no thread for it, so there is none for a task either.
        return refuse(launch, error)
    return loop.run()


def have_no_main_module() -> None:
    """Be a program without a file, as a notebook is.

    What `multiprocessing` starts from nothing in a task imports that of its parent first: ours, or
    a module of the user's with that name.
    """
    main = sys.modules["__main__"]
    main.__spec__ = None
    vars(main).pop("__file__", None)


def refuse(launch: Launch, error: BaseException) -> int:
    """Say why the actor cannot start, and return the exit status."""
    reason = str(error) or type(error).__name__
    log.error("cannot_start", actor=launch.core.name, reason=reason)
    return 1


def come_up(board: Board) -> None:
    """Let the host know that the start is over."""
    faulthandler.cancel_dump_traceback_later()
    board.reach(Stage.UP)


def hold_signals() -> None:
    """Let what ends the child that this thread forks now wait until it is one."""
    masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})


def let_signals() -> None:
    """Take signals as before."""
    signal.pthread_sigmask(signal.SIG_SETMASK, masks.before)


def be_a_child() -> None:
    """Let a child that a task has forked go on up to the end of its call, and no further.

    The socket, the slots and the board are the parent's, and nobody would ever end it. Whatever it
    wants of the actor it is refused: here are none of ZeroMQ's threads, and their descriptors are
    those of the parent, which would not wake up for what is read here. SIGTERM and SIGINT end it,
    as they do a child anywhere.
    """
    Run.close = end_child  # type: ignore[assignment, method-assign]
    Loop.post = Loop.post_quietly = refuse_child  # type: ignore[assignment, method-assign]
    signal.set_wakeup_fd(-1)
    # One that waits ends the process: what a handler raises in here is dropped.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    let_signals()
    signal.signal(signal.SIGINT, signal.default_int_handler)


def refuse_child(*_: object) -> NoReturn:
    """Raise NotInTask in a child, which has no part in what its parent runs."""
    raise NotInTask(
        f"the task runs in process {os.getppid()}, and this one was forked from that: only there"
        " can it give slots back, take limits or wait for calls of its own"
    )


def end_child(run: Run) -> NoReturn:
    """Say that the call has returned in a child, and end that."""
    Stream(sys.stderr).write(
        f"actor: process {os.getpid()}, which task {run.id} has forked, ends where its call does\n"
    )
    leave(EXIT_RETURNED)
