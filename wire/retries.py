"""Which retries a call can ask for."""

from math import isfinite
from typing import Final

from wire.parts import Backoff, Call

RETRIES_MAX: Final = 1_000_000


def check_retries(call: Call) -> None:
    """Raise ValueError for retries that make no sense."""
    if not 0 <= call.retries <= RETRIES_MAX:
        raise ValueError(f"retries {call.retries} is not 0 to {RETRIES_MAX}")
    if call.retries and call.at_most_once:
        raise ValueError(
            f"{call.name!r} is at_most_once, so it is never started again: leave out retries"
        )
    if call.backoff is not None:
        check_backoff(call.backoff)


def check_backoff(backoff: Backoff) -> None:
    """Raise ValueError for a back-off that makes no sense."""
    if not all(
        isfinite(seconds) and seconds >= 0.0 for seconds in (backoff.initial_s, backoff.max_s)
    ):
        raise ValueError(f"{backoff}: initial_s and max_s are seconds of at least 0")
    if backoff.initial_s > backoff.max_s:
        raise ValueError(f"{backoff}: initial_s is above max_s")
    if not (isfinite(backoff.factor) and backoff.factor >= 1.0):
        raise ValueError(f"{backoff}: factor is at least 1")
    if not 0.0 <= backoff.jitter <= 1.0:
        raise ValueError(f"{backoff}: jitter is a share from 0 to 1")
