# ruff: noqa: SLF001 - `_state` and `_exception` of the standard library, read without its lock.
"""TaskFuture, and how to wait for many of them.

A TaskFuture is a `concurrent.futures.Future`: callbacks work, and outside of tasks
`concurrent.futures.wait` and `asyncio.wrap_future`. It stays pending until its outcome: that a task
runs already is the broker's to know. Whoever waits here reads the socket himself, so the common
call costs no change of thread.
"""

import concurrent.futures
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from sdk import absent
from sdk.errors import TaskCanceled
from sdk.futures.awaiting import awaiting, heard_by
from sdk.futures.nested import DONE, FINISHED, CallWait, slot_given_back
from sdk.futures.remaining import Remaining, known_of, read_count
from sdk.reading.deadlines import deadline_of
from sdk.task import running
from wire.payload import Unpicklable
from wire.texts import brief

if TYPE_CHECKING:
    from sdk.connection import Connection

# How long a question to the broker waits for its answer, where nobody says otherwise.
QUERY_TIMEOUT_S: Final = 10.0


class FutureInside(Unpicklable):
    """The pickler has met a future: its result must be put in its place first."""


class TaskFuture(Future[Any]):
    """The outcome of a task, which is there now or later."""

    # What went wrong with earlier attempts, a line each, once the task has failed for good.
    history: Sequence[str] = ()
    # Whose results are its arguments, while it waits for them.
    arguments: "Sequence[TaskFuture]" = ()

    def __init__(self, connection: "Connection", name: str) -> None:
        """Belong to *connection*; users get theirs from `submit`.

        The base class makes a condition and two lists for each future, and collecting them is most
        of what a submit costs: here a connection has one condition, and lists come when asked for.
        """
        self._condition = connection.condition
        self._state = "PENDING"
        self._result = None
        self._exception = None
        self._waiters_made: list[Any] | None = None
        self._callbacks_made: list[Callable[[Future[Any]], object]] | None = None
        # Which actor ran the task, HOST/INDEX; empty until the outcome, or an `explain`, tells.
        self.actor = ""
        self.attempt = 0
        self.connection = connection
        self.name = name
        self.number = 0
        self.since = 0.0
        self._reason = ""
        # Gives up a task that still waits for its arguments; tells whether it was in time.
        self.abandon: Callable[[], bool] | None = None

    def __repr__(self) -> str:
        """Show which task it is, where it ran, and how it stands."""
        where = f" on {self.actor}" if self.actor else ""
        ended = f": {type(self._exception).__name__}" if self._exception is not None else ""
        state = self._state.lower() + ended
        return f"<TaskFuture {self.name!r} {self.task_id or 'not submitted yet'}{where}, {state}>"

    @property
    def task_id(self) -> str:
        """Return the task's id; empty while the task waits for results that are its arguments."""
        if not self.number:
            return ""
        # Who has its id may ask for it by that, here as well.
        self.connection.told.note(self)
        return self.connection.id_of(self.number)

    def result(self, timeout: float | None = None) -> Any:
        """Return the result, or raise the exception of the task.

        *timeout* in seconds; when it is over, the built-in TimeoutError is raised and the task goes
        on.
        """
        if self._state not in DONE:
            self._wait(timeout)
        if self._state != FINISHED:
            raise TaskCanceled(self._reason or f"task {self.name!r} {self.task_id} was canceled")
        if self._exception is not None:
            try:
                raise self._exception
            finally:
                # The traceback refers to this frame: without it the future is not a cycle.
                del self
        return self._result

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the exception of the task, None for a result; raises TaskCanceled."""
        if self._state not in DONE:
            self._wait(timeout)
        if self._state != FINISHED:
            raise TaskCanceled(self._reason or f"task {self.name!r} {self.task_id} was canceled")
        error: BaseException | None = self._exception
        return error

    def cancel(self, force: bool = False) -> bool:  # noqa: FBT001, FBT002
        """Give up the task, also when it runs: the future is settled at once; False when it was.

        A running task is told (a flag, asyncio's cancel) and holds its slot until it returns;
        *force* ends its process when it does not.
        """
        if self._state in DONE:
            return self._state != FINISHED
        if not self.connection.give_up(self, force=force):
            # The outcome is just being settled by another thread.
            self._wait(None)
            return self._state != FINISHED
        self.settle_canceled("")
        self.connection.loop.count(1)
        return True

    def status(self, timeout: float | None = QUERY_TIMEOUT_S) -> str:
        """Ask where the task is: waiting, queued, unsatisfiable, held, delayed, assigned, ended.

        *waiting* is for the results of other tasks that are its arguments, *held* for the end of a
        broker's recovery, *delayed* for the time of its next try; *unsatisfiable* is queued, and no
        actor that is connected could ever take it as they are: `client.explain` says what each
        lacks. *unknown* is what the broker has never heard of. Raises TimeoutError when it does not
        answer.
        """
        if self._state in DONE:
            return "ended"
        if not self.number:
            return "waiting"
        answer = self.connection.explain(self.number, timeout)
        if answer.get("satisfiable") is False:
            return "unsatisfiable"
        return str(answer.get("state", "unknown"))

    def accepted(self, timeout: float | None = None) -> bool:
        """Wait until the broker has the task; False when the time is over before, or it refuses.

        For a durable task: until the commit to the journal is done.
        """
        return self.connection.accepted(self, timeout)

    progress = absent.progress
    stream = absent.stream

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait on an event loop; canceling the wait cancels the task, `asyncio.shield` keeps it."""
        if self._state not in DONE:
            yield from awaiting(self)
        return self.result()

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """Call *fn* with the future when it is done, on whichever thread that is known.

        `asyncio.wait` takes such futures as they are: it hears of them on its event loop.
        """
        super().add_done_callback(heard_by(self, fn))

    def remove_done_callback(self, fn: Callable[[Future[Any]], object]) -> int:
        """Take *fn* back and return how often it was there, as futures of asyncio do."""
        with self._condition:
            made = self._callbacks_made or []
            kept = [one for one in made if one != fn]
            self._callbacks_made = kept or None
            return len(made) - len(kept)

    def __reduce__(self) -> tuple[Any, ...]:
        """Refuse: `submit` replaces a future among the arguments by its result."""
        raise FutureInside(
            "a TaskFuture can be an argument, or lie in a list, tuple or dict of the arguments, "
            "where its result takes its place; elsewhere it cannot be sent"
        )

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]
        """Return who waits with `concurrent.futures.wait`; the base class appends to it.

        Raises TypeError in a task: its slots would not be given back, and the call may need them.
        """
        if self.connection.is_nested and self._state not in DONE and running.get() is not None:
            raise TypeError(
                "in a task wait() and as_completed() of concurrent.futures do not give its slot"
                " back: those of sdk do"
            )
        if self._waiters_made is None:
            self._waiters_made = []
        return self._waiters_made

    @property
    def _done_callbacks(self) -> list[Callable[[Future[Any]], object]]:
        """Return the callbacks; the base class appends to it under the condition."""
        if self._callbacks_made is None:
            self._callbacks_made = []
        return self._callbacks_made

    def set_result(self, result: Any) -> None:
        """Settle, as the base class does, at the price of what there is to tell."""
        connection = self.connection
        with connection.condition_lock:
            if self._state in DONE:
                raise concurrent.futures.InvalidStateError(f"{self._state}: {self!r}")
            self._result = result
            self._state = FINISHED
            for waiter in self._waiters_made or ():
                waiter.add_result(self)
            if connection.condition._waiters:  # type: ignore[attr-defined]
                connection.condition.notify_all()
        if self._callbacks_made is not None:
            self._invoke_callbacks()  # type: ignore[attr-defined]

    # --- for the connection

    @property
    def failure(self) -> BaseException | None:
        """Return the exception that it has by now, without waiting."""
        error: BaseException | None = self._exception
        return error

    def _is_done(self) -> bool:
        return self._state in DONE

    def _wait(self, timeout: float | None) -> None:
        connection = self.connection
        if connection.is_nested:
            with slot_given_back([self], 1, timeout) as wait:
                is_over = wait.or_refused(self._is_done) if wait else self._is_done
                is_done = self._read(timeout, is_over)
        else:
            is_done = connection.loop.wait(
                self._is_done, timeout, task=self.number or -1, sleep=self._sleep
            )
        if not is_done:
            raise TimeoutError(
                f"task {self.name!r} {self.task_id or 'which waits for its arguments'} has no"
                f" outcome after {timeout:g} s; it goes on"
            )

    def _read(self, timeout: float | None, is_over: Callable[[], bool]) -> bool:
        return self.connection.loop.wait(
            is_over, timeout, task=self.number or -1, sleep=self._sleep
        )

    def _sleep(self, timeout: float) -> None:
        with self._condition:
            if self._state not in DONE:
                self._condition.wait(timeout)

    def settle_canceled(self, reason: str) -> None:
        """Settle as canceled; the caller has taken the future out of the connection."""
        self._reason = reason
        super().cancel()
        # Only this tells those who wait with `concurrent.futures.wait`.
        self.set_running_or_notify_cancel()


