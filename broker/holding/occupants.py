"""Who holds which limit and who waits for it, as people are told."""

from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final

import msgspec

from broker.facts.peers import Actor
from broker.facts.task import Task
from broker.holding.limits import Limits
from broker.holding.lines import AskWaiter, RunWait, host_key, shown
from wire.limits import HOST_PREFIX, base_of

if TYPE_CHECKING:
    from broker.core import Broker


# How many keys of each limit are listed, and holders of each key; of one that is asked for by name.
KEYS_LISTED_MAX: Final = 1_000
HOLDERS_LISTED_MAX: Final = 100
# How many calls are named of those that a run waits for.
CALLS_SHOWN_MAX: Final = 3
NAMED_LISTED_MAX: Final = 10_000


def describe_key(
    limits: Limits, name: str, *, holders_max: int = HOLDERS_LISTED_MAX
) -> dict[str, Any]:
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
            for ((epoch, number), asked), amount in islice(key.holders.items(), holders_max)
        ],
        "holders_more": max(0, len(key.holders) - holders_max),
        "waiting": sum(waiting(waiter) for waiter in key.line.members),
    }


def waiting(waiter: Any) -> int:
    return 1 if isinstance(waiter, AskWaiter) else waiter.lane.queued


def describe(broker: "Broker", wanted: str = "") -> dict[str, Any]:
    """Return every limit with its keys that somebody holds or waits for, or only those *wanted*.

    *wanted* is the name of a limit, or of one of its keys.
    """
    limits = broker.limits
    keys: dict[str, list[str]] = {}
    for name in limits.keys:
        keys.setdefault(base_of(name)[0], []).append(name)
    found = [
        {**msgspec.to_builtins(definition), **listed(limits, keys.get(name, []), wanted)}
        for name, definition in limits.definitions.items()
        if wanted in {"", name} or base_of(wanted)[0] == name
    ]
    for host in broker.hosts.values():
        for own, maximum in host.limits.items():
            if wanted in {"", f"{HOST_PREFIX}{own}"}:
                name = host_key(own, host.incarnation)
                entry = {"name": f"{HOST_PREFIX}{own}", "maximum": maximum, "host": host.name}
                mine = [name] if name in limits.keys else []
                found.append({**entry, **listed(limits, mine, wanted)})
    return {"limits": found, "is_open": not limits.is_closed}


def listed(limits: Limits, names: list[str], wanted: str) -> dict[str, Any]:
    """Return the keys of a limit, as many as one can read, and how many there are beside."""
    most = NAMED_LISTED_MAX if wanted else KEYS_LISTED_MAX
    holders_max = NAMED_LISTED_MAX if wanted else HOLDERS_LISTED_MAX
    if base_of(wanted)[1] is not None:
        names = [name for name in names if name == wanted]
    shown = [describe_key(limits, name, holders_max=holders_max) for name in names[:most]]
    return {"keys": shown, "keys_more": max(0, len(names) - most)}


def explain_run(broker: "Broker", task: Task) -> str:
    """Say what the run of *task* has said that it waits for; an empty text for nothing."""
    if not task.token:
        return ""
    run = broker.limits.runs.get(task.token)
    texts = [explain_full(broker.limits, ask.blocked) for ask in run.asks.values()] if run else []
    texts += map(explain_wait, broker.limits.waits.by_run.get(task.token, {}).values())
    return "; ".join(texts)


def explain_wait(wait: RunWait) -> str:
    """Say for which calls of its own a run waits, or for its slots."""
    if not wait.calls:
        return "for its slots again"
    count = sum(last - first + 1 for first, last in wait.calls)
    names = [f"{wait.client:016x}-{number}" for number in numbers_shown(wait)]
    more = f" and {count - len(names)} more" if count > len(names) else ""
    return f"for {', '.join(names)}{more}"


def numbers_shown(wait: RunWait) -> list[int]:
    """Return the numbers of the first calls for which a run waits."""
    numbers = chain.from_iterable(range(first, last + 1) for first, last in wait.calls)
    return list(islice(numbers, CALLS_SHOWN_MAX))


def explain_full(limits: Limits, name: str) -> str:
    """Say of a key that lacks room who holds it."""
    key = describe_key(limits, name, holders_max=5)
    by = ", ".join(f"{one['task']} on {one['actor']}" for one in key["holders"])
    by += f" and {key['holders_more']} more" if key["holders_more"] else ""
    held = f"held by {by}" if by else "nobody holds it, others wait before it"
    definition = limits.definition(name)
    if definition is not None and definition.rate is not None:
        held = "what was taken comes back with time"
    return f"limit {key['name']} is full: {key['used']:g} of {key['maximum']} ({held})"


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
    return explain_full(limits, waiter.blocked), found


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
