"""Planted bugs in limits, and in who waits for what."""

from typing import Any

import msgspec

from actor import core as actor_core
from actor.holding.awaiting import Awaiting
from actor.holding.occupying import Occupying
from broker.events import occupancy
from broker.holding import deadlock
from broker.holding.kept import Kept
from broker.holding.limits import Limits
from broker.holding.lines import AskWaiter
from tests.sim.mutants import CROWDED, LIMITED, LIMITED_RESTARTS, WAITING, Mutant, both, swap


def there_is_always_room() -> Any:
    """Let everybody have every limit."""
    return swap(Limits, "blocking", lambda _: lambda self, waiter, rank, at=None: None)


def half_of_it_is_taken() -> Any:
    """Take the first of several limits only."""

    def make(original: Any) -> Any:
        def mutated(self: Any, *rest: Any, is_adopted: bool = False) -> None:
            original(self, *rest[:-1], rest[-1][:1], is_adopted=is_adopted)

        return mutated

    return swap(Limits, "take", make)


def the_end_gives_nothing_back() -> Any:
    """Keep what a run held when it has ended."""
    return swap(Limits, "end", lambda _: lambda self, token: None)


def nobody_is_told_of_room() -> Any:
    """Forget those in line when somebody gives back."""

    def make(original: Any) -> Any:
        def mutated(self: Any, name: str) -> None:
            original(self, name)
            self.stirred.pop(name, None)

        return mutated

    return swap(Limits, "touch", make)


def the_line_is_passed() -> Any:
    """Leave the place in line behind when the first of it is woken and lacks something else."""
    return swap(Limits, "park", lambda _: lambda self, waiter, rank, blocked: None)


def a_new_broker_lets_in_at_once() -> Any:
    """Let tasks have limits before it is known who holds them."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, now: float) -> Any:
            limits = original(broker, now)
            limits.open()
            return limits

        return mutated

    return swap(occupancy, "make_limits", make)


def an_inventory_names_no_limits() -> Any:
    """Leave limits out of what an actor says that its runs have."""

    def make(original: Any) -> Any:
        def mutated(core: Any) -> Any:
            hello = original(core)
            bare = [msgspec.structs.replace(item, limits=[]) for item in hello.holding]
            return msgspec.structs.replace(hello, holding=bare)

        return mutated

    return swap(actor_core, "make_hello", make)


def a_dead_actor_keeps_what_it_had() -> Any:
    """Keep what the stopped runs of an actor hold that is lost."""
    return swap(Limits, "forget_actor", lambda _: lambda self, actor: None)


def a_stopped_run_is_never_over() -> Any:
    """Do not say that a run has returned that nobody wanted."""

    def make(original: Any) -> Any:
        def mutated(self: Any, assignment: Any) -> None:
            was, assignment.is_stopped = assignment.is_stopped, False
            original(self, assignment)
            assignment.is_stopped = was

        return mutated

    return swap(Occupying, "ended", make)


def circles_stay() -> Any:
    """Let runs wait for one another for ever."""
    return swap(deadlock, "find", lambda _: lambda broker: None)


def nobody_says_that_it_waits() -> Any:
    """Do not tell the broker of waits for calls and for slots."""
    return swap(Awaiting, "state", lambda _: lambda self: None)


def all_who_wait_are_in_circles() -> Any:
    """Take who waits behind a circle, or for what goes on, for one in it."""
    return both(
        swap(deadlock, "in_circles", lambda _: set),
        swap(deadlock, "circle_of", lambda _: lambda wait, blockers: [wait]),
        swap(Kept, "lacks", lambda _: lambda self, wait: {("all",)}),
    )


def slots_are_nobodys() -> Any:
    """Do not count the slots that are held by those who wait."""
    return swap(Kept, "_lacks_types", lambda _: lambda self, task, actor, wanted: set())


def nobody_makes_way() -> Any:
    """Tell of a circle also where a run that waits for a limit could give its slots back."""
    return swap(Kept, "givers", lambda _: lambda self, lacking: set())


def whoever_waits_makes_way() -> Any:
    """Ask those for their slots who cannot give them back, as in an older actor."""

    def make(original: Any) -> Any:
        def mutated(self: Any, *rest: Any, **options: Any) -> None:
            original(self, *rest, **options | {"may_give_back": True})

        return mutated

    return swap(AskWaiter, "__init__", make)


def room_is_nobodys() -> Any:
    """Do not count the places of environments in which those are who wait."""
    return swap(Kept, "_lacks_room", lambda _: lambda self, place, actor: set())


def a_release_keeps_the_limits() -> Any:
    """Let a released run hold on to what the actor thinks it gave back."""
    return swap(occupancy, "release", lambda _: lambda broker, actor, command: None)


LIMITS = [
    Mutant(f.__name__, profile, f)
    for f, profile in (
        (there_is_always_room, LIMITED),
        (half_of_it_is_taken, LIMITED),
        (the_end_gives_nothing_back, LIMITED),
        (nobody_is_told_of_room, LIMITED),
        (the_line_is_passed, LIMITED),
        (a_new_broker_lets_in_at_once, LIMITED_RESTARTS),
        (an_inventory_names_no_limits, LIMITED_RESTARTS.but(run_s=20.0, fault=0.01, pause_s=0.6)),
        (a_dead_actor_keeps_what_it_had, LIMITED.but(faults={"actor_kill": 1.0}, cancel=0.4)),
        (a_stopped_run_is_never_over, LIMITED.but(cancel=0.4)),
        (circles_stay, LIMITED),
        (nobody_says_that_it_waits, WAITING),
        (all_who_wait_are_in_circles, WAITING),
        (slots_are_nobodys, WAITING),
        (nobody_makes_way, WAITING.but(limit=0.2, ask=0.9)),
        (whoever_waits_makes_way, WAITING),
        (room_is_nobodys, CROWDED.but(ask=0.9)),
        (a_release_keeps_the_limits, LIMITED.but(release=0.8, reacquire=True)),
    )
]
