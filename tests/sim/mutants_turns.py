"""Planted bugs in what the calls of one replica cost together, and in who is inside."""

from math import inf
from typing import Any

from actor.holding.residents import Residents
from actor.holding.room import Room
from broker.facts.credit import CreditAccount
from broker.placing import environments, yielding
from tests.sim.mutants import LOADED, Mutant, both, swap


def a_turn_never_costs_a_slot() -> Any:
    """Let calls share where the replica has no slot yet."""
    return swap(CreditAccount, "is_shared", lambda _: lambda self, environment: True)


def turns_in_flight_are_free() -> Any:
    """Count the turns as they were stated."""

    def make(original: Any) -> Any:
        def mutated(self: Any, environment: str, turns: int = 1) -> bool:
            stated = self.stated.turns.get(environment)
            return stated is not None and stated >= turns

        return mutated

    return swap(CreditAccount, "is_warm", make)


def a_busy_replica_holds_no_slot() -> Any:
    """Let those that share take nothing."""

    def make(original: Any) -> Any:
        def mutated(self: Any, slots: Any, replica: Any) -> None:
            if replica is None:
                original(self, slots, replica)
            else:
                self.shared[replica] = None

        return mutated

    return swap(Room, "take", make)


def nobody_is_alone() -> Any:
    """Take one turn of whoever enters."""

    def make(original: Any) -> Any:
        def mutated(self: Any, assignment: Any) -> None:
            original(self, assignment)
            replica = self.by_id.get(assignment.recipe.call.environment.id)
            if replica is not None:
                replica.inside[assignment.token] = 1

        return mutated

    return swap(Residents, "enter", make)


def turns_alone_are_nothing() -> Any:
    """Look at nobody's tasks where turns are all that an actor has left."""
    return swap(CreditAccount, "_has_more", lambda _: lambda self: False)


def who_left_a_slot_in_vain_is_not_looked_at_again() -> Any:
    """End the hold of an older task without a word to the calls that left the slot to it."""

    def make(_: Any) -> Any:
        def mutated(broker: Any) -> None:
            broker.reservation = None
            broker.backlog.matching.reserved_rank = -inf

        return mutated

    return swap(yielding, "let_go", make)


def nobody_holds_on_to_a_copy() -> Any:
    """Take whoever gave its turn back to be gone."""

    def make(original: Any) -> Any:
        def mutated(self: Any, assignment: Any, *, is_over: bool = True) -> None:
            original(self, assignment)

        return mutated

    return both(
        swap(Residents, "leave", make),
        swap(environments, "count_away", lambda _: lambda actor: ()),
    )


SHARING = LOADED.but(slots=2, environments_max=1, replicas=2)
TURNS = [
    Mutant(f.__name__, profile, f)
    for f, profile in (
        (a_turn_never_costs_a_slot, SHARING),
        (turns_in_flight_are_free, SHARING),
        (a_busy_replica_holds_no_slot, SHARING),
        (nobody_is_alone, SHARING),
        (turns_alone_are_nothing, SHARING.but(slots=1)),
        (who_left_a_slot_in_vain_is_not_looked_at_again, SHARING.but(slots=1, run_s=1.5)),
        (nobody_holds_on_to_a_copy, LOADED.but(release=0.7, reacquire=True)),
    )
]
