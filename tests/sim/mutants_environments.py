"""Planted bugs in the copies of environments, and in who is bound to which."""

from typing import Any
from unittest.mock import patch

from actor.holding.mailbox import Mailbox
from actor.machine.board import Runs
from actor.supervision import HostCore
from broker.events import scaling
from broker.facts.peers import Actor
from broker.placing import environments, replicas, upkeep
from broker.tasks import bindings
from broker.tasks.bindings import Bindings
from broker.waiting.matching import Matching
from tests.sim.mutants import LOADED, STICKY, Mutant, swap

# Runs that release, and come back to where others had to be loaded meanwhile.
RETURNING = LOADED.but(environments_max=1, replicas=1, release=0.7, reacquire=True)


def copies_are_not_counted() -> Any:
    """Enter an environment wherever it is cold."""
    return swap(replicas, "enter_at", lambda _: lambda record, task, now: 0.0)


def what_flies_is_no_copy() -> Any:
    """Count only those copies that an actor has stated."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, task: Any, actor: Any, now: float) -> None:
            if task.template.shape.cost.environment in actor.copies:
                original(broker, task, actor, now)

        return mutated

    return swap(environments, "assigned", make)


def entering_is_running() -> Any:
    """Report what had not started, since it entered its environment, as started."""

    def make(original: Any) -> Any:
        def mutated(self: Any, ward: Any, *, runs: Any, **rest: Any) -> None:
            started = [*runs.started, *runs.entering]
            original(self, ward, runs=Runs(started, runs.finished, [], runs.beside), **rest)

        return mutated

    return swap(HostCore, "died", make)


def idle_copies_stay() -> Any:
    """Keep what nobody uses."""
    return swap(replicas, "idle_copies", lambda _: lambda broker, record, now: [])


def what_is_lost_is_not_replaced() -> Any:
    """Leave it to the next call to enter a copy again."""
    return swap(upkeep, "find", lambda _: lambda broker, record, wanted: [])


def what_nobody_called_goes_first() -> Any:
    """Have copies give way to those that are lacking elsewhere."""
    return swap(Actor, "_count_idle", lambda _: lambda self: 0)


def who_comes_back_enters_nothing() -> Any:
    """Let a run go on in a copy that had to leave meanwhile."""

    def make(original: Any) -> Any:
        def mutated(self: Any, ask: Any) -> bool:
            had_none: bool = original(self, ask)
            ask.assignment.loads = False
            return had_none

        return mutated

    return swap(Mailbox, "regain", make)


def nobody_is_let_go() -> Any:
    """Keep every actor that was started."""
    return swap(scaling, "let_go", lambda _: lambda *arguments: None)


def an_order_to_evict_is_given_once() -> Any:
    """Believe that an actor heard what was said in a session that ended."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, actor: Any, now: float) -> None:
            orders = {name: copy.evicted_in for name, copy in actor.copies.items()}
            original(broker, actor, now)
            for name, copy in actor.copies.items():
                copy.evicted_in = orders.get(name)

        return mutated

    return swap(environments, "follow", make)


def a_key_is_never_bound() -> Any:
    """Let tasks with one key go anywhere."""
    return swap(bindings, "bind", lambda _: lambda broker, key, actor, now: None)


def a_burst_is_not_held_together() -> Any:
    """Bind a key without looking at what waits already."""
    return swap(Matching, "review", lambda _: lambda self, key: None)


def a_hard_key_falls_back() -> Any:
    """Let a hard key go elsewhere when its actor takes no work."""

    def make(original: Any) -> Any:
        def mutated(self: Any, shape: Any, satisfying: int) -> int:
            with patch.object(shape.cost, "is_hard", False):
                return original(self, shape, satisfying)

        return mutated

    return swap(Bindings, "narrow", make)


ENVIRONMENTS = [
    Mutant(f.__name__, profile, f)
    for f, profile in (
        (copies_are_not_counted, LOADED),
        (what_flies_is_no_copy, LOADED),
        (entering_is_running, LOADED.but(enter_crash=0.5)),
        (idle_copies_stay, LOADED),
        (what_is_lost_is_not_replaced, LOADED.but(faults={"actor_kill": 1.0})),
        (what_nobody_called_goes_first, LOADED.but(environments_max=1)),
        (a_key_is_never_bound, STICKY),
        (a_burst_is_not_held_together, STICKY),
        (a_hard_key_falls_back, STICKY.but(faults={"pause": 1.0, "resume": 1.0})),
        (who_comes_back_enters_nothing, RETURNING),
        (nobody_is_let_go, LOADED.but(replicas=1, spare=2)),
        (an_order_to_evict_is_given_once, LOADED.but(faults={"cut": 1.0}, pause_s=0.4)),
    )
]
