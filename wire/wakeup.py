"""Wake whoever polls a descriptor: by an eventfd where there is one, else by a pipe."""

import os
import signal
from contextlib import suppress


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
        try:  # noqa: SIM105 - a block of `suppress` costs more than the rest of it.
            os.write(self._write_fd, b"\1\0\0\0\0\0\0\0")
        except OSError:  # A full pipe is readable already; after `close` nobody sleeps any more.
            pass

    def clear(self) -> None:
        """Take back every `set` until now."""
        with suppress(OSError):
            while len(os.read(self.fd, 4096)) == 4096:
                pass

    def hear_signals(self) -> None:
        """Be set by each signal that Python handles, whichever thread the system gives it to.

        Only from the main thread, and only for a pipe: a signal writes one octet.
        """
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)

    def close(self) -> None:
        """Close it; `set` does no harm afterwards."""
        descriptors = {self.fd, self._write_fd}
        self.fd = self._write_fd = -1
        for descriptor in descriptors - {-1}:
            os.close(descriptor)
