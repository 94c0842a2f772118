"""Who is ended where a limit is full, by a strategy that cancels (protocol.md section 9.5, rule 9).

Whoever wants a key is there from when it comes, a call that names it with SUBMIT, a run that asks
for it from inside with OCCUPY, up to when it has it no more. The rule that must not be broken: who
is told to wait is counted, and nobody is who is over.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from broker.facts.task import Task
from broker.holding.lines import AT_SCHEDULING, LimitedRun, Member
from broker.tasks import families, lifecycle
from wire.errors import Code
from wire.limits import Strategy

if TYPE_CHECKING:
    from broker.core import Broker

# What a run is told that is ended so, before the limit's name.
NEWER: Final = "a newer task with limit"
CANCELING: Final = (Strategy.CANCEL_IN_PROGRESS, Strategy.CANCEL_NEWEST)


def turned_away(broker: "Broker", task: Task, wanted: Mapping[str, int]) -> str:
    """Return why *task* is canceled that wants more than is left now, nothing if it is not.

    What it has itself turns it away beside others only.
    """
    for name, left in left_of(broker, wanted, Strategy.CANCEL_NEWEST):
        others = (owner for owner, _ in there(broker, name) if owner is not task)
        first = next(others, None) if left < 0 else None
        if first is not None:
            return f"limit {name} is full: task {first.name} came before"
    return ""


def make_room(broker: "Broker", task: Task, wanted: Mapping[str, int]) -> None:
    """Cancel the oldest that have what *task* wants, which is let in."""
    for name, left in left_of(broker, wanted, Strategy.CANCEL_IN_PROGRESS):
        lacking = -left
        for owner, held in there(broker, name):
            if lacking <= 0:
                break
            if owner is not task:
                lacking -= held
                cancel(broker, owner, f"{NEWER} {name} came: {task.name}")


def left_of(
    broker: "Broker", wanted: Mapping[str, int], strategy: Strategy
) -> Iterator[tuple[str, int]]:
    """Return what would be left of each key in *wanted* with *strategy*, below 0 where it lacks."""
    for name, amount in wanted.items():
        definition = broker.limits.definition(name)
        if definition is not None and definition.strategy is strategy:
            taken = sum(held for _, held in there(broker, name))
            yield name, definition.maximum - amount - taken


def there(broker: "Broker", name: str) -> list[tuple[Task, int]]:
    """Return who is at a key that has not ended, and with how much of it, oldest first."""
    members = broker.limits.members(name)
    runs = broker.limits.runs
    return [
        (who if isinstance(who, Task) else runs[who[0]].task, held) for who, held in members.items()
    ]


def join(broker: "Broker", task: Task) -> None:
    """Count a call where somebody who comes later may cancel it, or be canceled for it."""
    count(broker, task, task.call.limits)


def join_run(broker: "Broker", run: LimitedRun) -> None:
    """Count a run where it has something from inside, or waits for it, likewise."""
    asked = {number: waiter.wants for number, waiter in run.asks.items()}
    for number, wants in {**run.rows, **asked}.items():
        if number != AT_SCHEDULING:
            count(broker, (run.token, number), dict(wants))


def count(broker: "Broker", who: Member, wanted: Mapping[str, int]) -> None:
    for name, amount in wanted.items():
        definition = broker.limits.definition(name)
        if definition is not None and definition.strategy in CANCELING:
            broker.limits.join(name, who, amount)


def cancel(broker: "Broker", task: Task, message: str) -> None:
    """End *task*, wherever it is, as canceled by the broker."""
    if task.is_finished or not families.withdraw(broker, task, message):
        return
    families.part(broker, task, families.Parting.CANCELED)
    lifecycle.end(broker, task, Code.CANCELED, message)
