"""What SUBMIT, ASSIGN, OCCUPY, VACATE, ORDER and inventories mean for limits (section 9.5).

`broker.limits` knows who holds what and who is next; here stands what that has to do with tasks,
actors and hosts. The rule that must not be broken: whoever asks for what can never be had is told
at once, and waits for nothing.
"""

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING, Any

from broker.events import strategies
from broker.facts.peers import Actor, Session, is_owned
from broker.facts.task import Task
from broker.holding import deadlock, fences, wants
from broker.holding.limits import Limits
from broker.holding.lines import AT_SCHEDULING, AskWaiter, LimitedRun
from broker.placing import placement
from broker.tasks import lifecycle, named
from wire.errors import Code, RemoteProtocolError
from wire.limits import FULL, check_amounts
from wire.messages import Await, Occupied, Occupy, Release, Vacate
from wire.parts import HeldLimits

if TYPE_CHECKING:
    from broker.core import Broker

RELEASED = "released"


def make_limits(broker: "Broker", now: float) -> Limits:
    """Return the limits of *broker*, without any definition."""

    def grant(waiter: AskWaiter) -> None:
        broker.backlog.served = max(broker.backlog.served, waiter.rank)
        say_occupied(broker, waiter.run, waiter.ask)

    backlog = broker.backlog
    return Limits(
        broker.hosts, now=now, wake_lane=backlog.wake_lane, wake_hosts=backlog.wake, grant=grant
    )


def say_occupied(
    broker: "Broker", run: LimitedRun, ask: int, code: str = "", message: str = ""
) -> None:
    """Tell a run that it has what it asked for, or why it never will."""
    broker.say(run.actor.session, Occupied(*run.token, ask, code, message))


def settle(broker: "Broker", now: float) -> None:
    """Let go whoever can, until nobody can any more."""
    limits = broker.limits
    limits.now = now
    while limits.stirred:
        backlog = broker.backlog
        if limits.stir() and (backlog.ready or backlog.newcomer is not None):
            placement.place(broker, now)
            if broker.ready:
                return  # What was placed goes first.


# ---------------------------------------------------------------------- at scheduling


def admit(broker: "Broker", task: Task, now: float, *, is_held: bool = False) -> bool:
    """Tell whether a new task may wait for its limits; what can never have them ends here.

    One that *is_held* is asked when it is queued: until then its run may be offered.
    """
    call = task.call
    broker.limits.now = now
    refused = None if is_held else wants.refusal(broker, call.limits, None)
    if refused is not None:
        lifecycle.end(broker, task, *refused)
        return False
    message = strategies.turned_away(broker, task, call.limits)
    if message:
        lifecycle.end(broker, task, Code.CANCELED, message)
        return False
    # Nobody is canceled for a task that is not let in itself.
    strategies.make_room(broker, task, call.limits)
    strategies.join(broker, task)
    return True


def release(broker: "Broker", actor: object, command: Release) -> None:
    """Take back what a run of *actor* took at scheduling, which gives back its slots."""
    token = (command.epoch, command.number)
    run = broker.limits.runs.get(token)
    if run is None or run.actor is not actor or command.typed is not None:
        return
    run.giving = None
    if not command.keep_limits:
        broker.limits.vacate(token, AT_SCHEDULING)


# ---------------------------------------------------------------------- from inside


def heard(
    broker: "Broker",
    session: Session,
    command: Occupy | Vacate | Await,
    own: Sequence[Any],  # noqa: ARG001
    now: float,
) -> None:
    """Act on what a run says of limits, and of what else it waits for."""
    match command:
        case Occupy():
            occupy(broker, session, command, now)
        case Vacate():
            vacate(broker, session, command, now)
        case Await():
            deadlock.begin(broker, session, command)


