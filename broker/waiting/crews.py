"""Crews: the actors that satisfy the same tasks, in order of choice, and who waits for them.

A *crew* is all actors that satisfy some shapes, with what a task of these costs. Shapes for
the same actors at the same cost share one crew whatever they desire, so 100,000 kinds of tasks that
nobody satisfies, or everybody, are one queue. An actor that may take more, or offers something
else, touches its own crews only. The rule that must not be broken: a queue is blocked only while no
actor of its crew can take a task from it.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from broker.waiting.queues import ColdQueue, Queue, Ready, WaitingQueue
from broker.waiting.rankings import (
    AVAILABLE_BITS,
    EASE_BITS,
    PLACE,
    PREFERENCE_BITS,
    WARM,
    WARM_PLACE,
    Entry,
    Ranking,
)
from broker.waiting.shapes import Shape

if TYPE_CHECKING:
    from broker.facts.peers import Actor

# Rankings of environments that nobody asks for are dropped beyond so many.
WARM_MIN: Final = 64


class Crew:
    """The actors that satisfy some shapes, as far as one cost goes."""

    __slots__ = (
        "aside",
        "cold",
        "cold_ranking",
        "cost",
        "is_large",
        "is_plain",
        "is_special",
        "is_usual",
        "mask",
        "may_wait_ahead",
        "members",
        "plain",
        "queues",
        "ranking",
        "users",
        "waiting",
        "warm",
    )

    def __init__(self, mask: int, members: "dict[Actor, None]", sample: Shape) -> None:
        """Begin without a queue. What a task costs is as with *sample*."""
        self.mask = mask
        self.members = members
        self.cost = cost = sample.cost
        self.is_plain = cost.is_plain
        self.may_wait_ahead = cost.may_wait_ahead
        self.is_large = cost.is_large
        # Something may have to be done for these, though no actor became better.
        self.is_special = cost.is_large or cost.fail_infeasible or bool(cost.host_limits)
        # Whoever has a slot and a turn can have a task.
        is_small = cost.is_plain or (cost.is_sharing and not cost.named)
        self.is_usual = is_small and not self.is_special and sample.limits is None
        # How many shapes wait here; how many look here for actors of some weight.
        self.users = 0
        # The queue without environment, and those with one.
        self.plain: Queue | None = None
        self.queues: dict[str, Queue] = {}
        self.cold = ColdQueue()
        # Shapes whose tasks like these better than others that are free, if there are any.
        self.waiting: WaitingQueue | None = None
        # Shapes with tasks that were rejected.
        self.aside: dict[Shape, None] = {}
        # Rankings are made when somebody asks for them.
        self.ranking: Ranking | None = None
        self.warm: dict[str, Ranking] = {}
        self.cold_ranking: Ranking | None = None

    def queue(self, environment: str | None) -> Queue:
        """Return the queue for *environment*, made when it is not there."""
        if environment is None:
            if self.plain is None:
                self.plain = Queue(self, None)
            return self.plain
        queue = self.queues.get(environment)
        if queue is None:
            queue = self.queues[environment] = Queue(self, environment)
        return queue

    # --- how good an actor is

    def grade(self, actor: "Actor") -> int:
        """Grade *actor* for a task without environment; 0 when it can have none."""
        credit = actor.credit
        if actor.is_shut:
            return 0
        if not self.is_plain:
            return PLACE + credit.slots_available if credit.has_slots(self.cost) else 0
        available, ahead = credit.available, credit.stated.ahead
        if available > ahead:
            return PLACE + available - ahead
        return available if self.may_wait_ahead else 0

    def takes(self, actor: "Actor") -> int:
        """Return how many tasks in a row *actor*, whose grade is not 0, can have, at least."""
        if not self.is_plain:
            return 1
        credit = actor.credit
        return credit.available if self.may_wait_ahead else credit.available - credit.stated.ahead

    def grade_warm(self, environment: str, actor: "Actor") -> int:
        """Grade *actor*, where *environment* is resident by its own word."""
        credit, cost = actor.credit, self.cost
        stated, flying = credit.stated, credit.turns_flying
        turns = stated.turns.get(environment)
        if turns is None or actor.is_shut:
            return 0
        if flying:
            turns -= flying.get(environment, 0)
        is_warm = turns >= cost.turns_taken
        available, ahead = credit.available, stated.ahead
        if is_warm and (
            available > ahead if self.is_plain else credit.has_slots_in(environment, cost)
        ):
            # Of a call that shares a slot there may be no other one.
            free = available - ahead if available > ahead else 0
            copy = actor.copies.get(environment)
            preference = copy.preference if copy is not None else 0
            if cost.packs:
                return WARM_PLACE + (preference << AVAILABLE_BITS) + free
            return WARM_PLACE + (free << PREFERENCE_BITS) + preference
        # Behind a replica that is warm here a task may wait in the mailbox.
        if self.may_wait_ahead and ahead > 0 and available:
            return available + (WARM if is_warm else 0)
        return 0

    def grade_cold(self, actor: "Actor") -> int:
        """Grade *actor* for a task whose environment is not resident there."""
        credit = actor.credit
        if actor.is_shut or not credit.has_room or not credit.has_slots_in(None, self.cost):
            return 0
        return PLACE + credit.slots_available + (actor.ease << EASE_BITS)

    # --- the best actor

    def best(self) -> Entry | None:
        """Return the entry of the best actor for a task without environment."""
        return (self.ranking or self.rank()).first()

    def rank(self) -> Ranking:
        """Bring the actors in order for tasks without environment."""
        ranking = self.ranking = Ranking(self.grade)
        self._fill(ranking, self.grade)
        return ranking

    def best_for(self, environment: str, *, is_skipped: bool) -> Entry | None:
        """Return the entry of the best actor for a task in *environment*, whose ranking is there.

        *is_skipped*: it is known that nobody else has room for it.
        """
        warm = self.warm[environment].first()
        if is_skipped or (warm is not None and -warm[0] >= PLACE):
            return warm
        cold = self._cold_ones().first_without(environment)
        return warm if cold is None else cold

    def rank_warm(self, environment: str, resident: "dict[str, dict[Actor, None]]") -> Ranking:
        """Bring in order for *environment* those where it is *resident*."""
        if len(self.warm) > WARM_MIN + 2 * len(self.queues):
            self.warm.clear()
        grade = partial(self.grade_warm, environment)
        ranking = self.warm[environment] = Ranking(grade)
        for actor in resident.get(environment, ()):
            if actor in self.members:
                actor.ranked_as = None
                if found := grade(actor):
                    ranking.offer(actor, found)
        return ranking

    def has_room(self) -> bool:
        """Tell whether some environment could be loaded somewhere."""
        return self._cold_ones().first() is not None

    def _cold_ones(self) -> Ranking:
        if self.cold_ranking is None:
            self.cold_ranking = Ranking(self.grade_cold)
            self._fill(self.cold_ranking, self.grade_cold)
        return self.cold_ranking

    def _fill(self, ranking: Ranking, grade: "Callable[[Actor], int]") -> None:
        for actor in self.members:
            actor.ranked_as = None
            if found := grade(actor):
                ranking.offer(actor, found)

    # --- changes

    def improve(self, actor: "Actor", ready: Ready) -> None:
        """Note that *actor* may take more than before, and unblock the queues it may take from."""
        ranking, plain = self.ranking, self.plain
        if ranking is not None or plain is not None:
            grade = self.grade(actor)
            if grade and ranking is not None:
                ranking.offer(actor, grade)
            if plain is not None and plain.is_blocked and (grade or self.is_large):
                plain.is_blocked = False
                ready.enter(plain)
            if self.waiting is not None and (grade or self.is_large):
                self.unblock_waiting(ready)
        if self.warm or self.cold_ranking is not None or self.queues:
            self._improve_environments(actor, ready)

    def _improve_environments(self, actor: "Actor", ready: Ready) -> None:
        credit = actor.credit
        for environment in credit.stated.turns:
            ranking, queue = self.warm.get(environment), self.queues.get(environment)
            if (ranking is not None or queue is not None) and (
                grade := self.grade_warm(environment, actor)
            ):
                if ranking is not None:
                    ranking.offer(actor, grade)
                if queue is not None and queue.is_blocked:
                    queue.is_blocked = False
                    ready.enter(queue)
        grade = self.grade_cold(actor)
        cold = self.cold
        if grade:
            if self.cold_ranking is not None:
                self.cold_ranking.offer(actor, grade)
            for queue in [q for q in cold.skipped if not credit.has_resident(q.environment or "")]:
                self._unskip(queue)
            cold.is_blocked = False
            ready.enter(cold)
        if self.is_large:
            self.unblock(ready)

    def _unskip(self, queue: Queue) -> None:
        del self.cold.skipped[queue]
        queue.is_skipped = False
        rank = queue.rank
        if rank is not None:
            self.cold.push(queue, rank)

    def unblock(self, ready: Ready) -> None:
        """Let every queue be looked at again."""
        for queue in self.cold.skipped.copy():
            self._unskip(queue)
        self.cold.is_blocked = False
        for one in (self.plain, *self.queues.values(), self.cold):
            if one is not None:
                one.is_blocked = False
                ready.enter(one)
        self.unblock_waiting(ready)

    def unblock_waiting(self, ready: Ready) -> None:
        """Let those be looked at again that wait for one of these actors rather than for any."""
        if self.waiting is not None and self.waiting.is_blocked:
            self.waiting.is_blocked = False
            ready.enter(self.waiting)

    def block(self, queue: Queue) -> None:
        """Note that no actor can take a task from *queue* now."""
        queue.is_blocked = True
        queue.entry = None
        if queue.environment is not None:
            if self.has_room():
                self.cold.skip(queue)
            else:
                self.cold.is_blocked = True
                self.cold.entry = None

    def drop(self, actor: "Actor") -> None:
        """Forget *actor* in every ranking."""
        del self.members[actor]
        for ranking in (self.ranking, self.cold_ranking, *self.warm.values()):
            if ranking is not None:
                ranking.drop(actor)

    def renew(self, actor: "Actor") -> None:
        """Note that *actor* was used longer ago than it counted as."""
        for ranking in (self.ranking, self.cold_ranking, *self.warm.values()):
            if ranking is not None:
                ranking.renew(actor)

    def leave(self, queue: Queue) -> None:
        """Let go of a queue under which no shape is any more."""
        environment = queue.environment
        if environment is None:
            self.plain = None
        else:
            del self.queues[environment]
            self.warm.pop(environment, None)
            self.cold.skipped.pop(queue, None)
        queue.entry = queue.cold_entry = None

    def check(self) -> None:
        """Assert that the rankings are not below what the actors can take."""
        if self.ranking is not None:
            self.ranking.check(self.members)
        for ranking in self.warm.values():
            ranking.check(self.members)
        if self.cold_ranking is not None:
            self.cold_ranking.check(self.members)
        assert (
            sum(queue.shapes for queue in (*self.queues.values(), self.plain) if queue)
            <= self.users
        )
        for queue in self.cold.skipped:
            assert queue.is_skipped
            assert queue.cold_entry is None