def futures_of(what: str, futures: Iterable[TaskFuture]) -> list[TaskFuture]:
    """Return *futures* as a list; raise TypeError for what is no future of a client."""
    if not isinstance(futures, Iterable):
        raise TypeError(f"{what}() takes a list of futures, got {brief(futures)}")
    given = list(futures)
    if not {*map(type, given)} <= {TaskFuture}:
        for one in given:
            if not isinstance(one, TaskFuture):
                raise TypeError(
                    f"{what}() takes futures that submit() returned, got {brief(one)}: for futures"
                    " of others there are concurrent.futures and asyncio, which take these as well"
                )
    return given


def wait(
    futures: Iterable[TaskFuture], num_returns: int = 1, timeout: float | None = None
) -> tuple[list[TaskFuture], list[TaskFuture]]:
    """Wait until *num_returns* are done; return these and all others, both in the order given.

    After *timeout* seconds fewer are returned; nothing is raised for a task that failed.
    """
    known = known_of(futures, TaskFuture) if type(futures) is Remaining else None
    given = known.order if known is not None else futures_of("wait", futures)
    num_returns = read_count(num_returns, len(given))
    if not given:
        return [], []
    if known is not None:
        known.loop.wait(known.has(num_returns), timeout)
        ready = known.take(num_returns)
        left = Remaining(known.order, is_plain=True)
        left.known = known
        return ready, left
    with slot_given_back(given, num_returns, timeout) as wait:
        _wait_for(given, num_returns, timeout, wait)
    ready = []
    pending: list[TaskFuture] = []
    begin = 0
    for index, future in enumerate(given):
        if future._state in DONE:
            ready.append(future)
            pending += given[begin:index]
            begin = index + 1
            if len(ready) == num_returns:
                break
    pending += given[begin:]
    is_plain = isinstance(futures, Remaining) and futures.is_plain
    return ready, Remaining(pending, is_plain=is_plain)


