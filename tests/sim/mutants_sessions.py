"""Planted bugs in sessions: credit, tokens, restarts, deaths, and what an actor checks once."""

from typing import Any
from unittest.mock import patch

import msgspec

from actor.events import starting
from actor.holding.mailbox import Mailbox
from actor.holding.outcomes import Outcomes
from broker.core import Broker
from broker.events import liveness, recovery, sessions, submission
from broker.facts import outbox, spans
from broker.facts.credit import CreditAccount
from broker.facts.peers import is_owned
from broker.facts.task import Ending
from broker.placing import placement, requeueing
from broker.tasks import lifecycle
from sdk.core import ClientCore
from tests.sim.mutants import (
    BUSY,
    DEAF,
    IDLE,
    LINKS,
    RESTARTS,
    ROOMY,
    SLOW,
    WITH_ONCE,
    Mutant,
    both,
    swap,
)
from tests.sim.world import World
from wire.messages import Credit, Welcome
from wire.session import PeerSession, State, Verdict

# Nothing goes wrong there, but that messages take longer than a lease and than the grace.
HEAVY = BUSY.but(
    faults={}, fault=0.0, is_heavy=True, payload=0.9, shrunk=frozenset({"gil_grace_s"})
)


def any_outcome_counts() -> Any:
    """Accept an outcome from whoever once had the task."""
    ever: dict[Any, Any] = {}

    def assign(original: Any) -> Any:
        def mutated(broker: Any, task: Any, actor: Any, *rest: Any) -> None:
            original(broker, task, actor, *rest)
            ever[task.token] = task

        return mutated

    def outcome(original: Any) -> Any:
        def mutated(self: Any, session: Any, command: Any, own: Any, now: float) -> None:
            token = (command.epoch, command.number)
            task = ever.get(token)
            if task is not None and token not in self.tokens and is_owned(task):
                del task.actor.assigned[task.token]
                lifecycle.settle(
                    self, task, Ending(command.status, command.body, own, session.peer.name, 1)
                )
                return
            original(self, session, command, own, now)

        return mutated

    return both(swap(placement, "assign", assign), swap(Broker, "_outcome", outcome))


def credit_ignores_what_flies() -> Any:
    """Believe that a statement knows of every assignment."""

    def make(original: Any) -> Any:
        return lambda self, credit, received: original(self, credit, 2**60)

    return swap(CreditAccount, "state", make)


def credit_is_a_difference() -> Any:
    """Add what is stated to what is left, as if it were news."""

    def make(original: Any) -> Any:
        def mutated(self: Any, credit: Any, received: int) -> None:
            original(self, Credit(credit.free + self.slots_available, credit.ahead), received)

        return mutated

    return swap(CreditAccount, "state", make)


def credit_outlives_its_session() -> Any:
    """Keep credit when a session ends."""
    return swap(CreditAccount, "void", lambda _: lambda self: None)


def epoch_does_not_rise() -> Any:
    """Start each broker with the same epoch."""
    return swap(World, "next_epoch", lambda _: lambda self, epoch: 1_790_000_000_000)


def no_deaf_rule() -> Any:
    """Act on frames of the former session while a HELLO is on its way."""

    def make(original: Any) -> Any:
        def mutated(self: Any, frame: Any, now: float) -> Verdict:
            former = frame.session < self.number and frame.number
            is_deaf = self.state in (State.CLOSED, State.OPENING)
            if former and is_deaf and frame.epoch == self.epoch:
                return Verdict.COMMANDS
            return original(self, frame, now)

        return mutated

    return swap(PeerSession, "accept", make)


def no_echo() -> Any:
    """Take any WELCOME for the answer to the newest HELLO."""

    def make(original: Any) -> Any:
        def mutated(self: Any, frame: Any, now: float) -> Verdict:
            if frame.commands and type(frame.commands[0]) is Welcome:
                frame = msgspec.structs.replace(frame, session=self.number)
            return original(self, frame, now)

        return mutated

    return swap(PeerSession, "accept", make)


