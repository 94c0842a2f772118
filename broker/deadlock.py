"""Runs that wait for one another's limits in a circle (protocol.md section 9.5).

A run that asks from inside and holds nothing does no harm to others; only one that holds something
closes a circle. Those that could have what they want beside what the others hold are taken out, one
after another; whoever is left waits for one of those that are left.
"""

from typing import TYPE_CHECKING

from broker.lines import LimitedRun

if TYPE_CHECKING:
    from broker.limits import Limits


def find(limits: "Limits") -> list[LimitedRun]:
    """Return the runs of all circles, the youngest last."""
    waiting = [run for run in limits.runs.values() if run.asks and run.rows and not run.is_stopped]
    held: dict[str, int] = {}
    for run in waiting:
        add(held, run, 1)
    was = len(waiting) + 1
    while waiting and len(waiting) < was:
        was = len(waiting)
        for run in [run for run in waiting if could_go(limits, run, held)]:
            waiting.remove(run)
            add(held, run, -1)
    return sorted(waiting, key=lambda run: run.token)


def add(held: dict[str, int], run: LimitedRun, sign: int) -> None:
    """Count what *run* holds in, or out."""
    for wants in run.rows.values():
        for name, amount in wants:
            held[name] = held.get(name, 0) + sign * amount


def could_go(limits: "Limits", run: LimitedRun, held: dict[str, int]) -> bool:
    """Tell whether *run* could have all it asks for beside what is *held* by those that wait."""
    return all(
        limits.is_decaying(name) or limits.maximum(name) - held.get(name, 0) >= amount
        for ask in run.asks.values()
        for name, amount in ask.wants
    )