def _wait_for(
    futures: Sequence[TaskFuture], wanted: int, timeout: float | None, wait: CallWait | None
) -> bool:
    """Wait until *wanted* of *futures* are done, looking at them no more often than needed."""
    loops = {future.connection.loop for future in futures}
    if len(loops) > 1:
        return _wait_for_mixed(futures, wanted, timeout, wait)
    loop = loops.pop()
    look_at, is_reached = -1, False

    def is_enough() -> bool:
        nonlocal look_at, is_reached
        if is_reached:
            return True
        settled = loop.settled
        if settled < look_at:
            return False
        found = 0
        for future in futures:
            if future._state in DONE:
                found += 1
                if found == wanted:
                    is_reached = True
                    return True
        # Before so many more are settled there is nothing to look at.
        look_at = settled + wanted - found
        return False

    if loop.wait(wait.or_refused(is_enough) if wait else is_enough, timeout):
        return True
    look_at = -1
    return is_enough()


def _wait_for_mixed(
    futures: Sequence[TaskFuture], wanted: int, timeout: float | None, wait: CallWait | None
) -> bool:
    """Wait for futures of several clients, each of which reads by itself."""
    ready = threading.Semaphore(0)
    deadline = deadline_of(timeout)
    for future in futures:
        future.add_done_callback(lambda _: ready.release())
    if wait is not None:
        wait.wakes(lambda: ready.release(wanted))
    for _ in range(wanted):
        rest = None if deadline is None else max(0.0, deadline - monotonic())
        if not ready.acquire(timeout=rest):
            return False
    return True


