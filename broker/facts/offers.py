"""Which actors satisfy a task: what they offer, turned around.

For each key and value there is the set of actors that offer it. A set is an integer with one bit an
actor, so the actors that satisfy a task come from a few operations on integers, however many
there are. The rule that must not be broken: the answer is the one that `wire.labels` gives actor by
actor.
"""

from math import frexp, ldexp
from typing import TYPE_CHECKING, TypeVar

from wire.labels import (
    EQUAL,
    NEGATIVE,
    ORDER,
    Cell,
    Comparator,
    Desire,
    Labels,
    LabelValues,
    cell,
    cells,
    differing,
    is_number,
)

if TYPE_CHECKING:
    from broker.facts.peers import Actor
    from broker.waiting.shapes import Shape

Place = TypeVar("Place")


def keep(places: "dict[Place, Shape | dict[Shape, None]]", place: Place, shape: "Shape") -> None:
    """Let *shape* be found at *place*, where mostly nobody else is."""
    there = places.get(place)
    if isinstance(there, dict):
        there[shape] = None
    elif there is None or there is shape:
        places[place] = shape
    else:
        places[place] = {there: None, shape: None}


def forget(places: "dict[Place, Shape | dict[Shape, None]]", place: Place, shape: "Shape") -> None:
    """Let *shape* be found at *place* no more, and the place go where nobody is found."""
    there = places.get(place)
    if isinstance(there, dict):
        there.pop(shape, None)
        if there:
            return
    elif there is not shape:
        return
    del places[place]


def gather(found: "dict[Shape, None]", there: "Shape | dict[Shape, None]") -> None:
    """Add to *found* who is found at a place."""
    if isinstance(there, dict):
        found.update(there)
    else:
        found[there] = None


class Column:
    """Who offers a key, and which value of it."""

    __slots__ = ("offering", "values")

    def __init__(self) -> None:
        """Begin with nobody."""
        self.offering = 0
        self.values: dict[Cell, int] = {}

    def add(self, bit: int, values: LabelValues) -> None:
        """Let an actor offer *values*."""
        self.offering |= bit
        for one in cells(values) if isinstance(values, list) else (cell(values),):
            self.values[one] = self.values.get(one, 0) | bit

    def remove(self, bit: int, values: LabelValues) -> None:
        """Let an actor offer them no longer."""
        self.offering &= ~bit
        for one in cells(values) if isinstance(values, list) else (cell(values),):
            left = self.values.get(one, 0) & ~bit
            if left:
                self.values[one] = left
            else:
                self.values.pop(one, None)

    def equal(self, values: LabelValues) -> int:
        """Return who offers one of *values*."""
        found = 0
        for one in cells(values):
            found |= self.values.get(one, 0)
        return found

    def ordered(self, comparator: Comparator, value: object) -> int:
        """Return who offers a number that compares so with *value*."""
        if not is_number(value):
            return 0
        compare, found = ORDER[comparator], 0
        for one, offering in self.values.items():
            if is_number(one) and compare(one, value):
                found |= offering
        return found


