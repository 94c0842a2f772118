"""Planted bugs: rules of the protocol, each taken out of the real cores by a patch at run time.

A simulator that does not find these finds nothing. Each has the swarm in which it shows quickly.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import Any
from unittest.mock import patch

import msgspec

from actor import core as actor_core
from actor.core import ActorCore
from actor.events import starting
from actor.granting.prefetch import Prefetch
from actor.granting.pressure import Pressure
from actor.granting.returns import Returns
from actor.granting.standing import Standing
from actor.holding.awaiting import Awaiting
from actor.holding.mailbox import Mailbox
from actor.holding.occupying import Occupying
from actor.holding.outcomes import Outcomes
from actor.machine.board import Runs
from actor.supervision import HostCore
from broker.core import Broker
from broker.events import liveness, occupancy, recovery, scaling, sessions, submission
from broker.facts import spans
from broker.facts.credit import CreditAccount
from broker.facts.peers import Actor, is_owned
from broker.facts.task import Ending
from broker.holding import deadlock
from broker.holding.limits import Limits
from broker.placing import environments, placement, recall, replicas, requeueing, upkeep
from broker.tasks import bindings, lifecycle
from broker.tasks.bindings import Bindings
from broker.waiting.matching import Matching
from sdk.core import ClientCore
from tests.sim.profile import Profile
from tests.sim.world import World
from wire.messages import Credit, Welcome
from wire.session import PeerSession, State, Verdict

# Fast runs, short pauses: much happens in few steps.
BUSY = Profile(tasks=60, pause_s=0.05, run_s=0.4, fault=0.05, hang=0.0, environment=0.0, label=0.0)
IDLE = BUSY.but(pause_s=0.7)
ROOMY = BUSY.but(slots=4, pause_s=0.5, run_s=4.0)
RESTARTS = BUSY.but(faults={"broker_kill": 1.0}, down_s=0.5, run_s=2.0)
LINKS = BUSY.but(faults={"cut": 1.0, "partition": 1.0}, lost=0.5, down_s=2.0)
SLOW = LINKS.but(delay_s=0.3, delay_max_s=1.0, batch=0.0)


@dataclass(frozen=True)
class Mutant:
    """A bug, and where it shows."""

    name: str
    profile: Profile | None
    plant: Callable[[], Any]


def swap(owner: Any, name: str, make: Callable[[Any], Any]) -> Any:
    """Put what *make* returns, given the original, into the place of *name*."""
    return patch.object(owner, name, make(getattr(owner, name)))


# --- credit and tokens


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


# --- sessions


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


# --- restarts


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


# --- deaths


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


# --- in the actor


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


# --- waiting ahead


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


# --- limits


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
    both_keep = swap(deadlock, "circle_of", lambda _: lambda wait, blockers: [wait])
    return both(both_keep, swap(deadlock.Kept, "lacks", lambda _: lambda self, wait: {("all",)}))


def slots_are_nobodys() -> Any:
    """Do not count the slots that are held by those who wait."""
    return swap(deadlock.Kept, "_lacks_types", lambda _: lambda self, task, actor, wanted: set())


def room_is_nobodys() -> Any:
    """Do not count the places of environments in which those are who wait."""
    return swap(deadlock.Kept, "_lacks_room", lambda _: lambda self, place, actor: set())


def a_release_keeps_the_limits() -> Any:
    """Let a released run hold on to what the actor thinks it gave back."""
    return swap(occupancy, "release", lambda _: lambda broker, actor, command: None)


# --- environments


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


@contextmanager
def both(*patches: Any) -> Iterator[None]:
    """Plant several patches that make one bug."""
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in reversed(patches):
            one.stop()


DEAF = ROOMY.but(
    faults={"cut": 1.0, "freeze_actor": 1.0}, lost=0.0, delay_s=0.8, run_s=1.0, at_most_once=0.7
)
AHEAD = BUSY.but(prefetch=3, replicas=3, at_most_once=0.0, hang=0.3, run_s=1.0, tasks=20)
PAUSES = BUSY.but(prefetch=2, faults={"pause": 2.0, "resume": 1.0, "broker_kill": 0.3}, down_s=0.5)
CROSSING = AHEAD.but(run_s=0.1, hang=0.1, delay_s=0.03, delay_max_s=0.09, pause_s=0.04, tasks=60)
LIMITED = BUSY.but(limit=0.8, ask=0.5, slots=3, at_most_once=0.0, force=0.0)
LIMITED_RESTARTS = LIMITED.but(faults={"broker_kill": 1.0}, down_s=0.5, run_s=3.0)
LOADED = BUSY.but(
    environment=1.0, at_most_once=0.0, release=0.0, environments_max=2, replicas=3, cancel=0.0
)
WAITING = LIMITED.but(slots=1, child=0.5, wait=1.0, cancel=0.0, tasks=20)
CROWDED = WAITING.but(slots=3, replicas=1, environment=0.5, limit=0.4, tasks=30, run_s=0.3)
WITH_ONCE = {"at_most_once": 0.5}
STICKY = BUSY.but(sticky=0.9, at_most_once=0.0, label=0.0, replicas=2, machines=2)
MUTANTS = [
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
        (labels_are_checked_once, BUSY.but(faults={"relabel": 1.0}, label=0.8, prefetch=2)),
        (a_release_keeps_the_slot, BUSY.but(release=0.5)),
        (nobody_asks_back, AHEAD),
        (what_is_asked_back_is_gone, CROSSING),
        (what_runs_is_handed_back, CROSSING),
        (a_hand_back_bars, AHEAD.but(replicas=2)),
        (a_hand_back_burns_a_try, AHEAD),
        (a_pause_ends_with_its_session, PAUSES),
        (a_paused_actor_grants, PAUSES),
        (who_is_resumed_stays_closed, PAUSES),
        (what_was_full_stays_full, BUSY.but(faults={"press": 1.0})),
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
        (room_is_nobodys, CROWDED.but(ask=0.9)),
        (a_release_keeps_the_limits, LIMITED.but(release=0.8, reacquire=True)),
        (copies_are_not_counted, LOADED),
        (what_flies_is_no_copy, LOADED),
        (entering_is_running, LOADED.but(enter_crash=0.5)),
        (idle_copies_stay, LOADED),
        (what_is_lost_is_not_replaced, LOADED.but(faults={"actor_kill": 1.0})),
        (what_nobody_called_goes_first, LOADED.but(environments_max=1)),
        (a_key_is_never_bound, STICKY),
        (a_burst_is_not_held_together, STICKY),
        (a_hard_key_falls_back, STICKY.but(faults={"pause": 1.0, "resume": 1.0})),
        (nobody_is_let_go, LOADED.but(replicas=1, spare=2)),
        (an_order_to_evict_is_given_once, LOADED.but(faults={"cut": 1.0}, pause_s=0.4)),
    )
]


def caught(
    mutant: Mutant | None, profile: Profile | None, seeds: range, steps: int
) -> tuple[int, str]:
    """Run *seeds* with *mutant* planted; return the seed that shows it and how, or -1."""
    planted = mutant.plant() if mutant else both()
    with planted:
        for seed in seeds:
            world = World(seed, profile)
            try:
                world.run(steps)
            except Exception as error:  # noqa: BLE001 - whatever goes wrong shows it.
                return seed, f"{type(error).__name__}: {error}"
    return -1, ""
