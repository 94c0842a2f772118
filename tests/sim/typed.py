"""Slots of several types: what calls cost of them, what a run gives back, which units it holds.

All is counted from what each run was given and gave back itself, never from what the cores have
counted. What must hold: all that a call costs is there at once, on one actor; a part that is given
back is exactly that; a unit that has a name is held by one run at most.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sdk.calls.call import Code, Plan
from wire.parts import Call, Environment, Reuse

if TYPE_CHECKING:
    from tests.sim.actors import ActorProcess
    from tests.sim.profile import Profile
    from tests.sim.runs import Run

SLOT = "slot"
# What each actor has beside its plain slots, where a seed has that; the units of one type have
# names.
TYPES = {"gpu": 2, "io": 3}
UNITS = {"gpu": ["left", "right"]}
COSTS = (
    {"gpu": 1},
    {"gpu": 2},
    {SLOT: 1, "gpu": 1},
    {SLOT: 1, "io": 2},
    {"gpu": 2, "io": 3},
)
# What only some sizes of a machine have.
LARGE = ({SLOT: 2}, {SLOT: 2, "gpu": 1})


def make_plans(profile: "Profile", code: Code, blob: Code) -> list[tuple[str, Plan]]:
    """Return calls that cost more, or other, than one plain slot."""
    costs = list(COSTS)
    if profile.slots > 1 and "resize_machine" not in profile.faults:
        costs += LARGE
    calls = [Call(f"typed{n}", code.hash, slots=cost) for n, cost in enumerate(costs)]
    calls.append(Call("typed-limited", code.hash, slots={"gpu": 1}, limits={"b": 1}))
    place = Environment("id-typed", "Typed", blob.hash, {}, 1, Reuse(0, 2, 2.0, 1.0))
    calls.append(Call("typed-method", b"", "predict", place, slots={SLOT: 1, "gpu": 1}))
    return [("typed", Plan(call, [blob if call.environment else code])) for call in calls]


def is_sharing(call: Any) -> bool:
    """Tell whether a call shares the slot of its replica."""
    place = call.environment
    if place is None or call.slots:
        return False
    return place.is_shared if place.named is not None else place.turns < place.concurrency


def cost_of(call: Any) -> dict[str, int]:
    """Return what a call costs that shares nothing."""
    return dict(call.slots) or {SLOT: 1}


def slots_of(costs: Iterable[tuple[Any, dict[str, int]]]) -> dict[str, int]:
    """Sum up what is held of each type by calls with what each has; replicas count once."""
    held: dict[str, int] = {SLOT: 0}
    replicas = set()
    for call, slots in costs:
        if is_sharing(call):
            replicas |= {call.environment.id} if slots else set()
            continue
        for kind, amount in slots.items():
            held[kind] = held.get(kind, 0) + amount
    held[SLOT] += len(replicas)
    return held


# ---------------------------------------------------------------------- what a run has


def begin(run: "Run") -> None:
    """Let a run look at what it was given."""
    call = run.assignment.recipe.call
    run.slots = cost_of(call)
    run.units = dict(run.assignment.units)


def part_of(run: "Run") -> dict[str, int] | None:
    """Choose what of its slots a run gives back; None for everything.

    Told by the number, so that nothing else of the seed's history depends on it.
    """
    number = run.assignment.token[1]
    kinds = sorted(kind for kind, amount in run.slots.items() if amount)
    if not run.assignment.recipe.call.slots or number % 4 == 0 or not kinds:
        return None
    return {kinds[number % len(kinds)]: 1}


def gave(run: "Run", part: dict[str, int] | None) -> None:
    """Let a run hold the rest of what it had; of units that have names those at the front."""
    if part is None:
        run.slots, run.units = {}, {}
        return
    run.slots = {kind: amount - part.get(kind, 0) for kind, amount in run.slots.items()}
    run.units = {kind: names[: run.slots.get(kind, 0)] for kind, names in run.units.items()}


def regained(run: "Run", slots: dict[str, int], units: dict[str, tuple[str, ...]]) -> None:
    """Let a run hold what it asked for; the units that it had kept are still its own."""
    for kind, names in run.units.items():
        assert set(names) <= set(units.get(kind, ())), f"{names} became {units}"
    run.slots, run.units = dict(slots), dict(units)


# ---------------------------------------------------------------------- what must hold


def check_actor(actor: "ActorProcess") -> None:
    """Check what all runs of an actor hold together, and that its core has the same in mind."""
    held = slots_of((run.assignment.recipe.call, run.slots) for run in actor.runs.values())
    for kind, amount in held.items():
        most = actor.capacity.get(kind, 0)
        assert amount <= most, f"unreleased runs have {amount} of {kind!r}, there are {most}"
    if not actor.world.profile.typed:
        return
    owners: dict[tuple[str, str], Any] = {}
    mailbox = actor.core.mailbox
    for token, run in actor.runs.items():
        for kind, names in run.units.items():
            assert len(names) == run.slots[kind], f"{token} has {names} for {run.slots}"
            for name in names:
                other = owners.setdefault((kind, name), token)
                assert other == token, f"{other} and {token} both have {kind} {name}"
        if not run.is_released:
            known = mailbox.holders[token].slots
            assert known == run.slots, f"{token} has {run.slots}, its actor thinks {known}"


def check_statement(actor: "ActorProcess", credit: Any) -> None:
    """Check that an actor states nothing of what its runs have."""
    held = slots_of((run.assignment.recipe.call, run.slots) for run in actor.runs.values())
    for kind, amount in credit.typed.items():
        free = actor.capacity.get(kind, 0) - held.get(kind, 0)
        assert 0 <= amount <= max(0, free), f"{amount} of {kind!r} is stated, {free} is free"


def check_spent(name: str, credit: Any, calls: list[Any], earlier: list[Any]) -> None:
    """Check that *calls* that are on their way are covered by what was stated.

    Beyond *free* only calls of one plain slot may be given. What was taken back since the *earlier*
    of them were given is not theirs, but nothing more may be taken of that.
    """
    spent = slots_of((call, cost_of(call)) for call in calls)
    before = slots_of((call, cost_of(call)) for call in earlier)
    for kind, amount in spent.items():
        if amount > before.get(kind, 0):
            there = credit.typed.get(kind, 0)
            if kind == SLOT:
                there = credit.free + credit.ahead
            assert amount <= there, f"{name} granted {there} of {kind!r} and is assigned {amount}"
    large = sum(call.slots.get(SLOT, 0) for call in calls if call.slots)
    if large > sum(call.slots.get(SLOT, 0) for call in earlier if call.slots):
        assert large <= credit.free, f"{large} slots of large calls in {credit.free} of {name}"
