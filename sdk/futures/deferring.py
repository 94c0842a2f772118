"""Calls that wait in this process: for results among their arguments, or for those ahead of them.

Calls to a named actor keep the order in which they were made, so those behind one whose arguments
are not there yet wait for it in a *line*. The rule that must not be broken: whoever takes a future
out of those that wait submits its call or settles it, which is done once.
"""

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Final

from sdk.errors import TaskCanceled
from sdk.futures.arguments import Deferred

if TYPE_CHECKING:
    from sdk.futures.future import TaskFuture

CANCELED: Final = "an argument of it was canceled: "
NO_ARGUMENTS: Final[list["TaskFuture"]] = []


class Failing(threading.local):
    """Fails calls on this thread one after another, however long the chain is.

    Each is an argument of the next: one that failed the next in its callbacks would need a few
    frames of the stack for each, and a long chain would never end.
    """

    def __init__(self) -> None:
        """Begin with nothing to do; each thread has one of its own."""
        self._due: deque[Callable[[], None]] = deque()
        self._is_busy = False

    def run(self, fail: Callable[[], None]) -> None:
        """Call *fail*, and what it leads to, before who began returns."""
        self._due.append(fail)
        if self._is_busy:
            return
        self._is_busy, raised = True, None
        while self._due:
            try:
                self._due.popleft()()
            except BaseException as error:  # noqa: BLE001 - nobody else fails those behind it.
                raised = error
        self._is_busy = False
        if raised is not None:
            raise raised


_failing: Final = Failing()


class Place:
    """A call's place in a line."""

    __slots__ = ("future", "is_ready", "submit")

    def __init__(self, future: "TaskFuture", submit: Callable[[], None], *, is_ready: bool) -> None:
        """Stand at the end; *is_ready* when nothing is waited for but those ahead."""
        self.future = future
        self.submit = submit
        self.is_ready = is_ready


class Deferrals:
    """The calls of one connection that are not submitted yet."""

    __slots__ = ("_failed", "_lock", "_moving", "lines", "waiting")

    def __init__(self, failed: Callable[[], None]) -> None:
        """Tell *failed* of each future that fails before its call is submitted."""
        self._failed = failed
        self._lock = threading.Lock()
        self.waiting: dict[TaskFuture, None] = {}
        # Who stands in one; the next call of it does as well.
        self.lines: dict[Hashable, deque[Place]] = {}
        # The lines in which somebody is at submitting those whose turn it is.
        self._moving: set[Hashable] = set()

    def defer(
        self,
        arguments: Sequence["TaskFuture"],
        future: "TaskFuture",
        submit: Callable[[], None],
        line: Hashable = None,
    ) -> None:
        """Call *submit* when *arguments* are done; *future* fails when one of them does.

        Nor before nobody stands ahead in *line* any more, if there is one.
        """
        if line is not None:
            self._stand_in(line, arguments, future, submit)
            return
        with self._lock:
            self._wait(future, arguments)
        Deferred(arguments, lambda: self._begin(future, submit)).start(self._fails(future))

    def take(self, future: "TaskFuture") -> bool:
        """Tell whether *future* still waited, and is now the caller's."""
        with self._lock:
            return self.waiting.pop(future, self) is None

    def take_all(self) -> list["TaskFuture"]:
        """Take all that wait."""
        with self._lock:
            taken = list(self.waiting)
            self.waiting.clear()
        return taken

    # --- lines

    def _stand_in(
        self,
        line: Hashable,
        arguments: Sequence["TaskFuture"],
        future: "TaskFuture",
        submit: Callable[[], None],
    ) -> None:
        place = Place(future, submit, is_ready=not arguments)
        with self._lock:
            places = self.lines.setdefault(line, deque())
            # What those ahead wait for this one waits for too.
            ahead = places[-1].future.arguments if places else NO_ARGUMENTS
            self._wait(future, [*arguments, *ahead] if arguments else ahead)
            places.append(place)

        def be_ready() -> None:
            place.is_ready = True
            self._move(line)

        future.add_done_callback(lambda _: self._move(line))
        if arguments:
            Deferred(arguments, be_ready).start(self._fails(future))
        self._move(line)

    def _move(self, line: Hashable) -> None:
        """Submit those in *line* whose turn it is; they stand there until that is done."""
        while True:
            with self._lock:
                places = self.lines.get(line)
                if not places or line in self._moving:
                    return
                place = places[0]
                if place.future in self.waiting and not place.is_ready:
                    return
                self._moving.add(line)
            try:
                self._begin(place.future, place.submit)
            finally:
                with self._lock:
                    self._moving.discard(line)
                    places.popleft()
                    if not places:
                        del self.lines[line]

    # --- both

    def _wait(self, future: "TaskFuture", arguments: Sequence["TaskFuture"]) -> None:
        self.waiting[future] = None
        future.arguments = arguments
        future.abandon = lambda: self.take(future)

    def _begin(self, future: "TaskFuture", submit: Callable[[], None]) -> None:
        if self.take(future):
            try:
                submit()
            except BaseException as error:  # noqa: BLE001 - the future is who hears of it.
                future.set_exception(error)
                self._failed()

    def _fails(self, future: "TaskFuture") -> Callable[[BaseException], None]:
        def settle(error: BaseException) -> None:
            if isinstance(error, TaskCanceled):
                # Down a chain the first one says which it was.
                said = str(error)
                future.settle_canceled(said if said.startswith(CANCELED) else CANCELED + said)
            else:
                future.set_exception(error)
            self._failed()

        def fail(error: BaseException) -> None:
            if self.take(future):
                _failing.run(lambda: settle(error))

        return fail