class Offers:
    """The labels and slots of all actors, and which shapes look at which label."""

    __slots__ = (
        "_columns",
        "_equal",
        "_free",
        "_indexed",
        "_key",
        "_paces",
        "_slots",
        "_unbound",
        "actors",
        "all",
        "working",
    )

    def __init__(self) -> None:
        """Begin with nobody."""
        # The set of all actors.
        self.all = 0
        # Those that take work, and of which power of two seconds their runs take at least the half.
        self.working = 0
        self._paces: dict[int, int] = {}
        # By the number of their bit.
        self.actors: list[Actor | None] = []
        self._free: list[int] = []
        # What each is found under here; what it says may be newer.
        self._indexed: dict[Actor, tuple[Labels, dict[str, int]]] = {}
        self._columns: dict[str, Column] = {}
        self._slots: dict[str, dict[int, int]] = {}
        # Shapes that look at one value of a key, or at any; those that nobody has to offer
        # something for.
        self._equal: dict[str, dict[Cell, Shape | dict[Shape, None]]] = {}
        self._key: dict[str, Shape | dict[Shape, None]] = {}
        self._unbound: dict[Shape, None] = {}

    # --- actors

    def is_known_as(self, actor: "Actor") -> bool:
        """Tell whether *actor* is found here, with the slots that it has now."""
        known = self._indexed.get(actor)
        return known is not None and known[1] == actor.slots

    def put(self, actor: "Actor", keys: list[str] | None = None) -> "dict[Shape, None]":
        """Take over what *actor* offers now, and return the watching shapes that may differ.

        *keys*: those of its labels that it offers otherwise, where that is known.
        """
        former = self._indexed.get(actor)
        if former is None:
            if self._free:
                actor.number = self._free.pop()
                self.actors[actor.number] = actor
            else:
                actor.number = len(self.actors)
                self.actors.append(actor)
            self.all |= 1 << actor.number
            self._add(actor)
            self.note_working(actor)
            return self._watching(actor.labels)
        before, after = former[0], actor.labels
        bit = 1 << actor.number
        changed: dict[Shape, None] = {}
        for key in differing(before, after) if keys is None else keys:
            had, has = before.get(key), after.get(key)
            self._watching_key(changed, key, had, has)
            self._put_key(key, bit, had, has)
        if former[1] != actor.slots:
            self._remove_slots(bit, former[1])
            self._add_slots(bit, actor.slots)
        self._indexed[actor] = (after, actor.slots)
        return changed

    def drop(self, actor: "Actor") -> "dict[Shape, None]":
        """Forget *actor*, and return the watching shapes that may differ."""
        if actor not in self._indexed:
            return {}
        changed = self._watching(self._indexed[actor][0])
        self._remove(actor)
        self._forget_pace(actor)
        self.all &= ~(1 << actor.number)
        self.working &= self.all
        self.actors[actor.number] = None
        self._free.append(actor.number)
        return changed

    def note_working(self, actor: "Actor") -> bool:
        """Take over whether *actor* takes work, and tell whether that is new."""
        bit = 1 << actor.number
        if actor not in self._indexed or bool(self.working & bit) == actor.takes_work:
            return False
        self.working ^= bit
        return True

    def note_run(self, actor: "Actor", run_s: float) -> bool:
        """Take over how long runs of *actor* take, and tell whether that is another pace."""
        actor.run_s = run_s
        pace = frexp(run_s)[1]
        if actor.pace == pace or actor not in self._indexed:
            return False
        self._forget_pace(actor)
        actor.pace = pace
        self._paces[pace] = self._paces.get(pace, 0) | 1 << actor.number
        return True

    def _forget_pace(self, actor: "Actor") -> None:
        if actor.pace is not None:
            self._paces[actor.pace] &= ~(1 << actor.number)
            if not self._paces[actor.pace]:
                del self._paces[actor.pace]
        actor.pace = None

    def _add(self, actor: "Actor") -> None:
        bit = 1 << actor.number
        labels, slots = actor.labels, actor.slots
        for key, values in labels.items():
            self._columns.setdefault(key, Column()).add(bit, values)
        self._add_slots(bit, slots)
        self._indexed[actor] = (labels, slots)

    def _add_slots(self, bit: int, slots: dict[str, int]) -> None:
        for kind, amount in slots.items():
            amounts = self._slots.setdefault(kind, {})
            amounts[amount] = amounts.get(amount, 0) | bit

    def _remove(self, actor: "Actor") -> None:
        bit = 1 << actor.number
        labels, slots = self._indexed.pop(actor)
        for key, values in labels.items():
            self._remove_key(key, bit, values)
        self._remove_slots(bit, slots)

    def _put_key(
        self, key: str, bit: int, had: LabelValues | None, has: LabelValues | None
    ) -> None:
        column = self._columns.get(key)
        if has is None:
            assert had is not None
            self._remove_key(key, bit, had)
            return
        if column is None:
            column = self._columns[key] = Column()
        elif had is not None:
            column.remove(bit, had)
        column.add(bit, has)

    def _remove_key(self, key: str, bit: int, values: LabelValues) -> None:
        column = self._columns[key]
        column.remove(bit, values)
        if not column.offering:
            del self._columns[key]

    def _remove_slots(self, bit: int, slots: dict[str, int]) -> None:
        for kind, amount in slots.items():
            amounts = self._slots[kind]
            amounts[amount] &= ~bit
            if not amounts[amount]:
                del amounts[amount]

    # --- sets

    def members(self, among: int) -> "dict[Actor, None]":
        """Return the actors of a set; it costs what these do, however many others there are."""
        found: dict[Actor, None] = {}
        digits = bin(among)[:1:-1]
        number = digits.find("1")
        while number >= 0:
            actor = self.actors[number]
            if actor is not None:
                found[actor] = None
            number = digits.find("1", number + 1)
        return found

    def satisfying(self, shape: "Shape") -> int:
        """Return who has the capacity for a task of *shape* and meets all that it requires."""
        found = self.able(shape.cost.slots)
        if shape.home is not None or shape.is_shut:
            found &= 0 if shape.is_shut or shape.home is None else 1 << shape.home.number
        columns = self._columns
        for desire in shape.desires:
            if not found:
                break
            if desire.required:
                value = desire.value
                if desire.comparator is not EQUAL or value is None or isinstance(value, list):
                    found &= self.meeting(desire)
                else:
                    # As `meeting` says, and what is desired most.
                    column = columns.get(desire.key)
                    found &= column.values.get(cell(value), 0) if column is not None else 0
        return found

    def able(self, slots: dict[str, int]) -> int:
        """Return who has the capacity for *slots*."""
        found = self.all
        for kind, amount in slots.items():
            if amount > 0:
                able = 0
                for has, offering in self._slots.get(kind, {}).items():
                    if has >= amount:
                        able |= offering
                found &= able
        return found

    def most(self, slots: dict[str, int]) -> dict[str, int]:
        """Return the most that one actor has of each type in *slots*."""
        return {kind: max(self._slots.get(kind, {}), default=0) for kind in slots}

    def places(self, slots: dict[str, int], among: int) -> int:
        """Return how many tasks that take *slots* each run at once in all actors of a set."""
        places: list[int] = []
        for kind, amount in slots.items():
            offered = self._slots.get(kind, {}).items()
            if amount > 0:
                places.append(sum(n // amount * (them & among).bit_count() for n, them in offered))
        return min(places, default=0)

    def soon(self, among: int, within_s: float) -> int:
        """Return who of a set is expected to end a run *within_s*.

        That is who ran that long of late, to a power of two in its favour, or nobody knows.
        """
        for pace, them in self._paces.items():
            if ldexp(0.5, pace) > within_s:
                among &= ~them
        return among

    def meeting(self, desire: Desire) -> int:
        """Return who meets *desire*."""
        column = self._columns.get(desire.key)
        comparator, value = desire.comparator, desire.value
        if comparator is Comparator.EXISTS:
            return column.offering if column is not None else 0
        if comparator is Comparator.NOT_EXISTS:
            return self.all & ~column.offering if column is not None else self.all
        if comparator in NEGATIVE:
            assert value is not None
            return self.all & ~column.equal(value) if column is not None else self.all
        if column is None:
            return 0
        if comparator in ORDER:
            return column.ordered(comparator, value)
        assert value is not None
        return column.equal(value)

    def tiers(self, shape: "Shape", base: int) -> list[tuple[float, int]]:
        """Return each weight of met affinities with who of *base* has it, the highest first."""
        parts: list[tuple[tuple[float, ...], int]] = [((), base)]
        for desire in shape.desires:
            if not desire.required:
                met = self.meeting(desire)
                parts = [
                    part
                    for weights, found in parts
                    for part in (((*weights, desire.weight), found & met), (weights, found & ~met))
                    if part[1]
                ]
        by_weight: dict[float, int] = {}
        for weights, found in parts:
            # As `wire.labels.affinity` adds them up, to the last bit.
            weight = sum(weights)
            by_weight[weight] = by_weight.get(weight, 0) | found
        return sorted(by_weight.items(), reverse=True)

    # --- watching

    def watch(self, shape: "Shape") -> None:
        """Let *shape* be returned whenever a label changes that it looks at."""
        is_bound = False
        equal = self._equal
        for desire in shape.desires:
            comparator, value = desire.comparator, desire.value
            if comparator is EQUAL or comparator is Comparator.IN:
                is_bound |= desire.required
                assert value is not None
                at = equal.get(desire.key)
                if at is None:
                    at = equal[desire.key] = {}
                for one in cells(value):
                    keep(at, one, shape)
            else:
                is_negative = comparator in NEGATIVE or comparator is Comparator.NOT_EXISTS
                is_bound |= desire.required and not is_negative
                keep(self._key, desire.key, shape)
        if not is_bound:
            self._unbound[shape] = None

    def unwatch(self, shape: "Shape") -> None:
        """Forget *shape*."""
        for desire in shape.desires:
            comparator, value = desire.comparator, desire.value
            if comparator is EQUAL or comparator is Comparator.IN:
                assert value is not None
                at = self._equal.get(desire.key, {})
                for one in cells(value):
                    forget(at, one, shape)
                if not at:
                    self._equal.pop(desire.key, None)
            else:
                forget(self._key, desire.key, shape)
        self._unbound.pop(shape, None)

    def watching(self) -> "dict[Shape, None]":
        """Return every shape that watches."""
        found = dict(self._unbound)
        for there in self._key.values():
            gather(found, there)
        for places in self._equal.values():
            for there in places.values():
                gather(found, there)
        return found

    def _watching(self, labels: Labels) -> "dict[Shape, None]":
        """Return the shapes for which an actor with *labels* may come or go."""
        found = dict(self._unbound)
        for key, values in labels.items():
            self._watching_key(found, key, values)
        return found

    def _watching_key(
        self, found: "dict[Shape, None]", key: str, *offered: LabelValues | None
    ) -> None:
        """Add to *found* the shapes that look at *key* at all, or at a value of those *offered*."""
        there = self._key.get(key)
        if there is not None:
            gather(found, there)
        at = self._equal.get(key)
        if at is not None:
            for values in offered:
                if values is not None:
                    for one in cells(values) if isinstance(values, list) else (cell(values),):
                        there = at.get(one)
                        if there is not None:
                            gather(found, there)
