"""How long whoever waits wants to wait: seconds as users say them, and when these are over."""

from math import nan
from numbers import Real
from time import monotonic
from typing import Any, Final

from wire.texts import brief

# Nobody waits for longer, and locks refuse to.
WAIT_MAX_S: Final = 1e9


def read_wait(timeout: Any) -> float | None:
    """Return *timeout* as seconds, None to wait for ever; raise TypeError for what is neither."""
    is_number = isinstance(timeout, Real) and not isinstance(timeout, bool)
    if timeout is not None and not (is_number and timeout == timeout):  # noqa: PLR0124 - NaN.
        raise TypeError(f"timeout is seconds, or None to wait for ever, not {brief(timeout)}")
    return None if timeout is None else float(max(-1.0, min(timeout, WAIT_MAX_S)))


def deadline_of(timeout: float | None) -> float | None:
    """Return when *timeout* is over. Raises TypeError for what is no time."""
    if timeout is None:
        return None
    try:
        deadline = monotonic() + min(timeout, WAIT_MAX_S)
    except (TypeError, OverflowError):
        deadline = nan
    if deadline == deadline:  # noqa: PLR0124 - NaN.
        return deadline
    wait_s = read_wait(timeout)
    return None if wait_s is None else monotonic() + wait_s