def occupy(broker: "Broker", session: Session, command: Occupy, now: float) -> None:
    """Let a run have limits, or wait for them."""
    actor, token = session.peer, (command.epoch, command.number)
    assert isinstance(actor, Actor)
    broker.limits.now = now
    task = broker.tokens.get(token)
    if task is None or task.actor is not actor or not is_owned(task) or task.is_finished:
        return
    try:
        check_amounts(command.limits)
    except ValueError as error:
        raise RemoteProtocolError(Code.BAD_FRAME, str(error)) from None
    if not command.limits:
        raise RemoteProtocolError(Code.BAD_FRAME, "OCCUPY names no limit")
    ask(broker, task, actor, command, is_new=True)


def ask(
    broker: "Broker", task: Task, actor: Actor, command: Occupy | HeldLimits, *, is_new: bool
) -> None:
    """Let a run wait in line, say again what it has, or say why it never will.

    An ask that is not *is_new* an earlier broker may have let wait: it is not judged again.
    """
    limits, token = broker.limits, task.token
    number, wanted = command.ask, command.limits
    assert token
    run = limits.runs.get(token) or LimitedRun(token, task, actor)
    if number in run.rows:
        say_occupied(broker, run, number)
        return
    if number in run.asks:
        return
    if number == AT_SCHEDULING:
        # What comes back with time was not given back, and is not taken again.
        wanted = {name: n for name, n in wanted.items() if not limits.is_decaying(name)}
        if not wanted:
            say_occupied(broker, run, number)
            return
    refused = wants.refusal(broker, wanted, actor)
    if refused is not None:
        say_occupied(broker, run, number, *refused)
        return
    amounts, may_give = wants.wants_of(wanted, actor), command.may_give_back
    waiter = AskWaiter(run, number, amounts, command.within, may_give_back=may_give)
    is_try = isinstance(command, Occupy) and command.is_try
    # A try overtakes nobody.
    if is_try and limits.blocking(waiter, inf) is not None:
        say_occupied(broker, run, number, FULL)
        return
    if is_new and not may_wait(broker, task, wanted):
        return
    run = waiter.run = limits.run(token, task, actor)
    if is_try:
        run.asks[number] = waiter
        strategies.join_run(broker, run)
        limits.let_go(waiter)
        return
    priority = task.call.priority if task.template else 0
    owner = (task.call.fairness_key if task.template else "") or task.client.incarnation
    limits.wait(waiter, broker.backlog.rank_of_ask(owner, priority))
    strategies.join_run(broker, run)


def may_wait(broker: "Broker", task: Task, wanted: dict[str, int]) -> bool:
    """Tell whether a run that asks may wait, as a call that comes; one that may not is canceled."""
    message = strategies.turned_away(broker, task, wanted)
    if message:
        strategies.cancel(broker, task, message)
    else:
        strategies.make_room(broker, task, wanted)
    # A call of a task that is canceled for it ends with that.
    return not task.is_over


def vacate(broker: "Broker", session: Session, command: Vacate, now: float) -> None:
    """Take back what a run gives back, or all that it has."""
    limits, token = broker.limits, (command.epoch, command.number)
    limits.now = now
    broker.limits.waits.end(token, command.ask, session.peer)
    run = limits.runs.get(token)
    if run is None or run.actor is not session.peer:
        return
    if command.ask is None:
        limits.drop(run)
    else:
        limits.vacate(run.token, command.ask)


# ---------------------------------------------------------------------- time


def sweep(broker: "Broker") -> None:
    """Look at what no event tells of, with each heartbeat; and end circles of runs that wait."""
    broker.limits.sweep()
    if broker.limits.fenced:
        fences.order(broker)
    deadlock.look(broker)


def tick(broker: "Broker", now: float) -> None:
    """Let in whom time lets in; nobody before every holder had the time to be known."""
    limits = broker.limits
    limits.tick(now)
    if broker.limits.waits.is_new:
        deadlock.look(broker)
    if limits.fenced:
        fences.tick(broker, now)
    if limits.is_closed and broker.window_ends_at is None:
        may_be_held = broker.had_earlier or limits.strict
        waits_s = broker.settings.lease_s if may_be_held else 0.0
        if now >= limits.started_at + max(waits_s, broker.settings.adopt_window_s):
            limits.open()
            named.give_up(broker)
            named.release(broker)
            broker.backlog.wake()
