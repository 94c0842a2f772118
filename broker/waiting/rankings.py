"""The actors of a crew in the order of choice, the best first.

A ranking is told when an actor may have become better, and not when it became worse: an entry is
never worse than its actor is, and is put right when it comes first. So an assignment costs nothing
here, and a choice a few operations, however many actors there are.
"""

from collections.abc import Callable
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from broker.facts.peers import Actor

# A grade is how many slots are free, or how many tasks may wait where none is, above it whether the
# environment is warm, above that whether a task would start at once. 0: it can have none. Of a warm
# copy where it would start at once the slots stand above the copy's preference, and below who gives
# way where it is cold.
EASE_BITS: Final = 38
WARM: Final = 1 << 40
PLACE: Final = 1 << 41
WARM_PLACE: Final = PLACE + WARM
PREFERENCE_MAX: Final = (1 << 16) - 1
PREFERENCE_BITS: Final = 16
# Where tasks fill one copy before they use the next its preference stands above the slots.
AVAILABLE_BITS: Final = 23

# From here on a heap is made anew once the greater part of it is void.
VOID_MIN: Final = 64

# (the grade, negative; when it was used last; a number of its own; the actor)
Entry = tuple[int, int, int, "Actor"]


class Ranking:
    """Those of a crew that can have a task, with one environment or none."""

    __slots__ = ("_grade", "_heap", "_listed", "_sequence")

    def __init__(self, grade: "Callable[[Actor], int]") -> None:
        """Begin empty; *grade* tells how good an actor is now."""
        self._grade = grade
        self._heap: list[Entry] = []
        # The one entry of each actor that counts.
        self._listed: dict[Actor, Entry] = {}
        self._sequence = count()

    def offer(self, actor: "Actor", grade: int) -> None:
        """Note that *actor* has *grade* now, which is not 0."""
        listed = self._listed.get(actor)
        # What was listed with this grade was used no later than it is now.
        if listed is None or listed[0] > -grade:
            entry = self._listed[actor] = (-grade, actor.used_at, next(self._sequence), actor)
            heap = self._heap
            if len(heap) > VOID_MIN + 2 * len(self._listed):
                heap[:] = self._listed.values()
                heapify(heap)
            else:
                heappush(heap, entry)

    def renew(self, actor: "Actor") -> None:
        """List *actor* anew, where it is listed: its entry may be worse than it is."""
        listed = self._listed.pop(actor, None)
        if listed is None:
            return
        grade = self._grade(actor)
        if listed[0] != -grade:
            # It is to be told when the actor is as it was.
            actor.ranked_as = None
        if grade:
            self.offer(actor, grade)

    def drop(self, actor: "Actor") -> None:
        """Forget *actor*."""
        self._listed.pop(actor, None)

    def first(self) -> Entry | None:
        """Return the entry of the best actor, None when nobody can have a task."""
        heap, listed = self._heap, self._listed
        while heap:
            entry = heap[0]
            actor = entry[3]
            if listed.get(actor) is not entry:
                heappop(heap)
                continue
            grade = self._grade(actor)
            if entry[0] == -grade and entry[1] == actor.used_at:
                return entry
            if entry[0] != -grade:
                # It is to be told when the actor is as it was.
                actor.ranked_as = None
            if grade:
                entry = listed[actor] = (-grade, actor.used_at, next(self._sequence), actor)
                if len(heap) == 1:
                    heap[0] = entry
                    return entry
                heapreplace(heap, entry)
            else:
                heappop(heap)
                del listed[actor]
        return None

    @property
    def is_alone(self) -> bool:
        """Tell whether no more than one actor stands here."""
        return len(self._listed) == 1

    def best(self) -> "Actor | None":
        """Return the best actor, as `first` does, where nobody asks how good it is."""
        listed = self._listed
        if len(listed) == 1:
            # The only one is the best, and may stand here as better than it is.
            (actor,) = listed
            if self._grade(actor):
                return actor
        first = self.first()
        return first[3] if first is not None else None

    def best_from(self, grade: int) -> "Actor | None":
        """Return the best actor, as `first` does, if its grade is no lower than *grade*."""
        heap, listed = self._heap, self._listed
        if len(listed) == 1:
            (actor,) = listed
            return actor if self._grade(actor) >= grade else None
        if heap:
            entry = heap[0]
            actor = entry[3]
            if entry[1] != actor.used_at and listed.get(actor) is entry:
                # It was given a task since, and is no better for that: whoever is as good goes
                # ahead of it, and mostly nothing else is to be asked.
                entry = listed[actor] = (entry[0], actor.used_at, next(self._sequence), actor)
                heapreplace(heap, entry)
                entry = heap[0]
                actor = entry[3]
            if entry[1] == actor.used_at and listed.get(actor) is entry:
                found = self._grade(actor)
                if entry[0] == -found:
                    return actor if found >= grade else None
        first = self.first()
        return first[3] if first is not None and -first[0] >= grade else None

    def first_without(self, environment: str) -> Entry | None:
        """Return the entry of the best actor in which *environment* is not resident."""
        passed: list[Entry] = []
        while (entry := self.first()) is not None and entry[3].credit.has_resident(environment):
            passed.append(heappop(self._heap))
        for one in passed:
            heappush(self._heap, one)
        return entry

    def check(self, members: "dict[Actor, None]") -> None:
        """Assert that each of *members* is listed with a grade that is not below its own."""
        for actor in members:
            grade = self._grade(actor)
            if grade:
                entry = self._listed[actor]
                assert (entry[0], entry[1]) <= (-grade, actor.used_at), (actor.name, entry[:2])
                assert any(one is entry for one in self._heap)
        assert self._listed.keys() <= members.keys()
