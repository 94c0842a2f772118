"""What a task requires and an actor does not have, in words. It holds however free the actor is."""

from typing import TYPE_CHECKING, Final

from broker.facts.task import Task
from wire.labels import Desire, LabelValues, satisfies

if TYPE_CHECKING:
    from broker.facts.offers import Offers
    from broker.facts.peers import Actor

# So much of a label is told where somebody lacks it.
SHOWN_MAX: Final = 200


def unmet(task: Task, actor: "Actor") -> str:
    """Say what of the task's requirements *actor* never meets as it is, or an empty text."""
    parts = [
        say_unmet(desire, actor)
        for desire in (task.template.shape.desires if task.template else ())
        if desire.required and not satisfies(actor.labels, desire)
    ]
    for kind, amount in task.call.slots.items():
        capacity = actor.slots.get(kind, 0)
        if capacity < amount:
            parts.append(f"needs {say_slots(kind, amount)}, has {capacity}")
    return ", and ".join(parts)


def infeasible(slots: dict[str, int], offers: "Offers") -> str:
    """Say that no actor has *slots*, and what there is of them."""
    if not offers.all:
        return "no actor is connected" + (f", and it needs the slots {slots}" if slots else "")
    most = offers.most(slots)
    if all(most[kind] >= amount for kind, amount in slots.items()):
        has = "each has too little of one of these"
    else:
        has = f"the most that one has is {most}"
    return f"no connected actor has the slots that it needs: {slots}; {has}"


def say_slots(kind: str, amount: int) -> str:
    """Write an amount of one type of slots."""
    what = ("slot" if amount == 1 else "slots") if kind == "slot" else f"of slot {kind}"
    return f"{amount} {what}"


def say_unmet(desire: Desire, actor: "Actor") -> str:
    """Say what was desired and what is offered."""
    value = "" if desire.value is None else f" {shown(desire.value)}"
    offered = shown(actor.labels[desire.key]) if desire.key in actor.labels else "nothing"
    return f"needs {desire.key} {desire.comparator}{value}, offers {offered}"


def shown(value: LabelValues) -> str:
    """Write what a label is, or some of it where that is long."""
    text = repr(value)
    return text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}..."
