"""Which shapes wait for which crew, kept true while actors come, go and change what they offer.

A shape is *attached* from its first task on, and for a while after its last. What changes for an
actor is looked up by the labels that changed, so it costs what it affects; a crew all of whose
shapes gain or lose the same actor just gains or loses it.
"""

from collections import deque
from collections.abc import Callable, Iterable
from math import inf
from typing import TYPE_CHECKING, Final

from broker.facts.deadlines import Deadlines
from broker.facts.offers import Offers
from broker.facts.task import Task
from broker.waiting.crews import Crew
from broker.waiting.queues import Queue, Ready, WaitingQueue
from broker.waiting.rankings import Entry
from broker.waiting.shapes import Choosy, Shape
from wire.labels import satisfies_all

if TYPE_CHECKING:
    from broker.facts.peers import Actor

# So many shapes without tasks stay attached, since more tasks of them are likely.
RESTING_MAX: Final = 16_384

Key = tuple[int, tuple[object, ...]]


class Matching:
    """All crews, by who is in them and what a task costs."""

    __slots__ = (
        "_crews",
        "_resting",
        "_special",
        "blocks",
        "by_key",
        "leaving",
        "narrow",
        "offers",
        "patient",
        "ready",
        "reserved_rank",
        "resident",
        "unmet",
        "waits",
    )

    def __init__(self, ready: Ready) -> None:
        """Begin without actors; queues that may be served enter *ready*."""
        self.ready = ready
        # How often something was found for which nobody has room. Who is as he was when he was
        # ranked last, while it is the same, has nothing to improve.
        self.blocks = 0
        # Whoever stands there, or before it, is not bound by the reservation.
        self.reserved_rank = -inf
        self.offers = Offers()
        self._crews: dict[Key, Crew] = {}
        # Crews for which something may have to be done though no actor became better.
        self._special: dict[Crew, None] = {}
        # Attached shapes by the key that may be bound; who of a set may have their tasks then.
        self.by_key: dict[str, dict[Shape, None]] = {}
        self.narrow: Callable[[Shape, int], int] = lambda _, mask: mask
        # Shapes that no actor may satisfy, of which nobody was told, and some that were so.
        self.unmet: deque[Shape] = deque()
        # Attached shapes whose tasks may wait for a better actor; those whose tasks do so now, and
        # until when.
        self.patient: dict[Shape, None] = {}
        self.waits: Deadlines[Shape] = Deadlines()
        # Environment -> the actors that have it by their own word.
        self.resident: dict[str, dict[Actor, None]] = {}
        # Attached shapes that had no task lately, the longest first.
        self._resting: dict[Shape, None] = {}
        # Those of these that an actor came to or left since, with the queue in which they stood.
        # They stand in none, and go when there is time: no task waits for that.
        self.leaving: dict[Shape, Queue] = {}

    # --- shapes

    def attach(self, shape: Shape) -> None:
        """Let *shape* wait for the actors that satisfy it."""
        if self.leaving:
            self.tidy()
        self._join(shape, self._mask(shape))
        self.offers.watch(shape)
        if shape.sticky:
            self.by_key.setdefault(shape.sticky, {})[shape] = None
        if shape.wait is not None:
            self.patient[shape] = None

    def _mask(self, shape: Shape) -> int:
        """Return who may have tasks of *shape*."""
        mask = self.offers.satisfying(shape)
        return self.narrow(shape, mask) if shape.sticky else mask

    def rest(self, shape: Shape) -> None:
        """Note that *shape* has no task any more."""
        resting = self._resting
        resting[shape] = None
        if len(resting) > RESTING_MAX:
            oldest = next(iter(resting))
            del resting[oldest]
            if not oldest.count:
                self.detach(oldest)

    def detach(self, shape: Shape) -> None:
        """Forget *shape*, which has no tasks."""
        self.offers.unwatch(shape)
        self._leave(shape)
        self.patient.pop(shape, None)
        if shape.sticky:
            shapes = self.by_key[shape.sticky]
            del shapes[shape]
            if not shapes:
                del self.by_key[shape.sticky]

    def tidy(self) -> None:
        """Forget what is left of shapes without tasks."""
        leaving = self.leaving
        while leaving:
            shape, queue = leaving.popitem()
            shape.queue = queue
            self.detach(shape)

    def review(self, key: str) -> None:
        """Look anew at who may have the tasks with *key*, which may be bound otherwise now."""
        self._move(None, self.by_key.get(key, {}))

    def _join(self, shape: Shape, mask: int) -> None:
        crew = self._crew(mask, shape)
        crew.users += 1
        shape.queue = crew.queue(shape.cost.environment)
        shape.queue.shapes += 1
        self._note_unmet(shape)

    def _note_unmet(self, shape: Shape) -> None:
        assert shape.queue
        if (not shape.queue.crew.mask or shape.cost.host_limits) and shape.is_told is False:
            shape.is_told = None
            self.unmet.append(shape)

    def _leave(self, shape: Shape) -> None:
        queue = shape.queue
        assert queue is not None
        self._forget_tiers(shape)
        crew = queue.crew
        crew.aside.pop(shape, None)
        shape.queue = shape.entry = None
        queue.shapes -= 1
        if not queue.shapes:
            crew.leave(queue)
        self._unuse(crew)

    def _unuse(self, crew: Crew) -> None:
        crew.users -= 1
        if not crew.users:
            del self._crews[crew.mask, crew.cost.key]
            self._special.pop(crew, None)
            for actor in crew.members:
                del actor.crews[crew]

    def _crew(self, mask: int, sample: Shape) -> Crew:
        crew = self._crews.get((mask, sample.cost.key))
        if crew is None:
            members = self.offers.members(mask)
            crew = self._crews[mask, sample.cost.key] = Crew(mask, members, sample)
            for actor in members:
                actor.crews[crew] = None
            if crew.is_special:
                self._special[crew] = None
        return crew

    def bind(self, shape: Shape, home: "Actor | None", *, is_shut: bool) -> None:
        """Let tasks of *shape* go to *home* alone, with None to all who satisfy them.

        Or for now to nobody.
        """
        assert isinstance(shape, Choosy)
        shape.home, shape.is_shut = home, is_shut
        if shape.queue is not None:
            mask = self.offers.satisfying(shape)
            if mask != shape.queue.crew.mask:
                self._change(shape, mask)

    # --- choice

    def best(
        self, shape: Shape, *, may_enter: bool = True, among: Crew | None = None
    ) -> Entry | None:
        """Return the entry of the best actor that satisfies *shape* and has credit for it.

        Unless its tasks *may_enter* their environment, only of those that have it already. *among*:
        only of these, which are all from some weight upwards.
        """
        queue = shape.queue
        assert queue is not None
        if not shape.has_affinity:
            return self._best_of(queue.crew, shape, may_enter=may_enter)
        best: Entry | None = None
        best_key: tuple[int, float, int, int] | None = None
        for weight, crew in self._tiers(shape):
            entry = self._best_of(crew, shape, may_enter=may_enter)
            if entry is not None:
                key = (-entry[0] >> 40, weight, -entry[0], -entry[1])
                if best_key is None or key > best_key:
                    best, best_key = entry, key
            if crew is among:
                break
        return best

    def _best_of(self, crew: Crew, shape: Shape, *, may_enter: bool) -> Entry | None:
        environment = shape.cost.environment
        if environment is None:
            return crew.best()
        assert shape.queue
        if environment not in crew.warm:
            crew.rank_warm(environment, self.resident)
        is_skipped = shape.queue.is_skipped or not may_enter
        return crew.best_for(environment, is_skipped=is_skipped)

    def _tiers(self, shape: Shape) -> list[tuple[float, Crew]]:
        """Return the actors that have at least each weight, the highest weight first.

        Where the best have nothing left they are not in the way: who comes next is in the next.
        """
        if shape.tiers is None:
            assert shape.queue
            assert isinstance(shape, Choosy)
            shape.tiers = []
            above = 0
            for weight, mask in self.offers.tiers(shape, shape.queue.crew.mask):
                above |= mask
                crew = self._crew(above, shape)
                crew.users += 1
                shape.tiers.append((weight, crew))
        return shape.tiers

    def better(self, shape: Shape, actor: "Actor") -> Crew | None:
        """Return the actors that tasks of *shape* like better than *actor*, None for nobody."""
        better: Crew | None = None
        for _, crew in self._tiers(shape):
            if actor in crew.members:
                return better
            better = crew
        return None

    def _forget_tiers(self, shape: Shape) -> None:
        if shape.wait is not None and shape.wait.queue is not None:
            self.end_wait(shape)
        if shape.tiers is not None:
            assert isinstance(shape, Choosy)
            tiers, shape.tiers = shape.tiers, None
            for _, crew in tiers:
                self._unuse(crew)

    # --- actors

    def update(self, actor: "Actor", keys: list[str] | None = None) -> None:
        """Take over what *actor* offers now. Whoever calls says `improve` when it has credit.

        *keys*: those of its labels that it offers otherwise; its slots then are as they were.
        """
        if keys is None and actor.crews and not self.offers.is_known_as(actor):
            self.remove(actor)
        self._move(actor, self.offers.put(actor, keys))

    def remove(self, actor: "Actor") -> None:
        """Forget *actor*, which is gone."""
        self._move(actor, self.offers.drop(actor))
        self.tidy()
        self._note_resident(actor, {})
        assert not actor.crews

    def _move(self, actor: "Actor | None", shapes: dict[Shape, None]) -> None:
        """Let *shapes* wait for other crews, where *actor* satisfies them now or no longer.

        Without *actor* something else may have changed than who satisfies them.
        """
        moves: dict[tuple[Crew, int], list[Shape]] = {}
        for shape in shapes:
            if actor is not None and shape in self._resting and not (shape.count or shape.wait):
                # With its next task it is looked at anew; what may wait has its runs measured.
                del self._resting[shape]
                assert shape.queue
                self.leaving[shape], shape.queue = shape.queue, None
                continue
            if shape.queue is None:
                continue  # It is about to go.
            if shape.has_affinity:
                self._forget_tiers(shape)
            crew, mask = shape.queue.crew, self._mask(shape)
            if mask == crew.mask:
                continue
            if crew.users > len(shapes):
                # Others stay there, so it goes alone.
                self._change(shape, mask)
            else:
                moves.setdefault((crew, mask), []).append(shape)
        for (crew, mask), moving in moves.items():
            is_alone = actor is not None and mask ^ crew.mask == 1 << actor.number
            if is_alone and len(moving) == crew.users and (mask, crew.cost.key) not in self._crews:
                assert actor is not None
                self._rekey(crew, mask, actor)
                for shape in moving:
                    self._note_unmet(shape)
            else:
                for shape in moving:
                    self._change(shape, mask)

    def _rekey(self, crew: Crew, mask: int, actor: "Actor") -> None:
        """Let *actor* come to *crew*, or leave it."""
        del self._crews[crew.mask, crew.cost.key]
        self._crews[mask, crew.cost.key] = crew
        crew.mask = mask
        if actor in crew.members:
            crew.drop(actor)
            del actor.crews[crew]
        else:
            crew.members[actor] = None
            actor.crews[crew] = None
            actor.ranked_as = None

    def _change(self, shape: Shape, mask: int) -> None:
        self._leave(shape)
        self._join(shape, mask)
        shape.recall_aside()
        self.look(shape)

    def improve(self, actor: "Actor") -> None:
        """Note that *actor* may take more than before."""
        credit = actor.credit
        stated, is_settled = credit.stated, not credit.in_flight
        if is_settled and actor.ranked_at == self.blocks and actor.ranked_as == stated:
            return
        actor.ranked_as = stated if is_settled and not actor.is_shut else None
        actor.ranked_at = self.blocks
        turns = stated.turns
        if (turns or actor.resident) and turns.keys() != actor.resident.keys():
            self._note_resident(actor, turns)
        for crew in actor.crews:
            if crew.aside:
                for shape in crew.aside:
                    shape.recall_aside()
                    self.look(shape)
                crew.aside.clear()
            crew.improve(actor, self.ready)

    def _note_resident(self, actor: "Actor", turns: dict[str, int]) -> None:
        for environment in actor.resident.keys() - turns.keys():
            self.resident[environment].pop(actor)
            if not self.resident[environment]:
                del self.resident[environment]
        for environment in turns.keys() - actor.resident.keys():
            self.resident.setdefault(environment, {})[actor] = None
        actor.resident = dict.fromkeys(turns)

    def reconsider(self, actor: "Actor") -> None:
        """Look again at those that wait for *actor*, which may not be worth it any more."""
        for crew in actor.crews:
            crew.unblock_waiting(self.ready)

    def note_working(self, actor: "Actor") -> None:
        """Take over whether *actor* takes work."""
        if self.offers.note_working(actor):
            self.reconsider(actor)

    # --- what waits for a better actor

    def wait(self, shape: Shape, crew: Crew, until: float) -> None:
        """Let *shape*, the first of its queue, wait for one of *crew*, out of the way of others."""
        rank = shape.rank
        assert rank is not None
        if crew.waiting is None:
            crew.waiting = WaitingQueue(crew, self.waits)
        self.blocks += 1
        crew.waiting.push(shape, rank, until)
        # Who is there already has found nobody either.
        crew.waiting.is_blocked = True
        crew.waiting.entry = None
        shape.entry = None

    def end_wait(self, shape: Shape) -> None:
        """Let the first task of *shape* stand among all others again."""
        wait = shape.wait
        assert wait is not None
        if wait.queue is not None:
            wait.queue.drop(shape)
        self.look(shape)

    # --- what is looked at

    def look(self, shape: Shape) -> None:
        """Let *shape* stand in its queue with the rank that it has now, and in no other one."""
        rank, queue = shape.rank, shape.queue
        assert queue is not None
        if rank is None or (shape.entry is not None and shape.entry <= rank):
            return
        if shape.wait is not None and shape.wait.queue is not None:
            shape.wait.queue.drop(shape)
        queue.push(shape, rank)
        if shape.cost.alone is not None:
            # It was perhaps blocked for the sake of one that is to be alone, and is not first now.
            queue.is_blocked = False
        if not queue.is_blocked:
            self.ready.enter(queue)
        elif rank <= self.reserved_rank:
            # What is in the way of the others there may stand behind this one, to which the
            # reservation does not apply: it has it, or stands before who has.
            queue.crew.unblock(self.ready)
        if queue.environment is not None and not queue.is_skipped:
            cold = queue.crew.cold
            if queue.cold_entry is None or rank < queue.cold_entry:
                cold.push(queue, rank)
                if not cold.is_blocked:
                    self.ready.enter(cold)

    def set_aside(self, shape: Shape, task: Task) -> None:
        """Let *task*, which was rejected by whoever could take it, not be in the way of others."""
        self.blocks += 1
        shape.set_aside(task)
        assert shape.queue
        shape.queue.crew.aside[shape] = None

    def wake_special(self) -> None:
        """Look at those for which something may have to be done though no actor became better."""
        for crew in self._special:
            crew.unblock(self.ready)

    def wake_shapes(self, shapes: Iterable[Shape]) -> None:
        """Look at *shapes* again, for which an actor may do that did not before."""
        for shape in shapes:
            if shape.queue is not None:
                shape.queue.crew.unblock(self.ready)

    def wake(self) -> None:
        """Look at everything again; for what happens rarely and may concern anybody."""
        for crew in self._crews.values():
            for shape in crew.aside:
                shape.recall_aside()
                self.look(shape)
            crew.aside.clear()
            crew.unblock(self.ready)

    def check(self) -> None:
        """Assert that each crew is whoever satisfies its shapes, and knows how good they are."""
        users: dict[Crew, int] = {}
        for shape, queue in self.leaving.items():
            assert shape.queue is None
            assert not shape.count
            assert shape.wait is None
            for one in (queue.crew, *(tier for _, tier in shape.tiers or ())):
                users[one] = users.get(one, 0) + 1
        for shape in self.offers.watching():
            if shape in self.leaving:
                continue
            assert shape.queue is not None
            crew = shape.queue.crew
            suiting = {
                actor
                for actor in self.offers.actors
                if actor is not None
                and shape.may_go_to(actor)
                and shape.cost.fits(actor)
                and satisfies_all(actor.labels, shape.desires)
            }
            mask = sum(1 << actor.number for actor in suiting)
            if shape.sticky:
                mask = self.narrow(shape, mask)
                assert shape in self.by_key[shape.sticky]
            assert mask == crew.mask, (shape.desires, suiting, crew.members)
            assert (shape in self.patient) == (shape.wait is not None)
            assert crew.mask or shape.is_told is not False
            assert shape.is_told is not None or shape in self.unmet
            for one in (crew, *(tier for _, tier in shape.tiers or ())):
                users[one] = users.get(one, 0) + 1
        self._check_waits()
        assert users == {crew: crew.users for crew in self._crews.values()}
        for (mask, cost), crew in self._crews.items():
            assert (crew.mask, crew.cost.key) == (mask, cost)
            assert sum(1 << actor.number for actor in crew.members) == mask
            assert all(crew in actor.crews for actor in crew.members)
            crew.check()

    def _check_waits(self) -> None:
        """Assert that who takes work is known, and who waits for one of these alone."""
        self.waits.check()
        offers = self.offers
        working = [one for one in offers.actors if one is not None and one.takes_work]
        assert offers.working == sum(1 << actor.number for actor in working)
        for shape in self.patient:
            wait = shape.wait
            assert wait is not None
            assert (wait.queue is not None) == (shape in self.waits.things)
            if wait.queue is not None:
                assert wait.queue.crew.waiting is wait.queue
                assert shape.count
                assert shape.entry is None, "it stands among all others, and waits for a better one"