class as_completed:  # noqa: N801 - used as a function.
    """Iterate over futures in the order in which they are done; `add` takes more while iterating.

    A list that is given may also be appended to. After *timeout* seconds the built-in TimeoutError
    is raised; it counts from the beginning.
    """

    def __init__(self, futures: Iterable[TaskFuture] = (), timeout: float | None = None) -> None:
        """Begin to watch *futures*."""
        self._timeout = timeout
        self._deadline = deadline_of(timeout)
        self._source = futures if isinstance(futures, list) else None
        self._taken = 0
        self._ready: deque[TaskFuture] = deque()
        self._seen: set[TaskFuture] = set()
        self._pending: set[TaskFuture] = set()
        if self._source is None:
            for future in futures_of("as_completed", futures):
                self.add(future)
        else:
            self._take()

    def add(self, future: TaskFuture) -> None:
        """Iterate over *future* as well; one that is known already is not doubled."""
        if future not in self._seen:
            _ = futures_of("as_completed", (future,))
            self._seen.add(future)
            self._pending.add(future)
            future.add_done_callback(self._ready.append)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[TaskFuture]:
        """Return itself."""
        return self

    def __next__(self) -> TaskFuture:
        """Wait for the next that is done."""
        self._take()
        if not self._ready:
            if not self._pending:
                raise StopIteration
            self._wait()
        future = self._ready.popleft()
        self._pending.discard(future)
        return future

    def _take(self) -> None:
        """Take what was appended to the list."""
        while self._source is not None and self._taken < len(self._source):
            self._taken += 1
            self.add(self._source[self._taken - 1])

    def _wait(self) -> None:
        rest = None if self._deadline is None else max(0.0, self._deadline - monotonic())
        loops = {future.connection.loop for future in self._pending}

        def is_ready() -> bool:
            return bool(self._ready)

        with slot_given_back(self._pending, 1, rest) as wait:
            if len(loops) == 1:
                loops.pop().wait(wait.or_refused(is_ready) if wait else is_ready, rest)
            else:
                _wait_for_mixed(list(self._pending), 1, rest, wait)
        if not self._ready:
            raise TimeoutError(
                f"{len(self._pending)} tasks have no outcome after {self._timeout} s"
            )


def gather(
    futures: Iterable[TaskFuture],
    *,
    return_exceptions: bool = False,
    timeout: float | None = None,
) -> list[Any]:
    """Return the results in the order given; the first exception is raised as soon as it is there.

    With *return_exceptions* an exception stands in the place of its result. The other tasks go on.
    """
    given = futures_of("gather", futures)
    if not given:
        return []
    with slot_given_back(given, len(given), timeout) as wait:
        _wait_for_all(given, timeout, wait, is_patient=return_exceptions)
    if not return_exceptions:
        for future in given:
            if future._state in DONE and has_failed(future):
                future.result()
    return [outcome_of(future) if return_exceptions else future.result(0) for future in given]


def _wait_for_all(
    futures: Sequence[TaskFuture],
    timeout: float | None,
    wait: CallWait | None,
    *,
    is_patient: bool,
) -> None:
    """Wait until all are done, or one has failed unless *is_patient*."""
    if len({future.connection.loop for future in futures}) > 1:
        _wait_for_mixed(futures, len(futures), timeout, wait)
        return
    connection = futures[0].connection
    position, failures, is_hopeless = 0, -1, False

    def is_over() -> bool:
        nonlocal position, failures, is_hopeless
        if not is_patient and connection.failures != failures:
            failures = connection.failures
            is_hopeless = any(f._state in DONE and has_failed(f) for f in futures)
        if is_hopeless:
            return True
        while position < len(futures) and futures[position]._state in DONE:
            position += 1
        return position == len(futures)

    connection.loop.wait(wait.or_refused(is_over) if wait else is_over, timeout)


def has_failed(future: TaskFuture) -> bool:
    """Tell whether a future that is done has no result."""
    return future._state != FINISHED or future._exception is not None


def outcome_of(future: TaskFuture) -> Any:
    """Return the result or the exception."""
    try:
        error = future.exception(0)
    except TaskCanceled as canceled:
        return canceled
    return future.result(0) if error is None else error
