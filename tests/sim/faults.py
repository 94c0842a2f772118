"""Faults of processes and of operators, by name; those of network and disk stand beside this file.

Each is counted when it really hit somebody. `test_faults` has the table of what must be there.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from broker.events import defining, residing
from broker.facts import orders
from tests.sim.actors import ActorProcess
from tests.sim.profile import MIDWAY, POINTS
from wire.limits import Definition
from wire.messages import Query

if TYPE_CHECKING:
    from tests.sim.world import World

LEASE_S = 5.0
# How long something may be stopped or late at worst.
LONG_S = 10 * LEASE_S
MACHINES_MAX = 3
CHANGED_LIMITS = ("a", "b")

Strike = Callable[["World"], bool]
KINDS: dict[str, Strike] = {}


def fault(strike: Strike) -> Strike:
    """Let *strike* be drawn under its own name."""
    KINDS[strike.__name__] = strike
    return strike


def down_s(world: "World") -> float:
    """Draw how long something lasts."""
    return world.rng.uniform(0.0, world.profile.down_s)


def long_s(world: "World") -> float:
    """Draw how long something is stopped or late, now and then for many leases."""
    is_long = world.profile.long and world.rng.random() < world.profile.long
    return world.rng.uniform(0.0, LONG_S) if is_long else down_s(world)


def some(world: "World", processes: Any) -> Any:
    """Draw one that lives."""
    living = [process for process in processes if process.is_alive]
    return world.rng.choice(living) if living else None


def some_peer(world: "World") -> Any:
    """Draw one of all peers."""
    return some(world, [*world.actors, *world.hosts.values(), *world.clients.values()])


# --- ends


@fault
def broker_kill(world: "World") -> bool:
    return world.kill_broker()


def broker_kill_at(world: "World", point: str) -> bool:
    """Let the broker end in the middle of what it does: see `BrokerProcess.reaches`."""
    broker = world.broker
    if broker is None or not broker.is_alive or broker.dies_at is not None:
        return False
    if world.ledger is None and point in POINTS[4:]:
        return False
    passes = world.rng.randint(1, 3)
    # What the journal takes part in comes seldom enough.
    broker.dies_at = (point, 1 if point in POINTS[4:] else passes)
    return True


KINDS |= {name: partial(broker_kill_at, point=p) for name, p in zip(MIDWAY, POINTS, strict=True)}


@fault
def second_broker(world: "World") -> bool:
    """Start a second broker on the same journal, which must refuse."""
    broker = world.broker
    if world.ledger is None or broker is None or not broker.is_alive:
        return False
    world.ledger.check_locked()
    return True


@fault
def actor_kill(world: "World") -> bool:
    actor = some(world, world.actors)
    if actor is not None:
        actor.die(signal=9)
    return actor is not None


@fault
def machine_kill(world: "World") -> bool:
    host = some(world, world.hosts.values())
    if host is not None:
        world.note("KILLED", host)
        host.end()
        world.after(down_s(world), lambda: world.start_again(host.name))
    return host is not None


@fault
def machine_lost(world: "World") -> bool:
    """Let a machine end for good, its last frames lost; one stays."""
    if len(world.hosts) < 2:
        return False
    name = world.rng.choice(sorted(world.hosts))
    world.note("LOST", world.hosts[name])
    world.hosts.pop(name).end()
    # One that had the name before may live on: perhaps no broker has heard of the other.
    former = [host for host in world.former if host.name == name and host.is_alive]
    if former:
        world.former.remove(former[-1])
        world.hosts[name] = former[-1]
    return True


@fault
def machine_joins(world: "World") -> bool:
    """Let there be one machine more."""
    if len(world.hosts) >= MACHINES_MAX:
        return False
    names = (f"machine{number}" for number in range(MACHINES_MAX))
    world.start_machine(next(name for name in names if name not in world.hosts))
    return True


@fault
def machine_twice(world: "World") -> bool:
    """Start a second host under the name of one that lives, and so its actors too."""
    host = some(world, world.hosts.values())
    if host is None:
        return False
    world.note("TWICE", host)
    world.former.append(world.hosts.pop(host.name))
    world.start_machine(host.name)
    return True


@fault
def client_kill(world: "World") -> bool:
    client = some(world, world.clients.values())
    if client is not None:
        world.note("KILLED", client)
        client.end()
        world.after(down_s(world), lambda: world.start_client(client.name))
    return client is not None


@fault
def client_leave(world: "World") -> bool:
    client = some(world, world.clients.values())
    if client is None or client.core.is_leaving:
        return False
    world.note("LEAVES", client)
    client.core.leave(world.now)
    for record in world.oracle.open_tasks():
        if record.client is client:
            record.is_canceled = True
    client.wake_at(world.now)
    world.after(3.0, lambda: world.start_client(client.name))
    return True


# --- stops


def freeze(world: "World", process: Any, *, is_busy: bool = False) -> bool:
    """Stop *process* for a while, as SIGSTOP does, or as a run that holds the GIL."""
    if process is None or not process.is_alive:
        return False
    process.frozen_until = max(process.frozen_until, world.now + long_s(world))
    if isinstance(process, ActorProcess):
        process.is_busy_while_frozen = is_busy
    world.note("FREEZES", process, f"until {process.frozen_until:.3f}", is_busy)
    if process.frozen_until > world.now + LEASE_S:
        world.count("frozen beyond its lease")
    return True


@fault
def freeze_broker(world: "World") -> bool:
    return freeze(world, world.broker)


@fault
def freeze_actor(world: "World") -> bool:
    return freeze(world, some(world, world.actors))


@fault
def hold_gil(world: "World") -> bool:
    return freeze(world, some(world, world.actors), is_busy=True)


@fault
def freeze_client(world: "World") -> bool:
    return freeze(world, some(world, world.clients.values()))


@fault
def freeze_host(world: "World") -> bool:
    return freeze(world, some(world, world.hosts.values()))


@fault
def stall(world: "World") -> bool:
    """Stop everything at once, as a virtual machine that is paused."""
    until = world.now + long_s(world)
    world.history.append((world.now, "world", "STALLS", f"until {until:.3f}"))
    everybody = [world.broker, *world.actors, *world.hosts.values(), *world.clients.values()]
    for process in everybody:
        if process is not None and process.is_alive:
            process.frozen_until = max(process.frozen_until, until)
    for wire in world.network.wires.values():
        for pipe in (wire.up, wire.down):
            pipe.stall(until)
    return True


@fault
def slow_client(world: "World") -> bool:
    """Let a client take one message at a time, and rest in between."""
    client = some(world, world.clients.values())
    if client is not None:
        client.slow_until = world.now + long_s(world)
        world.note("SLOW", client, f"until {client.slow_until:.3f}")
    return client is not None


@fault
def start_hangs(world: "World") -> bool:
    """Let the next starts of a host hang, one of which is at once."""
    host = some(world, world.hosts.values())
    if host is None:
        return False
    host.hanging = world.rng.randint(1, 2)
    victim = some(world, host.actors.values())
    if victim is not None:
        victim.die(signal=9)
    return True


# --- what operators and tasks do


@fault
def drain_machine(world: "World") -> bool:
    host = some(world, world.hosts.values())
    if host is not None:
        world.note("DRAINS", host)
        host.core.drain(world.now, 5.0)
        host.wake_at(world.now)
        world.after(8.0, lambda: world.start_again(host.name))
    return host is not None


@fault
def drain_actor(world: "World") -> bool:
    """Let an operator order an actor to leave, now and then while its host wants that as well."""
    actor = some(world, world.actors)
    broker = world.broker
    if actor is None or actor.is_frozen or broker is None or not broker.is_alive:
        return False
    world.note("ORDERED", actor, "drain")
    orders.order(broker.core, "drain", actor.name)
    broker.wake_at(world.now)
    if world.rng.random() < 0.5:
        actor.core.drain(world.now, 3.0)
        actor.wake_at(world.now)
        world.count("drain race")
    return True


@fault
def resize_machine(world: "World") -> bool:
    """Let a machine come back with another number of actors and slots, as after `--slots`."""
    host = some(world, world.hosts.values())
    if host is None or host.core.is_draining:
        return False
    size = (world.rng.choice((1, 2)), world.rng.choice((1, 2, 3)))
    world.sizes[host.name] = size
    world.note("RESIZED", host, size)
    host.core.drain(world.now, 5.0)
    host.wake_at(world.now)
    world.after(8.0, lambda: world.start_again(host.name))
    return True


@fault
def pause(world: "World") -> bool:
    """Let an operator, or a task, pause an actor."""
    return order(world, "pause", paused=True)


@fault
def resume(world: "World") -> bool:
    return order(world, "resume", paused=False)


def order(world: "World", what: str, *, paused: bool) -> bool:
    """Let an operator say it, or a task."""
    actor = some(world, world.actors)
    if actor is None or actor.is_frozen:
        return False
    world.note("ORDERED", actor, what)
    if world.broker is not None and world.broker.is_alive and world.rng.random() < 0.5:
        # It comes later, or never; and after what a task wanted since.
        for alike in world.actors:
            if alike.name == actor.name:
                alike.wants_paused = None
        world.ordered.add(actor.name)
        orders.order(world.broker.core, what, actor.name)
        world.broker.wake_at(world.now)
    else:
        actor.pause(paused=paused)
    return True


@fault
def press(world: "World") -> bool:
    """Let an actor's memory be full, or nearly, or not at all."""
    actor = some(world, world.actors)
    if actor is None or actor.is_frozen:
        return False
    actor.press(world.rng.choice((0.1, 0.93, 0.99)))
    return True


