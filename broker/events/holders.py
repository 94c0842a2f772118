"""Who holds which limits after a new session, and what must hold of it (protocol.md section 9.5).

An actor's inventory says what its runs have; the rule that must not be broken: whoever has
something is known, and nobody else is.
"""

from typing import TYPE_CHECKING

from broker.events import strategies
from broker.events.occupancy import ask, say_occupied
from broker.facts.peers import Actor, Client, Host, is_owned
from broker.facts.task import State, Task
from broker.holding import fences
from broker.holding.limits import Limits
from broker.holding.lines import Waiter, host_key, shown
from broker.holding.wants import refusal, wants_of
from wire.limits import HOST_PREFIX
from wire.messages import ActorHello
from wire.parts import Token

if TYPE_CHECKING:
    from broker.core import Broker


def greet(broker: "Broker", actor: Actor, hello: ActorHello, now: float) -> None:
    """Settle what the runs of *actor* have by the broker's word against what they say."""
    limits = broker.limits
    limits.now = now
    waits = limits.waits
    waits.forget(actor)
    parts = [(item.token, item.slots) for item in hello.holding if item.slots is not None]
    if parts or waits.parts:
        waits.state(actor.assigned, parts)
    if limits.fenced:
        fences.came_back(broker, actor)
    items = [item for item in (*hello.holding, *hello.stopped) if item.limits]
    listed = {item.token: {held.ask: held for held in item.limits} for item in items}
    for run in [run for run in limits.runs.values() if run.actor is actor]:
        has = listed.get(run.token, {})
        run.giving = None
        for number in [n for n in {**run.rows, **run.asks} if n not in has]:
            limits.vacate(run.token, number)
    for item in items:
        token = item.token
        task = current(broker, actor, token)
        if task is None:
            # Nobody wants it, and it has what it has until it returns.
            client = broker.clients.get(item.client) or Client(item.client, now)
            task = Task(client, item.task, State.FORGOTTEN, now)
        for number, held in listed[token].items():
            known = limits.runs.get(token)
            if not held.has_it:
                # What it asked for before may have ended it.
                if current(broker, actor, token):
                    is_new = token[0] == broker.epoch
                    ask(broker, task, actor, held, is_new=is_new)
            elif known is None or number not in known.rows:
                limits.vacate(token, number)
                wants = wants_of(held.limits, actor)
                limits.take(token, task, actor, number, wants, is_adopted=True)
        holder = limits.runs.get(token)
        if holder is not None and current(broker, actor, token):
            holder.task, holder.is_stopped = task, False
            strategies.join_run(broker, holder)
        elif holder is not None:
            limits.stopped(token)


def current(broker: "Broker", actor: Actor, token: Token) -> Task | None:
    """Return the task that somebody wants of the run with *token* on *actor*, if there is one."""
    task = broker.tokens.get(token)
    return task if task is not None and task.actor is actor and is_owned(task) else None


def returned(broker: "Broker", actor: Actor, token: Token) -> None:
    """Take back what a run held that nobody wants and that is over by its actor's word."""
    run = broker.limits.runs.get(token)
    if run is not None and run.actor is actor:
        broker.limits.drop(run)


def greet_host(broker: "Broker", host: Host, now: float) -> None:
    """Look again at who waits for limits of *host*, and tell the runs that wait for what it lacks.

    They may have asked before it was there: no other host can give it to them.
    """
    limits = broker.limits
    limits.now = now
    for own in host.limits:
        limits.stirred[host_key(own, host.incarnation)] = None
    for run in [run for run in limits.runs.values() if run.actor.host == host.incarnation]:
        for number, waiter in list(run.asks.items()):
            wanted = {shown(name): amount for name, amount in waiter.wants}
            refused = refusal(broker, wanted, run.actor)
            if refused is not None:
                limits.vacate(run.token, number)
                say_occupied(broker, run, number, *refused)


# ---------------------------------------------------------------------- invariants


def check(broker: "Broker") -> None:
    """Assert that whoever holds something is current, or was told to stop and has not said so."""
    check_sums(broker.limits)
    for token, run in broker.limits.runs.items():
        is_here = broker.actors.get(run.actor.incarnation) is run.actor
        assert is_here or run.actor.incarnation in broker.limits.fenced, run.task.name
        if not run.is_stopped:
            assert broker.tokens[token] is run.task
            assert run.task.actor is run.actor
            assert is_owned(run.task)
    for name, key in broker.limits.keys.items():
        if not name.startswith(HOST_PREFIX):
            most = broker.limits.maximum(name)
            for waiter in (*key.line.members, *key.claims.members):
                assert waiter.amount(name) <= most, f"{name}: somebody waits for more than {most}"


def check_sums(limits: Limits) -> None:
    """Assert that the sums are right, and that nobody waits for what is there."""
    for name, key in limits.keys.items():
        assert key.name == name
        if not limits.is_decaying(name):
            assert key.used == sum(key.holders.values()), (name, key.used, key.holders)
        for (token, number), amount in key.holders.items():
            assert (name, amount) in limits.runs[token].rows[number]
        for waiter in (*key.line.members, *key.claims.members):
            assert waiter.number
        assert all(waiter.blocked == name for waiter in key.line.members)
        assert (key.line.first() is None) == (not key.line.members)
        first = key.first()
        if first is not None and name not in limits.stirred and not limits.is_decaying(name):
            assert must_wait(limits, first), f"{name}: nobody holds it up"
        is_needed = key.holders or key.line.members or key.claims.members or name in limits.watched
        assert is_needed or limits.is_decaying(name), f"{name}: nobody needs it"
    for token, run in limits.runs.items():
        assert run.token == token
        assert run.rows or run.asks
        assert not run.rows.keys() & run.asks.keys()
        for number, wants in run.rows.items():
            assert all(limits.keys[name].holders[token, number] == n for name, n in wants)
        for waiter in run.asks.values():
            assert waiter in limits.keys[waiter.blocked].line.members
    assert not limits.promised


def must_wait(limits: Limits, waiter: Waiter) -> bool:
    """Tell whether somebody lacks room, or stands behind another; `sweep` sees to the rest."""
    return limits.blocking(waiter, waiter.rank) is not None or any(
        one is not waiter and one.rank < waiter.rank
        for name, _ in waiter.wants
        for line in (limits.keys[name].line, limits.keys[name].claims)
        for one in line.members
    )
