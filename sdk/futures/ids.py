"""The futures whose ids somebody was told, also when they are done, while anybody holds them.

No code runs when one of them goes, as it would in a `WeakValueDictionary`: Python drops a Ctrl-C
that comes in that.
"""

import weakref
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sdk.futures.future import TaskFuture

# So many are told before it is looked which of them are gone.
TOLD_MIN: Final = 1_024


class ToldIds:
    """Which future has which number, of those whose id was told."""

    __slots__ = ("_futures", "_maximum")

    def __init__(self) -> None:
        """Begin with none."""
        self._futures: dict[int, weakref.ref[TaskFuture]] = {}
        self._maximum = TOLD_MIN

    def note(self, future: "TaskFuture") -> None:
        """Remember *future*. Of two threads one may lose it: then the broker is asked."""
        futures, number = self._futures, future.number
        if number not in futures:
            if len(futures) >= self._maximum:
                futures = {n: one for n, one in list(futures.items()) if one() is not None}
                self._futures, self._maximum = futures, TOLD_MIN + 2 * len(futures)
            futures[number] = weakref.ref(future)

    def get(self, number: int) -> "TaskFuture | None":
        """Return the future of that number, if anybody holds it."""
        one = self._futures.get(number)
        return one() if one is not None else None
