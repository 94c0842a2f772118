"""What has to be exact, whatever is killed: counts and orders, keys, tries, families of calls.

As in `history`, nothing is believed but what clients and tasks know themselves.
"""

import time
from collections import Counter, deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sdk
from sdk import Client, TaskFuture, current_task
from tests.chaos import history
from tests.chaos.load import Load, last

if TYPE_CHECKING:
    from tests.chaos.cluster import Cluster

IN_FLIGHT: Final = 4
TREE_DEPTH: Final = 2
LEAF_S: Final = 0.6
TICK, TICK_S = "tick", 0.05
# Where a disk is full, or where a task was in too many processes that died.
REFUSED: Final = ("NotDurable", "PoisonTask")


class Ledger:
    """A named actor whose state is which calls it had, in their order."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def add(self, key: str, duration_s: float) -> int:
        last(duration_s)
        self.keys.append(key)
        return len(self.keys)

    def read(self) -> list[str]:
        return list(self.keys)

    def checkpoint(self) -> list[str]:
        return self.keys

    def restore(self, keys: list[str]) -> None:
        self.keys = list(keys)


class Flaky(Exception):
    """What a task raises that is to be tried again."""


def flaky(path: str, key: str, fails: int) -> int:
    """Fail so often, by a count that outlives every process; return how often that was."""
    count = Path(f"{path}.{key}")
    failed = count.stat().st_size if count.exists() else 0
    if failed < fails:
        with count.open("ab") as file:
            file.write(b".")
        raise Flaky(key)
    return failed


def shared() -> list[int]:
    """Be a call that several find; return the token, which no other run has."""
    last(TICK_S)
    return list(current_task().token)


def tree(path: str, key: str, depth: int) -> str:
    """Call a task that calls a task, and wait for it."""
    task = current_task()
    if depth:
        return str(task.client.submit(tree, path, key, depth - 1, durable=True).result())
    end = time.monotonic() + LEAF_S
    while time.monotonic() < end:
        task.raise_if_canceled()
        history.note(path, what=TICK, key=key)
        last(TICK_S)
    return key


class Book:
    """What one client has added to a durable ledger, and what came of it."""

    def __init__(self, client: Client, name: str, tries: int) -> None:
        self.name = name
        self.tries = tries
        self.handle = client.actor(Ledger, name=name, durable=True, max_task_retries=tries)
        self.waiting: deque[tuple[str, TaskFuture]] = deque()
        self.called: list[str] = []
        self.had: dict[str, tuple[str, Any]] = {}

    def pump(self, most: int) -> None:
        """Note what has an outcome, and add more."""
        for key, future in [one for one in self.waiting if one[1].done()]:
            self.waiting.remove((key, future))
            try:
                self.had[key] = "result", future.result(0)
            except sdk.WarmslotError as error:
                self.had[key] = type(error).__name__, str(error)
        while len(self.waiting) < most:
            key = f"{self.name}-{len(self.called)}"
            self.called.append(key)
            self.waiting.append((key, self.handle.add.submit(key, 0.01)))

    def check(self, found: list[str]) -> Counter[str]:
        """Hold what was *found* in the ledger against what was told of each call."""
        places = {key: place for place, key in enumerate(found, 1)}
        if len(places) != len(found):
            raise history.Broken(f"{self.name}: counted twice: {Counter(found).most_common(3)}")
        if found != [key for key in self.called if key in places]:
            raise history.Broken(f"{self.name}: not in the order of the calls: {found}")
        for key in self.called:
            kind, said = self.had[key]
            if kind == "result" and places.get(key) != said:
                raise history.Broken(f"{key}: told {said}, stands at {places.get(key)}")
            if kind == "NotDurable" and key in places:
                raise history.Broken(f"{key} is refused, and it is there")
            may_be_lost = kind == "ActorLost" and not self.tries
            if kind not in ("result", "NotDurable") and not may_be_lost:
                raise history.Broken(f"{key}: {kind}: {said}")
        return Counter(f"{self.name} {kind}" for kind, _ in self.had.values())


class ExactLoad(Load):
    """The load of the other scenarios, and beside it what is exact."""

    def __init__(self, it: "Cluster") -> None:
        """Begin with two ledgers: in one a call in doubt runs again, in the other it ends."""
        super().__init__(it.client(), it.history, it.seed, is_durable=True)
        self.other = it.client()
        self.books = [Book(self.client, "whole", -1), Book(self.client, "doubted", 0)]
        # How often each is to fail; calls that two make, or one makes and another finds; trees.
        self.fails: dict[str, int] = {}
        self.exact: dict[str, list[TaskFuture]] = {}
        self.canceled: set[str] = set()
        self.counts: Counter[str] = Counter()

    def pump(self) -> None:
        """Take the outcomes that are there, and submit as many."""
        super().pump()
        is_ending = not self.in_flight
        for book in self.books:
            book.pump(0 if is_ending else IN_FLIGHT)
        for key, futures in list(self.exact.items()):
            if len(futures) == 1 and key.startswith("found") and futures[0].accepted(0):
                futures.append(self.other.get_future(futures[0].task_id))
            if all(future.done() for future in futures):
                del self.exact[key]
                self._judge(key, [outcome(future) for future in futures])
        if not is_ending:
            self._submit_exact()

    def is_settled(self) -> bool:
        """Tell whether nothing exact is in flight any more."""
        self.pump()
        return not self.exact and not any(book.waiting for book in self.books)

    def _submit_exact(self) -> None:
        kinds = Counter(key.partition("-")[0] for key in self.exact)
        number = self.counts["calls"]
        self.counts["calls"] += 1
        if kinds["flaky"] < 2:
            key, fails = f"flaky-{number}", self.random.randrange(3)
            self.fails[key] = fails
            options = self.client.options(
                retries=fails,
                retry_on=Flaky,
                retry_backoff=TICK_S,
                durable=self.random.random() < 0.5,
            )
            self.exact[key] = [options.submit(flaky, self.path, key, fails)]
        if kinds["pair"] < 2:
            key = f"pair-{number}"
            both = self.random.sample((self.client, self.other), 2)
            self.exact[key] = [one.submit(shared, idempotency_key=key) for one in both]
        if kinds["found"] < 2:
            self.exact[f"found-{number}"] = [self.client.submit(shared, durable=True)]
        trees = [key for key in self.exact if key.startswith("tree")]
        if not trees:
            key = f"tree-{number}"
            self.exact[key] = [self.client.submit(tree, self.path, key, TREE_DEPTH, durable=True)]
        elif self.random.random() < 0.01 and trees[0] not in self.canceled:
            self.canceled.add(trees[0])
            self.exact[trees[0]][0].cancel()

    def _judge(self, key: str, outcomes: list[tuple[str, Any]]) -> None:
        what = key.partition("-")[0]
        kinds = [kind for kind, _ in outcomes]
        self.counts[" ".join((what, *sorted(kinds)))] += 1
        told = [value for kind, value in outcomes if kind == "result"]
        # Once its client has it, nobody finds it any more.
        if what == "found" and kinds == ["result", "OutcomeUnknown"]:
            return
        if "TaskCanceled" in kinds and key in self.canceled:
            return
        if any(kind not in ("result", *REFUSED) for kind in kinds):
            raise history.Broken(f"{key} ended with {outcomes}")
        if any(value != told[0] for value in told):
            raise history.Broken(f"{key} has more than one outcome: {outcomes}")
        if what == "flaky" and told and told[0] != self.fails[key]:
            raise history.Broken(f"{key} failed {told[0]} times, and not {self.fails[key]}")


def outcome(future: TaskFuture) -> tuple[str, Any]:
    """Return how a future ended, and with what."""
    try:
        return "result", future.result(0)
    except (sdk.WarmslotError, Flaky) as error:
        return type(error).__name__, str(error)
