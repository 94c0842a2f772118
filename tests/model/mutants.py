"""Planted bugs: rules of the protocol, each taken out of the real cores by a patch at run time.

A search that does not find these finds nothing. Most are those of the simulator; here are those
that need what a search alone brings about for sure: late frames of a dead connection, release.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from actor import core as actor_core
from actor.core import ActorCore
from actor.events import hearing
from actor.holding.outcomes import Outcomes
from broker.core import Broker
from broker.events import sessions
from broker.facts.peers import is_owned
from broker.facts.task import Ending
from broker.placing import placement, requeueing
from broker.tasks import lifecycle
from sdk.core import ClientCore
from tests.model import mutants_strict
from tests.model.scenarios import DEEP, FAST, Scenario
from tests.sim import mutants_ahead as sim_ahead
from tests.sim import mutants_environments as sim_environments
from tests.sim import mutants_life as life
from tests.sim import mutants_limits as sim_limits
from tests.sim import mutants_named as sim_named
from tests.sim import mutants_sessions as sim_sessions
from tests.sim.mutants import both, swap
from wire.messages import ActorHello
from wire.parts import Held
from wire.session import PeerSession, State, Verdict


@dataclass(frozen=True)
class Mutant:
    """A bug, and the search that finds it."""

    name: str
    plant: Callable[[], Any]
    scenario: Scenario


# --- tokens and epochs


def any_outcome_counts() -> Any:
    """Accept an outcome from whoever once had the task."""

    def assign(original: Any) -> Any:
        def mutated(broker: Any, task: Any, actor: Any, *rest: Any) -> None:
            original(broker, task, actor, *rest)
            vars(broker).setdefault("ever", {})[task.token] = task

        return mutated

    def outcome(original: Any) -> Any:
        def mutated(self: Any, session: Any, command: Any, own: Any, now: float) -> None:
            token = (command.epoch, command.number)
            task = vars(self).get("ever", {}).get(token)
            if task is not None and token not in self.tokens and is_owned(task):
                del task.actor.assigned[task.token]
                ending = Ending(command.status, command.body, own, session.peer.name, 1)
                lifecycle.settle(self, task, ending)
                return
            original(self, session, command, own, now)

        return mutated

    return both(swap(placement, "assign", assign), swap(Broker, "_outcome", outcome))


# --- sessions


def late_frames_count() -> Any:
    """Act on frames of a dead connection although its session is over."""

    def close(original: Any) -> Any:
        def mutated(self: Any, session: Any, now: float) -> None:
            original(self, session, now)
            vars(self).setdefault("dead_sessions", {})[session.rid] = session

        return mutated

    def receive(original: Any) -> Any:
        def mutated(self: Any, rid: bytes, frame: Any, payloads: Any, now: float) -> None:
            session = vars(self).get("dead_sessions", {}).get(rid)
            if rid in self.sessions or session is None or frame.number != session.received + 1:
                original(self, rid, frame, payloads, now)
                return
            session.received = frame.number
            session.is_closing = False
            self._act(session, frame, payloads, now)

        return mutated

    return both(swap(Broker, "close", close), swap(Broker, "receive", receive))


def former_sessions_count() -> Any:
    """Act on what the broker said in a former session as if it were next in this one."""

    def make(original: Any) -> Any:
        def mutated(self: Any, frame: Any, now: float) -> Verdict:
            is_former = frame.number and frame.session < self.number and self.state is State.OPEN
            if is_former and frame.epoch == self.epoch:
                changes = {"session": self.number, "number": self.received + 1, "received": 0}
                verdict = original(self, msgspec.structs.replace(frame, **changes), now)
                self.received -= 1
                return verdict
            return original(self, frame, now)

        return mutated

    return swap(PeerSession, "accept", make)


def older_hellos_count() -> Any:
    """Open a session for each HELLO, whatever its number."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, hello: Any, now: float) -> Any:
            peer = original(broker, hello, now)
            peer.session_highest = 0
            return peer

        return mutated

    return swap(sessions, "find_peer", make)


def repetitions_count() -> Any:
    """Act on a frame, and on an assignment, as often as it comes."""

    def accept(original: Any) -> Any:
        def mutated(self: Any, frame: Any, now: float) -> Verdict:
            if frame.number and frame.number == self.received:
                self.received -= 1
            return original(self, frame, now)

        return mutated

    def assign(original: Any) -> Any:
        def mutated(self: Any, *rest: Any) -> None:
            self.highest = (0, 0)
            original(self, *rest)

        return mutated

    return both(swap(PeerSession, "accept", accept), swap(hearing, "assign", assign))


def a_cancel_is_said_once() -> Any:
    """Forget a cancel that was made between HELLO and WELCOME."""

    def make(original: Any) -> Any:
        def mutated(self: Any, now: float) -> None:
            self._cancels.open = {}
            original(self, now)

        return mutated

    return swap(ClientCore, "_open", make)


# --- restarts


# --- release and REJECT


def released_is_not_listed() -> Any:
    """Leave a released run out of the inventory."""

    def make(original: Any) -> Any:
        def mutated(core: Any) -> ActorHello:
            hello = original(core)
            listed = [item for item in hello.holding if item.held != Held.RELEASED]
            return msgspec.structs.replace(hello, holding=listed)

        return mutated

    return swap(actor_core, "make_hello", make)


