"""The fixed seeds, each run once in a session of tests, by whoever asks first, in any process.

What was seen in them is kept in files that all processes of the session share.
"""

import fcntl
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from broker.facts import task
from broker.facts.task import TRANSITIONS
from broker.placing import placement
from broker.tasks import forgetting, lifecycle
from tests.sim import machines
from tests.sim.run import little_garbage, run_world
from tests.sim.world import World

STEPS = 500
BATCH = 10


class Recording(dict[Any, Any]):
    """The table of transitions, which remembers what was looked up."""

    def __init__(self) -> None:
        """Begin with nothing seen."""
        super().__init__(TRANSITIONS)
        self.seen: set[Any] = set()

    def __getitem__(self, pair: Any) -> Any:
        """Look it up, and remember that."""
        self.seen.add(pair)
        return super().__getitem__(pair)


@contextmanager
def recorded() -> Iterator[set[Any]]:
    """Let every transition of a task be remembered in what is yielded."""
    table = Recording()
    with (
        patch.object(task, "TRANSITIONS", table),
        patch.object(lifecycle, "TRANSITIONS", table),
        patch.object(forgetting, "TRANSITIONS", table),
        patch.object(placement, "TRANSITIONS", table),
    ):
        yield table.seen


class Seen:
    """What was seen in some seeds: stories of what failed, and how often what happened."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.stories: list[str] = []
        self.counts: Counter[str] = Counter()

    def add(self, other: "Seen") -> None:
        """Join what was seen in other seeds."""
        self.stories += other.stories
        self.counts += other.counts


class Fixed:
    """The first *seeds* seeds, in batches."""

    def __init__(self, folder: Path, seeds: int) -> None:
        """Keep what was seen in *folder*, which other processes may share."""
        self._folder = folder
        self.batches = [range(at, min(at + BATCH, seeds)) for at in range(0, seeds, BATCH)]

    def run(self, batch: range) -> Seen:
        """Return what was seen in a batch; the first who asks runs it, others wait for that."""
        return self._run(batch, fcntl.LOCK_EX)

    def run_all(self) -> Seen:
        """Return what was seen in all; from the end, since others may have begun at the front.

        What another runs just now is waited for last, so that those who ask at once share the work.
        """
        seen = Seen()
        for batch in reversed(self.batches):
            with suppress(BlockingIOError):
                self._run(batch, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for batch in self.batches:
            seen.add(self.run(batch))
        return seen

    def _run(self, batch: range, lock: int) -> Seen:
        """Return what was seen in a batch, once it is locked as *lock* says."""
        seen = Seen()
        path = self._folder / f"seeds-{batch.start}-{batch.stop}.json"
        with path.open("a+") as file:
            fcntl.flock(file, lock)
            file.seek(0)
            text = file.read()
            if not text:
                seen = run_batch(batch)
                json.dump([seen.stories, seen.counts], file)
                return seen
        seen.stories, counts = json.loads(text)
        seen.counts.update(counts)
        return seen


def run_batch(batch: range) -> Seen:
    """Run some seeds."""
    seen = Seen()
    with recorded() as transitions, machines.watched() as met, little_garbage():
        for seed in batch:
            world = World(seed)
            story = run_world(world, seed, STEPS)
            seen.stories += [story] if story else []
            seen.counts.update(world.faults)
            seen.counts.update(drawn(world))
    seen.counts.update(named(pair) for pair in transitions)
    seen.counts.update({"{} {}: {}".format(*pair): count for pair, count in met.items()})
    return seen


def drawn(world: World) -> Iterator[str]:
    """Name what the seed drew of its own."""
    profile = world.profile
    yield from (f"shrunk {name}" for name in profile.shrunk)
    yield from (f"draws {name}" for name in profile.faults)


def named(pair: Any) -> str:
    """Name a transition as it is counted."""
    state, event = pair
    return f"{state} {event}"
