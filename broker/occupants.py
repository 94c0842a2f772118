"""Who holds which limit and who waits for it, as people are told."""

from typing import TYPE_CHECKING, Any

import msgspec

from broker.limits import Limits
from broker.lines import AskWaiter, host_key, shown
from broker.peers import Actor
from broker.task import Task
from wire.limits import HOST_PREFIX, base_of

if TYPE_CHECKING:
    from broker.core import Broker


def describe_key(limits: Limits, name: str, *, holders_max: int = 100) -> dict[str, Any]:
    """Return who holds and how many wait."""
    key = limits.keys.get(name)
    maximum = limits.maximum(name)
    if key is None:
        return {"name": shown(name), "maximum": maximum, "used": 0, "holders": [], "waiting": 0}
    return {
        "name": shown(name),
        "maximum": maximum,
        "used": round(maximum - limits.room(name), 3) if not limits.is_closed else key.used,
        "holders": [
            {
                "holder": f"{epoch}.{number}.{asked}",
                "task": limits.runs[epoch, number].task.name,
                "actor": limits.runs[epoch, number].actor.name,
                "amount": amount,
            }
            for ((epoch, number), asked), amount in list(key.holders.items())[:holders_max]
        ],
        "waiting": sum(waiting(waiter) for waiter in key.line.members),
    }


def waiting(waiter: Any) -> int:
    return 1 if isinstance(waiter, AskWaiter) else waiter.lane.queued


def describe(broker: "Broker") -> dict[str, Any]:
    """Return every limit with its keys that somebody holds or waits for."""
    limits = broker.limits
    keys: dict[str, list[str]] = {}
    for name in limits.keys:
        keys.setdefault(base_of(name)[0], []).append(name)
    found = [
        {
            **msgspec.to_builtins(definition),
            "keys": [describe_key(limits, name) for name in keys.get(definition.name, ())],
        }
        for definition in limits.definitions.values()
    ]
    for host in broker.hosts.values():
        for own, maximum in host.limits.items():
            name = host_key(own, host.incarnation)
            entry = {"name": f"{HOST_PREFIX}{own}", "maximum": maximum, "host": host.name}
            found.append(
                {**entry, "keys": [describe_key(limits, name)] if name in limits.keys else []}
            )
    return {"limits": found, "is_open": not limits.is_closed}


def explain(broker: "Broker", task: Task) -> tuple[str, list[dict[str, Any]]]:
    """Say for which limit a queued task waits, and who holds it; an empty text for none."""
    assert task.template
    limits, shape = broker.limits, task.template.shape
    lane = shape.lanes.get(shape.lane_key(task))
    waiter = lane.waiter if lane is not None else None
    if waiter is None or not waiter.number:
        return "", []
    if limits.is_closed:
        return "the broker was just started and waits until it knows who holds limits", []
    found = [describe_key(limits, name, holders_max=5) for name, _ in waiter.wants]
    (key,) = [entry for entry in found if entry["name"] == waiter.blocked]
    by = ", ".join(f"{one['task']} on {one['actor']}" for one in key["holders"])
    held = f"held by {by}" if by else "nobody holds it, others wait before it"
    definition = limits.definition(waiter.blocked)
    if definition is not None and definition.rate is not None:
        held = "what was taken comes back with time"
    return f"limit {key['name']} is full: {key['used']:g} of {key['maximum']} ({held})", found


def lacking_on(broker: "Broker", task: Task, actor: Actor) -> str:
    """Say which limit of its host keeps *actor* from *task*, or an empty text."""
    assert task.template
    shape = task.template.shape
    host = broker.hosts.get(actor.host)
    for own, amount in shape.cost.host_limits:
        has = host.limits.get(own, 0) if host is not None else 0
        if has < amount:
            return f"needs {amount} of limit host:{own}, its host has {has}"
    if shape.cost.host_limits and not broker.limits.has_host_room(shape, task, actor.host):
        names = [host_key(own, actor.host) for own, _ in shape.cost.host_limits]
        full = [describe_key(broker.limits, name, holders_max=3) for name in names]
        return "; ".join(
            f"limit {one['name']} of its host: {one['used']:g} of {one['maximum']} held by "
            + (", ".join(holder["task"] for holder in one["holders"]) or "nobody yet")
            for one in full
        )
    return ""
