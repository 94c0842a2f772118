"""What tasks and runs want of limits, and whether they can ever have it (protocol.md section 9.5).

The rule that must not be broken: whoever asks for what can never be had is told at once.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from broker.facts.peers import Actor
from broker.facts.task import Task
from broker.holding.limits import Limits
from broker.holding.lines import AT_SCHEDULING, Wants, host_key
from wire.errors import Code
from wire.limits import HOST_PREFIX, base_of

if TYPE_CHECKING:
    from broker.core import Broker
    from broker.waiting.shapes import Shape


Refusal = tuple[Code, str]


def refusal(broker: "Broker", wanted: dict[str, int], actor: Actor | None) -> Refusal | None:
    """Return why *wanted* can never be had, at scheduling or by a run on *actor*."""
    for name, amount in wanted.items():
        if name.startswith(HOST_PREFIX):
            found = refusal_of_hosts(broker, name, amount, actor)
        else:
            found = refusal_of_broker(broker.limits, name, amount)
        if found is not None:
            return found
    return None


def refusal_of_broker(limits: Limits, name: str, amount: int) -> Refusal | None:
    base, key = base_of(name)
    definition = limits.definitions.get(base)
    if definition is None:
        known = ", ".join(sorted(limits.definitions)) or "none"
        return Code.LIMIT_UNKNOWN, f"no limit is called {base!r}; there are: {known}"
    if (key is not None) != definition.per_key:
        hint = f"say {base}[KEY]" if definition.per_key else f"it is not set per key: say {base}"
        return Code.BAD_OPTION, f"limit {name!r}: {hint}"
    if amount > definition.maximum:
        message = f"limit {name!r}: {amount} can never be had, the maximum is {definition.maximum}"
        return Code.BAD_OPTION, message
    return None


def refusal_of_hosts(
    broker: "Broker", name: str, amount: int, actor: Actor | None
) -> Refusal | None:
    """Judge by the hosts that are connected; where there is none, or not all yet, by nothing."""
    hosts = list(broker.hosts.values())
    if actor is not None:
        hosts = [host for host in hosts if host.incarnation == actor.host]
    elif broker.window_ends_at is not None or any(
        one.host not in broker.hosts for one in broker.actors.values()
    ):
        return None
    if not hosts:
        return None
    own = name.removeprefix(HOST_PREFIX)
    stated = [host.limits[own] for host in hosts if own in host.limits]
    if not stated:
        who = f"host {hosts[0].name}" if actor is not None else "no host"
        return Code.LIMIT_UNKNOWN, (
            f"limit {name!r}: {who} states {'none' if actor is not None else 'one'} of that name;"
            f" start the actors with --limit {own}=N"
        )
    if amount > max(stated):
        who = f"host {hosts[0].name}" if actor is not None else "any host"
        return Code.BAD_OPTION, f"limit {name!r}: {amount} is more than {who} has: {max(stated)}"
    return None


def are_stated(broker: "Broker", shape: "Shape", actors: Iterable[Actor]) -> bool | None:
    """Tell whether a host of *actors* states what a task of *shape* takes of its limits.

    Not whether it is free; None while no such host is there, and some are not.
    """
    answer: bool | None = False
    for actor in actors:
        host = broker.hosts.get(actor.host)
        if host is None:
            answer = None if shape.cost.host_limits else True
        elif all(host.limits.get(own, 0) >= n for own, n in shape.cost.host_limits):
            answer = True
        if answer:
            break
    return answer


def wants_of(limits: dict[str, int], actor: Actor) -> Wants:
    """Return the keys and amounts that a run on *actor* means by *limits*."""
    prefix = HOST_PREFIX
    if len(limits) == 1:
        [(name, amount)] = limits.items()
        if not name.startswith(prefix):
            return ((name, amount),)
    return tuple(
        sorted(
            (host_key(n.removeprefix(prefix), actor.host) if n.startswith(prefix) else n, amount)
            for n, amount in limits.items()
        )
    )


def take(broker: "Broker", task: Task) -> None:
    """Let *task*, which was just assigned, hold its limits."""
    actor, token = task.actor, task.token
    assert actor
    assert token
    # The head says it as well, and need not be put together.
    call = task.template.head if task.template else task.call
    wants = wants_of(call.limits, actor)
    broker.limits.take(token, task, actor, AT_SCHEDULING, wants)
