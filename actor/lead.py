"""Which thread leads an actor process: has the socket, the core and the clock.

One leads on, until it ends or another takes the lead. While it sleeps, or runs a task itself, the
lead is not in use: any thread may take it for a single turn, and a guard for good from a leader
whose run lasts, or leaves a slot free, or has let others in. The main thread never leads and runs
no task: there, and nowhere else, Python handles signals, and the code of a task may be in C for
minutes. The rule that must not be broken: whoever touches the socket or the core holds `lock`, and
of those that lead on there is one. All threads but the main one are of the pool in which runs have
theirs (see `running.threads`), which lends them to lead and to stand by, and takes back who stands
by where a run has no other.
"""

import os
import select
import threading
import time
import traceback
from collections.abc import Callable
from typing import Final

from wire.wakeup import Wakeup

# After so long a guard takes the lead from a leader that runs a task.
GUARD_S: Final = 0.01
# After so many looks at nothing a guard sleeps until it is called.
GUARD_LOOKS: Final = 20
# What who stood by is told whose thread a run needs; no status of a process.
CALLED_OFF: Final = -1

Guard = Callable[[], None]
# Starts what stands by; tells whether there is a thread for it.
Lend = Callable[[Callable[[Guard], None], Guard], bool]


class Lead:
    """The lock, who has a right to it, and the guards."""

    def __init__(self, lend: Lend) -> None:
        """Begin with nobody who leads; *lend* is called by who has the lock."""
        self._lend = lend
        self.lock = threading.Lock()
        # Counts who led on; whose number it still is, he leads.
        self._number = 0
        # Since when the leader runs a task itself, so that a guard may take the lead; 0 when not.
        self.free_since = 0.0
        # How many threads stand by to take it, and how many are about to.
        self.guards = self.joining = 0
        # How many of those that wait to stand by are to go.
        self._called_off = 0
        # With what the last leader has ended; then everybody goes.
        self.status: int | None = None
        # What the main thread sleeps on.
        self._main = Wakeup(may_use_eventfd=False)
        # One guard watches, the others wait to be the next; the bell of the one is a lock.
        self._watch = threading.Lock()
        self._bell = threading.Lock()
        self._bell.acquire()
        # Does the guard look by itself, was it called?
        self._is_guarding = False
        self._is_called = False

    def begin(self) -> None:
        """Lead, as the first."""
        self.lock.acquire()

    def begin_apart(self, guard: Guard) -> None:
        """Have a *guard* lead, as the first, and another one stand by; the caller goes on.

        Raises RuntimeError where there is no thread for the first.
        """
        self.begin()
        if not self.add_guard(guard):
            raise RuntimeError("the system gives no thread")
        self.add_guard(guard)
        self.leave()
        self.call()

    def wait_for_end(self) -> int:
        """Wait in the main thread, in which signals are handled, until all is over; say how."""
        self._main.hear_signals()
        watched = select.poll()
        watched.register(self._main.fd, select.POLLIN)
        while self.status is None:
            watched.poll()
            self._main.clear()
        return self.status

    def leave(self) -> int:
        """Let others take the lead while a task runs here; return what `come_back` wants."""
        number = self._number
        self.free_since = time.monotonic()
        self.lock.release()
        if not self._is_guarding:
            self._is_guarding = True
            self._ring()
        return number

    def come_back(self, number: int) -> bool:
        """Lead on; False when another took the lead: the caller stands by then."""
        self.lock.acquire()
        if number == self._number:
            self.free_since = 0.0
            # Not by the guard, which may look at both in the middle of the next call.
            self._is_called = False
            return True
        self.guards += 1
        self.lock.release()
        return False

    def add_guard(self, guard: Guard) -> bool:
        """Have a thread for *guard*, which stands by; only who leads may call this.

        Without room for it, False, nobody stands by: then the leader runs no task itself.
        """
        is_started = self._lend(stand, guard)
        self.joining += is_started
        return is_started

    def have_guard(self, guard: Guard) -> None:
        """Have one more thread stand by where nobody will, once this run has lost the lead.

        From the thread of a run that has called. Nothing comes of it while somebody is in a turn:
        then the leader adds one when it needs it.
        """
        if self._has_guard or not self.lock.acquire(blocking=False):
            return
        if not self._has_guard:
            self.add_guard(guard)
        self.lock.release()

    def call_off(self, least: int) -> bool:
        """Have one who stands by go, if *least* stay; tell whether it does. Only who leads."""
        if self.guards <= least + (self.free_since > 0.0):
            return False
        self.guards -= 1
        self._called_off += 1
        self._ring()
        return True

    @property
    def _has_guard(self) -> bool:
        """Tell whether somebody stands by, or is about to, beside who takes the lead now."""
        return self.joining > 0 or self.guards > (self.free_since > 0.0)

    def join(self) -> None:
        """Be one more that stands by, as was said by `joining`."""
        with self.lock:
            self.joining -= 1
            self.guards += 1

    def stand_by(self) -> int | None:
        """Wait until the lead has to be taken, and take it; else return why not.

        That is the status when all is over, or CALLED_OFF.
        """
        with self._watch:
            looks = 0
            while self.status is None:
                self._bell.acquire(timeout=GUARD_S if self._is_guarding else -1)
                if self._called_off:
                    self._go()
                    return CALLED_OFF
                since = self.free_since
                if since:
                    looks = 0
                    if (self._is_called or time.monotonic() - since >= GUARD_S) and self._take():
                        return None
                    continue
                looks += 1
                if looks > GUARD_LOOKS:
                    looks = 0
                    # In this order: a leader that begins to run after the flag has fallen rings.
                    self._is_guarding = False
                    if self.free_since:
                        self._is_guarding = True
        return self.status

    def _go(self) -> None:
        """Stand by no more; whatever else it rang for is for the next."""
        with self.lock:
            self._called_off -= 1
        self._ring()

    def _take(self) -> bool:
        """Take the lead for good, unless the leader came back."""
        self._is_called = False
        self.lock.acquire()
        if not self.free_since:
            self.lock.release()
            return False
        self.free_since = 0.0
        self._number += 1
        self.guards -= 1
        return True

    def call(self) -> None:
        """Have a guard take the lead now."""
        self._is_called = True
        self._is_guarding = True
        self._ring()

    def end(self, status: int) -> None:
        """Say that all is over, and with what."""
        self.status = status
        self._ring()
        self._main.set()

    def _ring(self) -> None:
        try:
            self._bell.release()
        except RuntimeError:  # It rings already.
            return


def stand(guard: Guard) -> None:
    """Be a *guard*; one that fails may have the lock, and nobody else would ever lead."""
    try:
        guard()
    except BaseException:  # noqa: BLE001 - our bug.
        traceback.print_exc()
        os._exit(1)
