"""What clients submit: a plan of each kind of call, and which of them comes next."""

from typing import TYPE_CHECKING, Any

from msgspec import structs

from sdk.calls.call import Code, Plan
from tests.sim import counters, kinds, labels, typed
from wire.labels import Comparator, Desire
from wire.parts import Backoff, Call, Environment, Reuse, Sticky

if TYPE_CHECKING:
    from tests.sim.profile import Profile
    from tests.sim.world import World

# Of the calls to named actors, where there is a disk.
NAMED_DURABLE = 0.6
CODE = Code(b"f" * 16, b"function")
LIMITED = (
    {"a": 1},
    {"b": 1},
    {"b": 2},
    {"a": 1, "b": 1},
    {"k[x]": 1, "b": 1},
    {"k[y]": 1},
    {"host:gpu": 1},
    {"host:gpu": 1, "a": 1},
    {"c[x]": 1},
)
HOPELESS = ({"nobody": 1}, {"a": 10}, {"b": 1, "nobody": 1})
STRICT = ({"s": 1}, {"s": 1, "b": 1})
# Environments: turns, and how long copies stay.
REUSES = (
    (1, Reuse(0, 1, 2.0, 1.0)),
    (2, Reuse(1, 2, 1.5, 0.5, 3, None, 1.0)),
    (1, Reuse(is_fresh=True)),
    (4, Reuse(2, 3, 2.0, 1.0)),
)
BACKOFF = Backoff(0.4, 1.0, 0.4, 0.5)
RETRIED: dict[str, dict[str, Any]] = {
    "retried": {},
    "retried-late": {"backoff": Backoff(6.0, 1.0, 6.0, 0.5)},
    "retried-limited": {"limits": {"b": 1}},
    "retried-timed": {"timeout_s": 0.6},
}
BLOB = Code(b"e" * 16, b"environment")


def make_plans(profile: "Profile") -> list[tuple[str, Plan]]:
    """Return each plan with the kind that it is of."""
    large = Desire("memory", Comparator.GREATER_THAN, 256)
    liked = Desire("memory", Comparator.GREATER_THAN, 256, False, 10.0)
    plans = [("plain", Plan(Call("plain", CODE.hash), [CODE]))]
    plans.append(("plain", Plan(Call("urgent", CODE.hash, priority=5), [CODE])))
    plans.append(("once", Plan(Call("once", CODE.hash, at_most_once=True), [CODE])))
    for name, once in (("durable", False), ("kept", False), ("durable-once", True)):
        call = Call(name, CODE.hash, durable=True, at_most_once=once)
        plans.append(("durable", Plan(call, [CODE])))
    call = Call("durable-limited", CODE.hash, durable=True, limits={"b": 1})
    plans.append(("durable", Plan(call, [CODE])))
    plans.append(("label", Plan(Call("large", CODE.hash, desires=[large]), [CODE])))
    plans.append(("label", Plan(Call("liked", CODE.hash, desires=[liked]), [CODE])))
    for name, options in RETRIED.items():
        call = Call(name, CODE.hash, **({"retries": 2, "backoff": BACKOFF} | options))
        plans.append(("timeout" if call.timeout_s else "retry", Plan(call, [CODE])))
    plans.append(("timeout", Plan(Call("timed", CODE.hash, timeout_s=1.0), [CODE])))
    for key, is_hard in (("soft", False), ("hard", True)):
        call = Call(key, CODE.hash, sticky=Sticky(key, is_hard))
        plans.append(("sticky", Plan(call, [CODE])))
    for number, limits in enumerate(LIMITED):
        call = Call(f"limited{number}", CODE.hash, limits=limits)
        plans.append(("limit", Plan(call, [CODE])))
    for number, limits in enumerate(HOPELESS):
        call = Call(f"hopeless{number}", CODE.hash, limits=limits)
        plans.append(("hopeless", Plan(call, [CODE])))
    for number, limits in enumerate(STRICT):
        call = Call(f"strict{number}", CODE.hash, limits=limits)
        plans.append(("strict", Plan(call, [CODE])))
    for number, (concurrency, reuse) in enumerate(REUSES):
        environment = Environment(f"id{number}", f"Env{number}", BLOB.hash, {}, concurrency, reuse)
        for turns in dict.fromkeys((1, concurrency)):
            place = structs.replace(environment, turns=turns)
            call = Call(f"method{number}", b"", "predict", place)
            plans.append(("environment", Plan(call, [BLOB])))
    plans += counters.plans(BLOB)
    plans += typed.make_plans(profile, CODE, BLOB)
    return plans + labels.make_plans(CODE) + kinds.make_plans(CODE, BLOB)


def choose(world: "World") -> Plan:
    """Draw what is submitted next."""
    profile, chance = world.profile, world.rng.random
    kind = "plain"
    if profile.durable and chance() < profile.durable:
        kind = "durable"
    elif chance() < profile.at_most_once:
        kind = "once"
    elif profile.retry and chance() < profile.retry:
        kind = "retry"
    elif profile.timeout and chance() < profile.timeout:
        kind = "timeout"
    elif profile.limit and chance() < profile.limit:
        kind = "limit"
    elif profile.strict and chance() < profile.strict:
        kind = "strict"
    elif profile.model and chance() < profile.model:
        kind = "model"
    elif profile.hasty and chance() < profile.hasty:
        kind = "hasty"
    elif profile.fond and chance() < profile.fond:
        kind = "fond"
    elif profile.typed and chance() < profile.typed:
        kind = "typed"
    elif chance() < profile.label:
        kind = "label"
    elif chance() < profile.environment:
        kind = "environment"
    elif profile.sticky and chance() < profile.sticky:
        kind = "sticky"
    elif profile.named and chance() < profile.named:
        kind = "named"
        if world.ledger is not None and chance() < NAMED_DURABLE:
            kind = "named-durable"
    elif profile.grouped and chance() < profile.grouped:
        kind = "grouped"
        if world.ledger is not None and chance() < NAMED_DURABLE:
            kind = "grouped-durable"
    elif profile.hopeless and chance() < profile.hopeless:
        kind = "hopeless"
    kind = kinds.choose(profile, chance, kind)
    return world.rng.choice([plan for name, plan in world.plans if name == kind])
