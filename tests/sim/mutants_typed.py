"""Planted bugs in slots of several types: what a task costs, gives back, and which units it has."""

from typing import Any

from actor.granting.returns import Returns
from actor.holding import room
from actor.holding.mailbox import Mailbox
from broker.facts.credit import CreditAccount
from broker.waiting.matching import Matching
from tests.sim.mutants import BUSY, Mutant, both, swap


def types_do_not_matter() -> Any:
    """Look at the plain slots of an actor alone."""
    return swap(CreditAccount, "_left", lambda _: lambda self, kind: 2**20)


def types_in_flight_are_free() -> Any:
    """Count slots of other types as they were stated."""
    return swap(CreditAccount, "_left", lambda _: lambda self, kind: self.stated.typed.get(kind, 0))


def some_of_it_is_enough() -> Any:
    """Start a task where one of the types is free that it costs."""

    def some(free: Any, slots: Any) -> bool:
        return any(free.get(kind, 0) >= amount for kind, amount in slots.items())

    return swap(room, "covers", lambda _: some)


def a_part_is_all_of_it() -> Any:
    """Take back everything when a run gives back a part."""

    def make(original: Any) -> Any:
        def mutated(self: Any, assignment: Any, typed: Any) -> bool:
            released = original(self, assignment, typed)
            if released and typed is not None:
                assignment.slots = dict.fromkeys(assignment.slots, 0)
                assignment.units = {}
            return released

        return mutated

    return swap(Mailbox, "release", make)


def a_part_is_nothing() -> Any:
    """Keep what a run gives back, unless that is everything."""

    def make(original: Any) -> Any:
        def mutated(self: Any, assignment: Any, typed: Any) -> bool:
            slots, units = assignment.slots, assignment.units
            released = original(self, assignment, typed)
            if released and typed is not None:
                assignment.slots, assignment.units = slots, units
            return released

        return mutated

    return swap(Mailbox, "release", make)


def the_other_unit_is_given_back() -> Any:
    """Take the units at the front from a run that gives back a part, which are those it keeps."""

    def make(original: Any) -> Any:
        def mutated(self: Any, assignment: Any, typed: Any) -> bool:
            units = assignment.units
            released = original(self, assignment, typed)
            if released and typed is not None:
                left = assignment.slots
                assignment.units = {k: names[len(names) - left[k] :] for k, names in units.items()}
            return released

        return mutated

    return swap(Mailbox, "release", make)


def what_must_not_wait_does() -> Any:
    """Keep in the mailbox what costs more than a plain slot, as long as it finds none."""

    def make(original: Any) -> Any:
        def mutated(self: Any) -> None:
            self._mailbox.has_fixed = False
            if len(self._mailbox.waiting) > self._prefetch.ahead:
                original(self)

        return mutated

    blind = swap(Returns, "check", lambda _: lambda self: None)
    sightless = swap(Mailbox, "check", lambda _: lambda self: None)
    return both(blind, sightless, swap(Returns, "trim", make))


def who_stands_before_it_is_bound() -> Any:
    """Let a reservation hold up a task that had to wait for something else and stands before it."""
    return swap(
        Matching, "reserved_rank", lambda _: property(lambda self: -1e9, lambda self, _: None)
    )


TYPED = BUSY.but(typed=0.9, slots=2, release=0.7, reacquire=True, at_most_once=0.0)
MIXED = [
    Mutant(f.__name__, profile, f)
    for f, profile in (
        (types_do_not_matter, TYPED),
        (types_in_flight_are_free, TYPED),
        (some_of_it_is_enough, TYPED),
        (a_part_is_all_of_it, TYPED),
        (a_part_is_nothing, TYPED),
        (the_other_unit_is_given_back, TYPED),
        (what_must_not_wait_does, TYPED.but(prefetch=3)),
        (who_stands_before_it_is_bound, TYPED),
    )
]
