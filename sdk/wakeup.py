"""Sleep on file descriptors, and be woken: by an eventfd where there is one, else by a pipe."""

import os
import select
from contextlib import suppress
from math import ceil
from time import monotonic
from typing import Final

# Nobody sleeps for longer without looking at the clock.
NAP_MAX_S: Final = 1.0
NAP_MAX_MS: Final = 1_000


class Wakeup:
    """A descriptor that becomes readable when `set` was called, until `clear`."""

    def __init__(self, *, may_use_eventfd: bool = True) -> None:
        """Open the descriptor; they do not pass to child processes."""
        if may_use_eventfd and hasattr(os, "eventfd"):
            self.fd = self._write_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self.fd, self._write_fd = os.pipe()
            os.set_blocking(self.fd, False)
            os.set_blocking(self._write_fd, False)

    def set(self) -> None:
        """Make it readable; also from another thread, and more than once."""
        # A full pipe is readable already, and after `close` nobody sleeps any more.
        with suppress(OSError):
            os.write(self._write_fd, b"\1\0\0\0\0\0\0\0")

    def clear(self) -> None:
        """Take back every `set` until now."""
        with suppress(OSError):
            while len(os.read(self.fd, 4096)) == 4096:
                pass

    def close(self) -> None:
        """Close it; `set` does no harm afterwards."""
        descriptors = {self.fd, self._write_fd}
        self.fd = self._write_fd = -1
        for descriptor in descriptors - {-1}:
            os.close(descriptor)


class Sleep:
    """One thread's way of sleeping on the socket's descriptor, or on nothing but `wake`."""

    def __init__(self, descriptor: int) -> None:
        """Watch *descriptor* for reading."""
        self._descriptor = descriptor
        self._wakeup = Wakeup()
        self._both = select.poll()
        self._both.register(descriptor, select.POLLIN)
        self._both.register(self._wakeup.fd, select.POLLIN)
        self._alone = select.poll()
        self._alone.register(self._wakeup.fd, select.POLLIN)

    def until(self, deadline: float) -> bool:
        """Sleep; tell whether the descriptor woke us."""
        timeout_s = deadline - monotonic()
        is_woken = False
        # Rounded up: a sleep that ends too early would find nothing due and spin.
        timeout_ms = NAP_MAX_MS if timeout_s > NAP_MAX_S else ceil(timeout_s * 1000.0)
        for descriptor, _ in self._both.poll(max(0, timeout_ms)):
            if descriptor == self._descriptor:
                is_woken = True
            else:
                self._wakeup.clear()
        return is_woken

    def nap(self, duration_s: float) -> bool:
        """Sleep without looking at the socket; tell whether `wake` ended it."""
        if self._alone.poll(ceil(duration_s * 1000.0)):
            self._wakeup.clear()
            return True
        return False

    def wake(self) -> None:
        """End the sleep, or the next one."""
        self._wakeup.set()
