"""The environments that are loaded here: entered once, used by many runs, left in the end.

Which one is entered, used or evicted is the core's decision; here it is done, in the thread of the
run that needs it. The rule that must not be broken: what was entered is left, by eviction or at the
end, once.
"""

import inspect
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final

import structlog

from actor.mailbox import Buffer
from actor.threads import EventLoopThread
from wire import payload
from wire.parts import Environment

EXIT_TIMEOUT_S: Final = 10.0

log = structlog.get_logger("actor")


class Resident:
    """One loaded copy."""

    __slots__ = ("id", "instance", "name", "resets")

    def __init__(self, environment: Environment, instance: Any) -> None:
        """Hold what `enter` is about to prepare."""
        self.id = environment.id
        self.name = environment.name
        self.instance = instance
        # A hook that is not there, or does nothing, costs a run nothing.
        reset = getattr(instance, "reset", None)
        inherited = getattr(type(instance), "reset", None)
        does_nothing = getattr(inherited, "__module__", "").partition(".")[0] == "sdk"
        self.resets: Callable[[], Any] | None = None if does_nothing else reset


class Environments:
    """What is loaded here, by the id of the environment."""

    def __init__(self, loop: EventLoopThread) -> None:
        """Begin with nothing."""
        self._loop = loop
        self._residents: dict[str, Resident] = {}
        # How many evictions of an environment were done before their own run came to it.
        self._evicted_early: Counter[str] = Counter()
        self._lock = threading.Lock()

    def find(self, identity: str) -> Resident | None:
        """Return the loaded copy, or None."""
        return self._residents.get(identity)

    def load(self, environment: Environment, blob: Buffer) -> Resident:
        """Unpickle and enter an environment; raise what the user's code raises, keeping nothing."""
        with self._lock:
            # To be evicted by another run, whose thread is slower than this one.
            former = self._residents.pop(environment.id, None)
            if former is not None:
                self._evicted_early[environment.id] += 1
        if former is not None:
            self._leave(former)
        pair: tuple[Callable[[], Any], dict[str, Any]] = payload.load(blob, ())  # type: ignore[assignment]
        kind, parameters = pair
        instance = kind()
        resident = Resident(environment, instance)
        try:
            enter = getattr(instance, "enter", None)
            if enter is not None:
                self.call(enter, **parameters)
        except BaseException:
            # Half of it may be there: what it has taken so far is given back.
            self._leave(resident)
            raise
        with self._lock:
            self._residents[environment.id] = resident
        return resident

    def evict(self, identities: Iterable[str]) -> None:
        """Leave these environments; what their `exit` raises is logged."""
        for identity in identities:
            with self._lock:
                if self._evicted_early[identity]:
                    self._evicted_early[identity] -= 1
                    continue
                del self._evicted_early[identity]
                resident = self._residents.pop(identity, None)
            if resident is not None:
                self._leave(resident)

    def close(self, timeout_s: float = EXIT_TIMEOUT_S) -> None:
        """Leave all environments, in threads of their own, for at most *timeout_s*."""
        with self._lock:
            residents = list(self._residents.values())
            self._residents.clear()
        threads = [
            threading.Thread(target=self._leave, args=(resident,), daemon=True)
            for resident in residents
        ]
        for thread in threads:
            thread.start()
        for thread, resident in zip(threads, residents, strict=True):
            thread.join(timeout_s)
            if thread.is_alive():
                log.warning(
                    "environment_exit_timed_out", environment=resident.name, after_s=timeout_s
                )

    def call(self, hook: Callable[..., Any], **parameters: object) -> Any:
        """Call a sync or async hook and wait for its end; never on the event loop."""
        returned = hook(**parameters)
        if inspect.isawaitable(returned):
            return self._loop.wait(returned)
        return returned

    def _leave(self, resident: Resident) -> None:
        leave = getattr(resident.instance, "exit", None)
        if leave is None:
            return
        try:
            self.call(leave)
        except BaseException as error:  # noqa: BLE001 - code of a user runs in here.
            log.warning(
                "environment_exit_failed", environment=resident.name, reason=payload.told(error)
            )
