"""What the clients of the chaos call, and what their tasks do: each writes down its own history."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import sdk
from sdk import Client, TaskFuture, current_task
from tests.chaos import history
from tests.support.deployment import wait_until

IN_FLIGHT = 16
LOOK_S = 0.005
# A limit for one, strict: what holds it ends before anybody else has it.
STRICT, STRICT_SHARE = "key", 0.2
LARGE, LARGE_SHARE = bytes(8 * 2**20), 0.01
# Long enough for a machine that is busy with other things: what takes longer counts as stuck.
TIMEOUT_S = 120.0


def last(duration_s: float) -> None:
    """Be a task that takes so long."""
    Event().wait(duration_s)


def work(path: str, key: str, duration_s: float, how: str, octets: bytes = b"") -> list[int]:
    """Note the beginning and the end; return the token, which no other run has."""
    task = current_task()
    token = list(task.token)
    history.note(path, what=history.BEGAN, key=key, token=token)
    if how == "strict":
        history.note(path, what=history.HELD, key=key, token=token)
    last(duration_s)
    match how:
        case "release":
            task.release_slot()
            last(duration_s)
        case "reacquire":
            with task.released_slot():
                last(duration_s)
        case "limit":
            with task.limit("db"):
                last(duration_s)
        case "strict":
            history.note(path, what=history.FREED, key=key, token=token)
    history.note(path, what=history.ENDED, key=key, token=token)
    return token


class Load:
    """One client's calls: always so many in flight, each noted in its history."""

    def __init__(
        self, client: Client, path: Path, seed: int, name: str = "main", *, is_durable: bool = False
    ) -> None:
        self.client = client
        self.path = str(path)
        self.name = name
        self.random = random.Random(seed)
        # Whether some calls are.
        self.is_durable = is_durable
        self.futures: dict[str, TaskFuture] = {}
        # Durable calls that are not known to be in the journal.
        self.unsafe: dict[str, TaskFuture] = {}
        self.number = 0
        self.ended = 0
        # Numbers of calls with an outcome, above all that are waited for.
        self.newest = -1
        # So many are in flight.
        self.in_flight = IN_FLIGHT
        # Whether some calls take the limit that nobody may have beside another, whatever happens.
        self.has_strict = False
        # And whether some have large arguments.
        self.has_large = False
        # When it was looked at last, and the longest time between two looks.
        self.looked_at = time.monotonic()
        self.gap_s = 0.0

    def pump(self) -> None:
        """Take the outcomes that are there, and submit as many."""
        now = time.monotonic()
        self.gap_s, self.looked_at = max(self.gap_s, now - self.looked_at), now
        for key, future in list(self.unsafe.items()):
            if future.accepted(0):
                history.note(self.path, what=history.ACCEPTED, key=key)
            elif not future.done():
                continue
            del self.unsafe[key]
        for key, future in list(self.futures.items()):
            if future.done():
                del self.futures[key]
                self._settle(key, future)
        while len(self.futures) < self.in_flight:
            self.submit()

    def submit(self) -> None:
        """Submit a call of a random kind."""
        key = f"{self.name}-{self.number}"
        self.number += 1
        how = self.random.choice(("", "", "", "release", "reacquire", "limit"))
        once = self.random.random() < 0.1
        limits = {"db": 1} if self.random.random() < 0.1 and how != "limit" else {}
        if self.has_strict and self.random.random() < STRICT_SHARE:
            how, limits = "strict", {STRICT: 1}
        duration_s = self.random.choice((0.0, 0.002, 0.02, 0.1))
        durable: dict[str, Any] = {}
        if self.is_durable and self.random.random() < 0.5:
            durable = {"durable": True}
            if not once and self.random.random() < 0.5:
                durable = {"idempotency_key": key}
        history.note(
            self.path,
            what=history.CALLED,
            key=key,
            client=self.name,
            once=once,
            durable=durable,
            arguments=[duration_s, how],
            limits=limits,
        )
        options = self.client.options(at_most_once=once, limits=limits, **durable)
        large = (LARGE,) if self.has_large and self.random.random() < LARGE_SHARE else ()
        future = options.submit(work, self.path, key, duration_s, how, *large)
        self.futures[key] = future
        if durable:
            history.note(self.path, what=history.NAMED, key=key, task=future.task_id)
            self.unsafe[key] = future

    def _settle(self, key: str, future: TaskFuture) -> None:
        kind, token = outcome_of(future)
        self.ended += 1
        self.newest = max(self.newest, int(key.rpartition("-")[2]))
        history.note(self.path, what=history.OUTCOME, key=key, kind=kind, token=token)

    def run(self, seconds: float) -> None:
        """Go on for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.pump()
            last(LOOK_S)

    def until(self, question: Callable[[], Any], story: Callable[[], str]) -> float:
        """Go on until *question* is true; return how many seconds that took."""
        began = time.monotonic()

        def look() -> Any:
            self.pump()
            return question()

        wait_until(look, TIMEOUT_S, story)
        return time.monotonic() - began

    def drain(self, story: Callable[[], str]) -> None:
        """Take the outcomes of all that is in flight, and submit no more."""
        self.in_flight = 0

        def is_empty() -> bool:
            self.pump()
            return not (self.futures or self.unsafe)

        wait_until(is_empty, TIMEOUT_S, story)


def outcome_of(future: TaskFuture) -> tuple[str, list[int]]:
    """Return what kind of outcome a future that is done has, and the token of the run."""
    try:
        return "result", future.result(0)
    except sdk.WarmslotError as error:
        return type(error).__name__, []
