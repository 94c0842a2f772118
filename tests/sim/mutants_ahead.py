"""Planted bugs in what waits ahead in an actor, and in actors that are closed for a while."""

from math import inf
from typing import Any

import msgspec

from actor.core import ActorCore
from actor.granting import grant
from actor.granting.prefetch import Prefetch
from actor.granting.pressure import Pressure
from actor.granting.returns import Returns
from actor.granting.standing import Standing
from broker.core import Broker
from broker.placing import recall, requeueing
from tests.sim.mutants import AHEAD, BUSY, CROSSING, PAUSES, Mutant, both, swap


def nobody_asks_back() -> Any:
    """Let tasks wait behind a long one while another actor is idle."""

    def make(original: Any) -> Any:
        def mutated(self: Any, now: float, head: Any, slots: int, *, is_full: bool) -> bool:
            original(self, now, None, slots, is_full=False)
            return False

        return mutated

    def blind(_: Any) -> Any:
        return lambda broker, now: setattr(broker.recalls, "due_at", inf)

    return both(swap(recall, "look", blind), swap(Prefetch, "look", make))


def what_is_asked_back_is_gone() -> Any:
    """Queue a task again when it is asked back, not when it is handed back."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, now: float) -> None:
            known = set(broker.recalls.asked)
            original(broker, now)
            for token in broker.recalls.asked.keys() - known:
                requeueing.requeue(broker, broker.tokens[token], "asked back", now, burns=None)

        return mutated

    return swap(recall, "look", make)


def what_runs_is_handed_back() -> Any:
    """Hand back whatever the broker asks for, also what has started."""

    def make(original: Any) -> Any:
        def mutated(self: Any, command: Any) -> None:
            for token in command.tokens:
                if token in self._mailbox.holders:
                    self.reject(token, "recalled", bars=False)
            original(self, command)

        return mutated

    return swap(Returns, "recall", make)


def a_hand_back_bars() -> Any:
    """Never give a task again to an actor that handed it back."""

    def make(original: Any) -> Any:
        def mutated(self: Any, session: Any, command: Any, own: Any, now: float) -> None:
            command = msgspec.structs.replace(command, bars=True)
            original(self, session, command, own, now)

        return mutated

    return swap(Broker, "_reject", make)


def a_hand_back_burns_a_try() -> Any:
    """Count an assignment that was handed back."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, task: Any, reason: str, now: float, *, burns: Any) -> None:
            if "rejected it" in reason and not task.call.at_most_once:
                burns = "loss"
            original(broker, task, reason, now, burns=burns)

        return mutated

    return swap(requeueing, "requeue", make)


def a_pause_ends_with_its_session() -> Any:
    """Begin each session open."""

    def make(original: Any) -> Any:
        def mutated(self: Any, now: float) -> Any:
            self.standing.is_paused = False
            return original(self, now)

        return mutated

    return swap(ActorCore, "_hello", make)


def a_paused_actor_grants() -> Any:
    """Hand back what waits, and ask for more."""

    def make(original: Any) -> Any:
        def mutated(self: Any, **reasons: bool) -> None:
            paused, self.is_paused = self.is_paused, False
            original(self, **reasons)
            self.is_paused = paused

        return mutated

    check = swap(Standing, "check", lambda _: lambda self, **reasons: None)
    return both(check, swap(Standing, "reconsider", make))


def who_is_resumed_stays_closed() -> Any:
    """Resume without a statement of credit."""

    def make(original: Any) -> Any:
        def mutated(self: Any, now: float, *, paused: bool = True) -> None:
            if paused:
                original(self, now, paused=paused)
            self.standing.is_paused = paused

        return mutated

    check = swap(Standing, "check", lambda _: lambda self, **reasons: None)
    return both(check, swap(ActorCore, "pause", make))


def what_was_full_stays_full() -> Any:
    """Never notice that memory is free again."""

    def make(original: Any) -> Any:
        return lambda self, share, of: not self.is_high and original(self, share, of)

    return swap(Pressure, "look", make)


def who_waits_for_a_turn_is_none_that_waits_ahead() -> Any:
    """Grant as much ahead as if nobody waited, while a slot is free."""

    def make(original: Any) -> Any:
        def mutated(mailbox: Any, prefetch: int) -> Any:
            credit = original(mailbox, prefetch)
            ahead = prefetch if credit.free else credit.ahead
            return msgspec.structs.replace(credit, ahead=ahead)

        return mutated

    return swap(grant, "full_credit", make)


WAITING_AHEAD = [
    Mutant(f.__name__, profile, f)
    for f, profile in (
        (nobody_asks_back, AHEAD),
        (what_is_asked_back_is_gone, CROSSING),
        (what_runs_is_handed_back, CROSSING),
        (a_hand_back_bars, AHEAD.but(replicas=2)),
        (a_hand_back_burns_a_try, AHEAD),
        (
            who_waits_for_a_turn_is_none_that_waits_ahead,
            AHEAD.but(slots=2, environment=0.7, release=0.0),
        ),
        (a_pause_ends_with_its_session, PAUSES),
        (a_paused_actor_grants, PAUSES),
        (who_is_resumed_stays_closed, PAUSES),
        (what_was_full_stays_full, BUSY.but(faults={"press": 1.0})),
    )
]