@fault
def relabel(world: "World") -> bool:
    actor = some(world, world.actors)
    if actor is None or actor.is_frozen:
        return False
    memory = world.rng.choice((64, 512))
    world.note("RELABELS", actor, memory)
    actor.core.change_labels({"memory": memory}, world.now)
    actor.wake_at(world.now)
    return True


@fault
def named_kill(world: "World") -> bool:
    """Let an operator end a named actor, by its id or by its address."""
    broker = world.broker
    if broker is None or not broker.is_alive or not broker.core.named.by_id:
        return False
    record = world.rng.choice(list(broker.core.named.by_id.values()))
    world.note("ORDERED", broker, "named-kill", record.title)
    text = world.rng.choice((record.id, record.title))
    wish = {"actor": text, "force": world.rng.random() < 0.5}
    residing.order(broker.core, msgspec.json.encode(wish).decode())
    broker.wake_at(world.now)
    return True


@fault
def take_back(world: "World") -> bool:
    """Let an operator take back what a run has of a limit."""
    broker = world.broker
    runs = list(broker.core.limits.runs.values()) if broker and broker.is_alive else []
    if broker is None or not (runs and (run := world.rng.choice(runs)).rows):
        return False
    holder = ".".join(map(str, (*run.token, next(iter(run.rows)))))
    world.note("TAKES BACK", broker, holder)
    broker.core.limits.now = world.now
    # A strict one it may not.
    with suppress(ValueError):
        defining.obey(broker.core, Query(0, "limit-release", holder))
    broker.wake_at(world.now)
    return True


@fault
def change_limit(world: "World") -> bool:
    """Let an operator set a limit to another number while tasks hold it and wait for it."""
    broker = world.broker
    if broker is None or not broker.is_alive:
        return False
    if broker.core.records.refusal:
        check_refusal(world, broker.core)
        return False
    name, maximum = world.rng.choice(CHANGED_LIMITS), world.rng.randint(1, 3)
    world.note("SETS A LIMIT", broker, name, maximum)
    world.limit_highest[name] = max(world.limit_highest[name], maximum)
    text = msgspec.json.encode(Definition(name=name, maximum=maximum)).decode()
    broker.core.limits.now = world.now
    defining.obey(broker.core, Query(0, "limit-set", text))
    assert broker.core.limits.definitions[name].maximum == maximum, "a limit was set and is not"
    broker.wake_at(world.now)
    return True


def check_refusal(world: "World", core: Any) -> None:
    """Check that nothing is ordered that cannot be written."""
    former = core.limits.definitions.get("a")
    text = msgspec.json.encode(Definition(name="a", maximum=world.limit_highest["a"] + 1)).decode()
    with suppress(ValueError):
        defining.obey(core, Query(0, "limit-set", text))
    assert core.limits.definitions.get("a") == former, "a limit was set that cannot be written"
