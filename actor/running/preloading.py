"""Environments that an actor enters at its start, before any task needs them.

One that cannot be entered is no reason not to start: the first task that needs it tries again, and
is told why it failed.
"""

import importlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import reduce
from typing import TYPE_CHECKING

from actor.logs import log
from sdk.environment import Specification, specification_of
from wire import payload
from wire.parts import Environment

if TYPE_CHECKING:
    from actor.loop import Loop


def preload(loop: "Loop", environments: Sequence[str], then: Callable[[], object]) -> None:
    """Enter *environments*, each MODULE:CLASS, one after the other, while the actor works.

    *then* is called when all of them were tried.
    """
    if not environments:
        then()
        return
    threading.Thread(target=enter_all, args=(loop, environments, then), daemon=True).start()


def enter_all(loop: "Loop", environments: Sequence[str], then: Callable[[], object]) -> None:
    """Enter *environments*; what goes wrong with one is logged."""
    for text in environments:
        log.info("environment_preloads", environment=text)
        try:
            if not enter(loop, find(text)):
                log.warning("environment_not_preloaded", environment=text, reason="no room for it")
        except BaseException as error:  # noqa: BLE001 - code of a user runs in here.
            reason = payload.told(error)
            log.warning("environment_not_preloaded", environment=text, reason=reason)
    then()


def find(text: str) -> Specification:
    """Import the class that MODULE:CLASS names."""
    module, _, name = text.partition(":")
    return specification_of(reduce(getattr, name.split("."), importlib.import_module(module)))


def enter(loop: "Loop", specification: Specification) -> bool:
    """Enter an environment if there is room; tell whether there was."""
    captured = specification.captured()
    environment = specification.message(captured)
    has_room: Future[bool] = Future()
    loop.post(begin, loop, environment, has_room)
    if not has_room.result():
        return False
    began = time.monotonic()
    try:
        loop.slots.environments.load(environment, captured.code.stream)
    except BaseException:
        loop.post(loop.core.environment_lost, environment.id)
        raise
    loop.post(loop.core.entered, None, environment, time.monotonic() - began)
    return True


def begin(loop: "Loop", environment: Environment, has_room: "Future[bool]", now: float) -> None:
    """Let the core know that an environment is loading."""
    loop.core.now = now
    has_room.set_result(loop.core.mailbox.residents.preload(environment))
    loop.core.is_stale = True