def no_who() -> Any:
    """Do not answer a sender without a session."""
    return swap(Broker, "who", lambda _: lambda self, rid, number: None)


def gaps_do_not_matter() -> Any:
    """Go on after a frame is missing."""

    def make(original: Any) -> Any:
        def mutated(self: Any, frame: Any, now: float) -> Verdict:
            if self.state is State.OPEN and frame.number > self.received + 1:
                self.received = frame.number - 1
            return original(self, frame, now)

        return mutated

    return swap(PeerSession, "accept", make)


def no_release_by_hello() -> Any:
    """Keep what a client does not list."""
    return swap(spans, "holds", lambda _: lambda merged, number: True)


def absent_is_not_requeued() -> Any:
    """Wait for what an inventory does not hold."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, task: Any, reason: str, now: float, *, burns: Any) -> None:
            if not reason.endswith("never had it"):
                original(broker, task, reason, now, burns=burns)

        return mutated

    return swap(requeueing, "requeue", make)


def acknowledged_too_early() -> Any:
    """Acknowledge an outcome when the broker has it."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, task: Any, ending: Any) -> None:
            original(broker, task, ending)
            if task.actor is not None and task.actor.session is not None:
                task.actor.session.outcome_acks.append(task.token)
                broker.outbox.hurry(task.actor.session)

        return mutated

    return swap(lifecycle, "settle", make)


def again_is_not_held() -> Any:
    """Queue at once what a client sends again."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, task: Any, command: Any, now: float) -> None:
            original(broker, task, msgspec.structs.replace(command, again=False), now)

        return mutated

    return swap(submission, "enter", make)


def nothing_is_adopted() -> Any:
    """Stop every run that a restarted broker does not know."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, actor: Any, item: Any, now: float) -> None:
            if item.token in broker.tokens:
                original(broker, actor, item, now)
            else:
                recovery.stop(broker, actor, item)

        return mutated

    return swap(recovery, "offered", make)


def the_unclaimed_stay() -> Any:
    """Never give up an adopted task that no client wants."""
    return swap(recovery, "drop_unclaimed", lambda _: lambda broker, now: None)


def kept_is_not_listed() -> Any:
    """Leave kept outcomes out of the inventory."""
    return swap(Outcomes, "inventory", lambda _: lambda self: [])


def kept_is_not_said_again() -> Any:
    """Say an outcome in one session only."""
    return swap(Outcomes, "say_all", lambda _: lambda self: None)


def stale_is_not_acknowledged() -> Any:
    """Leave an actor alone with an outcome that nobody wants."""

    def make(original: Any) -> Any:
        def mutated(self: Any, session: Any, command: Any, own: Any, now: float) -> None:
            if (command.epoch, command.number) in self.tokens:
                original(self, session, command, own, now)

        return mutated

    return swap(Broker, "_outcome", make)


def results_are_said_once() -> Any:
    """Do not say a result again in a new session."""

    def make(original: Any) -> Any:
        def mutated(*arguments: Any) -> Any:
            with patch.object(lifecycle, "deliver", lambda broker, task: None):
                return original(*arguments)

        return mutated

    return swap(sessions, "greet_client", make)


def a_client_never_says_again() -> Any:
    """Forget that a call was sent to an earlier broker."""

    def make(original: Any) -> Any:
        def mutated(self: Any, now: float) -> None:
            for owned in self.calls.values():
                owned.epoch = 0
            original(self, now)

        return mutated

    return swap(ClientCore, "_open", make)


def doubt_runs_again() -> Any:
    """Queue an at_most_once task again although it may have started."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, task: Any, reason: str, now: float, *, burns: Any) -> None:
            original(broker, task, reason, now, burns=None if burns == "loss" else burns)

        return mutated

    return swap(requeueing, "requeue", make)


def a_lease_never_ends() -> Any:
    """Wait for a silent actor for ever."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, actor: Any, now: float) -> None:
            if now - actor.heard_at < broker.settings.lease_s:
                original(broker, actor, now)

        return mutated

    return swap(liveness, "judge_actor", make)


