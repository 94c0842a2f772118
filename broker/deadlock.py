"""Runs that wait for one another's limits in a circle (protocol.md section 9.5).

A wait during which nothing is kept does no harm to others; only one that keeps something closes a
circle. Those that could have what they want beside what the others keep are taken out, one after
another; whoever is left waits for one of those that are left.
"""

from typing import TYPE_CHECKING

from broker.lines import AskWaiter
from wire.parts import Token

if TYPE_CHECKING:
    from broker.limits import Limits


def find(limits: "Limits") -> list[AskWaiter]:
    """Return the waits of all circles, those of the youngest run last."""
    waiting = [
        waiter
        for run in limits.runs.values()
        if run.asks and run.rows and not run.is_stopped
        for waiter in run.asks.values()
        if waiter.kept()
    ]
    was = len(waiting) + 1
    while waiting and len(waiting) < was:
        was = len(waiting)
        kept = sum_of(waiting)
        waiting = [waiter for waiter in waiting if not could_go(limits, waiter, kept)]
    return sorted(waiting, key=lambda waiter: (waiter.run.token, waiter.ask))


def sum_of(waiting: list[AskWaiter]) -> dict[str, int]:
    """Sum up by key what is kept while these wait; what several of a run keep counts once."""
    kept: dict[str, int] = {}
    counted: set[tuple[Token, int]] = set()
    for waiter in waiting:
        for number, wants in waiter.kept():
            if (waiter.run.token, number) not in counted:
                counted.add((waiter.run.token, number))
                for name, amount in wants:
                    kept[name] = kept.get(name, 0) + amount
    return kept


def could_go(limits: "Limits", waiter: AskWaiter, kept: dict[str, int]) -> bool:
    """Tell whether *waiter* could have all that it wants beside what is *kept*."""
    return all(
        limits.is_decaying(name) or limits.maximum(name) - kept.get(name, 0) >= amount
        for name, amount in waiter.wants
    )