def waiting_is_not_listed() -> Any:
    """Leave what waits in the mailbox out of the inventory, and keep it."""

    def make(original: Any) -> Any:
        def mutated(core: Any) -> ActorHello:
            hello = original(core)
            listed = [item for item in hello.holding if item.held != Held.WAITING]
            return msgspec.structs.replace(hello, holding=listed)

        return mutated

    return swap(actor_core, "make_hello", make)


def a_reject_burns_a_try() -> Any:
    """Count a REJECT as an attempt."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, task: Any, reason: str, now: float, *, burns: Any) -> None:
            original(broker, task, reason, now, burns="loss" if "rejected" in reason else burns)

        return mutated

    return swap(requeueing, "requeue", make)


def absence_burns_a_try() -> Any:
    """Count an assignment that never arrived as an attempt."""

    def make(original: Any) -> Any:
        def mutated(broker: Any, task: Any, reason: str, now: float, *, burns: Any) -> None:
            original(broker, task, reason, now, burns="loss" if "never had" in reason else burns)

        return mutated

    return swap(requeueing, "requeue", make)


def kept_is_forgotten_with_its_session() -> Any:
    """Keep an outcome only as long as the session in which it was said."""

    def make(original: Any) -> Any:
        def mutated(self: Any) -> None:
            self.kept.clear()
            self.octets = 0
            original(self)

        return mutated

    return swap(Outcomes, "begin_session", make)


def who_leaves_does_not_wait() -> Any:
    """Leave at once when told to, whatever still runs."""

    def make(_: Any) -> Any:
        return lambda self: self.bye_session != self.session.number

    return swap(ActorCore, "_may_leave", make)


def nothing() -> Any:
    return both()


MUTANTS = [
    *(
        Mutant(plant.__name__, plant, (FAST | DEEP)[name])
        for plant, name in (
            (any_outcome_counts, "lease"),
            (late_frames_count, "connections-and-cancel"),
            (former_sessions_count, "hellos"),
            (older_hellos_count, "connections"),
            (repetitions_count, "frames"),
            (sim_environments.what_flies_is_no_copy, "warm"),
            (sim_environments.copies_are_not_counted, "warm"),
            (a_cancel_is_said_once, "connections-and-cancel"),
            (released_is_not_listed, "restart-and-release"),
            (waiting_is_not_listed, "waiting"),
            (a_reject_burns_a_try, "reject"),
            (absence_burns_a_try, "one-connection"),
            (kept_is_forgotten_with_its_session, "one-connection"),
            (sim_sessions.no_deaf_rule, "one-connection"),
            (sim_sessions.credit_is_a_difference, "recall"),
            (sim_sessions.credit_outlives_its_session, "connections"),
            (sim_sessions.gaps_do_not_matter, "frames"),
            (sim_sessions.no_release_by_hello, "connections-and-cancel"),
            (sim_sessions.absent_is_not_requeued, "one-connection"),
            (sim_sessions.acknowledged_too_early, "one-restart"),
            (sim_sessions.again_is_not_held, "restart"),
            (sim_sessions.nothing_is_adopted, "one-restart"),
            (sim_sessions.the_unclaimed_stay, "restart-and-client-death"),
            (sim_sessions.kept_is_not_listed, "one-restart"),
            (sim_sessions.kept_is_not_said_again, "one-connection"),
            (sim_sessions.stale_is_not_acknowledged, "connections-and-cancel"),
            (sim_sessions.results_are_said_once, "one-connection"),
            (sim_sessions.a_client_never_says_again, "restart"),
            (sim_sessions.doubt_runs_again, "death"),
            (sim_sessions.labels_are_checked_once, "reject"),
            (sim_sessions.a_release_keeps_the_slot, "restart-and-release"),
            (sim_limits.the_end_gives_nothing_back, "limit"),
            (sim_limits.circles_stay, "circle"),
            (sim_limits.all_who_wait_are_in_circles, "circle"),
            (sim_ahead.a_paused_actor_grants, "pause-of-waiting"),
            (sim_ahead.who_is_resumed_stays_closed, "pause"),
            (who_leaves_does_not_wait, "drain"),
            (sim_limits.an_inventory_names_no_limits, "limit"),
            (sim_limits.a_new_broker_lets_in_at_once, "limit-and-restart"),
            (sim_limits.a_stopped_run_is_never_over, "limit-and-cancel"),
            (life.the_delayed_stay, "retried"),
            (life.what_must_not_be_retried_is, "retried"),
            (life.a_failure_burns_two_tries, "retried"),
            (life.a_known_failure_counts_again, "retried-and-restart"),
            (sim_ahead.what_is_asked_back_is_gone, "recall"),
            (sim_ahead.what_runs_is_handed_back, "recall"),
            (sim_ahead.a_hand_back_burns_a_try, "recall"),
            (sim_named.it_begins_from_nothing, "named-memory"),
            (sim_named.no_checkpoint_is_kept, "named-memory"),
            (sim_named.it_is_wherever_there_is_a_slot, "named-death"),
            (sim_named.what_may_have_run_runs_again, "named-death-of-once"),
            (sim_named.nobody_enters_it_again, "named-deaths"),
            (sim_named.what_a_client_left_behind_is_forgotten, "named-given-up"),
        )
    ),
    *(
        Mutant(name, plant, (FAST | DEEP)[scenario])
        for name, plant, scenario in mutants_strict.STRICT
    ),
    Mutant("epoch_does_not_rise", nothing, FAST["restart"].but(epoch_step=0)),
]
