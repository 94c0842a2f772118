"""Sleep on file descriptors, and be woken.

Where it was asked for and the last waits were short, the next one looks for a moment before it
sleeps: that pays where the processors of a machine fall asleep and take long to wake up.
"""

import os
import select
import threading
from math import ceil
from time import monotonic
from typing import Final

from sdk.errors import BadOption
from wire.wakeup import Wakeup

# Nobody sleeps for longer without looking at the clock.
NAP_MAX_S: Final = 1.0
# For how long a wait looks before it sleeps, in us, where the environment does not say.
SPIN_VARIABLE: Final = "WARMSLOT_SPIN_US"
SPIN_US_DEFAULT: Final = 0
SPIN_US_MAX: Final = 10_000
# After so many short waits, one after another, the next is expected to be short.
SHORT_WAITS: Final = 2


def spin_s() -> float:
    """Return for how many seconds a wait may look before it sleeps; 0 where it must not.

    That is what `WARMSLOT_SPIN_US` says, by default 0. A single processor has nobody else who
    could work meanwhile. Raises BadOption for what is not a whole number of microseconds up to
    10,000.
    """
    if not hasattr(os, "sched_yield") or processors() < 2:
        return 0.0
    text = os.environ.get(SPIN_VARIABLE) or str(SPIN_US_DEFAULT)
    if not (text.isdecimal() and int(text) <= SPIN_US_MAX):
        message = f"{SPIN_VARIABLE}={text}: not a number of microseconds from 0 to {SPIN_US_MAX}"
        raise BadOption(message)
    return int(text) / 1e6


def processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class ShortWait:
    """Wait for descriptors of *poll*, without sleeping where the wait will be short.

    It will be when the last ones were, so whoever waits for long looks in vain at most once, and
    whoever shares a busy machine soon does not look any more. Each look lets others run first.
    """

    __slots__ = ("_poll", "_short", "_spin_s")

    def __init__(self, poll: "select.poll", spin_s: float) -> None:
        """Look for up to *spin_s* before a sleep; 0: never."""
        self._poll = poll.poll
        self._spin_s = spin_s
        # How many waits were short, one after another.
        self._short = 0

    def wait(self, timeout_s: float) -> list[tuple[int, int]]:
        """Return what is ready, after at most *timeout_s*, which is finite."""
        poll, spin_s = self._poll, self._spin_s
        if not spin_s:
            return poll(ceil(timeout_s * 1000.0) if timeout_s > 0.0 else 0)
        began = monotonic()
        if self._short >= SHORT_WAITS:
            until = began + (min(timeout_s, spin_s))
            while not (found := poll(0)):
                if monotonic() >= until:
                    break
                os.sched_yield()
            # Somebody else may have had the processor, or the interpreter, for longer.
            looked_s = monotonic() - began
            if not found or looked_s > spin_s:
                self._short = 0
            if found:
                return found
            timeout_s -= looked_s
        # Rounded up: a sleep that ends too early would find nothing due and spin.
        found = poll(ceil(timeout_s * 1000.0) if timeout_s > 0.0 else 0)
        if found and monotonic() - began < spin_s:
            self._short += 1
        else:
            self._short = 0
        return found


class Sleep:
    """One thread's way of sleeping on the socket's descriptor, or on nothing but `wake`.

    Whoever still uses it once it is closed, since he was about to, must not get at a descriptor
    that somebody else has by then: so each use of its own one has the lock.
    """

    def __init__(self, descriptor: int, spin_s: float = 0.0) -> None:
        """Watch *descriptor* for reading, for up to *spin_s* without sleeping."""
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._wakeup = Wakeup()
        self._both = select.poll()
        self._both.register(descriptor, select.POLLIN)
        self._both.register(self._wakeup.fd, select.POLLIN)
        self._wait = ShortWait(self._both, spin_s)
        self._alone = select.poll()
        self._alone.register(self._wakeup.fd, select.POLLIN)

    def until(self, deadline: float) -> bool:
        """Sleep; tell whether the descriptor woke us."""
        timeout_s = deadline - monotonic()
        is_woken = False
        for descriptor, _ in self._wait.wait(min(timeout_s, NAP_MAX_S)):
            if descriptor == self._descriptor:
                is_woken = True
            else:
                self._clear()
        return is_woken

    def nap(self, duration_s: float) -> bool:
        """Sleep without looking at the socket; tell whether `wake` ended it."""
        if self._alone.poll(ceil(duration_s * 1000.0)):
            self._clear()
            return True
        return False

    def wake(self) -> None:
        """End the sleep, or the next one."""
        with self._lock:
            self._wakeup.set()

    def _clear(self) -> None:
        with self._lock:
            self._wakeup.clear()

    def close(self) -> None:
        """Give its descriptor back. `wake` does no harm afterwards."""
        with self._lock:
            self._wakeup.close()


def open_sleeps(descriptor: int) -> tuple[Sleep, Sleep]:
    """Return the sleep of the daemon, and that of a caller, who waits for one answer.

    Raises OSError where there are no descriptors left, BadOption as `spin_s`.
    """
    may_look_s = spin_s()
    daemon = Sleep(descriptor)
    try:
        return daemon, Sleep(descriptor, may_look_s)
    except OSError:
        daemon.close()
        raise
