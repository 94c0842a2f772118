"""`reset`: what brings an environment back to where it was, after each task and before a turn.

The rule that must not be broken: as long as one goes on it stands here since when and for which
runs, so that none that hangs keeps their outcomes for ever.
"""

import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from actor.events import resetting
from actor.running.endings import Ending
from actor.running.environment import Environments, Resident
from wire import payload
from wire.parts import Token

if TYPE_CHECKING:
    from actor.core import ActorCore
    from actor.running.context import Run


class Reset:
    """One that goes on."""

    __slots__ = ("at", "began", "ended")

    def __init__(self, ended: "Sequence[tuple[Run, Ending | None]]") -> None:
        """Begin in this thread. What has *ended* are runs with their outcomes, or they go on."""
        self.began = time.monotonic()
        self.ended = ended
        # Which thread is in there, or what it waits for.
        self.at: int | Awaitable[Any] = threading.get_ident()

    def runs(self) -> "Iterator[tuple[Token, Ending | None, float]]":
        """Yield each run with its outcome, if it has ended, and how long it ran."""
        for run, ending in self.ended:
            yield run.token, ending, self.began - run.began


class Resets:
    """All that go on."""

    def __init__(self, environments: Environments, lost: Callable[[str], None]) -> None:
        """Begin with none; *lost* hears of an environment whose reset has failed."""
        self._environments = environments
        self._lost = lost
        self._going_on: dict[Reset, None] = {}

    def look(self, core: "ActorCore") -> None:
        """Tell the core of each; for whoever leads."""
        for reset in list(self._going_on):
            resetting.goes_on(core, reset.began, reset.runs(), partial(self._where, reset))

    def _where(self, reset: Reset) -> str:
        """Say where one is, as a traceback does."""
        return self._environments.where_is(reset.at, (Resets.call.__code__, Resets._call.__code__))

    def call(self, of: Resident, ended: "Sequence[tuple[Run, Ending | None]]") -> None:
        """Call `reset`; after one that fails nobody more comes in. Never on the event loop."""
        reset = Reset(ended)
        self._going_on[reset] = None
        run = ended[0][0]
        try:
            self._call(of, run, reset)
        except BaseException as error:  # noqa: BLE001 - code of a user runs in here.
            run.log.warning("environment_reset_failed", reason=payload.told(error))
            self._lost(of.id)
        finally:
            del self._going_on[reset]

    def _call(self, of: Resident, run: "Run", reset: Reset) -> None:
        assert of.resets is not None
        returned = of.resets()
        if inspect.isawaitable(returned):
            reset.at = returned
            self._environments.wait_for(returned, run)