def stalls_are_not_forgiven() -> Any:
    """Blame the peers for the broker's own sleep."""
    return swap(liveness, "forgive", lambda _: lambda broker, stall, now: None)


def what_does_not_count_renews_a_lease() -> Any:
    """Take a repetition for a sign that its sender hears and lives."""

    def make(original: Any) -> Any:
        def mutated(self: Any, rid: Any, session: Any, frame: Any, now: float) -> None:
            original(self, rid, session, frame, now)
            if session is not None:
                session.peer.heard_at = now

        return mutated

    return swap(Broker, "_receive_unexpected", make)


def labels_are_checked_once() -> Any:
    """Start what waited although the labels changed."""
    return swap(starting, "satisfies_all", lambda _: lambda labels, desires: True)


def a_release_keeps_the_slot() -> Any:
    """Forget to free what a released run held."""

    def make(original: Any) -> Any:
        def mutated(self: Any, assignment: Any, typed: Any) -> bool:
            slots = assignment.slots
            released = original(self, assignment, typed)
            if released and assignment.token in self.held and assignment.held == "released":
                self.capacity = {k: n - slots.get(k, 0) for k, n in self.capacity.items()}
                self.slots = self.capacity["slot"]
            return released

        return mutated

    return swap(Mailbox, "release", make)


def a_large_task_comes_unannounced() -> Any:
    """Do not tell an actor that a message comes that takes longer than a lease."""
    return swap(outbox, "announce", lambda _: lambda payloads, epoch, number: None)


def a_large_outcome_comes_unannounced() -> Any:
    """Do not tell the broker that a message comes that takes longer than a lease."""
    return swap(PeerSession, "ahead", lambda _: lambda self, payloads: [])


SESSIONS = [
    Mutant(f.__name__, profile, f)
    for f, profile in (
        (any_outcome_counts, ROOMY.but(faults={"freeze_actor": 1.0}, down_s=9.0)),
        (no_deaf_rule, DEAF),
        (credit_ignores_what_flies, BUSY),
        (credit_is_a_difference, BUSY),
        (credit_outlives_its_session, IDLE.but(faults={"cut": 1.0})),
        (epoch_does_not_rise, RESTARTS),
        (no_echo, SLOW.but(**WITH_ONCE)),
        (no_who, RESTARTS),
        (gaps_do_not_matter, BUSY.but(faults={"lose": 1.0})),
        (no_release_by_hello, LINKS.but(cancel=0.3)),
        (absent_is_not_requeued, LINKS.but(lost=1.0)),
        (acknowledged_too_early, RESTARTS.but(run_s=0.2)),
        (again_is_not_held, RESTARTS),
        (nothing_is_adopted, RESTARTS),
        (the_unclaimed_stay, RESTARTS.but(cancel=0.3, hang=0.5)),
        (kept_is_not_listed, RESTARTS.but(run_s=0.2)),
        (kept_is_not_said_again, LINKS.but(lost=1.0)),
        (stale_is_not_acknowledged, LINKS.but(cancel=0.3)),
        (results_are_said_once, LINKS.but(lost=1.0)),
        (a_client_never_says_again, RESTARTS),
        (doubt_runs_again, BUSY.but(faults={"machine_kill": 1.0}, **WITH_ONCE)),
        (a_lease_never_ends, BUSY.but(machines=2, faults={"machine_lost": 1.0})),
        (stalls_are_not_forgiven, IDLE.but(faults={"freeze_broker": 1.0}, down_s=9.0, run_s=9.0)),
        (what_does_not_count_renews_a_lease, BUSY.but(faults={"repeat": 1.0, "cut": 1.0})),
        (labels_are_checked_once, BUSY.but(faults={"relabel": 1.0}, label=0.8, prefetch=2)),
        (a_release_keeps_the_slot, BUSY.but(release=0.5)),
        (a_large_task_comes_unannounced, HEAVY),
        (a_large_outcome_comes_unannounced, HEAVY.but(payload=0.0)),
    )
]
